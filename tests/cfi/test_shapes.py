"""What is interpreted once for many programs says of each what interpreting that one would."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullframe.cfi.program import LARGEST_PROGRAM_BYTES, Interpreter, Position
from fullframe.cfi.shapes import cut
from tests.cfi import writer as w
from tests.cfi.test_against_tools import random_program

POSITION = Position(0, 0)
INITIAL = w.def_cfa(7, 8) + w.offset(16, 1)
#: What compilers write between advances.
USUAL = [
    w.def_cfa_offset(16), w.def_cfa_offset(200), w.offset(6, 2), w.offset(3, 300), w.restore(6),
    w.def_cfa_register(6), w.def_cfa(7, 8), w.REMEMBER_STATE, w.RESTORE_STATE, w.gnu_args_size(48),
]  # fmt: skip
RARE = [w.NOP, w.same_value(3), w.def_cfa_expression(b"\x77\x08"), w.advance_loc4(1), b"\x40"]


def interpreter(code_alignment=1):
    return Interpreter(code_alignment, -8, 8, 0x1B, INITIAL)


def advance(distance):
    if distance < 64:
        return w.advance_loc(distance)
    return w.advance_loc1(distance) if distance < 256 else w.advance_loc2(distance)


@st.composite
def pairs(draw):
    """Two programs that do the same, at other distances."""
    steps = draw(st.lists(st.lists(st.sampled_from(USUAL * 3 + RARE), max_size=4), max_size=8))
    padding = bytes(draw(st.integers(0, 7)))
    made = []
    for _ in range(2):
        code = b""
        for step in steps:
            code += b"".join(step) + advance(draw(st.integers(1, 65535)))
        made.append(code + padding)
    return made


@given(pairs(), st.sampled_from([1, 1, 2]))
def test_the_second_of_a_shape_is_as_if_it_were_the_first(programs, code_alignment):
    both, alone = interpreter(code_alignment), interpreter(code_alignment)
    for code in programs:
        found, expected = both.run(code, POSITION), alone.run(code, POSITION)
        assert found.rows == expected.rows
        assert found.problems == expected.problems
        alone.forget()


@given(st.randoms(use_true_random=False), st.booleans())
def test_any_instructions_are_the_same_whatever_came_before(source, restores):
    both = interpreter()
    for _ in range(3):
        code = random_program(source, 64, 1 << 20, restores)
        found, expected = both.run(code, POSITION), interpreter().run(code, POSITION)
        assert (found.rows, found.problems) == (expected.rows, expected.problems)


@given(st.binary(max_size=40))
def test_what_is_cut_is_all_there(code):
    parts = cut(code)
    if parts is not None:
        steps, locations = parts
        assert len(steps) == len(locations)
        distances = [b - a for a, b in pairwise(locations)]
        assert all(distance > 0 for distance in distances)
        # Put together again it says the same.
        again = steps[0]
        for distance, step in zip(distances, steps[1:], strict=True):
            again += advance(distance) + step
        one, other = interpreter().run(code, POSITION), interpreter().run(again, POSITION)
        assert (one.rows, one.problems == ()) == (other.rows, other.problems == ())


def test_a_shape_is_shared():
    programs = [w.advance_loc(n) + w.def_cfa_offset(16) + w.offset(6, 2) for n in (1, 2, 40)]
    made = interpreter()
    shapes = {id(made.run(code, POSITION).shape) for code in programs}
    assert len(shapes) == 1
    assert [row[0] for row in made.run(programs[2], POSITION).rows] == [0, 40]


def test_a_program_beyond_the_bound_is_refused_whatever_came_before():
    code = w.def_cfa_offset(8)
    large = code + bytes(LARGEST_PROGRAM_BYTES)
    made = interpreter()
    assert made.run(code, POSITION).problems == ()
    assert [problem.kind for problem in made.run(large, POSITION).problems] == ["too-complex"]


def test_steps_with_a_problem_are_not_shared():
    made = interpreter()
    for distance in (1, 2):
        found = made.run(w.advance_loc(distance) + w.RESTORE_STATE, POSITION)
        assert [problem.kind for problem in found.problems] == ["restore-without-remember"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (b"", ((b"",), (0,))),
        (w.def_cfa_offset(16) + bytes(5), ((w.def_cfa_offset(16),), (0,))),
        # A zero at the end is an operand here: it is not taken for padding.
        (w.def_cfa_offset(0), None),
        (w.advance_loc(5) + w.def_cfa_offset(0) + bytes(2), None),
        (w.advance_loc(5), ((b"", b""), (0, 5))),
        (w.advance_loc2(256), ((b"", b""), (0, 256))),
        (w.NOP + w.def_cfa_offset(16), None),
        (w.same_value(3), None),
    ],
)
def test_what_is_cut(code, expected):
    assert cut(code) == expected


@pytest.mark.parametrize(
    "code",
    [b"\xc0" * 200_000 + b"\x05", b"\x41\x0e\xff" * 80_000, b"\x0e" + b"\x80" * 200_000],
)
def test_hostile_bytes_take_no_longer_than_others(code):
    # Quadratic time would be minutes.
    assert cut(code) is None
