"""States by number, and what tokens make of them: each question is asked once."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import numpy as np

from fullframe.track.classify import Classifier
from fullframe.track.effects import Effect
from fullframe.track.memo import Memo
from fullframe.track.state import State
from fullframe.track.streams import Batch
from fullframe.track.values import CFA_REGION, OTHER, Address, Entry, Value
from fullframe.x86.registers import BP, SP

Array = np.ndarray[Any, Any]

#: A token is what happens to a state at an event: the number of an effect or ``NO_TOKEN``, and
#: whether the state is settled first (:meth:`fullframe.track.state.StateSpace.settle`).
NO_TOKEN: Final = (1 << 30) - 1
SETTLES: Final = 1 << 30
#: Bits of a token, where it is part of a longer key.
TOKEN_BITS: Final = 31
_TOKEN_MASK: Final = (1 << TOKEN_BITS) - 1

#: What is remembered of states together with sequences of tokens, at most: how many, their bytes.
_MOST_SPANS: Final = 1 << 16
_MOST_SPAN_BYTES: Final = 1 << 25
#: Pairs of a state and a token, at most; about 150 bytes each.
_MOST_STEPS: Final = 1 << 18


class _Found(dict[int, int]):
    """Answers, each found when it is asked for."""

    __slots__ = ("_find",)

    def __init__(self, find: Callable[[int], int]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, question: int) -> int:
        found = self[question] = self._find(question)
        return found


class NumberedStates:
    """The states of one space, by number.

    Args:
        classifier: effects and state space.

    Attributes:
        states: by number.
        effects: by their own numbers.
        moves_frame: by an effect's number, whether it moves the frame.
        spans: (number of a state, tokens) to what :meth:`span` gives.
        steps: a state's number and a token (the low bits) to the number of what it makes of it.
        settled: number of a state to that of what it settles to.
        joins: numbers of two states to that of what holds in both.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.space = classifier.space
        self._forget()

    def _forget(self) -> None:
        self._generation = self.space.generation
        self.states: list[State] = []
        self._numbers: dict[State, int] = {}
        self.spans: dict[tuple[int, bytes], tuple[array[int], int]] = {}
        self._span_bytes = 0
        self.steps = _Found(self._step)
        self.settled = _Found(self._settle)
        self.joins = _Found(self._join)
        self._implied: dict[int, bool] = {}
        # Pairs, as of the methods of these names, of which it is remembered that they hold.
        self.kept, self.implied, self.held = Memo(), Memo(), Memo()
        self.effects: dict[int, Effect] = {}
        self.moves_frame = np.zeros(1, bool)
        # Of each state, lest thousands of stores be tried in it: where the stack and the frame
        # pointer are, and the lowest slot. Of effects that store nothing tracked: (whether through
        # the frame pointer, offset behind the last byte).
        self._pointers: tuple[list[int], list[int]] = ([], [])
        self._lowest: list[int] = []
        self._stores: dict[int, tuple[int, int]] = {}
        self._sorted_effects = 0

    def begin(self, batch: Batch) -> None:
        """Take up the effects of a batch; keep memory bounded."""
        too_many = len(self.spans) > _MOST_SPANS or len(self.steps) > _MOST_STEPS
        too_large = self._span_bytes > _MOST_SPAN_BYTES
        if too_many or too_large or self._generation != self.space.generation:
            self._forget()
        if self.effects is not batch.effects:
            self._stores, self._sorted_effects = {}, 0
        self.effects = batch.effects
        new = list(islice(batch.effects.items(), self._sorted_effects, None))
        highest = max([number for number, _ in new], default=0)
        if highest >= len(self.moves_frame):
            more = np.zeros(highest + 1 - len(self.moves_frame), bool)
            self.moves_frame = np.concatenate((self.moves_frame, more))
        self.moves_frame[[number for number, effect in new if effect.moves_frame]] = True
        for number, effect in new:
            match effect.key:
                case ("store", (4 | 5 as base, int(offset), False), None, int(size)):  # SP, BP
                    self._stores[number] = (int(base == BP), offset + size)
        self._sorted_effects = len(batch.effects)

    def number(self, state: State) -> int:
        """Return the number of a state."""
        found = self._numbers.get(state)
        if found is None:
            found = self._numbers[state] = len(self.states)
            self.states.append(state)
            for register, pointers in zip((SP, BP), self._pointers, strict=True):
                pointers.append(_place(state.registers[register]))
            self._lowest.append(state.lowest)
        return found

    def _settle(self, number: int) -> int:
        return self.number(self.space.settle(self.states[number]))

    def token(self, effect: Effect | None) -> int:
        """Return what settles a state and then has an effect."""
        if effect is None:
            return SETTLES | NO_TOKEN
        self.effects[effect.number] = effect
        return SETTLES | effect.number

    def span(self, number: int, tokens: bytes) -> tuple[array[int], int]:
        """Run tokens: return the states before each, and the state after the last."""
        found = self.spans.get((number, tokens))
        if found is None:
            before = array("i")
            add, steps, settled, state = before.append, self.steps, self.settled, number
            for token in np.frombuffer(tokens, np.int32).tolist():
                if token >= SETTLES:
                    state = settled[state]
                add(state)
                state = steps[state << TOKEN_BITS | token]
            found = self.spans[number, tokens] = (before, state)
            # The tokens, and as many numbers.
            self._span_bytes += 2 * len(tokens)
        return found

    def after(self, number: int, token: int) -> State:
        """Return what a token makes of a state."""
        return self.states[self.steps[number << TOKEN_BITS | token]]

    def _step(self, key: int) -> int:
        number, token = key >> TOKEN_BITS, key & _TOKEN_MASK
        store = self._stores.get(token)
        if store is not None:
            through_frame_pointer, end = store
            if self._pointers[through_frame_pointer][number] + end <= self._lowest[number]:
                return number
        state = self.states[number]
        if token & SETTLES:
            state = self.space.settle(state)
        effect = token & ~SETTLES
        if effect != NO_TOKEN:
            state = self.effects[effect].apply(self.space, state)
        return self.number(state)

    def step_by(self, number: int, tokens: bytes, place: int) -> int:
        """Return the number of what one of a row of tokens makes of a state."""
        (token,) = np.frombuffer(tokens, np.int32, 1, 4 * place).tolist()
        return self.steps[number << TOKEN_BITS | token]

    def keeps(self, key: int) -> bool:
        """Return whether a token (the low bits of the key) leaves a state as it is."""
        return self.steps[key] == key >> TOKEN_BITS

    def _join(self, key: int) -> int:
        one, other = self.states[key >> 32], self.states[key & 0xFFFFFFFF]
        return self.number(self.space.join(one, other))

    def implies(self, key: int) -> bool:
        """Return whether the second state (the low bits) may be taken for the first.

        It may tell less of where the caller's values are, but not of where addresses are: what a
        store through one hits would be missed.
        """
        found = self._implied.get(key)
        if found is None:
            one, other = self.states[key >> 32], self.states[key & 0xFFFFFFFF]
            found = self._implied[key] = _is_weaker(other, one)
        return found


#: Stands for where a pointer is that does not lead into the caller's frame, and for one elsewhere.
_NOWHERE: Final = -(1 << 50)
_ELSEWHERE: Final = 1 << 50


def _place(value: Value) -> int:
    """Return the offset of an address in the caller's frame."""
    if not isinstance(value, Address):
        return _NOWHERE
    return value.offset_bytes if value.region is CFA_REGION else _ELSEWHERE


def _is_weaker(weak: State, strong: State) -> bool:
    """Return whether one state is another without some of the caller's values."""
    registers = zip(weak.registers, strong.registers, strict=True)
    if any(
        one is not other and (one is not OTHER or not isinstance(other, Entry))
        for one, other in registers
    ):
        return False
    if any(strong.slots.get(place) is not value for place, value in weak.slots.items()):
        return False
    return all(
        place in weak.slots or isinstance(value, Entry) for place, value in strong.slots.items()
    )
