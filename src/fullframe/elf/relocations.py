"""Relocations: looked up by the address they change, and applied to relocatable objects.

Sources: System V ABI x86-64 psABI, table 4.9 and section 4.4; i386 psABI, table 4.9; gABI chapter
4, "Relocation" and "Relative Relocation Table" (RELR).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fullframe.elf.arrays import distinct
from fullframe.elf.layout import GOT_ADDRESS
from fullframe.elf.symbols import Symbol, SymbolTable

#: Layouts of Elf*_Rel and Elf*_Rela by (ELF class, has addend).
LAYOUT = {
    (64, True): np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")]),
    (64, False): np.dtype([("offset", "<u8"), ("info", "<u8")]),
    (32, True): np.dtype([("offset", "<u4"), ("info", "<u4"), ("addend", "<i4")]),
    (32, False): np.dtype([("offset", "<u4"), ("info", "<u4")]),
}

R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT, R_X86_64_RELATIVE, R_X86_64_IRELATIVE = 6, 7, 8, 37
R_386_GLOB_DAT, R_386_JMP_SLOT, R_386_RELATIVE, R_386_IRELATIVE = 6, 7, 8, 42
R_386_GOTOFF, R_386_GOTPC = 9, 10

#: Types that store a value in a relocatable object: type to (width in bytes, PC-relative).
#: PLT32 is taken as PC32: the call goes to the function, with or without a PLT in between.
#: Types that need an entry of the GOT, a PLT or thread-local storage store nothing: only a linker
#: makes those. Distances from the GOT need its address alone, and jump tables are made of them.
_STORED: dict[int, dict[int, tuple[int, bool]]] = {
    64: {
        1: (8, False),  # R_X86_64_64
        2: (4, True),  # R_X86_64_PC32
        4: (4, True),  # R_X86_64_PLT32
        10: (4, False),  # R_X86_64_32
        11: (4, False),  # R_X86_64_32S
        12: (2, False),  # R_X86_64_16
        13: (2, True),  # R_X86_64_PC16
        14: (1, False),  # R_X86_64_8
        15: (1, True),  # R_X86_64_PC8
        24: (8, True),  # R_X86_64_PC64
    },
    32: {
        1: (4, False),  # R_386_32
        9: (4, False),  # R_386_GOTOFF, with the GOT taken to be at address 0
        2: (4, True),  # R_386_PC32
        4: (4, True),  # R_386_PLT32
        R_386_GOTOFF: (4, False),
        R_386_GOTPC: (4, True),
        20: (2, False),  # R_386_16
        21: (2, True),  # R_386_PC16
        22: (1, False),  # R_386_8
        23: (1, True),  # R_386_PC8
    },
}


@dataclass(frozen=True, slots=True)
class Relocation:
    """A change that the linker or loader makes to the image.

    Attributes:
        address: the first byte changed.
        type: ``R_X86_64_*`` or ``R_386_*`` as a number.
        symbol: what it refers to; None for relative relocations.
        addend: added to the symbol's value; read from the place where the format keeps it there.
    """

    address: int
    type: int
    symbol: Symbol | None
    addend: int


@dataclass(frozen=True, slots=True)
class RelocationBatch:
    """One relocation section, as arrays of one length.

    Attributes:
        addresses: of the changed bytes, unsigned.
        types: relocation types.
        symbol_numbers: in ``symbols``; 0 for none.
        addends: signed; None where they are kept in the changed bytes.
        symbols: the table the numbers refer to; None if the file has none.
    """

    addresses: npt.NDArray[np.uint64]
    types: npt.NDArray[np.uint32]
    symbol_numbers: npt.NDArray[np.uint32]
    addends: npt.NDArray[np.int64] | None
    symbols: SymbolTable | None


def read_batch(
    raw: memoryview, elf_bits: int, has_addend: bool, symbols: SymbolTable | None, base: int = 0
) -> RelocationBatch:
    """Read the bytes of one relocation section.

    Args:
        raw: the section's bytes; a rest that holds no whole record is ignored.
        elf_bits: the ELF class.
        has_addend: RELA rather than REL.
        symbols: the associated symbol table.
        base: added to every offset (the target section's address in a relocatable object).
    """
    layout = LAYOUT[elf_bits, has_addend]
    records = np.frombuffer(raw, layout, len(raw) // layout.itemsize)
    info = records["info"]
    shift, mask = (32, 0xFFFFFFFF) if elf_bits == 64 else (8, 0xFF)
    return RelocationBatch(
        records["offset"].astype(np.uint64) + np.uint64(base),
        (info & info.dtype.type(mask)).astype(np.uint32),
        (info >> info.dtype.type(shift)).astype(np.uint32),
        records["addend"].astype(np.int64) if has_addend else None,
        symbols,
    )


def read_relr(raw: memoryview, elf_bits: int, limit: int) -> npt.NDArray[np.uint64]:
    """Decode a RELR section: the addresses of words that the loader's base is added to.

    Args:
        raw: the section's bytes.
        elf_bits: the ELF class.
        limit: the largest number of addresses to give, a bound against hostile bitmaps.
    """
    word_bytes = elf_bits // 8
    words = np.frombuffer(raw, f"<u{word_bytes}", len(raw) // word_bytes).tolist()
    addresses: list[int] = []
    where = 0
    for word in words:
        if len(addresses) > limit:
            break
        if word & 1 == 0:
            addresses.append(word)
            where = word + word_bytes
            continue
        bitmap, place = word >> 1, where
        while bitmap:
            if bitmap & 1:
                addresses.append(place)
            bitmap >>= 1
            place += word_bytes
        where += (elf_bits - 1) * word_bytes
    top = (1 << 64) - 1
    return np.array([address & top for address in addresses], dtype=np.uint64)


class RelocationTable(Mapping[int, list[Relocation]]):
    """All relocations of an image by the address they change; made into objects on demand.

    Args:
        batches: the relocation sections.
        stored_addend: reads the addend that a REL record keeps in the changed bytes.
    """

    def __init__(
        self, batches: list[RelocationBatch], stored_addend: Callable[[int, int], int]
    ) -> None:
        self._batches = batches
        self._stored_addend = stored_addend
        lengths = [len(batch.addresses) for batch in batches]
        addresses = (
            np.concatenate([batch.addresses for batch in batches])
            if batches
            else np.empty(0, np.uint64)
        )
        self._order = np.argsort(addresses, kind="stable")
        self._addresses = addresses[self._order]
        self._starts = np.cumsum([0, *lengths]).tolist()

    def _relocation(self, position: int) -> Relocation:
        flat = int(self._order[position])
        number = bisect_left(self._starts, flat + 1) - 1
        batch = self._batches[number]
        row = flat - self._starts[number]
        address = int(batch.addresses[row])
        kind = int(batch.types[row])
        symbol_number = int(batch.symbol_numbers[row])
        symbol = batch.symbols.symbol(symbol_number) if batch.symbols is not None else None
        if batch.addends is None:
            addend = self._stored_addend(address, kind)
        else:
            addend = int(batch.addends[row])
        return Relocation(address, kind, symbol, addend)

    def _span(self, begin: int, end: int) -> tuple[int, int]:
        if begin < 0 or begin >= 1 << 64:
            return 0, 0
        first = int(np.searchsorted(self._addresses, np.uint64(begin)))
        last = int(np.searchsorted(self._addresses, np.uint64(min(end, (1 << 64) - 1))))
        return first, last

    def within(self, begin: int, end: int) -> list[Relocation]:
        """Return the relocations that change addresses from ``begin`` up to before ``end``."""
        first, last = self._span(begin, end)
        return [self._relocation(position) for position in range(first, last)]

    def __getitem__(self, address: int) -> list[Relocation]:
        found = self.within(address, address + 1)
        if not found:
            raise KeyError(address)
        return found

    def get(self, address: int, default: Any = None) -> Any:
        """Return the relocations at ``address``, or ``default`` if there are none."""
        return self.within(address, address + 1) or default

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, int):
            return False
        first, last = self._span(address, address + 1)
        return first < last

    def __iter__(self) -> Iterator[int]:
        return iter(distinct(self._addresses).tolist())

    def __len__(self) -> int:
        return len(distinct(self._addresses))


def apply(data: bytearray, batch: RelocationBatch, target_address: int, machine_bits: int) -> int:
    """Store what the relocations of one section say into a copy of its bytes.

    Args:
        data: the copy, changed in place.
        batch: relocations whose addresses lie in the section.
        target_address: the section's address.
        machine_bits: 64 for the x86-64 relocation types (x32 too), 32 for the i386 ones.

    Returns:
        How many records were ignored because they lie outside the section, name no symbol, or
        need what only a linker can make.
    """
    ignored = 0
    types = batch.types
    array = np.frombuffer(data, np.uint8)
    values = _symbol_values(batch)
    offsets = batch.addresses - np.uint64(target_address)
    done = np.zeros(len(types), bool)
    for kind, (width, pc_relative) in _STORED[machine_bits].items():
        if len(data) < width:
            continue
        rows = np.flatnonzero((types == kind) & (offsets <= np.uint64(len(data) - width)))
        if not len(rows):
            continue
        done[rows] = True
        spots = offsets[rows].astype(np.int64)[:, None] + np.arange(width)
        value = values[rows]
        if machine_bits == 32 and kind == R_386_GOTOFF:
            value = value - np.uint64(GOT_ADDRESS)
        elif machine_bits == 32 and kind == R_386_GOTPC:
            value = np.full(len(rows), GOT_ADDRESS, np.uint64)
        if batch.addends is None:
            value = value + _stored(array, spots, width).astype(np.uint64)
        else:
            value = value + batch.addends[rows].astype(np.uint64)
        if pc_relative:
            value = value - batch.addresses[rows]
        array[spots] = value.astype("<u8")[:, None].view(np.uint8)[:, :width]
    ignored += int(np.count_nonzero(~done))
    return ignored


def _stored(
    array: npt.NDArray[np.uint8], spots: npt.NDArray[np.int64], width: int
) -> npt.NDArray[np.int64]:
    """Read the signed values of ``width`` bytes at rows of byte positions."""
    raw = np.ascontiguousarray(array[spots])
    signed: npt.NDArray[np.int64] = raw.view(f"<i{width}")[:, 0].astype(np.int64)
    return signed


def _symbol_values(batch: RelocationBatch) -> npt.NDArray[np.uint64]:
    """Addresses of the symbols of a batch; 0 where a record names none."""
    numbers, inverse = np.unique(batch.symbol_numbers, return_inverse=True)
    values = []
    for number in numbers.tolist():
        symbol = batch.symbols.symbol(number) if batch.symbols is not None else None
        values.append(0 if symbol is None else symbol.address & ((1 << 64) - 1))
    result: npt.NDArray[np.uint64] = np.array(values, dtype=np.uint64)[inverse]
    return result


def stored_bytes(kind: int, machine_bits: int) -> int:
    """Return how many bytes a relocation of that type changes; a word's where it is not known."""
    return _STORED[machine_bits].get(kind, (4 if machine_bits == 32 else 8, False))[0]
