"""What the dynamic segment says: the way into an image without section headers.

Source: gABI chapter 5, "Dynamic Section"; the GNU hash table's layout as the glibc loader reads
it (Debian's ``elf.h`` has the tag numbers).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

DT_PLTRELSZ, DT_PLTGOT, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ = 2, 3, 4, 5, 6, 7, 8
DT_STRSZ, DT_REL, DT_RELSZ, DT_PLTREL, DT_JMPREL = 10, 17, 18, 20, 23
DT_RELRSZ, DT_RELR, DT_GNU_HASH = 35, 36, 0x6FFFFEF5
DT_VERSYM, DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM, DT_FLAGS_1 = (
    0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF, 0x6FFFFFFB,
)  # fmt: skip
DF_1_PIE = 0x08000000


def read_dynamic(raw: memoryview, elf_bits: int) -> dict[int, int]:
    """Return tag to value, up to DT_NULL; the first of repeated tags counts."""
    layout = struct.Struct("<QQ" if elf_bits == 64 else "<II")
    usable = raw[: len(raw) // layout.size * layout.size]
    entries: dict[int, int] = {}
    for tag, value in layout.iter_unpack(usable):
        if tag == 0:
            break
        entries.setdefault(tag, value)
    return entries


def count_symbols(
    dynamic: dict[int, int], read: Callable[[int, int], memoryview], elf_bits: int, limit: int
) -> int:
    """Return how many symbols the dynamic symbol table has: nothing says it directly.

    ``DT_HASH`` has one chain entry for each symbol. ``DT_GNU_HASH`` leaves the last symbol to be
    found at the end of the chain with the highest start.

    Args:
        dynamic: the entries of the dynamic segment.
        read: reads (address, size in bytes) and raises a FullframeError where nothing is mapped.
        elf_bits: the ELF class.
        limit: the largest count to believe.

    Raises:
        FullframeError: a table lies outside of the image.
    """
    if DT_HASH in dynamic:
        _, chains = struct.unpack("<II", read(dynamic[DT_HASH], 8))
        return min(int(chains), limit)
    if DT_GNU_HASH not in dynamic:
        return 0
    table = dynamic[DT_GNU_HASH]
    buckets, first_hashed, bloom_words, _ = struct.unpack("<IIII", read(table, 16))
    if buckets > limit or bloom_words > limit:
        return 0
    bucket_address = table + 16 + bloom_words * (elf_bits // 8)
    starts = memoryview(bytes(read(bucket_address, buckets * 4))).cast("I")
    last: int = max(starts, default=0)
    if last < first_hashed:
        return min(int(first_hashed), limit)
    chain_address = bucket_address + buckets * 4
    while last < limit:
        entry = int.from_bytes(read(chain_address + (last - first_hashed) * 4, 4), "little")
        last += 1
        if entry & 1:
            break
    return last
