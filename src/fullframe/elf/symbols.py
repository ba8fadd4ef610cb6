"""Symbol tables: read with numpy, names decoded only for the symbols that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fullframe.elf.strings import StringTable
from fullframe.elf.structures import SHN_ABS, SHN_COMMON, SHN_LORESERVE, SHN_UNDEF, SHN_XINDEX

#: Layouts of Elf64_Sym and Elf32_Sym (gABI chapter 4, "Symbol Table").
LAYOUT = {
    64: np.dtype(
        [
            ("name", "<u4"),
            ("info", "u1"),
            ("other", "u1"),
            ("section", "<u2"),
            ("value", "<u8"),
            ("size", "<u8"),
        ]
    ),
    32: np.dtype(
        [
            ("name", "<u4"),
            ("value", "<u4"),
            ("size", "<u4"),
            ("info", "u1"),
            ("other", "u1"),
            ("section", "<u2"),
        ]
    ),
}

_KINDS = {
    0: "notype", 1: "object", 2: "func", 3: "section", 4: "file", 5: "common", 6: "tls",
    10: "ifunc",
}  # fmt: skip
_BINDINGS = {0: "local", 1: "global", 2: "weak", 10: "unique"}
#: STT_NOTYPE, STT_FUNC, STT_GNU_IFUNC: what may name code.
NOTYPE, FUNC, IFUNC = 0, 2, 10


class Symbol(NamedTuple):
    """A symbol (a named tuple, not a dataclass: large libraries have hundreds of thousands).

    Attributes:
        name: as in the string table; empty for section symbols.
        address: its value; synthetic in a relocatable object, also for undefined symbols there.
        size_bytes: 0 where the file does not say.
        kind: func, ifunc, notype, object, section, file, common, tls, or ``type N``.
        binding: local, global, weak, unique, or ``binding N``.
        section_index: the section it is defined in; None if undefined.
        version: the symbol version, such as ``GLIBC_2.2.5``; None if unversioned.
    """

    name: str
    address: int
    size_bytes: int
    kind: str
    binding: str
    section_index: int | None
    version: str | None = None

    @property
    def is_defined(self) -> bool:
        """Whether the image itself defines the symbol."""
        return self.section_index is not None


class SymbolTable:
    """One symbol table of an image.

    Args:
        entries: the records, with one of the dtypes of :data:`LAYOUT`.
        strings: the table of names.
        extended: the section indices of ``SHT_SYMTAB_SHNDX``, for tables with more than
            65,279 sections.
        address_of: turns (symbol number, section index, value) into an address; linked images
            need none.
        version_of: the version of a symbol by its number.
    """

    def __init__(
        self,
        entries: npt.NDArray[Any],
        strings: StringTable,
        extended: npt.NDArray[Any] | None = None,
        address_of: Callable[[int, int, int], int] | None = None,
        version_of: Callable[[int], str | None] | None = None,
    ) -> None:
        self.entries = entries
        self.strings = strings
        self._extended = extended
        self._address_of = address_of
        self._version_of = version_of
        self._cache: dict[int, Symbol] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def section_of(self, number: int) -> int:
        """Return the section index of a symbol: 0 if undefined, SHN_ABS and the like kept."""
        index = int(self.entries["section"][number])
        if index == SHN_XINDEX and self._extended is not None and number < len(self._extended):
            return int(self._extended[number])
        return index

    def symbol(self, number: int) -> Symbol | None:
        """Return a symbol by its number; None if there is no such number (or number 0)."""
        found = self._cache.get(number)
        if found is None:
            if not 0 < number < len(self.entries):
                return None
            found = self._cache[number] = self._make(number)
        return found

    def _make(self, number: int) -> Symbol:
        entry = self.entries[number]
        info = int(entry["info"])
        section = self.section_of(number)
        address = int(entry["value"])
        if self._address_of is not None:
            address = self._address_of(number, section, address)
        return Symbol(
            self.strings.get(int(entry["name"])),
            address,
            int(entry["size"]),
            _KINDS.get(info & 15) or f"type {info & 15}",
            _BINDINGS.get(info >> 4) or f"binding {info >> 4}",
            None if section == SHN_UNDEF else section,
            self._version_of(number) if self._version_of is not None else None,
        )

    def all(self) -> list[Symbol]:
        """Return every symbol but number 0, in the order of the table."""
        return [self._cache.get(n) or self._make(n) for n in range(1, len(self.entries))]

    def code_candidates(self) -> list[int]:
        """Return the numbers of the defined symbols that may name code."""
        if not len(self.entries):
            return []
        kinds = self.entries["info"] & 15
        section = self.entries["section"]
        mask = (kinds == FUNC) | (kinds == IFUNC) | (kinds == NOTYPE)
        mask &= (section != SHN_UNDEF) & (section != SHN_ABS) & (section != SHN_COMMON)
        mask &= (section < SHN_LORESERVE) | (section == SHN_XINDEX)
        mask[0] = False
        return [int(number) for number in np.flatnonzero(mask)]


class SymbolIndex:
    """Function symbols by address.

    Args:
        symbols: function symbols in any order.
        section_end: gives the end of the executable range that an address lies in (None if it
            lies in none), so that a label without a size does not reach into another section.
    """

    def __init__(self, symbols: Sequence[Symbol], section_end: Callable[[int], int | None]) -> None:
        # Of several names for one address the first is the one shown: prefer what has a size,
        # then functions, then what the linker made visible, then the shorter name.
        best: dict[int, Symbol] = {}
        for symbol in symbols:
            other = best.get(symbol.address)
            if other is None or _preference(symbol) < _preference(other):
                best[symbol.address] = symbol
        self._starts = sorted(best)
        self._best = best
        self._section_end = section_end
        self._owners = self._sweep()

    def _sweep(self) -> list[Symbol | None]:
        """For each start the innermost symbol with a size that covers it (None: none does)."""
        owners: list[Symbol | None] = []
        open_symbols: list[Symbol] = []
        for start in self._starts:
            while open_symbols and _end(open_symbols[-1]) <= start:
                open_symbols.pop()
            symbol = self._best[start]
            if symbol.size_bytes:
                open_symbols.append(symbol)
            owners.append(open_symbols[-1] if open_symbols else None)
        return owners

    def at(self, address: int) -> Symbol | None:
        """Return the symbol that covers ``address``, or the nearest before it in its section.

        A symbol with a size covers only that; one without reaches to the next symbol.
        """
        from bisect import bisect_right

        position = bisect_right(self._starts, address) - 1
        if position < 0:
            return None
        start = self._starts[position]
        owner = self._owners[position]
        # Walk outwards: an inner symbol may have ended before the address, its surroundings not.
        steps = 0
        while owner is not None and _end(owner) <= address and steps < 64:
            steps += 1
            outer = bisect_right(self._starts, owner.address) - 2
            owner = self._owners[outer] if outer >= 0 else None
        if owner is not None and owner.address <= address < _end(owner):
            return owner
        nearest = self._best[start]
        end = self._section_end(start)
        if end is None or address >= end:
            return None
        return nearest


def _end(symbol: Symbol) -> int:
    return symbol.address + symbol.size_bytes


def _preference(symbol: Symbol) -> tuple[bool, bool, bool, bool, int, str]:
    return (
        symbol.size_bytes == 0,
        symbol.kind == "notype",
        symbol.name.startswith("."),
        symbol.binding == "local",
        len(symbol.name),
        symbol.name,
    )
