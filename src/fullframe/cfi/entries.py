"""Which FDEs are functions, and which are parts of functions.

The first row of an FDE usually tells whether it is a function: a called function's is the row at
entry. Where it is not, the row is wrong or the FDE is a part of a function that others jump into;
a call tells which.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
from iced_x86 import Decoder

from fullframe.cfi.claim_rows import ClaimRows
from fullframe.cfi.claims import Answer, Claim, ClaimBook
from fullframe.cfi.direct_calls import CALL_BYTES, are_calls, direct_calls
from fullframe.cfi.engine import Engine
from fullframe.cfi.frames import Cie, Fde
from fullframe.cfi.image_code import ImageCode
from fullframe.cfi.inner_entries import InnerEntry, find_inner_entries
from fullframe.elf.arrays import are_among
from fullframe.track.listing import is_filler
from fullframe.track.state import State, StateSpace
from fullframe.track.values import CFA_REGION, Address, entry
from fullframe.x86.registers import SP

#: Bytes searched at a time: bounds memory.
_PIECE_BYTES = 1 << 22
#: What fills space before a function is shorter than this.
_LARGEST_FILL_BYTES = 32
_MOST_FILLS = 1 << 16


def called(code: ImageCode, addresses: Iterable[int]) -> frozenset[int]:
    """Return those of some addresses that an instruction of the image calls directly.

    Args:
        code: the image.
        addresses: to look for.

    Returns:
        The addresses that are called from within some FDE's code.
    """
    # The highest addresses fit no signed number: kernels are there.
    wanted = np.array(sorted(set(addresses)), np.uint64)
    if not len(wanted):
        return frozenset()
    found: set[int] = set()
    # Pieces overlap by a call's length, so that none is cut in two.
    for begin, piece in code.image.executable_pieces(_PIECE_BYTES, CALL_BYTES - 1):
        data = np.frombuffer(piece, np.uint8)
        places, targets = direct_calls(data, begin, code.image.machine.bits)
        hits = are_among(targets, wanted)
        addresses = [begin + place for place in places[hits].tolist()]
        real = are_calls(code, addresses)
        found.update(
            target
            for address, target in zip(addresses, targets[hits].tolist(), strict=True)
            if address in real
        )
    return frozenset(found)


class Entries:
    """Tells functions from parts of functions, for one image.

    Args:
        code: the image.
        engine: of its machine.

    Attributes:
        called: addresses, of those that were asked for, that the image's code calls directly.
    """

    def __init__(self, code: ImageCode, engine: Engine) -> None:
        self._code = code
        self._engine = engine
        self._fills: dict[bytes, bool] = {}
        self._of_functions: dict[Cie, bool] = {}
        self.called: frozenset[int] = frozenset()

    @cached_property
    def inner(self) -> dict[int, tuple[InnerEntry, ...]]:
        """The places within FDEs that are entered as functions, by where the FDE begins."""
        return find_inner_entries(self._code)

    def is_fragment(self, fde: Fde, rows: ClaimRows, body: bytes) -> bool:
        """Return whether an FDE is no function's entry: its frame is already built.

        Args:
            fde: the FDE.
            rows: its claims by offset in ``body``.
            body: its code, or the beginning of it.
        """
        # Its own first row tells: those that are given may leave out what a thunk loads.
        return self._begins_with_fill(rows, body) or self.is_part(fde, self._engine.coarse.space)

    def is_plain_function(self, rows: ClaimRows, body: bytes, address: int) -> bool:
        """Return whether an FDE with these rows is a function's entry, by them alone.

        Args:
            rows: its claims by offset in ``body``, all of them.
            body: its code.
            address: of the code.
        """
        engine = self._engine
        return not self._begins_with_fill(rows, body) and holds_at_entry(
            engine.book, engine.coarse.space, rows[0][1], address
        )

    def _begins_with_fill(self, rows: ClaimRows, body: bytes) -> bool:
        # GCC's cold part that consists of landing pads. One at the very begin of an LSDA's range
        # would have offset 0, which means none; so there is a nop before it. Hand-written code
        # begins an FDE before the alignment, with the row of the alignment's own.
        return len(rows) > 1 and self._is_fill(body[: rows[1][0]])

    def is_called_by(self, cie: Cie) -> bool:
        """Return whether a CIE's initial row is that of a called function."""
        known = self._of_functions.get(cie)
        if known is None:
            engine, row = self._engine, cie.initial_row
            claim = engine.book.claim(row.cfa, row.registers)
            known = holds_at_entry(engine.book, engine.coarse.space, claim, 0)
            self._of_functions[cie] = known
        return known

    def is_part(self, fde: Fde, space: StateSpace) -> bool:
        """Return whether an FDE's first row is not that of a called function."""
        rows = self._engine.rows_of(fde)
        return not holds_at_entry(self._engine.book, space, rows[0][1], fde.begin)

    def _is_fill(self, code: bytes) -> bool:
        """Return whether a few bytes consist of instructions that only fill space."""
        if len(code) >= _LARGEST_FILL_BYTES:
            return False
        known = self._fills.get(code)
        if known is None:
            bits = self._engine.machine.bits
            offset = 0
            while offset < min(len(code), 16) and is_filler(bits, code[offset:]):
                offset += Decoder(bits, code[offset:]).decode().len
            if len(self._fills) > _MOST_FILLS:
                self._fills.clear()
            known = self._fills[code] = offset == len(code)
        return known

    def is_function(self, fde: Fde, arrivals: set[int]) -> bool:
        """Decide whether an FDE whose first row is not that of a called function is one.

        Args:
            fde: the FDE.
            arrivals: addresses in it that other FDEs jump to.
        """
        if fde.begin in self.called:
            return True
        if fde.begin in arrivals:
            return False
        symbol = self._code.image.symbol_at(fde.begin)
        return (
            symbol is not None
            and symbol.address == fde.begin
            and symbol.kind == "func"
            and symbol.binding in ("global", "weak")
            and ".cold" not in symbol.name
        )


def holds_at_entry(book: ClaimBook, space: StateSpace, claim: Claim, address: int) -> bool:
    """Return whether a claim is true where a function is entered.

    Args:
        book: judges it.
        space: the states to judge it in.
        claim: of a row.
        address: of the row.
    """
    state = space.function_entry()
    verdict = state.verdicts.get(claim)
    if verdict is None:
        verdict = book.judge(space, state, claim, address)
    return verdict.answer is Answer.PROVED


def is_like_entry(callee_saved: tuple[int, ...], state: State) -> bool:
    """Return whether a state looks as at a function's entry: a jump from there is a tail call."""
    pointer = state.registers[SP]
    return (
        isinstance(pointer, Address)
        and pointer.region is CFA_REGION
        and -8 <= pointer.offset_bytes < 0
        and all(state.registers[register] is entry(register) for register in callee_saved)
    )
