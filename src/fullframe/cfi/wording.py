"""Rules, values and places in words."""

from __future__ import annotations

from fullframe.cfi.expressions import expression_text
from fullframe.cfi.rules import (
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
from fullframe.track.state import State
from fullframe.track.values import (
    CFA,
    CFA_REGION,
    VAGUE,
    Address,
    Constant,
    Entry,
    Region,
    Value,
    entry,
    is_lent,
)
from fullframe.x86.registers import IP, SP, Machine


class Wording:
    """Puts what concerns one machine in words.

    Args:
        machine: gives the registers' names.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def where_cfa_is(self, state: State) -> tuple[str | None, str]:
        """Return (the rule that gives the CFA, its directive), or (None, "") where none does."""
        names = self.machine.register_names
        for register in (SP, 5, *range(16)):
            value = state.registers[register]
            if isinstance(value, Address) and value.region is CFA_REGION:
                distance = -value.offset_bytes
                number = self.machine.hardware_to_dwarf[register]
                assert number >= 0
                return (
                    f"CFA = {names[register]}{distance:+d}",
                    f".cfi_def_cfa %{names[register]}, {distance}",
                )
        return None, ""

    def name(self, column: int) -> str:
        """Return the name of a register, by its hardware number."""
        return "return address" if column == IP else self.machine.register_names[column]

    def where(self, state: State, column: int) -> str:
        """Say where the caller's value of a register is."""
        wanted = CFA if column == SP else entry(column)
        names = self.machine.register_names
        places = [names[n] for n, value in enumerate(state.registers) if value is wanted]
        # What lies in memory from elsewhere no rule over a register of this function finds again.
        places += [
            frame_place(place)
            for place, value in state.placed()
            if value is wanted and not is_lent(place[0])
        ]
        name = "the return address" if column == IP else f"the caller's {names[column]}"
        if not places:
            return f"{name} is nowhere in the frame"
        return f"{name} is in {' and '.join(places)}"

    def suggest(self, state: State, column: int) -> str:
        """Return the directive that says where the caller's value of a register is."""
        wanted = entry(column)
        name = self.machine.register_names[column]
        if column < 16 and state.registers[column] is wanted:
            return f".cfi_restore %{name}"
        for (region, offset), value in state.placed():
            if value is wanted and region is CFA_REGION:
                return f".cfi_offset %{name}, {offset}"
        for number, value in enumerate(state.registers):
            if value is wanted:
                return f".cfi_register %{name}, %{self.machine.register_names[number]}"
        return f".cfi_undefined %{name}"

    def describe_cfa(self, rule: CfaRule | None) -> str:
        """Put a CFA rule in words, such as ``rsp+16``."""
        if isinstance(rule, CfaRegister):
            return f"{self.machine.dwarf_name(rule.dwarf_register)}{rule.offset_bytes:+d}"
        if isinstance(rule, CfaExpression):
            return f"[{expression_text(rule.code, self.machine)}]"
        return "nothing"

    def describe_rule(self, rule: Rule | None) -> str:
        """Put a register rule in words, such as ``saved at CFA-16``."""
        if isinstance(rule, Offset):
            return f"saved at CFA{rule.offset_bytes:+d}"
        if isinstance(rule, ValOffset):
            return f"equal to CFA{rule.offset_bytes:+d}"
        if isinstance(rule, RegisterRule):
            return f"saved in {self.machine.dwarf_name(rule.dwarf_register)}"
        if isinstance(rule, Expression):
            return f"saved at [{expression_text(rule.code, self.machine)}]"
        if isinstance(rule, ValExpression):
            return f"equal to [{expression_text(rule.code, self.machine)}]"
        if isinstance(rule, Undefined):
            return "lost"
        if isinstance(rule, SameValue) or rule is None:
            return "unchanged, still in its register"
        raise AssertionError(rule)

    def describe_value(self, value: Value) -> str:
        """Put a value in words."""
        if value is CFA:
            return "CFA"
        if isinstance(value, Address):
            return frame_place(value)
        if isinstance(value, Entry):
            return f"caller's {self.name(value.register)}"
        if isinstance(value, Constant):
            return f"{value.number:#x}"
        return "?" if value in VAGUE else "-"


def frame_place(place: Address | tuple[Region, int]) -> str:
    """Put a place in a frame in words: ``CFA-16``."""
    region, offset = place if isinstance(place, tuple) else (place.region, place.offset_bytes)
    if region is CFA_REGION:
        return f"CFA{offset:+d}"
    return f"{region}{offset:+d}"
