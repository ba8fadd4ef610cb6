"""Entries of call-frame information as data in a source: for GNU as, and for NASM and YASM.

Locations are advanced by differences of labels, so that the assembler may choose the encoding of
every instruction; lengths are differences of labels as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fullframe.cfi.write.directives import UnsayableError, Unwind
from fullframe.cfi.write.entries import (
    PCREL_SDATA4,
    CieKind,
    InstructionWriter,
    cie_head,
    initial_instructions,
)
from fullframe.cfi.write.rule_choice import uleb128
from fullframe.x86.registers import Machine

_ABSPTR, _UDATA4, _INDIRECT_PCREL_SDATA4 = 0x00, 0x03, 0x9B


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the code where the rules change.

    Attributes:
        label: at that place.
        rules: in force from there on.
        distance_bytes: from the point (or the begin) before, as measured; decides only how wide
            the field for it is, with room to spare.
    """

    label: str
    rules: Unwind
    distance_bytes: int


@dataclass(slots=True)
class Procedure:
    """What one ``.cfi_startproc`` to ``.cfi_endproc`` says.

    Attributes:
        begin: label at its first byte.
        end: label after its last.
        kind: of its CIE.
        points: where rules change, ascending; one at ``begin`` has distance 0.
        lsda: the assembler's expression for its language-specific data, or None.
    """

    begin: str
    end: str
    kind: CieKind
    points: list[Point] = field(default_factory=list)
    lsda: str | None = None


class Syntax(Protocol):
    """How an assembler spells data."""

    here: str

    def section(self, name: str, word_bytes: int) -> list[str]:
        """Switch to a section of call-frame information."""

    def label(self, name: str) -> str:
        """Define a label."""

    def local(self, name: str) -> str:
        """Return a name that stays out of the way of the source's own labels."""

    def data(self, data: bytes, comment: str) -> str:
        """Write bytes."""

    def number(self, size_bytes: int, expression: str, comment: str) -> str:
        """Write a number of 1, 2, 4 or 8 bytes."""

    def align(self, size_bytes: int) -> str:
        """Pad with zeros."""


class GnuSyntax:
    """GNU as and LLVM."""

    here = "."
    _WIDTHS = {1: ".byte", 2: ".2byte", 4: ".4byte", 8: ".8byte"}  # noqa: RUF012 - constant

    def section(self, name: str, word_bytes: int) -> list[str]:
        """See :class:`Syntax`."""
        flags = '"a"' if name == ".eh_frame" else '""'
        return [f"\t.section\t{name},{flags},@progbits", self.align(word_bytes)]

    def label(self, name: str) -> str:
        """See :class:`Syntax`."""
        return f"{name}:"

    def local(self, name: str) -> str:
        """See :class:`Syntax`."""
        return f".L{name}"

    def data(self, data: bytes, comment: str) -> str:
        """See :class:`Syntax`."""
        text = f"\t.byte\t{', '.join(f'{byte:#x}' for byte in data)}"
        return f"{text}\t/* {comment} */" if comment else text

    def number(self, size_bytes: int, expression: str, comment: str) -> str:
        """See :class:`Syntax`."""
        text = f"\t{self._WIDTHS[size_bytes]}\t{expression}"
        return f"{text}\t/* {comment} */" if comment else text

    def align(self, size_bytes: int) -> str:
        """See :class:`Syntax`."""
        return f"\t.balign\t{size_bytes}"


class NasmSyntax:
    """NASM and YASM; ``..@`` labels leave the scope of local labels alone."""

    here = "$"
    _WIDTHS = {1: "db", 2: "dw", 4: "dd", 8: "dq"}  # noqa: RUF012 - constant

    def section(self, name: str, word_bytes: int) -> list[str]:
        """See :class:`Syntax`."""
        alloc = "alloc" if name == ".eh_frame" else "noalloc"
        return [f"section {name} progbits {alloc} noexec nowrite align={word_bytes}"]

    def label(self, name: str) -> str:
        """See :class:`Syntax`."""
        return f"{name}:"

    def local(self, name: str) -> str:
        """See :class:`Syntax`."""
        return f"..@{name}"

    def data(self, data: bytes, comment: str) -> str:
        """See :class:`Syntax`."""
        text = f"\tdb {', '.join(f'{byte:#04x}' for byte in data)}"
        return f"{text}\t; {comment}" if comment else text

    def number(self, size_bytes: int, expression: str, comment: str) -> str:
        """See :class:`Syntax`."""
        text = f"\t{self._WIDTHS[size_bytes]} {expression}"
        return f"{text}\t; {comment}" if comment else text

    def align(self, size_bytes: int) -> str:
        """See :class:`Syntax`."""
        return f"\talign {size_bytes}, db 0"


