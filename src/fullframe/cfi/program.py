"""The interpreter of call-frame instructions: bytes in, rows out.

Source: DWARF 5, sections 6.4.2 and 6.4.3 and table 7.29; the GNU and MIPS extensions as
``dwarf2.def`` of binutils numbers them (``DW_CFA_GNU_args_size`` 0x2e,
``DW_CFA_GNU_negative_offset_extended`` 0x2f, ``DW_CFA_MIPS_advance_loc8`` 0x1d).

Speed comes from three things. Rules and sets of register rules are made once and found again by
what leads to them: each set of rules knows its successors by instruction, so a push that ten
thousand functions have in common costs one dictionary look-up. Whole instruction strings that
recur (most do) are interpreted once per CIE. And the loop touches only local variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fullframe.cfi.encoding import (
    Bases,
    MalformedError,
    read_fixed,
    read_pointer,
    read_sleb128,
    read_uleb128,
)
from fullframe.cfi.rules import (
    SAME_VALUE,
    UNDEFINED,
    CfaExpression,
    CfaRegister,
    CfaRule,
    Expression,
    Offset,
    RegisterRule,
    RelativeRow,
    Rule,
    ValExpression,
    ValOffset,
)
from fullframe.cfi.shapes import Shape, Steps, cut

#: No honest entry comes near these; they bound memory and time on hostile ones.
LARGEST_PROGRAM_BYTES = 1 << 18
#: Longer ones are interpreted one by one: to cut one takes a hundred times its size.
_LARGEST_CUT_BYTES = 1 << 12
_DEEPEST_REMEMBER = 1024
#: Registers in one set of rules; the x86-64 psABI numbers them up to 145.
_MOST_REGISTERS = 256
#: Rules in all the sets that one program makes, by byte of the program and in any case: one that
#: saves 145 registers one by one stays below.
_MOST_RULES_BY_BYTE = 16
_MOST_RULES = 1 << 14
_MOST_PROBLEMS = 16
#: Rules and rows (these count double) that are kept for reuse; about 100 bytes each.
_MOST_KEPT = 1 << 17

#: Opcodes with a name that mean nothing on x86, to refuse them by it.
_FOREIGN = {
    0x2C: "DW_CFA_AARCH64_negate_ra_state_with_pc (AArch64)",
    0x2D: "DW_CFA_GNU_window_save (SPARC; DW_CFA_AARCH64_negate_ra_state on AArch64)",
    0x30: "DW_CFA_LLVM_def_aspace_cfa (AMDGPU)",
    0x31: "DW_CFA_LLVM_def_aspace_cfa_sf (AMDGPU)",
}


@dataclass(frozen=True, slots=True)
class Position:
    """Where the instructions of an FDE are, for ``DW_CFA_set_loc``.

    Attributes:
        begin: first address of the FDE's function.
        address: of the first instruction byte.
    """

    begin: int
    address: int


class ProgramProblem(NamedTuple):
    """Something wrong in a string of instructions; ``offset`` counts from its first byte."""

    kind: str
    offset: int
    message: str


class Program:
    """What a string of call-frame instructions says.

    Attributes:
        locations: where its rows begin, relative to the beginning of the FDE, ascending; at least
            one.
        shape: all else of the rows.
        problems: in the order of the instructions; rows end at one that cannot be decoded.
    """

    __slots__ = ("_rows", "locations", "problems", "shape")

    def __init__(
        self, locations: tuple[int, ...], shape: Shape, problems: tuple[ProgramProblem, ...] = ()
    ) -> None:
        self.locations = locations
        self.shape = shape
        self.problems = problems
        self._rows: tuple[RelativeRow, ...] | None = None

    @property
    def rows(self) -> tuple[RelativeRow, ...]:
        """The rows; always the same object."""
        if self._rows is None:
            self._rows = self.shape.rows(self.locations)
        return self._rows


#: A set of register rules and its successors, by the instruction that leads there.
_Node = tuple[dict[int, Rule], dict[object, "_Node"]]


class Pool:
    """Keeps what the interpreters of one section hold for reuse within bounds."""

    def __init__(self) -> None:
        self._kept = 0
        self._users: list[Interpreter] = []

    def charge(self, user: Interpreter, units: int) -> None:
        """Count what ``user`` is about to keep; beyond the bound everybody drops everything."""
        self._kept += units
        if self._kept > _MOST_KEPT:
            for other in self._users:
                other.forget()
            self._users.clear()
            self._kept = units
        if user.is_empty:
            self._users.append(user)


class Interpreter:
    """Interprets the instructions of the FDEs of one CIE.

    Args:
        code_alignment: factor of location advances.
        data_alignment: factor of offsets.
        address_size_bytes: 4 or 8.
        pointer_encoding: of ``DW_CFA_set_loc``'s operand.
        initial: instructions of the CIE.
        pool: bounds what is kept, together with the interpreters of other CIEs.

    Attributes:
        known: programs that are kept, by their instructions.
    """

    def __init__(
        self,
        code_alignment: int,
        data_alignment: int,
        address_size_bytes: int,
        pointer_encoding: int,
        initial: bytes,
        pool: Pool | None = None,
    ) -> None:
        self._pool = pool or Pool()
        self._code_alignment = code_alignment
        self._data_alignment = data_alignment
        self._address_size_bytes = address_size_bytes
        self._pointer_encoding = pointer_encoding
        self._initial_cfa: CfaRule | None = None
        self._initial_args = 0
        self._initial_offset: int | None = None
        self._initial_registers: dict[int, Rule] = {}
        self._cfas: dict[int, dict[int, CfaRegister]] = {}
        self._rules_left = 0
        self.known: dict[bytes, Program] = {}
        self._shapes: dict[Steps, Shape] = {}
        self._nodes: dict[frozenset[tuple[int, Rule]], _Node] = {}
        self._root: _Node = ({}, {})
        self.initial = self._interpret(initial, None)[0]
        if len(self.initial.rows) > 1:
            text = "the CIE's initial instructions advance the location"
            problem = ProgramProblem("advance-in-cie", 0, text)
            self.initial.problems += (problem,)
        _, self._initial_cfa, registers, self._initial_args = self.initial.rows[-1]
        if isinstance(self._initial_cfa, CfaRegister):
            self._initial_offset = self._initial_cfa.offset_bytes
        self._initial_registers = dict(registers)
        # Successors by "restore" depend on the initial rules: start afresh.
        self.forget()

    def run(self, code: bytes, position: Position) -> Program:
        """Interpret one FDE's instructions.

        Args:
            code: its bytes.
            position: where they are; matters to ``DW_CFA_set_loc`` only.

        Returns:
            The rows; the same object for the same bytes, mostly.
        """
        program = self.known.get(code)
        if program is not None:
            return program
        usual = self._code_alignment == 1 and len(code) <= _LARGEST_CUT_BYTES
        parts = cut(code) if usual else None
        if parts is not None:
            steps, locations = parts
            shape = self._shapes.get(steps)
            if shape is not None:
                self._pool.charge(self, len(locations) + len(code) // 64)
                program = self.known[code] = Program(locations, shape)
                return program
        program, depends_on_position = self._interpret(code, position)
        if not depends_on_position:
            self._pool.charge(self, 2 * len(program.shape) + len(code) // 64)
            self.known[code] = program
            if parts is not None and not program.problems:
                self._shapes[steps] = program.shape
        return program

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept for reuse."""
        return not self.known and not self._nodes and not self._shapes

    def forget(self) -> None:
        """Drop what is kept for reuse."""
        self._root = (self._initial_registers, {})
        self._nodes.clear()
        self._shapes.clear()
        self.known.clear()

    def _cfa(self, register: int, offset_bytes: int) -> CfaRegister:
        by_offset = self._cfas.setdefault(register, {})
        rule = by_offset[offset_bytes] = CfaRegister(register, offset_bytes)
        if len(by_offset) > 1 << 16 or len(self._cfas) > 1 << 10:
            self._cfas.clear()
        return rule

    def _successor(self, node: _Node, key: object, register: int, rule: Rule | None) -> _Node:
        """Return ``node`` with one rule changed, and remember that ``key`` leads there."""
        registers = dict(node[0])
        if rule is None:
            registers.pop(register, None)
        else:
            registers[register] = rule
        rules = len(registers) + (len(key) if isinstance(key, bytes) else 1)
        self._rules_left -= rules
        if self._rules_left < 0 or len(registers) > _MOST_REGISTERS:
            raise MalformedError("too-complex", 0, "register rules beyond every honest number")
        self._pool.charge(self, rules)
        content = frozenset(registers.items())
        successor = self._nodes.get(content)
        if successor is None:
            successor = self._nodes[content] = (registers, {})
        node[1][key] = successor
        return successor

    def _interpret(self, code: bytes, position: Position | None) -> tuple[Program, bool]:
        """Run instructions from the initial state.

        Returns:
            The program, and whether its rows depend on ``position``.
        """
        rows: list[RelativeRow] = []
        problems: list[ProgramProblem] = []
        size = len(code)
        if size > LARGEST_PROGRAM_BYTES:
            text = f"{size} bytes of instructions in one entry"
            problems.append(ProgramProblem("too-complex", 0, text))
            size = 0
        self._rules_left = _MOST_RULES + _MOST_RULES_BY_BYTE * size
        location = index = start = 0
        args_size = self._initial_args
        cfa = self._initial_cfa
        # The offset that the CFA had before it became an expression.
        last_offset = self._initial_offset
        node = self._root
        registers, successors = node
        by_register = self._cfas
        code_alignment = self._code_alignment
        remembered: list[tuple[CfaRule | None, _Node, int | None]] = []
        depends_on_position = False
        append = rows.append
        try:
            while index < size:
                start = index
                opcode = code[index]
                index += 1
                if opcode >= 0x40:
                    if opcode < 0x80:  # DW_CFA_advance_loc
                        delta = (opcode & 0x3F) * code_alignment
                        if delta:
                            append((location, cfa, registers, args_size))
                            location += delta
                        continue
                    key = opcode
                    if opcode < 0xC0:  # DW_CFA_offset
                        operand = code[index]
                        index += 1
                        if operand > 0x7F:
                            operand, index = read_uleb128(code, index - 1)
                        key |= operand << 8
                    try:
                        node = successors[key]
                    except KeyError:
                        if opcode < 0xC0:
                            rule: Rule | None = Offset(operand * self._data_alignment)
                        else:  # DW_CFA_restore
                            rule = self._initial_registers.get(opcode & 0x3F)
                        node = self._successor(node, key, opcode & 0x3F, rule)
                    registers, successors = node
                elif opcode == 0x0E or opcode == 0x0D:  # DW_CFA_def_cfa_offset, _register
                    operand = code[index]
                    index += 1
                    if operand > 0x7F:
                        operand, index = read_uleb128(code, index - 1)
                    if type(cfa) is CfaRegister:
                        register, offset = cfa.dwarf_register, cfa.offset_bytes
                    else:
                        _report(problems, _cfa_not_register(opcode, start, cfa, last_offset))
                        if opcode == 0x0E or last_offset is None:
                            last_offset = operand if opcode == 0x0E else last_offset
                            continue
                        offset = last_offset
                    if opcode == 0x0E:
                        offset = operand
                    else:
                        register = operand
                    try:
                        cfa = by_register[register][offset]
                    except KeyError:
                        cfa = self._cfa(register, offset)
                elif opcode == 0x0A:  # DW_CFA_remember_state
                    if len(remembered) >= _DEEPEST_REMEMBER:
                        raise MalformedError("too-complex", start, "remembered states too deep")
                    remembered.append((cfa, node, last_offset))
                elif opcode == 0x0B:  # DW_CFA_restore_state
                    if remembered:
                        cfa, node, last_offset = remembered.pop()
                        registers, successors = node
                    else:
                        text = "DW_CFA_restore_state without a remembered state"
                        _report(problems, ProgramProblem("restore-without-remember", start, text))
                elif opcode == 0x00:  # DW_CFA_nop
                    pass
                elif opcode <= 0x04 or opcode == 0x1D:  # the longer advances
                    if opcode == 0x01:
                        depends_on_position = True
                        target, index = self._set_loc(code, index, position)
                    else:
                        width = 8 if opcode == 0x1D else 1 << (opcode - 2)
                        delta, index = read_fixed(code, index, width, False)
                        target = location + delta * code_alignment
                    if target < location:
                        text = f"DW_CFA_set_loc goes back by {location - target} bytes"
                        raise MalformedError("backward-location", start, text)
                    if target > location:
                        append((location, cfa, registers, args_size))
                        location = target
                elif opcode == 0x2E:  # DW_CFA_GNU_args_size
                    args_size, index = read_uleb128(code, index)
                elif opcode in (0x0C, 0x12, 0x13, 0x0F):
                    if type(cfa) is CfaRegister:
                        last_offset = cfa.offset_bytes
                    elif opcode == 0x13:
                        _report(problems, _cfa_not_register(opcode, start, cfa, last_offset))
                    cfa, last_offset, index = self._define_cfa(
                        opcode, code, index, cfa, last_offset
                    )
                else:
                    register, new_rule, index = self._rule(opcode, code, index)
                    node = self._successor(node, code[start:index], register, new_rule)
                    registers, successors = node
        except IndexError:
            text = f"the instruction {opcode_name(code[start])} is cut short by the entry's end"
            problems.append(ProgramProblem("truncated", start, text))
        except MalformedError as error:
            problems.append(ProgramProblem(error.kind, start, error.message))
        append((location, cfa, registers, args_size))
        locations = tuple([row[0] for row in rows])
        return Program(locations, Shape(rows), tuple(problems)), depends_on_position

    def _set_loc(self, code: bytes, index: int, position: Position | None) -> tuple[int, int]:
        """Read the operand of ``DW_CFA_set_loc``, relative to the FDE's beginning."""
        if position is None:
            raise MalformedError("advance-in-cie", index, "DW_CFA_set_loc in a CIE")
        bases = Bases(section=position.address, function=position.begin)
        target, index = read_pointer(
            code, index, self._pointer_encoding, self._address_size_bytes, bases
        )
        return (target or 0) - position.begin, index

    def _define_cfa(
        self, opcode: int, code: bytes, index: int, cfa: CfaRule | None, last_offset: int | None
    ) -> tuple[CfaRule | None, int | None, int]:
        """The rarer instructions that define the CFA: (rule, last offset, next index)."""
        if opcode == 0x0F:  # DW_CFA_def_cfa_expression
            block, index = _block(code, index)
            return CfaExpression(block), last_offset, index
        if opcode == 0x13:  # DW_CFA_def_cfa_offset_sf
            offset, index = read_sleb128(code, index)
            offset *= self._data_alignment
            if not isinstance(cfa, CfaRegister):
                return cfa, offset, index
            register = cfa.dwarf_register
        else:
            register, index = read_uleb128(code, index)
            if opcode == 0x12:  # DW_CFA_def_cfa_sf
                offset, index = read_sleb128(code, index)
                offset *= self._data_alignment
            else:  # DW_CFA_def_cfa
                offset, index = read_uleb128(code, index)
        by_offset = self._cfas.get(register)
        found = by_offset.get(offset) if by_offset is not None else None
        return found or self._cfa(register, offset), offset, index

    def _rule(self, opcode: int, code: bytes, index: int) -> tuple[int, Rule | None, int]:
        """The rarer instructions that set a register's rule: (register, rule, next index)."""
        if opcode not in _REGISTER_OPCODES:
            text = f"the instruction {opcode_name(opcode)}, which x86 unwinders do not know"
            raise MalformedError("unknown-instruction", index - 1, text)
        factor = self._data_alignment
        register, index = read_uleb128(code, index)
        rule: Rule | None
        if opcode == 0x06:  # DW_CFA_restore_extended
            return register, self._initial_registers.get(register), index
        if opcode == 0x07:
            return register, UNDEFINED, index
        if opcode == 0x08:
            return register, SAME_VALUE, index
        if opcode in (0x10, 0x16):  # DW_CFA_expression, DW_CFA_val_expression
            block, index = _block(code, index)
            rule = Expression(block) if opcode == 0x10 else ValExpression(block)
            return register, rule, index
        if opcode in (0x11, 0x15):  # DW_CFA_offset_extended_sf, DW_CFA_val_offset_sf
            value, index = read_sleb128(code, index)
        else:
            value, index = read_uleb128(code, index)
        if opcode == 0x09:  # DW_CFA_register
            rule = RegisterRule(value)
        elif opcode in (0x14, 0x15):  # DW_CFA_val_offset, DW_CFA_val_offset_sf
            rule = ValOffset(value * factor)
        elif opcode == 0x2F:  # DW_CFA_GNU_negative_offset_extended
            rule = Offset(-value * factor)
        else:  # DW_CFA_offset_extended, DW_CFA_offset_extended_sf
            rule = Offset(value * factor)
        return register, rule, index


