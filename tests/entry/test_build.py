"""Generated code under each toolchain: no warnings, the same encodings, the same behaviour."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullframe.entry.build import BuiltEntry, build
from fullframe.entry.generate import ENTRY_FILE, STUBS_FILE, TABLES_FILE, generate
from fullframe.entry.identity import compare_fast_paths, compare_paths_of, relocated_fields
from fullframe.entry.strategy import ANNOTATED, FULL, PARTIAL, STRATEGIES
from fullframe.entry.verify import verify
from fullframe.errors import ToolMissingError
from fullframe.run.session import trace_paths
from fullframe.table import Table
from fullframe.toolchain.command import run_tool
from fullframe.toolchain.find import KINDS, Toolchain, find_tool, find_toolchain
from tests.entry.tables_for_tests import NATIVE, SMALL, table
from tests.support import skip_or_fail


def _toolchain(kind: str) -> Toolchain:
    try:
        return find_toolchain(kind)
    except ToolMissingError as error:
        skip_or_fail(f"toolchain {kind}: {error}")


@pytest.mark.parametrize("kind", KINDS)
def test_every_toolchain_builds_code_that_runs(kind: str, tmp_path: Path) -> None:
    verification = verify(table(SMALL), _toolchain(kind), tmp_path)
    assert verification.difference_count == 0
    for each in verification.strategies.values():
        assert each.report.entries_called == each.report.entries
    partial, annotated = (verification.strategies[name] for name in ("partial", "annotated"))
    assert compare_paths_of(partial, annotated).identical


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        SMALL,
        NATIVE,
        "0\tcommon\tread\tsys_read\n",
        "0\tcommon\tread\tsys_read\n127\t64\tlast\tsys_last:regs\n",
        "0\tcommon\tread\tsys_read\n128\t64\tlast\tsys_last:regs\n600\tx32\tx\tsys_x\n",
        "5\t64\tread\tsys_read\n9000\tx32\tx\tsys_x:regs\n",
    ],
)
def test_the_fast_paths_are_the_same_whatever_the_table(
    kind: str, text: str, tmp_path: Path
) -> None:
    """Branches to cold code must not be long in one strategy and short in the other."""
    toolchain = _toolchain(kind)
    partial, annotated = (
        build(strategy, table(text), toolchain, tmp_path / strategy.name)
        for strategy in (PARTIAL, ANNOTATED)
    )
    result = compare_fast_paths(
        trace_paths(partial.subject())[0].instructions,
        trace_paths(annotated.subject())[0].instructions,
        relocated_fields(partial),
        relocated_fields(annotated),
    )
    assert result.differences == ()


@pytest.mark.parametrize("tool", ["as", "llvm-mc"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_plain_assemblers_take_it_without_a_word(
    tool: str, name: str, linux_table: Table, tmp_path: Path
) -> None:
    """Neither compiler driver nor preprocessor: the assembly stands for itself."""
    try:
        program = find_tool(tool)
    except ToolMissingError as error:
        skip_or_fail(str(error))
    flags = ["--fatal-warnings"]
    if tool == "llvm-mc":
        flags += ["-filetype=obj", "-triple=x86_64-linux-gnu"]
    else:
        flags += ["--64", "--warn"]
    files = generate(STRATEGIES[name], linux_table).files
    for file in (ENTRY_FILE, STUBS_FILE, TABLES_FILE):
        if file in files:
            (tmp_path / file).write_text(files[file])
            completed = run_tool([program, *flags, file, "-o", "out.o"], cwd=tmp_path)
            assert completed.stdout + completed.stderr == ""


def test_the_fast_path_is_that_of_2015_and_no_more(builds: dict[str, BuiltEntry]) -> None:
    """On partial's fast path the callee-saved registers are not touched at all."""
    path = trace_paths(builds["partial"].subject())[0]
    code = builds["partial"].code.files[ENTRY_FILE]
    straight = code[code.index("entry_SYSCALL_64:") : code.index("sysretq")]
    assert not any(
        f"%{register}" in straight for register in ("rbx", "rbp", "r12", "r13", "r14", "r15")
    )
    assert straight.count("\tpushq\t") == 15
    assert len(path.instructions) == sum(
        line.startswith("\t") and line[1] not in ".*/ " and not line.startswith("\t *")
        for line in (straight + "sysretq").splitlines()
    )


def test_paths_differ_where_strategies_do(builds: dict[str, BuiltEntry]) -> None:
    partial, full = (trace_paths(builds[name].subject())[0] for name in ("partial", "full"))
    result = compare_fast_paths(partial.instructions, full.instructions, {}, {})
    assert not result.identical
    assert result.differences[0].first.startswith("sub $0x30,%rsp")
    assert result.differences[0].second.startswith("push %rbx")
    # Without knowledge of relocations only branches are masked.
    same = compare_fast_paths(partial.instructions, partial.instructions, {}, {})
    assert same.identical
    assert {field.reason for field in same.masked} == {"branch displacement"}
    shorter = compare_fast_paths(partial.instructions, partial.instructions[:-1], {}, {})
    assert [difference.second for difference in shorter.differences] == [""]


def test_sizes(builds: dict[str, BuiltEntry], linux_table: Table) -> None:
    last_64 = max(entry.number for entry in linux_table.entries_for("64"))
    last_x32 = max(entry.number for entry in linux_table.entries_for("x32"))
    assert builds["partial"].table_bytes == {
        "sys_call_table": 8 * (last_64 + 1),
        "x32_sys_call_table": 8 * (last_x32 + 1),
    }
    assert builds["partial"].duplicated_table_bytes == 0
    assert builds["annotated"].duplicated_table_bytes == 8 * (last_64 + last_x32 + 2)
    assert builds["full"].stubs == ()
    assert builds["full"].stub_bytes == 0
    assert len(builds["partial"].stubs) == len(builds["annotated"].stubs) > 0
    assert builds["partial"].stub_bytes > builds["annotated"].stub_bytes > 0


def test_tables_lead_where_they_should(builds: dict[str, BuiltEntry], linux_table: Table) -> None:
    """Read the linked tables back, number by number, and compare with the system-call table."""
    for name, built in builds.items():
        for abi, symbol in (("64", "sys_call_table"), ("x32", "x32_sys_call_table")):
            size = built.table_bytes[symbol]
            data = built.image.read(built.symbols[symbol], size)
            found = [int.from_bytes(data[at : at + 8], "little") for at in range(0, size, 8)]
            expected = [built.symbols["sys_ni_syscall"]] * len(found)
            for entry in linux_table.entries_for(abi):
                if entry.entry_point is None or "sys_ni_" in entry.entry_point:
                    continue
                stub = "stub_" if entry.spelling and name != FULL.name else ""
                expected[entry.number] = built.symbols[stub + entry.entry_point]
            assert found == expected
