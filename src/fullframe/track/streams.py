"""Many ranges of code, decoded together: only what matters of each.

:class:`fullframe.track.reader.StreamReader` makes a :class:`Batch`: arrays with an element for each
instruction. What is left of one of its ranges is a :class:`Stream`: its events, in the order of
their addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from iced_x86 import Instruction

from fullframe.track.effects import Effect
from fullframe.track.encodings import READ_AHEAD_BYTES

# Kinds of events, those that are alike in a row. The payload is in parentheses; addresses are
# absolute.
NOTHING: Final = 0  #: only a leader stands here (None)
EFFECT: Final = 1  #: the state changes, perhaps (the Effect)
BRANCH: Final = 2  #: conditional jump forward within the range (target)
JUMP: Final = 3  #: unconditional jump forward within the range (target)
CALL: Final = 4  #: direct call of a place outside of the range, or of its begin (target)
RETURNS: Final = 5  #: ``ret`` (None)
BRANCH_BACK: Final = 6  #: conditional jump to itself or backward within the range (target)
JUMP_BACK: Final = 7
BRANCH_OUT: Final = 8  #: conditional jump out of the range (target)
JUMP_OUT: Final = 9
OTHER_FLOW: Final = 10  #: any other transfer of control (the Instruction)
CALL_INSIDE: Final = 11  #: direct call of another place within the range (target)
INVALID: Final = 12  #: bytes that are no instruction (None)
#: Added where a jump within the range leads: control arrives from elsewhere too.
LEADER: Final = 16

#: Bytes of ranges decoded together.
BATCH_BYTES: Final = 1 << 18

_Array = np.ndarray[Any, Any]


class Extent:
    """Where one range is, and where its instructions start.

    Args:
        begin: address of the first byte.
        code: the bytes.
        starts: offset of each instruction, ascending.
        marks: of each byte of the code, from ``first`` on, whether an instruction starts there.
        first: where in ``marks`` the code is.

    Attributes:
        begin: address of the first byte.
        end: address after the last.
        code: the bytes.
    """

    __slots__ = ("_first", "_marks", "_starts", "begin", "code", "end")

    def __init__(self, begin: int, code: bytes, starts: _Array, marks: bytes, first: int) -> None:
        self.begin = begin
        self.end = begin + len(code)
        self.code = code
        self._starts = starts
        self._marks = marks
        self._first = first - begin

    def is_start(self, address: int) -> bool:
        """Return whether an instruction starts at an address."""
        return self.begin <= address < self.end and self._marks[self._first + address] != 0

    def are_starts(self, addresses: Iterable[int]) -> bool:
        """Return whether instructions start at all of some addresses."""
        return all(map(self.is_start, addresses))

    def start_before(self, address: int, instructions: int) -> int:
        """Return the address of the instruction that many before the one at ``address``.

        The range's begin, where there are not as many.
        """
        position = int(np.searchsorted(self._starts, address - self.begin))
        return self.begin + int(self._starts[max(0, position - instructions)])


class Stream(Extent):
    """What matters of one range.

    Args:
        begin: address of the first byte.
        code: the bytes.
        starts: offset of each instruction, ascending.
        marks: as of :class:`Extent`.
        first: as of :class:`Extent`.

    Attributes:
        count: instructions, those that do not matter included.
        kinds: of each event, ``LEADER`` added where control arrives from elsewhere.
        addresses: of each event's instruction, ascending.
        lengths: of each event's instruction, in bytes.
        payloads: of each event.
        strays: a jump within the range leads to no instruction's start.
    """

    __slots__ = ("addresses", "count", "kinds", "lengths", "payloads", "strays")

    def __init__(self, begin: int, code: bytes, starts: _Array, marks: bytes, first: int) -> None:
        super().__init__(begin, code, starts, marks, first)
        self.count = len(starts)
        self.kinds: list[int] = []
        self.addresses: list[int] = []
        self.lengths: list[int] = []
        self.payloads: list[Any] = []
        self.strays = False


class Batch:
    """Several ranges of code, decoded together: arrays with an element for each instruction.

    Places are offsets in bytes from the begin of the first range's code, all codes laid end to end.

    Args:
        bits: of the machine, 64 or 32: addresses wrap around there.
        ranges: (address, code) of each.
        effects: by number.

    Attributes:
        ranges: those.
        effects: those.
        blob: their codes, end to end.
        data: the same, and a few bytes more.
        is_end: of each place, whether a range ends there.
        kinds: what each instruction is: ``NOTHING``, ``EFFECT``, ...
        lengths: in bytes.
        starts: place of each instruction.
        targets: absolute address that a near jump or call leads to.
        owners: number of the range.
        first: index of each range's first instruction.
        counts: instructions of each range.
        begins: address of each range.
        offsets: place of each range.
        sizes: of each range in bytes.
        strays: of each range, whether a jump within it leads to no instruction's start.
        jumps: indices of the jumps within their range, calls left out.
        jump_places: the place that each of them leads to.
        effect_indices: of the instructions that have an effect, ascending.
        effect_numbers: the effects' numbers.
        index_at: place to index of the instruction that starts there; -1 where none does.
        flows: index to instruction, of rarer transfers of control.
    """

    def __init__(
        self, bits: int, ranges: Sequence[tuple[int, bytes]], effects: dict[int, Effect]
    ) -> None:
        self._highest = np.uint64((1 << bits) - 1)
        self.ranges = ranges
        self.effects = effects
        self.blob = b"".join([code for _, code in ranges])
        self.data = np.frombuffer(self.blob + bytes(READ_AHEAD_BYTES), np.uint8)
        self.count = 0
        self.size = 0
        self.flows: dict[int, Instruction] = {}
        self._parts: list[tuple[_Array, ...]] = []
        self._effect_parts: list[tuple[_Array, _Array]] = []
        self.sizes = np.array([len(code) for _, code in ranges], np.int64)
        self.offsets = np.cumsum(self.sizes) - self.sizes
        self.begins = np.array([begin for begin, _ in ranges], np.uint64)
        self.is_end = np.zeros(len(self.blob) + 1, bool)
        self.is_end[self.offsets + self.sizes] = True

    def add(self, kinds: _Array, lengths: _Array, distances: _Array, size: int) -> None:
        """Append a chunk's instructions.

        Args:
            kinds: of each.
            lengths: of each, in bytes.
            distances: of each that is a near jump or call: how far from behind it it leads.
            size: where the last ends.
        """
        self._parts.append((kinds, lengths, distances))
        self.count += len(kinds)
        self.size = size

    def add_effects(self, indices: _Array, numbers: _Array) -> None:
        """Append the effects of a chunk, by index within it, before the chunk itself."""
        self._effect_parts.append((indices + self.count, numbers))

    def sort_jumps(self) -> None:
        """Tell jumps forward, backward and out of their range apart; find where they lead."""
        nothing = (np.zeros(0, np.uint8), np.zeros(0, np.uint8), np.zeros(0, np.int64))
        kinds, self.lengths, distances = (
            np.concatenate(part) for part in zip(*(self._parts or [nothing]), strict=True)
        )
        none = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        self.effect_indices, self.effect_numbers = (
            np.concatenate(part) for part in zip(*(self._effect_parts or [none]), strict=True)
        )
        self._parts, self._effect_parts = [], []
        self.kinds = kinds
        starts = self.starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        self.first = np.searchsorted(starts, self.offsets)
        self.counts = np.diff(self.first, append=self.count)
        self.owners = np.repeat(np.arange(len(self.ranges)), self.counts)
        self.index_at = np.full(len(self.blob) + 1, -1, np.int64)
        self.index_at[starts] = np.arange(self.count)
        self.strays = np.zeros(len(self.ranges), bool)
        jumps = np.flatnonzero((kinds >= BRANCH) & (kinds <= CALL))
        owners = self.owners[jumps]
        self.targets = np.zeros(self.count, np.uint64)
        behind = starts[jumps] + self.lengths[jumps] - self.offsets[owners] + distances[jumps]
        self.targets[jumps] = (behind.astype(np.uint64) + self.begins[owners]) & self._highest
        relative = self.targets[jumps] - self.begins[owners]  # unsigned: below the begin is far up
        inside = relative < self.sizes[owners].astype(np.uint64)
        place = np.where(inside, relative, np.uint64(0)).astype(np.int64) + self.offsets[owners]
        forward = inside & (place > starts[jumps])
        kind = kinds[jumps]
        calls = kind == CALL
        np.putmask(kind, calls & inside & (place != self.offsets[owners]), CALL_INSIDE)
        kind += np.uint8(BRANCH_BACK - BRANCH) * (~calls & inside & ~forward)
        kind += np.uint8(BRANCH_OUT - BRANCH) * (~calls & ~inside)
        kinds[jumps] = kind
        within = np.flatnonzero(~calls & inside)
        self.jumps, self.jump_places = jumps[within], place[within]
        self.strays[owners[within[self.index_at[self.jump_places] < 0]]] = True

    @cached_property
    def _events(self) -> tuple[_Array, _Array, _Array]:
        """(indices of the events, their kinds, index in them of each range's first and the end)."""
        kinds, starts = self.kinds, self.starts
        is_target = np.zeros(len(self.blob) + 1, bool)
        is_target[self.jump_places[self.jump_places > starts[self.jumps]]] = True
        leaders = is_target[starts]
        events = np.flatnonzero((kinds != NOTHING) | leaders)
        marked = kinds[events] + np.uint8(LEADER) * leaders[events]
        return events, marked, np.append(np.searchsorted(events, self.first), len(events))

    def stream(self, number: int) -> Stream:
        """Return what matters of one range."""
        events, marked, cuts = self._events
        begin, code = self.ranges[number]
        one, other = int(cuts[number]), int(cuts[number + 1])
        head, offset = int(self.first[number]), int(self.offsets[number])
        indices = events[one:other]
        payloads: list[Any] = self.targets[indices].tolist()
        low, high = np.searchsorted(
            self.effect_indices, (head, head + int(self.counts[number]))
        ).tolist()
        places = np.searchsorted(indices, self.effect_indices[low:high]).tolist()
        numbers = self.effect_numbers[low:high].tolist()
        for place, effect in zip(places, numbers, strict=True):
            payloads[place] = self.effects[effect]
        for place in np.flatnonzero(self.kinds[indices] == OTHER_FLOW).tolist():
            payloads[place] = self.flows[int(indices[place])]
        own = self.starts[head : head + int(self.counts[number])] - offset
        stream = Stream(begin, code, own, self._marks, offset)
        stream.kinds = marked[one:other].tolist()
        stream.addresses = (
            (self.starts[indices] - offset).astype(np.uint64) + np.uint64(begin)
        ).tolist()
        stream.lengths = self.lengths[indices].tolist()
        stream.payloads = payloads
        stream.strays = bool(self.strays[number])
        return stream

    def extent(self, number: int) -> Extent:
        """Return where one range is."""
        begin, code = self.ranges[number]
        head, count = int(self.first[number]), int(self.counts[number])
        offset = int(self.offsets[number])
        own = self.starts[head : head + count] - offset
        return Extent(begin, code, own, self._marks, offset)

    @cached_property
    def _marks(self) -> bytes:
        """Of each place, whether an instruction starts there."""
        return (self.index_at >= 0).tobytes()


__all__ = ["BATCH_BYTES", "LEADER", "Batch", "Extent", "Stream"]
