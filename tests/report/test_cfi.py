"""The checker's results as text, JSON and SARIF, from results made by hand."""

import io
import json

import pytest

from fullframe.cfi.baseline import baseline_text, new_findings, read_baseline
from fullframe.cfi.diagnostics import DIAGNOSTICS
from fullframe.cfi.findings import Coverage, Doubtful, FileReport, Finding, Severity, Uncovered
from fullframe.report.cfi import (
    check_json,
    check_sarif_results,
    write_coverage,
    write_doubts,
    write_findings,
    write_summary,
)
from fullframe.report.sarif import sarif


def finding(code="FF-C001", severity=Severity.RETURN_ADDRESS, path="a.o", **other):
    values = {
        "function": "f", "address": 0x1000, "end_address": 0x1004, "source": None,
        "instruction": "push %rbx", "claimed": "CFA = rsp+8", "actual": "CFA = rsp+16",
        "message": "an unwind goes wrong", "suggestion": ".cfi_adjust_cfa_offset 8",
        "place": ".text+0x0",
    }  # fmt: skip
    return Finding(code, severity, path, **(values | other))


def summary(*reports, **options):
    out = io.StringIO()
    write_summary(out, reports, **({"verbose": False} | options))
    return out.getvalue()


@pytest.mark.parametrize(
    ("severity", "level"),
    [
        (Severity.RETURN_ADDRESS, "error"),
        (Severity.REGISTER, "error"),
        (Severity.ASYNCHRONOUS, "warning"),
        (Severity.MALFORMED, "error"),
    ],
)
def test_levels(severity, level):
    (result,) = check_sarif_results([finding(severity=severity)])
    assert result.level == level


@pytest.mark.parametrize("code", list(DIAGNOSTICS))
def test_every_code_has_its_rule(code):
    log = sarif(check_sarif_results([finding(code)]), DIAGNOSTICS)
    (run,) = log["runs"]
    (result,) = run["results"]
    rule = run["tool"]["driver"]["rules"][result["ruleIndex"]]
    assert rule["id"] == result["ruleId"] == code
    assert rule["name"].isalnum()


def test_sarif_places():
    """A line of a source where there is one, else the file; the address in both."""
    findings = [finding(source="/src/a b.s:12"), finding(path="/lib/x#1.so")]
    results = sarif(check_sarif_results(findings), DIAGNOSTICS)["runs"][0]["results"]
    source, binary = (one["locations"][0]["physicalLocation"] for one in results)
    assert source["artifactLocation"]["uri"] == "file:///src/a%20b.s"
    assert source["region"] == {"startLine": 12}
    assert binary["artifactLocation"]["uri"] == "file:///lib/x%231.so"
    assert "region" not in binary
    assert source["address"] == binary["address"] == {"absoluteAddress": 0x1000}


def test_a_share_is_never_rounded_up():
    assert summary(FileReport("a", "x86-64", 1, 1_000_000, proved=999_999, cannot_tell=1)).endswith(
        "  99.999\n"
    )
    assert summary(FileReport("a", "x86-64", 1, 3, proved=3)).endswith("  100.000\n")
    assert summary(FileReport("a", "x86-64", 1, 3, proved=0, wrong=3)).endswith("  0.000\n")


def test_the_sum_is_of_the_files_that_were_read():
    text = summary(
        FileReport("a", "x86-64", 2, 10, proved=4, wrong=3, assumed=2, cannot_tell=1),
        FileReport("b", error="b: not an ELF file"),
        FileReport("c", "i386", 1, 5, proved=5),
        FileReport("d", "x86-64"),
    )
    lines = [line.split() for line in text.splitlines()]
    assert lines[-2] == ["all", "3", "15", "9", "3", "2", "1", "60.000"]
    assert "b     not read: b: not an ELF file\n" in text
    assert text.endswith("1 file(s) without call-frame information\n")


def test_known_findings_are_counted():
    assert summary(FileReport("a"), known=3).endswith(
        "3 known finding(s) in the baseline, not shown\n"
    )
    assert "baseline" not in summary(FileReport("a"))


def test_doubts_largest_first():
    report = FileReport("a", doubtful=[Doubtful(f"reason {n}", "f", "0x10", n) for n in (1, 7, 3)])
    out = io.StringIO()
    write_doubts(out, report, 2)
    assert out.getvalue() == (
        "         7 f at 0x10: reason 7\n         3 f at 0x10: reason 3\n           and 1 more\n"
    )


def test_code_without_cfi():
    functions = (Uncovered("f", "0x10"), Uncovered("0x20", "0x20"))
    report = FileReport("a", "x86-64", 1, 4, 4, coverage=Coverage(9_999_000, 1000, 3, functions))
    out = io.StringIO()
    write_summary(out, [report], verbose=False)
    # A little is not rounded down to nothing.
    assert out.getvalue().splitlines()[-1].strip() == (
        "0.1 % of its code has no call-frame information and is not checked: 1000 bytes, "
        "3 functions"
    )
    out = io.StringIO()
    write_coverage(out, report, 1)
    assert out.getvalue().splitlines()[1:] == ["           f at 0x10", "           and 2 more"]


def test_a_finding_as_text():
    out = io.StringIO()
    bare = finding(
        "FF-C010", Severity.MALFORMED, "b.o", function=".eh_frame", instruction="", claimed="",
        actual="", suggestion="", place=".eh_frame+0x8",
    )  # fmt: skip
    write_findings(out, [finding(source="a.s:3"), bare])
    assert out.getvalue() == (
        "a.o\n"
        "  FF-C001 return-address-lost: f at .text+0x0 (a.s:3)\n"
        "    instruction  push %rbx   [4 bytes affected]\n"
        "    CFI claims   CFA = rsp+8\n"
        "    in fact      CFA = rsp+16\n"
        "    so           an unwind goes wrong\n"
        "    mend with    .cfi_adjust_cfa_offset 8\n"
        "\n"
        "b.o\n"
        "  FF-C010 malformed: .eh_frame at .eh_frame+0x8\n"
        "    so           an unwind goes wrong\n"
        "\n"
    )


def test_json_can_be_written():
    report = FileReport("a.o", "x86-64", 1, 1, wrong=1, seconds=0.12345)
    found = json.loads(json.dumps(check_json([report], [finding()])))
    assert found["files"][0]["seconds"] == 0.123
    assert found["findings"][0]["severity"] == "return-address-lost"


def test_a_baseline_counts(tmp_path):
    """Two findings of one fingerprint are known; the third is new."""
    path = tmp_path / "known.json"
    path.write_text(baseline_text([finding(), finding(address=0x2000)]))
    known = read_baseline(str(path))
    third = finding(address=0x3000)
    other = finding("FF-C003")
    findings = [finding(), finding(address=0x2000), third, other]
    assert new_findings(findings, known) == [third, other]
    assert new_findings(findings, known) == [third, other]  # the baseline itself is not used up
    assert new_findings([finding(path="/installed/a.o")], known) == []
    assert new_findings([finding(path="b.o")], known) != []
