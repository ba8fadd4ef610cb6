"""A code range, decoded once: where instructions start, and which of them matter.

The listing keeps no instruction objects. It keeps the offsets of the boundaries and a stream of
events, an effect on the state or a transfer of control, and the leaders: the instructions where
control arrives from elsewhere.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any, Final

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
    CONDITIONAL_BRANCH,
    DIRECT_CALL,
    DISMISSED,
    FLOW,
    NEAR_JUMP,
    NO_EFFECT,
    RETURN,
    UNSEEN,
    WRITES_OPERAND_0,
    Classifier,
)

_FLOWS: Final = frozenset({FLOW, CONDITIONAL_BRANCH, DIRECT_CALL, NEAR_JUMP, RETURN})

# Kinds of events. The payload is in parentheses.
EFFECT: Final = 1  #: the state changes (the Effect)
BRANCH: Final = 2  #: conditional jump (target offset)
JUMP: Final = 3  #: unconditional jump (target offset)
CALL: Final = 4  #: call that is expected to return (target address, None when indirect)
STOP: Final = 5  #: control does not go on: return, trap, undecodable bytes (reason)
INDIRECT: Final = 6  #: jump through a register or memory (None)
CALL_INSIDE: Final = 7  #: call of a place within the range (target offset)

Event = tuple[int, int, Any]

_NOP: Final = b"\x90"

#: Instructions of a range longer than this are refused: bounds time on hostile input.
_MOST_BYTES = 64 << 20


@dataclass(slots=True)
class Listing:
    """A decoded range.

    Attributes:
        begin: address of the first byte.
        end: address after the last byte.
        starts: offset of each instruction from ``begin``, ascending.
        events: (instruction index, kind, payload), ascending by index, one an index.
        leaders: indices where control arrives from elsewhere, ascending.
        targets: offset of each branch target within the range to its index.
        aliases: offsets within an instruction that branches enter past its prefix, to the
            index of that instruction.
        stray: index of an instruction to the lowest target within it that is no start.
        equalities: index of a conditional jump to the registers that are equal when it is
            (not) taken: (on taken, one, other).
        padding: indices of instructions that only fill space.
    """

    begin: int
    end: int
    starts: list[int]
    events: list[Event]
    leaders: list[int] = field(default_factory=list)
    targets: dict[int, int] = field(default_factory=dict)
    aliases: dict[int, int] = field(default_factory=dict)
    stray: dict[int, int] = field(default_factory=dict)
    equalities: dict[int, tuple[bool, int, int]] = field(default_factory=dict)
    padding: set[int] = field(default_factory=set)

    def index_of(self, offset: int) -> int | None:
        """Return the index of the instruction that starts at ``offset``, or None."""
        known = self.targets.get(offset)
        if known is not None:
            return known
        index = bisect_left(self.starts, offset)
        if index < len(self.starts) and self.starts[index] == offset:
            return index
        return self.aliases.get(offset)

    def add_leader(self, index: int) -> bool:
        """Make an instruction a leader; return whether it was none before."""
        position = bisect_left(self.leaders, index)
        if position < len(self.leaders) and self.leaders[position] == index:
            return False
        self.leaders.insert(position, index)
        return True


def decode(classifier: Classifier, code: bytes, begin: int) -> Listing:
    """Decode a range of code.

    Args:
        classifier: of the machine that the code is for.
        code: the bytes.
        begin: address of the first.

    Returns:
        The listing; bytes that are no instruction become ``STOP`` events.
    """
    listing = _decode(classifier, code, begin)
    fill = _zero_fill(listing, code)
    if not fill:
        return listing
    # Assembly that aligns with zeros: as instructions they swallow the first bytes of what
    # follows. Each becomes an instruction of its own that only fills space.
    patched = bytearray(code)
    for first, last in fill:
        patched[first:last] = _NOP * (last - first)
    listing = _decode(classifier, bytes(patched), begin)
    for first, last in fill:
        index = bisect_left(listing.starts, first)
        listing.padding.update(range(index, index + last - first))
    return listing


def _zero_fill(listing: Listing, code: bytes) -> list[tuple[int, int]]:
    """Return the ranges of zeros that run into the middle of an instruction, up to a target."""
    found = []
    for index, target in listing.stray.items():
        first = index
        while first > 0 and not any(code[listing.starts[first - 1] : listing.starts[index]]):
            first -= 1
        begin = listing.starts[first]
        if begin < target and not any(code[begin:target]):
            found.append((begin, target))
    return found


def _decode(classifier: Classifier, code: bytes, begin: int) -> Listing:
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
    add_target = targets.add
    size = len(code)
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
        elif level == CONDITIONAL_BRANCH:
            target = instruction.near_branch_target - begin
            events.append((index, BRANCH, target))
            add_target(target)
            continue
        elif level == DIRECT_CALL:
            target = instruction.near_branch_target - begin
            if 0 < target < size:
                events.append((index, CALL_INSIDE, target))
                add_target(target)
            else:
                events.append((index, CALL, begin + target))
            continue
        elif level >= FLOW:
            _flow_event(listing, classifier, instruction, index, targets)
            continue
        elif level == UNSEEN:
            if instruction.is_invalid:
                events.append((index, STOP, "bytes that are no instruction"))
                continue
            level = classifier.look_at_code(instruction)
            if level in _FLOWS:
                _flow_event(listing, classifier, instruction, index, targets)
                continue
            if level == DISMISSED:
                continue
        encoding = code[start:offset]
        if encoding in by_encoding:
            effect = by_encoding[encoding]
        else:
            effect = classifier.effect_of(instruction, encoding)
        if effect is not NO_EFFECT:
            events.append((index, EFFECT, effect))
    if precise:
        _find_equalities(listing, code, classifier)
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
        targets.add(target)
    elif flow == FlowControl.CALL:
        if instruction.mnemonic != Mnemonic.CALL:  # syscall, sysenter
            events.append((index, EFFECT, classifier.system_call_by(instruction.mnemonic)))
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
    found = listing.targets
    starts = listing.starts
    size, count = listing.end - listing.begin, len(starts)
    for target in targets:
        if 0 <= target < size:
            index: int | None = bisect_left(starts, target)
            assert index is not None
            if index == count or starts[index] != target:
                index = _past_a_prefix(listing, code, bits, target)
            if index is not None:
                found[target] = index
    listing.leaders = sorted(set(found.values()))


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
    listing.stray[index] = min(target, listing.stray.get(index, target))
    return None


_PREFIXES = frozenset(b"\xf0\xf2\xf3\x2e\x3e\x64\x65\x66\x36\x26")


def _find_equalities(listing: Listing, code: bytes, classifier: Classifier) -> None:
    """Find ``cmp one, other`` right before ``je``/``jne``: loops that probe the stack end so."""
    bits = classifier.space.machine.bits
    for index, kind, _ in listing.events:
        if kind != BRANCH or index == 0:
            continue
        begin, middle = listing.starts[index - 1], listing.starts[index]
        if middle - begin not in (2, 3):
            continue
        compare = Decoder(bits, code[begin:middle]).decode()
        if compare.mnemonic != Mnemonic.CMP or compare.op1_kind != OpKind.REGISTER:
            continue
        # Whole registers: equal parts tell nothing of the rest.
        one, other = classifier.whole_register(compare, 0), classifier.whole_register(compare, 1)
        if one is None or other is None:
            continue
        condition = Decoder(bits, code[middle : middle + 15]).decode().condition_code
        if condition in (ConditionCode.E, ConditionCode.NE):
            listing.equalities[index] = (condition == ConditionCode.E, one, other)


#: Instructions of one byte that only fill space: nop, int3, hlt.
FILLER_BYTES: Final = frozenset(b"\x90\xcc\xf4")


def is_filler(bits: int, encoding: bytes) -> bool:
    """Return whether an instruction only fills space: no control arrives at it on purpose.

    Args:
        bits: 64 or 32.
        encoding: bytes that start with the instruction.
    """
    if encoding[:2] == b"\0\0":
        return True
    instruction = Decoder(bits, encoding).decode()
    mnemonic = instruction.mnemonic
    if mnemonic in (Mnemonic.LEA, Mnemonic.MOV, Mnemonic.XCHG):
        # lea 0(%esi), %esi and mov %esi, %esi fill space in i386 code.
        source = instruction.memory_base if mnemonic == Mnemonic.LEA else instruction.op1_register
        return (
            instruction.op0_kind == OpKind.REGISTER
            and instruction.op0_register == source
            and instruction.memory_displacement == 0
        )
    return mnemonic in (Mnemonic.NOP, Mnemonic.INT3, Mnemonic.UD2, Mnemonic.HLT)
