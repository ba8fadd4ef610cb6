"""The vocabulary of entry code: enter the kernel, save registers, dispatch, leave.

Each function adds one piece to a listing. A strategy (``fullframe.entry.entry_code``) is a
choice and an order of these; nothing here knows a strategy. Inside every piece rsp points to
the frame unless its docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable

from fullframe.entry.listing import Listing
from fullframe.x86.flags import RF, TF
from fullframe.x86.kernel_layout import KernelLayout
from fullframe.x86.ptregs import (
    CALLEE_SAVED_BYTES,
    CALLEE_SAVED_SLOTS,
    CALLER_CLOBBERED_SLOTS,
    OFFSET_OF_SLOT,
    SLOTS,
    register_of_slot,
)

#: Registers that hold arguments of a system call, in the order of the arguments.
ARGUMENT_SLOTS = ("di", "si", "dx", "r10", "r8", "r9")

ENTRY = "entry_SYSCALL_64"
FAST_CALL_RETURN = "fast_call_return"
FAST_X32_RETURN = "fast_x32_call_return"

FLAGS = "%gs:PER_CPU_THREAD_FLAGS"


def constants(listing: Listing, layout: KernelLayout) -> None:
    """Name the numbers that the code uses: the frame's offsets, the kernel's layout."""
    listing.heading("struct pt_regs, offsets in bytes")
    listing.constants((f"PT_{slot.upper()}", OFFSET_OF_SLOT[slot], "") for slot in SLOTS)
    listing.constants(
        [("CALLEE_SAVED_BYTES", CALLEE_SAVED_BYTES, "bx bp r12-r15, at the frame's start")]
    )
    listing.heading("Where this kernel keeps what entry code needs")
    listing.constants(
        [
            ("PER_CPU_USER_SP", layout.user_sp_offset_bytes, "scratch, only with interrupts off"),
            ("PER_CPU_STACK_TOP", layout.stack_top_offset_bytes, "of the running task"),
            ("PER_CPU_THREAD_FLAGS", layout.thread_flags_offset_bytes, "of the running task"),
            ("WORK_ENTRY", f"{layout.work_entry:#x}", "tracing, seccomp: before the call"),
            ("WORK_SYSCALL_EXIT", f"{layout.work_syscall_exit:#x}", "tracing: after the call"),
            ("WORK_RESCHED", f"{1 << layout.need_resched_bit:#x}", ""),
            ("WORK_USER", f"{layout.work_user:#x}", "before user mode runs again"),
            ("WORK_EXIT", "WORK_SYSCALL_EXIT | WORK_USER", ""),
            ("USER_CS", f"{layout.user_cs:#x}", ""),
            ("USER_SS", f"{layout.user_ss:#x}", ""),
            ("FLAGS_TF", f"{TF:#x}", "single-step"),
            ("FLAGS_RF", f"{RF:#x}", "resume"),
            ("NON_CANONICAL_BITS", 64 - layout.virtual_address_bits, ""),
            ("X32_BIT", layout.x32_bit, "marks an x32 call in its number"),
            ("ENOSYS", 38, ""),
        ]
    )


def enter_kernel(listing: Listing) -> None:
    """Get the kernel's GS base and a stack. Before: the state after SYSCALL, rsp the user's."""
    listing.why(
        """The CPU has put the return address in rcx and the flags in r11, and has
        cleared IF. GS base and rsp are still the user's: get ours first."""
    )
    listing.op("swapgs")
    listing.op("movq", "%rsp, %gs:PER_CPU_USER_SP")
    listing.op("movq", "%gs:PER_CPU_STACK_TOP, %rsp")


def build_frame(listing: Listing) -> None:
    """Push all of the frame but the callee-saved registers. Before: rsp at the stack's top."""
    listing.why("What the CPU would have pushed on an interrupt, so that IRET can undo it.")
    listing.op("pushq", "$USER_SS", "ss")
    listing.op("pushq", "%gs:PER_CPU_USER_SP", "sp")
    listing.op("pushq", "%r11", "flags")
    listing.op("pushq", "$USER_CS", "cs")
    listing.op("pushq", "%rcx", "ip")
    listing.op("pushq", "%rax", "orig_ax: the call's number")
    listing.why(
        """The registers that C code may clobber. The ax slot holds what a call that
        does not exist returns; user space sees rcx and r11 as SYSCALL left them."""
    )
    for slot in reversed(CALLER_CLOBBERED_SLOTS):
        source = "$-ENOSYS" if slot == "ax" else f"%{register_of_slot(slot)}"
        listing.op("pushq", source, slot)


