"""Proving a function in one pass over it, as nearly all can be.

All is followed in the coarse space (:mod:`fullframe.track.straight`), and each claim is held
against each state that it meets. What comes out is the proof of every boundary, or nothing: then
the function is visited (:mod:`fullframe.cfi.visit`).
"""

from __future__ import annotations

from functools import partial

from iced_x86 import Decoder, Mnemonic, OpKind, Register

from fullframe.cfi.call_sites import CallSites
from fullframe.cfi.claim_rows import ClaimRows
from fullframe.cfi.claims import PROVED, Answer, Claim
from fullframe.cfi.entries import is_like_entry
from fullframe.cfi.facts import ImageFacts
from fullframe.cfi.frames import Fde
from fullframe.cfi.handover import Handover, coarsened
from fullframe.cfi.results import FunctionResult, all_proved
from fullframe.track.jump_tables import TableReader
from fullframe.track.state import State
from fullframe.track.straight import Changes, StraightFlow
from fullframe.track.streams import Extent, Stream

#: Instructions before an indirect jump that tell its table: nearly always, usually.
_WINDOWS = (8, 23)
#: How many changes of state are looked back to for one that a row is true of.
_GUESSES = 60


class StraightProver:
    """Proves functions of one image in one pass.

    Args:
        facts: what is known of the image.
        handover: what other FDEs bring.
    """

    def __init__(self, facts: ImageFacts, handover: Handover) -> None:
        self._facts = facts
        self._handover = handover

    def prove(self, fde: Fde, stream: Stream, rows: ClaimRows) -> FunctionResult | None:
        """Prove a function; None where one pass does not do.

        Args:
            fde: the function.
            stream: its code.
            rows: its claims.
        """
        facts = self._facts
        engine = facts.engine
        if fde.cie.is_signal_frame or not stream.count or fde.begin in facts.entries.inner:
            return None
        if fde.begin in facts.code.plt_begins:
            return None  # each stub is entered, whatever leads there
        space = engine.coarse.space
        brought: dict[int, State] = {}
        for arrival in self._handover.at(fde):
            state = arrival.state if arrival.coarse else coarsened(space, arrival.state)
            before = brought.get(arrival.address)
            brought[arrival.address] = state if before is None else space.join(before, state)
        entry: State | None = space.function_entry()
        if facts.entries.is_fragment(fde, rows, stream.code):
            entry = None
            if not brought:
                return None
        around = StraightContext(facts, fde, stream, rows)
        flow = engine.straight.follow(stream, entry, around, brought)
        if flow is None or not self._all_proved(flow, rows, stream.begin, stream.end):
            return None
        result = all_proved(fde, stream.count - flow.filler_count)
        if flow.exits:
            result.exits = {(target, source): state for target, source, state in flow.exits}
            changes = flow.changes
            result.changes = lambda: changes
        return result

    def _all_proved(self, flow: StraightFlow, rows: ClaimRows, begin: int, end: int) -> bool:
        """Hold rows against a pass's states; whether every pair that meets is proved."""
        judge, space = self._facts.engine.book.judge, self._facts.engine.coarse.space
        changes = flow.changes
        last = len(rows) - 1
        row = 0
        next_row = begin + rows[1][0] if last else end
        claim = rows[0][1]
        total = len(changes)
        for number, (address, state) in enumerate(changes):
            stop = changes[number + 1][0] if number + 1 < total else end
            if state is None or stop <= address:
                continue
            while next_row <= address and row < last:
                row += 1
                claim = rows[row][1]
                next_row = begin + rows[row + 1][0] if row < last else end
            while True:
                verdict = state.verdicts.get(claim)
                if verdict is None:
                    if claim.reads_ip:
                        return False
                    verdict = judge(space, state, claim, address)
                if verdict is not PROVED:
                    return False
                if next_row >= stop or row == last:
                    break
                row += 1
                claim = rows[row][1]
                next_row = begin + rows[row + 1][0] if row < last else end
        return True


