"""Places within an FDE that are entered as functions are.

Hand-written code often has several functions under one ``.cfi_startproc``. Whatever the rows say,
a place that a call instruction elsewhere in the image leads to, or that other images call by a
symbol, is entered with the state of a function's entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from iced_x86 import Decoder, DecoderOptions

from fullframe.cfi.direct_calls import CALL_BYTES, CALLS, direct_calls
from fullframe.cfi.image_code import ImageCode
from fullframe.errors import FullframeError

#: Bytes searched at a time: bounds memory.
_PIECE_BYTES = 1 << 22
#: Code is decoded from this far before a place first: decoding falls into step within a few
#: instructions, and nearly all bytes that only look like calls are told so.
_NEAR_BYTES = 64
#: Where code lies farther apart, targets are looked up in the list of the FDEs at once.
_MOST_MARKED_BYTES = 1 << 30

#: The end of the address space fits no number of numpy's.
_HIGHEST = (1 << 64) - 1

_Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class InnerEntry:
    """A place within an FDE that is entered as a function is.

    Attributes:
        address: the place.
        calls: addresses of the calls from outside of the FDE that lead there, ascending.
        visible: a function symbol that other images see names the place.
    """

    address: int
    calls: tuple[int, ...]
    visible: bool


def find_inner_entries(code: ImageCode) -> dict[int, tuple[InnerEntry, ...]]:
    """Return the inner entries of an image's FDEs, by where the FDE begins.

    Args:
        code: the image.
    """
    fdes = code.fdes
    if not fdes:
        return {}
    begins = np.array([fde.begin for fde in fdes], np.uint64)
    ends = np.array([min(fde.end, _HIGHEST) for fde in fdes], np.uint64)
    # The stubs of a PLT share an FDE; signal trampolines are entered by returns.
    closed = np.array([fde.cie.is_signal_frame for fde in fdes], bool)
    closed |= np.array([fde.begin in code.plt_begins for fde in fdes], bool)
    seeming: dict[tuple[int, int], dict[int, int]] = {}
    for places, targets in _seeming_calls(code, begins):
        into = np.searchsorted(begins, targets, "right") - 1
        sources = np.searchsorted(begins, places, "right") - 1
        within = (into >= 0) & (targets < ends[into]) & (targets != begins[into]) & ~closed[into]
        # A source that no FDE covers lies behind the end of the FDE before it.
        within &= (sources != into) | (places >= ends[into])
        for place, target in zip(places[within].tolist(), targets[within].tolist(), strict=True):
            extent = _extent_around(code, place)
            if extent is not None and _is_near_call(code, extent, place):
                seeming.setdefault(extent, {})[place] = target
    calls: dict[int, list[int]] = {}
    for extent, by_place in seeming.items():
        for place in _starts(code, *extent, set(by_place)):
            calls.setdefault(by_place[place], []).append(place)
    named = code.image.visible_functions()
    into = np.searchsorted(begins, named, "right") - 1
    inside = (into >= 0) & (named < ends[into]) & (named != begins[into]) & ~closed[into]
    visible = set(named[inside].tolist())
    inside_of: dict[int, set[int]] = {}
    for address in visible.union(calls):
        fde = code.covering(address)
        if fde is not None:
            inside_of.setdefault(fde.begin, set()).add(address)
    found = {}
    for begin, addresses in inside_of.items():
        fde = code.covering(begin)
        assert fde is not None
        entries = tuple(
            InnerEntry(address, tuple(sorted(calls.get(address, ()))), address in visible)
            for address in _starts(code, begin, fde.end, addresses)
        )
        if entries:
            found[begin] = entries
    return found


def _seeming_calls(code: ImageCode, begins: _Array) -> Iterator[tuple[_Array, _Array]]:
    """Yield (places, targets) of what looks like calls of no FDE's begin."""
    first, last = int(begins[0]), int(begins[-1])
    marked = None
    if last - first < _MOST_MARKED_BYTES:
        # Nearly all calls lead to where an FDE begins: those are left out before all else.
        marked = np.zeros(last - first + 1, bool)
        marked[(begins - np.uint64(first)).astype(np.int64)] = True
    end_of_all = max((end for _, end in code.image.executable_ranges()), default=0)
    # Pieces overlap by a call's length, so that none is cut in two.
    for begin, piece in code.image.executable_pieces(_PIECE_BYTES, CALL_BYTES - 1):
        data = np.frombuffer(piece, np.uint8)
        places, targets = direct_calls(data, begin, code.image.machine.bits)
        kept = (targets > np.uint64(first)) & (targets < np.uint64(min(end_of_all, _HIGHEST)))
        places, targets = places[kept], targets[kept]
        if marked is not None:
            distances = targets - np.uint64(first)
            unmarked = ~marked[np.minimum(distances, np.uint64(last - first)).astype(np.int64)]
            unmarked |= targets > np.uint64(last)
            places, targets = places[unmarked], targets[unmarked]
        yield places.astype(np.uint64) + np.uint64(begin), targets


def _extent_around(code: ImageCode, address: int) -> tuple[int, int] | None:
    """Return the extent of the FDE or the function around an address."""
    fde = code.covering(address)
    if fde is not None:
        return fde.begin, fde.end
    # Without CFI, only a function's symbol tells where instructions begin.
    symbol = code.image.symbol_at(address)
    if symbol is None or symbol.kind != "func":
        return None
    begin, end = symbol.address, symbol.address + symbol.size_bytes
    return (begin, end) if begin <= address < end else None


def _is_near_call(code: ImageCode, extent: tuple[int, int], address: int) -> bool:
    """Return whether decoding from not far before comes to a call at an address."""
    begin = max(extent[0], address - _NEAR_BYTES)
    try:
        body = bytes(code.image.read(begin, min(extent[1], address + 15) - begin))
    except FullframeError:
        return False
    for instruction in Decoder(code.image.machine.bits, body, DecoderOptions.NONE, begin):
        if instruction.ip >= address:
            return instruction.ip == address and instruction.code in CALLS
    return False


def _starts(code: ImageCode, begin: int, end: int, addresses: set[int]) -> list[int]:
    """Return those of some addresses at which instructions of an extent begin, ascending."""
    try:
        body = bytes(code.image.read(begin, min(end, max(addresses) + 15) - begin))
    except FullframeError:
        return []
    return [
        instruction.ip
        for instruction in Decoder(code.image.machine.bits, body, DecoderOptions.NONE, begin)
        if instruction.ip in addresses and not instruction.is_invalid
    ]
