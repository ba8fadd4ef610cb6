"""Jumps from one FDE into another: who hands which states to whom.

Compilers put the unlikely part of a function into an FDE of its own, which starts with the frame
already built. Its states are those of the jumps that lead to it, wherever they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from iced_x86 import ConditionCode, Decoder, FlowControl

from fullframe.cfi.claim_rows import ClaimRows
from fullframe.cfi.claims import Answer, ClaimBook
from fullframe.cfi.entries import holds_at_entry, is_like_entry
from fullframe.cfi.frames import Fde
from fullframe.cfi.image_code import ImageCode
from fullframe.track.state import Slots, State, StateSpace
from fullframe.track.values import (
    CFA_REGION,
    OTHER,
    UNKNOWN,
    VECTOR_REGION,
    Address,
    Entry,
    Value,
    address,
    entry,
)
from fullframe.x86.registers import BP, IP, SP

#: How far behind a bound check the jump through the table is looked for.
_BOUND_CHECK_BYTES = 64

#: Gives an FDE's claims.
RowsOf = Callable[[Fde], ClaimRows]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A state that a jump from another FDE brings.

    Attributes:
        source: begin of the FDE that the jump is in.
        address: where it arrives.
        state: what holds there.
        coarse: the state is of the coarse space, in which ``OTHER`` may stand for anything.
        astray: the jump does not bring what the FDE says, and may never be taken: it leads to a
            label without code, at the end of the function's own cold part, where another
            function's begins; a table may have been read too far.
    """

    source: int
    address: int
    state: State
    coarse: bool
    astray: bool = False


#: Linkers put the cold parts of many functions together, apart from the rest.
_MOST_BETWEEN = 8


class Handover:
    """Arrivals at FDEs, by the FDEs that they come from.

    Args:
        code: the image's FDEs.
        book: judges whether an FDE is a function of its own.
        precise: a state space to judge in.
    """

    def __init__(self, code: ImageCode, book: ClaimBook, precise: StateSpace) -> None:
        self._code = code
        self._book = book
        self._space = precise
        self._arrivals: dict[int, dict[int, list[Arrival]]] = {}
        self._given: dict[int, set[int]] = {}
        #: Straight flows of functions that other FDEs may jump back into.
        self.flows: dict[int, list[tuple[int, State | None]]] = {}

    def at(self, fde: Fde) -> list[Arrival]:
        """Return what arrives at an FDE from others.

        A part of a function belongs to one function. What goes astray counts only where nothing
        else arrives.
        """
        by_source = self._arrivals.get(fde.begin)
        if not by_source:
            return []
        arriving = [arrival for arrivals in by_source.values() for arrival in arrivals]
        return [arrival for arrival in arriving if not arrival.astray] or arriving

    def has_given(self, fde: Fde) -> bool:
        """Return whether an FDE has handed anything over before."""
        return fde.begin in self._given

    def give(
        self,
        source: Fde,
        exits: dict[tuple[int, int], State],
        space: StateSpace,
        rows_of: RowsOf,
    ) -> list[Fde]:
        """Give the states on a function's way out to where they go.

        What an earlier visit handed over is superseded, not joined: it may have been followed
        before the states that lead to it were known.

        Args:
            source: the function.
            exits: (address, address of the jump) to state.
            space: the states' space.
            rows_of: an FDE's claims.

        Returns:
            The FDEs for which that changed something.
        """
        given: dict[int, dict[int, State]] = {}
        receivers: dict[int, Fde] = {}
        strays: dict[int, bool] = {}
        for jump, state in exits.items():
            target = jump[0]
            receiver = self._receiver(source, target, state, rows_of)
            if receiver is None:
                continue
            receivers[receiver.begin] = receiver
            states = given.setdefault(receiver.begin, {})
            known = states.get(target)
            states[target] = state if known is None else space.join(known, state)
            if strays.get(target, True):
                strays[target] = self._goes_astray(source, receiver, jump, state, space, rows_of)
        changed = []
        for begin in self._given.get(source.begin, set()) - set(given):
            del self._arrivals[begin][source.begin]
            receiver = self._code.covering(begin)
            if receiver is not None:
                changed.append(receiver)
        for begin, states in given.items():
            arrivals = [
                Arrival(source.begin, address, state, not space.precise, strays[address])
                for address, state in states.items()
            ]
            kept = self._arrivals.setdefault(begin, {})
            if kept.get(source.begin) != arrivals:
                kept[source.begin] = arrivals
                if not self._nothing_new(begin, arrivals, space):
                    changed.append(receivers[begin])
        if given or source.begin in self._given:
            self._given[source.begin] = set(given)
        return changed

    def _nothing_new(self, begin: int, arrivals: list[Arrival], space: StateSpace) -> bool:
        """Return whether a function already has, where they arrive, what the arrivals bring."""
        changes = self.flows.get(begin)
        if changes is None or space.precise:
            return False
        places = [place for place, _ in changes]
        for arrival in arrivals:
            held = changes[max(0, bisect_right(places, arrival.address) - 1)][1]
            if held is None:
                return False
            if held is not arrival.state and space.join(held, arrival.state) is not held:
                return False
        return True

    def _goes_astray(
        self,
        source: Fde,
        receiver: Fde,
        jump: tuple[int, int],
        state: State,
        space: StateSpace,
        rows_of: RowsOf,
    ) -> bool:
        """Return whether a jump does not bring what the row there says, and need not.

        A switch's bound check may never be taken, and its table may be read too far. What GCC
        knows to be unreachable is a label without code, and where the code before it went into
        a cold part, the label is at the begin of the next function's. Functions that share a
        tail stand beside it: that others bring what its row says does not excuse their jumps.
        """
        target, address = jump
        rows = rows_of(receiver)
        distance = target - receiver.begin
        claim = rows.at(distance)
        if claim is None or claim.reads_ip:
            return False
        precise = self._space
        code = self._code.code_of(source)[address - source.begin :][:_BOUND_CHECK_BYTES]
        bits = precise.machine.bits
        if not is_switch(bits, code) and not (distance == 0 and self._is_apart(source, receiver)):
            return False
        if space is not precise:
            state = made_uncertain(precise, state)
        return self._book.judge(precise, state, claim, target).answer is Answer.WRONG

    def _is_apart(self, one: Fde, other: Fde) -> bool:
        """Return whether two FDEs stand as far apart as a function and a cold part do."""
        if self._code.image.section_at(one.begin) != self._code.image.section_at(other.begin):
            return True
        return abs(self._code.number_of(one) - self._code.number_of(other)) > _MOST_BETWEEN

    def _receiver(self, source: Fde, target: int, state: State, rows_of: RowsOf) -> Fde | None:
        """Return the FDE that a jump out of ``source`` carries its state into."""
        receiver = self._code.covering(target)
        if receiver is None or receiver is source:
            return None
        if self._is_tail_call(receiver, target, state):
            return None
        if target != receiver.begin:
            return receiver
        if is_like_entry(self._space.machine.callee_saved, state):
            return None
        rows = rows_of(receiver)
        if (
            rows
            and not rows[0][1].reads_ip
            and holds_at_entry(self._book, self._space, rows[0][1], target)
        ):
            return None  # a function of its own: jumping there is a tail call
        return receiver

    def _is_tail_call(self, receiver: Fde, target: int, state: State) -> bool:
        """Return whether a jump enters a PLT stub as a call would.

        All stubs share an FDE, and each is followed from the state at entry anyway: nothing is
        gained by handing over, thousands of times, what is known there.
        """
        machine = self._space.machine
        return (
            is_like_entry(machine.callee_saved, state)
            and state.slots.get((CFA_REGION, -machine.word_bytes)) is entry(IP)
            and state.registers[SP] is address(CFA_REGION, -machine.word_bytes)
            and self._code.is_seeded_stub(receiver, target)
        )


