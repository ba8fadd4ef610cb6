"""The prover's state: the tracker's, and what entry code must get right besides."""

from __future__ import annotations

from typing import NamedTuple

from fullframe.entry.prove.facts import Facts
from fullframe.track.state import State
from fullframe.track.values import Value
from fullframe.x86.ptregs import INDEX_OF_SLOT

#: Values of a mode bit besides 0 and 1: the user's, and not known.
USERS, UNSURE = "the user's", "not known"


class Modes(NamedTuple):
    """The mode bits that entry code must get right.

    Attributes:
        gs: whose GS base is active: ``user``, ``kernel`` or ``not known``.
        tables: whose page tables CR3 holds: the same, or ``shared`` where there is one set only.
        interrupts: ``on``, ``off`` or ``not known`` (IF).
        ac: 0, 1, :data:`USERS` or :data:`UNSURE`.
        df: likewise.
        nt: likewise.
    """

    gs: str
    tables: str
    interrupts: str
    ac: int | str
    df: int | str
    nt: int | str


class Condition(NamedTuple):
    """What the last instruction that set the flags compared.

    Attributes:
        kind: ``compare`` (one with other), ``test`` (one with the mask ``number``) or ``bit``
            (bit ``number`` of one, in CF).
        one: a value.
        other: what it was compared with.
        number: mask or bit.
    """

    kind: str
    one: Value
    other: Value | None
    number: int


class Known(NamedTuple):
    """Everything that is known at one instruction boundary on one path.

    Attributes:
        machine: registers and stack slots, the tracker's state.
        modes: the mode bits.
        frame: what each slot of the frame has to hold for the user's sake, in the order of
            ``SLOTS``, whether it is there yet or not.
        facts: what was tested on the way.
        features: CPU features decided on the way, as far as they matter from here on.
        work: status of each kind of work of the contract: ``unseen``, ``none`` or ``found``.
        called: whether the system call has been made.
        condition: what the flags stand for, None where that is not known.
        handler_due: the handler that the stub being followed has to lead to; "" for any.
    """

    machine: State
    modes: Modes
    frame: tuple[Value, ...]
    facts: Facts
    features: frozenset[tuple[int, bool]]
    work: tuple[str, ...]
    called: bool
    condition: Condition | None
    handler_due: str

    def slot(self, name: str) -> Value:
        """Return what the frame has to hold in a slot."""
        return self.frame[INDEX_OF_SLOT[name]]

    def feature(self, number: int) -> bool | None:
        """Return whether a CPU feature is there; None if that was not decided yet."""
        if (number, True) in self.features:
            return True
        return False if (number, False) in self.features else None
