"""Operations on memory that change nothing, and jumps that a compiler knows are never taken."""

from __future__ import annotations

import pytest
from iced_x86 import Decoder

from fullframe.cfi.handover import is_switch
from fullframe.track import Classifier, StateSpace
from fullframe.track.values import CFA_REGION
from fullframe.x86.registers import BX, X86_64


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        ("f0 48 83 0c 24 00", True),  # lock or $0, (%rsp): a memory barrier
        ("f0 83 0c 24 00", True),
        ("48 83 0c 24 01", False),
        ("48 83 04 24 00", True),  # add $0, (%rsp)
        ("48 83 04 24 08", False),
        ("48 83 24 24 ff", True),  # and $-1, (%rsp)
        ("48 83 24 24 f0", False),
        ("48 83 34 24 00", True),  # xor $0, (%rsp)
    ],
)
def test_a_saved_register_outlives_a_barrier_on_its_slot(code: str, kept: bool) -> None:
    space = StateSpace(X86_64, precise=True)
    classifier = Classifier(space)
    state = space.function_entry()
    for instruction_code in ("53", code):
        body = bytes.fromhex(instruction_code)
        effect = classifier.effect_of(Decoder(64, body).decode(), body)
        if effect is not None:
            state = effect.after(space, state)
    found = state.slots.get((CFA_REGION, -16))
    assert (repr(found) == f"entry({BX})") is kept


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("0f 87 00 01 00 00 ff 24 c5 00 00 40 00", True),  # ja; jmp *table(,%rax,8)
        ("0f 83 00 01 00 00 8b 04 82 ff e0", True),  # jae; mov; jmp *%rax
        ("ff e2", True),  # jmp *%rdx
        ("0f 84 00 01 00 00 ff e0", False),  # je is no bound check
        ("0f 87 00 01 00 00 74 02 ff e0", False),  # another branch between
        ("0f 87 00 01 00 00 c3", False),
    ],
)
def test_the_jumps_of_a_switch_are_known(code: str, expected: bool) -> None:
    assert is_switch(64, bytes.fromhex(code)) is expected
