"""Effects: what one instruction does to a state.

Effects are small interned objects; two instructions with the same consequence share one, so
that a state's memory of what followed it serves all of them. An effect never looks at an
instruction's address: code is position-independent to the tracker.
"""

from __future__ import annotations

from collections.abc import Callable

from fullframe.track.state import SOMEWHERE, Slots, State, StateSpace
from fullframe.track.values import (
    CFA_REGION,
    OTHER,
    UNKNOWN,
    VAGUE,
    VECTOR_REGION,
    Address,
    Constant,
    Derived,
    Entry,
    Half,
    Value,
    address,
    constant,
    cut,
    derived,
    either,
    extended,
    is_joined,
    lent,
    realigned,
)
from fullframe.x86.registers import BP, IP, SP

Apply = Callable[[StateSpace, State], State]


class Effect:
    """What one instruction does: a named function from state to state.

    Attributes:
        text: what it does, for debugging.
    """

    __slots__ = ("_apply", "text")

    def __init__(self, text: str, apply: Apply) -> None:
        self.text = text
        self._apply = apply

    def __repr__(self) -> str:
        return f"<{self.text}>"

    def after(self, space: StateSpace, state: State) -> State:
        """Return the state after this effect, remembering it in ``state``."""
        found = state.following.get(self)
        if found is None:
            found = state.following[self] = self._apply(space, state)
        return found


#: A place in memory: base register (None: none), displacement in bytes, whether an index
#: register makes the exact place unknown.
Memory = tuple[int | None, int, bool]


def moved(value: Value, delta_bytes: int, space: StateSpace) -> Value:
    """Return ``value + delta_bytes`` for addresses and constants."""
    if isinstance(value, Address):
        return address(value.region, value.offset_bytes + delta_bytes)
    if isinstance(value, Constant):
        return constant((value.number + delta_bytes) & ((1 << space.machine.bits) - 1))
    if value in VAGUE or delta_bytes == 0 or isinstance(value, Derived):
        return value
    return OTHER


def place_of(space: StateSpace, state: State, memory: Memory) -> Value:
    """Return the address of a memory operand; ``OTHER`` for pointers of unknown origin."""
    base, displacement, indexed = memory
    if base is None:
        return OTHER
    value = state.registers[base]
    if indexed:
        return UNKNOWN if isinstance(value, Address) else OTHER
    return moved(value, displacement, space)


def _set(space: StateSpace, state: State, register: int, value: Value) -> State:
    if (
        not space.precise
        and not (register in (SP, BP) and isinstance(value, Address | Derived))
        and (not isinstance(value, Entry) or register not in space.machine.callee_saved)
        and not (value in VAGUE and register == SP)
    ):
        # The coarse space keeps frame addresses in the stack and frame pointers only.
        value = OTHER
    elif isinstance(value, Derived):
        if register == SP:
            origin = value.origin
            if origin.region is CFA_REGION and origin.offset_bytes >= -space.machine.word_bytes:
                # From the return address upward: the frame is left for another one further out
                # (__builtin_eh_return in an unwinder).
                return space.with_register(state, SP, OTHER)
            return _extend(space, state, origin)
        if not space.precise:
            value = OTHER
    return space.with_register(state, register, value)


def set_register(register: int, value: Value) -> Apply:
    """The register takes a fixed value."""
    return lambda space, state: _set(space, state, register, value)


def clobber(registers: tuple[int, ...]) -> Apply:
    """The registers take values that are nobody's."""

    def apply(space: StateSpace, state: State) -> State:
        values = list(state.registers)
        for register in registers:
            values[register] = OTHER
        return space.make(tuple(values), state.slots)

    return apply


def copy(target: int, source: int) -> Apply:
    """``mov source, target``."""
    return lambda space, state: _set(space, state, target, state.registers[source])


def maybe_copy(target: int, source: int | None) -> Apply:
    """``cmov``: the target keeps its value or takes the source's."""

    def apply(space: StateSpace, state: State) -> State:
        old = state.registers[target]
        new = OTHER if source is None else state.registers[source]
        return _set(space, state, target, either(old, new))

    return apply


def exchange(one: int, other: int) -> Apply:
    """``xchg`` of two registers."""

    def apply(space: StateSpace, state: State) -> State:
        first, second = state.registers[one], state.registers[other]
        return _set(space, _set(space, state, one, second), other, first)

    return apply


def exchange_memory(register: int, memory: Memory, size_bytes: int) -> Apply:
    """``xchg`` of a register with memory."""

    def apply(space: StateSpace, state: State) -> State:
        place = place_of(space, state, memory)
        loaded = state.word_at(place)
        stored = state.registers[register]
        return _set(space, space.with_word(state, place, size_bytes, stored), register, loaded)

    return apply


