"""LEB128 numbers and encoded pointers, with bounds on everything.

Sources: DWARF 5, section 7.6 (LEB128); Linux Standard Base Core 5.0, section 10.5 (pointer
encodings, ``DW_EH_PE_*``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fullframe.errors import EXIT_INPUT, FullframeError

DW_EH_PE_ABSPTR, DW_EH_PE_ULEB128, DW_EH_PE_UDATA2, DW_EH_PE_UDATA4, DW_EH_PE_UDATA8 = range(5)
DW_EH_PE_SIGNED, DW_EH_PE_SLEB128, DW_EH_PE_SDATA2, DW_EH_PE_SDATA4, DW_EH_PE_SDATA8 = range(8, 13)
DW_EH_PE_PCREL, DW_EH_PE_TEXTREL, DW_EH_PE_DATAREL, DW_EH_PE_FUNCREL, DW_EH_PE_ALIGNED = (
    0x10, 0x20, 0x30, 0x40, 0x50,
)  # fmt: skip
DW_EH_PE_INDIRECT, DW_EH_PE_OMIT = 0x80, 0xFF

_FORMATS = {
    0: "absptr", 1: "uleb128", 2: "udata2", 3: "udata4", 4: "udata8",
    8: "signed", 9: "sleb128", 10: "sdata2", 11: "sdata4", 12: "sdata8",
}  # fmt: skip
_APPLICATIONS = {
    0: "", 0x10: "pcrel ", 0x20: "textrel ", 0x30: "datarel ", 0x40: "funcrel ", 0x50: "aligned ",
}  # fmt: skip


class MalformedError(FullframeError):
    """Bytes of call-frame information that cannot be understood.

    The readers of this package turn it into a :class:`~fullframe.cfi.problems.FrameProblem`.

    Attributes:
        kind: the problem's kind, a name of the catalogue.
        offset: where in the bytes being read.
        message: what was found and what was expected.
    """

    exit_code = EXIT_INPUT

    def __init__(self, kind: str, offset: int, message: str) -> None:
        self.kind = kind
        self.offset = offset
        self.message = message
        super().__init__(f"{message} at offset {offset:#x}")


def read_uleb128(data: bytes, offset: int) -> tuple[int, int]:
    """Read an unsigned LEB128 number of at most 64 bits; it may be padded with zero groups.

    Returns:
        The number, and the offset after it.

    Raises:
        MalformedError: it runs out of the data or does not fit 64 bits.
    """
    value = shift = 0
    start = offset
    size = len(data)
    while offset < size:
        byte = data[offset]
        offset += 1
        group = byte & 0x7F
        if group:
            if shift > 63 or (shift == 63 and group > 1):
                raise MalformedError("bad-leb128", start, "a LEB128 number of more than 64 bits")
            value |= group << shift
        shift += 7
        if byte < 0x80:
            return value, offset
    raise MalformedError("bad-leb128", start, "a LEB128 number that runs past its end")


def read_sleb128(data: bytes, offset: int) -> tuple[int, int]:
    """Read a signed LEB128 number of at most 64 bits; it may be padded with sign groups.

    Returns:
        The number, and the offset after it.

    Raises:
        MalformedError: it runs out of the data or does not fit 64 bits.
    """
    value = shift = 0
    start = offset
    size = len(data)
    while offset < size:
        byte = data[offset]
        offset += 1
        group = byte & 0x7F
        if shift < 63:
            value |= group << shift
        elif shift == 63:
            # Bit 63 is the sign; the other six bits of the group must repeat it.
            if group not in (0, 0x7F):
                raise MalformedError("bad-leb128", start, "a LEB128 number of more than 64 bits")
            value |= (group & 1) << 63
        elif group != (0x7F if value >> 63 else 0):
            raise MalformedError("bad-leb128", start, "a LEB128 number of more than 64 bits")
        shift += 7
        if byte < 0x80:
            bits = min(shift, 64)
            if value >> (bits - 1) & 1:
                value -= 1 << bits
            return value, offset
    raise MalformedError("bad-leb128", start, "a LEB128 number that runs past its end")


def encoding_name(encoding: int) -> str:
    """Name a pointer encoding, such as ``pcrel sdata4`` or ``indirect pcrel sdata4``."""
    if encoding == DW_EH_PE_OMIT:
        return "omit"
    form = _FORMATS.get(encoding & 0x0F)
    application = _APPLICATIONS.get(encoding & 0x70)
    if form is None or application is None:
        return f"unknown encoding {encoding:#04x}"
    indirect = "indirect " if encoding & DW_EH_PE_INDIRECT else ""
    return f"{indirect}{application}{form}"


@dataclass(frozen=True, slots=True)
class Bases:
    """What encoded pointers are relative to.

    Attributes:
        section: address of the first byte of the data being read (for ``pcrel``).
        text: base of ``textrel`` pointers; None if the image has none.
        data: base of ``datarel`` pointers; None if the image has none.
        function: base of ``funcrel`` pointers; None outside of a function.
        read_word: reads a pointer-sized word at an address, for ``indirect``; it raises a
            FullframeError where nothing is mapped.
    """

    section: int
    text: int | None = None
    data: int | None = None
    function: int | None = None
    read_word: Callable[[int], int] | None = None


def read_pointer(
    data: bytes, offset: int, encoding: int, address_size_bytes: int, bases: Bases
) -> tuple[int | None, int]:
    """Read an encoded pointer.

    A stored zero is "no pointer", whatever it is relative to, as in libgcc's unwinder.

    Args:
        data: the bytes that hold it.
        offset: where it starts in them.
        encoding: ``DW_EH_PE_*``.
        address_size_bytes: 4 or 8; the result is cut to that size.
        bases: what it may be relative to.

    Returns:
        The pointer (None: no pointer), and the offset after it.

    Raises:
        MalformedError: unknown encoding, a base that the image does not have, data cut short, or
            an indirect pointer to what is not mapped.
    """
    if encoding == DW_EH_PE_OMIT:
        return None, offset
    application = encoding & 0x70
    if application == DW_EH_PE_ALIGNED:
        misaligned = (bases.section + offset) % address_size_bytes
        start = offset + (address_size_bytes - misaligned if misaligned else 0)
        value, end = read_fixed(data, start, address_size_bytes, False)
        return _indirect(value, encoding, start, bases) if value else None, end
    value, end = read_value(data, offset, encoding & 0x0F, address_size_bytes)
    if value == 0:
        return None, end
    if application == 0:
        base: int | None = 0
    elif application == DW_EH_PE_PCREL:
        base = bases.section + offset
    else:
        base = {
            DW_EH_PE_TEXTREL: bases.text,
            DW_EH_PE_DATAREL: bases.data,
            DW_EH_PE_FUNCREL: bases.function,
        }.get(application)
        if application > DW_EH_PE_ALIGNED:
            raise MalformedError("bad-encoding", offset, encoding_name(encoding))
    if base is None:
        raise MalformedError(
            "bad-encoding",
            offset,
            f"a pointer with the encoding {encoding_name(encoding)}, whose base is not known here",
        )
    value = (value + base) & ((1 << (8 * address_size_bytes)) - 1)
    return _indirect(value, encoding, offset, bases), end


def _indirect(value: int, encoding: int, offset: int, bases: Bases) -> int:
    if not encoding & DW_EH_PE_INDIRECT or bases.read_word is None:
        return value
    try:
        return bases.read_word(value)
    except FullframeError:
        raise MalformedError(
            "bad-encoding", offset, f"an indirect pointer by way of {value:#x}, which is not mapped"
        ) from None


def read_value(data: bytes, offset: int, form: int, address_size_bytes: int) -> tuple[int, int]:
    """Read a number in the format of a pointer encoding (its low four bits), without a base.

    Raises:
        MalformedError: unknown format, or data cut short.
    """
    if form == DW_EH_PE_ABSPTR:
        return read_fixed(data, offset, address_size_bytes, False)
    if form == DW_EH_PE_ULEB128:
        return read_uleb128(data, offset)
    if form == DW_EH_PE_SLEB128:
        return read_sleb128(data, offset)
    if form == DW_EH_PE_SIGNED:
        return read_fixed(data, offset, address_size_bytes, True)
    size = {2: 2, 3: 4, 4: 8}.get(form & 7)
    if size is None:
        raise MalformedError("bad-encoding", offset, f"unknown pointer format {form:#x}")
    return read_fixed(data, offset, size, form >= DW_EH_PE_SIGNED)


def read_fixed(data: bytes, offset: int, size: int, signed: bool) -> tuple[int, int]:
    """Read a little-endian number of ``size`` bytes.

    Raises:
        MalformedError: the data ends before.
    """
    end = offset + size
    if end > len(data) or offset < 0:
        raise MalformedError("truncated", offset, f"{size} bytes needed, the data ends before")
    return int.from_bytes(data[offset:end], "little", signed=signed), end
