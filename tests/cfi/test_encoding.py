"""LEB128 and encoded pointers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullframe.cfi.encoding import (
    Bases,
    MalformedError,
    encoding_name,
    read_pointer,
    read_sleb128,
    read_uleb128,
)
from tests.cfi.writer import sleb, uleb


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 20), st.binary(max_size=4))
def test_uleb128(value, padding, rest):
    code = uleb(value, padding)
    assert read_uleb128(code + rest, 0) == (value, len(code))


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.binary(max_size=4))
def test_sleb128(value, rest):
    code = sleb(value)
    assert read_sleb128(code + rest, 0) == (value, len(code))


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(1, 20))
def test_padded_sleb128(value, padding):
    code = bytearray(sleb(value))
    code[-1] |= 0x80
    group = 0x7F if value < 0 else 0
    code += bytes([group | 0x80]) * (padding - 1) + bytes([group])
    assert read_sleb128(bytes(code), 0) == (value, len(code))


@pytest.mark.parametrize("read", [read_uleb128, read_sleb128])
@pytest.mark.parametrize(
    "code", [b"", b"\x80", b"\xff" * 9 + b"\x7e", b"\x80" * 10 + b"\x01", b"\x80" * (1 << 20)]
)
def test_bad_leb128(read, code):
    with pytest.raises(MalformedError) as caught:
        read(code, 0)
    assert caught.value.kind == "bad-leb128"


def test_a_stored_zero_is_no_pointer():
    assert read_pointer(bytes(4), 0, 0x1B, 8, Bases(0x1000)) == (None, 4)


def test_an_omitted_pointer_takes_no_bytes():
    assert read_pointer(b"\x01", 0, 0xFF, 8, Bases(0x1000)) == (None, 0)


def test_pointers_wrap_at_the_size_of_an_address():
    code = (-0x2000).to_bytes(4, "little", signed=True)
    assert read_pointer(code, 0, 0x1B, 4, Bases(0x1000)) == (0xFFFFF000, 4)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        (0x00, "absptr"),
        (0x1B, "pcrel sdata4"),
        (0x9B, "indirect pcrel sdata4"),
        (0x3B, "datarel sdata4"),
        (0xFF, "omit"),
        (0x67, "unknown encoding 0x67"),
    ],
)
def test_names(encoding, name):
    assert encoding_name(encoding) == name
