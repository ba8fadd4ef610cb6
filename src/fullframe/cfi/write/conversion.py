"""The outcome of converting a source: the same for decode, encode and fix."""

from __future__ import annotations

from dataclasses import dataclass, field

from fullframe.cfi.write.compare import Difference
from fullframe.cfi.write.lines import Refusal
from fullframe.cfi.write.patch import unified_diff


@dataclass(slots=True)
class Conversion:
    """A source, converted and proved.

    Attributes:
        path: the source.
        old_text: what it was.
        new_text: what it becomes.
        boundaries_compared: instruction boundaries whose rules were held against what was meant,
            in the assembled outcome.
        differences: those that are not the same (then nothing is written).
        refused: what was not done, by line.
        functions: functions of the source.
        functions_done: those whose rules are right now.
    """

    path: str
    old_text: str
    new_text: str
    boundaries_compared: int = 0
    differences: list[Difference] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    functions: int = 0
    functions_done: int = 0

    @property
    def changed(self) -> bool:
        """Whether the text changes."""
        return self.old_text != self.new_text

    @property
    def diff(self) -> str:
        """The change as a unified diff; "" without one."""
        return unified_diff(self.path, self.old_text, self.new_text)
