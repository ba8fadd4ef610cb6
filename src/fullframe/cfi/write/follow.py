"""Following functions without any CFI to lean on: the state at every boundary.

The checker may look at rows to learn that a call does not return; here there are none. A call
that stands right before a place where control arrives from elsewhere may be one that never
returns. Such a call is held back: if what arrives there by other ways disagrees with what the
call would bring, the call is taken not to return; otherwise it returns.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from itertools import combinations

from fullframe.cfi.premises import signal_entry
from fullframe.cfi.write.functions import CodeMap, Function
from fullframe.cfi.write.rule_choice import RuleChooser
from fullframe.elf.image import Image
from fullframe.errors import FullframeError
from fullframe.track.calls import Callees
from fullframe.track.classify import Classifier
from fullframe.track.effects import Effect
from fullframe.track.flow import Flow, Follower
from fullframe.track.jump_tables import TableReader
from fullframe.track.listing import CALL, CALL_INSIDE, INDIRECT, STOP, Listing, decode, is_filler
from fullframe.track.state import State, StateSpace
from fullframe.track.values import CFA_REGION, Address, address, entry
from fullframe.x86.registers import SP

#: A function is followed at most this often as other functions' jumps into it come to light.
_MOST_VISITS = 8
#: Distinct callees up to which it is tried out which of them take a word off the stack.
_MOST_CALLEES = 12


@dataclass(slots=True)
class Followed:
    """What following one function showed.

    Attributes:
        function: the function.
        listing: its instructions.
        states: by instruction index; None where nothing visible leads.
        padding: indices of instructions that only fill space.
        after_transfer: indices that the instruction before does not lead to.
        exits: (address outside, index of the jump) to the state on arrival there.
        assumed: indices that only an indirect jump with unseen targets can lead to; taken to
            have the frame of that jump.
        sources: first addresses of the functions that jump into this one with their frame.
        crossings: (address that control comes from, where it goes) where that is entered as a
            function and the frame is another: no row is true of both.
        calling: index of a call to the state in which the callee runs: what is true only until
            the call is no row for it.
    """

    function: Function
    listing: Listing
    states: list[State | None]
    padding: set[int] = field(default_factory=set)
    after_transfer: set[int] = field(default_factory=set)
    exits: dict[tuple[int, int], State] = field(default_factory=dict)
    assumed: set[int] = field(default_factory=set)
    sources: list[int] = field(default_factory=list)
    crossings: list[tuple[int, int]] = field(default_factory=list)
    calling: dict[int, State] = field(default_factory=dict)


class _Around:
    """The surroundings of one function (see :class:`fullframe.track.flow.Surroundings`)."""

    def __init__(
        self,
        code: CodeMap,
        function: Function,
        body: bytes,
        owner: FunctionFollower,
        *,
        popping: frozenset[int] = frozenset(),
    ) -> None:
        self._code = code
        self._popping = popping
        self._function = function
        self._body = body
        self._owner = owner
        self._tables: dict[int, list[int]] | None = None
        self._sites = code.call_sites(function)
        #: Calls held back: index of the call to (its effect, the state before it).
        self.held: dict[int, tuple[Effect, State]] = {}
        self.released: set[int] = set()

    def call_effect(
        self, listing: Listing, index: int, target: int | None, state: State
    ) -> Effect | None:
        if index + 1 >= len(listing.starts):
            return None
        classifier, callees = self._owner.classifier, self._owner.callees
        usual = classifier.call
        if target is not None:
            if callees.never_returns(target):
                return None
            if classifier.space.machine.bits == 32:
                clobbered = callees.clobbered(target)
                popped = 0 if clobbered else callees.popped_bytes(target)
                if clobbered:
                    return classifier.call_that_clobbers(clobbered)
                if popped:
                    usual = classifier.call_that_pops(popped)
                if target in self._popping:
                    usual = classifier.call_that_pops(classifier.space.machine.word_bytes)
            kept = callees.kept(target)
            if kept and usual is classifier.call:
                usual = classifier.call_that_keeps(kept)
        if index in self.released or not self.may_be_last(listing, index):
            return usual
        self.held[index] = (usual, state)
        return None

    def may_be_last(self, listing: Listing, index: int) -> bool:
        """Return whether control arrives from elsewhere right after a call."""
        following = self.after_filler(listing, index + 1)
        return following == len(listing.starts) or _is_leader(listing, following)

    def after_filler(self, listing: Listing, index: int) -> int:
        """Return the first index from ``index`` on that does not only fill space."""
        count = len(listing.starts)
        while index < count and not _is_leader(listing, index) and self.is_filler(listing, index):
            index += 1
        return index

    def is_filler(self, listing: Listing, index: int) -> bool:
        """Return whether an instruction only fills space."""
        start = listing.starts[index]
        return is_filler(self._code.machine.bits, self._body[start : start + 15])

    def jump_targets(self, listing: Listing, index: int, state: State) -> list[int] | None:
        targets = self.tables(listing).get(listing.starts[index])
        if targets:
            return [target - listing.begin for target in targets if target != listing.end]
        pointer = state.registers[SP]
        machine = self._code.machine
        if (
            isinstance(pointer, Address)
            and pointer.region is CFA_REGION
            and -8 <= pointer.offset_bytes < 0
            and all(state.registers[number] is entry(number) for number in machine.callee_saved)
        ):
            return []  # the frame is as at entry: a tail call
        return None

    def tables(self, listing: Listing) -> dict[int, list[int]]:
        """Return the targets of the function's jump tables by the offset of the jump."""
        if self._tables is None:
            reader = TableReader(
                self._code.machine,
                self._code.read_words,
                self._code.got,
                lambda address: self._is_target(listing, address),
                self._owner.callees.clobbered,
                self._code.references.following,
            )
            self._tables = reader.find(self._body, listing.begin)
        return self._tables

    def _is_target(self, listing: Listing, address: int) -> bool:
        if address == listing.end:
            return True
        if listing.begin <= address < listing.end:
            return listing.index_of(address - listing.begin) is not None
        function = self._code.covering(address)
        return function is not None and not function.entered_by_call

    def entered_by_call(self, listing: Listing, offset: int) -> bool:
        # A call of the very next instruction reads the program counter; any other is of a
        # subroutine that shares the function's symbol.
        return self._body[max(0, offset - 5) : offset] != b"\xe8\0\0\0\0"

    def landing_pads(
        self, listing: Listing, index: int, state: State
    ) -> tuple[tuple[int, int], ...]:
        address = listing.begin + listing.starts[index]
        for site in self._sites:
            if site.begin <= address < site.end and site.landing_pad is not None:
                # Without DW_CFA_GNU_args_size nothing is popped on the way to a landing pad.
                return ((site.landing_pad - listing.begin, 0),)
        return ()

    def pads(self) -> list[int]:
        """Return the addresses of all landing pads."""
        return [site.landing_pad for site in self._sites if site.landing_pad is not None]


