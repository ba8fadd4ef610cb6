from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iced_x86 import Decoder

from fullframe.cost.path import PathCost, path_cost, straight
from fullframe.errors import InputError
from fullframe.x86.trace import TracedInstruction

#: Encoding, what it is, loads, stores: counted by hand from the instruction's description in the
#: Intel SDM vol. 2.
ACCESSES = [
    ("50", "push %rax", 0, 1),
    ("6aff", "push $-1", 0, 1),
    ("ff7010", "push 16(%rax)", 1, 1),
    ("65ff342500000000", "push %gs:0", 1, 1),
    ("58", "pop %rax", 1, 0),
    ("8f4010", "pop 16(%rax)", 1, 1),
    ("e800000000", "call .+5", 0, 1),
    ("ffd0", "call *%rax", 0, 1),
    ("ff14c500000000", "call *0(,%rax,8)", 1, 1),
    ("ff2500000000", "jmp *0(%rip)", 1, 0),
    ("ffe0", "jmp *%rax", 0, 0),
    ("eb00", "jmp .+2", 0, 0),
    ("c3", "ret", 1, 0),
    ("c9", "leave", 1, 0),
    ("48cf", "iretq", 5, 0),
    ("9c", "pushfq", 0, 1),
    ("9d", "popfq", 1, 0),
    ("0f05", "syscall", 0, 0),
    ("480f07", "sysretq", 0, 0),
    ("0f01f8", "swapgs", 0, 0),
    ("fa", "cli", 0, 0),
    ("488b4424f8", "mov -8(%rsp), %rax", 1, 0),
    ("48894424f8", "mov %rax, -8(%rsp)", 0, 1),
    ("654889242500000000", "mov %rsp, %gs:0", 0, 1),
    ("480107", "add %rax, (%rdi)", 1, 1),
    ("480307", "add (%rdi), %rax", 1, 0),
    ("48ff07", "incq (%rdi)", 1, 1),
    ("48833f00", "cmpq $0, (%rdi)", 1, 0),
    ("65f704251000000001000000", "testl $1, %gs:16", 1, 0),
    ("488707", "xchg %rax, (%rdi)", 1, 1),
    ("480f4407", "cmove (%rdi), %rax", 1, 0),
    ("f348a5", "rep movsq", 1, 1),
    ("0f1f440000", "nopl 0(%rax,%rax)", 0, 0),
    ("488d4424f8", "lea -8(%rsp), %rax", 0, 0),
    ("90", "nop", 0, 0),
    ("f30f1efa", "endbr64", 0, 0),
    ("31c0", "xor %eax, %eax", 0, 0),
]


@pytest.mark.parametrize(("encoding", "text", "loads", "stores"), ACCESSES)
def test_loads_and_stores_of_one_instruction(
    encoding: str, text: str, loads: int, stores: int
) -> None:
    code = bytes.fromhex(encoding)
    counted = path_cost([TracedInstruction(0x1000, code)])
    assert counted == PathCost(1, len(code), stores, loads), text


def test_a_path_counted_by_hand() -> None:
    # An entry in miniature: 3 + 9 + 9 + 2 + 1 + 7 + 1 + 3 bytes.
    code = bytes.fromhex(
        "0f01f8"  # swapgs
        "65488924250000 0000"  # mov %rsp, %gs:0         store
        "65488b24250800 0000"  # mov %gs:8, %rsp         load
        "6a2b"  # push $0x2b                             store
        "51"  # push %rcx                                store
        "ff14c500000000"  # call *0(,%rax,8)             load, store
        "59"  # pop %rcx                                 load
        "480f07"  # sysretq
    )
    assert path_cost(straight(code)) == PathCost(8, 35, 4, 3)


def test_an_empty_path_costs_nothing() -> None:
    assert path_cost([]) == PathCost(0, 0, 0, 0)


def test_i386() -> None:
    assert path_cost(straight(bytes.fromhex("608b0424"), bits=32), bits=32).loads == 1
    assert path_cost([TracedInstruction(0, b"\x40")], bits=32).bytes == 1  # inc %eax, not REX


@pytest.mark.parametrize(
    "encoding", [b"", b"\x48", b"\x90\x90", b"\x06", b"\x0f\x0f", b"\x90" * 99]
)
def test_what_is_not_one_instruction_is_refused(encoding: bytes) -> None:
    with pytest.raises(InputError, match=r"offset 0x40.*expected the encoding of exactly one"):
        path_cost([TracedInstruction(0x40, encoding)])


def test_straight_code_with_junk_is_refused() -> None:
    with pytest.raises(InputError, match=r"offset 0x1001: the bytes 06"):
        straight(b"\x90\x06", 0x1000)
    with pytest.raises(InputError, match="offset 0x1"):
        straight(b"\x90\x48")


@given(st.lists(st.sampled_from(ACCESSES), max_size=30), st.integers(0, 1 << 40))
def test_counts_add_up(rows: list[tuple[str, str, int, int]], address: int) -> None:
    code = b"".join(bytes.fromhex(row[0]) for row in rows)
    path = straight(code, address)
    assert [item.encoding.hex() for item in path] == [row[0] for row in rows]
    assert path_cost(path) == PathCost(
        len(rows), len(code), sum(row[3] for row in rows), sum(row[2] for row in rows)
    )


@given(st.binary(max_size=15))
def test_any_bytes_are_counted_or_refused(encoding: bytes) -> None:
    try:
        counted = path_cost([TracedInstruction(0, encoding)])
    except InputError:
        decoded = Decoder(64, encoding).decode()
        assert decoded.is_invalid or decoded.len != len(encoding)
    else:
        assert counted.bytes == len(encoding)
        assert counted.loads >= 0
        assert counted.stores >= 0
