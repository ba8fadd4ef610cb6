"""Which addresses the code of an image calls directly.

The first row of an FDE usually tells whether it is a function: a called function's is the row at
entry. Where it is not, the row is wrong or the FDE is a part of a function that others jump into;
a call tells which.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from iced_x86 import Code, Decoder, DecoderOptions

from fullframe.cfi.context import ImageCode
from fullframe.errors import FullframeError

_CALLS = frozenset({Code.CALL_REL32_32, Code.CALL_REL32_64})
#: Bytes searched at a time: bounds memory.
_PIECE_BYTES = 1 << 22


def called(code: ImageCode, addresses: Iterable[int]) -> frozenset[int]:
    """Return those of some addresses that an instruction of the image calls directly.

    Args:
        code: the image.
        addresses: to look for.

    Returns:
        The addresses that are called from within some FDE's code.
    """
    wanted = np.array(sorted(set(addresses)), dtype=np.int64)
    if not len(wanted):
        return frozenset()
    found: set[int] = set()
    for begin, end in code.image.executable_ranges():
        for piece in range(begin, end, _PIECE_BYTES):
            # Pieces overlap by a call's length, so that none is cut in two.
            size = min(_PIECE_BYTES + 4, end - piece)
            try:
                data = np.frombuffer(code.image.read(piece, size), dtype=np.uint8)
            except FullframeError:
                continue
            found.update(_called_in(code, data, piece, wanted))
    return frozenset(found)


def _called_in(
    code: ImageCode,
    data: np.ndarray[tuple[int], np.dtype[np.uint8]],
    begin: int,
    wanted: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> set[int]:
    if len(data) < 5:
        return set()
    places = np.flatnonzero(data[:-4] == 0xE8)
    distances = sum(
        data[places + 1 + byte].astype(np.uint32) << np.uint32(8 * byte) for byte in range(4)
    )
    targets = begin + places + 5 + np.asarray(distances, dtype=np.uint32).astype(np.int32)
    if code.image.machine.bits == 32:
        targets &= 0xFFFFFFFF
    hits = np.isin(targets, wanted)
    return {
        int(target)
        for place, target in zip(places[hits], targets[hits], strict=True)
        if _is_call(code, begin + int(place))
    }


def _is_call(code: ImageCode, address: int) -> bool:
    """Return whether a call instruction, not just its first byte, is at an address."""
    fde = code.covering(address)
    if fde is None:
        return False
    try:
        body = code.code_of(fde)
    except FullframeError:
        return False
    for instruction in Decoder(code.image.machine.bits, body, DecoderOptions.NONE, fde.begin):
        if instruction.ip >= address:
            return instruction.ip == address and instruction.code in _CALLS
    return False
