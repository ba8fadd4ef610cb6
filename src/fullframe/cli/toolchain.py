"""``fullframe toolchain``: what the assemblers of this machine can do, and building despite it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from fullframe.cli.arguments import path
from fullframe.cli.cfi_write import FlagsParser
from fullframe.cli.output import print_json
from fullframe.errors import EXIT_OK, EXIT_TOOL_MISSING, ToolMissingError
from fullframe.printable import printable

if TYPE_CHECKING:
    from fullframe.toolchain.probe import Probed


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands."""
    commands = parser.add_subparsers(
        metavar="COMMAND", title="commands", required=True, parser_class=FlagsParser
    )
    probe = commands.add_parser(
        "probe",
        help="try every CFI directive on every assembler that is there",
        description="Finds GNU as, clang, llvm-mc, NASM, YASM and zig, and finds out by trial "
        "which CFI directives each takes and gets right. What was found is remembered for each "
        "program; nothing that is built is executed. Exit code 4 if there is no assembler.",
    )
    probe.add_argument("--json", action="store_true", help="print one JSON object")
    probe.add_argument("--no-cache", action="store_true", help="try again, and remember nothing")
    probe.set_defaults(handler=_probe)
    build: FlagsParser = commands.add_parser(
        "assemble",
        help="assemble a source, whatever CFI directives the assembler lacks",
        description="Assembles FILE. Where the assembler lacks a CFI directive that FILE uses, "
        "--cfi says what is done: require (fail, and say which version is needed), drop (build "
        "without CFI), or encode (write it as data).",
        usage="%(prog)s [-h] -o OUT [--assembler PROGRAM] [--cfi POLICY] FILE [-- FLAGS]",
    )
    build.takes_flags = True
    build.add_argument("file", type=path, metavar="FILE", help="an assembly source")
    build.add_argument("-o", "--output", type=path, metavar="OUT", required=True, help="the object")
    build.add_argument(
        "--assembler", type=path, metavar="PROGRAM", help="default: the first that is there"
    )
    build.add_argument(
        "--cfi", choices=("require", "drop", "encode"), default="require", help="default: require"
    )
    build.set_defaults(handler=_assemble)


def _probe(arguments: argparse.Namespace) -> int:
    from fullframe.report.toolchain import probe_json, write_probe

    found = probe_all(use_cache=not arguments.no_cache)
    if arguments.json:
        print_json(probe_json(found), indent=1)
    else:
        write_probe(sys.stdout, found)
    if not found:
        print("fullframe: no assembler found\n  next: apt-get install binutils", file=sys.stderr)
        return EXIT_TOOL_MISSING
    return EXIT_OK


def probe_all(*, use_cache: bool) -> list[Probed]:
    """Find every assembler and try every directive on it."""
    from fullframe.cfi.write.row_text import row_text
    from fullframe.toolchain.probe import find_assemblers, probe

    return [probe(tool, row_text, use_cache=use_cache) for tool in find_assemblers()]


def _assemble(arguments: argparse.Namespace) -> int:
    from fullframe.cfi.write.policy import build
    from fullframe.cfi.write.source import Assembler, AssemblySource, read_text
    from fullframe.toolchain.find import find_toolchain

    found = probe_all(use_cache=True)
    chosen = choose_assembler(arguments.assembler, found)
    text = read_text(arguments.file)
    assembler = Assembler(find_toolchain(), tuple(arguments.flags))
    source = AssemblySource(arguments.file, text, assembler)
    built = build(source, arguments.output, chosen, arguments.cfi, found)
    if built.lacking:
        print(
            f"{printable(arguments.file)}: CFI {built.action}: {printable(chosen.tool.path)} "
            f"does not get right {', '.join(built.lacking)}",
            file=sys.stderr,
        )
    return EXIT_OK


def choose_assembler(wanted: str | None, found: list[Probed]) -> Probed:
    """Return the assembler of a path, name or kind; without one, the first that was found.

    Raises:
        ToolMissingError: there is none of that name; the message lists what there is.
    """
    from pathlib import Path

    names = ", ".join(item.tool.path for item in found) or "none"
    for item in found:
        if wanted is None or wanted in (item.tool.path, Path(item.tool.path).name, item.tool.kind):
            return item
    raise ToolMissingError(
        f"no assembler {printable(wanted or '')} was found; there are: {names}\n"
        "  next: name one of these, or install it"
    )
