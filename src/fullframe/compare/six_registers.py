"""The baseline's fast path with bx, bp and r12 to r15 saved and loaded, and nothing else changed.

``full`` differs from the baseline by more than six registers: whoever may have rewritten the
frame, every way out looks at every condition of SYSRET. To tell what the six cost by themselves,
the baseline's own entry code is taken, the six are pushed where it leaves room for them, and
loaded before it leaves the fast path.
"""

from __future__ import annotations

from collections.abc import Callable

from fullframe.entry import pieces
from fullframe.entry.listing import Listing
from fullframe.x86.ptregs import CALLEE_SAVED_SLOTS

#: The last thing that the fast path does before SYSRET, with every other register loaded.
_LEAVE = "\tmovq\tPT_SP(%rsp), %rsp\n\tswapgs\n\tsysretq\n"


def with_six_registers(entry_assembly: str) -> str:
    """Make the fast path save and load the six registers.

    Args:
        entry_assembly: the generated entry code of a strategy whose frames are partial.

    Returns:
        The changed entry code. It is for measuring: its slow paths are as they were.

    Raises:
        LookupError: this is no such entry code.
    """
    room = _rendered(pieces.leave_room_for_callee_saved)
    text = _replace_once(entry_assembly, room, _rendered(pieces.push_callee_saved))
    return _replace_once(text, _LEAVE, _rendered(pieces.load_callee_saved) + _LEAVE)


def _rendered(piece: Callable[[Listing], None]) -> str:
    listing = Listing()
    piece(listing)
    return listing.render()


def _replace_once(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise LookupError(
            f"expected one place that reads {old!r} to save or load {CALLEE_SAVED_SLOTS}, "
            f"found {text.count(old)}"
        )
    return text.replace(old, new)
