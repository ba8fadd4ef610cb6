"""What checking finds of one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fullframe.cfi.claims import Answer, Claim, Verdict
from fullframe.cfi.frames import Fde
from fullframe.cfi.inner_entries import InnerEntry
from fullframe.cfi.trampolines import Trampoline
from fullframe.track.listing import Listing
from fullframe.track.state import State
from fullframe.track.straight import Changes


@dataclass(slots=True)
class Run:
    """Consecutive boundaries with one verdict.

    Attributes:
        begin: index of the first instruction.
        end: index after the last.
        verdict: the answer and the doubts.
        reason: why a boundary is assumed or cannot be told.
        state: the tracker's state there, where there is one.
        claim: the row in force.
        premised: no visible edge leads there: the state follows from a row taken as premise.
        calling: of a call that makes false what the row says: the state in which the callee runs.
    """

    begin: int
    end: int
    verdict: Verdict
    reason: str = ""
    state: State | None = None
    claim: Claim | None = None
    premised: bool = False
    calling: State | None = None


@dataclass(slots=True)
class FunctionResult:
    """What was found of one function.

    Attributes:
        fde: the function.
        listing: its instructions; empty where all was proved in the coarse space.
        runs: verdicts, ascending, padding left out.
        boundaries: instruction boundaries in ``runs``.
        tally: boundaries by answer.
        contradictions: (index of the jump, index of its target, verdict there) where what
            follows from a premise contradicts the claim at a place that was already followed.
        exits: (address outside the function, where the jump is) to the state on arrival.
        coarse: proved in the coarse space; there are no runs then, all is proved.
        changes: then, if there are exits, gives the states by address.
        trampoline: the signal trampoline that the function is, or None.
        entered: index to what is known of it, of the places within that are entered as functions.
        crossings: (index of the jump or of what falls through, -1 for another FDE's, index of one
            of ``entered``, verdict there) where control also comes with another frame.
    """

    fde: Fde
    listing: Listing
    runs: list[Run]
    boundaries: int
    tally: dict[Answer, int]
    contradictions: list[tuple[int, int, Verdict]] = field(default_factory=list)
    exits: dict[tuple[int, int], State] = field(default_factory=dict)
    coarse: bool = False
    changes: Callable[[], Changes] | None = None
    trampoline: Trampoline | None = None
    entered: dict[int, InnerEntry] = field(default_factory=dict)
    crossings: list[tuple[int, int, Verdict]] = field(default_factory=list)

    @property
    def unmarked(self) -> bool:
        """Whether this is a signal trampoline whose CIE does not say so."""
        return self.trampoline is not None and not self.fde.cie.is_signal_frame

    @property
    def unprotected(self) -> bool:
        """Whether this is a signal trampoline whose CFI does not begin before it."""
        return self.trampoline is not None and self.trampoline.lead_bytes == 0

    @property
    def has_findings(self) -> bool:
        """Whether anything is wrong."""
        return bool(
            self.tally[Answer.WRONG]
            or self.contradictions
            or self.crossings
            or self.unmarked
            or self.unprotected
        )


_NOTHING = dict.fromkeys(Answer, 0)
_NO_LISTING = Listing(0, 0, [], [])


def all_proved(fde: Fde, boundaries: int) -> FunctionResult:
    """Return the result of a function that was proved in the coarse space.

    Args:
        fde: the function.
        boundaries: its instruction boundaries.
    """
    tally = {**_NOTHING, Answer.PROVED: boundaries}
    return FunctionResult(fde, _NO_LISTING, [], boundaries, tally, coarse=True)


def reason_of(verdict: Verdict) -> str:
    """Say why a boundary is assumed, or cannot be told."""
    if verdict.answer is Answer.ASSUMED:
        return "reached only by an edge that cannot be seen; its row was taken as premise"
    return "; ".join(f"{doubt.claimed}: {doubt.actual}" for doubt in verdict.doubts)
