"""CFI directives: rows to directives, and directives to what they do to a row.

Source: the GNU assembler's manual, section "CFI directives".
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fullframe.cfi.expressions import expression_text
from fullframe.cfi.rules import (
    SAME_VALUE,
    UNDEFINED,
    CfaExpression,
    CfaRegister,
    CfaRule,
    Expression,
    Offset,
    RegisterRule,
    Rule,
    SameValue,
    Undefined,
    ValExpression,
    ValOffset,
)
from fullframe.cfi.write.rule_choice import uleb128
from fullframe.x86.registers import IP, SP, Machine

_DW_CFA_DEF_CFA_EXPRESSION = 0x0F
_DW_CFA_EXPRESSION = 0x10
_DW_CFA_VAL_EXPRESSION = 0x16
_DW_CFA_GNU_ARGS_SIZE = 0x2E


@dataclass(frozen=True)
class Unwind:
    """The rules in force at one place, as directives see them.

    Attributes:
        cfa: the CFA rule; None before any is given (after ``.cfi_startproc simple``).
        registers: DWARF number to rule.
        args_size: bytes of arguments pushed (``DW_CFA_GNU_args_size``).
    """

    cfa: CfaRule | None
    registers: Mapping[int, Rule] = field(default_factory=dict)
    args_size: int = 0

    def same_as(self, other: Unwind) -> bool:
        """Return whether an unwinder does the same with both."""
        return (
            self.cfa == other.cfa
            and self.args_size == other.args_size
            and self.told() == other.told()
        )

    def told(self) -> dict[int, Rule]:
        """The register rules without ``same_value``, which is what no rule means too."""
        return {
            number: rule
            for number, rule in self.registers.items()
            if not isinstance(rule, SameValue)
        }


class UnsayableError(Exception):
    """A change of rules for which there is no directive; the message says which and why."""


def initial_unwind(machine: Machine) -> Unwind:
    """Return what ``.cfi_startproc`` starts with: the frame right after a call."""
    numbers = machine.hardware_to_dwarf
    word = machine.word_bytes
    return Unwind(CfaRegister(numbers[SP], word), {numbers[IP]: Offset(-word)})


class DirectiveWriter:
    """Writes the directives that lead from one row to another.

    Args:
        machine: for register names and offsets' unit.
        initial: the rules that ``.cfi_restore`` goes back to.
        prefix: before register names: ``%``, or nothing in Intel syntax without prefixes.
        comments: add comments to what is not readable by itself.

    Attributes:
        early: DWARF numbers of the registers given a rule before the first instruction. GNU as
            (2.40) moves such rules into the CIE, and ``.cfi_restore`` then goes back to them;
            LLVM leaves them in the FDE. Neither is asked to restore these.
    """

    def __init__(
        self,
        machine: Machine,
        initial: Unwind | None = None,
        *,
        prefix: str = "%",
        comments: bool = True,
    ) -> None:
        self.machine = machine
        self.initial = initial or initial_unwind(machine)
        self.early: frozenset[int] = frozenset()
        self._prefix = prefix
        self._comments = comments

    def change(self, old: Unwind, new: Unwind) -> list[str]:
        """Return directives that lead from ``old`` to ``new``.

        Raises:
            UnsayableError: there is no directive for one of the changes.
        """
        result = []
        if old.cfa != new.cfa:
            result.append(self.cfa(old.cfa, new.cfa))
        before, after = old.registers, new.registers
        for number in sorted({*before, *after}):
            one, other = before.get(number), after.get(number)
            if one != other:
                text = self.register(number, one, other)
                if text:
                    result.append(text)
        if old.args_size != new.args_size:
            data = bytes([_DW_CFA_GNU_ARGS_SIZE]) + uleb128(new.args_size)
            result.append(self._escape(data, f"{new.args_size} bytes of arguments are pushed"))
        return result

    def cfa(self, old: CfaRule | None, new: CfaRule | None) -> str:
        """Return the directive that gives the CFA its rule."""
        if isinstance(new, CfaRegister):
            name = self.name(new.dwarf_register)
            if isinstance(old, CfaRegister):
                if old.dwarf_register == new.dwarf_register:
                    return f".cfi_def_cfa_offset {new.offset_bytes}"
                if old.offset_bytes == new.offset_bytes:
                    return f".cfi_def_cfa_register {name}"
            return f".cfi_def_cfa {name}, {new.offset_bytes}"
        if isinstance(new, CfaExpression):
            data = bytes([_DW_CFA_DEF_CFA_EXPRESSION]) + uleb128(len(new.code)) + new.code
            return self._escape(data, f"CFA = {self._words(new.code)}")
        raise UnsayableError("no directive takes the CFA's rule away")

    def register(self, number: int, old: Rule | None, new: Rule | None) -> str:
        """Return the directive that gives a register its rule; "" where none is needed."""
        name = self.name(number)
        first = self.initial.registers.get(number)
        if new == first:
            same = (None, SAME_VALUE)
            if old in same and new in same:
                return ""
            if number not in self.early:
                return f".cfi_restore {name}"
        if new is None:
            # The initial rule cannot be taken away, but "same value" says what none means.
            new = SAME_VALUE
        if isinstance(new, Offset | ValOffset):
            if new.offset_bytes % self.machine.word_bytes:
                raise UnsayableError(
                    f"{name} at CFA{new.offset_bytes:+d}: offsets are counted in units of "
                    f"{self.machine.word_bytes} bytes"
                )
            kind = "offset" if isinstance(new, Offset) else "val_offset"
            return f".cfi_{kind} {name}, {new.offset_bytes}"
        if isinstance(new, Undefined):
            return f".cfi_undefined {name}"
        if isinstance(new, SameValue):
            return f".cfi_same_value {name}"
        if isinstance(new, RegisterRule):
            return f".cfi_register {name}, {self.name(new.dwarf_register)}"
        opcode = _DW_CFA_EXPRESSION if isinstance(new, Expression) else _DW_CFA_VAL_EXPRESSION
        data = bytes([opcode]) + uleb128(number) + uleb128(len(new.code)) + new.code
        words = self._words(new.code)
        what = "saved at" if isinstance(new, Expression) else "="
        return self._escape(data, f"{self.machine.dwarf_name(number)} {what} {words}")

    def name(self, number: int) -> str:
        """Return how directives name a register: by its name, or by its DWARF number."""
        hardware = self.machine.dwarf_to_hardware.get(number)
        if hardware is None or (hardware == IP and not self._prefix):
            return str(number)
        return self._prefix + self.machine.register_names[hardware]

    def _words(self, code: bytes) -> str:
        return expression_text(code, self.machine)

    def _escape(self, data: bytes, comment: str) -> str:
        text = ".cfi_escape " + ", ".join(f"{byte:#04x}" for byte in data)
        return f"{text} /* {comment} */" if self._comments else text


# -- reading directives ----------------------------------------------------------------------

_DIRECTIVE = re.compile(r"\.cfi_(\w+)\s*(.*)", re.DOTALL)
_OPERATORS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv, ast.LShift: operator.lshift, ast.RShift: operator.rshift,
    ast.BitOr: operator.or_, ast.BitAnd: operator.and_,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Directive:
    """One CFI directive as written.

    Attributes:
        name: without ``.cfi_``.
        operands: the texts between commas.
    """

    name: str
    operands: tuple[str, ...]


def parse_directive(statement: str) -> Directive | None:
    """Return the CFI directive that a statement is; None if it is something else."""
    match = _DIRECTIVE.fullmatch(statement.strip())
    if match is None:
        return None
    text = match[2].strip()
    return Directive(match[1].lower(), tuple(p.strip() for p in text.split(",")) if text else ())


class UnreadableError(Exception):
    """An operand that only the assembler can compute."""


def number_of(text: str) -> int:
    """Compute a constant operand, such as ``-16``, ``0x10`` or ``8*2``.

    Raises:
        UnreadableError: it has symbols, or is no arithmetic of whole numbers.
    """
    if len(text) > 200:
        raise UnreadableError(text[:40])
    text = re.sub(r"\b0+([1-7][0-7]*)\b", r"0o\1", text.replace("/", "//"))
    try:
        return _compute(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError):
        raise UnreadableError(text) from None


def _compute(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _compute(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _compute(node.left), _compute(node.right)
        if abs(right) > 64 and isinstance(node.op, ast.LShift | ast.RShift):
            raise ValueError("shift")
        return _OPERATORS[type(node.op)](left, right)
    raise ValueError("no constant")


class Simulator:
    """Follows directives as an assembler does, within one ``.cfi_startproc``.

    Args:
        machine: for register names.
        initial: what it starts with.
    """

    def __init__(self, machine: Machine, initial: Unwind) -> None:
        self.machine = machine
        self.initial = initial
        self.now = initial
        self.remembered: list[Unwind] = []
        self._numbers = {
            name: machine.hardware_to_dwarf[number]
            for number, name in enumerate(machine.register_names)
            if name and number in machine.hardware_to_dwarf
        }

    def register(self, text: str) -> int:
        """Return the DWARF number of a register operand.

        Raises:
            UnreadableError: it is neither a general register nor a number.
        """
        name = text.strip().lstrip("%").lower()
        found = self._numbers.get(name)
        return number_of(text) if found is None else found

    def apply(self, directive: Directive) -> None:
        """Do what a directive does to the rules in force.

        Raises:
            UnreadableError: its operands cannot be computed here, or it is not known.
        """
        name, operands = directive.name, directive.operands
        try:
            action = getattr(self, f"_do_{name}", None)
            if action is not None:
                action(*operands)
            elif name not in _WITHOUT_RULES:
                raise UnreadableError(f".cfi_{name}")
        except TypeError:
            raise UnreadableError(f".cfi_{name} with {len(operands)} operands") from None

    def _set(self, number: int, rule: Rule | None) -> None:
        registers = dict(self.now.registers)
        if rule is None:
            registers.pop(number, None)
        else:
            registers[number] = rule
        self.now = Unwind(self.now.cfa, registers, self.now.args_size)

    def _set_cfa(self, cfa: CfaRule) -> None:
        self.now = Unwind(cfa, self.now.registers, self.now.args_size)

    def _cfa(self) -> CfaRegister:
        if not isinstance(self.now.cfa, CfaRegister):
            raise UnreadableError("the CFA is not a register and an offset here")
        return self.now.cfa

    def _do_def_cfa(self, register: str, offset: str) -> None:
        self._set_cfa(CfaRegister(self.register(register), number_of(offset)))

    def _do_def_cfa_register(self, register: str) -> None:
        self._set_cfa(CfaRegister(self.register(register), self._cfa().offset_bytes))

    def _do_def_cfa_offset(self, offset: str) -> None:
        self._set_cfa(CfaRegister(self._cfa().dwarf_register, number_of(offset)))

    def _do_adjust_cfa_offset(self, delta: str) -> None:
        cfa = self._cfa()
        self._set_cfa(CfaRegister(cfa.dwarf_register, cfa.offset_bytes + number_of(delta)))

    def _do_offset(self, register: str, offset: str) -> None:
        self._set(self.register(register), Offset(number_of(offset)))

    def _do_rel_offset(self, register: str, offset: str) -> None:
        place = number_of(offset) - self._cfa().offset_bytes
        self._set(self.register(register), Offset(place))

    def _do_val_offset(self, register: str, offset: str) -> None:
        self._set(self.register(register), ValOffset(number_of(offset)))

    def _do_register(self, register: str, other: str) -> None:
        self._set(self.register(register), RegisterRule(self.register(other)))

    def _do_restore(self, *registers: str) -> None:
        for text in registers:
            number = self.register(text)
            self._set(number, self.initial.registers.get(number))

    def _do_undefined(self, *registers: str) -> None:
        for text in registers:
            self._set(self.register(text), UNDEFINED)

    def _do_same_value(self, *registers: str) -> None:
        for text in registers:
            self._set(self.register(text), SAME_VALUE)

    def _do_remember_state(self) -> None:
        self.remembered.append(self.now)

    def _do_restore_state(self) -> None:
        if not self.remembered:
            raise UnreadableError(".cfi_restore_state without .cfi_remember_state")
        self.now = self.remembered.pop()

    def _do_escape(self, *operands: str) -> None:
        """Follow an escape of one instruction of the kinds that have no directive."""
        data = bytes(number_of(text) & 0xFF for text in operands)
        opcode = data[0] if data else 0
        if opcode == _DW_CFA_GNU_ARGS_SIZE and len(data) == 2 and data[1] < 0x80:
            self.now = Unwind(self.now.cfa, self.now.registers, data[1])
            return
        if max(data[1:3], default=0x80) < 0x80:
            if opcode == _DW_CFA_DEF_CFA_EXPRESSION and len(data) == 2 + data[1]:
                self._set_cfa(CfaExpression(data[2:]))
                return
            if len(data) > 2 and len(data) == 3 + data[2]:
                if opcode == _DW_CFA_EXPRESSION:
                    self._set(data[1], Expression(data[3:]))
                    return
                if opcode == _DW_CFA_VAL_EXPRESSION:
                    self._set(data[1], ValExpression(data[3:]))
                    return
        raise UnreadableError(".cfi_escape")


#: Directives that change no rule.
_WITHOUT_RULES = frozenset(
    {
        "sections", "startproc", "endproc", "personality", "personality_id", "lsda", "inline_lsda",
        "fde_data", "signal_frame", "return_column", "label", "val_encoded_addr",
    }
)  # fmt: skip
