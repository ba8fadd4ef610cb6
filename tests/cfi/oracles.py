"""Rows as readelf and llvm-dwarfdump see them, and ours in their notation.

Run as a program (``python -m tests.cfi.oracles FILE...``) it compares whole files, any number of
them, and prints what differs.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from fullframe.cfi.expressions import expression_text
from fullframe.cfi.frames import Fde, FrameTable, read_frames
from fullframe.cfi.instructions import Instruction, decode_instructions
from fullframe.cfi.rules import (
    CfaExpression,
    CfaRegister,
    Expression,
    Offset,
    RegisterRule,
    SameValue,
    Undefined,
    ValExpression,
    ValOffset,
)
from fullframe.elf.image import Image
from fullframe.x86.registers import Machine
from tests.cfi import writer as w
from tests.cfi.writer import FrameWriter


@dataclass
class SeenFde:
    """An FDE as a tool prints it: rows as (address, text) with later rows of one address last."""

    begin: int
    end: int
    rows: list[tuple[int, str]] = field(default_factory=list)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout


_READELF_FDE = re.compile(r"^[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)")
_READELF_CIE = re.compile(r"^[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ CIE ")
_LLVM_FDE = re.compile(r"^[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ FDE .*pc=([0-9a-f]+)\.\.\.([0-9a-f]+)")


def readelf_fdes(path: str, section: str) -> list[SeenFde]:
    """Return the FDEs of a section as ``readelf -wF`` interprets them."""
    found: list[SeenFde] = []
    current: SeenFde | None = None
    columns: list[str] = []
    wanted = False
    # N: do not follow links to separate debug files.
    for line in _run(["readelf", "-wFN", path]).splitlines():
        if line.startswith("Contents of the "):
            wanted = line.split()[3].replace(".z", ".", 1) == section
            current = None
        elif not wanted:
            continue
        elif match := _READELF_FDE.match(line):
            current = SeenFde(int(match[1], 16), int(match[2], 16))
            found.append(current)
            columns = []
        elif _READELF_CIE.match(line):
            current = None
        elif line.startswith("   LOC"):
            columns = line.split()[2:]
        elif line.endswith("ZERO terminator"):
            current = None
        elif current is not None and columns and line[:1] in "0123456789abcdef" and line:
            # A register as a rule is written "r9 (r9)": one cell, not two.
            address, cfa, *cells = re.sub(r"\b(r\d+) \(\w+\)", r"\1", line).split()
            pairs = [f"{n}={c}" for n, c in zip(columns, cells, strict=True) if c != "u"]
            text = " ".join([cfa, *pairs])
            current.rows.append((int(address, 16), text))
    return found


def llvm_fdes(path: str, section: str) -> list[SeenFde]:
    """Return the FDEs of a section as ``llvm-dwarfdump`` interprets them."""
    option = "--eh-frame" if section == ".eh_frame" else "--debug-frame"
    found: list[SeenFde] = []
    current: SeenFde | None = None
    wanted = False
    for line in _run(["llvm-dwarfdump", option, path]).splitlines():
        if line.endswith("contents:"):
            wanted = line.startswith(section)
            current = None
        elif not wanted:
            continue
        elif match := _LLVM_FDE.match(line):
            current = SeenFde(int(match[1], 16), int(match[2], 16))
            found.append(current)
        elif line.endswith(" CIE"):
            current = None
        elif current is not None and line.startswith("  0x") and ": CFA=" in line:
            address, text = line.strip().split(": ", 1)
            current.rows.append((int(address, 16), text))
    return found


_READELF_ENTRY = re.compile(r"^([0-9a-f]+) [0-9a-f]+ [0-9a-f]+ (?:FDE|CIE)\b")
_NUMBERS = re.compile(r"\br(\d+)(?= \()|cfa([+-]\d+)|ofs (-?\d+)|: (-?\d+)(?: to|$)")


def readelf_instructions(path: str, section: str) -> dict[int, list[tuple[str, list[int]]]]:
    """Return (name, numbers) of the instructions of each entry, by its offset, of ``-wf``.

    Of expressions and of DW_CFA_set_loc only the register, or nothing, is kept.
    """
    found: dict[int, list[tuple[str, list[int]]]] = {}
    current: list[tuple[str, list[int]]] = []
    wanted = False
    for line in _run(["readelf", "-wfN", path]).splitlines():
        if line.startswith("Contents of the "):
            wanted = line.split()[3].replace(".z", ".", 1) == section
        elif wanted and (match := _READELF_ENTRY.match(line)):
            current = found.setdefault(int(match[1], 16), [])
        elif wanted and line.startswith("  DW_CFA_"):
            name, rest = re.match(r"  (\w+)(.*)", line).groups()
            rest = rest.split("(DW_OP")[0] if name.endswith("expression") else rest
            numbers = [int(next(filter(None, m.groups()))) for m in _NUMBERS.finditer(rest)]
            current.append((name, [] if name == "DW_CFA_set_loc" else numbers))
    return found


def numbers_of(instruction: Instruction) -> tuple[str, list[int]]:
    """Our side of :func:`readelf_instructions`."""
    numbers = [operand for operand in instruction.operands if isinstance(operand, int)]
    return instruction.name, [] if instruction.name == "DW_CFA_set_loc" else numbers


class Notation:
    """Renders our rows as a tool does; a row's text is made once for each pair of objects."""

    def __init__(self, table: FrameTable) -> None:
        self.machine: Machine = table.image.machine
        self.address_size_bytes = table.image.address_size_bytes
        self._seen: dict[tuple[int, int, int], str] = {}
        self._alive: list[object] = []

    def rows(self, fde: Fde) -> list[tuple[int, str]]:
        rows = []
        # The tools print rows at or after the end of the FDE too: compare all of them.
        for delta, cfa, registers, _ in fde.program().rows:
            key = (id(cfa), id(registers), fde.cie.return_register)
            if key not in self._seen:
                self._seen[key] = self.row(cfa, registers, fde.cie.return_register)
                self._alive += [cfa, registers]
            rows.append((delta, self._seen[key]))
        return rows

    def row(self, cfa, registers, return_register) -> str:
        raise NotImplementedError

    def register(self, number: int) -> str:
        """Name a register; functions with the Windows ABI save vector registers too."""
        first_vector = 17 if self.machine.bits == 64 else 21
        if first_vector <= number < first_vector + (16 if self.machine.bits == 64 else 8):
            return f"xmm{number - first_vector}"
        return self.machine.dwarf_name(number)


