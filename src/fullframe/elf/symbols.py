"""Symbol tables: read with numpy, names decoded only for the symbols that are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fullframe.elf.arrays import distinct
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
_LOCAL = 0
#: Visibilities (gABI chapter 4, "Symbol Table") of what other images see: STV_DEFAULT and
#: STV_PROTECTED.
_DEFAULT, _PROTECTED = 0, 3
#: Symbols that nest more deeply than this are not told apart.
_DEEPEST_NESTING = 64


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


#: Section indices and values to addresses.
AddressesOf = Callable[[npt.NDArray[np.uint32], npt.NDArray[np.uint64]], npt.NDArray[np.uint64]]


class SymbolTable:
    """One symbol table of an image.

    Args:
        entries: the records, with one of the dtypes of :data:`LAYOUT`.
        strings: the table of names.
        extended: the section indices of ``SHT_SYMTAB_SHNDX``, for tables with more than
            65,279 sections.
        addresses_of: turns the section indices and values of all symbols, by number, into
            addresses; linked images need none.
        version_of: the version of a symbol by its number.
    """

    def __init__(
        self,
        entries: npt.NDArray[Any],
        strings: StringTable,
        extended: npt.NDArray[Any] | None = None,
        addresses_of: AddressesOf | None = None,
        version_of: Callable[[int], str | None] | None = None,
    ) -> None:
        self.entries = entries
        self.strings = strings
        self._extended = extended
        self._addresses_of = addresses_of
        self._version_of = version_of
        self._cache: dict[int, Symbol] = {}

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def sections(self) -> npt.NDArray[np.uint32]:
        """The section index of each symbol: 0 if undefined, SHN_ABS and the like kept."""
        indices: npt.NDArray[np.uint32] = self.entries["section"].astype(np.uint32)
        if self._extended is not None:
            extended = self._extended[: len(indices)]
            spots = np.flatnonzero(indices[: len(extended)] == SHN_XINDEX)
            indices[spots] = extended[spots]
        return indices

    @cached_property
    def addresses(self) -> npt.NDArray[np.uint64]:
        """The address of each symbol, as in :class:`Symbol`."""
        values: npt.NDArray[np.uint64] = self.entries["value"].astype(np.uint64)
        return values if self._addresses_of is None else self._addresses_of(self.sections, values)

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
        section = int(self.sections[number])
        return Symbol(
            self.strings.get(int(entry["name"])),
            int(self.addresses[number]),
            int(entry["size"]),
            _KINDS.get(info & 15) or f"type {info & 15}",
            _BINDINGS.get(info >> 4) or f"binding {info >> 4}",
            None if section == SHN_UNDEF else section,
            self._version_of(number) if self._version_of is not None else None,
        )

    def all(self) -> list[Symbol]:
        """Return every symbol but number 0, in the order of the table."""
        return [self._cache.get(n) or self._make(n) for n in range(1, len(self.entries))]

    def code_candidates(self) -> npt.NDArray[np.intp]:
        """Return the numbers of the defined symbols that have a name and may name code."""
        kinds = self.entries["info"] & 15
        section = self.entries["section"]
        mask = (kinds == FUNC) | (kinds == IFUNC) | (kinds == NOTYPE)
        mask &= (section != SHN_UNDEF) & (section != SHN_ABS) & (section != SHN_COMMON)
        mask &= (section < SHN_LORESERVE) | (section == SHN_XINDEX)
        mask &= self.strings.first_bytes(self.entries["name"]) != 0
        mask[:1] = False
        return np.flatnonzero(mask)


#: A candidate for naming code: its address and size, the numbers of its table and of the symbol in
#: it, and how little it is preferred among those with its address.
_ROW = np.dtype(
    [("address", "<u8"), ("size", "<u8"), ("number", "<i8"), ("table", "<i4"), ("rank", "u1")]
)

#: The bit of ``rank`` that says so.
_IS_NO_FUNCTION = 4


class FunctionSymbols:
    """The named places in executable ranges, by address.

    A library has thousands, of which a few are asked for: numbers are sorted here, and a
    :class:`Symbol` is made only of what is asked for.

    Args:
        tables: the symbol tables of an image.
        ranges: (first address, first address after) of what is executable, in order and without
            overlaps. A label without a size does not reach beyond the range that it lies in.
    """

    def __init__(self, tables: Sequence[SymbolTable], ranges: Sequence[tuple[int, int]]) -> None:
        self._tables = tables
        rows = np.concatenate(
            [np.zeros(0, _ROW)] + [_rows_of(table, index) for index, table in enumerate(tables)]
        )
        spans = np.array(ranges or [(0, 0)], np.uint64)
        addresses = rows["address"]
        span = spans[np.searchsorted(spans[:, 0], addresses, "right") - 1]
        rows = rows[(span[:, 0] <= addresses) & (addresses < span[:, 1])]
        self._rows = rows[np.lexsort((rows["rank"], rows["address"]))]
        # Plain integers: bisection is faster in a list, and nothing wraps around at 64 bits.
        starts, first_rows = np.unique(self._rows["address"], return_index=True)
        self._starts: list[int] = starts.tolist()
        self._first_rows = first_rows
        self._ranges = ranges
        self._best: dict[int, Symbol | None] = {}

    def _symbols(self, rows: npt.NDArray[Any]) -> list[Symbol]:
        """Make symbols of rows, without those whose name the table does not give away any more."""
        pairs = zip(rows["table"].tolist(), rows["number"].tolist(), strict=True)
        symbols = (self._tables[table].symbol(number) for table, number in pairs)
        return [symbol for symbol in symbols if symbol is not None and symbol.name]

    def all(self) -> list[Symbol]:
        """Return them by address and name.

        One that is in several tables comes once, as the first of them has it.
        """
        found: dict[tuple[int, str], Symbol] = {}
        as_in_tables = np.lexsort((self._rows["number"], self._rows["table"]))
        for symbol in self._symbols(self._rows[as_in_tables]):
            found.setdefault((symbol.address, symbol.name), symbol)
        return [found[key] for key in sorted(found)]

    def starts(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return the addresses of functions, ascending, and the size of each; no mere labels."""
        functions = self._rows[self._rows["rank"] & _IS_NO_FUNCTION == 0]
        # Of those at one address the one that is shown comes first.
        starts, first = np.unique(functions["address"], return_index=True)
        return starts, functions["size"][first]

    def addresses(self) -> dict[str, int]:
        """Return the address by name; of what has a name in common, the last."""
        rows = self._rows
        offsets = np.zeros(len(rows), np.int64)
        for index, table in enumerate(self._tables):
            chosen = rows["table"] == index
            offsets[chosen] = table.entries["name"][rows["number"][chosen]]
        return {
            self._tables[table].strings.get(offset): address
            for table, offset, address in zip(
                rows["table"].tolist(), offsets.tolist(), rows["address"].tolist(), strict=True
            )
        }

    def visible_functions(self) -> npt.NDArray[np.uint64]:
        """Return the addresses of the functions that other images may call by name, ascending.

        Labels that are no functions are left out, and what is hidden within the image.
        """
        rows = self._rows
        kept = np.zeros(len(rows), bool)
        for index, table in enumerate(self._tables):
            chosen = np.flatnonzero(rows["table"] == index)
            entries = table.entries[rows["number"][chosen]]
            kinds, visibilities = entries["info"] & 15, entries["other"] & 3
            kept[chosen] = (
                ((kinds == FUNC) | (kinds == IFUNC))
                & (entries["info"] >> 4 != _LOCAL)
                & ((visibilities == _DEFAULT) | (visibilities == _PROTECTED))
            )
        found: npt.NDArray[np.uint64] = distinct(rows["address"][kept])
        return found

    def extents(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return the first addresses of functions that have a size, ascending, and their ends."""
        rows = self._rows
        kept = np.zeros(len(rows), bool)
        for index, table in enumerate(self._tables):
            chosen = np.flatnonzero(rows["table"] == index)
            kept[chosen] = table.entries["info"][rows["number"][chosen]] & 15 == FUNC
        rows = rows[kept & (rows["size"] != 0)]
        begins, sizes = rows["address"], rows["size"]
        highest = np.uint64((1 << 64) - 1)
        return begins, np.where(sizes > highest - begins, highest, begins + sizes)

    def at(self, address: int) -> Symbol | None:
        """Return the symbol that covers ``address``, or the nearest before it in its range.

        A symbol with a size covers only that; one without reaches to the next symbol.
        """
        position = bisect_right(self._starts, address) - 1
        if position < 0:
            return None
        nearest = self._best_at(position)
        if nearest is not None and address < _end(nearest):
            return nearest
        # Walk outwards: an inner symbol may have ended before the address, its surroundings not.
        owner = self._owners[position]
        for _ in range(_DEEPEST_NESTING):
            if owner < 0:
                break
            if address < self._starts[owner] + self._sizes[owner]:
                return self._best_at(owner)
            owner = self._owners[owner - 1] if owner else -1
        _, end = self._ranges[bisect_right(self._ranges, (self._starts[position], 1 << 65)) - 1]
        return nearest if address < end else None

    def _best_at(self, position: int) -> Symbol | None:
        """The symbol that is shown of those at a start: what ranks first, by the shortest name."""
        if position not in self._best:
            begin, *following = self._first_rows[position : position + 2].tolist()
            rows = self._rows[begin : following[0] if following else None]
            symbols = self._symbols(rows[rows["rank"] == rows["rank"][0]])
            self._best[position] = min(
                symbols, key=lambda symbol: (len(symbol.name), symbol.name), default=None
            )
        return self._best[position]

    @cached_property
    def _owners(self) -> list[int]:
        """For each start the innermost symbol with a size that covers it (-1: none does)."""
        owners: list[int] = []
        open_symbols: list[tuple[int, int]] = []
        for position, (start, size) in enumerate(zip(self._starts, self._sizes, strict=True)):
            while open_symbols and open_symbols[-1][1] <= start:
                open_symbols.pop()
            if size:
                open_symbols.append((position, start + size))
            owners.append(open_symbols[-1][0] if open_symbols else -1)
        return owners

    @cached_property
    def _sizes(self) -> list[int]:
        """The size of the symbol that is shown, for each start."""
        first = self._rows[self._first_rows]
        sizes: list[int] = first["size"].tolist()
        # Where those that rank first do not agree, their names tell which is shown.
        start = np.searchsorted(self._first_rows, np.arange(len(self._rows)), "right") - 1
        disputed = self._rows["rank"] == first["rank"][start]
        disputed &= self._rows["size"] != first["size"][start]
        for position in distinct(start[disputed]).tolist():
            best = self._best_at(position)
            sizes[position] = 0 if best is None else best.size_bytes
        return sizes


def _rows_of(table: SymbolTable, index: int) -> npt.NDArray[Any]:
    numbers = table.code_candidates()
    entries = table.entries[numbers]
    rows = np.zeros(len(numbers), _ROW)
    rows["address"] = table.addresses[numbers]
    rows["size"] = entries["size"]
    rows["number"] = numbers
    rows["table"] = index
    # Of several names for one address the first is the one shown: prefer what has a size, then
    # functions, then what the linker made visible, then the shorter name.
    for drawback in (
        entries["size"] == 0,
        entries["info"] & 15 == NOTYPE,
        table.strings.first_bytes(entries["name"]) == ord("."),
        entries["info"] >> 4 == _LOCAL,
    ):
        rows["rank"] = rows["rank"] << 1 | drawback
    return rows


def _end(symbol: Symbol) -> int:
    return symbol.address + symbol.size_bytes
