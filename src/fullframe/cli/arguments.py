"""What every command's arguments have in common: the parser, and paths."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from fullframe.cli.output import say
from fullframe.printable import printable_lines


class _HelpFormatter(argparse.HelpFormatter):
    """Writes ``-o, --output DIR``, as Python 3.13 does and older ones do not."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        argument = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {argument}"


class Parser(argparse.ArgumentParser):
    """A parser whose ``--help`` and ``--version`` fail where they cannot be written."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _HelpFormatter)
        super().__init__(**options)

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse itself would end with exit code 0, and nothing said.
        if message and file is sys.stdout:
            file.write(message)
            file.flush()
        elif message:
            say(message.rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        """Print the usage and a message, which repeats what was typed, and exit with code 2."""
        super().error(printable_lines(message))


def path(text: str) -> str:
    """Take an argument that names a file or a directory: the ``type`` of every such argument.

    An empty one is a variable that was not set, as a rule; Python would take it for the current
    directory, and ``if path:`` for an option that was not given.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError(
            "an empty path; expected a name (. is the current directory)"
        )
    return text


def path_object(text: str) -> Path:
    """Take an argument as :func:`path` does, as a ``Path``."""
    return Path(path(text))
