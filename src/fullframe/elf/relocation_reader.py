"""Relocations of an image: from its sections, or from its dynamic segment."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fullframe.elf import dynamic as dyn
from fullframe.elf import relocations
from fullframe.elf.memory import AddressError
from fullframe.elf.relocations import RelocationBatch, RelocationTable
from fullframe.elf.sections import Section
from fullframe.elf.structures import SHT_REL, SHT_RELA, SHT_RELR
from fullframe.elf.symbols import SymbolTable

if TYPE_CHECKING:
    from fullframe.elf.image import Image


class RelocationReader:
    """Reads the relocations of one image.

    Args:
        image: the image.
        symbol_tables: its symbol tables by section index.
    """

    def __init__(self, image: Image, symbol_tables: Mapping[int, SymbolTable]) -> None:
        self._image = image
        self._symbol_tables = symbol_tables

    def applied(self, section: Section, view: memoryview) -> memoryview:
        """Return a section's bytes with the relocations of a relocatable object stored in them.

        The same view, not a copy, where the section has none.
        """
        if section.index not in self._relocation_sections:
            return view
        copy = bytearray(view)
        for batch in self._batches_of(section.index):
            relocations.apply(copy, batch, section.address, self._image.machine.bits)
        return memoryview(copy).toreadonly()

    @cached_property
    def _relocation_sections(self) -> dict[int, list[Section]]:
        """Relocation sections by the section that they change (0: the whole image)."""
        found: dict[int, list[Section]] = {}
        for section in self._image.sections:
            if section.type in (SHT_REL, SHT_RELA):
                if self._image.is_relocatable:
                    if 0 < section.info < len(self._image.sections):
                        found.setdefault(section.info, []).append(section)
                elif section.alloc:
                    found.setdefault(0, []).append(section)
        return found

    def _batches_of(self, target: int) -> list[RelocationBatch]:
        base = self._image.sections[target].address if self._image.is_relocatable else 0
        return [
            relocations.read_batch(
                self._image.table_bytes(section),
                self._image.elf_bits,
                section.type == SHT_RELA,
                self._symbol_tables.get(section.link),
                base,
            )
            for section in self._relocation_sections.get(target, ())
        ]

    def table(self) -> RelocationTable:
        """Return the relocations of loaded bytes."""
        if self._image.is_relocatable:
            batches = [
                batch
                for target in self._relocation_sections
                if self._image.sections[target].alloc
                for batch in self._batches_of(target)
            ]
            return RelocationTable(batches, self._original_addend)
        batches = self._batches_of(0) if self._image.sections else self._dynamic_batches()
        batches += self._relative_batches()
        return RelocationTable(batches, self._stored_addend)

    def _dynamic_batches(self) -> list[RelocationBatch]:
        tags = self._image.dynamic
        table = self._symbol_tables.get(-1)
        plt_has_addend = tags.get(dyn.DT_PLTREL) == dyn.DT_RELA
        batches = []
        for address, size, has_addend in (
            (tags.get(dyn.DT_RELA), tags.get(dyn.DT_RELASZ, 0), True),
            (tags.get(dyn.DT_REL), tags.get(dyn.DT_RELSZ, 0), False),
            (tags.get(dyn.DT_JMPREL), tags.get(dyn.DT_PLTRELSZ, 0), plt_has_addend),
        ):
            if address is not None and size:
                raw = self._image.mapped(address, size)
                batches.append(relocations.read_batch(raw, self._image.elf_bits, has_addend, table))
        return batches

    def _relative_batches(self) -> list[RelocationBatch]:
        image, tags = self._image, self._image.dynamic
        raw = [image.table_bytes(item) for item in image.sections if item.type == SHT_RELR]
        if not image.sections and dyn.DT_RELR in tags:
            raw.append(image.mapped(tags[dyn.DT_RELR], tags.get(dyn.DT_RELRSZ, 0)))
        batches = []
        for view in raw:
            addresses = relocations.read_relr(view, self._image.elf_bits, self._image.size_bytes)
            zeros = np.zeros(len(addresses), np.uint32)
            # R_X86_64_RELATIVE and R_386_RELATIVE have the same number.
            kinds = np.full(len(addresses), relocations.R_X86_64_RELATIVE, np.uint32)
            batches.append(RelocationBatch(addresses, kinds, zeros, None, None))
        return batches

    def _stored_addend(self, address: int, kind: int) -> int:
        try:
            raw = self._image.read(address, self._image.address_size_bytes)
        except AddressError:
            return 0
        return int.from_bytes(raw, "little", signed=True)

    def _original_addend(self, address: int, kind: int) -> int:
        """The addend that a REL record keeps in bytes which have been relocated since."""
        section = self._image.section_at(address)
        if section is None or not section.has_bytes:
            return 0
        width = relocations.stored_bytes(kind, self._image.machine.bits)
        begin = address - section.address
        original = self._image.table_bytes(section)[begin : begin + width]
        return int.from_bytes(original, "little", signed=True)

    def plt_address(self, number: int) -> int | None:
        """Return the address that a PLT relocation changes.

        Args:
            number: what a lazy PLT stub pushes: the relocation's index on x86-64, its byte
                offset in the table on i386.
        """
        record = relocations.LAYOUT[self._image.elf_bits, self._image.machine.bits == 64]
        if self._image.machine.bits == 32:
            number //= record.itemsize
        table = self._image.dynamic.get(dyn.DT_JMPREL)
        size = self._image.dynamic.get(dyn.DT_PLTRELSZ, 0)
        if table is None or (number + 1) * record.itemsize > size:
            return None
        try:
            raw = self._image.read(table + number * record.itemsize, record.itemsize)
        except AddressError:
            return None
        return int(np.frombuffer(raw, record)["offset"][0])
