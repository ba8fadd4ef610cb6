"""Answers to questions that are asked in thousands at a time, remembered for when they come again.

A dictionary answers one question after the other. Here an array of questions, each a number, is
answered at once. Each has one place where its answer may be; what was there before is forgotten.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

_Array = np.ndarray[Any, Any]

#: Odd, its bits as irregular as those of the golden ratio, of which it is the fraction.
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
#: No question; it is never found.
_NONE: Final = (1 << 64) - 1
#: Stands for no answer.
UNKNOWN_ANSWER: Final = -1


class Memo:
    """Remembers answers, numbers from 0 on.

    Args:
        bits: it has two to that power places.
    """

    def __init__(self, bits: int = 16) -> None:
        self._shift = np.uint64(64 - bits)
        self._questions = np.full(1 << bits, _NONE, np.uint64)
        self._answers = np.zeros(1 << bits, np.int32)

    def forget(self) -> None:
        """Forget everything."""
        self._questions[:] = _NONE

    def _places(self, questions: _Array) -> _Array:
        places: _Array = (questions * _FACTOR >> self._shift).astype(np.int64)
        return places

    def answers(self, questions: _Array) -> _Array:
        """Return the answers that are remembered, ``UNKNOWN_ANSWER`` elsewhere.

        Args:
            questions: unsigned numbers of 64 bits, not all of them set.
        """
        places = self._places(questions)
        answers = self._answers.take(places)
        np.putmask(answers, self._questions.take(places) != questions, UNKNOWN_ANSWER)
        return answers

    def remember(self, questions: _Array, answers: _Array) -> None:
        """Remember answers; of several for one place, one."""
        places = self._places(questions)
        # Two that have the same place must not be mixed up.
        _, first = np.unique(places, return_index=True)
        places = places[first]
        self._questions[places] = questions[first]
        self._answers[places] = answers[first]
