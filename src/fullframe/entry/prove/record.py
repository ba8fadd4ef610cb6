"""What the paths of one way in have shown: verdicts of calls and ways out, findings, gaps.

Every finding carries the path that led to it and the CPU features that were known there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fullframe.entry.prove.result import (
    CallVerdict,
    EntryProof,
    ProofFinding,
    Unproved,
    WayOutVerdict,
)
from fullframe.entry.prove.values import describe
from fullframe.track.values import Value
from fullframe.x86.ptregs import SLOTS


@dataclass(slots=True)
class _Call:
    """What the paths through one call have shown so far."""

    callee: str
    verdicts: set[str | None] = field(default_factory=set)
    slots: dict[str, dict[str, None]] = field(default_factory=dict)
    ok: bool = True

    def verdict(self, where: int) -> CallVerdict:
        """Return what all paths together amount to."""
        verdict = "full" if self.verdicts == {"full"} else None
        if self.verdicts in ({"partial"}, {"partial", "full"}):
            verdict = "partial"
        # The user's value first, then whatever else it is on other paths.
        slots = {
            slot: " | ".join(
                sorted(texts, key=lambda text: (not text.startswith("the user"), text))
            )
            for slot, texts in self.slots.items()
        }
        return CallVerdict(where, self.callee, verdict, slots, self.ok)


class Record:
    """Collects what is found while one way in is followed.

    Args:
        name: of the way in.
        path: (address) to the addresses on the way there.
        features: names of the CPU features known where the path is.
    """

    def __init__(
        self,
        name: str,
        path: Callable[[int], tuple[int, ...]],
        features: Callable[[], tuple[str, ...]],
    ) -> None:
        self.name = name
        self._path = path
        self._features = features
        self._calls: dict[tuple[int, str], _Call] = {}
        self._ways_out: dict[int, tuple[str, bool]] = {}
        self.findings: dict[tuple[str, int, str], ProofFinding] = {}
        self.unproved: dict[tuple[int, str], Unproved] = {}

    @property
    def leads_nowhere(self) -> bool:
        """Whether no path has led out, and nothing has said why."""
        return not self._ways_out and not self.unproved

    def call(
        self, where: int, title: str, verdict: str | None, held: list[Value | None], ok: bool
    ) -> None:
        """Note what one path found at a call into C.

        Args:
            where: address of the call.
            title: what is called.
            verdict: ``"full"``, ``"partial"``, or None.
            held: what each slot of the frame holds, in order.
            ok: nothing was wrong.
        """
        call = self._calls.setdefault((where, title), _Call(title))
        call.verdicts.add(verdict)
        call.ok = call.ok and ok
        for slot, value in zip(SLOTS, held, strict=False):
            call.slots.setdefault(slot, {})[describe(value)] = None

    def way_out(self, where: int, text: str, ok: bool) -> None:
        """Note that a path leads out at an address, by an instruction."""
        before = self._ways_out.get(where, (text, True))[1]
        self._ways_out[where] = (text.lower(), ok and before)

    def found(self, code: str, where: int, message: str) -> None:
        """Note a finding, once."""
        key = (code, where, message)
        if key not in self.findings:
            self.findings[key] = ProofFinding(
                code, self.name, where, message, self._path(where), self._features()
            )

    def cannot(self, where: int, reason: str) -> None:
        """Note that something cannot be followed."""
        if (where, reason) not in self.unproved:
            self.unproved[where, reason] = Unproved(self.name, where, reason, self._path(where))

    def proof(self, by: str, boundaries: int, paths_merged: int) -> EntryProof:
        """Return what all paths together have shown.

        Args:
            by: how control enters.
            boundaries: instruction boundaries reached.
            paths_merged: paths that were joined with others.
        """
        return EntryProof(
            symbol=self.name,
            by=by,
            boundaries=boundaries,
            paths_merged=paths_merged,
            calls=tuple(
                call.verdict(where) for (where, _), call in sorted(self._calls.items(), key=_place)
            ),
            ways_out=tuple(
                WayOutVerdict(where, text, ok)
                for where, (text, ok) in sorted(self._ways_out.items())
            ),
        )


def _place(item: tuple[tuple[int, str], _Call]) -> tuple[int, str]:
    return item[0]
