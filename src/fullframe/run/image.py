"""A linked image as the harness needs it: bytes at addresses, symbols."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fullframe.elf.structures import PF_W, PF_X, PT_LOAD
from fullframe.errors import InputError, Place
from fullframe.x86.registers import X86_64

if TYPE_CHECKING:
    from fullframe.elf import image as elf

_LIMIT_BYTES = 64 << 20
_NEXT_STEP = "link the entry code again: fullframe entry generate --build"


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
    # Slow to import (numpy), and only needed by commands that run something.
    from fullframe.elf import image as elf

    image = elf.Image.open(path)
    if image.machine is not X86_64 or image.is_x32 or image.kind not in ("executable", "shared"):
        raise InputError(
            Place(str(path)),
            f"is {image.kind}, for {'x32' if image.is_x32 else image.machine.name}",
            "a linked x86-64 image",
            _NEXT_STEP,
        )
    segments = _segments(image, path)
    symbols, sizes = _symbols(image, path)
    sections = {
        section.name: (section.address, section.size_bytes)
        for section in image.sections
        if section.alloc
    }
    return Image(segments, symbols, sizes, sections)


def _segments(image: elf.Image, path: Path) -> tuple[Segment, ...]:
    found = []
    total_bytes = 0
    for segment in image.segments:
        if segment.type != PT_LOAD:
            continue
        size_bytes = segment.memory_size_bytes
        total_bytes += size_bytes
        # The file's own figures are not believed: what is read is bounded by what is loaded.
        if segment.file_size_bytes > size_bytes:
            raise InputError(
                Place(str(path)),
                f"a segment holds {segment.file_size_bytes} bytes and loads {size_bytes}",
                "no more in the file than in memory",
                _NEXT_STEP,
            )
        if total_bytes > _LIMIT_BYTES:
            raise InputError(
                Place(str(path)), f"loads more than {_LIMIT_BYTES} bytes", "entry code", _NEXT_STEP
            )
        found.append(
            Segment(
                address=segment.address,
                data=bytes(image.read(segment.address, size_bytes)),
                executable=bool(segment.flags & PF_X),
                writable=bool(segment.flags & PF_W),
            )
        )
    return tuple(sorted(found, key=lambda segment: segment.address))


def _symbols(image: elf.Image, path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the addresses and the sizes of named places; constants are none."""
    places = [
        symbol
        for symbol in image.symbols
        if symbol.name
        and symbol.section_index is not None
        and symbol.section_index < len(image.sections)
    ]
    if not places:
        raise InputError(Place(str(path)), "has no symbols", "an image with .symtab", _NEXT_STEP)
    return (
        {symbol.name: symbol.address for symbol in places},
        {symbol.name: symbol.size_bytes for symbol in places if symbol.size_bytes},
    )
