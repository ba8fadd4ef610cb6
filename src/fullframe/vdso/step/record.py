"""Collecting the rows: one an instruction, whoever was asked and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from iced_x86 import Decoder, Mnemonic

from fullframe.cfi.describe import plain_text
from fullframe.cfi.rules import SameValue, Undefined
from fullframe.elf.memory import AddressError
from fullframe.vdso.step.own import LoadedObject
from fullframe.vdso.step.result import Answer, StepRow
from fullframe.vdso.step.walk import Stop, register_name
from fullframe.x86.registers import IP, Machine

#: Visits of one instruction (a loop) at which unwinders are asked.
_MOST_ASKED = 16

#: Function, object, link-time address, frame, how it was stepped.
_Key = tuple[str, str, int, int, str]
#: What the caller has; () for whatever was met first.
_Truth = tuple[tuple[int, int], ...]


class Recorder:
    """The rows of one run.

    Args:
        machine: names the registers.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._rows: dict[tuple[_Key, _Truth], StepRow] = {}
        self._asked: Counter[tuple[_Key, _Truth, str]] = Counter()
        self._visits: Counter[tuple[_Key, str]] = Counter()

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
        key = self._key(function, owner, stop, stepped)
        truth = tuple(sorted(stop.expected.items()))
        asked = self._asked[key, truth, who]
        self._asked[key, truth, who] += 1
        row = self._rows.get((key, ()))
        first = row is None
        if row is None:
            row = self._rows[key, ()] = self._new_row(key, stop)
        # Sessions come by the same instructions; a loop that waits may turn more often in one.
        row.visits = max(row.visits, self._count(key, who))
        if asked >= _MOST_ASKED:
            return
        answers = ask(stop)
        if not first and row.expected != self._named(stop.expected):
            # Called from elsewhere: another row only where somebody is wrong.
            if all(answer.ok for answer in answers.values()):
                answers = {}
            else:
                row = self._rows.setdefault((key, truth), self._new_row(key, stop))
                row.visits = max(row.visits, asked + 1)
        for name, answer in answers.items():
            known = row.unwinders.get(name)
            if known is None or (known.ok and not answer.ok):
                row.unwinders[name] = answer

    def _key(self, function: str, owner: LoadedObject | None, stop: Stop, stepped: str) -> _Key:
        address = stop.registers[IP] - (0 if owner is None else owner.load_bias)
        name = "unknown code" if owner is None else owner.name
        return function, name, address, stop.level, stepped

    def _count(self, key: _Key, who: str) -> int:
        self._visits[key, who] += 1
        return self._visits[key, who]

    def _named(self, values: Mapping[int, int]) -> dict[str, int]:
        return {
            register_name(self._machine, number): value for number, value in sorted(values.items())
        }

    def _new_row(self, key: _Key, stop: Stop) -> StepRow:
        function, name, address, level, stepped = key
        text = plain_text(self._machine.bits, stop.encoding, address)
        return StepRow(function, name, address, text, level, stepped, 0, self._named(stop.expected))

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


def is_way_in(owner: LoadedObject | None, address: int) -> bool:
    """Tell whether the instruction at a run-time address enters the kernel."""
    if owner is None:
        return False
    place = address - owner.load_bias
    end = owner.image.executable_end(place) or place
    code = bytes(owner.image.read(place, min(15, end - place)))
    decoded = Decoder(owner.image.machine.bits, code, ip=place).decode()
    return decoded.mnemonic in (Mnemonic.SYSENTER, Mnemonic.SYSCALL, Mnemonic.INT)


def rule_for_flags(owner: LoadedObject, address: int) -> bool:
    """Tell whether the row at a link-time address says where the caller's flags are."""
    fde = owner.fde_at(address + owner.load_bias)
    row = None if fde is None else fde.row_at(address)
    rule = None if row is None else row.registers.get(owner.image.machine.dwarf_flags)
    return not (rule is None or isinstance(rule, SameValue | Undefined))
