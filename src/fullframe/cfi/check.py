"""Checking one image: every claim of its CFI against what the code does.

Each function is followed first in one pass over the coarse state space, where nearly all compiled
code is proved at once. What is not proved there is followed again in the precise one, with what
is known of callees. Code in one FDE that jumps into another (a function's cold part) hands over
its state; the function that receives one is followed again with it.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, field

from iced_x86 import Decoder

from fullframe.cfi.claims import (
    CFA_COLUMN,
    PROVED,
    Answer,
    Claim,
    ClaimBook,
    Doubt,
    Verdict,
)
from fullframe.cfi.context import (
    ClaimRows,
    FunctionContext,
    ImageCode,
    StraightContext,
    is_fragment,
    is_stub,
)
from fullframe.cfi.entries import called
from fullframe.cfi.findings import Doubtful, FileReport, Finding, Severity
from fullframe.cfi.frames import Fde, FrameTable, read_frames
from fullframe.cfi.handover import Handover, coarsened, made_uncertain
from fullframe.cfi.premises import premise, signal_entry
from fullframe.cfi.rules import UNDEFINED, Registers
from fullframe.cfi.trampolines import Trampoline, find_trampoline
from fullframe.elf.image import Image
from fullframe.errors import FullframeError
from fullframe.track.calls import Callees
from fullframe.track.classify import Classifier
from fullframe.track.flow import Flow, Follower
from fullframe.track.listing import CALL, CALL_INSIDE, Listing, decode, is_filler
from fullframe.track.state import State, StateSpace, TooComplexError
from fullframe.track.straight import StraightFlow, StraightFollower
from fullframe.x86.registers import IP, Machine

#: Encodings of syscall and int $0x80.
_SYSTEM_CALLS = (b"\x0f\x05", b"\xcd\x80")
#: A function is followed at most this often as other functions' jumps into it come to light.
_MOST_VISITS = 12


class Engine:
    """What checking shares between images of one machine: state spaces and claims.

    Args:
        machine: the machine.
        narrow_pointers: x32, where addresses are 32 bits wide.
    """

    def __init__(self, machine: Machine, *, narrow_pointers: bool = False) -> None:
        self.machine = machine
        self.book = ClaimBook(machine)
        self.coarse = Classifier(StateSpace(machine, narrow_pointers=narrow_pointers))
        self.precise = Classifier(
            StateSpace(machine, precise=True, narrow_pointers=narrow_pointers)
        )
        self.straight = StraightFollower(self.coarse)
        self._rows: dict[int, tuple[object, ClaimRows]] = {}

    def rows_of(self, fde: Fde) -> ClaimRows:
        """Return a function's claims by offset from its begin."""
        relative = fde.relative_rows()
        known = self._rows.get(id(relative))
        if known is not None and known[0] is relative:
            return known[1]
        claim = self.book.claim
        rows = [(delta, claim(cfa, registers)) for delta, cfa, registers, _ in relative]
        if len(self._rows) > 1 << 16:
            self._rows.clear()
        self._rows[id(relative)] = (relative, rows)
        return rows

    def trim(self) -> None:
        """Keep memory bounded; between functions only."""
        self.coarse.space.trim()
        self.precise.space.trim()


@dataclass(slots=True)
class Run:
    """Consecutive boundaries with one verdict.

    Attributes:
        begin: index of the first instruction.
        end: index after the last.
        verdict: the answer and the doubts.
        reason: why a boundary is assumed or cannot be told.
        state: the tracker's state there, where there is one.
        claim: the row in force.
    """

    begin: int
    end: int
    verdict: Verdict
    reason: str = ""
    state: State | None = None
    claim: Claim | None = None


