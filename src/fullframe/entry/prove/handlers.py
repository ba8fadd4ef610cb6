"""What each handler of a dispatch table needs: from the system-call table's annotations."""

from __future__ import annotations

from dataclasses import replace

from fullframe.entry.prove.contract import Function
from fullframe.table.model import Table, is_unimplemented
from fullframe.table.needs import FULL_FRAME_NEEDS, FrameUse, call_of_entry_point
from fullframe.x86.ptregs import SLOTS

#: A handler may rewrite the whole frame, but what it returns goes into slot ax afterwards.
_REWRITTEN = tuple(slot for slot in SLOTS if slot != "ax")
_MODIFIED: dict[FrameUse, tuple[str, ...]] = {
    FrameUse.FORK: (),
    FrameUse.FLAGS: ("flags",),
}


class Handlers:
    """The C functions that dispatch tables lead to.

    Args:
        base: what is true of every handler.
        table: the system-call table; annotated entries need the full frame, and so do those
            that are known to, annotated or not.
    """

    def __init__(self, base: Function, table: Table | None) -> None:
        self._base = base
        self._annotated: dict[str, bool] = {}
        self._functions: dict[str, Function | None] = {}
        for entry in table.entries if table is not None else ():
            for point, spelling, _ in entry.entry_points():
                known = self._annotated.get(point, False)
                self._annotated[point] = known or spelling is not None

    def function(self, symbol: str) -> Function | None:
        """Return what a handler needs; None if the symbol is no handler of the table."""
        if symbol not in self._functions:
            self._functions[symbol] = self._make(symbol)
        return self._functions[symbol]

    def _make(self, symbol: str) -> Function | None:
        if symbol not in self._annotated and not is_unimplemented(symbol):
            return None
        need = (
            None if is_unimplemented(symbol) else FULL_FRAME_NEEDS.get(call_of_entry_point(symbol))
        )
        if need is None and not self._annotated.get(symbol, False):
            return replace(self._base, symbols=(symbol,))
        modifies = _REWRITTEN if need is None else _MODIFIED.get(need.use, _REWRITTEN)
        return replace(self._base, symbols=(symbol,), frame="full", modifies=modifies)

    @staticmethod
    def one_of(function: Function) -> str:
        """Name any handler of the class that a function belongs to."""
        if function.frame != "full":
            return "the handler"
        if not function.modifies:
            return "the handler that reads the frame"
        if len(function.modifies) < len(_REWRITTEN):
            return f"the handler that writes {', '.join(function.modifies)}"
        return "the handler that rewrites the frame"

    @staticmethod
    def class_of(function: Function) -> str:
        """Name the class of handlers that a function belongs to."""
        if function.frame != "full":
            return "handlers that need no full frame"
        if not function.modifies:
            return "handlers that read the full frame"
        if len(function.modifies) < len(_REWRITTEN):
            return f"handlers that read the frame and write {', '.join(function.modifies)}"
        return "handlers that may rewrite the full frame"
