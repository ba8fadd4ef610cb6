"""A code range, decoded once: where instructions start, and which of them matter.

The listing keeps no instruction objects. It keeps the offsets of the boundaries and a stream of
events: an effect on the state, a transfer of control, or a leader, the target of a branch.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

from iced_x86 import (
    ConditionCode,
    Decoder,
    DecoderOptions,
    FlowControl,
    Instruction,
    Mnemonic,
    OpKind,
)

from fullframe.track.classify import (
    _HARDWARE,
    DISMISSED,
    FLOW,
    UNSEEN,
    WRITES_OPERAND_0,
    Classifier,
)

# Kinds of events. The payload is in parentheses.
LEADER: Final = 0  #: control arrives here from elsewhere (None)
EFFECT: Final = 1  #: the state changes (the Effect)
BRANCH: Final = 2  #: conditional jump (target offset)
JUMP: Final = 3  #: unconditional jump (target offset)
CALL: Final = 4  #: call that is expected to return (target address, None when indirect)
STOP: Final = 5  #: control does not go on: return, trap, undecodable bytes (reason)
INDIRECT: Final = 6  #: jump through a register or memory (None)
CALL_INSIDE: Final = 7  #: call of a place within the range (target offset)

Event = tuple[int, int, object]

#: Instructions of a range longer than this are refused: bounds time on hostile input.
_MOST_BYTES = 64 << 20


@dataclass(slots=True)
class Listing:
    """A decoded range.

    Attributes:
        begin: address of the first byte.
        end: address after the last byte.
        starts: offset of each instruction from ``begin``, ascending.
        events: (instruction index, kind, payload), ascending by index, leaders first.
        aliases: offsets within an instruction that branches enter past its prefix, to the
            index of that instruction.
        stray: targets within the range that are no instruction's start, by source index.
        equalities: index of a conditional jump to the registers that are equal when it is
            (not) taken: (on taken, one, other).
        padding: indices of instructions that only fill space.
    """

    begin: int
    end: int
    starts: list[int]
    events: list[Event]
    aliases: dict[int, int] = field(default_factory=dict)
    stray: dict[int, int] = field(default_factory=dict)
    equalities: dict[int, tuple[bool, int, int]] = field(default_factory=dict)
    padding: set[int] = field(default_factory=set)

    def index_of(self, offset: int) -> int | None:
        """Return the index of the instruction that starts at ``offset``, or None."""
        index = bisect_left(self.starts, offset)
        if index < len(self.starts) and self.starts[index] == offset:
            return index
        return self.aliases.get(offset)


def decode(classifier: Classifier, code: bytes, begin: int) -> Listing:
    """Decode a range of code.

    Args:
        classifier: of the machine that the code is for.
        code: the bytes.
        begin: address of the first.

    Returns:
        The listing; bytes that are no instruction become ``STOP`` events.
    """
    bits = classifier.space.machine.bits
    relevance = classifier.relevance
    tracked_register = classifier.tracked_register
    tracked_base = classifier.tracked_base
    by_encoding = classifier.by_encoding
    precise = classifier.space.precise
    starts: list[int] = []
    events: list[Event] = []
    targets: set[int] = set()
    listing = Listing(begin, begin + len(code), starts, events)
    add_start = starts.append
    offset = 0
    index = -1
    for instruction in Decoder(bits, code, DecoderOptions.NONE, begin):
        start = offset
        add_start(start)
        index += 1
        offset += instruction.len
        level = relevance[instruction.code]
        if level == DISMISSED:
            continue
        if level == WRITES_OPERAND_0:
            register = instruction.op0_register
            if not tracked_register[register] and (
                register or not tracked_base[instruction.memory_base]
            ):
                continue
        elif level == FLOW:
            _flow_event(listing, classifier, instruction, index, targets)
            continue
        elif level == UNSEEN:
            if instruction.is_invalid:
                events.append((index, STOP, "bytes that are no instruction"))
                continue
            level = classifier.look_at_code(instruction)
            if level == FLOW:
                _flow_event(listing, classifier, instruction, index, targets)
                continue
            if level == DISMISSED:
                continue
        encoding = code[start:offset]
        if encoding in by_encoding:
            effect = by_encoding[encoding]
        else:
            effect = classifier.effect_of(instruction, encoding)
        if effect is not None:
            events.append((index, EFFECT, effect))
    if precise:
        _find_equalities(listing, code, bits)
    _mark_leaders(listing, code, bits, targets)
    return listing


def _flow_event(
    listing: Listing,
    classifier: Classifier,
    instruction: Instruction,
    index: int,
    targets: set[int],
) -> None:
    events = listing.events
    flow = instruction.flow_control
    if flow in (FlowControl.CONDITIONAL_BRANCH, FlowControl.UNCONDITIONAL_BRANCH) or (
        flow == FlowControl.XBEGIN_XABORT_XEND and instruction.mnemonic == Mnemonic.XBEGIN
    ):
        if instruction.op0_kind not in (
            OpKind.NEAR_BRANCH16,
            OpKind.NEAR_BRANCH32,
            OpKind.NEAR_BRANCH64,
        ):
            events.append((index, STOP, "far jump"))
            return
        target = instruction.near_branch_target - listing.begin
        kind = JUMP if flow == FlowControl.UNCONDITIONAL_BRANCH else BRANCH
        events.append((index, kind, target))
        if 0 <= target < listing.end - listing.begin:
            targets.add(target)
    elif flow == FlowControl.CALL:
        if instruction.mnemonic != Mnemonic.CALL:  # syscall, sysenter
            events.append((index, EFFECT, classifier.system_call))
            return
        if instruction.op0_kind in (OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64):
            address = instruction.near_branch_target
            offset = address - listing.begin
            if 0 < offset < listing.end - listing.begin:
                events.append((index, CALL_INSIDE, offset))
                targets.add(offset)
            else:
                events.append((index, CALL, address))
        else:
            events.append((index, CALL, None))
    elif flow == FlowControl.INDIRECT_CALL:
        events.append((index, CALL, None))
    elif flow == FlowControl.INDIRECT_BRANCH:
        events.append((index, INDIRECT, None))
    elif flow == FlowControl.INTERRUPT:
        if instruction.mnemonic == Mnemonic.INT:
            events.append((index, EFFECT, classifier.system_call))
        elif instruction.mnemonic == Mnemonic.INT3:
            events.append((index, STOP, "trap"))
    elif flow == FlowControl.RETURN:
        events.append((index, STOP, "return"))
    elif flow == FlowControl.EXCEPTION:
        events.append((index, STOP, "trap"))
    elif instruction.mnemonic in (Mnemonic.HLT, Mnemonic.IRET, Mnemonic.IRETD, Mnemonic.IRETQ):
        events.append((index, STOP, "halt or return from interrupt"))


def _mark_leaders(listing: Listing, code: bytes, bits: int, targets: set[int]) -> None:
    leaders = set()
    for target in targets:
        index = listing.index_of(target)
        if index is None:
            index = _past_a_prefix(listing, code, bits, target)
        if index is None:
            continue
        leaders.add(index)
    add_leaders(listing, leaders)


def add_leaders(listing: Listing, leaders: set[int]) -> None:
    """Mark instruction indices as places where control arrives from elsewhere."""
    present = {event[0] for event in listing.events if event[1] == LEADER}
    new = [(index, LEADER, None) for index in leaders if index not in present]
    if new:
        listing.events.extend(new)
        listing.events.sort(key=_by_index_and_kind)


def _by_index_and_kind(event: Event) -> tuple[int, int]:
    return event[0], event[1]


def _past_a_prefix(listing: Listing, code: bytes, bits: int, target: int) -> int | None:
    """Accept a jump past the ``lock`` prefix of an instruction (glibc's single-thread case)."""
    index = bisect_left(listing.starts, target) - 1
    if index < 0:
        return None
    start = listing.starts[index]
    following = (
        listing.starts[index + 1]
        if index + 1 < len(listing.starts)
        else listing.end - listing.begin
    )
    if all(byte in _PREFIXES for byte in code[start:target]):
        instruction = Decoder(bits, code[target : target + 15]).decode()
        if not instruction.is_invalid and target + instruction.len == following:
            listing.aliases[target] = index
            return index
    listing.stray[index] = target
    return None


_PREFIXES = frozenset(b"\xf0\xf2\xf3\x2e\x3e\x64\x65\x66\x36\x26")


def _find_equalities(listing: Listing, code: bytes, bits: int) -> None:
    """Find ``cmp one, other`` right before ``je``/``jne``: loops that probe the stack end so."""
    for index, kind, _ in listing.events:
        if kind != BRANCH or index == 0:
            continue
        begin, middle = listing.starts[index - 1], listing.starts[index]
        if middle - begin not in (2, 3):
            continue
        compare = Decoder(bits, code[begin:middle]).decode()
        if compare.mnemonic != Mnemonic.CMP or compare.op1_kind != OpKind.REGISTER:
            continue
        one = _HARDWARE.get(compare.op0_register)
        other = _HARDWARE.get(compare.op1_register)
        if compare.op0_kind != OpKind.REGISTER or one is None or other is None:
            continue
        condition = Decoder(bits, code[middle : middle + 15]).decode().condition_code
        if condition in (ConditionCode.E, ConditionCode.NE):
            listing.equalities[index] = (condition == ConditionCode.E, one, other)
