"""Runs the corpus's functions on an emulated CPU and holds rows against what really is there.

This is the judge that shares nothing with the checker but the decoded rows: at every instruction
that is executed, the registers and the stack are recorded; a row is false if the CFA, the return
address or a register that an unwinder would compute by it differs from what the function was
entered with.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import unicorn
from unicorn import x86_const as x86

from fullframe.cfi.rules import (
    CfaExpression,
    CfaRegister,
    Expression,
    Offset,
    RegisterRule,
    SameValue,
    Undefined,
    ValExpression,
    ValOffset,
)
from fullframe.elf.image import Image
from fullframe.x86.registers import IP, SP, Machine
from tests.cfi_check.judging import Row

_REGISTERS_64 = tuple(
    getattr(x86, f"UC_X86_REG_{name}")
    for name in [
        "RAX",
        "RCX",
        "RDX",
        "RBX",
        "RSP",
        "RBP",
        "RSI",
        "RDI",
        "R8",
        "R9",
        "R10",
        "R11",
        "R12",
        "R13",
        "R14",
        "R15",
    ]
)
_REGISTERS_32 = tuple(
    getattr(x86, f"UC_X86_REG_{name}")
    for name in [
        "EAX",
        "ECX",
        "EDX",
        "EBX",
        "ESP",
        "EBP",
        "ESI",
        "EDI",
    ]
)
_XMM = tuple(getattr(x86, f"UC_X86_REG_XMM{number}") for number in range(8))

_STACK = 0x7000_0000
_STACK_BYTES = 0x20000
_BUFFER = 0x5000_0000
_BUFFER_BYTES = 0x4000
_RETURN = 0x6800_0000
_MOST_STEPS = 3000

#: Functions outside the corpus: they never return, or take so many bytes off the stack.
NEVER_RETURN = frozenset({"abort", "exit", "die_quietly", "__cxa_throw", "_Unwind_Resume"})
POPS = {"stdcall_elsewhere": 8, "stdcall_two": 8}


@dataclass
class Snapshot:
    """What is there before one instruction.

    Attributes:
        address: of the instruction.
        registers: general registers by hardware number.
        vectors: low words of the first vector registers.
        stack_begin: address of ``stack``.
        stack: bytes from below the stack pointer upward.
    """

    address: int
    registers: tuple[int, ...]
    vectors: tuple[int, ...]
    stack_begin: int
    stack: bytes


@dataclass
class Trace:
    """One run of a function.

    Attributes:
        entered_with: registers at its first instruction, by hardware number; ``IP`` is the
            return address and ``SP`` the CFA.
        steps: snapshots in the function's own frame.
    """

    entered_with: dict[int, int]
    steps: list[Snapshot] = field(default_factory=list)


class Runner:
    """Runs functions of one relocatable object.

    Args:
        image: the object; its sections have addresses and its relocations are applied.
        pops: how many bytes of arguments functions outside the object take off the stack.
    """

    def __init__(self, image: Image, pops: dict[str, int] | None = None) -> None:
        self.image = image
        self.machine: Machine = image.machine
        mode = unicorn.UC_MODE_64 if self.machine.bits == 64 else unicorn.UC_MODE_32
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, mode)
        self._ids = _REGISTERS_64 if self.machine.bits == 64 else _REGISTERS_32
        self._pages: set[int] = set()
        for section in image.sections:
            if section.alloc and section.size_bytes:
                self._map(section.address, section.size_bytes)
                self.cpu.mem_write(
                    section.address, self._contents(section.address, section.size_bytes)
                )
        self.outside: dict[int, str] = {}
        for symbol in image.symbols:
            if symbol.section_index is None and symbol.name:
                self.outside[symbol.address] = symbol.name
                self._map(symbol.address, 16)
                popped = (POPS if pops is None else pops).get(symbol.name, 0)
                self.cpu.mem_write(symbol.address, b"\xc2" + popped.to_bytes(2, "little"))
        self._map(_STACK, _STACK_BYTES)
        self._map(_BUFFER, _BUFFER_BYTES)
        self._map(_RETURN, 0x1000)

    def _contents(self, address: int, size_bytes: int) -> bytes:
        return bytes(self.image.read(address, size_bytes))

    def _map(self, address: int, size_bytes: int) -> None:
        for page in range(address & ~0xFFF, address + size_bytes, 0x1000):
            if page not in self._pages:
                self._pages.add(page)
                self.cpu.mem_map(page, 0x1000)

    def run(self, entry: int, own: list[tuple[int, int]], seed: int) -> Trace:
        """Run a function once.

        Args:
            entry: address of its first instruction.
            own: (begin, end) of its procedures.
            seed: of registers and arguments.
        """
        chance = random.Random(seed)
        word = self.machine.word_bytes
        mask = (1 << self.machine.bits) - 1
        pointer = _STACK + _STACK_BYTES - 0x2000 - word
        self.cpu.mem_write(_STACK, chance.randbytes(_STACK_BYTES))
        self.cpu.mem_write(_BUFFER, bytes(_BUFFER_BYTES))
        values = [chance.getrandbits(self.machine.bits) for _ in self._ids]
        arguments = [self._argument(chance, seed) for _ in range(6)]
        if self.machine.bits == 64:
            for register, value in zip((7, 6, 2, 1, 8, 9), arguments, strict=True):
                values[register] = value & mask
        for number, value in enumerate(arguments):
            data = (value & mask).to_bytes(word, "little")
            self.cpu.mem_write(pointer + word * (number + 1), data)
        values[SP] = pointer
        self.cpu.mem_write(pointer, (_RETURN + 0x10).to_bytes(word, "little"))
        for register, value in zip(self._ids, values, strict=True):
            self.cpu.reg_write(register, value)
        entered = dict(enumerate(values)) | {SP: pointer + word, IP: _RETURN + 0x10}
        recorder = _Recorder(self, own, Trace(entered), chance)
        hooks = [
            self.cpu.hook_add(unicorn.UC_HOOK_CODE, recorder.step),
            self.cpu.hook_add(unicorn.UC_HOOK_INTR, recorder.system_call),
        ]
        try:
            self.cpu.emu_start(entry, _RETURN + 0x10, count=_MOST_STEPS)
        except unicorn.UcError:
            pass  # a wild access ends the run; what was recorded stands
        finally:
            for hook in hooks:
                self.cpu.hook_del(hook)
        return recorder.trace

    def _argument(self, chance: random.Random, seed: int) -> int:
        buffer = _BUFFER + 0x800 + 16 * chance.randrange(64)
        if seed % 3 == 0:
            return (0, 1, 2, 3, -1)[seed // 3 % 5]
        if seed % 3 == 1:
            return buffer
        return chance.choice((0, 1, 2, 3, 4, -1, buffer, buffer, buffer))

    def registers(self) -> tuple[int, ...]:
        """The general registers now."""
        return tuple(self.cpu.reg_read(register) for register in self._ids)


class _Recorder:
    """Takes a snapshot at each step within the outermost activation of a function."""

    def __init__(
        self, runner: Runner, own: list[tuple[int, int]], trace: Trace, chance: random.Random
    ) -> None:
        self.runner = runner
        self.own = own
        self.trace = trace
        self.chance = chance
        self.resume: tuple[int, int] | None = None
        self.called: tuple[int, int] | None = None

    def system_call(self, cpu: unicorn.Uc, number: int, _: object) -> None:
        cpu.reg_write(self.runner._ids[0], self.chance.getrandbits(31))

    def step(self, cpu: unicorn.Uc, address: int, size: int, _: object) -> None:
        runner = self.runner
        name = runner.outside.get(address)
        if name is not None:
            if name in NEVER_RETURN:
                cpu.emu_stop()
                return
            scratch = (0, 1, 2, 6, 7, 8, 9, 10, 11) if runner.machine.bits == 64 else (0, 1, 2)
            for register in scratch:
                cpu.reg_write(runner._ids[register], self.chance.getrandbits(31))
            cpu.reg_write(runner._ids[0], self.chance.choice((0, 1, self.chance.getrandbits(31))))
        registers = runner.registers()
        inside = any(begin <= address < end for begin, end in self.own)
        if self.resume is not None:
            if address != self.resume[0] or registers[SP] < self.resume[1]:
                return
            self.resume = None
        elif self.called is not None:
            following, pointer = self.called
            self.called = None
            if address != following and (
                not inside or any(address == begin for begin, _ in self.own)
            ):
                self.resume = (following, pointer)
                return
        if not inside:
            cpu.emu_stop()  # a tail call: the frame is another's
            return
        begin = max(registers[SP] - 256, _STACK)
        begin = min(begin, _STACK + _STACK_BYTES - 8)
        end = self.trace.entered_with[SP] + 256
        stack = bytes(cpu.mem_read(begin, max(end - begin, 0)))
        vectors = tuple(cpu.reg_read(number) & ((1 << runner.machine.bits) - 1) for number in _XMM)
        self.trace.steps.append(Snapshot(address, registers, vectors, begin, stack))
        code = bytes(cpu.mem_read(address, size))
        if code[:1] == b"\xe8" or (
            code.lstrip(b"\x41\x40\x48\x65")[:1] == b"\xff" and _is_call(code)
        ):
            self.called = (address + size, registers[SP])


def _is_call(code: bytes) -> bool:
    from iced_x86 import Decoder, Mnemonic

    return bool(Decoder(64, code).decode().mnemonic == Mnemonic.CALL)


def false_columns(machine: Machine, row: Row, trace: Trace, step: Snapshot) -> set[int]:
    """Return the registers (``SP``: the CFA) that a row gives wrong values for at a step."""
    if row is None:
        return {SP, IP}
    cfa_rule, rules = row
    named: dict[int, object] = {}
    for item in rules:
        assert isinstance(item, tuple)
        hardware = machine.dwarf_to_hardware.get(item[0])
        if hardware is not None:
            named[hardware] = item[1]
    if isinstance(named.get(IP), Undefined):
        return set()
    reader = _Reader(machine, step)
    cfa = reader.cfa(cfa_rule)
    wrong = set() if cfa == trace.entered_with[SP] else {SP}
    for column in {*machine.callee_saved, IP, *named}:
        rule = named.get(column)
        if isinstance(rule, Undefined):
            continue
        value = reader.recovered(rule, column, cfa)
        if value != trace.entered_with[column]:
            wrong.add(column)
    return wrong


class _Reader:
    """Computes by rows over a snapshot; None stands for what cannot be computed."""

    def __init__(self, machine: Machine, step: Snapshot) -> None:
        self.machine = machine
        self.step = step
        self.mask = (1 << machine.bits) - 1

    def register(self, dwarf_register: int) -> int | None:
        hardware = self.machine.dwarf_to_hardware.get(dwarf_register)
        if hardware == IP:
            return self.step.address
        if hardware is not None:
            return self.step.registers[hardware]
        vector = dwarf_register - (17 if self.machine.bits == 64 else 21)
        return self.step.vectors[vector] if 0 <= vector < 8 else None

    def word(self, address: int | None, size_bytes: int | None = None) -> int | None:
        if address is None:
            return None
        size = size_bytes or self.machine.word_bytes
        offset = address - self.step.stack_begin
        if not 0 <= offset <= len(self.step.stack) - size:
            return None
        return int.from_bytes(self.step.stack[offset : offset + size], "little")

    def cfa(self, rule: object) -> int | None:
        if isinstance(rule, CfaRegister):
            value = self.register(rule.dwarf_register)
            return None if value is None else (value + rule.offset_bytes) & self.mask
        if isinstance(rule, CfaExpression):
            return self.expression(rule.code, [])
        return None

    def recovered(self, rule: object, column: int, cfa: int | None) -> int | None:
        if rule is None:
            return None if column == IP else self.step.registers[column]
        if isinstance(rule, SameValue):
            return None if column == IP else self.step.registers[column]
        if isinstance(rule, RegisterRule):
            return self.register(rule.dwarf_register)
        if cfa is None:
            return None
        if isinstance(rule, Offset):
            return self.word((cfa + rule.offset_bytes) & self.mask)
        if isinstance(rule, ValOffset):
            return (cfa + rule.offset_bytes) & self.mask
        if isinstance(rule, Expression):
            return self.word(self.expression(rule.code, [cfa]))
        if isinstance(rule, ValExpression):
            return self.expression(rule.code, [cfa])
        raise AssertionError(rule)

    def expression(self, code: bytes, stack: list[int]) -> int | None:
        """Evaluate the few operations that the corpus uses (DWARF 5, section 2.5)."""
        position = 0

        def leb(*, signed: bool) -> int:
            nonlocal position
            value = shift = 0
            while True:
                byte = code[position]
                position += 1
                value |= (byte & 0x7F) << shift
                shift += 7
                if not byte & 0x80:
                    return value - (1 << shift) if signed and byte & 0x40 else value

        while position < len(code):
            op = code[position]
            position += 1
            if 0x70 <= op < 0x90:
                base = self.register(op - 0x70)
                if base is None:
                    return None
                stack.append((base + leb(signed=True)) & self.mask)
            elif 0x30 <= op < 0x50:
                stack.append(op - 0x30)
            elif op in (0x06, 0x94):
                size = None
                if op == 0x94:
                    size = code[position]
                    position += 1
                loaded = self.word(stack.pop(), size)
                if loaded is None:
                    return None
                stack.append(loaded)
            elif op == 0x23:
                stack.append((stack.pop() + leb(signed=False)) & self.mask)
            elif op in (0x1A, 0x22, 0x24, 0x2A):
                right, left = stack.pop(), stack.pop()
                results = {
                    0x1A: left & right,
                    0x22: left + right,
                    0x24: left << (right & 63),
                    0x2A: int(left >= right),
                }
                stack.append(results[op] & self.mask)
            else:
                raise AssertionError(f"operation {op:#x}")
        return stack[-1]


def places_of(
    traces: Iterable[Trace], begins: list[int], own: list[tuple[int, int]]
) -> dict[tuple[int, int], list[tuple[Trace, Snapshot]]]:
    """Order steps by place: (number of the base in ``begins``, distance from it)."""
    found: dict[tuple[int, int], list[tuple[Trace, Snapshot]]] = {}
    for trace in traces:
        for step in trace.steps:
            base = max(
                (n for n, begin in enumerate(begins) if begin <= step.address),
                key=lambda n: begins[n],
            )
            found.setdefault((base, step.address - begins[base]), []).append((trace, step))
    return found
