"""States: where everything is at one instruction boundary.

A state is immutable and interned in its :class:`StateSpace`: equal states are one object. What
an effect makes of a state is remembered in the state, so that following an instruction seen
before, in a state seen before, is one dictionary look-up, however far apart the two functions
stand. No state is ever copied for an instruction.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, Final

from fullframe.errors import EXIT_INPUT, FullframeError
from fullframe.track.values import (
    CFA,
    CFA_REGION,
    OTHER,
    UNKNOWN,
    VAGUE,
    Address,
    Derived,
    Entry,
    Half,
    Region,
    Value,
    address,
    either,
    entry,
    half,
    is_joined,
    is_unplaced,
    joined,
)
from fullframe.x86.registers import IP, SP, Machine

if TYPE_CHECKING:
    from fullframe.track.effects import Effect

Slots = dict[tuple[Region, int], Value]
Frozen = frozenset[tuple[tuple[Region, int], Value]]

#: New states that one function may have: far more than any honest function has.
_MOST_NEW_STATES = 50_000
#: Slots with something tracked that one state names. What does not fit is not known.
_MOST_SLOTS = 256
#: Stands for a slot of a region where something tracked was stored by an index.
SOMEWHERE: Final = 1 << 48
#: Stands for all the slots of a region that do not fit.
_REST: Final = 1 << 49


class TooComplexError(FullframeError):
    """Code whose states go beyond every bound of honest code."""

    exit_code = EXIT_INPUT


#: States kept before the space starts afresh: bounds memory on hostile or enormous input.
_MOST_STATES = 20_000


class State:
    """Registers and stack slots at one boundary. Never changed after it is made.

    Args:
        registers: 16 values by hardware number.
        slots: see below.
        frozen: the same as a set, to be looked up by.

    Attributes:
        registers: 16 values by hardware number.
        slots: (region, offset in bytes) to the word-sized value there; a slot that is not
            named holds something else than a tracked value.
        lowest: offset of the lowest slot that is named in the caller's frame.
        following: what each effect made of this state.
        verdicts: for the clients: what was concluded of this state, by claim.
        settled: see :meth:`StateSpace.settle`; None until it is asked for.
    """

    __slots__ = (
        "following",
        "frozen",
        "joined",
        "lowest",
        "registers",
        "settled",
        "slots",
        "verdicts",
    )

    def __init__(self, registers: tuple[Value, ...], slots: Slots, frozen: Frozen) -> None:
        self.registers = registers
        self.slots = slots
        self.frozen = frozen
        self.lowest = min([offset for region, offset in slots if region is CFA_REGION], default=0)
        self.following: dict[Effect, State] = {}
        self.joined: dict[State, State] = {}
        self.verdicts: dict[Any, Any] = {}
        self.settled: State | None = None

    def __repr__(self) -> str:
        held = [f"{n}={v}" for n, v in enumerate(self.registers) if v is not OTHER]
        held += [f"[{region}{offset:+d}]={v}" for (region, offset), v in self.placed()]
        return f"<{' '.join(held)}>"

    def placed(self) -> list[tuple[tuple[Region, int], Value]]:
        """Return the slots by place: in ``slots`` they are in the order of whoever came first."""
        return sorted(self.slots.items(), key=lambda item: (item[0][0].name, -item[0][1]))

    @property
    def stack_pointer(self) -> Value:
        """The stack pointer's value."""
        return self.registers[SP]

    def word_at(self, place: Value) -> Value:
        """Return the word at an address: a tracked value, ``OTHER``, or a vague one."""
        if isinstance(place, Address):
            found = self.slots.get((place.region, place.offset_bytes))
            if found is not None:
                return UNKNOWN if isinstance(found, Half) else found
            return UNKNOWN if (place.region, _REST) in self.slots else _unnamed(place.region)
        return UNKNOWN if place in VAGUE or isinstance(place, Derived) else OTHER


