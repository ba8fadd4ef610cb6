"""What the comparison of one table under every strategy found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fullframe.cost.bounds import Bound
from fullframe.cost.live import LiveUnavailable
from fullframe.cost.mca import McaFigure
from fullframe.cost.path import PathCost
from fullframe.cost.replace import Replacement
from fullframe.cost.statistics import LiveDifference, LiveMeasurement
from fullframe.entry.identity import IdentityResult
from fullframe.entry.prove.result import ProofReport
from fullframe.entry.strategy import Strategy
from fullframe.run.result import Difference, RunReport
from fullframe.table.lint import Finding
from fullframe.table.model import Table
from fullframe.x86.trace import TracedInstruction


@dataclass(frozen=True, slots=True)
class PathReport:
    """One path through a strategy's entry code, from its first instruction to SYSRET or IRET.

    Attributes:
        call: name of the call that takes it.
        path: the executed instructions; C code of the strategy's own is among them, the kernel's
            C functions, which are stand-ins, are not.
        cost: counts over the path.
        slots_written: slots of ``struct pt_regs`` that hold something written when the C handler
            is reached, by name, lowest address first; None where no handler is looked at.
        bounds: lower bound in core cycles, by microarchitecture.
        undercounted: the instructions that cost more than the bound counts for them.
        mca: llvm-mca's figure, or why there is none, by microarchitecture.
        measured: what it took on this machine; None if that was not measured.
    """

    call: str
    path: tuple[TracedInstruction, ...]
    cost: PathCost
    slots_written: tuple[str, ...] | None
    bounds: Mapping[str, Bound]
    undercounted: tuple[str, ...]
    mca: Mapping[str, McaFigure]
    measured: LiveMeasurement | None


@dataclass(frozen=True, slots=True)
class StrategyReport:
    """One strategy.

    Attributes:
        strategy: which.
        fast_path: of an ordinary call.
        slow_path: of the same call under a tracer.
        annotated_path: of an annotated call that nobody traces; None if the table has none.
        identity: how the fast path compares with the baseline's; None for the baseline itself.
        stubs: symbols of the stubs.
        stub_bytes: their size.
        table_bytes: size of each dispatch table by its symbol.
        duplicated_table_bytes: size of those that the strategy has on top of one an ABI.
        run: what the harness found.
        proof: what the prover says of the frame at every C call and way out.
    """

    strategy: Strategy
    fast_path: PathReport
    slow_path: PathReport
    annotated_path: PathReport | None
    identity: IdentityResult | None
    stubs: tuple[str, ...]
    stub_bytes: int
    table_bytes: Mapping[str, int]
    duplicated_table_bytes: int
    run: RunReport
    proof: ProofReport


@dataclass(frozen=True, slots=True)
class LiveConditions:
    """Under which conditions the live measurement was made.

    Attributes:
        cpu: the processor's own name.
        core_cycles_per_tsc_cycle: how much faster the core ran than the time-stamp counter.
        loop: what the measuring loop takes with no entry code in it; part of every figure.
        replacements: strategy to the privileged instructions that were replaced in its code.
    """

    cpu: str
    core_cycles_per_tsc_cycle: float
    loop: LiveMeasurement
    replacements: Mapping[str, tuple[Replacement, ...]]


@dataclass(frozen=True, slots=True)
class SixRegisters:
    """What saving and loading bx, bp and r12 to r15 costs, by itself.

    Attributes:
        bounds: lower bound in core cycles of the twelve instructions, by microarchitecture.
        mca: llvm-mca's figure for them as stores and loads, by microarchitecture.
        measured: the baseline's fast path with the six saved and loaded beside the same without;
            None if that was not measured.
    """

    bounds: Mapping[str, Bound]
    mca: Mapping[str, McaFigure]
    measured: LiveDifference | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One table under every strategy.

    Attributes:
        table: the table.
        findings: what lint found in it.
        toolchain: what built the code, with versions.
        seed: of the scenarios.
        strategies: by name, the baseline first.
        disagreements: scenarios that did not end alike under all strategies.
        six_registers: the difference that the proposal argues about.
        live: the conditions of the live measurement, or why there was none.
    """

    table: Table
    findings: tuple[Finding, ...]
    toolchain: str
    seed: int
    strategies: Mapping[str, StrategyReport]
    disagreements: tuple[Difference, ...]
    six_registers: SixRegisters
    live: LiveConditions | LiveUnavailable

    @property
    def calls(self) -> int:
        """System calls executed, over all strategies."""
        return sum(report.run.calls for report in self.strategies.values())

    @property
    def differences(self) -> int:
        """Differences from the specification and between strategies, over all strategies."""
        found = sum(report.run.difference_count for report in self.strategies.values())
        return found + len(self.disagreements)

    @property
    def anything_wrong(self) -> bool:
        """Whether something is not as it must be: the exit code is then 1."""
        return (
            self.differences > 0
            or any(finding.severity == "error" for finding in self.findings)
            or any(not _as_meant(report) for report in self.strategies.values())
            or any(not report.proof.proved for report in self.strategies.values())
        )


def _as_meant(report: StrategyReport) -> bool:
    """Tell whether a strategy that is to have the baseline's fast path has it."""
    if report.identity is None or report.strategy.saves_all_on_entry:
        return True
    return report.identity.identical
