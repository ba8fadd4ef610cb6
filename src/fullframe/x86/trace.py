"""One executed instruction, as every room that follows a path of execution hands it on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TracedInstruction:
    """One instruction that was executed.

    Attributes:
        address: its virtual address in the linked image.
        encoding: its bytes as they were when it ran.
    """

    address: int
    encoding: bytes
