"""Confirming guesses: each pair of a state and what happens to it is asked for once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from fullframe.track.bulk.guess import Guess
from fullframe.track.bulk.numbered import NO_TOKEN, TOKEN_BITS, Array
from fullframe.track.bulk.work import Edges, Events, Work
from fullframe.track.memo import UNKNOWN_ANSWER, Memo

#: Rounds of finding out what control reaches.
_MOST_ROUNDS: Final = 64


def confirm_guess(work: Work, events: Events, guessed: Guess, edges: Edges) -> None:
    """What is guessed holds at the begin, and all that happens leads from it to it.

    Args:
        work: the batch.
        events: its events.
        guessed: the state before each.
        edges: between them.
    """
    live = ~events.dead & (guessed.pre >= 0)
    work.fail(events.owners[_wrong_effects(work, events, guessed, live)])
    work.fail(events.owners[_wrong_edges(work, events, guessed, edges)])


def _wrong(keys: Array, memo: Memo, holds: Callable[[int], bool]) -> Array:
    """Ask once for each different key; return the indices of those that do not hold."""
    keys = keys.astype(np.uint64)
    asked = np.flatnonzero(memo.answers(keys) == UNKNOWN_ANSWER)
    if not len(asked):
        return asked
    found, inverse = np.unique(keys[asked], return_inverse=True)
    right = np.array(list(map(holds, found.tolist())), bool)
    memo.remember(found[right], np.ones(int(right.sum()), np.int32))
    wrong: Array = asked[~right[inverse]]
    return wrong


def _wrong_effects(work: Work, events: Events, guessed: Guess, live: Array) -> Array:
    """Return the events outside of the spans at which a state changes."""
    within = np.zeros(len(guessed.pre) + 1, np.int32)
    if guessed.spans:
        begins, ends = np.array(guessed.spans, np.int64).reshape(-1, 2).T
        within[begins] += 1
        within[ends] -= 1
    outside = np.flatnonzero(live & (np.cumsum(within[:-1]) == 0) & (events.tokens != NO_TOKEN))
    tokens = events.tokens[outside].astype(np.int64)
    keys = guessed.pre[outside].astype(np.int64) << TOKEN_BITS | tokens
    wrong: Array = outside[_wrong(keys, work.numbered.kept, work.numbered.keeps)]
    return wrong


def _wrong_edges(work: Work, events: Events, guessed: Guess, edges: Edges) -> Array:
    """Return the events to which not all that is guessed there is brought."""
    sources, targets, unwinds = edges.sources, edges.targets, edges.unwinds
    lost = (guessed.pre[sources] < 0) | (guessed.pre[targets] < 0)
    if lost.any():
        work.fail(events.owners[targets[lost]])
        sources, targets, unwinds = sources[~lost], targets[~lost], unwinds[~lost]
    _confirm_reached(work, events, sources, targets)
    one, other = guessed.pre[sources].astype(np.int64), guessed.pre[targets].astype(np.int64)
    ways = np.flatnonzero(unwinds)
    one[ways] = _after(work, one[ways], events.tokens[sources[ways]])
    if guessed.falls:
        states, guesses, places = np.array(guessed.falls, np.int64).reshape(-1, 3).T
        one, other = np.concatenate((one, states)), np.concatenate((other, guesses))
        targets = np.concatenate((targets, places))
    differ = np.flatnonzero(one != other)
    keys = one[differ] << 32 | other[differ]
    wrong: Array = targets[differ[_wrong(keys, work.numbered.implied, work.numbered.implies)]]
    return wrong


def _after(work: Work, states: Array, tokens: Array) -> Array:
    """Return the numbers of what tokens make of states."""
    keys, inverse = np.unique(states << TOKEN_BITS | tokens, return_inverse=True)
    return np.array(list(map(work.numbered.steps.__getitem__, keys.tolist())), np.int64)[inverse]


def _confirm_reached(work: Work, events: Events, sources: Array, targets: Array) -> None:
    """Control must come from the function's begin, not from what only leads to itself."""
    first = events.is_first
    begins = np.flatnonzero((events.leaders | first) & ~events.dead)
    # What is reached from above, all the way, is reached; elsewhere has to be looked.
    above = np.maximum(begins - 1, 0)
    falls_in = ~first[begins] & ~events.dead[above] & ~events.ends_flow[above]
    from_above = np.zeros(len(events.indices), bool)
    from_above[targets[sources < targets]] = True
    unclear = ~first[begins] & ~falls_in & ~from_above[begins]
    if not unclear.any():
        return
    chosen = np.zeros(len(work.good), bool)
    chosen[events.owners[begins[unclear]]] = True
    kept = chosen[events.owners[begins]]
    begins, falls_in = begins[kept], falls_in[kept]
    kept = chosen[events.owners[sources]]
    sources, targets = (
        np.searchsorted(begins, places[kept], "right") - 1 for places in (sources, targets)
    )
    order = np.arange(len(begins))
    run_begins = np.maximum.accumulate(np.where(falls_in, -1, order))
    reached = first[begins]
    for _ in range(_MOST_ROUNDS):
        before = int(reached.sum())
        reached[targets[reached[sources]]] = True
        last = np.maximum.accumulate(np.where(reached, order, -1))
        reached |= last >= run_begins
        if int(reached.sum()) == before:
            break
    work.fail(events.owners[begins[~reached]])


