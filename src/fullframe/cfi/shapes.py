"""What programs of call-frame instructions have in common: all but the distances between rows.

A compiler builds the same few frames in thousands of functions, at other distances each time. So a
program is cut, by one regular expression, into what it does before each advance of the location,
and the advances; what two programs do is interpreted once where it is the same.
"""

from __future__ import annotations

import re
from itertools import accumulate
from operator import itemgetter
from typing import Final

from fullframe.cfi.rules import CfaRule, RelativeRow, Rule

#: Instructions that compilers write, by their opcodes (DWARF 5, table 7.29; 0x2e is
#: ``DW_CFA_GNU_args_size``), then an advance by more than nothing, or the end, or else the first
#: byte of something else: so it matches everywhere, and hostile bytes take no more time.
_LEB: Final = rb"[\x80-\xff]{0,4}[\x00-\x7f]"
_ROWS: Final = re.compile(
    rb"((?:[\xc0-\xff\x0a\x0b]|[\x80-\xbf\x0d\x0e\x2e]LEB|\x0cLEBLEB)*)"
    rb"([\x41-\x7f]|\x02[^\x00]|\x03(?:[^\x00].|\x00[^\x00])|\Z|.)".replace(b"LEB", _LEB),
    re.DOTALL,
)
_FIRST, _SECOND = itemgetter(0), itemgetter(1)

#: The instructions before each advance, and behind the last.
Steps = tuple[bytes, ...]


class _Distances(dict[bytes, int]):
    """Advances, to how far they go in units of the code alignment."""

    def __missing__(self, advance: bytes) -> int:
        if len(advance) > 1:
            found = int.from_bytes(advance[1:], "little")
        elif 0x40 < advance[0] < 0x80:
            found = advance[0] & 0x3F
        else:
            raise KeyError(advance)
        self[advance] = found
        return found


_distances: Final = _Distances()


class Shape:
    """Rows without where they begin. FDEs share one; never changed after it is made.

    Args:
        rows: the rows.

    Attributes:
        cfas: CFA rule of each row.
        registers: register rules of each.
        args_sizes: bytes of pushed arguments at each.
    """

    __slots__ = ("args_sizes", "cfas", "registers")

    def __init__(self, rows: list[RelativeRow]) -> None:
        self.cfas: tuple[CfaRule | None, ...]
        self.registers: tuple[dict[int, Rule], ...]
        self.args_sizes: tuple[int, ...]
        _, self.cfas, self.registers, self.args_sizes = zip(*rows, strict=True)

    def __len__(self) -> int:
        return len(self.cfas)

    def rows(self, locations: tuple[int, ...]) -> tuple[RelativeRow, ...]:
        """Return the rows, from where they begin."""
        return tuple(zip(locations, self.cfas, self.registers, self.args_sizes, strict=True))


def cut(code: bytes) -> tuple[Steps, tuple[int, ...]] | None:
    """Tell what a program does from how far apart it does it.

    Args:
        code: call-frame instructions, to a code alignment of 1.

    Returns:
        (what it does, where its rows begin, the first at 0); None where there is an instruction
        that compilers rarely write.
    """
    # Without its padding. If that takes an operand along, the rest is not matched.
    code = code.rstrip(b"\0")
    found = _ROWS.findall(code)
    if len(found) > 1 and not found[-2][1]:
        found.pop()  # the empty rest behind the end
    distances = map(_distances.__getitem__, map(_SECOND, found[:-1]))
    try:
        locations = tuple(accumulate(distances, initial=0))
    except KeyError:
        return None
    return tuple(map(_FIRST, found)), locations
