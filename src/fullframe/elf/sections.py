"""Sections of an image, and the decompression of debug sections."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from fullframe.elf.structures import SHF_ALLOC, SHF_COMPRESSED, SHF_EXECINSTR, SHF_WRITE, SHT_NOBITS
from fullframe.errors import InputError, Place


@dataclass(frozen=True, slots=True)
class Section:
    """A section of an image.

    Attributes:
        index: its number in the file's section table.
        name: its name, empty where the file does not say.
        address: where it lies in memory; synthetic in a relocatable object, 0 if not loaded.
        offset: where its bytes lie in the file.
        size_bytes: its size in memory (in the file, for one that is not loaded).
        type: ``sh_type``.
        flags: ``sh_flags``.
        link: ``sh_link``, the index of an associated section.
        info: ``sh_info``, whose meaning depends on the type.
        entry_size_bytes: size of an entry of a table, as the file claims it.
    """

    index: int
    name: str
    address: int
    offset: int
    size_bytes: int
    type: int
    flags: int
    link: int
    info: int
    entry_size_bytes: int
    _content: Callable[[Section], memoryview] = field(repr=False, compare=False)

    @property
    def alloc(self) -> bool:
        """Whether the section is loaded into memory."""
        return bool(self.flags & SHF_ALLOC)

    @property
    def executable(self) -> bool:
        """Whether the section holds instructions."""
        return bool(self.flags & SHF_EXECINSTR)

    @property
    def writable(self) -> bool:
        """Whether the section is writable once loaded."""
        return bool(self.flags & SHF_WRITE)

    @property
    def has_bytes(self) -> bool:
        """Whether the file holds bytes of the section (``.bss`` has none)."""
        return self.type != SHT_NOBITS

    @property
    def end(self) -> int:
        """The first address after the section."""
        return self.address + self.size_bytes

    @property
    def data(self) -> memoryview:
        """The section's bytes: decompressed, and relocated in a relocatable object.

        Bytes that the file does not hold are missing: the view is shorter than
        :attr:`size_bytes` then, and empty for ``.bss``.

        Raises:
            InputError: the section is compressed and cannot be decompressed.
        """
        return self._content(self)


#: Decompressed sections are held in memory; a file may not claim more than this many times its
#: own size (zlib reaches 1000:1 on zeros, real debug sections stay below 20:1).
_LARGEST_RATIO = 64
_ALWAYS_ALLOWED_BYTES = 16 << 20


def decompress(section: Section, raw: memoryview, elf_bits: int, path: str) -> memoryview:
    """Decompress a section, if it is compressed.

    Both forms: ``SHF_COMPRESSED`` with its header (gABI chapter 4, "Section Compression"), and
    the older GNU form, a section called ``.zdebug_*`` that starts with ``ZLIB`` and a big-endian
    size.

    Raises:
        InputError: unknown method, bad stream, or a claimed size beyond any honest ratio.
    """
    # A loaded section cannot be compressed (gABI): the flag is ignored there.
    if section.flags & SHF_COMPRESSED and not section.alloc:
        layout = struct.Struct("<IIQQ" if elf_bits == 64 else "<III")
        if len(raw) < layout.size:
            raise InputError(
                Place(path, section=section.name, offset_bytes=0),
                f"a compressed section of {len(raw)} bytes",
                f"a compression header of {layout.size} bytes",
            )
        fields = layout.unpack_from(raw)
        method, size_bytes = fields[0], fields[2 if elf_bits == 64 else 1]
        if method != 1:
            name = {2: "zstd"}.get(method, f"method {method}")
            raise InputError(
                Place(path, section=section.name, offset_bytes=0),
                f"a section compressed with {name}",
                "zlib",
                "decompress it first: objcopy --decompress-debug-sections",
            )
        return _inflate(section, raw[layout.size :], size_bytes, path)
    if section.name.startswith(".zdebug_") and bytes(raw[:4]) == b"ZLIB" and len(raw) >= 12:
        return _inflate(section, raw[12:], int.from_bytes(raw[4:12], "big"), path)
    return raw


def _inflate(section: Section, stream: memoryview, size_bytes: int, path: str) -> memoryview:
    allowed = max(_ALWAYS_ALLOWED_BYTES, _LARGEST_RATIO * len(stream))
    if size_bytes > allowed:
        raise InputError(
            Place(path, section=section.name, offset_bytes=0),
            f"{len(stream)} compressed bytes that claim to hold {size_bytes}",
            f"at most {allowed}",
        )
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(stream, max(1, size_bytes))
    except zlib.error as error:
        raise InputError(
            Place(path, section=section.name, offset_bytes=0),
            f"a broken zlib stream ({error})",
            "a section as the linker compressed it",
        ) from None
    if len(plain) != size_bytes:
        raise InputError(
            Place(path, section=section.name, offset_bytes=0),
            f"{len(plain)} bytes after decompression",
            f"{size_bytes}, as the section's header says",
        )
    return memoryview(plain)