@dataclass(slots=True)
class FunctionResult:
    """What was found of one function.

    Attributes:
        fde: the function.
        listing: its instructions.
        runs: verdicts, ascending, padding left out.
        boundaries: instruction boundaries in ``runs``.
        tally: boundaries by answer.
        contradictions: (index of the jump, index of its target, verdict there) where what
            follows from a premise contradicts the claim at a place that was already followed.
        exits: (address outside the function, where the jump is) to the state on arrival.
        coarse: proved in the coarse space; there are no runs then, all is proved.
        trampoline: the signal trampoline that the function is, or None.
    """

    fde: Fde
    listing: Listing
    runs: list[Run]
    boundaries: int
    tally: dict[Answer, int]
    contradictions: list[tuple[int, int, Verdict]] = field(default_factory=list)
    exits: dict[tuple[int, int], State] = field(default_factory=dict)
    coarse: bool = False
    trampoline: Trampoline | None = None

    @property
    def unmarked(self) -> bool:
        """Whether this is a signal trampoline whose CIE does not say so."""
        return self.trampoline is not None and not self.fde.cie.is_signal_frame

    @property
    def unprotected(self) -> bool:
        """Whether this is a signal trampoline whose CFI does not begin before it."""
        return self.trampoline is not None and self.trampoline.lead_bytes == 0

    @property
    def has_findings(self) -> bool:
        """Whether anything is wrong."""
        return bool(
            self.tally[Answer.WRONG] or self.contradictions or self.unmarked or self.unprotected
        )