class ReadelfNotation(Notation):
    """``rsp+16 rbx=c-16 ra=c-8``, without the registers that have no rule.

    readelf shows "u" both for a register without a rule and for one that is undefined, in a
    column for every register that any instruction mentions. Those cells are left out on both
    sides; llvm-dwarfdump tells the two apart.
    """

    def row(self, cfa, registers, return_register):
        if isinstance(cfa, CfaRegister):
            text = f"{self.machine.dwarf_name(cfa.dwarf_register)}{cfa.offset_bytes:+d}"
        else:
            text = "exp"
        for number in sorted(registers):
            name = "ra" if number == return_register else self.register(number)
            cell = self.cell(registers[number])
            text += f" {name}={cell}" if cell else ""
        return text

    def cell(self, rule):
        match rule:
            case Undefined():
                return ""
            case SameValue():
                return "s"
            case Offset(offset):
                return f"c{offset:+d}"
            case ValOffset(offset):
                return f"v{offset:+d}"
            case RegisterRule(register):
                return f"r{register}"
            case Expression():
                return "exp"
            case ValExpression():
                return "vexp"
        raise AssertionError(rule)


class LlvmNotation(Notation):
    """``CFA=RSP+16: RBX=[CFA-16], RIP=[CFA-8]``, expressions in full."""

    def row(self, cfa, registers, return_register):
        if isinstance(cfa, CfaRegister):
            text = f"CFA={self.name(cfa.dwarf_register)}{signed(cfa.offset_bytes)}"
        elif isinstance(cfa, CfaExpression):
            text = f"CFA={self.expression(cfa.code)}"
        else:
            text = "CFA=unspecified"
        cells = [f"{self.name(n)}={self.cell(registers[n])}" for n in sorted(registers)]
        return f"{text}: {', '.join(cells)}" if cells else text

    def name(self, number):
        name = self.register(number)
        return f"reg{number}" if name.startswith("r#") else name.upper()

    def expression(self, code):
        text = expression_text(code, self.machine, self.address_size_bytes)
        return re.sub(r"\b[er][a-z0-9]{1,2}(?=[+-])", lambda m: m[0].upper(), text)

    def cell(self, rule):
        match rule:
            case Undefined():
                return "undefined"
            case SameValue():
                return "same"
            case Offset(offset):
                return f"[CFA{signed(offset)}]"
            case ValOffset(offset):
                return f"CFA{signed(offset)}"
            case RegisterRule(register):
                return self.name(register)
            case Expression(code):
                return f"[{self.expression(code)}]"
            case ValExpression(code):
                return self.expression(code)
        raise AssertionError(rule)


