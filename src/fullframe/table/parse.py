"""Parse system-call tables, and say everything that is wrong with one at once.

More is refused here than by the kernel's own scripts, which drop every line that does not begin
with a digit and take whatever stands in a column: a table that this parser accepts means what
it says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from fullframe.errors import InputError, InputErrors, Place
from fullframe.table.model import (
    ABIS,
    MAX_NUMBER,
    NAME_SPACES,
    X32_SYSCALL_BIT,
    Columns,
    Spelling,
    Table,
    TableEntry,
)

#: The largest file that is read: forty times the kernel's largest table. More is not a table.
MAX_FILE_BYTES = 1 << 20
#: The longest line that is read, comments included.
MAX_LINE_BYTES = 4096
#: How many errors of one file are kept and printed; the rest are counted.
MAX_ERRORS_KEPT = 50

_TOKEN = re.compile(r"[^ \t]+")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"0|[1-9][0-9]*")
_LATER = re.compile(r"[!-~]+")
# Everything below blank but tab, DEL, and the C1 controls: none belongs in a table, and a
# terminal that prints the message must not obey them.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
#: What people write for an ABI, and what the tables call it.
_ABI_ALIASES = {
    "x86_64": "64", "x86-64": "64", "amd64": "64", "x64": "64", "all": "common",
    "x86": "i386", "32": "i386", "ia32": "i386", "i686": "i386", "compat": "i386",
}  # fmt: skip
_SYNTAX = "<number> <abi> <name> [<entry point> [<compat entry point> [later columns]]]"


class TableErrors(InputErrors):
    """All the errors of one table, in the order of their places; printed up to a limit.

    Attributes:
        total: how many there are, those not kept included.
    """

    def __init__(self, errors: list[InputError], total: int) -> None:
        self.total = total
        super().__init__(errors)

    def __str__(self) -> str:
        text = super().__str__()
        omitted = self.total - len(self.errors)
        if omitted > 0:
            text += f"\n... and {omitted} more errors in {self.errors[0].place.path}"
        return text


def shown(text: str, limit: int = 40) -> str:
    """Quote a piece of input for a message: printable ASCII, at most ``limit`` characters."""
    return ascii(text if len(text) <= limit else text[:limit] + "...")


def parse_table(text: bytes | str, path: str = "<table>") -> Table:
    """Parse a table.

    Args:
        text: the file, as bytes, or as text that is then taken as UTF-8.
        path: where it came from, for messages.

    Returns:
        The table; its ``to_bytes()`` gives ``text`` back.

    Raises:
        TableErrors: with every error of the table.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MAX_FILE_BYTES:
        raise TableErrors([too_large(data, path, len(data))], 1)
    return _Parser(path).parse(data)


def too_large(head: bytes, path: str, size_bytes: int | None) -> InputError:
    """Make the error of a file over :data:`MAX_FILE_BYTES`.

    Args:
        head: its first bytes, at least :data:`MAX_FILE_BYTES` of them.
        path: the file.
        size_bytes: its whole size, or None if it has no known end.
    """
    head = head[:MAX_FILE_BYTES]
    column = MAX_FILE_BYTES - (head.rfind(b"\n") + 1) + 1
    size = "endless or unknown" if size_bytes is None else f"{size_bytes:,} bytes"
    return InputError(
        Place(path, head.count(b"\n") + 1, column),
        f"the file goes on after {MAX_FILE_BYTES:,} bytes (size: {size})",
        "a system-call table; the kernel's largest is below 30,000 bytes",
        "check that this is the file you mean",
    )


