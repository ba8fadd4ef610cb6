"""Language-specific data areas (LSDA) of C++ and of languages that share its personality.

Source: Itanium C++ ABI, "Exception Handling Tables"; the table is described in full only by its
reader, libgcc's unwinder, and its writers, GCC and LLVM.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from fullframe.cfi.encoding import (
    DW_EH_PE_OMIT,
    DW_EH_PE_ULEB128,
    Bases,
    MalformedError,
    encoding_name,
    read_fixed,
    read_pointer,
    read_uleb128,
    read_value,
)
from fullframe.elf.image import Image
from fullframe.elf.memory import AddressError
from fullframe.errors import InputError, Place

#: Unsigned LEB128 numbers (DWARF 5, section 7.6) of up to three bytes.
_NUMBERS: Final = re.compile(rb"[\x80-\xff]{0,2}[\x00-\x7f]")


class _Values(dict[bytes, int]):
    """Such numbers, to what they are."""

    def __missing__(self, number: bytes) -> int:
        value, _ = read_uleb128(number, 0)
        if len(number) < 3:
            self[number] = value
        return value


_values: Final = _Values()

#: No honest function has more; the table of the largest in libLLVM has some 30 KB.
_LARGEST_TABLE_BYTES = 1 << 22
_LONGEST_HEADER_BYTES = 64


class CallSite(NamedTuple):
    """A run of instructions of which the calls may throw.

    Attributes:
        begin: first address.
        end: first address after it.
        landing_pad: where an exception continues; None if it goes on to the caller.
        action: 0 for cleanup only, else 1 plus the offset of the first action record.
    """

    begin: int
    end: int
    landing_pad: int | None
    action: int


@dataclass(frozen=True, slots=True)
class Lsda:
    """A language-specific data area.

    Attributes:
        address: where it is.
        landing_pad_base: what landing pads are relative to.
        type_encoding: ``DW_EH_PE_*`` of the type table; ``DW_EH_PE_OMIT`` without one.
        type_table: the address that type indices count back from; None without one.
        call_sites: in the order of the table.
        end: first address after the call-site table.
    """

    address: int
    landing_pad_base: int
    type_encoding: int
    type_table: int | None
    call_sites: tuple[CallSite, ...]
    end: int


def read_lsda(image: Image, address: int, function_begin: int) -> Lsda:
    """Read an LSDA's call sites.

    Args:
        image: the image.
        address: of the LSDA, as the FDE gives it.
        function_begin: first address of the FDE: what call sites, and landing pads where the
            LSDA says nothing else, are relative to.

    Raises:
        InputError: it is not mapped, or malformed; ``place`` names the image.
    """
    try:
        return _read(image, address, function_begin)
    except (MalformedError, AddressError) as error:
        reason = error.message if isinstance(error, MalformedError) else error.found
        raise InputError(
            Place(image.path),
            f"the language-specific data at {image.place(address)}: {reason}",
            "a call-site table as GCC and LLVM write it",
        ) from None


def _mapped(image: Image, address: int, most_bytes: int) -> bytes:
    end = image.mapped_end(address)
    if end is None:
        raise AddressError(image.path, address, 1)
    return bytes(image.read(address, min(end - address, most_bytes)))


def _read(image: Image, address: int, function_begin: int) -> Lsda:
    size_bytes = image.address_size_bytes
    data = _mapped(image, address, _LONGEST_HEADER_BYTES)
    bases = Bases(address, None, image.got_address, function_begin)
    base_encoding, at = read_fixed(data, 0, 1, False)
    landing_pad_base = function_begin
    if base_encoding != DW_EH_PE_OMIT:
        pointer, at = read_pointer(data, at, base_encoding, size_bytes, bases)
        landing_pad_base = pointer or 0
    type_encoding, at = read_fixed(data, at, 1, False)
    type_table: int | None = None
    if type_encoding != DW_EH_PE_OMIT:
        distance, at = read_uleb128(data, at)
        type_table = address + at + distance
    site_encoding, at = read_fixed(data, at, 1, False)
    length, at = read_uleb128(data, at)
    if encoding_name(site_encoding).startswith("unknown") or site_encoding & 0xF0:
        text = f"call sites with the encoding {encoding_name(site_encoding)}"
        raise MalformedError("bad-encoding", at, text)
    if length > _LARGEST_TABLE_BYTES:
        raise MalformedError("too-complex", at, f"a call-site table of {length} bytes")
    table = bytes(image.read(address + at, length))
    sites = _call_sites(table, site_encoding, size_bytes, function_begin, landing_pad_base)
    end = address + at + length
    return Lsda(address, landing_pad_base, type_encoding, type_table, sites, end)


def _call_sites(
    table: bytes, encoding: int, size_bytes: int, function_begin: int, landing_pad_base: int
) -> tuple[CallSite, ...]:
    sites = []
    mask = (1 << (8 * size_bytes)) - 1
    numbers = _NUMBERS.findall(table) if encoding == DW_EH_PE_ULEB128 else []
    if numbers and len(numbers) % 4 == 0 and len(b"".join(numbers)) == len(table):
        # All that GCC writes for functions of less than two megabytes.
        values = map(_values.__getitem__, numbers)
        for start, length, landing_pad, action in zip(values, values, values, values, strict=True):
            begin = (function_begin + start) & mask
            pad = (landing_pad_base + landing_pad) & mask if landing_pad else None
            sites.append(CallSite(begin, begin + length, pad, action))
        return tuple(sites)
    at = 0
    while at < len(table):
        start, at = read_value(table, at, encoding, size_bytes)
        length, at = read_value(table, at, encoding, size_bytes)
        landing_pad, at = read_value(table, at, encoding, size_bytes)
        action, at = read_uleb128(table, at)
        begin = (function_begin + start) & mask
        sites.append(
            CallSite(
                begin,
                begin + max(0, length),
                (landing_pad_base + landing_pad) & mask if landing_pad else None,
                action,
            )
        )
    return tuple(sites)
