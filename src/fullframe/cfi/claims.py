"""Claims: what a CFI row says, held against a state of the tracker.

A claim is one row's rules without its address. Claims are interned, and what a claim amounts to
in a state is remembered in the state, so that the checker asks each question once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from typing import Final

from fullframe.cfi.expressions import (
    ExpressionError,
    decode_expression,
    evaluate,
)
from fullframe.cfi.rules import (
    CfaExpression,
    CfaRegister,
    CfaRule,
    Expression,
    Offset,
    RegisterRule,
    Registers,
    Rule,
    SameValue,
    Undefined,
    ValExpression,
    ValOffset,
)
from fullframe.cfi.symbolic import Symbols
from fullframe.cfi.wording import Wording, frame_place
from fullframe.track.effects import moved
from fullframe.track.state import State, StateSpace
from fullframe.track.values import (
    CFA,
    CFA_REGION,
    CONFLICT,
    OTHER,
    SIGNAL_REGION,
    UNKNOWN,
    VAGUE,
    Address,
    Derived,
    Entry,
    Value,
    address,
    entry,
    is_joined,
    is_lent,
    is_unplaced,
)
from fullframe.x86.registers import BP, FLAGS, IP, SP, Machine


class Answer(IntEnum):
    """What was found of a claim; the worst of several is the largest."""

    PROVED = 0
    ASSUMED = 1
    CANNOT_TELL = 2
    WRONG = 3


#: The CFA's register, the CFA's distance below it, and where each column's value is: the distance
#: from the CFA, or None where the register keeps it.
Plainly = tuple[int, int, tuple[tuple[int, int | None], ...]]

#: Stands for the CFA where a register is named.
CFA_COLUMN: Final = -1


@dataclass(frozen=True, slots=True)
class Doubt:
    """One thing that a row claims and that is not proved.

    Attributes:
        column: hardware register number, ``IP`` or ``CFA_COLUMN``.
        answer: ``WRONG`` or ``CANNOT_TELL``.
        claimed: the claim in words.
        actual: what is so, in words.
        suggestion: the directive that would mend it, or "".
        below_red_zone: the value is where the claim says, but below the stack pointer where a
            signal handler may overwrite it.
        paths_disagree: paths that meet bring different values, one of them the claimed one
            perhaps.
        while_called: it is so before the call, and no longer while the callee runs.
    """

    column: int
    answer: Answer
    claimed: str
    actual: str
    suggestion: str
    below_red_zone: bool = False
    paths_disagree: bool = False
    while_called: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a row amounts to in one state: the worst answer, and every doubt behind it."""

    answer: Answer
    doubts: tuple[Doubt, ...] = ()


PROVED: Final = Verdict(Answer.PROVED)
#: Proved from a premise.
ASSUMED: Final = Verdict(Answer.ASSUMED)
_ANOTHER_STACK: Final = Verdict(
    Answer.CANNOT_TELL,
    (
        Doubt(
            CFA_COLUMN,
            Answer.CANNOT_TELL,
            "the row describes another stack than the caller's",
            "the code switches stacks, and what it switches to comes from memory",
            "",
        ),
    ),
)


#: The coarse space does not follow the registers that a callee may change.
_TOO_COARSE: Final = Verdict(Answer.CANNOT_TELL)


class Claim:
    """The rules of a row, interned by :class:`ClaimBook`.

    Attributes:
        cfa: how to compute the CFA.
        rules: hardware register number to rule, general registers, ``IP`` and ``FLAGS`` only;
            the flags are judged in signal frames, where alone they are the caller's.
        reads_ip: an expression reads the instruction pointer, so that the claim means
            something else at every address.
        ip_mask: which bits of the address matter then.
        scratch: registers with a rule although a callee may change them.
        number: no other claim of the book has it.
        plainly: the same for a quick look, where it is of the kind that nearly all are; or None.
    """

    __slots__ = ("cfa", "ip_mask", "number", "plainly", "reads_ip", "rules", "scratch")

    def __init__(
        self,
        cfa: CfaRule | None,
        rules: dict[int, Rule],
        ip_mask: int,
        scratch: tuple[int, ...],
        number: int,
    ) -> None:
        self.number = number
        self.plainly: Plainly | None = None
        self.cfa = cfa
        self.rules = rules
        self.reads_ip = ip_mask != 0
        self.ip_mask = ip_mask
        self.scratch = scratch


