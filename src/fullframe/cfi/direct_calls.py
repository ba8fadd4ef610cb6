"""Direct calls, found in code without decoding all of it."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from iced_x86 import Code, Decoder, DecoderOptions

from fullframe.cfi.image_code import ImageCode
from fullframe.errors import FullframeError

CALLS = frozenset({Code.CALL_REL32_32, Code.CALL_REL32_64})
#: Of a direct call.
CALL_BYTES = 5


def direct_calls(
    data: np.ndarray[Any, np.dtype[np.uint8]], begin: int, bits: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.uint64]]]:
    """Find what may be direct calls, by their first byte.

    Args:
        data: code.
        begin: its address.
        bits: of the machine, 64 or 32: a target wraps around there.

    Returns:
        Where in the data they are, and the addresses that they would call.
    """
    places = np.flatnonzero(data[: 1 - CALL_BYTES] == 0xE8)
    distances = np.zeros(len(places), np.uint32)
    for byte in range(4):
        distances |= data[places + 1 + byte].astype(np.uint32) << np.uint32(8 * byte)
    signed = distances.view(np.int32).astype(np.int64).astype(np.uint64)
    # Unsigned numbers wrap around as addresses do.
    targets = places.astype(np.uint64) + np.uint64(begin) + np.uint64(CALL_BYTES) + signed
    return places, targets & np.uint64((1 << bits) - 1)


def are_calls(code: ImageCode, addresses: list[int]) -> set[int]:
    """Return those of some addresses where a direct call is, not just its first byte.

    Args:
        code: the image.
        addresses: ascending.
    """
    found: set[int] = set()
    for fde, group in groupby(addresses, code.covering):
        if fde is None:
            continue
        try:
            body = code.code_of(fde)
        except FullframeError:
            continue
        # Each function is decoded once, however many of its bytes look like calls.
        wanted = set(group)
        last = max(wanted)
        for instruction in Decoder(code.image.machine.bits, body, DecoderOptions.NONE, fde.begin):
            if instruction.ip in wanted and instruction.code in CALLS:
                found.add(instruction.ip)
            if instruction.ip >= last:
                break
    return found
