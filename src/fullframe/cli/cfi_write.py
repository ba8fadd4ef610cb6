"""``fullframe cfi decode``, ``encode``, ``fix`` and ``attach``: writing call-frame information."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fullframe.cli.arguments import Parser, path
from fullframe.cli.output import print_json
from fullframe.errors import EXIT_FINDINGS, EXIT_OK
from fullframe.printable import printable

if TYPE_CHECKING:
    from fullframe.cfi.write.conversion import Conversion
    from fullframe.cfi.write.source import AssemblySource


class FlagsParser(Parser):
    """A parser that leaves what follows ``--`` to the assembling compiler, as ``flags``.

    (argparse itself takes such arguments only where no option stands between them and the other
    positional ones.)
    """

    takes_flags = False

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse what comes before ``--``."""
        given = list(sys.argv[1:] if args is None else args)
        if not self.takes_flags:
            return super().parse_known_args(given, namespace)
        flags: list[str] = []
        if "--" in given:
            at = given.index("--")
            given, flags = given[:at], given[at + 1 :]
        parsed, rest = super().parse_known_args(given, namespace)
        parsed.flags = flags
        return parsed, rest


def add_commands(commands: Any) -> None:
    """Add the commands of this module to the group ``cfi``."""
    decode = _source_command(
        commands,
        "decode",
        "turn CFI that an assembly source writes as data into directives",
        "Finds the call-frame information that FILE writes as data into .eh_frame or "
        ".debug_frame, and writes the directives that say the same. The outcome is assembled "
        "again and must have the same rule at every instruction.",
    )
    decode.set_defaults(handler=_decode)
    encode = _source_command(
        commands,
        "encode",
        "turn CFI directives into data, for an assembler without .cfi_*",
        "Turns the .cfi_* directives of FILE into data in .eh_frame (and .debug_frame, where "
        ".cfi_sections asks for it): as GNU directives, or for NASM and YASM sources (.asm, "
        ".nasm) as db and dd. The outcome is assembled again and compared.",
    )
    encode.add_argument(
        "--syntax", choices=("gnu", "nasm"), help="of FILE, if its name does not tell"
    )
    encode.set_defaults(handler=_encode)
    fix = _source_command(
        commands,
        "fix",
        "write the CFI directives that an assembly source lacks, and mend wrong ones",
        "Follows the code of FILE and writes the directives that say what it does: functions "
        "without any get theirs, rules that are not true are mended, rules that are true stay. "
        "The outcome is assembled again and proved.",
    )
    fix.set_defaults(handler=_fix)
    _add_attach(commands)


def _add_attach(commands: Any) -> None:
    attach = commands.add_parser(
        "attach",
        help="add CFI to an object that has none",
        description="Makes .eh_frame for the functions of IN that have none, from what their code "
        "does; nothing else in the object changes. Functions that cannot be done are left out "
        "and listed, with exit code 1.",
    )
    attach.add_argument("file", type=path, metavar="IN", help="a relocatable object")
    attach.add_argument(
        "-o", "--output", type=path, metavar="OUT", required=True, help="the new object"
    )
    attach.add_argument("--json", action="store_true", help="print one JSON object")
    attach.set_defaults(handler=_attach)


def _source_command(commands: Any, name: str, help_text: str, description: str) -> FlagsParser:
    parser: FlagsParser = commands.add_parser(
        name,
        help=help_text,
        description=description
        + " Without -o or --in-place the change is printed as a unified diff. Exit code 1 if "
        "something could not be done, or with --check if there is something to change.",
        usage="%(prog)s [-h] [-o FILE | --in-place | --check] [--json] FILE [-- FLAGS]",
    )
    parser.takes_flags = True
    parser.add_argument("file", type=path, metavar="FILE", help="an assembly source (.S, .s)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "-o", "--output", type=path, metavar="OUT", help="write the new source to OUT"
    )
    where.add_argument(
        "--in-place", action="store_true", help="replace FILE, only if everything succeeded"
    )
    where.add_argument(
        "--check", action="store_true", help="exit code 1 if there is something to change"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--toolchain", choices=("gnu", "llvm", "zig"), help="assemble with this one"
    )
    return parser


def _read(arguments: argparse.Namespace) -> AssemblySource:
    from fullframe.cfi.write.source import Assembler, AssemblySource
    from fullframe.toolchain.find import find_toolchain

    toolchain = find_toolchain(arguments.toolchain)
    return AssemblySource.read(arguments.file, Assembler(toolchain, tuple(arguments.flags)))


def _decode(arguments: argparse.Namespace) -> int:
    from fullframe.cfi.write.decode import decode_source

    return _convert(arguments, decode_source)


def _encode(arguments: argparse.Namespace) -> int:
    from fullframe.report.cfi_write import write_conversion

    nasm = arguments.file.endswith((".asm", ".nasm")) or arguments.syntax == "nasm"
    if not nasm or arguments.syntax == "gnu":
        from fullframe.cfi.write.encode import encode_source

        return _convert(arguments, encode_source)
    from fullframe.cfi.write.encode_nasm import encode_nasm
    from fullframe.cfi.write.source import read_text

    text = read_text(arguments.file)
    return finish(arguments, encode_nasm(arguments.file, text, arguments.flags), write_conversion)


def _fix(arguments: argparse.Namespace) -> int:
    from fullframe.cfi.write.fix import fix_source

    return _convert(arguments, fix_source)


def _attach(arguments: argparse.Namespace) -> int:
    from fullframe.cfi.write.attach import attach
    from fullframe.files import write_atomically
    from fullframe.report.cfi_write import attached_json, write_attached

    result = attach(arguments.file)
    if result.functions:
        write_atomically(arguments.output, result.data)
    if arguments.json:
        print_json(attached_json(result, arguments.output), indent=1)
    else:
        write_attached(sys.stdout, result, arguments.output)
    return EXIT_FINDINGS if result.left_out else EXIT_OK


def _convert(arguments: argparse.Namespace, convert: Callable[[AssemblySource], Conversion]) -> int:
    from fullframe.report.cfi_write import write_conversion

    return finish(arguments, convert(_read(arguments)), write_conversion)


def finish(
    arguments: argparse.Namespace,
    result: Conversion,
    write: Callable[..., None],
) -> int:
    """Write and report the outcome of a conversion; return the exit code."""
    from fullframe.files import write_atomically
    from fullframe.report.cfi_write import conversion_json

    failed = bool(result.refused or result.differences)
    target = arguments.output or (arguments.file if arguments.in_place else None)
    written = False
    # With -o, fix writes what could be done; where nothing could, nothing is written.
    whole = not failed or (bool(arguments.output) and result.changed)
    if target is not None and whole and not result.differences:
        data = result.new_text.encode("utf-8", errors="surrogateescape")
        written = write_atomically(target, data)
    if arguments.json:
        print_json(conversion_json(result), indent=1)
    else:
        write(
            sys.stdout,
            sys.stderr,
            result,
            show_diff=target is None,
            target=target if written else None,
        )
    if arguments.in_place and failed and result.changed:
        print(
            f"{printable(arguments.file)} was left as it was, because not everything could be "
            "done; -o FILE writes what could",
            file=sys.stderr,
        )
    return EXIT_FINDINGS if failed or (arguments.check and result.changed) else EXIT_OK
