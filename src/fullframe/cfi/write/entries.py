"""CIEs and FDEs as bytes: the call-frame instructions that rows need, and the entries around them.

Sources: DWARF 5, sections 6.4.1, 6.4.2 and 7.24; Linux Standard Base Core 5.0, section 10.6.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from fullframe.cfi.rules import (
    CfaExpression,
    CfaRegister,
    CfaRule,
    Expression,
    Offset,
    RegisterRule,
    Rule,
    SameValue,
    Undefined,
    ValExpression,
    ValOffset,
)
from fullframe.cfi.write.directives import DirectiveWriter, UnsayableError, Unwind
from fullframe.cfi.write.rule_choice import sleb128, uleb128
from fullframe.x86.registers import Machine

#: DW_EH_PE_pcrel | DW_EH_PE_sdata4: position-independent, and what every assembler writes.
PCREL_SDATA4 = 0x1B


@dataclass(frozen=True, slots=True)
class CallFrameInstruction:
    """One call-frame instruction, without an advance.

    Attributes:
        data: its bytes.
        comment: what it says, as the directive that it stands for.
    """

    data: bytes
    comment: str


class InstructionWriter:
    """Writes the call-frame instructions that lead from one row to another.

    Args:
        machine: whose rows; the data alignment factor is minus its word.
        initial: the rules that ``DW_CFA_restore`` goes back to.
    """

    def __init__(self, machine: Machine, initial: Unwind) -> None:
        self.machine = machine
        self.initial = initial
        self.data_alignment = -machine.word_bytes
        self._words = DirectiveWriter(machine, initial, comments=False)

    def change(self, old: Unwind, new: Unwind) -> list[CallFrameInstruction]:
        """Return the instructions that lead from ``old`` to ``new``.

        Raises:
            UnsayableError: there is none for one of the changes.
        """
        result = []
        if old.cfa != new.cfa:
            text = self._words.cfa(old.cfa, new.cfa)
            result.append(CallFrameInstruction(self._cfa(old.cfa, new.cfa), text))
        before, after = old.registers, new.registers
        for number in sorted({*before, *after}):
            one, other = before.get(number), after.get(number)
            if one != other:
                text = self._words.register(number, one, other)
                if text:
                    result.append(CallFrameInstruction(self._register(number, other), text))
        if old.args_size != new.args_size:
            text = f"{new.args_size} bytes of arguments are pushed"
            result.append(CallFrameInstruction(b"\x2e" + uleb128(new.args_size), text))
        return result

    def _cfa(self, old: CfaRule | None, new: CfaRule | None) -> bytes:
        if isinstance(new, CfaExpression):
            return b"\x0f" + uleb128(len(new.code)) + new.code
        assert isinstance(new, CfaRegister)
        number, offset = new.dwarf_register, new.offset_bytes
        if offset < 0:
            factored = self._factored(offset, "the CFA")
            return b"\x12" + uleb128(number) + sleb128(factored)  # DW_CFA_def_cfa_sf
        if isinstance(old, CfaRegister):
            if old.dwarf_register == number:
                return b"\x0e" + uleb128(offset)
            if old.offset_bytes == offset:
                return b"\x0d" + uleb128(number)
        return b"\x0c" + uleb128(number) + uleb128(offset)

    def _factored(self, offset_bytes: int, what: str) -> int:
        if offset_bytes % self.data_alignment:
            raise UnsayableError(
                f"{what} at an offset of {offset_bytes} bytes: offsets are counted in units of "
                f"{self.machine.word_bytes} bytes"
            )
        return offset_bytes // self.data_alignment

    def _register(self, number: int, new: Rule | None) -> bytes:
        name = self.machine.dwarf_name(number)
        if new == self.initial.registers.get(number):
            return bytes([0xC0 | number]) if number < 64 else b"\x06" + uleb128(number)
        operand = uleb128(number)
        if new is None or isinstance(new, SameValue):
            return b"\x08" + operand
        if isinstance(new, Undefined):
            return b"\x07" + operand
        if isinstance(new, RegisterRule):
            return b"\x09" + operand + uleb128(new.dwarf_register)
        if isinstance(new, Expression):
            return b"\x10" + operand + uleb128(len(new.code)) + new.code
        if isinstance(new, ValExpression):
            return b"\x16" + operand + uleb128(len(new.code)) + new.code
        factored = self._factored(new.offset_bytes, name)
        if isinstance(new, ValOffset):
            if factored < 0:
                return b"\x15" + operand + sleb128(factored)
            return b"\x14" + operand + uleb128(factored)
        assert isinstance(new, Offset)
        if factored < 0:
            return b"\x11" + operand + sleb128(factored)
        if number < 64:
            return bytes([0x80 | number]) + uleb128(factored)
        return b"\x05" + operand + uleb128(factored)


def advance(delta_bytes: int) -> bytes:
    """Return the shortest instruction that moves the location on (code alignment factor 1)."""
    if delta_bytes == 0:
        return b""
    if delta_bytes < 0x40:
        return bytes([0x40 | delta_bytes])
    if delta_bytes < 0x100:
        return bytes([0x02, delta_bytes])
    if delta_bytes < 0x10000:
        return b"\x03" + delta_bytes.to_bytes(2, "little")
    return b"\x04" + delta_bytes.to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class CieKind:
    """What tells one CIE from another.

    Attributes:
        initial: the rules that its initial instructions give.
        is_signal_frame: ``S``.
        return_register: DWARF number of the return address's column.
        personality: (encoding, the assembler's expression) or None.
        lsda_encoding: ``DW_EH_PE_*`` of its FDEs' LSDA pointers; None without.
    """

    initial: Unwind
    is_signal_frame: bool
    return_register: int
    personality: tuple[int, str] | None = None
    lsda_encoding: int | None = None

    @property
    def augmentation(self) -> str:
        """The augmentation string."""
        return (
            "z"
            + ("P" if self.personality else "")
            + ("L" if self.lsda_encoding is not None else "")
            + "R"
            + ("S" if self.is_signal_frame else "")
        )

    def key(self) -> tuple[object, ...]:
        """A hashable value that is equal for kinds that can share a CIE."""
        return (
            self.initial.cfa, tuple(sorted(self.initial.registers.items(), key=lambda i: i[0])),
            self.is_signal_frame, self.return_register, self.personality, self.lsda_encoding,
        )  # fmt: skip


def cie_head(machine: Machine, kind: CieKind) -> bytes:
    """Return a CIE from its version up to its return-address column."""
    return (
        b"\x01"
        + kind.augmentation.encode()
        + b"\0"
        + uleb128(1)
        + sleb128(-machine.word_bytes)
        + bytes([kind.return_register])
    )


def initial_instructions(machine: Machine, kind: CieKind) -> list[CallFrameInstruction]:
    """Return the instructions that give a CIE its rules."""
    nothing = Unwind(None, {})
    return InstructionWriter(machine, nothing).change(nothing, kind.initial)


def padded(data: bytes, alignment_bytes: int) -> bytes:
    """Pad an entry's instructions with ``DW_CFA_nop``, so that entries stay aligned."""
    return data + b"\0" * (-len(data) % alignment_bytes)
