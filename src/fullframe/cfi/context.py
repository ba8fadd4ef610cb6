"""What the checker knows of the code around a function: callees, jump tables, landing pads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from iced_x86 import Decoder, FlowControl, Mnemonic, OpKind, Register

from fullframe.cfi.claims import Answer, Claim, ClaimBook
from fullframe.cfi.code import NamedCode
from fullframe.cfi.frames import Fde
from fullframe.cfi.lsda import CallSite, read_lsda
from fullframe.elf.image import Image
from fullframe.errors import FullframeError
from fullframe.track.calls import Callees
from fullframe.track.classify import Classifier
from fullframe.track.effects import Effect
from fullframe.track.jump_tables import TableReader
from fullframe.track.listing import Listing, is_filler
from fullframe.track.state import State, StateSpace
from fullframe.track.values import CFA_REGION, Address, entry
from fullframe.x86.registers import SP, Machine

#: (offset from the function's begin, claim from there on), ascending.
ClaimRows = list[tuple[int, Claim]]


#: No more of a callee is of interest to :class:`fullframe.track.calls.Callees`.
_LARGEST_CALLEE_BYTES = 1 << 16


class ImageCode(NamedCode):
    """An image's code by FDE: names, ranges, words. Shared by all functions of the image."""

    def __init__(self, image: Image, fdes: list[Fde]) -> None:
        super().__init__(image)
        self.fdes = fdes
        self._begins = [fde.begin for fde in fdes]
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
        if fde is None or fde.end - target > _LARGEST_CALLEE_BYTES:
            return None
        try:
            return target, bytes(self.image.read(target, fde.end - target))
        except FullframeError:
            return None

    def in_lazy_plt(self, fde: Fde) -> bool:
        """Return whether an FDE is that of ``.plt``, whose stubs bind themselves."""
        section = self.image.section_at(fde.begin)
        return section is not None and section.name == ".plt"


#: Instructions before an indirect jump that usually tell its table.
_WINDOW = 24
#: How many changes of state are looked back to for one that a row is true of.
_GUESSES = 60


