"""Proving many functions together, as most can be (:mod:`fullframe.track.bulk`).

The labels by which states are guessed are the claims themselves. What is not proved so is proved
alone (:mod:`fullframe.cfi.straight`), or visited (:mod:`fullframe.cfi.visit`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice

import numpy as np

from fullframe.cfi.call_sites import CallSites
from fullframe.cfi.claim_rows import ClaimRows
from fullframe.cfi.claims import PROVED
from fullframe.cfi.entries import is_like_entry
from fullframe.cfi.facts import ImageFacts
from fullframe.cfi.frames import Fde
from fullframe.cfi.results import FunctionResult, all_proved
from fullframe.cfi.straight import StraightContext
from fullframe.cfi.trampolines import find_trampoline
from fullframe.errors import FullframeError
from fullframe.track.bulk import BulkFlow, labels_of
from fullframe.track.bulk.numbered import Array
from fullframe.track.state import State, TooComplexError
from fullframe.track.streams import BATCH_BYTES, Batch, Extent, Stream

#: Functions whose code is decoded together.
_MOST_TOGETHER = 1024
#: Bytes at a function's begin in which a signal trampoline is looked for.
TRAMPOLINE_BYTES = 48


class BulkProver:
    """Reads the functions of one image in batches, and proves at once what can be.

    Args:
        facts: what is known of the image.
    """

    def __init__(self, facts: ImageFacts) -> None:
        self._facts = facts
        self._read: dict[int, tuple[_Client, int]] = {}

    def read(self, fde: Fde, coming: Iterable[Fde]) -> tuple[Batch, int]:
        """Return the batch that a function is read in, and its number in it.

        Args:
            fde: the function.
            coming: what will be asked for next.

        Raises:
            InputError: the file does not hold its bytes.
        """
        if fde.begin not in self._read:
            self._read_together(fde, coming)
        client, number = self._read[fde.begin]
        return client.batch, number

    def stream(self, fde: Fde, coming: Iterable[Fde]) -> Stream:
        """Return a function's stream; see :meth:`read`."""
        batch, number = self.read(fde, coming)
        self._read.pop(fde.begin)
        return batch.stream(number)

    def plainly_proved(self, fde: Fde, coming: Iterable[Fde]) -> int | None:
        """Return how many boundaries a function has that is proved, and hands nothing over.

        None of any other; see :meth:`read`.
        """
        begin = fde.begin
        if begin not in self._read:
            self._read_together(fde, coming)
        client, number = self._read[begin]
        boundaries = client.plainly_proved[number]
        if boundaries is not None:
            del self._read[begin]
        return boundaries

    def proved(self, fde: Fde, coming: Iterable[Fde]) -> FunctionResult | None:
        """Return what was proved of a function; None where that is not all; see :meth:`read`."""
        self.read(fde, coming)
        client, number = self._read[fde.begin]
        found = client.result(number)
        if found is not None:
            del self._read[fde.begin]
        return found

    def _read_together(self, fde: Fde, coming: Iterable[Fde]) -> None:
        self._facts.engine.trim()
        fdes, ranges = [fde], [(fde.begin, self._facts.code.code_of(fde))]
        size = fde.end - fde.begin
        for other in islice(coming, _MOST_TOGETHER):
            size += other.end - other.begin
            if size > BATCH_BYTES:
                break
            try:
                ranges.append((other.begin, self._facts.code.code_of(other)))
            except FullframeError:
                continue
            fdes.append(other)
        client = _Client(self._facts, self._facts.engine.reader.read(ranges), fdes)
        client.follow()
        self._read = {fde.begin: (client, number) for number, fde in enumerate(fdes)}


