"""What a straight path of executed instructions consists of: counts that any reader can redo.

A path is the sequence of instructions that a processor executes, in order, each with its address
and encoding: from an emulator's trace, or a straight piece of code. What counts as what:

* A **store** is one write of memory and a **load** one read of memory by an instruction, whether
  the operand is written out or implied: ``push`` and ``call`` store, ``pop`` and ``ret`` load,
  ``push`` of a memory operand loads and stores, ``add %rax, (%rdi)`` (read, modify, write) loads
  and stores, ``iretq`` loads five times, ``leave`` loads.
* ``nop`` and ``lea`` have memory operands that are not accessed: neither.
* A ``rep`` string instruction counts as one load and one store of its kind, however often it
  repeats, since a path does not say how often.
* SYSCALL, SYSRET, SWAPGS read and write model-specific registers, not memory: neither.

The accesses are iced-x86's (``InstructionInfoFactory.info().used_memory()``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iced_x86 import Decoder, Instruction, InstructionInfoFactory, OpAccess

from fullframe.errors import InputError, Place
from fullframe.x86.trace import TracedInstruction

_LOADS = frozenset(
    {OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
)
_STORES = frozenset(
    {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
)


@dataclass(frozen=True, slots=True)
class PathCost:
    """Counts over a path.

    Attributes:
        instructions: how many instructions were executed.
        bytes: the sum of their encodings, in bytes.
        stores: how many writes of memory.
        loads: how many reads of memory.
    """

    instructions: int
    bytes: int
    stores: int
    loads: int


def path_cost(path: Sequence[TracedInstruction], *, bits: int = 64) -> PathCost:
    """Count a path.

    Args:
        path: the executed instructions.
        bits: 64 or 32.

    Returns:
        The counts.

    Raises:
        InputError: an encoding is not exactly one instruction.
    """
    loads = stores = size_bytes = 0
    for instruction in decoded(path, bits=bits):
        read, written = memory_accesses(instruction)
        loads += read
        stores += written
        size_bytes += instruction.len
    return PathCost(len(path), size_bytes, stores, loads)


def straight(code: bytes, address: int = 0, *, bits: int = 64) -> list[TracedInstruction]:
    """Read code from its first byte to its last as a path that never branches.

    Args:
        code: machine code.
        address: virtual address of its first byte.
        bits: 64 or 32.

    Returns:
        Its instructions.

    Raises:
        InputError: the code holds something that is no instruction, or ends within one.
    """
    path = []
    for instruction in Decoder(bits, code, ip=address):
        start = instruction.ip - address
        path.append(TracedInstruction(instruction.ip, code[start : start + instruction.len]))
        if instruction.is_invalid:
            raise _not_one_instruction(path[-1])
    return path


def decoded(path: Sequence[TracedInstruction], *, bits: int = 64) -> Iterator[Instruction]:
    """Decode a path.

    Args:
        path: the executed instructions.
        bits: 64 or 32.

    Yields:
        iced-x86's instruction for each, in order.

    Raises:
        InputError: an encoding is not exactly one instruction.
    """
    for item in path:
        instruction = Decoder(bits, item.encoding, ip=item.address).decode()
        if instruction.is_invalid or instruction.len != len(item.encoding):
            raise _not_one_instruction(item)
        yield instruction


_factory = InstructionInfoFactory()


def memory_accesses(instruction: Instruction) -> tuple[int, int]:
    """Count the loads and the stores of one instruction (see the module for what counts)."""
    loads = stores = 0
    for used in _factory.info(instruction).used_memory():
        loads += used.access in _LOADS
        stores += used.access in _STORES
    return loads, stores


def _not_one_instruction(item: TracedInstruction) -> InputError:
    return InputError(
        Place("path", offset_bytes=item.address),
        f"the bytes {item.encoding[:16].hex(' ') or '(none)'}",
        "the encoding of exactly one instruction",
        "give each executed instruction with all of its bytes and no more",
    )
