"""A canonical text of an object's CFI, by which assemblers are compared."""

from __future__ import annotations

from fullframe.cfi.frames import read_frames
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
    ValOffset,
)
from fullframe.elf.image import Image
from fullframe.x86.registers import Machine


def row_text(data: bytes) -> str:
    """Return the text that :data:`fullframe.toolchain.probe.RowText` describes.

    Args:
        data: an object.

    Raises:
        InputError: it is no object that can be read.
    """
    image = Image.from_bytes(data, "trial.o")
    machine = image.machine
    lines = []
    for table in read_frames(image):
        for problem in table.problems:
            lines.append(f"problem: {problem.message}")
        for fde in table.fdes:
            cie = fde.cie
            lsda = " lsda" if fde.lsda is not None else ""
            head = f"{table.section_name} {cie.augmentation} ra={cie.return_register}{lsda}"
            lines.append(head)
            lines += [f"problem: {problem.message}" for problem in fde.problems]
            for row in fde.rows():
                text = rules_text(row.cfa, row.registers, machine)
                lines.append(f"  +{row.address - fde.begin:#x} {text}")
    lines += [f"symbol {symbol.name}" for symbol in image.symbols if symbol.is_defined]
    return "\n".join(lines)


def rules_text(cfa: CfaRule | None, registers: Registers, machine: Machine) -> str:
    """Return one row's rules as text, such as ``CFA rsp+16; rbx c-16; rip c-8``.

    Args:
        cfa: the CFA's rule.
        registers: DWARF numbers to rules.
        machine: for the registers' names.
    """
    parts = [f"CFA {_cfa(cfa, machine)}"]
    for number, rule in sorted(registers.items()):
        parts.append(f"{_name(number, machine)} {_rule(rule, machine)}")
    return "; ".join(parts)


def _name(number: int, machine: Machine) -> str:
    hardware = machine.dwarf_to_hardware.get(number)
    return f"r{number}" if hardware is None else machine.register_names[hardware]


def _cfa(rule: CfaRule | None, machine: Machine) -> str:
    if isinstance(rule, CfaRegister):
        return f"{_name(rule.dwarf_register, machine)}{rule.offset_bytes:+d}"
    return f"*({rule.code.hex(' ')})" if isinstance(rule, CfaExpression) else "none"


def _rule(rule: Rule, machine: Machine) -> str:
    if isinstance(rule, Offset):
        return f"c{rule.offset_bytes:+d}"
    if isinstance(rule, ValOffset):
        return f"v{rule.offset_bytes:+d}"
    if isinstance(rule, RegisterRule):
        return f"in {_name(rule.dwarf_register, machine)}"
    if isinstance(rule, Undefined):
        return "undefined"
    if isinstance(rule, SameValue):
        return "same"
    return f"{'saved at' if isinstance(rule, Expression) else 'value'}({rule.code.hex(' ')})"
