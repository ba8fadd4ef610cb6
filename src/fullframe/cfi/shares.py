"""Checking one large image in several processes.

What jumps into each other must be followed together, since states are handed over. Jumps from one
FDE into another are looked for in the bytes, which finds a few that are none and all that
matter; FDEs that they connect are never divided. Should a function all the same jump out of its
share (by a table, or by a short jump), the process says so, and the whole of what is connected
then is checked once more. So the outcome is what one process would have found.
"""

from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

import numpy as np

from fullframe.cfi.check import ImageChecker
from fullframe.cfi.findings import FunctionReport

#: Shares by process: they do not take the same time, and who is done first takes another.
_SHARES_BY_JOB: Final = 4
#: Work of a function that has no code, in bytes of code.
_FUNCTION_BYTES: Final = 64
#: Bytes searched at a time: bounds memory.
_PIECE_BYTES: Final = 1 << 22
_LONGEST_JUMP_BYTES: Final = 6
_HIGHEST: Final = (1 << 64) - 1

Reports = dict[int, FunctionReport]
_Array = np.ndarray[Any, Any]

#: What a process that is forked to check shares finds here.
_checker: ImageChecker | None = None


def check_in_shares(checker: ImageChecker, jobs: int) -> Reports:
    """Check an image in several processes.

    Args:
        checker: of the image; nothing is checked yet.
        jobs: processes.

    Returns:
        Reports by where the FDE begins. Raises BrokenProcessPool where a process is killed.
    """
    global _checker
    checker.prepare()
    # Read the symbols and look through the code once for all processes.
    checker.image.symbol_at(0)
    checker.code.references.following(0)
    groups = Groups(checker)
    shares = groups.divided(jobs * _SHARES_BY_JOB)
    reports: Reports = {}
    crossings: list[tuple[int, int]] = []
    _checker = checker
    # What exists now is not looked at when the processes look for cycles: that would copy it.
    gc.freeze()
    try:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            for found, crossed in pool.map(_check_share, shares):
                reports.update(found)
                crossings += crossed
    finally:
        _checker = None
        gc.unfreeze()
    while crossings:
        again = groups.connected(crossings)
        checker.crossings = []
        reports.update(_check(checker, again))
        crossings = checker.crossings
    return reports


def _check_share(share: frozenset[int]) -> tuple[Reports, list[tuple[int, int]]]:
    assert _checker is not None
    _checker.crossings = []
    return _check(_checker, share), _checker.crossings


def _check(checker: ImageChecker, share: frozenset[int]) -> Reports:
    from fullframe.cfi.describe import report_of, report_of_proved

    return checker.check(lambda result: report_of(checker, result), share, report_of_proved)


class Groups:
    """The FDEs of an image, in groups of what jumps into each other.

    Args:
        checker: of the image.
    """

    def __init__(self, checker: ImageChecker) -> None:
        self._fdes = checker.fdes
        self._number = {fde.begin: number for number, fde in enumerate(self._fdes)}
        self._leads = list(range(len(self._fdes)))
        self._jumps = _jumps(checker)
        for source, target in self._jumps:
            self._connect(source, target)

    def jumping_into(self, begin: int) -> frozenset[int]:
        """Return where the FDEs begin that seem to jump into the one that begins at an address."""
        number = self._number[begin]
        return frozenset(
            self._fdes[source].begin for source, target in self._jumps if target == number
        )

    def _lead(self, number: int) -> int:
        """Return what stands for the group of an FDE."""
        leads = self._leads
        while leads[number] != number:
            leads[number] = leads[leads[number]]
            number = leads[number]
        return number

    def _connect(self, one: int, other: int) -> None:
        one, other = self._lead(one), self._lead(other)
        self._leads[max(one, other)] = min(one, other)

    def divided(self, count: int) -> list[frozenset[int]]:
        """Divide the groups into shares of about the same work."""
        work = [fde.end - fde.begin + _FUNCTION_BYTES for fde in self._fdes]
        most = sum(work) / count
        shares: list[list[int]] = [[]]
        share_of: dict[int, list[int]] = {}
        filled = 0
        for number, fde in enumerate(self._fdes):
            lead = self._lead(number)
            share = share_of.get(lead)
            if share is None:
                if filled >= most * len(shares):
                    shares.append([])
                share = share_of[lead] = shares[-1]
            share.append(fde.begin)
            filled += work[number]
        return [frozenset(share) for share in shares]

    def connected(self, crossings: list[tuple[int, int]]) -> frozenset[int]:
        """Connect what was found to jump into each other; return all that is connected to it."""
        for source, target in crossings:
            self._connect(self._number[source], self._number[target])
        leads = {self._lead(self._number[source]) for source, _ in crossings}
        return frozenset(
            fde.begin for number, fde in enumerate(self._fdes) if self._lead(number) in leads
        )


def _jumps(checker: ImageChecker) -> set[tuple[int, int]]:
    """Return (number of the FDE, of the FDE that it seems to jump into) of near jumps."""
    fdes, image = checker.fdes, checker.image
    if not fdes:
        return set()
    mask = (1 << image.machine.bits) - 1
    begins = np.array([fde.begin for fde in fdes], np.uint64)
    # A hostile FDE reaches beyond the highest address.
    lasts = np.array([min(fde.end - 1, _HIGHEST) for fde in fdes], np.uint64)
    enterable = np.array([fde.begin in checker.parts for fde in fdes], bool)
    closed = np.array([checker.code.is_plt(fde) for fde in fdes], bool)
    found: set[tuple[int, int]] = set()
    for begin, piece in image.executable_pieces(_PIECE_BYTES, _LONGEST_JUMP_BYTES - 1):
        places, targets = _near_jumps(np.frombuffer(piece, np.uint8), begin, mask)
        sources = np.searchsorted(begins, places, "right") - 1
        into = np.searchsorted(begins, targets, "right") - 1
        kept = (sources >= 0) & (into >= 0) & (sources != into)
        kept &= (targets <= lasts[into]) & (places <= lasts[sources]) & ~closed[into]
        kept &= (targets != begins[into]) | enterable[into]
        found.update(zip(sources[kept].tolist(), into[kept].tolist(), strict=True))
    return found


def _near_jumps(data: _Array, begin: int, mask: int) -> tuple[_Array, _Array]:
    """Return the places of what may be near jumps, and where they would lead."""
    if len(data) < 6:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    jumps = np.flatnonzero(data[:-4] == 0xE9) + 1
    branches = np.flatnonzero((data[:-5] == 0x0F) & (data[1:-4] & 0xF0 == 0x80)) + 2
    operands = np.concatenate((jumps, branches))
    operands = operands[operands + 4 <= len(data)]
    distances = sum(
        data[operands + byte].astype(np.uint32) << np.uint32(8 * byte) for byte in range(4)
    )
    places = operands.astype(np.uint64) + np.uint64(begin)
    signed = np.asarray(distances, np.uint32).astype(np.int32).astype(np.int64).astype(np.uint64)
    return places, (places + np.uint64(4) + signed) & np.uint64(mask)
