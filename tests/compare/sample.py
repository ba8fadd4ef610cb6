"""A comparison made by hand, every figure different, so that no output can mix two up."""

from __future__ import annotations

from dataclasses import replace

from fullframe.compare.results import (
    Comparison,
    LiveConditions,
    PathReport,
    SixRegisters,
    StrategyReport,
)
from fullframe.cost.bounds import bound, demand, microarchitectures, undercounted
from fullframe.cost.mca import McaFigure
from fullframe.cost.path import path_cost, straight
from fullframe.cost.replace import Replacement
from fullframe.cost.sequences import six_registers
from fullframe.cost.statistics import RESOLVED, LiveDifference, LiveMeasurement
from fullframe.entry.identity import IdentityResult, MaskedField, PathDifference
from fullframe.entry.prove.result import EntryProof, ProofReport
from fullframe.entry.strategy import ANNOTATED, FULL, PARTIAL, Strategy
from fullframe.run.result import Difference, RunReport
from fullframe.table import lint_table, parse_table
from fullframe.x86.ptregs import CALLEE_SAVED_SLOTS, SLOTS

TABLE = """\
0 common read sys_read
59 64 execve sys_execve:regs
520 x32 execve compat_sys_execve:regs
"""
PARTIAL_SLOTS = tuple(slot for slot in SLOTS if slot not in CALLEE_SAVED_SLOTS)
SWAPGS = bytes.fromhex("0f01f8")
PUSH_RAX = b"\x50"
POP_RAX = b"\x58"


def path(pushes: int, pops: int, call: str, slots: tuple[str, ...] | None) -> PathReport:
    """A path that anybody can count."""
    code = SWAPGS + PUSH_RAX * pushes + POP_RAX * pops
    executed = tuple(straight(code, 0x1000))
    cores = microarchitectures().values()
    return PathReport(
        call=call,
        path=executed,
        cost=path_cost(executed),
        slots_written=slots,
        bounds={core.name: bound(demand(executed, core), core) for core in cores},
        undercounted=undercounted(executed),
        mca={core.name: McaFigure(None, "does not apply", core.mca) for core in cores},
        measured=LiveMeasurement(10.0 + pushes, 1.0 + pops / 10, 800, {0: 9.5, 16: 10.5}),
    )


def strategy(
    which: Strategy, base: int, identity: IdentityResult | None, stubs: int
) -> StrategyReport:
    slots = SLOTS if which.saves_all_on_entry else PARTIAL_SLOTS
    tables = {"sys_call_table": 480, "x32_sys_call_table": 4168}
    slow = {f"{name}_slow": size for name, size in tables.items()}
    return StrategyReport(
        strategy=which,
        fast_path=path(base, base + 1, "read", slots),
        slow_path=path(base + 20, base + 22, "read", SLOTS),
        annotated_path=path(base + 40, base + 43, "execve", None),
        identity=identity,
        stubs=tuple(f"stub_{index}" for index in range(stubs)),
        stub_bytes=stubs * 17,
        table_bytes=tables | (slow if which.duplicates_tables else {}),
        duplicated_table_bytes=sum(slow.values()) if which.duplicates_tables else 0,
        run=RunReport(
            subject=which.name,
            calls=3000 + base,
            children=7,
            entries_called=4,
            entries=4,
            left_by={"iret": 1000 + base, "sysret": 2000},
            differences=(),
            difference_count=0,
            differences_by_call={},
            slots_written_fast=slots,
            slots_written_slow=SLOTS,
            outcomes=(),
        ),
        proof=ProofReport(
            image=f"{which.name}.elf",
            contract=which.name,
            entries=(EntryProof("entry_SYSCALL_64", "SYSCALL", 100, 3, (), ()),),
            absent=(),
            findings=(),
            not_proved=(),
        ),
    )


MASKED = MaskedField(4, 2, 4, "branch displacement", "jne 0x1234", b"\1\2\3\4", b"\5\6\7\x08")
IDENTICAL = IdentityResult(32, 34, (MASKED,), ())
OTHER = IdentityResult(32, 34, (MASKED,), (PathDifference(6, "push %rax (50)", "pop %rax (58)"),))


def comparison() -> Comparison:
    table = parse_table(TABLE.encode(), "sample.tbl")
    cores = microarchitectures().values()
    six = six_registers("mov")
    return Comparison(
        table=table,
        findings=tuple(lint_table(table)),
        toolchain="gnu: gcc 1.2, ld 3.4",
        seed=5,
        strategies={
            "partial": strategy(PARTIAL, 15, None, 2),
            "full": strategy(FULL, 21, OTHER, 0),
            "annotated": strategy(ANNOTATED, 15, IDENTICAL, 3),
        },
        disagreements=(),
        six_registers=SixRegisters(
            bounds={core.name: bound(demand(six, core), core) for core in cores},
            mca={core.name: McaFigure(6.04, "", core.mca, "llvm-mca") for core in cores},
            measured=LiveDifference(7.5, 2.5, 200, {0: 7.0, 16: 8.0}, RESOLVED),
        ),
        live=LiveConditions(
            cpu="Sample CPU",
            core_cycles_per_tsc_cycle=1.25,
            loop=LiveMeasurement(5.5, 0.25, 800, {0: 5.5, 16: 5.5}),
            replacements={
                name: (Replacement(0x1000, "swapgs", "nopl (%rax)"),)
                for name in ("partial", "full", "annotated")
            },
        ),
    )


def with_difference(sample: Comparison) -> Comparison:
    """The same with one call that finds an unwritten slot, under one strategy."""
    found = Difference(
        "FF-R003", "partial", 17, "plain", 59, "execve/64", "sys_execve", "slot bx (unwritten)",
        "0x1", "0x2",
    )  # fmt: skip
    partial = sample.strategies["partial"]
    run = replace(partial.run, differences=(found, found), difference_count=29)
    run = replace(run, differences_by_call={"execve/64": 29})
    unlike = replace(found, code="FF-R010", subject="full", where="user mode", what="outcome")
    return replace(
        sample,
        strategies=dict(sample.strategies) | {"partial": replace(partial, run=run)},
        disagreements=(unlike,),
    )