class _Client:
    """The functions of one batch, and what was proved of them."""

    def __init__(self, facts: ImageFacts, batch: Batch, fdes: list[Fde]) -> None:
        self._facts = facts
        self.batch = batch
        self.fdes = fdes
        self._contexts: dict[int, tuple[StraightContext, Extent]] = {}
        self.has_call_sites = np.zeros(len(fdes), bool)
        plt = facts.code.plt_begins
        self._stubs = {number for number, fde in enumerate(fdes) if fde.begin in plt}
        self._sites: dict[int, CallSites] = {}
        self._flow: BulkFlow | None = None
        self._boundaries: list[int | None] = [None] * len(fdes)
        #: Of each function: its boundaries, if it is proved and nothing leads out of it but calls.
        self.plainly_proved: list[int | None] = [None] * len(fdes)

    def follow(self) -> None:
        """Follow all of the functions that are of the usual kind."""
        engine, batch = self._facts.engine, self.batch
        eligible = np.zeros(len(self.fdes), bool)
        parts: list[tuple[int, Sequence[int], Sequence[int]]] = []
        offsets = batch.offsets.tolist()
        for number, fde in enumerate(self.fdes):
            rows = self._rows_of(number, fde)
            eligible[number] = rows is not None
            numbers = None if rows is None else rows.numbers
            if rows is None or numbers is None:
                parts.append((offsets[number], (0,), (0,)))
            else:
                parts.append((offsets[number], rows.offsets, numbers))
        with contextlib.suppress(TooComplexError):
            flow = self._flow = engine.bulk.follow(batch, labels_of(parts), self, eligible)
            boundaries = (batch.counts - flow.filler_counts).tolist()
            self._boundaries = [
                count if proved else None
                for count, proved in zip(boundaries, flow.proved.tolist(), strict=True)
            ]
            self.plainly_proved = self._boundaries.copy()
            for number in flow.with_exits():
                self.plainly_proved[number] = None

    def _rows_of(self, number: int, fde: Fde) -> ClaimRows | None:
        """Return the rows of a function that is of the usual kind, or None."""
        facts = self._facts
        engine = facts.engine
        code = self.batch.ranges[number][1]
        if fde.cie.is_signal_frame or fde.begin in facts.entries.inner:
            return None
        if number in self._stubs:
            return None  # each stub is entered, whatever leads there
        if engine.machine.bits == 32 and facts.callees.clobbered(fde.begin):
            return None
        rows = engine.rows_of(fde)
        if rows.numbers is None:
            return None
        if not facts.entries.is_plain_function(rows, code, fde.begin):
            return None
        if find_trampoline(engine.machine, code[:TRAMPOLINE_BYTES], believed=False) is not None:
            return None
        if fde.lsda is not None:
            sites = CallSites(facts.code.image, fde)
            if sites.any_arguments:
                return None
            self._sites[number] = sites
            self.has_call_sites[number] = True
        return rows

    def result(self, number: int) -> FunctionResult | None:
        """Return the result of a function that was proved, or None."""
        flow = self._flow
        boundaries = self._boundaries[number]
        if flow is None or boundaries is None:
            return None
        fde = self.fdes[number]
        result = all_proved(fde, boundaries)
        exits = flow.exits(number)
        if exits:
            result.exits = {(target, source): state for target, source, state in exits}
            result.changes = partial(flow.changes, number)
        return result

    # -- what the follower asks --------------------------------------------------------------

    def call_clobbers(self, target: int) -> tuple[int, ...]:
        """See :class:`fullframe.track.bulk.BulkClient`."""
        return self._facts.callees.clobbered(target)

    def call_sites(self, number: int) -> list[tuple[int, int, int]]:
        """See :class:`fullframe.track.bulk.BulkClient`."""
        return self._sites[number].with_pads()

    def is_like_entry(self, state: State) -> bool:
        """See :class:`fullframe.track.bulk.BulkClient`."""
        return is_like_entry(self._facts.engine.machine.callee_saved, state)

    def are_functions(self, addresses: Array) -> Array:
        """See :class:`fullframe.track.bulk.BulkClient`."""
        return self._facts.code.are_begins(addresses)

    def holds(self, state: State, label: int) -> bool:
        """See :class:`fullframe.track.bulk.BulkClient`."""
        claim = self._facts.engine.book.by_number[label]
        verdict = state.verdicts.get(claim)
        if verdict is None:
            engine = self._facts.engine
            verdict = engine.book.judge(engine.coarse.space, state, claim, 0)
        return verdict is PROVED

    def seems_tail_call(self, number: int, address: int, label: int, first_label: int) -> bool:
        """See :class:`fullframe.track.bulk.BulkClient`."""
        claims = self._facts.engine.book.by_number
        if claims[label].cfa != claims[first_label].cfa:
            return False
        context, extent = self._context(number)
        return not context.may_be_table(address, extent)

    def table_targets(self, number: int, address: int) -> list[int] | None:
        """See :class:`fullframe.track.bulk.BulkClient`."""
        context, extent = self._context(number)
        return context.table_at(address, extent)

    def _context(self, number: int) -> tuple[StraightContext, Extent]:
        found = self._contexts.get(number)
        if found is None:
            fde, extent = self.fdes[number], self.batch.extent(number)
            rows = self._facts.engine.rows_of(fde)
            context = StraightContext(self._facts, fde, extent, rows)
            found = self._contexts[number] = (context, extent)
        return found