def _stretches_to(key: tuple[Region, int], value: Value, word_bytes: int) -> int:
    """Return the offset behind a slot's last byte."""
    return key[1] + (word_bytes // 2 if isinstance(value, Half) else word_bytes)


def _forget_the_vague(slots: Slots) -> None:
    """Do not name what is not known of a joined stack: nobody knows what is not named there.

    Named and unnamed would be two states of the same knowledge, and a loop could go from one to
    the other and back for ever.
    """
    for key in [key for key, value in slots.items() if value in VAGUE]:
        if is_joined(key[0]) and key[1] < SOMEWHERE:
            del slots[key]


def _unnamed(region: Region) -> Value:
    """What a slot of a region holds that no state names."""
    return UNKNOWN if is_joined(region) or is_unplaced(region) else OTHER


class StateSpace:
    """All states of one machine at one precision, interned.

    Args:
        machine: the register file.
        precise: follow every register, constant and vector register; otherwise only the stack
            pointer, the callee-saved registers and the stack. The coarse space is several times
            faster and enough for nearly all compiled code; what it cannot prove is followed
            again in the precise one.
        narrow_pointers: addresses are 32 bits wide although registers are 64 (x32).
    """

    def __init__(
        self, machine: Machine, *, precise: bool = False, narrow_pointers: bool = False
    ) -> None:
        self.machine = machine
        self.precise = precise
        self.narrow_pointers = narrow_pointers
        self._states: dict[tuple[tuple[Value, ...], Frozen], State] = {}
        self.generation = 0
        self._slots: dict[Frozen, tuple[Frozen, Slots]] = {}
        self._limit = _MOST_NEW_STATES
        self._entries: dict[int, State] = {}

    def make(self, registers: tuple[Value, ...], slots: Slots) -> State:
        """Return the interned state of these registers and slots."""
        frozen = frozenset(slots.items())
        found = self._states.get((registers, frozen))
        return self._make(registers, slots, frozen) if found is None else found

    def with_registers(self, state: State, registers: tuple[Value, ...]) -> State:
        """Return the state with other registers."""
        found = self._states.get((registers, state.frozen))
        return self._make(registers, state.slots, state.frozen) if found is None else found

    def _make(self, registers: tuple[Value, ...], slots: Slots, frozen: Frozen) -> State:
        if len(self._states) >= self._limit:
            raise TooComplexError(f"more than {_MOST_NEW_STATES} states in one function")
        # Many states differ in their registers only: they share their slots.
        frozen, shared = self._slots.setdefault(frozen, (frozen, slots))
        found = self._states[registers, frozen] = State(registers, shared, frozen)
        return found

    def trim(self) -> None:
        """Begin a function: start afresh where the space has grown too large."""
        if len(self._states) > _MOST_STATES:
            self.forget()
        self._limit = len(self._states) + _MOST_NEW_STATES

    def forget(self) -> None:
        """Start afresh; between functions only."""
        self._states.clear()
        self._slots.clear()
        self._entries.clear()
        self.generation += 1
        gc.collect()  # states refer to each other

    def function_entry(self, pushed_words: int = 1) -> State:
        """Return the state at a function's first instruction.

        Args:
            pushed_words: words that lie between the CFA and the stack pointer: 1, the return
                address, after a call; lazy-binding stubs start with more.
        """
        found = self._entries.get(pushed_words)
        if found is None:
            found = self._entries[pushed_words] = self._entry(pushed_words)
        return found

    def _entry(self, pushed_words: int) -> State:
        machine = self.machine
        word = machine.word_bytes
        registers: list[Value] = [OTHER] * 16
        for register in range(2 * machine.word_bytes) if self.precise else machine.callee_saved:
            registers[register] = entry(register)
        registers[SP] = address(CFA_REGION, -word * pushed_words)
        return self.make(tuple(registers), {(CFA_REGION, -word): entry(IP)})

    def join(self, one: State, other: State) -> State:
        """Return what holds in both states; see :func:`fullframe.track.values.either`."""
        found = one.joined.get(other)
        if found is None and not self.precise:
            found = one.joined[other] = self._join_coarsely(one, other)
        if found is None:
            registers = tuple(
                a if a is b else either(a, b)
                for a, b in zip(one.registers, other.registers, strict=True)
            )
            slots = {
                key: either(value, other.slots.get(key, _unnamed(key[0])))
                for key, value in one.slots.items()
            }
            for key, value in other.slots.items():
                if key not in slots:
                    slots[key] = either(value, _unnamed(key[0]))
            if registers[SP] in VAGUE:
                registers = self._join_stacks(one, other, registers, slots)
            _forget_the_vague(slots)
            found = one.joined[other] = self.make(registers, slots)
        return found

    def _join_coarsely(self, one: State, other: State) -> State:
        """Keep what both states have, and do not tell the unknown from the rest."""
        registers = tuple(
            a if a is b else OTHER for a, b in zip(one.registers, other.registers, strict=True)
        )
        slots = {key: value for key, value in one.slots.items() if other.slots.get(key) is value}
        return self.make(registers, slots)

    def settle(self, state: State) -> State:
        """Forget the registers whose caller's values also have a slot.

        Whether a loop overwrites such a register must not make a difference between states. For
        the coarse space, where a branch or call ends what a compiler may still leave unsaid.
        """
        if state.settled is None:
            pointer = state.registers[SP]
            # What lies below the stack pointer is what an epilogue has restored from.
            saved = {
                value
                for (region, offset), value in state.slots.items()
                if not isinstance(pointer, Address)
                or region is not pointer.region
                or offset >= pointer.offset_bytes
            }
            registers = tuple(
                OTHER if isinstance(value, Entry) and value in saved else value
                for value in state.registers
            )
            settled = self.with_registers(state, registers)
            settled.settled = settled
            state.settled = settled
        return state.settled

    def _join_stacks(
        self, one: State, other: State, registers: tuple[Value, ...], slots: Slots
    ) -> tuple[Value, ...]:
        """Keep what both paths have at the same distance from their stack pointers."""
        mine, theirs = one.registers[SP], other.registers[SP]
        if not isinstance(mine, Address) or not isinstance(theirs, Address):
            return registers
        region = joined(mine, theirs)
        if region is None:
            return registers
        for key in [key for key in slots if key[0] is region and key[1] < SOMEWHERE]:
            del slots[key]
        for (where, offset), value in one.slots.items():
            if where is not mine.region:
                continue
            distance = offset - mine.offset_bytes
            if other.slots.get((theirs.region, theirs.offset_bytes + distance)) is value:
                slots[region, distance] = value
        return (*registers[:SP], address(region, 0), *registers[SP + 1 :])

    def with_register(self, state: State, register: int, value: Value) -> State:
        """Return the state with one register changed."""
        registers = state.registers
        if registers[register] is value:
            return state
        changed = (*registers[:register], value, *registers[register + 1 :])
        return self.with_registers(state, changed)

    def with_word(self, state: State, place: Value, size_bytes: int, value: Value) -> State:
        """Return the state after a store of ``size_bytes`` at ``place``.

        A store through a pointer of unknown origin is taken not to touch the frame's saved
        registers: code that overwrites its own save area by accident is broken in a way that
        no call-frame information describes.
        """
        if not isinstance(place, Address):
            return state
        region, offset = place.region, place.offset_bytes
        if value is OTHER and region is CFA_REGION and offset + size_bytes <= state.lowest:
            return state
        word = self.machine.word_bytes
        slots = {
            key: kept
            for key, kept in state.slots.items()
            if key[0] is not region
            or key[1] >= offset + size_bytes
            or _stretches_to(key, kept, word) <= offset
        }
        if self.narrow_pointers and size_bytes == word // 2 and isinstance(value, Address):
            value, size_bytes = half(value), word
        if value is not OTHER and size_bytes == word:
            if len(slots) >= _MOST_SLOTS:
                slots[region, _REST] = UNKNOWN
            else:
                slots[region, offset] = value
        elif len(slots) == len(state.slots):
            return state
        return self.make(state.registers, slots)


__all__ = ["CFA", "Slots", "State", "StateSpace"]
