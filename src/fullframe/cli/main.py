"""The ``fullframe`` command: find the group, let it parse, turn errors into exit codes.

A group's module is imported only when its command is used: ``fullframe --version`` must answer
within 100 ms, and the decoder, the emulator and numpy take longer than that to import.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import IO, Any

from fullframe import __version__
from fullframe.errors import EXIT_BUG, EXIT_INPUT, EXIT_OK, EXIT_USAGE, FullframeError

#: Command (or group of commands), its module under ``fullframe.cli``, its one-line help.
#: A module has ``configure(parser)``, which adds arguments and subcommands and sets the
#: default ``handler``: a function of the parsed arguments that returns the exit code.
GROUPS: tuple[tuple[str, str, str], ...] = (
    ("compare", "compare", "compare the ways out on one system-call table"),
    ("table", "table", "show and lint system-call tables"),
    ("entry", "entry", "generate system-call entry code"),
    ("cfi", "cfi", "check, show and write call-frame information"),
    ("vdso", "vdso", "build, dump and step through vDSO images"),
    ("toolchain", "toolchain", "probe assemblers, and assemble whatever they lack"),
    ("explain", "explain", "explain a diagnostic by its code"),
)

#: What the machine refuses for its own reasons, wherever it happens: a full disk or quota, a
#: closed or vanished output, too many open files. Not the user's input, and no bug of ours.
_MACHINE_ERRORS = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EBADF,
        errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    }
)  # fmt: skip


class _HelpFormatter(argparse.HelpFormatter):
    """Writes ``-o, --output DIR``, as Python 3.13 does and older ones do not."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        argument = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {argument}"


class _Parser(argparse.ArgumentParser):
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
            _say(message.rstrip("\n"))


def build_parser(group: str | None = None) -> argparse.ArgumentParser:
    """Build the argument parser.

    Args:
        group: the one group whose own arguments are wanted; the others get their help line
            only, so that their modules stay unimported.

    Returns:
        The parser; parsed arguments have ``handler`` where a command was given.
    """
    parser = _Parser(
        prog="fullframe",
        description="Register frames and call frames of low-level x86 code: "
        "generate, check, run and cost them.",
        epilog="Exit codes: 0 nothing wrong; 1 findings; 2 usage; 3 an input cannot be read or an "
        "output cannot be written; 4 a needed tool is missing; 70 a bug in fullframe.",
    )
    parser.add_argument("--version", action="version", version=f"fullframe {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, module_name, help_text in GROUPS:
        command = commands.add_parser(name, help=help_text, description=help_text)
        if name == group:
            importlib.import_module(f"fullframe.cli.{module_name}").configure(command)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name.

    Returns:
        The exit code (see ``fullframe.errors``).
    """
    try:
        code = _command(arguments)
        sys.stdout.flush()
    except FullframeError as error:
        _say(f"fullframe: {error}")
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not an error, but nothing more to say.
        _silence(sys.stdout)
        return EXIT_OK
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        _silence(sys.stdout)
        _say(
            f"fullframe: {error.filename or 'output'}: cannot be read or written: "
            f"{error.strerror}\n  next: see to it that there is space, and a place to write to"
        )
        return EXIT_INPUT
    except KeyboardInterrupt:
        _say("fullframe: interrupted")
        return 130
    return code


def _command(arguments: Sequence[str]) -> int:
    """Parse the command line and run the handler of its command."""
    group = next((argument for argument in arguments if not argument.startswith("-")), None)
    parser = build_parser(group)
    parsed = parser.parse_args(arguments)
    handler = getattr(parsed, "handler", None)
    if handler is None:
        _say((parser if group is None else _group_parser(parser, group)).format_help().rstrip("\n"))
        return EXIT_USAGE
    return int(handler(parsed))


def _say(line: str) -> None:
    """Print to stderr; where even that cannot be written, the exit code has to do."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: IO[str]) -> None:
    """Let what is still buffered go nowhere, so that the interpreter's exit does not fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_standard_streams() -> None:
    """Make the streams that we print to exist, and able to print any text.

    Python has none where the descriptor is closed (``>&-``), and then prints to nowhere without
    a word. For stdout a descriptor that cannot be written to takes its place, so that data that
    gets lost is an error; messages that nobody wants to see may.
    """
    for descriptor, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            mode = "r" if descriptor == 0 else "w"
            stream = open(descriptor, mode, closefd=False)  # noqa: SIM115 - for the whole run
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the locale's encoding lacks is escaped, never a reason to fail.
            stream.reconfigure(errors="backslashreplace")


def _group_parser(parser: argparse.ArgumentParser, group: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and group in action.choices:
            found: argparse.ArgumentParser = action.choices[group]
            return found
    return parser


def run() -> None:
    """Run the command line of this process and exit."""
    _open_standard_streams()
    try:
        code = main(sys.argv[1:])
    except Exception:  # noqa: BLE001 - the one place where our own bugs become exit code 70
        import traceback

        _say(traceback.format_exc().rstrip())
        _say("fullframe: this is a bug in fullframe; please report it with the lines above")
        code = EXIT_BUG
    sys.exit(code)