class DataWriter:
    """Writes one section of call-frame information as data.

    Args:
        machine: the machine.
        syntax: the assembler's.
        is_eh: ``.eh_frame``; otherwise ``.debug_frame``.
        prefix: of the labels that are made.
    """

    def __init__(self, machine: Machine, syntax: Syntax, is_eh: bool, prefix: str) -> None:
        self._machine = machine
        self._syntax = syntax
        self._is_eh = is_eh
        self._prefix = f"{prefix}{'eh' if is_eh else 'debug'}_"
        self._lines: list[str] = []
        self._cies: dict[tuple[object, ...], str] = {}

    def section(self, procedures: Sequence[Procedure]) -> list[str]:
        """Return the lines of the whole section.

        Raises:
            UnsayableError: a rule that has no call-frame instruction, or a pointer encoding that
                is not known here.
        """
        name = ".eh_frame" if self._is_eh else ".debug_frame"
        self._lines = self._syntax.section(name, self._machine.word_bytes)
        for number, procedure in enumerate(procedures):
            self._fde(number, procedure)
        return self._lines

    def _label(self, name: str) -> str:
        return self._syntax.local(self._prefix + name)

    def _pointer(self, encoding: int, expression: str, comment: str) -> None:
        syntax = self._syntax
        if encoding in (PCREL_SDATA4, _INDIRECT_PCREL_SDATA4):
            text = syntax.number(4, f"{expression} - {syntax.here}", comment)
        elif encoding == _ABSPTR:
            text = syntax.number(self._machine.word_bytes, expression, comment)
        elif encoding == _UDATA4:
            text = syntax.number(4, expression, comment)
        else:
            raise UnsayableError(f"the pointer encoding {encoding:#x} of {expression}")
        self._lines.append(text)

    def _size(self, encoding: int) -> int:
        return self._machine.word_bytes if encoding == _ABSPTR else 4

    def _cie(self, kind: CieKind) -> str:
        key = kind.key()
        known = self._cies.get(key)
        if known is not None:
            return known
        number = len(self._cies)
        label, begin, end = (self._label(f"cie{number}{part}") for part in ("", "_id", "_end"))
        self._cies[key] = label
        syntax, add = self._syntax, self._lines.append
        add(syntax.label(label))
        add(syntax.number(4, f"{end} - {begin}", "length of the CIE"))
        add(syntax.label(begin))
        if self._is_eh:
            add(syntax.number(4, "0", "a CIE"))
            letters = kind.augmentation
            add(syntax.data(cie_head(self._machine, kind), f'version 1, "{letters}"'))
            size = 1 + (1 if kind.lsda_encoding is not None else 0)
            if kind.personality:
                size += 1 + self._size(kind.personality[0])
            add(syntax.data(uleb128(size), "bytes of augmentation data"))
            if kind.personality:
                encoding, expression = kind.personality
                add(syntax.data(bytes([encoding]), "encoding of the personality routine"))
                self._pointer(encoding, expression, "")
            if kind.lsda_encoding is not None:
                add(syntax.data(bytes([kind.lsda_encoding]), "encoding of LSDA pointers"))
            add(syntax.data(bytes([PCREL_SDATA4]), "addresses are pcrel sdata4"))
        else:
            add(syntax.number(4, "0xffffffff", "a CIE"))
            plain = cie_head(self._machine, kind).replace(
                kind.augmentation.encode() + b"\0", b"S\0" if kind.is_signal_frame else b"\0"
            )
            add(syntax.data(plain, "version 1"))
        for instruction in initial_instructions(self._machine, kind):
            add(syntax.data(instruction.data, instruction.comment))
        add(syntax.align(self._machine.word_bytes))
        add(syntax.label(end))
        return label

    def _fde(self, number: int, procedure: Procedure) -> None:
        cie = self._cie(procedure.kind)
        syntax, add = self._syntax, self._lines.append
        begin, end = self._label(f"fde{number}"), self._label(f"fde{number}_end")
        add(syntax.number(4, f"{end} - {begin}", "length of the FDE"))
        add(syntax.label(begin))
        if self._is_eh:
            add(syntax.number(4, f"{begin} - {cie}", "distance of its CIE"))
            add(syntax.number(4, f"{procedure.begin} - {syntax.here}", "begin"))
            add(syntax.number(4, f"{procedure.end} - {procedure.begin}", "size in bytes"))
            encoding = procedure.kind.lsda_encoding
            has_lsda = encoding is not None and procedure.lsda is not None
            size = self._size(encoding) if encoding is not None and has_lsda else 0
            add(syntax.data(bytes([size]), "bytes of augmentation data"))
            if encoding is not None and procedure.lsda is not None:
                self._pointer(encoding, procedure.lsda, "LSDA")
        else:
            word = self._machine.word_bytes
            add(syntax.number(4, cie, "its CIE"))
            add(syntax.number(word, procedure.begin, "begin"))
            add(syntax.number(word, f"{procedure.end} - {procedure.begin}", "size in bytes"))
        self._points(procedure)
        add(syntax.align(self._machine.word_bytes))
        add(syntax.label(end))

    def _points(self, procedure: Procedure) -> None:
        syntax, add = self._syntax, self._lines.append
        writer = InstructionWriter(self._machine, procedure.kind.initial)
        now, place = procedure.kind.initial, procedure.begin
        for point in procedure.points:
            if point.distance_bytes:
                # Half of each field's range is left for another assembler's longer encodings.
                opcode, size = (2, 1) if point.distance_bytes < 0x80 else (
                    (3, 2) if point.distance_bytes < 0x8000 else (4, 4)
                )  # fmt: skip
                add(syntax.data(bytes([opcode]), f"DW_CFA_advance_loc{size}"))
                add(syntax.number(size, f"{point.label} - {place}", ""))
                place = point.label
            for instruction in writer.change(now, point.rules):
                add(syntax.data(instruction.data, instruction.comment))
            now = point.rules
