"""Jump tables: where an indirect jump of a ``switch`` can go.

GCC's and Clang's forms, x86-64 and i386:

* a table of absolute addresses: ``jmp *table(,%rax,8)``, or the address loaded first;
* a table of 32-bit distances from a base: ``movslq (%rdx,%rax,4), %rax; add %rdx, %rax;
  jmp *%rax`` with the base in a register (x86-64), or relative to the global offset table
  (i386), whose address any register may hold;
* a table of distances from a label of the function (computed ``goto``);
* i386 hand-written code that makes the table's address from the program counter:
  ``call thunk; add $table-., %ebx; add (%ebx,%ecx,4), %ebx; jmp *%ebx``.

The code is read once, forward and without regard to branches, to learn which registers and
spill slots hold the address of a table; compilers load it well before the jump. A table's
entries are then taken as far as the bound check before the jump says, or else as far as they
lead to instructions; a table that holds anything else is not believed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from iced_x86 import (
    Decoder,
    DecoderOptions,
    FlowControl,
    Instruction,
    Mnemonic,
    OpKind,
    Register,
    RegisterExt,
)

from fullframe.track.operands import HARDWARE, SIZE_BYTES, VECTORS_ONLY
from fullframe.x86.registers import Machine

_MOST_ENTRIES: Final = 8192
#: Frames and structures are smaller than this; read-only data is farther from the GOT.
_NEAR_BYTES: Final = 4096
#: Entries read together.
_ENTRIES_TOGETHER: Final = 64
#: Functions of which is remembered what reading them told.
_MOST_READINGS: Final = 64
#: Instructions from a bound check to the jump, at most.
_MOST_SINCE_BOUND: Final = 24
#: Entries of all tables of one function.
_MOST_ENTRIES_TOGETHER: Final = 1 << 17
#: No table is at a lower address: the file's headers are there, or nothing is.
_FIRST_DATA: Final = 0x100
#: Branches that keep an index out of a table: entries beyond the number compared with.
_COUNTED_BEYOND: Final = {
    Mnemonic.JA: 1,
    Mnemonic.JBE: 1,
    Mnemonic.JG: 1,
    Mnemonic.JLE: 1,
    Mnemonic.JAE: 0,
    Mnemonic.JB: 0,
    Mnemonic.JGE: 0,
    Mnemonic.JL: 0,
}


class Known(NamedTuple):
    """An address known while the code is read: ``base``, or with ``entry_bytes`` a table's entry.

    Attributes:
        base: the address itself, or the address of the table.
        entry_bytes: 0 for an address; otherwise the size of the table's entries.
        added: what is added to an entry to make a target; None where nothing is yet.
        register: hardware number of the register that ``base`` was taken from, or None.
    """

    base: int
    entry_bytes: int = 0
    added: int | None = None
    register: int | None = None


class Bound(NamedTuple):
    """How many entries a table has, as the code before the jump tells.

    Attributes:
        entries: how many.
        exact: it was compared with; a mask only says that there are no more.
    """

    entries: int
    exact: bool = True


#: (address, size of a number in bytes, how many at most) to the unsigned numbers there.
ReadWords = Callable[[int, int, int], Sequence[int]]
#: (address, code) of a function to what reading it told.
Readings = dict[tuple[int, bytes], tuple[dict[int, tuple[Known, Bound | None]], "_Reading"]]


class TableReader:
    """Finds the jump tables of one function.

    Args:
        machine: for word size.
        read: (address, size in bytes, how many at most) to the unsigned numbers from there on,
            with relocations applied; as many as there are.
        got_address: what ``%ebx`` holds in i386 position-independent code, or None.
        is_target: whether an address can be the target of a jump of this function.
        thunk: the registers into which the callee at an address loads its return address.
        following: the next place behind an address that code refers to, if that is known: a
            table of distances whose length nothing tells ends there.
        readings: what was read of functions before, shared between the readers of one image.
    """

    def __init__(
        self,
        machine: Machine,
        read: ReadWords,
        got_address: int | None,
        is_target: Callable[[int], bool],
        thunk: Callable[[int], tuple[int, ...]] = lambda target: (),
        following: Callable[[int], int | None] = lambda address: None,
        readings: Readings | None = None,
    ) -> None:
        self._following = following
        self._machine = machine
        self._read = read
        self._got = got_address
        self._is_target = is_target
        self._thunk = thunk
        self._taken: dict[tuple[int, int, int | None, int], tuple[list[int], int]] = {}
        self._readings = {} if readings is None else readings

    def find(self, code: bytes, begin: int) -> dict[int, list[int]]:
        """Return, for each indirect jump that was understood, its targets.

        Args:
            code: the function's bytes.
            begin: their address.

        Returns:
            Offset of the jump from ``begin`` to target addresses, each once, in table order.
        """
        jumps, reader = self._jumps(code, begin)
        starts = sorted({known.base for known, _ in jumps.values()})
        found: dict[int, list[int]] = {}
        left = _MOST_ENTRIES_TOGETHER
        for offset, (known, bound) in jumps.items():
            if left <= 0:
                break
            targets, whole = self._entries(known, bound, starts)
            if not whole and known.added == known.base:
                # The register was loaded with another table on the path that leads here.
                for base in reader.loaded.get(known.register, ()):
                    other, whole = self._entries(
                        Known(base, known.entry_bytes, base), bound, starts
                    )
                    if whole:
                        targets = other
                        break
            left -= 1 + len(targets)
            if targets:
                found[offset] = targets
        return found

    def within(self, code: bytes, begin: int) -> list[tuple[int, int]]:
        """Return the tables that stand in the code itself, where hand-written code puts them.

        Bytes of a table are no instructions, and what was decoded behind them may be none either.

        Args:
            code: the function's bytes.
            begin: their address.

        Returns:
            (offset of a table from ``begin``, its size in bytes); a table ends at the latest
            where the first of its targets behind it begins.
        """
        end = begin + len(code)
        found: dict[int, int] = {}
        jumps, _ = self._jumps(code, begin)
        for known, bound in jumps.values():
            if not begin <= known.base < end:
                continue
            size, limit, place = known.entry_bytes, end, known.base
            most = _MOST_ENTRIES if bound is None else bound.entries
            for value in self._values(known, min(most, (end - place) // size)):
                if place + size > limit or not begin <= value < end:
                    break
                if value > known.base:
                    limit = min(limit, value)
                place += size
            if place > known.base:
                found[known.base - begin] = min(place, limit) - known.base
        return sorted(found.items())

    def _jumps(
        self, code: bytes, begin: int
    ) -> tuple[dict[int, tuple[Known, Bound | None]], _Reading]:
        """Read code once: (table and bound by offset of the indirect jump, what was learnt)."""
        known_reading = self._readings.get((begin, code))
        if known_reading is not None:
            return known_reading
        reader = self._reading()
        jumps = {
            address - begin: (known, bound)
            for address, known, bound in reader.read(code, begin)
            if known is not None
        }
        if len(self._readings) >= _MOST_READINGS:
            self._readings.clear()
        self._readings[begin, code] = (jumps, reader)
        return jumps, reader

    def find_last(self, code: bytes, begin: int) -> list[int] | None:
        """Return the targets of the indirect jump that ends a piece of code.

        Args:
            code: from somewhere before the jump, up to its last byte.
            begin: its address.

        Returns:
            Target addresses, or None where this much code does not tell a bounded table.
        """
        jumps = list(self._reading().read(code, begin))
        _, known, bound = jumps[-1] if jumps else (begin, None, None)
        if known is None or bound is None:
            return None
        targets, whole = self._entries(known, bound, [])
        return targets if whole else None

    def _reading(self) -> _Reading:
        got = self._got if self._machine.bits == 32 else None
        return _Reading(self._machine, got, self._thunk)

    def _entries(
        self, table: Known, bound: Bound | None, starts: list[int]
    ) -> tuple[list[int], bool]:
        """Return a table's targets, and whether all that the bound check lets through are."""
        limit = None
        if table.added == table.base and (bound is None or not bound.exact):
            # Distances taken from the wrong base may hit an instruction; addresses cannot.
            limit = self._following(table.base)
        if bound is not None:
            count = bound.entries
            if limit is not None:
                count = min(count, (limit - table.base) // table.entry_bytes)
            targets, number = self._take(table, count)
            if number == count:
                return targets, True
        following = bisect_right(starts, table.base)
        if following < len(starts):
            limit = starts[following] if limit is None else min(limit, starts[following])
        count = _MOST_ENTRIES
        if limit is not None:
            count = min(count, (limit - table.base) // table.entry_bytes)
        return self._take(table, count)[0], False

    def _take(self, table: Known, count: int) -> tuple[list[int], int]:
        """Return the targets of a table's first entries, and how many of these are any.

        A compiler jumps through one table from hundreds of places (an interpreter's dispatch).
        """
        key = (table.base, table.entry_bytes, table.added, count)
        known = self._taken.get(key)
        if known is None:
            targets = self._take_anew(table, count)
            known = self._taken[key] = (list(dict.fromkeys(targets)), len(targets))
        return known

    def _take_anew(self, table: Known, count: int) -> list[int]:
        targets: list[int] = []
        believed: set[int] = set()
        for value in self._values(table, count):
            if value not in believed:
                if not self._is_target(value):
                    break
                believed.add(value)
            targets.append(value)
        return targets

    def _values(self, table: Known, count: int) -> Iterator[int]:
        """Yield where a table's first entries lead, as far as there are any."""
        mask, base, added = (1 << self._machine.bits) - 1, table.base, table.added
        size = table.entry_bytes
        sign = 1 << 31 if size == 4 else 0
        for first in range(0, count, _ENTRIES_TOGETHER):
            most = min(count - first, _ENTRIES_TOGETHER)
            values = self._read(base + first * size, size, most)
            if added is None:
                yield from values
            else:
                for value in values:
                    yield ((value ^ sign) - sign + added) & mask
            if len(values) < most:
                return


#: What an instruction is to the reading of code, by its code: nothing; an indirect jump; another
#: transfer of control; a comparison; what may limit an index; a pop; what may set a register to an
#: address; what sets one to anything else.
_DULL, _JUMPS, _FLOW, _COMPARES, _LIMITS, _POPS, _MOVES, _SETS = range(8)
_SORTS: Final[dict[int, int]] = {}
_SORT_OF: Final = {
    Mnemonic.CMP: _COMPARES,
    Mnemonic.SUB: _LIMITS,
    Mnemonic.AND: _LIMITS,
    Mnemonic.POP: _POPS,
    Mnemonic.LEA: _MOVES,
    Mnemonic.MOV: _MOVES,
    Mnemonic.MOVSXD: _MOVES,
    Mnemonic.ADD: _MOVES,
    Mnemonic.TEST: _DULL,
    Mnemonic.BT: _DULL,
    Mnemonic.PUSH: _DULL,
}


def _sort(i: Instruction) -> int:
    """Return what an instruction is to the reading of code; the same for all of its code."""
    if i.flow_control != FlowControl.NEXT:
        return _JUMPS if i.flow_control == FlowControl.INDIRECT_BRANCH else _FLOW
    if i.op_count == 0 or (
        i.op0_kind == OpKind.REGISTER
        and i.op0_register not in HARDWARE
        and i.op_code().op0_kind in VECTORS_ONLY
    ):
        return _DULL
    return _SORT_OF.get(i.mnemonic, _SETS)


class _Reading:
    """What the registers and spill slots are known to hold, instruction by instruction."""

    def __init__(
        self, machine: Machine, got: int | None, thunk: Callable[[int], tuple[int, ...]]
    ) -> None:
        self.machine = machine
        self.got = got
        self.thunk = thunk
        self.mask = (1 << machine.bits) - 1
        self._called_next = 0
        self.registers: dict[int, Known] = {}
        self.slots: dict[tuple[int, int], Known] = {}
        self.by_register: dict[int, Known] = {}
        self.loaded: dict[int | None, dict[int, None]] = {}
        self._bound: Bound | None = None
        #: Number of the instruction that it was found at.
        self._bound_at = 0
        self._compared: int | None = None

    def read(self, code: bytes, begin: int) -> Iterator[tuple[int, Known | None, Bound | None]]:
        """Read code; yield (address, table if known, its bound) of each indirect jump."""
        sorts = _SORTS
        for number, i in enumerate(Decoder(self.machine.bits, code, DecoderOptions.NONE, begin)):
            sort = sorts.get(i.code)
            if sort is None:
                sort = sorts[i.code] = _sort(i)
            if sort == _DULL:
                continue
            if sort == _JUMPS:
                near = number - self._bound_at <= _MOST_SINCE_BOUND
                yield i.ip, self._target_of(i), self._bound if near else None
                # The next case: the bases are still there, this table's entry is not.
                for register, known in list(self.registers.items()):
                    if known.entry_bytes:
                        del self.registers[register]
            elif sort == _FLOW:
                self._see_flow(i, number)
            else:
                self._see(i, sort, number)

    def _target_of(self, i: Instruction) -> Known | None:
        """The table behind an indirect jump, if it is known."""
        if i.op0_kind == OpKind.REGISTER:
            known = self.registers.get(HARDWARE.get(i.op0_register, -1))
            if known is None or not known.entry_bytes:
                return None
            word = known.entry_bytes == self.machine.word_bytes
            return known if word or known.added is not None else None
        if i.op0_kind == OpKind.MEMORY:
            known = self._indexed(i, self.machine.word_bytes)
            if known is not None and i.memory_index != Register.NONE:
                return known
        return None

    def _see(self, i: Instruction, sort: int, number_of_it: int) -> None:
        """Follow one instruction that transfers no control."""
        if sort == _COMPARES:
            kind = i.op1_kind
            number = i.immediate(1) if kind not in (OpKind.REGISTER, OpKind.MEMORY) else None
            self._compared = number if number is not None and number < _MOST_ENTRIES else None
            return
        if sort == _LIMITS and i.op1_kind not in (OpKind.REGISTER, OpKind.MEMORY):
            number = i.immediate(1)
            if i.mnemonic == Mnemonic.SUB:  # Clang without optimisation compares by subtracting
                self._compared = number if number < _MOST_ENTRIES else None
            elif 0 < number < 256 and number & (number + 1) == 0:
                self._bound, self._bound_at = Bound(number + 1, exact=False), number_of_it
        if i.op0_kind == OpKind.MEMORY:
            self._store(i)
            return
        target = HARDWARE.get(i.op0_register)
        if target is None or i.op0_kind != OpKind.REGISTER:
            return
        if sort == _POPS:
            if self._called_next == i.ip:
                self.registers[target] = Known(i.ip)  # call 1f; 1: pop %reg
            return  # a pop belongs to an epilogue, and code after it is reached from elsewhere
        value = self._value(i, target) if sort == _MOVES else None
        if value is None:
            self.registers.pop(target, None)
        else:
            self.registers[target] = value
            if not value.entry_bytes:
                self.by_register[target] = value
                self.loaded.setdefault(target, {})[value.base] = None

    def _see_flow(self, i: Instruction, number_of_it: int) -> None:
        flow = i.flow_control
        if flow in (FlowControl.CALL, FlowControl.INDIRECT_CALL):
            for register in list(self.registers):
                if register not in self.machine.callee_saved:
                    del self.registers[register]
            if flow == FlowControl.CALL:
                self._read_program_counter(i)
        elif flow == FlowControl.CONDITIONAL_BRANCH and self._compared is not None:
            # Whether something equals a number bounds nothing.
            more = _COUNTED_BEYOND.get(i.mnemonic)
            if more is not None:
                self._bound, self._bound_at = Bound(self._compared + more), number_of_it
        elif flow in (FlowControl.RETURN, FlowControl.UNCONDITIONAL_BRANCH):
            # What follows is reached from elsewhere: bases loaded once are still there.
            self.registers = dict(self.by_register)

    def _read_program_counter(self, i: Instruction) -> None:
        """Learn the register that a call of a program-counter thunk loads (i386)."""
        if self.machine.bits != 32 or i.op0_kind != OpKind.NEAR_BRANCH32:
            return
        target = i.near_branch_target
        if target == i.next_ip:
            self._called_next = target
            return
        for register in self.thunk(target):
            self.registers[register] = Known(i.next_ip)

    def _store(self, i: Instruction) -> None:
        key = self._slot(i)
        if key is None:
            return
        self.slots.pop(key, None)
        if i.mnemonic == Mnemonic.MOV and i.op1_kind == OpKind.REGISTER:
            known = self.registers.get(HARDWARE.get(i.op1_register, -1))
            if known is not None and SIZE_BYTES.get(i.op1_register) == self.machine.word_bytes:
                self.slots[key] = known

    def _slot(self, i: Instruction) -> tuple[int, int] | None:
        base = i.memory_base
        if i.memory_index != Register.NONE or base not in HARDWARE:
            return None
        number = HARDWARE[base]
        return (number, i.memory_displacement) if number in (4, 5) else None

    def _value(self, i: Instruction, target: int) -> Known | None:
        mnemonic = i.mnemonic
        if mnemonic == Mnemonic.LEA:
            if i.is_ip_rel_memory_operand:
                return Known(i.ip_rel_memory_address)
            if i.memory_index != Register.NONE:
                return self._lea_sum(i)
            known = self._address(i)
            if known is not None:
                return Known(known)
            return None
        if mnemonic in (Mnemonic.MOV, Mnemonic.MOVSXD):
            if i.op1_kind == OpKind.REGISTER:
                return self.registers.get(HARDWARE.get(i.op1_register, -1))
            if i.op1_kind == OpKind.MEMORY:
                slot = self._slot(i)
                if slot is not None:
                    return self.slots.get(slot)
                return self._indexed(i, 4 if mnemonic == Mnemonic.MOVSXD else self._size(i))
            number = i.immediate(1)
            return Known(number) if number >= _FIRST_DATA else None
        if mnemonic == Mnemonic.ADD:
            return self._sum(i, target)
        return None

    def _sum(self, i: Instruction, target: int) -> Known | None:
        mine = self.registers.get(target)
        if i.op1_kind == OpKind.REGISTER:
            number = HARDWARE.get(i.op1_register)
            theirs = self.registers.get(-1 if number is None else number)
            if theirs is None and mine is not None and mine.entry_bytes:
                theirs = self._got_in(number, mine)
            elif mine is None and theirs is not None and theirs.entry_bytes:
                mine = self._got_in(target, theirs)
        elif i.op1_kind == OpKind.MEMORY:
            theirs = self._indexed(i, 4)
            if mine is None and self.got is not None:
                mine = Known(self.got)
        elif mine is not None and not mine.entry_bytes:
            return Known((mine.base + i.immediate(1)) & self.mask)
        else:
            return None
        return self._entry_plus(mine, theirs, 0)

    def _got_in(self, register: int | None, entry: Known) -> Known | None:
        """Take the register that a table was found through to hold what it was taken to hold."""
        if self.got is not None and register in (3, entry.register):
            return Known(self.got)
        return None

    def _entry_plus(self, one: Known | None, other: Known | None, distance: int) -> Known | None:
        """The sum of a table's entry and a base, in either order."""
        if one is None or other is None:
            return None
        if not one.entry_bytes:
            one, other = other, one
        if not one.entry_bytes or other.entry_bytes or one.added is not None:
            return None
        added = (other.base + distance) & self.mask
        return Known(one.base, one.entry_bytes, added, one.register)

    def _lea_sum(self, i: Instruction) -> Known | None:
        """``lea distance(%base,%entry), %target``: a computed goto, or hand-written code."""
        if i.memory_index_scale != 1:
            return None
        base, index = (HARDWARE.get(register) for register in (i.memory_base, i.memory_index))
        one = None if base is None else self.registers.get(base)
        other = None if index is None else self.registers.get(index)
        if one is None and other is not None and other.entry_bytes:
            one = self._got_in(base, other)
        elif other is None and one is not None and one.entry_bytes:
            other = self._got_in(index, one)
        return self._entry_plus(one, other, i.memory_displacement)

    def _size(self, i: Instruction) -> int:
        return RegisterExt.size(i.op0_register)

    def _address(self, i: Instruction) -> int | None:
        """The constant part of a memory operand's address, where a register is known."""
        base = i.memory_base
        if base == Register.NONE:
            return int(i.memory_displacement)
        if base in HARDWARE:
            known = self.registers.get(HARDWARE[base])
            if known is not None and not known.entry_bytes:
                return (known.base + i.memory_displacement) & self.mask
            if known is None and self.got is not None and self._looks_like_got(i):
                return (self.got + i.memory_displacement) & self.mask
        return None

    def _looks_like_got(self, i: Instruction) -> bool:
        """Guess that an unknown base holds the GOT's address.

        It does where it is scaled into like a table, or where the operand reaches far below, to
        where read-only data lies.
        """
        far_below = (1 << self.machine.bits) - i.memory_displacement
        return i.memory_index_scale == 4 or _NEAR_BYTES < far_below < 1 << 31

    def _indexed(self, i: Instruction, entry_bytes: int) -> Known | None:
        if entry_bytes not in (4, 8):
            return None
        address = self._address(i)
        index = i.memory_index
        if index != Register.NONE and i.memory_index_scale == 1 and address is None:
            # The base may stand in the index's place.
            known = self.registers.get(HARDWARE.get(index, -1))
            if known is not None and not known.entry_bytes:
                address = known.base + i.memory_displacement
        if address is None or index == Register.NONE:
            return None
        return Known(address, entry_bytes, None, HARDWARE.get(i.memory_base))
