"""Link entry code for user space: at addresses of our own, stand-ins for what it calls.

The same objects that the emulator runs are linked again, low, with the entry symbol at a chosen
offset within 64 bytes; their privileged instructions are replaced in place
(:mod:`fullframe.cost.replace`), and the image is cut into the pieces that the measuring program
carries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from fullframe.cost.replace import Replacement, replace_privileged
from fullframe.errors import InputError, Place
from fullframe.toolchain.find import Toolchain

#: What an image may extend over, in bytes; entry code with its tables needs some tens of KiB.
IMAGE_LIMIT_BYTES = 4 << 20

#: Entry code is aligned to this many bytes, a cache line.
LINE_BYTES = 64

# An address of its own and SUBALIGN: GNU ld and lld would otherwise align the code as its objects
# ask, and the offset would be lost.
_SCRIPT = """\
SECTIONS
{{
	.text {start:#x} : SUBALIGN(16) {{ *(.entry.text) *(.text .text.*) }}
	. = ALIGN(0x1000);
	.data : {{ *(.rodata .rodata.*) *(.data .data.*) *(.bss .bss.*) *(COMMON) }}
	/DISCARD/ : {{ *(.comment) *(.note .note.*) *(.eh_frame) *(.debug*) }}
}}
"""

_SYMBOL = re.compile(r"[A-Za-z_.$][\w.$]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an image's memory.

    Attributes:
        address: virtual address of its first byte.
        data: its bytes, zeros included.
        executable: whether it is code.
    """

    address: int
    data: bytes
    executable: bool


@dataclass(frozen=True, slots=True)
class LiveImage:
    """Entry code that is ready to run in user space.

    Attributes:
        entry: address of the entry symbol.
        pieces: its memory.
        replacements: what was replaced in it.
    """

    entry: int
    pieces: tuple[Piece, ...]
    replacements: tuple[Replacement, ...]


def stand_ins(objects: Sequence[Path], toolchain: Toolchain, output: Path) -> Path:
    """Make an object that defines everything the objects lack as a function that returns 0.

    The definitions are weak.

    Args:
        objects: relocatable objects.
        toolchain: what to assemble with.
        output: the object; its source goes beside it.

    Returns:
        ``output``.

    Raises:
        InputError: an object cannot be read, or lacks a symbol whose name no assembler takes.
        ToolFailedError: the assembler failed.
    """
    lacking: set[str] = set()
    present: set[str] = set()
    for path in objects:
        undefined, defined = _symbols(path)
        lacking |= undefined
        present |= defined
    lines = ["\t.text\n"]
    for name in sorted(lacking - present):
        if not _SYMBOL.fullmatch(name):
            raise InputError(
                Place(", ".join(str(path) for path in objects)),
                f"an undefined symbol named {name[:64]!r}",
                "a name that an assembler takes",
            )
        lines.append(f"\t.balign\t16\n\t.weak\t{name}\n{name}:\n\txorl\t%eax, %eax\n\tret\n")
    lines.append('\t.section .note.GNU-stack, "", @progbits\n')
    source = output.with_suffix(".s")
    source.write_text("".join(lines))
    toolchain.assemble(source, output)
    return output


def live_image(
    name: str,
    objects: Sequence[Path],
    entry_symbol: str,
    start: int,
    offset_bytes: int,
    toolchain: Toolchain,
    directory: Path,
) -> LiveImage:
    """Link objects for user space.

    Args:
        name: of the variant, for messages and files.
        objects: relocatable objects, nothing undefined among them.
        entry_symbol: of the first instruction after SYSCALL.
        start: address to link at, a multiple of 64.
        offset_bytes: where in 64 bytes the entry symbol is to lie.
        toolchain: what to link with.
        directory: where intermediate files go.

    Returns:
        The image.

    Raises:
        InputError: no such entry symbol, one that is not aligned to 16 bytes, a privileged
            instruction without a replacement, or an image that is too large.
        ToolFailedError: the linker failed.
    """
    script = directory / f"{name}.{offset_bytes}.ld"
    output = directory / f"{name}.{offset_bytes}.elf"
    shift = offset_bytes
    # The entry symbol is usually the first thing in the code; where it is not, link once more.
    for _ in range(2):
        script.write_text(_SCRIPT.format(start=start + shift))
        toolchain.link(objects, output, script=script)
        entry = _entry(output, entry_symbol, name)
        if entry % LINE_BYTES == offset_bytes % LINE_BYTES:
            return _cut(output, entry, name)
        shift = (shift + offset_bytes - entry) % LINE_BYTES
    raise InputError(
        Place(name),
        f"{entry_symbol} cannot lie at {offset_bytes} modulo {LINE_BYTES}, only at {entry:#x}",
        "entry code that is aligned to 16 bytes in its section",
    )


def _symbols(path: Path) -> tuple[set[str], set[str]]:
    """Return the names that an object lacks, and the global ones that it defines."""
    undefined: set[str] = set()
    defined: set[str] = set()
    try:
        with path.open("rb") as stream:
            for section in ELFFile(stream).iter_sections(type="SHT_SYMTAB"):
                for symbol in section.iter_symbols():
                    if symbol.name and symbol["st_info"]["bind"] != "STB_LOCAL":
                        missing = symbol["st_shndx"] == "SHN_UNDEF"
                        (undefined if missing else defined).add(symbol.name)
    except (OSError, ELFError, ValueError, LookupError, AssertionError, TypeError) as error:
        raise InputError(Place(str(path)), str(error), "a relocatable ELF object") from error
    return undefined, defined


def _symbol_values(image: ELFFile) -> dict[str, int]:
    return {
        symbol.name: symbol["st_value"]
        for section in image.iter_sections()
        if isinstance(section, SymbolTableSection)
        for symbol in section.iter_symbols()
        if symbol.name
    }


def _entry(path: Path, entry_symbol: str, name: str) -> int:
    with path.open("rb") as stream:
        values = _symbol_values(ELFFile(stream))
    if entry_symbol not in values:
        raise InputError(
            Place(name), f"no symbol {entry_symbol}", "the entry code among the objects"
        )
    return values[entry_symbol]


def _cut(path: Path, entry: int, name: str) -> LiveImage:
    """Cut a linked image into its pieces, and replace what cannot run in user space."""
    pieces: list[Piece] = []
    replacements: list[Replacement] = []
    with path.open("rb") as stream:
        image = ELFFile(stream)
        starts = _symbol_values(image).values()
        sections = [
            section
            for section in image.iter_sections()
            if section["sh_flags"] & SH_FLAGS.SHF_ALLOC and section["sh_size"]
        ]
        if (size := sum(section["sh_size"] for section in sections)) > IMAGE_LIMIT_BYTES:
            raise InputError(
                Place(name), f"an image of {size} bytes", f"at most {IMAGE_LIMIT_BYTES}"
            )
        for section in sections:
            address, data = section["sh_addr"], section.data()
            executable = bool(section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR)
            if executable:
                data, replaced = replace_privileged(data, address, starts, name=name)
                replacements.extend(replaced)
            pieces.append(Piece(address, data, executable))
    return LiveImage(entry, tuple(pieces), tuple(replacements))