def push_callee_saved(listing: Listing) -> None:
    """Push the callee-saved registers: the frame is full from here on."""
    listing.why("The callee-saved registers: every frame is full.")
    for slot in reversed(CALLEE_SAVED_SLOTS):
        listing.op("pushq", f"%{register_of_slot(slot)}", slot)


def leave_room_for_callee_saved(listing: Listing) -> None:
    """Make room for the callee-saved registers without writing them: the frame is partial."""
    listing.why(
        """C code preserves bx, bp and r12-r15: leave room for them, unwritten. Who needs
        them in the frame fills it first."""
    )
    listing.op("subq", "$CALLEE_SAVED_BYTES, %rsp")


def store_callee_saved(listing: Listing, above: str = "") -> None:
    """Store the callee-saved registers into the room left for them: the frame becomes full.

    Args:
        listing: where to.
        above: what lies on the stack above rsp before the frame, as an addend (``8+``).
    """
    for slot in reversed(CALLEE_SAVED_SLOTS):
        listing.op("movq", f"%{register_of_slot(slot)}, {above}PT_{slot.upper()}(%rsp)")


def load_callee_saved(listing: Listing) -> None:
    """Load the callee-saved registers: whoever was given the frame may have changed it."""
    load_slots(listing, reversed(CALLEE_SAVED_SLOTS))


def load_slots(listing: Listing, slots: Iterable[str]) -> None:
    """Load general registers from their slots."""
    for slot in slots:
        listing.op("movq", f"PT_{slot.upper()}(%rsp), %{register_of_slot(slot)}")


def load_call(listing: Listing) -> None:
    """Load the arguments from the frame: C code has clobbered them, or a tracer changed them."""
    load_slots(listing, ARGUMENT_SLOTS)


def branch_on_work(listing: Listing, mask: str, target: str) -> None:
    """Go to ``target`` if the thread has work of the kind of ``mask``."""
    listing.op("testl", f"${mask}, {FLAGS}")
    listing.op("jnz", target)


def dispatch(
    listing: Listing,
    *,
    no_call: str,
    not_64: str,
    return_label: str = "",
) -> None:
    """Call the 64-bit call whose number is in rax, with the arguments in user registers.

    Args:
        listing: where to.
        no_call: label to go to if there is no such call and no x32 table.
        not_64: label of the x32 dispatch; "" if the table has no x32 calls.
        return_label: exported label to put at the return address.
    """
    listing.op("cmpq", "$NR_64_LAST, %rax", "all 64 bits count")
    listing.op("ja", not_64 or no_call)
    listing.op("movq", "%r10, %rcx", "argument 4, which SYSCALL displaced")
    listing.op("call", "*sys_call_table(, %rax, 8)")
    if return_label:
        listing.op(".globl", return_label)
        listing.label(return_label)


def dispatch_x32(listing: Listing, *, store: str, no_call: str, return_label: str = "") -> None:
    """Call the x32 call whose number is in rax; everything else is no call.

    Args:
        listing: where to.
        store: label to go to with the result in rax.
        no_call: label to go to if there is no such call.
        return_label: exported label to put at the return address.
    """
    listing.why(
        """x32 calls bear a bit in their number. They have a table of their own: a call
        that only 64-bit processes may make is not in it."""
    )
    listing.op("btrq", "$X32_BIT, %rax")
    listing.op("jnc", no_call)
    listing.op("cmpq", "$NR_X32_LAST, %rax")
    listing.op("ja", no_call)
    listing.op("movq", "%r10, %rcx", "argument 4")
    listing.op("call", "*x32_sys_call_table(, %rax, 8)")
    if return_label:
        listing.op(".globl", return_label)
        listing.label(return_label)
    listing.op("jmp", store)


