"""Checking one image: every claim of its CFI against what the code does.

Nearly all compiled code is proved many functions at a time (:mod:`fullframe.cfi.bulk`). What is not
is followed alone, in one pass over the coarse state space (:mod:`fullframe.cfi.straight`), and then
in the precise one, with what is known of callees (:mod:`fullframe.cfi.visit`). Code in one FDE
that jumps into another (a function's cold part) hands over its state; the function that receives
one is followed again with it.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import cached_property
from typing import NamedTuple, TypeVar

from fullframe.cfi.bulk import BulkProver
from fullframe.cfi.claim_rows import ClaimRows
from fullframe.cfi.claims import PROVED, Answer, Verdict
from fullframe.cfi.coverage import coverage_of
from fullframe.cfi.engine import Engine
from fullframe.cfi.entries import Entries, called
from fullframe.cfi.facts import ImageFacts
from fullframe.cfi.findings import FileReport, FunctionReport
from fullframe.cfi.frames import Fde, FrameTable, read_frames
from fullframe.cfi.handover import Handover
from fullframe.cfi.image_code import ImageCode
from fullframe.cfi.premises import signal_entry
from fullframe.cfi.results import FunctionResult, Run, reason_of
from fullframe.cfi.rules import UNDEFINED, Registers
from fullframe.cfi.straight import StraightProver
from fullframe.cfi.trampolines import Trampoline, find_trampoline
from fullframe.cfi.visit import Visitor
from fullframe.elf.image import Image
from fullframe.errors import FullframeError
from fullframe.track.calls import Callees
from fullframe.track.listing import FILLER_BYTES, decode
from fullframe.track.state import TooComplexError

#: A function is followed at most this often as other functions' jumps into it come to light.
_MOST_VISITS = 12

#: Stands for what is not known of a function's first byte: it is looked at.
_FILLER = min(FILLER_BYTES)

Outcome = TypeVar("Outcome")


class _Parts(NamedTuple):
    """What is followed of an FDE.

    Attributes:
        body: the code, without the bytes that a trampoline's CFI begins early.
        rows: its claims by offset in that code.
        begin: the code's address.
        trampoline: the signal trampoline that it is, or None.
    """

    body: bytes
    rows: ClaimRows
    begin: int
    trampoline: Trampoline | None


class ImageChecker:
    """Checks the functions of one image.

    Args:
        image: the file.
        engine: shared state of the machine; made anew when None.
        thorough: follow every function so that its results tell every boundary's state.

    Attributes:
        crossings: where FDEs begin that jump out of the share that was checked, and what they
            jump into.
    """

    def __init__(
        self, image: Image, engine: Engine | None = None, *, thorough: bool = False
    ) -> None:
        self.thorough = thorough
        self.image = image
        self.engine = engine or Engine(
            image.machine, narrow_pointers=getattr(image, "is_x32", False)
        )
        self.tables = read_frames(image)
        self.fdes = _distinct(self.tables)
        self.code = ImageCode(image, self.fdes)
        code_bytes = sum(end - begin for begin, end in image.executable_ranges())
        self.facts = ImageFacts(
            self.code,
            self.engine,
            Callees(self.code, self.engine.coarse, code_bytes),
            Entries(self.code, self.engine),
        )
        self.handover = Handover(self.code, self.engine.book, self.engine.precise.space)
        self._bulk = BulkProver(self.facts)
        self._prover = StraightProver(self.facts, self.handover)
        self._visitor = Visitor(self.facts, self.handover, thorough=thorough)
        self._queue: deque[Fde] = deque()
        self._prepared = False
        self._share: Collection[int] | None = None
        self.crossings: list[tuple[int, int]] = []

    # -- one function ------------------------------------------------------------------------

    def check_function(self, fde: Fde) -> FunctionResult:
        """Follow one function and judge its rows; raises InputError if its bytes are missing."""
        if self.thorough:
            return self._check_parts(fde, self._parts(fde, self.code.code_of(fde)))
        if not self.handover.at(fde):
            proved = self._bulk.proved(fde, self._queue)
            if proved is not None:
                return proved
        stream = self._bulk.stream(fde, self._queue)
        parts = self._parts(fde, stream.code)
        if parts.trampoline is None:
            try:
                proved = self._prover.prove(fde, stream, parts.rows)
                if proved is not None:
                    return proved
                self._sharpen_arrivals(fde)
            except TooComplexError as error:
                return self._given_up(fde, parts, str(error))
        return self._check_parts(fde, parts)

    def _check_parts(self, fde: Fde, parts: _Parts) -> FunctionResult:
        try:
            return self._visit(fde, parts)
        except TooComplexError as error:
            return self._given_up(fde, parts, str(error))

    def _given_up(self, fde: Fde, parts: _Parts, reason: str) -> FunctionResult:
        """Return the result of a function that is beyond every bound of honest code."""
        listing = decode(self.engine.coarse, parts.body, parts.begin)
        total = len(listing.starts)
        tally = dict.fromkeys(Answer, 0)
        tally[Answer.CANNOT_TELL] = total
        runs = [Run(0, total, Verdict(Answer.CANNOT_TELL), reason)] if total else []
        return FunctionResult(fde, listing, runs, total, tally)

    def _visit(self, fde: Fde, parts: _Parts) -> FunctionResult:
        visit, trampoline = self._visitor.visit, parts.trampoline
        result = visit(fde, parts.body, parts.rows, parts.begin, trampoline)
        if self._paths_disagree(result):
            # A function that never returns, unknown to be one, leads into whatever code stands
            # behind its call. If nothing disagrees without these edges, they are not there.
            doubted = visit(fde, parts.body, parts.rows, parts.begin, trampoline, doubting=True)
            # The filler behind such a call is then reached by nothing, and is not counted.
            unseen = doubted.tally[Answer.ASSUMED] - result.tally[Answer.ASSUMED]
            if unseen <= 0 and not self._paths_disagree(doubted):
                result = doubted
        if trampoline is not None and parts.begin > fde.begin:
            self._judge_lead(result, trampoline, parts.rows)
        return result

    @staticmethod
    def _paths_disagree(result: FunctionResult) -> bool:
        return any(doubt.paths_disagree for run in result.runs for doubt in run.verdict.doubts)

    def _parts(self, fde: Fde, body: bytes) -> _Parts:
        rows = self._rows_of(fde)
        trampoline = find_trampoline(
            self.engine.machine, body[:48], believed=fde.cie.is_signal_frame
        )
        lead = trampoline.lead_bytes if trampoline is not None else 0
        if lead:
            body = body[lead:]
            rows = ClaimRows([max(0, offset - lead) for offset in rows.offsets], rows.claims)
        return _Parts(body, rows, fde.begin + lead, trampoline)

    def _judge_lead(self, result: FunctionResult, trampoline: Trampoline, rows: ClaimRows) -> None:
        """Judge the row of the byte before a trampoline, which a handler's unwind looks up."""
        begin = result.listing.begin
        space = self.engine.precise.space
        state = signal_entry(space, trampoline.number)
        if state is None or len(rows) < 2 or rows[1][0] > 0:
            return  # one row covers both
        verdict = self.engine.book.judge(space, state, rows[0][1], begin)
        if verdict is not PROVED:
            reason = "the row of the byte before the trampoline; " + reason_of(verdict)
            result.runs.insert(0, Run(0, 1, verdict, reason, state, rows[0][1]))
            result.tally[verdict.answer] += 1
            result.boundaries += 1

    def _sharpen_arrivals(self, fde: Fde) -> None:
        """Follow precisely what jumps into an FDE, so that the FDE can be judged precisely."""
        sources = {arrival.source for arrival in self.handover.at(fde) if arrival.coarse}
        for begin in sources:
            source = self.code.covering(begin)
            if source is not None:
                parts = self._parts(source, self.code.code_of(source))
                result = self._visitor.visit(source, parts.body, parts.rows, parts.begin)
                self._give(source, result)

    def _give(self, fde: Fde, result: FunctionResult) -> list[Fde]:
        if not result.exits and not self.handover.has_given(fde):
            return []
        space = self.engine.coarse.space if result.coarse else self.engine.precise.space
        changed = self.handover.give(fde, result.exits, space, self.engine.rows_of)
        if result.changes is not None and self.handover.has_given(fde):
            self.handover.flows[fde.begin] = result.changes()
        share = self._share
        if share is None:
            return changed
        self.crossings += [(fde.begin, to.begin) for to in changed if to.begin not in share]
        return [receiver for receiver in changed if receiver.begin in share]

    def _rows_of(self, fde: Fde) -> ClaimRows:
        """Return a function's claims, without those on the register that it exists to load.

        A program-counter thunk (i386) returns its result in a register that may be one of the
        callee-saved; its callers know, and have saved it as they save what they write themselves.
        """
        if self.engine.machine.bits == 64:
            return self.engine.rows_of(fde)
        loaded = self.facts.callees.clobbered(fde.begin)
        if not loaded:
            return self.engine.rows_of(fde)
        numbers = self.engine.machine.hardware_to_dwarf
        nothing: Registers = {numbers[register]: UNDEFINED for register in loaded}
        claim = self.engine.book.claim
        relative = fde.relative_rows()
        return ClaimRows(
            [delta for delta, _, _, _ in relative],
            [claim(cfa, {**registers, **nothing}) for _, cfa, registers, _ in relative],
        )

    # -- the whole image ---------------------------------------------------------------------

    def results(self) -> list[FunctionResult]:
        """Check every function; functions whose bytes are missing are left out."""
        done = self.check(lambda result: result)
        return [done[begin] for begin in sorted(done)]

    @cached_property
    def parts(self) -> frozenset[int]:
        """Where the FDEs begin that look like parts of functions; they are followed last.

        By then what jumps into them has been followed.
        """
        is_called_by = self.facts.entries.is_called_by
        # Nearly all are what they look like at once: functions, from the CIE's initial row on.
        unclear = [
            fde
            for fde, first in zip(self.fdes, self.code.begin_bytes(unheld=_FILLER), strict=True)
            if first in FILLER_BYTES or not fde.begins_as_cie or not is_called_by(fde.cie)
        ]
        return frozenset([fde.begin for fde in unclear if self._comes_last(fde)])

    def prepare(self) -> None:
        """Find out what checking any share of the image needs to know of the whole."""
        if not self._prepared:
            self.facts.entries.called = called(self.code, self.parts)
            _ = self.facts.entries.inner
            self._prepared = True

    def check(
        self,
        outcome: Callable[[FunctionResult], Outcome],
        share: Collection[int] | None = None,
        proved: Callable[[int], Outcome] | None = None,
    ) -> dict[int, Outcome]:
        """Check the functions of an image, or a share of them.

        Args:
            outcome: what is kept of a function's result. A function is followed again when it
                comes to light that another jumps into it.
            share: where the FDEs to be checked begin; None for all. What jumps from them to
                others is noted in ``crossings``.
            proved: what is kept of a function of which all is proved, by how many boundaries it
                has; None if that depends on more than this.

        Returns:
            The outcomes by where the FDE begins; functions whose bytes are missing are left out.
        """
        self.prepare()
        done: dict[int, Outcome] = {}
        visits: dict[int, int] = {}
        fdes = self.fdes if share is None else [fde for fde in self.fdes if fde.begin in share]
        self._share = share
        queue = self._queue = deque(sorted(fdes, key=lambda fde: fde.begin in self.parts))
        queued = {fde.begin for fde in fdes}
        while queue:
            fde = queue.popleft()
            queued.discard(fde.begin)
            if proved is not None:
                boundaries = self._plainly_proved(fde)
                if boundaries is not None:
                    done[fde.begin] = proved(boundaries)
                    continue
            visits[fde.begin] = visits.get(fde.begin, 0) + 1
            self.engine.trim()
            try:
                result = self.check_function(fde)
                changed = self._give(fde, result)
            except FullframeError:
                continue
            for receiver in changed:
                if receiver.begin not in queued and visits.get(receiver.begin, 0) < _MOST_VISITS:
                    queue.append(receiver)
                    queued.add(receiver.begin)
            result.exits = {}
            result.changes = None
            done[fde.begin] = outcome(result)
        return done

    def _plainly_proved(self, fde: Fde) -> int | None:
        """Return the boundaries of a function that is proved and has to do with no other."""
        if self.thorough or self.handover.at(fde) or self.handover.has_given(fde):
            return None
        try:
            return self._bulk.plainly_proved(fde, self._queue)
        except FullframeError:
            return None

    def _comes_last(self, fde: Fde) -> bool:
        try:
            body = self.image.read(fde.begin, 1)
        except FullframeError:
            return False
        if fde.begins_as_cie and body[0] not in FILLER_BYTES:
            return not self.facts.entries.is_called_by(fde.cie)
        return self.facts.entries.is_fragment(fde, self.engine.rows_of(fde), bytes(body))