class StraightContext:
    """The surroundings of one function, for one pass over it: as little as that needs.

    Args:
        code: the image.
        fde: the function.
        body: its bytes.
        begin: their address.
        callees: what is known of callees.
        rows: the function's claims.
        book: judges them.
        space: the coarse states.
    """

    __slots__ = (
        "_body", "_book", "_callees", "_code", "_fde", "_machine", "_rows", "_sites", "_space",
        "begin", "has_landing_pads", "row_addresses",
    )  # fmt: skip

    def __init__(
        self,
        code: ImageCode,
        fde: Fde,
        body: bytes,
        begin: int,
        callees: Callees,
        rows: ClaimRows,
        book: ClaimBook,
        space: StateSpace,
    ) -> None:
        self._code = code
        self._fde = fde
        self._body = body
        self.begin = begin
        self._callees = callees
        self._rows = rows
        self._book = book
        self._space = space
        self._machine = space.machine
        self.has_landing_pads = fde.lsda is not None
        self.row_addresses = frozenset([begin + offset for offset, _ in rows])
        self._sites: CallSites | None = None

    def returns(self, following: int, state: State) -> bool:
        """See :class:`fullframe.track.straight.StraightSurroundings`."""
        offset = following - self.begin
        bits = self._machine.bits
        body = self._body
        while offset < len(body) and is_filler(bits, body[offset : offset + 15]):
            offset += Decoder(bits, body[offset : offset + 15]).decode().len
        claim = self._claim_at(offset)
        if offset == len(body) or claim is None:
            return False
        if claim.reads_ip:
            return True
        verdict = self._book.judge(self._space, state, claim, following)
        return verdict.answer is Answer.PROVED

    def _claim_at(self, offset: int) -> Claim | None:
        claim = None
        for delta, row in self._rows:
            if delta > offset:
                break
            claim = row
        return claim

    def jump_targets_at(self, address: int, state: State, starts: list[int]) -> list[int] | None:
        """See :class:`fullframe.track.straight.StraightSurroundings`."""
        if is_like_entry(self._machine.callee_saved, state) and not self._may_be_table(
            address, starts
        ):
            return [] if not self._code.in_lazy_plt(self._fde) else None
        window = starts[max(0, len(starts) - _WINDOW)]
        following = address - self.begin + 15
        code = self._body[window - self.begin : following]
        length = Decoder(self._machine.bits, self._body[address - self.begin :][:15]).decode().len
        code = code[: address - window + length]
        reader = TableReader(
            self._machine,
            self._code.read_word,
            self._code.got,
            self._is_target,
            self._callees.clobbered,
        )
        targets = reader.find_last(code, window)
        if targets is None:
            return None
        end = self.begin + len(self._body)
        return [target for target in targets if target != end]

    def guess(self, address: int, changes: list[tuple[int, State | None]]) -> State | None:
        """Guess that an earlier state for which the row is true holds here again."""
        claim = self._claim_at(address - self.begin)
        if claim is None or claim.reads_ip:
            return None
        for _, state in reversed(changes[-_GUESSES:]):
            if state is not None:
                verdict = self._book.judge(self._space, state, claim, address)
                if verdict.answer is Answer.PROVED:
                    return state
        return None

    def _may_be_table(self, address: int, starts: list[int]) -> bool:
        """Return whether a jump from a frame as at entry looks like a switch, not a tail call."""
        jump = Decoder(self._machine.bits, self._body[address - self.begin :][:15]).decode()
        if jump.op0_kind == OpKind.MEMORY:
            return bool(jump.memory_index != Register.NONE)
        if len(starts) < 2:
            return False
        before = self._body[starts[-2] - self.begin : address - self.begin]
        mnemonic = Decoder(self._machine.bits, before).decode().mnemonic
        return mnemonic in (Mnemonic.ADD, Mnemonic.LEA, Mnemonic.MOVSXD)

    def _is_target(self, address: int) -> bool:
        if self.begin <= address <= self.begin + len(self._body):
            return True
        fde = self._code.covering(address)
        if fde is None:
            return False
        return is_fragment(fde, self._book, self._space)

    def landing_pad_at(self, address: int) -> tuple[int, int] | None:
        """See :class:`fullframe.track.straight.StraightSurroundings`."""
        if self._sites is None:
            self._sites = CallSites(self._code.image, self._fde)
        return self._sites.landing_pad(address)

    def call_clobbers(self, target: int) -> tuple[int, ...]:
        """See :class:`fullframe.track.straight.StraightSurroundings`."""
        return self._callees.clobbered(target)


