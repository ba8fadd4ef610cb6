"""An emulated CPU with a kernel's memory around linked entry code.

Unicorn runs the code; what it does not model (SYSCALL's and SYSRET's changes of state) is done
by ``fullframe.x86.transitions`` at the instructions concerned. Nothing here judges.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import iced_x86
import unicorn
from unicorn import x86_const

from fullframe.errors import UsageError
from fullframe.run.image import Image
from fullframe.x86.kernel_layout import KernelLayout
from fullframe.x86.ptregs import CALLEE_SAVED_BYTES, FRAME_BYTES
from fullframe.x86.registers import X86_64

_PAGE = 0x1000
#: Kernel addresses of the kind that Linux uses for each purpose; nothing depends on the values.
PER_CPU_BASE = 0xFFFF_8880_0001_0000
_PER_CPU_BYTES = 0x10000
STACK_BASE = 0xFFFF_C900_0000_0000
_STACK_BYTES = 0x4000
STACK_TOP = STACK_BASE + _STACK_BYTES
#: Where the frame of the running task lies: at the very top of its stack.
FRAME = STACK_TOP - FRAME_BYTES
USER_GS_BASE = 0x0000_7F12_3456_0000
#: Stack below the frame that is refilled before each run.
_DEAD_BYTES = 256
#: No path of entry code is nearly so long; a loop that does not end is stopped here.
_MAX_INSTRUCTIONS = 20_000

_MSR_KERNEL_GS_BASE = 0xC000_0102

REGISTER_IDS: tuple[int, ...] = tuple(
    getattr(x86_const, f"UC_X86_REG_{name.upper()}") for name in X86_64.register_names[:16]
)
FLAGS_ID: int = x86_const.UC_X86_REG_EFLAGS
GS_BASE_ID: int = x86_const.UC_X86_REG_GS_BASE
IP_ID: int = x86_const.UC_X86_REG_RIP

CodeHook = Callable[[int], None]
ReadHook = Callable[[int, int], None]


def leaving_instructions(image: Image) -> dict[int, str]:
    """Find the instructions that go to user mode: address to ``sysret`` or ``iret``."""
    found: dict[int, str] = {}
    address, size_bytes = image.sections.get(".text", (0, 0))
    decoder = iced_x86.Decoder(64, image.read(address, size_bytes), ip=address)
    kinds = {iced_x86.Code.SYSRETQ: "sysret", iced_x86.Code.IRETQ: "iret"}
    for instruction in decoder:
        if instruction.code in kinds:
            found[instruction.ip] = kinds[instruction.code]
    return found


class Emulator:
    """The CPU in kernel mode, with an image, a stack and per-CPU data.

    Args:
        image: the linked entry code.
        layout: where it expects per-CPU data.
    """

    def __init__(self, image: Image, layout: KernelLayout) -> None:
        offsets = (
            layout.user_sp_offset_bytes,
            layout.stack_top_offset_bytes,
            layout.thread_flags_offset_bytes,
        )
        if not all(0 <= offset <= _PER_CPU_BYTES - 8 for offset in offsets):
            raise UsageError(f"per-CPU offsets {offsets}: the harness has {_PER_CPU_BYTES} bytes")
        self._image = image
        self._layout = layout
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        # Without this Unicorn cuts virtual addresses to the CPU's physical ones.
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        for segment in image.segments:
            start = segment.address & -_PAGE
            size_bytes = (segment.end - start + _PAGE - 1) & -_PAGE
            access = unicorn.UC_PROT_READ
            access |= unicorn.UC_PROT_EXEC if segment.executable else 0
            access |= unicorn.UC_PROT_WRITE if segment.writable else 0
            self._uc.mem_map(start, size_bytes, access)
        data = unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE
        self._uc.mem_map(PER_CPU_BASE, _PER_CPU_BYTES, data)
        self._uc.mem_map(STACK_BASE, _STACK_BYTES, data)
        self._low_offset = min(offsets)
        self._per_cpu = bytearray(max(offsets) + 8 - self._low_offset)
        self.load()

    def load(self) -> None:
        """Write the image to memory, and set GS bases as they are when user mode runs."""
        for segment in self._image.segments:
            self._uc.mem_write(segment.address, segment.data)
        self._uc.reg_write(GS_BASE_ID, USER_GS_BASE)
        self._uc.msr_write(_MSR_KERNEL_GS_BASE, PER_CPU_BASE)

    def kernel_gs_ready(self) -> bool:
        """Tell whether GS bases are as :meth:`load` sets them."""
        return bool(
            self._uc.reg_read(GS_BASE_ID) == USER_GS_BASE
            and self._uc.msr_read(_MSR_KERNEL_GS_BASE) == PER_CPU_BASE
        )

    def enter_kernel_gs(self) -> None:
        """Make the kernel's GS base the active one, as in the middle of the kernel."""
        self._uc.reg_write(GS_BASE_ID, PER_CPU_BASE)
        self._uc.msr_write(_MSR_KERNEL_GS_BASE, USER_GS_BASE)

    def hook_code(self, begin: int, end: int, hook: CodeHook) -> None:
        """Call ``hook(address)`` before each instruction from ``begin`` up to, not at, ``end``."""
        self._uc.hook_add(
            unicorn.UC_HOOK_CODE,
            lambda _uc, address, _size, _data: hook(address),
            begin=begin,
            end=end - 1,
        )

    def hook_callee_saved_reads(self, hook: ReadHook) -> None:
        """Call ``hook(address, size_bytes)`` before each read of the frame's first slots."""
        self._uc.hook_add(
            unicorn.UC_HOOK_MEM_READ,
            lambda _uc, _access, address, size, _value, _data: hook(address, size),
            begin=FRAME,
            end=FRAME + CALLEE_SAVED_BYTES - 1,
        )

    def set_memory(self, frame: bytes, dead_stack: bytes, user_sp: int, thread_flags: int) -> None:
        """Set stack and per-CPU data.

        Args:
            frame: what lies where the frame is to be, 168 bytes.
            dead_stack: what lies below it.
            user_sp: what the scratch word holds.
            thread_flags: the running task's flags.
        """
        layout, low = self._layout, self._low_offset
        self._uc.mem_write(FRAME - _DEAD_BYTES, dead_stack[:_DEAD_BYTES] + frame)
        per_cpu = self._per_cpu
        struct.pack_into("<Q", per_cpu, layout.user_sp_offset_bytes - low, user_sp)
        struct.pack_into("<Q", per_cpu, layout.stack_top_offset_bytes - low, STACK_TOP)
        struct.pack_into("<I", per_cpu, layout.thread_flags_offset_bytes - low, thread_flags)
        self._uc.mem_write(PER_CPU_BASE + low, bytes(per_cpu))

    def set_thread_flags(self, thread_flags: int) -> None:
        """Set the running task's flags."""
        address = PER_CPU_BASE + self._layout.thread_flags_offset_bytes
        self._uc.mem_write(address, thread_flags.to_bytes(4, "little"))

    def set_user_sp(self, value: int) -> None:
        """Overwrite the scratch word, as another task's system call would."""
        address = PER_CPU_BASE + self._layout.user_sp_offset_bytes
        self._uc.mem_write(address, value.to_bytes(8, "little"))

    def read(self, address: int, size_bytes: int) -> bytes:
        """Read memory.

        Raises:
            unicorn.UcError: some of it is not mapped.
        """
        return bytes(self._uc.mem_read(address, size_bytes))

    def write(self, address: int, data: bytes) -> None:
        """Write memory, whatever its protection.

        Raises:
            unicorn.UcError: some of it is not mapped.
        """
        self._uc.mem_write(address, data)

    def read_registers(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Read registers by their Unicorn numbers."""
        return tuple(self._uc.reg_read_batch(ids))

    def write_registers(self, values: Iterable[tuple[int, int]]) -> None:
        """Write registers by their Unicorn numbers."""
        self._uc.reg_write_batch(values)

    def start(self, address: int) -> str:
        """Run until a hook stops it.

        Returns:
            "" if a hook stopped it, else why it ended.
        """
        try:
            # Address 0 is not mapped: only a hook or the limit ends the run.
            self._uc.emu_start(address, 0, count=_MAX_INSTRUCTIONS)
        except unicorn.UcError as error:
            return str(error)
        return ""

    def stop(self) -> None:
        """End the run from a hook."""
        self._uc.emu_stop()
