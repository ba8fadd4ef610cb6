"""Whether a built image is what a kernel maps: read back from its bytes, whatever linked it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fullframe.cfi.frames import Fde, read_frames
from fullframe.elf import dynamic as dyn
from fullframe.elf.image import Image, Symbol
from fullframe.elf.structures import PF_W, PF_X, PT_DYNAMIC, PT_GNU_EH_FRAME, PT_LOAD, PT_NOTE
from fullframe.vdso.assembly import LANDING_PAD, version_code
from fullframe.vdso.images import RT_SIGRETURN, SIGRETURN, VdsoImage
from fullframe.vdso.linking import MOST_PAGES, PAGE_BYTES

_PF_R = 4
_DT_SONAME, _DT_NEEDED, _DT_TEXTREL = 14, 1, 22
_RELOCATIONS = {
    dyn.DT_RELA: "DT_RELA", dyn.DT_REL: "DT_REL", dyn.DT_JMPREL: "DT_JMPREL",
    dyn.DT_RELR: "DT_RELR", _DT_TEXTREL: "DT_TEXTREL", _DT_NEEDED: "DT_NEEDED",
}  # fmt: skip


def problems_of(
    image: VdsoImage,
    built: Image,
    *,
    base_address: int,
    linux_version: tuple[int, int, int],
    with_cfi: bool,
) -> list[str]:
    """Say what is not as it must be with an image.

    Args:
        image: what it was to be.
        built: what came out.
        base_address: where its header was to be linked.
        linux_version: of its note.
        with_cfi: whether it was to have call-frame information.

    Returns:
        One line a fault; none for an image that is right.
    """
    found = [*_segments(built, base_address, with_cfi), *_dynamic(image, built)]
    found += _symbols(image, built)
    if _version_note(built) != version_code(linux_version):
        found.append("the C library finds no version of Linux in its notes, or another one")
    if with_cfi:
        found += _coverage(built)
    return found


def _segments(built: Image, base_address: int, with_cfi: bool) -> Iterator[str]:
    loads = [segment for segment in built.segments if segment.type == PT_LOAD]
    if len(loads) != 1:
        yield f"{len(loads)} loaded segments; expected one"
        return
    load = loads[0]
    if load.flags != _PF_R | PF_X:
        access = "write " if load.flags & PF_W else ""
        yield f"its segment has access flags {load.flags} ({access}expected read and execute)"
    if (load.offset, load.address) != (0, base_address):
        yield f"its segment begins at {load.address:#x}, offset {load.offset:#x} of the file"
    if load.file_size_bytes != load.memory_size_bytes:
        yield "its segment is larger in memory than in the file"
    if built.size_bytes > MOST_PAGES * PAGE_BYTES:
        yield f"{built.size_bytes} bytes; expected at most {MOST_PAGES} pages"
    wanted = {PT_DYNAMIC: "PT_DYNAMIC", PT_NOTE: "PT_NOTE"}
    if with_cfi:
        wanted[PT_GNU_EH_FRAME] = "PT_GNU_EH_FRAME"
    end = load.address + load.memory_size_bytes
    for kind, name in wanted.items():
        inside = [
            segment
            for segment in built.segments
            if segment.type == kind
            and load.address <= segment.address <= end - segment.memory_size_bytes
        ]
        if len(inside) != 1:
            yield f"{len(inside)} segments {name} within the loaded one; expected one"


def _dynamic(image: VdsoImage, built: Image) -> Iterator[str]:
    tags = built.dynamic
    for tag, name in _RELOCATIONS.items():
        if tag in tags:
            yield f"a dynamic entry {name}: nobody relocates an image, or loads what it needs"
    for tag, name in ((dyn.DT_HASH, "DT_HASH"), (dyn.DT_GNU_HASH, "DT_GNU_HASH")):
        if tag not in tags:
            yield f"no {name}: C libraries look symbols up by it"
    if not tags.keys() >= {dyn.DT_STRTAB, dyn.DT_STRSZ, dyn.DT_SYMTAB}:
        yield "no dynamic symbols or no names of them"
        return
    strings = bytes(built.read_from(tags[dyn.DT_STRTAB]))[: tags[dyn.DT_STRSZ]]
    begin = tags.get(_DT_SONAME, len(strings))
    name = strings[begin : strings.find(b"\0", begin)].decode("ascii", "replace")
    if name != image.soname:
        yield f"its name is {name!r}; expected {image.soname!r}"


def _symbols(image: VdsoImage, built: Image) -> Iterator[str]:
    wanted = {symbol: version for version, symbols in image.exports.items() for symbol in symbols}
    there = {symbol.name: symbol.version for symbol in built.symbols if symbol.version}
    for name, version in wanted.items():
        if there.get(name) != version:
            yield f"{name} has version {there.get(name)}; expected {version}"
    for name in sorted(there.keys() - wanted.keys() - image.exports.keys()):
        yield f"{name} is exported, and should not be"
    for symbol in built.symbols:
        if symbol.name and not symbol.is_defined and symbol.name not in image.exports:
            yield f"{symbol.name} is undefined"
    if image.machine.bits == 32 and address_of(built, LANDING_PAD) is None:
        yield f"no symbol {LANDING_PAD}, which a kernel needs"


def address_of(built: Image, name: str) -> int | None:
    """Return the address of a symbol, or None."""
    for symbol in built.symbols:
        if symbol.name == name and symbol.is_defined:
            return symbol.address
    return None


def _version_note(built: Image) -> int | None:
    """Return what the note of the owner ``Linux`` and type 0 says (gABI chapter 5, "Note")."""
    for segment in built.segments:
        if segment.type != PT_NOTE:
            continue
        notes = bytes(built.read(segment.address, segment.file_size_bytes))
        at = 0
        while at + 12 <= len(notes):
            name_bytes, size_bytes, kind = struct.unpack_from("<III", notes, at)
            name = notes[at + 12 : at + 12 + name_bytes]
            begin = at + 12 + -(-name_bytes // 4) * 4
            if name == b"Linux\0" and kind == 0 and size_bytes == 4:
                return int.from_bytes(notes[begin : begin + 4], "little")
            at = begin + -(-size_bytes // 4) * 4
    return None


def exported_functions(built: Image) -> list[Symbol]:
    """Return the functions of an image that programs look up, aliases included, by address."""
    found = {
        symbol.name: symbol
        for symbol in built.symbols
        if symbol.kind == "func" and symbol.version and symbol.is_defined
    }
    return sorted(found.values(), key=lambda symbol: (symbol.address, symbol.name))


def functions_without_cfi(built: Image) -> list[str]:
    """Return the names of exported functions for whose first instruction no FDE is there."""
    fdes = [fde for table in read_frames(built) for fde in table.fdes]
    return [
        symbol.name
        for symbol in exported_functions(built)
        if not any(fde.begin <= symbol.address < fde.end for fde in fdes)
    ]


def _coverage(built: Image) -> Iterator[str]:
    fdes = [fde for table in read_frames(built) for fde in table.fdes]
    for symbol in exported_functions(built):
        begin, end = symbol.address, symbol.address + symbol.size_bytes
        is_trampoline = symbol.name in (SIGRETURN, RT_SIGRETURN)
        if is_trampoline:
            begin -= 1
        if not any(_covers(fde, begin, end, is_trampoline) for fde in fdes):
            yield f"{symbol.name} has no call-frame information that covers it"


def _covers(fde: Fde, begin: int, end: int, is_trampoline: bool) -> bool:
    return fde.begin <= begin and end <= fde.end and fde.cie.is_signal_frame == is_trampoline
