"""What the prover answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallVerdict:
    """What the frame holds at one call into C.

    Attributes:
        address: of the call, or of the jump that enters the function.
        callee: the function, or the class of handlers that a dispatch table leads to.
        frame: ``full``, ``partial``, or None where the function takes no frame or the frame holds
            neither.
        slots: each slot's name to what it holds, in words; empty where the function takes none.
        ok: whether everything that the function needs holds.
    """

    address: int
    callee: str
    frame: str | None
    slots: dict[str, str]
    ok: bool


@dataclass(frozen=True, slots=True)
class WayOutVerdict:
    """Whether the user gets back what the frame says.

    Attributes:
        address: of the instruction.
        instruction: ``sysretq``, ``iretq``, …, or ``jmp`` into C for code that C calls.
        ok: whether everything that has to hold there does, on every path.
    """

    address: int
    instruction: str
    ok: bool


@dataclass(frozen=True, slots=True)
class ProofFinding:
    """Something that is definitely wrong on a path.

    Attributes:
        code: the diagnostic.
        entry: symbol of the way in.
        address: where it shows.
        message: in words.
        path: addresses where control was transferred on the way there, and ``address`` last.
        features: CPU features that the path supposes, such as ``PTI`` or ``no PCID``.
    """

    code: str
    entry: str
    address: int
    message: str
    path: tuple[int, ...]
    features: tuple[str, ...] = ()

    @property
    def severity(self) -> str:
        """Always ``error``: the prover reports contradictions only."""
        return "error"


@dataclass(frozen=True, slots=True)
class Unproved:
    """Something that could not be followed, and so counts as not proved.

    Attributes:
        entry: symbol of the way in.
        address: where.
        reason: why.
        path: as in :class:`ProofFinding`.
    """

    entry: str
    address: int
    reason: str
    path: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EntryProof:
    """One way in, followed to every way out.

    Attributes:
        symbol: where it starts.
        by: how user mode gets there.
        boundaries: instruction boundaries reached.
        paths_merged: how often a path arrived in a state that had been followed already.
        calls: the calls into C, by address.
        ways_out: by address.
    """

    symbol: str
    by: str
    boundaries: int
    paths_merged: int
    calls: tuple[CallVerdict, ...]
    ways_out: tuple[WayOutVerdict, ...]


@dataclass(frozen=True, slots=True)
class ProofReport:
    """The answer for an image.

    Attributes:
        image: its path.
        contract: the contract's name.
        entries: one for each way in that the image has.
        absent: ways in that the contract names and the image has not.
        findings: what is wrong.
        not_proved: what could not be followed.
    """

    image: str
    contract: str
    entries: tuple[EntryProof, ...]
    absent: tuple[str, ...]
    findings: tuple[ProofFinding, ...]
    not_proved: tuple[Unproved, ...]

    @property
    def proved(self) -> bool:
        """Whether everything was followed, and nothing is wrong."""
        return bool(self.entries) and not self.findings and not self.not_proved

    @property
    def call_count(self) -> int:
        """Calls into C that were looked at."""
        return sum(len(entry.calls) for entry in self.entries)

    @property
    def way_out_count(self) -> int:
        """Ways out that were looked at."""
        return sum(len(entry.ways_out) for entry in self.entries)

    @property
    def boundary_count(self) -> int:
        """Instruction boundaries reached, those of each way in counted for itself."""
        return sum(entry.boundaries for entry in self.entries)
