"""What a register or a stack slot can hold, as the tracker sees it.

Values are interned: equal values are the same object, so that comparing two of them is an
identity test and hashing one costs nothing. That is what lets states be memoised.
"""

from __future__ import annotations

from typing import Final

from fullframe.x86.registers import IP


class Value:
    """Root of all values; two values are equal exactly when they are the same object."""

    __slots__ = ()


class Entry(Value):
    """What a register held when the function was entered: the caller's value.

    Attributes:
        register: hardware number, or ``IP`` for the return address.
    """

    __slots__ = ("register",)

    def __init__(self, register: int) -> None:
        self.register = register

    def __repr__(self) -> str:
        return f"entry({self.register})"


class Region:
    """A piece of memory within which distances are known.

    Attributes:
        name: for messages.
        parent: the address that this region was derived from (a realigned or dynamically
            extended stack), or None.
    """

    __slots__ = ("name", "parent")

    def __init__(self, name: str, parent: Address | None = None) -> None:
        self.name = name
        self.parent = parent

    def __repr__(self) -> str:
        return self.name


class Address(Value):
    """A place in a region: ``region + offset_bytes``."""

    __slots__ = ("offset_bytes", "region")

    def __init__(self, region: Region, offset_bytes: int) -> None:
        self.region = region
        self.offset_bytes = offset_bytes

    def __repr__(self) -> str:
        return f"{self.region.name}{self.offset_bytes:+d}"


class Derived(Value):
    """An address an unknown distance from a known one.

    Nothing can be said of the memory there, until it becomes the stack pointer: then it is the
    origin of an extended stack.
    """

    __slots__ = ("origin",)

    def __init__(self, origin: Address) -> None:
        self.origin = origin

    def __repr__(self) -> str:
        return f"near({self.origin!r})"


class Half(Value):
    """An address that 32-bit code stored in the lower half of a word (x32)."""

    __slots__ = ("origin",)

    def __init__(self, origin: Address) -> None:
        self.origin = origin

    def __repr__(self) -> str:
        return f"half({self.origin!r})"


