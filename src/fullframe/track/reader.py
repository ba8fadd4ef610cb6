"""Reading many ranges of code together.

Six instructions in ten change nothing that the coarse space keeps, and send control nowhere. To
look at each of them in a loop of Python's would be most of the work; so all is done for thousands
of instructions at a time: iced-x86 decodes them and says how long each is, and what kinds they are
of, which registers they write and where branches lead is read off their bytes in numpy
(:mod:`fullframe.track.encodings`). Only what is met for the first time, and what is rare, is looked
at one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
from iced_x86 import (
    Code,
    Decoder,
    DecoderOptions,
    Instruction,
    OpCodeOperandKind,
    OpKind,
)

from fullframe.track.classify import (
    CONDITIONAL_BRANCH,
    DIRECT_CALL,
    FLOW,
    FULL_LOOK,
    NEAR_JUMP,
    NO_EFFECT,
    RETURN,
    UNSEEN,
    WRITES_OPERAND_0,
    Classifier,
)
from fullframe.track.dependence import (
    ENCODING,
    REGISTER,
    REGISTER_UNLESS_ADDRESS,
    REGISTER_UNLESS_OF_FRAME,
    depends_on,
)
from fullframe.track.encodings import (
    BYTE_REGISTER,
    ELSEWHERE,
    IN_MEMORY,
    IN_OPCODE,
    IN_REG,
    IN_RM,
    LONGEST_KEY_BYTES,
    SIGNATURES,
    Encodings,
    bases_of,
    distances_of,
    encodings_of,
    keys_of,
    registers_of,
    without_reg,
)
from fullframe.track.memo import UNKNOWN_ANSWER, Memo
from fullframe.track.operands import HARDWARE
from fullframe.track.streams import (
    BRANCH,
    CALL,
    EFFECT,
    INVALID,
    JUMP,
    NOTHING,
    OTHER_FLOW,
    RETURNS,
    Batch,
)
from fullframe.x86.registers import BP, SP

#: Instructions held as objects at once.
_CHUNK: Final = 1 << 14

#: What a signature or code needs, besides what the classifier says: it is no instruction; iced-x86
#: has to be asked of each.
_NO_INSTRUCTION: Final = 8
_ODD: Final = 9
#: Kind by what a code needs; of what needs a look, more has to be known.
_KINDS: Final = np.full(256, NOTHING, np.uint8)
for _level, _kind in {
    FLOW: OTHER_FLOW,
    CONDITIONAL_BRANCH: BRANCH,
    DIRECT_CALL: CALL,
    NEAR_JUMP: JUMP,
    RETURN: RETURNS,
    _NO_INSTRUCTION: INVALID,
}.items():
    _KINDS[_level] = _kind

_CODE_OF = attrgetter("code")
_OPERAND_0_OF = attrgetter("op0_register")
_BASE_OF = attrgetter("memory_base")

_Kind = OpCodeOperandKind
#: Kinds of operand 0 that are general registers, to where they are.
_FORMS: Final = {
    _Kind.R8_REG: IN_REG | BYTE_REGISTER,
    _Kind.R16_REG: IN_REG,
    _Kind.R32_REG: IN_REG,
    _Kind.R64_REG: IN_REG,
    _Kind.R8_OR_MEM: IN_RM | BYTE_REGISTER,
    _Kind.R16_OR_MEM: IN_RM,
    _Kind.R32_OR_MEM: IN_RM,
    _Kind.R64_OR_MEM: IN_RM,
    _Kind.R8_OPCODE: IN_OPCODE | BYTE_REGISTER,
    _Kind.R16_OPCODE: IN_OPCODE,
    _Kind.R32_OPCODE: IN_OPCODE,
    _Kind.R64_OPCODE: IN_OPCODE,
}
#: Kinds of operand 1 that are registers which the ModRM byte's ``reg`` names.
_FROM_REG: Final = frozenset(
    {_Kind.R8_REG, _Kind.R16_REG, _Kind.R32_REG, _Kind.R64_REG, _Kind.MM_REG, _Kind.XMM_REG}
)
#: Kinds of operand 0 that are always the same register.
_FIXED: Final = frozenset({_Kind.AL, _Kind.CL, _Kind.AX, _Kind.DX, _Kind.EAX, _Kind.RAX})

_Array = np.ndarray[Any, Any]


class _Chunk(NamedTuple):
    """Instructions that are looked at together, an element of each array for each.

    Attributes:
        instructions: decoded.
        batch: that they are part of.
        starts: place in it where each starts.
        ends: place where it ends.
        fields: what its bytes tell.
        odd: whether they do not, so that iced-x86 is asked.
    """

    instructions: list[Instruction]
    batch: Batch
    starts: _Array
    ends: _Array
    fields: Encodings
    odd: _Array

    def encoding(self, index: int) -> bytes:
        """Return the bytes of an instruction."""
        return self.batch.blob[int(self.starts[index]) : int(self.ends[index])]


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
        #: By hardware number, the same.
        self._hardware_register = np.zeros(256, bool)
        self._hardware_base = np.zeros(256, bool)
        for iced, hardware in HARDWARE.items():
            self._hardware_register[hardware] |= bool(self._register[iced])
            self._hardware_base[hardware] |= bool(self._base[iced])
        # What is known of each signature.
        self._levels = np.full(SIGNATURES, UNSEEN, np.int8)
        self._forms = np.zeros(SIGNATURES, np.uint8)
        self._fixed = np.zeros(SIGNATURES, bool)
        #: What the effect depends on, and its row in ``_by_register``, if it is the register.
        self._dependences = np.zeros(SIGNATURES, np.uint8)
        self._rows = np.zeros(SIGNATURES, np.int32)
        #: By dependence, through which registers memory must not be addressed.
        self._base_matters = np.zeros((4, 256), bool)
        self._base_matters[REGISTER_UNLESS_OF_FRAME] = self._hardware_base
        saved = list(classifier.space.machine.callee_saved)
        self._base_matters[REGISTER_UNLESS_ADDRESS, saved] = True
        #: Whether a register is stored that the ModRM byte's ``reg`` names.
        self._stores = np.zeros(SIGNATURES, bool)
        self._used_rows = 0
        self._by_register = np.full((512, 16), -1, np.int32)
        #: Numbers of effects by encodings.
        self._by_key = Memo()
        self._effects = classifier.effects

    def read(self, ranges: Sequence[tuple[int, bytes]]) -> Batch:
        """Decode some ranges.

        Args:
            ranges: (address, code) of each; about ``BATCH_BYTES`` together are the fastest.
        """
        if self._effects is not self._classifier.effects:
            # The classifier has forgotten the effects that these numbers are of.
            self._effects = self._classifier.effects
            self._by_register[:] = -1
            self._by_key.forget()
        decoders = (Decoder(self._bits, code, DecoderOptions.NONE, begin) for begin, code in ranges)
        every = chain.from_iterable(decoders)
        batch = Batch(self._bits, ranges, self._classifier.effects)
        while instructions := list(islice(every, _CHUNK)):
            self._look(instructions, batch)
        batch.sort_jumps()
        return batch

    def _look(self, instructions: list[Instruction], batch: Batch) -> None:
        """Find the events among the instructions that follow those already in a batch."""
        lengths = np.frombuffer(bytes(map(len, instructions)), np.uint8)
        ends = np.cumsum(lengths, dtype=np.int64) + batch.size
        starts = ends - lengths
        found = encodings_of(batch.data, starts, self._bits)
        # An instruction that is cut short by the end of the range looks like a whole one.
        odd = batch.is_end[ends] | ~found.regular
        levels = self._levels.take(found.signatures)
        unseen = np.flatnonzero((levels == UNSEEN) & ~odd)
        if len(unseen):
            new, first = np.unique(found.signatures[unseen], return_index=True)
            for signature, index in zip(new.tolist(), unseen[first].tolist(), strict=True):
                self._learn(signature, instructions[index])
            levels = self._levels.take(found.signatures)
        odd |= levels == _ODD
        oddities = np.flatnonzero(odd)
        levels[oddities] = self._levels_of(instructions, oddities)
        kinds = _KINDS.take(levels)
        jumps = np.flatnonzero((kinds >= BRANCH) & (kinds <= CALL))
        distances = np.zeros(len(instructions), np.int64)
        distances[jumps] = distances_of(batch.data, found, jumps, ends[jumps])
        for index in jumps[odd[jumps]].tolist():
            jump = instructions[index]
            distances[index] = _signed(jump.near_branch_target - jump.next_ip)
        chunk = _Chunk(instructions, batch, starts, ends, found, odd)
        numbers = self._effects_of(chunk, levels)
        changes = np.flatnonzero(numbers != NO_EFFECT.number)
        kinds[changes] = EFFECT
        batch.add_effects(changes, numbers[changes])
        for index in np.flatnonzero(kinds == OTHER_FLOW).tolist():
            batch.flows[batch.count + index] = instructions[index]
        batch.add(kinds, lengths, distances, int(ends[-1]))

    def _levels_of(self, instructions: list[Instruction], chosen: _Array) -> _Array:
        """Return what some instructions need, by their codes."""
        codes = _gather(_CODE_OF, instructions, chosen, np.uint16)
        levels = self._relevance[codes]
        unseen = np.flatnonzero(levels == UNSEEN)
        if len(unseen):
            for code, first in zip(*np.unique(codes[unseen], return_index=True), strict=True):
                if code != Code.INVALID:
                    self._classifier.look_at_code(instructions[int(chosen[unseen[first]])])
            levels = self._relevance[codes]
        levels[codes == Code.INVALID] = _NO_INSTRUCTION
        return levels

    def _learn(self, signature: int, i: Instruction) -> None:
        """Find out what all instructions of a signature need, from one of them."""
        classifier = self._classifier
        if i.code == Code.INVALID:
            self._levels[signature] = _NO_INSTRUCTION
            return
        level = self._relevance[i.code]
        if level == UNSEEN:
            level = classifier.look_at_code(i)
        self._levels[signature] = level
        if level not in (WRITES_OPERAND_0, FULL_LOOK):
            return
        kind = i.op_code().op0_kind if i.op_count else _Kind.NONE
        if i.op_count and i.op0_kind == OpKind.MEMORY:
            self._forms[signature] = IN_MEMORY
            is_from_reg = i.op_count == 2 and i.op_code().op1_kind in _FROM_REG
            if level == WRITES_OPERAND_0 and not classifier.space.narrow_pointers:
                self._stores[signature] = is_from_reg
            return
        form = _FORMS.get(kind, ELSEWHERE)
        self._forms[signature] = form
        if form == ELSEWHERE and i.op_count and i.op0_kind == OpKind.REGISTER:
            if kind in _FIXED:
                self._fixed[signature] = self._register[i.op0_register]
            elif i.op0_register in HARDWARE and level == WRITES_OPERAND_0:
                self._levels[signature] = _ODD
            return
        dependence = ENCODING if form == ELSEWHERE else depends_on(classifier, i)
        self._dependences[signature] = dependence
        if dependence != ENCODING:
            self._used_rows += 1
            self._rows[signature] = self._used_rows
            if self._used_rows == len(self._by_register):
                more = np.full_like(self._by_register, -1)
                self._by_register = np.concatenate((self._by_register, more))

    def _effects_of(self, chunk: _Chunk, levels: _Array) -> _Array:
        """Return the number of each instruction's effect.

        Of those that only write operand 0, most have none.
        """
        found = chunk.fields
        numbers = np.full(len(levels), NO_EFFECT.number, np.int32)
        looked_at = (levels == FULL_LOOK) | self._odd_writes(chunk, levels)
        candidates = np.flatnonzero((looked_at | (levels == WRITES_OPERAND_0)) & ~chunk.odd)
        signatures = found.signatures[candidates]
        forms = self._forms.take(signatures)
        registers = registers_of(found, candidates, forms)
        chosen = self._hardware_register.take(registers) & (forms != ELSEWHERE)
        chosen |= self._fixed.take(signatures)
        stores = np.flatnonzero(forms == IN_MEMORY)
        chosen[stores] = self._hardware_base.take(bases_of(found, candidates[stores]))
        chosen |= looked_at[candidates]
        rows = self._rows.take(signatures)
        is_plain = chosen & (rows != 0) & (registers != SP)
        dependences = self._dependences.take(signatures)
        is_plain &= (dependences != REGISTER_UNLESS_ADDRESS) | (registers != BP)
        rest = np.flatnonzero(is_plain & (dependences > REGISTER))
        bases = bases_of(found, candidates[rest])
        is_plain[rest] = ~self._base_matters[dependences[rest], bases]
        plain = np.flatnonzero(is_plain)
        places, rows, registers = candidates[plain], rows[plain], registers[plain]
        known = self._by_register[rows, registers]
        new = np.flatnonzero(known < 0)
        if len(new):
            _, first = np.unique(rows[new] << 4 | registers[new], return_index=True)
            for one in new[first].tolist():
                number = self._effect_of(chunk, int(places[one]))
                self._by_register[rows[one], registers[one]] = number
            known = self._by_register[rows, registers]
        numbers[places] = known
        looked_at[candidates.compress(chosen)] = True
        looked_at[places] = False
        rest = np.flatnonzero(looked_at)
        numbers[rest] = self._look_up(chunk, rest)
        return numbers

    def _odd_writes(self, chunk: _Chunk, levels: _Array) -> _Array:
        """Return which of the odd instructions that only write operand 0 need a look."""
        looked_at = np.zeros(len(levels), bool)
        writes = np.flatnonzero((levels == WRITES_OPERAND_0) & chunk.odd)
        if len(writes):
            written = _gather(_OPERAND_0_OF, chunk.instructions, writes, np.uint16)
            looked_at[writes] = self._register[written] != 0
            stores = writes[written == 0]
            if len(stores):
                bases = _gather(_BASE_OF, chunk.instructions, stores, np.uint16)
                looked_at[stores] = self._base[bases] != 0
        return looked_at

    def _look_up(self, chunk: _Chunk, indices: _Array) -> _Array:
        """Return the numbers of the effects of some instructions, by their encodings."""
        fields, data = chunk.fields, chunk.batch.data
        starts, ends = chunk.starts[indices], chunk.ends[indices]
        is_short = ends - starts <= LONGEST_KEY_BYTES
        short = np.flatnonzero(is_short)
        keys = np.zeros(len(indices), np.uint64)
        keys[short] = keys_of(data, starts[short], ends[short])
        # Which of the registers is stored that nobody tracks makes no difference.
        some = indices[short]
        stores = short[self._stores.take(fields.signatures[some]) & fields.regular[some]]
        sources = registers_of(fields, indices[stores], np.full(len(stores), IN_REG, np.uint8))
        stores = stores[~self._hardware_register[sources]]
        keys[stores] = without_reg(keys[stores], fields, indices[stores])
        found = np.full(len(indices), UNKNOWN_ANSWER, np.int32)
        found[short] = self._by_key.answers(keys[short])
        for one in np.flatnonzero((found == UNKNOWN_ANSWER) & ~is_short).tolist():
            found[one] = self._effect_of(chunk, int(indices[one]))
        new = np.flatnonzero(found == UNKNOWN_ANSWER)
        if len(new):
            _, first, which = np.unique(keys[new], return_index=True, return_inverse=True)
            numbers = [self._effect_of(chunk, index) for index in indices[new[first]].tolist()]
            found[new] = np.array(numbers, np.int32)[which]
            self._by_key.remember(keys[new], found[new])
        return found

    def _effect_of(self, chunk: _Chunk, index: int) -> int:
        """Return the number of one instruction's effect."""
        encoding = chunk.encoding(index)
        known = self._classifier.by_encoding.get(encoding)
        found = known or self._classifier.effect_of(chunk.instructions[index], encoding)
        return found.number


def _signed(distance: int) -> int:
    """Return a distance modulo 2**64 as a signed number."""
    return ((distance + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


def _gather(getter: attrgetter[Any], chunk: list[Any], indices: _Array, kind: Any) -> _Array:
    """Return an attribute of some instructions as an array."""
    if len(indices) < 2:
        return np.array([getter(chunk[int(index)]) for index in indices], kind)
    return np.fromiter(map(getter, itemgetter(*indices.tolist())(chunk)), kind, len(indices))
