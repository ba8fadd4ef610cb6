"""The events of a batch: what changes a state, and where control goes to or arrives."""

from __future__ import annotations

from itertools import repeat
from typing import Final

import numpy as np
from iced_x86 import FlowControl, Instruction, Mnemonic

from fullframe.track.bulk.numbered import NO_TOKEN, SETTLES, Array
from fullframe.track.bulk.work import Edges, Events, Work
from fullframe.track.effects import Effect
from fullframe.track.streams import (
    CALL,
    CALL_INSIDE,
    EFFECT,
    INVALID,
    JUMP,
    JUMP_BACK,
    JUMP_OUT,
    NOTHING,
    RETURNS,
)

_ENDS: Final = np.zeros(16, bool)
_ENDS[[JUMP, RETURNS, JUMP_BACK, JUMP_OUT]] = True


def events_of(work: Work) -> Events:
    """Find the events; ranges with what is too rare are left to others.

    Args:
        work: the batch; what is found of its ranges on the way is noted in it.
    """
    _leave_out_what_is_odd(work)
    events = _find_events(work)
    _end_where_calls_do_not_return(work, events)
    _find_dead(work, events)
    return events


def _leave_out_what_is_odd(work: Work) -> None:
    batch = work.batch
    odd = (batch.kinds == CALL_INSIDE) | (batch.kinds == INVALID)
    work.fail(batch.owners[np.flatnonzero(odd)])
    rows = batch.index_at[work.labels.places]
    known = rows >= 0
    if not known.all():
        owners = np.searchsorted(batch.offsets, work.labels.places[~known], "right") - 1
        work.fail(owners)
        rows = rows[known]
    work.row_indices = rows


def _find_events(work: Work) -> Events:
    batch = work.batch
    ends_flow = _ENDS.take(batch.kinds)
    tokens = np.full(batch.count, NO_TOKEN, np.int32)
    tokens[batch.effect_indices] = batch.effect_numbers
    control = (batch.kinds != NOTHING) & (batch.kinds != EFFECT)
    np.putmask(tokens, control, SETTLES | NO_TOKEN)
    _add_calls(work, tokens)
    leaders = np.zeros(batch.count + 1, bool)
    leaders[batch.index_at[batch.jump_places]] = True
    _add_flows(work, tokens, ends_flow, leaders)
    _add_pads(work, leaders)
    leaders = leaders[:-1]
    chosen = (batch.kinds != NOTHING) | leaders
    chosen[work.row_indices] = True
    chosen &= np.repeat(work.good, batch.counts)
    indices = np.flatnonzero(chosen)
    starts = batch.starts[indices]
    owners = batch.owners[indices]
    rows = np.searchsorted(work.labels.places, starts, "right") - 1
    is_last = np.ones(len(indices), bool)
    is_last[:-1] = owners[1:] != owners[:-1]
    return Events(
        indices,
        batch.kinds[indices],
        owners,
        starts,
        starts + batch.lengths[indices],
        work.labels.labels[rows],
        leaders[indices],
        tokens[indices],
        ends_flow[indices],
        is_last,
        np.zeros(len(indices), bool),
    )


def _add_calls(work: Work, tokens: Array) -> None:
    batch, classifier = work.batch, work.numbered.classifier
    calls = np.flatnonzero(batch.kinds == CALL)
    tokens[calls] = work.numbered.token(classifier.call)
    if classifier.space.machine.bits == 64:
        return
    targets, inverse = np.unique(batch.targets[calls], return_inverse=True)
    clobbered = [work.client.call_clobbers(target) for target in targets.tolist()]
    if any(clobbered):
        found = [
            work.numbered.token(classifier.call_that_clobbers(registers))
            if registers
            else work.numbered.token(classifier.call)
            for registers in clobbered
        ]
        tokens[calls] = np.array(found, np.int32)[inverse]


