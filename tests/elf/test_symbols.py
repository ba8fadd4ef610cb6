"""Function symbols by address, against what the words of their description say."""

from __future__ import annotations

import random
import struct

import pytest

from fullframe.elf.image import Image
from fullframe.elf.symbols import Symbol
from tests.elf.writer import EM_386, STRTAB, SYMTAB, ElfWriter

TOP = (1 << 64) - 0x1000


def preference(symbol: Symbol) -> tuple:
    return (
        symbol.size_bytes == 0, symbol.kind == "notype", symbol.name.startswith("."),
        symbol.binding == "local", len(symbol.name), symbol.name,
    )  # fmt: skip


def expected_at(image: Image, address: int) -> Symbol | None:
    shown: dict[int, Symbol] = {}
    for symbol in image.symbols:
        if symbol.kind not in ("func", "notype", "ifunc") or not symbol.name:
            continue
        if symbol.section_index is None or image.executable_end(symbol.address) is None:
            continue
        other = shown.get(symbol.address)
        if other is None or preference(symbol) < preference(other):
            shown[symbol.address] = symbol
    before = [shown[start] for start in sorted(shown) if start <= address]
    for symbol in reversed(before):
        if address < symbol.address + symbol.size_bytes:
            return symbol
    if before and address < image.executable_end(before[-1].address):
        return before[-1]
    return None


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("file_type", [1, 3])
def test_as_described(bits, file_type):
    """Nested, overlapping and equal symbols in two tables, some with sizes beyond everything."""
    chance = random.Random(bits + file_type)
    for _ in range(30):
        writer = ElfWriter(bits, 62 if bits == 64 else EM_386, file_type)
        base = TOP if bits == 64 and chance.random() < 0.3 else 0x1000
        first = writer.text(bytes(64), ".text", base)
        second = writer.text(bytes(32), ".more", base + 80)
        relative = 0 if file_type == 1 else base
        for dynamic in (False, True):
            for _ in range(chance.randrange(12)):
                section = chance.choice([first, second, 0])
                writer.symbol(
                    chance.choice(["", ".L", "a", "b", "cc", "dd", "eee"]),
                    relative + chance.randrange(0, 120, 4),
                    section,
                    chance.choice([0, 0, 4, 8, 40, (1 << bits) - 1]),
                    chance.choice([0, 1, 2, 2, 10]),
                    chance.choice([0, 1, 2]),
                )
            writer.symtab(dynamic)
            writer.symbols.clear()
        image = Image.from_bytes(writer.build(), "sample")
        spots = [begin for begin, _ in image.executable_ranges()]
        for address in range(spots[0] - 8, spots[-1] + 60):
            assert image.symbol_at(address) == expected_at(image, address), hex(address)


def test_function_symbols_come_once_and_in_order():
    writer = ElfWriter(file_type=3)
    text = writer.text(address=0x1000)
    writer.symbol("b", 0x1000, text, 4)
    writer.symbol("a", 0x1000, text, 4, binding=0)
    writer.symtab()
    writer.symbols.clear()
    writer.symbol("a", 0x1000, text, 8)
    writer.symbol("c", 0x1008, text, 8)
    writer.symtab(dynamic=True)
    image = Image.from_bytes(writer.build(), "sample")
    found = [(item.name, item.size_bytes, item.binding) for item in image.function_symbols()]
    assert found == [("a", 4, "local"), ("b", 4, "global"), ("c", 8, "global")]


def test_names_that_the_table_does_not_give_away():
    """Without an end to any name, what lies beyond the bound on text has no name and is nobody."""
    writer = ElfWriter(file_type=3)
    text = writer.text(bytes(0x400), address=0x1000)
    strings = writer.section(".strtab", b"\0" + b"x" * 60_000, type=STRTAB)
    entries = bytes(24)
    for number in range(0x400):
        entries += struct.pack("<IBBHQQ", 1 + number, 0x12, 0, text, 0x1000 + number, 1)
    writer.section(".symtab", entries, type=SYMTAB, link=strings, entry_size=24)
    image = Image.from_bytes(writer.build(), "sample")
    found = [image.symbol_at(0x1000 + number) for number in range(0x400)]
    assert found[0] is not None
    assert None in found
    assert all(symbol is None or symbol.name for symbol in found)
    assert image.name_of(0x1000 + found.index(None)) == hex(0x1000 + found.index(None))
