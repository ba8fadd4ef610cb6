"""``cfi attach``: call-frame information for an object that has none."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

from fullframe.cfi.check import ImageChecker
from fullframe.cfi.write.compare import RowMap, section_shift
from fullframe.cfi.write.directives import UnsayableError, Unwind, initial_unwind
from fullframe.cfi.write.entries import (
    PCREL_SDATA4,
    CieKind,
    InstructionWriter,
    advance,
    cie_head,
    initial_instructions,
    padded,
)
from fullframe.cfi.write.extend_object import (
    SHF_ALLOC,
    SHF_INFO_LINK,
    SHT_PROGBITS,
    SHT_REL,
    SHT_RELA,
    NewSection,
    ObjectExtender,
)
from fullframe.cfi.write.functions import functions_of_symbols
from fullframe.cfi.write.rule_choice import uleb128
from fullframe.cfi.write.synthesize import Synthesized, synthesize
from fullframe.elf.image import Image
from fullframe.errors import InputError, Place
from fullframe.x86.registers import IP

#: Why a function gets nothing although rules were found for all that is seen of it.
_CONTRADICTED = (
    "code that nothing visible leads to does not have the frame of the code before it; what leads "
    "there, such as a table of jumps, is not understood"
)
#: R_X86_64_PC32 and R_386_PC32 have the same number.
_PC32 = 2


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A function without call-frame information, or a remark about one that has it.

    Attributes:
        name: of the function.
        place: in the object, such as ``.text+0x10``.
        reason: why.
    """

    name: str
    place: str
    reason: str


@dataclass(slots=True)
class Attached:
    """The outcome.

    Attributes:
        path: the object.
        data: the new object.
        functions: names of those that have call-frame information now.
        left_out: functions that got none.
        remarks: what was assumed of functions that got some.
        boundaries: instruction boundaries covered, all proved by the checker or assumed.
    """

    path: str
    data: bytes
    functions: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    remarks: list[LeftOut] = field(default_factory=list)
    boundaries: int = 0


def attach(path: str) -> Attached:
    """Make ``.eh_frame`` for the functions of an object that have none.

    Args:
        path: a relocatable object.

    Returns:
        The new object; nothing is written.

    Raises:
        InputError: it cannot be read, is no relocatable object, or holds no function without
            call-frame information.
    """
    try:
        # Before opening it: a device may never end, and a pipe's writer never come.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise InputError(Place(path), "not a regular file", "an object", "check the path")
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            Place(path), f"cannot be read: {error.strerror}", "an object", "check the path"
        ) from None
    image = Image.from_bytes(data, path)
    ObjectExtender(data, path)  # refuses what is no relocatable object
    covered = RowMap(image)
    functions = [
        function
        for function in functions_of_symbols(image, [(fde.begin, fde.end) for fde in covered.fdes])
        if covered.fde_at(function.begin) is None and function.end > function.begin
    ]
    if not functions:
        raise InputError(
            Place(path),
            "no function without call-frame information",
            "functions: symbols of type function, global symbols in code, or targets of calls",
            "`fullframe cfi check` tells whether what is there is true",
        )
    synthesized = list(synthesize(image, functions))
    denied: set[int] = set()
    while True:
        result = _with_rows(path, data, image, synthesized, denied)
        wrong = _prove(image, result) - denied if result.functions else set()
        if not wrong:
            return result
        denied |= wrong


def _with_rows(
    path: str, data: bytes, image: Image, synthesized: list[Synthesized], denied: set[int]
) -> Attached:
    """Make the new object, without the functions whose rows were found to be wrong."""
    result = Attached(path, data)
    extender = ObjectExtender(data, path)
    section = _EhFrame(image, extender)
    for made in synthesized:
        reason = _CONTRADICTED if made.function.begin in denied else _hopeless(made)
        if reason is None:
            try:
                section.add(made)
            except UnsayableError as error:
                reason = str(error)
        name, place = made.function.name, image.place(made.function.begin)
        if reason is not None:
            result.left_out.append(LeftOut(name, place, reason))
            continue
        result.functions.append(name)
        result.remarks += _remarks(image, made)
    if result.functions:
        section.finish()
        result.data = extender.finish()
    return result


def _hopeless(made: Synthesized) -> str | None:
    """Return why a function gets nothing, or None."""
    for gap in made.gaps:
        if gap.is_contradiction:
            return gap.reason
    if made.crossings:
        source, target = made.crossings[0]
        return (
            f"control comes from offset {source - made.function.begin:#x} to offset "
            f"{target - made.function.begin:#x}, which is entered as a function, with another frame"
        )
    if not made.rows:
        return made.gaps[0].reason if made.gaps else "no instruction"
    return None


