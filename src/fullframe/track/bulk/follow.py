"""Following a batch: guess, confirm, and say what came out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from fullframe.track.bulk.confirm import (
    confirm_denials,
    confirm_guess,
    confirm_labels,
    confirm_tail_jumps,
)
from fullframe.track.bulk.events import events_of, find_edges
from fullframe.track.bulk.guess import DEAD, guess, posts_of
from fullframe.track.bulk.mend import mend
from fullframe.track.bulk.numbered import Array, NumberedStates
from fullframe.track.bulk.work import BulkClient, Events, Labels, Work
from fullframe.track.classify import Classifier
from fullframe.track.passing import Changes, Fillers
from fullframe.track.state import State
from fullframe.track.streams import BRANCH_OUT, JUMP_OUT, Batch


@dataclass(slots=True)
class BulkFlow:
    """What came out of following a batch.

    Attributes:
        proved: of each range, whether everything fits.
        filler_counts: of each range: instructions where no control arrives, which only fill space.
        states: by number.
    """

    proved: Array
    filler_counts: Array
    states: list[State]
    _batch: Batch
    _events: Events
    _pre: Array
    _post: Array
    _exits: dict[int, list[tuple[int, int, State]]] = field(default_factory=dict)

    def exits(self, number: int) -> list[tuple[int, int, State]]:
        """Return (target outside the range, address of the jump, state) of one range.

        Tail calls are left out.
        """
        return self._exits.get(number, [])

    def with_exits(self) -> Collection[int]:
        """Return the numbers of the ranges that have any."""
        return self._exits.keys()

    def changes(self, number: int) -> Changes:
        """Return (address, state from there on) of one range; None where no control arrives."""
        events, batch = self._events, self._batch
        low, high = np.searchsorted(events.owners, (number, number + 1)).tolist()
        base = batch.ranges[number][0] - int(batch.offsets[number])
        addresses = np.zeros(2 * (high - low), np.int64)
        addresses[::2], addresses[1::2] = events.starts[low:high], events.ends[low:high]
        numbers = np.zeros(len(addresses), np.int64)
        numbers[::2], numbers[1::2] = self._pre[low:high], self._post[low:high]
        numbers[1::2][events.ends_flow[low:high] | (numbers[::2] < 0)] = DEAD
        differs = np.append(True, numbers[1:] != numbers[:-1])
        states = self.states
        return [
            (base + address, None if one < 0 else states[one])
            for address, one in zip(
                addresses[differs].tolist(), numbers[differs].tolist(), strict=True
            )
        ]


class BulkFollower:
    """Follows the functions of batches, in the coarse space of one machine.

    Args:
        classifier: effects and state space.
        fillers: counts what fills space.
    """

    def __init__(self, classifier: Classifier, fillers: Fillers) -> None:
        self._numbered = NumberedStates(classifier)
        self._fillers = fillers

    def follow(self, batch: Batch, labels: Labels, client: BulkClient, eligible: Array) -> BulkFlow:
        """Follow what can be followed so of the ranges of a batch.

        Args:
            batch: the code.
            labels: what is claimed.
            client: knows the functions around it.
            eligible: of each range, whether it is a function entered at its begin, to be followed.

        Returns:
            The flow. Raises TooComplexError where there are more states than honest code has.
        """
        self._numbered.begin(batch)
        good = eligible & ~batch.strays & (batch.counts > 0)
        nothing = np.zeros(len(batch.ranges), np.int64)
        work = Work(self._numbered, batch, labels, client, self._fillers, good, nothing)
        events = events_of(work)
        edges = find_edges(work, events)
        followed = work.good.copy()
        guessed = guess(work, events, edges)
        confirm_guess(work, events, guessed, edges)
        mend(work, events, guessed, edges, np.flatnonzero(followed & ~work.good))
        pre, post = guessed.pre, posts_of(events, guessed)
        confirm_labels(work, events, pre, post)
        confirm_tail_jumps(work, events, pre)
        confirm_denials(work, events, pre)
        states = self._numbered.states
        flow = BulkFlow(work.good, work.filler_counts, states, batch, events, pre, post)
        _find_exits(work, flow, events, pre)
        return flow


def _find_exits(work: Work, flow: BulkFlow, events: Events, pre: Array) -> None:
    """Note what jumps out of the ranges, near and by tables."""
    batch, states = work.batch, work.numbered.states
    out = (events.kinds == JUMP_OUT) | (events.kinds == BRANCH_OUT)
    out &= ~events.dead & (pre >= 0)
    out[out] = ~_are_tail_calls(work, batch.targets[events.indices[out]], pre[out])
    leaving = np.flatnonzero(out)
    numbers = events.owners[leaving]
    for number, target, source, state in zip(
        numbers.tolist(),
        batch.targets[events.indices[leaving]].tolist(),
        (events.starts[leaving] - batch.offsets[numbers]).tolist(),
        pre[leaving].tolist(),
        strict=True,
    ):
        source += batch.ranges[number][0]
        flow._exits.setdefault(number, []).append((target, source, states[state]))
    for index, target in work.table_exits:
        event = int(np.searchsorted(events.indices, index))
        here = event < len(events.indices) and events.indices[event] == index
        if here and not events.dead[event] and pre[event] >= 0:
            source, state = batch.flows[index].ip, states[int(pre[event])]
            flow._exits.setdefault(int(events.owners[event]), []).append((target, source, state))


def _are_tail_calls(work: Work, targets: Array, states: Array) -> Array:
    """Return which jumps enter a function in a state as at entry."""
    found, inverse = np.unique(states, return_inverse=True)
    known = work.numbered.states
    like_entry = [work.client.is_like_entry(known[state]) for state in found.tolist()]
    result: Array = np.array(like_entry, bool)[inverse] & work.client.are_functions(targets)
    return result


def labels_of(parts: Sequence[tuple[int, Sequence[int], Sequence[int]]]) -> Labels:
    """Put the labels of ranges together.

    Args:
        parts: (place of the range, offsets in it where labels begin, the labels), in order.
    """
    bases = np.array([place for place, _, _ in parts], np.int64)
    sizes = [len(offsets) for _, offsets, _ in parts]
    places = np.fromiter(chain.from_iterable(offsets for _, offsets, _ in parts), np.int64)
    labels = np.fromiter(chain.from_iterable(labels for _, _, labels in parts), np.int64)
    return Labels(places + np.repeat(bases, sizes), labels)
