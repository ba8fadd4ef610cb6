"""Run all scenarios under one subject; show the paths that calls take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from fullframe.errors import UsageError
from fullframe.run.draw import draw_scenarios, plain_scenario
from fullframe.run.harness import Harness
from fullframe.run.image import Image, load_image
from fullframe.run.result import MAX_KEPT, ExecutedPath, Outcome, RunReport
from fullframe.run.scenario import Scenario
from fullframe.run.subject import Call, CallKind, Subject
from fullframe.x86.registers import AX
from fullframe.x86.trace import TracedInstruction

#: What ``fullframe`` runs unless it is told another.
DEFAULT_SEED = 20150824


def run_scenarios(
    subject: Subject,
    scenarios: Sequence[Scenario],
    *,
    progress: Callable[[int], None] | None = None,
    stop_at_first: bool = False,
    image: Image | None = None,
) -> RunReport:
    """Run scenarios under a subject and hold each to the specification.

    Args:
        subject: the entry code.
        scenarios: the circumstances, one system call each.
        progress: called now and then with the number of calls run.
        image: run this instead of the subject's own image, which is then not read.
        stop_at_first: end with the first scenario that shows a difference.

    Returns:
        What was found. Where the subject has table overlays, the scenarios of annotated calls are
        run a second time with them, and counted too.
    """
    image = load_image(subject.image) if image is None else image
    overlaid = _run_overlaid(subject, image, scenarios, stop_at_first) if scenarios else None
    harness = Harness(subject, image=image)
    fast, slow = _slots_written(harness)
    outcomes: list[Outcome] = []
    before = 0 if overlaid is None else overlaid.difference_count
    for index, scenario in enumerate(scenarios):
        if stop_at_first and before + harness.difference_count:
            break
        outcomes.append(harness.run(index, scenario))
        if progress is not None and index % 256 == 0:
            progress(harness.calls)
    harnesses = [harness] if overlaid is None else [harness, overlaid]
    differences = [difference for each in harnesses for difference in each.differences]
    calls = {(call.number, call.handler) for call in subject.calls}
    return RunReport(
        subject=subject.name,
        calls=sum(each.calls for each in harnesses),
        children=sum(each.children for each in harnesses),
        entries_called=len(calls & harness.handlers_reached),
        entries=len(calls),
        left_by=dict(sorted(sum((each.left_by for each in harnesses), Counter()).items())),
        differences=tuple(differences[:MAX_KEPT]),
        difference_count=sum(each.difference_count for each in harnesses),
        differences_by_call=dict(sum((each.differences_by_call for each in harnesses), Counter())),
        slots_written_fast=fast,
        slots_written_slow=slow,
        outcomes=tuple(outcomes),
    )


def scenarios_for(
    subject: Subject, seed: int = DEFAULT_SEED, rounds: int = 1
) -> tuple[Scenario, ...]:
    """Draw scenarios for all the calls of a subject (see ``draw_scenarios``)."""
    return draw_scenarios(subject.calls, subject.layout, seed, rounds)


def trace_paths(subject: Subject) -> tuple[ExecutedPath, ...]:
    """Record the instructions that typical calls execute.

    Args:
        subject: the entry code.

    Returns:
        An ordinary call on the fast path, the same call under a tracer, and an annotated call
        where the table has one; labelled ``fast``, ``slow`` and ``annotated``.

    Raises:
        UsageError: the table has no ordinary call.
    """
    layout = subject.layout
    ordinary = _ordinary(subject)
    trace = 1 << layout.syscall_trace_bit
    wanted = [("fast", ordinary, 0), ("slow", ordinary, trace)]
    annotated = next((call for call in subject.calls if call.annotated), None)
    if annotated is not None:
        wanted.append(("annotated", annotated, 0))
    return tuple(
        ExecutedPath(
            label,
            call.name,
            call.number,
            _trace(subject, plain_scenario(call.number, layout, thread_flags)),
        )
        for label, call, thread_flags in wanted
    )


def _trace(subject: Subject, scenario: Scenario) -> tuple[TracedInstruction, ...]:
    harness = Harness(subject)
    recorded = harness.record_path()
    harness.run(0, scenario)
    return tuple(recorded)


def _ordinary(subject: Subject) -> Call:
    calls = [
        call
        for call in subject.calls
        if call.kind is CallKind.ORDINARY and not call.annotated and call.handler is not None
    ]
    if not calls:
        raise UsageError("the table has no ordinary call: every one is annotated")
    # The call that benchmarks of system calls make, where the table has it.
    return next((call for call in calls if call.name == "getppid"), calls[0])


def _slots_written(harness: Harness) -> tuple[tuple[str, ...], tuple[str, ...]]:
    subject = harness.subject
    ordinary, layout = _ordinary(subject), subject.layout
    found = []
    for thread_flags in (0, 1 << layout.syscall_trace_bit):
        harness.slots_written = ()
        harness.run(0, plain_scenario(ordinary.number, layout, thread_flags))
        found.append(harness.slots_written)
    return found[0], found[1]


def _run_overlaid(
    subject: Subject, image: Image, scenarios: Sequence[Scenario], stop_at_first: bool
) -> Harness | None:
    """Run the calls that use the frame with the slow path calling by the fast path's table.

    Returns:
        The harness that ran them; None if the subject has no table to put over another.
    """
    if not subject.table_overlays:
        return None
    for table, copied in subject.table_overlays:
        data = image.read(image.symbols[copied], image.symbol_sizes[copied])
        image = image.with_bytes(image.symbols[table], data[: image.symbol_sizes[table]])
    harness = Harness(subject, image=image)
    numbers = {call.number for call in subject.calls if call.annotated}
    for index, scenario in enumerate(scenarios):
        if scenario.user.registers[AX] in numbers:
            harness.run(index, scenario)
            if stop_at_first and harness.difference_count:
                break
    return harness