def _report(problems: list[ProgramProblem], problem: ProgramProblem) -> None:
    """Add a problem after which interpretation goes on, unless there are too many."""
    problems.append(problem)
    if len(problems) >= _MOST_PROBLEMS:
        raise MalformedError(
            "too-many-problems", problem.offset, "too many problems in one entry; the rest is left"
        )


_REGISTER_OPCODES = frozenset(
    (0x05, 0x06, 0x07, 0x08, 0x09, 0x10, 0x11, 0x14, 0x15, 0x16, 0x2F)
)  # fmt: skip

#: Names by opcode; the three primary ones by their upper two bits.
OPCODE_NAMES = {
    0x40: "DW_CFA_advance_loc", 0x80: "DW_CFA_offset", 0xC0: "DW_CFA_restore",
    0x00: "DW_CFA_nop", 0x01: "DW_CFA_set_loc", 0x02: "DW_CFA_advance_loc1",
    0x03: "DW_CFA_advance_loc2", 0x04: "DW_CFA_advance_loc4", 0x05: "DW_CFA_offset_extended",
    0x06: "DW_CFA_restore_extended", 0x07: "DW_CFA_undefined", 0x08: "DW_CFA_same_value",
    0x09: "DW_CFA_register", 0x0A: "DW_CFA_remember_state", 0x0B: "DW_CFA_restore_state",
    0x0C: "DW_CFA_def_cfa", 0x0D: "DW_CFA_def_cfa_register", 0x0E: "DW_CFA_def_cfa_offset",
    0x0F: "DW_CFA_def_cfa_expression", 0x10: "DW_CFA_expression",
    0x11: "DW_CFA_offset_extended_sf", 0x12: "DW_CFA_def_cfa_sf",
    0x13: "DW_CFA_def_cfa_offset_sf", 0x14: "DW_CFA_val_offset", 0x15: "DW_CFA_val_offset_sf",
    0x16: "DW_CFA_val_expression", 0x1D: "DW_CFA_MIPS_advance_loc8",
    0x2E: "DW_CFA_GNU_args_size", 0x2F: "DW_CFA_GNU_negative_offset_extended",
}  # fmt: skip


