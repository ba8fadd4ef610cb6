"""The ``fullframe`` command: find the group, let it parse, turn errors into exit codes.

A group's module is imported only when its command is used: ``fullframe --version`` must answer
within 100 ms, and the decoder, the emulator and numpy take longer than that to import.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from fullframe import __version__
from fullframe.errors import EXIT_BUG, EXIT_OK, EXIT_USAGE, FullframeError

#: Command (or group of commands), its module under ``fullframe.cli``, its one-line help.
#: A module has ``configure(parser)``, which adds arguments and subcommands and sets the
#: default ``handler``: a function of the parsed arguments that returns the exit code.
GROUPS: tuple[tuple[str, str, str], ...] = (
    ("compare", "compare", "compare the ways out on one system-call table"),
    ("table", "table", "show and lint system-call tables"),
    ("entry", "entry", "generate system-call entry code"),
    ("cfi", "cfi", "check, show and write call-frame information"),
    ("toolchain", "toolchain", "probe assemblers, and assemble whatever they lack"),
    ("explain", "explain", "explain a diagnostic by its code"),
)


def build_parser(group: str | None = None) -> argparse.ArgumentParser:
    """Build the argument parser.

    Args:
        group: the one group whose own arguments are wanted; the others get their help line
            only, so that their modules stay unimported.

    Returns:
        The parser; parsed arguments have ``handler`` where a command was given.
    """
    parser = argparse.ArgumentParser(
        prog="fullframe",
        description="Register frames and call frames of low-level x86 code: "
        "generate, check, run and cost them.",
        epilog="Exit codes: 0 nothing wrong; 1 findings; 2 usage; 3 an input cannot be read; "
        "4 a needed tool is missing; 70 a bug in fullframe.",
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
    group = next((argument for argument in arguments if not argument.startswith("-")), None)
    parser = build_parser(group)
    parsed = parser.parse_args(arguments)
    handler = getattr(parsed, "handler", None)
    if handler is None:
        (parser if group is None else _group_parser(parser, group)).print_help(sys.stderr)
        return EXIT_USAGE
    try:
        code = int(handler(parsed))
        sys.stdout.flush()
    except FullframeError as error:
        print(f"fullframe: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not an error, but nothing more to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        print("fullframe: interrupted", file=sys.stderr)
        return 130
    return code


def _group_parser(parser: argparse.ArgumentParser, group: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and group in action.choices:
            found: argparse.ArgumentParser = action.choices[group]
            return found
    return parser


def run() -> None:
    """Run the command line of this process and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the locale's encoding lacks is escaped, never a reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main(sys.argv[1:])
    except Exception:  # noqa: BLE001 - the one place where our own bugs become exit code 70
        import traceback

        traceback.print_exc()
        print(
            "fullframe: this is a bug in fullframe; please report it with the lines above",
            file=sys.stderr,
        )
        code = EXIT_BUG
    sys.exit(code)
