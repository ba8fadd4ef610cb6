"""What i386 code in the wild taught the checker: each was a false finding or was not proved."""

from __future__ import annotations

import pytest

from fullframe.track.classify import Classifier
from fullframe.track.jump_tables import TableReader
from fullframe.track.listing import EFFECT, decode
from fullframe.track.state import State, StateSpace
from fullframe.track.values import CFA_REGION, OTHER, entry
from fullframe.x86.registers import BX, CX, IP, machine
from tests.cfi_triage.words import words_at

_I386 = machine(32)
_BEGIN = 0x1000
_GOT = 0x9000


def _targets(code: bytes, words: dict[int, int], thunk: int = 0) -> dict[int, list[int]]:
    """Targets by offset of the jump, for a function at ``_BEGIN`` and memory of 32-bit words."""
    reader = TableReader(
        _I386,
        words_at(words, 4),
        _GOT,
        lambda address: _BEGIN <= address < _BEGIN + len(code),
        lambda target: (BX,) if target == thunk else (),
    )
    return reader.find(code, _BEGIN)


def _table(base: int, relative_to: int, targets: list[int]) -> dict[int, int]:
    return {
        base + 4 * number: (target - relative_to) & 0xFFFFFFFF
        for number, target in enumerate(targets)
    }


def test_table_through_a_reloaded_got_address() -> None:
    """GCC keeps the GOT's address in a stack slot and reloads it into any register."""
    code = bytes.fromhex(
        "80fa02"  # cmp $2, %dl
        "7710"  # ja
        "8b742418"  # mov 0x18(%esp), %esi
        "0fb6d2"  # movzbl %dl, %edx
        "8b8c9600f0ffff"  # mov -0x1000(%esi,%edx,4), %ecx
        "01f1"  # add %esi, %ecx
        "ffe1"  # jmp *%ecx
        "90909090"
    )
    wanted = [_BEGIN + 23, _BEGIN + 24, _BEGIN + 25]
    assert _targets(code, _table(_GOT - 0x1000, _GOT, wanted)) == {21: wanted}


def test_structure_offsets_are_not_taken_for_the_got() -> None:
    """An unknown register is not the GOT only because something is added to it."""
    code = bytes.fromhex(
        "8d7001"  # lea 1(%eax), %esi: no table's base
        "80fa02"  # cmp $2, %dl
        "7710"  # ja
        "8b742418"  # mov 0x18(%esp), %esi
        "8b8c9600f0ffff"  # mov -0x1000(%esi,%edx,4), %ecx
        "01f1"  # add %esi, %ecx
        "ffe1"  # jmp *%ecx
        "90909090"
    )
    wanted = [_BEGIN + 23, _BEGIN + 24, _BEGIN + 25]
    assert _targets(code, _table(_GOT - 0x1000, _GOT, wanted)) == {21: wanted}


def test_computed_goto_relative_to_a_label() -> None:
    """GCC stores a label's distance from another and adds that one's distance from the GOT."""
    label = _BEGIN + 23
    distance = (label - _GOT) & 0xFFFFFFFF
    code = (
        bytes.fromhex(
            "83f801"  # cmp $1, %eax
            "7711"  # ja
            "8b848700f0ffff"  # mov -0x1000(%edi,%eax,4), %eax
            "8d8407"  # lea distance(%edi,%eax), %eax
        )
        + distance.to_bytes(4, "little")
        + bytes.fromhex("ffe090909090")  # jmp *%eax
    )
    wanted = [label, label + 1]
    assert _targets(code, _table(_GOT - 0x1000, label, wanted)) == {19: wanted}


def test_table_relative_to_the_program_counter() -> None:
    """Hand-written string functions: call thunk; add $table-., %ebx; add (%ebx,%ecx,4), %ebx."""
    table, thunk = 0x5000, 0x2000
    after_call = _BEGIN + 5
    code = (
        b"\xe8"
        + (thunk - after_call).to_bytes(4, "little")
        + b"\x81\xc3"  # add $imm32, %ebx
        + (table - after_call).to_bytes(4, "little")
        + bytes.fromhex("031c8bffe3909090")  # add (%ebx,%ecx,4), %ebx; jmp *%ebx
    )
    wanted = [_BEGIN + 16, _BEGIN + 17, _BEGIN + 18]
    words = _table(table, table, wanted)
    assert _targets(code, words, thunk) == {14: wanted}
    assert _targets(code, words, thunk=0x3000) == {}


def test_zeros_that_align_do_not_swallow_what_follows() -> None:
    """The GNU C library's strrchr aligns with zeros: three of them, then a branch's target."""
    code = bytes.fromhex(
        "eb03"  # jmp over the fill
        "000000"
        "83ee04"  # sub $4, %esi: the target
        "c3"
    )
    listing = decode(Classifier(StateSpace(_I386)), code, _BEGIN)
    assert listing.index_of(5) is not None
    assert [listing.starts[index] for index in sorted(listing.padding)] == [2, 3, 4]


def test_zeros_of_an_operand_are_no_fill() -> None:
    """A target within an instruction that is no fill does not change how it is read."""
    code = bytes.fromhex(
        "b800000083"  # mov $0x83000000, %eax
        "7402"  # je
        "ebf9"  # jmp into the operand
        "c3"
    )
    listing = decode(Classifier(StateSpace(_I386)), code, _BEGIN)
    assert listing.starts[:3] == [0, 5, 7]
    assert not listing.padding


def _follow(code: bytes, *, precise: bool) -> State:
    """The state after code that has no branches, from a function's entry."""
    space = StateSpace(_I386, precise=precise)
    classifier = Classifier(space)
    state = space.function_entry()
    for _, kind, payload in decode(classifier, code, _BEGIN).events:
        assert kind == EFFECT
        state = payload.after(space, state)
    return state


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("operation", ["f0830c2400", "f083042400", "832c2400", "83342400"])
def test_a_fence_on_the_return_address_leaves_it(operation: str, precise: bool) -> None:
    """``lock orl $0, (%esp)`` and its like write back what they read."""
    state = _follow(bytes.fromhex(operation), precise=precise)
    assert state.slots[CFA_REGION, -4] is entry(IP)


def test_a_changed_return_address_is_lost() -> None:
    """The same with another number does not leave it."""
    state = _follow(bytes.fromhex("830c2401"), precise=True)
    assert state.slots.get((CFA_REGION, -4)) is not entry(IP)


def test_a_thunk_keeps_what_it_does_not_load() -> None:
    """GCC keeps the CFA in %ecx over the call of a program-counter thunk."""
    space = StateSpace(_I386, precise=True)
    state = space.function_entry()
    after = Classifier(space).call_that_clobbers((BX,)).after(space, state)
    assert after.registers[CX] is entry(CX)
    assert after.registers[BX] is OTHER
