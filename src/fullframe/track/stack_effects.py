"""Effects on memory and the stack: loads and stores, pushes and pops, calls."""

from __future__ import annotations

from fullframe.track.effects import Apply, Memory, add, assign, moved, narrowed, place_of
from fullframe.track.state import SOMEWHERE, Slots, State, StateSpace
from fullframe.track.values import (
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
    cut,
    derived,
    lent,
)
from fullframe.x86.registers import BP, IP, SP


def exchange_memory(register: int, memory: Memory, size_bytes: int) -> Apply:
    """``xchg`` of a register with memory."""

    def apply(space: StateSpace, state: State) -> State:
        place = place_of(space, state, memory)
        loaded = state.word_at(place)
        stored = state.registers[register]
        return assign(space, space.with_word(state, place, size_bytes, stored), register, loaded)

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
                return assign(space, state, target, OTHER)
        return assign(space, state, target, state.word_at(place_of(space, state, memory)))

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
        return assign(space, state, target, cut(found))

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
        return state if target is None else assign(space, state, target, value)

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
        state = assign(space, state, BP, frame)
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