#: Claims that are kept to be found again.
_MOST_CLAIMS: Final = 1 << 17


class ClaimBook(Wording):
    """Makes claims of rows and judges them, for one machine.

    Args:
        machine: whose DWARF numbers the rows use.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._claims: dict[object, Claim] = {}
        self._by_identity: dict[tuple[int, int], tuple[CfaRule | None, Registers, Claim]] = {}
        self._numbers = count()
        #: Claims by number.
        self.by_number: dict[int, Claim] = {}
        self._columns = (*machine.callee_saved, IP)
        # A signal interrupts code that still needs every register.
        general = range(16 if machine.bits == 64 else 8)
        self._all_columns = (*(number for number in general if number != SP), IP)

    def claim(self, cfa: CfaRule | None, registers: Registers) -> Claim:
        """Return the claim of a row's rules (``registers`` by DWARF number)."""
        # Rows that come out of one program share their rules.
        same = (id(cfa), id(registers))
        held = self._by_identity.get(same)
        if held is not None and held[0] is cfa and held[1] is registers:
            return held[2]
        if len(self._by_identity) > _MOST_CLAIMS:
            self._by_identity.clear()
        found = self._claim(cfa, registers)
        self._by_identity[same] = (cfa, registers, found)
        return found

    def claims(self, cfas: Sequence[CfaRule | None], registers: Sequence[Registers]) -> list[Claim]:
        """Return the claims of several rows; see :meth:`claim`."""
        identities = zip(map(id, cfas), map(id, registers), strict=True)
        # What is known holds its rules: no others have their identities.
        known = list(map(self._by_identity.get, identities))
        return [
            self.claim(cfa, rules) if held is None else held[2]
            for held, cfa, rules in zip(known, cfas, registers, strict=True)
        ]

    def trim(self) -> bool:
        """Forget all claims where there are too many; return whether that was so."""
        if len(self.by_number) <= _MOST_CLAIMS:
            return False
        self._claims.clear()
        self._by_identity.clear()
        self.by_number.clear()
        return True

    def _claim(self, cfa: CfaRule | None, registers: Registers) -> Claim:
        key = (cfa, frozenset(registers.items()))
        found = self._claims.get(key)
        if found is None:
            numbers = self.machine.dwarf_to_hardware
            rules = {numbers[n]: rule for n, rule in registers.items() if n in numbers}
            flags = registers.get(self.machine.dwarf_flags)
            if flags is not None and not isinstance(flags, Undefined | SameValue):
                rules[FLAGS] = flags
            mask = 0
            for rule in (cfa, *rules.values()):
                if isinstance(rule, CfaExpression | Expression | ValExpression):
                    mask |= _ip_mask(rule.code, self.machine)
            scratch = [n for n in rules if n not in (SP, FLAGS) and n not in self._columns]
            number = next(self._numbers)
            found = Claim(cfa, rules, mask, tuple(sorted(scratch)), number)
            found.plainly = self._plainly(found)
            self._claims[key] = self.by_number[number] = found
        return found

    def _plainly(self, claim: Claim) -> Plainly | None:
        """Return what a claim says if it only names places in the frame and kept registers."""
        if not isinstance(claim.cfa, CfaRegister) or claim.scratch or SP in claim.rules:
            return None
        register = self.machine.dwarf_to_hardware.get(claim.cfa.dwarf_register)
        if register not in (SP, BP) or FLAGS in claim.rules:
            return None
        places: list[tuple[int, int | None]] = []
        for column in self._columns:
            rule = claim.rules.get(column)
            if isinstance(rule, Offset):
                places.append((column, rule.offset_bytes))
            elif column != IP and (rule is None or isinstance(rule, SameValue)):
                places.append((column, None))
            else:
                return None
        return register, -claim.cfa.offset_bytes, tuple(places)

    def _holds_plainly(self, state: State, plainly: Plainly) -> bool:
        """Return whether a quick look shows that a claim holds; if not, it still may."""
        register, offset, places = plainly
        registers, slots = state.registers, state.slots
        if registers[register] is not address(CFA_REGION, offset):
            return False
        pointer = registers[SP]
        lowest = None
        if isinstance(pointer, Address):
            if pointer.region is SIGNAL_REGION:
                return False
            if pointer.region is CFA_REGION:
                lowest = pointer.offset_bytes - self.machine.red_zone_bytes
        for column, place in places:
            if place is None:
                if registers[column] is not entry(column):
                    return False
            elif slots.get((CFA_REGION, place)) is not entry(column) or (
                lowest is not None and place < lowest
            ):
                return False
        return True

    def judge(self, space: StateSpace, state: State, claim: Claim, address: int) -> Verdict:
        """Hold a claim against a state.

        Args:
            space: the state's space.
            state: where everything is.
            claim: what the row says.
            address: of the boundary; matters only where ``claim.reads_ip``.

        Returns:
            The verdict, remembered in the state.
        """
        key = (claim, address & claim.ip_mask) if claim.reads_ip else claim
        found: Verdict | None = state.verdicts.get(key)
        if found is not None:
            return found
        if claim.plainly is not None and self._holds_plainly(state, claim.plainly):
            return self._remember(state, key, PROVED)
        doubts = []
        symbols = Symbols(space, state, address)
        cfa = self._cfa(symbols, claim.cfa, space, state)
        if isinstance(claim.rules.get(IP), Undefined):
            # The outermost frame: an unwinder stops here, whatever the other rules say.
            return self._remember(state, key, PROVED)
        if cfa is not CFA and self._is_another_stack(state, claim, cfa):
            return self._remember(state, key, _ANOTHER_STACK)
        if cfa is not CFA:
            doubts.append(self._doubt_of_cfa(state, claim, cfa))
        pointer = state.registers[SP]
        if isinstance(pointer, Address) and pointer.region is SIGNAL_REGION:
            columns: tuple[int, ...] = self._all_columns
            if FLAGS in claim.rules:
                columns = (*columns, FLAGS)  # few say where they are; who does must be right
        elif claim.scratch and not space.precise:
            return self._remember(state, key, _TOO_COARSE)
        else:
            columns = (*self._columns, *claim.scratch) if claim.scratch else self._columns
        for column in columns:
            doubt = self._judge_register(space, state, claim, column, cfa, symbols)
            if doubt is not None:
                doubts.append(doubt)
        rule = claim.rules.get(SP)
        if rule is not None and not isinstance(rule, Undefined):
            value = self._recovered(space, state, rule, SP, cfa, symbols)[0]
            if value is not CFA:
                doubts.append(self._doubt(space, state, claim, SP, value, rule))
        if doubts:
            verdict = Verdict(max(doubt.answer for doubt in doubts), tuple(doubts))
        else:
            verdict = PROVED
        return self._remember(state, key, verdict)

    @staticmethod
    def _remember(state: State, key: object, verdict: Verdict) -> Verdict:
        state.verdicts[key] = verdict
        return verdict

    def _is_another_stack(self, state: State, claim: Claim, cfa: Value) -> bool:
        """Return whether the row speaks of another context than the one that called.

        Code that switches stacks (``longjmp``, ``setcontext``, a coroutine switch) leaves the
        caller's frame for one that it read from memory. Nothing that the function was entered
        with can be held against what is said of the other context.
        """
        if isinstance(cfa, Address | Derived) or cfa in VAGUE:
            return False
        pointer = state.registers[SP]
        if isinstance(pointer, Address) and pointer.region is SIGNAL_REGION:
            return False  # the kernel's frame is where the interrupted registers are
        if SP in claim.rules:
            return True
        return not isinstance(state.registers[SP], Address) and state.registers[SP] not in VAGUE

    def _cfa(
        self, symbols: Symbols, rule: CfaRule | None, space: StateSpace, state: State
    ) -> Value:
        if isinstance(rule, CfaRegister):
            return moved(symbols.register(rule.dwarf_register), rule.offset_bytes, space)
        if isinstance(rule, CfaExpression):
            try:
                return evaluate(rule.code, self.machine, (), symbols)
            except ExpressionError:
                return UNKNOWN
        return UNKNOWN

    def _recovered(
        self,
        space: StateSpace,
        state: State,
        rule: Rule | None,
        column: int,
        cfa: Value,
        symbols: Symbols,
    ) -> tuple[Value, Value | None]:
        """Return (the value that an unwinder would recover, the place it reads, if memory)."""
        if isinstance(rule, Offset):
            place = moved(cfa, rule.offset_bytes, space)
            return state.word_at(place), place
        if isinstance(rule, ValOffset):
            return moved(cfa, rule.offset_bytes, space), None
        if isinstance(rule, RegisterRule):
            return symbols.register(rule.dwarf_register), None
        if isinstance(rule, Expression | ValExpression):
            try:
                value = evaluate(rule.code, self.machine, (cfa,), symbols)
            except ExpressionError:
                return UNKNOWN, None
            return (
                (value, None) if isinstance(rule, ValExpression) else (state.word_at(value), value)
            )
        if column == IP:
            return OTHER, None  # no rule for the return address: it cannot be found
        return state.registers[column], None

    def _judge_register(
        self,
        space: StateSpace,
        state: State,
        claim: Claim,
        column: int,
        cfa: Value,
        symbols: Symbols,
    ) -> Doubt | None:
        rule = claim.rules.get(column)
        if isinstance(rule, Undefined):
            return None  # nothing is claimed
        value, place = self._recovered(space, state, rule, column, cfa, symbols)
        if value is not entry(column):
            if cfa is not CFA and isinstance(rule, Offset | ValOffset):
                return None  # a consequence of the wrong CFA, which is reported
            return self._doubt(space, state, claim, column, value, rule)
        pointer = state.registers[SP]
        if (
            isinstance(place, Address)
            and isinstance(pointer, Address)
            and place.region is pointer.region
            and place.offset_bytes < pointer.offset_bytes - self.machine.red_zone_bytes
            # GCC leaves the rules of the exception's data registers in force when it returns;
            # nobody asks for a register that a callee may change.
            and column not in claim.scratch
        ):
            name = self.machine.register_names[column]
            below = pointer.offset_bytes - place.offset_bytes
            return Doubt(
                column,
                Answer.WRONG,
                f"{name} saved at {frame_place(place)}",
                f"that slot is {below} bytes below the stack pointer, where a signal handler's "
                f"frame may overwrite it (red zone: {self.machine.red_zone_bytes} bytes)",
                self.suggest(state, column),
                below_red_zone=True,
            )
        return None

    def return_address_taken(self, space: StateSpace, state: State, claim: Claim) -> str | None:
        """Say what an unwinder that believes a claim takes for the return address."""
        symbols = Symbols(space, state, 0)
        cfa = self._cfa(symbols, claim.cfa, space, state)
        value, place = self._recovered(space, state, claim.rules.get(IP), IP, cfa, symbols)
        if isinstance(value, Entry):
            return self.describe_value(value)
        if isinstance(place, Address):
            return f"the word at {frame_place(place)}"
        return None

    # -- doubts ------------------------------------------------------------------------------

    def _doubt_of_cfa(self, state: State, claim: Claim, value: Value) -> Doubt:
        claimed = f"CFA = {self.describe_cfa(claim.cfa)}"
        if claim.cfa is None:
            return Doubt(CFA_COLUMN, Answer.WRONG, "no CFA rule", "no CFA", "")
        if value is UNKNOWN or isinstance(value, Derived):
            reason = "the code is not modelled, or moves the registers of the rule by what it reads"
            return Doubt(CFA_COLUMN, Answer.CANNOT_TELL, claimed, reason, "")
        if isinstance(value, Address) and is_unplaced(value.region):
            reason = "an edge that cannot be seen leads here, with the stack pointer anywhere"
            return Doubt(CFA_COLUMN, Answer.CANNOT_TELL, claimed, reason, "")
        if self._is_moved_frame(state, claim, value):
            reason = (
                "the function has moved its frame, the return address with it, to memory from "
                "elsewhere"
            )
            return Doubt(CFA_COLUMN, Answer.CANNOT_TELL, claimed, reason, "")
        if value is CONFLICT or _is_joined(value):
            reason = "paths that meet here bring the registers of the rule to different places"
            suggestion = self.where_cfa_is(state)[1]
            return Doubt(CFA_COLUMN, Answer.WRONG, claimed, reason, suggestion, paths_disagree=True)
        where, suggestion = self.where_cfa_is(state)
        if where is None and not isinstance(value, Address):
            where = "the CFA rule gives something that is no frame address"
        elif where is None:
            where = f"the rule gives {self.describe_value(value)}"
        return Doubt(CFA_COLUMN, Answer.WRONG, claimed, where, suggestion)

    @staticmethod
    def _is_moved_frame(state: State, claim: Claim, cfa: Value) -> bool:
        """Return whether the rule gives a frame that the function made in somebody's memory."""
        rule = claim.rules.get(IP)
        if not isinstance(cfa, Address) or not is_lent(cfa.region) or not isinstance(rule, Offset):
            return False
        place = address(cfa.region, cfa.offset_bytes + rule.offset_bytes)
        return state.word_at(place) is entry(IP)

    def _doubt(
        self,
        space: StateSpace,
        state: State,
        claim: Claim,
        column: int,
        value: Value,
        rule: Rule | None,
    ) -> Doubt:
        claimed = f"{self.name(column)} {self.describe_rule(rule)}"
        answer = Answer.CANNOT_TELL if value is UNKNOWN else Answer.WRONG
        actual = self.where(state, column)
        if value is UNKNOWN:
            actual = "the code is not modelled; " + actual
        elif value is CONFLICT:
            actual = "paths that meet here disagree; " + actual
        return Doubt(
            column,
            answer,
            claimed,
            actual,
            self.suggest(state, column),
            paths_disagree=value is CONFLICT,
        )


def _is_joined(value: Value) -> bool:
    return isinstance(value, Address) and is_joined(value.region)


def _ip_mask(code: bytes, machine: Machine) -> int:
    """Return the bits of the instruction pointer that an expression's value depends on.

    The linkers' expression for lazy-binding stubs takes the last four bits.
    """
    column = machine.hardware_to_dwarf[IP]
    everything = (1 << machine.bits) - 1
    try:
        operations = decode_expression(code, machine.word_bytes)
    except ExpressionError:
        return 0
    mask = 0
    for number, operation in enumerate(operations):
        if operation.opcode == 0x92 and operation.operands[0] == column:
            return everything
        if operation.opcode != 0x70 + column:
            continue
        following = operations[number + 1 : number + 3]
        if (
            operation.operands[0] == 0
            and len(following) == 2
            and 0x30 <= following[0].opcode < 0x50  # DW_OP_lit
            and following[1].opcode == 0x1A  # DW_OP_and
        ):
            mask |= following[0].opcode - 0x30
        else:
            return everything
    return mask
