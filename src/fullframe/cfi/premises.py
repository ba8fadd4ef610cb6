"""States made from what CFI claims, and the states that signal trampolines start in.

Where no visible edge leads to a piece of code, its row is taken as premise: a state is made in
which the row is true, and everything after is checked from there on.
"""

from __future__ import annotations

from typing import Final

from fullframe.cfi.claims import Claim
from fullframe.cfi.expressions import ExpressionError, decode_expression
from fullframe.cfi.rules import (
    CfaExpression,
    CfaRegister,
    Expression,
    Offset,
    RegisterRule,
    SameValue,
    Undefined,
)
from fullframe.track.state import Slots, State, StateSpace
from fullframe.track.values import (
    CFA,
    CFA_REGION,
    OTHER,
    SIGNAL_REGION,
    UNKNOWN,
    VECTOR_REGION,
    Address,
    Value,
    address,
    entry,
    realigned,
    unplaced,
)
from fullframe.x86.registers import AX, BP, BX, CX, DI, DX, FLAGS, IP, SI, SP, Machine


def premise(space: StateSpace, claim: Claim) -> State | None:
    """Return a state in which a claim is true, or None where the claim cannot be solved.

    Registers that the claim says are saved hold ``UNKNOWN``: they may or may not have been
    overwritten yet.
    """
    machine = space.machine
    # Nothing is said of a register that callees may change: it may still hold what it did.
    registers: list[Value] = [UNKNOWN if space.precise else OTHER] * 16
    slots: Slots = {}
    if isinstance(claim.cfa, CfaRegister):
        base = machine.dwarf_to_hardware.get(claim.cfa.dwarf_register)
        if base is None or base == IP:
            return None
        for register in machine.callee_saved:
            registers[register] = entry(register) if register not in claim.rules else UNKNOWN
        if base != SP:
            registers[SP] = address(unplaced(CFA), 0)
        registers[base] = address(CFA_REGION, -claim.cfa.offset_bytes)
    elif isinstance(claim.cfa, CfaExpression):
        for register in machine.callee_saved:
            registers[register] = entry(register) if register not in claim.rules else UNKNOWN
        found = _base_and_distance(claim.cfa.code, machine)
        if found is None or found[2] is not True:
            return None
        base, distance, _ = found
        region = realigned(CFA)
        registers[SP] = address(unplaced(address(region, 0)), 0)
        registers[base] = address(region, 0)
        slots[region, distance] = CFA
    else:
        return None
    for column, rule in claim.rules.items():
        wanted = CFA if column == SP else entry(column)
        if isinstance(rule, Offset):
            slots[CFA_REGION, rule.offset_bytes] = wanted
        elif isinstance(rule, SameValue | Undefined):
            if column < 16 and isinstance(rule, SameValue):
                registers[column] = wanted
        elif isinstance(rule, RegisterRule):
            other = machine.dwarf_to_hardware.get(rule.dwarf_register)
            vector = machine.dwarf_to_vector(rule.dwarf_register)
            if other is not None and other < 16:
                registers[other] = wanted
            elif vector is not None:
                slots[VECTOR_REGION, 16 * vector] = wanted
        elif isinstance(rule, Expression):
            found = _base_and_distance(rule.code, machine)
            if found is None or found[2]:
                return None
            place = registers[found[0]]
            if not isinstance(place, Address):
                return None
            slots[place.region, place.offset_bytes + found[1]] = wanted
        else:
            return None
    return space.make(tuple(registers), slots)


def _base_and_distance(code: bytes, machine: Machine) -> tuple[int, int, bool] | None:
    """Solve ``breg N, offset [deref]``: (hardware register, distance in bytes, dereferenced)."""
    try:
        operations = decode_expression(code, machine.word_bytes)
    except ExpressionError:
        return None
    if not 1 <= len(operations) <= 2:
        return None
    first = operations[0]
    if len(operations) == 2 and operations[1].opcode != 0x06:  # DW_OP_deref
        return None
    if 0x70 <= first.opcode < 0x90:  # DW_OP_breg0 and the following
        operands = (first.opcode - 0x70, *first.operands)
    elif first.opcode == 0x92:  # DW_OP_bregx
        operands = first.operands
    else:
        return None
    number, distance = operands
    if not isinstance(number, int) or not isinstance(distance, int):
        return None
    hardware = machine.dwarf_to_hardware.get(number)
    if hardware is None or hardware == IP:
        return None
    return hardware, distance, len(operations) == 2


#: Where the kernel puts the interrupted registers, as distances in bytes from the stack pointer
#: that the trampoline starts with: after the handler's ``ret`` has popped the trampoline's own
#: address. By system-call number that the trampoline loads. From ``struct ucontext`` and
#: ``struct sigcontext`` of the kernel's user-space headers (asm/sigcontext.h, asm/ucontext.h)
#: and the frames that signal.c of arch/x86 builds.
_MCONTEXT_64: Final = (
    ("r8", 8), ("r9", 9), ("r10", 10), ("r11", 11), ("r12", 12), ("r13", 13), ("r14", 14),
    ("r15", 15), ("di", DI), ("si", SI), ("bp", BP), ("bx", BX), ("dx", DX), ("ax", AX),
    ("cx", CX), ("sp", SP), ("ip", IP), ("flags", FLAGS),
)  # fmt: skip
_MCONTEXT_32: Final = (
    ("gs", None), ("fs", None), ("es", None), ("ds", None), ("di", DI), ("si", SI), ("bp", BP),
    ("sp", SP), ("bx", BX), ("dx", DX), ("cx", CX), ("ax", AX), ("trapno", None), ("err", None),
    ("ip", IP), ("cs", None), ("flags", FLAGS),
)  # fmt: skip
#: (machine bits, system-call number) to (start of the saved registers, their order, word size).
SIGNAL_FRAMES: Final = {
    (64, 15): (40, _MCONTEXT_64, 8),
    (64, 0x40000201): (40, _MCONTEXT_64, 8),
    (32, 119): (4, _MCONTEXT_32, 4),
    (32, 173): (160, _MCONTEXT_32, 4),
}


def signal_entry(space: StateSpace, system_call: int) -> State | None:
    """Return the state at the start of a signal trampoline.

    Args:
        space: of the machine.
        system_call: the number that the trampoline loads: sigreturn or rt_sigreturn.

    Returns:
        The state in which each saved register's slot holds the interrupted value, or None for
        a number that is no signal return.
    """
    layout = SIGNAL_FRAMES.get((space.machine.bits, system_call))
    if layout is None:
        return None
    place, order, word = layout
    slots: Slots = {}
    for _, register in order:
        if register is not None:
            slots[SIGNAL_REGION, place] = CFA if register == SP else entry(register)
        place += word
    registers: list[Value] = [OTHER] * 16
    registers[SP] = address(SIGNAL_REGION, 0)
    return space.make(tuple(registers), slots)