class ImageChecker:
    """Checks the functions of one image.

    Args:
        image: the file.
        engine: shared state of the machine; made anew when None.
        thorough: follow every function so that its results tell every boundary's state.
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
        self._called: frozenset[int] = frozenset()
        code_bytes = sum(end - begin for begin, end in image.executable_ranges())
        self.callees = Callees(self.code, self.engine.coarse, code_bytes)
        self.handover = Handover(self.code, self.engine.book, self.engine.precise.space)

    # -- one function ------------------------------------------------------------------------

    def check_function(self, fde: Fde) -> FunctionResult:
        """Follow one function and judge its rows; raises InputError if its bytes are missing."""
        body, rows, begin = self._parts(fde)
        trampoline = self._trampoline(fde, self.code.code_of(fde))
        try:
            return self._check_function(fde, body, rows, begin, trampoline)
        except TooComplexError as error:
            return self._given_up(fde, body, begin, str(error))

    def _given_up(self, fde: Fde, body: bytes, begin: int, reason: str) -> FunctionResult:
        """Return the result of a function that is beyond every bound of honest code."""
        listing = decode(self.engine.coarse, body, begin)
        total = len(listing.starts)
        tally = dict.fromkeys(Answer, 0)
        tally[Answer.CANNOT_TELL] = total
        runs = [Run(0, total, Verdict(Answer.CANNOT_TELL), reason)] if total else []
        return FunctionResult(fde, listing, runs, total, tally)

    def _check_function(
        self, fde: Fde, body: bytes, rows: ClaimRows, begin: int, trampoline: Trampoline | None
    ) -> FunctionResult:
        if not self.thorough and trampoline is None:
            proved = self._prove_straight(fde, body, rows, begin)
            if proved is not None:
                return proved
            self._sharpen_arrivals(fde)
        result = self._visit(fde, body, rows, self.engine.precise, begin, trampoline)
        if self._paths_disagree(result):
            # A function that never returns, unknown to be one, leads into whatever code stands
            # behind its call. If nothing disagrees without these edges, they are not there.
            doubted = self._visit(
                fde, body, rows, self.engine.precise, begin, trampoline, doubt_calls=True
            )
            # The filler behind such a call is then reached by nothing, and is not counted.
            unseen = doubted.tally[Answer.ASSUMED] - result.tally[Answer.ASSUMED]
            if unseen <= 0 and not self._paths_disagree(doubted):
                result = doubted
        if trampoline is not None and begin > fde.begin:
            self._judge_lead(result, trampoline, rows)
        return result

    @staticmethod
    def _paths_disagree(result: FunctionResult) -> bool:
        return any(doubt.paths_disagree for run in result.runs for doubt in run.verdict.doubts)

    def _parts(self, fde: Fde) -> tuple[bytes, ClaimRows, int]:
        """Return an FDE's code, its claims by offset in that code, and the code's address."""
        body = self.code.code_of(fde)
        rows = self._rows_of(fde)
        trampoline = self._trampoline(fde, body)
        lead = trampoline.lead_bytes if trampoline is not None else 0
        if lead:
            body = body[lead:]
            rows = [(max(0, offset - lead), claim) for offset, claim in rows]
        return body, rows, fde.begin + lead

    def _judge_lead(self, result: FunctionResult, trampoline: Trampoline, rows: ClaimRows) -> None:
        """Judge the row of the byte before a trampoline, which a handler's unwind looks up."""
        begin = result.listing.begin
        space = self.engine.precise.space
        state = signal_entry(space, trampoline.number)
        if state is None or len(rows) < 2 or rows[1][0] > 0:
            return  # one row covers both
        verdict = self.engine.book.judge(space, state, rows[0][1], begin)
        if verdict is not PROVED:
            reason = "the row of the byte before the trampoline; " + _reason(verdict)
            result.runs.insert(0, Run(0, 1, verdict, reason, state, rows[0][1]))
            result.tally[verdict.answer] += 1
            result.boundaries += 1

    def _sharpen_arrivals(self, fde: Fde) -> None:
        """Follow precisely what jumps into an FDE, so that the FDE can be judged precisely."""
        sources = {arrival.source for arrival in self.handover.at(fde) if arrival.coarse}
        for begin in sources:
            source = self.code.covering(begin)
            if source is not None:
                body, rows, start = self._parts(source)
                result = self._visit(source, body, rows, self.engine.precise, start)
                self._give(source, result)

    def _give(self, fde: Fde, result: FunctionResult) -> list[Fde]:
        if not result.exits and not self.handover.has_given(fde):
            return []
        space = self.engine.coarse.space if result.coarse else self.engine.precise.space
        return self.handover.give(fde, result.exits, space, self.engine.rows_of)

    def _prove_straight(
        self, fde: Fde, body: bytes, rows: ClaimRows, begin: int
    ) -> FunctionResult | None:
        """Prove a function in one pass, as nearly all can be; None where that does not do."""
        engine = self.engine
        if fde.cie.is_signal_frame or not rows or not body:
            return None
        space = engine.coarse.space
        brought: dict[int, State] = {}
        for arrival in self.handover.at(fde):
            state = arrival.state if arrival.coarse else coarsened(space, arrival.state)
            known = brought.get(arrival.address)
            brought[arrival.address] = state if known is None else space.join(known, state)
        entry: State | None = space.function_entry()
        if self._is_fragment(fde, rows, body):
            entry = None
            if not brought:
                return None
        around = StraightContext(
            self.code, fde, body, begin, self.callees, rows, engine.book, space
        )
        flow = engine.straight.follow(body, begin, entry, around, brought)
        if flow is None or not self._all_proved(flow, rows, begin, begin + len(body)):
            return None
        starts = flow.starts
        boundaries = len(starts)
        for gap_begin, gap_end in flow.gaps:
            boundaries -= bisect_left(starts, gap_end) - bisect_left(starts, gap_begin)
        tally = dict.fromkeys(Answer, 0)
        tally[Answer.PROVED] = boundaries
        result = FunctionResult(
            fde, Listing(begin, begin + len(body), [], []), [], boundaries, tally
        )
        result.coarse = True
        if flow.exits:
            result.exits = {(target, source): state for target, source, state in flow.exits}
            self.handover.flows[fde.begin] = flow.changes
        return result

    def _rows_of(self, fde: Fde) -> ClaimRows:
        """Return a function's claims, without those on the register that it exists to load.

        A program-counter thunk (i386) returns its result in a register that may be one of the
        callee-saved; its callers know, and have saved it as they save what they write themselves.
        """
        loaded = self.callees.clobbered(fde.begin) if self.engine.machine.bits == 32 else ()
        if not loaded:
            return self.engine.rows_of(fde)
        numbers = self.engine.machine.hardware_to_dwarf
        nothing: Registers = {numbers[register]: UNDEFINED for register in loaded}
        claim = self.engine.book.claim
        return [
            (delta, claim(cfa, {**registers, **nothing}))
            for delta, cfa, registers, _ in fde.relative_rows()
        ]

    def _is_fragment(self, fde: Fde, rows: ClaimRows, body: bytes) -> bool:
        """Return whether an FDE is no function's entry: its frame is already built."""
        # GCC's cold part that consists of landing pads. One at the very begin of an LSDA's range
        # would have offset 0, which means none; so there is a nop before it. Hand-written code
        # begins an FDE before the alignment, with the row of the alignment's own.
        if len(rows) > 1 and self._is_fill(body[: rows[1][0]]):
            return True
        return is_fragment(fde, self.engine.book, self.engine.coarse.space)

    def _is_fill(self, code: bytes) -> bool:
        """Return whether a few bytes consist of instructions that only fill space."""
        bits = self.engine.machine.bits
        offset = 0
        while offset < min(len(code), 16) and is_filler(bits, code[offset:]):
            offset += Decoder(bits, code[offset:]).decode().len
        return offset == len(code)

    def _all_proved(self, flow: StraightFlow, rows: ClaimRows, begin: int, end: int) -> bool:
        """Hold rows against a pass's states; whether every pair that meets is proved."""
        judge, space = self.engine.book.judge, self.engine.coarse.space
        changes = flow.changes
        last = len(rows) - 1
        row = 0
        next_row = begin + rows[1][0] if last else end
        claim = rows[0][1]
        total = len(changes)
        for number, (address, state) in enumerate(changes):
            stop = changes[number + 1][0] if number + 1 < total else end
            if state is None or stop <= address:
                continue
            while next_row <= address and row < last:
                row += 1
                claim = rows[row][1]
                next_row = begin + rows[row + 1][0] if row < last else end
            while True:
                verdict = state.verdicts.get(claim)
                if verdict is None:
                    if claim.reads_ip:
                        return False
                    verdict = judge(space, state, claim, address)
                if verdict is not PROVED:
                    return False
                if next_row >= stop or row == last:
                    break
                row += 1
                claim = rows[row][1]
                next_row = begin + rows[row + 1][0] if row < last else end
        return True

    def _trampoline(self, fde: Fde, body: bytes) -> Trampoline | None:
        """Recognise a signal trampoline, whether the CIE says that it is one or not."""
        believed = fde.cie.is_signal_frame
        if not believed and not any(call in body[:48] for call in _SYSTEM_CALLS):
            return None
        return find_trampoline(self.engine.machine, body[:48], believed=believed)

    def _visit(
        self,
        fde: Fde,
        body: bytes,
        rows: ClaimRows,
        classifier: Classifier,
        begin: int,
        trampoline: Trampoline | None = None,
        *,
        doubt_calls: bool = False,
    ) -> FunctionResult:
        engine = self.engine
        listing = decode(classifier, body, begin)
        context = FunctionContext(
            self.code,
            fde,
            body,
            rows,
            engine.book,
            classifier,
            self.callees,
            doubt_calls=doubt_calls,
        )
        follower = Follower(classifier, context)
        flow = follower.start(listing)
        if trampoline is not None:
            state = signal_entry(classifier.space, trampoline.number)
            seeds = [] if state is None else [(0, state)]
        else:
            seeds = self._seeds(fde, listing, rows, classifier, context)
        follower.follow(flow, seeds)
        self._follow_excused(follower, flow, context)
        unsolved = self._follow_premises(follower, flow, context, body)
        runs = self._judge(flow, rows, classifier.space)
        runs += unsolved
        runs.sort(key=lambda run: run.begin)
        tally = dict.fromkeys(Answer, 0)
        for run in runs:
            tally[run.verdict.answer] += run.end - run.begin
        result = FunctionResult(fde, listing, runs, sum(tally.values()), tally)
        result.exits = {
            (target, listing.begin + listing.starts[jump]): state
            for (target, jump), state in flow.exits.items()
        }
        result.trampoline = trampoline
        for source, target, state in flow.contradicted:
            claim = context.claim_at(listing.starts[target])
            if claim is None:
                continue
            address = listing.begin + listing.starts[target]
            verdict = engine.book.judge(classifier.space, state, claim, address)
            if verdict.answer is Answer.WRONG:
                result.contradictions.append((source, target, verdict))
        return result

    def _seeds(
        self,
        fde: Fde,
        listing: Listing,
        rows: ClaimRows,
        classifier: Classifier,
        context: FunctionContext,
    ) -> list[tuple[int, State]]:
        space = classifier.space
        book = self.engine.book
        seeds = []
        if fde.cie.is_signal_frame:
            return []
        entry_state = space.function_entry()

        def enters(offset: int) -> bool:
            claim = context.claim_at(offset)
            return (
                claim is not None
                and book.judge(space, entry_state, claim, fde.begin + offset).answer
                is Answer.PROVED
            )

        arrivals = self.handover.at(fde)
        section = self.image.section_at(fde.begin)
        if section is not None and section.name.startswith(".plt"):
            body = self.code.code_of(fde)
            for offset in range(0, fde.end - fde.begin, 8):
                if listing.index_of(offset) is not None and (
                    is_stub(self.engine.machine, body[offset : offset + 16]) or enters(offset)
                ):
                    seeds.append((offset, entry_state))
        elif (
            not rows
            or not self._is_fragment(fde, rows, self.code.code_of(fde))
            or self._is_function(fde, {arrival.address for arrival in arrivals})
        ):
            seeds.append((0, entry_state))
        for arrival in arrivals:
            state = arrival.state
            if arrival.coarse:
                state = made_uncertain(space, state)
            seeds.append((arrival.address - listing.begin, state))
        return seeds

    def _is_function(self, fde: Fde, arrivals: set[int]) -> bool:
        """Decide whether an FDE whose first row is not that of a called function is one."""
        if fde.begin in self._called:
            return True
        if fde.begin in arrivals:
            return False
        symbol = self.image.symbol_at(fde.begin)
        return (
            symbol is not None
            and symbol.address == fde.begin
            and symbol.kind == "func"
            and symbol.binding in ("global", "weak")
            and ".cold" not in symbol.name
        )

    def _follow_excused(self, follower: Follower, flow: Flow, context: FunctionContext) -> None:
        """Follow calls that were taken not to return, where nothing else leads behind them.

        A compiler puts code behind a call that does not return only if control arrives there
        from elsewhere; the same holds for landing pads that no call agrees with. Where jumps
        go that cannot be seen, elsewhere may be anywhere.
        """
        tried: set[int] = set()
        while not flow.blind:
            left = sorted(set(context.excused) - tried)
            if not left:
                break
            for offset in left:
                tried.add(offset)
                index = flow.listing.index_of(offset)
                if index is not None and not flow.is_reached(index):
                    states = context.excused[offset]
                    follower.follow(flow, [(offset, state) for state in states])

    def _follow_premises(
        self, follower: Follower, flow: Flow, context: FunctionContext, body: bytes
    ) -> list[Run]:
        """Seed what no visible edge reaches with its rows; return the runs that cannot be."""
        listing = flow.listing
        total = len(listing.starts)
        unsolved: list[Run] = []
        index = reached = 0
        while index < total:
            if index in flow.pieces:
                reached = max(reached, flow.pieces[index][1])
            if index < reached or self._is_padding(listing, index, body):
                index += 1
                continue
            claim = context.claim_at(listing.starts[index])
            state = None
            if claim is not None:
                state = self._brought_blindly(follower.space, flow, claim, index)
                state = state or premise(follower.space, claim)
            if state is not None:
                follower.follow(flow, [(listing.starts[index], state)], assumed=True)
                if index in flow.pieces:
                    continue
            end = index + 1
            while (
                end < total
                and end not in flow.pieces
                and context.claim_at(listing.starts[end]) is claim
            ):
                end += 1
            reason = "no visible edge leads here, and the row cannot be taken as premise"
            unsolved.append(Run(index, end, Verdict(Answer.CANNOT_TELL), reason))
            index = end
        return unsolved

    def _brought_blindly(
        self, space: StateSpace, flow: Flow, claim: Claim, index: int
    ) -> State | None:
        """Return what indirect jumps that cannot be seen would bring, where it fits the row.

        It tells more than the row does: where the stack pointer is, above all.
        """
        found: State | None = None
        address = flow.listing.begin + flow.listing.starts[index]
        for state in dict.fromkeys(flow.blind.values()):
            if self.engine.book.judge(space, state, claim, address) is PROVED:
                found = state if found is None else space.join(found, state)
        if found is None or self.engine.book.judge(space, found, claim, address) is PROVED:
            return found
        return None

    def _is_padding(self, listing: Listing, index: int, body: bytes) -> bool:
        if index in listing.padding:
            return True
        start = listing.starts[index]
        filler = is_filler(self.engine.machine.bits, body[start : start + 15])
        if filler:
            listing.padding.add(index)
        return filler

    def _judge(self, flow: Flow, rows: ClaimRows, space: StateSpace) -> list[Run]:
        """Hold rows against states, one question for each pair that meets."""
        listing = flow.listing
        starts = listing.starts
        book = self.engine.book
        row_indices = [bisect_left(starts, offset) for offset, _ in rows]
        runs: list[Run] = []
        covered = 0
        for leader in sorted(flow.pieces):
            changes, stop = flow.pieces[leader]
            assumed = leader in flow.assumed
            for number, (begin, state) in enumerate(changes):
                end = changes[number + 1][0] if number + 1 < len(changes) else stop
                end = min(end, stop)
                begin = max(begin, covered)
                if begin >= end:
                    continue
                row = bisect_right(row_indices, begin) - 1
                while begin < end:
                    until = end
                    if row + 1 < len(row_indices) and row_indices[row + 1] < end:
                        until = row_indices[row + 1]
                    if until > begin:
                        claim = rows[row][1] if row >= 0 else None
                        self._judge_run(
                            runs, book, space, listing, begin, until, state, claim, assumed
                        )
                    begin = until
                    row += 1
                covered = max(covered, end)
        return runs

    def _judge_run(
        self,
        runs: list[Run],
        book: ClaimBook,
        space: StateSpace,
        listing: Listing,
        begin: int,
        end: int,
        state: State,
        claim: Claim | None,
        assumed: bool,
    ) -> None:
        if claim is None:
            runs.append(Run(begin, end, Verdict(Answer.CANNOT_TELL), "no row covers this address"))
            return
        known = state.verdicts.get(claim)
        if known is PROVED and not assumed:
            last = runs[-1] if runs else None
            mergeable = last is not None and last.verdict is PROVED and last.end == begin
            # Whoever shows states must be given each, however often it was proved before.
            if last is not None and mergeable and (last.state is state or not self.thorough):
                last.end = end
            else:
                runs.append(Run(begin, end, PROVED, "", state, claim))
            return
        step = 1 if claim.reads_ip else end - begin
        for index in range(begin, end, step):
            address = listing.begin + listing.starts[index]
            verdict = book.judge(space, state, claim, address)
            if assumed and verdict.answer is Answer.PROVED:
                verdict = _ASSUMED
            last = runs[-1] if runs else None
            if (
                last is not None
                and last.end == index
                and last.verdict is verdict
                and last.state is state
                and last.claim is claim
            ):
                last.end = index + step
                continue
            reason = "" if verdict is PROVED else _reason(verdict)
            runs.append(Run(index, index + step, verdict, reason, state, claim))

    # -- the whole image ---------------------------------------------------------------------

    def results(self) -> list[FunctionResult]:
        """Check every function; functions whose bytes are missing are left out."""
        done: dict[int, FunctionResult] = {}
        visits: dict[int, int] = {}
        # Fragments last: by then what jumps into them has been followed.
        last = {fde.begin for fde in self.fdes if self._comes_last(fde)}
        self._called = called(self.code, last)
        queue = deque(sorted(self.fdes, key=lambda fde: fde.begin in last))
        queued = {fde.begin for fde in self.fdes}
        while queue:
            fde = queue.popleft()
            queued.discard(fde.begin)
            visits[fde.begin] = visits.get(fde.begin, 0) + 1
            self.engine.trim()
            try:
                result = self.check_function(fde)
                changed = self._give(fde, result)
            except FullframeError:
                continue
            done[fde.begin] = result
            for receiver in changed:
                if receiver.begin not in queued and visits.get(receiver.begin, 0) < _MOST_VISITS:
                    queue.append(receiver)
                    queued.add(receiver.begin)
            result.exits = {}
        return [done[begin] for begin in sorted(done)]

    def _comes_last(self, fde: Fde) -> bool:
        rows = self.engine.rows_of(fde)
        if not rows:
            return False
        try:
            body = bytes(self.image.read(fde.begin, 1))
        except FullframeError:
            return False
        return self._is_fragment(fde, rows, body)


