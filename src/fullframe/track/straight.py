"""Following a function in passes over it, in the order of its addresses.

Nearly all compiled functions need one pass: forward branches leave their state for when the pass
arrives at their target, and a backward branch brings the state that the pass had there. If not,
the next pass has what it brought from the start. Where only a backward branch leads, the client
guesses the state, and the branch must bring just that. What comes out is a fixed point of the
flow equations, or nothing. Decoding, classifying and following are one loop, because this loop is
the tracker's speed. What does not fit (calls within the function, jumps that cannot be seen) is
left to :class:`fullframe.track.flow.Follower`, which follows anything.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final, Protocol

from iced_x86 import Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic

from fullframe.track.classify import (
    CONDITIONAL_BRANCH,
    DIRECT_CALL,
    DISMISSED,
    FLOW,
    NEAR_JUMP,
    RETURN,
    UNSEEN,
    WRITES_OPERAND_0,
    Classifier,
)
from fullframe.track.listing import is_filler
from fullframe.track.state import State

_NEVER: Final = 1 << 70
#: Passes over one function before it is left to the general follower.
_MOST_PASSES: Final = 5
#: First bytes of the instructions that fill space.
_NOP_STARTS: Final = frozenset(b"\x0f\x66\x90\x2e\x8d\xcc\x00")


class StraightSurroundings(Protocol):
    """What a client knows of the code around a function."""

    #: Whether calls have landing pads to look up.
    has_landing_pads: bool
    #: Addresses where what is claimed changes.
    row_addresses: frozenset[int]

    def jump_targets_at(self, address: int, state: State, starts: list[int]) -> list[int] | None:
        """Return the addresses an indirect jump goes to; [] for a tail call, None unknown.

        ``starts`` are the addresses of the instructions up to the jump.
        """

    def landing_pad_at(self, address: int) -> tuple[int, int] | None:
        """Return (landing pad, bytes of arguments popped on the way) of the call at an address."""

    def guess(self, address: int, changes: list[tuple[int, State | None]]) -> State | None:
        """Return the state that may hold where no control has arrived yet, or None."""

    def returns(self, following: int, state: State) -> bool:
        """Return whether a call comes back to ``following`` in ``state``, by what is said there."""

    def call_clobbers(self, target: int) -> tuple[int, ...]:
        """Return callee-saved registers that the callee changes all the same."""


@dataclass(slots=True)
class StraightFlow:
    """A function followed in one pass.

    Attributes:
        starts: addresses of the instructions.
        changes: (address, state from there on); None where no control arrives.
        exits: (target outside the range, address of the jump, state).
        gaps: (begin, end) of the addresses where no control arrives, all filler.
        fits: backward branches bring nothing that was not known.
    """

    starts: list[int]
    changes: list[tuple[int, State | None]]
    exits: list[tuple[int, int, State]]
    gaps: list[tuple[int, int]]
    fits: bool


class StraightFollower:
    """Follows functions of one machine in the coarse space.

    Args:
        classifier: effects and state space.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.space = classifier.space
        self._fillers: set[bytes] = set()
        self._clobbering = classifier.space.machine.bits == 32

    def follow(
        self,
        code: bytes,
        begin: int,
        entry: State | None,
        around: StraightSurroundings,
        arrivals: dict[int, State],
    ) -> StraightFlow | None:
        """Follow a function from its first instruction, in a few passes at the most.

        What a backward branch brings that its target did not have is there from the start in
        the next pass.

        Args:
            code: its bytes.
            begin: their address.
            entry: the state at entry; None where nobody enters at ``begin``.
            around: what is known of jumps and calls.
            arrivals: address to the state that jumps from outside bring there.

        Returns:
            The flow, or None where a few passes are not enough.
        """
        brought = dict(arrivals)
        for _ in range(_MOST_PASSES):
            flow = self._pass(code, begin, entry, around, brought)
            if flow is None or flow.fits:
                return flow
        return None

    def _pass(
        self,
        code: bytes,
        begin: int,
        entry: State | None,
        around: StraightSurroundings,
        brought: dict[int, State],
    ) -> StraightFlow | None:
        """Go over the function once; ``brought`` is extended by what backward branches bring."""
        classifier, space = self.classifier, self.space
        relevance = classifier.relevance
        tracked_register = classifier.tracked_register
        tracked_base = classifier.tracked_base
        by_encoding = classifier.by_encoding
        call, join = classifier.call, space.join
        row_addresses = around.row_addresses
        end = begin + len(code)
        starts: list[int] = []
        add_start = starts.append
        changes: list[tuple[int, State | None]] = [(begin, entry)]
        exits: list[tuple[int, int, State]] = []
        gaps: list[tuple[int, int]] = []
        backward: list[tuple[int, State]] = []
        guessed: list[int] = []
        arriving = dict(brought)
        pending = sorted(brought)
        next_leader = pending[0] if pending else _NEVER
        dead_from = begin
        state = entry
        targets: tuple[int, ...]
        for instruction in Decoder(space.machine.bits, code, DecoderOptions.NONE, begin):
            add_start(instruction.ip)
            level = relevance[instruction.code]
            if level == DISMISSED:
                continue
            if level == WRITES_OPERAND_0:
                register = instruction.op0_register
                if not tracked_register[register] and (
                    register or not tracked_base[instruction.memory_base]
                ):
                    continue
            here = starts[-1]
            while next_leader <= here:
                heappop(pending)
                incoming = arriving[next_leader]
                if state is None and dead_from != next_leader:
                    state = self._revive(
                        code, begin, dead_from, next_leader, around, changes, gaps, guessed
                    )
                if state is None:
                    state = incoming
                    changes.append((next_leader, state))
                elif incoming is not state:
                    joined = join(state, incoming)
                    if joined is not state:
                        state = joined
                        changes.append((next_leader, state))
                next_leader = pending[0] if pending else _NEVER
            if level == UNSEEN:
                if instruction.is_invalid:
                    return None
                level = classifier.look_at_code(instruction)
                if level == DISMISSED:
                    continue
                if level == WRITES_OPERAND_0:
                    register = instruction.op0_register
                    if not tracked_register[register] and (
                        register or not tracked_base[instruction.memory_base]
                    ):
                        continue
            if state is None:
                # Fillers that end a path (int3, ud2) may stand in a gap; nothing else.
                if level == FLOW and self._is_filler_at(code, here - begin):
                    continue
                state = self._revive(
                    code, begin, dead_from, starts[-1] + 1, around, changes, gaps, guessed
                )
                if state is None:
                    return None
            if level >= FLOW:
                settled = state.settled
                if settled is None:
                    settled = space.settle(state)
                if settled is not state:
                    state = settled
                    changes.append((here, state))
            if level == CONDITIONAL_BRANCH:
                target = instruction.near_branch_target
                if here < target < end:
                    known = arriving.get(target)
                    if known is None:
                        arriving[target] = state
                        heappush(pending, target)
                        if target < next_leader:
                            next_leader = target
                    elif known is not state:
                        arriving[target] = join(known, state)
                elif begin <= target <= here:
                    backward.append((target, state))
                else:
                    exits.append((target, here, state))
                continue
            if level == RETURN:
                dead_from = instruction.next_ip
                state = None
                changes.append((dead_from, None))
                continue
            if level == NEAR_JUMP:
                targets = (instruction.near_branch_target,)
                leaving = True
            elif level == DIRECT_CALL:
                target = instruction.near_branch_target
                if begin < target < end:
                    return None
                after = self._after_call(state, target, around) if self._clobbering else None
                if after is None:
                    after = state.following.get(call)
                    if after is None:
                        after = call.after(space, state)
                if around.has_landing_pads:
                    pad = around.landing_pad_at(here)
                    if pad is not None:
                        landed = after
                        if pad[1]:
                            landed = classifier.call_that_pops(pad[1]).after(space, state)
                        if not self._arrive(
                            pad[0], here, landed, arriving, pending, backward, begin
                        ):
                            return None
                        if pending and pending[0] < next_leader:
                            next_leader = pending[0]
                following = instruction.next_ip
                if (
                    following in row_addresses
                    or (following < end and code[following - begin] in _NOP_STARTS)
                ) and not around.returns(following, after):
                    dead_from = following
                    state = None
                    changes.append((following, None))
                elif after is not state:
                    state = after
                    changes.append((following, state))
                continue
            elif level == FLOW:
                flow = self._flow(instruction, starts, state, around)
                if flow is None:
                    return None
                targets, leaving, after = flow
                if after is not state:
                    state = after
                    changes.append((instruction.next_ip, state))
            else:
                following = instruction.next_ip
                encoding = code[here - begin : following - begin]
                try:
                    effect = by_encoding[encoding]
                except KeyError:
                    effect = classifier.effect_of(instruction, encoding)
                if effect is not None:
                    after = state.following.get(effect)
                    if after is None:
                        after = effect.after(space, state)
                    if after is not state:
                        state = after
                        changes.append((following, state))
                continue
            for target in targets:
                if here < target < end:
                    known = arriving.get(target)
                    if known is None:
                        arriving[target] = state
                        heappush(pending, target)
                        if target < next_leader:
                            next_leader = target
                    elif known is not state:
                        arriving[target] = join(known, state)
                elif begin <= target <= here:
                    backward.append((target, state))
                else:
                    exits.append((target, here, state))
            if leaving:
                dead_from = instruction.next_ip
                state = None
                changes.append((dead_from, None))
        while pending:
            next_leader = heappop(pending)
            incoming = arriving[next_leader]
            if state is None and dead_from != next_leader:
                state = self._revive(
                    code, begin, dead_from, next_leader, around, changes, gaps, guessed
                )
            if state is None:
                state = incoming
                changes.append((next_leader, state))
            elif incoming is not state:
                state = join(state, incoming)
                changes.append((next_leader, state))
        if state is None and dead_from < end:
            self._revive(code, begin, dead_from, end, around, changes, gaps, guessed)
        if guessed and not {target for target, _ in backward}.issuperset(guessed):
            return None
        if not self._lands(starts, arriving, backward):
            return None
        if not all(self._is_filler(code[one - begin : other - begin]) for one, other in gaps):
            return None
        fits = self._fits(changes, backward, brought)
        return StraightFlow(starts, changes, exits, gaps, fits)

    def _revive(
        self,
        code: bytes,
        begin: int,
        dead_from: int,
        until: int,
        around: StraightSurroundings,
        changes: list[tuple[int, State | None]],
        gaps: list[tuple[int, int]],
        guessed: list[int],
    ) -> State | None:
        """Go over addresses where no control has arrived: filler, then perhaps a guessed state."""
        gap = code[dead_from - begin : until - begin]
        if self._is_filler(gap):
            gaps.append((dead_from, until))
            return None
        lead = self._skip_fillers(code, dead_from - begin) + begin
        state = around.guess(lead, changes) if lead < until else None
        gaps.append((dead_from, until if state is None else lead))
        if state is not None:
            changes.append((lead, state))
            guessed.append(lead)
        return state

    def _after_call(self, state: State, target: int, around: StraightSurroundings) -> State | None:
        clobbered = around.call_clobbers(target)
        if not clobbered:
            return None
        return self.classifier.call_that_clobbers(clobbered).after(self.space, state)

    def _arrive(
        self,
        target: int,
        here: int,
        state: State,
        arriving: dict[int, State],
        pending: list[int],
        backward: list[tuple[int, State]],
        begin: int,
    ) -> bool:
        if target < begin:
            return False
        if target <= here:
            backward.append((target, state))
            return True
        known = arriving.get(target)
        if known is None:
            arriving[target] = state
            heappush(pending, target)
        elif known is not state:
            arriving[target] = self.space.join(known, state)
        return True

    def _flow(
        self,
        instruction: Instruction,
        starts: list[int],
        state: State,
        around: StraightSurroundings,
    ) -> tuple[tuple[int, ...], bool, State] | None:
        """Return (targets, whether control does not go on, state after) of the rarer kinds."""
        flow = instruction.flow_control
        if flow in (FlowControl.RETURN, FlowControl.EXCEPTION):
            return (), True, state
        if flow == FlowControl.INDIRECT_CALL:
            if around.has_landing_pads:
                return None if around.landing_pad_at(starts[-1]) else self._called(state)
            return self._called(state)
        if flow == FlowControl.INDIRECT_BRANCH:
            targets = around.jump_targets_at(starts[-1], state, starts)
            return None if targets is None else (tuple(targets), True, state)
        if flow == FlowControl.CALL and instruction.mnemonic in (
            Mnemonic.SYSCALL,
            Mnemonic.SYSENTER,
        ):
            effect = self.classifier.system_call_by(instruction.mnemonic)
            return (), False, effect.after(self.space, state)
        if instruction.mnemonic == Mnemonic.INT:
            return (), False, self.classifier.system_call.after(self.space, state)
        if instruction.mnemonic in (Mnemonic.HLT, Mnemonic.INT3):
            return (), True, state
        if flow == FlowControl.CONDITIONAL_BRANCH or instruction.mnemonic == Mnemonic.XBEGIN:
            target = instruction.near_branch_target
            return ((target,), False, state) if target else None
        return None

    def _called(self, state: State) -> tuple[tuple[int, ...], bool, State]:
        return (), False, self.classifier.call.after(self.space, state)

    @staticmethod
    def _lands(
        starts: list[int], arriving: dict[int, State], backward: list[tuple[int, State]]
    ) -> bool:
        """Return whether every target is the start of an instruction."""
        count = len(starts)
        for target in (*arriving, *[target for target, _ in backward]):
            position = bisect_left(starts, target)
            if position == count or starts[position] != target:
                return False
        return True

    def _fits(
        self,
        changes: list[tuple[int, State | None]],
        backward: list[tuple[int, State]],
        brought: dict[int, State],
    ) -> bool:
        """Return whether backward branches bring nothing new; what they bring is remembered."""
        if not backward:
            return True
        join = self.space.join
        fits = True
        places = [place for place, _ in changes]
        for target, state in backward:
            held = changes[bisect_right(places, target) - 1][1]
            if held is state:
                continue
            if held is not None and join(held, state) is held:
                continue
            known = brought.get(target)
            brought[target] = state if known is None else join(known, state)
            fits = False
        return fits

    def _is_filler_at(self, code: bytes, offset: int) -> bool:
        return is_filler(self.space.machine.bits, code[offset : offset + 15])

    def _skip_fillers(self, code: bytes, offset: int) -> int:
        bits = self.space.machine.bits
        while offset < len(code) and self._is_filler_at(code, offset):
            offset += Decoder(bits, code[offset : offset + 15]).decode().len
        return offset

    def _is_filler(self, gap: bytes) -> bool:
        if gap in self._fillers:
            return True
        offset = 0
        bits = self.space.machine.bits
        while offset < len(gap):
            piece = gap[offset : offset + 15]
            if not is_filler(bits, piece):
                return False
            instruction = Decoder(bits, piece).decode()
            offset += instruction.len
        if len(gap) <= 64:
            self._fillers.add(gap)
        return offset == len(gap)
