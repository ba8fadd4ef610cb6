"""Following many functions together: guess the state everywhere, then confirm all at once.

A proof by induction needs no order: if the states that are written down hold where a function is
entered, and every instruction and every jump leads from what is written down to what is written
down, they hold. So the states are guessed first, which needs a look only at the few instructions
that build and take down frames and at where control arrives from elsewhere, and all is then held
together in numpy, for thousands of instructions at a time: each pair of a state and an instruction
that occur together is asked for once.

Guesses come from labels: the client names, by a number, what it claims of each place, and where
control arrives from elsewhere, the state is taken to be the one that held last where the label was
the same. A wrong guess is never believed; it sends the function to
:class:`fullframe.track.straight.StraightFollower`, as does whatever is rare.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain, repeat
from typing import Any, Final, Protocol

import numpy as np
from iced_x86 import FlowControl, Instruction, Mnemonic

from fullframe.track.classify import Classifier
from fullframe.track.effects import Effect
from fullframe.track.passing import Changes, Fillers
from fullframe.track.state import State
from fullframe.track.streams import (
    CALL,
    CALL_INSIDE,
    EFFECT,
    INVALID,
    JUMP,
    JUMP_BACK,
    JUMP_OUT,
    NOTHING,
    OTHER_FLOW,
    RETURNS,
    Batch,
)

_Array = np.ndarray[Any, Any]

#: A token is what happens to a state at an event: the number of an effect, and whether the state
#: is settled first.
_NO_EFFECT: Final = (1 << 30) - 1
_SETTLES: Final = 1 << 30
#: Bits of a token, where it is part of a longer key.
_TOKEN_BITS: Final = 31

#: Stand for states: control does not arrive; nothing is guessed.
_DEAD: Final = -1
_LOST: Final = -2

#: What is remembered of states together with sequences of effects, at most.
_MOST_SPANS: Final = 1 << 16
#: Rounds of finding out what control reaches.
_MOST_ROUNDS: Final = 64
#: How often guesses are weakened until they fit.
_MOST_ATTEMPTS: Final = 4

_ENDS: Final = np.zeros(16, bool)
_ENDS[[JUMP, RETURNS, JUMP_BACK, JUMP_OUT]] = True


class BulkClient(Protocol):
    """What a client knows of the functions of a batch."""

    #: Of each range, whether it has call sites to look at.
    has_call_sites: _Array

    def call_clobbers(self, target: int) -> tuple[int, ...]:
        """Return callee-saved registers that the callee changes all the same."""

    def table_targets(
        self, number: int, address: int, label: int, first_label: int
    ) -> list[int] | None:
        """Return where an indirect jump leads by a table; None without one that can be seen.

        Args:
            number: of the range.
            address: of the jump.
            label: in force there.
            first_label: at the function's begin; where that is in force, most are tail calls.
        """

    def call_sites(self, number: int) -> Sequence[tuple[int, int, int]]:
        """Return (begin, end, landing pad) of a range's call sites that have one, ascending."""

    def holds(self, state: State, label: int) -> bool:
        """Return whether what a label stands for is proved in a state."""


@dataclass(slots=True)
class Labels:
    """What is claimed, by place.

    Attributes:
        places: where a label begins, ascending; one at the begin of each range.
        labels: the labels there.
    """

    places: _Array
    labels: _Array


@dataclass(slots=True)
class _Events:
    """The instructions of a batch that matter here, as arrays.

    Attributes:
        indices: of the instructions.
        kinds: of each.
        owners: number of the range.
        starts: place of each.
        ends: place behind each.
        labels: in force at each.
        leaders: whether control arrives from elsewhere than from above.
        tokens: what happens to the state.
        ends_flow: control does not go on behind it.
        is_last: last of its range.
        dead: whether no control arrives there.
    """

    indices: _Array
    kinds: _Array
    owners: _Array
    starts: _Array
    ends: _Array
    labels: _Array
    leaders: _Array
    tokens: _Array
    ends_flow: _Array
    is_last: _Array
    dead: _Array

    def of(self, chosen: _Array) -> _Events:
        """Return those for which a mask is set."""
        return _Events(*[getattr(self, field.name)[chosen] for field in fields(self)])

    @property
    def is_first(self) -> _Array:
        """Whether each is the first of its range."""
        first = np.ones(len(self.indices), bool)
        first[1:] = self.is_last[:-1]
        return first


