"""What the harness found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fullframe.run.diagnostics import NOT_ALIKE
from fullframe.run.scenario import Scenario
from fullframe.x86.trace import TracedInstruction
from fullframe.x86.transitions import UserState


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that was not as the specification says.

    Attributes:
        code: which kind of difference, as ``fullframe explain`` knows it.
        subject: the entry code that ran (the strategy).
        scenario: index of the scenario in its run.
        label: what was special about it.
        number: what user space put in rax.
        name: the call that the number leads to, ``-`` if there is none.
        where: at which C call, or ``user mode``.
        what: a register, a slot, or a mode bit.
        expected: what should have been there, as text.
        got: what was there.
    """

    code: str
    subject: str
    scenario: int
    label: str
    number: int
    name: str
    where: str
    what: str
    expected: str
    got: str

    def __str__(self) -> str:
        return (
            f"{self.code} {self.subject}: {self.name} ({self.number:#x}), scenario {self.scenario} "
            f"{self.label}, at {self.where}: {self.what}: expected {self.expected}, "
            f"got {self.got}"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one call ended for the user.

    Attributes:
        user: every register of the user, or None if user mode was not reached.
        left_by: ``sysret``, ``iret``, or "" if user mode was not reached.
        child: how a child that the call made came to user mode.
    """

    user: UserState | None
    left_by: str
    child: Outcome | None = None


@dataclass(frozen=True, slots=True)
class ExecutedPath:
    """The instructions that one call executed, C functions of the kernel left out.

    Attributes:
        label: ``fast``, ``slow`` (an ordinary call under a tracer), ``annotated`` (an annotated
            call that nobody traces).
        name: the call.
        number: what user space put in rax to make it.
        instructions: in order, from the first after SYSCALL to SYSRET or IRET.
    """

    label: str
    name: str
    number: int
    instructions: tuple[TracedInstruction, ...]


@dataclass(frozen=True, slots=True)
class RunReport:
    """What became of all the scenarios under one subject.

    Attributes:
        subject: the entry code's name.
        calls: how many system calls were executed.
        children: how many children of fork-like calls were followed to user mode.
        entries_called: how many entries of the table were called.
        entries: how many there are.
        left_by: how many calls left by ``sysret`` and by ``iret``.
        differences: the first differences found, at most ``MAX_KEPT_PER_CALL`` of each call
            and ``MAX_KEPT`` in all.
        difference_count: how many were found.
        differences_by_call: how many were found of each call, by its name.
        slots_written_fast: slots of the frame that held something written when the C function of
            an ordinary call was reached on the fast path.
        slots_written_slow: the same under a tracer.
        outcomes: how each scenario ended, for comparison between subjects.
    """

    subject: str
    calls: int
    children: int
    entries_called: int
    entries: int
    left_by: dict[str, int]
    differences: tuple[Difference, ...]
    difference_count: int
    differences_by_call: Mapping[str, int]
    slots_written_fast: tuple[str, ...]
    slots_written_slow: tuple[str, ...]
    outcomes: tuple[Outcome, ...] = field(repr=False)


#: Differences kept in a report; the rest is only counted.
MAX_KEPT = 200
MAX_KEPT_PER_CALL = 10


def disagreements(
    reports: Sequence[RunReport], scenarios: Sequence[Scenario]
) -> tuple[Difference, ...]:
    """List the scenarios that did not end the same under all subjects.

    Args:
        reports: of the same scenarios under different subjects.
        scenarios: those scenarios.
    """
    found = []
    for report in reports[1:]:
        pairs = zip(reports[0].outcomes, report.outcomes, strict=True)
        for index, (first, other) in enumerate(pairs):
            if first != other:
                scenario = scenarios[index]
                found.append(
                    Difference(
                        code=NOT_ALIKE,
                        subject=report.subject,
                        scenario=index,
                        label=scenario.label,
                        number=scenario.user.registers[0],
                        name="-",
                        where="user mode",
                        what=f"outcome, beside {reports[0].subject}'s",
                        expected=str(first),
                        got=str(other),
                    )
                )
    return tuple(found)
