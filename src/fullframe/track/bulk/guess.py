"""Guessing the state before each event.

Only where frames are built and taken down is a function followed, and that from a guess: a *span*
goes from an effect that moves the frame to the next transfer of control. Everywhere else nothing is
taken to change.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from fullframe.track.bulk.numbered import SETTLES, Array
from fullframe.track.bulk.work import Edges, Events, Work
from fullframe.track.streams import EFFECT

#: Stand for states: control does not arrive; nothing is guessed.
DEAD = -1
LOST = -2


@dataclass(slots=True)
class Guess:
    """What was guessed of some events.

    Attributes:
        pre: number of the state before each event.
        falls: state from above, what is guessed, event; one after the other.
        spans: event, event behind, of what was followed, not guessed; likewise.
        ends: event, number of the state after it, where that is not what is guessed behind it;
            likewise.
    """

    pre: Array
    falls: list[int] = field(default_factory=list)
    spans: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)


def guess(work: Work, events: Events, edges: Edges) -> Guess:
    """Guess the state before each event."""
    total = len(events.indices)
    first = events.is_first
    after_dead = np.zeros(total, bool)
    after_dead[1:] = events.dead[:-1] | events.ends_flow[:-1]
    changed = np.zeros(total, bool)
    changed[1:] = events.labels[1:] != events.labels[:-1]
    moves = (events.kinds == EFFECT) & ~events.dead
    effects = np.flatnonzero(moves)
    moves[effects] = work.numbered.moves_frame.take(events.tokens[effects])
    arrives = events.leaders & ~events.dead & (after_dead | changed)
    cuts = np.flatnonzero(first | moves | arrives)
    # Where control arrives and nothing moved since the last time, the guess is the same.
    same = (arrives & ~moves & ~first)[cuts[1:]] & ~moves[cuts[:-1]]
    same &= events.labels[cuts[1:]] == events.labels[cuts[:-1]]
    cuts = cuts.compress(np.append(True, ~same)) if total else cuts
    settles = np.append(np.flatnonzero(events.tokens >= SETTLES), total)
    leads = np.append(np.flatnonzero(events.leaders | first), total)
    stops = np.minimum(
        settles[np.searchsorted(settles, cuts)] + 1,
        leads[np.searchsorted(leads, cuts, "right")],
    )
    behind = np.minimum(stops, total - 1)
    comes_out = ~events.ends_flow[stops - 1]
    goes_on = comes_out & ~events.is_last[stops - 1]
    source_of = np.full(total, -1, np.int64)
    source_of[edges.targets[::-1]] = edges.sources[::-1]
    arrives &= ~first
    walk = zip(
        cuts.tolist(),
        stops.tolist(),
        first[cuts].tolist(),
        arrives[cuts].tolist(),
        moves[cuts].tolist(),
        after_dead[cuts].tolist(),
        source_of[cuts].tolist(),
        events.labels[cuts].tolist(),
        events.labels[behind].tolist(),
        events.leaders[behind].tolist(),
        comes_out.tolist(),
        goes_on.tolist(),
        strict=True,
    )
    pre = array("i")
    found = Guess(np.zeros(0, np.int32))
    _walk(work, events, walk, pre, found)
    found.pre = np.frombuffer(pre, np.int32).copy() if total else np.zeros(0, np.int32)
    work.fail(events.owners[np.flatnonzero(found.pre == LOST)])
    np.putmask(found.pre, events.dead, DEAD)
    return found


def _walk(
    work: Work,
    events: Events,
    walk: Iterable[tuple[int, int, bool, bool, bool, bool, int, int, int, bool, bool, bool]],
    pre: array[int],
    found: Guess,
) -> None:
    """Walk over where a state is not what it was before.

    Args:
        work: the batch.
        events: all of them.
        walk: of some events: (the event, where a span from there would end, whether it is the first
            of a range, whether control arrives there, whether a span begins there, whether nothing
            arrives from above, a jump that leads there or -1, the label there; behind the span: the
            label, whether control arrives there, whether it does from above, whether it goes on).
        pre: is filled.
        found: is filled, but for ``pre``.
    """
    follower = work.numbered
    tokens = events.tokens.tobytes()
    entry = follower.number(follower.space.function_entry())
    settled, span, memory = follower.settled, follower.span, follower.spans
    add_falls, add_span, add_end = found.falls.extend, found.spans.append, found.ends.append
    state, position = LOST, 0
    known: dict[int, int] = {}
    for (
        cut, stop, first, arrives, moves, fresh, source, label,
        label_behind, led, comes_out, goes_on,
    ) in walk:  # fmt: skip
        if cut < position:
            continue
        if cut > position:
            pre.extend(array("i", (state,)) * (cut - position))
            position = cut
        if first:
            state, known = entry, {label: entry}
        elif state == LOST:
            continue
        elif arrives:
            held = known.get(label)
            if fresh:
                if held is None:
                    held = pre[source] if 0 <= source < cut else LOST
                state = held
            else:
                add_end(cut - 1)
                add_end(state)
                if held is None:
                    held = settled[state]
                if held != state:
                    add_falls((state, held, cut))
                    state = held
            known[label] = state
        if not moves or state == LOST:
            continue
        following = memory.get((state, tokens[4 * cut : 4 * stop]))
        if following is None:
            following = span(state, tokens[4 * cut : 4 * stop])
        pre.extend(following[0])
        state, position = following[1], stop
        add_span(cut)
        add_span(stop)
        if comes_out:
            add_end(stop - 1)
            add_end(state)
        if not goes_on:
            continue
        if led:
            held = known.get(label_behind)
            if held is None:
                held = settled[state]
            if held != state:
                add_falls((state, held, stop))
                state = held
        known[label_behind] = state
    pre.extend(array("i", (state,)) * (len(events.indices) - position))


def posts_of(events: Events, guessed: Guess) -> Array:
    """Return the number of the state after each event, where control goes on there."""
    post = guessed.pre.copy()
    inner = np.flatnonzero(~events.is_last)
    post[inner] = guessed.pre[inner + 1]
    places, numbers = np.array(guessed.ends, np.int64).reshape(-1, 2).T
    post[places] = numbers
    return post