_ASSUMED = Verdict(Answer.ASSUMED)


def _reason(verdict: Verdict) -> str:
    if verdict.answer is Answer.ASSUMED:
        return "reached only by an edge that cannot be seen; its row was taken as premise"
    return "; ".join(f"{doubt.claimed}: {doubt.actual}" for doubt in verdict.doubts)


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


def check_image(image: Image, engine: Engine | None = None) -> FileReport:
    """Check all CFI of one image.

    Args:
        image: an ELF file that was read.
        engine: shared state; made anew when None.

    Returns:
        Counts and findings. Raises InputError where the CFI sections cannot be read at all.
    """
    from fullframe.cfi.describe import findings_of, malformed

    began = time.perf_counter()
    checker = ImageChecker(image, engine)
    report = FileReport(
        image.path, "x32" if getattr(image, "is_x32", False) else image.machine.name
    )
    for result in checker.results():
        report.functions += 1
        report.boundaries += result.boundaries
        report.proved += result.tally[Answer.PROVED]
        report.wrong += result.tally[Answer.WRONG]
        report.assumed += result.tally[Answer.ASSUMED]
        report.cannot_tell += result.tally[Answer.CANNOT_TELL]
        if result.has_findings:
            report.findings += findings_of(checker, result)
        if result.tally[Answer.ASSUMED] or result.tally[Answer.CANNOT_TELL]:
            report.doubtful += _doubtful(checker, result)
    report.findings += malformed(image, checker.tables)
    report.seconds = time.perf_counter() - began
    return report


def _doubtful(checker: ImageChecker, result: FunctionResult) -> list[Doubtful]:
    name = checker.image.function_name(result.fde.begin)
    found: list[Doubtful] = []
    end = -1
    for run in result.runs:
        if run.verdict.answer in (Answer.ASSUMED, Answer.CANNOT_TELL):
            if found and run.begin == end and found[-1].reason == run.reason:
                found[-1].boundaries += run.end - run.begin
            else:
                address = result.listing.begin + result.listing.starts[run.begin]
                place = checker.image.place(address)
                found.append(Doubtful(run.reason, name, place, run.end - run.begin))
            end = run.end
    return found


__all__ = [
    "CALL",
    "CALL_INSIDE",
    "CFA_COLUMN",
    "IP",
    "Doubt",
    "Engine",
    "Finding",
    "ImageChecker",
    "Severity",
    "check_image",
]
