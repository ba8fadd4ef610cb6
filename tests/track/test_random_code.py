"""The tracker against an emulated CPU, and its fast way against its exact one, on random code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import unicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import x86_const as x86

from fullframe.track import (
    CFA_REGION,
    Address,
    Classifier,
    Constant,
    Entry,
    Follower,
    Listing,
    State,
    StateSpace,
    StraightFlow,
    StraightFollower,
    Value,
    decode,
)
from fullframe.track.effects import Effect
from fullframe.track.reader import StreamReader
from fullframe.track.straight import Changes
from fullframe.track.streams import Extent
from fullframe.x86.registers import BP, IP, SP, machine
from tests.track.random_code import RandomCode, random_functions

_CODE = 0x40_0000
_RETURN = 0x50_0000
_STACK, _STACK_BYTES = 0x700_0000, 0x10000
_BUFFERS, _BUFFER_BYTES = 0x800_0000, 0x1000
_CFA = _STACK + _STACK_BYTES // 2
_NAMES = (
    ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", *(f"R{n}" for n in range(8, 16))],
    ["EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI"],
)
_MOST_STEPS = 120


class Alone:
    """Surroundings in which there is nothing, and calls keep what the ABI says."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    has_landing_pads = False
    row_offsets: frozenset[int] = frozenset()

    def call_effect(
        self, listing: Listing, index: int, target: int | None, state: State
    ) -> Effect | None:
        return self._classifier.call

    def jump_targets(self, listing: Listing, index: int, state: State) -> list[int] | None:
        return None

    def entered_by_call(self, listing: Listing, offset: int) -> bool:
        return False

    def landing_pads(
        self, listing: Listing, index: int, state: State
    ) -> tuple[tuple[int, int], ...]:
        return ()

    def jump_targets_at(self, address: int, state: State, stream: Extent) -> list[int] | None:
        return None

    def landing_pad_at(self, address: int) -> tuple[int, int] | None:
        return None

    def guess(self, address: int, changes: Changes) -> State | None:
        # Any guess is allowed: what comes out must not depend on whether it was a good one.
        return next((state for _, state in reversed(changes) if state is not None), None)

    def returns(self, following: int, state: State) -> bool:
        return True

    def holds_while_called(self, address: int, state: State) -> bool:
        return True

    def call_clobbers(self, target: int) -> tuple[int, ...]:
        return ()


def precisely(random: RandomCode) -> dict[int, State]:
    """Follow a function with the worklist, in the precise space: its states by address."""
    space = StateSpace(machine(random.bits), precise=True)
    classifier = Classifier(space)
    listing = decode(classifier, random.code, _CODE)
    follower = Follower(classifier, Alone(classifier))
    flow = follower.start(listing)
    follower.follow(flow, [(0, space.function_entry())])
    states = {}
    for changes, stop in flow.pieces.values():
        for number, (begin, state) in enumerate(changes):
            end = changes[number + 1][0] if number + 1 < len(changes) else stop
            for index in range(begin, min(end, stop)):
                states[_CODE + listing.starts[index]] = state
    return states


def coarsely(random: RandomCode) -> StraightFlow | None:
    """Follow a function in passes, in the coarse space."""
    space = StateSpace(machine(random.bits))
    classifier = Classifier(space)
    stream = StreamReader(classifier).read([(_CODE, random.code)]).stream(0)
    follower = StraightFollower(classifier)
    return follower.follow(stream, space.function_entry(), Alone(classifier), {})


def coarse_states(random: RandomCode, flow: StraightFlow) -> dict[int, State | None]:
    states: dict[int, State | None] = {}
    listing = decode(Classifier(StateSpace(machine(random.bits))), random.code, _CODE)
    for start in (_CODE + offset for offset in listing.starts):
        held = [state for place, state in flow.changes if place <= start]
        states[start] = held[-1]
    return states


# -- the fast way and the exact one ----------------------------------------------------------------


def known(bits: int, state: State) -> dict[object, Value]:
    """What a state of the coarse space claims: the rest may be anything.

    Without a register that tells the CFA no row is proved by it, whatever else it keeps. Places in
    other regions than the caller's frame are left out: the coarse space, which knows no constants,
    takes for extended by an unknown number what the precise one knows the extent of.
    """
    own = machine(bits)
    found: dict[object, Value] = {}
    if not any(_is_in_frame(state.registers[number]) for number in (SP, BP)):
        return found
    for number in (*own.callee_saved, SP):
        value = state.registers[number]
        if isinstance(value, Entry) or (number in (SP, BP) and _is_in_frame(value)):
            found[number] = value
    for key, value in state.slots.items():
        if key[0] is CFA_REGION and (isinstance(value, Entry) or _is_in_frame(value)):
            found[key] = value
    return found


def _is_in_frame(value: Value) -> bool:
    return isinstance(value, Address) and value.region is CFA_REGION


