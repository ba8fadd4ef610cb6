"""Following a range of code: the state at every instruction boundary.

A worklist of leaders, the lowest address first; states are joined where control meets. Straight
code between leaders is followed once for each state that arrives. What cannot be followed is left
unreached, and the client may seed it with a premise of its own; what is reached only from a
premise is *assumed*.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Protocol

from fullframe.track.classify import Classifier
from fullframe.track.effects import Effect
from fullframe.track.listing import (
    BRANCH,
    CALL,
    CALL_INSIDE,
    EFFECT,
    INDIRECT,
    JUMP,
    Listing,
)
from fullframe.track.state import State, TooComplexError
from fullframe.track.values import CFA_REGION, Entry
from fullframe.x86.registers import SP


class Surroundings(Protocol):
    """What a client knows of the code around a range."""

    def call_effect(
        self, listing: Listing, index: int, target: int | None, state: State
    ) -> Effect | None:
        """Return what the call at ``index`` does in ``state``, or None if it does not return."""

    def jump_targets(self, listing: Listing, index: int, state: State) -> list[int] | None:
        """Return the offsets that the indirect jump at ``index`` goes to.

        An empty list says that it leaves the function (a tail call); None that it cannot be seen.
        """

    def entered_by_call(self, listing: Listing, offset: int) -> bool:
        """Return whether a call to ``offset`` within the range enters a function of its own."""

    def landing_pads(
        self, listing: Listing, index: int, state: State
    ) -> tuple[tuple[int, int], ...]:
        """Return the landing pads of the call at ``index``.

        Each is (offset, bytes of arguments that an unwinder takes off the stack on the way).
        """


@dataclass(slots=True)
class Flow:
    """What following a range has shown so far.

    Attributes:
        listing: the range.
        arriving: leader index to the state that arrives there.
        pieces: leader index to ([(index, state from there on)], index after the last).
        exits: (address outside the range, state, index of the jump).
        blind: index of each indirect jump whose targets cannot be seen to the state there.
        assumed: leader indices that only premises reach.
        contradicted: (index of a jump, target index, state) where what follows from a premise
            arrives at a place already followed.
        inner_entries: indices that calls within the range enter as functions of their own.
        entered: indices that are known to be entered as functions: their states stay those of
            an entry, whatever else leads there.
        crossings: (index of a jump or of what falls through, index of one of ``entered``) to
            the state that arrives there and is not that of an entry.
        pending: leaders to be followed; the lowest first, so that paths meet before they go on.
        work: a heap of them, some perhaps no longer pending.
        settled: leaders that a premise does not change.
        assuming: what is being followed started from a premise.
        falls_through: asked, where given, whether control goes on behind a conditional jump.
    """

    listing: Listing
    arriving: dict[int, State] = field(default_factory=dict)
    pieces: dict[int, tuple[list[tuple[int, State]], int]] = field(default_factory=dict)
    exits: dict[tuple[int, int], State] = field(default_factory=dict)
    blind: dict[int, State] = field(default_factory=dict)
    assumed: set[int] = field(default_factory=set)
    contradicted: list[tuple[int, int, State]] = field(default_factory=list)
    inner_entries: set[int] = field(default_factory=set)
    entered: set[int] = field(default_factory=set)
    crossings: dict[tuple[int, int], State] = field(default_factory=dict)
    pending: set[int] = field(default_factory=set)
    work: list[int] = field(default_factory=list)
    settled: frozenset[int] = frozenset()
    assuming: bool = False
    falls_through: Callable[[Listing, int, State], bool] | None = None

    def is_reached(self, index: int) -> bool:
        """Return whether control has arrived at an instruction so far."""
        if index in self.pieces:
            return True
        leaders = self.listing.leaders
        position = bisect_left(leaders, index) - 1
        piece = self.pieces.get(leaders[position]) if position >= 0 else None
        return piece is not None and index < piece[1]


class Follower:
    """Follows ranges of one machine.

    Args:
        classifier: effects and state space.
        surroundings: what is known of calls and jump tables.
    """

    def __init__(self, classifier: Classifier, surroundings: Surroundings) -> None:
        self.classifier = classifier
        self.space = classifier.space
        self.surroundings = surroundings

    def start(self, listing: Listing) -> Flow:
        """Begin with a range."""
        return Flow(listing)

    def enter(self, flow: Flow, offsets: Iterable[int]) -> None:
        """Have places within a range be functions' entries, before anything is followed.

        Args:
            flow: of the range.
            offsets: from the range's begin.
        """
        entry = self.space.function_entry()
        for offset in offsets:
            index = flow.listing.index_of(offset)
            if index is not None:
                flow.entered.add(index)
                self._arrive(flow, -1, index, entry)

    def follow(
        self, flow: Flow, seeds: Iterable[tuple[int, State]], *, assumed: bool = False
    ) -> None:
        """Follow a range from some seeds until nothing changes.

        Args:
            flow: what is known so far; extended in place.
            seeds: (offset from the range's begin, state there).
            assumed: the seeds are premises; places already followed without them keep
                their states, and the disagreement, if any, goes to ``flow.contradicted``.
        """
        listing = flow.listing
        flow.assuming = assumed
        if not assumed:
            flow.settled = frozenset()
        elif not flow.assumed:  # the first premise; whatever more they reach is assumed
            flow.settled = frozenset(flow.arriving)
        for offset, state in seeds:
            index = listing.index_of(offset)
            if index is not None:
                self._arrive(flow, -1, index, state)
        # Joins only lose knowledge, so this ends; the bound is for hostile code.
        budget = 64 * len(listing.starts) + 4096
        work, pending = flow.work, flow.pending
        while work and budget:
            budget -= 1
            index = heappop(work)
            if index in pending:
                pending.discard(index)
                self._sweep(flow, index)
        if pending and not budget:
            raise TooComplexError("following the code does not come to an end")
        work.clear()

    def _arrive(self, flow: Flow, source: int, target: int, state: State) -> None:
        current = flow.arriving.get(target)
        if current is state:
            return
        if current is None:
            flow.arriving[target] = state
            if flow.assuming:
                flow.assumed.add(target)
            if flow.listing.add_leader(target):
                self._cut(flow, target)
        else:
            if target in flow.entered:
                if self._is_like(current, state):
                    if target in flow.settled:
                        return  # a function is entered once more
                elif target not in flow.settled:
                    flow.crossings[source, target] = state
                    return
            if target in flow.settled:
                flow.contradicted.append((source, target, state))
                return
            joined = self.space.join(current, state)
            if joined is current:
                return
            flow.arriving[target] = joined
        flow.pending.add(target)
        heappush(flow.work, target)

    def _is_like(self, entered: State, state: State) -> bool:
        """Return whether a state has the frame that a function is entered with."""
        machine = self.space.machine
        returned = (CFA_REGION, -machine.word_bytes)
        return entered.slots.get(returned) is state.slots.get(returned) and all(
            entered.registers[register] is state.registers[register]
            for register in (SP, *machine.callee_saved)
        )

    def _cut(self, flow: Flow, index: int) -> None:
        """A leader came to light within a piece: follow the piece again, up to the leader."""
        leaders = flow.listing.leaders
        position = bisect_left(leaders, index) - 1
        # Pieces end at leaders, so that only the one before can reach across.
        if position >= 0 and leaders[position] in flow.pieces:
            leader = leaders[position]
            if index < flow.pieces[leader][1]:
                flow.pending.add(leader)
                heappush(flow.work, leader)

    def _sweep(self, flow: Flow, leader: int) -> None:
        """Follow control from a leader, on through the leaders it falls into, to where it ends."""
        listing = flow.listing
        events, leaders, arriving = listing.events, listing.leaders, flow.arriving
        space = self.space
        state = arriving[leader]
        changes = [(leader, state)]
        position = bisect_left(events, (leader,))
        total = len(events)
        end = len(listing.starts)
        next_leader = self._leader_after(leaders, leader, end)
        while True:
            index = events[position][0] if position < total else end
            if index >= next_leader:
                if next_leader >= end:
                    flow.pieces[leader] = (changes, end)
                    return
                flow.pieces[leader] = (changes, next_leader)
                leader = next_leader
                known = arriving.get(leader)
                if known is not state:
                    self._arrive(flow, leader - 1, leader, state)
                elif leader not in flow.pending:
                    return  # already followed from here in this state
                if leader not in flow.pending:
                    return
                flow.pending.discard(leader)
                state = arriving[leader]
                changes = [(leader, state)]
                next_leader = self._leader_after(leaders, leader, end)
                continue
            _, kind, payload = events[position]
            position += 1
            if kind == EFFECT:
                after: State | None = state.following.get(payload)
                if after is None:
                    after = payload.after(space, state)
            elif kind == BRANCH:
                after = self._branch(flow, index, payload, state)
            elif kind in (CALL, CALL_INSIDE):
                after = self._call(flow, index, kind, payload, state)
                if next_leader != index + 1:
                    next_leader = self._leader_after(leaders, leader, end)
                if next_leader <= index:
                    # An exception lands behind us, where no leader was: the piece ends there.
                    flow.pending.add(leader)
                    heappush(flow.work, leader)
                    return
            else:
                self._leave(flow, index, kind, payload, state)
                after = None
            if after is None:
                flow.pieces[leader] = (changes, index + 1)
                return
            if after is not state:
                if flow.entered and isinstance(after.registers[SP], Entry):
                    # What is called to go on with a stack that it is given, as where an error
                    # lands, goes on in the frame of that stack, which is not its own.
                    flow.pieces[leader] = (changes, index + 1)
                    return
                state = after
                changes.append((index + 1, state))

    @staticmethod
    def _leader_after(leaders: list[int], leader: int, end: int) -> int:
        position = bisect_right(leaders, leader)
        return leaders[position] if position < len(leaders) else end

    def _branch(self, flow: Flow, index: int, offset: int, state: State) -> State | None:
        """Follow a conditional jump; return the state where it is not taken, if it may not be."""
        after = self._taken(flow, index, offset, state)
        if flow.falls_through is not None and not flow.falls_through(flow.listing, index, after):
            return None
        return after

    def _taken(self, flow: Flow, index: int, offset: int, state: State) -> State:
        target = flow.listing.targets.get(offset)
        if flow.listing.equalities and index in flow.listing.equalities:
            taken, one, other = flow.listing.equalities[index]
            refined = self.classifier.equal_registers(one, other).after(self.space, state)
            self._go(flow, index, offset, refined if taken else state)
            return state if taken else refined
        if target is None:
            self._go(flow, index, offset, state)
        elif flow.arriving.get(target) is not state:
            self._arrive(flow, index, target, state)
        return state

    def _leave(self, flow: Flow, index: int, kind: int, payload: Any, state: State) -> None:
        """Follow what ends a piece: a jump, an indirect jump, or a stop."""
        if kind == JUMP:
            self._go(flow, index, payload, state)
        elif kind == INDIRECT:
            offsets = self.surroundings.jump_targets(flow.listing, index, state)
            if offsets is None:
                flow.blind[index] = state
                return
            flow.blind.pop(index, None)
            for offset in offsets:
                self._go(flow, index, offset, state)

    def _go(self, flow: Flow, source: int, offset: int, state: State) -> None:
        listing = flow.listing
        if 0 <= offset < listing.end - listing.begin:
            index = listing.index_of(offset)
            if index is not None:
                self._arrive(flow, source, index, state)
        elif not flow.assuming:  # a premise is not for others to build on
            key = (listing.begin + offset, source)
            known = flow.exits.get(key)
            flow.exits[key] = state if known is None else self.space.join(known, state)

    @staticmethod
    def _takes_back(listing: Listing, index: int) -> bool:
        """Return whether an instruction takes the word on top of the stack off it."""
        position = bisect_left(listing.events, (index,))
        if position == len(listing.events):
            return False
        at, kind, payload = listing.events[position]
        return at == index and kind == EFFECT and payload.key[0] in ("pop", "popa")

    def _call(self, flow: Flow, index: int, kind: int, payload: Any, state: State) -> State | None:
        """Follow a call; return the state after it, or None where it does not return."""
        listing, space = flow.listing, self.space
        if kind == CALL_INSIDE:
            offset: int = payload
            target = listing.index_of(offset)
            pushed = self.classifier.call_inside.after(space, state)
            if target == index + 1 and self._takes_back(listing, target):
                return pushed  # the old way to read the program counter
            known = None if target is None else flow.arriving.get(target)
            if known is not None and self._is_like(space.function_entry(), known):
                pass  # what else leads there enters a function, and so does the call
            elif self.surroundings.entered_by_call(listing, offset):
                if target is not None and target not in flow.inner_entries:
                    flow.inner_entries.add(target)
                    self._go(flow, index, offset, space.function_entry())
            elif target == index + 1:
                return pushed
            else:
                self._go(flow, index, offset, pushed)
            address: int | None = listing.begin + offset
        else:
            address = payload
        pads = self.surroundings.landing_pads(listing, index, state)
        if pads:
            for pad, popped_bytes in pads:
                landed = self.classifier.call_that_pops(popped_bytes).after(space, state)
                self._go(flow, index, pad, landed)
        effect = self.surroundings.call_effect(listing, index, address, state)
        return None if effect is None else effect.after(space, state)
