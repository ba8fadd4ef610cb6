"""Where the exceptions of a function's calls land."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise

from fullframe.cfi.frames import Fde
from fullframe.cfi.lsda import CallSite, read_lsda
from fullframe.elf.image import Image
from fullframe.errors import FullframeError


class CallSites:
    """The call sites of one function's LSDA, for look-up by address."""

    def __init__(self, image: Image, fde: Fde) -> None:
        self._fde = fde
        self._sites: list[CallSite] = []
        if fde.lsda is not None:
            try:
                lsda = read_lsda(image, fde.lsda, fde.begin)
                self._sites = _disjoint(lsda.call_sites)
            except FullframeError:
                self._sites = []
        self._ends = [site.end for site in self._sites]
        self._arguments: list[tuple[int, int]] = []
        if any(fde.program().shape.args_sizes):
            rows = fde.relative_rows()
            self._arguments = [(fde.begin + delta, size) for delta, _, _, size in rows]
        #: Whether the unwinder pops arguments of any call.
        self.any_arguments = any(size for _, size in self._arguments)

    def with_pads(self) -> list[tuple[int, int, int]]:
        """Return (begin, end, landing pad) of the call sites that have one, ascending."""
        return [
            (site.begin, site.end, site.landing_pad)
            for site in self._sites
            if site.landing_pad is not None
        ]

    def landing_pad(self, address: int) -> tuple[int, int] | None:
        """Return (landing pad, bytes of arguments that the unwinder pops) of a call."""
        position = bisect_right(self._ends, address)
        if position == len(self._sites) or self._sites[position].begin > address:
            return None
        pad = self._sites[position].landing_pad
        return None if pad is None else (pad, self._pushed_arguments(address))

    def _pushed_arguments(self, address: int) -> int:
        """Bytes of arguments that ``DW_CFA_GNU_args_size`` says are on the stack at a call."""
        size = 0
        for begin, size_there in self._arguments:
            if begin > address:
                break
            size = size_there
        return size


def _disjoint(sites: Sequence[CallSite]) -> list[CallSite]:
    """Return the call sites by address, each only where none before it in the table is.

    The personality goes through the table in its order and takes the first that holds an address.
    """
    some = [site for site in sites if site.begin < site.end]
    if all(one.end <= other.begin for one, other in pairwise(some)):
        return some
    found = []
    coming = sorted(range(len(some)), key=lambda number: -some[number].begin)
    here: list[int] = []
    limits = {limit for site in some for limit in (site.begin, site.end)}
    for begin, end in pairwise(sorted(limits)):
        while coming and some[coming[-1]].begin <= begin:
            heappush(here, coming.pop())
        while here and some[here[0]].end <= begin:
            heappop(here)
        if here:
            found.append(some[here[0]]._replace(begin=begin, end=end))
    return found
