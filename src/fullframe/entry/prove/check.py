"""What has to hold where entry code calls C, and where it leaves for user mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fullframe.entry.prove import diagnostics as codes
from fullframe.entry.prove.contract import Contract, Function, WayIn, WayOut
from fullframe.entry.prove.facts import Facts, is_canonical, is_definite, known_bits, same
from fullframe.entry.prove.state import Known
from fullframe.entry.prove.values import (
    PREVIOUS_TASK,
    TASK_STACK,
    Expression,
    describe,
)
from fullframe.track.values import Address, Value, address, constant, entry
from fullframe.x86.flags import RF, TF
from fullframe.x86.ptregs import (
    CALLEE_SAVED_SLOTS,
    INDEX_OF_SLOT,
    OFFSET_OF_SLOT,
    SLOTS,
    register_of_slot,
)
from fullframe.x86.registers import CX, DI, DX, R8, R9, R11, SI, SP, X86_64

_ARGUMENTS = (DI, SI, DX, CX, R8, R9)
_NUMBER_OF = {name: number for number, name in enumerate(X86_64.register_names[:16])}
#: Slots of general registers, with the register's hardware number; sp is the stack's.
_GENERAL = tuple(
    (slot, _NUMBER_OF[register_of_slot(slot)])
    for slot in SLOTS
    if slot not in ("orig_ax", "ip", "cs", "flags", "sp", "ss")
)
_ALL = (1 << 64) - 1

Problem = tuple[str, str]


def equals(facts: Facts, one: Value | None, other: Value | None, bits: int = 64) -> bool:
    """Return whether two values are the same number, in their low ``bits`` bits."""
    if same(facts, one, other):
        return True
    if bits == 32:
        one, other = _low(one), _low(other)
        if same(facts, one, other):
            return True
    if one is None or other is None or not is_definite(one):
        return False
    wanted = (1 << bits) - 1
    mine, theirs = known_bits(facts, one), known_bits(facts, other)
    return mine[0] & theirs[0] & wanted == wanted and mine[1] & wanted == theirs[1] & wanted


def _low(value: Value | None) -> Value | None:
    while isinstance(value, Expression) and value.operation in ("low32", "int"):
        value = value.operand
    return value


class Checker:
    """Checks one way in against the contract.

    Args:
        contract: what has to hold.
        way_in: how user mode got here.
        matters: tells of a feature's number whether it may be there on this path.
    """

    def __init__(
        self, contract: Contract, way_in: WayIn, matters: Callable[[Known, str], bool]
    ) -> None:
        self.contract = contract
        self.way_in = way_in
        self._matters = matters
        self.frame_place = address(TASK_STACK, contract.frame_offset_bytes)

    # ------------------------------------------------------------------ calls into C

    def held(self, known: Known, base: Address) -> list[Value | None]:
        """Return what each slot of a frame at ``base`` holds; None where nothing was written."""
        slots = known.machine.slots
        return [
            slots.get((base.region, base.offset_bytes + OFFSET_OF_SLOT[slot])) for slot in SLOTS
        ]

    def base_of(self, known: Known, function: Function) -> Address:
        """Return where the frame is that a function is to find."""
        if function.moves_frame:
            place = known.machine.registers[DI]
            if isinstance(place, Address):
                return place
        return self.frame_place

    def call(
        self, known: Known, function: Function, name: str, inside: bool
    ) -> tuple[str | None, list[Value | None], list[Problem]]:
        """Check a call into C.

        Args:
            known: what is known when the function is entered, the return address pushed.
            function: what it needs.
            name: for messages.
            inside: the frame is somebody else's: code that C calls.

        Returns:
            The frame's verdict, what its slots hold, and what is wrong.
        """
        problems = list(self._modes_at_call(known, function, name))
        if not inside:
            problems += self._order(known, function, name)
        base = self.base_of(known, function)
        held: list[Value | None] = []
        verdict: str | None = "full" if inside else None
        if not inside:
            problems += self._stack_at_call(known, base, name)
            if function.frame != "none":
                held = self.held(known, base)
                verdict, wrong = self._frame(known, function, name, held)
                problems += wrong
        problems += self._arguments(known, function, name, base, held, inside)
        return verdict, held, problems

    def _frame(
        self, known: Known, function: Function, name: str, held: list[Value | None]
    ) -> tuple[str | None, list[Problem]]:
        bits = self.way_in.bits
        wrong = [
            (slot, value, expected)
            for slot, value, expected in zip(SLOTS, held, known.frame, strict=True)
            if not equals(known.facts, value, expected, bits)
        ]
        missing = [item for item in wrong if item[0] in CALLEE_SAVED_SLOTS]
        others = [item for item in wrong if item[0] not in CALLEE_SAVED_SLOTS]
        problems = [
            (
                codes.WRONG_SLOT,
                f"{name} finds in slot {slot}: {describe(value)}; expected {describe(expected)}",
            )
            for slot, value, expected in others
        ]
        if missing and function.frame == "full":
            text = ", ".join(f"{slot}: {describe(value)}" for slot, value, _ in missing)
            problems.append(
                (codes.PARTIAL_FRAME, f"{name} needs the full frame; it finds in slots {text}")
            )
        if others:
            return None, problems
        return ("partial" if missing else "full"), problems

    def _modes_at_call(self, known: Known, function: Function, name: str) -> Iterator[Problem]:
        modes, code = known.modes, codes.WRONG_MODE_AT_CALL
        if modes.gs != "kernel":
            yield code, f"{name} is called with GS base {_whose(modes.gs)}"
        if modes.tables not in ("kernel", "shared"):
            yield code, f"{name} is called with page tables {_whose(modes.tables)}"
        if function.interrupts != "any" and modes.interrupts != function.interrupts:
            yield (
                code,
                (
                    f"{name} is called with interrupts {modes.interrupts}; "
                    f"it needs them {function.interrupts}"
                ),
            )
        if modes.df != 0:
            yield code, f"{name} is called with the direction flag {_bit(modes.df)}"
        if modes.ac != 0 and self._matters(known, self.contract.ac_feature):
            yield code, f"{name} is called with the AC flag {_bit(modes.ac)}"
        if modes.nt != 0:
            yield code, f"{name} is called with the NT flag {_bit(modes.nt)}"

    def _order(self, known: Known, function: Function, name: str) -> Iterator[Problem]:
        if known.called and (function.dispatches or function.before_call):
            what = "makes the system call" if function.dispatches else "precedes the system call"
            yield codes.WRONG_ORDER, f"{name}, which {what}, runs after the call was made"
        for kind, status in zip(self.contract.work, known.work, strict=True):
            if kind.name == function.because and status != "found":
                yield codes.WRONG_ORDER, f"{name} is called although no {kind.name} was found"
        if not function.dispatches:
            return
        for kind, status in zip(self.contract.work, known.work, strict=True):
            done = any(symbol in function.symbols for symbol in kind.done_by)
            if kind.before == "handler" and status != "none" and not done:
                seen = "was found and not done" if status == "found" else "was not looked for"
                yield codes.WORK_PASSED_OVER, f"{name} runs although {kind.name} {seen}"

    def _stack_at_call(self, known: Known, base: Address, name: str) -> Iterator[Problem]:
        pointer = known.machine.registers[SP]
        if not isinstance(pointer, Address):
            yield codes.WRONG_STACK, f"{name} is called on a stack that is {describe(pointer)}"
        elif pointer.region is not base.region or pointer.offset_bytes >= base.offset_bytes:
            yield (
                codes.WRONG_STACK,
                (
                    f"{name} is called with the stack at {pointer!r}; "
                    f"the frame is at {base!r}, and the stack must be below it"
                ),
            )

    def _arguments(
        self,
        known: Known,
        function: Function,
        name: str,
        base: Address,
        held: list[Value | None],
        inside: bool,
    ) -> Iterator[Problem]:
        bits = self.way_in.bits
        for register, argument in zip(_ARGUMENTS, function.arguments, strict=False):
            if argument == "any":
                continue
            value = known.machine.registers[register]
            if inside:
                expected: Value | None = entry(register)
            elif argument == "frame":
                expected = base
            elif argument == "previous task":
                expected = entry(PREVIOUS_TASK)
            elif argument.startswith("int("):
                slot = argument[4:-1]
                expected = known.frame[INDEX_OF_SLOT[slot]]
                extended = isinstance(value, Expression) and value.operation == "int"
                if _low(value) is _low(expected) and (extended or bits == 32):
                    continue
            else:
                expected = known.frame[INDEX_OF_SLOT[argument]]
            if not equals(known.facts, value, expected, bits):
                register_name = X86_64.register_names[register]
                yield (
                    codes.WRONG_ARGUMENT,
                    (
                        f"{name} gets in {register_name} {describe(value)}; "
                        f"expected {argument}: {describe(expected)}"
                    ),
                )

    # ------------------------------------------------------------------ ways out

    def way_out(self, known: Known, rule: WayOut, popped: list[Value] | None) -> Iterator[Problem]:
        """Check a return to user mode.

        Args:
            known: what is known right before the instruction.
            rule: the contract's word on it.
            popped: for IRETQ the five words at rsp.
        """
        yield from self._modes_at_exit(known, rule)
        registers = known.machine.registers
        found: dict[str, Value] = {slot: registers[number] for slot, number in _GENERAL}
        if popped is None:
            found |= {"ip": registers[CX], "flags": registers[R11], "sp": registers[SP]}
            found |= {"cs": constant(rule.cs or 0), "ss": constant(rule.ss or 0)}
            yield from self._sysret(known, rule)
        else:
            found |= dict(zip(("ip", "cs", "flags", "sp", "ss"), popped, strict=True))
        bits = 32 if rule.instruction == "SYSRETL" else self.way_in.bits
        allowed = dict(rule.registers)
        for slot, value in found.items():
            expected = known.slot(slot)
            if equals(known.facts, value, expected, bits):
                continue
            if any(self._allowed(known, value, choice, bits) for choice in allowed.get(slot, ())):
                continue
            conditional = popped is None and slot in ("cx", "r11", "cs", "ss")
            code = codes.UNTESTED_SYSRET if conditional else codes.WRONG_REGISTER
            yield (
                code,
                (
                    f"{rule.instruction} gives the user as {slot} {describe(value)}; "
                    f"the frame says {describe(expected)}"
                ),
            )

    def _allowed(self, known: Known, value: Value, choice: str | int, bits: int) -> bool:
        other = known.slot(choice) if isinstance(choice, str) else constant(choice & _ALL)
        return equals(known.facts, value, other, bits)

    def _sysret(self, known: Known, rule: WayOut) -> Iterator[Problem]:
        facts, ip, flags = known.facts, known.slot("ip"), known.slot("flags")
        if rule.instruction == "SYSRETQ":
            canonical = self.contract.canonical_bits
            need = next(
                (bits for name, bits in canonical.items() if name and self._sure(known, name)),
                canonical.get("", 48),
            )
            if not is_canonical(facts, ip, need):
                yield (
                    codes.UNTESTED_SYSRET,
                    (f"SYSRETQ although ip ({describe(ip)}) was not found to be canonical"),
                )
        for bit, name in ((RF, "RF"), (TF, "TF")):
            mask, bits = known_bits(facts, flags)
            if not mask & bit or bits & bit:
                yield (
                    codes.UNTESTED_SYSRET,
                    (
                        f"{rule.instruction} although {name} in flags ({describe(flags)}) was not "
                        "found to be clear"
                    ),
                )

    def _sure(self, known: Known, feature: str) -> bool:
        number = self.contract.features.get(feature)
        return number is not None and known.feature(number) is True

    def _modes_at_exit(self, known: Known, rule: WayOut) -> Iterator[Problem]:
        modes, code, name = known.modes, codes.WRONG_MODE_AT_EXIT, rule.instruction
        if self.way_in.dispatches and not known.called:
            yield codes.WRONG_ORDER, f"{name} although the system call was not made"
        if modes.gs != "user":
            yield code, f"{name} with GS base {_whose(modes.gs)}"
        if modes.tables not in ("user", "shared"):
            yield code, f"{name} with page tables {_whose(modes.tables)}"
        if modes.interrupts != "off":
            yield code, f"{name} with interrupts {modes.interrupts} until user mode runs"
        for kind, status in zip(self.contract.work, known.work, strict=True):
            if status == "found":
                yield codes.WORK_PASSED_OVER, f"{name} although {kind.name} was found and not done"
            elif kind.before == "way out" and status != "none":
                yield (
                    codes.WORK_PASSED_OVER,
                    (
                        f"{name} although nobody looked, with interrupts off since, for {kind.name}"
                        if kind.volatile
                        else f"{name} although nobody looked for {kind.name}"
                    ),
                )


def _whose(owner: str) -> str:
    return f"the {owner}'s" if owner in ("user", "kernel") else owner


def _bit(value: int | str) -> str:
    return f"{value}" if isinstance(value, str) else ("set" if value else "clear")