class StraightContext:
    """The surroundings of one function, for one pass over it: as little as that needs.

    Args:
        facts: what is known of the image.
        fde: the function.
        stream: its code.
        rows: its claims.
    """

    __slots__ = (
        "_body",
        "_facts",
        "_fde",
        "_machine",
        "_rows",
        "_sites",
        "_space",
        "_tables",
        "begin",
        "end",
        "has_landing_pads",
        "row_offsets",
    )  # fmt: skip

    def __init__(self, facts: ImageFacts, fde: Fde, stream: Extent, rows: ClaimRows) -> None:
        self._facts = facts
        self._fde = fde
        self._body = stream.code
        self.begin = stream.begin
        self.end = stream.end
        self._rows = rows
        self._space = facts.engine.coarse.space
        self._machine = facts.engine.machine
        self.has_landing_pads = fde.lsda is not None
        self.row_offsets = rows.offset_set
        self._sites: CallSites | None = None
        self._tables: dict[int, list[int]] | None = None

    def returns(self, following: int, state: State) -> bool:
        """See :class:`fullframe.track.straight.StraightSurroundings`."""
        body = self._body
        fillers = self._facts.engine.straight.fillers
        offset = fillers.skip(body, following - self.begin, len(body))
        claim = self._claim_at(offset)
        if offset == len(body) or claim is None:
            return False
        if claim.reads_ip:
            return True
        verdict = self._facts.engine.book.judge(self._space, state, claim, following)
        return verdict.answer is Answer.PROVED

    def holds_while_called(self, address: int, state: State) -> bool:
        """See :class:`fullframe.track.straight.StraightSurroundings`."""
        claim = self._claim_at(address - self.begin)
        return (
            claim is not None
            and self._facts.engine.book.judge(self._space, state, claim, address) is PROVED
        )

    def _claim_at(self, offset: int) -> Claim | None:
        return self._rows.at(offset)

    def jump_targets_at(self, address: int, state: State, stream: Extent) -> list[int] | None:
        """See :class:`fullframe.track.straight.StraightSurroundings`."""
        like_entry = is_like_entry(self._machine.callee_saved, state)
        if not like_entry or self.may_be_table(address, stream):
            targets = self.table_at(address, stream)
            if targets is not None:
                return targets
        # From a frame that looks as at entry it is a tail call. From another it leads to where
        # others lead, too, if all is reached without it; if not, this is not the way.
        return None if self._facts.code.in_lazy_plt(self._fde) else []

    def table_at(self, address: int, stream: Extent) -> list[int] | None:
        """Return where the indirect jump at an address leads by a table; None without one."""
        offset = address - self.begin
        # Where the whole function had to be read for one jump, it tells of the others, too.
        targets = None if self._tables is None else self._tables.get(offset)
        if targets is None:
            targets = self._near_table(address, stream)
        if targets is None:
            targets = self._all_tables(stream).get(offset)
        return [target for target in targets if target != stream.end] if targets else None

    def _near_table(self, address: int, stream: Extent) -> list[int] | None:
        """Find the table in the few instructions before the jump, as most can be."""
        body, reader = self._body, self._table_reader(stream)
        at = address - self.begin
        end = at + Decoder(self._machine.bits, body[at : at + 15]).decode().len
        for instructions in _WINDOWS:
            window = stream.start_before(address, instructions)
            targets = reader.find_last(body[window - self.begin : end], window)
            if targets is not None:
                return targets
        return None

    def _all_tables(self, stream: Extent) -> dict[int, list[int]]:
        """Find the tables of the whole function: the addresses of some are loaded early."""
        if self._tables is None:
            self._tables = self._table_reader(stream).find(self._body, self.begin)
        return self._tables

    def _table_reader(self, stream: Extent) -> TableReader:
        return TableReader(
            self._machine,
            self._facts.code.read_words,
            self._facts.code.got,
            partial(self._is_target, stream),
            self._facts.callees.clobbered,
            self._facts.code.references.following,
            self._facts.readings,
        )

    def guess(self, address: int, changes: Changes) -> State | None:
        """Guess that an earlier state for which the row is true holds here again."""
        claim = self._claim_at(address - self.begin)
        if claim is None or claim.reads_ip:
            return None
        for _, state in reversed(changes[-_GUESSES:]):
            if state is not None:
                verdict = self._facts.engine.book.judge(self._space, state, claim, address)
                if verdict.answer is Answer.PROVED:
                    return state
        return None

    def may_be_table(self, address: int, stream: Extent) -> bool:
        """Return whether a jump from a frame as at entry looks like a switch, not a tail call."""
        jump = Decoder(self._machine.bits, self._body[address - self.begin :][:15]).decode()
        if jump.op0_kind == OpKind.MEMORY:
            return bool(jump.memory_index != Register.NONE)
        if address == self.begin:
            return False
        start = stream.start_before(address, 1)
        before = self._body[start - self.begin : address - self.begin]
        mnemonic = Decoder(self._machine.bits, before).decode().mnemonic
        return mnemonic in (Mnemonic.ADD, Mnemonic.LEA, Mnemonic.MOVSXD)

    def _is_target(self, stream: Extent, address: int) -> bool:
        if stream.begin <= address < stream.end:
            return stream.is_start(address)
        if address == stream.end:
            return True
        fde = self._facts.code.covering(address)
        if fde is None or fde is self._fde:
            return False
        return self._facts.entries.is_part(fde, self._space)

    def landing_pad_at(self, address: int) -> tuple[int, int] | None:
        """See :class:`fullframe.track.straight.StraightSurroundings`."""
        if self._sites is None:
            self._sites = CallSites(self._facts.code.image, self._fde)
        return self._sites.landing_pad(address)

    def call_clobbers(self, target: int) -> tuple[int, ...]:
        """See :class:`fullframe.track.straight.StraightSurroundings`."""
        return self._facts.callees.clobbered(target)
