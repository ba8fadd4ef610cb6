"""``fullframe cfi``: check, show and write call-frame information."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from fullframe.errors import EXIT_FINDINGS, EXIT_INPUT, EXIT_OK, UsageError

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
    check.add_argument("files", nargs="*", metavar="FILE", help="ELF files, or directories")
    check.add_argument(
        "--live-vdso", action="store_true", help="check the running kernel's own vDSOs as well"
    )
    check.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="processes (default: one a core)"
    )
    form = check.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--sarif", action="store_true", help="print a SARIF 2.1.0 log")
    check.add_argument("--baseline", metavar="FILE", help="report only findings not in FILE")
    check.add_argument("--write-baseline", metavar="FILE", help="write all findings to FILE")
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
    show.add_argument("file", metavar="FILE", help="an ELF file")
    show.add_argument("function", nargs="?", metavar="FUNCTION", help="name or address")
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
    paths = expand(arguments.files)
    with file_progress(paths, "checking") as progress:
        reports = check_files(paths, jobs=arguments.jobs, progress=progress)
    if arguments.live_vdso:
        reports += check_live_vdsos()
    findings = [finding for one in reports for finding in one.findings]
    if arguments.write_baseline:
        write_atomically(arguments.write_baseline, baseline_text(findings).encode())
    total = len(findings)
    if known is not None:
        findings = new_findings(findings, known)
    if arguments.json:
        json.dump(report.check_json(reports, findings), sys.stdout, indent=1)
        print()
    elif arguments.sarif:
        json.dump(sarif(report.check_sarif_results(findings), DIAGNOSTICS), sys.stdout, indent=1)
        print()
    else:
        report.write_findings(sys.stdout, findings)
        report.write_summary(
            sys.stdout, reports, verbose=arguments.verbose, known=total - len(findings)
        )
    return _exit_code(reports, findings)


def _exit_code(reports: list[FileReport], findings: list[Finding]) -> int:
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
    if arguments.json:
        json.dump(show_json(arguments.file, shown), sys.stdout, indent=1)
        print()
    return EXIT_OK
