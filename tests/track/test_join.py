"""Properties of joining states, and of interning them.

A join may lose knowledge and never gains any: what it says of a register or slot, both of its
states say. The exception is a stack that two paths bring to different places: there it says what
both have at the same distance from their stack pointers.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fullframe.track import CFA_REGION, OTHER, Region, State, StateSpace, Value
from fullframe.track.state import Slots
from fullframe.track.values import (
    CONFLICT,
    UNKNOWN,
    VAGUE,
    Address,
    address,
    constant,
    derived,
    either,
    entry,
    extended,
    is_joined,
    realigned,
)
from fullframe.x86.registers import IP, SP, X86_64

_REGIONS = (
    CFA_REGION,
    realigned(address(CFA_REGION, -16)),
    extended(address(CFA_REGION, -24)),
)
_ADDRESSES = st.builds(
    address, st.sampled_from(_REGIONS), st.integers(-6, 0).map(lambda words: 8 * words)
)
_KNOWN = st.one_of(
    st.sampled_from([entry(register) for register in (0, 3, 5, 12, IP)]),
    _ADDRESSES,
    st.sampled_from([1, 0x1000]).map(constant),
)
_VALUES = st.one_of(_KNOWN, _ADDRESSES.map(derived), st.sampled_from([OTHER, UNKNOWN, CONFLICT]))
#: Few distinct contents, so that two states often agree on some.
_CONTENTS = st.tuples(
    _ADDRESSES,
    st.lists(_VALUES, min_size=3, max_size=3),
    st.dictionaries(
        st.tuples(st.sampled_from(_REGIONS), st.integers(-4, 0).map(lambda words: 8 * words)),
        st.one_of(_KNOWN, st.sampled_from([UNKNOWN, CONFLICT])),
        max_size=4,
    ),
)
Contents = tuple[Value, list[Value], dict[tuple[Region, int], Value]]


def _state(space: StateSpace, contents: Contents) -> State:
    pointer, values, slots = contents
    registers = [*values, *[OTHER] * 13]
    registers[12], registers[3] = registers[0], registers[1]
    registers[SP] = pointer
    return space.make(tuple(registers), dict(slots))


def _held(state: State, key: tuple[Region, int]) -> Value:
    return state.word_at(address(*key))


@given(_VALUES, _VALUES, _VALUES)
def test_either_of_values_is_a_semilattice(one: Value, other: Value, third: Value) -> None:
    assert either(one, one) is one
    assert either(one, other) is either(other, one)
    joined = either(one, other)
    if one is not other:
        assert joined in VAGUE
    assert either(joined, third) in (VAGUE if joined is not third else {joined})


@given(_CONTENTS, st.booleans())
def test_join_with_itself_changes_nothing(contents: Contents, precise: bool) -> None:
    space = StateSpace(X86_64, precise=precise)
    state = _state(space, contents)
    assert space.join(state, state) is state


@given(_CONTENTS, _CONTENTS, st.booleans())
def test_join_is_symmetric(one: Contents, other: Contents, precise: bool) -> None:
    space = StateSpace(X86_64, precise=precise)
    first, second = _state(space, one), _state(space, other)
    assert space.join(first, second) is space.join(second, first)


@given(_CONTENTS, _CONTENTS, st.booleans())
def test_join_loses_only(one: Contents, other: Contents, precise: bool) -> None:
    space = StateSpace(X86_64, precise=precise)
    first, second = _state(space, one), _state(space, other)
    joined = space.join(first, second)
    ignorant = {OTHER, *VAGUE}
    for register, value in enumerate(joined.registers):
        if isinstance(value, Address) and is_joined(value.region):
            assert register == SP
        elif value not in ignorant:
            assert first.registers[register] is second.registers[register] is value
    for key, value in joined.slots.items():
        if not is_joined(key[0]) and value not in ignorant:
            assert _held(first, key) is _held(second, key) is value


@given(_CONTENTS, _CONTENTS)
def test_join_keeps_what_both_have(one: Contents, other: Contents) -> None:
    """Unless the stack pointers differ, in which case places have other names."""
    space = StateSpace(X86_64, precise=True)
    first, second = _state(space, one), _state(space, other)
    joined = space.join(first, second)
    for register in set(range(16)) - {SP}:
        if first.registers[register] is second.registers[register]:
            assert joined.registers[register] is first.registers[register]
    for key in first.slots.keys() & second.slots.keys():
        if first.slots[key] is second.slots[key]:
            assert joined.slots[key] is first.slots[key]


@given(_CONTENTS, _CONTENTS)
def test_joined_stack_holds_what_lies_at_the_same_distance(one: Contents, other: Contents) -> None:
    space = StateSpace(X86_64, precise=True)
    first, second = _state(space, one), _state(space, other)
    joined = space.join(first, second)
    mine, theirs = first.stack_pointer, second.stack_pointer
    assert isinstance(mine, Address)
    assert isinstance(theirs, Address)
    pointer = joined.stack_pointer
    if not (isinstance(pointer, Address) and is_joined(pointer.region)):
        return
    for (region, distance), value in joined.slots.items():
        if region is pointer.region:
            assert _held(first, (mine.region, mine.offset_bytes + distance)) is value
            assert _held(second, (theirs.region, theirs.offset_bytes + distance)) is value


@given(_CONTENTS, _CONTENTS, st.booleans())
def test_joining_again_changes_nothing(one: Contents, other: Contents, precise: bool) -> None:
    """A join is below both of its states: what is known already adds nothing to it."""
    space = StateSpace(X86_64, precise=precise)
    first, second = _state(space, one), _state(space, other)
    joined = space.join(first, second)
    if first.stack_pointer is second.stack_pointer:
        assert space.join(joined, first) is joined
        assert space.join(joined, second) is joined


@given(_CONTENTS)
def test_equal_states_are_one_object(contents: Contents) -> None:
    space = StateSpace(X86_64, precise=True)
    pointer, values, slots = contents
    turned: Slots = dict(reversed(slots.items()))
    assert _state(space, contents) is _state(space, (pointer, list(values), turned))


@given(_CONTENTS, _CONTENTS)
def test_different_states_are_different_objects(one: Contents, other: Contents) -> None:
    space = StateSpace(X86_64, precise=True)
    first, second = _state(space, one), _state(space, other)
    same = first.registers == second.registers and first.slots == second.slots
    assert (first is second) == same


@given(_CONTENTS, _ADDRESSES, _VALUES)
def test_a_store_changes_its_word_alone(contents: Contents, place: Value, value: Value) -> None:
    space = StateSpace(X86_64, precise=True)
    before = _state(space, contents)
    slots = dict(before.slots)
    after = space.with_word(before, place, 8, value)
    assert before.slots == slots  # states are never changed
    assert after.registers is before.registers
    assert isinstance(place, Address)
    assert after.word_at(place) is value
    for key in slots:
        if key != (place.region, place.offset_bytes):
            assert _held(after, key) is _held(before, key)


@given(st.sampled_from(_REGIONS), st.integers(-64, 64), st.sampled_from([1, 2, 4, 8, 16]))
def test_a_store_breaks_every_slot_that_it_touches(
    region: Region, offset: int, size_bytes: int
) -> None:
    space = StateSpace(X86_64, precise=True)
    slots: Slots = {(region, 8 * word): entry(3) for word in range(-8, 8)}
    before = space.make((OTHER,) * 16, slots)
    after = space.with_word(before, address(region, offset), size_bytes, OTHER)
    stored = set(range(offset, offset + size_bytes))
    for key in slots:
        touched = stored & set(range(key[1], key[1] + 8))
        assert (key in after.slots) == (not touched)
