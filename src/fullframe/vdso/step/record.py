"""Collecting the rows: one an instruction, frame and truth, whoever was asked and how often."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from iced_x86 import Decoder, Mnemonic

from fullframe.cfi.describe import instruction_text
from fullframe.elf.memory import AddressError
from fullframe.vdso.step.own import LoadedObject
from fullframe.vdso.step.result import Answer, StepRow
from fullframe.vdso.step.walk import Stop
from fullframe.x86.registers import IP, Machine

#: Visits of one instruction (a loop) at which unwinders are asked.
_MOST_ASKED = 16

_Key = tuple[str, str, int, int, str, tuple[tuple[str, int], ...]]


class Recorder:
    """The rows of one run.

    Args:
        machine: names the registers.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._rows: dict[_Key, StepRow] = {}
        self._asked: dict[tuple[_Key, str], int] = {}

    @property
    def rows(self) -> list[StepRow]:
        """The rows, in the order in which they were first come by."""
        return list(self._rows.values())

    def record(
        self,
        function: str,
        owner: LoadedObject | None,
        stop: Stop,
        who: str,
        ask: Callable[[Stop], dict[str, Answer]],
        stepped: str = "process",
    ) -> None:
        """Ask at a stop, and keep the answers.

        Args:
            function: the scenario's name.
            owner: what the instruction belongs to, if that is known.
            stop: where the process is.
            who: names the session; each asks by itself.
            ask: asks its unwinders.
            stepped: ``process`` or ``emulator``.
        """
        row, key = self._row(function, owner, stop, stepped)
        asked = self._asked.get((key, who), 0)
        self._asked[key, who] = asked + 1
        # Every session comes by the same instructions; loops that wait may turn more often in one.
        row.visits = max(row.visits, asked + 1)
        if asked >= _MOST_ASKED:
            return
        for name, answer in ask(stop).items():
            known = row.unwinders.get(name)
            if known is None or (known.ok and not answer.ok):
                row.unwinders[name] = answer

    def _row(
        self, function: str, owner: LoadedObject | None, stop: Stop, stepped: str
    ) -> tuple[StepRow, _Key]:
        names = self._machine.register_names
        expected = {names[number]: value for number, value in sorted(stop.expected.items())}
        address = stop.registers[IP] - (0 if owner is None else owner.load_bias)
        name = "unknown code" if owner is None else owner.name
        key = (function, name, address, stop.level, stepped, tuple(expected.items()))
        row = self._rows.get(key)
        if row is None:
            text = instruction_text(self._machine.bits, stop.encoding, address)
            row = StepRow(function, name, address, text, stop.level, stepped, 0, expected)
            self._rows[key] = row
        return row, key

    def stepped_addresses(self, function: str, owner: LoadedObject) -> set[int]:
        """Return the link-time addresses of an object's instructions that were stepped onto."""
        return {
            row.address
            for row in self._rows.values()
            if row.function == function and row.object_name == owner.name
        }


def instructions_of(owner: LoadedObject, address: int) -> list[int]:
    """Return the addresses of a function's instructions, from its first to its end.

    The end is its symbol's; without a size its FDE's, without either there are none. No-operations
    at the end are filling.
    """
    image = owner.image
    sizes = [each.size_bytes for each in image.symbols if each.address == address]
    end = address + max(sizes, default=0)
    fde = owner.fde_at(address + owner.load_bias)
    if end == address and fde is not None:
        end = fde.end
    try:
        code = bytes(image.read(address, end - address)) if end > address else b""
    except AddressError:
        return []
    found = list(Decoder(image.machine.bits, code, ip=address))
    while found and found[-1].mnemonic == Mnemonic.NOP:
        found.pop()
    return [each.ip for each in found]


def owner_of(objects: Sequence[LoadedObject], address: int) -> LoadedObject | None:
    """Return the object that a run-time address lies in the code of."""
    return next((each for each in objects if each.covers(address)), None)
