"""Rows at calls, held against what is so while the callee runs.

An unwinder that comes out of a callee looks up the row of the return address less one: the row in
force at the call instruction. It is asked for while the callee runs, which may have changed every
register that is not callee-saved, and has its return address and its frame below the stack pointer.
So what such a row says must be true then, too; it is not enough that it is true until the call.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace

from fullframe.cfi.claims import CFA_COLUMN, Answer, Claim, ClaimBook, Doubt, Verdict
from fullframe.cfi.context import FunctionContext
from fullframe.cfi.results import Run, reason_of
from fullframe.cfi.rules import CfaRegister, Offset, RegisterRule
from fullframe.track.flow import Flow
from fullframe.track.listing import CALL, CALL_INSIDE
from fullframe.track.state import State, StateSpace


def judge_calls(
    runs: list[Run], flow: Flow, context: FunctionContext, book: ClaimBook, space: StateSpace
) -> list[Run]:
    """Hold the row at each call against the state in which the callee runs.

    Args:
        runs: verdicts on the states at the boundaries, ascending.
        flow: of the function, with its states.
        context: knows what callees keep.
        book: judges.
        space: of the states.

    Returns:
        The runs, with what a call makes false added at its boundary.
    """
    listing = flow.listing
    found: dict[int, Run] = {}
    covered = 0
    for leader in sorted(flow.pieces):
        changes, stop = flow.pieces[leader]
        places = [index for index, _ in changes]
        first = bisect_left(listing.events, (max(leader, covered),))
        last = bisect_left(listing.events, (stop,))
        for index, kind, payload in listing.events[first:last]:
            if kind not in (CALL, CALL_INSIDE):
                continue
            effect = context.while_called(listing, index, kind, payload)
            claim = context.claim_at(listing.starts[index])
            if effect is None or claim is None:
                continue
            state = changes[bisect_right(places, index) - 1][1]
            calling = effect.after(space, state)
            address = listing.begin + listing.starts[index]
            verdict = _verdict(book, space, claim, state, calling, address)
            if verdict is not None:
                premised = leader in flow.assumed
                reason = reason_of(verdict)
                found[index] = Run(
                    index, index + 1, verdict, reason, state, claim, premised, calling
                )
        covered = max(covered, stop)
    return _with(runs, found) if found else runs


def _verdict(
    book: ClaimBook, space: StateSpace, claim: Claim, state: State, calling: State, address: int
) -> Verdict | None:
    """Return the verdict on a row with what the call makes false; None where it makes nothing."""
    if calling is state:
        return None
    later = book.judge(space, calling, claim, address)
    if later.answer is not Answer.WRONG:
        return None
    before = book.judge(space, state, claim, address)
    known = {doubt.column for doubt in before.doubts if not doubt.below_red_zone}
    if CFA_COLUMN in known:
        return None  # without the frame nothing is found, whatever the callee does
    lost = [
        _of_call(book, claim, doubt)
        for doubt in later.doubts
        if doubt.answer is Answer.WRONG
        and not doubt.below_red_zone
        and doubt.column not in known
        # Nobody asks for a register that a callee may change.
        and doubt.column not in claim.scratch
    ]
    if not lost:
        return None
    return Verdict(Answer.WRONG, (*before.doubts, *lost))


def _of_call(book: ClaimBook, claim: Claim, doubt: Doubt) -> Doubt:
    """Say of a doubt that it is the callee's doing."""
    rule = claim.cfa if doubt.column == CFA_COLUMN else claim.rules.get(doubt.column)
    if isinstance(rule, CfaRegister | RegisterRule):
        changed = book.machine.dwarf_name(rule.dwarf_register)
    elif isinstance(rule, Offset):
        changed = "that slot, which is below the stack pointer"
    else:
        changed = "what the rule reads"
    actual = f"the callee may change {changed}; {doubt.actual}"
    return replace(doubt, actual=actual, paths_disagree=False, while_called=True)


def _with(runs: list[Run], found: dict[int, Run]) -> list[Run]:
    """Put runs of one instruction in the place of what they are part of."""
    calls = sorted(found)
    merged: list[Run] = []
    for run in runs:
        begin = run.begin
        for index in calls[bisect_left(calls, run.begin) : bisect_left(calls, run.end)]:
            if begin < index:
                merged.append(replace(run, begin=begin, end=index))
            merged.append(found[index])
            begin = index + 1
        if begin < run.end:
            merged.append(replace(run, begin=begin))
    return merged