def _distinct(tables: list[FrameTable]) -> list[Fde]:
    """Return the FDEs of all sections by address; ``.eh_frame`` wins over ``.debug_frame``.

    One that begins within another is left out: reading has reported it, and following the same
    code for each of a thousand such FDEs would not end.
    """
    found: dict[int, Fde] = {}
    for table in tables:
        for fde in table.fdes:
            if fde.end > fde.begin:
                found.setdefault(fde.begin, fde)
    distinct: list[Fde] = []
    for begin in sorted(found):
        if not distinct or begin >= distinct[-1].end:
            distinct.append(found[begin])
    return distinct


def check_image(image: Image, engine: Engine | None = None, jobs: int = 1) -> FileReport:
    """Check all CFI of one image.

    Args:
        image: an ELF file that was read.
        engine: shared state; made anew when None.
        jobs: processes; more than one pays for large images only.

    Returns:
        Counts and findings. Raises InputError where the CFI sections cannot be read at all.
    """
    from fullframe.cfi.describe import malformed, partly_uncovered, report_of, report_of_proved

    began = time.perf_counter()
    checker = ImageChecker(image, engine)
    report = FileReport(
        image.path, "x32" if getattr(image, "is_x32", False) else image.machine.name
    )
    reports: dict[int, FunctionReport] | None = None
    if jobs > 1:
        from concurrent.futures.process import BrokenProcessPool

        from fullframe.cfi.shares import check_in_shares

        # A process that is killed had no memory, as a rule: one alone needs less.
        with contextlib.suppress(BrokenProcessPool):
            reports = check_in_shares(checker, jobs)
    if reports is None:
        reports = checker.check(lambda result: report_of(checker, result), None, report_of_proved)
    for begin in sorted(reports):
        report.add(reports[begin])
    bare = partly_uncovered(checker)
    if bare:
        report.findings = sorted([*report.findings, *bare], key=lambda item: item.address)
    report.findings += malformed(image, checker.tables)
    report.coverage = coverage_of(checker.code, checker.engine.straight.fillers)
    report.is_linked = not image.is_relocatable
    report.seconds = time.perf_counter() - began
    return report


__all__ = ["Engine", "ImageChecker", "check_image"]
