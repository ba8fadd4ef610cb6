"""What the checker knows of the code around a function: callees, jump tables, landing pads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from fullframe.cfi.claims import Answer, Claim, ClaimBook
from fullframe.cfi.frames import Fde
from fullframe.cfi.lsda import CallSite, read_lsda
from fullframe.elf.image import Image
from fullframe.errors import FullframeError
from fullframe.track.calls import Callees
from fullframe.track.classify import Classifier
from fullframe.track.effects import Effect
from fullframe.track.jump_tables import TableReader
from fullframe.track.listing import Listing, is_filler
from fullframe.track.state import State
from fullframe.track.values import CFA_REGION, Address, entry
from fullframe.x86.registers import SP

#: (offset from the function's begin, claim from there on), ascending.
ClaimRows = list[tuple[int, Claim]]


class ImageCode:
    """An image's code by FDE: names, ranges, words. Shared by all functions of the image."""

    def __init__(self, image: Image, fdes: list[Fde]) -> None:
        self.image = image
        self.fdes = fdes
        self._begins = [fde.begin for fde in fdes]
        self._ranges = image.executable_ranges()
        self._code: dict[int, bytes] = {}
        self.got = _got_address(image)

    def covering(self, address: int) -> Fde | None:
        """Return the FDE whose range covers an address."""
        position = bisect_right(self._begins, address) - 1
        if position >= 0:
            fde = self.fdes[position]
            if address < fde.end:
                return fde
        return None

    def code_of(self, fde: Fde) -> bytes:
        """Return a function's bytes; raises InputError where the file does not hold them."""
        return bytes(self.image.read(fde.begin, fde.end - fde.begin))

    def code_at(self, target: int) -> tuple[int, bytes] | None:
        """Return (``target``, code) from ``target`` to the end of the function there."""
        fde = self.covering(target)
        if fde is None:
            return None
        try:
            return target, bytes(self.image.read(target, fde.end - target))
        except FullframeError:
            return None

    def callee_name(self, target: int) -> str | None:
        """Return the name of the function at an address or behind the PLT stub there."""
        behind = self.image.import_at_plt(target)
        if behind is not None:
            return behind
        symbol = self.image.symbol_at(target)
        return symbol.name if symbol is not None and symbol.address == target else None

    def read_word(self, address: int, size_bytes: int) -> int | None:
        """Return the unsigned number at an address, or None where there is none."""
        try:
            data = self.image.read(address, size_bytes)
        except FullframeError:
            return None
        return int.from_bytes(data, "little")

    def is_code(self, address: int) -> bool:
        """Return whether an address lies in an executable section."""
        return any(begin <= address < end for begin, end in self._ranges)


