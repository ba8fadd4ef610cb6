"""What the checker knows of the code around a function: callees, jump tables, landing pads."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from iced_x86 import Decoder, Mnemonic, OpKind, Register

from fullframe.cfi.call_sites import CallSites
from fullframe.cfi.claim_rows import ClaimRows
from fullframe.cfi.claims import Answer, Claim
from fullframe.cfi.entries import holds_at_entry, is_like_entry
from fullframe.cfi.facts import ImageFacts
from fullframe.cfi.frames import Fde
from fullframe.track.classify import Classifier
from fullframe.track.effects import Effect
from fullframe.track.jump_tables import TableReader
from fullframe.track.listing import CALL_INSIDE, INDIRECT, Listing, is_filler
from fullframe.track.state import State


class FunctionContext:
    """The surroundings of one function, for the tracker.

    Args:
        facts: what is known of the image.
        fde: the function.
        body: its bytes.
        rows: its claims.
        classifier: coarse or precise.
        doubting: take it that edges are not there that only the compiler could rule out: a
            call of something unseen does not return where control arrives behind it
            otherwise; a branch before alignment is always taken where the row behind the
            alignment is another path's.
    """

    def __init__(
        self,
        facts: ImageFacts,
        fde: Fde,
        body: bytes,
        rows: ClaimRows,
        classifier: Classifier,
        *,
        doubting: bool = False,
    ) -> None:
        self.doubting = doubting
        self._code = facts.code
        self._fde = fde
        self._body = body
        self._rows = rows
        self._book = facts.engine.book
        self._classifier = classifier
        self._callees = facts.callees
        self._readings = facts.readings
        self._entries = facts.entries
        self._tables: dict[int, list[int]] | None = None
        self._sites: CallSites | None = None
        #: Why calls were taken not to return: index to "name", "code" or "shape of the CFI".
        self.noreturn: dict[int, str] = {}
        #: Offsets where a call would come back to, or an exception land, in a state that
        #: contradicts the row there, to those states; they were left out, which is right only
        #: if control arrives there in another way.
        self.excused: dict[int, set[State]] = {}
        #: Offsets that are entered as functions, whatever the rows there say.
        self.entered: frozenset[int] = frozenset()
        self._in_plt = facts.code.in_lazy_plt(fde)

    def claim_at(self, offset: int) -> Claim | None:
        """Return the claim in force at an offset from the function's begin."""
        return self._rows.at(offset)

    # -- Surroundings ------------------------------------------------------------------------

    def call_effect(
        self, listing: Listing, index: int, target: int | None, state: State
    ) -> Effect | None:
        """See :class:`fullframe.track.flow.Surroundings`."""
        if index + 1 >= len(listing.starts):
            return None
        classifier = self._classifier
        if target is not None and classifier.space.machine.bits == 32:
            clobbered = self._callees.clobbered(target)
            if clobbered:
                return classifier.call_that_clobbers(clobbered)
        if not classifier.space.precise:
            return classifier.call
        if target is not None and self._callees.never_returns(target):
            self.noreturn[index] = "callee"
            return None
        if target is not None and classifier.space.machine.bits == 32:
            popped = self._callees.popped_bytes(target)
            if popped:
                return classifier.call_that_pops(popped)
        usual = classifier.call
        if target is not None:
            kept = self._callees.kept(target)
            if kept:
                usual = classifier.call_that_keeps(kept)
        return self._by_shape(listing, index, target, state, usual)

    def while_called(self, listing: Listing, index: int, kind: int, payload: Any) -> Effect | None:
        """Return what a call has done to the caller's state while the callee runs.

        Whether it returns does not matter, and nothing that it pops is popped yet.

        Args:
            listing: the function.
            index: of the call.
            kind: of the event.
            payload: of the event.

        Returns:
            None where the rows speak of the caller only: of a program-counter thunk, or of a call
            that pushes an address and goes on in the function.
        """
        target: int | None = payload
        if kind == CALL_INSIDE:
            if listing.index_of(payload) == index + 1 or not self.entered_by_call(listing, payload):
                return None
            target = listing.begin + payload
        usual = self._classifier.call
        if target is None:
            return usual
        if self._callees.clobbered(target):
            return None
        kept = self._callees.kept(target)
        return self._classifier.call_that_keeps(kept) if kept else usual

    def _by_shape(
        self, listing: Listing, index: int, target: int | None, state: State, usual: Effect
    ) -> Effect | None:
        """Judge a call by the rows around it, where the callee is not known.

        A compiler that knows that a call does not return puts the code of another path, with
        another row, right behind it; on i386 a row that takes a few bytes off the CFA's
        distance right behind a call says that the callee popped them.
        """
        classifier = self._classifier
        may_pop = classifier.space.machine.bits == 32 and (
            target is None or self._callees.popped_bytes(target) != 0
        )
        if may_pop:
            popped_bytes = self._taken_back(listing, index, state)
            if popped_bytes:
                return classifier.call_that_pops(popped_bytes)
        following = index + 1
        while following + 1 < len(listing.starts) and self._is_filler(listing, following):
            following += 1
        if (
            self.doubting
            and self.is_leader(listing, following)
            and (target is None or not self._callees.is_seen(target))
        ):
            self.noreturn[index] = "paths that only then agree"
            return None
        here, there = listing.starts[index], listing.starts[following]
        before, after = self.claim_at(here), self.claim_at(there)
        if before is None or after is None:
            return usual
        if before is after and not self.is_leader(listing, following):
            return usual
        space, book = classifier.space, self._book
        returned = usual.after(space, state)
        address = listing.begin + there
        if book.judge(space, returned, after, address).answer is Answer.PROVED:
            return usual
        if may_pop and following == index + 1:
            for popped_bytes in range(4, 68, 4):
                effect = classifier.call_that_pops(popped_bytes)
                popped = effect.after(space, state)
                if book.judge(space, popped, after, address).answer is Answer.PROVED:
                    return effect
        self.noreturn[index] = "shape of the CFI"
        self.excused.setdefault(there, set()).add(returned)
        return None

    def falls_through(self, listing: Listing, index: int, state: State) -> bool:
        """Return whether control goes on behind the conditional jump at ``index``.

        Where the last case of a ``switch`` is known to be the only one left, GCC may test for
        it all the same, and put whatever comes next behind the jump that is always taken.
        """
        following = index + 1
        while following + 1 < len(listing.starts) and self._is_filler(listing, following):
            following += 1
        if following == index + 1:
            return True
        there = listing.starts[following]
        claim = self.claim_at(there)
        if claim is None or claim is self.claim_at(listing.starts[index]):
            return True
        space = self._classifier.space
        verdict = self._book.judge(space, state, claim, listing.begin + there)
        if verdict.answer is not Answer.WRONG:
            return True
        self.excused.setdefault(there, set()).add(state)
        return False

    def _taken_back(self, listing: Listing, index: int, state: State) -> int:
        """Return how many bytes the code right behind a call takes back after the callee's pop.

        Clang keeps the stack pointer where it was by a ``sub`` behind the call of a function that
        pops its arguments; the row behind the ``sub`` is then the row of the call.
        """
        if index + 2 >= len(listing.starts):
            return 0
        start, after = listing.starts[index + 1], listing.starts[index + 2]
        instruction = Decoder(32, self._body[start:after]).decode()
        if (
            instruction.mnemonic != Mnemonic.SUB
            or instruction.op0_register != Register.ESP
            or instruction.op1_kind in (OpKind.REGISTER, OpKind.MEMORY)
        ):
            return 0
        size = int(instruction.immediate(1))
        claim = self.claim_at(listing.starts[index])
        if not 4 <= size <= 64 or claim is None or self.claim_at(after) is not claim:
            return 0
        space = self._classifier.space
        verdict = self._book.judge(space, state, claim, listing.begin + listing.starts[index])
        return size if verdict.answer is Answer.PROVED else 0

    def _is_filler(self, listing: Listing, index: int) -> bool:
        start = listing.starts[index]
        return is_filler(self._classifier.space.machine.bits, self._body[start : start + 15])

    def jump_targets(self, listing: Listing, index: int, state: State) -> list[int] | None:
        """See :class:`fullframe.track.flow.Surroundings`."""
        like_entry = is_like_entry(self._classifier.space.machine.callee_saved, state)
        # Most indirect jumps from a frame that looks as at entry are tail calls. The coarse
        # space takes that for granted: were it a jump table, its targets would stay unreached,
        # and the precise space looks at the table first.
        if not like_entry or self._classifier.space.precise:
            targets = self._tables_of(listing).get(listing.starts[index])
            if targets:
                # Clang points the holes of a table whose default cannot happen at the end of the
                # function: nothing goes there.
                return [target - listing.begin for target in targets if target != listing.end]
            if not like_entry:
                return None
        if self._in_plt and index + 1 < len(listing.starts):
            # Until it is bound, a stub's slot leads to the stub's own next instruction.
            return [listing.starts[index + 1]]
        return []

    def _tables_of(self, listing: Listing) -> dict[int, list[int]]:
        if self._tables is None:
            self._tables = self._reader(listing).find(self._body, listing.begin)
        return self._tables

    def _reader(self, listing: Listing) -> TableReader:
        return TableReader(
            self._classifier.space.machine,
            self._code.read_words,
            self._code.got,
            lambda address: self._is_jump_target(listing, address),
            self._callees.clobbered,
            self._code.references.following,
            self._readings,
        )

    def without_tables(self, listing: Listing) -> bytes:
        """Return the function's bytes with filler for each jump table that stands in the code."""
        body = self._body
        if any(kind == INDIRECT for _, kind, _ in listing.events):
            for offset, size in self._reader(listing).within(body, listing.begin):
                body = body[:offset] + b"\x90" * size + body[offset + size :]
        return body

    def entered_by_call(self, listing: Listing, offset: int) -> bool:
        """See :class:`fullframe.track.flow.Surroundings`."""
        if offset in self.entered:
            return True
        claim = self.claim_at(offset)
        if claim is None:
            return False
        return holds_at_entry(self._book, self._classifier.space, claim, listing.begin + offset)

    def landing_pads(
        self, listing: Listing, index: int, state: State
    ) -> tuple[tuple[int, int], ...]:
        """See :class:`fullframe.track.flow.Surroundings`."""
        if self._fde.lsda is None:
            return ()
        pads = self._landing_pads(listing, index)
        if not pads or not self._classifier.space.precise:
            return pads
        # GCC lets a call-site record run on over calls that cannot throw, whatever they have
        # pushed: no exception leads from those to the landing pad.
        kept = []
        for pad, popped_bytes in pads:
            landed = self._classifier.call_that_pops(popped_bytes).after(
                self._classifier.space, state
            )
            claim = self.claim_at(pad)
            if (
                claim is None
                or self._book.judge(
                    self._classifier.space, landed, claim, listing.begin + pad
                ).answer
                is not Answer.WRONG
            ):
                kept.append((pad, popped_bytes))
            else:
                self.excused.setdefault(pad, set()).add(landed)
        return tuple(kept)

    def _landing_pads(self, listing: Listing, index: int) -> tuple[tuple[int, int], ...]:
        if self._sites is None:
            self._sites = CallSites(self._code.image, self._fde)
        found = self._sites.landing_pad(listing.begin + listing.starts[index])
        return () if found is None else ((found[0] - listing.begin, found[1]),)

    # -- helpers -----------------------------------------------------------------------------

    def _is_jump_target(self, listing: Listing, address: int) -> bool:
        if address == listing.end:
            return True
        if listing.begin <= address < listing.end:
            return listing.index_of(address - listing.begin) is not None
        # A case may live in the function's cold part, which has an FDE of its own.
        fde = self._code.covering(address)
        return (
            fde is not None
            and fde is not self._fde
            and self._entries.is_part(fde, self._classifier.space)
        )

    def is_leader(self, listing: Listing, index: int) -> bool:
        """Return whether control arrives at an instruction from elsewhere than the one before."""
        position = bisect_left(listing.leaders, index)
        return position < len(listing.leaders) and listing.leaders[position] == index
