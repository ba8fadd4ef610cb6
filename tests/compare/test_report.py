"""What is printed for a comparison that was made by hand."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from fullframe.cost.live import LiveUnavailable
from fullframe.cost.statistics import TOO_NOISY
from fullframe.report import compare as report
from fullframe.report.compare import closing_lines, print_comparison
from fullframe.report.compare_json import comparison_json
from tests.compare.sample import OTHER, comparison, with_difference


@pytest.fixture
def sample():
    return comparison()


def printed(sample, name=""):
    stream = io.StringIO()
    print_comparison(sample, stream, name)
    return stream.getvalue()


def not_measured(sample, reason="switched off"):
    paths = ("fast_path", "slow_path", "annotated_path")
    strategies = {
        name: replace(each, **{path: replace(getattr(each, path), measured=None) for path in paths})
        for name, each in sample.strategies.items()
    }
    six = replace(sample.six_registers, measured=None)
    live = LiveUnavailable(reason)
    return replace(sample, strategies=strategies, six_registers=six, live=live)


def test_text(sample, snapshot):
    assert printed(sample) == snapshot


def test_text_with_differences(sample, snapshot):
    assert printed(with_difference(sample)) == snapshot


def shape(value):
    """Keys and types, the first item standing for all of a list."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


def test_json(sample, snapshot):
    assert shape(comparison_json(with_difference(sample))) == snapshot
    assert comparison_json(sample)["strategies"]["full"]["run"] == snapshot
    assert comparison_json(sample)["six_registers"]["cycles_bound"] == snapshot


def test_json_has_the_keys_that_others_rely_on(sample):
    found = comparison_json(sample)
    assert found["schema"] == 1
    assert found["table"].keys() >= {"path", "entries", "abis", "annotated"}
    assert found["table"]["annotated"] == ["execve"]
    assert list(found["strategies"]) == ["partial", "full", "annotated"]
    for strategy in found["strategies"].values():
        assert strategy.keys() >= {"fast_path", "slow_path", "fast_path_identical_to", "stubs"}
        assert strategy["run"].keys() >= {"calls", "differences"}
        for path in (strategy["fast_path"], strategy["slow_path"]):
            counts = ("instructions", "bytes", "stores", "loads", "slots_written")
            assert all(type(path[key]) is int for key in counts)
            assert path["cycles_bound"]["Sandy Bridge"] > 0
            assert path["cycles_measured"].keys() >= {"median", "spread"}
    assert found["six_registers"].keys() >= {"cycles_measured", "spread", "cycles_bound"}
    assert found["six_registers"]["cycles_bound"]["Sandy Bridge"] == 6
    identical = {n: s["fast_path_identical_to"] for n, s in found["strategies"].items()}
    assert identical == {"partial": None, "full": None, "annotated": "partial"}


def test_json_without_a_measurement(sample):
    found = comparison_json(not_measured(sample, "no such thing here"))
    assert found["live"] == {"measured": False, "reason": "no such thing here"}
    assert found["six_registers"]["cycles_measured"] is None
    assert found["strategies"]["full"]["fast_path"]["cycles_measured"] is None
    assert json.loads(json.dumps(found)) == found


def test_a_pipe_gets_neither_colour_nor_blanks_nor_cut_lines(sample):
    text = printed(with_difference(sample))
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "…" not in text


@pytest.mark.parametrize("width", [80, 100])
def test_a_terminal_loses_nothing(sample, monkeypatch, width):
    def console_for(file):
        return Console(file=file, width=width, force_terminal=True, highlight=False, markup=False)

    monkeypatch.setattr(report, "console_for", console_for)
    text = printed(with_difference(sample))
    assert "…" not in text
    for name in ("partial", "full", "annotated", "Sample", "21 of 21", "FF-R003"):
        assert name in text


def test_the_table_can_be_given_a_name(sample):
    assert printed(sample, "The table").startswith("The table: 3 entries (1 64, 1 common, 1 x32)")


def test_what_a_terminal_would_obey_is_escaped(sample):
    table = replace(sample.table, path="a\x1b[2J.tbl")
    assert "a\\x1b[2J.tbl: 3 entries" in printed(replace(sample, table=table))


def test_noise_is_said(sample):
    measured = replace(sample.six_registers.measured, verdict=TOO_NOISY)
    noisy = replace(sample, six_registers=replace(sample.six_registers, measured=measured))
    assert "too noisy to tell (7.5 ± 1.2 cycles" in closing_lines(noisy)[2]
    assert "too noisy" not in closing_lines(sample)[2]


def test_no_measurement_says_why(sample):
    lines = closing_lines(not_measured(sample, "seccomp forbids it\nmore"))
    assert lines[2].endswith("Not measured here: seccomp forbids it.")


def test_a_fast_path_that_is_not_the_baselines(sample):
    annotated = replace(sample.strategies["annotated"], identity=OTHER)
    other = replace(sample, strategies=dict(sample.strategies) | {"annotated": annotated})
    assert "annotated's fast path is NOT partial's" in closing_lines(other)[1]
    assert "  instruction 7: push %rax (50) | pop %rax (58)" in printed(other)
    assert comparison_json(other)["strategies"]["annotated"]["fast_path_identical_to"] is None
    assert other.anything_wrong


def test_what_is_wrong(sample):
    assert not sample.anything_wrong
    assert with_difference(sample).anything_wrong
    assert with_difference(sample).differences == 30
    assert closing_lines(with_difference(sample))[-1].endswith("30 differences found.")


def test_many_calls_with_differences_are_cut(sample):
    many = with_difference(sample)
    partial = many.strategies["partial"]
    found = partial.run.differences[0]
    run = replace(
        partial.run,
        differences=tuple(replace(found, name=f"call{index}") for index in range(30)),
        difference_count=30,
        differences_by_call={f"call{index}": 1 for index in range(30)},
    )
    strategies = dict(many.strategies) | {"partial": replace(partial, run=run)}
    text = printed(replace(many, strategies=strategies))
    assert text.count("FF-R003") == 8
    assert "and 22 more calls; --json has them" in text


def test_findings_come_first(sample):
    table = sample.table
    from fullframe.table import lint_table, parse_table

    bad = parse_table(table.to_bytes().replace(b":regs", b""), "bad.tbl")
    found = replace(sample, findings=tuple(lint_table(bad)))
    lines = printed(found).splitlines()
    assert lines[0].startswith("bad.tbl:2:14: error: execve needs the full register frame")
    assert lines[2].startswith("sample.tbl: 3 entries")
    assert found.anything_wrong
