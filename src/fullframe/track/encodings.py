"""What the bytes of many instructions tell, looked at together.

To ask a decoded instruction for its code and for the register that it writes costs as much as to
decode it. But both can be read off its first bytes (Intel SDM volume 2, chapter 2 and appendix A),
for thousands of instructions at once. The *signature* of an instruction is a number that those with
the same ``Instruction.code`` may not share, but those with different ones never do: what the code
means is learnt from the first instruction of each signature. Encodings with a signature are
*regular*; for the others, few in most code, iced-x86 is asked.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

_Array = np.ndarray[Any, Any]

#: How many signatures there are; each is lower.
SIGNATURES: Final = 1 << 17
#: Bytes that may be read behind the first of the last instruction.
READ_AHEAD_BYTES: Final = 8
#: Encodings that are not longer are told apart by :func:`keys_of`.
LONGEST_KEY_BYTES: Final = 8
#: Stands for a register that is none.
NO_REGISTER: Final = 255

#: Opcodes; those behind 0F are 0x100 higher.
_TWO_BYTES: Final = 0x100
_NOP: Final = 0x90
#: Bits of the prefixes that are in a signature, and those that leave none.
_OPERAND_SIZE, _REPNE, _REP, _ODD = 1, 2, 4, 8
_PREFIXES: Final = {
    0x66: _OPERAND_SIZE, 0xF2: _REPNE, 0xF3: _REP, 0x67: _ODD, 0xF0: _ODD,
    0x26: 0, 0x2E: 0, 0x36: 0, 0x3E: 0, 0x64: 0, 0x65: 0,
}  # fmt: skip
_MOST_PREFIXES: Final = 2
#: Of a ModRM byte: the field ``reg``, and from where on there is no memory operand.
_REG, _REGISTERS_ONLY = 0x38, 0xC0


def _table(size: int, chosen: list[int]) -> _Array:
    table = np.zeros(size, bool)
    table[chosen] = True
    return table


_IS_PREFIX: Final = _table(256, list(_PREFIXES))
_PREFIX_BITS: Final = np.zeros(256, np.uint8)
for _prefix, _bits in _PREFIXES.items():
    _PREFIX_BITS[_prefix] = _bits
#: Opcodes without a ModRM byte; of others the byte that would be one makes more signatures.
_WITHOUT_MODRM: Final = [
    *(row + column for row in range(0, 0x40, 8) for column in (4, 5)),
    *range(0x40, 0x60), 0x68, 0x6A, *range(0x70, 0x80), *range(0x90, 0xC0), 0xC2, 0xC3, 0xC8, 0xC9,
    0xCC, 0xCD, *range(0xE0, 0xF0), 0xF4, *range(0xF8, 0xFE),
    *(_TWO_BYTES + opcode for opcode in (0x05, 0x0B, 0x31, *range(0x80, 0x90), 0xA2)),
    *(_TWO_BYTES + opcode for opcode in range(0xC8, 0xD0)),
]  # fmt: skip
_HAS_MODRM: Final = ~_table(512, _WITHOUT_MODRM)
#: Where more than the signature tells the code: VEX and EVEX, 3DNow!, three-byte opcodes, and
#: opcodes for which the field ``rm`` counts, or the operand's size does not.
_ODD_OPCODES: Final = _table(
    512,
    [
        0x62, 0x82, 0x8C, 0x8E, 0xC4, 0xC5, 0xD6,
        *(
            _TWO_BYTES + opcode
            for opcode in (
                0x00, 0x01, 0x0D, 0x0E, 0x0F, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E,
                *range(0x20, 0x28), 0x36, 0x37, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F,
                0x71, 0x72, 0x73, 0x78, 0x79, 0xA6, 0xA7, 0xAE, 0xB8, 0xC7,
            )
        ),
    ],
)  # fmt: skip
#: Odd where the ModRM byte names registers only: x87 instructions.
_ODD_WITH_REGISTERS: Final = _table(512, list(range(0xD8, 0xE0)))
#: Odd where ``reg`` is not 0: XOP, and XABORT and XBEGIN.
_ODD_WITH_REG: Final = _table(512, [0x8F, 0xC6, 0xC7])


class Encodings(NamedTuple):
    """Fields of many instructions, an element for each; those of odd ones mean nothing.

    Attributes:
        signatures: of each.
        regular: whether it has one.
        rex: the REX prefix, or 0.
        opcodes: the opcode's last byte.
        modrm: the byte behind it.
        sib: the byte behind that.
        opcode_sizes: bytes of the opcode.
        offsets: of the byte behind the opcode, in the instruction.
    """

    signatures: _Array
    regular: _Array
    rex: _Array
    opcodes: _Array
    modrm: _Array
    sib: _Array
    opcode_sizes: _Array
    offsets: _Array


def encodings_of(data: _Array, starts: _Array, bits: int) -> Encodings:
    """Read the fields of instructions.

    Args:
        data: bytes; ``READ_AHEAD_BYTES`` more than the instructions have.
        starts: where in them each instruction starts.
        bits: of the machine, 64 or 32.
    """
    places = starts.copy()
    first = data[places]
    prefixes = np.zeros(len(places), np.uint8)
    left = np.flatnonzero(_IS_PREFIX.take(first))
    for _ in range(_MOST_PREFIXES):
        prefixes[left] |= _PREFIX_BITS.take(first[left])
        places[left] += 1
        first[left] = data[places[left]]
        left = left.compress(_IS_PREFIX.take(first[left]))
    odd = np.zeros(len(places), bool)
    odd[left] = True
    if bits == 64:
        has_rex = (first & 0xF0) == 0x40
        rex = first * has_rex
        places += has_rex
        first = data[places]
        # Only the last REX prefix, and only in front of the opcode, is one.
        odd |= (_IS_PREFIX.take(first) | ((first & 0xF0) == 0x40)) & has_rex
    else:
        rex = np.zeros(len(places), np.uint8)
    has_two = first == 0x0F
    places += has_two
    last = data[places]
    places += 1
    modrm = data[places]
    opcodes = last + has_two * np.int64(_TWO_BYTES)
    registers_only = modrm >= _REGISTERS_ONLY
    odd |= _ODD_OPCODES.take(opcodes)
    odd |= prefixes >= (_REPNE | _REP)
    odd |= (opcodes == _NOP) & ((rex | prefixes) != 0)
    odd |= _ODD_WITH_REGISTERS.take(opcodes) & registers_only
    odd |= _ODD_WITH_REG.take(opcodes) & ((modrm & _REG) != 0)
    fields = (modrm & _REG) >> 2 | registers_only
    fields *= _HAS_MODRM.take(opcodes)
    signatures = opcodes << 8 | (fields << 4 | prefixes << 1 | (rex >> 3 & 1))
    sizes = has_two + np.uint8(1)
    return Encodings(signatures, ~odd, rex, last, modrm, data[places + 1], sizes, places - starts)


_KEY_MASKS: Final = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)


def keys_of(data: _Array, starts: _Array, ends: _Array) -> _Array:
    """Return a number for each instruction that tells its encoding.

    No encoding is how another begins: zeros in place of what is not there mix none up.

    Args:
        data: the bytes, contiguous.
        starts: where in them each instruction starts.
        ends: where it ends, ``LONGEST_KEY_BYTES`` behind at the most.
    """
    words: _Array = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
    keys: _Array = words[starts] & _KEY_MASKS[ends - starts]
    return keys


def without_reg(keys: _Array, found: Encodings, chosen: _Array) -> _Array:
    """Return the keys that instructions would have if ``reg`` in the ModRM byte were the first.

    Args:
        keys: of :func:`keys_of`.
        found: fields of instructions.
        chosen: indices of those that the keys are of.
    """
    byte = np.uint64(8)
    offsets = found.offsets[chosen].astype(np.uint64)
    mask = np.uint64(_REG) << offsets * byte
    has_bit = (found.rex[chosen] & 4).astype(np.uint64)
    # Without a REX prefix the shift is one too far, but of nothing.
    before = found.opcode_sizes[chosen].astype(np.uint64) + np.uint64(1)
    mask |= has_bit << (np.maximum(offsets, before) - before) * byte
    result: _Array = keys & ~mask
    return result


#: Where an operand is: the register in the ModRM byte's ``reg`` or ``rm``, or in the opcode; memory
#: that the ModRM byte addresses; or elsewhere.
ELSEWHERE, IN_REG, IN_RM, IN_OPCODE, IN_MEMORY = range(5)
#: Added for byte registers: four have other numbers without a REX prefix.
BYTE_REGISTER: Final = 8


def registers_of(found: Encodings, chosen: _Array, forms: _Array) -> _Array:
    """Return the hardware numbers of registers that operands name.

    Args:
        found: fields of instructions.
        chosen: indices of some of them.
        forms: of each of these, where the register is.

    Returns:
        Numbers; of operands in memory or elsewhere they mean nothing.
    """
    rex, modrm = found.rex[chosen], found.modrm[chosen]
    where = forms & 7
    low = np.where(where == IN_OPCODE, found.opcodes[chosen], modrm)
    in_reg = (modrm >> 3 & 7) | (rex & 4) << 1
    number = np.where(where == IN_REG, in_reg, (low & 7) | (rex & 1) << 3)
    number[(forms >= BYTE_REGISTER) & (rex == 0) & (number >= 4)] -= 4
    return number


def bases_of(found: Encodings, chosen: _Array) -> _Array:
    """Return the hardware numbers of the base registers of memory operands.

    Args:
        found: fields of instructions.
        chosen: indices of some of them, with a memory operand that the ModRM byte addresses.

    Returns:
        Numbers; ``NO_REGISTER`` without a base, and relative to the instruction pointer.
    """
    rex, modrm = found.rex[chosen], found.modrm[chosen]
    low = np.where((modrm & 7) == 4, found.sib[chosen], modrm) & 7
    number: _Array = low | (rex & 1) << 3
    number[(low == 5) & (modrm < 0x40)] = NO_REGISTER
    return number


def distances_of(data: _Array, found: Encodings, chosen: _Array, ends: _Array) -> _Array:
    """Return how far near branches and calls lead, from behind them, in bytes.

    Args:
        data: the bytes.
        found: fields of instructions.
        chosen: indices of some of them: branches and calls with a distance of 8 or 32 bits.
        ends: where each of these ends in the data.
    """
    opcodes = found.signatures[chosen] >> 8
    wide = (opcodes >= _TWO_BYTES) | ((opcodes & ~1) == 0xE8)
    distances: _Array = data[ends - 1].astype(np.int8).astype(np.int64)
    number = np.zeros(int(wide.sum()), np.uint32)
    for byte, back in enumerate((4, 3, 2, 1)):
        number |= data[ends[wide] - back].astype(np.uint32) << np.uint32(8 * byte)
    distances[wide] = number.view(np.int32)
    return distances
