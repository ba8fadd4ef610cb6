"""Build strategies for one table, run them all through the same scenarios, and compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fullframe.entry.build import BuiltEntry, build
from fullframe.entry.strategy import STRATEGIES, Strategy
from fullframe.run.result import Difference, ExecutedPath, RunReport, disagreements
from fullframe.run.session import DEFAULT_SEED, run_scenarios, scenarios_for, trace_paths
from fullframe.table.model import Table
from fullframe.toolchain.find import Toolchain


@dataclass(frozen=True, slots=True)
class VerifiedStrategy:
    """One strategy, built and run.

    Attributes:
        built: the linked code.
        report: what the harness found.
        paths: executed paths by label: ``fast``, ``slow``, and ``annotated`` if the table has
            an annotated call.
    """

    built: BuiltEntry
    report: RunReport
    paths: dict[str, ExecutedPath]


@dataclass(frozen=True, slots=True)
class Verification:
    """All strategies under the same scenarios.

    Attributes:
        strategies: by name.
        seed: of the scenarios.
        scenarios: how many there are.
        disagreements: scenarios that ended differently under different strategies.
    """

    strategies: dict[str, VerifiedStrategy]
    seed: int
    scenarios: int
    disagreements: tuple[Difference, ...]

    @property
    def calls(self) -> int:
        """How many system calls were executed, over all strategies."""
        return sum(each.report.calls for each in self.strategies.values())

    @property
    def difference_count(self) -> int:
        """How many differences were found, disagreements included."""
        found = sum(each.report.difference_count for each in self.strategies.values())
        return found + len(self.disagreements)


def verify(
    table: Table,
    toolchain: Toolchain,
    directory: Path,
    *,
    strategies: Sequence[Strategy] = tuple(STRATEGIES.values()),
    seed: int = DEFAULT_SEED,
    rounds: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Verification:
    """Build and run strategies.

    Args:
        table: the system-call table.
        toolchain: what to build with.
        directory: each strategy gets a directory of its own in it.
        strategies: which.
        seed: of the scenarios: the same seed gives the same run.
        rounds: how often each call is made in each circumstance.
        progress: called with strategy, scenarios in all, calls run so far.

    Raises:
        InputError: the table has no 64-bit call, or the directory cannot be written.
        InputErrors: entry points that cannot be symbols.
        ToolFailedError: the toolchain refused generated code.
        UsageError: the table has no ordinary call.
    """
    verified: dict[str, VerifiedStrategy] = {}
    scenarios = None
    for strategy in strategies:
        built = build(strategy, table, toolchain, directory / strategy.name)
        subject = built.subject()
        if scenarios is None:
            # Drawn once: the calls are those of the table, whatever the strategy.
            scenarios = scenarios_for(subject, seed, rounds)
        step = None if progress is None else partial(progress, strategy.name, len(scenarios))
        report = run_scenarios(subject, scenarios, progress=step)
        paths = {path.label: path for path in trace_paths(subject)}
        verified[strategy.name] = VerifiedStrategy(built, report, paths)
    drawn = scenarios or ()
    reports = [each.report for each in verified.values()]
    return Verification(verified, seed, len(drawn), disagreements(reports, drawn))
