"""Following, block by block, the functions of a batch that a guess does not fit.

Where paths with different states meet (an alloca on one of them, a frame pointer that is lent to
other uses on another), what holds is what they have in common. That is found as usual: a block is
followed from what is known at its begin, what comes out is brought to where control goes, until
nothing changes. A block is followed in one look-up, like the spans of a guess.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator
from typing import Final

import numpy as np

from fullframe.track.bulk.guess import DEAD, LOST, Guess
from fullframe.track.bulk.numbered import Array, NumberedStates
from fullframe.track.bulk.work import Edges, Events, Work
from fullframe.track.state import TooComplexError

#: Times that the blocks of one function are gone over.
_MOST_TURNS: Final = 8


#: A way out of a block: (event, counted from its first; number of the block that it leads to,
#: counted from the function's first; whether it is the way of an exception).
_Jump = tuple[int, int, bool]
#: Events that follow each other, where control arrives only at the first: (the first, behind the
#: last, whether control goes on to the next block, the ways out). No NamedTuple: there are many.
_Block = tuple[int, int, bool, list[_Jump]]


def mend(work: Work, events: Events, guessed: Guess, edges: Edges, owners: Array) -> None:
    """Find the states of functions whose guess did not hold.

    Args:
        work: the batch; a function that is mended is good again.
        events: its events.
        guessed: what was guessed; of the functions that are mended, it is what holds.
        edges: between the events.
        owners: numbers of the functions' ranges.
    """
    if not len(owners):
        return
    tokens = events.tokens.tobytes()
    is_mended = np.zeros(len(work.good), bool)
    ends: list[int] = []
    with contextlib.suppress(TooComplexError):
        for owner, blocks in _functions(work, events, edges, owners):
            found = _follow(work.numbered, tokens, blocks)
            if found is None:
                continue
            low, high = np.searchsorted(events.owners, (owner, owner + 1)).tolist()
            states = array("i", (DEAD,)) * (high - low)
            for (begin, stop, _, _), (before, after) in zip(blocks, found, strict=True):
                states[begin - low : stop - low] = before
                ends.append(stop - 1)
                ends.append(after)
            guessed.pre[low:high] = states
            is_mended[owner] = True
    # What was guessed of the same functions is overruled.
    old = np.array(guessed.ends, np.int64).reshape(-1, 2)
    guessed.ends = old[~is_mended[events.owners[old[:, 0]]]].ravel().tolist() + ends
    work.good |= is_mended


def _functions(
    work: Work, events: Events, edges: Edges, owners: Array
) -> Iterator[tuple[int, list[_Block]]]:
    """Yield some functions with their blocks."""
    chosen = np.zeros(len(work.good), bool)
    chosen[owners] = True
    starts = events.leaders | events.is_first | events.dead
    begins = np.flatnonzero(starts & ~events.dead & chosen[events.owners])
    starts = np.append(np.flatnonzero(starts), len(events.indices))
    stops = starts[np.searchsorted(starts, begins, "right")]
    own = events.owners[begins]
    goes_on = ~events.ends_flow[stops - 1] & ~events.is_last[stops - 1]
    sources, targets, unwinds = edges.sources, edges.targets, edges.unwinds
    mine = chosen[events.owners[sources]]
    sources, targets, unwinds = sources[mine], targets[mine], unwinds[mine]
    numbers = np.searchsorted(begins, sources, "right") - 1
    jumps: list[list[_Jump]] = [[] for _ in range(len(begins))]
    for number, place, target, unwind in zip(
        numbers.tolist(),
        (sources - begins[numbers]).tolist(),
        (np.searchsorted(begins, targets) - np.searchsorted(own, own[numbers])).tolist(),
        unwinds.tolist(),
        strict=True,
    ):
        jumps[number].append((place, target, unwind))
    blocks = list(zip(begins.tolist(), stops.tolist(), goes_on.tolist(), jumps, strict=True))
    firsts = np.searchsorted(own, owners).tolist()
    lasts = np.searchsorted(own, owners, "right").tolist()
    for owner, first, last in zip(owners.tolist(), firsts, lasts, strict=True):
        if first < last and events.is_first[blocks[first][0]]:
            yield owner, blocks[first:last]


def _follow(
    numbered: NumberedStates, tokens: bytes, blocks: list[_Block]
) -> list[tuple[array[int], int]] | None:
    """Return the states before each event of each block, and the state after it, by number.

    None where control does not reach a block, or that does not settle.
    """
    total = len(blocks)
    arriving = [LOST] * total
    arriving[0] = numbered.number(numbered.space.function_entry())
    found: list[tuple[array[int], int]] = [(array("i"), LOST)] * total
    waiting = [True] + [False] * (total - 1)
    joins, span, memory = numbered.joins, numbered.span, numbered.spans
    for _ in range(_MOST_TURNS):
        again = False
        for number, (begin, stop, goes_on, jumps) in enumerate(blocks):
            if not waiting[number]:
                continue
            waiting[number] = False
            state, own = arriving[number], tokens[4 * begin : 4 * stop]
            found[number] = before, after = memory.get((state, own)) or span(state, own)
            for place, target, unwinds in jumps:
                brought = before[place]
                if unwinds:
                    brought = numbered.step_by(brought, own, place)
                known = arriving[target]
                if known != brought:
                    if known != LOST:
                        brought = joins[known << 32 | brought]
                        if brought == known:
                            continue
                    arriving[target] = brought
                    waiting[target] = True
                    again = again or target <= number
            if goes_on:
                known = arriving[number + 1]
                if known != after:
                    if known != LOST:
                        after = joins[known << 32 | after]
                        if after == known:
                            continue
                    arriving[number + 1] = after
                    waiting[number + 1] = True
        if not again:
            return None if LOST in arriving else found
    return None
