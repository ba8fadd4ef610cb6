"""``fullframe cfi``: check, show and write call-frame information."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from fullframe.cli.arguments import path
from fullframe.cli.output import print_json, reader_is_gone, say
from fullframe.errors import EXIT_BUG, EXIT_FINDINGS, EXIT_INPUT, EXIT_OK, UsageError
from fullframe.printable import printable_lines

if TYPE_CHECKING:
    from fullframe.cfi.findings import FileReport, Finding


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands."""
    from fullframe.cli.cfi_write import FlagsParser, add_commands

    commands = parser.add_subparsers(
        metavar="COMMAND", title="commands", required=True, parser_class=FlagsParser
    )
    check = commands.add_parser(
        "check",
        help="hold every rule of a binary's CFI against what its code does",
        description="For every function, at every instruction boundary, for the CFA, the return "
        "address and every callee-saved register: is the CFI true? Exit code 1 if anything is "
        "wrong, 3 if a file could not be read (the others are still checked).",
    )
    check.add_argument(
        "files", nargs="*", type=path, metavar="FILE", help="ELF files, or directories"
    )
    check.add_argument(
        "--live-vdso", action="store_true", help="check the running kernel's own vDSOs as well"
    )
    check.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="processes (default: one a core)"
    )
    form = check.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--sarif", action="store_true", help="print a SARIF 2.1.0 log")
    check.add_argument(
        "--baseline", type=path, metavar="FILE", help="report only findings not in FILE"
    )
    check.add_argument(
        "--write-baseline", type=path, metavar="FILE", help="write all findings to FILE"
    )
    check.add_argument(
        "-v", "--verbose", action="store_true", help="say why boundaries are not proved"
    )
    check.set_defaults(handler=_check)

    show = commands.add_parser(
        "show",
        help="show each instruction beside its rule and where the registers really are",
        description="Each instruction beside the CFI rule in force and where each caller's "
        "register really is. Without FUNCTION, every function of the file.",
    )
    show.add_argument("file", type=path, metavar="FILE", help="an ELF file")
    show.add_argument(
        "function",
        nargs="?",
        metavar="FUNCTION",
        help="name, address (0x1040), or place (.text+0x40, main+0x10), as they are printed",
    )
    show.add_argument("--json", action="store_true", help="print one JSON object")
    show.set_defaults(handler=_show)
    add_commands(commands)


def _check(arguments: argparse.Namespace) -> int:
    from fullframe.cfi.baseline import baseline_text, new_findings, read_baseline
    from fullframe.cfi.diagnostics import DIAGNOSTICS
    from fullframe.cfi.files import check_files, check_live_vdsos, expand
    from fullframe.cli.progress import file_progress
    from fullframe.files import write_atomically
    from fullframe.report import cfi as report
    from fullframe.report.sarif import sarif

    if not arguments.files and not arguments.live_vdso:
        raise UsageError("nothing to check: name files or directories, or use --live-vdso")
    if arguments.jobs < 0:
        raise UsageError(f"--jobs {arguments.jobs}: expected a number of processes, or 0")
    known = read_baseline(arguments.baseline) if arguments.baseline else None
    found = expand(arguments.files)
    with file_progress(found.paths, "checking") as progress:
        reports = check_files(found.paths, jobs=arguments.jobs, progress=progress)
    reports += found.unread
    if arguments.live_vdso:
        reports += check_live_vdsos()
    findings = [finding for one in reports for finding in one.findings]
    if arguments.write_baseline:
        write_atomically(arguments.write_baseline, baseline_text(findings).encode())
    total = len(findings)
    if known is not None:
        findings = new_findings(findings, known)
    if arguments.json:
        print_json(report.check_json(reports, findings), indent=1)
    elif arguments.sarif:
        print_json(sarif(report.check_sarif_results(findings), DIAGNOSTICS), indent=1)
        for one in reports:
            if one.error is not None and one.bug is None:
                say(f"not read: {printable_lines(one.error)}")
    else:
        report.write_findings(sys.stdout, findings)
        report.write_summary(
            sys.stdout, reports, verbose=arguments.verbose, known=total - len(findings)
        )
    for one in reports:
        if one.bug is not None:
            bug = f"{one.bug}{one.error}\nplease report it with the lines above"
            say(printable_lines(bug))
    return _exit_code(reports, findings)


def _exit_code(reports: list[FileReport], findings: list[Finding]) -> int:
    if any(one.bug is not None for one in reports):
        return EXIT_BUG
    if any(one.error is not None for one in reports):
        return EXIT_INPUT
    return EXIT_FINDINGS if findings else EXIT_OK


def _show(arguments: argparse.Namespace) -> int:
    from fullframe.cfi.show import show_functions
    from fullframe.report.cfi_show import show_json, write_shown

    first = True
    shown = []
    for function in show_functions(arguments.file, arguments.function):
        if arguments.json:
            shown.append(function)
            continue
        if not first:
            print()
        first = False
        write_shown(sys.stdout, function)
        if reader_is_gone():
            break
    if arguments.json:
        print_json(show_json(arguments.file, shown), indent=1)
    return EXIT_OK
