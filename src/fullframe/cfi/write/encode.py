"""``cfi encode``: directives become data, for an assembler that has no ``.cfi_*``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from iced_x86 import Decoder, DecoderOptions

from fullframe.cfi.frames import Fde
from fullframe.cfi.write.compare import RowMap, compare_rows
from fullframe.cfi.write.conversion import Conversion
from fullframe.cfi.write.data_text import DataWriter, GnuSyntax, Point, Procedure
from fullframe.cfi.write.directives import (
    Directive,
    UnreadableError,
    UnsayableError,
    Unwind,
    number_of,
)
from fullframe.cfi.write.entries import CieKind
from fullframe.cfi.write.lines import DirectiveLine, Refusal, directive_lines, statements_of
from fullframe.cfi.write.normalize import can_be_split, renumbered, split_lines
from fullframe.cfi.write.patch import Patch
from fullframe.cfi.write.source import Assembled, AssemblySource, loaded_bytes, strip_comments
from fullframe.errors import InputError, Place


@dataclass(slots=True)
class _Body:
    """The directive lines of one procedure, from its ``.cfi_startproc`` to its ``.cfi_endproc``."""

    lines: list[DirectiveLine] = field(default_factory=list)
    personality: tuple[int, str] | None = None
    lsda: tuple[int, str] | None = None


def encode_source(source: AssemblySource) -> Conversion:
    """Turn a source's directives into data in GNU syntax.

    All or nothing, and proved: the outcome is assembled and must have the same code, and the same
    rule at every instruction boundary.

    Args:
        source: the source.

    Returns:
        The new text, what was compared, and what stood in the way.

    Raises:
        InputError: the source cannot be assembled, or has no directives.
    """
    assembled = source.assemble()
    lines = directive_lines(assembled)
    if not lines:
        raise InputError(
            Place(source.path), "no CFI directives", "a source with .cfi_startproc",
            "`fullframe cfi fix` writes them from the code",
        )  # fmt: skip
    mixed = [
        line.line
        for line in lines
        if line.line is not None and not line.pure and can_be_split(source, assembled, line.line)
    ]
    if mixed:
        split, origins = split_lines(source, mixed)
        result = _encode(split, split.assemble())
        if not result.changed:
            result.new_text = source.text
        return renumbered(result, source, origins)
    return _encode(source, assembled)


def _encode(source: AssemblySource, assembled: Assembled) -> Conversion:
    conversion = Conversion(source.path, source.text, source.text)
    lines = directive_lines(assembled)
    rows = RowMap(assembled.image)
    conversion.functions = len(rows.fdes)
    encoder = _Encoder(source, assembled, rows)
    try:
        text = encoder.encode(lines)
    except UnsayableError as error:
        encoder.refused.append(Refusal(None, str(error)))
        text = source.text
    conversion.refused = encoder.refused
    if conversion.refused:
        return conversion
    conversion.functions_done = len(rows.fdes)
    again = source.with_text(text).assemble()
    if loaded_bytes(again.image, again.data, code_only=True) != loaded_bytes(
        assembled.image, assembled.data, code_only=True
    ):
        raise AssertionError("data changed the code")
    for table in rows.tables:
        old = RowMap(assembled.image, table.section_name)
        new = RowMap(again.image, table.section_name)
        compared, differences = compare_rows(old, new, list(_boundaries(old)))
        conversion.boundaries_compared += compared
        conversion.differences += differences
    conversion.new_text = text
    return conversion


def _boundaries(rows: RowMap) -> Iterator[int]:
    image = rows.image
    for fde in rows.fdes:
        code = bytes(image.read(fde.begin, fde.end - fde.begin))
        for item in Decoder(image.machine.bits, code, DecoderOptions.NONE, fde.begin):
            yield item.ip


class _Encoder:
    def __init__(self, source: AssemblySource, assembled: Assembled, rows: RowMap) -> None:
        self._source = source
        self._assembled = assembled
        self._rows = rows
        self._syntax = GnuSyntax()
        self._prefix = _unused(source.text)
        self._labels: dict[int, list[str]] = {}
        self.refused: list[Refusal] = []

    def encode(self, lines: list[DirectiveLine]) -> str:
        """Return the new text; reasons not to go to ``refused``."""
        bodies = list(self._bodies(lines))
        sections = [".eh_frame"]
        for line in lines:
            for directive in line.directives:
                if directive.name == "sections":
                    sections = [name for name in directive.operands if name]
        procedures = []
        begins = {body.lines[0].address: body for body in bodies}
        for number, fde in enumerate(self._rows.fdes):
            body = begins.get(fde.begin)
            if body is None:
                name = self._assembled.image.name_of(fde.begin)
                text = f"{name}: its .cfi_startproc is within a macro, or it is data already"
                self.refused.append(Refusal(None, text))
                continue
            procedures.append(self._procedure(number, fde, body))
        patch = Patch()
        for line in lines:
            self._replace(patch, line)
        text = patch.apply(self._source.text)
        self._look_for_more(text)
        if self.refused:
            return self._source.text
        tail: list[str] = []
        machine = self._assembled.image.machine
        for name in sections:
            writer = DataWriter(machine, self._syntax, name == ".eh_frame", self._prefix)
            tail += writer.section(procedures)
        if not text.endswith("\n"):
            text += "\n"
        ending = "\r\n" if self._source.lines[0].endswith("\r") else "\n"
        return text + "".join(line + ending for line in tail)

    def _bodies(self, lines: list[DirectiveLine]) -> Iterator[_Body]:
        body: _Body | None = None
        for line in lines:
            for directive in line.directives:
                if directive.name == "startproc":
                    body = _Body()
                if body is not None and (not body.lines or body.lines[-1] is not line):
                    body.lines.append(line)
                if body is not None and directive.name in ("personality", "lsda"):
                    self._note(body, line, directive)
                if directive.name == "endproc" and body is not None:
                    yield body
                    body = None

    def _note(self, body: _Body, line: DirectiveLine, directive: Directive) -> None:
        try:
            encoding = number_of(directive.operands[0])
        except (UnreadableError, IndexError):
            self.refused.append(Refusal(line.line, f".cfi_{directive.name}: no number"))
            return
        if encoding == 0xFF or len(directive.operands) < 2:
            return
        found = (encoding, directive.operands[1])
        if directive.name == "personality":
            body.personality = found
        else:
            body.lsda = found

    def _procedure(self, number: int, fde: Fde, body: _Body) -> Procedure:
        cie = fde.cie
        kind = CieKind(
            Unwind(cie.initial_row.cfa, cie.initial_row.registers),
            cie.is_signal_frame,
            cie.return_register,
            body.personality,
            body.lsda[0] if body.lsda else None,
        )
        label = self._syntax.local(f"{self._prefix}{number}")
        begin, end = f"{label}_begin", f"{label}_end"
        self._labels.setdefault(body.lines[0].index, []).append(begin)
        self._labels.setdefault(body.lines[-1].index, []).append(end)
        procedure = Procedure(begin, end, kind, lsda=body.lsda[1] if body.lsda else None)
        last = fde.begin
        for count, row in enumerate(fde.rows()):
            rules = Unwind(row.cfa, row.registers, row.args_size)
            if row.address == fde.begin:
                procedure.points.append(Point(begin, rules, 0))
                continue
            there = [line for line in body.lines if line.address == row.address]
            if not there:
                place = self._assembled.image.place(row.address)
                text = f"the rules change at {place}, where the source shows no directive"
                self.refused.append(Refusal(body.lines[0].line, text))
                continue
            name = f"{label}_{count}"
            self._labels.setdefault(there[-1].index, []).append(name)
            procedure.points.append(Point(name, rules, row.address - last))
            last = row.address
        return procedure

    def _replace(self, patch: Patch, line: DirectiveLine) -> None:
        """Put a line's labels in the place of its directives."""
        labels = [self._syntax.label(name) for name in self._labels.get(line.index, [])]
        if line.line is None:
            origin = self._assembled.origins[line.index]
            text = f"the directives are in an included file ({origin.path}:{origin.line})"
            self.refused.append(Refusal(None, text))
            return
        original = self._source.lines[line.line - 1]
        statements = statements_of(self._assembled.clean[line.index])
        if statements_of(original) != statements:
            text = "the directives are written by a macro: expand it, or encode by hand"
            self.refused.append(Refusal(line.line, text))
            return
        if not line.pure:
            text = "a directive shares this line with other statements: give it a line of its own"
            self.refused.append(Refusal(line.line, text))
            return
        patch.replaced[line.line] = labels

    def _look_for_more(self, text: str) -> None:
        """Refuse what a macro's body or a branch that is not assembled still holds."""
        inside = False
        for number, line in enumerate(text.split("\n"), 1):
            code, inside = strip_comments(line, inside)
            if ".cfi_" in code:
                message = (
                    "a directive stays in a macro, or in a branch that these flags do not "
                    f"assemble: {code.strip()[:60]}"
                )
                self.refused.append(Refusal(number, message))
                return


def _unused(text: str) -> str:
    number = 0
    while (prefix := f"cfi{number or ''}_") in text and f"L{prefix}" in text:
        number += 1
    return prefix
