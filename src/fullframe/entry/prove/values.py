"""What entry code adds to the tracker's values: what C left, results, parts of values.

Interned like the tracker's own, so that states that hold them can be interned too.
"""

from __future__ import annotations

from typing import Final

from fullframe.track.values import OTHER, UNKNOWN, Address, Constant, Entry, Region, Value, constant
from fullframe.x86.registers import IP, SLOT_OF_REGISTER

#: Pseudo registers of :class:`~fullframe.track.values.Entry`, after the instruction pointer.
FLAGS, CS, SS, PREVIOUS_TASK = 17, 18, 19, 20

ENTRY_STACK: Final = Region("entry stack")
TASK_STACK: Final = Region("task stack")
CALLER_STACK: Final = Region("caller's stack")
PER_CPU: Final = Region("per-CPU data")

_MASK64 = (1 << 64) - 1
_MOST_NESTED = 4


class Left(Value):
    """What a C function left in a slot of the frame."""

    __slots__ = ("by", "slot")

    def __init__(self, by: str, slot: str) -> None:
        self.by = by
        self.slot = slot

    def __repr__(self) -> str:
        return f"what {self.by} left in slot {self.slot}"


class Result(Value):
    """What a C function returned."""

    __slots__ = ("by", "site")

    def __init__(self, by: str, site: int) -> None:
        self.by = by
        self.site = site

    def __repr__(self) -> str:
        return f"the result of {self.by}"


class Something(Value):
    """A value that is nobody's, named for messages. Two of them are never taken as equal."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class WordRead(Value):
    """The present contents of a word of thread flags."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"the word {self.name}"


class PageTables(Value):
    """A value for CR3: the user's page tables or the kernel's."""

    __slots__ = ("whose",)

    def __init__(self, whose: str) -> None:
        self.whose = whose

    def __repr__(self) -> str:
        return f"the {self.whose}'s page tables"


class ReturnIntoC(Value):
    """The return address of C code that calls assembly: no label of the assembly."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "the return address of the C code that called"


class LiveFlags(Value):
    """What PUSHF stored: the user's system flags, but for IF; arithmetic flags are lost."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "the user's system flags, IF clear"


class Expression(Value):
    """A value computed from one value and a number.

    Attributes:
        operation: ``low32``, ``int`` (sign-extended low half), ``without bit``, ``shl``, ``sar``,
            ``canonical`` (``sar`` of ``shl`` by the same number) or ``and``.
        operand: the value.
        number: the number; 0 where the operation has none.
    """

    __slots__ = ("number", "operand", "operation")

    def __init__(self, operation: str, operand: Value, number: int) -> None:
        self.operation = operation
        self.operand = operand
        self.number = number

    def __repr__(self) -> str:
        number = f", {self.number:#x}" if self.number else ""
        return f"{self.operation}({describe(self.operand)}{number})"


_interned: dict[tuple[object, ...], Value] = {}
LIVE_FLAGS: Final = LiveFlags()
INTO_C: Final = ReturnIntoC()
USER_TABLES: Final = PageTables("user")
KERNEL_TABLES: Final = PageTables("kernel")


def _intern(key: tuple[object, ...], value: Value) -> Value:
    if len(_interned) > 1 << 18:  # hostile input must not fill the memory
        _interned.clear()
    return _interned.setdefault(key, value)


def left(by: str, slot: str) -> Value:
    """Return the interned :class:`Left`."""
    return _interned.get(("left", by, slot)) or _intern(("left", by, slot), Left(by, slot))


def result(by: str, site: int) -> Value:
    """Return the interned :class:`Result` of the call at ``site``."""
    return _interned.get(("result", by, site)) or _intern(("result", by, site), Result(by, site))


def something(text: str) -> Value:
    """Return the interned :class:`Something`."""
    return _interned.get(("some", text)) or _intern(("some", text), Something(text))


def word_read(name: str) -> Value:
    """Return the interned :class:`WordRead`."""
    return _interned.get(("word", name)) or _intern(("word", name), WordRead(name))


def expression(operation: str, operand: Value, number: int = 0) -> Value:
    """Return what an operation makes of a value, computed or simplified where that is possible."""
    if isinstance(operand, Constant):
        return constant(_compute(operation, operand.number, number) & _MASK64)
    if isinstance(operand, Expression):
        again = operation == operand.operation and number == operand.number
        if again and operation in ("low32", "int", "without bit", "and"):
            return operand
        if operation == "sar" and operand.operation == "shl" and number == operand.number:
            return expression("canonical", operand.operand, 64 - number)
        if operation == "int" and operand.operation == "low32":
            return expression("int", operand.operand)
        if operation == "low32" and operand.operation == "int":
            return expression("low32", operand.operand)
    if operation in ("low32", "int") and (operand is OTHER or isinstance(operand, Something)):
        return operand
    if operand is UNKNOWN or operand is OTHER:
        return operand
    depth, inner = 0, operand
    while isinstance(inner, Expression):
        depth, inner = depth + 1, inner.operand
    if depth >= _MOST_NESTED or isinstance(inner, Address | PageTables):
        return something(f"something computed from {describe(inner)}")
    key = (operation, operand, number)
    return _interned.get(key) or _intern(key, Expression(operation, operand, number))


def _compute(operation: str, value: int, number: int) -> int:
    signed = value - (1 << 64) if value >> 63 else value
    low = value & 0xFFFF_FFFF
    if operation == "low32":
        return low
    if operation == "int":
        return low - (1 << 32) if low >> 31 else low
    if operation == "without bit":
        return value & ~(1 << number)
    if operation == "shl":
        return value << number
    if operation == "sar":
        return signed >> number
    if operation == "and":
        return value & number
    if operation == "shr":
        return value >> number
    raise AssertionError(operation)  # every caller names one of these


_ENTRY_NAMES = {IP: "ip", FLAGS: "flags", CS: "cs", SS: "ss"}


def describe(value: Value | None) -> str:
    """Name a value in a message; None is a slot that nobody has written."""
    if value is None:
        return "unwritten"
    if isinstance(value, Entry):
        if value.register == PREVIOUS_TASK:
            return "the task that ran before"
        name = _ENTRY_NAMES.get(value.register) or SLOT_OF_REGISTER[value.register]
        return f"the user's {name}"
    if isinstance(value, Constant):
        number = value.number
        if number >> 63:
            return f"constant {number - (1 << 64)}"
        return f"constant {number:#x}" if number > 9 else f"constant {number}"
    if isinstance(value, Address):
        return f"the address {value!r}"
    if value is OTHER or value is UNKNOWN:
        return "something that is not known"
    return repr(value)
