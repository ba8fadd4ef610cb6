"""Visiting a function: following it in the precise space, and judging each boundary.

What one pass does not prove is visited: hand-written code, jumps that cannot be seen, wrong rows.
Where no visible edge leads, the row is taken as premise.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from fullframe.cfi.claim_rows import ClaimRows
from fullframe.cfi.claims import ASSUMED, PROVED, Answer, Claim, ClaimBook, Verdict
from fullframe.cfi.context import FunctionContext
from fullframe.cfi.during_calls import judge_calls
from fullframe.cfi.entries import holds_at_entry
from fullframe.cfi.facts import ImageFacts
from fullframe.cfi.frames import Fde
from fullframe.cfi.handover import Handover, made_uncertain
from fullframe.cfi.image_code import is_stub
from fullframe.cfi.inner_entries import InnerEntry
from fullframe.cfi.premises import premise, signal_entry
from fullframe.cfi.results import FunctionResult, Run, reason_of
from fullframe.cfi.rules import CfaRegister
from fullframe.cfi.trampolines import Trampoline
from fullframe.track.flow import Flow, Follower
from fullframe.track.listing import Listing, decode, is_filler
from fullframe.track.state import State, StateSpace
from fullframe.x86.registers import SP

#: What was decoded behind a table in the code may be none; hostile code could go on so.
_MOST_TABLES_IN_CODE = 16


class Visitor:
    """Visits functions of one image.

    Args:
        facts: what is known of the image.
        handover: what other FDEs bring.
        thorough: results tell every boundary's state, however often it was proved before.
    """

    def __init__(self, facts: ImageFacts, handover: Handover, *, thorough: bool) -> None:
        self._facts = facts
        self._handover = handover
        self._thorough = thorough

    def visit(
        self,
        fde: Fde,
        body: bytes,
        rows: ClaimRows,
        begin: int,
        trampoline: Trampoline | None = None,
        *,
        doubting: bool = False,
    ) -> FunctionResult:
        """Follow a function and judge its rows.

        Args:
            fde: the function.
            body: its bytes.
            rows: its claims.
            begin: address of the bytes.
            trampoline: what it is, if that.
            doubting: see :class:`fullframe.cfi.context.FunctionContext`.
        """
        engine = self._facts.engine
        classifier = engine.precise
        for _ in range(_MOST_TABLES_IN_CODE):
            listing = decode(classifier, body, begin)
            context = FunctionContext(self._facts, fde, body, rows, classifier, doubting=doubting)
            code = context.without_tables(listing)
            if code == body:
                break
            body = code
        follower = Follower(classifier, context)
        entries: list[InnerEntry] = []
        flow = follower.start(listing)
        if doubting:
            flow.falls_through = context.falls_through
        if trampoline is not None:
            state = signal_entry(classifier.space, trampoline.number)
            seeds = [] if state is None else [(0, state)]
        else:
            seeds = self._seeds(fde, listing, rows, context)
            entries = self._inner_entries(fde, context)
            context.entered = frozenset(entry.address - begin for entry in entries)
            follower.enter(flow, sorted(context.entered))
        follower.follow(flow, seeds)
        self._follow_excused(follower, flow, context)
        unsolved = self._follow_premises(follower, flow, context, body)
        runs = self._judge(flow, rows)
        if not fde.cie.is_signal_frame:  # its row is looked up at the address, not before it
            runs = judge_calls(runs, flow, context, engine.book, classifier.space)
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
        for entry in entries:
            index = listing.index_of(entry.address - begin)
            if index is not None:
                result.entered[index] = entry
        result.crossings = self._crossings(flow, context)
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
        context: FunctionContext,
    ) -> list[tuple[int, State]]:
        """Return (offset, state) of where control enters the function."""
        facts = self._facts
        engine, code = facts.engine, facts.code
        space, book = engine.precise.space, engine.book
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

        arrivals = self._handover.at(fde)
        if code.is_plt(fde):
            body = code.code_of(fde)
            for offset in range(0, fde.end - fde.begin, 8):
                if listing.index_of(offset) is not None and (
                    is_stub(engine.machine, body[offset : offset + 16]) or enters(offset)
                ):
                    seeds.append((offset, entry_state))
        elif (
            not rows
            or not facts.entries.is_fragment(fde, rows, code.code_of(fde))
            or facts.entries.is_function(fde, {arrival.address for arrival in arrivals})
        ):
            seeds.append((0, entry_state))
        for arrival in arrivals:
            state = arrival.state
            if arrival.coarse:
                state = made_uncertain(space, state)
            seeds.append((arrival.address - listing.begin, state))
        return seeds

    def _inner_entries(self, fde: Fde, context: FunctionContext) -> list[InnerEntry]:
        """Return the places within an FDE that are entered as functions.

        Those are left out that carry on the row of every call that leads there, one word further
        down: an unwinder goes from there to the caller's caller, and rightly.
        """
        return [
            entry
            for entry in self._facts.entries.inner.get(fde.begin, ())
            if entry.visible
            or not all(
                self._is_carried_on(call, context.claim_at(entry.address - fde.begin))
                for call in entry.calls
            )
        ]

    def _is_carried_on(self, call: int, claim: Claim | None) -> bool:
        engine = self._facts.engine
        caller = self._facts.code.covering(call)
        if caller is None or claim is None:
            return False
        before = engine.rows_of(caller).at(call - caller.begin)
        if before is None or before.rules != claim.rules:
            return False
        one, other = before.cfa, claim.cfa
        if not isinstance(one, CfaRegister) or not isinstance(other, CfaRegister):
            return False
        pushed = engine.machine.word_bytes
        stack_pointer = engine.machine.hardware_to_dwarf[SP]
        distance = pushed if one.dwarf_register == stack_pointer else 0
        return other == CfaRegister(one.dwarf_register, one.offset_bytes + distance)

    def _crossings(self, flow: Flow, context: FunctionContext) -> list[tuple[int, int, Verdict]]:
        """Return (source, target, verdict) of what goes into functions' entries with a frame.

        A row can be true only of one: where it is not true of the entry, that is what is told.
        """
        engine, listing = self._facts.engine, flow.listing
        book, space = engine.book, engine.precise.space
        found = []
        for (source, target), state in flow.crossings.items():
            claim = context.claim_at(listing.starts[target])
            address = listing.begin + listing.starts[target]
            if claim is None or not holds_at_entry(book, space, claim, address):
                continue
            verdict = book.judge(space, state, claim, address)
            if verdict.answer is Answer.WRONG:
                found.append((source, target, verdict))
        return found

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
            if self._facts.engine.book.judge(space, state, claim, address) is PROVED:
                found = state if found is None else space.join(found, state)
        if found is None or self._facts.engine.book.judge(space, found, claim, address) is PROVED:
            return found
        return None

    def _is_padding(self, listing: Listing, index: int, body: bytes) -> bool:
        if index in listing.padding:
            return True
        start = listing.starts[index]
        filler = is_filler(self._facts.engine.machine.bits, body[start : start + 15])
        if filler:
            listing.padding.add(index)
        return filler

    def _judge(self, flow: Flow, rows: ClaimRows) -> list[Run]:
        """Hold rows against states, one question for each pair that meets."""
        listing = flow.listing
        starts = listing.starts
        book, space = self._facts.engine.book, self._facts.engine.precise.space
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
            if last is not None and mergeable and (last.state is state or not self._thorough):
                last.end = end
            else:
                runs.append(Run(begin, end, PROVED, "", state, claim))
            return
        step = 1 if claim.reads_ip else end - begin
        for index in range(begin, end, step):
            address = listing.begin + listing.starts[index]
            verdict = book.judge(space, state, claim, address)
            if assumed and verdict.answer is Answer.PROVED:
                verdict = ASSUMED
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
            reason = "" if verdict is PROVED else reason_of(verdict)
            runs.append(Run(index, index + step, verdict, reason, state, claim, assumed))
