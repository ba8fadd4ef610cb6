"""``fullframe vdso step`` as text and JSON: instruction by unwinder."""

from __future__ import annotations

from typing import IO, Any

from fullframe.report.console import printable
from fullframe.vdso.step.result import Answer, Failure, SteppedFunction, StepResult, StepRow

STEP_SCHEMA = 1

_WIDEST_INSTRUCTION = 40


def step_json(result: StepResult) -> dict[str, Any]:
    """Return the object of ``fullframe vdso step --json``."""
    return {
        "schema": STEP_SCHEMA,
        "image": result.image,
        "machine": result.machine,
        "unwinders": list(result.unwinders),
        "versions": dict(result.versions),
        "missing": dict(result.missing),
        "functions": [
            {
                "name": function.name,
                "address": function.address,
                "kind": function.kind,
                "instructions": function.instructions,
                "stepped": function.stepped,
                "remarks": list(function.remarks),
            }
            for function in result.functions
        ],
        "not_stepped": dict(result.not_stepped),
        "remarks": list(result.remarks),
        "steps": [_row_json(row) for row in result.rows],
        "failures": [_failure_json(failure) for failure in result.failures()],
    }


def _row_json(row: StepRow) -> dict[str, Any]:
    return {
        "function": row.function,
        "object": row.object_name,
        "address": row.address,
        "instruction": row.instruction,
        "frame": row.frame,
        "stepped": row.stepped,
        "visits": row.visits,
        "expected": dict(row.expected),
        "unwinders": {
            name: {"ok": answer.ok, "got": dict(answer.got), "message": answer.message}
            for name, answer in row.unwinders.items()
        },
    }


def _failure_json(failure: Failure) -> dict[str, Any]:
    return {
        "function": failure.function,
        "object": failure.object_name,
        "address": failure.address,
        "instruction": failure.instruction,
        "unwinder": failure.unwinder,
        "message": failure.message,
        "registers": {
            name: {"expected": expected, "got": got}
            for name, (expected, got) in failure.registers.items()
        },
    }


def write_step(out: IO[str], result: StepResult) -> None:
    """Write the table: a line an instruction, a column an unwinder.

    Args:
        out: a text stream.
        result: what was seen.
    """
    out.write(f"{printable(result.image)}, {result.machine}\n")
    for name, version in result.versions.items():
        out.write(f"  {name} is {printable(version)}\n")
    for name, reason in result.missing.items():
        out.write(f"  {name} was not asked: {printable(reason)}\n")
    for remark in result.remarks:
        out.write(f"  {printable(remark)}\n")
    for function in result.functions:
        rows = [row for row in result.rows if row.function == function.name]
        _write_function(out, function, rows, result.unwinders)
    for reason in dict.fromkeys(result.not_stepped.values()):
        names = [name for name, each in result.not_stepped.items() if each == reason]
        out.write(f"\nnot stepped, {reason}: {printable(', '.join(names))}\n")
    for failure in result.process_failures:
        out.write(f"\n{failure.function}: {failure.message}: {_registers(failure.registers)}\n")
    out.write("\n" + _summary(result))


def _write_function(
    out: IO[str], function: SteppedFunction, rows: list[StepRow], unwinders: list[str]
) -> None:
    out.write(f"\n{printable(function.name)} ({function.kind}): {function.stepped} of ")
    out.write(f"{function.instructions} instructions stepped\n")
    for remark in function.remarks:
        out.write(f"  {printable(remark)}\n")
    names = [_object(row) for row in rows]
    width = min(max([11, *(len(row.instruction) for row in rows)]), _WIDEST_INSTRUCTION)
    object_width = max([6, *map(len, names)])
    head = f"  {'address':10} {'instruction':{width}}  {'of':{object_width}}  {'stepped':8} "
    out.write(head + "  ".join(f"{name:9}" for name in unwinders).rstrip() + "\n")
    told: dict[str, object] = {}
    for row, name in zip(rows, names, strict=True):
        cells = [_cell(row.unwinders.get(unwinder)) for unwinder in unwinders]
        line = f"  {row.address:<#10x} {row.instruction:{width}}  {name:{object_width}}  "
        line += f"{row.stepped if row.stepped == 'emulator' else '':8} "
        out.write(line + "  ".join(f"{cell:9}" for cell in cells).rstrip() + "\n")
        _write_wrong(out, row, unwinders, told)


def _object(row: StepRow) -> str:
    """Name what an instruction belongs to; a signal handler asks beyond its trampoline."""
    return printable(row.object_name) + (" (handler)" if row.frame == 2 else "")


def _cell(answer: Answer | None) -> str:
    if answer is None:
        return "-"
    return "ok" if answer.ok else "WRONG"


def _write_wrong(out: IO[str], row: StepRow, unwinders: list[str], told: dict[str, object]) -> None:
    """Say what is wrong, unless the line before had the same kind of wrong."""
    for name in unwinders:
        answer = row.unwinders.get(name)
        if answer is None:
            continue
        wrong = {} if answer.ok else answer.wrong(row.expected)
        kind = None if answer.ok else (answer.message, *wrong)
        if kind is not None and kind != told.get(name):
            pairs = {each: (row.expected[each], value) for each, value in wrong.items()}
            out.write(f"             ^ {name}: {printable(answer.message) or _registers(pairs)}\n")
        told[name] = kind


def _registers(pairs: dict[str, tuple[int, int | None]]) -> str:
    return "; ".join(
        f"{name} {'not given' if got is None else f'{got:#x}'}, expected {expected:#x}"
        for name, (expected, got) in pairs.items()
    )


def _summary(result: StepResult) -> str:
    """Count, for each unwinder, the instructions and those where it is wrong."""
    lines = []
    for name in result.unwinders:
        answers = [row.unwinders[name] for row in result.rows if name in row.unwinders]
        wrong = sum(not answer.ok for answer in answers)
        where = f"wrong at {wrong}" if wrong else "right at every one"
        asked = f"{len(answers)} of {len(result.rows)} instructions"
        lines.append(f"{name:9} asked at {asked}: {where}\n")
    return "".join(lines) or "no unwinder was asked\n"
