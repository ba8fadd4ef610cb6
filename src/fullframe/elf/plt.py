"""Names of the functions that procedure linkage table (PLT) stubs jump to.

A stub is recognised by its instructions, so that images without section headers work too. Its
jump goes through a word that a JUMP_SLOT or GLOB_DAT relocation fills; the relocation names the
function. Forms: System V ABI x86-64 psABI section 5.2 and its CET appendix (``.plt.sec``), i386
psABI section 5.2 (absolute, and relative to ebx, which holds the GOT's address).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullframe.elf import relocations
from fullframe.elf.memory import AddressError

if TYPE_CHECKING:
    from fullframe.elf.image import Image

_ENDBR64, _ENDBR32 = b"\xf3\x0f\x1e\xfa", b"\xf3\x0f\x1e\xfb"
_BND = 0xF2
_LONGEST_STUB_BYTES = 16


class PltReader:
    """Reads the PLT stubs of one image.

    Args:
        image: the image; a relocatable object has no PLT yet.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._names: dict[int, str | None] = {}

    def name_at(self, address: int) -> str | None:
        """Return the name of the function that the stub at ``address`` jumps to."""
        if address not in self._names:
            self._names[address] = self._find(address)
        return self._names[address]

    def _find(self, address: int) -> str | None:
        image = self._image
        if image.is_relocatable:
            return None
        section = image.section_at(address)
        if section is not None and not section.name.startswith((".plt", ".iplt")):
            return None
        end = image.executable_end(address)
        if end is None:
            return None
        try:
            code = bytes(image.read(address, min(_LONGEST_STUB_BYTES, end - address)))
        except AddressError:
            return None
        slot = self._slot(address, code)
        if slot is None:
            return None
        return self._name_of_slot(slot)

    def _slot(self, address: int, code: bytes) -> int | None:
        """Address of the word that the stub jumps through."""
        start = 4 if code[:4] in (_ENDBR64, _ENDBR32) else 0
        if code[start : start + 1] == b"\x68":
            return self._lazy_slot(code, start)
        if code[start : start + 1] == bytes([_BND]):
            start += 1
        operand = code[start + 2 : start + 6]
        if len(operand) < 4 or code[start] != 0xFF:
            return None
        displacement = int.from_bytes(operand, "little", signed=True)
        if code[start + 1] == 0x25:
            if self._image.machine.bits == 64:
                return (address + start + 6 + displacement) & ((1 << 64) - 1)
            return displacement & 0xFFFFFFFF
        got = self._image.got_address
        if code[start + 1] == 0xA3 and self._image.machine.bits == 32 and got is not None:
            return (got + displacement) & 0xFFFFFFFF
        return None

    def _lazy_slot(self, code: bytes, start: int) -> int | None:
        """The slot of an IBT stub in ``.plt``: it pushes the relocation's number and jumps on."""
        operand = code[start + 1 : start + 5]
        jump = code[start + 5 : start + 7]
        if len(operand) < 4 or not (jump[:1] == b"\xe9" or jump == b"\xf2\xe9"):
            return None
        return self._image.plt_relocation_address(int.from_bytes(operand, "little"))

    def _name_of_slot(self, slot: int) -> str | None:
        image = self._image
        wanted = (relocations.R_X86_64_JUMP_SLOT, relocations.R_X86_64_GLOB_DAT)
        indirect = (
            relocations.R_X86_64_IRELATIVE
            if image.machine.bits == 64
            else relocations.R_386_IRELATIVE
        )
        for relocation in image.relocations.within(slot, slot + 1):
            # The numbers of JUMP_SLOT and GLOB_DAT are the same on both machines.
            if relocation.type in wanted and relocation.symbol is not None:
                return relocation.symbol.name or None
            if relocation.type == indirect:
                resolver = image.symbol_at(relocation.addend)
                if resolver is not None and resolver.address == relocation.addend:
                    return resolver.name
        return None
