"""What stepping through an image showed, as plain objects for the reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What one unwinder said of the caller's registers at one instruction.

    Attributes:
        ok: every register that was expected has the value that was expected.
        got: register name to value, of the registers that were expected.
        message: what it said instead of a frame, or how it died; "" otherwise.
        not_asked: registers that are expected, but not of this unwinder.
    """

    ok: bool
    got: dict[str, int]
    message: str = ""
    not_asked: tuple[str, ...] = ()

    def wrong(self, expected: dict[str, int]) -> dict[str, int | None]:
        """Return the registers that are wrong, and what they were given as."""
        return {
            name: self.got.get(name)
            for name, value in expected.items()
            if name not in self.not_asked and self.got.get(name) != value
        }


@dataclass(slots=True)
class StepRow:
    """One instruction that was stepped onto.

    Attributes:
        function: the scenario's, such as ``__kernel_vsyscall``.
        object_name: what the instruction belongs to: the image, or what else was gone through.
        address: in the object's own terms (link-time).
        instruction: GNU syntax.
        frame: which frame was asked for: 1 the caller; 2 its caller (in a signal handler, whose
            caller is the trampoline, the interrupted code).
        stepped: ``process``, or ``emulator`` where this machine cannot run the instruction.
        visits: how often it was come by.
        expected: register name to the caller's value.
        unwinders: unwinder to its answer: the first wrong one, else the first.
    """

    function: str
    object_name: str
    address: int
    instruction: str
    frame: int
    stepped: str
    visits: int
    expected: dict[str, int]
    unwinders: dict[str, Answer] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        """Whether no unwinder is wrong."""
        return all(answer.ok for answer in self.unwinders.values())


@dataclass(slots=True)
class SteppedFunction:
    """How stepping through one function went.

    Attributes:
        name: of the function.
        address: link-time address.
        kind: ``call`` or ``signal return``.
        instructions: that the function has, by its call-frame information or its symbol's size.
        stepped: of these, how many were stepped onto.
        remarks: where it went other ways than a return to the caller, and what was done then.
    """

    name: str
    address: int
    kind: str
    instructions: int = 0
    stepped: int = 0
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Failure:
    """One unwinder at one instruction, or the code itself, that is wrong.

    Attributes:
        function: the scenario's.
        object_name: what the instruction belongs to.
        address: link-time.
        instruction: GNU syntax.
        unwinder: which; ``process`` where the function itself did not give back a register.
        message: what it said instead of a frame; "" otherwise.
        registers: register name to (expected, given or None).
    """

    function: str
    object_name: str
    address: int
    instruction: str
    unwinder: str
    message: str
    registers: dict[str, tuple[int, int | None]]


@dataclass(slots=True)
class StepResult:
    """All of one image.

    Attributes:
        image: path, or ``the running kernel's vDSO``.
        machine: ``i386`` or ``x86-64``.
        rows: in the order in which they were first come by, function by function.
        functions: what was stepped.
        not_stepped: function to the reason.
        unwinders: names of those that were asked, in the order of the columns.
        versions: unwinder to its version, where it tells.
        missing: unwinder to why it is not there.
        remarks: about the whole run.
        process_failures: registers that the code itself did not give back.
    """

    image: str
    machine: str
    rows: list[StepRow] = field(default_factory=list)
    functions: list[SteppedFunction] = field(default_factory=list)
    not_stepped: dict[str, str] = field(default_factory=dict)
    unwinders: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    process_failures: list[Failure] = field(default_factory=list)

    def failures(self) -> list[Failure]:
        """Return everything that is wrong, in the order of the rows."""
        found = list(self.process_failures)
        for row in self.rows:
            for name, answer in row.unwinders.items():
                if not answer.ok:
                    registers = {
                        register: (row.expected[register], given)
                        for register, given in answer.wrong(row.expected).items()
                    }
                    found.append(
                        Failure(
                            row.function, row.object_name, row.address, row.instruction,
                            name, answer.message, registers,
                        )
                    )  # fmt: skip
        return found


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What is to be stepped, and by whom asked.

    Attributes:
        image: path; None for the running kernel's own.
        machine: ``i386`` or ``x86-64``; None: the image's, or x86-64.
        functions: names of those wanted; empty for all.
        unwinders: names of those needed; empty for all that are there.
        limit_seconds: how long stepping through one call may take.
        toolchain: kind of toolchain, or None for the first that is there.
    """

    image: Path | None
    machine: str | None = None
    functions: tuple[str, ...] = ()
    unwinders: tuple[str, ...] = ()
    limit_seconds: float = 60
    toolchain: str | None = None
