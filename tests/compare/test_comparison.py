"""The whole of it, on real tables: what is built, run and costed, and what is refused."""

import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from fullframe.compare import comparison as room
from fullframe.compare.comparison import compare
from fullframe.compare.results import LiveConditions
from fullframe.cost.live import LiveUnavailable
from fullframe.entry.strategy import STRATEGIES
from fullframe.errors import FullframeError, InputError, ToolMissingError, UsageError
from fullframe.report.compare_json import comparison_json
from fullframe.table import open_table, parse_table
from fullframe.toolchain.find import KINDS, Toolchain, find_toolchain
from fullframe.x86.ptregs import CALLEE_SAVED_SLOTS, SLOTS
from tests.support import skip_or_fail

#: Low numbers, since every number below the highest is tried, in vain too.
SMALL = """\
0 common read sys_read
1 64 rt_sigreturn sys_rt_sigreturn:regs
2 common getpid sys_getpid
3 64 fork sys_fork:regs
4 64 execve sys_execve:regs
5 x32 rt_sigaction compat_sys_rt_sigaction
6 x32 execve compat_sys_execve:regs
"""


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    try:
        return find_toolchain()
    except ToolMissingError as error:
        skip_or_fail(str(error))


@cache
def packaged_comparison():
    """Compare the packaged table, without the measurement; once for all tests that need it."""
    try:
        return compare(open_table("x86-64"), live=False)
    except ToolMissingError as error:
        skip_or_fail(str(error))


@pytest.fixture(scope="module")
def full_table():
    return packaged_comparison()


@pytest.fixture(scope="module")
def small(toolchain):
    return compare_text(SMALL, toolchain)


def compare_text(text, toolchain, **more):
    more = {"live": False, "processes": 1} | more
    return compare(parse_table(text.encode(), "some.tbl"), toolchain=toolchain, **more)


# --- the packaged table ---


def test_every_call_of_the_packaged_table_runs_under_every_strategy(full_table):
    assert list(full_table.strategies) == list(STRATEGIES) == ["partial", "full", "annotated"]
    for report in full_table.strategies.values():
        # 398 entries; a common one is called by its 64-bit and by its x32 number.
        assert report.run.entries_called == report.run.entries > 690
        assert report.run.difference_count == 0
        assert min(report.run.left_by["sysret"], report.run.left_by["iret"]) > 1000
    assert full_table.calls >= 10_000
    assert full_table.differences == 0
    assert not full_table.anything_wrong


def test_annotated_has_the_fast_path_of_partial_byte_for_byte(full_table):
    identity = full_table.strategies["annotated"].identity
    assert identity.identical
    assert identity.instructions == full_table.strategies["partial"].fast_path.cost.instructions
    # Masked: where branches lead to, and the dispatch table's address; nothing else.
    assert {field.reason for field in identity.masked} == {"relocated", "branch displacement"}
    assert sum(field.reason == "relocated" for field in identity.masked) == 1
    assert sum(field.size_bytes for field in identity.masked) < 16
    assert not full_table.strategies["full"].identity.identical
    assert full_table.strategies["partial"].identity is None


def test_slots_written(full_table):
    by_name = full_table.strategies
    partial = tuple(slot for slot in SLOTS if slot not in CALLEE_SAVED_SLOTS)
    assert by_name["partial"].fast_path.slots_written == partial
    assert by_name["annotated"].fast_path.slots_written == partial
    assert by_name["full"].fast_path.slots_written == SLOTS
    assert all(report.slow_path.slots_written == SLOTS for report in by_name.values())


def test_what_the_strategies_need_besides(full_table):
    partial, full, annotated = full_table.strategies.values()
    assert len(partial.stubs) == len(annotated.stubs) == 11
    assert (full.stubs, full.stub_bytes) == ((), 0)
    assert partial.duplicated_table_bytes == full.duplicated_table_bytes == 0
    # The highest numbers are those of the packaged table; 8 bytes an entry.
    entries = full_table.table.entries
    last = max(entry.number for entry in entries if entry.abi != "x32")
    last_x32 = max(entry.number for entry in entries)
    assert annotated.duplicated_table_bytes == 8 * (last + 1 + last_x32 + 1)


