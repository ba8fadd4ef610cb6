"""What data an image's code refers to: where one jump table ends at the latest.

A table without a bound check before its jump does not tell its length. What follows it in
read-only data is another function's table more often than not, and entries that are distances,
taken from the wrong base, can hit an instruction by chance. But whatever follows is referred to by
some ``lea``.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from fullframe.elf.image import Image

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

#: Code is looked through in pieces of this many bytes, for the sake of memory.
_PIECE_BYTES = 1 << 20
#: Bytes of ``lea disp32(%rip), %reg``.
_LEA_BYTES = 7


class References:
    """The places that ``lea disp32(%rip), %reg`` refers to (x86-64).

    They are found without decoding, by the encoding (SDM volume 2, LEA): REX.W, 8D, and a ModRM
    byte whose base is the instruction pointer. Bytes that only look so make a table seem shorter
    once in a great while, and what its last entries lead to is then *assumed*.

    Args:
        image: whose code to look through.
    """

    def __init__(self, image: Image) -> None:
        self._image = image

    def following(self, address: int) -> int | None:
        """Return the first place behind ``address`` that is referred to, or None."""
        import numpy as np

        places = self._places
        if not 0 <= address < 1 << 64:
            return None
        # Python's integers would make numpy compare as floating-point numbers.
        position = int(np.searchsorted(places, np.uint64(address), "right"))
        return int(places[position]) if position < len(places) else None

    @cached_property
    def _places(self) -> NDArray[numpy.uint64]:
        import numpy as np

        from fullframe.elf.arrays import distinct

        found = [np.empty(0, np.uint64)]
        if self._image.machine.bits == 64:
            for begin, piece in self._image.executable_pieces(_PIECE_BYTES, _LEA_BYTES - 1):
                found.append(_referred_to(np.frombuffer(piece, np.uint8), begin))
        places: NDArray[numpy.uint64] = distinct(np.concatenate(found))
        return places


def _referred_to(code: NDArray[numpy.uint8], begin: int) -> NDArray[numpy.uint64]:
    import numpy as np

    last = len(code) - _LEA_BYTES + 1
    if last <= 0:
        return np.empty(0, np.uint64)
    # REX.W with or without R; 8D; mod 0 and base 5.
    hits = np.flatnonzero(
        ((code[:last] & 0xFB) == 0x48)
        & (code[1 : last + 1] == 0x8D)
        & ((code[2 : last + 2] & 0xC7) == 0x05)
    )
    distances = np.zeros(len(hits), np.uint32)
    for byte in range(4):
        distances |= code[hits + 3 + byte].astype(np.uint32) << np.uint32(8 * byte)
    # Unsigned numbers wrap around as addresses do; the highest fit no signed one.
    signed = distances.view(np.int32).astype(np.int64).astype(np.uint64)
    return hits.astype(np.uint64) + signed + np.uint64(begin) + np.uint64(_LEA_BYTES)