def _add_flows(work: Work, tokens: Array, ends_flow: Array, leaders: Array) -> None:
    """Sort the rarer transfers of control; what is rarer still is left out."""
    batch = work.batch
    for index, instruction in batch.flows.items():
        number = int(batch.owners[index])
        if not work.good[number]:
            continue
        sort = _sort(work, instruction)
        if sort is None:
            work.good[number] = False
        elif isinstance(sort, Effect):
            tokens[index] = work.numbered.token(sort)
        else:
            ends_flow[index] = True
            if instruction.flow_control == FlowControl.INDIRECT_BRANCH:
                _add_table(work, number, index, instruction)
    _lead_to_table_entries(work, leaders)


def _sort(work: Work, instruction: Instruction) -> Effect | bool | None:
    """Return the effect where control goes on, True where it does not, None if neither."""
    classifier = work.numbered.classifier
    flow, mnemonic = instruction.flow_control, instruction.mnemonic
    if flow == FlowControl.INDIRECT_CALL:
        return classifier.call
    if flow in (FlowControl.RETURN, FlowControl.EXCEPTION, FlowControl.INDIRECT_BRANCH):
        return True
    if mnemonic in (Mnemonic.SYSCALL, Mnemonic.SYSENTER, Mnemonic.INT):
        return classifier.system_call_by(mnemonic)
    return True if mnemonic in (Mnemonic.HLT, Mnemonic.INT3) else None


def _add_pads(work: Work, leaders: Array) -> None:
    """Find where exceptions land."""
    batch = work.batch
    sites = []
    for number in np.flatnonzero(work.good & work.client.has_call_sites).tolist():
        begin, code = batch.ranges[number]
        base = int(batch.offsets[number]) - begin
        for first, last, pad in work.client.call_sites(number):
            place = pad + base
            inside = begin <= pad < begin + len(code)
            if not inside or batch.index_at[place] < 0:
                work.good[number] = False
                break
            first, last = max(first, begin), min(last, begin + len(code))
            if first < last:
                sites.append((first + base, last + base, place))
    if not sites:
        return
    begins, ends, places = np.array(sites, np.int64).T
    calls = batch.kinds == CALL
    more = [
        index
        for index, instruction in batch.flows.items()
        if instruction.flow_control == FlowControl.INDIRECT_CALL
    ]
    calls[more] = True
    indices = np.flatnonzero(calls)
    starts = batch.starts[indices]
    site = np.searchsorted(begins, starts, "right") - 1
    covered = (site >= 0) & (starts < ends[site])
    pads = batch.index_at[places[site[covered]]]
    work.pads = (indices[covered], pads)
    leaders[pads] = True


def _add_table(work: Work, number: int, index: int, instruction: Instruction) -> None:
    batch, places = work.batch, work.labels.places
    row = np.searchsorted(places, batch.starts[index], "right") - 1
    first = np.searchsorted(places, batch.offsets[number])
    label, first_label = int(work.labels.labels[row]), int(work.labels.labels[first])
    if work.client.seems_tail_call(number, instruction.ip, label, first_label):
        work.tail_jumps.append(index)
        return
    targets = work.client.table_targets(number, instruction.ip)
    begin, code = batch.ranges[number]
    end, base = begin + len(code), int(batch.offsets[number]) - begin
    for target in targets or ():
        if begin <= target < end:
            work.table_jumps.append((index, target + base))
        else:
            work.table_exits.append((index, target))


def _lead_to_table_entries(work: Work, leaders: Array) -> None:
    """Mark where tables lead within their ranges; what is no instruction's start is left out."""
    if not work.table_jumps:
        return
    jumps, places = np.array(work.table_jumps, np.int64).T
    targets = work.batch.index_at[places]
    known = targets >= 0
    work.fail(work.batch.owners[jumps[~known]])
    jumps, targets = jumps[known], targets[known]
    leaders[targets] = True
    work.table_edges = (jumps, targets)


