"""Calls through dispatch tables: is the number checked before it is used?"""

from __future__ import annotations

from collections.abc import Iterator

from iced_x86 import Instruction, OpKind, Register

from fullframe.entry.prove import diagnostics as codes
from fullframe.entry.prove.code import Code
from fullframe.entry.prove.contract import Contract, DispatchTable
from fullframe.entry.prove.facts import known_bits, most, same
from fullframe.entry.prove.state import Known
from fullframe.entry.prove.values import Expression, Result, describe
from fullframe.track.operands import HARDWARE

_LOW = 0xFFFF_FFFF
#: How far from a table's start an operand may point and still be taken to mean it.
_NEAR_BYTES = 64


def table_of(code: Code, contract: Contract, i: Instruction) -> DispatchTable | None:
    """Return the dispatch table that an indirect call's operand points to, or close to."""
    if i.op0_kind != OpKind.MEMORY or i.memory_base != Register.NONE:
        return None
    if i.memory_index not in HARDWARE:
        return None
    best: DispatchTable | None = None
    distance = _NEAR_BYTES
    for table in contract.tables:
        symbol = code.symbol(table.symbol)
        if symbol is not None:
            away = abs((i.memory_displacement & _LOW) - (symbol.address & _LOW))
            if away < distance:
                best, distance = table, away
    return best


def check_index(
    code: Code, contract: Contract, known: Known, i: Instruction, table: DispatchTable
) -> Iterator[tuple[str, str]]:
    """Check that a call through a table uses the call's number, within the table.

    Yields:
        (diagnostic, message) for whatever is wrong.
    """
    symbol = code.symbol(table.symbol)
    assert symbol is not None
    wrong = codes.WRONG_DISPATCH
    if i.memory_index_scale != 8 or (i.memory_displacement ^ symbol.address) & _LOW:
        yield wrong, f"the call goes through a place beside {table.symbol}"
    index = known.machine.registers[HARDWARE[i.memory_index]]
    number = index
    if table.marker_bit is not None:
        marked = isinstance(index, Expression) and index.operation == "without bit"
        if not (marked and isinstance(index, Expression) and index.number == table.marker_bit):
            yield (
                wrong,
                (
                    f"{table.symbol} is indexed by {describe(index)}, of which bit "
                    f"{table.marker_bit} was not taken off"
                ),
            )
        else:
            number = index.operand
            bit = 1 << table.marker_bit
            mask, bits = known_bits(known.facts, number)
            if not mask & bits & bit:
                yield (
                    wrong,
                    (
                        f"{table.symbol} is used although bit {table.marker_bit} of the number was "
                        "not found to be set"
                    ),
                )
    chosen = isinstance(number, Result) and any(
        number.by in function.symbols and function.returns == "number"
        for function in contract.functions
    )
    if not chosen and not same(known.facts, number, known.slot("orig_ax")):
        yield (
            wrong,
            (
                f"{table.symbol} is indexed by {describe(number)}; the number is "
                f"{describe(known.slot('orig_ax'))}"
            ),
        )
    last = symbol.size_bytes // 8 - 1
    largest = most(known.facts, index)
    if symbol.size_bytes and (largest is None or largest > last):
        found = "is not bounded" if largest is None else f"is at most {largest}"
        yield wrong, f"the index of {table.symbol} {found}; the table ends at {last}"
    elif largest is not None and largest < last:
        yield (
            wrong,
            (
                f"the index of {table.symbol} is at most {largest}, and the calls up to {last} "
                "cannot be made"
            ),
        )