class _Parser:
    """The state of one parse: the entries so far, the errors so far, the numbers taken."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.errors: list[InputError] = []
        self.error_count = 0
        self.entries: list[TableEntry] = []
        #: By ("number" or "name", ABI, the number or name itself): the line that has it.
        self.taken: dict[tuple[str, str, int | str], int] = {}
        self.line = 0

    def parse(self, data: bytes) -> Table:
        lines = tuple(_lines(data))
        offset_bytes = 0
        for self.line, raw in enumerate(lines, 1):
            self._parse_line(raw, offset_bytes)
            offset_bytes += len(raw)
        if self.error_count:
            # A duplicate is seen only when the rest of its line has been read.
            self.errors.sort(key=lambda error: (error.place.line or 0, error.place.column or 0))
            raise TableErrors(self.errors, self.error_count)
        return Table(self.path, lines, tuple(self.entries))

    def _error(
        self, column: int, found: str, expected: str, next_step: str, offset: int | None = None
    ) -> None:
        self.error_count += 1
        if len(self.errors) < MAX_ERRORS_KEPT:
            place = Place(self.path, self.line, column, offset_bytes=offset)
            self.errors.append(InputError(place, found, expected, next_step))

    def _parse_line(self, raw: bytes, offset_bytes: int) -> None:
        text = self._decode(raw, offset_bytes)
        if text is None:
            return
        tokens = [(match.group(), match.start() + 1) for match in _TOKEN.finditer(text)]
        comment = next((i for i, (token, _) in enumerate(tokens) if token[0] == "#"), None)
        tokens = tokens[:comment]
        if not tokens:
            return
        errors_before = self.error_count
        number = self._number(*tokens[0])
        abi = self._abi(*tokens[1]) if len(tokens) > 1 else None
        name = self._identifier(*tokens[2], what="name") if len(tokens) > 2 else None
        if len(tokens) < 3 and self.error_count == errors_before:
            self._missing_column(tokens)
        point, spelling = self._entry_point(tokens, 3)
        compat, compat_spelling = self._entry_point(tokens, 4)
        later = self._later(tokens[5:])
        if abi is not None:
            if number is not None:
                self._take("number", number, abi, tokens[0][1])
            if name is not None:
                self._take("name", name, abi, tokens[2][1])
        if number is None or abi is None or name is None or self.error_count > errors_before:
            return
        columns = _columns([column for _, column in tokens])
        self.entries.append(
            TableEntry(
                number, abi, name, point, compat, spelling, compat_spelling, later, self.line,
                columns,
            )
        )  # fmt: skip

    def _decode(self, raw: bytes, offset_bytes: int) -> str | None:
        """Return the line's text without its end, or None if it is no text."""
        if len(raw) > MAX_LINE_BYTES:
            self._error(
                MAX_LINE_BYTES + 1,
                f"line of {len(raw):,} bytes",
                f"at most {MAX_LINE_BYTES:,}",
                "check that this is a system-call table; break a long comment",
                offset_bytes + MAX_LINE_BYTES,
            )
            return None
        body = raw[:-1] if raw.endswith(b"\n") else raw
        body = body[:-1] if body.endswith(b"\r") and body != raw else body
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            self._error(
                len(body[: error.start].decode("utf-8")) + 1,
                f"byte {body[error.start]:#04x} is not UTF-8",
                "UTF-8 text",
                "convert the file to UTF-8, or take the byte out",
                offset_bytes + error.start,
            )
            return None
        control = _CONTROL.search(text)
        if control is not None:
            what = "NUL" if control.group() == "\0" else f"control character {control.group()!a}"
            self._error(
                control.start() + 1,
                f"{what} in a text file",
                "text with blanks and tabs between columns",
                "take it out; if the file is binary, it is not a table",
                offset_bytes + len(text[: control.start()].encode()),
            )
            return None
        return text

    def _missing_column(self, tokens: list[tuple[str, int]]) -> None:
        token, column = tokens[-1]
        missing = "ABI" if len(tokens) == 1 else "name"
        self._error(
            column + len(token),
            f"missing column: the line ends where the {missing} should be",
            _SYNTAX,
            f"add the missing {missing}, or begin the line with # to make it a comment",
        )

    def _number(self, token: str, column: int) -> int | None:
        if token.startswith("\ufeff"):
            self._error(
                column,
                "the file begins with a byte order mark",
                "UTF-8 without one: the kernel's scripts drop this line for it",
                "remove the mark (sed -i '1s/^\\xEF\\xBB\\xBF//' FILE)",
            )
            return None
        if _NUMBER.fullmatch(token) is None:
            hint = "write it in decimal" if re.match(r"0[xX]|0[0-9]", token) else ""
            self._error(
                column,
                f"number {shown(token)} is not a number",
                "a decimal number without sign or leading zero",
                hint or "give the call's number, or begin the line with # to make it a comment",
            )
            return None
        # More digits than the limit has need no arithmetic, which takes long for millions.
        number = int(token) if len(token) <= 12 else None
        if number is not None and number <= MAX_NUMBER:
            return number
        step = "give the call's number in the table"
        if number is not None and 0 <= number - X32_SYSCALL_BIT <= MAX_NUMBER:
            step = (
                f"write {number - X32_SYSCALL_BIT}: the x32 bit {X32_SYSCALL_BIT:#x} is set "
                "at run time, never in the table"
            )
        self._error(column, f"number {shown(token)[1:-1]} is too large", f"0 to {MAX_NUMBER}", step)
        return None

    def _abi(self, token: str, column: int) -> str | None:
        if token in ABIS:
            return token
        near = _ABI_ALIASES.get(token.lower())
        if near is None and len(token) < 20:
            near = next(iter(difflib.get_close_matches(token.lower(), ABIS, 1)), None)
        self._error(
            column,
            f"unknown ABI {shown(token)}",
            f"one of {', '.join(ABIS)}",
            f"did you mean {near}?" if near else "correct the second column",
        )
        return None

    def _identifier(self, token: str, column: int, what: str) -> str | None:
        if _IDENTIFIER.fullmatch(token):
            return token
        self._error(
            column,
            f"{what} {shown(token)} is not an identifier",
            "letters, digits and _, not beginning with a digit",
            f"correct the {what}",
        )
        return None

    def _entry_point(
        self, tokens: list[tuple[str, int]], index: int
    ) -> tuple[str | None, Spelling | None]:
        """Read the entry point in a column: its name and annotation; ``-`` means none."""
        if len(tokens) <= index or tokens[index][0] == "-":
            return None, None
        token, column = tokens[index]
        match = _IDENTIFIER.match(token)
        end = match.end() if match else 0
        rest = token[end:]
        if not rest:
            return token, None
        if match is None or rest[0] not in ":/":
            what = "entry point" if index == 3 else "compat entry point"
            self._identifier(token, column, what)
            return None, None
        if rest in (Spelling.REGS, Spelling.PTREGS):
            return match.group(), Spelling(rest)
        near = next(iter(difflib.get_close_matches(rest[:20], list(Spelling), 1)), None)
        self._error(
            column + end,
            f"unknown qualifier {shown(rest)}",
            " or ".join(Spelling),
            f"did you mean {near}?" if near else "correct the qualifier or take it out",
        )
        return None, None

    def _later(self, tokens: list[tuple[str, int]]) -> tuple[str, ...]:
        for token, column in tokens:
            if _LATER.fullmatch(token) is None:
                self._error(
                    column,
                    f"later column {shown(token)} is not ASCII",
                    "a word such as noreturn",
                    "correct it, or make it a comment with #",
                )
        return tuple(token for token, _ in tokens)

    def _take(self, what: str, key: int | str, abi: str, column: int) -> None:
        """Take a number or a name in its ABIs; report it if an earlier line has it there."""
        spaces = NAME_SPACES[abi]
        earlier = {space: self.taken.get((what, space, key)) for space in spaces}
        for space in spaces:
            self.taken.setdefault((what, space, key), self.line)
        line = next((line for line in earlier.values() if line is not None), None)
        if line is None:
            return
        where = " and ".join(space for space in spaces if earlier[space] is not None)
        self._error(
            column,
            f"duplicate {what} {shown(str(key))[1:-1]}: line {line} has it in ABI {where}",
            f"each {what} once in an ABI; a common entry counts for 64 and x32",
            f"remove one of the two lines, or change its {what}",
        )


def _lines(data: bytes) -> Iterator[bytes]:
    """Split at line feeds only, each line with its own."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


def _columns(starts: list[int]) -> Columns:
    return Columns(
        starts[0],
        starts[1],
        starts[2],
        starts[3] if len(starts) > 3 else None,
        starts[4] if len(starts) > 4 else None,
        tuple(starts[5:]),
    )
