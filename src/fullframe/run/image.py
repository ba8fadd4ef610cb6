"""A linked image as the harness needs it: bytes at addresses, symbols."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fullframe.errors import InputError, Place

_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """A loadable segment.

    Attributes:
        address: where it is loaded.
        data: its bytes, zero-filled to its size in memory.
        executable: whether code may be fetched from it.
        writable: whether data may be written to it.
    """

    address: int
    data: bytes
    executable: bool
    writable: bool

    @property
    def end(self) -> int:
        """First address after it."""
        return self.address + len(self.data)


@dataclass(frozen=True, slots=True)
class Image:
    """A linked image.

    Attributes:
        segments: what is loaded, by address.
        symbols: name to address; of two local symbols of one name, the last.
        symbol_sizes: name to size in bytes, where the size is known.
        sections: allocated sections: name to address and size in bytes.
    """

    segments: tuple[Segment, ...]
    symbols: dict[str, int]
    symbol_sizes: dict[str, int]
    sections: dict[str, tuple[int, int]]

    def read(self, address: int, size_bytes: int) -> bytes:
        """Return bytes of one segment; fewer if it ends before."""
        for segment in self.segments:
            if segment.address <= address < segment.end:
                start = address - segment.address
                return segment.data[start : start + size_bytes]
        return b""

    def with_bytes(self, address: int, data: bytes) -> Image:
        """Return a copy that holds other bytes at an address, which one segment must hold."""
        segments = list(self.segments)
        for index, segment in enumerate(segments):
            if segment.address <= address and address + len(data) <= segment.end:
                start = address - segment.address
                changed = segment.data[:start] + data + segment.data[start + len(data) :]
                segments[index] = replace(segment, data=changed)
        return replace(self, segments=tuple(segments))


def load_image(path: Path) -> Image:
    """Load a linked x86-64 image.

    Args:
        path: an ELF executable with symbols.

    Raises:
        InputError: it cannot be read, is no such image, or is larger than 64 MiB.
    """
    # Slow to import, and only needed by commands that run something.
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            if elf["e_machine"] != "EM_X86_64" or elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
                raise InputError(
                    Place(str(path)),
                    f"is an ELF file of type {elf['e_type']} for {elf['e_machine']}",
                    "a linked x86-64 image",
                    "link the entry code first: fullframe entry generate --build",
                )
            return Image(
                segments=_segments(elf, path),
                **_symbols(elf, path),
                sections={
                    section.name: (section["sh_addr"], section["sh_size"])
                    for section in elf.iter_sections()
                    if section["sh_flags"] & 2  # SHF_ALLOC
                },
            )
    except OSError as error:
        raise InputError(
            Place(str(path)), f"cannot be read: {error.strerror or error}", "a linked image"
        ) from error
    # What pyelftools raises on damaged files, beside its own errors, is not documented.
    except (ELFError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            Place(str(path)),
            f"cannot be understood: {error}",
            "an ELF executable",
            "link the entry code again: fullframe entry generate --build",
        ) from error


def _segments(elf: object, path: Path) -> tuple[Segment, ...]:
    found = []
    total_bytes = 0
    for segment in elf.iter_segments("PT_LOAD"):  # type: ignore[attr-defined]
        size_bytes = segment["p_memsz"]
        total_bytes += size_bytes
        # The file's own figures are not believed: what is read is bounded by what is loaded.
        if segment["p_filesz"] > size_bytes:
            raise InputError(
                Place(str(path)),
                f"a segment holds {segment['p_filesz']} bytes and loads {size_bytes}",
                "no more in the file than in memory",
                "link the entry code again",
            )
        if total_bytes > _LIMIT_BYTES:
            raise InputError(
                Place(str(path)), f"loads more than {_LIMIT_BYTES} bytes", "entry code"
            )
        found.append(
            Segment(
                address=segment["p_vaddr"],
                data=segment.data().ljust(size_bytes, b"\0"),
                executable=bool(segment["p_flags"] & 1),
                writable=bool(segment["p_flags"] & 2),
            )
        )
    return tuple(sorted(found, key=lambda segment: segment.address))


def _symbols(elf: object, path: Path) -> dict[str, dict[str, int]]:
    table = elf.get_section_by_name(".symtab")  # type: ignore[attr-defined]
    if table is None:
        raise InputError(
            Place(str(path)), "has no symbols", "an image with .symtab", "do not strip it"
        )
    symbols: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for symbol in table.iter_symbols():
        if symbol["st_shndx"] in ("SHN_UNDEF", "SHN_ABS") or not symbol.name:
            continue
        symbols[symbol.name] = symbol["st_value"]
        if symbol["st_size"]:
            sizes[symbol.name] = symbol["st_size"]
    return {"symbols": symbols, "symbol_sizes": sizes}
