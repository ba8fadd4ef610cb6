"""What checking shares between images of one machine."""

from __future__ import annotations

from operator import attrgetter
from typing import NamedTuple

from fullframe.cfi.claim_rows import ClaimRows
from fullframe.cfi.claims import Claim, ClaimBook
from fullframe.cfi.frames import Fde
from fullframe.cfi.program import Program
from fullframe.cfi.shapes import Shape
from fullframe.track.bulk import BulkFollower
from fullframe.track.classify import Classifier
from fullframe.track.reader import StreamReader
from fullframe.track.state import StateSpace
from fullframe.track.straight import StraightFollower
from fullframe.x86.registers import Machine

_reads_ip, _number = attrgetter("reads_ip"), attrgetter("number")
#: Sets of rows that are kept for functions with the same ones.
_MOST_ROWS = 1 << 13


class ShapeClaims(NamedTuple):
    """The claims of rows without where they begin.

    Attributes:
        claims: one for each row.
        numbers: theirs; None where a claim depends on the address.
    """

    claims: list[Claim]
    numbers: list[int] | None


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
        self._rows: dict[int, tuple[Program, ClaimRows]] = {}
        self._claims: dict[int, tuple[Shape, ShapeClaims]] = {}

    def rows_of(self, fde: Fde) -> ClaimRows:
        """Return a function's claims by offset from its begin."""
        program = fde.program()
        if not fde.holds_all_of(program):
            offsets, cfas, registers, _ = zip(*fde.relative_rows(), strict=True)
            return ClaimRows(offsets, list(map(self.book.claim, cfas, registers)))
        known = self._rows.get(id(program))
        if known is not None and known[0] is program:
            return known[1]
        claims = self._claims_of(program.shape)
        rows = ClaimRows(program.locations, claims.claims, claims.numbers)
        if len(self._rows) > _MOST_ROWS:
            self._rows.clear()
        self._rows[id(program)] = (program, rows)
        return rows

    def _claims_of(self, shape: Shape) -> ShapeClaims:
        """Return the claims of rows without where they begin."""
        known = self._claims.get(id(shape))
        if known is not None and known[0] is shape:
            return known[1]
        claims = self.book.claims(shape.cfas, shape.registers)
        found = ShapeClaims(
            claims,
            None if any(map(_reads_ip, claims)) else list(map(_number, claims)),
        )
        if len(self._claims) > _MOST_ROWS:
            self._claims.clear()
        self._claims[id(shape)] = (shape, found)
        return found

    def trim(self) -> None:
        """Keep memory bounded; between functions only."""
        if self.book.trim():
            self._rows.clear()
            self._claims.clear()
        self.coarse.trim()
        self.precise.trim()
