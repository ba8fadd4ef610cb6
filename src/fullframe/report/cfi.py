"""The CFI checker's results as text and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from fullframe.cfi.findings import FileReport, Finding, Severity
from fullframe.printable import printable, printable_lines
from fullframe.report.sarif import SarifResult

#: Version of ``fullframe cfi check --json``; rises when a key changes its meaning or goes.
CHECK_SCHEMA = 1

#: Lines of one kind that a file has with ``--verbose``.
_MOST_LISTED = 20
_LEVELS = {
    Severity.RETURN_ADDRESS: "error",
    Severity.REGISTER: "error",
    Severity.ASYNCHRONOUS: "warning",
    Severity.MALFORMED: "error",
}


def check_json(reports: Iterable[FileReport], findings: Iterable[Finding]) -> dict[str, Any]:
    """Return the documented object of ``fullframe cfi check --json``."""
    return {
        "schema": CHECK_SCHEMA,
        "files": [
            {
                "path": report.path,
                "machine": report.machine,
                "functions": report.functions,
                "boundaries": report.boundaries,
                "proved": report.proved,
                "wrong": report.wrong,
                "assumed": report.assumed,
                "cannot_tell": report.cannot_tell,
                "covered_bytes": report.coverage.covered_bytes,
                "uncovered_bytes": report.coverage.uncovered_bytes,
                "uncovered_functions": report.coverage.uncovered_functions,
                "seconds": round(report.seconds, 3),
                "error": report.error,
            }
            for report in reports
        ],
        "findings": [finding_json(finding) for finding in findings],
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    """Return the object of one finding."""
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "path": finding.path,
        "function": finding.function,
        "address": finding.address,
        "end_address": finding.end_address,
        "place": finding.place,
        "source": finding.source,
        "instruction": finding.instruction,
        "claimed": finding.claimed,
        "actual": finding.actual,
        "message": finding.message,
        "suggestion": finding.suggestion,
    }


def check_sarif_results(findings: Iterable[Finding]) -> list[SarifResult]:
    """Return the findings as SARIF results."""
    results = []
    for finding in findings:
        path, line = finding.path, None
        if finding.source is not None:
            path, _, number = finding.source.rpartition(":")
            line = int(number)
        text = finding.message
        if finding.claimed:
            text = f"{finding.claimed}; {finding.actual}: {text}"
        results.append(
            SarifResult(
                finding.code,
                _LEVELS[finding.severity],
                text,
                path,
                line,
                finding.address,
                finding.function,
                finding.fingerprint,
            )
        )
    return results


def write_findings(out: TextIO, findings: Sequence[Finding]) -> None:
    """Write findings for a reader, grouped by file."""
    path = None
    for finding in findings:
        if finding.path != path:
            path = finding.path
            out.write(f"{printable(path)}\n")
        where = finding.place
        if finding.source is not None:
            where += f" ({finding.source})"
        lines = [f"  {finding.code} {finding.severity.value}: {finding.function} at {where}"]
        if finding.instruction:
            size = finding.end_address - finding.address
            lines.append(f"    instruction  {finding.instruction}   [{size} bytes affected]")
        if finding.claimed:
            lines.append(f"    CFI claims   {finding.claimed}")
            lines.append(f"    in fact      {finding.actual}")
        lines.append(f"    so           {finding.message}")
        if finding.suggestion:
            lines.append(f"    mend with    {finding.suggestion}")
        # Names of functions and sections come from the file: no part of a line can end it.
        out.write("".join(f"{printable(line)}\n" for line in lines) + "\n")


def write_doubts(out: TextIO, report: FileReport, most: int) -> None:
    """Write why boundaries of a file are assumed or cannot be told, the largest first."""
    doubts = sorted(report.doubtful, key=lambda doubt: -doubt.boundaries)
    for doubt in doubts[:most]:
        where = printable(f"{doubt.function} at {doubt.place}: {doubt.reason}")
        out.write(f"    {doubt.boundaries:6} {where}\n")
    if len(doubts) > most:
        out.write(f"           and {len(doubts) - most} more\n")


def write_coverage(out: TextIO, report: FileReport, most: int) -> None:
    """Write how much of a file's code has no CFI, and ``most`` of its functions.

    Args:
        out: where to.
        report: of the file.
        most: functions that are listed.
    """
    coverage = report.coverage
    total = coverage.covered_bytes + coverage.uncovered_bytes
    tenths = -(-coverage.uncovered_bytes * 1000 // total)  # never round a little down to nothing
    functions = f", {coverage.uncovered_functions} functions" if coverage.functions else ""
    out.write(
        f"    {tenths // 10}.{tenths % 10} % of its code has no call-frame information and is not "
        f"checked: {coverage.uncovered_bytes} bytes{functions}\n"
    )
    for function in coverage.functions[:most]:
        out.write(f"           {function.function} at {function.place}\n")
    left = coverage.uncovered_functions - most
    if most and left > 0:
        out.write(f"           and {left} more\n")


def write_summary(
    out: TextIO, reports: Sequence[FileReport], *, verbose: bool, known: int = 0
) -> None:
    """Write the four counts for each file and all together."""
    total = FileReport("all")
    width = max([4, *(len(printable(report.path)) for report in reports)])
    out.write(
        f"{'file':{width}}  {'machine':7} {'functions':>9} {'boundaries':>10} {'proved':>10} "
        f"{'wrong':>7} {'assumed':>8} {'cannot tell':>11}  proved %\n"
    )
    for report in reports:
        if report.error is not None:
            path, error = printable(report.path), printable_lines(report.error)
            out.write(f"{path:{width}}  not read: {error}\n")
            continue
        if report.functions or verbose or len(reports) == 1:
            out.write(_row(report, width))
            if report.is_partly_uncovered:
                write_coverage(out, report, _MOST_LISTED if verbose else 0)
        if verbose:
            write_doubts(out, report, _MOST_LISTED)
        total.functions += report.functions
        total.boundaries += report.boundaries
        total.proved += report.proved
        total.wrong += report.wrong
        total.assumed += report.assumed
        total.cannot_tell += report.cannot_tell
    if len(reports) > 1:
        out.write(_row(total, width))
    bare = sum(1 for report in reports if report.error is None and not report.functions)
    if bare:
        out.write(f"{bare} file(s) without call-frame information\n")
    if known:
        out.write(f"{known} known finding(s) in the baseline, not shown\n")


def _row(report: FileReport, width: int) -> str:
    # Never round a file with a single unproved boundary up to 100 %, nor count nothing as all.
    share = report.proved * 100_000 // report.boundaries / 1000 if report.boundaries else None
    text = "-" if share is None else f"{share:.3f}"
    path = printable(report.path)
    return (
        f"{path:{width}}  {report.machine:7} {report.functions:9} {report.boundaries:10} "
        f"{report.proved:10} {report.wrong:7} {report.assumed:8} {report.cannot_tell:11}  {text}\n"
    )