def is_switch(bits: int, code: bytes) -> bool:
    """Return whether code begins with the bound check of a ``switch``, or with its jump.

    A bound check is an unsigned conditional branch before an indirect jump, with no other branch
    between. The table may name the label without code too.

    Args:
        bits: of the machine, 64 or 32.
        code: from the branch on.
    """
    for number, instruction in enumerate(Decoder(bits, code)):
        if number == 0 and instruction.flow_control != FlowControl.INDIRECT_BRANCH:
            if instruction.condition_code not in (ConditionCode.A, ConditionCode.AE):
                return False
        elif instruction.flow_control == FlowControl.INDIRECT_BRANCH:
            return True
        elif instruction.flow_control != FlowControl.NEXT:
            return False
    return False


def coarsened(space: StateSpace, state: State) -> State:
    """Return a state in the coarse space, without what that does not keep.

    Args:
        space: the coarse space.
        state: of either space.
    """
    registers: list[Value] = []
    for number, value in enumerate(state.registers):
        keeps = number == SP or (
            (number in space.machine.callee_saved and isinstance(value, Entry))
            or (number == BP and isinstance(value, Address))
        )
        registers.append(value if keeps else OTHER)
    slots: Slots = {
        key: value
        for key, value in state.slots.items()
        if value is not UNKNOWN and key[0] is not VECTOR_REGION
    }
    return space.make(tuple(registers), slots)


def made_uncertain(space: StateSpace, state: State) -> State:
    """Return a coarse state in the precise space: what it does not know is said to be unknown.

    Args:
        space: the precise space.
        state: of the coarse space.
    """
    word = space.machine.word_bytes
    registers = tuple(UNKNOWN if value is OTHER else value for value in state.registers)
    slots = dict(state.slots)
    for offset in range(-64 * word, 0, word):
        slots.setdefault((CFA_REGION, offset), UNKNOWN)
    return space.make(registers, slots)
