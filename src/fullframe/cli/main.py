"""The ``fullframe`` command: find the group, let it parse, turn errors into exit codes.

A group's module is imported only when its command is used: ``fullframe --version`` must answer
within 100 ms, and the decoder, the emulator and numpy take longer than that to import.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence

from fullframe import __version__
from fullframe.cli.arguments import Parser
from fullframe.cli.output import open_standard_streams, say, silence
from fullframe.errors import EXIT_BUG, EXIT_INPUT, EXIT_USAGE, FullframeError
from fullframe.printable import printable, printable_lines

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
#: What is wrong with a path that was named, wherever it is met. (Not ENOENT: where we look for a
#: file that we made ourselves, that is a bug of ours.)
_PATH_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP})
#: What a shell gives for a program that SIGPIPE ended.
_EXIT_BROKEN_PIPE = 141


def build_parser(group: str | None = None) -> argparse.ArgumentParser:
    """Build the argument parser.

    Args:
        group: the one group whose own arguments are wanted; the others get their help line
            only, so that their modules stay unimported.

    Returns:
        The parser; parsed arguments have ``handler`` where a command was given.
    """
    parser = Parser(
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
        say(f"fullframe: {printable_lines(str(error))}")
        return error.exit_code
    except BrokenPipeError:
        # Nobody reads our output any more (`| head`), and it is not known what was found. (The
        # stdout of `run` never says so; what was found is the exit code there.)
        silence(sys.stdout)
        return _EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS | _PATH_ERRORS:
            raise
        silence(sys.stdout)
        step = "see to it that there is space, and a place to write to"
        if error.errno in _PATH_ERRORS:
            step = "check the path and its permissions"
        say(
            f"fullframe: {printable(str(error.filename or 'output'))}: "
            f"cannot be read or written: {error.strerror}\n  next: {step}"
        )
        return EXIT_INPUT
    except KeyboardInterrupt:
        say("fullframe: interrupted")
        return 130
    return code


def _command(arguments: Sequence[str]) -> int:
    """Parse the command line and run the handler of its command."""
    group = next((argument for argument in arguments if not argument.startswith("-")), None)
    parser = build_parser(group)
    parsed = parser.parse_args(arguments)
    handler = getattr(parsed, "handler", None)
    if handler is None:
        say((parser if group is None else _group_parser(parser, group)).format_help().rstrip("\n"))
        return EXIT_USAGE
    return int(handler(parsed))


def _group_parser(parser: argparse.ArgumentParser, group: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and group in action.choices:
            found: argparse.ArgumentParser = action.choices[group]
            return found
    return parser


def run() -> None:
    """Run the command line of this process and exit."""
    open_standard_streams()
    try:
        code = main(sys.argv[1:])
    except Exception:  # noqa: BLE001 - the one place where our own bugs become exit code 70
        import traceback

        say(printable_lines(traceback.format_exc().rstrip()))
        say("fullframe: this is a bug in fullframe; please report it with the lines above")
        code = EXIT_BUG
    sys.exit(code)


if __name__ == "__main__":  # `python -m fullframe.cli.main`
    run()
