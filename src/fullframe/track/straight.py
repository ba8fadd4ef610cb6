"""Following a function in passes over it, in the order of its addresses.

Nearly all compiled functions need one pass: forward branches leave their state for when the pass
arrives at their target, and a backward branch brings the state that the pass had there. If not,
the next pass has what it brought from the start. Where only a backward branch leads, the client
guesses the state, and the branch must bring just that. What comes out is a fixed point of the
flow equations, or nothing. What does not fit (calls within the function, jumps that cannot be
seen) is left to :class:`fullframe.track.flow.Follower`, which follows anything.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

from iced_x86 import FlowControl, Instruction, Mnemonic

from fullframe.track.classify import Classifier
from fullframe.track.passing import Changes, Fillers, Pass, StraightSurroundings
from fullframe.track.state import State
from fullframe.track.streams import (
    BRANCH,
    BRANCH_BACK,
    BRANCH_OUT,
    CALL,
    EFFECT,
    JUMP,
    JUMP_BACK,
    JUMP_OUT,
    LEADER,
    OTHER_FLOW,
    RETURNS,
    Stream,
)

_NEVER: Final = 1 << 70
#: Passes over one function before it is left to the general follower; that costs ten of them.
_MOST_PASSES: Final = 8
#: First bytes of the instructions that fill space.
_NOP_STARTS: Final = frozenset(b"\x0f\x66\x90\x2e\x8d\xcc\x00")


@dataclass(slots=True)
class StraightFlow:
    """A function followed in one pass.

    Attributes:
        changes: where the state changes.
        exits: (target outside the range, address of the jump, state).
        filler_count: instructions where no control arrives; they only fill space.
        fits: backward branches bring nothing that was not known.
    """

    changes: Changes
    exits: list[tuple[int, int, State]]
    filler_count: int
    fits: bool


class StraightFollower:
    """Follows functions of one machine in the coarse space.

    Args:
        classifier: effects and state space.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.space = classifier.space
        self.fillers = Fillers(classifier.space.machine.bits)
        self._clobbering = classifier.space.machine.bits == 32

    def follow(
        self,
        stream: Stream,
        entry: State | None,
        around: StraightSurroundings,
        arrivals: dict[int, State],
    ) -> StraightFlow | None:
        """Follow a function from its first instruction, in a few passes at the most.

        What a backward branch brings that its target did not have is there from the start in
        the next pass.

        Args:
            stream: the function.
            entry: the state at entry; None where nobody enters at the begin.
            around: what is known of jumps and calls.
            arrivals: address to the state that jumps from outside bring there.

        Returns:
            The flow, or None where a few passes are not enough.
        """
        if stream.strays or not stream.are_starts(arrivals):
            return None
        brought = dict(arrivals)
        for _ in range(_MOST_PASSES):
            landings = list(brought)
            heapify(landings)
            run = Pass(
                stream, around, dict(brought), landings, stream.begin, [(stream.begin, entry)]
            )
            if not self._go_over(run, entry):
                return None
            flow = self._finish(run, brought)
            if flow is None or flow.fits:
                return flow
        return None

    def _go_over(self, run: Pass, entry: State | None) -> bool:
        """Go over the function once; return whether it could be followed."""
        classifier, space, around = self.classifier, self.space, run.around
        call, join = classifier.call, space.join
        row_offsets, clobbering = around.row_offsets, self._clobbering
        stream = run.stream
        begin, end, code = stream.begin, stream.end, stream.code
        arriving, landings, add_change = run.arriving, run.landings, run.changes.append
        next_landing = landings[0] if landings else _NEVER
        guessed = run.guessed
        state = entry
        #: The last state that needed no settling.
        calm: State | None = None
        events = zip(stream.kinds, stream.addresses, stream.lengths, stream.payloads, strict=True)
        for kind, here, length, payload in events:
            if here >= next_landing:
                state = self._land(run, here, state)
                next_landing = landings[0] if landings else _NEVER
            if kind >= LEADER:
                incoming = arriving.get(here)
                if incoming is not None and (incoming is not state or guessed):
                    state = self._meet(run, here, state, incoming)
                kind -= LEADER
                if not kind:
                    continue
            if state is None:
                # Fillers may stand in a gap (int3, ud2, lea 0(%esi), %esi); nothing else.
                if self.fillers.is_at(code, here - begin):
                    continue
                state = self._revive(run, here + 1)
                if state is None:
                    return False
            if kind == EFFECT:
                after = state.following.get(payload)
                if after is None:
                    after = payload.after(space, state)
                if after is not state:
                    state = after
                    add_change((here + length, state))
                continue
            if state is not calm:
                calm = state.settled
                if calm is None:
                    calm = space.settle(state)
                if calm is not state:
                    state = calm
                    add_change((here, state))
            if kind <= JUMP:
                if guessed:
                    run.note(payload)
                known = arriving.get(payload)
                if known is None:
                    arriving[payload] = state
                elif known is not state:
                    arriving[payload] = join(known, state)
                if kind == BRANCH:
                    continue
            elif kind == CALL:
                after = None
                if clobbering:
                    clobbered = around.call_clobbers(payload)
                    if clobbered:
                        after = classifier.call_that_clobbers(clobbered).after(space, state)
                if after is None:
                    after = state.following.get(call)
                    if after is None:
                        after = call.after(space, state)
                    if after is not state and not around.holds_while_called(here, after):
                        return False
                if around.has_landing_pads:
                    if not self._unwind(run, here, state, after):
                        return False
                    next_landing = landings[0] if landings else _NEVER
                following = here + length
                offset = following - begin
                if (
                    offset in row_offsets or (following < end and code[offset] in _NOP_STARTS)
                ) and not around.returns(following, after):
                    run.dead_from = following
                    state = None
                    add_change((following, None))
                elif after is not state:
                    state = after
                    add_change((following, state))
                continue
            elif kind == RETURNS:
                pass
            elif kind <= JUMP_BACK:
                run.backward.append((payload, state))
                if guessed:
                    run.confirming.append((payload, run.resting_on))
                if kind == BRANCH_BACK:
                    continue
            elif kind <= JUMP_OUT:
                run.exits.append((payload, here, state))
                if kind == BRANCH_OUT:
                    continue
            elif kind == OTHER_FLOW:
                flow = self._flow(run, here, payload, state)
                if flow is None:
                    return False
                goes_on, after = flow
                next_landing = landings[0] if landings else _NEVER
                if after is not state:
                    state = after
                    add_change((here + length, state))
                if goes_on:
                    continue
            else:  # a call within the function, or no instruction
                return False
            run.dead_from = here + length
            state = None
            add_change((run.dead_from, None))
        if landings:
            state = self._land(run, end, state)
        if state is None and run.dead_from < end:
            self._revive(run, end)
        return True

    def _finish(self, run: Pass, brought: dict[int, State]) -> StraightFlow | None:
        """Make the flow of a pass; ``brought`` is extended by what backward branches bring."""
        if run.guessed and not run.are_guesses_confirmed():
            return None
        filler_count = 0
        for one, other in run.gaps:
            count = self._count_fillers(run.stream, one, other)
            if count is None:
                return None
            filler_count += count
        fits = self._fits(run.changes, run.backward, brought)
        return StraightFlow(run.changes, run.exits, filler_count, fits)

    # -- where paths meet --------------------------------------------------------------------

    def _meet(self, run: Pass, here: int, state: State | None, incoming: State) -> State:
        """Return what holds where control arrives from elsewhere."""
        if state is None and run.dead_from != here:
            state = self._revive(run, here)
        if run.guessed:
            run.rest_at(here, state)
        if state is None:
            run.changes.append((here, incoming))
            return incoming
        if incoming is state:
            return state
        joined = self.space.join(state, incoming)
        if joined is not state:
            run.changes.append((here, joined))
        return joined

    def _land(self, run: Pass, here: int, state: State | None) -> State | None:
        """Meet what arrives, up to an address, at places that the stream marks as no leaders."""
        landings = run.landings
        while landings and landings[0] <= here:
            place = heappop(landings)
            state = self._meet(run, place, state, run.arriving[place])
        return state

    def _revive(self, run: Pass, until: int) -> State | None:
        """Go over addresses where no control has arrived: filler, then perhaps a guessed state."""
        stream, dead_from = run.stream, run.dead_from
        begin = stream.begin
        if self._count_fillers(stream, dead_from, until) is not None:
            run.gaps.append((dead_from, until))
            return None
        lead = self.fillers.skip(stream.code, dead_from - begin, len(stream.code)) + begin
        state = run.around.guess(lead, run.changes) if lead < until else None
        run.gaps.append((dead_from, until if state is None else lead))
        if state is not None:
            if not run.guessed:
                run.real = set(run.arriving)
            run.changes.append((lead, state))
            run.guessed.append(lead)
            run.resting_on = frozenset((lead,))
        return state

    # -- transfers of control ----------------------------------------------------------------

    def _unwind(self, run: Pass, here: int, state: State, after: State) -> bool:
        """Bring a call's exception to its landing pad; return whether that can be followed."""
        pad = run.around.landing_pad_at(here)
        if pad is None:
            return True
        target, popped_bytes = pad
        if popped_bytes:
            after = self.classifier.call_that_pops(popped_bytes).after(self.space, state)
        return self._arrive(run, target, here, after)

    def _arrive(self, run: Pass, target: int, here: int, state: State) -> bool:
        """Bring a state to a place that the stream may mark as no leader."""
        if not run.stream.are_starts((target,)):
            return False
        if target <= here:
            run.backward.append((target, state))
            if run.guessed:
                run.confirming.append((target, run.resting_on))
            return True
        if run.guessed:
            run.note(target)
        known = run.arriving.get(target)
        run.arriving[target] = state if known is None else self.space.join(known, state)
        if known is None:
            heappush(run.landings, target)
        return True

    def _flow(
        self, run: Pass, here: int, instruction: Instruction, state: State
    ) -> tuple[bool, State] | None:
        """Follow the rarer kinds; return (whether control goes on, the state after), or None."""
        flow, mnemonic = instruction.flow_control, instruction.mnemonic
        if flow in (FlowControl.RETURN, FlowControl.EXCEPTION):
            return False, state
        if flow == FlowControl.INDIRECT_CALL:
            after = self.classifier.call.after(self.space, state)
            if after is not state and not run.around.holds_while_called(here, after):
                return None
            if run.around.has_landing_pads and not self._unwind(run, here, state, after):
                return None
            return True, after
        if flow == FlowControl.INDIRECT_BRANCH:
            targets = run.around.jump_targets_at(here, state, run.stream)
            if targets is None or not self._go(run, here, targets, state):
                return None
            return False, state
        if mnemonic in (Mnemonic.SYSCALL, Mnemonic.SYSENTER, Mnemonic.INT):
            return True, self.classifier.system_call_by(mnemonic).after(self.space, state)
        if mnemonic in (Mnemonic.HLT, Mnemonic.INT3):
            return False, state
        if flow == FlowControl.CONDITIONAL_BRANCH or mnemonic == Mnemonic.XBEGIN:
            target = instruction.near_branch_target
            if not target or not self._go(run, here, [target], state):
                return None
            return True, state
        return None

    def _go(self, run: Pass, here: int, targets: list[int], state: State) -> bool:
        """Go to some places; return whether all of them can be followed."""
        begin, end = run.stream.begin, run.stream.end
        for target in targets:
            if not begin <= target < end:
                run.exits.append((target, here, state))
            elif not self._arrive(run, target, here, state):
                return False
        return True

    def _fits(
        self, changes: Changes, backward: list[tuple[int, State]], brought: dict[int, State]
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

    def _count_fillers(self, stream: Stream, begin: int, end: int) -> int | None:
        """Count the instructions of a gap; None where they do more than fill space."""
        return self.fillers.count(stream.code[begin - stream.begin : end - stream.begin])


__all__ = ["Changes", "StraightFlow", "StraightFollower", "StraightSurroundings"]
