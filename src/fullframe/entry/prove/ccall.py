"""What a call into C does to what is known."""

from __future__ import annotations

from fullframe.entry.prove.contract import Contract, Function
from fullframe.entry.prove.facts import renamed, with_bits
from fullframe.entry.prove.state import Known
from fullframe.entry.prove.values import (
    PER_CPU,
    Left,
    Result,
    left,
    result,
    something,
)
from fullframe.track.state import StateSpace
from fullframe.track.values import Address, Constant, Value, address, constant
from fullframe.x86.ptregs import INDEX_OF_SLOT, OFFSET_OF_SLOT
from fullframe.x86.registers import AX, R10, R11, SP

_MASK64 = (1 << 64) - 1
#: Registers that a C function may change (System V ABI x86-64, section 3.2.1).
SCRATCH = (0, 1, 2, 6, 7, 8, 9, R10, R11)


def after_call(
    contract: Contract,
    space: StateSpace,
    known: Known,
    function: Function,
    name: str,
    site: int,
    base: Address,
    frame_place: Address,
) -> Known:
    """Return what is known when a C function has returned.

    Args:
        contract: for invariants and work.
        space: where states are made.
        known: what was known when it was entered; rsp points to the return address.
        function: what it may do.
        name: the function, for values and messages.
        site: address of the call; 0 for a handler, of which a path calls only one.
        base: where the frame was.
        frame_place: where the frame is afterwards.
    """
    mark = f"{name} (called at {site:#x})" if site else name
    known = _forget(space, known, mark, site)
    registers = list(known.machine.registers)
    for register in SCRATCH:
        registers[register] = something("a leftover of C code")
    slots = dict(known.machine.slots)
    frame = list(known.frame)
    if function.moves_frame and base is not frame_place:
        for offset in OFFSET_OF_SLOT.values():
            held = slots.get((base.region, base.offset_bytes + offset))
            place = (frame_place.region, frame_place.offset_bytes + offset)
            slots.pop(place, None)
            if held is not None:
                slots[place] = held
    for slot in function.modifies:
        value = left(mark, slot)
        frame[INDEX_OF_SLOT[slot]] = value
        offset = frame_place.offset_bytes + OFFSET_OF_SLOT[slot]
        slots[frame_place.region, offset] = value
    for slot, number in function.sets:
        frame[INDEX_OF_SLOT[slot]] = constant(number & _MASK64)
    returned: Value = result(name, site)
    if function.dispatches and "ax" not in function.modifies:
        frame[INDEX_OF_SLOT["ax"]] = returned
    if function.returns == "frame":
        returned = frame_place
    registers[AX] = returned
    pointer = registers[SP]
    if isinstance(pointer, Address):
        high = pointer.offset_bytes + 8
        slots = {
            key: value
            for key, value in slots.items()
            if key[0] is not pointer.region or key[1] >= high
        }
        registers[SP] = address(pointer.region, high)
    # The scratch word is for whoever enters the kernel next.
    slots = {key: value for key, value in slots.items() if key[0] is not PER_CPU}
    modes = known.modes._replace(df=0)
    if function.returns_interrupts != "same":
        modes = modes._replace(interrupts=function.returns_interrupts)
    facts = known.facts
    for slot, mask, bits in contract.invariants:
        facts = with_bits(facts, frame[INDEX_OF_SLOT[slot]], mask, bits)
    after = known._replace(
        machine=space.make(tuple(registers), slots),
        modes=modes,
        frame=tuple(frame),
        facts=facts,
        work=_work_after(contract, known, function, modes.interrupts),
        called=known.called or function.dispatches,
        condition=None,
        handler_due="",
    )
    return _tidy(after)


def _work_after(
    contract: Contract, known: Known, function: Function, interrupts: str
) -> tuple[str, ...]:
    out = []
    words = {word.name for word in contract.words}
    for kind, status in zip(contract.work, known.work, strict=True):
        again = kind.volatile or (
            function.dispatches and kind.before == "way out" and kind.word in words
        )
        if any(symbol in kind.done_by for symbol in function.symbols):
            # C code that returns with interrupts off has looked after it did the work.
            status = "none" if not kind.volatile or interrupts == "off" else "unseen"
        elif again and status == "none":
            status = "unseen"
        out.append(status)
    return tuple(out)


def _forget(space: StateSpace, known: Known, mark: str, site: int) -> Known:
    """What this call left or returned the time before is not what it leaves this time."""
    stale = something(f"what {mark} left the time before")

    def rename(value: Value) -> Value:
        if isinstance(value, Left) and value.by == mark:
            return stale
        if isinstance(value, Result) and value.site == site:
            return stale
        return value

    machine = known.machine
    registers = tuple(rename(value) for value in machine.registers)
    slots = {key: rename(value) for key, value in machine.slots.items()}
    facts = renamed(known.facts, lambda value: None if rename(value) is stale else value)
    return known._replace(
        machine=space.make(registers, slots),
        frame=tuple(rename(value) for value in known.frame),
        facts=facts,
    )


def _tidy(known: Known) -> Known:
    """Drop facts about values that nothing holds any more."""
    held = {*known.machine.registers, *known.machine.slots.values(), *known.frame}

    def rename(value: Value) -> Value | None:
        inner = value
        while inner not in held:
            operand = getattr(inner, "operand", None)
            if operand is None:
                return value if isinstance(value, Constant) else None
            inner = operand
        return value

    return known._replace(facts=renamed(known.facts, rename))
