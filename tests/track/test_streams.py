"""A stream holds what plain decoding finds, whatever the code and the batches it is cut into."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fullframe.track import Classifier, StateSpace, decode, listing, reader, streams
from fullframe.track.reader import StreamReader
from fullframe.track.streams import LEADER
from fullframe.x86.registers import I386, X86_64

#: Instructions that matter, some of which have the same bytes in both modes.
PIECES = [
    bytes.fromhex(text)
    for text in (
        "53", "5b", "55", "89 e5", "48 89 e5", "41 54", "41 5c", "83 ec 10", "48 83 ec 18",
        "48 83 c4 18", "89 c3", "31 db", "89 5c 24 08", "48 89 5c 24 08", "8b 5d f8", "c9",
        "c3", "c2 08 00", "eb 02", "eb fc", "74 03", "75 f0", "0f 84 04 00 00 00",
        "e9 05 00 00 00", "e8 00 00 00 00", "e8 03 00 00 00", "e8 00 01 00 00", "ff d0", "ff e0",
        "0f 05", "cd 80", "cc", "f4", "0f 0b", "90", "66 90", "0f 1f 40 00", "8d 76 00", "00 00",
        "0f 57 c0", "66 0f 7e c3", "66 0f d6 44 24 08", "f3 a4", "06", "0f", "c4",
    )
]  # fmt: skip

MACHINES = {machine.bits: machine for machine in (X86_64, I386)}
_CLASSIFIERS = {bits: Classifier(StateSpace(machine)) for bits, machine in MACHINES.items()}
code = st.lists(st.sampled_from(PIECES), max_size=24).map(b"".join) | st.binary(max_size=60)

#: Kinds of a listing's events to those of a stream that tell the same.
_SAME = {
    listing.EFFECT: {streams.EFFECT},
    listing.BRANCH: {streams.BRANCH, streams.BRANCH_BACK, streams.BRANCH_OUT},
    listing.JUMP: {streams.JUMP, streams.JUMP_BACK, streams.JUMP_OUT},
    listing.CALL: {streams.CALL},
    listing.CALL_INSIDE: {streams.CALL_INSIDE},
    listing.STOP: {streams.RETURNS, streams.INVALID},
}


def held_against_decoding(stream, found):
    """Compare a stream with a listing of the same range; both are of the coarse space."""
    assert stream.count == len(found.starts)
    begin, size = stream.begin, len(stream.code)
    kinds = {
        address: (kind % LEADER, payload)
        for kind, address, payload in zip(
            stream.kinds, stream.addresses, stream.payloads, strict=True
        )
    }
    for index, kind, payload in found.events:
        start = found.starts[index]
        mine, mine_payload = kinds.pop(begin + start)
        if mine == streams.OTHER_FLOW:
            assert mine_payload.ip == begin + start
            continue
        assert mine in _SAME[kind]
        if kind == listing.EFFECT:
            assert mine_payload is payload
        elif kind in (listing.BRANCH, listing.JUMP):
            assert mine_payload == (begin + payload) % 2**64
            back, out = streams.BRANCH_BACK, streams.BRANCH_OUT
            inside = 0 <= payload < size
            assert (mine in (back, back + 1)) == (inside and payload <= start)
            assert (mine in (out, out + 1)) == (not inside)
        elif kind == listing.CALL:
            assert mine_payload == payload
        elif kind == listing.CALL_INSIDE:
            assert mine_payload == begin + payload
    # What is left only marks a leader, or is a transfer that the listing goes on behind.
    assert {kind for kind, _ in kinds.values()} <= {streams.NOTHING, streams.OTHER_FLOW}
    leaders = {
        address - begin
        for kind, address in zip(stream.kinds, stream.addresses, strict=True)
        if kind >= LEADER
    }
    forward = {
        payload
        for index, kind, payload in found.events
        if kind in (listing.BRANCH, listing.JUMP) and found.starts[index] < payload < size
    }
    rare = {
        payload.near_branch_target - begin
        for kind, payload in zip(stream.kinds, stream.payloads, strict=True)
        if kind % LEADER == streams.OTHER_FLOW
    }
    starts = set(found.starts)
    assert leaders == (forward & starts) - (rare - leaders)
    assert stream.strays == any(
        payload not in starts
        for _, kind, payload in found.events
        if kind in (listing.BRANCH, listing.JUMP) and 0 <= payload < size and payload not in rare
    )
    assert stream.are_starts(begin + start for start in starts)
    assert not stream.are_starts([begin - 1])
    assert not stream.are_starts([begin + size])


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("chunk", [1 << 14, 3])
@settings(max_examples=150, deadline=None)
@given(ranges=st.lists(code.filter(bool), min_size=1, max_size=5), high=st.booleans())
@example(ranges=[b"\xc3"], high=True)
@example(ranges=[b"\x0f", b"\x53\xeb\xfd"], high=False)
def test_streams_hold_what_decoding_finds(bits, chunk, ranges, high):
    classifier = _CLASSIFIERS[bits]
    begin = 0xFFFF_FFFF_8100_0000 % (1 << bits) if high else 0x40_1000
    placed = []
    for one in ranges:
        placed.append((begin, one))
        begin += len(one) + 7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_CHUNK", chunk)
        batch = StreamReader(classifier).read(placed)
    found = [batch.stream(number) for number in range(len(placed))]
    assert [(stream.begin, stream.code) for stream in found] == placed
    for stream in found:
        plain = listing._decode(classifier, stream.code, stream.begin)
        held_against_decoding(stream, plain)


@pytest.mark.parametrize("bits", [64, 32])
def test_no_code(bits):
    stream = StreamReader(_CLASSIFIERS[bits]).read([(0x1000, b"")]).stream(0)
    assert (stream.count, stream.kinds, stream.end) == (0, [], 0x1000)
    nothing = StreamReader(_CLASSIFIERS[bits]).read([])
    assert (nothing.count, nothing.size, len(nothing.kinds)) == (0, 0, 0)


def test_the_instruction_before():
    # push %rbx; sub $24, %rsp; ret
    stream = (
        StreamReader(_CLASSIFIERS[64]).read([(0x1000, bytes.fromhex("53 4883ec18 c3"))]).stream(0)
    )
    assert stream.start_before(0x1005, 1) == 0x1001
    assert stream.start_before(0x1005, 9) == 0x1000


class _Alone:
    """Nothing is known of the surroundings."""

    has_landing_pads = False
    row_offsets = frozenset()

    def call_effect(self, listing, index, target, state):
        return self.classifier.call

    def jump_targets(self, listing, index, state):
        return []

    def jump_targets_at(self, address, state, stream):
        return []

    def entered_by_call(self, listing, offset):
        return False

    def landing_pads(self, listing, index, state):
        return ()

    def guess(self, address, changes):
        return None

    def returns(self, following, state):
        return True

    def holds_while_called(self, address, state):
        return True

    def call_clobbers(self, target):
        return ()


#: jmp, je and jne with a short distance.
_JUMPS = [0xEB, 0x74, 0x75]


def laid_out(items):
    """Lay out pieces of code, and jumps given as (opcode, number of the item to jump to)."""
    sizes = [len(item) if isinstance(item, bytes) else 2 for item in items]
    starts = [sum(sizes[:number]) for number in range(len(items) + 1)]
    code = b""
    for number, item in enumerate(items):
        if not isinstance(item, bytes):
            opcode, target = item
            distance = starts[target % len(items)] - starts[number + 1]
            item = bytes([opcode, distance % 256]) if -128 <= distance < 128 else b"\x66\x90"
        code += item
    return code


straight = [piece for piece in PIECES if piece[0] not in (0xC2, 0xC3, 0xEB, 0x74, 0x75, 0x0F, 0xC4)]
programs = st.lists(
    st.sampled_from(straight)
    | st.tuples(st.sampled_from(_JUMPS), st.integers(0, 29))
    | st.just(b"\xc3"),
    min_size=2,
    max_size=30,
).map(laid_out)


@pytest.mark.parametrize("bits", [64, 32])
@settings(max_examples=400, deadline=None)
@given(one=st.lists(st.sampled_from(PIECES), min_size=1, max_size=24).map(b"".join) | programs)
# je 1f; push %rbx; je 1f; ret; 1: ret
@example(one=bytes.fromhex("74 04 53 74 01 c3 c3"))
def test_passes_say_no_more_than_the_worklist(bits, one):
    """What a pass holds of a register or slot, following without short cuts holds as well."""
    from fullframe.track import OTHER, Follower, StraightFollower

    classifier = _CLASSIFIERS[bits]
    around = _Alone()
    around.classifier = classifier
    space = classifier.space
    stream = StreamReader(classifier).read([(0x1000, one)]).stream(0)
    flow = StraightFollower(classifier).follow(stream, space.function_entry(), around, {})
    if flow is None:
        return
    assert not stream.strays
    plain = decode(classifier, one, 0x1000)
    follower = Follower(classifier, around)
    whole = follower.start(plain)
    follower.follow(whole, [(0, space.function_entry())])
    states = [None] * len(plain.starts)
    for changes, stop in whole.pieces.values():
        for number, (first, state) in enumerate(changes):
            end = changes[number + 1][0] if number + 1 < len(changes) else stop
            states[first:end] = [state] * (end - first)
    for index, start in enumerate(plain.starts):
        here = [state for place, state in flow.changes if place <= 0x1000 + start][-1]
        other = states[index]
        if other is None:
            continue  # a pass takes calls to come back where the listing knows better
        assert here is not None
        for mine, theirs in zip(here.registers, other.registers, strict=True):
            assert mine is OTHER or mine is theirs
        for place, value in here.slots.items():
            assert other.slots.get(place) is value
    reached = sum(state is not None for state in states)
    assert stream.count - flow.filler_count >= reached


class _Guessing(_Alone):
    """Whatever nothing leads to is taken to have the state of the entry."""

    def guess(self, address, changes):
        return self.classifier.space.function_entry()


#: Code, and whether everything in it is reached from its begin, by what does not rest on itself.
REACHED = [
    ("eb 02  31 c0  74 fc  c3", True),  # jmp 2f; 1: xor; 2: je 1b; ret
    ("c3  31 c0  eb fc", False),  # ret; 1: xor; jmp 1b
    ("c3  31 c0  eb 02  66 90  31 c9  eb f6", False),  # ret; 1: xor; jmp 2f; 2: xor; jmp 1b
    ("c3  31 c0  eb 03  31 c0  c3  eb fb", False),  # ret; xor; jmp 2f; 1: ...; 2: jmp 1b
    ("74 03  c3  31 c0  31 c9  eb fa  c3", False),  # nothing leads to the last ret
    ("eb 05  31 c0  c3  31 c9  74 f9  74 fa  c3", True),  # both are jumped to from the end
    ("eb 02  31 c0  74 03  c3  31 c9  74 fc  74 f5  c3", True),
]


@pytest.mark.parametrize(("code", "stands"), REACHED)
def test_a_guess_is_not_confirmed_by_what_rests_on_it(code, stands):
    from fullframe.track import StraightFollower

    classifier = _CLASSIFIERS[64]
    around = _Guessing()
    around.classifier = classifier
    stream = StreamReader(classifier).read([(0x1000, bytes.fromhex(code))]).stream(0)
    entry = classifier.space.function_entry()
    flow = StraightFollower(classifier).follow(stream, entry, around, {})
    assert (flow is not None) == stands
