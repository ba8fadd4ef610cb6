"""Compare the strategies on one system-call table."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from fullframe.compare.examine import Examined, Job, examine, six_registers_variant
from fullframe.compare.results import (
    Comparison,
    LiveConditions,
    PathReport,
    SixRegisters,
    StrategyReport,
)
from fullframe.compare.workers import in_processes
from fullframe.cost.bounds import bound, demand, microarchitectures, undercounted
from fullframe.cost.live import LiveCall, LiveReport, LiveUnavailable, measure_live
from fullframe.cost.mca import mca_figure
from fullframe.cost.path import path_cost
from fullframe.cost.sequences import six_registers
from fullframe.entry.identity import compare_paths_of
from fullframe.entry.platform import HARNESS_PLATFORM
from fullframe.entry.prove.result import ProofReport
from fullframe.entry.strategy import PARTIAL, STRATEGIES, Strategy
from fullframe.entry.tables import dispatch_tables
from fullframe.entry.verify import VerifiedStrategy
from fullframe.errors import InputError, Place
from fullframe.run.result import ExecutedPath, disagreements
from fullframe.run.session import DEFAULT_SEED, scenarios_for
from fullframe.run.subject import Call, CallKind
from fullframe.table.lint import lint_table
from fullframe.table.model import Table
from fullframe.toolchain.find import Toolchain, find_toolchain

#: What the others are compared with.
BASELINE = PARTIAL
#: Labels of the executed paths, with the names that the measurement knows them by.
_FAST, _SLOW, _ANNOTATED = "fast", "slow", "annotated"

#: Called with what is being done, how many steps are done, and how many there are.
Progress = Callable[[str, int, int], None]


def compare(
    table: Table,
    *,
    toolchain: Toolchain | None = None,
    seed: int = DEFAULT_SEED,
    live: bool = True,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Generate, build, run and cost the entry code of every strategy for one table.

    Args:
        table: a table with 64-bit calls.
        toolchain: what to build with; None: the first that is found.
        seed: of the scenarios; the same seed gives the same result, measurements apart.
        live: whether to measure on this machine.
        processes: how many strategies to examine at a time; None: as many as there are
            processors. The measurement always runs by itself.
        progress: told what is being done.

    Returns:
        Everything that was found.

    Raises:
        InputError: the table has no 64-bit call, or none that is ordinary; or there is no place
            for temporary files.
        InputErrors: entry points that cannot be symbols.
        ToolMissingError: there is no toolchain.
        ToolFailedError: the toolchain refused generated code.
    """
    check_comparable(table)
    steps = _Steps(progress, len(STRATEGIES) + 1 + live)
    chosen = find_toolchain() if toolchain is None else toolchain
    with _work_directory() as directory:
        jobs = [
            Job(strategy, table, chosen, Path(directory), seed, live and strategy == BASELINE)
            for strategy in STRATEGIES.values()
        ]
        examined = _examine_all(jobs, processes, steps)
        measured: LiveReport | LiveUnavailable = LiveUnavailable("switched off by --no-live")
        if live:
            steps.begin("measuring on this machine")
            measured = _measure(examined, chosen)
            steps.done()
        steps.begin("costing")
        verified = {name: one.verified for name, one in examined.items()}
        baseline = verified[BASELINE.name]
        reports = {
            name: _strategy_report(one, examined[name].proof, baseline, measured)
            for name, one in verified.items()
        }
        scenarios = scenarios_for(baseline.built.subject(), seed)
        steps.done()
    return Comparison(
        table=table,
        findings=tuple(lint_table(table)),
        toolchain=str(chosen),
        seed=seed,
        strategies=reports,
        disagreements=disagreements([one.report for one in verified.values()], scenarios),
        six_registers=_six_registers(measured),
        live=_conditions(measured),
    )


def check_comparable(table: Table) -> None:
    """Refuse a table that cannot be compared, before anything is built.

    Args:
        table: any table.

    Raises:
        InputError: it has no 64-bit call, or none that is ordinary.
        InputErrors: entry points that cannot be symbols.
    """
    calls = dispatch_tables(table).calls(HARNESS_PLATFORM.layout)
    if not any(_is_ordinary(call) for call in calls):
        raise InputError(
            Place(table.path),
            f"no ordinary call: its 64-bit calls ({len(calls)}) all need the full register frame",
            "at least one call that takes the fast path",
            "add calls that need no annotation, such as getppid",
        )


