"""The register frame, ``struct pt_regs`` of Linux on x86-64.

Source of the layout: ``asm/ptrace.h`` of the kernel's user-space headers. Slots bear the
kernel's names without the historical ``r`` prefix (``bx``, not ``rbx``), so that a slot and the
register that it holds are two different words.
"""

from __future__ import annotations

from fullframe.x86.registers import SLOT_OF_REGISTER

#: The slots from the lowest address to the highest; a slot's index is its place in this tuple.
SLOTS = (
    "r15", "r14", "r13", "r12", "bp", "bx",
    "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
    "orig_ax",
    "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip
SLOT_BYTES = 8
FRAME_BYTES = SLOT_BYTES * len(SLOTS)

#: Slot name to its index in :data:`SLOTS`.
INDEX_OF_SLOT = {slot: index for index, slot in enumerate(SLOTS)}
#: Slot name to its offset from the start of the frame, in bytes.
OFFSET_OF_SLOT = {slot: index * SLOT_BYTES for index, slot in enumerate(SLOTS)}

#: The slots that a partial frame leaves unwritten: the callee-saved registers of the C ABI
#: (System V ABI x86-64, section 3.2.1), lowest address first.
CALLEE_SAVED_SLOTS = SLOTS[:6]
CALLEE_SAVED_BYTES = SLOT_BYTES * len(CALLEE_SAVED_SLOTS)
#: The general registers that C code may clobber, as the frame stores them, lowest address first.
CALLER_CLOBBERED_SLOTS = SLOTS[6:15]
#: What the CPU itself pushes on an interrupt, and IRET pops, lowest address first.
IRET_SLOTS = SLOTS[16:]

#: The sixteen general registers by hardware number, each with the index of its slot.
INDEX_OF_REGISTER = tuple(INDEX_OF_SLOT[name] for name in SLOT_OF_REGISTER[:16])


def register_of_slot(slot: str) -> str:
    """Name the 64-bit general register that a slot holds, as GNU assembly spells it without ``%``.

    Args:
        slot: one of the slots of a general register.

    Returns:
        The register's name, such as ``rbx`` for ``bx`` and ``r12`` for ``r12``.
    """
    return slot if slot[0] == "r" else f"r{slot}"
