"""Following many functions together: nothing is held that following one by one does not hold."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fullframe.track import CFA_REGION, OTHER, Follower, decode
from fullframe.track.bulk import BulkFollower, labels_of
from fullframe.track.passing import Fillers
from fullframe.track.reader import StreamReader
from fullframe.track.values import address, entry
from fullframe.x86.registers import BP, BX, SP
from tests.track.test_streams import _CLASSIFIERS, PIECES, REACHED, _Alone, laid_out, programs

BEGIN = 0x1000


class _Client:
    """Everything that is claimed holds; nothing is known of the surroundings."""

    def __init__(self, count, tables=None, sites=None, holds=None, functions=(), tail_jumps=()):
        self.tail_jumps = tail_jumps
        self.has_call_sites = np.full(count, bool(sites))
        self.tables = tables or {}
        self.sites = sites or []
        self.functions = np.array(functions, np.uint64)
        self.asked = []
        self._holds = holds or (lambda state, label: True)

    def call_clobbers(self, target):
        return ()

    def seems_tail_call(self, number, address, label, first_label):
        return address in self.tail_jumps

    def table_targets(self, number, address):
        return self.tables.get(address)

    def call_sites(self, number):
        return self.sites

    def is_like_entry(self, state):
        return state.stack_pointer is address(CFA_REGION, -8)

    def are_functions(self, addresses):
        return np.isin(addresses, self.functions)

    def holds(self, state, label):
        self.asked.append((state, label))
        return self._holds(state, label)


def together(bits, ranges, rows=None, **options):
    """Follow ranges together; ``rows`` gives (offsets, labels) of each."""
    classifier = _CLASSIFIERS[bits]
    batch = StreamReader(classifier).read(ranges)
    client = _Client(len(ranges), **options)
    rows = rows or [([0], [0])] * len(ranges)
    parts = [(int(place), *row) for place, row in zip(batch.offsets, rows, strict=True)]
    follower = BulkFollower(classifier, Fillers(bits))
    flow = follower.follow(batch, labels_of(parts), client, np.ones(len(ranges), bool))
    return batch, flow, client


def one(code, rows=None, bits=64, **options):
    """Follow one function; return whether it could be, its states by offset, and its exits."""
    data = bytes.fromhex(code)
    batch, flow, client = together(bits, [(BEGIN, data)], rows and [rows], **options)
    if not flow.proved[0]:
        return None
    changes = flow.changes(0)
    states = {}
    for start in batch.starts.tolist():
        states[start] = [state for place, state in changes if place <= BEGIN + start][-1]
    return states, flow.exits(0), client


def stack_pointer(state):
    return None if state is None else repr(state.stack_pointer)


# --- against following one by one ---

labelled = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=6)


@pytest.mark.parametrize("bits", [64, 32])
@settings(max_examples=500, deadline=None)
@given(
    codes=st.lists(
        st.lists(st.sampled_from(PIECES), min_size=1, max_size=24).map(b"".join) | programs,
        min_size=1,
        max_size=3,
    ),
    labels=labelled,
)
@example(codes=[bytes.fromhex("74 04 53 74 01 c3 c3")], labels=[])
# jmp 1f; 1: pop %rbx; 2: push %rbp; jmp 2b: the first push hits the return address.
@example(codes=[bytes.fromhex("eb 00 5b 55 eb fd")], labels=[])
def test_nothing_is_held_that_the_worklist_does_not_hold(bits, codes, labels):
    """Whatever is claimed where: labels steer only the guesses."""
    classifier = _CLASSIFIERS[bits]
    ranges, address = [], BEGIN
    for code in codes:
        ranges.append((address, code))
        address += len(code) + 16
    rows = []
    for _, code in ranges:
        starts = decode(classifier, code, BEGIN).starts
        chosen = {starts[place % len(starts)]: label for place, label in labels if starts}
        offsets = sorted({0, *chosen})
        rows.append((offsets, [chosen.get(offset, 0) for offset in offsets]))
    batch, flow, _ = together(bits, ranges, rows)
    for number, (begin, code) in enumerate(ranges):
        if flow.proved[number]:
            states = by_worklist(classifier, begin, code)
            starts = decode(classifier, code, begin).starts
            hold_against(bits, batch, flow, number, starts, states)


def by_worklist(classifier, begin, code):
    """The coarse states at every instruction; None where control does not arrive."""
    around = _Alone()
    around.classifier = classifier
    listing = decode(classifier, code, begin)
    follower = Follower(classifier, around)
    whole = follower.start(listing)
    follower.follow(whole, [(0, classifier.space.function_entry())])
    states = [None] * len(listing.starts)
    for changes, stop in whole.pieces.values():
        for number, (first, state) in enumerate(changes):
            end = changes[number + 1][0] if number + 1 < len(changes) else stop
            states[first:end] = [state] * (end - first)
    return states


def hold_against(bits, batch, flow, number, starts, states):
    begin, code = batch.ranges[number]
    changes = flow.changes(number)
    fillers, unseen = Fillers(bits), 0
    for index, start in enumerate(starts):
        here = [state for place, state in changes if place <= begin + start][-1]
        other = states[index]
        if here is None and fillers.is_at(code, start):
            unseen += other is not None  # nothing but filler is behind a call: it does not return
            continue
        if other is None:
            continue  # calls are taken to come back where the listing knows better
        assert here is not None
        for mine, theirs in zip(here.registers, other.registers, strict=True):
            assert mine is OTHER or mine is theirs
        for place, value in here.slots.items():
            assert other.slots.get(place) is value
    reached = sum(state is not None for state in states)
    assert batch.counts[number] - flow.filler_counts[number] >= reached - unseen


# --- what can be followed ---


def test_a_function_with_a_frame():
    # push %rbx; sub $16, %rsp; add $16, %rsp; pop %rbx; ret
    states, exits, _ = one("53 4883ec10 4883c410 5b c3", ([0, 1, 5, 9, 10], [0, 1, 2, 1, 0]))
    assert [stack_pointer(state) for state in states.values()] == [
        "CFA-8", "CFA-16", "CFA-32", "CFA-16", "CFA-8",
    ]  # fmt: skip
    assert exits == []


def test_what_is_claimed_is_asked_of_every_state():
    rows = ([0, 1, 2], [7, 8, 7])
    _, _, client = one("53 5b c3", rows)  # push %rbx; pop %rbx; ret
    assert {(stack_pointer(state), label) for state, label in client.asked} == {
        ("CFA-8", 7),
        ("CFA-16", 8),
    }
    assert one("53 5b c3", rows, holds=lambda state, label: label != 8) is None


def test_a_label_between_two_instructions_that_do_nothing_is_asked_for():
    # nop; nop; ret
    assert one("90 90 c3", ([0, 1], [0, 9])) is not None
    assert one("90 90 c3", ([0, 1], [0, 9]), holds=lambda state, label: label != 9) is None
    assert one("90 90 c3", ([0, 2], [0, 9]), holds=lambda state, label: label != 9) is None


def test_a_label_that_changes_late_is_asked_of_the_state_between():
    # push %rbx; nop; nop; pop %rbx; ret, with the row of the push one instruction late.
    _, _, client = one("53 90 90 5b c3", ([0, 2, 4], [0, 1, 0]))
    assert ("CFA-16", 0) in {(stack_pointer(state), label) for state, label in client.asked}


@pytest.mark.parametrize("behind", ["4883c408 c3", "90"], ids=["returns", "does not return"])
def test_what_is_claimed_at_a_call_is_asked_of_the_state_behind_it(behind):
    # sub $8, %rsp; mov %rbx, -16(%rsp); call out: the callee may write where that is saved.
    code = "4883ec08 48895c24f0 e8f20f0000" + behind
    _, _, client = one(code, ([0, 4, 9], [0, 1, 2]))
    place = (CFA_REGION, -32)
    assert {place in state.slots for state, label in client.asked if label == 2} == {True, False}


def test_every_function_of_which_a_claim_does_not_hold_is_left_out():
    ranges = [(BEGIN, b"\xc3"), (BEGIN + 16, b"\xc3"), (BEGIN + 32, b"\xc3")]
    rows = [([0], [5]), ([0], [5]), ([0], [6])]
    _, flow, client = together(64, ranges, rows, holds=lambda state, label: label != 5)
    assert flow.proved.tolist() == [False, False, True]
    assert len(client.asked) == 2


def test_code_behind_a_return_has_the_state_of_the_jump_to_it():
    # push %rbx; je 1f; pop %rbx; ret; nop; 1: xor %ebx, %ebx; pop %rbx; ret
    code = "53 7403 5b c3 90 31db 5b c3"
    for rows in (([0, 1, 4, 6, 9], [0, 1, 0, 1, 0]), ([0, 1, 4, 6, 9], [0, 1, 2, 3, 4])):
        states, _, _ = one(code, rows)
        assert [stack_pointer(state) for state in states.values()] == [
            "CFA-8", "CFA-16", "CFA-16", "CFA-8", None, "CFA-16", "CFA-16", "CFA-8",
        ]  # fmt: skip


def test_paths_may_keep_more_than_is_guessed_where_they_meet():
    # push %rbx; je 1f; xor %ebx, %ebx; 1: pop %rbx; ret
    states, _, _ = one("53 7402 31db 5b c3", ([0, 1, 6], [0, 1, 0]))
    assert stack_pointer(states[5]) == "CFA-16"


@pytest.mark.parametrize(
    ("code", "places"),
    [
        # push %rbp; mov %rsp, %rbp; 1: sub %rax, %rsp; je 1b; leave; ret
        ("55 4889e5 4829c4 74fb c9 c3", {4: "other", 7: "other", 10: "CFA-8"}),
        # push %rbp; mov %rsp, %rbp; je 1f; sub %rax, %rsp; 1: push %rbx; leave; ret
        ("55 4889e5 7403 4829c4 53 c9 c3", {6: "CFA-16", 9: "other", 10: "other", 11: "CFA-8"}),
        # lea (%rsp), %rbp; je 1f; push %rax; xor %ebp, %ebp; pop %rax; 1: ret
        ("488d2c24 7404 50 31ed 58 c3", {4: "CFA-8", 7: "CFA-16", 10: "CFA-8"}),
        # lea (%rsp), %rbp; push %rbp; je 1f; add $8, %rsp; push %rax; 1: ret
        ("488d2c24 55 7405 4883c408 50 c3", {5: "CFA-16", 11: "CFA-8", 12: "CFA-16"}),
    ],
)
def test_where_guesses_do_not_fit_blocks_are_followed(code, places):
    """An address is given up where paths meet that bring different ones, and nowhere else."""
    states, _, _ = one(code)
    assert {offset: stack_pointer(states[offset]) for offset in places} == places
    data = bytes.fromhex(code)
    classifier = _CLASSIFIERS[64]
    expected = by_worklist(classifier, BEGIN, data)
    for start, state in zip(decode(classifier, data, BEGIN).starts, expected, strict=True):
        assert [states[start].registers[number] for number in (SP, BP)] == [
            state.registers[number] for number in (SP, BP)
        ]


def test_what_one_path_overwrites_is_not_kept_by_another():
    # push %rbx; mov %rsp, %rbp; xor %ebx, %ebx; 1: je 2f; mov %rax, (%rsp); sub %rax, %rsp;
    # jmp 1b; 2: mov %rbp, %rsp; pop %rbx; ret
    code = "53 4889e5 31db 7409 48890424 4829c4 ebf5 4889ec 5b c3"
    states, _, _ = one(code)
    assert (CFA_REGION, -16) not in states[17].slots
    assert states[21].registers[BX] is OTHER
    # The same without the store: it is kept, and restored.
    states, _, _ = one("53 4889e5 31db 7405 4829c4 ebf9 4889ec 5b c3")
    assert (CFA_REGION, -16) in states[13].slots
    assert states[17].registers[BX] is entry(BX)


@pytest.mark.parametrize(("blocks", "is_followed"), [(2, True), (6, True), (20, False)])
def test_more_turns_than_honest_code_needs_are_not_taken(blocks, is_followed):
    # jmp to the last; 1: ret; 2: jmp 1b; 3: jmp 2b; ...: each turn comes one jump further back.
    code = bytes([0xEB, 2 * blocks - 3, 0xC3, 0xEB, 0xFD]) + b"\xeb\xfc" * (blocks - 2)
    starts = [0, 2, *range(3, len(code), 2)]
    found = one(code.hex(), (starts, list(range(len(starts)))))
    assert (found is not None) == is_followed


def test_blocks_that_only_lead_to_each_other_are_not_followed():
    # ret; 1: push %rax; jmp 2f; 2: pop %rax; jmp 1b
    assert one("c3 50 eb00 58 ebfa", ([0, 1, 2, 4], [0, 1, 2, 3])) is None


def test_a_jump_that_brings_less_than_is_guessed():
    # push %rax; je 1f; add $8, %rsp; push %rbx; 1: pop %rbx; ret: only one path has saved rbx.
    code = "50 7405 4883c408 53 5b c3"
    states, _, _ = one(code, ([0, 1, 9], [0, 1, 0]))
    assert (CFA_REGION, -16) not in states[8].slots
    # With another label there, what falls through is guessed, and that is more than is brought.
    states, _, _ = one(code, ([0, 1, 8, 9], [0, 1, 2, 0]))
    assert (CFA_REGION, -16) not in states[8].slots


def test_jumps_out_of_the_function_bring_their_states():
    # push %rbx; je +0x20; pop %rbx; jmp +0x20
    _, exits, _ = one("53 7420 5b eb20", ([0, 1, 4], [0, 1, 0]))
    assert [(target, source, stack_pointer(state)) for target, source, state in exits] == [
        (BEGIN + 0x23, BEGIN + 1, "CFA-16"),
        (BEGIN + 0x26, BEGIN + 4, "CFA-8"),
    ]


def test_what_is_taken_for_a_tail_call_has_the_state_of_entry():
    # push %rbx; pop %rbx; jmp *%rax
    assert one("53 5b ffe0", ([0, 1, 2], [0, 1, 0]), tail_jumps=[BEGIN + 2]) is not None
    # push %rbx; jmp *%rax
    assert one("53 ffe0", ([0], [0]), tail_jumps=[BEGIN + 1]) is None
    assert one("53 ffe0", ([0], [0])) is not None


def test_tail_calls_bring_nothing():
    # push %rbx; je +0x20; pop %rbx; je +0x20; jmp +0x28
    places = [BEGIN + 0x23, BEGIN + 0x26]
    _, exits, _ = one("53 7420 5b 7420 eb28", ([0, 1, 4], [0, 1, 0]), functions=places)
    assert [(target, source, stack_pointer(state)) for target, source, state in exits] == [
        (BEGIN + 0x23, BEGIN + 1, "CFA-16"),  # in another state than at entry
        (BEGIN + 0x30, BEGIN + 6, "CFA-8"),  # no function begins there
    ]


def test_a_jump_table():
    # push %rbx; jmp *(%rax); 1: pop %rbx; ret; 2: nop; pop %rbx; ret
    code = "53 ff20 5b c3 90 5b c3"
    rows = ([0, 1, 4, 5, 7], [0, 1, 0, 1, 0])
    targets = [BEGIN + 3, BEGIN + 5, BEGIN + 0x100]
    states, exits, _ = one(code, rows, tables={BEGIN + 1: targets})
    assert stack_pointer(states[5]) == "CFA-16"
    assert [(target, stack_pointer(state)) for target, _, state in exits] == [
        (BEGIN + 0x100, "CFA-16")
    ]
    # Without it nothing leads behind the jump; into the middle of an instruction is no way.
    assert one(code, rows) is None
    assert one(code, rows, tables={BEGIN + 1: [BEGIN + 2]}) is None


def test_landing_pads():
    # push %rbx; call out; pop %rbx; ret; 1: nop; pop %rbx; ret
    code = "53 e8fb0f0000 5b c3 90 5b c3"
    rows = ([0, 1, 7, 8, 10], [0, 1, 0, 1, 0])
    sites = [(BEGIN + 1, BEGIN + 6, BEGIN + 8)]
    states, _, _ = one(code, rows, sites=sites)
    assert stack_pointer(states[8]) == "CFA-16"
    # sub $8, %rsp; mov %rbx, -16(%rsp); call out: the exception brings what the callee has left.
    code = "4883ec08 48895c24f0 e8f20f0000 4883c408 c3 4883c408 c3"
    sites = [(BEGIN + 9, BEGIN + 14, BEGIN + 19)]
    for others in (([0, 4, 19], [0, 1, 2]), ([0, 4, 18, 19], [0, 1, 0, 1])):
        states, _, _ = one(code, others, sites=sites)
        assert (CFA_REGION, -32) not in states[19].slots
    # The pad of another call site, and one that is no instruction's start.
    code = "53 e8fb0f0000 5b c3 90 5b c3"
    elsewhere = one(code, rows, sites=[(BEGIN + 6, BEGIN + 7, BEGIN + 8)])
    assert elsewhere is None or elsewhere[0][8] is None
    assert one(code, rows, sites=[(BEGIN + 1, BEGIN + 6, BEGIN + 2)]) is None
    assert one(code, rows, sites=[(BEGIN + 1, BEGIN + 6, BEGIN + 0x100)]) is None


def test_a_call_does_not_come_back_into_what_is_claimed_otherwise():
    # push %rbx; je 1f; call out; 1: (another row) pop %rbx; ret
    code = "53 7405 e8f80f0000 5b c3"

    def true_rows(state, label):
        return (label == 0) == (stack_pointer(state) == "CFA-8")

    # With the same row behind it, it comes back; with a row that would be wrong, it does not.
    code = "e8fb0f0000 c3"  # call out; ret
    states, _, _ = one(code, ([0, 5], [0, 0]), holds=true_rows)
    assert states[5] is not None
    # je 1f; push %rbx; call out; 1: ret
    code = "7406 53 e8f90f0000 c3"
    states, _, _ = one(code, ([0, 3, 8], [0, 1, 0]), holds=true_rows)
    assert stack_pointer(states[8]) == "CFA-8"
    # The same, but what is claimed there holds if it comes back, too: that is not decided here.
    assert one(code, ([0, 3, 8], [0, 1, 2]), holds=lambda state, label: True) is None


# --- what cannot ---


@pytest.mark.parametrize(
    ("code", "stands"),
    [
        *REACHED,
        ("c3  90", True),  # only filler is behind it
        ("c3  31 c0", False),
        ("e8 00 00 00 00  c3", False),  # a call within the function
        ("06", False),  # no instruction
        ("eb 01  48  31 c0  c3", False),  # into the middle of an instruction
        ("74 01  48  31 c0  c3", False),
    ],
)
def test_control_comes_from_the_begin(code, stands):
    assert (one(code) is not None) == stands


@pytest.mark.parametrize(
    ("code", "rows"),
    [
        # push %rbx; je 1f; push %rbp; 1: pop %rbx; ret: paths meet with different stacks.
        ("53 7401 55 5b c3", ([0, 1, 5], [0, 1, 0])),
        # xor %ebx, %ebx; ret: the register is lost, and the row goes on.
        ("31db c3", ([0], [0])),
        # push %rbx; mov %rax, (%rsp); pop %rbx; ret: so is the slot.
        ("53 48890424 5b c3", ([0, 1, 6], [0, 1, 0])),
    ],
)
def test_what_is_lost_is_not_claimed(code, rows):
    """Where registers and slots are no longer the caller's, the client is asked about that."""
    found = one(code, rows)
    if found is not None:
        states, _, client = found
        last = max(states)
        assert any(state is states[last] for state, _ in client.asked)
        # Neither the register nor a slot is said to have the caller's rbx.
        space_entry = _CLASSIFIERS[64].space.function_entry()
        assert states[last].registers[3] is not space_entry.registers[3]


def test_no_code():
    _, flow, _ = together(64, [(BEGIN, b""), (BEGIN + 16, b"\xc3")])
    assert flow.proved.tolist() == [False, True]
    _, flow, _ = together(64, [])
    assert flow.proved.tolist() == []


def test_layout_of_jumps():
    assert laid_out([b"\x90", (0xEB, 0)]) == b"\x90\xeb\xfd"