def _end_where_calls_do_not_return(work: Work, events: Events) -> None:
    """Find calls that do not return: a row of another kind, or nothing, is behind them.

    What only fills space there, or a new row, draws the suspicion; the label behind tells.
    """
    batch = work.batch
    limits = batch.offsets[events.owners] + batch.sizes[events.owners]
    calls = np.flatnonzero((events.kinds == CALL) & (events.ends < limits))
    data = np.frombuffer(batch.blob + b"\0\0", np.uint8)
    behind = events.ends[calls]
    one, two = data[behind], data[behind + 1]
    fills = (one == 0x90) | (one == 0xCC) | (one == 0x2E) | (one == 0x8D)
    fills |= (one == 0x0F) & ((two == 0x1F) | (two == 0x0B))
    fills |= (one == 0x66) & ((two == 0x90) | (two == 0x0F) | (two == 0x2E) | (two == 0x66))
    fills |= (one == 0) & (two == 0)
    is_row = np.zeros(len(batch.blob) + 1, bool)
    is_row[work.labels.places] = True
    chosen = fills | is_row[behind]
    suspects, places = calls[chosen], behind[chosen].tolist()
    ends = limits[suspects].tolist()
    skip, blob = work.fillers.skip, batch.blob
    after = np.array(list(map(skip, repeat(blob), places, ends)), np.int64)
    if not len(after):
        return
    rows = np.searchsorted(work.labels.places, after, "right") - 1
    labels = work.labels.labels[rows]
    nothing = after >= limits[suspects]
    other = ~nothing & (labels != events.labels[suspects])
    events.ends_flow[suspects[nothing | other]] = True
    work.denied = list(zip(suspects[other].tolist(), labels[other].tolist(), strict=True))


def _find_dead(work: Work, events: Events) -> None:
    """Find where no control arrives; anything but filler there is more than we follow."""
    batch, total = work.batch, len(events.indices)
    if not total:
        return
    arrival = _last(events.leaders | events.is_first)
    ended = _last(events.ends_flow)
    events.dead[1:] = ended[:-1] >= arrival[1:]
    live_ends = np.flatnonzero(events.ends_flow & ~events.dead)
    arrivals = np.append(np.flatnonzero(~events.dead), total)
    following = arrivals[np.searchsorted(arrivals, live_ends, "right")]
    limits = batch.offsets[events.owners[live_ends]] + batch.sizes[events.owners[live_ends]]
    starts = np.append(events.starts, len(batch.blob))[following]
    ends = np.minimum(starts, limits)
    gaps = np.flatnonzero(ends > events.ends[live_ends])
    count, blob = work.fillers.count, batch.blob
    owners = events.owners[live_ends[gaps]]
    pieces = map(slice, events.ends[live_ends[gaps]].tolist(), ends[gaps].tolist())
    counts = [count(blob[piece]) for piece in pieces]
    filler = np.array([-1 if number is None else number for number in counts], np.int64)
    work.fail(owners[filler < 0])
    np.add.at(work.filler_counts, owners, filler)


def _last(chosen: Array) -> Array:
    """Return, at each place, the last one up to there that is chosen; -1 before the first."""
    places = np.flatnonzero(chosen)
    found = np.full(len(chosen), -1, np.int64)
    found[places] = places
    last: Array = np.maximum.accumulate(found)
    return last


def find_edges(work: Work, events: Events) -> Edges:
    """Return the jumps within ranges, and the ways of exceptions.

    Args:
        work: the batch.
        events: some of its events; what leads from or to others is left out.
    """
    batch = work.batch
    if not len(events.indices):
        return Edges(events.indices, events.indices, events.indices != events.indices)
    event_of = np.full(batch.count + 1, -1, np.int64)
    event_of[events.indices] = np.arange(len(events.indices))
    sources = event_of[batch.jumps]
    targets = event_of[batch.index_at[batch.jump_places]]
    jumps, entries = work.table_edges
    calls, pads = work.pads
    sources = np.concatenate((sources, event_of[jumps], event_of[calls]))
    targets = np.concatenate((targets, event_of[entries], event_of[pads]))
    unwinds = np.arange(len(sources)) >= len(sources) - len(calls)
    # -1 stands for what is no event; as an index it does no harm, since it is left out.
    kept = np.flatnonzero((sources >= 0) & (targets >= 0) & ~events.dead[sources])
    return Edges(sources[kept], targets[kept], unwinds[kept])