class Constant(Value):
    """A known number, unsigned, of the machine's word size."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"{self.number:#x}"


class _Named(Value):
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


#: Something else than any caller's register or frame address: an instruction wrote it.
OTHER: Final = _Named("other")
#: Not known: something that is not modelled was involved.
UNKNOWN: Final = _Named("unknown")
#: Paths that meet bring different values: whatever single value is claimed, it is wrong on one.
CONFLICT: Final = _Named("different on different paths")
#: Values of which nothing more can be said.
VAGUE: Final = frozenset({UNKNOWN, CONFLICT})

#: The canonical frame address is the origin of this region (DWARF 5, section 6.4).
CFA_REGION: Final = Region("CFA")
#: The frame that the kernel builds for a signal handler; its origin is the stack pointer that
#: the signal trampoline starts with.
SIGNAL_REGION: Final = Region("signal frame")
#: The low words of the vector registers, as slots 16 bytes apart.
VECTOR_REGION: Final = Region("vector registers")

_LENT: Final = "memory from elsewhere"

_entries: dict[int, Entry] = {}
_constants: dict[int, Constant] = {}
_addresses: dict[tuple[Region, int], Address] = {}
_derived: dict[tuple[str, Address], Region] = {}
_near: dict[Address, Derived] = {}
_halves: dict[Address, Half] = {}
_lent: dict[int, Region] = {}


def entry(register: int) -> Entry:
    """Return the interned :class:`Entry` of a register."""
    found = _entries.get(register)
    if found is None:
        found = _entries[register] = Entry(register)
    return found


def constant(number: int) -> Constant:
    """Return the interned :class:`Constant`; ``number`` must be reduced to the word size."""
    found = _constants.get(number)
    if found is None:
        if len(_constants) > 1 << 20:  # hostile input must not fill the memory
            _constants.clear()
        found = _constants[number] = Constant(number)
    return found


def address(region: Region, offset_bytes: int) -> Address:
    """Return the interned :class:`Address`."""
    key = (region, offset_bytes)
    found = _addresses.get(key)
    if found is None:
        found = _addresses[key] = Address(region, offset_bytes)
    return found


def derived(origin: Address) -> Derived:
    """Return the interned :class:`Derived` of an address."""
    found = _near.get(origin)
    if found is None:
        found = _near[origin] = Derived(origin)
    return found


def half(origin: Address) -> Half:
    """Return the interned :class:`Half` of an address."""
    found = _halves.get(origin)
    if found is None:
        found = _halves[origin] = Half(origin)
    return found


def cut(value: Value) -> Value:
    """Return what the lower 32 bits of a 64-bit word are, widened with zeros (x32).

    An address stays what it is, the return address too: pointers are 32 bits wide. A register
    of the caller's does not: callees keep all 64 bits of those.
    """
    if isinstance(value, Half):
        return value.origin
    if isinstance(value, Entry) and value.register != IP:
        return OTHER
    return value


def realigned(origin: Address) -> Region:
    """Return the region that starts where ``origin`` was rounded down to an alignment."""
    return _derive("realigned stack", origin)


def extended(origin: Address) -> Region:
    """Return the region that starts an unknown distance below ``origin`` (alloca).

    Extending an extended stack again gives the same region, so that a loop around alloca
    has finitely many states.
    """
    while origin.region.name == "extended stack" and origin.region.parent is not None:
        origin = origin.region.parent
    return _derive("extended stack", origin)


def lent(register: int) -> Region:
    """Return the region of memory of unknown origin that a register points to."""
    found = _lent.get(register)
    if found is None:
        found = _lent[register] = Region(_LENT)
    return found


def is_lent(region: Region) -> bool:
    """Return whether a region is one of :func:`lent`."""
    return region.name is _LENT


def unplaced(origin: Address) -> Region:
    """Return the region of a stack pointer of which only the stack is known.

    Where a row is taken as premise that finds the CFA by another register, the stack pointer is
    somewhere in the frame, perhaps just where the next row says.
    """
    return _derive("stack of unknown depth", origin)


def is_unplaced(region: Region) -> bool:
    """Return whether a region is one of :func:`unplaced`, or derived from one."""
    return _descends(region, "stack of unknown depth")


def either(one: Value, other: Value) -> Value:
    """Return what is known of a value that is ``one`` or ``other``.

    Two different known values make a conflict, and no further path mends that.
    """
    if one is other:
        return one
    if one is CONFLICT or other is CONFLICT:
        return CONFLICT
    if one is UNKNOWN or other is UNKNOWN:
        return UNKNOWN
    # Addresses an unknown distance apart may be the same.
    if isinstance(one, Address | Derived) and isinstance(other, Address | Derived):
        same = isinstance(one, Address) and isinstance(other, Address)
        return CONFLICT if same and _apart(one, other) else UNKNOWN
    return CONFLICT


def _apart(one: Value, other: Value) -> bool:
    assert isinstance(one, Address)
    assert isinstance(other, Address)
    return one.region is other.region and one.offset_bytes != other.offset_bytes


def joined(one: Address, other: Address) -> Region | None:
    """Return the region of a stack pointer that paths bring to different places.

    A loop may move the stack pointer by a number of bytes each time round. What it finds at a
    distance from the stack pointer is then known although the place is not.

    Args:
        one: the stack pointer on one path.
        other: on the other.

    Returns:
        The region, whose origin is wherever the stack pointer is; None where the two do not
        come from one stack.
    """
    origin = _root(one)
    if origin.region is not _root(other).region:
        return None
    return _derive("joined stack", address(origin.region, 0))


def is_joined(region: Region) -> bool:
    """Return whether a region is one of :func:`joined`, or derived from one."""
    return _descends(region, "joined stack")


def _descends(region: Region, name: str) -> bool:
    while region.name != name:
        if region.parent is None:
            return False
        region = region.parent.region
    return True


def _root(place: Address) -> Address:
    while place.region.name in ("joined stack", "extended stack") and place.region.parent:
        place = place.region.parent
    return place


def _derive(name: str, origin: Address) -> Region:
    depth, parent = 0, origin.region.parent
    while parent is not None:
        depth, parent = depth + 1, parent.region.parent
    # A stack realigned again and again (a loop) must not make regions without end.
    if depth >= 4 and origin.region.parent is not None:
        origin = origin.region.parent
    key = (name, origin)
    found = _derived.get(key)
    if found is None:
        found = _derived[key] = Region(name, origin)
    return found


CFA: Final = address(CFA_REGION, 0)