def leave_fast(listing: Listing, *, otherwise: str) -> None:
    """Leave with SYSRET after an ordinary call. Before: interrupts off, no work to do.

    The frame is as the entry built it, but for ax: an ordinary call writes no other slot, so of
    the conditions of SYSRET only those on user-chosen values are left. ip is canonical because
    the platform maps nothing at the end of the lower half; TF is looked at.

    Args:
        listing: where to.
        otherwise: label of the way out that looks at every condition.
    """
    listing.why(
        """An ordinary call changes no slot but ax, so SYSRET will do, unless the user is
        single-stepping: SYSRET would trap before the user's next instruction, not after.
        r11 is loaded from the flags slot, not from its own: what C code does to the
        user's flags must not be lost."""
    )
    listing.op("movq", "PT_FLAGS(%rsp), %r11")
    listing.op("testl", "$(FLAGS_TF | FLAGS_RF), %r11d")
    listing.op("jnz", otherwise)
    load_slots(listing, ("di", "si", "dx", "r10", "r8", "r9", "ax"))
    listing.op("movq", "PT_IP(%rsp), %rcx")
    listing.op("movq", "PT_SP(%rsp), %rsp")
    listing.op("swapgs")
    listing.op("sysretq")


def leave_full(listing: Listing, *, callee_saved_in_frame: bool) -> None:
    """Leave with SYSRET if that restores all that the frame says, else with IRET.

    Before: interrupts off, no work to do.

    Args:
        listing: where to.
        callee_saved_in_frame: whether bx, bp, r12-r15 are to be loaded from the frame; otherwise
            the registers hold the user's values already and their slots are passed over.
    """
    iret = ".Lleave_iret"
    listing.why(
        """SYSRET is faster than IRET, but it takes ip from rcx and flags from r11,
        restores neither RF nor (in time) TF, has fixed selectors, and faults in kernel
        mode, on the user's stack, if rcx is not canonical. Use it only if it gives the
        user exactly what the frame says."""
    )
    listing.op("movq", "PT_CX(%rsp), %rcx")
    listing.op("movq", "PT_IP(%rsp), %r11")
    listing.op("cmpq", "%rcx, %r11")
    listing.op("jne", iret)
    listing.op("shlq", "$NON_CANONICAL_BITS, %rcx", "sign-extend: changes what")
    listing.op("sarq", "$NON_CANONICAL_BITS, %rcx", "is not canonical")
    listing.op("cmpq", "%rcx, %r11")
    listing.op("jne", iret)
    listing.op("cmpq", "$USER_CS, PT_CS(%rsp)")
    listing.op("jne", iret)
    listing.op("movq", "PT_R11(%rsp), %r11")
    listing.op("cmpq", "%r11, PT_FLAGS(%rsp)")
    listing.op("jne", iret)
    listing.op("testl", "$(FLAGS_TF | FLAGS_RF), %r11d")
    listing.op("jnz", iret)
    listing.op("cmpq", "$USER_SS, PT_SS(%rsp)")
    listing.op("jne", iret)
    listing.blank()
    _pop_registers(listing, callee_saved_in_frame)
    listing.op("movq", "PT_SP-PT_ORIG_AX(%rsp), %rsp")
    listing.op("swapgs")
    listing.op("sysretq")
    listing.blank()
    listing.label(iret)
    _pop_registers(listing, callee_saved_in_frame)
    listing.op("addq", "$(PT_IP - PT_ORIG_AX), %rsp", "what is left is what IRET pops")
    listing.op("swapgs")
    listing.op("iretq")


def _pop_registers(listing: Listing, callee_saved_in_frame: bool) -> None:
    """Pop the general registers; rsp then points to orig_ax."""
    slots: tuple[str, ...] = CALLER_CLOBBERED_SLOTS
    if callee_saved_in_frame:
        slots = CALLEE_SAVED_SLOTS + slots
    else:
        listing.op("addq", "$CALLEE_SAVED_BYTES, %rsp", "these are live already")
    for slot in slots:
        listing.op("popq", f"%{register_of_slot(slot)}")


def call_with_frame(listing: Listing, function: str) -> None:
    """Call a C function with the frame as its argument."""
    listing.op("movq", "%rsp, %rdi")
    listing.op("call", function)
