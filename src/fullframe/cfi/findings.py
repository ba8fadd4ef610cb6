"""What the checker found: findings, counts, and their result objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """Who is hurt by wrong CFI, from worst to least."""

    #: An unwind through this place, a C++ exception's included, loses the return address.
    RETURN_ADDRESS = "return-address-lost"
    #: An unwind goes on with a wrong value in a callee-saved register.
    REGISTER = "register-lost"
    #: Only an unwind that starts at this very instruction is wrong: a debugger that stops
    #: there, a profiler's sample, a signal.
    ASYNCHRONOUS = "asynchronous-only"
    #: The tables themselves are malformed.
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause of wrong CFI, over consecutive addresses.

    Attributes:
        code: the diagnostic's code, see ``fullframe explain``.
        severity: who is hurt.
        path: the file.
        function: the function's name, or its address.
        address: of the first boundary where the claim is wrong.
        end_address: after the last instruction at whose boundary it is wrong.
        source: ``file:line`` of the first boundary, if known.
        instruction: the instruction at ``address``.
        claimed: what the CFI says.
        actual: what is so.
        message: what goes wrong for whom.
        suggestion: the directive that would mend it, or "".
        place: ``address`` as the file's own terms have it.
    """

    code: str
    severity: Severity
    path: str
    function: str
    address: int
    end_address: int
    source: str | None
    instruction: str
    claimed: str
    actual: str
    message: str
    suggestion: str
    place: str = ""

    @property
    def fingerprint(self) -> str:
        """What identifies a finding in a baseline: stable when code elsewhere moves."""
        return "|".join((self.code, self.function, self.claimed, self.instruction))


@dataclass(slots=True)
class Doubtful:
    """Boundaries that could not be told or were assumed, with the reason.

    Attributes:
        reason: why.
        function: its name.
        place: of the first boundary, in the file's own terms.
        boundaries: how many follow each other.
    """

    reason: str
    function: str
    place: str
    boundaries: int


@dataclass(frozen=True, slots=True)
class FunctionReport:
    """What checking one function gave, in the terms of :class:`FileReport`."""

    proved: int
    wrong: int
    assumed: int
    cannot_tell: int
    findings: tuple[Finding, ...] = ()
    doubtful: tuple[Doubtful, ...] = ()


@dataclass(slots=True)
class FileReport:
    """What checking one file gave.

    Attributes:
        path: the file.
        machine: ``x86-64``, ``x32`` or ``i386``; "" when it could not be read.
        functions: FDEs checked.
        boundaries: instruction boundaries in them, padding left out.
        proved: boundaries where the CFA, the return address and every callee-saved register
            are proved.
        wrong: boundaries with a definite contradiction.
        assumed: boundaries reached only from a premise.
        cannot_tell: the rest.
        seconds: wall-clock time.
        error: why the file could not be read, or None.
        findings: in order of address.
        doubtful: why boundaries are assumed or cannot be told, for ``--verbose``.
    """

    path: str
    machine: str = ""
    functions: int = 0
    boundaries: int = 0
    proved: int = 0
    wrong: int = 0
    assumed: int = 0
    cannot_tell: int = 0
    seconds: float = 0.0
    error: str | None = None
    findings: list[Finding] = field(default_factory=list)
    doubtful: list[Doubtful] = field(default_factory=list)

    def add(self, function: FunctionReport) -> None:
        """Count a function in."""
        self.functions += 1
        self.proved += function.proved
        self.wrong += function.wrong
        self.assumed += function.assumed
        self.cannot_tell += function.cannot_tell
        self.boundaries += (
            function.proved + function.wrong + function.assumed + function.cannot_tell
        )
        self.findings += function.findings
        self.doubtful += function.doubtful