def test_full_pays_for_the_six_registers_on_the_fast_path_only(full_table):
    partial, full, annotated = full_table.strategies.values()
    assert full.fast_path.cost.stores - partial.fast_path.cost.stores == 6
    assert full.fast_path.cost.loads - partial.fast_path.cost.loads >= 6
    for core, bound in full.fast_path.bounds.items():
        assert bound.cycles > partial.fast_path.bounds[core].cycles, core
    assert full.slow_path.cost.stores <= partial.slow_path.cost.stores
    assert annotated.slow_path.cost.instructions < partial.slow_path.cost.instructions
    assert full_table.six_registers.bounds["Sandy Bridge"].cycles == 6


def test_json_of_the_packaged_table(full_table):
    found = json.loads(json.dumps(comparison_json(full_table)))
    assert found["table"]["entries"] == len(full_table.table.entries)
    assert found["table"]["abis"] == ["64", "common", "x32"]
    assert set(found["table"]["annotated"]) >= {"fork", "vfork", "clone", "execve", "rt_sigreturn"}
    assert found["findings"] == []
    assert found["strategies"]["annotated"]["fast_path_identical_to"] == "partial"
    assert found["live"] == {"measured": False, "reason": "switched off by --no-live"}


# --- small tables ---


def test_the_same_seed_gives_the_same_bytes(small, toolchain):
    first = json.dumps(comparison_json(small))
    # However many processes there are, and whoever watches.
    told = []
    again = compare_text(SMALL, toolchain, processes=2, progress=lambda *step: told.append(step))
    assert json.dumps(comparison_json(again)) == first
    done = [step[1] for step in told]
    assert done == sorted(done)
    assert {step[2] for step in told} == {4}
    assert told[-1] == ("costing", 4, 4)


def test_another_seed_runs_other_scenarios_over_the_same_code(small, toolchain):
    other = compare_text(SMALL, toolchain, seed=2)
    for one, two in zip(small.strategies.values(), other.strategies.values(), strict=True):
        assert one.run.left_by != two.run.left_by
        assert one.fast_path == two.fast_path
    assert other.seed == 2
    assert not other.anything_wrong


def test_a_handful_of_entries(toolchain):
    found = compare_text("0 common read sys_read\n", toolchain)
    assert not found.anything_wrong
    assert all(report.annotated_path is None for report in found.strategies.values())
    assert all(report.stubs == () for report in found.strategies.values())
    assert found.strategies["annotated"].identity.identical


def test_no_annotations_at_all(toolchain):
    """Compare still runs, and finds by itself what lint finds in the table."""
    found = compare_text(SMALL.replace(":regs", ""), toolchain)
    assert [finding.name for finding in found.findings] == [
        "rt_sigreturn", "fork", "execve", "execve",
    ]  # fmt: skip
    partial, full, annotated = found.strategies.values()
    assert full.run.difference_count == 0
    assert {"slot bx (unwritten)", "slot r15 (unwritten)"} <= {
        difference.what for difference in partial.run.differences
    }
    assert partial.run.difference_count > 0
    assert annotated.run.difference_count > 0
    assert found.disagreements
    assert found.anything_wrong


@pytest.mark.parametrize("name", ["rt_sigreturn", "fork", "execve"])
def test_one_missing_annotation_breaks_that_call_only(toolchain, name):
    lines = [
        line.replace(":regs", "") if f"64 {name} " in line else line
        for line in SMALL.splitlines(keepends=True)
    ]
    found = compare_text("".join(lines), toolchain)
    for strategy in ("partial", "annotated"):
        run = found.strategies[strategy].run
        assert run.difference_count > 0
        # A tracer may send any other call to that one, so the call's own name says less.
        handlers = {each.where for each in run.differences if each.where.startswith("sys_")}
        assert handlers == {f"sys_{name}"}
    assert found.strategies["full"].run.difference_count == 0
    assert [finding.name for finding in found.findings] == [name]