def opcode_name(opcode: int) -> str:
    """Name an instruction by its first byte, also one that is not known on x86."""
    name = OPCODE_NAMES.get(opcode & 0xC0 or opcode) or _FOREIGN.get(opcode)
    return name or f"opcode {opcode:#04x}"


def _cfa_not_register(
    opcode: int, offset: int, cfa: CfaRule | None, last_offset: int | None
) -> ProgramProblem:
    """An instruction that DWARF 5, section 6.4.2.2, allows only for a register and an offset.

    libgcc, gdb and LLVM's libunwind go on all the same: a new register goes with the last offset
    that there was; a new offset waits for a register, and the expression stays in force. The
    rows do what they do.
    """
    has = "no rule" if cfa is None else "an expression"
    text = f"{opcode_name(opcode)} while the CFA has {has}, not a register and an offset"
    if opcode == 0x0D and last_offset is not None:
        text += f" (unwinders take the last offset, {last_offset})"
    return ProgramProblem("cfa-not-register", offset, text)


def _block(code: bytes, index: int) -> tuple[bytes, int]:
    length, index = read_uleb128(code, index)
    end = index + length
    if end > len(code):
        text = f"an expression of {length} bytes, of which {len(code) - index} are there"
        raise MalformedError("truncated", index, text)
    return code[index:end], end
