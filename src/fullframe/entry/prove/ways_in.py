"""What is known at the first instruction, by the way in.

Sources: Intel SDM vol. 2 (SYSCALL, SYSENTER, INT) and vol. 3 section 6.14.2 (the stack frame of
an interrupt in 64-bit mode), AMD APM vol. 2 section 6.1 (SYSCALL in compatibility mode).
"""

from __future__ import annotations

from fullframe.entry.prove.contract import Contract, WayIn, Work
from fullframe.entry.prove.facts import NO_FACTS, Facts, with_bits
from fullframe.entry.prove.state import USERS, Known, Modes
from fullframe.entry.prove.values import (
    CALLER_STACK,
    CS,
    ENTRY_STACK,
    FLAGS,
    INTO_C,
    LIVE_FLAGS,
    PREVIOUS_TASK,
    SS,
    TASK_STACK,
    expression,
    left,
    something,
    word_read,
)
from fullframe.track.state import Slots, StateSpace
from fullframe.track.values import Value, address, constant, entry
from fullframe.x86.flags import RF
from fullframe.x86.ptregs import OFFSET_OF_SLOT, SLOTS, register_of_slot
from fullframe.x86.registers import AX, CX, IP, R11, SP, X86_64

_NUMBERS = {name: number for number, name in enumerate(X86_64.register_names[:16])}
_SPECIAL = {"orig_ax": 0, "ip": IP, "cs": CS, "flags": FLAGS, "sp": SP, "ss": SS}
_MASK64 = (1 << 64) - 1


def users(slot: str) -> Value:
    """Return the user's value of the register that a slot is for."""
    if slot in _SPECIAL:
        return entry(_SPECIAL[slot])
    return entry(_NUMBERS[register_of_slot(slot)])


def frame_due(way_in: WayIn) -> tuple[Value, ...]:
    """Return what each slot of the frame has to hold before C changes any."""
    frame = {slot: users(slot) for slot in SLOTS}
    if way_in.by == "fork":
        return tuple(left("the parent", slot) for slot in SLOTS)
    if way_in.by in ("SYSCALL", "SYSCALL32"):
        frame["cx"], frame["r11"] = entry(IP), entry(FLAGS)
    for slot, value in way_in.slots:
        if isinstance(value, int):
            frame[slot] = constant(value & _MASK64)
        else:
            frame[slot] = LIVE_FLAGS if value == "live flags" else users(value)
    return tuple(frame[slot] for slot in SLOTS)


def _status(contract: Contract, kind: Work, way_in: WayIn) -> str:
    if kind.name in way_in.brings:
        return "found"
    announced = [word.name for word in contract.words] + [name for _, name in way_in.flags]
    return "unseen" if kind.word in announced else "none"


def initial(contract: Contract, way_in: WayIn, space: StateSpace, separate_tables: bool) -> Known:
    """Return what is known at the first instruction.

    Args:
        contract: for the frame's place.
        way_in: the way in.
        space: where states are made.
        separate_tables: whether user mode has page tables of its own.
    """
    registers: list[Value] = [entry(number) for number in range(16)]
    slots: Slots = {}
    inside = way_in.by in ("fork", "call")
    owner = "kernel" if inside else "user"
    tables = owner if separate_tables else "shared"
    modes = Modes(owner, tables, "off", 0, 0, 0)
    frame = frame_due(way_in)
    facts: Facts = NO_FACTS
    if way_in.by in ("SYSCALL", "SYSCALL32"):
        registers[CX], registers[R11] = entry(IP), entry(FLAGS)
        facts = with_bits(facts, entry(FLAGS), RF, 0)
        if way_in.by == "SYSCALL32":
            registers[CX] = expression("low32", entry(IP))
    elif way_in.by == "SYSENTER":
        registers[SP] = address(ENTRY_STACK, 0)
        modes = modes._replace(ac=USERS, df=USERS, nt=USERS)
    elif way_in.by == "INT":
        registers[SP] = address(ENTRY_STACK, -40)
        for number, register in enumerate((IP, CS, FLAGS, SP, SS)):
            slots[ENTRY_STACK, 8 * number - 40] = entry(register)
        modes = modes._replace(ac=USERS, df=USERS)
    elif way_in.by == "fork":
        registers = [something("a register of the task that ran before")] * 16
        base = contract.frame_offset_bytes
        registers[AX] = entry(PREVIOUS_TASK)
        registers[SP] = address(TASK_STACK, base)
        for slot, value in zip(SLOTS, frame, strict=True):
            slots[TASK_STACK, base + OFFSET_OF_SLOT[slot]] = value
    else:
        registers[SP] = address(CALLER_STACK, 0)
        slots[CALLER_STACK, 0] = INTO_C
        modes = modes._replace(interrupts="on")
    for register, flag in way_in.flags:
        registers[register] = word_read(flag)
    if way_in.canonical_ip:
        facts = facts | {("canonical", entry(IP), 48)}
    for slot, mask, bits in contract.invariants:
        facts = with_bits(facts, frame[SLOTS.index(slot)], mask, bits)
    return Known(
        machine=space.make(tuple(registers), slots),
        modes=modes,
        frame=frame,
        facts=facts,
        features=frozenset(),
        work=tuple(_status(contract, kind, way_in) for kind in contract.work),
        called=way_in.by == "fork",
        condition=None,
        handler_due="",
    )
