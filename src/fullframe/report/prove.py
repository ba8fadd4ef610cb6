"""The prover's answer as text, JSON and SARIF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TextIO

from rich.table import Table as Grid

from fullframe.entry.prove.diagnostics import NOT_PROVED
from fullframe.entry.prove.result import CallVerdict, EntryProof, ProofReport
from fullframe.printable import printable, printable_lines
from fullframe.report.console import console_for, print_grid
from fullframe.report.sarif import SarifResult

#: Version of ``fullframe entry prove --json``; rises when a key changes its meaning or goes.
PROVE_SCHEMA = 1
#: Steps of a path that are shown in text: the first and the last of them.
_STEPS_SHOWN = 12

NameOf = Callable[[int], str]


def proof_json(proof: ProofReport) -> dict[str, Any]:
    """Return the documented object of ``fullframe entry prove --json``."""
    return {
        "schema": PROVE_SCHEMA,
        "image": proof.image,
        "contract": proof.contract,
        "proved": proof.proved,
        "entries": [_entry_json(entry) for entry in proof.entries],
        "absent": list(proof.absent),
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity,
                "entry": finding.entry,
                "address": finding.address,
                "message": finding.message,
                "path": list(finding.path),
                "features": list(finding.features),
            }
            for finding in proof.findings
        ],
        "not_proved": [
            {
                "entry": item.entry,
                "address": item.address,
                "reason": item.reason,
                "path": list(item.path),
            }
            for item in proof.not_proved
        ],
    }


def _entry_json(entry: EntryProof) -> dict[str, Any]:
    return {
        "symbol": entry.symbol,
        "by": entry.by,
        "boundaries": entry.boundaries,
        "paths_merged": entry.paths_merged,
        "calls": [
            {
                "address": call.address,
                "callee": call.callee,
                "frame": call.frame,
                "slots": call.slots,
                "ok": call.ok,
            }
            for call in entry.calls
        ],
        "ways_out": [
            {"address": way.address, "instruction": way.instruction, "ok": way.ok}
            for way in entry.ways_out
        ],
    }


def proof_sarif_results(proof: ProofReport) -> list[SarifResult]:
    """Return what is wrong, and what is not proved, as SARIF results."""
    results = [
        SarifResult(
            code=finding.code,
            level="error",
            message=finding.message,
            path=proof.image,
            address=finding.address,
            function=finding.entry,
            fingerprint=f"{finding.code}:{finding.entry}:{finding.message}",
        )
        for finding in proof.findings
    ]
    results += [
        SarifResult(
            code=NOT_PROVED,
            level="warning",
            message=item.reason,
            path=proof.image,
            address=item.address,
            function=item.entry,
            fingerprint=f"{NOT_PROVED}:{item.entry}:{item.reason}",
        )
        for item in proof.not_proved
    ]
    return results


def write_proof(file: TextIO, proof: ProofReport, name_of: NameOf) -> None:
    """Print verdicts, slot tables and counterexample paths.

    Args:
        file: where to.
        proof: the answer.
        name_of: names an address of the image.
    """
    for entry in proof.entries:
        _write_entry(file, entry, name_of)
    for finding in proof.findings:
        file.write(f"{finding.code} {printable(name_of(finding.address))}: ")
        file.write(f"{printable_lines(finding.message)}\n")
        file.write(f"  from {printable(finding.entry)}")
        if finding.features:
            file.write(f" on a CPU with {printable(', '.join(finding.features))}")
        file.write(f": {_path(finding.path, name_of)}\n")
    for item in proof.not_proved:
        file.write(f"not proved: {printable(name_of(item.address))}: ")
        file.write(f"{printable_lines(item.reason)}\n")
        file.write(f"  from {printable(item.entry)}: {_path(item.path, name_of)}\n")
    if proof.absent:
        file.write(f"not in this image: {', '.join(map(printable, proof.absent))}\n")
    file.write(_summary(proof) + "\n")


def _write_entry(file: TextIO, entry: EntryProof, name_of: NameOf) -> None:
    file.write(
        f"{printable(entry.symbol)} (by {entry.by}): {_count(entry.boundaries, 'boundary')}, "
        f"{_count(len(entry.calls), 'call')} into C, {_count(len(entry.ways_out), 'way')} out\n"
    )
    grid = Grid("at", "call or way out", "frame", "verdict", box=None, pad_edge=False)
    for call in entry.calls:
        verdict = "proved" if call.ok else "wrong"
        grid.add_row(
            printable(name_of(call.address)), printable(call.callee), call.frame or "-", verdict
        )
    for way in entry.ways_out:
        verdict = "proved" if way.ok else "wrong"
        grid.add_row(printable(name_of(way.address)), printable(way.instruction), "", verdict)
    print_grid(console_for(file), grid)
    for title, slots in _slot_tables(entry.calls):
        file.write(f"  slots at {printable(title)}:\n")
        for slot, text in slots.items():
            file.write(f"    {slot:8} {printable(text)}\n")
    file.write("\n")


def _slot_tables(calls: Sequence[CallVerdict]) -> list[tuple[str, dict[str, str]]]:
    """Group the calls whose slots hold the same."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for call in calls:
        if call.slots:
            groups.setdefault(tuple(call.slots.items()), []).append(call.callee)
    return [(", ".join(dict.fromkeys(names)), dict(slots)) for slots, names in groups.items()]


def _path(path: Sequence[int], name_of: NameOf) -> str:
    steps = [printable(name_of(address)) for address in path]
    if len(steps) > _STEPS_SHOWN:
        half = _STEPS_SHOWN // 2
        left_out = len(steps) - 2 * half
        steps = [*steps[:half], f"… ({left_out} more) …", *steps[-half:]]
    return " > ".join(steps)


def _summary(proof: ProofReport) -> str:
    looked_at = (
        f"{_count(len(proof.entries), 'way')} in, {_count(proof.call_count, 'call')} into C, "
        f"{_count(proof.way_out_count, 'way')} out, {_count(proof.boundary_count, 'boundary')}"
    )
    contract = printable(proof.contract)
    if proof.proved:
        return f"proved against {contract}: {looked_at}"
    return (
        f"NOT proved against {contract}: {_count(len(proof.findings), 'finding')}, "
        f"{len(proof.not_proved)} not followed ({looked_at})"
    )


def _count(number: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun == "boundary" else noun + "s"
    return f"{number} {noun if number == 1 else plural}"
