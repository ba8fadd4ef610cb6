"""Signal trampolines: what the kernel lets a handler return to.

A trampoline loads the number of sigreturn or rt_sigreturn and makes the system call; the stack
then holds the interrupted registers. Unwinders look one byte before a return address, and nothing
called a trampoline: its CFI must begin at least one byte early, and its CIE must have the ``S``
augmentation, so that of the interrupted instruction the row there is looked up, not the row one
byte before (GNU C library, restore_rt; Linux vDSO, sigreturn.S of 32-bit code).
"""

from __future__ import annotations

from dataclasses import dataclass

from iced_x86 import Decoder, Mnemonic, OpKind, Register

from fullframe.cfi.premises import SIGNAL_FRAMES
from fullframe.track.listing import is_filler
from fullframe.x86.registers import Machine

_SYSCALL = b"\x0f\x05"
_INT_80 = b"\xcd\x80"
_ACCUMULATOR = (Register.EAX, Register.RAX)


@dataclass(frozen=True, slots=True)
class Trampoline:
    """A signal trampoline that was recognised.

    Attributes:
        lead_bytes: how far the CFI begins before it.
        number: of the system call.
    """

    lead_bytes: int
    number: int


def find_trampoline(machine: Machine, body: bytes, *, believed: bool) -> Trampoline | None:
    """Recognise a signal trampoline at the begin of what an FDE covers.

    Args:
        machine: of the code.
        body: the bytes that the FDE covers, or the first few.
        believed: the CIE says that it is one; its code may then be of any shape that loads the
            number in its first few instructions.

    Returns:
        The trampoline, or None.
    """
    if not believed and _SYSCALL not in body and _INT_80 not in body:
        return None
    # What stands at the begin may be the end of other code: a trampoline at the very begin is
    # looked for first, and only a nop is skipped as filling.
    leads: tuple[int, ...] = (1, 0) if body[:1] == b"\x90" else (0, 1)
    fill = _fill_bytes(machine, body)
    if fill > 1:  # an alignment before the trampoline
        leads = (fill, *leads)
    for lead in leads:
        number = _number_at(machine, body[lead : lead + 24], whole=True)
        if number is not None:
            return Trampoline(lead, number)
    if believed:
        for lead in reversed(leads):
            number = _number_at(machine, body[lead : lead + 24], whole=False)
            if number is not None:
                return Trampoline(lead, number)
    return None


def _fill_bytes(machine: Machine, body: bytes) -> int:
    """Return how many bytes at the begin only fill space."""
    size = 0
    for instruction in Decoder(machine.bits, body):
        if not is_filler(machine.bits, body[size:]):
            return size
        size += instruction.len
    return 0


def _number_at(machine: Machine, body: bytes, *, whole: bool) -> int | None:
    """Return the signal-return number that code loads; with ``whole``, and then asks for."""
    number: int | None = None
    for count, instruction in enumerate(Decoder(machine.bits, body)):
        mnemonic = instruction.mnemonic
        if number is not None:
            asks = mnemonic == Mnemonic.SYSCALL or (
                mnemonic == Mnemonic.INT and instruction.immediate8 == 0x80
            )
            return number if asks else None
        if (
            mnemonic == Mnemonic.MOV
            and instruction.op0_register in _ACCUMULATOR
            and instruction.op1_kind not in (OpKind.REGISTER, OpKind.MEMORY)
        ):
            loaded = int(instruction.immediate(1)) & 0xFFFFFFFF
            if (machine.bits, loaded) not in SIGNAL_FRAMES:
                return None
            if not whole:
                return loaded
            number = loaded
        elif whole:
            # The i386 trampoline for handlers of the old kind first drops the signal's number.
            if count or mnemonic != Mnemonic.POP or instruction.op0_register != Register.EAX:
                return None
        elif count == 2:
            return None
    return None
