"""The six callee-saved registers, saved and loaded again: the difference that is argued about.

The proposal puts "about ten cycles on Sandy Bridge" on saving and restoring bx, bp and r12 to r15
in every call. These are the two ways of doing it, as paths to cost on their own.
"""

from __future__ import annotations

from iced_x86 import Code, Encoder, Instruction, MemoryOperand, Register

from fullframe.errors import UsageError
from fullframe.x86.trace import TracedInstruction

#: In the order in which a frame is built by pushing.
SIX_REGISTERS = (
    Register.RBX,
    Register.RBP,
    Register.R12,
    Register.R13,
    Register.R14,
    Register.R15,
)

_WORD_BYTES = 8


def six_registers(how: str) -> list[TracedInstruction]:
    """Return the path that saves and loads again the six registers.

    Args:
        how: ``mov``: stores to and loads from slots on the stack; ``push``: pushes and pops.

    Returns:
        Twelve instructions from address 0 on.

    Raises:
        UsageError: another ``how``.
    """
    if how == "mov":
        slots = [
            (
                register,
                MemoryOperand(Register.RSP, displ=_WORD_BYTES * index, displ_size=index and 1),
            )
            for index, register in enumerate(reversed(SIX_REGISTERS))
        ]
        instructions = [
            Instruction.create_mem_reg(Code.MOV_RM64_R64, slot, register)
            for register, slot in reversed(slots)
        ] + [
            Instruction.create_reg_mem(Code.MOV_R64_RM64, register, slot)
            for register, slot in slots
        ]
    elif how == "push":
        instructions = [
            Instruction.create_reg(Code.PUSH_R64, register) for register in SIX_REGISTERS
        ] + [Instruction.create_reg(Code.POP_R64, register) for register in reversed(SIX_REGISTERS)]
    else:
        raise UsageError(f"six registers by {how!r}: expected mov or push")
    path: list[TracedInstruction] = []
    address = 0
    for instruction in instructions:
        encoder = Encoder(64)
        length = encoder.encode(instruction, address)
        path.append(TracedInstruction(address, encoder.take_buffer()))
        address += length
    return path