class FunctionFollower:
    """Follows the functions of one image.

    Args:
        image: the image.
        functions: its functions, by address, none overlapping.
    """

    def __init__(self, image: Image, functions: list[Function]) -> None:
        self.code = CodeMap(image, functions)
        self.space = StateSpace(image.machine, precise=True, narrow_pointers=image.is_x32)
        self.classifier = Classifier(self.space)
        self.callees = Callees(self.code, self.classifier)
        self._chooser = RuleChooser(image.machine)
        self._arrivals: dict[int, dict[int, dict[int, State]]] = {}

    def follow_all(self) -> list[Followed]:
        """Follow every function; those whose bytes the file lacks are left out.

        Returns:
            What was found, by address.
        """
        done: dict[int, Followed] = {}
        visits: dict[int, int] = {}
        queue = deque(self.code.functions)
        while queue:
            function = queue.popleft()
            if visits.get(function.begin, 0) >= _MOST_VISITS:
                continue
            visits[function.begin] = visits.get(function.begin, 0) + 1
            if not self._arrivals.get(function.begin):
                self.space.trim()
            try:
                followed = self.follow(function)
            except FullframeError:
                continue
            done[function.begin] = followed
            queue.extend(
                receiver for receiver in self._hand_over(followed) if receiver not in queue
            )
        return [done[begin] for begin in sorted(done)]

    def follow(self, function: Function) -> Followed:
        """Follow one function from its entry and from where others jump into it.

        Raises:
            InputError: the file does not hold its bytes.
        """
        body = bytes(self.code.image.read(function.begin, function.end - function.begin))
        followed = self._follow(function, body)
        if self.space.machine.bits == 32 and not self._is_consistent(followed):
            return self._with_popping_callees(function, body, followed)
        return followed

    def _with_popping_callees(
        self, function: Function, body: bytes, followed: Followed
    ) -> Followed:
        """Find out which callees elsewhere take a word off the stack.

        i386 callees that return a structure take its address off (psABI for i386, section
        2.2.3), and nothing at the call says so. But the returns of this function tell: with the
        right assumption, and only with one, they find the return address.
        """
        callees = sorted(
            {
                payload
                for _, kind, payload in followed.listing.events
                if kind == CALL and payload is not None and self.code.code_at(payload) is None
            }
        )
        if len(callees) > _MOST_CALLEES:
            return followed
        for size in (1, 2):
            fitting = []
            for chosen in combinations(callees, size):
                other = self._follow(function, body, popping=frozenset(chosen))
                if self._is_consistent(other):
                    fitting.append(other)
            if fitting:
                return fitting[0] if len(fitting) == 1 else followed
        return followed

    def _is_consistent(self, followed: Followed) -> bool:
        """Return whether every return that is reached finds the return address."""
        home = address(CFA_REGION, -self.space.machine.word_bytes)
        for index, kind, payload in followed.listing.events:
            state = followed.states[index]
            returns = kind == STOP and payload == "return"
            if returns and state is not None and state.registers[SP] is not home:
                return False
        return True

    def _follow(
        self, function: Function, body: bytes, *, popping: frozenset[int] = frozenset()
    ) -> Followed:
        listing = decode(self.classifier, body, function.begin)
        around = _Around(self.code, function, body, self, popping=popping)
        if any(kind == INDIRECT for _, kind, _ in listing.events):
            for targets in around.tables(listing).values():
                self._lead(listing, targets)
        self._lead(listing, around.pads())
        follower = Follower(self.classifier, around)
        flow = follower.start(listing)
        follower.enter(flow, [address - function.begin for address in function.entries])
        follower.follow(flow, self._seeds(function))
        self._release(follower, flow, around)
        self._follow_blind(follower, flow, around)
        return self._followed(function, flow, body)

    def _lead(self, listing: Listing, targets: list[int]) -> None:
        for target in targets:
            index = listing.index_of(target - listing.begin)
            if index is not None and listing.begin <= target < listing.end:
                listing.add_leader(index)

    def _seeds(self, function: Function) -> list[tuple[int, State]]:
        if function.signal_return is not None:
            state = signal_entry(self.space, function.signal_return)
            return [] if state is None else [(0, state)]
        seeds = [(0, self.space.function_entry())] if function.entered_by_call else []
        for states in self._arrivals.get(function.begin, {}).values():
            for place, state in states.items():
                if place != function.begin or not function.entered_by_call:
                    seeds.append((place - function.begin, state))
        return seeds

    def _release(self, follower: Follower, flow: Flow, around: _Around) -> None:
        """Decide of every call that was held back whether it returns."""
        decided: set[int] = set()
        while True:
            waiting = sorted(set(around.held) - decided)
            if not waiting:
                return
            # Where others already arrive, the comparison decides; only then are calls taken to
            # return to where nothing else leads.
            index = next((i for i in waiting if self._arriving(flow, around, i)), waiting[0])
            decided.add(index)
            effect, state = around.held[index]
            after = effect.after(self.space, state)
            there = self._arriving(flow, around, index)
            if around.after_filler(flow.listing, index + 1) == len(flow.listing.starts):
                continue
            if there is not None and not self._agree(there, after):
                continue
            around.released.add(index)
            follower.follow(flow, [(flow.listing.starts[index + 1], after)], assumed=flow.assuming)

    def _follow_blind(self, follower: Follower, flow: Flow, around: _Around) -> None:
        """Seed what nothing visible reaches with the frame of the jump that must lead there.

        An indirect jump whose targets cannot be read goes to places with the frame that it has,
        as long as all such jumps of the function have the same one.
        """
        states = self._states(flow)
        frames: dict[object, State] = {}
        for index in flow.blind:
            state = states[index]
            if state is not None:
                frames[self._chooser.rules(state)] = state
        if len(frames) != 1:
            return
        (state,) = frames.values()
        listing = flow.listing
        index = 0
        while index < len(listing.starts):
            if states[index] is None and not around.is_filler(listing, index):
                follower.follow(flow, [(listing.starts[index], state)], assumed=True)
                self._release(follower, flow, around)
                states = self._states(flow)
                if states[index] is None:
                    return
            index += 1

    def _arriving(self, flow: Flow, around: _Around, index: int) -> State | None:
        return flow.arriving.get(around.after_filler(flow.listing, index + 1))

    def _agree(self, there: State, after: State) -> bool:
        joined = self.space.join(there, after)
        return joined is there or self._chooser.rules(joined) == self._chooser.rules(there)

    def _states(self, flow: Flow) -> list[State | None]:
        states: list[State | None] = [None] * len(flow.listing.starts)
        covered = 0
        for leader in sorted(flow.pieces):
            changes, stop = flow.pieces[leader]
            for number, (begin, state) in enumerate(changes):
                end = changes[number + 1][0] if number + 1 < len(changes) else stop
                for index in range(max(begin, covered), min(end, stop)):
                    states[index] = state
                covered = max(covered, min(end, stop))
        return states

    def _followed(self, function: Function, flow: Flow, body: bytes) -> Followed:
        listing = flow.listing
        count = len(listing.starts)
        states = self._states(flow)
        padding = {
            index
            for index in range(count)
            if states[index] is None
            and is_filler(
                self.code.machine.bits, body[listing.starts[index] : listing.starts[index] + 15]
            )
        }
        followed = Followed(function, listing, states, padding, exits=dict(flow.exits))
        followed.sources = sorted(self._arrivals.get(function.begin, {}))
        entered = self._chooser.rules(self.space.function_entry())
        for (source, target), state in flow.crossings.items():
            if self._chooser.rules(state) != entered:
                place = listing.begin + listing.starts[max(source, 0)]
                followed.crossings.append((place, listing.begin + listing.starts[target]))
        followed.calling = self._calling(listing, states)
        for leader in flow.assumed:
            if leader in flow.pieces:
                followed.assumed.update(range(leader, flow.pieces[leader][1]))
        ends = {index for index, kind, _ in listing.events if kind not in (1, 2, CALL, CALL_INSIDE)}
        followed.after_transfer = {index + 1 for index in ends if index + 1 < count}
        for index in range(1, count):
            if states[index - 1] is None:
                followed.after_transfer.add(index)
        return followed

    def _calling(self, listing: Listing, states: list[State | None]) -> dict[int, State]:
        """Return the states in which callees run, where a call makes a difference."""
        found = {}
        for index, kind, target in listing.events:
            state = states[index]
            if kind != CALL or state is None:
                continue
            effect = self.classifier.call
            if target is not None:
                if self.callees.clobbered(target):
                    continue
                kept = self.callees.kept(target)
                effect = self.classifier.call_that_keeps(kept) if kept else effect
            calling = effect.after(self.space, state)
            if calling is not state:
                found[index] = calling
        return found

    def _hand_over(self, followed: Followed) -> list[Function]:
        """Give the states on a function's way out to the functions that receive them."""
        given: dict[int, dict[int, State]] = {}
        receivers: dict[int, Function] = {}
        for (target, _), state in followed.exits.items():
            receiver = self.code.covering(target)
            if receiver is None or receiver is followed.function:
                continue
            if target == receiver.begin and receiver.entered_by_call:
                continue  # a tail call
            receivers[receiver.begin] = receiver
            states = given.setdefault(receiver.begin, {})
            known = states.get(target)
            states[target] = state if known is None else self.space.join(known, state)
        changed = []
        for begin, states in given.items():
            arrivals = self._arrivals.setdefault(begin, {})
            if arrivals.get(followed.function.begin) != states:
                arrivals[followed.function.begin] = states
                changed.append(receivers[begin])
        return changed


def _is_leader(listing: Listing, index: int) -> bool:
    position = bisect_left(listing.leaders, index)
    return position < len(listing.leaders) and listing.leaders[position] == index
