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
class Uncovered:
    """A function that no FDE covers.

    Attributes:
        function: its name, or its address.
        place: where it begins, in the file's own terms.
    """

    function: str
    place: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a file's code FDEs cover.

    Attributes:
        covered_bytes: of the executable sections, what FDEs cover.
        uncovered_bytes: what they do not, filler and PLT stubs left out.
        uncovered_functions: functions that begin there, by the symbols and by what is called.
        functions: the first of them, by address.
    """

    covered_bytes: int = 0
    uncovered_bytes: int = 0
    uncovered_functions: int = 0
    functions: tuple[Uncovered, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctionReport:
    """What checking one function gave, in the terms of :class:`FileReport`."""

    proved: int
    wrong: int
    assumed: int
    cannot_tell: int
    findings: tuple[Finding, ...] = ()
    doubtful: tuple[Doubtful, ...] = ()


#: Of code without CFI that start files bring, as GCC 12 and glibc 2.36 have them about 200 bytes.
_START_FILES_BYTES = 512


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
        bug: the traceback, where that is a bug in fullframe.
        findings: in order of address.
        doubtful: why boundaries are assumed or cannot be told, for ``--verbose``.
        coverage: how much of the code is checked at all.
        is_linked: no relocatable object.
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
    bug: str | None = None
    findings: list[Finding] = field(default_factory=list)
    doubtful: list[Doubtful] = field(default_factory=list)
    coverage: Coverage = Coverage()
    is_linked: bool = True

    @property
    def is_partly_uncovered(self) -> bool:
        """Whether code without CFI is more than what every linked file has.

        GCC's ``crtbegin.o`` and the C library's ``crti.o`` have some functions without any.
        """
        most = _START_FILES_BYTES if self.is_linked else 0
        return self.coverage.uncovered_bytes > most

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
