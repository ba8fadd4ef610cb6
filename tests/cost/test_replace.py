from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iced_x86 import Decoder

from fullframe.cost.replace import Replacement, replace_privileged
from fullframe.errors import InputError


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("0f01f8", "0f1f00"),  # swapgs
        ("480f07", "ffe190"),  # sysretq
        ("fa", "90"),  # cli
        ("fb", "90"),  # sti
        ("0f01ca", "0f1f00"),  # clac
        ("0f01cb", "0f1f00"),  # stac
        ("48cf", "48cf"),  # iretq runs in user mode
        ("9c9d", "9c9d"),  # pushfq, popfq too
        ("50c3", "50c3"),
        ("", ""),
    ],
)
def test_each_replacement_has_the_length_of_what_it_replaces(code: str, expected: str) -> None:
    patched, _ = replace_privileged(bytes.fromhex(code), 0x1000)
    assert patched.hex() == expected


def test_replacements_are_listed_by_address() -> None:
    code = bytes.fromhex("900f01f8fb50480f07")
    patched, replacements = replace_privileged(code, 0x1000)
    assert patched.hex() == "900f1f009050ffe190"
    assert replacements == (
        Replacement(0x1001, "swapgs", "nopl (%rax)"),
        Replacement(0x1004, "sti", "nop"),
        Replacement(0x1006, "sysretq", "jmp *%rcx; nop"),
    )


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("0f22d8", "mov %rax,%cr3"),
        ("0f30", "wrmsr"),
        ("f4", "hlt"),
        ("0f07", "sysret"),  # 32-bit: jmp *%rcx would not stay in 32 bits
        ("e460", "in "),
        ("48fa", "cli"),  # with a prefix: the replacement is shorter
    ],
)
def test_anything_else_privileged_is_refused_by_name_and_address(code: str, named: str) -> None:
    with pytest.raises(InputError) as caught:
        replace_privileged(bytes.fromhex("90" + code), 0x1000, name="annotated")
    message = str(caught.value)
    assert message.startswith("annotated: privileged instructions that cannot run in user space")
    assert named in message
    assert "0x1001" in message
    assert "next: " in message


def test_all_refused_instructions_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"hlt at 0x0, wrmsr at 0x2"):
        replace_privileged(bytes.fromhex("f4900f30"), 0)


def test_symbols_put_decoding_straight_after_data() -> None:
    code = bytes.fromhex("48b80f01f8")  # two bytes of data, swapgs
    assert replace_privileged(code, 0x10)[1] == (), "without a symbol: the start of a movabs"
    assert replace_privileged(code, 0x10, [0x12, 0, 1 << 60])[0].hex() == "48b80f1f00"


@given(st.binary(max_size=60), st.lists(st.integers(0, 70), max_size=5))
def test_what_is_left_is_not_privileged(code: bytes, starts: list[int]) -> None:
    try:
        patched, replacements = replace_privileged(code, 0, starts)
    except InputError:
        return
    assert len(patched) == len(code)
    limits = sorted({0, *(start for start in starts if 0 < start < len(code)), len(code)})
    for start, end in pairwise(limits):
        for instruction in Decoder(64, patched[start:end], ip=start):
            assert instruction.is_invalid or not instruction.is_privileged
    changed = {index for index in range(len(code)) if code[index] != patched[index]}
    covered = {item.address + index for item in replacements for index in range(3)}
    assert changed <= covered
