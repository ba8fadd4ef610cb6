"""Conditional jumps: which ways are possible, and what each of them tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from iced_x86 import ConditionCode

from fullframe.entry.prove.contract import Contract
from fullframe.entry.prove.facts import (
    ZERO,
    Facts,
    is_definite,
    known_bits,
    most,
    same,
    with_bits,
    with_equal,
    with_most,
)
from fullframe.entry.prove.state import USERS, Condition, Known
from fullframe.entry.prove.values import INTO_C, Expression, LiveFlags, Result, WordRead
from fullframe.track.values import Address, Constant, Value
from fullframe.x86.flags import AC, DF, NT
from fullframe.x86.ptregs import INDEX_OF_SLOT

_ALL = (1 << 64) - 1


def outcomes(contract: Contract, known: Known, condition_code: Any) -> Iterator[tuple[bool, Known]]:
    """Return the possible outcomes of a conditional jump.

    Args:
        contract: what results of functions mean, and what thread flags announce.
        known: what is known at the jump.
        condition_code: iced-x86's code of the condition.

    Yields:
        (whether the jump is taken, what is known then).
    """
    condition = known.condition
    asked = _QUESTIONS.get(condition_code)
    if condition is None or asked is None:
        yield True, known
        yield False, known
        return
    question, when = asked
    answer = _answer(known.facts, condition, question)
    for truth in (True, False):
        if answer is None or answer is truth:
            after = known if answer is not None else _learn(contract, known, question, truth)
            yield truth is when, after


#: Condition code to (question, the answer with which the jump is taken).
_QUESTIONS = {
    ConditionCode.E: ("zero", True), ConditionCode.NE: ("zero", False),
    ConditionCode.B: ("below", True), ConditionCode.AE: ("below", False),
    ConditionCode.BE: ("below or equal", True), ConditionCode.A: ("below or equal", False),
    ConditionCode.S: ("negative", True), ConditionCode.NS: ("negative", False),
}  # fmt: skip


def _stripped(value: Value, mask: int) -> Value:
    """Return the value of which a test looks at the bits of ``mask``."""
    while isinstance(value, Expression):
        kept = {"low32": 0xFFFF_FFFF, "int": 0x7FFF_FFFF, "and": value.number}.get(value.operation)
        if kept is None or mask & ~kept:
            return value
        value = value.operand
    return value


def _answer(facts: Facts, condition: Condition, question: str) -> bool | None:
    if condition.kind == "compare":
        return _compare_answer(facts, condition, question)
    if condition.kind == "bit":
        if question != "below":
            return None
        return _bits_answer(facts, condition.one, 1 << condition.number, inverted=True)
    if question == "zero":
        return _bits_answer(facts, condition.one, condition.number)
    if question == "negative" and condition.number:
        top = 1 << (condition.number.bit_length() - 1)
        return _bits_answer(facts, condition.one, top, inverted=True)
    return None


def _bits_answer(facts: Facts, value: Value, mask: int, inverted: bool = False) -> bool | None:
    value = _stripped(value, mask)
    known, bits = known_bits(facts, value)
    if bits & known & mask:
        return inverted
    if mask & ~known == 0:
        return not inverted
    if ("nonzero", value) in facts and mask & 0xFFFF_FFFF == 0xFFFF_FFFF:
        return inverted
    return None


def _compare_answer(facts: Facts, condition: Condition, question: str) -> bool | None:
    one, other = condition.one, condition.other
    assert other is not None
    if question == "zero":
        if same(facts, one, other):
            return True
        if isinstance(one, Address) and isinstance(other, Address) and one.region is other.region:
            return False
        if INTO_C in (one, other) and one is not other:
            return False
        mine, theirs = known_bits(facts, one), known_bits(facts, other)
        both = mine[0] & theirs[0]
        if mine[1] & both != theirs[1] & both:
            return False
        return True if both == _ALL else None
    if not isinstance(other, Constant) or question == "negative":
        return None
    limit = other.number + (question == "below or equal")
    if isinstance(one, Constant):
        return one.number < limit
    largest = most(facts, one)
    return True if largest is not None and largest < limit else None


def _learn(contract: Contract, known: Known, question: str, truth: bool) -> Known:
    condition = known.condition
    assert condition is not None
    facts = known.facts
    if condition.kind == "compare":
        assert condition.other is not None
        if question == "zero" and truth:
            facts = with_equal(facts, condition.one, condition.other)
        elif question.startswith("below") and truth and isinstance(condition.other, Constant):
            limit = condition.other.number - (question == "below")
            facts = with_most(facts, condition.one, limit)
        return known._replace(facts=facts)
    if condition.kind == "bit":
        if question == "below":
            bit = 1 << condition.number
            value = _stripped(condition.one, bit)
            facts = with_bits(facts, value, bit, bit if truth else 0)
        return known._replace(facts=facts)
    if question != "zero":
        return known
    return _learn_test(contract, known, condition, truth)


def _learn_test(contract: Contract, known: Known, condition: Condition, zero: bool) -> Known:
    mask = condition.number
    value = _stripped(condition.one, mask)
    if isinstance(value, WordRead):
        return known._replace(work=_work(contract, known, value.name, mask, zero))
    if isinstance(value, LiveFlags):
        return _flags_clear(known, mask) if zero else known
    facts = known.facts
    if zero:
        if mask == _ALL:
            facts = with_equal(facts, value, ZERO)
        else:
            facts = with_bits(facts, value, mask, 0)
    elif mask & (mask - 1) == 0:
        facts = with_bits(facts, value, mask, mask)
    elif is_definite(value) and mask & 0xFFFF_FFFF == 0xFFFF_FFFF:
        facts = facts | {("nonzero", value)}
    known = known._replace(facts=facts)
    if isinstance(value, Result):
        known = _learn_result(contract, known, value.by, zero)
    return known


def _learn_result(contract: Contract, known: Known, name: str, zero: bool) -> Known:
    """What the contract says of a function's zero, or of its other values."""
    facts = known.facts
    work = list(known.work)
    for function in contract.functions:
        if name in function.symbols and not zero:
            for slot, mask, bits in function.nonzero:
                value = known.frame[INDEX_OF_SLOT[slot]]
                if mask == 0:
                    facts = facts | {("canonical", value, bits)}
                else:
                    facts = with_bits(facts, value, mask, bits)
    for index, kind in enumerate(contract.work):
        if zero and f"{name} == 0" in kind.done_by:
            work[index] = "none"
    return known._replace(facts=facts, work=tuple(work))


def _work(contract: Contract, known: Known, word: str, mask: int, zero: bool) -> tuple[str, ...]:
    """Thread flags were looked at: what does that tell of each kind of work?"""
    out = list(known.work)
    for index, kind in enumerate(contract.work):
        if kind.word != word or (kind.before == "handler" and known.called):
            continue
        if zero:
            if kind.mask & ~mask:
                continue
            # What was found has to be done, even if a later look finds nothing. While interrupts
            # are on, work can come up right after the look.
            if out[index] != "found":
                seen = not kind.volatile or known.modes.interrupts == "off"
                out[index] = "none" if seen else "unseen"
        # Once dealt with, work before the call does not come up again.
        elif mask & ~kind.mask == 0 and (kind.before != "handler" or out[index] != "none"):
            out[index] = "found"
    return tuple(out)


def _flags_clear(known: Known, mask: int) -> Known:
    modes = known.modes
    if mask & AC and modes.ac == USERS:
        modes = modes._replace(ac=0)
    if mask & DF and modes.df == USERS:
        modes = modes._replace(df=0)
    if mask & NT and modes.nt == USERS:
        modes = modes._replace(nt=0)
    return known._replace(modes=modes)
