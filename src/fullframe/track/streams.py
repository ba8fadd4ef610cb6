"""Many ranges of code, decoded together: only what matters of each.

Six instructions in ten change nothing that the coarse space keeps, and send control nowhere. To
look at each of them in a loop of Python's would be most of the work; so decoding, the look at
``Instruction.code`` and at operand 0, the sorting of branches and the search for their targets
are done for thousands of instructions at a time, in C and in numpy. What is left of a range is a
:class:`Stream`: its events, in the order of their addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter, itemgetter
from typing import Any, Final

import numpy as np
from iced_x86 import Code, Decoder, DecoderOptions, Instruction

from fullframe.track.classify import (
    CONDITIONAL_BRANCH,
    DIRECT_CALL,
    DISMISSED,
    FLOW,
    FULL_LOOK,
    NEAR_JUMP,
    RETURN,
    UNSEEN,
    WRITES_OPERAND_0,
    Classifier,
)

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

#: Bytes of ranges decoded together, and instructions held as objects at once.
BATCH_BYTES: Final = 1 << 18
_CHUNK: Final = 1 << 14

_KIND_OF_LEVEL: Final = {
    FLOW: OTHER_FLOW,
    CONDITIONAL_BRANCH: BRANCH,
    DIRECT_CALL: CALL,
    NEAR_JUMP: JUMP,
    RETURN: RETURNS,
}
_CODE_OF = attrgetter("code")
_OPERAND_0_OF = attrgetter("op0_register")
_BASE_OF = attrgetter("memory_base")
_TARGET_OF = attrgetter("near_branch_target")

_Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class Stream:
    """What matters of one range.

    Attributes:
        begin: address of the first byte.
        end: address after the last.
        code: the bytes.
        count: instructions, those that do not matter included.
        kinds: of each event, ``LEADER`` added where control arrives from elsewhere.
        addresses: of each event's instruction, ascending.
        lengths: of each event's instruction, in bytes.
        payloads: of each event.
        strays: a jump within the range leads to no instruction's start.
    """

    begin: int
    end: int
    code: bytes
    count: int
    kinds: list[int]
    addresses: list[int]
    lengths: list[int]
    payloads: list[Any]
    strays: bool
    _starts: _Array
    _offsets: frozenset[int] | None = None

    def are_starts(self, addresses: Iterable[int]) -> bool:
        """Return whether instructions start at all of some addresses."""
        begin, starts = self.begin, self._offsets
        for address in addresses:
            if starts is None:
                starts = self._offsets = frozenset(self._starts.tolist())
            if address - begin not in starts:
                return False
        return True

    def start_before(self, address: int, instructions: int) -> int:
        """Return the address of the instruction that many before the one at ``address``.

        The range's begin, where there are not as many.
        """
        position = int(np.searchsorted(self._starts, address - self.begin))
        return self.begin + int(self._starts[max(0, position - instructions)])


class StreamReader:
    """Reads streams for one classifier.

    Args:
        classifier: of the coarse space. (The precise one follows what this leaves out.)
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._bits = classifier.space.machine.bits
        self._relevance = np.frombuffer(classifier.relevance, dtype=np.int8)
        self._register = np.frombuffer(classifier.tracked_register, dtype=np.uint8)
        self._base = np.frombuffer(classifier.tracked_base, dtype=np.uint8)

    def read(self, ranges: Sequence[tuple[int, bytes]]) -> list[Stream]:
        """Decode some ranges.

        Args:
            ranges: (address, code) of each; about ``BATCH_BYTES`` together are the fastest.

        Returns:
            A stream for each.
        """
        decoders = (Decoder(self._bits, code, DecoderOptions.NONE, begin) for begin, code in ranges)
        every = chain.from_iterable(decoders)
        blob = b"".join([code for _, code in ranges])
        batch = _Batch()
        while chunk := list(islice(every, _CHUNK)):
            self._look(chunk, blob, batch)
        return batch.streams(ranges, len(blob))

    def _look(self, chunk: list[Instruction], blob: bytes, batch: _Batch) -> None:
        """Find the events among instructions that follow one another in ``blob``."""
        classifier = self._classifier
        count = len(chunk)
        codes = np.fromiter(map(_CODE_OF, chunk), np.uint16, count)
        lengths = np.fromiter(map(len, chunk), np.int64, count)
        levels = self._relevance[codes]
        unseen = np.flatnonzero(levels == UNSEEN)
        if len(unseen):
            for code, first in zip(*np.unique(codes[unseen], return_index=True), strict=True):
                if code != Code.INVALID:
                    classifier.look_at_code(chunk[unseen[first]])
            levels = self._relevance[codes]
        kinds = np.zeros(count, np.uint8)
        targets = np.zeros(count, np.uint64)
        for level, kind in _KIND_OF_LEVEL.items():
            kinds[levels == level] = kind
        kinds[codes == Code.INVALID] = INVALID
        jumps = np.flatnonzero((kinds == BRANCH) | (kinds == CALL) | (kinds == JUMP))
        if len(jumps):
            targets[jumps] = _gather(_TARGET_OF, chunk, jumps, np.uint64)
        ends = np.cumsum(lengths) + batch.size
        self._effects(chunk, blob, batch, levels, kinds, ends, lengths)
        for index in np.flatnonzero(kinds == OTHER_FLOW).tolist():
            batch.payloads.append((batch.count + index, chunk[index]))
        batch.add(kinds, lengths, targets, int(ends[-1]))

    def _effects(
        self,
        chunk: list[Instruction],
        blob: bytes,
        batch: _Batch,
        levels: _Array,
        kinds: _Array,
        ends: _Array,
        lengths: _Array,
    ) -> None:
        """Mark and look up what changes a state; most that only write operand 0 do not."""
        effect_of, known = self._classifier.effect_of, self._classifier.by_encoding
        looked_at = levels == FULL_LOOK
        writes = np.flatnonzero(levels == WRITES_OPERAND_0)
        if len(writes):
            written = _gather(_OPERAND_0_OF, chunk, writes, np.uint16)
            looked_at[writes[self._register[written] != 0]] = True
            stores = writes[written == 0]
            if len(stores):
                bases = _gather(_BASE_OF, chunk, stores, np.uint16)
                looked_at[stores[self._base[bases] != 0]] = True
        indices = np.flatnonzero(looked_at)
        stops = ends[indices]
        places = zip(
            indices.tolist(), (stops - lengths[indices]).tolist(), stops.tolist(), strict=True
        )
        found, payloads, base = [], batch.payloads, batch.count
        for index, start, stop in places:
            encoding = blob[start:stop]
            try:
                effect = known[encoding]
            except KeyError:
                effect = effect_of(chunk[index], encoding)
            if effect is not None:
                found.append(index)
                payloads.append((base + index, effect))
        kinds[found] = EFFECT


