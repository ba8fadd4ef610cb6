"""``cfi decode``: call-frame information written as data becomes directives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iced_x86 import Decoder, DecoderOptions, FlowControl

from fullframe.cfi.encoding import DW_EH_PE_OMIT, Bases
from fullframe.cfi.frames import Fde, FrameTable
from fullframe.cfi.layout import read_cie, read_entry
from fullframe.cfi.write.compare import RowMap, compare_rows
from fullframe.cfi.write.conversion import Conversion
from fullframe.cfi.write.directives import (
    DirectiveWriter,
    UnsayableError,
    Unwind,
    initial_unwind,
)
from fullframe.cfi.write.lines import (
    Anchor,
    Refusal,
    RefusedError,
    anchor_after,
    anchor_before,
    register_prefix,
    statements_of,
)
from fullframe.cfi.write.patch import Patch, indentation
from fullframe.cfi.write.source import Assembled, AssemblySource, loaded_bytes, strip_comments
from fullframe.cfi.write.spelling import insert, spelled
from fullframe.elf.image import Image
from fullframe.errors import InputError, Place
from fullframe.track.listing import is_filler
from fullframe.x86.registers import IP

_SECTIONS = (".eh_frame", ".debug_frame")


def decode_source(source: AssemblySource) -> Conversion:
    """Turn the CFI that a source writes as data into directives.

    All or nothing: where one entry cannot be said in directives, the source stays as it is and
    the reasons are given. The outcome is assembled and must have the same rule at every
    instruction boundary, the same kind of frames, and the same code.

    Args:
        source: the source.

    Returns:
        The new text, what was compared, and what stood in the way.

    Raises:
        InputError: the source cannot be assembled, its CFI cannot be read, or it writes none as
            data.
    """
    assembled = source.assemble()
    conversion = Conversion(source.path, source.text, source.text)
    data = _DataLines(source, assembled)
    if not data.lines:
        raise InputError(
            Place(source.path),
            "no call-frame information written as data",
            "data in .eh_frame or .debug_frame",
            "if it has none at all, `fullframe cfi fix` writes it from the code",
        )
    patch = Patch()
    before = RowMap(assembled.image)
    tables = [table for table in before.tables if any(True for _ in data.entries(table))]
    fdes = _fdes(tables, data)
    conversion.refused += _disagreements(assembled.image, tables, data)
    for fde in fdes:
        conversion.functions += 1
        try:
            _annotate(source, assembled, patch, fde, tables)
            conversion.functions_done += 1
        except RefusedError as error:
            conversion.refused.append(error.refusal)
        except UnsayableError as error:
            line = data.line_at(fde)
            name = assembled.image.name_of(fde.begin)
            conversion.refused.append(Refusal(line, f"{name}: {error}"))
    conversion.refused += data.delete(patch)
    if conversion.refused or not fdes:
        conversion.refused.sort(key=lambda item: item.line or 0)
        return conversion
    _choose_sections(source, assembled, patch, fdes, tables)
    text = patch.apply(source.text)
    again = source.with_text(text).assemble()
    if loaded_bytes(again.image, again.data, code_only=True) != loaded_bytes(
        assembled.image, assembled.data, code_only=True
    ):
        raise AssertionError("directives changed the code")
    for table in tables:
        old, new = (
            RowMap(assembled.image, table.section_name),
            RowMap(again.image, table.section_name),
        )
        boundaries = list(_boundaries(assembled.image, old.fdes))
        compared, differences = compare_rows(old, new, boundaries)
        conversion.boundaries_compared += compared
        conversion.differences += differences
        # The other way round: nothing is covered now that was not.
        compared, differences = compare_rows(new, old, list(_boundaries(again.image, new.fdes)))
        conversion.differences += [
            item
            for item in differences
            if item.second is None and not _fills(again.image, item.address)
        ]
    conversion.new_text = text
    return conversion


def _fills(image: Image, address: int) -> bool:
    end = image.executable_end(address)
    code = bytes(image.read(address, min(15, end - address))) if end is not None else b""
    return is_filler(image.machine.bits, code)


def _boundaries(image: Image, fdes: list[Fde]) -> Iterator[int]:
    for fde in fdes:
        code = bytes(image.read(fde.begin, fde.end - fde.begin))
        for item in Decoder(image.machine.bits, code, DecoderOptions.NONE, fde.begin):
            yield item.ip


@dataclass(frozen=True, slots=True)
class _Region:
    begin: int
    end: int
    line: int


class _DataLines:
    """The lines of a source that write into the sections of call-frame information."""

    def __init__(self, source: AssemblySource, assembled: Assembled) -> None:
        self._source = source
        self._assembled = assembled
        self.lines = self._find()
        self._in_comment = self._comments()
        self._next = self._next_sections()
        emitting = set(self.lines)
        self._regions: dict[str, list[_Region]] = {}
        for span in assembled.spans:
            self._add(span.line, span.begin, span.end, emitting)
        for _, span in assembled.data_spans:
            self._add(span.line, span.begin, span.end, emitting)

    def _add(self, line: int, begin: int, end: int, emitting: set[int]) -> None:
        name = self._assembled.section_name(line)
        if name is not None and line in emitting:
            self._regions.setdefault(name, []).append(_Region(begin, end, line))

    def _find(self) -> list[int]:
        """Return the preprocessed lines within those sections, repetitions included."""
        found = []
        inside = False
        assembled = self._assembled
        for index, line in enumerate(assembled.clean):
            name = assembled.section_name(index)
            if assembled.sections[index] is not None:
                inside = name in _SECTIONS
            if inside and line.strip():
                found.append(index)
        return found

    def entries(self, table: FrameTable) -> Iterator[Fde]:
        """Yield the FDEs of a table that lines of the source write (not directives)."""
        for fde in table.fdes:
            if self._region(table, fde.offset) is not None:
                yield fde

    def _region(self, table: FrameTable, offset: int) -> _Region | None:
        at = table.address + offset
        for region in self._regions.get(table.section_name, ()):
            if region.begin <= at < region.end:
                return region
        return None

    def line_at(self, fde: Fde) -> int | None:
        """Return the line of the source that an entry begins at."""
        section = self._assembled.image.section(fde.section)
        base = section.address if section is not None and section.alloc else 0
        for region in self._regions.get(fde.section, ()):
            if region.begin <= base + fde.offset < region.end:
                origin = self._assembled.origins[region.line]
                return origin.line if origin.own else None
        return None

    def delete(self, patch: Patch) -> list[Refusal]:
        """Delete the data, and the lines that switch to its section and back."""
        refused = []
        doomed = set(self.lines)
        clean = self._assembled.clean
        for index in sorted(doomed):
            words = clean[index].split()
            leaves = self._leaves(index)
            if leaves and not (words and words[0] in (".previous", ".popsection")):
                doomed.discard(index)  # `.text` and the like go on to be needed
        for index in range(len(clean)):
            if index not in doomed and self._enters(index):
                doomed.add(index)
        for index in sorted(doomed):
            origin = self._assembled.origins[index]
            if not origin.own:
                text = f"the data is written in an included file ({origin.path}:{origin.line})"
                refused.append(Refusal(None, text))
                break
            self._delete(patch, origin.line)
        return refused

    def _delete(self, patch: Patch, line: int) -> None:
        """Delete one line; of a comment that goes on in the next, or began before, keep that."""
        text = self._source.lines[line - 1]
        in_comment = self._in_comment[line - 1]
        _, ends_within = strip_comments(text, in_comment)
        if not in_comment and not ends_within:
            patch.deleted.add(line)
        else:
            kept = text[text.rindex("/*") :] if ends_within else text[: text.index("*/") + 2]
            patch.replaced[line] = [kept]

    def _comments(self) -> list[bool]:
        """Return for each line of the source whether it begins within a comment."""
        found = []
        inside = False
        for text in self._source.lines:
            found.append(inside)
            if inside or "/*" in text:
                _, inside = strip_comments(text, inside)
        return found

    def _next_sections(self) -> list[str | None]:
        """Return for each preprocessed line the section in force behind it."""
        found: list[str | None] = []
        name: str | None = None
        for index in range(len(self._assembled.clean) - 1, -1, -1):
            found.append(name)
            if self._assembled.sections[index] is not None:
                name = self._assembled.section_name(index)
        return found[::-1]

    def _leaves(self, index: int) -> bool:
        statements = statements_of(self._assembled.clean[index])
        switches = bool(statements) and statements[-1].split()[0] in _SWITCHES
        return switches and self._next[index] not in _SECTIONS

    def _enters(self, index: int) -> bool:
        statements = statements_of(self._assembled.clean[index])
        return (
            bool(statements)
            and statements[-1].split()[0] in _SWITCHES
            and self._assembled.section_name(index) not in _SECTIONS
            and self._next[index] in _SECTIONS
        )


_SWITCHES = frozenset(
    {".section", ".pushsection", ".popsection", ".previous", ".text", ".data", ".bss",
     ".subsection"}
)  # fmt: skip


def _fdes(tables: list[FrameTable], data: _DataLines) -> list[Fde]:
    """Return the FDEs to be said in directives, by address; of two sections, each range once.

    ``.eh_frame`` wins: only there are a personality routine and its data (LuaJIT writes both).
    """
    found: dict[tuple[int, int], Fde] = {}
    for table in sorted(tables, key=lambda table: table.section_name != ".eh_frame"):
        for fde in data.entries(table):
            found.setdefault((fde.begin, fde.end), fde)
    return [found[key] for key in sorted(found)]


def _disagreements(image: Image, tables: list[FrameTable], data: _DataLines) -> list[Refusal]:
    """Refuse what two sections do not say alike: directives write the same to both."""
    refused: list[Refusal] = []
    told: set[int] = set()
    for table in tables:
        for other in tables:
            if other is table:
                continue
            rows = RowMap(image, other.section_name)
            for fde in data.entries(table):
                place = _first_difference(image, fde, rows)
                if place is not None and place not in told:
                    told.add(place)
                    text = (
                        f"{image.name_of(fde.begin)}: {table.section_name} and "
                        f"{other.section_name} do not say the same at {image.place(place)}; "
                        "directives write one thing to both: remove one of the two sections"
                    )
                    refused.append(Refusal(data.line_at(fde), text))
    return refused


def _first_difference(image: Image, fde: Fde, rows: RowMap) -> int | None:
    """Return the first boundary of an FDE where other rows are not its own."""
    for address in _boundaries(image, [fde]):
        row, there = fde.row_at(address), rows.at(address)
        if row is None:
            continue
        if there is None or not there.same_as(Unwind(row.cfa, row.registers, row.args_size)):
            return address
    return None


def _choose_sections(
    source: AssemblySource,
    assembled: Assembled,
    patch: Patch,
    fdes: list[Fde],
    tables: list[FrameTable],
) -> None:
    names = [table.section_name for table in tables]
    if ".debug_frame" in names:
        anchor = anchor_before(assembled, fdes[0].begin)
        first = min(anchor.line, *(anchor_before(assembled, fde.begin).line for fde in fdes))
        text = f"{indentation(source.lines[first - 1])}.cfi_sections {', '.join(names)}"
        patch.before[first] = [text, *patch.before.get(first, [])]


def _annotate(
    source: AssemblySource,
    assembled: Assembled,
    patch: Patch,
    fde: Fde,
    tables: list[FrameTable],
) -> None:
    """Write one FDE's directives.

    Raises:
        RefusedError: a place that no line of the source begins or ends at, or a pointer for
            which there is no name.
        UnsayableError: a rule for which there is no directive.
    """
    image = assembled.image
    begin = _line_begin(assembled, fde)
    first = anchor_before(assembled, begin)
    last = anchor_after(assembled, fde.end)
    span = assembled.span_at(fde.begin)
    assert span is not None
    cie = fde.cie
    initial = initial_unwind(image.machine)
    start = Unwind(cie.initial_row.cfa, cie.initial_row.registers)
    simple = not start.same_as(initial)
    if simple:
        initial = Unwind(None, {})
    writer = DirectiveWriter(image.machine, initial, prefix=register_prefix(assembled, span.line))
    opening = [".cfi_startproc simple" if simple else ".cfi_startproc"]
    if cie.is_signal_frame:
        opening.append(".cfi_signal_frame")
    if cie.return_register != image.machine.hardware_to_dwarf[IP]:
        opening.append(f".cfi_return_column {cie.return_register}")
    opening += _pointers(image, fde, tables, first.line)
    lines = source.lines
    insert(patch, first, lines, opening)
    after_transfer = _after_transfer(image, fde)
    rows = [
        (row.address, Unwind(row.cfa, row.registers, row.args_size))
        for row in fde.rows()
        if row.address < fde.end
    ]
    for address, text in spelled(writer, rows, after_transfer):
        if address <= fde.begin:
            anchor = first
        elif address in after_transfer:
            anchor = anchor_before(assembled, address)
        else:
            anchor = _between(assembled, address)
        insert(patch, anchor, lines, text)
    insert(patch, last, lines, [".cfi_endproc"])


def _line_begin(assembled: Assembled, fde: Fde) -> int:
    """Return where an FDE's directives can begin: at its begin, or before the fill it begins in.

    Signal trampolines' FDEs begin one byte before the code, in whatever is there; where that is
    the fill of an alignment, the whole of it is covered, which nobody can tell: nothing returns
    there.
    """
    span = assembled.span_at(fde.begin)
    if span is None or span.begin == fde.begin:
        return fde.begin
    image = assembled.image
    fill = bytes(image.read(span.begin, span.end - span.begin))
    at = 0
    for item in Decoder(image.machine.bits, fill, DecoderOptions.NONE, span.begin):
        if not is_filler(image.machine.bits, fill[at:]):
            return fde.begin
        at += item.len
    return span.begin if at == len(fill) else fde.begin


def _between(assembled: Assembled, address: int) -> Anchor:
    try:
        return anchor_after(assembled, address)
    except RefusedError:
        return anchor_before(assembled, address)


def _after_transfer(image: Image, fde: Fde) -> set[int]:
    """Return the addresses behind unconditional jumps and returns."""
    code = bytes(image.read(fde.begin, fde.end - fde.begin))
    ends = (FlowControl.UNCONDITIONAL_BRANCH, FlowControl.INDIRECT_BRANCH, FlowControl.RETURN)
    return {
        item.next_ip
        for item in Decoder(image.machine.bits, code, DecoderOptions.NONE, fde.begin)
        if item.flow_control in ends
    }


def _pointers(image: Image, fde: Fde, tables: list[FrameTable], line: int) -> list[str]:
    """Return the directives for a personality routine and language-specific data."""
    cie = fde.cie
    if cie.personality is None and fde.lsda is None:
        return []
    table = next(item for item in tables if item.section_name == fde.section)
    found = []
    if cie.personality is not None:
        entry = read_entry(table.data, cie.offset, fde.section == ".eh_frame")
        assert entry is not None
        fields = read_cie(
            table.data[entry.body : entry.end],
            cie.address_size_bytes,
            Bases(table.address + entry.body),
        )
        name = _name_within(image, table, cie.offset, entry.end, line, "personality routine")
        found.append(f".cfi_personality {fields.personality_encoding:#x}, {name}")
    if fde.lsda is not None and cie.lsda_encoding != DW_EH_PE_OMIT:
        symbol = next(
            (item for item in image.symbols if item.address == fde.lsda and item.name), None
        )
        if symbol is None:
            text = "the language-specific data has no label that the object keeps; give it one"
            raise RefusedError(Refusal(line, text))
        found.append(f".cfi_lsda {cie.lsda_encoding:#x}, {symbol.name}")
    return found


def _name_within(
    image: Image, table: FrameTable, begin: int, end: int, line: int, what: str
) -> str:
    """Return the name of the one symbol that the relocations of an entry refer to."""
    for relocation in image.relocations.within(table.address + begin, table.address + end):
        if relocation.symbol is not None and relocation.symbol.name:
            return relocation.symbol.name
    raise RefusedError(Refusal(line, f"the {what} is not given by name"))
