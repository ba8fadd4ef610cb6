"""Show a comparison: one table with the strategies as columns, and what it comes to in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import IO

from rich.table import Table as Grid
from rich.text import Text

from fullframe.compare.results import Comparison, LiveConditions, PathReport, StrategyReport
from fullframe.cost.live import LiveUnavailable
from fullframe.cost.statistics import LiveDifference, LiveMeasurement
from fullframe.report.console import console_for, print_grid, printable
from fullframe.report.tables import summary_line
from fullframe.run.result import Difference
from fullframe.x86.ptregs import SLOTS

#: Calls with differences that the text shows of each strategy; ``--json`` has all of them.
_SHOWN = 8
#: Where sentences are wrapped if there is no terminal to wrap them.
_PROSE_WIDTH = 100
#: What the proposal puts the six registers at, and on which core.
_PROPOSAL = "about ten cycles on Sandy Bridge"

Row = tuple[str, ...]


def print_comparison(comparison: Comparison, file: IO[str], name: str = "") -> None:
    """Print a comparison for people.

    Args:
        comparison: what was found.
        file: a text stream.
        name: what to call the table; "": its path.
    """
    console = console_for(file)

    def line(text: str, style: str = "") -> None:
        console.print(Text(printable(text), style=style, overflow="fold"))

    for finding in comparison.findings:
        line(str(finding), "red" if finding.severity == "error" else "yellow")
    line(summary_line(comparison.table, comparison.table.entries, name))
    line(f"built with {comparison.toolchain}; seed {comparison.seed}")
    console.print()
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("")
    for name in comparison.strategies:
        grid.add_column(name, justify="right")
    for row in _rows(comparison):
        grid.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
        if len(row) == 1:
            grid.rows[-1].style = "bold"
    print_grid(console, grid)
    for paragraph in _details(comparison):
        console.print()
        for each in paragraph:
            line(each)
    for sentences, style in ((_live_lines(comparison), ""), (closing_lines(comparison), "bold")):
        if sentences:
            console.print()
        for sentence in sentences:
            # A terminal wraps by itself, at its own width.
            width = console.width if console.is_terminal else _PROSE_WIDTH
            for each in textwrap.wrap(printable(sentence), width, break_on_hyphens=False):
                line(each, style)


def closing_lines(comparison: Comparison) -> list[str]:
    """Say in plain words what was found, one sentence an item."""
    lines = [
        _identity_sentence(report, comparison)
        for report in comparison.strategies.values()
        if report.identity is not None
    ]
    return [*lines, _six_sentence(comparison), _run_sentence(comparison)]


def _rows(comparison: Comparison) -> Iterator[Row]:
    reports = list(comparison.strategies.values())
    fast = [report.fast_path for report in reports]
    yield (f"fast path: {fast[0].call}, no work around it",)
    yield from _path_rows(fast)
    baseline = reports[0].strategy.name
    yield (f"  byte for byte {baseline}'s", *(_identity_cell(report) for report in reports))
    slow = [report.slow_path for report in reports]
    yield (f"slow path: {slow[0].call} under a tracer",)
    yield from _path_rows(slow)
    annotated = [report.annotated_path for report in reports if report.annotated_path is not None]
    if annotated:
        yield (f"annotated call: {annotated[0].call}, no work around it",)
        yield from _path_rows(annotated, bounds=False)
    yield ("besides",)
    yield ("  stubs", *(_sized(len(each.stubs), each.stub_bytes) for each in reports))
    tables = [each.table_bytes for each in reports]
    yield ("  dispatch tables", *(_sized(len(each), sum(each.values())) for each in tables))
    yield ("  of these duplicates", *(_sized(*_duplicates(each)) for each in reports))
    yield ("run on an emulated CPU",)
    yield ("  calls", *(f"{each.run.calls:,}" for each in reports))
    yield ("  left by SYSRET", *(f"{each.run.left_by.get('sysret', 0):,}" for each in reports))
    yield ("  left by IRET", *(f"{each.run.left_by.get('iret', 0):,}" for each in reports))
    yield ("  differences", *(f"{each.run.difference_count:,}" for each in reports))
    yield ("proved of every path",)
    yield ("  the frame at every C call and way out", *(_proof_cell(each) for each in reports))
    yield ("  C calls, ways out", *(_proof_counts(each) for each in reports))


def _path_rows(paths: Sequence[PathReport], *, bounds: bool = True) -> Iterator[Row]:
    if all(path.slots_written is not None for path in paths):
        slots = (len(path.slots_written or ()) for path in paths)
        yield ("  slots written at the C handler", *(f"{each} of {len(SLOTS)}" for each in slots))
    yield ("  instructions", *(str(path.cost.instructions) for path in paths))
    yield ("  encoded bytes", *(str(path.cost.bytes) for path in paths))
    yield ("  stores", *(str(path.cost.stores) for path in paths))
    yield ("  loads", *(str(path.cost.loads) for path in paths))
    for cores, cells in _bounds_by_core(paths) if bounds else ():
        yield (f"  cycles at least, {cores}", *cells)
    yield ("  cycles measured here (TSC)", *(_measured_cell(path.measured) for path in paths))


def _bounds_by_core(paths: Sequence[PathReport]) -> Iterator[tuple[str, list[str]]]:
    """Yield a row of bounds for each core, neighbours with equal figures in one."""
    names: list[str] = []
    last: list[str] = []
    for core in paths[0].bounds:
        cells = [_number(path.bounds[core].cycles) for path in paths]
        if names and cells != last:
            yield ", ".join(names), last
            names = []
        names.append(core)
        last = cells
    yield ", ".join(names), last


def _details(comparison: Comparison) -> Iterator[list[str]]:
    """Yield paragraphs of what the table has no room for."""
    for report in comparison.strategies.values():
        broken = _broken(report)
        if broken:
            more = len(broken) - _SHOWN
            yield [
                f"Differences from the specification under {report.strategy.name}, the first of "
                "each call:",
                *broken[:_SHOWN],
                *([f"  and {more} more calls; --json has them"] if more > 0 else []),
            ]
    if comparison.disagreements:
        unlike = len({each.scenario for each in comparison.disagreements})
        what = f"{unlike:,} scenario{'s' * (unlike > 1)} did not end alike under every strategy"
        yield [f"{what}; --json has them."]
    for report in comparison.strategies.values():
        identity = report.identity
        if identity is None or report.strategy.saves_all_on_entry:
            continue
        if identity.identical:
            yield [
                f"Masked where {report.strategy.name}'s fast path is compared with the baseline's:",
                *(
                    f"  instruction {field.index + 1:2}, {field.size_bytes} bytes at "
                    f"{field.offset_bytes} ({field.reason}): {field.text}"
                    for field in identity.masked
                ),
            ]
        else:
            yield [
                f"{report.strategy.name}'s fast path differs from the baseline's:",
                *(
                    f"  instruction {each.index + 1}: {each.first or 'none'} | "
                    f"{each.second or 'none'}"
                    for each in identity.differences[:_SHOWN]
                ),
            ]


def _live_lines(comparison: Comparison) -> list[str]:
    """Say under which conditions was measured; nothing if nothing was."""
    live = comparison.live
    if not isinstance(live, LiveConditions):
        return []
    replaced = {
        (item.instruction, item.replaced_by)
        for items in live.replacements.values()
        for item in items
    }
    what = ", ".join(f"{old} by {new!r}" for old, new in sorted(replaced))
    return [
        f"Measured on {live.cpu}: the linked bytes themselves, in user space, entered back to "
        f"back, with these instructions replaced: {what or 'none'}.",
        f"The measuring loop's {live.loop.median_cycles_tsc:.1f} cycles are in every figure. A "
        f"cycle of the time-stamp counter (TSC) was {live.core_cycles_per_tsc_cycle:.2f} core "
        "cycles.",
    ]


def _broken(report: StrategyReport) -> list[str]:
    """Show the first difference of each call that was kept, and count the rest."""
    first: dict[str, Difference] = {}
    for difference in report.run.differences:
        first.setdefault(difference.name, difference)
    counts = report.run.differences_by_call
    return [
        f"  {difference}" + (f" (and {counts[name] - 1:,} more)" if counts[name] > 1 else "")
        for name, difference in first.items()
    ]


def _identity_sentence(report: StrategyReport, comparison: Comparison) -> str:
    name = report.strategy.name
    baseline = next(iter(comparison.strategies.values()))
    base, identity = baseline.strategy.name, report.identity
    assert identity is not None
    if identity.identical:
        masked = sum(field.size_bytes for field in identity.masked)
        return (
            f"{name}'s fast path is {base}'s byte for byte: {identity.instructions} instructions, "
            f"{identity.encoded_bytes} bytes ({masked} of them, addresses and branch "
            "displacements, masked)."
        )
    cost, other = report.fast_path.cost, baseline.fast_path.cost
    extra = (
        f"{cost.instructions - other.instructions:+} instructions, "
        f"{cost.stores - other.stores:+} stores, {cost.loads - other.loads:+} loads"
    )
    if not report.strategy.saves_all_on_entry:
        return f"{name}'s fast path is NOT {base}'s: {extra}."
    return (
        f"{name}'s fast path does more than {base}'s ({extra}): it saves and loads the six "
        "registers, and tests every condition of SYSRET."
    )


def _six_sentence(comparison: Comparison) -> str:
    six = comparison.six_registers
    by_cycles: dict[float, list[str]] = {}
    for core, bound in six.bounds.items():
        by_cycles.setdefault(bound.cycles, []).append(core)
    bounds = "; ".join(
        f"{_number(cycles)} on {', '.join(cores)}" for cycles, cores in by_cycles.items()
    )
    text = (
        f"Saving and loading the six registers takes at least, in cycles: {bounds}. "
        f"The proposal says {_PROPOSAL}. "
    )
    if six.measured is None or not isinstance(comparison.live, LiveConditions):
        reason = comparison.live.reason if isinstance(comparison.live, LiveUnavailable) else ""
        return f"{text}Not measured here: {next(iter(reason.splitlines()), 'no reason')}."
    return text + _six_measured(six.measured, comparison.live)


def _six_measured(measured: LiveDifference, live: LiveConditions) -> str:
    median, spread = measured.median_cycles_tsc, measured.spread_cycles_tsc
    core = median * live.core_cycles_per_tsc_cycle
    figures = (
        f"{median:.1f} ± {spread / 2:.1f} cycles of the time-stamp counter ({core:.1f} core cycles)"
    )
    if measured.resolved:
        return f"Measured here, on {live.cpu}: {figures}."
    return f"Measured here, on {live.cpu}: too noisy to tell ({figures})."


def _run_sentence(comparison: Comparison) -> str:
    reports = comparison.strategies.values()
    entries = max(report.run.entries for report in reports)
    called = min(report.run.entries_called for report in reports)
    which = f"all {entries:,}" if called == entries else f"{called:,} of {entries:,}"
    found = comparison.differences
    what = f"{found:,} difference{'s' * (found > 1)} found" if found else "no difference found"
    where = f"{which} numbers of the table under every strategy"
    return f"{comparison.calls:,} calls run, {where}: {what}."


def _identity_cell(report: StrategyReport) -> str:
    if report.identity is None:
        return "-"
    return "yes" if report.identity.identical else "no"


def _proof_cell(report: StrategyReport) -> str:
    proof = report.proof
    if proof.proved:
        return "yes"
    return f"no ({len(proof.findings)} wrong, {len(proof.not_proved)} open)"


def _proof_counts(report: StrategyReport) -> str:
    return f"{report.proof.call_count}, {report.proof.way_out_count}"


def _measured_cell(measured: LiveMeasurement | None) -> str:
    if measured is None:
        return "-"
    return f"{measured.median_cycles_tsc:.1f} ± {measured.spread_cycles_tsc / 2:.1f}"


def _duplicates(report: StrategyReport) -> tuple[int, int]:
    if not report.duplicated_table_bytes:
        return 0, 0
    return len(report.table_bytes) // 2, report.duplicated_table_bytes


def _sized(count: int, size_bytes: int) -> str:
    return f"{count} ({size_bytes:,} bytes)" if count else "none"


def _number(value: float) -> str:
    """Write a figure with one decimal at most, and none where it is whole."""
    return f"{value:.1f}".removesuffix(".0")