def signed(offset: int) -> str:
    """llvm-dwarfdump writes no +0."""
    return f"{offset:+d}" if offset else ""


TOOLS = {"readelf": (readelf_fdes, ReadelfNotation), "llvm-dwarfdump": (llvm_fdes, LlvmNotation)}


def _without_repeats(rows: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Of several rows at one address the last counts: an advance by 0 makes no row of ours."""
    return list(dict(rows).items())


def differences(path: str, tool: str) -> Iterator[str]:
    """Compare every row of every FDE of a file; give what differs, in words."""
    read_tool, notation_class = TOOLS[tool]
    image = Image.open(path)
    for table in read_frames(image):
        seen = read_tool(path, table.section_name)
        notation = notation_class(table)
        ours = sorted(table.fdes + table.discarded, key=lambda fde: fde.offset)
        if len(seen) != len(ours):
            yield f"{path}: {table.section_name}: {tool} sees {len(seen)} FDEs, we {len(ours)}"
            continue
        for fde, other in zip(ours, seen, strict=True):
            yield from _compare(fde, other, notation, tool, image)


@functools.cache
def llvm_restores_only_registers() -> bool:
    """Whether this llvm-dwarfdump has the fault that DW_CFA_restore_state leaves the CFA alone.

    Seen in LLVM 14. readelf, libgcc and DWARF 5, section 6.4.2.4, restore every rule.
    """
    frames = FrameWriter()
    cie = frames.cie()
    nop = w.advance_loc(1)
    code = nop + w.REMEMBER_STATE + w.def_cfa_offset(16) + nop + w.RESTORE_STATE
    frames.fde(cie, 0x1000, 16, code)
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(frames.elf())
        file.flush()
        (fde,) = llvm_fdes(file.name, ".eh_frame")
    return fde.rows[-1][1].startswith("CFA=RSP+16")


def _tolerated(fde: Fde, our: tuple[int, str], their: tuple[int, str], tool: str) -> bool:
    """Whether two different rows differ only by a known fault of the tool."""
    if tool != "llvm-dwarfdump" or our[0] != their[0]:
        return False
    instructions, _ = decode_instructions(fde.instructions, fde.cie)
    restores = any(item.opcode == w.RESTORE_STATE[0] for item in instructions)
    # It takes offset 0 where the register of a CFA expression is set; libgcc, gdb and readelf
    # take the last offset (see test_a_new_register_for_an_expression_in_libgcc).
    after_expression = any(item.kind == "cfa-not-register" for item in fde.problems)
    if after_expression or (restores and llvm_restores_only_registers()):
        return our[1].split(": ", 1)[1:] == their[1].split(": ", 1)[1:]
    return False


def _compare(fde: Fde, other: SeenFde, notation: Notation, tool: str, image: Image):
    base = 0
    if image.is_relocatable:
        # The tools show addresses relative to the section; ours are synthetic.
        section = image.section_at(fde.begin)
        assert section is not None
        base = section.address
    range_of = (fde.begin - base, fde.end - base)
    unrelocated = fde.section == ".eh_frame" or image.is_x32
    if image.is_relocatable and tool == "llvm-dwarfdump" and unrelocated:
        # It takes pc-relative beginnings in objects for relative to a section at address 0, and
        # does not apply the relocations of x32 objects: only the size says something.
        range_of = (other.begin, other.begin + fde.end - fde.begin)
    if range_of != (other.begin, other.end):
        yield f"{fde}: {tool} has {other.begin:#x}..{other.end:#x}"
        return
    theirs = [(address - other.begin, text) for address, text in _without_repeats(other.rows)]
    ours = notation.rows(fde)
    if not theirs:
        # readelf prints no row for an FDE without instructions: the CIE's row holds throughout.
        if tool != "readelf" or len(ours) != 1 or fde.instructions.strip(b"\0"):
            yield f"{fde}: {tool} has no rows, we {ours}"
        return
    if ours != theirs:
        for our, their in zip(ours, theirs, strict=False):
            if our != their and not _tolerated(fde, our, their, tool):
                yield f"{fde}: we {our}, {tool} {their}"
                return
        if len(ours) != len(theirs):
            yield f"{fde}: {len(ours)} rows, {tool} {len(theirs)}"


def main(paths: list[str]) -> int:
    count = 0
    for path in paths:
        for tool in TOOLS:
            if shutil.which(tool) is None:
                print(f"{tool} is not on this machine", file=sys.stderr)
                continue
            for line in differences(path, tool):
                count += 1
                print(line)
    print(f"{len(paths)} files, {count} differences")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
