"""The entry assembly of each strategy, put together from the pieces."""

from __future__ import annotations

from fullframe.entry import pieces
from fullframe.entry.listing import Listing
from fullframe.entry.strategy import Strategy, Stubs
from fullframe.entry.tables import DispatchTables
from fullframe.x86.kernel_layout import KernelLayout

#: Where a stub of ``partial`` goes after a call that may have rewritten the frame: result in rax,
#: rsp at the frame, the frame full, interrupts on.
STUB_RETURN = "stub_call_return"
#: Where a stub of ``annotated`` goes: rsp at the frame as the entry built it, the callee-saved
#: registers live and not in the frame, interrupts off.
SLOW_PATH = "slow_path"
RET_FROM_FORK = "ret_from_fork"


def entry_assembly(
    strategy: Strategy, tables: DispatchTables, layout: KernelLayout, banner: str
) -> str:
    """Write the entry code of a strategy.

    Args:
        strategy: which way out.
        tables: how far the numbers go, and whether there are x32 calls.
        layout: the kernel.
        banner: text for the head of the file.

    Returns:
        Assembly in GNU syntax.
    """
    listing = Listing()
    listing.heading(banner)
    pieces.constants(listing, layout)
    numbers: list[tuple[str, int | str, str]] = [
        ("NR_64_LAST", tables.last_number("64"), "highest number of a 64-bit call")
    ]
    if tables.has_x32:
        numbers.append(("NR_X32_LAST", tables.last_number("x32"), "of an x32 call, X32_BIT off"))
    listing.constants(numbers)
    listing.blank()
    listing.op(".section", '.entry.text, "ax", @progbits')
    _entry(listing, strategy, tables)
    _ret_from_fork(listing, strategy)
    listing.blank()
    listing.op(".section", '.note.GNU-stack, "", @progbits')
    return listing.render()


def _entry(listing: Listing, strategy: Strategy, tables: DispatchTables) -> None:
    listing.heading(
        "64-bit SYSCALL. Number in rax; arguments in rdi, rsi, rdx, r10, r8, r9; result in rax.\n"
        "rcx and r11 are lost to the CPU; every other register comes back as it was."
    )
    listing.function(pieces.ENTRY, align_log2=6)
    pieces.enter_kernel(listing)
    pieces.build_frame(listing)
    if strategy.saves_all_on_entry:
        pieces.push_callee_saved(listing)
    else:
        pieces.leave_room_for_callee_saved(listing)
    listing.why("Anybody who wants to see the call before it is made?")
    pieces.branch_on_work(listing, "WORK_ENTRY", ".Lentry_work")
    listing.op("sti")
    _fast_path(listing, strategy, tables)
    if strategy.slow_path_in_c:
        _slow_path_in_c(listing, strategy)
    else:
        _slow_path_in_assembly(listing, strategy, tables)
    listing.end_function(pieces.ENTRY)


def _fast_path(listing: Listing, strategy: Strategy, tables: DispatchTables) -> None:
    """Dispatch, and leave if nothing stands in the way. Before: interrupts on, number in rax.

    What follows it, up to ``.Lexit_work``, is the same in every strategy that has this fast path,
    so that its branches have the same distances: assemblers choose a branch's encoding by that.
    """
    switches = strategy.stubs is Stubs.SWITCH_PATH
    listing.blank()
    listing.label(".Lfast_dispatch")
    pieces.dispatch(
        listing,
        no_call=".Lfast_exit",
        not_64=".Lfast_x32" if tables.has_x32 else "",
        return_label=pieces.FAST_CALL_RETURN if switches else "",
    )
    listing.label(".Lfast_store")
    listing.op("movq", "%rax, PT_AX(%rsp)")
    listing.label(".Lfast_exit")
    listing.why("With interrupts off, no new work can come up between looking and leaving.")
    listing.op("cli")
    pieces.branch_on_work(listing, "WORK_EXIT", ".Lexit_work")
    if strategy.saves_all_on_entry:
        _leave(listing, strategy)
    else:
        pieces.leave_fast(listing, otherwise=".Lexit_work")
    if tables.has_x32:
        listing.blank()
        listing.label(".Lfast_x32")
        pieces.dispatch_x32(
            listing,
            store=".Lfast_store",
            no_call=".Lfast_exit",
            return_label=pieces.FAST_X32_RETURN if switches else "",
        )


def _leave(listing: Listing, strategy: Strategy) -> None:
    listing.blank()
    listing.label(".Lleave")
    # Where the slow path is in C it is given a full frame, and may have written all of it.
    pieces.leave_full(listing, callee_saved_in_frame=strategy.slow_path_in_c)


