"""The one root exception, the places errors point at, and the exit codes.

Every error that fullframe raises on purpose derives from :class:`FullframeError` and carries
the exit code of the command line. Anything else that escapes is a bug in fullframe (exit 70).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fullframe.printable import printable

EXIT_OK = 0
EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_TOOL_MISSING = 4
EXIT_BUG = 70


@dataclass(frozen=True, slots=True)
class Place:
    """Where in an input something was found.

    Text inputs use ``line`` and ``column`` (both from 1); binary inputs use ``section`` and
    ``offset_bytes`` (from the start of the section, or of the file when ``section`` is None).
    """

    path: str
    line: int | None = None
    column: int | None = None
    section: str | None = None
    offset_bytes: int | None = None

    def __str__(self) -> str:
        text = printable(self.path)
        if self.line is not None:
            text += f":{self.line}"
            if self.column is not None:
                text += f":{self.column}"
        if self.section is not None:
            text += f": {printable(self.section)}"
        if self.offset_bytes is not None:
            text += (
                f"+{self.offset_bytes:#x}" if self.section else f": offset {self.offset_bytes:#x}"
            )
        return text


class FullframeError(Exception):
    """Root of every error that fullframe raises on purpose.

    Attributes:
        exit_code: what the command line exits with when this error ends it.
    """

    exit_code: int = EXIT_BUG

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by their constructor's arguments, which ours do not keep; without
        # this an error in a worker process could not be told to its parent.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    kind: type[FullframeError], arguments: tuple[Any, ...], attributes: dict[str, Any]
) -> FullframeError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


class UsageError(FullframeError):
    """The command line or an argument makes no sense."""

    exit_code = EXIT_USAGE


class InputError(FullframeError):
    """An input that cannot be read or understood.

    Args:
        place: where.
        found: what was found there.
        expected: what was expected instead.
        next_step: what the user can do about it.
    """

    exit_code = EXIT_INPUT

    def __init__(self, place: Place, found: str, expected: str = "", next_step: str = "") -> None:
        self.place = place
        self.found = found
        self.expected = expected
        self.next_step = next_step
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.place}: {self.found}"
        if self.expected:
            text += f"; expected {self.expected}"
        if self.next_step:
            text += f"\n  next: {self.next_step}"
        return text


class InputErrors(FullframeError):  # noqa: N818 - a bundle of errors, not one
    """All the errors of one input at once, in the order of their places."""

    exit_code = EXIT_INPUT

    def __init__(self, errors: Sequence[InputError]) -> None:
        self.errors = tuple(errors)
        super().__init__(str(self))

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class ToolMissingError(FullframeError):
    """A tool that is needed is not on this machine."""

    exit_code = EXIT_TOOL_MISSING


class ToolFailedError(FullframeError):
    """A tool ran and failed.

    Args:
        command: the command line, one argument an item.
        returncode: its exit code (negative: the signal that ended it).
        output: what it printed, stdout and stderr together.
    """

    exit_code = EXIT_INPUT

    def __init__(self, command: Sequence[str], returncode: int, output: str) -> None:
        import shlex

        self.command = tuple(command)
        self.returncode = returncode
        self.output = output
        super().__init__(f"{shlex.join(command)}: exit code {returncode}\n{output.rstrip()}")
