"""The JSON object of ``fullframe compare --json``; ``docs/json.md`` says what each key is."""

from __future__ import annotations

import dataclasses
from typing import Any

from fullframe.compare.results import Comparison, LiveConditions, PathReport, StrategyReport
from fullframe.cost.statistics import LiveMeasurement
from fullframe.entry.identity import IdentityResult
from fullframe.report.tables import findings_json
from fullframe.run.result import RunReport
from fullframe.x86.ptregs import SLOTS

#: The version of the object. Keys are added without a new one; it changes when one goes, or
#: changes its meaning.
SCHEMA = 1


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Make the object, of JSON's own types only."""
    table = comparison.table
    annotated = (entry.name for entry in table.annotated)
    return {
        "schema": SCHEMA,
        "table": {
            "path": table.path,
            "entries": len(table.entries),
            "abis": list(table.abis),
            "annotated": list(dict.fromkeys(annotated)),
        },
        "findings": findings_json(comparison.findings)["findings"],
        "toolchain": comparison.toolchain,
        "seed": comparison.seed,
        "calls": comparison.calls,
        "differences": comparison.differences,
        "strategies": {
            name: _strategy(report, comparison) for name, report in comparison.strategies.items()
        },
        "disagreements": [dataclasses.asdict(each) for each in comparison.disagreements],
        "six_registers": _six_registers(comparison),
        "live": _live(comparison),
    }


def _strategy(report: StrategyReport, comparison: Comparison) -> dict[str, Any]:
    baseline = next(iter(comparison.strategies))
    identical = report.identity is not None and report.identity.identical
    return {
        "summary": report.strategy.summary,
        "fast_path": _path(report.fast_path),
        "slow_path": _path(report.slow_path),
        "annotated_path": None if report.annotated_path is None else _path(report.annotated_path),
        "fast_path_identical_to": baseline if identical else None,
        "identity": None if report.identity is None else _identity(report.identity, baseline),
        "stubs": len(report.stubs),
        "stub_names": list(report.stubs),
        "stub_bytes": report.stub_bytes,
        "table_bytes": dict(report.table_bytes),
        "duplicated_table_bytes": report.duplicated_table_bytes,
        "run": _run(report.run),
        "proved": report.proof.proved,
        "proof": {
            "ways_in": len(report.proof.entries),
            "calls": report.proof.call_count,
            "ways_out": report.proof.way_out_count,
            "findings": len(report.proof.findings),
            "not_proved": len(report.proof.not_proved),
        },
    }


def _path(path: PathReport) -> dict[str, Any]:
    written = path.slots_written
    return {
        "call": path.call,
        "instructions": path.cost.instructions,
        "bytes": path.cost.bytes,
        "stores": path.cost.stores,
        "loads": path.cost.loads,
        "slots_written": None if written is None else len(written),
        "slots_unwritten": None if written is None else [s for s in SLOTS if s not in written],
        "cycles_bound": {core: bound.cycles for core, bound in path.bounds.items()},
        "bounds": {core: dataclasses.asdict(bound) for core, bound in path.bounds.items()},
        "undercounted": list(path.undercounted),
        "mca": {core: dataclasses.asdict(figure) for core, figure in path.mca.items()},
        "cycles_measured": None if path.measured is None else _measured(path.measured),
        "path": [
            {"address": each.address, "encoding": each.encoding.hex(" ")} for each in path.path
        ],
    }


def _measured(measured: LiveMeasurement) -> dict[str, Any]:
    return {
        "median": measured.median_cycles_tsc,
        "spread": measured.spread_cycles_tsc,
        "samples": measured.samples,
        "by_alignment": {str(key): value for key, value in measured.by_alignment.items()},
    }


def _identity(identity: IdentityResult, baseline: str) -> dict[str, Any]:
    return {
        "compared_with": baseline,
        "identical": identity.identical,
        "instructions": identity.instructions,
        "bytes": identity.encoded_bytes,
        "masked": [
            dataclasses.asdict(field)
            | {"first": field.first.hex(" "), "second": field.second.hex(" ")}
            for field in identity.masked
        ],
        "differences": [dataclasses.asdict(each) for each in identity.differences],
    }


def _run(run: RunReport) -> dict[str, Any]:
    return {
        "calls": run.calls,
        "children": run.children,
        "entries": run.entries,
        "entries_called": run.entries_called,
        "left_by": dict(run.left_by),
        "differences": run.difference_count,
        "differences_by_call": dict(run.differences_by_call),
        "differences_found": [dataclasses.asdict(each) for each in run.differences],
    }


def _six_registers(comparison: Comparison) -> dict[str, Any]:
    six = comparison.six_registers
    measured = six.measured
    return {
        "cycles_measured": None if measured is None else measured.median_cycles_tsc,
        "spread": None if measured is None else measured.spread_cycles_tsc,
        "verdict": None if measured is None else measured.verdict,
        "samples": None if measured is None else measured.samples,
        "by_alignment": (
            None
            if measured is None
            else {str(key): value for key, value in measured.by_alignment.items()}
        ),
        "cycles_bound": {core: bound.cycles for core, bound in six.bounds.items()},
        "bounds": {core: dataclasses.asdict(bound) for core, bound in six.bounds.items()},
        "mca": {core: dataclasses.asdict(figure) for core, figure in six.mca.items()},
    }


def _live(comparison: Comparison) -> dict[str, Any]:
    live = comparison.live
    if not isinstance(live, LiveConditions):
        return {"measured": False, "reason": live.reason}
    return {
        "measured": True,
        "reason": None,
        "cpu": live.cpu,
        "core_cycles_per_tsc_cycle": live.core_cycles_per_tsc_cycle,
        "loop": _measured(live.loop),
        "replacements": {
            name: [dataclasses.asdict(item) for item in items]
            for name, items in live.replacements.items()
        },
    }
