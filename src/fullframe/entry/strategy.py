"""The three ways out, as data: what each saves, when, and who dispatches on its slow path."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum

from fullframe.errors import UsageError


class Stubs(StrEnum):
    """What stands in the fast path's table for a call that needs the full register frame."""

    #: Nothing: the frame is always full, the table names the C function itself.
    NONE = "none"
    #: A stub that completes the frame in place, calls the C function, and leaves by the slow exit
    #: if that rewrites the frame (Linux up to 4.5).
    COMPLETE_FRAME = "complete-frame"
    #: A stub that undoes the fast path's call and starts again on the slow path (Linux 4.6).
    SWITCH_PATH = "switch-path"


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to enter the kernel and to leave it.

    Attributes:
        name: as the command line spells it.
        summary: one sentence.
        saves_all_on_entry: whether every frame is full from the start.
        stubs: what annotated entries of the table become.
        slow_path_in_c: whether work before and after a call, and dispatch on that path, is one C
            function; otherwise assembly calls C for each piece of work.
    """

    name: str
    summary: str
    saves_all_on_entry: bool
    stubs: Stubs
    slow_path_in_c: bool

    @property
    def duplicates_tables(self) -> bool:
        """Whether the slow path has dispatch tables of its own, without stubs."""
        return self.stubs is Stubs.SWITCH_PATH


PARTIAL = Strategy(
    name="partial",
    summary="the fast path leaves six slots unwritten; special stubs and two-phase tracing mend "
    "that in assembly (Linux 4.2)",
    saves_all_on_entry=False,
    stubs=Stubs.COMPLETE_FRAME,
    slow_path_in_c=False,
)
FULL = Strategy(
    name="full",
    summary="every frame is full: all registers are saved on entry and restored on exit (way 1)",
    saves_all_on_entry=True,
    stubs=Stubs.NONE,
    slow_path_in_c=True,
)
ANNOTATED = Strategy(
    name="annotated",
    summary="partial's fast path; annotated entries of a duplicated table switch to a slow path "
    "in C, where every frame is full (way 2)",
    saves_all_on_entry=False,
    stubs=Stubs.SWITCH_PATH,
    slow_path_in_c=True,
)

#: Strategies by name, the baseline first.
STRATEGIES = {strategy.name: strategy for strategy in (PARTIAL, FULL, ANNOTATED)}


def strategy_named(name: str) -> Strategy:
    """Return a strategy by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name[:64], STRATEGIES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"no strategy named {name[:64]!r}{hint}; there are {', '.join(STRATEGIES)}"
        )
    return STRATEGIES[name]
