"""From a state to unwind rules: which of several true descriptions is written.

Compilers write one of them, and a reader expects the same one: the CFA from the stack pointer
until a frame pointer stands, then from the frame pointer; a callee-saved register is saved where
it was stored first, from the moment it was stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from fullframe.cfi.rules import (
    UNDEFINED,
    CfaExpression,
    CfaRegister,
    CfaRule,
    Expression,
    Offset,
    RegisterRule,
    Rule,
)
from fullframe.track.state import State
from fullframe.track.values import CFA, CFA_REGION, UNKNOWN, Address, Value, address, entry
from fullframe.x86.registers import BP, FLAGS, IP, SP, Machine

_DW_OP_BREG0 = 0x70
_DW_OP_DEREF = 0x06


@dataclass(frozen=True, slots=True)
class Style:
    """How one function uses its frame.

    Attributes:
        frame_pointer: it makes bp its frame pointer, as compilers do (``mov %rsp, %rbp`` right
            after bp was pushed as the first word of the frame).
        preserved: hardware numbers of registers that survive it although the ABI lets callees
            change them; their rules are written like those of callee-saved ones. ``FLAGS``: in
            a signal frame, say where they are (LLVM's libunwind refuses CFI that does).
    """

    frame_pointer: bool = False
    preserved: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one boundary.

    Attributes:
        cfa: the CFA rule; None where the CFA cannot be found.
        registers: (DWARF number, rule), ascending; the return address included.
        doubts: hardware numbers of registers whose caller's value is not known to be lost nor
            known to be anywhere; they are written as undefined.
    """

    cfa: CfaRule | None
    registers: tuple[tuple[int, Rule], ...]
    doubts: tuple[int, ...] = ()


def sleb128(number: int) -> bytes:
    """Encode a signed LEB128 number (DWARF 5, section 7.6)."""
    out = bytearray()
    while True:
        byte = number & 0x7F
        number >>= 7
        if (number == 0 and not byte & 0x40) or (number == -1 and byte & 0x40):
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def uleb128(number: int) -> bytes:
    """Encode an unsigned LEB128 number (DWARF 5, section 7.6)."""
    out = bytearray()
    while True:
        byte = number & 0x7F
        number >>= 7
        if not number:
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


class RuleChooser:
    """Chooses rules for the states of one machine.

    Args:
        machine: the machine.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._word = machine.word_bytes
        self._frame = address(CFA_REGION, -2 * self._word)
        self._known: dict[tuple[State, Style], Rules] = {}

    def style_of(self, states: list[State | None], preserved: tuple[int, ...] = ()) -> Style:
        """Return how a function uses its frame.

        Args:
            states: its states in order of address.
            preserved: see :class:`Style`; nothing in the code tells.
        """
        stands = False
        previous: State | None = None
        for state in states:
            if state is not None and previous is not None and state is not previous:
                stands = stands or (
                    state.registers[BP] is self._frame
                    and previous.registers[BP] is not self._frame
                    and previous.registers[SP] is self._frame
                )
            previous = state
        return Style(stands, preserved)

    def rules(self, state: State, style: Style = Style()) -> Rules:
        """Return the rules that describe a state."""
        if len(self._known) > 1 << 16:
            self._known.clear()
        key = (state, style)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._choose(state, style)
        return found

    def _choose(self, state: State, style: Style) -> Rules:
        cfa = self._cfa(state, style)
        if cfa is None:
            return Rules(None, ())
        registers: dict[int, Rule] = {}
        doubts = []
        general = [register for register in style.preserved if register != FLAGS]
        for register in (*self.machine.callee_saved, *general, IP):
            rule = self._register(state, register)
            if rule is None:
                continue
            if rule is UNDEFINED and self._is_doubtful(state, register):
                doubts.append(register)
            registers[self.machine.hardware_to_dwarf[register]] = rule
        if self._on_signal_frame(state):
            self._interrupted(state, style, registers)
        return Rules(cfa, tuple(sorted(registers.items())), tuple(doubts))

    # -- the CFA -----------------------------------------------------------------------------

    def _cfa(self, state: State, style: Style) -> CfaRule | None:
        held = state.registers
        if style.frame_pointer and held[BP] is self._frame:
            return self._from(BP, self._frame)
        pointer = held[SP]
        if isinstance(pointer, Address) and pointer.region is CFA_REGION:
            return self._from(SP, pointer)
        frame = held[BP]
        if isinstance(frame, Address) and frame.region is CFA_REGION:
            return self._from(BP, frame)
        for base in (BP, *self.machine.callee_saved):
            code = self._reach(state, base, CFA)
            if code is not None:
                return CfaExpression(code + bytes([_DW_OP_DEREF]))
        for register, value in enumerate(held):
            if isinstance(value, Address) and value.region is CFA_REGION:
                return self._from(register, value)
        code = self._reach(state, SP, CFA)
        return None if code is None else CfaExpression(code + bytes([_DW_OP_DEREF]))

    def _from(self, register: int, value: Address) -> CfaRule:
        return CfaRegister(self.machine.hardware_to_dwarf[register], -value.offset_bytes)

    def _reach(self, state: State, base: int, wanted: Value) -> bytes | None:
        """Return an expression for the address of a slot that ``base`` reaches."""
        value = state.registers[base]
        if not isinstance(value, Address):
            return None
        pointer = state.registers[SP]
        lowest: int | None = None
        if isinstance(pointer, Address) and pointer.region is value.region:
            # Below the stack pointer a signal handler may overwrite it.
            lowest = pointer.offset_bytes - self.machine.red_zone_bytes
        best: int | None = None
        for (region, offset), held in state.placed():
            if held is not wanted or region is not value.region:
                continue
            if lowest is not None and offset < lowest:
                continue
            distance = offset - value.offset_bytes
            if best is None or distance > best:
                best = distance
        if best is None:
            return None
        number = self.machine.hardware_to_dwarf[base]
        return bytes([_DW_OP_BREG0 + number]) + sleb128(best)

    # -- registers ---------------------------------------------------------------------------

    def _register(self, state: State, register: int) -> Rule | None:
        """Return a register's rule; None where it holds the caller's value and says nothing."""
        wanted = entry(register)
        slot = self._slot(state, wanted)
        if slot is not None:
            return Offset(slot)
        held = register < 16 and state.registers[register] is wanted
        bases = [BP, *self.machine.callee_saved]
        if not held:
            bases.append(SP)
        for base in bases:
            place = state.registers[base]
            if isinstance(place, Address) and place.region is CFA_REGION:
                continue  # such a slot has an offset from the CFA, unless it is released
            code = self._reach(state, base, wanted)
            if code is not None:
                return Expression(code)
        if held:
            return None
        for number, value in enumerate(state.registers):
            if value is wanted:
                return RegisterRule(self.machine.hardware_to_dwarf[number])
        return UNDEFINED

    def _slot(self, state: State, wanted: Value) -> int | None:
        """Return the distance from the CFA of the slot that holds a value; the first one saved."""
        lowest: int | None = None
        pointer = state.registers[SP]
        if isinstance(pointer, Address) and pointer.region is CFA_REGION:
            # A register that was popped is still in its slot while that lies within the red
            # zone; compilers go on saying so.
            lowest = pointer.offset_bytes - self.machine.red_zone_bytes
        found = [
            offset
            for (region, offset), value in state.placed()
            if value is wanted and region is CFA_REGION and (lowest is None or offset >= lowest)
        ]
        return max(found, default=None)

    def _is_doubtful(self, state: State, register: int) -> bool:
        if register < 16 and state.registers[register] is UNKNOWN:
            return True
        return any(value is UNKNOWN for value in state.slots.values())

    # -- signal frames -----------------------------------------------------------------------

    def _on_signal_frame(self, state: State) -> bool:
        pointer = state.registers[SP]
        return isinstance(pointer, Address) and pointer.region.name == "signal frame"

    def _interrupted(self, state: State, style: Style, registers: dict[int, Rule]) -> None:
        """A signal interrupts anywhere: every register is the caller's, in the signal frame."""
        numbers = dict(self.machine.hardware_to_dwarf)
        if FLAGS in style.preserved:
            numbers[FLAGS] = self.machine.dwarf_flags
        for register in range(18):
            number = numbers.get(register)
            if number is None or register == SP:
                continue
            code = self._reach(state, SP, entry(register))
            if code is not None:
                registers[number] = Expression(code)
