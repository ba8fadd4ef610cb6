"""``fullframe vdso``: build vDSO images, save the running kernel's, step through them."""

from __future__ import annotations

import argparse
import sys

from fullframe.cli.output import print_json
from fullframe.errors import EXIT_OK


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands."""
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    dump = commands.add_parser(
        "dump",
        help="save the vDSOs that the running kernel maps into processes",
        description="Saves the vDSOs of the running kernel: the 64-bit one from this process, the "
        "others from a tiny program that is started for it. Without --machine, all that this "
        "kernel has. Exit code 4 if the one that was asked for cannot be had here.",
    )
    dump.add_argument(
        "--machine", choices=("x86-64", "i386", "x32"), help="only of processes of this kind"
    )
    dump.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="PATH",
        help="a directory; with --machine, a file unless a directory is there",
    )
    dump.add_argument("--json", action="store_true", help="print one JSON object")
    dump.set_defaults(handler=_dump)


def _dump(arguments: argparse.Namespace) -> int:
    from fullframe.report.vdso import dump_json, write_dump
    from fullframe.vdso.dump import dump

    result = dump(arguments.output, arguments.machine)
    if arguments.json:
        print_json(dump_json(result))
    else:
        write_dump(sys.stdout, sys.stderr, result)
    return EXIT_OK