def load_address(target: int, memory: Memory) -> Apply:
    """``lea``."""

    def apply(space: StateSpace, state: State) -> State:
        base, displacement, indexed = memory
        if base is None:
            return _set(space, state, target, OTHER)
        value = state.registers[base]
        result = moved(value, displacement, space)
        if indexed:
            result = _near_to(result)
        return _set(space, state, target, result)

    return apply


def load_sum(target: int, base: int, index: int, scale: int, displacement: int) -> Apply:
    """``lea`` of a base and an index; exact where the index is a constant."""

    def apply(space: StateSpace, state: State) -> State:
        value, count = state.registers[base], state.registers[index]
        if isinstance(count, Address) and scale == 1:
            value, count = count, value
        if isinstance(value, Address) and isinstance(count, Constant):
            distance = _signed(count.number, space) * scale + displacement
            return _set(space, state, target, moved(value, distance, space))
        result = _near_to(moved(value, displacement, space))
        if result is OTHER:
            result = _near_to(moved(count, displacement, space))
        return _set(space, state, target, result)

    return apply


def load(target: int, memory: Memory) -> Apply:
    """``mov`` of a word from memory.

    What an index finds in the frame is an element of an array, and no saved register, unless
    something tracked was stored by an index as well.
    """

    def apply(space: StateSpace, state: State) -> State:
        base, _, indexed = memory
        if base is not None and space.precise:
            origin = state.registers[base]
            if isinstance(origin, Derived):
                indexed, origin = True, origin.origin
            if (
                indexed
                and isinstance(origin, Address)
                and (origin.region, SOMEWHERE) not in state.slots
            ):
                return _set(space, state, target, OTHER)
        return _set(space, state, target, state.word_at(place_of(space, state, memory)))

    return apply


def load_half(target: int, memory: Memory) -> Apply:
    """``mov`` of a 32-bit word from memory into a 64-bit register (x32)."""

    def apply(space: StateSpace, state: State) -> State:
        place = place_of(space, state, memory)
        found = (
            state.slots.get((place.region, place.offset_bytes))
            if isinstance(place, Address)
            else None
        )
        if not isinstance(found, Half):
            return narrowed((target,))(space, load(target, memory)(space, state))
        return _set(space, state, target, cut(found))

    return apply


def narrowed(registers: tuple[int, ...]) -> Apply:
    """The registers lose their upper halves (x32): see :func:`fullframe.track.values.cut`."""

    def apply(space: StateSpace, state: State) -> State:
        for register in registers:
            state = space.with_register(state, register, cut(state.registers[register]))
        return state

    return apply


def store_indexed(base: int, source: int) -> Apply:
    """``mov`` of a register to a place in the frame that an index tells."""

    def apply(space: StateSpace, state: State) -> State:
        origin, value = state.registers[base], state.registers[source]
        if isinstance(origin, Derived):
            origin = origin.origin
        if not isinstance(origin, Address) or value is OTHER or isinstance(value, Constant):
            return state
        return space.make(state.registers, state.slots | {(origin.region, SOMEWHERE): UNKNOWN})

    return apply


def store(memory: Memory, source: int | None, size_bytes: int) -> Apply:
    """``mov`` of a register (None: of something else) to memory."""

    def apply(space: StateSpace, state: State) -> State:
        base = memory[0]
        if (
            base is not None
            and source is not None
            and space.precise
            and isinstance(state.registers[base], Derived)
        ):
            return store_indexed(base, source)(space, state)
        value = OTHER if source is None else state.registers[source]
        if (
            isinstance(value, Entry)
            and base is not None
            and space.precise
            and size_bytes == space.machine.word_bytes
            and (value.register == IP or value.register in space.machine.callee_saved)
            and not memory[2]
        ):
            state = _lent(space, state, base)
        place = place_of(space, state, memory)
        after = space.with_word(state, place, size_bytes, value)
        if space.precise and not isinstance(value, Entry):
            after = _doubt_losses(space, state, after)
        return after

    return apply


def _doubt_losses(space: StateSpace, before: State, after: State) -> State:
    """Take no store but a push to lose a caller's register for certain.

    A pointer that would hit the save area is hardly what it seems to be, and stores of an
    unrolled loop that would are on a path that cannot be taken (Clang fills short arrays so).
    """
    lost = {
        place: UNKNOWN
        for place, value in before.slots.items()
        if after.slots.get(place) is not value
        and (
            value in VAGUE
            or (isinstance(value, Entry) and value.register != IP and not _holds(after, value))
        )
    }
    return space.make(after.registers, {**after.slots, **lost}) if lost else after


def _holds(state: State, value: Value) -> bool:
    return value in state.registers or value in state.slots.values()


