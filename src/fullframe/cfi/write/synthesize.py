"""Rows from code: the call-frame information that a function ought to have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fullframe.cfi.rules import Row
from fullframe.cfi.write.follow import Followed, FunctionFollower
from fullframe.cfi.write.functions import Function, with_entries
from fullframe.cfi.write.rule_choice import RuleChooser, Rules, Style
from fullframe.elf.image import Image
from fullframe.track.listing import STOP


@dataclass(slots=True)
class Gap:
    """A run of code whose frame is not known.

    Attributes:
        begin: its first address.
        end: the address after it.
        reason: why.
        is_contradiction: control is seen to come here, and yet nothing can be said; otherwise
            nothing is seen to come here.
    """

    begin: int
    end: int
    reason: str
    is_contradiction: bool = False


@dataclass(slots=True)
class Synthesized:
    """The rows of one function.

    Attributes:
        function: the function.
        rows: by address, the first at the function's begin; empty where nothing is known.
        boundaries: addresses of its instructions, fill left out.
        after_transfer: addresses that the instruction before does not lead to.
        assumed: boundaries that only an indirect jump with unseen targets can lead to; taken to
            have the frame of that jump.
        gaps: runs of code without a row of their own (the row before them covers them).
        crossings: (address that control comes from, where it goes) where that is entered as a
            function and the frame is another: no row is true of both.
        doubts: (address, register name): written as undefined because it is not known where the
            caller's value is.
    """

    function: Function
    rows: list[Row] = field(default_factory=list)
    boundaries: list[int] = field(default_factory=list)
    after_transfer: set[int] = field(default_factory=set)
    assumed: list[int] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    doubts: list[tuple[int, str]] = field(default_factory=list)
    crossings: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether every boundary has a row and nothing is assumed or in doubt."""
        return bool(self.rows) and not (self.gaps or self.doubts or self.assumed or self.crossings)


def synthesize(
    image: Image,
    functions: list[Function],
    preserved: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> list[Synthesized]:
    """Make the rows of functions from what their code does.

    Args:
        image: the image.
        functions: by address, none overlapping.
        preserved: function to the hardware numbers of registers that survive it although the ABI
            lets callees change them: they get rules, too.

    Returns:
        One item for each function whose bytes the file holds, by address.
    """
    follower = FunctionFollower(image, with_entries(image, functions))
    chooser = RuleChooser(image.machine)
    found = follower.follow_all()
    styles = {
        followed.function.begin: chooser.style_of(
            followed.states, preserved.get(followed.function.name, ())
        )
        for followed in found
    }
    for followed in found:
        if not followed.function.entered_by_call:
            # A cold part goes on with the frame of the function that it was split off.
            sources = [styles[begin] for begin in followed.sources if begin in styles]
            if sources:
                styles[followed.function.begin] = sources[0]
    return [
        _rows_of(image, followed, chooser, styles[followed.function.begin]) for followed in found
    ]


def _rows_of(image: Image, followed: Followed, chooser: RuleChooser, style: Style) -> Synthesized:
    listing, states = followed.listing, followed.states
    begin = listing.begin
    result = Synthesized(followed.function, crossings=followed.crossings)
    starts = listing.starts
    no_instruction = {
        index
        for index, kind, payload in listing.events
        if kind == STOP and payload == "bytes that are no instruction"
    }
    current: Rules | None = None
    for index, start in enumerate(starts):
        address = begin + start
        if index in followed.after_transfer:
            result.after_transfer.add(address)
        if index in followed.padding:
            continue
        result.boundaries.append(address)
        if index in followed.assumed:
            result.assumed.append(address)
        state = states[index]
        end = begin + starts[index + 1] if index + 1 < len(starts) else listing.end
        if state is None:
            _gap(result, address, end, "no visible edge leads here")
            continue
        if index in no_instruction:
            _gap(result, address, end, "control comes to bytes that are no instruction", True)
            continue
        rules = chooser.rules(state, style)
        if index in followed.calling:
            # What an unwind out of the callee looks up must be true while it runs.
            lasting = chooser.rules(followed.calling[index], style)
            rules = rules if lasting.cfa is None else lasting
        if rules.cfa is None:
            _gap(result, address, end, "the CFA cannot be found from any register", True)
            continue
        for register in rules.doubts:
            result.doubts.append((address, image.machine.register_names[register]))
        if current is None or rules != current:
            result.rows.append(Row(address, rules.cfa, dict(rules.registers), 0))
            current = rules
    if result.rows and result.rows[0].address != begin:
        # The rows of a cold part hold from its first byte on, fill included.
        result.rows[0] = result.rows[0]._replace(address=begin)
    return result


def _gap(
    result: Synthesized, begin: int, end: int, reason: str, is_contradiction: bool = False
) -> None:
    last = result.gaps[-1] if result.gaps else None
    if last is not None and last.end == begin and last.reason == reason:
        last.end = end
    else:
        result.gaps.append(Gap(begin, end, reason, is_contradiction))


__all__ = ["Gap", "Synthesized", "synthesize"]
