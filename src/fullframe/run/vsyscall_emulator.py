"""i386 user code up to the kernel and back, emulated: for ways in that this CPU cannot take.

Signals, too, for a kernel that runs no i386 programs.

Unicorn runs the code. What the CPU and the kernel do on INT 0x80, SYSENTER and SYSCALL is done
here, as one step each. Sources: Intel SDM vol. 2 and AMD APM vol. 3 (what each instruction saves:
SYSENTER nothing, SYSCALL ecx = return address); Linux since 4.4 (commits 8169aff61195,
7841b408717d: both fast ways in are made to look as if INT 0x80 had been used, and return to the
vDSO's landing pad behind its INT 0x80; a call that is to be restarted returns to that INT 0x80).
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import unicorn
from iced_x86 import Decoder, Instruction, Mnemonic
from unicorn import x86_const

from fullframe.run.stepped import ProgramDiedError
from fullframe.x86.registers import AX, BP, BX, CX, DI, DX, FLAGS, I386, IP, SI, SP

_PAGE = 0x1000
_IDS = {
    number: getattr(x86_const, f"UC_X86_REG_{name.upper()}")
    for number, name in enumerate(I386.register_names)
    if name
}
#: What a register holds that the fast ways back to user mode do not restore (SYSEXIT takes eip and
#: esp from edx and ecx, SYSRET eip from ecx).
_CLOBBERED = 0xC10BBE4D


#: What the kernel saves at a signal: 17 words (Linux, asm/sigcontext.h, ``struct sigcontext_32``).
_SAVED = (
    None, None, None, None, DI, SI, BP, SP, BX, DX, CX, AX, None, None, IP, None, FLAGS,
)  # fmt: skip
#: System call to what lies between the stack pointer at INT 0x80 and these words, in bytes: nothing
#: behind the old trampoline's ``pop``; ``siginfo`` and the head of ``ucontext`` for rt_sigreturn.
_SIGRETURN, _RT_SIGRETURN = 119, 173
_BEFORE_SAVED = {_SIGRETURN: 0, _RT_SIGRETURN: 160}


@dataclass(frozen=True, slots=True)
class SignalHandler:
    """What a signal leads to.

    Attributes:
        address: of the handler.
        restorer: address that it returns to.
        with_siginfo: the kernel makes the frame of rt_sigreturn, otherwise of sigreturn.
    """

    address: int
    restorer: int
    with_siginfo: bool


class EmulatedProgram:
    """Emulated i386 user code; stopped before an instruction whenever a method returns.

    Args:
        mappings: (address, bytes) of what is in memory; everything may be written and executed.
        registers: hardware number (and ``IP``) to value.
        result: what the kernel returns in eax.
        handler: of signals; None if none comes.
    """

    def __init__(
        self,
        mappings: Iterable[tuple[int, bytes]],
        registers: Mapping[int, int],
        result: int = 0,
        handler: SignalHandler | None = None,
    ) -> None:
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        self._result = result
        self._handler = handler
        pages: dict[int, None] = {}
        contents = list(mappings)
        for address, data in contents:
            pages.update(dict.fromkeys(range(address & -_PAGE, address + len(data), _PAGE)))
        for page in pages:
            self._uc.mem_map(page, _PAGE)
        for address, data in contents:
            self._uc.mem_write(address, data)
        self.write_registers(registers)

    def registers(self) -> dict[int, int]:
        """Return hardware number (and ``IP``, ``FLAGS``) to value."""
        return {number: int(self._uc.reg_read(each)) for number, each in _IDS.items()}

    def write_registers(self, values: Mapping[int, int]) -> None:
        """Set registers by hardware number (and ``IP``)."""
        for number, value in values.items():
            self._uc.reg_write(_IDS[number], value)

    def read(self, address: int, size_bytes: int) -> bytes:
        """Read memory; nothing where it is not mapped."""
        for size in (size_bytes, _PAGE - address % _PAGE):
            try:
                return bytes(self._uc.mem_read(address, min(size, size_bytes)))
            except unicorn.UcError:
                continue
        return b""

    def write(self, address: int, data: bytes) -> None:
        """Write memory; nothing where it is not mapped."""
        with contextlib.suppress(unicorn.UcError):
            self._uc.mem_write(address & 0xFFFFFFFF, data)

    def run_to_breakpoint(self) -> None:
        """Nothing to run: it starts where it is to be stepped from."""

    def restart_clock(self) -> None:
        """Nothing waits here."""

    def stop_clock(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing to end."""

    def step(self, number: int = 0) -> None:
        """Execute one instruction, the way into the kernel and back as one.

        Args:
            number: of a signal to enter the handler of instead.

        Raises:
            ProgramDiedError: it cannot be executed.
        """
        if number:
            self._enter_handler(number)
            return
        address = self.registers()[IP]
        decoded = Decoder(32, self.read(address, 15), ip=address).decode()
        if decoded.mnemonic in (Mnemonic.SYSENTER, Mnemonic.SYSCALL):
            self._enter_fast(decoded)
            return
        if decoded.mnemonic == Mnemonic.INT and decoded.immediate8 == 0x80:
            self._enter_by_int80(decoded)
            return
        try:
            self._uc.emu_start(address, 0xFFFFFFFF, count=1)
        except unicorn.UcError as error:
            raise ProgramDiedError(f"cannot be emulated at {address:#x}: {error}") from error

    def _enter_by_int80(self, instruction: Instruction) -> None:
        """Return from a signal, or make a call that gives every register back but eax."""
        before = self.registers()
        distance = _BEFORE_SAVED.get(before[AX])
        if distance is None:
            self.write_registers({AX: self._result, IP: instruction.next_ip})
            return
        saved = self.read(before[SP] + distance, 4 * len(_SAVED))
        if len(saved) != 4 * len(_SAVED):
            raise ProgramDiedError(f"the kernel finds no signal frame at {before[SP]:#x}")
        words = struct.unpack(f"<{len(_SAVED)}I", saved)
        self.write_registers(
            {number: word for number, word in zip(_SAVED, words, strict=True) if number is not None}
        )

    def _enter_handler(self, number: int) -> None:
        """Make a signal frame, and go to the handler (Linux, asm/sigframe.h)."""
        handler = self._handler
        assert handler is not None, "a signal without a handler"
        before = self.registers()
        words = [0 if register is None else before[register] for register in _SAVED]
        saved = struct.pack(f"<{len(_SAVED)}I", *words)
        # Return address and the signal's number, then the words; with siginfo two pointers, siginfo
        # and the head of ucontext are between.
        call = _RT_SIGRETURN if handler.with_siginfo else _SIGRETURN
        behind_return = _BEFORE_SAVED[call] or 4
        head = struct.pack("<II", handler.restorer, number).ljust(4 + behind_return, b"\0")
        # As behind a call: the stack pointer is 4 off its alignment.
        stack = (before[SP] - len(head) - len(saved) - 1024 & -16) - 4
        self.write(stack, head + saved)
        self.write_registers({SP: stack, IP: handler.address})

    def _enter_fast(self, instruction: Instruction) -> None:
        """Enter by SYSENTER or SYSCALL and come back, to be restarted where the code can."""
        before = self.registers()
        sysenter = instruction.mnemonic == Mnemonic.SYSENTER
        stack = before[BP] if sysenter else before[SP]
        # Where the user's stack pointer leads, its ebp was saved: the sixth argument.
        saved = self.read(stack, 4)
        if len(saved) != 4:
            raise ProgramDiedError(f"the kernel finds no sixth argument at {stack:#x}")
        after = {SP: stack, BP: int.from_bytes(saved, "little")}
        code = self.read(instruction.next_ip, 15)
        following = Decoder(32, code, ip=instruction.next_ip).decode()
        if following.mnemonic == Mnemonic.INT and following.immediate8 == 0x80:
            # As if interrupted and restarted: the kernel goes back to INT 0x80 with the arguments
            # where INT 0x80 has them; SYSCALL had argument 2 in ebp, since ecx was the CPU's.
            after |= {CX: before[CX] if sysenter else before[BP], IP: instruction.next_ip}
        else:
            after |= {AX: self._result, CX: _CLOBBERED, IP: instruction.next_ip}
            after |= {DX: _CLOBBERED} if sysenter else {}
        self.write_registers(after)
