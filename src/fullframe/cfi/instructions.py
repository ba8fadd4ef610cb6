"""Call-frame instructions as a list, for people and for whoever writes them anew.

Source: DWARF 5, table 7.29, and the GNU extensions that :mod:`fullframe.cfi.program` interprets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from fullframe.cfi.encoding import (
    Bases,
    MalformedError,
    read_fixed,
    read_pointer,
    read_sleb128,
    read_uleb128,
)
from fullframe.cfi.operations import expression_text
from fullframe.cfi.program import OPCODE_NAMES, ProgramProblem, opcode_name
from fullframe.x86.registers import Machine

#: Operands by opcode: ``low`` the opcode's lower six bits, ``reg`` a register, ``uleb``, ``sleb``,
#: ``pointer``, ``block`` an expression, ``uN`` a number of N bytes. What is to be multiplied by
#: a factor of the CIE is so marked: ``*code``, ``*data``.
FORMATS: dict[int, tuple[str, ...]] = {
    0x40: ("low*code",), 0x80: ("low", "uleb*data"), 0xC0: ("low",),
    0x00: (), 0x01: ("pointer",), 0x02: ("u1*code",), 0x03: ("u2*code",), 0x04: ("u4*code",),
    0x05: ("reg", "uleb*data"), 0x06: ("reg",), 0x07: ("reg",), 0x08: ("reg",),
    0x09: ("reg", "reg"), 0x0A: (), 0x0B: (), 0x0C: ("reg", "uleb"), 0x0D: ("reg",),
    0x0E: ("uleb",), 0x0F: ("block",), 0x10: ("reg", "block"), 0x11: ("reg", "sleb*data"),
    0x12: ("reg", "sleb*data"), 0x13: ("sleb*data",), 0x14: ("reg", "uleb*data"),
    0x15: ("reg", "sleb*data"), 0x16: ("reg", "block"), 0x1D: ("u8*code",), 0x2E: ("uleb",),
    0x2F: ("reg", "uleb*data"),
}  # fmt: skip


class Factors(Protocol):
    """What a CIE says about the meaning of operands; a ``Cie`` is one."""

    @property
    def code_alignment(self) -> int:
        """Factor of location advances."""

    @property
    def data_alignment(self) -> int:
        """Factor of offsets."""

    @property
    def address_size_bytes(self) -> int:
        """Size of a pointer."""

    @property
    def fde_pointer_encoding(self) -> int:
        """``DW_EH_PE_*`` of the operand of ``DW_CFA_set_loc``."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One call-frame instruction.

    Attributes:
        offset: of its first byte in the instructions.
        end: of the first byte after it.
        opcode: the opcode; of the three that hold an operand in their lower six bits only the
            upper two.
        name: such as ``DW_CFA_offset``.
        operands: registers by DWARF number; offsets and advances multiplied by the CIE's
            factors, in bytes; expressions as bytes; the pointer of ``DW_CFA_set_loc`` as address.
    """

    offset: int
    end: int
    opcode: int
    name: str
    operands: tuple[int | bytes, ...]


def decode_instructions(
    code: bytes, factors: Factors, code_address: int = 0
) -> tuple[list[Instruction], ProgramProblem | None]:
    """Decode call-frame instructions without interpreting them.

    Args:
        code: the bytes of a CIE's or FDE's instructions.
        factors: the CIE, or its factors.
        code_address: address of the first byte, for ``DW_CFA_set_loc``.

    Returns:
        The instructions up to the first that cannot be decoded, and what is wrong with that one
        (None if all can).
    """
    found: list[Instruction] = []
    start = 0
    try:
        for instruction in _decode(code, factors, code_address):
            found.append(instruction)
            start = instruction.end
    except MalformedError as error:
        name = opcode_name(code[start])
        return found, ProgramProblem(error.kind, start, f"{name}: {error.message}")
    return found, None


def _decode(code: bytes, factors: Factors, code_address: int) -> Iterator[Instruction]:
    at = 0
    while at < len(code):
        start = at
        opcode = code[at] & 0xC0 or code[at]
        formats = FORMATS.get(opcode)
        at += 1
        if formats is None:
            raise MalformedError("unknown-instruction", start, "x86 unwinders do not know it")
        operands: list[int | bytes] = []
        for form in formats:
            operand: int | bytes
            base, _, factor = form.partition("*")
            if base == "low":
                operand = code[start] & 0x3F
            elif base == "pointer":
                bases = Bases(section=code_address)
                pointer, at = read_pointer(
                    code, at, factors.fde_pointer_encoding, factors.address_size_bytes, bases
                )
                operand = pointer or 0
            elif base == "block":
                length, at = read_uleb128(code, at)
                operand = code[at : at + length]
                if len(operand) < length:
                    raise MalformedError("truncated", start, f"an expression of {length} bytes")
                at += length
            elif base == "sleb":
                operand, at = read_sleb128(code, at)
            elif base in ("uleb", "reg"):
                operand, at = read_uleb128(code, at)
            else:
                operand, at = read_fixed(code, at, int(base[1:]), False)
            if isinstance(operand, int) and factor:
                operand *= factors.code_alignment if factor == "code" else factors.data_alignment
            operands.append(operand)
        if opcode == 0x2F and isinstance(operands[1], int):
            operands[1] = -operands[1]
        yield Instruction(start, at, opcode, OPCODE_NAMES[opcode], tuple(operands))


def instruction_text(
    instruction: Instruction, machine: Machine, address_size_bytes: int | None = None
) -> str:
    """Render an instruction, such as ``DW_CFA_offset rbx cfa-16``.

    Args:
        instruction: as :func:`decode_instructions` gives it.
        machine: names the registers.
        address_size_bytes: size of an address in expressions, if not the machine's word.
    """
    words = [instruction.name]
    formats = FORMATS[instruction.opcode]
    saved = instruction.opcode in (0x80, 0x05, 0x11, 0x14, 0x15, 0x2F)
    for form, operand in zip(formats, instruction.operands, strict=True):
        if isinstance(operand, bytes):
            words.append(f"({expression_text(operand, machine, address_size_bytes)})")
        elif form in ("low", "reg"):
            words.append(machine.dwarf_name(operand))
        elif form == "pointer":
            words.append(f"{operand:#x}")
        elif saved:
            words.append(f"cfa{operand:+d}")
        else:
            words.append(str(operand))
    return " ".join(words)
