"""Memory as entry code sees it: stacks, the words that the contract names, everything else."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from iced_x86 import Instruction, Register

from fullframe.entry.prove.code import Code
from fullframe.entry.prove.contract import Contract, Word
from fullframe.entry.prove.state import Known
from fullframe.entry.prove.values import (
    CALLER_STACK,
    ENTRY_STACK,
    PER_CPU,
    TASK_STACK,
    describe,
    expression,
    something,
    word_read,
)
from fullframe.track.operands import HARDWARE
from fullframe.track.state import State, StateSpace
from fullframe.track.values import OTHER, UNKNOWN, Address, Constant, Value, address

_LOW = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Data:
    """A place in memory at a fixed address, or at a fixed distance from the GS base.

    Attributes:
        name: for messages.
        symbol: the symbol that it is counted from, "" if none is known.
        word: what the contract says it is; None if nothing.
        relative_to_gs: whether the GS base must be the kernel's.
    """

    name: str
    symbol: str
    word: Word | None
    relative_to_gs: bool


@dataclass(frozen=True, slots=True)
class Nowhere:
    """A place that cannot be told.

    Attributes:
        text: the operand's value, for messages.
    """

    text: str


Place = Address | Data | Nowhere


def signed(number: int) -> int:
    """Read a 64-bit number as signed."""
    return number - (1 << 64) if number >> 63 else number


class Memory:
    """Reads and writes memory operands.

    Args:
        code: the image, for names.
        contract: which words mean something.
        space: where states are made.
    """

    def __init__(self, code: Code, contract: Contract, space: StateSpace) -> None:
        self.code = code
        self.space = space
        self._writable = frozenset(contract.writable)
        self._words: dict[tuple[str, int], Word] = {}
        self._words_by_address: dict[int, Word] = {}
        for word in contract.words:
            self._words[word.symbol, word.offset_bytes] = word
            base = 0 if not word.symbol else code.address_of(word.symbol)
            if base is not None:
                self._words_by_address[(base + word.offset_bytes) & _LOW] = word
        self._names: dict[int, Data] = {}

    def place(self, known: Known, i: Instruction) -> Place:
        """Return where the memory operand of an instruction lies."""
        base, index = i.memory_base, i.memory_index
        registers = known.machine.registers
        if base in (Register.NONE, Register.RIP) and index == Register.NONE:
            data = self._names.get(i.ip)
            if data is None:
                data = self._names[i.ip] = self._data(i, i.memory_displacement)
            return data
        if i.segment_prefix in (Register.GS, Register.FS):
            return Nowhere("a place that depends on a register and the segment base")
        value: Value = OTHER
        offset = signed(i.memory_displacement)
        if base in HARDWARE:
            value = registers[HARDWARE[base]]
            if isinstance(value, Constant):
                offset += signed(value.number)
        if index != Register.NONE:
            count = registers[HARDWARE[index]] if index in HARDWARE else OTHER
            if not isinstance(count, Constant):
                return Nowhere(f"an index that is {describe(count)}")
            offset += signed(count.number) * i.memory_index_scale
        if isinstance(value, Address):
            return address(value.region, value.offset_bytes + offset)
        if isinstance(value, Constant) or base == Register.NONE:
            return self._data(i, offset & (1 << 64) - 1)
        return Nowhere(describe(value))

    def _data(self, i: Instruction, where: int) -> Data:
        in_gs = i.segment_prefix == Register.GS
        named = self.code.named_operand(i)
        if named is not None:
            word = self._words.get(named)
            symbol = named[0]
        else:
            word = self._words_by_address.get(where & _LOW)
            # The words at fixed distances from the GS base are not those at fixed addresses.
            if word is not None and not word.symbol and not in_gs:
                word = None
            symbol = self._symbol_before(where)
        name = word.name if word is not None else self.code.place_name(i, where)
        return Data(f"%gs:{name}" if in_gs and word is None else name, symbol, word, in_gs)

    def _symbol_before(self, where: int) -> str:
        for name in self._writable:
            symbol = self.code.symbol(name)
            if symbol is not None:
                end = symbol.address + max(symbol.size_bytes, 8)
                if symbol.address & _LOW <= where & _LOW < end & _LOW:
                    return name
        return ""

    # ------------------------------------------------------------------ reading

    def read(self, known: Known, place: Place, size_bytes: int, problems: list[str]) -> Value:
        """Return what an operand of ``size_bytes`` at a place holds, zero-extended."""
        value = self._word(known, place, problems)
        if size_bytes == 8:
            return value
        if isinstance(place, Address) and place.offset_bytes % 8 + size_bytes > 8:
            return something("parts of two words")
        if isinstance(place, Address) and place.offset_bytes % 8:
            return something("a part of a word")
        if value is OTHER or value is UNKNOWN:
            return value
        if size_bytes == 4:
            return expression("low32", value)
        return expression("and", value, (1 << 8 * size_bytes) - 1)

    def _word(self, known: Known, place: Place, problems: list[str]) -> Value:
        if isinstance(place, Nowhere):
            return something(f"memory at {place.text}")
        if isinstance(place, Data):
            self._need_gs(known, place, problems)
            return self._contents(known, place)
        self._need_tables(known, place, problems)
        if place.offset_bytes >= 0 and place.region in (TASK_STACK, ENTRY_STACK):
            return something(f"memory beyond the top of the {place.region.name}")
        aligned = place.offset_bytes - place.offset_bytes % 8
        found = known.machine.slots.get((place.region, aligned))
        if found is None or found is OTHER:
            return something(f"leftovers of the {place.region.name}")
        return found

    def _contents(self, known: Known, place: Data) -> Value:
        word = place.word
        if word is None:
            return something(f"the word at {place.name}")
        if word.holds == "task stack top":
            return address(TASK_STACK, 0)
        if word.holds == "entry stack top":
            return address(ENTRY_STACK, 0)
        if word.holds == "thread flags":
            return word_read(word.name)
        found = known.machine.slots.get((PER_CPU, self._scratch_key(word)))
        return something(f"what was left in {word.name}") if found is None else found

    @staticmethod
    def _need_tables(known: Known, place: Address, problems: list[str]) -> None:
        if place.region is TASK_STACK and known.modes.tables == "user":
            problems.append("the task stack is used with the user's page tables")

    @staticmethod
    def _need_gs(known: Known, place: Data, problems: list[str]) -> None:
        if place.relative_to_gs and known.modes.gs != "kernel":
            whose = "the user's" if known.modes.gs == "user" else "an unknown"
            problems.append(f"per-CPU data ({place.name}) is used with {whose} GS base")

    @staticmethod
    def _scratch_key(word: Word) -> int:
        return 8 * (zlib.crc32(f"{word.symbol}{word.offset_bytes:+}".encode()) & 0xFFFF_FFFF)

    # ------------------------------------------------------------------ writing

    def write(
        self,
        known: Known,
        place: Place,
        size_bytes: int,
        value: Value,
        problems: list[str],
        unproved: list[str],
    ) -> Known:
        """Return what is known after a store."""
        if isinstance(place, Nowhere):
            unproved.append(f"stores to memory at {place.text}")
            return known
        if isinstance(place, Data):
            self._need_gs(known, place, problems)
            return self._write_data(known, place, size_bytes, value, problems, unproved)
        self._need_tables(known, place, problems)
        if place.offset_bytes + size_bytes > 0 and place.region in (TASK_STACK, ENTRY_STACK):
            problems.append(f"stores beyond the top of the {place.region.name}")
            return known
        if place.region is CALLER_STACK and place.offset_bytes + size_bytes > 0:
            problems.append("stores to its caller's stack frame")
        if value is OTHER:
            value = something("something")
        if size_bytes != 8 or place.offset_bytes % 8:
            return known._replace(machine=self._store_part(known, place, size_bytes))
        return known._replace(machine=self.space.with_word(known.machine, place, 8, value))

    def _store_part(self, known: Known, place: Address, size_bytes: int) -> State:
        machine = known.machine
        first = place.offset_bytes - place.offset_bytes % 8
        for offset in range(first, place.offset_bytes + size_bytes, 8):
            spoilt = something("a word that was overwritten in part")
            machine = self.space.with_word(machine, address(place.region, offset), 8, spoilt)
        return machine

    def _write_data(
        self,
        known: Known,
        place: Data,
        size_bytes: int,
        value: Value,
        problems: list[str],
        unproved: list[str],
    ) -> Known:
        word = place.word
        if word is not None and word.holds == "scratch":
            if size_bytes != 8:
                value = something(f"a part of {word.name}")
            where = address(PER_CPU, self._scratch_key(word))
            return known._replace(machine=self.space.with_word(known.machine, where, 8, value))
        if word is not None:
            problems.append(f"overwrites {place.name}, which holds the {word.holds}")
        elif place.symbol not in self._writable:
            unproved.append(f"stores to {place.name}, of which the contract says nothing")
        return known