@pytest.mark.parametrize("bits", [64, 32])
def test_the_fast_way_claims_nothing_that_the_exact_one_does_not(bits: int) -> None:
    """Wherever the coarse pass knows something, the precise worklist knows the same."""
    fitting = 0

    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(random_functions(bits))
    def compare(random: RandomCode) -> None:
        nonlocal fitting
        flow = coarsely(random)
        if flow is None:
            return  # left to the exact way
        fitting += 1
        assert flow.fits
        exact = precisely(random)
        for start, state in coarse_states(random, flow).items():
            if state is None:
                assert start not in exact, f"{start:#x} is reached"
                continue
            assert start in exact, f"{start:#x} is not reached"
            there = exact[start]
            for what, value in known(bits, state).items():
                seen = there.registers[what] if isinstance(what, int) else there.slots.get(what)  # type: ignore[call-overload]
                assert seen is value, f"{start:#x}: {what}: {value}, in fact {seen}"

    compare()
    assert fitting > 50


def test_the_fast_way_reaches_nothing_that_the_exact_one_does_not() -> None:
    random = RandomCode(64, bytes.fromhex("c3 0f84 faffffff c3"), "ret; 1: jz 1b; ret")
    flow = coarsely(random)
    assert flow is None or coarse_states(random, flow)[_CODE + 1] is None


# -- the exact way and a CPU -----------------------------------------------------------------------


class _Run:
    """One function on an emulated CPU, entered with pointers to buffers in its registers."""

    def __init__(self, random: RandomCode, seed: int) -> None:
        self.bits = random.bits
        self.word = random.bits // 8
        mode = unicorn.UC_MODE_64 if random.bits == 64 else unicorn.UC_MODE_32
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, mode)
        self.cpu.mem_map(_CODE, 0x1000)
        self.cpu.mem_map(_RETURN, 0x1000)
        self.cpu.mem_map(_STACK, _STACK_BYTES)
        names = _NAMES[0 if random.bits == 64 else 1]
        self.cpu.mem_map(_BUFFERS, _BUFFER_BYTES * len(names))
        self.registers = [getattr(x86, f"UC_X86_REG_{name}") for name in names]
        self.cpu.mem_write(_CODE, random.code)
        self.cpu.mem_write(_CFA - self.word, _RETURN.to_bytes(self.word, "little"))
        self.entered = {IP: _RETURN}
        for number, register in enumerate(self.registers):
            value = _BUFFERS + _BUFFER_BYTES * number + 0x800 + 8 * (seed >> number & 1)
            if number == SP:
                value = _CFA - self.word
            self.entered[number] = value
            self.cpu.reg_write(register, value)
        self.cpu.reg_write(x86.UC_X86_REG_EFLAGS, 0x202 | (seed & 0x41))

    def steps(self) -> Iterator[int]:
        """Yield the address of each instruction before it is executed."""
        place = _CODE
        for _ in range(_MOST_STEPS):
            yield place
            try:
                self.cpu.emu_start(place, _RETURN, count=1)
            except unicorn.UcError:
                return
            place = self.cpu.reg_read(x86.UC_X86_REG_RIP if self.bits == 64 else x86.UC_X86_REG_EIP)

    def number_of(self, value: Value) -> int | None:
        """The number that a value of the tracker's stands for, where it stands for one."""
        if isinstance(value, Entry):
            return self.entered[value.register]
        if isinstance(value, Address) and value.region is CFA_REGION:
            return _CFA + value.offset_bytes
        return value.number if isinstance(value, Constant) else None

    def check(self, place: int, state: State) -> None:
        for number, register in enumerate(self.registers):
            expected = self.number_of(state.registers[number])
            if expected is not None:
                seen = self.cpu.reg_read(register)
                assert seen == expected, f"{place:#x}: register {number}: {seen:#x} {state}"
        for (region, offset), value in state.slots.items():
            expected = self.number_of(value)
            if region is CFA_REGION and expected is not None:
                held = self.cpu.mem_read(_CFA + offset, self.word)
                assert int.from_bytes(held, "little") == expected, f"{place:#x}: {offset} {state}"


@pytest.mark.parametrize("bits", [64, 32])
def test_what_the_tracker_knows_is_so_on_a_cpu(bits: int) -> None:
    """At every instruction that is executed, registers and slots hold what the state says."""
    judged = 0

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(random_functions(bits), st.integers(0, 0xFFFF))
    def run(random: RandomCode, seed: int) -> None:
        nonlocal judged
        states = precisely(random)
        one = _Run(random, seed)
        end = _CODE + len(random.code)
        for place in one.steps():
            if not _CODE <= place < end:
                return
            state = states.get(place)
            assert state is not None, f"{place:#x} is executed, and not reached"
            one.check(place, state)
            judged += 1
            if not all(_is_settled(state.registers[number]) for number in (SP, BP)):
                return

    run()
    assert judged > 1000


def _is_settled(value: Value) -> bool:
    """Return whether stores through a pointer are seen to hit the frame, or not to.

    Where paths bring a pointer to different places the tracker takes it that nothing saved is hit
    (docs/tracker.md): real code is so, and random code need not be.
    """
    return isinstance(value, Entry) or _is_in_frame(value)
