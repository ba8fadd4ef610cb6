"""Unwind rules and rows of call-frame information, as typed objects.

Source: DWARF 5, section 6.4.1, "Structure of Call Frame Information". A rule is interned: the same
arguments give the same object while any is alive, so comparing rules is comparing identities, and
rules can be dictionary keys at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self
from weakref import WeakValueDictionary


class _Interned:
    """A value with one object per class and arguments; immutable and picklable."""

    __slots__ = ("__weakref__",)
    __match_args__: tuple[str, ...] = ()

    _objects: ClassVar[WeakValueDictionary[tuple[Any, ...], Any]] = WeakValueDictionary()

    def __new__(cls, *arguments: Any) -> Self:
        """Return the one object of that class with those arguments."""
        key = (cls, *arguments)
        found: Self | None = cls._objects.get(key)
        if found is None:
            found = super().__new__(cls)
            for name, value in zip(cls.__match_args__, arguments, strict=True):
                object.__setattr__(found, name, value)
            cls._objects[key] = found
        return found

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return type(self), tuple(getattr(self, name) for name in self.__match_args__)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        values = (getattr(self, name) for name in self.__match_args__)
        arguments = ", ".join(
            repr(value.hex(" ")) if isinstance(value, bytes) else repr(value) for value in values
        )
        return f"{type(self).__name__}({arguments})"


class Undefined(_Interned):
    """The caller's value cannot be recovered; for the return address: no caller."""

    __slots__ = ()

    def __new__(cls) -> Self:
        """Return the one object with those arguments."""
        return super().__new__(cls)


class SameValue(_Interned):
    """The register still holds the caller's value."""

    __slots__ = ()

    def __new__(cls) -> Self:
        """Return the one object with those arguments."""
        return super().__new__(cls)


class Offset(_Interned):
    """The caller's value is saved in memory at the CFA plus ``offset_bytes``.

    Attributes:
        offset_bytes: distance from the CFA in bytes; negative towards lower addresses.
    """

    __slots__ = ("offset_bytes",)
    __match_args__ = ("offset_bytes",)

    offset_bytes: int

    def __new__(cls, offset_bytes: int) -> Self:
        """Return the one object with those arguments."""
        return super().__new__(cls, offset_bytes)


class ValOffset(_Interned):
    """The caller's value is the CFA plus ``offset_bytes`` itself.

    Attributes:
        offset_bytes: distance from the CFA in bytes.
    """

    __slots__ = ("offset_bytes",)
    __match_args__ = ("offset_bytes",)

    offset_bytes: int

    def __new__(cls, offset_bytes: int) -> Self:
        """Return the one object with those arguments."""
        return super().__new__(cls, offset_bytes)


class RegisterRule(_Interned):
    """The caller's value is in another register.

    Attributes:
        dwarf_register: DWARF number of that register.
    """

    __slots__ = ("dwarf_register",)
    __match_args__ = ("dwarf_register",)

    dwarf_register: int

    def __new__(cls, dwarf_register: int) -> Self:
        """Return the one object with those arguments."""
        return super().__new__(cls, dwarf_register)


class Expression(_Interned):
    """The caller's value is saved at the address that an expression computes.

    The expression starts with the CFA on its stack (DWARF 5, section 6.4.2.3).

    Attributes:
        code: the expression's bytes, without their length.
    """

    __slots__ = ("code",)
    __match_args__ = ("code",)

    code: bytes

    def __new__(cls, code: bytes) -> Self:
        """Return the one object with those arguments."""
        return super().__new__(cls, code)


class ValExpression(_Interned):
    """The caller's value is what an expression computes; it starts with the CFA on its stack.

    Attributes:
        code: the expression's bytes, without their length.
    """

    __slots__ = ("code",)
    __match_args__ = ("code",)

    code: bytes

    def __new__(cls, code: bytes) -> Self:
        """Return the one object with those arguments."""
        return super().__new__(cls, code)


class CfaRegister(_Interned):
    """The CFA is a register's value plus ``offset_bytes``.

    Attributes:
        dwarf_register: DWARF number of the register.
        offset_bytes: what is added to it, in bytes.
    """

    __slots__ = ("dwarf_register", "offset_bytes")
    __match_args__ = ("dwarf_register", "offset_bytes")

    dwarf_register: int
    offset_bytes: int

    def __new__(cls, dwarf_register: int, offset_bytes: int) -> Self:
        """Return the one object with those arguments."""
        return super().__new__(cls, dwarf_register, offset_bytes)


class CfaExpression(_Interned):
    """The CFA is what an expression computes; it starts with an empty stack.

    Attributes:
        code: the expression's bytes, without their length.
    """

    __slots__ = ("code",)
    __match_args__ = ("code",)

    code: bytes

    def __new__(cls, code: bytes) -> Self:
        """Return the one object with those arguments."""
        return super().__new__(cls, code)


UNDEFINED = Undefined()
SAME_VALUE = SameValue()

Rule = Undefined | SameValue | Offset | ValOffset | RegisterRule | Expression | ValExpression
CfaRule = CfaRegister | CfaExpression
#: DWARF number to rule; a register that is absent has no rule. Shared between rows: never change.
Registers = Mapping[int, Rule]


class Row(NamedTuple):
    """The rules in force from an address on (a named tuple: a library has millions).

    Attributes:
        address: the first address of the row; it ends where the next begins.
        cfa: how to find the canonical frame address (CFA); None if nothing says.
        registers: DWARF number to rule. Rows with the same register rules share one object.
        args_size: bytes of arguments pushed (``DW_CFA_GNU_args_size``).
    """

    address: int
    cfa: CfaRule | None
    registers: Registers
    args_size: int


#: A row with its address relative to the beginning of its FDE: what memoising by identity keys on.
RelativeRow = tuple[int, CfaRule | None, Registers, int]