def _slow_path_in_c(listing: Listing, strategy: Strategy) -> None:
    """The slow path of ``full`` and ``annotated``: C does the work and makes the call."""
    listing.why("The call is made; work came up on the way, or only IRET will do.")
    listing.label(".Lexit_work")
    listing.op("sti")
    if not strategy.saves_all_on_entry:
        pieces.store_callee_saved(listing)
    pieces.call_with_frame(listing, "syscall_return_slowpath")
    if strategy.saves_all_on_entry:
        listing.op("jmp", ".Lleave")
        listing.blank()
        listing.label(".Lentry_work")
    else:
        _leave(listing, strategy)
        listing.why(
            """From the entry (work before the call) and from the stubs of calls that need
            the full frame: complete it, and let C do everything else. Interrupts are off;
            C turns them on."""
        )
        listing.op(".globl", SLOW_PATH)
        listing.label(SLOW_PATH)
        listing.label(".Lentry_work")
        pieces.store_callee_saved(listing)
    pieces.call_with_frame(listing, "do_syscall_64")
    listing.op("jmp", ".Lleave")


def _slow_path_in_assembly(listing: Listing, strategy: Strategy, tables: DispatchTables) -> None:
    """The slow path of ``partial``: each piece of work completes the frame for itself."""
    _exit_work_in_assembly(listing)
    _leave(listing, strategy)
    _entry_work_in_assembly(listing, tables)
    listing.why(
        """From a stub, after a call that may have rewritten the frame: the frame is what
        counts, callee-saved registers included."""
    )
    listing.op(".globl", STUB_RETURN)
    listing.label(STUB_RETURN)
    listing.op("movq", "%rax, PT_AX(%rsp)")
    pieces.load_callee_saved(listing)
    listing.op("jmp", ".Lslow_exit")


def _exit_work_in_assembly(listing: Listing) -> None:
    listing.why(
        """Work after the call, with interrupts off. Callee-saved registers are live here,
        and their slots hold who knows what: whatever takes the frame gets it completed,
        and they are reloaded after it."""
    )
    listing.label(".Lexit_work")
    listing.op("testl", f"$WORK_SYSCALL_EXIT, {pieces.FLAGS}")
    listing.op("jz", ".Luser_work")
    listing.op("sti")
    _with_full_frame(listing, "syscall_trace_leave")
    listing.label(".Luser_work_again")
    listing.op("cli")
    listing.label(".Luser_work")
    listing.op("testl", f"$WORK_USER, {pieces.FLAGS}")
    listing.op("jz", ".Lleave")
    listing.op("sti")
    listing.op("testl", f"$WORK_RESCHED, {pieces.FLAGS}")
    listing.op("jz", ".Luser_notify")
    listing.op("call", "schedule", "needs no frame")
    listing.op("jmp", ".Luser_work_again")
    listing.label(".Luser_notify")
    _with_full_frame(listing, "do_notify_resume")
    listing.op("jmp", ".Luser_work_again")


def _entry_work_in_assembly(listing: Listing, tables: DispatchTables) -> None:
    listing.why(
        """Work before the call, phase 1: C that makes do with a partial frame. It says
        whether phase 2, which needs a full one, is wanted."""
    )
    listing.label(".Lentry_work")
    listing.op("sti")
    pieces.call_with_frame(listing, "syscall_trace_enter_phase1")
    listing.op("testq", "%rax, %rax")
    listing.op("jnz", ".Ltrace_phase2")
    listing.why("Nothing more to do: back to the fast path, arguments and number reloaded.")
    pieces.load_call(listing)
    listing.op("movq", "PT_ORIG_AX(%rsp), %rax")
    listing.op("jmp", ".Lfast_dispatch")

    listing.why(
        """Phase 2: a tracer sees, and may change, every register. What it returns is the
        number of the call to make."""
    )
    listing.label(".Ltrace_phase2")
    pieces.store_callee_saved(listing)
    pieces.call_with_frame(listing, "syscall_trace_enter_phase2")
    pieces.load_callee_saved(listing)
    pieces.load_call(listing)
    pieces.dispatch(listing, no_call=".Lslow_exit", not_64=".Lslow_x32" if tables.has_x32 else "")
    listing.label(".Lslow_store")
    listing.op("movq", "%rax, PT_AX(%rsp)")
    listing.label(".Lslow_exit")
    listing.op("cli")
    listing.op("jmp", ".Lexit_work")
    if tables.has_x32:
        listing.blank()
        listing.label(".Lslow_x32")
        pieces.dispatch_x32(listing, store=".Lslow_store", no_call=".Lslow_exit")


def _with_full_frame(listing: Listing, function: str) -> None:
    pieces.store_callee_saved(listing)
    pieces.call_with_frame(listing, function)
    pieces.load_callee_saved(listing)


def _ret_from_fork(listing: Listing, strategy: Strategy) -> None:
    """Where a new task starts: its stack holds a copy of its parent's frame."""
    listing.heading(
        "First instructions of a new user task: rsp points to its copy of its parent's frame,\n"
        "rax to the task that ran before. The other registers hold nothing of the user's."
    )
    listing.function(RET_FROM_FORK)
    listing.op("movq", "%rax, %rdi")
    listing.op("call", "schedule_tail")
    if strategy.slow_path_in_c:
        pieces.call_with_frame(listing, "syscall_return_slowpath")
        listing.op("jmp", ".Lleave")
    else:
        pieces.load_callee_saved(listing)
        listing.op("jmp", ".Lslow_exit")
    listing.end_function(RET_FROM_FORK)
