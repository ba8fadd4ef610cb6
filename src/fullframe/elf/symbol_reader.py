"""Symbol tables of an image, from its sections or from its dynamic segment."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fullframe.elf import dynamic as dyn
from fullframe.elf import layout, versions
from fullframe.elf.sections import Section
from fullframe.elf.strings import StringTable
from fullframe.elf.structures import (
    SHN_ABS,
    SHN_COMMON,
    SHN_UNDEF,
    SHT_DYNSYM,
    SHT_GNU_VERSYM,
    SHT_SYMTAB,
    SHT_SYMTAB_SHNDX,
)
from fullframe.elf.symbols import LAYOUT, SymbolTable
from fullframe.errors import FullframeError, InputError, Place

if TYPE_CHECKING:
    from fullframe.elf.image import Image


def read_symbol_tables(image: Image) -> dict[int, SymbolTable]:
    """Return the symbol tables by section index; the dynamic segment's has index -1."""
    tables: dict[int, SymbolTable] = {}
    # The gABI allows one section of each of the two types.
    for kind in (SHT_SYMTAB, SHT_DYNSYM):
        section = next((item for item in image.sections if item.type == kind), None)
        if section is not None:
            tables[section.index] = _symbol_table(image, section)
    if not image.sections and dyn.DT_SYMTAB in image.dynamic:
        tables[-1] = _dynamic_symbol_table(image)
    return tables


def _symbol_table(image: Image, section: Section) -> SymbolTable:
    record = LAYOUT[image.elf_bits]
    raw = image.table_bytes(section)
    strings = StringTable(b"")
    if 0 < section.link < len(image.sections):
        strings = StringTable(bytes(image.table_bytes(image.sections[section.link])))
    extended = None
    version_of = None
    for other in image.sections:
        if other.link != section.index:
            continue
        if other.type == SHT_SYMTAB_SHNDX and extended is None:
            indices = image.table_bytes(other)
            extended = np.frombuffer(indices, "<u4", len(indices) // 4)
        elif other.type == SHT_GNU_VERSYM and version_of is None and not image.is_relocatable:
            version_of = versions.from_sections(image.sections, other, strings, image.table_bytes)
    return SymbolTable(
        np.frombuffer(raw, record, len(raw) // record.itemsize),
        strings,
        extended,
        partial(_synthetic_addresses, image) if image.is_relocatable else None,
        version_of,
    )


def _dynamic_symbol_table(image: Image) -> SymbolTable:
    tags = image.dynamic
    record = LAYOUT[image.elf_bits]
    try:
        limit = image.size_bytes // record.itemsize
        count = dyn.count_symbols(tags, image.read, image.elf_bits, limit)
    except FullframeError as error:
        image.warnings.append(
            InputError(
                Place(image.path),
                f"the hash table of the dynamic symbols cannot be read ({error})",
                "a table within the image; the symbols are ignored",
            )
        )
        count = 0
    raw = image.mapped(tags[dyn.DT_SYMTAB], count * record.itemsize)
    strings = StringTable(
        bytes(image.mapped(tags.get(dyn.DT_STRTAB, 0), tags.get(dyn.DT_STRSZ, 0)))
    )
    version_of = versions.from_dynamic(tags, image.read_from, strings)
    return SymbolTable(np.frombuffer(raw, record), strings, None, None, version_of)


def _synthetic_addresses(
    image: Image, sections: npt.NDArray[np.uint32], values: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    bases = np.array([section.address % (1 << 64) for section in image.sections], np.uint64)
    addresses = values.copy()
    placed = (sections != SHN_ABS) & (sections < len(bases))
    addresses[placed] += bases[sections[placed]]
    undefined = np.flatnonzero((sections == SHN_UNDEF) | (sections == SHN_COMMON))
    addresses[undefined] = layout.UNDEFINED_BASE + layout.UNDEFINED_STEP * undefined
    return addresses
