"""The packaged Linux table under every strategy, and what a missing annotation does."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullframe.entry.build import BuiltEntry, build
from fullframe.entry.strategy import ANNOTATED, FULL, PARTIAL, STRATEGIES
from fullframe.run.diagnostics import (
    UNWRITTEN_SLOT,
    WRONG_MODE,
    WRONG_REGISTER,
    WRONG_WAY_OUT,
)
from fullframe.run.image import load_image
from fullframe.run.result import RunReport, disagreements
from fullframe.run.session import run_scenarios, scenarios_for, trace_paths
from fullframe.table import Table
from fullframe.toolchain.find import Toolchain
from fullframe.x86.ptregs import CALLEE_SAVED_SLOTS, SLOTS
from tests.entry.mutants import TextMutant, run_text_mutant, sufficient_scenarios
from tests.entry.tables_for_tests import SMALL, table


def test_linux_table_under_every_strategy(builds: dict[str, BuiltEntry]) -> None:
    scenarios = scenarios_for(builds["partial"].subject(), seed=1)
    reports = [run_scenarios(built.subject(), scenarios) for built in builds.values()]
    for report in reports:
        assert [str(difference) for difference in report.differences] == []
        assert report.difference_count == 0
        assert report.entries_called == report.entries
        assert report.children > 100
        # Both ways out, often.
        assert min(report.left_by.values()) > 1000
        assert set(report.left_by) == {"sysret", "iret"}
    assert disagreements(reports, scenarios) == ()
    assert sum(report.calls for report in reports) >= 10_000


def test_slots_written(builds: dict[str, BuiltEntry]) -> None:
    for name, built in builds.items():
        report = run_scenarios(built.subject(), ())
        written = SLOTS if name == "full" else SLOTS[len(CALLEE_SAVED_SLOTS) :]
        assert report.slots_written_fast == written
        assert report.slots_written_slow == SLOTS


def test_a_seed_gives_the_same_run(builds: dict[str, BuiltEntry]) -> None:
    subject = builds["full"].subject()
    five = scenarios_for(subject, seed=5)
    assert five == scenarios_for(subject, seed=5)
    assert five != scenarios_for(subject, seed=6)
    some = five[:50]
    assert run_scenarios(subject, some).outcomes == run_scenarios(subject, some).outcomes


def test_paths(builds: dict[str, BuiltEntry]) -> None:
    for name, built in builds.items():
        paths = {path.label: path for path in trace_paths(built.subject())}
        assert set(paths) == {"fast", "slow", "annotated"}
        entry = built.symbols["entry_SYSCALL_64"]
        for path in paths.values():
            assert path.instructions[0].address == entry
            assert path.instructions[0].encoding == bytes.fromhex("0f01f8")  # swapgs
            assert path.instructions[-1].encoding == bytes.fromhex("480f07")  # sysretq
            for one in path.instructions:
                assert built.image.read(one.address, len(one.encoding)) == one.encoding
        lengths = {label: len(path.instructions) for label, path in paths.items()}
        assert lengths["fast"] < lengths["slow"]
        if name != "full":
            assert lengths["fast"] < lengths["annotated"]


def _without_annotation(small: str, name: str) -> Table:
    lines = [
        line.replace(":regs", "") if f"\t{name}\t" in line else line
        for line in small.splitlines(keepends=True)
    ]
    return table("".join(lines))


@pytest.mark.parametrize("strategy", [PARTIAL, ANNOTATED], ids=lambda strategy: strategy.name)
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("fork", UNWRITTEN_SLOT),
        ("execve", UNWRITTEN_SLOT),
        ("rt_sigreturn", UNWRITTEN_SLOT),
        ("iopl", WRONG_REGISTER),
    ],
)
def test_a_missing_annotation_is_found(
    strategy: object, name: str, code: str, toolchain: Toolchain, tmp_path: Path
) -> None:
    broken = _without_annotation(SMALL, name)
    assert len(broken.annotated) < len(table(SMALL).annotated)
    built = build(strategy, broken, toolchain, tmp_path)  # type: ignore[arg-type]
    report = run_scenarios(built.subject(), scenarios_for(built.subject()))
    found = {(difference.code, difference.name.split("/")[0]) for difference in report.differences}
    assert (code, name) in found


def test_full_needs_no_annotations(toolchain: Toolchain, tmp_path: Path) -> None:
    bare = table(SMALL.replace(":regs", ""))
    assert bare.annotated == ()
    built = build(FULL, bare, toolchain, tmp_path)
    assert run_scenarios(built.subject(), scenarios_for(built.subject())).difference_count == 0


def _change(built: BuiltEntry, file: str, old: str, new: str) -> RunReport:
    text = built.code.files[file]
    assert text.count(old) >= 1
    mutant = TextMutant(file, 0, old, text.replace(old, new))
    return run_text_mutant(built, mutant, sufficient_scenarios(built))


def _codes(report: RunReport) -> set[str]:
    return {difference.code for difference in report.differences}


def test_c_code_that_reads_an_unwritten_slot_is_found(builds: dict[str, BuiltEntry]) -> None:
    report = _change(
        builds["partial"],
        "slow_path.c",
        "unsigned int work = thread_flags();\n\n\t/* The filter",
        "unsigned int work = thread_flags();\n\n"
        '\tasm volatile("" : : "r"(regs->r13));\n\t/* The filter',
    )
    assert UNWRITTEN_SLOT in _codes(report)
    assert "r13" in report.differences[0].what


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "code"),
    [
        # The slow path would start with interrupts on.
        ("annotated", "stubs_64.s", "\tcli\n", "", WRONG_MODE),
        ("full", "entry_64.s", "\tsti\n", "", WRONG_MODE),
        ("partial", "entry_64.s", "\tswapgs\n\tiretq", "\tiretq", WRONG_MODE),
        # Each condition of SYSRET, always fulfilled.
        ("full", "entry_64.s", "cmpq\t%rcx, %r11", "cmpq\t%rcx, %rcx", WRONG_WAY_OUT),
        ("full", "entry_64.s", "cmpq\t$USER_CS, PT_CS", "testq\t$0, PT_CS", WRONG_WAY_OUT),
        ("full", "entry_64.s", "cmpq\t%r11, PT_FLAGS", "testq\t$0, PT_FLAGS", WRONG_WAY_OUT),
        ("full", "entry_64.s", "(FLAGS_TF | FLAGS_RF)", "FLAGS_TF", WRONG_WAY_OUT),
        ("full", "entry_64.s", "(FLAGS_TF | FLAGS_RF)", "FLAGS_RF", WRONG_WAY_OUT),
        ("full", "entry_64.s", "cmpq\t$USER_SS, PT_SS", "testq\t$0, PT_SS", WRONG_WAY_OUT),
        # Canonical with five-level paging only.
        (
            "full", "entry_64.s", ".set\tNON_CANONICAL_BITS, 16", ".set\tNON_CANONICAL_BITS, 7",
            WRONG_WAY_OUT,
        ),
        # Only the lower half of the number counts.
        (
            "annotated", "entry_64.s", "cmpq\t$NR_64_LAST, %rax",
            "movl\t%eax, %eax\n\tcmpq\t$NR_64_LAST, %rax", "FF-R004",
        ),
    ],
)  # fmt: skip
def test_what_breaks_is_named(
    builds: dict[str, BuiltEntry], name: str, file: str, old: str, new: str, code: str
) -> None:
    # First differences only: others follow from it.
    assert code in _codes(_change(builds[name], file, old, new))


def test_an_endless_loop_ends(builds: dict[str, BuiltEntry]) -> None:
    report = _change(
        builds["full"], "entry_64.s", "\tswapgs\n\tmovq\t%rsp", "1:\tjmp 1b\n\tmovq\t%rsp"
    )
    assert _codes(report) == {"FF-R009"}


def test_every_strategy_has_a_build(builds: dict[str, BuiltEntry]) -> None:
    assert set(builds) == set(STRATEGIES)
    for built in builds.values():
        assert load_image(built.image_path) == built.image
