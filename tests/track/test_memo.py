"""A memo forgets, but what it answers is what it was told."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fullframe.track.memo import UNKNOWN_ANSWER, Memo

QUESTIONS = st.integers(0, 40) | st.integers(0, 2**64 - 2)


@given(st.lists(st.lists(st.tuples(QUESTIONS, st.integers(0, 9)), max_size=12), max_size=8))
def test_only_what_was_remembered_is_answered(rounds):
    # So small that most places are taken.
    memo, told = Memo(bits=3), {}
    for pairs in rounds:
        pairs = list(dict(pairs).items())
        told.update(pairs)
        memo.remember(
            np.array([question for question, _ in pairs], np.uint64),
            np.array([answer for _, answer in pairs], np.int32),
        )
        questions = [*told, 41, 2**63]
        answers = memo.answers(np.array(questions, np.uint64)).tolist()
        for question, answer in zip(questions, answers, strict=True):
            assert answer in (UNKNOWN_ANSWER, told.get(question, UNKNOWN_ANSWER))
        if pairs:
            last = memo.answers(np.array([question for question, _ in pairs], np.uint64))
            assert (last != UNKNOWN_ANSWER).any()


def test_what_has_room_is_kept_until_it_is_forgotten():
    memo = Memo()
    questions = np.arange(0, 5000, 7, dtype=np.uint64) << np.uint64(31)
    memo.remember(questions, np.arange(len(questions), dtype=np.int32))
    answers = memo.answers(questions)
    known = answers != UNKNOWN_ANSWER
    assert known.mean() > 0.9
    assert (answers[known] == np.arange(len(questions))[known]).all()
    memo.forget()
    assert (memo.answers(questions) == UNKNOWN_ANSWER).all()
