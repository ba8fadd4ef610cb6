"""The claims of one function, by where they begin."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from fullframe.cfi.claims import Claim


class ClaimRows:
    """The claims of a function: (offset from its begin, claim from there on), ascending.

    Functions with the same rows share one.

    Args:
        offsets: where claims begin.
        claims: as many.
        numbers: the claims', where they are at hand and none depends on the address.
    """

    __slots__ = ("_numbers", "_set", "claims", "offsets")

    def __init__(
        self, offsets: Sequence[int], claims: Sequence[Claim], numbers: Sequence[int] | None = None
    ) -> None:
        self.offsets = offsets
        self.claims = claims
        self._numbers = numbers
        self._set: frozenset[int] | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, position: int) -> tuple[int, Claim]:
        return self.offsets[position], self.claims[position]

    def __iter__(self) -> Iterator[tuple[int, Claim]]:
        return zip(self.offsets, self.claims, strict=True)

    def at(self, offset: int) -> Claim | None:
        """Return the claim in force at an offset; None before the first."""
        position = bisect_right(self.offsets, offset) - 1
        return self.claims[position] if position >= 0 else None

    @property
    def offset_set(self) -> frozenset[int]:
        """Where claims begin, to be looked up."""
        if self._set is None:
            self._set = frozenset(self.offsets)
        return self._set

    @property
    def numbers(self) -> Sequence[int] | None:
        """The claims' numbers; None where a claim depends on the address."""
        if self._numbers is None:
            if any(claim.reads_ip for claim in self.claims):
                return None
            self._numbers = [claim.number for claim in self.claims]
        return self._numbers
