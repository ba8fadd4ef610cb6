"""Claims by number, for whoever holds many of them at once."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from fullframe.cfi.claims import Claim, ClaimRows

_Array = np.ndarray[Any, Any]

_MOST_CLAIMS: Final = 1 << 17
#: Sets of rows whose labels are kept.
_MOST_ROWS: Final = 1 << 13


class ClaimLabels:
    """Numbers the claims of one machine.

    Attributes:
        claims: by number.
    """

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self._numbers: dict[Claim, int] = {}
        self._rows: dict[int, tuple[ClaimRows, _Array, _Array] | None] = {}

    def number(self, claim: Claim) -> int:
        """Return a claim's number."""
        found = self._numbers.get(claim)
        if found is None:
            found = self._numbers[claim] = len(self.claims)
            self.claims.append(claim)
        return found

    def trim(self) -> None:
        """Keep memory bounded; between batches only."""
        if len(self.claims) > _MOST_CLAIMS:
            self.claims.clear()
            self._numbers.clear()
            self._rows.clear()

    def of(self, rows: ClaimRows) -> tuple[ClaimRows, _Array, _Array] | None:
        """Return (rows, offsets, labels); None where a claim depends on the address."""
        found = self._rows.get(id(rows))
        if found is not None and found[0] is rows:
            return found
        if any(claim.reads_ip for _, claim in rows):
            return None
        offsets = np.array([offset for offset, _ in rows], np.int64)
        labels = np.array([self.number(claim) for _, claim in rows], np.int64)
        # Where several rows begin at one place, the last is in force.
        last = np.append(offsets[1:] != offsets[:-1], True)
        if len(self._rows) > _MOST_ROWS:
            self._rows.clear()
        found = self._rows[id(rows)] = (rows, offsets[last], labels[last])
        return found
