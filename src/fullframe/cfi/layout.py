"""How entries of call-frame information lie in their section: lengths, CIEs, augmentations.

Sources: DWARF 5, sections 6.4.1 and 7.24; Linux Standard Base Core 5.0, section 10.6.1, for what
is different in ``.eh_frame``: the CIE's ID is 0, and the CIE pointer counts back from itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fullframe.cfi.encoding import (
    DW_EH_PE_ABSPTR,
    DW_EH_PE_OMIT,
    Bases,
    MalformedError,
    encoding_name,
    read_fixed,
    read_pointer,
    read_sleb128,
    read_uleb128,
)
from fullframe.cfi.problems import FrameProblem
from fullframe.cfi.program import ProgramProblem
from fullframe.elf.image import Image
from fullframe.elf.memory import AddressError
from fullframe.errors import FullframeError


@dataclass(frozen=True, slots=True)
class Entry:
    """The outside of an entry; offsets from the start of the section, in bytes.

    Attributes:
        body: where what follows the ID or CIE pointer starts.
        end: where the entry ends.
        cie_offset: where the CIE is that the entry belongs to; None if it is a CIE itself.
    """

    body: int
    end: int
    cie_offset: int | None


@dataclass(frozen=True, slots=True)
class CieFields:
    """What a CIE says, before its instructions are interpreted; see ``Cie`` for the fields."""

    version: int
    augmentation: str
    code_alignment: int
    data_alignment: int
    return_register: int
    address_size_bytes: int
    segment_size_bytes: int
    fde_pointer_encoding: int
    lsda_encoding: int
    personality: int | None
    personality_encoding: int
    instructions: bytes
    problems: tuple[ProgramProblem, ...]


def read_entry(data: bytes, offset: int, is_eh: bool) -> Entry | None:
    """Read the length and the ID of the entry at ``offset``; None if it is a terminator.

    Raises:
        MalformedError: the entry does not fit the section.
    """
    length, at = read_fixed(data, offset, 4, False)
    if length == 0:
        return None
    is_64 = length == 0xFFFFFFFF
    if is_64:
        length, at = read_fixed(data, at, 8, False)
    elif length >= 0xFFFFFFF0:
        text = f"the reserved length {length:#x}"
        raise MalformedError("truncated", offset, text)
    end = at + length
    if end > len(data):
        text = f"an entry of {length} bytes, of which the section holds {len(data) - at}"
        raise MalformedError("truncated", offset, text)
    # In .eh_frame the ID stays 4 bytes wide even if the length has 8.
    id_bytes = 8 if is_64 and not is_eh else 4
    if length < id_bytes:
        text = f"an entry of {length} bytes, too short for its ID"
        raise MalformedError("truncated", offset, text)
    identity, body = read_fixed(data, at, id_bytes, False)
    if is_eh:
        return Entry(body, end, at - identity if identity else None)
    is_cie = identity == (1 << (8 * id_bytes)) - 1
    return Entry(body, end, None if is_cie else identity)


def read_cie(data: bytes, address_size_bytes: int, bases: Bases) -> CieFields:
    """Read a CIE.

    Args:
        data: the CIE from behind its ID to its end; offsets in errors and problems count from
            its start.
        address_size_bytes: of the image; version 4 has its own.
        bases: for the personality pointer; ``section`` is the address of ``data``.

    Raises:
        MalformedError: it cannot be read, or has an augmentation that is not known.
    """
    version, at = read_fixed(data, 0, 1, False)
    if version not in (1, 3, 4):
        text = f"a CIE of version {version}; 1, 3 and 4 are known"
        raise MalformedError("bad-cie", 0, text)
    string_end = data.find(b"\0", at)
    if string_end < 0:
        raise MalformedError("truncated", at, "an augmentation string without an end")
    augmentation = data[at:string_end].decode("ascii", "backslashreplace")
    at = string_end + 1
    segment_size_bytes = 0
    if augmentation.startswith("eh"):
        at += address_size_bytes
    if version >= 4:
        address_size_bytes, at = read_fixed(data, at, 1, False)
        segment_size_bytes, at = read_fixed(data, at, 1, False)
        if address_size_bytes not in (4, 8) or segment_size_bytes > 8:
            text = f"addresses of {address_size_bytes} bytes, segments of {segment_size_bytes}"
            raise MalformedError("bad-cie", at - 2, text)
    code_alignment, at = read_uleb128(data, at)
    data_alignment, at = read_sleb128(data, at)
    if version == 1:
        return_register, at = read_fixed(data, at, 1, False)
    else:
        return_register, at = read_uleb128(data, at)
    problems: list[ProgramProblem] = []
    if not code_alignment or not data_alignment:
        text = f"alignment factors {code_alignment} (code) and {data_alignment} (data)"
        problems.append(ProgramProblem("bad-cie", 0, text))
    parsed, at = _augmentation(data, at, augmentation, address_size_bytes, bases)
    return CieFields(
        version, augmentation[:64], code_alignment, data_alignment, return_register,
        address_size_bytes, segment_size_bytes, parsed.fde, parsed.lsda, parsed.personality,
        parsed.personality_encoding, data[at:], tuple(problems),
    )  # fmt: skip


@dataclass(slots=True)
class _Augmentation:
    fde: int = DW_EH_PE_ABSPTR
    lsda: int = DW_EH_PE_OMIT
    personality: int | None = None
    personality_encoding: int = 0


def _augmentation(
    data: bytes, at: int, augmentation: str, address_size_bytes: int, bases: Bases
) -> tuple[_Augmentation, int]:
    """Read the augmentation data; return it and the offset after it."""
    found = _Augmentation()
    letters = augmentation.removeprefix("eh")
    end: int | None = None
    start = at
    if letters.startswith("z"):
        length, at = read_uleb128(data, at)
        end = at + length
        if end > len(data):
            text = f"augmentation data of {length} bytes, of which {len(data) - at} are there"
            raise MalformedError("truncated", start, text)
        letters = letters[1:]
    for letter in letters:
        if letter == "R":
            found.fde, at = read_fixed(data, at, 1, False)
            _check_encoding(found.fde, at - 1)
        elif letter == "L":
            found.lsda, at = read_fixed(data, at, 1, False)
            _check_encoding(found.lsda, at - 1)
        elif letter == "P":
            found.personality_encoding, at = read_fixed(data, at, 1, False)
            _check_encoding(found.personality_encoding, at - 1)
            # The address of the word is kept: what the word holds is known once it is loaded.
            direct = Bases(bases.section, bases.text, bases.data)
            found.personality, at = read_pointer(
                data, at, found.personality_encoding, address_size_bytes, direct
            )
        elif letter != "S":
            raise MalformedError("unknown-augmentation", start, _unknown(letter, augmentation))
    if end is not None and at > end:
        text = f"augmentation data that is {at - end} bytes longer than it says"
        raise MalformedError("truncated", start, text)
    return found, at if end is None else end


def _unknown(letter: str, augmentation: str) -> str:
    meaning = {
        "B": " (AArch64: return addresses signed with key B)",
        "G": " (AArch64: memory tagging)",
    }.get(letter, "")
    return (
        f"the augmentation {augmentation[:64]!r}, whose letter {letter!r}{meaning} is not one of "
        "z R P L S"
    )


def _check_encoding(encoding: int, at: int) -> None:
    if encoding_name(encoding).startswith("unknown"):
        raise MalformedError("bad-encoding", at, f"the pointer encoding {encoding:#04x}")


class _Range(Protocol):
    """The part of an FDE that the checks of ranges look at."""

    offset: int
    begin: int
    end: int


def structural_problems(
    section: str, fdes: Sequence[_Range], executable: Sequence[tuple[int, int]], limit: int
) -> list[FrameProblem]:
    """Find FDEs that overlap another and FDEs that leave the code.

    Args:
        section: the section's name, for the problems.
        fdes: in the order of the file.
        executable: (first, after last) addresses that hold code, sorted.
        limit: the most problems to give of each kind.

    Returns:
        The problems, overlaps first, each kind by address.
    """
    wide = [fde for fde in fdes if fde.end > fde.begin and fde.end <= 1 << 64]
    found = [
        FrameProblem("outside-code", section, fde.offset, "an FDE that wraps around", fde.begin)
        for fde in fdes
        if fde.end > 1 << 64
    ][:limit]
    if not wide:
        return found
    top = (1 << 64) - 1
    begins = np.array([fde.begin for fde in wide], dtype=np.uint64)
    lasts = np.array([min(fde.end - 1, top) for fde in wide], dtype=np.uint64)
    order = np.argsort(begins, kind="stable")
    reached = np.maximum.accumulate(lasts[order])
    for position in np.flatnonzero(begins[order][1:] <= reached[:-1])[:limit].tolist():
        fde, other = wide[order[position + 1]], wide[order[position]]
        text = (
            f"the FDE of {fde.begin:#x}..{fde.end:#x} overlaps one before it "
            f"(the last is {other.begin:#x}..{other.end:#x})"
        )
        found.append(FrameProblem("overlap", section, fde.offset, text, fde.begin))
    if not executable:
        return found  # a separate debug file: the code is elsewhere
    starts = np.array([begin for begin, _ in executable], dtype=np.uint64)
    ends = np.array([end for _, end in executable], dtype=np.uint64)
    which = np.searchsorted(starts, begins, side="right").astype(np.int64) - 1
    inside = which >= 0
    inside[inside] &= lasts[inside] < ends[which[inside]]
    for number in np.flatnonzero(~inside)[:limit].tolist():
        fde = wide[number]
        text = f"the FDE of {fde.begin:#x}..{fde.end:#x} covers addresses that hold no code"
        found.append(FrameProblem("outside-code", section, fde.offset, text, fde.begin))
    return found


def find_eh_frame(image: Image) -> tuple[int, bytes] | None:
    """Find ``.eh_frame`` by way of ``.eh_frame_hdr``, for an image without section headers.

    Returns:
        Its address, and the bytes from there to the end of the segment (its size is written
        nowhere: a zero terminator ends it); None if there is none.
    """
    header = image.eh_frame_header_address
    if header is None:
        return None
    try:
        start = bytes(image.read(header, 4 + image.address_size_bytes))
        bases = Bases(header, None, header)
        address, _ = read_pointer(start, 4, start[1], image.address_size_bytes, bases)
    except FullframeError:
        return None
    if address is None:
        return None
    end = image.mapped_end(address)
    if end is None:
        return None
    try:
        return address, bytes(image.read(address, end - address))
    except AddressError:
        return None
