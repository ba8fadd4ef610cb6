"""Printing, one way for every command: data on stdout, messages on stderr."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import IO, Any

from fullframe.printable import escape_unencodable, valid_values

#: The name of our way to print what a stream's encoding lacks.
_ESCAPE = "fullframe.escape"
codecs.register_error(_ESCAPE, escape_unencodable)


class _Stdout(io.FileIO):
    """Where stdout goes; if its reader goes away (``| head``), to nowhere from then on.

    So the command still comes to its end, and its exit code says what was found, whoever looks.
    """

    reader_is_gone = False

    def write(self, data: Any, /) -> int:
        """Write what can be written; to a reader that is gone, everything."""
        if not self.reader_is_gone:
            try:
                return super().write(data)
            except BrokenPipeError:
                self.reader_is_gone = True
        return memoryview(data).nbytes


#: The stdout of this process, once :func:`open_standard_streams` made it.
_stdout: _Stdout | None = None


def reader_is_gone() -> bool:
    """Return whether nobody reads stdout any more: long work that is only shown can end."""
    return _stdout is not None and _stdout.reader_is_gone


def open_standard_streams() -> None:
    """Make the streams that we print to exist, and able to print any text.

    Python has none where the descriptor is closed (``>&-``), and then prints to nowhere without
    a word. For stdout a descriptor that cannot be written to takes its place, so that data that
    gets lost is an error; messages that nobody wants to see may.
    """
    global _stdout
    for descriptor, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            mode = "r" if descriptor == 0 else "w"
            stream = open(descriptor, mode, closefd=False)  # noqa: SIM115 - for the whole run
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        old = sys.stdout
        _stdout = _Stdout(old.fileno(), "w", closefd=False)
        unbuffered = isinstance(old.buffer, io.RawIOBase)
        sys.stdout = io.TextIOWrapper(
            _stdout if unbuffered else io.BufferedWriter(_stdout),
            encoding=old.encoding,
            line_buffering=old.line_buffering,
            write_through=unbuffered,
        )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the locale's encoding lacks is escaped, never a reason to fail.
            stream.reconfigure(errors=_ESCAPE)


def print_json(value: object, *, indent: int = 2) -> None:
    """Print one JSON object, readable and with its keys in the order they were given.

    Names that are no text (a path may be any bytes) are escaped: strict readers refuse what the
    JSON module would make of them.

    Args:
        value: of JSON's own types.
        indent: blanks for each level.
    """
    import json  # `fullframe --version` needs none

    text = json.dumps(value, indent=indent)
    if "\\ud" in text:
        text = json.dumps(valid_values(value), indent=indent)
    print(text)


def say(line: str) -> None:
    """Print to stderr; where even that cannot be written, the exit code has to do."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: IO[str]) -> None:
    """Let what is still buffered go nowhere, so that the interpreter's exit does not fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
