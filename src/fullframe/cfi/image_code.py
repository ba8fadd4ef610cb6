"""An image's code by FDE: names, ranges, words, stubs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import cached_property
from typing import Any

import numpy as np
from iced_x86 import Decoder, FlowControl, Mnemonic, OpKind

from fullframe.cfi.code import NamedCode
from fullframe.cfi.frames import Fde
from fullframe.elf.arrays import are_among
from fullframe.elf.image import AddressError, Image
from fullframe.errors import FullframeError
from fullframe.x86.registers import Machine

#: Code is looked through in pieces of this many bytes, for the sake of memory.
_PIECE_BYTES = 1 << 22
#: How the names of the sections of PLT stubs begin.
_PLT = ".plt"
#: No more of a callee is of interest to :class:`fullframe.track.calls.Callees`.
_LARGEST_CALLEE_BYTES = 1 << 16


class ImageCode(NamedCode):
    """An image's code by FDE: names, ranges, words. Shared by all functions of the image."""

    def __init__(self, image: Image, fdes: list[Fde]) -> None:
        super().__init__(image)
        self.fdes = fdes
        self._begins = [fde.begin for fde in fdes]
        self.got = _got_address(image)
        self._stubs: dict[int, bool] = {}

    def are_begins(self, addresses: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return at which of some addresses an FDE begins."""
        return are_among(addresses, self._begin_array)

    @cached_property
    def _begin_array(self) -> np.ndarray[Any, Any]:
        return np.array(self._begins, np.uint64)

    def begin_bytes(self, unheld: int) -> bytes:
        """Return the first byte of each FDE's code; ``unheld`` where no executable range has it."""
        found = np.full(len(self._begins), unheld, np.uint8)
        for begin, piece in self.image.executable_pieces(_PIECE_BYTES, 0):
            low, high = (
                bisect_left(self._begins, address) for address in (begin, begin + len(piece))
            )
            places = (self._begin_array[low:high] - np.uint64(begin)).astype(np.int64)
            found[low:high] = np.frombuffer(piece, np.uint8)[places]
        return found.tobytes()

    def covering(self, address: int) -> Fde | None:
        """Return the FDE whose range covers an address."""
        position = bisect_right(self._begins, address) - 1
        if position >= 0:
            fde = self.fdes[position]
            if address < fde.end:
                return fde
        return None

    def number_of(self, fde: Fde) -> int:
        """Return which of the image's FDEs, by address, one is."""
        return bisect_right(self._begins, fde.begin) - 1

    def code_of(self, fde: Fde) -> bytes:
        """Return a function's bytes; raises InputError where the file does not hold them."""
        size = fde.end - fde.begin
        held_end = self.image.mapped_end(fde.begin)
        if held_end is None or fde.end > held_end:
            # No code is in zero-filled memory, of which there may be as much as a header claims.
            raise AddressError(self.image.path, fde.begin, size)
        return bytes(self.image.read(fde.begin, size))

    def code_at(self, target: int) -> tuple[int, bytes] | None:
        """Return (``target``, code) from ``target`` to the end of the function there."""
        fde = self.covering(target)
        if fde is None or fde.end - target > _LARGEST_CALLEE_BYTES:
            return None
        try:
            return target, bytes(self.image.read(target, fde.end - target))
        except FullframeError:
            return None

    def is_plt(self, fde: Fde) -> bool:
        """Return whether an FDE is that of PLT stubs, of any kind."""
        section = self.image.section_at(fde.begin)
        return section is not None and section.name.startswith(_PLT)

    @cached_property
    def plt_begins(self) -> frozenset[int]:
        """Where the FDEs of PLT stubs begin."""
        begins = self._begin_array
        chosen = np.zeros(len(begins) + 1, np.int64)
        for section in self.image.sections:
            if section.name.startswith(_PLT):
                # Sections may overlap, and claim any size: who looks is asked afterwards.
                chosen[bisect_left(self._begins, section.address)] += 1
                chosen[bisect_left(self._begins, section.end)] -= 1
        candidates = np.flatnonzero(np.cumsum(chosen[:-1]) > 0).tolist()
        return frozenset(self._begins[n] for n in candidates if self.is_plt(self.fdes[n]))

    def is_seeded_stub(self, fde: Fde, target: int) -> bool:
        """Return whether an address in an FDE is a PLT stub, which is followed as called.

        Args:
            fde: covers the address.
            target: the address.
        """
        known = self._stubs.get(target)
        if known is None:
            known = False
            at = target - fde.begin
            known = (
                at % 8 == 0
                and self.is_plt(fde)
                and is_stub(self.image.machine, self.code_of(fde)[at : at + 16])
            )
            self._stubs[target] = known
        return known

    def in_lazy_plt(self, fde: Fde) -> bool:
        """Return whether an FDE is that of ``.plt``, whose stubs bind themselves."""
        section = self.image.section_at(fde.begin)
        return section is not None and section.name == ".plt"


def is_stub(machine: Machine, body: bytes) -> bool:
    """Return whether code is that of a PLT stub, which callers enter: it jumps through a slot.

    Where indirect branches are tracked, the stub that binds lazily pushes its number instead.
    What all such stubs share pushes from memory, and is not called.
    """
    marked = False
    for instruction in Decoder(machine.bits, body):
        if instruction.mnemonic in (Mnemonic.ENDBR32, Mnemonic.ENDBR64) and not marked:
            marked = True
            continue
        if instruction.mnemonic == Mnemonic.PUSH:
            return marked and instruction.op0_kind not in (OpKind.MEMORY, OpKind.REGISTER)
        return (
            instruction.flow_control == FlowControl.INDIRECT_BRANCH
            and instruction.op0_kind == OpKind.MEMORY
        )
    return False


def _got_address(image: Image) -> int | None:
    if image.is_relocatable:
        return image.got_address
    for name in (".got.plt", ".got"):
        for section in image.sections:
            if section.name == name and section.address:
                return section.address
    return None