class CallSites:
    """The call sites of one function's LSDA, for look-up by address."""

    def __init__(self, image: Image, fde: Fde) -> None:
        self._fde = fde
        self._sites: list[CallSite] = []
        if fde.lsda is not None:
            try:
                lsda = read_lsda(image, fde.lsda, fde.begin)
                self._sites = sorted(lsda.call_sites, key=lambda site: site.begin)
            except FullframeError:
                self._sites = []
        self._ends = [site.end for site in self._sites]
        self._arguments = [(fde.begin + delta, size) for delta, _, _, size in fde.relative_rows()]
        self._any_arguments = any(size for _, size in self._arguments)

    def landing_pad(self, address: int) -> tuple[int, int] | None:
        """Return (landing pad, bytes of arguments that the unwinder pops) of a call."""
        position = bisect_right(self._ends, address)
        if position == len(self._sites) or self._sites[position].begin > address:
            return None
        pad = self._sites[position].landing_pad
        return None if pad is None else (pad, self._pushed_arguments(address))

    def _pushed_arguments(self, address: int) -> int:
        """Bytes of arguments that ``DW_CFA_GNU_args_size`` says are on the stack at a call."""
        size = 0
        if self._any_arguments:
            for begin, size_there in self._arguments:
                if begin > address:
                    break
                size = size_there
        return size


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
        doubt_calls: take it that a call of something unseen does not return where control
            arrives behind it otherwise.
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
        *,
        doubt_calls: bool = False,
    ) -> None:
        self.doubt_calls = doubt_calls
        self._code = code
        self._fde = fde
        self._body = body
        self._rows = rows
        self._row_offsets = [offset for offset, _ in rows]
        self._book = book
        self._classifier = classifier
        self._callees = callees
        self._tables: dict[int, list[int]] | None = None
        self._sites: CallSites | None = None
        #: Why calls were taken not to return: index to "name", "code" or "shape of the CFI".
        self.noreturn: dict[int, str] = {}
        #: Offsets where a call would come back to, or an exception land, in a state that
        #: contradicts the row there, to those states; they were left out, which is right only
        #: if control arrives there in another way.
        self.excused: dict[int, set[State]] = {}
        self._in_plt = code.in_lazy_plt(fde)

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
        return self._by_shape(listing, index, target, state, usual)

    def _by_shape(
        self, listing: Listing, index: int, target: int | None, state: State, usual: Effect
    ) -> Effect | None:
        """Judge a call by the rows around it, where the callee is not known.

        A compiler that knows that a call does not return puts the code of another path, with
        another row, right behind it; on i386 a row that takes a few bytes off the CFA's
        distance right behind a call says that the callee popped them.
        """
        classifier = self._classifier
        pops_nothing = target is not None and self._callees.popped_bytes(target) == 0
        if classifier.space.machine.bits == 32 and not pops_nothing:
            popped_bytes = self._taken_back(listing, index, state)
            if popped_bytes:
                return classifier.call_that_pops(popped_bytes)
        following = index + 1
        while following + 1 < len(listing.starts) and self._is_filler(listing, following):
            following += 1
        if (
            self.doubt_calls
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
        if space.machine.bits == 32 and following == index + 1 and not pops_nothing:
            for popped_bytes in range(4, 68, 4):
                effect = classifier.call_that_pops(popped_bytes)
                popped = effect.after(space, state)
                if book.judge(space, popped, after, address).answer is Answer.PROVED:
                    return effect
        self.noreturn[index] = "shape of the CFI"
        self.excused.setdefault(there, set()).add(returned)
        return None

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
            reader = TableReader(
                self._classifier.space.machine,
                self._code.read_word,
                self._code.got,
                lambda address: self._is_jump_target(listing, address),
                self._callees.clobbered,
                self._code.references.following,
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
            and is_fragment(fde, self._book, self._classifier.space)
        )

    def is_leader(self, listing: Listing, index: int) -> bool:
        """Return whether control arrives at an instruction from elsewhere than the one before."""
        position = bisect_left(listing.leaders, index)
        return position < len(listing.leaders) and listing.leaders[position] == index


def is_fragment(fde: Fde, book: ClaimBook, space: StateSpace) -> bool:
    """Return whether an FDE starts with a frame already built: it is no function's entry."""
    rows = fde.relative_rows()
    if not rows:
        return False
    _, cfa, registers, _ = rows[0]
    claim = book.claim(cfa, registers)
    verdict = book.judge(space, space.function_entry(), claim, fde.begin)
    return verdict.answer is not Answer.PROVED


def is_stub(machine: Machine, body: bytes) -> bool:
    """Return whether code is that of a PLT stub, which callers enter: it jumps through a slot.

    Where indirect branches are tracked, the stub that binds lazily pushes its number instead.
    What all such stubs share pushes from memory, and is not called.
    """
    marked = False
    for instruction in Decoder(machine.bits, body):
        if instruction.mnemonic in (Mnemonic.ENDBR32, Mnemonic.ENDBR64) and not marked:
            marked = True
            continue
        if instruction.mnemonic == Mnemonic.PUSH:
            return marked and instruction.op0_kind not in (OpKind.MEMORY, OpKind.REGISTER)
        return (
            instruction.flow_control == FlowControl.INDIRECT_BRANCH
            and instruction.op0_kind == OpKind.MEMORY
        )
    return False


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
    if image.is_relocatable:
        return image.got_address
    for name in (".got.plt", ".got"):
        for section in image.sections:
            if section.name == name and section.address:
                return section.address
    return None
