"""Instructions read together have the effects that they have one by one, whichever came first."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iced_x86 import Decoder, FlowControl

from fullframe.cfi.frames import read_frames
from fullframe.elf.image import Image
from fullframe.track import Classifier, StateSpace, listing
from fullframe.track.reader import StreamReader
from fullframe.x86.registers import machine
from tests.support import skip_or_fail
from tests.track.random_code import _PLAIN_32, _PLAIN_64
from tests.track.test_coarse import any_operands
from tests.track.test_streams import held_against_decoding


def classifier_of(bits, narrow):
    return Classifier(StateSpace(machine(bits), narrow_pointers=narrow))


def plain(bits, encoding):
    """The first instruction, if it transfers no control."""
    i = Decoder(bits, encoding).decode()
    flows = i.is_invalid or i.flow_control != FlowControl.NEXT
    return b"" if flows else encoding[: len(i)]


@pytest.mark.parametrize(("bits", "narrow"), [(64, False), (64, True), (32, False)])
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_operands(bits, narrow, data):
    pieces = any_operands(bits) | st.sampled_from(_PLAIN_64 if bits == 64 else _PLAIN_32)
    code = b"".join(plain(bits, one) for one in data.draw(st.lists(pieces, max_size=40)))
    classifier = classifier_of(bits, narrow)
    reader = StreamReader(classifier)
    # Once with everything new, and once with everything known.
    for _ in range(2):
        stream = reader.read([(0x1000, code + b"\xc3")]).stream(0)
        held_against_decoding(stream, listing._decode(classifier, stream.code, 0x1000))


@pytest.mark.parametrize(
    ("path", "narrow"),
    [
        ("/lib/x86_64-linux-gnu/libc.so.6", False),
        ("/usr/lib32/libc.so.6", False),
        ("/usr/libx32/libc.so.6", True),
    ],
)
def test_whole_libraries(path, narrow):
    if not Path(path).is_file():
        skip_or_fail(f"{path} is not on this machine")
    image = Image.open(path)
    classifier = classifier_of(image.machine.bits, narrow)
    reader = StreamReader(classifier)
    (table,) = (one for one in read_frames(image) if one.is_eh)
    ranges = [(fde.begin, bytes(image.read(fde.begin, fde.end - fde.begin))) for fde in table.fdes]
    batch = reader.read(ranges)
    for number, (begin, code) in enumerate(ranges):
        held_against_decoding(batch.stream(number), listing._decode(classifier, code, begin))


def test_numbers_of_forgotten_effects_are_not_used():
    classifier = classifier_of(64, False)
    reader = StreamReader(classifier)
    code = bytes.fromhex("53 31db 48894c2408 488b5f08 488d5f08 5b c3")
    for _ in range(2):
        stream = reader.read([(0x1000, code)]).stream(0)
        held_against_decoding(stream, listing._decode(classifier, code, 0x1000))
        # As when there are too many of them.
        classifier._interned.clear()
        classifier.by_encoding.clear()
        classifier.effects = {}
