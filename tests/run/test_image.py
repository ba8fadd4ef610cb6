"""Images that cannot be loaded are refused with a place and a next step."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullframe.errors import InputError
from fullframe.run.image import load_image


def _header(machine: int = 62, kind: int = 2, program_headers: int = 0) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, program_headers, 64, 0, 0
    )  # fmt: skip


def _segment(size_bytes: int) -> bytes:
    return struct.pack("<IIQQQQQQ", 1, 5, 0, 0x1000, 0x1000, 0, size_bytes, 16)


def _oversized() -> bytes:
    return struct.pack("<IIQQQQQQ", 1, 5, 0, 0x1000, 0x1000, 1 << 40, 64, 16)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be understood"),
        (b"#!/bin/sh\n", "cannot be understood"),
        (_header(machine=3), "for EM_386"),
        (_header(kind=1), "of type ET_REL"),
        (_header(), "has no symbols"),
        (_header(program_headers=1) + _segment(1 << 40), "loads more than"),
        (_header(program_headers=1) + _oversized(), "holds 1099511627776 bytes and loads 64"),
        (_header(program_headers=9000), "cannot be understood"),
    ],
)
def test_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_image(tmp_path / "none")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_raise_only_input_errors(data: st.DataObject, tmp_path: Path) -> None:
    program = Path(sys.executable).resolve()
    head = bytearray(program.read_bytes()[:4096])
    for _ in range(data.draw(st.integers(1, 8))):
        head[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(head)
    with pytest.raises(InputError):
        load_image(path)