def _lent(space: StateSpace, state: State, base: int) -> State:
    """Give memory of unknown origin a region where it is used to save the caller's values.

    A function may move its frame to memory that its caller lent it (libffi's
    ``ffi_call_unix64`` copies the return address and the saved frame pointer there).
    """
    origin = state.registers[base]
    if origin is not OTHER and not isinstance(origin, Entry):
        return state
    if isinstance(origin, Entry) and origin.register in (IP, *space.machine.callee_saved):
        return state  # first of all it is the caller's value, which rows speak of
    region = lent(base)
    registers = [
        OTHER if isinstance(value, Address) and value.region is region else value
        for value in state.registers
    ]
    registers[base] = address(region, 0)
    slots = {
        key: value
        for key, value in state.slots.items()
        if key[0] is not region and not (isinstance(value, Address) and value.region is region)
    }
    return space.make(tuple(registers), slots)


def add(register: int, delta_bytes: int) -> Apply:
    """``add``, ``sub``, ``inc`` or ``dec`` by a known number."""

    def apply(space: StateSpace, state: State) -> State:
        return _set(space, state, register, moved(state.registers[register], delta_bytes, space))

    return apply


def add_register(register: int, source: int, sign: int) -> Apply:
    """``add`` or ``sub`` of a register: exact for constants, a new region for the stack."""

    def apply(space: StateSpace, state: State) -> State:
        value, distance = state.registers[register], state.registers[source]
        if isinstance(distance, Constant) and isinstance(value, Address | Constant):
            delta = sign * _signed(distance.number, space)
            return _set(space, state, register, moved(value, delta, space))
        if isinstance(value, Constant) and isinstance(distance, Address) and sign > 0:
            result = moved(distance, _signed(value.number, space), space)
            return _set(space, state, register, result)
        result = _near_to(value)
        if result is OTHER and sign > 0:
            result = _near_to(distance)
        return _set(space, state, register, result)

    return apply


def add_something(register: int) -> Apply:
    """``add`` or ``sub`` of a number that is not tracked."""
    return lambda space, state: _set(space, state, register, _near_to(state.registers[register]))


def align(register: int, mask: int) -> Apply:
    """``and`` with a mask that rounds an address down."""

    def apply(space: StateSpace, state: State) -> State:
        value = state.registers[register]
        if isinstance(value, Address):
            return _set(space, state, register, address(realigned(value), 0))
        if isinstance(value, Constant):
            return _set(space, state, register, constant(value.number & mask))
        return _set(space, state, register, _near_to(value))

    return apply


def _near_to(value: Value) -> Value:
    """Return what an address, moved by an unknown distance, becomes."""
    if isinstance(value, Address):
        return derived(value)
    return value if value in VAGUE or isinstance(value, Derived) else OTHER


def _extend(space: StateSpace, state: State, pointer: Address) -> State:
    region = extended(pointer)
    # The region is made anew: what an earlier turn of a loop left in it is gone.
    slots = {key: value for key, value in state.slots.items() if key[0] is not region}
    return _set(space, space.make(state.registers, slots), SP, address(region, 0))


def push(source: int | Value | None, size_bytes: int) -> Apply:
    """``push`` of a register, of a value, or (None) of something else."""

    def apply(space: StateSpace, state: State) -> State:
        if isinstance(source, int):
            value: Value = state.registers[source]
        else:
            value = OTHER if source is None else source
        pointer = moved(state.registers[SP], -size_bytes, space)
        state = space.with_register(state, SP, pointer)
        return space.with_word(state, pointer, size_bytes, value)

    return apply


def push_memory(memory: Memory, size_bytes: int) -> Apply:
    """``push`` from memory; a base of the stack pointer is read before the push."""

    def apply(space: StateSpace, state: State) -> State:
        value = state.word_at(place_of(space, state, memory))
        return push(value, size_bytes)(space, state)

    return apply


def pop(target: int | None, size_bytes: int) -> Apply:
    """``pop`` into a register, or (None) past something."""

    def apply(space: StateSpace, state: State) -> State:
        pointer = state.registers[SP]
        value = state.word_at(pointer)
        state = space.with_register(state, SP, moved(pointer, size_bytes, space))
        return state if target is None else _set(space, state, target, value)

    return apply


def pop_memory(memory: Memory, size_bytes: int) -> Apply:
    """``pop`` into memory; a base of the stack pointer is read after the pop (SDM, POP)."""

    def apply(space: StateSpace, state: State) -> State:
        pointer = state.registers[SP]
        value = state.word_at(pointer)
        state = space.with_register(state, SP, moved(pointer, size_bytes, space))
        return space.with_word(state, place_of(space, state, memory), size_bytes, value)

    return apply


