"""``fullframe compare``: the ways out, side by side on one system-call table."""

from __future__ import annotations

import argparse
import sys

from fullframe.cli.arguments import path
from fullframe.cli.output import print_json
from fullframe.cli.progress import step_progress
from fullframe.errors import EXIT_FINDINGS, EXIT_OK, UsageError

_MAX_SEED = (1 << 64) - 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Generate 64-bit system-call entry code for a table under every strategy, assemble it, "
        "run every call on an emulated CPU, count and measure what each path costs, and print it "
        "side by side. Exit code 1 if anything is not as it must be."
    )
    parser.add_argument(
        "table",
        nargs="?",
        type=path,
        default="x86-64",
        metavar="TABLE",
        help="a .tbl file with 64-bit calls; default: the packaged Linux table, x86-64",
    )
    parser.add_argument(
        "--toolchain", metavar="KIND", help="gnu, llvm or zig; default: the first that is found"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no-live", action="store_true", help="do not measure on this machine")
    parser.add_argument(
        "--seed", metavar="N", help="of the random registers and circumstances; default: fixed"
    )
    parser.set_defaults(handler=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    seed = _seed(arguments.seed)
    from fullframe.compare.comparison import check_comparable, compare
    from fullframe.report.compare import print_comparison
    from fullframe.report.compare_json import comparison_json
    from fullframe.run.session import DEFAULT_SEED
    from fullframe.table import PACKAGED_TABLES, open_table
    from fullframe.toolchain.find import find_toolchain

    table = open_table(arguments.table)
    check_comparable(table)
    toolchain = find_toolchain(arguments.toolchain)
    with step_progress() as progress:
        comparison = compare(
            table,
            toolchain=toolchain,
            seed=DEFAULT_SEED if seed is None else seed,
            live=not arguments.no_live,
            progress=progress,
        )
    if arguments.json:
        print_json(comparison_json(comparison))
    else:
        packaged = arguments.table in PACKAGED_TABLES
        name = f"Linux's table of {arguments.table}, as packaged" if packaged else ""
        print_comparison(comparison, sys.stdout, name)
    return EXIT_FINDINGS if comparison.anything_wrong else EXIT_OK


def _seed(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        seed = int(text, 0)
    except ValueError:
        seed = -1
    if not 0 <= seed <= _MAX_SEED:
        raise UsageError(f"--seed {text[:40]!r}: expected a number from 0 to 2**64 - 1")
    return seed
