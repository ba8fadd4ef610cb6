"""``cfi encode`` for NASM and YASM sources, which carry ``.cfi_*`` lines that no NASM knows."""

from __future__ import annotations

import re
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from iced_x86 import Decoder, DecoderOptions

from fullframe.cfi.write.compare import RowMap, difference
from fullframe.cfi.write.conversion import Conversion
from fullframe.cfi.write.data_text import DataWriter, NasmSyntax, Point, Procedure
from fullframe.cfi.write.directives import (
    Directive,
    Simulator,
    UnreadableError,
    UnsayableError,
    Unwind,
    initial_unwind,
    number_of,
    parse_directive,
)
from fullframe.cfi.write.entries import CieKind
from fullframe.cfi.write.lines import Refusal
from fullframe.cfi.write.patch import Patch
from fullframe.cfi.write.source import what_was_made
from fullframe.elf.image import Image
from fullframe.errors import InputError, Place, ToolFailedError
from fullframe.toolchain.command import run_tool
from fullframe.toolchain.find import find_tool
from fullframe.x86.registers import I386, IP, X86_64, Machine

_DIRECTIVE = re.compile(r"^\s*(\.cfi_\w+\b[^;]*)(;.*)?$")
#: Longer than any x86 instruction: where two points may be this far apart a byte does not do.
_LONGEST_INSTRUCTION_BYTES = 15


@dataclass(slots=True)
class _Open:
    """A procedure that is being read."""

    number: int
    line: int
    simulator: Simulator
    simple: bool
    points: list[Point] = field(default_factory=list)
    lines_since: int = 0
    is_signal_frame: bool = False
    return_register: int = 0
    personality: tuple[int, str] | None = None
    lsda: tuple[int, str] | None = None
    first: Unwind | None = None


def encode_nasm(path: str, text: str, flags: Sequence[str] = ()) -> Conversion:
    """Turn the ``.cfi_*`` lines of a NASM source into data.

    Registers are named as NASM names them; the operands must be numbers. The outcome is assembled
    with NASM, and at every instruction boundary the rule must be the one that the directives give.

    Args:
        path: the source's name, for messages.
        text: its content.
        flags: of NASM, such as ``-felf32``; 64-bit ELF without.

    Returns:
        The new text, what was compared, and what stood in the way.

    Raises:
        InputError: no directives, directives out of place, or NASM refuses the outcome.
        ToolMissingError: NASM is not there to prove it.
    """
    machine = I386 if any(flag in ("-felf32", "-felf", "elf32") for flag in flags) else X86_64
    reader = _Reader(path, machine)
    patch = Patch()
    for number, line in enumerate(text.split("\n"), 1):
        match = _DIRECTIVE.match(line.rstrip("\r"))
        if match is None:
            reader.other(line)
            continue
        directive = parse_directive(match[1])
        assert directive is not None
        patch.replaced[number] = reader.directive(number, directive)
    procedures = reader.finish()
    conversion = Conversion(path, text, text, refused=reader.refused)
    conversion.functions = len(procedures)
    if reader.refused:
        return conversion
    writer = DataWriter(machine, NasmSyntax(), True, "cfi_")
    try:
        tail = writer.section(procedures)
    except UnsayableError as error:
        conversion.refused.append(Refusal(None, str(error)))
        return conversion
    new = patch.apply(text)
    ending = "\r\n" if text.split("\n", 1)[0].endswith("\r") else "\n"
    new = (new if new.endswith("\n") else new + "\n") + "".join(line + ending for line in tail)
    _prove(path, new, machine, flags, procedures, conversion)
    conversion.functions_done = len(procedures)
    conversion.new_text = new
    return conversion


