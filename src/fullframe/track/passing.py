"""One pass over a function: what it has met so far, and what it rests on.

Where only a backward jump leads, a state is guessed. A guess is confirmed by a jump there that does
not itself rest on it; so what is followed from a guess on remembers which guesses it rests on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from iced_x86 import Decoder

from fullframe.track.listing import is_filler
from fullframe.track.state import State
from fullframe.track.streams import Stream

#: (address, state from there on); None where no control arrives.
Changes = list[tuple[int, State | None]]


#: Gaps longer than this are not remembered.
_LARGEST_GAP_BYTES: Final = 64
_MOST_GAPS: Final = 1 << 16


class Fillers:
    """Finds and counts the instructions that only fill space.

    Args:
        bits: of the machine, 64 or 32.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        #: Gaps that were found to be filler, to the number of instructions in them.
        self._counts: dict[bytes, int] = {}
        self._sizes: dict[bytes, int] = {}

    def is_at(self, code: bytes, offset: int) -> bool:
        """Return whether a filler is at an offset in some code."""
        return self.size_at(code, offset, len(code)) > 0

    def size_at(self, code: bytes, offset: int, end: int) -> int:
        """Return the size in bytes of the filler at an offset in code that ends there; 0: none."""
        window = code[offset : min(offset + 15, end)]
        size = self._sizes.get(window)
        if size is None:
            size = 0
            if is_filler(self._bits, window):
                size = Decoder(self._bits, window).decode().len
            if len(self._sizes) > _MOST_GAPS:
                self._sizes.clear()
            self._sizes[window] = size
        return size

    def skip(self, code: bytes, offset: int, end: int) -> int:
        """Return the offset of the first instruction, from one on, that is no filler."""
        while offset < end and (size := self.size_at(code, offset, end)):
            offset += size
        return offset

    def count(self, gap: bytes) -> int | None:
        """Count the instructions of a gap; None where they do more than fill space."""
        count = self._counts.get(gap)
        if count is not None:
            return count
        offset = count = 0
        while offset < len(gap):
            size = self.size_at(gap, offset, len(gap))
            if not size:
                return None
            offset += size
            count += 1
        if offset != len(gap):
            return None
        if len(gap) <= _LARGEST_GAP_BYTES:
            if len(self._counts) > _MOST_GAPS:
                self._counts.clear()
            self._counts[gap] = count
        return count


class StraightSurroundings(Protocol):
    """What a client knows of the code around a function."""

    #: Whether calls have landing pads to look up.
    has_landing_pads: bool
    #: Where what is claimed changes, counted from the function's begin.
    row_offsets: frozenset[int]

    def jump_targets_at(self, address: int, state: State, stream: Stream) -> list[int] | None:
        """Return the addresses an indirect jump goes to; [] for a tail call, None unknown."""

    def landing_pad_at(self, address: int) -> tuple[int, int] | None:
        """Return (landing pad, bytes of arguments popped on the way) of the call at an address."""

    def guess(self, address: int, changes: Changes) -> State | None:
        """Return the state that may hold where no control has arrived yet, or None."""

    def returns(self, following: int, state: State) -> bool:
        """Return whether a call comes back to ``following`` in ``state``, by what is said there."""

    def holds_while_called(self, address: int, state: State) -> bool:
        """Return whether what is said at a call holds in the state in which the callee runs."""

    def call_clobbers(self, target: int) -> tuple[int, ...]:
        """Return callee-saved registers that the callee changes all the same."""


@dataclass(slots=True)
class Pass:
    """One pass over a function.

    Attributes:
        stream: the function.
        around: what is known of jumps and calls.
        arriving: address to the state that jumps bring there.
        landings: a heap of those addresses at which the stream marks no leader.
        dead_from: address behind the last place where control did not go on.
        gaps: (begin, end) of the addresses where no control arrives.
        guessed: addresses where the client guessed the state.
        resting_on: the guesses on one of which what is followed rests; None where it rests on
            none.
        real: addresses where something arrives that rests on no guess; from the first guess on.
        doubtful: address to the guesses that arrivals there rest on, from the first guess on.
        confirming: (target, the guesses it rests on or None) of backward jumps, likewise.
        backward: (target, state) of backward jumps.
        exits: as in :class:`fullframe.track.straight.StraightFlow`.
        changes: as in :class:`fullframe.track.straight.StraightFlow`.
    """

    stream: Stream
    around: StraightSurroundings
    arriving: dict[int, State]
    landings: list[int]
    dead_from: int
    changes: Changes
    gaps: list[tuple[int, int]] = field(default_factory=list)
    guessed: list[int] = field(default_factory=list)
    resting_on: frozenset[int] | None = None
    real: set[int] = field(default_factory=set)
    doubtful: dict[int, frozenset[int]] = field(default_factory=dict)
    confirming: list[tuple[int, frozenset[int] | None]] = field(default_factory=list)
    backward: list[tuple[int, State]] = field(default_factory=list)
    exits: list[tuple[int, int, State]] = field(default_factory=list)

    def note(self, target: int) -> None:
        """Remember what an arrival rests on."""
        if self.resting_on is None:
            self.real.add(target)
        else:
            self.doubtful[target] = self.doubtful.get(target, frozenset()) | self.resting_on

    def rest_at(self, here: int, state: State | None) -> None:
        """Find out what the code rests on where control arrives; with a state, also from above."""
        if here in self.real:
            self.resting_on = None
        elif state is None:
            self.resting_on = self.doubtful[here]
        elif self.resting_on is not None:
            self.resting_on |= self.doubtful.get(here, frozenset())

    def are_guesses_confirmed(self) -> bool:
        """Return whether each guess is confirmed by a jump that does not itself rest on it."""
        left = set(self.guessed)
        while left:
            confirmed = {
                target
                for target, resting_on in self.confirming
                if target in left and (resting_on is None or not resting_on <= left)
            }
            if not confirmed:
                return False
            left -= confirmed
        return True
