"""``fullframe entry``: generate system-call entry code, prove it, run it on an emulated CPU."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fullframe.cli.arguments import path, path_object
from fullframe.cli.entry_prove import add_prove
from fullframe.cli.output import print_json
from fullframe.cli.progress import run_progress
from fullframe.errors import EXIT_FINDINGS, EXIT_OK

_TABLE_HELP = (
    "a .tbl file, or x86-64 for the packaged Linux table, which is the default "
    "(a file of such a name is meant by ./NAME)"
)
_TOOLCHAIN_HELP = "gnu, llvm or zig; default: the first that is there"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments and subcommands of ``fullframe entry``."""
    commands = parser.add_subparsers(metavar="SUBCOMMAND", title="subcommands")
    generate = _command(
        commands,
        "generate",
        "generate the entry code of a strategy: assembly, tables, stubs, C slow path, headers",
        _generate,
    )
    generate.add_argument(
        "--strategy", required=True, metavar="S", help="partial, full or annotated"
    )
    generate.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        type=path_object,
        help="where to put the files",
    )
    generate.add_argument(
        "table", nargs="?", type=path, default="x86-64", metavar="TABLE", help=_TABLE_HELP
    )
    generate.add_argument(
        "--build", action="store_true", help="assemble, compile and link them for the harness too"
    )
    generate.add_argument("--toolchain", metavar="KIND", help=_TOOLCHAIN_HELP)
    add_prove(commands)
    run = _command(
        commands,
        "run",
        "build strategies and run every call of the table on an emulated CPU",
        _run,
    )
    run.add_argument(
        "table", nargs="?", type=path, default="x86-64", metavar="TABLE", help=_TABLE_HELP
    )
    run.add_argument(
        "--strategy",
        action="append",
        metavar="S",
        help="partial, full or annotated (may be given again); default: all",
    )
    run.add_argument(
        "--seed", type=int, metavar="N", help="of the random registers; default: a fixed one"
    )
    run.add_argument(
        "--rounds",
        type=_positive,
        default=1,
        metavar="N",
        help="how often to make each call in each circumstance; default: 1",
    )
    run.add_argument("--toolchain", metavar="KIND", help=_TOOLCHAIN_HELP)
    run.add_argument(
        "--keep", metavar="DIR", type=path_object, help="put sources, objects and images there"
    )


def _command(
    commands: Any, name: str, help_text: str, handler: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handler)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError("expected a number from 1 to 10000")
    return value


def _generate(arguments: argparse.Namespace) -> int:
    from fullframe.entry.build import build_generated
    from fullframe.entry.generate import generate, write_generated
    from fullframe.entry.strategy import strategy_named
    from fullframe.report.entry import generated_json, print_generated
    from fullframe.table import open_table
    from fullframe.toolchain.find import find_toolchain

    strategy = strategy_named(arguments.strategy)
    # What can go wrong goes wrong before anything is written.
    code = generate(strategy, open_table(arguments.table))
    build = arguments.build or arguments.toolchain is not None
    toolchain = find_toolchain(arguments.toolchain) if build else None
    files = write_generated(code, arguments.output)
    built = None if toolchain is None else build_generated(code, toolchain, arguments.output)
    if arguments.json:
        print_json(generated_json(code, files, built))
    else:
        print_generated(code, files, built, sys.stdout)
    return EXIT_OK


def _run(arguments: argparse.Namespace) -> int:
    from fullframe.entry.identity import compare_paths_of
    from fullframe.entry.strategy import STRATEGIES, strategy_named
    from fullframe.entry.verify import verify
    from fullframe.report.entry import print_verification, verification_json
    from fullframe.run.session import DEFAULT_SEED
    from fullframe.table import open_table
    from fullframe.toolchain.find import find_toolchain

    names = dict.fromkeys(arguments.strategy or STRATEGIES)
    strategies = [strategy_named(name) for name in names]
    table = open_table(arguments.table)
    toolchain = find_toolchain(arguments.toolchain)
    with _directory(arguments.keep) as directory, run_progress() as progress:
        verification = verify(
            table,
            toolchain,
            directory,
            strategies=strategies,
            seed=DEFAULT_SEED if arguments.seed is None else arguments.seed,
            rounds=arguments.rounds,
            progress=progress,
        )
        found = verification.strategies
        identity = (
            compare_paths_of(found["partial"], found["annotated"])
            if {"partial", "annotated"} <= found.keys()
            else None
        )
    if arguments.json:
        print_json(verification_json(verification, identity, table.path))
    else:
        print_verification(verification, identity, sys.stdout)
    return EXIT_FINDINGS if verification.difference_count else EXIT_OK


@contextlib.contextmanager
def _directory(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="fullframe-") as directory:
        yield Path(directory)