def _remarks(image: Image, made: Synthesized) -> list[LeftOut]:
    name = made.function.name
    found = [LeftOut(name, image.place(gap.begin), gap.reason) for gap in made.gaps]
    if made.assumed:
        text = (
            "reached only by an indirect jump whose targets cannot be seen; taken to have the "
            "frame of that jump"
        )
        found.append(LeftOut(name, image.place(made.assumed[0]), text))
    for address, register in made.doubts[:1]:
        text = f"paths disagree about where {register} is; described as lost"
        found.append(LeftOut(name, image.place(address), text))
    return found


class _EhFrame:
    """Builds the section and its relocations."""

    def __init__(self, image: Image, extender: ObjectExtender) -> None:
        self._image = image
        self._extender = extender
        self._machine = image.machine
        self._data = bytearray()
        self._relocations: list[tuple[int, int, int]] = []
        self._cies: dict[bool, int] = {}

    def add(self, made: Synthesized) -> None:
        """Append one function's FDE.

        Raises:
            UnsayableError: a rule that has no call-frame instruction.
        """
        function = made.function
        end = function.end
        if made.gaps and made.gaps[-1].end >= end:
            end = made.gaps[-1].begin  # what follows the code is data
        signal = function.signal_return is not None
        initial = initial_unwind(self._machine)
        writer = InstructionWriter(self._machine, initial)
        program = bytearray()
        now, place = initial, function.begin
        for row in made.rows:
            if row.address >= end:
                break
            rules = Unwind(row.cfa, row.registers)
            changes = writer.change(now, rules)
            if changes:
                program += advance(row.address - place)
                place = row.address
                for change in changes:
                    program += change.data
            now = rules
        cie = self._cie(signal)
        start = len(self._data)
        body = struct.pack("<I", start + 4 - cie)
        section = self._image.section_at(function.begin)
        assert section is not None
        number, value = self._extender.local_symbol(section.index)
        addend = function.begin - section.address - value
        stored = 0 if self._has_addends else addend
        self._relocations.append((start + 8, number, addend))
        body += struct.pack("<iI", stored, end - function.begin) + uleb128(0) + program
        self._append(body)

    @property
    def _has_addends(self) -> bool:
        return self._machine.bits == 64

    def _cie(self, signal: bool) -> int:
        known = self._cies.get(signal)
        if known is not None:
            return known
        kind = CieKind(initial_unwind(self._machine), signal, self._machine.hardware_to_dwarf[IP])
        body = struct.pack("<I", 0) + cie_head(self._machine, kind)
        body += uleb128(1) + bytes([PCREL_SDATA4])
        for instruction in initial_instructions(self._machine, kind):
            body += instruction.data
        self._cies[signal] = len(self._data)
        self._append(body)
        return self._cies[signal]

    def _append(self, body: bytes) -> None:
        # The length counts what follows it; the entry as a whole stays aligned.
        body = padded(b"\0\0\0\0" + body, self._machine.word_bytes)[4:]
        self._data += struct.pack("<I", len(body)) + body

    def finish(self) -> None:
        """Add the sections to the object."""
        is_64 = self._extender.is_64
        records = bytearray()
        for offset, number, addend in self._relocations:
            if is_64:
                records += struct.pack("<QQq", offset, number << 32 | _PC32, addend)
            elif self._has_addends:  # x32
                records += struct.pack("<IIi", offset, number << 8 | _PC32, addend)
            else:
                records += struct.pack("<II", offset, number << 8 | _PC32)
        kind = SHT_RELA if self._has_addends else SHT_REL
        name = ".rela.eh_frame" if self._has_addends else ".rel.eh_frame"
        size = {(True, True): 24, (False, True): 12, (False, False): 8}[is_64, self._has_addends]
        word = self._machine.word_bytes
        self._extender.add(
            NewSection(".eh_frame", SHT_PROGBITS, SHF_ALLOC, bytes(self._data), word)
        )
        self._extender.add(
            NewSection(
                name, kind, SHF_INFO_LINK, bytes(records), 8 if is_64 else 4,
                link=None, info=None, entry_size_bytes=size,
            )
        )  # fmt: skip


def _prove(before: Image, result: Attached) -> set[int]:
    """Read the new object: nothing else may have changed.

    Returns:
        The functions, by address in the old object, whose rules the checker finds wrong.

    Raises:
        AssertionError: a bug in this module.
    """
    after = Image.from_bytes(result.data, result.path)
    for old, new in zip(before.sections, after.sections, strict=False):
        if old.alloc:
            one = (old.name, old.type, old.flags, old.offset, old.size_bytes)
            if one != (new.name, new.type, new.flags, new.offset, new.size_bytes):
                raise AssertionError(f"section {old.name} has changed")
    wrong = set()
    shift = section_shift(after, before)
    for checked in ImageChecker(after).results():
        result.boundaries += checked.boundaries
        if checked.has_findings:
            section = after.section_at(checked.fde.begin)
            assert section is not None
            wrong.add(checked.fde.begin + shift[section.index])
    return wrong
