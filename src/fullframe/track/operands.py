"""Registers as iced-x86 numbers them, to the machine's own numbers."""

from __future__ import annotations

from typing import Final

from iced_x86 import OpCodeOperandKind, OpKind, Register, RegisterExt

#: General registers, of any width, to their hardware numbers.
HARDWARE: Final[dict[int, int]] = {}
#: General registers to their widths in bytes.
SIZE_BYTES: Final[dict[int, int]] = {}
#: Vector registers to their numbers.
VECTOR: Final[dict[int, int]] = {}
for _register in (getattr(Register, name) for name in dir(Register) if name.isupper()):
    if RegisterExt.is_gpr(_register):
        HARDWARE[_register] = RegisterExt.number(RegisterExt.full_register(_register))
        SIZE_BYTES[_register] = RegisterExt.size(_register)
    elif RegisterExt.is_vector_register(_register):
        VECTOR[_register] = RegisterExt.number(_register)

#: Kinds of immediate operands.
IMMEDIATES: Final = frozenset(
    {
        OpKind.IMMEDIATE8,
        OpKind.IMMEDIATE16,
        OpKind.IMMEDIATE32,
        OpKind.IMMEDIATE64,
        OpKind.IMMEDIATE8TO16,
        OpKind.IMMEDIATE8TO32,
        OpKind.IMMEDIATE8TO64,
        OpKind.IMMEDIATE32TO64,
    }
)

#: Kinds of operand 0 that can be nothing else than a vector register.
VECTORS_ONLY: Final = frozenset(
    {
        OpCodeOperandKind.XMM_REG,
        OpCodeOperandKind.XMM_VVVV,
        OpCodeOperandKind.YMM_REG,
        OpCodeOperandKind.ZMM_REG,
        OpCodeOperandKind.MM_REG,
    }
)