@dataclass(slots=True)
class _Edges:
    """Ways that control takes, but from above.

    Attributes:
        sources: events.
        targets: the events that they lead to.
        unwinds: whether it is the way of an exception out of a call.
    """

    sources: _Array
    targets: _Array
    unwinds: _Array


@dataclass(slots=True)
class _Round:
    """What was guessed of some events.

    Attributes:
        pre: number of the state before each event.
        falls: (state from above, what is guessed, event).
        spans: (event, event behind) of what was followed, not guessed.
        zones: (event, label that the state was guessed by), ascending.
        ends: (event, number of the state after it), where that is not what is guessed behind it.
    """

    pre: _Array
    falls: list[tuple[int, int, int]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    zones: list[tuple[int, int]] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class BulkFlow:
    """What came out of following a batch.

    Attributes:
        proved: of each range, whether everything fits.
        filler_counts: of each range: instructions where no control arrives, which only fill space.
        states: by number.
    """

    proved: _Array
    filler_counts: _Array
    states: list[State]
    _batch: Batch
    _events: _Events
    _pre: _Array
    _post: _Array
    _exits: dict[int, list[tuple[int, int, State]]] = field(default_factory=dict)

    def exits(self, number: int) -> list[tuple[int, int, State]]:
        """Return (target outside the range, address of the jump, state) of one range."""
        return self._exits.get(number, [])

    def changes(self, number: int) -> Changes:
        """Return (address, state from there on) of one range; None where no control arrives."""
        events, batch = self._events, self._batch
        low, high = np.searchsorted(events.owners, (number, number + 1)).tolist()
        base = batch.ranges[number][0] - int(batch.offsets[number])
        addresses = np.zeros(2 * (high - low), np.int64)
        addresses[::2], addresses[1::2] = events.starts[low:high], events.ends[low:high]
        numbers = np.zeros(len(addresses), np.int64)
        numbers[::2], numbers[1::2] = self._pre[low:high], self._post[low:high]
        numbers[1::2][events.ends_flow[low:high] | (numbers[::2] < 0)] = _DEAD
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
        self.classifier = classifier
        self.space = classifier.space
        self.fillers = fillers
        self._generation = -1
        self._forget()

    def _forget(self) -> None:
        self._generation = self.space.generation
        self.states: list[State] = []
        self._numbers: dict[State, int] = {}
        self.spans: dict[tuple[int, bytes], tuple[array[int], int]] = {}
        self._kept: dict[int, bool] = {}
        self._implied: dict[int, bool] = {}
        self.effects: dict[int, Effect] = {}
        #: By an effect's number, whether it moves the frame.
        self.moves_frame = np.zeros(1, bool)

    def follow(
        self, batch: Batch, labels: Labels, client: BulkClient, eligible: _Array
    ) -> BulkFlow:
        """Follow what can be followed so of the ranges of a batch.

        Args:
            batch: the code.
            labels: what is claimed.
            client: knows the functions around it.
            eligible: of each range, whether it is a function entered at its begin, to be followed.

        Returns:
            The flow. Raises TooComplexError where there are more states than honest code has.
        """
        if self._generation != self.space.generation or len(self.spans) > _MOST_SPANS:
            self._forget()
        work = _Work(self, batch, labels, client, eligible)
        return work.flow()

    # -- states by number --------------------------------------------------------------------

    def number(self, state: State) -> int:
        """Return the number of a state."""
        found = self._numbers.get(state)
        if found is None:
            found = self._numbers[state] = len(self.states)
            self.states.append(state)
        return found

    def settled(self, number: int) -> int:
        """Return the number of what a state settles to."""
        return self.number(self.space.settle(self.states[number]))

    def learn(self, batch: Batch) -> None:
        """Take up the effects of a batch."""
        self.effects = batch.effects
        highest = max(batch.effects, default=0)
        if highest >= len(self.moves_frame):
            self.moves_frame = np.zeros(highest + 1, bool)
            moving = [number for number, effect in batch.effects.items() if effect.moves_frame]
            self.moves_frame[moving] = True

    def token(self, effect: Effect | None) -> int:
        """Return what settles a state and then has an effect."""
        if effect is None:
            return _SETTLES | _NO_EFFECT
        self.effects[effect.number] = effect
        return _SETTLES | effect.number

    def span(self, number: int, tokens: bytes) -> tuple[array[int], int]:
        """Run tokens: return the states before each, and the state after the last."""
        found = self.spans.get((number, tokens))
        if found is None:
            before = array("i")
            state = self.states[number]
            for token in np.frombuffer(tokens, np.int32).tolist():
                if token & _SETTLES:
                    state = self.space.settle(state)
                before.append(self.number(state))
                state = self._after(state, token)
            found = self.spans[number, tokens] = (before, self.number(state))
        return found

    def _after(self, state: State, token: int) -> State:
        if token & _SETTLES:
            state = self.space.settle(state)
        effect = token & ~_SETTLES
        return state if effect == _NO_EFFECT else self.effects[effect].after(self.space, state)

    def after(self, number: int, token: int) -> State:
        """Return what a token makes of a state."""
        return self._after(self.states[number], token)

    def joined(self, one: int, other: int) -> int:
        """Return the number of what holds in both of two states."""
        return self.number(self.space.join(self.states[one], self.states[other]))

    def keeps(self, key: int) -> bool:
        """Return whether a token (the low bits of the key) leaves a state as it is."""
        found = self._kept.get(key)
        if found is None:
            number, token = key >> _TOKEN_BITS, key & ((1 << _TOKEN_BITS) - 1)
            state = self.states[number]
            found = self._kept[key] = self._after(state, token) is state
        return found

    def implies(self, key: int) -> bool:
        """Return whether all that the second state (the low bits) tells holds in the first."""
        found = self._implied.get(key)
        if found is None:
            one, other = self.states[key >> 32], self.states[key & 0xFFFFFFFF]
            found = self._implied[key] = self.space.join(other, one) is other
        return found


class _Work:
    """Following one batch."""

    def __init__(
        self,
        follower: BulkFollower,
        batch: Batch,
        labels: Labels,
        client: BulkClient,
        eligible: _Array,
    ) -> None:
        self.follower = follower
        self.batch = batch
        self.labels = labels
        self.client = client
        self.good = eligible & ~batch.strays & (batch.counts > 0)
        self.fillers = np.zeros(len(batch.ranges), np.int64)
        #: Index of an indirect jump to where its table leads, by absolute address.
        self.tables: dict[int, list[int]] = {}
        #: Indices of calls, and of the landing pads of each.
        self.pads = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        #: (event of a call that is taken not to return, the label behind it).
        self.denied: list[tuple[int, int]] = []
        #: (range, label) to what is guessed there since a stronger guess was wrong.
        self.weakened: dict[tuple[int, int], int] = {}

    def flow(self) -> BulkFlow:
        self.follower.learn(self.batch)
        self._leave_out_what_is_odd()
        events = self._find_events()
        self._end_where_calls_do_not_return(events)
        self._find_dead(events)
        pre = np.full(len(events.indices), _LOST, np.int32)
        post = pre.copy()
        chosen = self.good[events.owners]
        for attempt in range(_MOST_ATTEMPTS):
            some = events.of(chosen)
            edges = self._edges(some)
            guessed = self._guess(some, edges)
            pre[chosen], post[chosen] = guessed.pre, self._posts(some, guessed)
            again = self._misfits(some, guessed, edges, last=attempt == _MOST_ATTEMPTS - 1)
            if not again.any():
                break
            chosen = again[events.owners]
        live = ~events.dead & (pre >= 0)
        self._confirm_labels(events, pre, post, live)
        self._confirm_denials(events, pre)
        states = self.follower.states
        flow = BulkFlow(self.good, self.fillers, states, self.batch, events, pre, post)
        self._find_exits(flow, events, pre)
        return flow

    def _fail(self, owners: _Array) -> None:
        self.good[owners] = False

    # -- what matters ------------------------------------------------------------------------

    def _leave_out_what_is_odd(self) -> None:
        batch = self.batch
        odd = (batch.kinds == CALL_INSIDE) | (batch.kinds == INVALID)
        self._fail(batch.owners[odd])
        rows = batch.index_at[self.labels.places]
        known = rows >= 0
        if not known.all():
            owners = np.searchsorted(batch.offsets, self.labels.places[~known], "right") - 1
            self._fail(owners)
        self.row_indices = rows[known]

    def _find_events(self) -> _Events:
        batch = self.batch
        ends_flow = _ENDS[batch.kinds]
        tokens = np.full(batch.count, _NO_EFFECT, np.int32)
        tokens[batch.effect_indices] = batch.effect_numbers
        control = (batch.kinds != NOTHING) & (batch.kinds != EFFECT)
        tokens[control] = _SETTLES | _NO_EFFECT
        self._add_calls(tokens)
        leaders = np.zeros(batch.count + 1, bool)
        leaders[batch.index_at[batch.jump_places]] = True
        self._add_flows(tokens, ends_flow, leaders)
        self._add_pads(leaders)
        leaders = leaders[:-1]
        chosen = (batch.kinds != NOTHING) | leaders
        chosen[self.row_indices] = True
        chosen &= self.good[batch.owners]
        indices = np.flatnonzero(chosen)
        starts = batch.starts[indices]
        owners = batch.owners[indices]
        rows = np.searchsorted(self.labels.places, starts, "right") - 1
        is_last = np.ones(len(indices), bool)
        is_last[:-1] = owners[1:] != owners[:-1]
        return _Events(
            indices,
            batch.kinds[indices],
            owners,
            starts,
            starts + batch.lengths[indices],
            self.labels.labels[rows],
            leaders[indices],
            tokens[indices],
            ends_flow[indices],
            is_last,
            np.zeros(len(indices), bool),
        )

    def _add_calls(self, tokens: _Array) -> None:
        batch, classifier = self.batch, self.follower.classifier
        calls = batch.kinds == CALL
        tokens[calls] = self.follower.token(classifier.call)
        if classifier.space.machine.bits == 64:
            return
        targets, inverse = np.unique(batch.targets[calls], return_inverse=True)
        clobbered = [self.client.call_clobbers(target) for target in targets.tolist()]
        if any(clobbered):
            found = [
                self.follower.token(classifier.call_that_clobbers(registers))
                if registers
                else self.follower.token(classifier.call)
                for registers in clobbered
            ]
            tokens[calls] = np.array(found, np.int32)[inverse]

    def _add_flows(self, tokens: _Array, ends_flow: _Array, leaders: _Array) -> None:
        """Sort the rarer transfers of control; what is rarer still is left out."""
        batch = self.batch
        for index, instruction in batch.flows.items():
            number = int(batch.owners[index])
            if not self.good[number]:
                continue
            sort = self._sort(instruction)
            if sort is None:
                self.good[number] = False
            elif isinstance(sort, Effect):
                tokens[index] = self.follower.token(sort)
            else:
                ends_flow[index] = True
                if instruction.flow_control == FlowControl.INDIRECT_BRANCH:
                    self._add_table(number, index, instruction, leaders)

    def _sort(self, instruction: Instruction) -> Effect | bool | None:
        """Return the effect where control goes on, True where it does not, None if neither."""
        classifier = self.follower.classifier
        flow, mnemonic = instruction.flow_control, instruction.mnemonic
        if flow == FlowControl.INDIRECT_CALL:
            return classifier.call
        if flow in (FlowControl.RETURN, FlowControl.EXCEPTION, FlowControl.INDIRECT_BRANCH):
            return True
        if mnemonic in (Mnemonic.SYSCALL, Mnemonic.SYSENTER, Mnemonic.INT):
            return classifier.system_call_by(mnemonic)
        return True if mnemonic in (Mnemonic.HLT, Mnemonic.INT3) else None

    def _add_pads(self, leaders: _Array) -> None:
        """Find where exceptions land."""
        batch = self.batch
        sites = []
        for number in np.flatnonzero(self.good & self.client.has_call_sites).tolist():
            begin, code = batch.ranges[number]
            base = int(batch.offsets[number]) - begin
            for first, last, pad in self.client.call_sites(number):
                place = pad + base
                inside = begin <= pad < begin + len(code)
                if not inside or batch.index_at[place] < 0:
                    self.good[number] = False
                    break
                limit = begin + len(code)
                if begin <= first < limit:
                    sites.append((first + base, min(last, limit) + base, place))
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
        self.pads = (indices[covered], pads)
        leaders[pads] = True

    def _add_table(
        self, number: int, index: int, instruction: Instruction, leaders: _Array
    ) -> None:
        batch, places = self.batch, self.labels.places
        row = np.searchsorted(places, batch.starts[index], "right") - 1
        first = np.searchsorted(places, batch.offsets[number])
        label, first_label = int(self.labels.labels[row]), int(self.labels.labels[first])
        targets = self.client.table_targets(number, instruction.ip, label, first_label)
        if targets is None:
            return
        self.tables[index] = targets
        begin, code = batch.ranges[number]
        for target in targets:
            if begin <= target < begin + len(code):
                place = target - begin + int(batch.offsets[number])
                if batch.index_at[place] < 0:
                    self.good[number] = False
                else:
                    leaders[batch.index_at[place]] = True

    def _end_where_calls_do_not_return(self, events: _Events) -> None:
        """Find calls that do not return: a row of another kind, or nothing, is behind them.

        What only fills space there, or a new row, draws the suspicion; the label behind tells.
        """
        batch = self.batch
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
        is_row[self.labels.places] = True
        chosen = fills | is_row[behind]
        suspects, places = calls[chosen], behind[chosen].tolist()
        ends = limits[suspects].tolist()
        skip, blob = self.follower.fillers.skip, batch.blob
        after = np.array(list(map(skip, repeat(blob), places, ends)), np.int64)
        if not len(after):
            return
        rows = np.searchsorted(self.labels.places, after, "right") - 1
        labels = self.labels.labels[rows]
        nothing = after >= limits[suspects]
        other = ~nothing & (labels != events.labels[suspects])
        events.ends_flow[suspects[nothing | other]] = True
        self.denied = list(zip(suspects[other].tolist(), labels[other].tolist(), strict=True))

    def _find_dead(self, events: _Events) -> None:
        """Find where no control arrives; anything but filler there is more than we follow."""
        batch, total = self.batch, len(events.indices)
        if not total:
            return
        order = np.arange(total)
        first = events.is_first
        arrival = np.maximum.accumulate(np.where(events.leaders | first, order, -1))
        ended = np.maximum.accumulate(np.where(events.ends_flow, order, -1))
        before = np.concatenate(([-1], ended[:-1]))
        events.dead = before >= arrival
        live_ends = np.flatnonzero(events.ends_flow & ~events.dead)
        arrivals = np.append(np.flatnonzero(~events.dead), total)
        following = arrivals[np.searchsorted(arrivals, live_ends, "right")]
        limits = batch.offsets[events.owners[live_ends]] + batch.sizes[events.owners[live_ends]]
        starts = np.append(events.starts, len(batch.blob))[following]
        ends = np.minimum(starts, limits)
        gaps = np.flatnonzero(ends > events.ends[live_ends])
        count, blob = self.follower.fillers.count, batch.blob
        owners = events.owners[live_ends[gaps]]
        pieces = map(slice, events.ends[live_ends[gaps]].tolist(), ends[gaps].tolist())
        counts = [count(blob[piece]) for piece in pieces]
        filler = np.array([-1 if number is None else number for number in counts], np.int64)
        self._fail(owners[filler < 0])
        np.add.at(self.fillers, owners, filler)

    # -- guessing ----------------------------------------------------------------------------

    def _edges(self, events: _Events) -> _Edges:
        """Return the jumps within ranges, and the ways of exceptions."""
        batch = self.batch
        event_of = np.full(batch.count + 1, -1, np.int64)
        event_of[events.indices] = np.arange(len(events.indices))
        sources = event_of[batch.jumps]
        targets = event_of[batch.index_at[batch.jump_places]]
        more = [
            (event_of[index], event_of[self._index_of(index, target)])
            for index, known in self.tables.items()
            if event_of[index] >= 0
            for target in known
            if self._is_inside(index, target)
        ]
        if more:
            one, other = np.array(more, np.int64).T
            sources, targets = np.concatenate((sources, one)), np.concatenate((targets, other))
        calls, pads = self.pads
        unwinds = np.arange(len(sources) + len(calls)) >= len(sources)
        sources = np.concatenate((sources, event_of[calls]))
        targets = np.concatenate((targets, event_of[pads]))
        kept = (sources >= 0) & (targets >= 0)
        kept[kept] = ~events.dead[sources[kept]]
        return _Edges(sources[kept], targets[kept], unwinds[kept])

    def _guess(self, events: _Events, edges: _Edges) -> _Round:
        """Guess the state before each event."""
        total = len(events.indices)
        first = events.is_first
        after_dead = np.zeros(total, bool)
        after_dead[1:] = events.dead[:-1] | events.ends_flow[:-1]
        changed = np.zeros(total, bool)
        changed[1:] = events.labels[1:] != events.labels[:-1]
        moves = (events.kinds == EFFECT) & ~events.dead
        moves[moves] = self.follower.moves_frame[events.tokens[moves]]
        arrives = events.leaders & ~events.dead & (after_dead | changed)
        cuts = np.flatnonzero(first | moves | arrives)
        # Where control arrives and nothing moved since the last time, the guess is the same.
        same = (arrives & ~moves & ~first)[cuts[1:]] & ~moves[cuts[:-1]]
        same &= events.labels[cuts[1:]] == events.labels[cuts[:-1]]
        cuts = cuts[np.append(True, ~same)] if total else cuts
        settles = np.append(np.flatnonzero(events.tokens & _SETTLES), total)
        leads = np.append(np.flatnonzero(events.leaders | first), total)
        stops = np.minimum(
            settles[np.searchsorted(settles, cuts)] + 1,
            leads[np.searchsorted(leads, cuts, "right")],
        )
        behind = np.minimum(stops, total - 1)
        goes_on = (~events.ends_flow & ~events.is_last)[stops - 1]
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
            goes_on.tolist(),
            strict=True,
        )
        pre = array("i")
        found = _Round(np.zeros(0, np.int32))
        self._walk(events, walk, pre, found)
        found.pre = np.frombuffer(pre, np.int32).copy() if total else np.zeros(0, np.int32)
        self._fail(events.owners[found.pre == _LOST])
        found.pre[events.dead] = _DEAD
        return found

    def _walk(
        self,
        events: _Events,
        walk: Iterable[tuple[int, int, bool, bool, bool, bool, int, int, int, bool, bool]],
        pre: array[int],
        found: _Round,
    ) -> None:
        """Walk over where a state is not what it was before.

        Args:
            events: all of them.
            walk: (event, where a span from there would end, whether it is the first of a range,
                whether control arrives there, whether a span begins there, whether nothing
                arrives from above, a jump that leads there or -1, the label there; behind the
                span: the label, whether control arrives there, whether it does from above) of
                some events.
            pre: is filled.
            found: is filled, but for ``pre``.
        """
        follower = self.follower
        tokens = events.tokens.tobytes()
        entry = follower.number(follower.space.function_entry())
        settled, span, memory = follower.settled, follower.span, follower.spans
        add_fall, add_span, add_zone, add_end = (
            found.falls.append, found.spans.append, found.zones.append, found.ends.append
        )  # fmt: skip
        weakened = self.weakened
        state, position = _LOST, 0
        known: dict[int, int] = {}
        for (
            cut, stop, first, arrives, moves, fresh, source, label, label_behind, led, goes_on
        ) in walk:  # fmt: skip
            if cut < position:
                continue
            if cut > position:
                pre.extend(array("i", (state,)) * (cut - position))
                position = cut
            if first:
                state, known = entry, {label: entry}
                if weakened:
                    owner = int(events.owners[cut])
                    weak = {name: one for (which, name), one in weakened.items() if which == owner}
                    known.update(weak)
                    if known[label] != entry:
                        state = known[label]
                        add_fall((entry, state, cut))
                else:
                    weak = {}
                add_zone((cut, label))
            elif state == _LOST:
                continue
            elif arrives:
                guess = known.get(label)
                if fresh:
                    if guess is None:
                        guess = pre[source] if 0 <= source < cut else _LOST
                    state = guess
                else:
                    add_end((cut - 1, state))
                    if guess is None:
                        guess = settled(state)
                    if guess != state:
                        add_fall((state, guess, cut))
                        state = guess
                known[label] = state
                add_zone((cut, label))
            if not moves or state == _LOST:
                continue
            following = memory.get((state, tokens[4 * cut : 4 * stop]))
            if following is None:
                following = span(state, tokens[4 * cut : 4 * stop])
            pre.extend(following[0])
            state, position = following[1], stop
            add_span((cut, stop))
            if not goes_on:
                continue
            add_end((stop - 1, state))
            guess = known.get(label_behind) if led else weak.get(label_behind)
            if guess is None and led:
                guess = settled(state)
            if guess is not None and guess != state:
                add_fall((state, guess, stop))
                state = guess
            known[label_behind] = state
            add_zone((stop, label_behind))
        pre.extend(array("i", (state,)) * (len(events.indices) - position))

    def _posts(self, events: _Events, guessed: _Round) -> _Array:
        """Return the number of the state after each event, where control goes on there."""
        post = guessed.pre.copy()
        inner = np.flatnonzero(~events.is_last)
        post[inner] = guessed.pre[inner + 1]
        if guessed.ends:
            places, numbers = np.array(guessed.ends, np.int64).T
            post[places] = numbers
        return post

    # -- confirming --------------------------------------------------------------------------

    def _misfits(self, events: _Events, guessed: _Round, edges: _Edges, *, last: bool) -> _Array:
        """Hold guesses together; return of each range whether weaker ones may fit.

        They are weakened to what the guess and what contradicts it have in common. The last
        time, what does not fit fails.
        """
        live = ~events.dead & (guessed.pre >= 0)
        wrong = self._wrong_effects(events, guessed, live)
        wrong += self._wrong_edges(events, guessed, edges)
        again = np.zeros(len(self.good), bool)
        begins = [event for event, _ in guessed.zones]
        follower = self.follower
        for event, number, brought in wrong:
            owner = int(events.owners[event])
            if not self.good[owner]:
                continue
            again[owner] = True
            label = guessed.zones[bisect_right(begins, event) - 1][1]
            weak = self.weakened.get((owner, label))
            for one in (number, brought):
                weak = one if weak is None else follower.joined(weak, one)
            assert weak is not None
            self.weakened[owner, label] = weak
        if last:
            self.good &= ~again
            again[:] = False
        return again

    def _wrong(self, keys: _Array, holds: Callable[[int], bool]) -> _Array:
        """Ask once for each different key; return the indices of those that do not hold."""
        if not len(keys):
            return np.zeros(0, np.int64)
        found, inverse = np.unique(keys, return_inverse=True)
        wrong = np.array([not holds(key) for key in found.tolist()], bool)
        return np.flatnonzero(wrong[inverse]) if wrong.any() else np.zeros(0, np.int64)

    def _wrong_effects(
        self, events: _Events, guessed: _Round, live: _Array
    ) -> list[tuple[int, int, int]]:
        """Return (event, state, what comes of it) outside of the spans, where a state changes."""
        within = np.zeros(len(guessed.pre) + 1, np.int32)
        if guessed.spans:
            begins, ends = np.array(guessed.spans, np.int64).T
            within[begins] += 1
            within[ends] -= 1
        outside = np.flatnonzero(
            live & (np.cumsum(within[:-1]) == 0) & (events.tokens != _NO_EFFECT)
        )
        tokens = events.tokens[outside].astype(np.int64)
        keys = guessed.pre[outside].astype(np.int64) << _TOKEN_BITS | tokens
        wrong = outside[self._wrong(keys, self.follower.keeps)]
        follower = self.follower
        return [
            (event, state, follower.number(follower.after(state, token)))
            for event, state, token in zip(
                wrong.tolist(), guessed.pre[wrong].tolist(), events.tokens[wrong].tolist(),
                strict=True,
            )
        ]  # fmt: skip

    def _wrong_edges(
        self, events: _Events, guessed: _Round, edges: _Edges
    ) -> list[tuple[int, int, int]]:
        """Return (event, guess there, what is brought), where that is not as much as guessed."""
        sources, targets, unwinds = edges.sources, edges.targets, edges.unwinds
        lost = (guessed.pre[sources] < 0) | (guessed.pre[targets] < 0)
        self._fail(events.owners[targets[lost]])
        sources, targets, unwinds = sources[~lost], targets[~lost], unwinds[~lost]
        self._confirm_reached(events, sources, targets)
        one, other = guessed.pre[sources].astype(np.int64), guessed.pre[targets].astype(np.int64)
        one[unwinds] = self._after(one[unwinds], events.tokens[sources[unwinds]])
        if guessed.falls:
            states, guesses, places = np.array(guessed.falls, np.int64).T
            one, other = np.concatenate((one, states)), np.concatenate((other, guesses))
            targets = np.concatenate((targets, places))
        differ = np.flatnonzero(one != other)
        wrong = differ[self._wrong(one[differ] << 32 | other[differ], self.follower.implies)]
        return list(
            zip(targets[wrong].tolist(), other[wrong].tolist(), one[wrong].tolist(), strict=True)
        )

    def _after(self, states: _Array, tokens: _Array) -> _Array:
        """Return the numbers of what tokens make of states."""
        keys, inverse = np.unique(states << _TOKEN_BITS | tokens, return_inverse=True)
        follower, mask = self.follower, (1 << _TOKEN_BITS) - 1
        found = [
            follower.number(follower.after(key >> _TOKEN_BITS, key & mask)) for key in keys.tolist()
        ]
        return np.array(found, np.int64)[inverse]

    def _is_inside(self, index: int, target: int) -> bool:
        begin, code = self.batch.ranges[int(self.batch.owners[index])]
        return begin <= target < begin + len(code)

    def _index_of(self, index: int, target: int) -> int:
        number = int(self.batch.owners[index])
        place = target - self.batch.ranges[number][0] + int(self.batch.offsets[number])
        return int(self.batch.index_at[place])

    def _confirm_reached(self, events: _Events, sources: _Array, targets: _Array) -> None:
        """Control must come from the function's begin, not from what only leads to itself."""
        total = len(events.indices)
        first = events.is_first
        begins = np.flatnonzero((events.leaders | first) & ~events.dead)
        if not len(begins):
            return
        block_of = np.zeros(total, np.int64)
        block_of[begins] = 1
        block_of = np.cumsum(block_of) - 1
        falls_in = ~first[begins]
        above = begins - 1
        falls_in &= ~events.dead[above] & ~events.ends_flow[above]
        sources, targets = block_of[sources], block_of[targets]
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
        self._fail(events.owners[begins[~reached]])

    def _confirm_labels(self, events: _Events, pre: _Array, post: _Array, live: _Array) -> None:
        """What is claimed holds at every instruction, those between two events included."""
        limits = self.batch.offsets[events.owners] + self.batch.sizes[events.owners]
        following = limits.copy()
        inner = np.flatnonzero(~events.is_last)
        following[inner] = events.starts[inner + 1]
        between = live & ~events.ends_flow & (following > events.ends)
        # A row at a call is looked up while the callee runs, whether it returns or not.
        calls = live & (events.tokens == self.follower.token(self.follower.classifier.call))
        called = self._after(pre[calls].astype(np.int64), events.tokens[calls].astype(np.int64))
        states = np.concatenate((pre[live], post[between], called)).astype(np.int64)
        labels = np.concatenate((events.labels[live], events.labels[between], events.labels[calls]))
        owners = np.concatenate((events.owners[live], events.owners[between], events.owners[calls]))
        keys = states << 32 | labels
        different = np.ones(len(keys), bool)
        different[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
        numbered, client = self.follower.states, self.client

        def holds(key: int) -> bool:
            return client.holds(numbered[key >> 32], key & 0xFFFFFFFF)

        self._fail(owners[different][self._wrong(keys[different], holds)])

    def _confirm_denials(self, events: _Events, pre: _Array) -> None:
        """Behind a call that is taken not to return nothing may hold that would if it did."""
        for event, label in self.denied:
            owner = int(events.owners[event])
            if not self.good[owner] or pre[event] < 0:
                continue
            after = self.follower.after(int(pre[event]), int(events.tokens[event]))
            if self.client.holds(after, label):
                self.good[owner] = False

    # -- ways out ----------------------------------------------------------------------------

    def _find_exits(self, flow: BulkFlow, events: _Events, pre: _Array) -> None:
        batch, states = self.batch, self.follower.states
        out = (events.kinds == JUMP_OUT) | (events.kinds == JUMP_OUT - 1)
        for event in np.flatnonzero(out & ~events.dead & (pre >= 0)).tolist():
            index, number = int(events.indices[event]), int(events.owners[event])
            source = batch.ranges[number][0] + int(events.starts[event] - batch.offsets[number])
            found = flow._exits.setdefault(number, [])
            found.append((int(batch.targets[index]), source, states[int(pre[event])]))
        if not self.tables:
            return
        flows = np.flatnonzero((events.kinds == OTHER_FLOW) & ~events.dead & (pre >= 0))
        for event in flows.tolist():
            index, number = int(events.indices[event]), int(events.owners[event])
            targets = self.tables.get(index, ())
            outside = [target for target in targets if not self._is_inside(index, target)]
            if outside:
                source, state = batch.flows[index].ip, states[int(pre[event])]
                found = flow._exits.setdefault(number, [])
                found += [(target, source, state) for target in outside]


def labels_of(parts: Sequence[tuple[int, list[int], list[int]]]) -> Labels:
    """Put the labels of ranges together.

    Args:
        parts: (place of the range, offsets in it where labels begin, the labels), in order.
    """
    bases = np.array([place for place, _, _ in parts], np.int64)
    sizes = [len(offsets) for _, offsets, _ in parts]
    places = np.fromiter(chain.from_iterable(offsets for _, offsets, _ in parts), np.int64)
    labels = np.fromiter(chain.from_iterable(labels for _, _, labels in parts), np.int64)
    return Labels(places + np.repeat(bases, sizes), labels)


__all__ = ["BulkClient", "BulkFlow", "BulkFollower", "Labels", "labels_of"]
