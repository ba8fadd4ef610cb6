"""Following a range of code: the state at every instruction boundary.

A worklist of leaders; states are joined where control meets. Straight code between leaders is
followed once for each state that arrives. What cannot be followed is left unreached, and the
client may seed it with a premise of its own; what is reached only from a premise is *assumed*.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from fullframe.track.classify import Classifier
from fullframe.track.effects import Effect
from fullframe.track.listing import (
    BRANCH,
    CALL,
    CALL_INSIDE,
    EFFECT,
    INDIRECT,
    JUMP,
    LEADER,
    Listing,
    add_leaders,
)
from fullframe.track.state import State


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

    def landing_pads(self, listing: Listing, index: int) -> tuple[int, ...]:
        """Return the offsets of the landing pads of the call at ``index``."""


@dataclass(slots=True)
class Flow:
    """What following a range has shown so far.

    Attributes:
        listing: the range.
        arriving: leader index to the state that arrives there.
        pieces: leader index to ([(index, state from there on)], index after the last).
        exits: (address outside the range, state, index of the jump).
        blind: indices of indirect jumps whose targets cannot be seen.
        assumed: leader indices that only premises reach.
        contradicted: (index of a jump, target index, state) where what follows from a premise
            arrives at a place already followed.
        inner_entries: indices that calls within the range enter as functions of their own.
        new_leaders: targets found while a piece is walked; leaders as soon as it ends.
    """

    listing: Listing
    arriving: dict[int, State] = field(default_factory=dict)
    pieces: dict[int, tuple[list[tuple[int, State]], int]] = field(default_factory=dict)
    exits: dict[tuple[int, int], State] = field(default_factory=dict)
    blind: set[int] = field(default_factory=set)
    assumed: set[int] = field(default_factory=set)
    contradicted: list[tuple[int, int, State]] = field(default_factory=list)
    inner_entries: set[int] = field(default_factory=set)
    new_leaders: set[int] = field(default_factory=set)


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
        work: list[int] = []
        settled = frozenset(flow.arriving) - flow.assumed if assumed else frozenset()
        new_leaders = set()
        for offset, state in seeds:
            index = listing.index_of(offset)
            if index is None:
                continue
            new_leaders.add(index)
            self._arrive(flow, work, settled, -1, index, state, assumed)
        add_leaders(listing, new_leaders)
        budget = 64 * len(listing.starts) + 4096
        while work:
            index = work.pop()
            self._run(flow, work, settled, index, assumed)
            budget -= 1
            if budget < 0:  # cannot happen while joins only lose knowledge; hostile code is bounded
                break

    def _arrive(
        self,
        flow: Flow,
        work: list[int],
        settled: frozenset[int],
        source: int,
        target: int,
        state: State,
        assumed: bool,
    ) -> None:
        current = flow.arriving.get(target)
        if current is None:
            flow.arriving[target] = state
            if assumed:
                flow.assumed.add(target)
            work.append(target)
        elif current is not state:
            if target in settled:
                flow.contradicted.append((source, target, state))
                return
            joined = self.space.join(current, state)
            if joined is not current:
                flow.arriving[target] = joined
                work.append(target)

    def _run(
        self, flow: Flow, work: list[int], settled: frozenset[int], leader: int, assumed: bool
    ) -> None:
        listing = flow.listing
        events = listing.events
        state = flow.arriving[leader]
        changes = [(leader, state)]
        space = self.space
        position = bisect_left(events, (leader,))  # type: ignore[arg-type]
        total = len(events)
        stop = len(listing.starts)
        while position < total:
            index, kind, payload = events[position]
            position += 1
            if kind == EFFECT:
                found = state.following.get(payload)  # type: ignore[call-overload]
                after = payload.after(space, state) if found is None else found  # type: ignore[attr-defined]
                if after is not state:
                    state = after
                    changes.append((index + 1, state))
            elif kind == LEADER:
                if index != leader:
                    stop = index
                    self._arrive(flow, work, settled, index - 1, index, state, assumed)
                    break
            elif kind == BRANCH:
                there, here = state, state
                if index in listing.equalities:
                    taken, one, other = listing.equalities[index]
                    refined = self.classifier.equal_registers(one, other).after(space, state)
                    if taken:
                        there = refined
                    else:
                        here = refined
                self._go(flow, work, settled, index, payload, there, assumed)  # type: ignore[arg-type]
                if here is not state:
                    state = here
                    changes.append((index + 1, state))
            elif kind in (CALL, CALL_INSIDE):
                after_call = self._call(flow, work, settled, index, kind, payload, state, assumed)
                if after_call is None:
                    stop = index + 1
                    break
                if after_call is not state:
                    state = after_call
                    changes.append((index + 1, state))
            elif kind == JUMP:
                stop = index + 1
                self._go(flow, work, settled, index, payload, state, assumed)  # type: ignore[arg-type]
                break
            elif kind == INDIRECT:
                stop = index + 1
                offsets = self.surroundings.jump_targets(listing, index, state)
                if offsets is None:
                    flow.blind.add(index)
                else:
                    flow.blind.discard(index)
                    for offset in offsets:
                        self._go(flow, work, settled, index, offset, state, assumed)
                break
            else:
                stop = index + 1
                break
        flow.pieces[leader] = (changes, stop)
        if flow.new_leaders:
            # Only now: while the events were walked, none of them may move.
            for index in flow.new_leaders:
                self._cut(flow, work, index)
            flow.new_leaders.clear()

    def _go(
        self,
        flow: Flow,
        work: list[int],
        settled: frozenset[int],
        source: int,
        offset: int,
        state: State,
        assumed: bool,
    ) -> None:
        listing = flow.listing
        if 0 <= offset < listing.end - listing.begin:
            index = listing.index_of(offset)
            if index is not None:
                self._arrive(flow, work, settled, source, index, state, assumed)
                if index not in flow.pieces:
                    flow.new_leaders.add(index)
        elif not assumed:  # a premise is not for others to build on
            key = (listing.begin + offset, source)
            known = flow.exits.get(key)
            flow.exits[key] = state if known is None else self.space.join(known, state)

    def _cut(self, flow: Flow, work: list[int], index: int) -> None:
        """Make a newly found target a leader, and cut the piece that ran through it."""
        events = flow.listing.events
        position = bisect_left(events, (index,))  # type: ignore[arg-type]
        if (
            position < len(events)
            and events[position][0] == index
            and events[position][1] == LEADER
        ):
            return
        events.insert(position, (index, LEADER, None))
        for leader, (_, stop) in flow.pieces.items():
            if leader < index < stop:
                work.append(leader)

    def _call(
        self,
        flow: Flow,
        work: list[int],
        settled: frozenset[int],
        index: int,
        kind: int,
        payload: object,
        state: State,
        assumed: bool,
    ) -> State | None:
        listing, space = flow.listing, self.space
        if kind == CALL_INSIDE:
            offset: int = payload  # type: ignore[assignment]
            target = listing.index_of(offset)
            pushed = self.classifier.call_inside.after(space, state)
            if self.surroundings.entered_by_call(listing, offset):
                if target is not None and target not in flow.inner_entries:
                    flow.inner_entries.add(target)
                    self._go(flow, work, settled, index, offset, space.function_entry(), assumed)
            elif target == index + 1:  # the old way to read the program counter
                return pushed
            else:
                self._go(flow, work, settled, index, offset, pushed, assumed)
            address: int | None = listing.begin + offset
        else:
            address = payload  # type: ignore[assignment]
        after_call = self.classifier.call.after(space, state)
        for pad in self.surroundings.landing_pads(listing, index):
            self._go(flow, work, settled, index, pad, after_call, assumed)
        effect = self.surroundings.call_effect(listing, index, address, state)
        return None if effect is None else effect.after(space, state)
