"""Comparing the CFI of two objects of the same code, boundary by boundary."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from fullframe.cfi.frames import Fde, FrameTable, read_frames
from fullframe.cfi.write.directives import Unwind
from fullframe.cfi.write.row_text import rules_text
from fullframe.elf.image import Image
from fullframe.errors import InputError, Place


@dataclass(frozen=True, slots=True)
class Difference:
    """A boundary where two objects disagree.

    Attributes:
        address: of the instruction, in the first object.
        place: the same for people, such as ``.text+0x10``.
        first: the rules in the first object; None where no FDE covers it.
        second: the rules in the second.
        expected: ``first`` in words, with what else the first's FDE says where that differs.
        got: likewise of the second.
    """

    address: int
    place: str
    first: Unwind | None
    second: Unwind | None
    expected: str | None
    got: str | None


class RowMap:
    """The rules of an object by address.

    Args:
        image: the object.
        section_name: ``.eh_frame`` or ``.debug_frame``; None for both, the first winning.

    Raises:
        InputError: an entry is malformed.
    """

    def __init__(self, image: Image, section_name: str | None = None) -> None:
        self.image = image
        self.tables: list[FrameTable] = [
            table
            for table in read_frames(image)
            if section_name is None or table.section_name == section_name
        ]
        for table in self.tables:
            for problem in table.problems:
                raise InputError(
                    Place(image.path, section=table.section_name, offset_bytes=problem.offset),
                    problem.message,
                    "call-frame information that can be read",
                    "mend it by hand first; `fullframe cfi check` on the object lists everything",
                )
        found: dict[int, Fde] = {}
        for table in self.tables:
            for fde in table.fdes:
                if fde.end > fde.begin:
                    found.setdefault(fde.begin, fde)
        self.fdes = [found[begin] for begin in sorted(found)]
        self._begins = [fde.begin for fde in self.fdes]

    def fde_at(self, address: int) -> Fde | None:
        """Return the FDE that covers an address, or None."""
        position = bisect_right(self._begins, address) - 1
        if position >= 0 and address < self.fdes[position].end:
            return self.fdes[position]
        return None

    def at(self, address: int) -> Unwind | None:
        """Return the rules in force at an address, or None."""
        fde = self.fde_at(address)
        row = None if fde is None else fde.row_at(address)
        return None if row is None else Unwind(row.cfa, row.registers, row.args_size)


def compare_rows(
    first: RowMap, second: RowMap, boundaries: Iterable[int]
) -> tuple[int, list[Difference]]:
    """Compare the rules of two objects whose code is the same.

    Args:
        first: one object.
        second: the other.
        boundaries: addresses of instructions in the first.

    Returns:
        How many boundaries were compared (those that either covers), and the differences.
    """
    shift = section_shift(first.image, second.image)
    compared = 0
    differences = []
    for address in boundaries:
        section = first.image.section_at(address)
        moved = shift.get(section.index) if section is not None else None
        one = first.at(address)
        other = None if moved is None else second.at(address + moved)
        if one is None and other is None:
            continue
        compared += 1
        mine = _attributes(first, address)
        theirs: tuple[str, ...] = ()
        if moved is not None:
            theirs = _attributes(second, address + moved)
        same = one is not None and other is not None and one.same_as(other)
        if same and mine == theirs:
            continue
        differences.append(difference(first.image, address, one, other, mine, theirs))
    return compared, differences


def difference(
    image: Image,
    address: int,
    first: Unwind | None,
    second: Unwind | None,
    mine: tuple[str, ...] = (),
    theirs: tuple[str, ...] = (),
) -> Difference:
    """Make a difference, in words too.

    Args:
        image: the first object.
        address: in it.
        first: its rules there.
        second: the other's.
        mine: what else the first object's FDE says.
        theirs: what else the second's says.
    """

    def told(rules: Unwind | None, own: tuple[str, ...], others: tuple[str, ...]) -> str | None:
        if rules is None:
            return None
        text = rules_text(rules.cfa, rules.told(), image.machine)
        return "; ".join([text, *(item for item in own if others and item not in others)])

    return Difference(
        address,
        image.place(address),
        first,
        second,
        told(first, mine, theirs),
        told(second, theirs, mine),
    )


def _attributes(rows: RowMap, address: int) -> tuple[str, ...]:
    """What an FDE says besides its rows: kind of frame, return address, personality, LSDA."""
    fde = rows.fde_at(address)
    if fde is None:
        return ()
    image = rows.image

    def name(pointer: int | None) -> str:
        return "none" if pointer is None else image.place(pointer)

    cie = fde.cie
    return (
        "a signal frame" if cie.is_signal_frame else "no signal frame",
        f"return address in column {cie.return_register}",
        f"personality routine {name(cie.personality)}",
        f"LSDA {name(fde.lsda)}",
    )


def section_shift(first: Image, second: Image) -> dict[int, int]:
    """Return how far the second image's code sections lie from the first's, by first index.

    Sections are paired by name and order; those whose sizes differ are left out.
    """
    others: dict[str, list[int]] = {}
    for section in second.sections:
        if section.executable:
            others.setdefault(section.name, []).append(section.index)
    shift = {}
    for section in first.sections:
        if section.executable and others.get(section.name):
            other = second.sections[others[section.name].pop(0)]
            if section.size_bytes == other.size_bytes:
                shift[section.index] = other.address - section.address
    return shift