class _Steps:
    """Counts steps for whoever watches."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._doing = ""

    def begin(self, doing: str) -> None:
        self._doing = doing
        self._tell()

    def done(self) -> None:
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._doing, self._done, self._total)


#: How often a directory is removed that something is still written to, and how long apart.
_MOST_REMOVALS: Final = 40
_REMOVAL_SECONDS: Final = 0.05


@contextmanager
def _work_directory() -> Iterator[str]:
    try:
        name = tempfile.mkdtemp(prefix="fullframe-")
    except OSError as error:
        raise InputError(
            Place(os.environ.get("TMPDIR", "/tmp")),
            f"no place for temporary files: {error.strerror or error}",
            "a directory that can be written to",
            "set TMPDIR to one",
        ) from error
    try:
        yield name
    finally:
        # After an interrupt, what a worker has run may write on for a moment.
        for _ in range(_MOST_REMOVALS):
            shutil.rmtree(name, ignore_errors=True)
            if not Path(name).exists():
                break
            time.sleep(_REMOVAL_SECONDS)


def _examine_all(jobs: Sequence[Job], processes: int | None, steps: _Steps) -> dict[str, Examined]:
    """Examine the strategies, several at a time where there are processors for it."""
    names = [job.strategy.name for job in jobs]
    steps.begin(f"building and running {', '.join(names)}")
    available = len(os.sched_getaffinity(0)) if processes is None else processes
    return dict(zip(names, in_processes(examine, jobs, available, steps.done), strict=True))


def _measure(
    examined: Mapping[str, Examined], toolchain: Toolchain
) -> LiveReport | LiveUnavailable:
    """Measure every variant on every path, with nothing else running."""
    baseline = examined[BASELINE.name].verified
    layout = baseline.built.code.platform.layout
    trace = 1 << layout.syscall_trace_bit
    calls = [
        LiveCall(label, path.number, trace if label == _SLOW else 0)
        for label, path in baseline.paths.items()
    ]
    variants = [variant for one in examined.values() for variant in one.variants]
    return measure_live(variants, calls, toolchain, layout=layout)


def _is_ordinary(call: Call) -> bool:
    return call.kind is CallKind.ORDINARY and not call.annotated and call.handler is not None


def _strategy_report(
    one: VerifiedStrategy,
    proof: ProofReport,
    baseline: VerifiedStrategy,
    measured: LiveReport | LiveUnavailable,
) -> StrategyReport:
    strategy = one.built.strategy
    slots = {_FAST: one.report.slots_written_fast, _SLOW: one.report.slots_written_slow}
    paths = {
        label: _path_report(strategy, label, path, slots.get(label), measured)
        for label, path in one.paths.items()
    }
    identity = None if one is baseline else compare_paths_of(baseline, one)
    return StrategyReport(
        strategy=strategy,
        fast_path=paths[_FAST],
        slow_path=paths[_SLOW],
        annotated_path=paths.get(_ANNOTATED),
        identity=identity,
        stubs=one.built.stubs,
        stub_bytes=one.built.stub_bytes,
        table_bytes=one.built.table_bytes,
        duplicated_table_bytes=one.built.duplicated_table_bytes,
        run=replace(one.report, outcomes=()),
        proof=proof,
    )


def _path_report(
    strategy: Strategy,
    label: str,
    executed: ExecutedPath,
    slots_written: tuple[str, ...] | None,
    measured: LiveReport | LiveUnavailable,
) -> PathReport:
    path = executed.instructions
    cores = microarchitectures().values()
    return PathReport(
        call=executed.name,
        path=path,
        cost=path_cost(path),
        slots_written=slots_written,
        bounds={core.name: bound(demand(path, core), core) for core in cores},
        undercounted=undercounted(path),
        mca={core.name: mca_figure(path, core) for core in cores},
        measured=(
            measured.measured(strategy.name, label) if isinstance(measured, LiveReport) else None
        ),
    )


def _six_registers(measured: LiveReport | LiveUnavailable) -> SixRegisters:
    cores = microarchitectures().values()
    # As stores and loads: pushes and pops need the same of every core, and llvm-mca models none.
    path = six_registers("mov")
    difference = None
    if isinstance(measured, LiveReport):
        longer = six_registers_variant(BASELINE.name)
        difference = measured.difference(_FAST, longer, BASELINE.name)
    return SixRegisters(
        bounds={core.name: bound(demand(path, core), core) for core in cores},
        mca={core.name: mca_figure(path, core) for core in cores},
        measured=difference,
    )


def _conditions(measured: LiveReport | LiveUnavailable) -> LiveConditions | LiveUnavailable:
    if isinstance(measured, LiveUnavailable):
        return measured
    return LiveConditions(
        cpu=measured.cpu,
        core_cycles_per_tsc_cycle=measured.core_cycles_per_tsc_cycle,
        loop=measured.loop,
        replacements={
            name: items for name, items in measured.replacements.items() if name in STRATEGIES
        },
    )
