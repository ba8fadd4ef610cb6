"""Show what ``fullframe entry`` generated, and what the harness found: as text, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import IO, Any

from rich.table import Table as Grid
from rich.text import Text

from fullframe.entry.build import BuiltEntry
from fullframe.entry.generate import GeneratedCode, WrittenFile
from fullframe.entry.identity import IdentityResult
from fullframe.entry.verify import Verification, VerifiedStrategy
from fullframe.report.console import console_for, print_grid, printable
from fullframe.run.result import Difference
from fullframe.x86.ptregs import SLOTS

#: The version of the JSON that the ``entry`` commands print.
SCHEMA = 1


def print_generated(
    code: GeneratedCode, files: Sequence[WrittenFile], built: BuiltEntry | None, file: IO[str]
) -> None:
    """Print what became of each generated file, and of the image if there is one."""
    console = console_for(file)
    for written in files:
        console.print(Text(printable(f"{written.action:9}  {written.path}")))
    stubs = len(code.stubs)
    summary = f"strategy {code.strategy.name}: {len(code.files)} files, {stubs} stubs"
    console.print(Text(summary))
    if built is not None:
        console.print(Text(printable(f"built with {built.toolchain}: {built.image_path}")))


def generated_json(
    code: GeneratedCode, files: Sequence[WrittenFile], built: BuiltEntry | None
) -> dict[str, Any]:
    """Make the JSON object of ``fullframe entry generate --json``."""
    return {
        "schema": SCHEMA,
        "strategy": code.strategy.name,
        "files": [{"path": str(written.path), "action": written.action} for written in files],
        "stubs": list(code.stubs),
        "image": None if built is None else str(built.image_path),
        "toolchain": None if built is None else built.toolchain.kind,
    }


def print_verification(
    verification: Verification, identity: IdentityResult | None, file: IO[str]
) -> None:
    """Print one table, strategies as columns, then every difference that was kept."""
    console = console_for(file)
    strategies = verification.strategies
    grid = Grid(box=None, pad_edge=False, show_edge=False)
    grid.add_column("", no_wrap=True)
    for name in strategies:
        grid.add_column(name, justify="right")
    for label, cells in _rows(tuple(strategies.values())):
        grid.add_row(Text(label), *map(Text, cells))
    print_grid(console, grid)
    if identity is not None:
        verdict = "the same, byte for byte" if identity.identical else "NOT the same"
        masked = sum(field.size_bytes for field in identity.masked)
        console.print(
            Text(
                f"fast path of partial and annotated: {verdict} ({identity.instructions} "
                f"instructions, {identity.encoded_bytes} bytes, of which {masked} masked)"
            )
        )
    for difference in all_differences(verification):
        console.print(Text(printable(str(difference))))
    console.print(Text(summary_line(verification)))


def summary_line(verification: Verification) -> str:
    """Say in one line how many calls were run and what was found."""
    found = verification.difference_count
    return (
        f"{verification.calls} emulated system calls, seed {verification.seed}: "
        + (f"{found} differences" if found else "no difference")
        + (" (each strategy's first ones are listed)" if found else "")
    )


def all_differences(verification: Verification) -> list[Difference]:
    """List the differences that were kept, of every strategy, then those between strategies."""
    found = [
        difference
        for each in verification.strategies.values()
        for difference in each.report.differences
    ]
    return [*found, *verification.disagreements]


def verification_json(
    verification: Verification, identity: IdentityResult | None, table_path: str
) -> dict[str, Any]:
    """Make the JSON object of ``fullframe entry run --json``."""
    return {
        "schema": SCHEMA,
        "table": table_path,
        "seed": verification.seed,
        "scenarios": verification.scenarios,
        "calls": verification.calls,
        "difference_count": verification.difference_count,
        "strategies": {
            name: _strategy_json(each) for name, each in verification.strategies.items()
        },
        "disagreements": [dataclasses.asdict(item) for item in verification.disagreements],
        "fast_path_identity": None if identity is None else _identity_json(identity),
    }


def _strategy_json(each: VerifiedStrategy) -> dict[str, Any]:
    built, report = each.built, each.report
    return {
        "toolchain": str(built.toolchain),
        "calls": report.calls,
        "children": report.children,
        "entries": report.entries,
        "entries_called": report.entries_called,
        "left_by": report.left_by,
        "slots_written": {
            "fast_path": list(report.slots_written_fast),
            "slow_path": list(report.slots_written_slow),
        },
        "paths": {
            label: {
                "call": path.name,
                "instructions": len(path.instructions),
                "bytes": sum(len(one.encoding) for one in path.instructions),
            }
            for label, path in each.paths.items()
        },
        "stubs": list(built.stubs),
        "stub_bytes": built.stub_bytes,
        "table_bytes": built.table_bytes,
        "difference_count": report.difference_count,
        "differences": [dataclasses.asdict(item) for item in report.differences],
    }


def _identity_json(identity: IdentityResult) -> dict[str, Any]:
    return {
        "identical": identity.identical,
        "instructions": identity.instructions,
        "bytes": identity.encoded_bytes,
        "masked": [
            dataclasses.asdict(field) | {"first": field.first.hex(), "second": field.second.hex()}
            for field in identity.masked
        ],
        "differences": [dataclasses.asdict(item) for item in identity.differences],
    }


def _rows(strategies: Sequence[VerifiedStrategy]) -> list[tuple[str, list[str]]]:
    def slots(names: Sequence[str]) -> str:
        return f"{len(names)} of {len(SLOTS)}"

    def path(each: VerifiedStrategy, label: str) -> str:
        found = each.paths.get(label)
        return "-" if found is None else str(len(found.instructions))

    reports = [each.report for each in strategies]
    tables = [each.built.table_bytes for each in strategies]
    return [
        ("calls run", [str(report.calls) for report in reports]),
        ("  entries called", [f"{r.entries_called} of {r.entries}" for r in reports]),
        ("  children followed", [str(report.children) for report in reports]),
        ("  left by SYSRET", [str(report.left_by.get("sysret", 0)) for report in reports]),
        ("  left by IRET", [str(report.left_by.get("iret", 0)) for report in reports]),
        ("slots written, fast path", [slots(report.slots_written_fast) for report in reports]),
        ("slots written, slow path", [slots(report.slots_written_slow) for report in reports]),
        ("instructions, fast path", [path(each, "fast") for each in strategies]),
        ("instructions, slow path", [path(each, "slow") for each in strategies]),
        ("instructions, annotated call", [path(each, "annotated") for each in strategies]),
        ("stubs", [str(len(each.built.stubs)) for each in strategies]),
        ("  bytes", [str(each.built.stub_bytes) for each in strategies]),
        ("dispatch tables", [str(len(sizes)) for sizes in tables]),
        ("  bytes", [str(sum(sizes.values())) for sizes in tables]),
        ("differences", [str(report.difference_count) for report in reports]),
    ]
