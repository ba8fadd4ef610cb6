"""An assembly source: preprocess it, assemble it, and find the line of every byte.

Lines are found by assembling the source once more with a label of our own before every line. A
label changes nothing, holds for data as well as for instructions (``.byte`` is how older sources
spell what their assembler did not know), and says where a macro's expansion ends; line tables do
neither. That nothing changed is checked: every section must have the same bytes as without.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fullframe.elf.image import Image
from fullframe.errors import InputError, Place, ToolFailedError, UsageError
from fullframe.files import read_at_most
from fullframe.toolchain.command import run_tool
from fullframe.toolchain.find import Toolchain

_LINE_MARKER = re.compile(r'^#\s*(?:line\s+)?(\d+)\s+"((?:[^"\\]|\\.)*)"')
_BLOCK = re.compile(r"\.(macro|rept|irpc?|irep|irepc)\b", re.IGNORECASE)
_MACRO = re.compile(r"\s*\.macro\b", re.IGNORECASE)
_BLOCK_END = re.compile(r"\.(endm|endr)\b", re.IGNORECASE)
#: A source larger than this is refused: bounds time and memory.
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a preprocessed line comes from.

    Attributes:
        path: the file.
        line: its line number there, from 1.
        own: whether the file is the source itself, which can be edited, not one it includes.
    """

    path: str
    line: int
    own: bool


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes that one preprocessed line emits into a section.

    Attributes:
        begin: address of the first byte in the image.
        end: address after the last.
        line: index of the preprocessed line, from 0.
    """

    begin: int
    end: int
    line: int


@dataclass(frozen=True, slots=True)
class InnerLabel:
    """Where a line of a macro's body begins in one expansion.

    Attributes:
        address: in the image.
        line: index of the preprocessed line, from 0; None for a line outside of macros.
        expansion: the assembler's count of the expansion.
    """

    address: int
    line: int | None
    expansion: int


@dataclass(frozen=True, slots=True)
class Assembler:
    """How a source is assembled.

    Attributes:
        toolchain: the compiler that drives the assembler.
        flags: the user's own flags, such as ``-m32 -Iinclude``.
    """

    toolchain: Toolchain
    flags: tuple[str, ...] = ()

    def run(self, source: Path, output: Path, extra: Sequence[str] = ()) -> None:
        """Run the compiler on a source.

        Raises:
            ToolFailedError: it refused the source.
        """
        run_tool([*self._command(), *extra, str(source), "-o", str(output)])

    def _command(self) -> list[str]:
        command = list(self.toolchain.compiler)
        if self.toolchain.kind != "gnu":
            target = "i386" if "-m32" in self.flags else "x86_64"
            command += [f"--target={target}-linux-gnu", "-Wno-unused-command-line-argument"]
        return [*command, *self.flags]

    def made(self, path: str, output: Path, mode: str) -> bytes:
        """Return what :meth:`run` made of a source.

        Args:
            path: the source, for the message.
            output: where it was to be.
            mode: ``-c`` for an object, ``-E`` for preprocessed text.

        Raises:
            UsageError: nothing came out, or something else, as after ``--version`` or ``-M``.
        """
        command = [*self._command(), mode]
        if mode == "-c":
            return what_was_made(path, output, command)
        # Preprocessed text begins with a line marker, and a list of dependencies does not: GNU as
        # would take it for a label and a comment.
        magic = b"" if "-P" in self.flags else b"#"
        return what_was_made(path, output, command, what="preprocessed text", magic=magic)


@dataclass
class Assembled:
    """A source, assembled.

    Attributes:
        image: the object.
        data: its bytes.
        clean: the preprocessed lines, line markers and ``.loc`` blanked.
        origins: where each of them comes from.
        spans: what each line emits, by address.
        sections: per preprocessed line, the index of the section in force before it (None
            where that is not known: within macros, for blank lines).
        addresses: per preprocessed line, the address in force before it, likewise (in sections
            that are not loaded: the offset).
        data_spans: what lines emit into sections that are not loaded, by (section, offset).
        inner_labels: where lines of macros' bodies were assembled, if that was asked for.
    """

    image: Image
    data: bytes
    clean: list[str]
    origins: list[Origin]
    spans: list[Span] = field(default_factory=list)
    sections: list[int | None] = field(default_factory=list)
    addresses: list[int | None] = field(default_factory=list)
    data_spans: list[tuple[int, Span]] = field(default_factory=list)
    inner_labels: list[InnerLabel] = field(default_factory=list)

    def section_name(self, line: int) -> str | None:
        """Return the name of the section in force before a preprocessed line, if it is known."""
        index = self.sections[line]
        return None if index is None else self.image.sections[index].name

    @cached_property
    def syntax_changes(self) -> list[tuple[int, bool]]:
        """Lines with ``.intel_syntax`` or ``.att_syntax``, and whether registers have a prefix."""
        found = []
        for index, line in enumerate(self.clean):
            words = line.split() if "_syntax" in line else []
            if words and words[0] in (".intel_syntax", ".att_syntax"):
                found.append((index, "noprefix" not in words))
        return found

    @cached_property
    def _starts(self) -> list[int]:
        return [span.begin for span in self.spans]

    def span_at(self, address: int) -> Span | None:
        """Return the span that covers an address, or None."""
        position = bisect_right(self._starts, address) - 1
        if position >= 0 and address < self.spans[position].end:
            return self.spans[position]
        return None


class AssemblySource:
    """A source in GNU syntax.

    Args:
        path: the file; ``.S`` and ``.sx`` are preprocessed, ``.s`` is not.
        text: its content.
        assembler: how to assemble it.
    """

    def __init__(self, path: str, text: str, assembler: Assembler) -> None:
        self.path = path
        self.text = text
        self.assembler = assembler
        self.is_preprocessed = Path(path).suffix in (".S", ".sx")

    @classmethod
    def read(cls, path: str, assembler: Assembler) -> AssemblySource:
        """Read a source.

        Raises:
            InputError: it cannot be read, is no text, or is no assembly source by its name.
        """
        if Path(path).suffix not in (".S", ".s", ".sx"):
            raise InputError(
                Place(path),
                "a file whose name does not end in .S, .s or .sx",
                "an assembly source in GNU syntax",
                "rename it; for an object use `fullframe cfi attach`",
            )
        return cls(path, read_text(path), assembler)

    @cached_property
    def lines(self) -> list[str]:
        """The lines, without their ends."""
        return self.text.split("\n")

    def with_text(self, text: str) -> AssemblySource:
        """Return the same source with another content."""
        return AssemblySource(self.path, text, self.assembler)

    # -- assembling --------------------------------------------------------------------------

    def assemble(self, *, within_macros: bool = False) -> Assembled:
        """Assemble the source and find the line of every byte.

        Args:
            within_macros: find the lines of macros' bodies as well.

        Raises:
            InputError: the assembler refuses the source, with what it said; or the source
                changes when labels are put between its lines.
        """
        with tempfile.TemporaryDirectory(prefix="fullframe-") as name:
            directory = Path(name)
            clean, origins = self._preprocess(directory)
            data = self._object(directory, "plain", clean, origins)
            prefix = _unused_prefix(clean)
            lines = _labelled(clean, prefix, within_macros=within_macros)
            labelled_data = self._object(directory, "labelled", lines, [])
        plain = Image.from_bytes(data, self.path)
        labelled = Image.from_bytes(labelled_data, self.path)
        if loaded_bytes(plain, data) != loaded_bytes(labelled, labelled_data):
            raise InputError(
                Place(self.path),
                "the code changes when labels are put between its lines",
                "code that does not depend on where labels are",
                "assemble without options that pad branches",
            )
        result = Assembled(plain, data, clean, origins)
        self._locate(result, labelled, prefix)
        return result

    def preprocessed(self) -> list[str]:
        """Return the preprocessed lines, without line markers.

        Raises:
            InputError: the preprocessor refuses the source.
        """
        with tempfile.TemporaryDirectory(prefix="fullframe-") as name:
            return self._preprocess(Path(name))[0]

    def _preprocess(self, directory: Path) -> tuple[list[str], list[Origin]]:
        if not self.is_preprocessed:
            lines = [_without_positions(line) for line in self.lines]
            return lines, [Origin(self.path, number + 1, True) for number in range(len(lines))]
        source = directory / Path(self.path).name
        source.write_text(self.text, encoding="utf-8", errors="surrogateescape")
        output = directory / "preprocessed"
        beside = ["-iquote", str(Path(self.path).parent or ".")]
        try:
            self.assembler.run(source, output, ["-E", *beside])
        except ToolFailedError as error:
            raise self._refused(error, str(source)) from None
        clean: list[str] = []
        origins: list[Origin] = []
        path, number = str(source), 1
        data = self.assembler.made(self.path, output, "-E")
        text = data.decode("utf-8", errors="surrogateescape")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        for line in text.split("\n"):
            marker = _LINE_MARKER.match(line)
            if marker:
                number, path = int(marker[1]), marker[2].replace("\\\\", "\\")
                clean.append("")
                origins.append(Origin(path, 0, False))
                continue
            clean.append("" if line.startswith("#") else _without_positions(line))
            own = path == str(source)
            origins.append(Origin(self.path if own else path, number, own))
            number += 1
        return clean, origins

    def _object(
        self, directory: Path, name: str, lines: list[str], origins: Sequence[Origin]
    ) -> bytes:
        source, output = directory / f"{name}.s", directory / f"{name}.o"
        source.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
        beside = ["-I", str(Path(self.path).parent or ".")]
        try:
            self.assembler.run(source, output, ["-c", *beside])
        except ToolFailedError as error:
            raise self._refused(error, str(source), origins) from None
        return self.assembler.made(self.path, output, "-c")

    def _refused(
        self, error: ToolFailedError, temporary: str, origins: Sequence[Origin] = ()
    ) -> InputError:
        """Turn what the assembler said into an error that names the lines of the source."""
        places = []

        def original(match: re.Match[str]) -> str:
            number = int(match[1])
            if number <= len(origins):
                origin = origins[number - 1]
                places.append(origin.line if origin.own else None)
                return f"{origin.path}:{origin.line}:"
            places.append(number)
            return f"{self.path}:{number}:"

        said = re.sub(re.escape(temporary) + r":(\d+):", original, error.output)
        said = said.replace(temporary, self.path).strip()
        return InputError(
            Place(self.path, next((line for line in places if line), None)),
            f"the assembler refuses it (exit code {error.returncode}):\n{said[:4000]}",
            "a source that assembles",
            "mend it, or give the flags that it needs after --, such as -- -m32 -Iinclude",
        )

    def _locate(self, result: Assembled, labelled: Image, prefix: str) -> None:
        places: dict[int, tuple[int, int]] = {}
        code = {section.index for section in labelled.sections if section.executable}
        for symbol in labelled.symbols:
            if symbol.name.startswith(prefix) and symbol.section_index is not None:
                number, _, expansion = symbol.name[len(prefix) :].partition("_")
                if not number.isdigit():
                    continue
                if not expansion:
                    places[int(number)] = (symbol.section_index, symbol.address)
                if symbol.section_index in code:
                    label = (
                        InnerLabel(symbol.address, int(number), int(expansion))
                        if expansion
                        else InnerLabel(symbol.address, None, 0)
                    )
                    result.inner_labels.append(label)
        alloc = {section.index for section in labelled.sections if section.alloc}
        count = len(result.clean)
        result.sections = [None] * count
        result.addresses = [None] * count
        ordered = sorted(places.items())
        for position, (line, (section, address)) in enumerate(ordered):
            if line < count:
                result.sections[line] = section
                result.addresses[line] = address
            if position + 1 == len(ordered):
                continue
            _, (next_section, end) = ordered[position + 1]
            if next_section == section and end > address:
                if section in alloc:
                    result.spans.append(Span(address, end, line))
                else:
                    result.data_spans.append((section, Span(address, end, line)))
        result.spans.sort(key=lambda span: span.begin)


def loaded_bytes(image: Image, data: bytes, *, code_only: bool = False) -> list[tuple[str, bytes]]:
    """Return the name and the bytes, before relocation, of every loaded section that has any.

    Args:
        image: an object.
        data: the file it was read from.
        code_only: leave out what is not executable.
    """
    return [
        (section.name, data[section.offset : section.offset + section.size_bytes])
        for section in image.sections
        if section.alloc
        and section.has_bytes
        and section.size_bytes
        and (section.executable or not code_only)
    ]


def what_was_made(
    path: str,
    output: Path,
    command: Sequence[str],
    *,
    what: str = "an object",
    magic: bytes = b"\x7fELF",
) -> bytes:
    """Return what a tool made of a source.

    Args:
        path: the source, for the message.
        output: where it was to be.
        command: what was run, without the names of temporary files.
        what: what it is to be, for the message.
        magic: the bytes that it begins with.

    Raises:
        UsageError: there is nothing, or something else: some flags make a tool that assembles do
            something else, and call that a success.
    """
    try:
        data = output.read_bytes()
    except FileNotFoundError:
        data = None
    if data is not None and data.startswith(magic):
        return data
    raise UsageError(
        f"{Place(path)}: `{shlex.join(command)}` succeeded, but "
        f"{'nothing' if data is None else 'something else'} came out; expected {what}\n"
        "  next: leave out the flags that make it do something else than assemble, such as "
        "-M, -E, -S or --version"
    )


def read_text(path: str) -> str:
    """Read a text file; bytes that are no UTF-8 survive a round trip.

    Raises:
        InputError: it cannot be read, is too large, or is no text.
    """
    try:
        size = Path(path).stat().st_size
        if size > _MOST_BYTES:
            raise InputError(Place(path), f"a source of {size} bytes", f"at most {_MOST_BYTES}")
        data = read_at_most(path, _MOST_BYTES + 1)
    except OSError as error:
        raise InputError(
            Place(path), f"cannot be read: {error.strerror}", "a file", "check the path's spelling"
        ) from None
    if len(data) > _MOST_BYTES:
        raise InputError(Place(path), "a source without an end", f"at most {_MOST_BYTES} bytes")
    if b"\0" in data:
        raise InputError(
            Place(path),
            "a binary file",
            "a source",
            "for an object use `fullframe cfi attach` or `fullframe cfi check`",
        )
    return data.decode("utf-8", errors="surrogateescape")


def _without_positions(line: str) -> str:
    """Blank what makes the assembler count lines otherwise than we do."""
    stripped = line.lstrip()
    if _LINE_MARKER.match(line) or stripped.startswith((".loc ", ".loc\t", ".line ", ".ln ")):
        return ""
    return line


def _unused_prefix(lines: list[str]) -> str:
    text = "\n".join(lines)
    number = 0
    while (prefix := f"__fullframe_line{number}_") in text:
        number += 1
    return prefix


def _labelled(lines: list[str], prefix: str, *, within_macros: bool = False) -> list[str]:
    """Put a label before every line, except inside repetitions and comments.

    Inside macros too, if wanted: there the count of the expansion is part of the label.
    """
    result = []
    depth = 0
    in_comment = in_macro = False
    for number, line in enumerate(lines):
        code, ends_in_comment = strip_comments(line, in_comment)
        if not in_comment and line.strip():
            if depth == 0:
                result.append(f"{prefix}{number}:")
            elif in_macro and depth == 1 and not _BLOCK_END.search(code):
                result.append(f"{prefix}{number}_\\@:")
        result.append(line)
        in_comment = ends_in_comment
        if depth == 0:
            in_macro = within_macros and _MACRO.match(code) is not None
        depth += len(_BLOCK.findall(code))
        depth = max(0, depth - len(_BLOCK_END.findall(code)))
    result.append(f"{prefix}{len(lines)}:")
    return result


def strip_comments(line: str, in_comment: bool = False) -> tuple[str, bool]:
    """Return a line of GNU x86 assembly without its comments and without what strings hold.

    Args:
        line: the line.
        in_comment: whether it starts within ``/* */``.

    Returns:
        The code (strings keep their quotes only), and whether the line ends within a comment.
    """
    out: list[str] = []
    at = 0
    while at < len(line):
        if in_comment:
            end = line.find("*/", at)
            if end < 0:
                return "".join(out), True
            at, in_comment = end + 2, False
            out.append(" ")
            continue
        character = line[at]
        if character == "#" or line.startswith("//", at):
            break
        if line.startswith("/*", at):
            in_comment = True
            at += 2
            continue
        if character == '"':
            end = at + 1
            while end < len(line) and line[end] != '"':
                end += 2 if line[end] == "\\" else 1
            out.append('""')
            at = end + 1
            continue
        out.append(character)
        at += 1
    return "".join(out), in_comment
