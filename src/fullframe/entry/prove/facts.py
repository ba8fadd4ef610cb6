"""Facts: what the tests on a path have told about values."""

from __future__ import annotations

from collections.abc import Callable

from fullframe.entry.prove.values import Expression, Left, Result, Something, WordRead
from fullframe.track.values import OTHER, UNKNOWN, Address, Constant, Entry, Value, constant

#: ("equal", value, value), ("bits", value, mask, bits), ("most", value, number),
#: ("canonical", value, bits) or ("nonzero", value).
Fact = tuple[object, ...]
Facts = frozenset[Fact]
NO_FACTS: Facts = frozenset()


def is_definite(value: Value | None) -> bool:
    """Return whether two mentions of this value mean the same number."""
    if isinstance(value, Expression):
        return is_definite(value.operand)
    return isinstance(value, Entry | Constant | Left | Result | Address)


def same(facts: Facts, one: Value | None, other: Value | None) -> bool:
    """Return whether two values are known to be equal."""
    if one is None or other is None:
        return False
    if one is other:
        return one is not UNKNOWN and one is not OTHER and not isinstance(one, Something | WordRead)
    return other in equals_of(facts, one)


def equals_of(facts: Facts, value: Value) -> set[Value]:
    """Return everything that a value is known to be equal to, itself included."""
    seen, work = {value}, [value]
    pairs = [(fact[1], fact[2]) for fact in facts if fact[0] == "equal"]
    while work and pairs:
        one = work.pop()
        for pair in pairs:
            for here, there in (pair, pair[::-1]):
                if here is one and there not in seen and isinstance(there, Value):
                    seen.add(there)
                    work.append(there)
    return seen


def known_bits(facts: Facts, value: Value) -> tuple[int, int]:
    """Return (mask of the bits of a value that are known, their values)."""
    if isinstance(value, Constant):
        return (1 << 64) - 1, value.number
    mask = bits = 0
    equal = equals_of(facts, value)
    for other in equal:
        if isinstance(other, Constant):
            return (1 << 64) - 1, other.number
    for fact in facts:
        if fact[0] == "bits" and fact[1] in equal:
            assert isinstance(fact[2], int)
            assert isinstance(fact[3], int)
            mask, bits = mask | fact[2], bits | fact[3]
    return mask, bits


def most(facts: Facts, value: Value) -> int | None:
    """Return the largest number that a value can be, unsigned, if that is known."""
    if isinstance(value, Constant):
        return value.number
    numbers = [fact[2] for fact in facts if fact[0] == "most" and fact[1] is value]
    return min((number for number in numbers if isinstance(number, int)), default=None)


def is_canonical(facts: Facts, value: Value, bits: int) -> bool:
    """Return whether a value is known to be a canonical address of so many bits."""
    equal = equals_of(facts, value)
    return any(
        fact[0] == "canonical" and fact[1] in equal and isinstance(fact[2], int) and fact[2] <= bits
        for fact in facts
    )


def with_equal(facts: Facts, one: Value, other: Value) -> Facts:
    """Add that two values are equal, and what follows for canonical addresses."""
    if one is other or not (is_definite(one) and is_definite(other)):
        return facts
    for value, extended in ((one, other), (other, one)):
        if (
            isinstance(extended, Expression)
            and extended.operation == "canonical"
            and same(facts, value, extended.operand)
        ):
            return facts | {("canonical", value, extended.number)}
    if any(f in facts for f in (("equal", one, other), ("equal", other, one))):
        return facts
    return facts | {("equal", one, other)}


def with_bits(facts: Facts, value: Value, mask: int, bits: int) -> Facts:
    """Add bits of a value; what was known of others of its bits is kept."""
    if not is_definite(value) and not isinstance(value, Entry):
        return facts
    old_mask, old_bits = 0, 0
    kept = facts
    for fact in facts:
        if fact[0] == "bits" and fact[1] is value:
            assert isinstance(fact[2], int)
            assert isinstance(fact[3], int)
            old_mask, old_bits = fact[2], fact[3]
            kept = kept - {fact}
    return kept | {("bits", value, old_mask | mask, (old_bits & ~mask) | (bits & mask))}


def with_most(facts: Facts, value: Value, number: int) -> Facts:
    """Add a bound of a value."""
    if not is_definite(value):
        return facts
    old = most(facts, value)
    if old is not None and old <= number:
        return facts
    return facts - {("most", value, old)} | {("most", value, number)}


def renamed(facts: Facts, rename: Callable[[Value], Value | None]) -> Facts:
    """Replace the values in facts; those whose value becomes None are dropped."""
    out = set()
    for fact in facts:
        parts: list[object] = []
        for part in fact:
            if isinstance(part, Value):
                new = rename(part)
                if new is None:
                    break
                parts.append(new)
            else:
                parts.append(part)
        else:
            out.add(tuple(parts))
    return frozenset(out)


ZERO = constant(0)