class FunctionContext:
    """The surroundings of one function, for the tracker.

    Args:
        code: the image.
        fde: the function.
        body: its bytes.
        rows: its claims.
        book: judges them.
        classifier: coarse or precise.
        callees: what is known of callees.
    """

    def __init__(
        self,
        code: ImageCode,
        fde: Fde,
        body: bytes,
        rows: ClaimRows,
        book: ClaimBook,
        classifier: Classifier,
        callees: Callees,
    ) -> None:
        self._code = code
        self._fde = fde
        self._body = body
        self._rows = rows
        self._row_offsets = [offset for offset, _ in rows]
        self._book = book
        self._classifier = classifier
        self._callees = callees
        self._tables: dict[int, list[int]] | None = None
        self._sites: list[CallSite] | None = None
        #: Why calls were taken not to return: index to "name", "code" or "shape of the CFI".
        self.noreturn: dict[int, str] = {}
        section = code.image.section_at(fde.begin)
        self._in_plt = section is not None and section.name == ".plt"

    def claim_at(self, offset: int) -> Claim | None:
        """Return the claim in force at an offset from the function's begin."""
        position = bisect_right(self._row_offsets, offset) - 1
        return self._rows[position][1] if position >= 0 else None

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
        return self._by_shape(listing, index, state, usual)

    def _by_shape(self, listing: Listing, index: int, state: State, usual: Effect) -> Effect | None:
        """Judge a call by the rows around it, where the callee is not known.

        A compiler that knows that a call does not return puts the code of another path, with
        another row, right behind it; on i386 a row that takes a few bytes off the CFA's
        distance right behind a call says that the callee popped them.
        """
        classifier = self._classifier
        following = index + 1
        while following + 1 < len(listing.starts) and self._is_filler(listing, following):
            following += 1
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
        if book.judge(space, state, before, listing.begin + here).answer is not Answer.PROVED:
            return usual
        # What a callee popped shows in the row right behind the call; where that row stays, and
        # another one begins only after filler, control does not get there from the call.
        if space.machine.bits == 32 and self.claim_at(listing.starts[index + 1]) is after:
            for popped_bytes in range(4, 68, 4):
                effect = classifier.call_that_pops(popped_bytes)
                popped = effect.after(space, state)
                if book.judge(space, popped, after, address).answer is Answer.PROVED:
                    return effect
        self.noreturn[index] = "shape of the CFI"
        return None

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
            reader = TableReader(
                self._classifier.space.machine,
                self._code.read_word,
                self._code.got,
                lambda address: self._is_jump_target(listing, address),
                self._callees.clobbered,
            )
            self._tables = reader.find(self._body, listing.begin)
        return self._tables

    def entered_by_call(self, listing: Listing, offset: int) -> bool:
        """See :class:`fullframe.track.flow.Surroundings`."""
        claim = self.claim_at(offset)
        if claim is None:
            return False
        space = self._classifier.space
        state = space.function_entry()
        return self._book.judge(space, state, claim, listing.begin + offset).answer is Answer.PROVED

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
        return tuple(kept)

    def _landing_pads(self, listing: Listing, index: int) -> tuple[tuple[int, int], ...]:
        if self._sites is None:
            assert self._fde.lsda is not None
            try:
                lsda = read_lsda(self._code.image, self._fde.lsda, self._fde.begin)
                self._sites = sorted(lsda.call_sites, key=lambda site: site.begin)
            except FullframeError:
                self._sites = []
        address = listing.begin + listing.starts[index]
        sites = self._sites
        low, high = 0, len(sites)
        while low < high:
            middle = (low + high) // 2
            if sites[middle].end <= address:
                low = middle + 1
            else:
                high = middle
        if low < len(sites) and sites[low].begin <= address:
            pad = sites[low].landing_pad
            if pad is not None:
                return ((pad - listing.begin, self._pushed_arguments(address)),)
        return ()

    def _pushed_arguments(self, address: int) -> int:
        """Bytes of arguments that ``DW_CFA_GNU_args_size`` says are on the stack at a call."""
        size = 0
        for delta, _, _, args_size in self._fde.relative_rows():
            if delta > address - self._fde.begin:
                break
            size = args_size
        return size

    # -- helpers -----------------------------------------------------------------------------

    def _is_jump_target(self, listing: Listing, address: int) -> bool:
        if address == listing.end:
            return True
        if listing.begin <= address < listing.end:
            return listing.index_of(address - listing.begin) is not None
        # A case may live in the function's cold part, which has an FDE of its own.
        fde = self._code.covering(address)
        return fde is not None and fde is not self._fde and self._is_fragment(fde)

    def _is_fragment(self, fde: Fde) -> bool:
        """Return whether an FDE starts with a frame already built: it is no function's entry."""
        rows = fde.relative_rows()
        if not rows:
            return False
        _, cfa, registers, _ = rows[0]
        space = self._classifier.space
        claim = self._book.claim(cfa, registers)
        verdict = self._book.judge(space, space.function_entry(), claim, fde.begin)
        return verdict.answer is not Answer.PROVED

    def is_leader(self, listing: Listing, index: int) -> bool:
        """Return whether control arrives at an instruction from elsewhere than the one before."""
        position = bisect_left(listing.leaders, index)
        return position < len(listing.leaders) and listing.leaders[position] == index


def is_like_entry(callee_saved: tuple[int, ...], state: State) -> bool:
    """Return whether a state looks as at a function's entry: a jump from there is a tail call."""
    pointer = state.registers[SP]
    return (
        isinstance(pointer, Address)
        and pointer.region is CFA_REGION
        and -8 <= pointer.offset_bytes < 0
        and all(state.registers[register] is entry(register) for register in callee_saved)
    )


def _got_address(image: Image) -> int | None:
    for name in (".got.plt", ".got"):
        for section in image.sections:
            if section.name == name and section.address:
                return section.address
    return None