def leave(word_bytes: int) -> Apply:
    """``leave``: sp = bp, then pop bp."""

    def apply(space: StateSpace, state: State) -> State:
        state = space.with_register(state, SP, state.registers[BP])
        return pop(BP, word_bytes)(space, state)

    return apply


def push_all(word_bytes: int) -> Apply:
    """``pusha``: all registers, the stack pointer as it was before (SDM, PUSHA/PUSHAD)."""

    def apply(space: StateSpace, state: State) -> State:
        for value in state.registers[:8]:
            state = push(value, word_bytes)(space, state)
        return state

    return apply


def enter(size_bytes: int, level: int, word_bytes: int) -> Apply:
    """``enter size, level``: copies ``level - 1`` frame pointers and adds its own (SDM, ENTER)."""

    def apply(space: StateSpace, state: State) -> State:
        outer = state.registers[BP]
        state = push(BP, word_bytes)(space, state)
        frame = state.registers[SP]
        for number in range(1, level):
            value = state.word_at(moved(outer, -word_bytes * number, space))
            state = push(value, word_bytes)(space, state)
        if level:
            state = push(frame, word_bytes)(space, state)
        state = _set(space, state, BP, frame)
        return add(SP, -size_bytes)(space, state)

    return apply


def call(clobbered: tuple[int, ...], popped_bytes: int = 0) -> Apply:
    """A call that returns: the callee keeps the other registers, and may write below the stack.

    Args:
        clobbered: registers that the callee may change.
        popped_bytes: what the callee's ``ret n`` takes off the caller's stack.
    """

    def apply(space: StateSpace, state: State) -> State:
        registers = list(state.registers)
        for register in clobbered:
            registers[register] = OTHER
        pointer = registers[SP]
        slots = state.slots
        if isinstance(pointer, Address):
            region, limit = pointer.region, pointer.offset_bytes
            slots = {
                key: value
                for key, value in slots.items()
                if key[0] is not VECTOR_REGION and (key[0] is not region or key[1] >= limit)
            }
            registers[SP] = moved(pointer, popped_bytes, space)
        if space.precise:
            slots = _slots_within_reach(state, slots)
        return space.make(tuple(registers), slots)

    return apply


def _slots_within_reach(state: State, slots: Slots) -> Slots:
    """Weaken the pointers to locals that a callee can change.

    A container that begins in a buffer of its own moves to the heap when it grows: the pointer
    in it is the buffer's address only until a callee was given the container's.
    """
    given = {
        (value.region, value.offset_bytes)
        for number, value in enumerate(state.registers)
        if isinstance(value, Address) and number not in (SP, BP)
    }
    changed = {
        place: derived(value)
        for place, value in slots.items()
        if isinstance(value, Address) and place in given
    }
    return {**slots, **changed} if changed else slots


def call_as_push(word_bytes: int) -> Apply:
    """A call within the function, seen from its target: a return address was pushed."""
    return push(OTHER, word_bytes)


def to_vector(vector: int, source: int) -> Apply:
    """``movq`` from a general register into a vector register."""

    def apply(space: StateSpace, state: State) -> State:
        return space.with_word(
            state,
            address(VECTOR_REGION, 16 * vector),
            space.machine.word_bytes,
            state.registers[source],
        )

    return apply


def from_vector(target: int, vector: int) -> Apply:
    """``movq`` from a vector register into a general one."""

    def apply(space: StateSpace, state: State) -> State:
        return _set(space, state, target, state.word_at(address(VECTOR_REGION, 16 * vector)))

    return apply


def clobber_vector(vector: int) -> Apply:
    """A vector register takes another value."""

    def apply(space: StateSpace, state: State) -> State:
        return space.with_word(state, address(VECTOR_REGION, 16 * vector), 16, OTHER)

    return apply


def equate(one: int, other: int) -> Apply:
    """What a branch that is taken on equality tells: both registers hold the same."""

    def unsettled(value: Value) -> bool:
        return value in VAGUE or (isinstance(value, Address) and is_joined(value.region))

    def apply(space: StateSpace, state: State) -> State:
        first, second = state.registers[one], state.registers[other]
        if isinstance(first, Address) and not unsettled(first) and unsettled(second):
            return space.with_register(state, other, first)
        if isinstance(second, Address) and not unsettled(second) and unsettled(first):
            return space.with_register(state, one, second)
        return state

    return apply


def sequence(parts: tuple[Apply, ...]) -> Apply:
    """Several effects in turn."""

    def apply(space: StateSpace, state: State) -> State:
        for part in parts:
            state = part(space, state)
        return state

    return apply


def _signed(number: int, space: StateSpace) -> int:
    bits = space.machine.bits
    return number - (1 << bits) if number >> (bits - 1) else number
