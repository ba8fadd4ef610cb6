"""``fullframe table``: show, lint and compare system-call tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fullframe.cli.arguments import path
from fullframe.cli.output import print_json
from fullframe.errors import EXIT_FINDINGS, EXIT_OK, InputError, InputErrors, UsageError

if TYPE_CHECKING:
    from fullframe.table import Table

_TABLE_HELP = (
    "a .tbl file, or x86-64 or i386 for the packaged Linux tables (a file of such a name is "
    "meant by ./NAME)"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments and subcommands of ``fullframe table``."""
    commands = parser.add_subparsers(metavar="SUBCOMMAND", title="subcommands")
    show = _command(commands, "show", "print tables in columns", _show)
    show.add_argument(
        "tables", nargs="*", type=path, metavar="TABLE", help=_TABLE_HELP + "; default: both"
    )
    show.add_argument(
        "--abi",
        metavar="ABI",
        help="only entries of these ABIs, as the table has them: "
        "64, common, x32, i386; several with commas, such as common,64",
    )
    lint = _command(
        commands, "lint", "find calls that need the full register frame and are not annotated",
        _lint,
    )  # fmt: skip
    lint.add_argument(
        "tables", nargs="*", type=path, metavar="TABLE", help=_TABLE_HELP + "; default: both"
    )
    lint.add_argument(
        "--needs",
        metavar="NAME",
        action="append",
        default=[],
        help="a call of your own that needs the full frame too (may be given again)",
    )
    diff = _command(commands, "diff", "compare two tables, call by call", _diff)
    diff.add_argument("first", type=path, metavar="TABLE", help=_TABLE_HELP)
    diff.add_argument("second", type=path, metavar="TABLE", help="the table to compare it with")


def _command(
    commands: Any, name: str, help_text: str, handler: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handler)
    return parser


def _open_tables(names: list[str]) -> list[Table]:
    """Read all the tables, or report all that is wrong with all of them."""
    from fullframe.table import PACKAGED_TABLES, open_table

    tables: list[Table] = []
    errors: list[InputError | InputErrors] = []
    for name in names or PACKAGED_TABLES:
        try:
            tables.append(open_table(name))
        except (InputError, InputErrors) as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise _SeveralInputs(errors)
    return tables


class _SeveralInputs(InputErrors):
    """What is wrong with several inputs; each says its own."""

    def __init__(self, inputs: list[InputError | InputErrors]) -> None:
        self.inputs = inputs
        super().__init__(
            [
                error
                for each in inputs
                for error in (each.errors if isinstance(each, InputErrors) else (each,))
            ]
        )

    def __str__(self) -> str:
        return "\n".join(str(each) for each in self.inputs)


def _show(arguments: argparse.Namespace) -> int:
    from fullframe.report.tables import SCHEMA, print_table, table_json
    from fullframe.table.model import ABIS

    abis = arguments.abi.split(",") if arguments.abi is not None else ABIS
    unknown = [abi for abi in abis if abi not in ABIS]
    if unknown:
        raise UsageError(f"--abi: unknown ABI {unknown[0]!r}; there are {', '.join(ABIS)}")
    tables = _open_tables(arguments.tables)
    chosen = [[entry for entry in table.entries if entry.abi in abis] for table in tables]
    if arguments.json:
        shown = [table_json(*pair) for pair in zip(tables, chosen, strict=True)]
        print_json({"schema": SCHEMA, "tables": shown})
        return EXIT_OK
    for position, (table, entries) in enumerate(zip(tables, chosen, strict=True)):
        if position:
            print()
        print_table(table, entries, sys.stdout)
    return EXIT_OK


def _lint(arguments: argparse.Namespace) -> int:
    from fullframe.report.tables import findings_json, print_findings
    from fullframe.table import lint_table

    tables = _open_tables(arguments.tables)
    findings = [finding for table in tables for finding in lint_table(table, arguments.needs)]
    if arguments.json:
        print_json(findings_json(findings))
    else:
        print_findings(findings, tables, sys.stdout)
    return EXIT_FINDINGS if findings else EXIT_OK


def _diff(arguments: argparse.Namespace) -> int:
    from fullframe.report.tables import differences_json, print_differences
    from fullframe.table.diff import diff_tables

    first, second = _open_tables([arguments.first, arguments.second])
    differences = diff_tables(first, second)
    if arguments.json:
        print_json(differences_json(differences, first, second))
    else:
        print_differences(differences, sys.stdout)
    return EXIT_FINDINGS if differences else EXIT_OK