def test_a_needless_annotation_is_said_and_breaks_nothing(toolchain):
    found = compare_text(SMALL.replace("sys_read", "sys_read:regs"), toolchain)
    assert [finding.severity for finding in found.findings] == ["warning"]
    assert found.differences == 0
    assert not found.anything_wrong
    assert found.strategies["annotated"].identity.identical


# --- measured ---


def test_measured_on_this_machine(toolchain):
    found = compare_text(SMALL, toolchain, live=True)
    if isinstance(found.live, LiveUnavailable):
        skip_or_fail(f"no live measurement here: {found.live.reason}")
    assert isinstance(found.live, LiveConditions)
    assert set(found.live.replacements) == set(STRATEGIES)
    for report in found.strategies.values():
        for path in (report.fast_path, report.slow_path, report.annotated_path):
            assert path.measured.median_cycles_tsc > 0
            assert path.measured.samples > 0
    # Structure, not a figure: machines are noisy.
    assert found.six_registers.measured.samples > 0
    assert found.six_registers.measured.verdict in ("difference resolved", "too noisy to tell")


def test_where_nothing_can_be_measured_the_rest_is_still_there(toolchain, monkeypatch):
    reason = LiveUnavailable("seccomp forbids it")
    monkeypatch.setattr(room, "measure_live", lambda *_arguments, **_more: reason)
    found = compare_text(SMALL, toolchain, live=True)
    assert found.live == reason
    assert found.six_registers.measured is None
    assert not found.anything_wrong


# --- refused ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "some.tbl: no 64-bit call among 0 entries; expected entries of ABI 64 or common"),
        ("11 i386 execve sys_execve:regs\n", "some.tbl: no 64-bit call among 1 entries"),
        ("512 x32 ioctl compat_sys_ioctl\n", "some.tbl: no 64-bit call among 1 entries"),
        ("0 64 uselib\n", "some.tbl: no 64-bit call among 1 entries"),
        (
            "59 64 execve sys_execve:regs\n",
            "some.tbl: no ordinary call: its 64-bit calls (1) all need the full register frame; "
            "expected at least one call that takes the fast path",
        ),
        (
            "0 64 read entry_SYSCALL_64\n",
            "some.tbl:1:11: entry point 'entry_SYSCALL_64' of read is a symbol of the entry code",
        ),
    ],
)
def test_tables_that_cannot_be_compared(text, message, toolchain, monkeypatch):
    monkeypatch.setattr(room, "in_processes", None)  # nothing is built
    with pytest.raises(FullframeError) as caught:
        compare_text(text, toolchain)
    assert message in str(caught.value)
    assert "next: " in str(caught.value)
    assert caught.value.exit_code == 3


def test_the_packaged_i386_table_is_refused(toolchain):
    with pytest.raises(InputError, match="64-bit entry code needs an x86-64 table"):
        compare(open_table("i386"), toolchain=toolchain)


def test_no_place_for_temporary_files(toolchain, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    with pytest.raises(InputError, match="no place for temporary files"):
        compare_text(SMALL, toolchain)


@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_is_left_behind(toolchain, monkeypatch, tmp_path, processes):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    compare_text(SMALL, toolchain, processes=processes)
    assert list(tmp_path.iterdir()) == []
    broken = replace(toolchain, compiler=("false",))
    with pytest.raises(FullframeError) as caught:
        compare_text(SMALL, broken, processes=processes)
    assert caught.value.exit_code == 3
    assert "false" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_toolchain_gives_the_same_fast_paths(small, kind):
    try:
        toolchain = find_toolchain(kind)
    except (ToolMissingError, UsageError) as error:
        skip_or_fail(str(error))
    found = compare_text(SMALL, toolchain)
    assert not found.anything_wrong
    for name, report in found.strategies.items():
        assert (
            report.fast_path.cost.instructions == small.strategies[name].fast_path.cost.instructions
        )
        assert Path(toolchain.compiler[0]).name
