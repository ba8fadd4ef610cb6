"""What checking shares between images of one machine."""

from __future__ import annotations

from fullframe.cfi.claims import ClaimBook, ClaimRows
from fullframe.cfi.frames import Fde
from fullframe.track.bulk import BulkFollower
from fullframe.track.classify import Classifier
from fullframe.track.state import StateSpace
from fullframe.track.straight import StraightFollower
from fullframe.track.streams import StreamReader
from fullframe.x86.registers import Machine

#: Sets of rows that are kept for functions with the same ones.
_MOST_ROWS = 1 << 13


class Engine:
    """State spaces and claims of one machine.

    Args:
        machine: the machine.
        narrow_pointers: x32, where addresses are 32 bits wide.
    """

    def __init__(self, machine: Machine, *, narrow_pointers: bool = False) -> None:
        self.machine = machine
        self.book = ClaimBook(machine)
        self.coarse = Classifier(StateSpace(machine, narrow_pointers=narrow_pointers))
        self.precise = Classifier(
            StateSpace(machine, precise=True, narrow_pointers=narrow_pointers)
        )
        self.reader = StreamReader(self.coarse)
        self.straight = StraightFollower(self.coarse)
        self.bulk = BulkFollower(self.coarse, self.straight.fillers)
        self._rows: dict[int, tuple[object, ClaimRows]] = {}

    def rows_of(self, fde: Fde) -> ClaimRows:
        """Return a function's claims by offset from its begin."""
        relative = fde.relative_rows()
        known = self._rows.get(id(relative))
        if known is not None and known[0] is relative:
            return known[1]
        claim = self.book.claim
        rows = ClaimRows([(delta, claim(cfa, registers)) for delta, cfa, registers, _ in relative])
        if len(self._rows) > _MOST_ROWS:
            self._rows.clear()
        self._rows[id(relative)] = (relative, rows)
        return rows

    def trim(self) -> None:
        """Keep memory bounded; between functions only."""
        if self.book.trim():
            self._rows.clear()
        self.coarse.trim()
        self.precise.trim()
