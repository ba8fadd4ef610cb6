"""What following a batch has to do with: the code, what is claimed of it, the events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fullframe.track.bulk.numbered import Array, NumberedStates
from fullframe.track.passing import Fillers
from fullframe.track.state import State
from fullframe.track.streams import Batch


class BulkClient(Protocol):
    """What a client knows of the functions of a batch."""

    #: Of each range, whether it has call sites to look at.
    has_call_sites: Array

    def call_clobbers(self, target: int) -> tuple[int, ...]:
        """Return callee-saved registers that the callee changes all the same."""

    def seems_tail_call(self, number: int, address: int, label: int, first_label: int) -> bool:
        """Return whether an indirect jump is a tail call, if the state there is as at entry.

        Args:
            number: of the range.
            address: of the jump.
            label: in force there.
            first_label: at the function's begin.
        """

    def table_targets(self, number: int, address: int) -> list[int] | None:
        """Return where an indirect jump leads by a table; None without one that can be seen.

        Args:
            number: of the range.
            address: of the jump.
        """

    def call_sites(self, number: int) -> Sequence[tuple[int, int, int]]:
        """Return (begin, end, landing pad) of a range's call sites that have one, ascending."""

    def is_like_entry(self, state: State) -> bool:
        """Return whether a state looks as at a function's entry."""

    def are_functions(self, addresses: Array) -> Array:
        """Return at which addresses functions begin; jumps there as at entry are tail calls."""

    def holds(self, state: State, label: int) -> bool:
        """Return whether what a label stands for is proved in a state."""


@dataclass(slots=True)
class Labels:
    """What is claimed, by place.

    Attributes:
        places: where a label begins, ascending; one at the begin of each range.
        labels: the labels there.
    """

    places: Array
    labels: Array


def _no_edges() -> tuple[Array, Array]:
    return np.zeros(0, np.int64), np.zeros(0, np.int64)


@dataclass(slots=True)
class Work:
    """One batch, and what has been found out of it.

    Attributes:
        numbered: states by number.
        batch: the code.
        labels: what is claimed of it.
        client: knows the functions around it.
        fillers: counts what fills space.
        good: of each range, whether it is followed still.
        filler_counts: of each range: instructions where no control arrives, which only fill space.
        row_indices: of the instructions where labels begin.
        tail_jumps: indices of indirect jumps that are taken for tail calls.
        table_jumps: (index of an indirect jump, place within its range that its table leads to).
        table_edges: indices of such jumps, and of the instructions that they lead to.
        table_exits: (index of such a jump, address outside of its range that its table leads to).
        pads: indices of calls, and of the landing pads of each.
        denied: (event of a call that is taken not to return, the label behind it).
    """

    numbered: NumberedStates
    batch: Batch
    labels: Labels
    client: BulkClient
    fillers: Fillers
    good: Array
    filler_counts: Array
    row_indices: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    tail_jumps: list[int] = field(default_factory=list)
    table_jumps: list[tuple[int, int]] = field(default_factory=list)
    table_edges: tuple[Array, Array] = field(default_factory=_no_edges)
    table_exits: list[tuple[int, int]] = field(default_factory=list)
    pads: tuple[Array, Array] = field(default_factory=_no_edges)
    denied: list[tuple[int, int]] = field(default_factory=list)

    def fail(self, owners: Array) -> None:
        """Leave ranges to others."""
        self.good[owners] = False


@dataclass(slots=True)
class Events:
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

    indices: Array
    kinds: Array
    owners: Array
    starts: Array
    ends: Array
    labels: Array
    leaders: Array
    tokens: Array
    ends_flow: Array
    is_last: Array
    dead: Array

    @property
    def is_first(self) -> Array:
        """Whether each is the first of its range."""
        first = np.ones(len(self.indices), bool)
        first[1:] = self.is_last[:-1]
        return first


@dataclass(slots=True)
class Edges:
    """Ways that control takes, but from above.

    Attributes:
        sources: events.
        targets: the events that they lead to.
        unwinds: whether it is the way of an exception out of a call.
    """

    sources: Array
    targets: Array
    unwinds: Array