def confirm_labels(work: Work, events: Events, pre: Array, post: Array) -> None:
    """What is claimed holds at every instruction, those between two events included.

    What is claimed at a call holds behind it as well, since that is what is looked up while the
    callee runs.

    Args:
        work: the batch.
        events: all of its events.
        pre: number of the state before each.
        post: number of the state after each, where control goes on.
    """
    live = ~events.dead & (pre >= 0)
    limits = work.batch.offsets[events.owners] + work.batch.sizes[events.owners]
    following = limits.copy()
    inner = np.flatnonzero(~events.is_last)
    following[inner] = events.starts[inner + 1]
    between = np.flatnonzero(live & ~events.ends_flow & (following > events.ends))
    # Calls elsewhere leave the state as it is.
    usual = work.numbered.token(work.numbered.classifier.call)
    calls = np.flatnonzero(live & (events.tokens == usual) & (events.ends_flow | (post != pre)))
    left = _after(work, pre[calls].astype(np.int64), events.tokens[calls])
    before = np.flatnonzero(live)
    places = np.concatenate((before, between, calls))
    states = np.concatenate((pre[before], post[between], left)).astype(np.int64)
    keys = states << 32 | events.labels[places]
    owners = events.owners[places]
    different = np.ones(len(keys), bool)
    different[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
    asked = np.flatnonzero(different)
    numbered, client = work.numbered.states, work.client

    def holds(key: int) -> bool:
        return client.holds(numbered[key >> 32], key & 0xFFFFFFFF)

    work.fail(owners[asked[_wrong(keys[asked], work.numbered.held, holds)]])


def confirm_tail_jumps(work: Work, events: Events, pre: Array) -> None:
    """Where an indirect jump is taken for a tail call, the state is as at entry.

    From another state it may lead through a table that was not looked for.

    Args:
        work: the batch.
        events: its events.
        pre: number of the state before each.
    """
    jumps = np.array(work.tail_jumps, np.int64)
    places = np.searchsorted(events.indices, jumps)
    for event, index in zip(places.tolist(), jumps.tolist(), strict=True):
        if event == len(events.indices) or events.indices[event] != index:
            continue  # of a function that is left out
        state = int(pre[event])
        if state >= 0 and not work.client.is_like_entry(work.numbered.states[state]):
            work.good[int(events.owners[event])] = False


def confirm_denials(work: Work, events: Events, pre: Array) -> None:
    """Behind a call that is taken not to return nothing may hold that would if it did.

    Args:
        work: the batch.
        events: all of its events.
        pre: number of the state before each.
    """
    for event, label in work.denied:
        owner = int(events.owners[event])
        if not work.good[owner] or pre[event] < 0:
            continue
        after = work.numbered.after(int(pre[event]), int(events.tokens[event]))
        if work.client.holds(after, label):
            work.good[owner] = False
