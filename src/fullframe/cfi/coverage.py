"""How much of an image's code has call-frame information at all.

What no FDE covers is not checked, so that a file may be proved to the last boundary and an unwinder
still be lost in most of it: hand-written assembly without directives, code of a compiler that
writes none.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np

from fullframe.cfi.direct_calls import CALL_BYTES, are_calls, direct_calls
from fullframe.cfi.findings import Coverage, Uncovered
from fullframe.cfi.image_code import ImageCode
from fullframe.elf.arrays import distinct
from fullframe.track.passing import Fillers

_Array = np.ndarray[Any, Any]

#: Functions without CFI that are named, at most.
MOST_NAMED: Final = 20
#: Gaps between FDEs up to this long are looked up whole: nearly all are alignment.
_LONGEST_FILL_BYTES: Final = 64
#: What assemblers fill space with, in longer gaps: how it begins, and all of it. Zeros, int3, nops
#: (SDM volume 2, NOP, table 4-12), and i386's ``lea 0(%esi), %esi``.
_FILLS: Final = tuple(
    (begin, re.compile(whole, re.DOTALL))
    for begin, whole in (
        (bytes(8), rb"\x00+"),
        (b"\xcc\xcc", rb"\xcc+"),
        (b"\x90\x90", rb"\x90+"),
        (b"\x66\x90", rb".."),
        (b"\x0f\x1f", rb"..(?:\x00|\x40\x00|\x44\x00\x00|\x80\x00{4}|\x84\x00{5})"),
        (b"\x8d\xb4\x26\0\0\0\0", rb".{7}"),
        (b"\x8d\xb6\0\0\0\0", rb".{6}"),
        (b"\x8d\x74\x26\0", rb".{4}"),
        (b"\x8d\x76\0", rb".{3}"),
    )
)
#: What comes before them and belongs to them: prefixes, and single nops.
_FILL_PREFIXES: Final = b"\x66\x2e\x90"
_LONGEST_NOP_BYTES: Final = 15
#: Code that is decoded to tell calls from bytes that look like one: this, and a share of all code.
_DECODED_BYTES: Final = 1 << 14
_DECODED_SHARE: Final = 256
_HIGHEST: Final = (1 << 64) - 1


def coverage_of(code: ImageCode, fillers: Fillers) -> Coverage:
    """Find out which code of an image no FDE covers.

    Filler is not counted, nor are PLT stubs. Data that stands among the code is, in bytes: nothing
    tells it from code.

    Args:
        code: the image's.
        fillers: finds what fills space.
    """
    image, fdes = code.image, code.fdes
    begins = np.array([fde.begin for fde in fdes], np.uint64)
    # A hostile FDE reaches beyond the highest address.
    ends = np.array([min(fde.end, _HIGHEST) for fde in fdes], np.uint64)
    covered = uncovered = 0
    gaps: list[tuple[int, int]] = []
    for begin, piece in image.executable_pieces(1 << 62, 0):
        low, high = (begin, begin + len(piece))
        if not image.sections:
            # A segment has the headers and read-only data, too.
            low, high = _span(begins, ends, low, high)
        first = int(np.searchsorted(ends, np.uint64(low), "right"))
        last = int(np.searchsorted(begins, np.uint64(high), "left"))
        one = np.maximum(begins[first:last], np.uint64(low))
        other = np.minimum(ends[first:last], np.uint64(high))
        covered += int((other - one).sum())
        section = image.section_at(begin)
        if section is not None and section.name.startswith((".plt", ".iplt")):
            continue
        gap_begins = np.concatenate((np.array([low], np.uint64), other))
        gap_ends = np.concatenate((one, np.array([high], np.uint64)))
        some = gap_ends > gap_begins
        for gap_begin, gap_end in zip(
            gap_begins[some].tolist(), gap_ends[some].tolist(), strict=True
        ):
            size = _unfilled(piece[gap_begin - begin : gap_end - begin], fillers)
            if size:
                uncovered += size
                gaps.append((gap_begin, gap_end))
    if not gaps:
        return Coverage(covered)
    functions = _functions(code, gaps, covered + uncovered)
    named = tuple(
        Uncovered(image.function_name(address), image.place(address))
        for address in functions[:MOST_NAMED]
    )
    return Coverage(covered, uncovered, len(functions), named)


def _span(begins: _Array, ends: _Array, low: int, high: int) -> tuple[int, int]:
    """Return from the first FDE to the last in a range of addresses."""
    inside = (ends > np.uint64(low)) & (begins < np.uint64(high))
    if not inside.any():
        return low, low
    return max(low, int(begins[inside].min())), min(high, int(ends[inside].max()))


def _unfilled(gap: memoryview, fillers: Fillers) -> int:
    """Return how many bytes of a gap do more than fill space."""
    data = bytes(gap)
    if len(data) <= _LONGEST_FILL_BYTES and fillers.count(data) is not None:
        return 0
    filled = sum(_filled(data, begin, whole) for begin, whole in _FILLS)
    return max(len(data) - filled, 0)


def _filled(data: bytes, begin: bytes, whole: re.Pattern[bytes]) -> int:
    """Count the bytes of one kind of filler."""
    filled = 0
    at = data.find(begin)
    while at >= 0:
        found = whole.match(data, at)
        end = at + 1
        if found is not None:
            end = found.end()
            lowest = max(0, end - _LONGEST_NOP_BYTES)
            while at > lowest and data[at - 1] in _FILL_PREFIXES:
                at -= 1
            filled += end - at
        at = data.find(begin, end)
    return filled


def _functions(code: ImageCode, gaps: list[tuple[int, int]], code_bytes: int) -> list[int]:
    """Return where functions without CFI begin, by the symbols and by what is called."""
    begins = np.array([begin for begin, _ in gaps], np.uint64)
    ends = np.array([end for _, end in gaps], np.uint64)

    def in_gaps(addresses: _Array) -> _Array:
        which = np.searchsorted(begins, addresses, "right") - 1
        inside: _Array = (which >= 0) & (addresses < ends[which])
        return inside

    starts, sizes = code.image.function_starts()
    chosen = in_gaps(starts)
    starts, sizes = starts[chosen], sizes[chosen]
    called = _called(code, in_gaps, code_bytes)
    if len(starts):
        # What is called in the middle of a function is part of it.
        which = np.searchsorted(starts, called, "right") - 1
        inside = (which >= 0) & (called - starts[which] < np.maximum(sizes[which], 1))
        called = called[~inside]
    found: list[int] = distinct(np.concatenate((starts, called))).tolist()
    return found


def _called(code: ImageCode, in_gaps: Any, code_bytes: int) -> _Array:
    """Return the places without CFI that code with CFI is seen to call; not all, if they are many.

    To decode the callers costs more than all else here.
    """
    budget = _DECODED_BYTES + code_bytes // _DECODED_SHARE
    callers: dict[int, int] = {}
    for begin, piece in code.image.executable_pieces(1 << 22, CALL_BYTES - 1):
        places, targets = direct_calls(
            np.frombuffer(piece, np.uint8), begin, code.image.machine.bits
        )
        chosen = in_gaps(targets)
        wanted, first = np.unique(targets[chosen], return_index=True)
        for target, place in zip(wanted.tolist(), places[chosen][first].tolist(), strict=True):
            callers.setdefault(target, begin + place)
    looked_at = []
    for target, caller in callers.items():
        fde = code.covering(caller)
        if fde is not None and budget >= caller - fde.begin:
            budget -= caller - fde.begin + CALL_BYTES
            looked_at.append((caller, target))
    looked_at.sort()
    true = are_calls(code, [caller for caller, _ in looked_at])
    return np.array([target for caller, target in looked_at if caller in true], np.uint64)
