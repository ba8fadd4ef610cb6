"""fullframe's own reading of the rows: unwinding over numbers, as DWARF says.

Source: DWARF 5, section 6.4.3; for what DWARF leaves to the ABI, what unwinders do: a register
without a rule has the caller's value, the stack pointer without a rule is the CFA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fullframe.cfi.expressions import ExpressionError, IntegerReader, evaluate
from fullframe.cfi.frames import Fde, FrameTable, read_frames
from fullframe.cfi.rules import (
    CfaRegister,
    Expression,
    Offset,
    RegisterRule,
    Rule,
    SameValue,
    ValExpression,
    ValOffset,
)
from fullframe.elf.image import Image
from fullframe.x86.registers import FLAGS, IP, SP, Machine

Memory = Callable[[int, int], bytes]


class CannotUnwindError(Exception):
    """There is no caller to be found, with the reason."""


@dataclass
class LoadedObject:
    """An ELF object in a process.

    Attributes:
        name: what it is called in the report.
        image: its ELF image.
        load_bias: run-time address minus link-time address.
    """

    name: str
    image: Image
    load_bias: int

    @cached_property
    def frames(self) -> list[FrameTable]:
        """Its call-frame information."""
        return read_frames(self.image)

    def covers(self, address: int) -> bool:
        """Tell whether a run-time address lies in its code."""
        return self.image.executable_end(address - self.load_bias) is not None

    def fde_at(self, address: int) -> Fde | None:
        """Return the FDE of a run-time address."""
        for table in self.frames:
            fde = table.fde_at(address - self.load_bias)
            if fde is not None:
                return fde
        return None


def unwind(
    objects: Sequence[LoadedObject], registers: Mapping[int, int], memory: Memory, levels: int
) -> dict[int, int]:
    """Unwind by the rows, from the instruction about to run.

    Args:
        objects: what addresses belong to.
        registers: hardware number (and ``IP``) to value.
        memory: reads (address, size in bytes); fewer bytes where nothing is mapped.
        levels: how many frames up.

    Returns:
        The registers there; one that cannot be recovered is not among them.

    Raises:
        CannotUnwindError: no row, no CFA, a return address that is undefined.
    """
    current = dict(registers)
    exact = True
    for _ in range(levels):
        if IP not in current:
            raise CannotUnwindError("the return address is not known")
        # A return address may lie behind the last instruction of its function: look one byte
        # before, but where a signal frame says that the instruction is still to run.
        address = current[IP] - (not exact)
        owner = next((each for each in objects if each.covers(address)), None)
        fde = None if owner is None else owner.fde_at(address)
        if owner is None or fde is None:
            raise CannotUnwindError("no FDE covers the instruction")
        try:
            frame = _Frame(owner.image.machine, current, memory)
            current = frame.caller(fde, address - owner.load_bias)
        except ExpressionError as error:
            raise CannotUnwindError(str(error)) from error
        exact = fde.cie.is_signal_frame
    return current


class _Frame:
    """One frame: its registers, by DWARF numbers, and the memory they point into."""

    def __init__(self, machine: Machine, registers: Mapping[int, int], memory: Memory) -> None:
        self._machine = machine
        self._memory = memory
        self._mask = (1 << machine.bits) - 1
        self._numbers = {
            machine.dwarf_flags if number == FLAGS else machine.hardware_to_dwarf[number]: value
            for number, value in registers.items()
        }
        self._reader = IntegerReader(machine.bits, self._numbers, self._number_at)

    def _number_at(self, address: int, size_bytes: int) -> int:
        data = self._memory(address & self._mask, size_bytes)
        if len(data) != size_bytes:
            raise CannotUnwindError(f"nothing is mapped at {address & self._mask:#x}")
        return int.from_bytes(data, "little")

    def caller(self, fde: Fde, address: int) -> dict[int, int]:
        """Return the caller's registers by the row at a link-time address."""
        row = fde.row_at(address)
        if row is None or row.cfa is None:
            raise CannotUnwindError("no row says where the CFA is")
        if isinstance(row.cfa, CfaRegister):
            if row.cfa.dwarf_register not in self._numbers:
                raise CannotUnwindError("the CFA's register is not known")
            cfa = self._numbers[row.cfa.dwarf_register] + row.cfa.offset_bytes & self._mask
        else:
            cfa = evaluate(row.cfa.code, self._machine, [], self._reader)
        result: dict[int, int] = {}
        for hardware, number in self._machine.hardware_to_dwarf.items():
            column = fde.cie.return_register if hardware == IP else number
            rule = row.registers.get(column)
            value = self._value(rule, column, cfa)
            if rule is None and hardware in (IP, SP):
                value = cfa if hardware == SP else None
            if value is not None:
                result[hardware] = value
        flags = row.registers.get(self._machine.dwarf_flags)
        value = self._value(flags, self._machine.dwarf_flags, cfa)
        return result if value is None else result | {FLAGS: value}

    def _value(self, rule: Rule | None, column: int, cfa: int) -> int | None:
        match rule:
            case None | SameValue():
                return self._numbers.get(column)
            case Offset():
                return self._number_at(cfa + rule.offset_bytes, self._machine.word_bytes)
            case ValOffset():
                return cfa + rule.offset_bytes & self._mask
            case RegisterRule():
                return self._numbers.get(rule.dwarf_register)
            case Expression():
                place = evaluate(rule.code, self._machine, [cfa], self._reader)
                return self._number_at(place, self._machine.word_bytes)
            case ValExpression():
                return evaluate(rule.code, self._machine, [cfa], self._reader)
            case _:
                return None
