"""The stubs: what the fast path's table holds for calls that need the full register frame."""

from __future__ import annotations

from collections.abc import Iterable

from fullframe.entry import pieces
from fullframe.entry.entry_code import SLOW_PATH, STUB_RETURN
from fullframe.entry.listing import Listing
from fullframe.entry.strategy import Strategy, Stubs
from fullframe.entry.tables import DispatchTables, Handler
from fullframe.run.subject import CallKind
from fullframe.x86.kernel_layout import KernelLayout

_COMMON = "stub_full_frame"


def stub_assembly(
    strategy: Strategy, tables: DispatchTables, layout: KernelLayout, banner: str
) -> str | None:
    """Write a strategy's stubs.

    Args:
        strategy: which way out.
        tables: the calls; those with a stub get one.
        layout: the kernel.
        banner: text for the head of the file.

    Returns:
        Assembly in GNU syntax; None if the strategy, or the table, needs no stubs.
    """
    handlers = tables.stubbed
    if strategy.stubs is Stubs.NONE or not handlers:
        return None
    listing = Listing()
    listing.heading(banner)
    if strategy.stubs is Stubs.COMPLETE_FRAME:
        pieces.constants(listing, layout)
    listing.blank()
    listing.op(".section", '.entry.text, "ax", @progbits')
    if strategy.stubs is Stubs.COMPLETE_FRAME:
        _complete_frame(listing, handlers)
    else:
        _switch_path(listing, handlers, tables)
    listing.blank()
    listing.op(".section", '.note.GNU-stack, "", @progbits')
    return listing.render()


def _complete_frame(listing: Listing, handlers: Iterable[Handler]) -> None:
    listing.heading(
        "Called from a dispatch table with a partial frame under the return address.\n"
        "Each completes the frame before C code sees it."
    )
    for handler in handlers:
        listing.function(handler.stub)
        if handler.kind is CallKind.FORK:
            listing.why("Only read: the child gets a copy. C preserves what is live.")
            pieces.store_callee_saved(listing, above="8+")
            listing.op("jmp", handler.symbol)
        else:
            listing.why("May be rewritten: no way back to the fast path, leave by the frame.")
            listing.op("addq", "$8, %rsp", "undo the call of the stub")
            pieces.store_callee_saved(listing)
            listing.op("call", handler.symbol)
            listing.op("jmp", STUB_RETURN)
        listing.end_function(handler.stub)


def _switch_path(listing: Listing, handlers: Iterable[Handler], tables: DispatchTables) -> None:
    listing.heading(
        "Each stub names its C function in rax, which holds no argument, and goes on here.\n"
        "Called by the fast path, whose frame is partial: undo the call and start over on the\n"
        "slow path, which finds everything it needs in the frame. Called by anybody else, the\n"
        "slow path first of all, the frame is full: go on to the C function."
    )
    listing.function(_COMMON, exported=False)
    returns = [pieces.FAST_CALL_RETURN]
    if tables.has_x32:
        returns.append(pieces.FAST_X32_RETURN)
    for label in returns:
        listing.op("cmpq", f"${label}, (%rsp)")
        listing.op("je", ".Lswitch_to_slow_path")
    listing.op("jmp", "*%rax")
    listing.why("The slow path starts with interrupts off, and rsp at the frame.")
    listing.label(".Lswitch_to_slow_path")
    listing.op("cli")
    listing.op("addq", "$8, %rsp", "undo the fast path's call")
    listing.op("jmp", SLOW_PATH)
    listing.end_function(_COMMON)
    for handler in handlers:
        listing.function(handler.stub)
        listing.op("leaq", f"{handler.symbol}(%rip), %rax")
        listing.op("jmp", _COMMON)
        listing.end_function(handler.stub)
