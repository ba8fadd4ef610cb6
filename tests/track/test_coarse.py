"""Effects in the coarse space: simplified, they do the same to every state that there is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iced_x86 import Decoder, FlowControl

from fullframe.track.classify import Classifier
from fullframe.track.coarse import in_coarse_space
from fullframe.track.effects import Effect
from fullframe.track.handlers import HANDLERS
from fullframe.track.state import StateSpace
from fullframe.x86.registers import machine
from tests.track.random_code import _PLAIN_32, _PLAIN_64

CLASSIFIERS = {bits: Classifier(StateSpace(machine(bits))) for bits in (64, 32)}
#: mov, lea, add, sub, and, cmov, inc, dec, with any operands.
OPCODES = [b"\x89", b"\x8b", b"\x8d", b"\x01", b"\x03", b"\x29", b"\x2b", b"\x23", b"\xff"]
OPCODES += [b"\x83", b"\x81", b"\xc7", b"\x87", b"\x0f\x44", b"\x0f\x4d", b"\x63", b"\x88"]


def any_operands(bits):
    prefixes = [b"", b"\x48", b"\x49", b"\x4c", b"\x4d", b"\x41", b"\x66"] if bits == 64 else [b""]
    return st.builds(
        lambda prefix, opcode, rest: prefix + opcode + rest,
        st.sampled_from(prefixes),
        st.sampled_from(OPCODES),
        st.binary(min_size=8, max_size=8)
        | st.builds(
            # Displacements and immediates near the frame, and none.
            lambda operands, number: operands + bytes([number, 0, 0, 0, 0, 0, 0]),
            st.binary(min_size=2, max_size=2),
            st.sampled_from([0, 8, 0xF8]),
        ),
    )


def effects_of(bits, encoding):
    """(as the handler has it, simplified), or None."""
    classifier = CLASSIFIERS[bits]
    i = Decoder(bits, encoding).decode()
    handler = HANDLERS.get(i.mnemonic)
    if i.is_invalid or handler is None or i.flow_control != FlowControl.NEXT:
        return None
    made = handler(classifier, i)
    if made is None or made[1] is None:
        return None
    key, make = in_coarse_space(classifier.space.machine, *made)
    plain = Effect(made[0], made[1](), moves_frame=False)
    return plain, Effect(key, make(), moves_frame=False)


@pytest.mark.parametrize("bits", [64, 32])
@settings(max_examples=600)
@given(st.data())
def test_simplified_effects_do_the_same(bits, data):
    plain = _PLAIN_64 if bits == 64 else _PLAIN_32
    pieces = st.sampled_from(plain) | any_operands(bits)
    space = CLASSIFIERS[bits].space
    state = space.function_entry()
    for encoding in data.draw(st.lists(pieces, max_size=16)):
        effects = effects_of(bits, encoding)
        if effects is None:
            continue
        after = effects[0].after(space, state)
        assert effects[1].after(space, state) is after, encoding.hex()
        state = after


@pytest.mark.parametrize(
    ("encoding", "key"),
    [
        ("49 c7 c4 10 00 00 00", ("clobber", 12)),  # mov $16, %r12
        ("48 89 fb", ("clobber", 3)),  # mov %rdi, %rbx
        ("48 8b 5f 08", ("clobber", 3)),  # mov 8(%rdi), %rbx
        ("48 8b 5c c4 08", ("clobber", 3)),  # mov 8(%rsp,%rax,8), %rbx
        ("48 8d 5c 24 08", ("clobber", 3)),  # lea 8(%rsp), %rbx
        ("48 8d 1c 04", ("clobber", 3)),  # lea (%rsp,%rax), %rbx
        ("48 83 c3 08", ("clobber", 3)),  # add $8, %rbx
        ("48 01 fb", ("clobber", 3)),  # add %rdi, %rbx
        ("48 83 e3 f0", ("clobber", 3)),  # and $-16, %rbx
        ("48 0f 44 df", ("clobber", 3)),  # cmovz %rdi, %rbx
        ("48 89 7c 24 08", ("store", (4, 8, False), None, 8)),  # mov %rdi, 8(%rsp)
        ("57", ("push", None, 8)),  # push %rdi
        ("5f", ("pop", None, 8)),  # pop %rdi
        # These move what is kept.
        ("53", ("push", 3, 8)),  # push %rbx
        ("5b", ("pop", 3, 8)),  # pop %rbx
        ("48 89 eb", ("copy", 3, 5)),  # mov %rbp, %rbx
        ("48 8d 5d 00", ("lea", 3, (5, 0, False))),  # lea (%rbp), %rbx: the same
        ("48 83 c3 00", ("add", 3, 0)),  # add $0, %rbx
        ("48 8b 5c 24 08", ("load", 3, (4, 8, False))),  # mov 8(%rsp), %rbx
        ("48 89 5c 24 08", ("store", (4, 8, False), 3, 8)),  # mov %rbx, 8(%rsp)
        ("48 89 c4", ("copy", 4, 0)),  # mov %rax, %rsp
        ("48 83 c5 08", ("add", 5, 8)),  # add $8, %rbp
    ],
)
def test_what_is_simplified(encoding, key):
    effects = effects_of(64, bytes.fromhex(encoding))
    assert effects is not None
    assert effects[1].key == key