def _gather(getter: attrgetter[Any], chunk: list[Any], indices: _Array, kind: Any) -> _Array:
    """Return an attribute of some instructions as an array."""
    if len(indices) == 1:
        return np.array([getter(chunk[int(indices[0])])], kind)
    return np.fromiter(map(getter, itemgetter(*indices.tolist())(chunk)), kind, len(indices))


class _Batch:
    """The instructions of several ranges, one after the other, as arrays.

    Attributes:
        count: instructions so far.
        size: bytes so far.
        payloads: (index of the instruction, payload) of effects and rare transfers of control.
    """

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.payloads: list[tuple[int, Any]] = []
        self._parts: list[tuple[_Array, _Array, _Array]] = []

    def add(self, kinds: _Array, lengths: _Array, targets: _Array, size: int) -> None:
        """Append a chunk's instructions; ``size`` is where they end."""
        self._parts.append((kinds, lengths, targets))
        self.count += len(kinds)
        self.size = size

    def streams(self, ranges: Sequence[tuple[int, bytes]], size: int) -> list[Stream]:
        """Sort the branches, find the leaders, and cut the batch into its ranges' streams."""
        if not self._parts:
            nothing = np.zeros(0, np.int64)
            return [Stream(at, at, code, 0, [], [], [], [], False, nothing) for at, code in ranges]
        kinds, lengths, targets = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        ends = np.cumsum(lengths)
        starts = ends - lengths
        sizes = np.array([len(code) for _, code in ranges], np.int64)
        offsets = np.cumsum(sizes) - sizes
        begins = np.array([begin for begin, _ in ranges], np.uint64)
        first = np.searchsorted(starts, offsets)
        numbers = np.arange(len(ranges))
        counts = np.diff(first, append=self.count)
        is_start = np.zeros(size, bool)
        is_start[starts] = True
        is_target = np.zeros(size, bool)
        strays = np.zeros(len(ranges), bool)
        owners = np.repeat(numbers, counts)
        self._sort_jumps(
            kinds, starts, targets, owners, (begins, offsets, sizes), (is_start, is_target, strays)
        )
        leaders = is_target[starts]
        chosen = (kinds != NOTHING) | leaders
        events = np.flatnonzero(chosen)
        base = begins - offsets.astype(np.uint64)
        addresses = (starts[events].astype(np.uint64) + base[owners[events]]).tolist()
        all_kinds = (kinds[events] + np.uint8(LEADER) * leaders[events]).tolist()
        all_lengths = lengths[events].tolist()
        payloads: list[Any] = targets[events].tolist()
        if self.payloads:
            indices = np.array([index for index, _ in self.payloads], np.int64)
            places = (np.cumsum(chosen) - 1)[indices].tolist()
            for place, (_, payload) in zip(places, self.payloads, strict=True):
                payloads[place] = payload
        cuts = [*np.searchsorted(events, first).tolist(), len(events)]
        heads = [*first.tolist(), self.count]
        streams = []
        for number, (begin, code) in enumerate(ranges):
            one, other = cuts[number], cuts[number + 1]
            head, tail = heads[number], heads[number + 1]
            streams.append(
                Stream(
                    begin, begin + len(code), code, tail - head, all_kinds[one:other],
                    addresses[one:other],
                    all_lengths[one:other], payloads[one:other], bool(strays[number]),
                    starts[head:tail] - offsets[number],
                )
            )  # fmt: skip
        return streams

    @staticmethod
    def _sort_jumps(
        kinds: _Array,
        starts: _Array,
        targets: _Array,
        owners: _Array,
        ranges: tuple[_Array, _Array, _Array],
        marks: tuple[_Array, _Array, _Array],
    ) -> None:
        """Tell jumps forward, backward and out of their range apart; mark where they lead."""
        begins, offsets, sizes = ranges
        is_start, is_target, strays = marks
        jumps = np.flatnonzero((kinds == BRANCH) | (kinds == CALL) | (kinds == JUMP))
        if not len(jumps):
            return
        owners = owners[jumps]
        relative = targets[jumps] - begins[owners]  # unsigned: below the begin is far above
        inside = relative < sizes[owners].astype(np.uint64)
        place = np.where(inside, relative, np.uint64(0)).astype(np.int64) + offsets[owners]
        forward = inside & (place > starts[jumps])
        kind = kinds[jumps]
        calls = kind == CALL
        kind[calls & inside & (place != offsets[owners])] = CALL_INSIDE
        kind[~calls & inside & ~forward] += BRANCH_BACK - BRANCH
        kind[~calls & ~inside] += BRANCH_OUT - BRANCH
        kinds[jumps] = kind
        within = ~calls & inside
        strays[owners[within & ~is_start[place]]] = True
        is_target[place[~calls & forward]] = True


__all__ = ["BATCH_BYTES", "DISMISSED", "LEADER", "Stream", "StreamReader"]
