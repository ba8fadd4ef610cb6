"""What is read off the bytes of instructions is what iced-x86 says of them."""

import random
from pathlib import Path

import numpy as np
import pytest
from iced_x86 import Code, Decoder, OpKind

from fullframe.elf.image import Image
from fullframe.track.encodings import (
    NO_REGISTER,
    READ_AHEAD_BYTES,
    SIGNATURES,
    bases_of,
    distances_of,
    encodings_of,
    keys_of,
    registers_of,
    without_reg,
)
from fullframe.track.operands import HARDWARE
from fullframe.track.reader import _FORMS
from tests.support import skip_or_fail

#: Bytes that make much of an instruction: prefixes, and opcodes behind 0F.
MARKED = b"\x66\xf2\xf3\x67\x64\x2e\x48\x41\x4c\x0f\x0f\xf0"


class Held:
    """Signatures met so far, with the code of each."""

    def __init__(self, bits):
        self.bits = bits
        self.codes = {}
        self.regular = self.count = 0

    def hold(self, code):
        """Hold what is read off some code against iced-x86; the last instruction may be cut."""
        instructions = list(Decoder(self.bits, code, ip=0))[:-1]
        self.hold_all(code, [i.ip for i in instructions], instructions)

    def hold_all(self, code, starts, instructions):
        data = np.frombuffer(code + bytes(READ_AHEAD_BYTES), np.uint8)
        found = encodings_of(data, np.array(starts, np.int64), self.bits)
        self.count += len(instructions)
        registers, bases, branches = [], [], []
        for index, (signature, regular, i) in enumerate(
            zip(found.signatures.tolist(), found.regular.tolist(), instructions, strict=True)
        ):
            if not regular:
                continue
            self.regular += 1
            assert 0 <= signature < SIGNATURES
            # The same signature, the same code, whatever else is different.
            known = self.codes.setdefault(signature, i.code)
            assert known == i.code, (i, code[starts[index] : starts[index] + len(i)].hex())
            if i.code == Code.INVALID or not i.op_count:
                continue
            form = _FORMS.get(i.op_code().op0_kind)
            if i.op0_kind == OpKind.REGISTER and form is not None:
                registers.append((index, form, HARDWARE[i.op0_register]))
            elif i.op0_kind == OpKind.MEMORY and form is not None:
                bases.append((index, HARDWARE.get(i.memory_base, NO_REGISTER)))
            elif i.op0_kind in (OpKind.NEAR_BRANCH64, OpKind.NEAR_BRANCH32):
                branches.append((index, starts[index] + len(i), i.near_branch_target - i.next_ip))
        if registers:
            indices, forms, expected = map(np.array, zip(*registers, strict=True))
            got = registers_of(found, indices, forms.astype(np.uint8))
            assert [str(instructions[n]) for n in indices[got != expected]] == []
        if bases:
            indices, expected = map(np.array, zip(*bases, strict=True))
            got = bases_of(found, indices)
            assert [str(instructions[n]) for n in indices[got != expected]] == []
        if branches:
            indices, ends, expected = zip(*branches, strict=True)
            got = distances_of(data, found, np.array(indices), np.array(ends)).tolist()
            mask = (1 << self.bits) - 1
            assert [one & mask for one in got] == [one & mask for one in expected]


@pytest.mark.parametrize("bits", [64, 32])
def test_random_bytes(bits):
    source, held = random.Random(bits), Held(bits)
    for _ in range(100):
        marked = source.choices(MARKED, k=3000)
        held.hold(bytes(source.choice((source.randrange(256), byte)) for byte in marked))
    assert held.regular > held.count // 2
    assert len(held.codes) > 5000


@pytest.mark.parametrize("bits", [64, 32])
def test_every_opcode(bits):
    """Each opcode with each ModRM byte, behind each prefix that makes a difference."""
    held = Held(bits)
    prefixes = [b"", b"\x66", b"\xf2", b"\xf3"] + ([b"\x48", b"\x41", b"\x66\x4d"] * (bits == 64))
    rest = bytes([0x24, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0])
    for prefix in prefixes:
        for opcode in (*(bytes([n]) for n in range(256)), *(bytes([0x0F, n]) for n in range(256))):
            pieces = [prefix + opcode + bytes([modrm]) + rest for modrm in range(256)]
            starts = [number * len(pieces[0]) for number in range(256)]
            held.hold_all(b"".join(pieces), starts, [Decoder(bits, one).decode() for one in pieces])
    assert held.regular > held.count // 2


@pytest.mark.parametrize(
    ("bits", "path"), [(64, "/lib/x86_64-linux-gnu/libc.so.6"), (32, "/usr/lib32/libc.so.6")]
)
def test_real_code(bits, path):
    if not Path(path).is_file():
        skip_or_fail(f"{path} is not on this machine")
    held, image = Held(bits), Image.open(path)
    for _, piece in image.executable_pieces(1 << 62, 0):
        held.hold(bytes(piece))
    assert held.regular > 0.9 * held.count


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("89 7c 24 08", "89 44 24 08"),  # mov %edi, 8(%rsp)
        ("48 89 7c 24 08", "48 89 44 24 08"),
        ("4c 89 7d 08", "48 89 45 08"),  # mov %r15, 8(%rbp)
        ("45 89 7c 24 08", "41 89 44 24 08"),  # mov %r15d, 8(%r12)
        ("66 44 89 7d 08", "66 40 89 45 08"),
        ("0f 29 7c 24 08", "0f 29 44 24 08"),  # movaps %xmm7, 8(%rsp)
        ("44 0f 29 7c 24 08", "40 0f 29 44 24 08"),
        ("66 44 0f 7f 7d 24", "66 40 0f 7f 45 24"),  # movdqa %xmm15, 36(%rbp)
    ],
)
def test_keys_without_the_register(encoding, expected):
    keys = []
    for text in (encoding, expected):
        # What stands behind it is no part of it.
        code = bytes.fromhex(text)
        data = np.frombuffer(code + b"\xff" * READ_AHEAD_BYTES, np.uint8)
        starts, ends, first = np.array([0]), np.array([len(code)]), np.array([0])
        found = encodings_of(data, starts, 64)
        keys.append(keys_of(data, starts, ends))
        if text == encoding:
            keys.append(without_reg(keys[0], found, first))
    assert keys[1] == keys[2]
    assert keys[0] == int.from_bytes(bytes.fromhex(encoding), "little")


def test_an_unusual_encoding_is_odd():
    for text in (
        "c5f877",  # vzeroupper
        "62f17c4828c1",  # vmovaps %zmm1, %zmm0
        "f30f1efa",  # endbr64: the ModRM byte's rm counts
        "f390",  # pause
        "4190",  # xchg %r8d, %eax
        "d9e8",  # fld1
        "f048830424 00",  # lock add
        "67488b03",  # a 32-bit address
        "4848 89d8",  # two REX prefixes
        "4866 89d8",  # a prefix behind REX
        "2e2e2e 89d8",
        "0f01f8",  # swapgs
        "c7f8 00000000",  # xbegin
    ):
        data = np.frombuffer(bytes.fromhex(text) + bytes(READ_AHEAD_BYTES), np.uint8)
        assert not encodings_of(data, np.array([0]), 64).regular[0], text
