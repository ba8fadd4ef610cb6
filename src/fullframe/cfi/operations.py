"""DWARF operations: bytes to typed operations, and their text.

Source: DWARF 5, section 7.7.1, table 7.9; ``DW_OP_GNU_encoded_addr`` (0xf1) as libgcc's unwinder
knows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fullframe.cfi.encoding import MalformedError, read_fixed, read_sleb128, read_uleb128
from fullframe.errors import EXIT_INPUT, FullframeError
from fullframe.x86.registers import Machine

#: Opcode to name and operand formats: u1 s1 u2 s2 u4 s4 u8 s8 fixed, uleb, sleb, addr, block
#: (uleb length and bytes), block1 (one byte of length and bytes).
OPERATIONS: dict[int, tuple[str, tuple[str, ...]]] = {
    0x03: ("addr", ("addr",)), 0x06: ("deref", ()),
    0x08: ("const1u", ("u1",)), 0x09: ("const1s", ("s1",)), 0x0A: ("const2u", ("u2",)),
    0x0B: ("const2s", ("s2",)), 0x0C: ("const4u", ("u4",)), 0x0D: ("const4s", ("s4",)),
    0x0E: ("const8u", ("u8",)), 0x0F: ("const8s", ("s8",)), 0x10: ("constu", ("uleb",)),
    0x11: ("consts", ("sleb",)), 0x12: ("dup", ()), 0x13: ("drop", ()), 0x14: ("over", ()),
    0x15: ("pick", ("u1",)), 0x16: ("swap", ()), 0x17: ("rot", ()), 0x18: ("xderef", ()),
    0x19: ("abs", ()), 0x1A: ("and", ()), 0x1B: ("div", ()), 0x1C: ("minus", ()),
    0x1D: ("mod", ()), 0x1E: ("mul", ()), 0x1F: ("neg", ()), 0x20: ("not", ()), 0x21: ("or", ()),
    0x22: ("plus", ()), 0x23: ("plus_uconst", ("uleb",)), 0x24: ("shl", ()), 0x25: ("shr", ()),
    0x26: ("shra", ()), 0x27: ("xor", ()), 0x28: ("bra", ("s2",)), 0x29: ("eq", ()),
    0x2A: ("ge", ()), 0x2B: ("gt", ()), 0x2C: ("le", ()), 0x2D: ("lt", ()), 0x2E: ("ne", ()),
    0x2F: ("skip", ("s2",)), 0x90: ("regx", ("uleb",)), 0x91: ("fbreg", ("sleb",)),
    0x92: ("bregx", ("uleb", "sleb")), 0x93: ("piece", ("uleb",)), 0x94: ("deref_size", ("u1",)),
    0x95: ("xderef_size", ("u1",)), 0x96: ("nop", ()), 0x97: ("push_object_address", ()),
    0x98: ("call2", ("u2",)), 0x99: ("call4", ("u4",)), 0x9A: ("call_ref", ("u4",)),
    0x9B: ("form_tls_address", ()), 0x9C: ("call_frame_cfa", ()),
    0x9D: ("bit_piece", ("uleb", "uleb")), 0x9E: ("implicit_value", ("block",)),
    0x9F: ("stack_value", ()), 0xA0: ("implicit_pointer", ("u4", "sleb")),
    0xA1: ("addrx", ("uleb",)), 0xA2: ("constx", ("uleb",)), 0xA3: ("entry_value", ("block",)),
    0xA4: ("const_type", ("uleb", "block1")), 0xA5: ("regval_type", ("uleb", "uleb")),
    0xA6: ("deref_type", ("u1", "uleb")), 0xA7: ("xderef_type", ("u1", "uleb")),
    0xA8: ("convert", ("uleb",)), 0xA9: ("reinterpret", ("uleb",)),
    0xF0: ("GNU_uninit", ()), 0xF1: ("GNU_encoded_addr", ("u1",)),
}  # fmt: skip
for _number in range(32):
    OPERATIONS[0x30 + _number] = (f"lit{_number}", ())
    OPERATIONS[0x50 + _number] = (f"reg{_number}", ())
    OPERATIONS[0x70 + _number] = (f"breg{_number}", ("sleb",))

#: No honest expression of an unwind rule is longer (the longest in glibc have 20 bytes).
_LONGEST_EXPRESSION_BYTES = 1 << 16


class ExpressionError(FullframeError):
    """An expression that cannot be decoded or evaluated.

    Attributes:
        reason: why, in words.
    """

    exit_code = EXIT_INPUT

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Operation:
    """One DWARF operation.

    Attributes:
        offset: of its opcode in the expression.
        opcode: its byte.
        name: without ``DW_OP_``.
        operands: in order; blocks as bytes.
        end: offset of the next operation.
    """

    offset: int
    opcode: int
    name: str
    operands: tuple[int | bytes, ...]
    end: int


@lru_cache(maxsize=4096)
def decode_expression(code: bytes, address_size_bytes: int) -> tuple[Operation, ...]:
    """Decode an expression.

    Args:
        code: its bytes.
        address_size_bytes: size of ``DW_OP_addr``'s operand.

    Raises:
        ExpressionError: an unknown opcode, an operand cut short, or an absurd length.
    """
    if len(code) > _LONGEST_EXPRESSION_BYTES:
        raise ExpressionError(f"an expression of {len(code)} bytes")
    operations = []
    at = 0
    while at < len(code):
        start = at
        opcode = code[at]
        if opcode not in OPERATIONS:
            raise ExpressionError(f"the unknown operation {opcode:#04x} at byte {start}")
        name, formats = OPERATIONS[opcode]
        at += 1
        operands: list[int | bytes] = []
        try:
            for form in formats:
                operand, at = _operand(code, at, form, address_size_bytes)
                operands.append(operand)
        except MalformedError as error:
            raise ExpressionError(f"DW_OP_{name} at byte {start}: {error.message}") from None
        operations.append(Operation(start, opcode, name, tuple(operands), at))
    return tuple(operations)


def _operand(code: bytes, at: int, form: str, address_size_bytes: int) -> tuple[int | bytes, int]:
    if form == "uleb":
        return read_uleb128(code, at)
    if form == "sleb":
        return read_sleb128(code, at)
    if form == "addr":
        return read_fixed(code, at, address_size_bytes, False)
    if form.startswith("block"):
        if form == "block1":
            length, at = read_fixed(code, at, 1, False)
        else:
            length, at = read_uleb128(code, at)
        if at + length > len(code):
            raise MalformedError("truncated", at, f"{length} bytes needed")
        return code[at : at + length], at + length
    return read_fixed(code, at, int(form[1:]), form[0] == "s")


def expression_text(code: bytes, machine: Machine, address_size_bytes: int | None = None) -> str:
    """Render an expression, such as ``DW_OP_breg7 rsp+8, DW_OP_deref``.

    What cannot be decoded is rendered as its bytes, so that this never fails.
    """
    try:
        operations = decode_expression(code, address_size_bytes or machine.word_bytes)
    except ExpressionError as error:
        return f"<{error.reason}: {code[:32].hex(' ')}>"
    return ", ".join(_operation_text(operation, machine) for operation in operations)


def _operation_text(operation: Operation, machine: Machine) -> str:
    text = f"DW_OP_{operation.name}"
    opcode, operands = operation.opcode, operation.operands
    if 0x70 <= opcode < 0x90 and isinstance(operands[0], int):
        return f"{text} {machine.dwarf_name(opcode - 0x70)}{operands[0]:+d}"
    if opcode == 0x92 and isinstance(operands[0], int) and isinstance(operands[1], int):
        return f"{text} {machine.dwarf_name(operands[0])}{operands[1]:+d}"
    if 0x50 <= opcode < 0x70:
        return f"{text} {machine.dwarf_name(opcode - 0x50)}"
    for form, operand in zip(OPERATIONS[opcode][1], operands, strict=True):
        if isinstance(operand, bytes):
            text += f" {operand.hex(' ')}"
        else:
            text += f" {operand}" if form.startswith("s") else f" {operand:#x}"
    return text
