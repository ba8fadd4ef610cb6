"""Where a kernel keeps what 64-bit entry code needs: per-CPU data, thread flags, selectors.

The generator writes these numbers into assembly, the emulator harness sets memory up by them,
and the cost driver does the same in user space; so they stand below all three.
"""

from __future__ import annotations

from dataclasses import dataclass

from fullframe.x86.flags import SYSCALL_FMASK


@dataclass(frozen=True, slots=True)
class KernelLayout:
    """The numbers of one kernel.

    Attributes:
        user_sp_offset_bytes: per-CPU scratch word (from the kernel's GS base) in which the entry
            parks the user's stack pointer until it has a stack.
        stack_top_offset_bytes: per-CPU word that holds the top of the running task's stack.
        thread_flags_offset_bytes: per-CPU 32-bit word of the running task's thread flags.
        syscall_trace_bit: thread flag: a tracer wants to see system calls enter and leave.
        notify_resume_bit: thread flag: somebody wants to be called before user mode runs again.
        signal_pending_bit: thread flag: a signal waits to be delivered.
        need_resched_bit: thread flag: the scheduler wants the CPU.
        seccomp_bit: thread flag: a filter decides on each system call.
        user_cs: selector of 64-bit user code, requested privilege level included.
        user_ss: selector of user data.
        virtual_address_bits: 48, or 57 with five-level paging; decides what is canonical.
        fmask: the flags that SYSCALL clears (the MSR_SYSCALL_MASK that the kernel sets).
        x32_bit: the bit of a system-call number that marks the x32 ABI.
    """

    user_sp_offset_bytes: int = 0
    stack_top_offset_bytes: int = 8
    thread_flags_offset_bytes: int = 16
    syscall_trace_bit: int = 0
    notify_resume_bit: int = 1
    signal_pending_bit: int = 2
    need_resched_bit: int = 3
    seccomp_bit: int = 8
    user_cs: int = 0x33
    user_ss: int = 0x2B
    virtual_address_bits: int = 48
    fmask: int = SYSCALL_FMASK
    x32_bit: int = 30

    @property
    def work_entry(self) -> int:
        """Mask of the thread flags that call for work before the call."""
        return 1 << self.syscall_trace_bit | 1 << self.seccomp_bit

    @property
    def work_syscall_exit(self) -> int:
        """Mask of the thread flags that call for work once after the call."""
        return 1 << self.syscall_trace_bit

    @property
    def work_user(self) -> int:
        """Mask of the thread flags that call for work whenever user mode is about to run."""
        return (
            1 << self.notify_resume_bit | 1 << self.signal_pending_bit | 1 << self.need_resched_bit
        )

    @property
    def work_exit(self) -> int:
        """Mask of all the thread flags that call for work between the call and user mode."""
        return self.work_syscall_exit | self.work_user


#: The layout that fullframe's own harness and cost driver provide. The thread-flag bits are those
#: of Linux on x86 (``asm/thread_info.h``, 4.2).
HARNESS_LAYOUT = KernelLayout()