class _Reader:
    """Reads directives in the order of the source."""

    def __init__(self, path: str, machine: Machine) -> None:
        self._path = path
        self._machine = machine
        self._syntax = NasmSyntax()
        self._open: _Open | None = None
        self._done: list[Procedure] = []
        self.refused: list[Refusal] = []

    def other(self, line: str) -> None:
        """Count a line that may hold an instruction."""
        if self._open is not None and line.split(";")[0].strip():
            repeated = re.match(r"\s*(?:\w+:)?\s*times\b|\s*%|\s*align", line, re.IGNORECASE)
            self._open.lines_since += 1000 if repeated else 1

    def directive(self, number: int, directive: Directive) -> list[str]:
        """Follow a directive; return the lines that take its place."""
        name = directive.name
        if name == "startproc":
            return self._start(number, directive)
        current = self._open
        if current is None:
            if name in ("sections",):
                return []
            raise self._misplaced(number, directive, ".cfi_startproc before it")
        if name == "endproc":
            return self._end(current)
        before = current.simulator.now
        try:
            if name == "signal_frame":
                current.is_signal_frame = True
            elif name == "return_column":
                current.return_register = current.simulator.register(directive.operands[0])
            elif name in ("personality", "lsda"):
                found = (number_of(directive.operands[0]), directive.operands[1])
                if name == "personality":
                    current.personality = found
                else:
                    current.lsda = found
            else:
                current.simulator.apply(directive)
        except (UnreadableError, IndexError) as error:
            self.refused.append(Refusal(number, f".cfi_{name}: cannot be followed: {error}"))
            return []
        if current.simulator.now.same_as(before):
            return []
        return self._point(current)

    def _start(self, number: int, directive: Directive) -> list[str]:
        if self._open is not None:
            raise self._misplaced(number, directive, f".cfi_endproc after line {self._open.line}")
        simple = "simple" in directive.operands
        initial = Unwind(None, {}) if simple else initial_unwind(self._machine)
        self._open = _Open(len(self._done), number, Simulator(self._machine, initial), simple)
        self._open.return_register = self._machine.hardware_to_dwarf[IP]
        return [self._syntax.label(self._label("begin"))]

    def _label(self, part: object) -> str:
        assert self._open is not None
        return self._syntax.local(f"cfi{self._open.number}_{part}")

    def _point(self, current: _Open) -> list[str]:
        now = current.simulator.now
        if current.lines_since == 0:
            # Several directives at one place are one point.
            if current.points:
                last = current.points[-1]
                current.points[-1] = Point(last.label, now, last.distance_bytes)
            else:
                current.points.append(Point(self._label("begin"), now, 0))
            return []
        distance = min(current.lines_since * _LONGEST_INSTRUCTION_BYTES, 0x7FFFFFFF)
        current.lines_since = 0
        label = self._label(len(current.points))
        current.points.append(Point(label, now, distance))
        return [self._syntax.label(label)]

    def _end(self, current: _Open) -> list[str]:
        end = self._label("end")
        initial = current.simulator.initial
        kind = CieKind(
            initial, current.is_signal_frame, current.return_register, current.personality,
            current.lsda[0] if current.lsda else None,
        )  # fmt: skip
        begin = self._label("begin")
        lsda = current.lsda[1] if current.lsda else None
        self._done.append(Procedure(begin, end, kind, current.points, lsda))
        self._open = None
        return [self._syntax.label(end)]

    def _misplaced(self, number: int, directive: Directive, expected: str) -> InputError:
        return InputError(
            Place(self._path, number), f".cfi_{directive.name} out of place", expected
        )

    def finish(self) -> list[Procedure]:
        """Return the procedures.

        Raises:
            InputError: there is none, or one is not closed.
        """
        if self._open is not None:
            raise InputError(
                Place(self._path, self._open.line), "a .cfi_startproc without .cfi_endproc"
            )
        if not self._done:
            raise InputError(
                Place(self._path), "no CFI directives", "lines such as .cfi_startproc",
                "assemble it and use `fullframe cfi attach` on the object",
            )  # fmt: skip
        return self._done


def _prove(
    path: str,
    text: str,
    machine: Machine,
    flags: Sequence[str],
    procedures: list[Procedure],
    conversion: Conversion,
) -> None:
    """Assemble the outcome and compare every boundary with what the directives say."""
    nasm = find_tool("nasm")
    form = [] if any(flag.startswith("-f") for flag in flags) else ["-felf64"]
    with tempfile.TemporaryDirectory(prefix="fullframe-") as name:
        source, output = Path(name, "source.asm"), Path(name, "object.o")
        source.write_text(text, encoding="utf-8", errors="surrogateescape")
        include = f"-I{Path(path).parent}/"
        try:
            run_tool([nasm, *form, *flags, include, "-o", str(output), str(source)])
        except ToolFailedError as error:
            said = error.output.replace(str(source), path)
            raise InputError(
                Place(path), f"NASM refuses the outcome:\n{said[:4000]}",
                "a source that assembles without its .cfi_* lines",
            ) from None  # fmt: skip
        made = what_was_made(path, output, [nasm, *form, *flags])
        image = Image.from_bytes(made, path)
    rows = RowMap(image)
    places = {symbol.name: symbol.address for symbol in image.symbols if symbol.is_defined}
    for procedure in procedures:
        begin, end = places[procedure.begin], places[procedure.end]
        points = [(places[point.label], point.rules) for point in procedure.points]
        starts = [address for address, _ in points]
        code = bytes(image.read(begin, end - begin))
        for item in Decoder(machine.bits, code, DecoderOptions.NONE, begin):
            position = bisect_right(starts, item.ip) - 1
            meant = points[position][1] if position >= 0 else procedure.kind.initial
            conversion.boundaries_compared += 1
            found = rows.at(item.ip)
            if found is None or not found.same_as(meant):
                conversion.differences.append(difference(image, item.ip, meant, found))
