"""Dispatch tables: which C function, or stub, each number leads to.

Processes of two ABIs come in by 64-bit SYSCALL, and each has a table: 64-bit processes reach
the entries of ABI ``64`` and ``common``; x32 processes, whose numbers bear the x32 bit, those
of ``x32`` and ``common`` (as Linux since 5.4, where the x32 table became one of its own).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fullframe.entry.listing import Listing
from fullframe.entry.platform import PLATFORM_FUNCTIONS
from fullframe.entry.strategy import Strategy, Stubs
from fullframe.errors import InputError, InputErrors, Place
from fullframe.run.subject import Call, CallKind
from fullframe.table.model import Table, TableEntry, is_unimplemented
from fullframe.table.needs import FrameUse, full_frame_need
from fullframe.x86.kernel_layout import KernelLayout

NOT_IMPLEMENTED = "sys_ni_syscall"
#: For each ABI, the table that the fast path dispatches by; and the slow path's, if it has one.
FAST_TABLES = {"64": "sys_call_table", "x32": "x32_sys_call_table"}
SLOW_TABLES = {"64": "sys_call_table_slow", "x32": "x32_sys_call_table_slow"}

_KINDS = {
    FrameUse.FORK: CallKind.FORK,
    FrameUse.EXEC: CallKind.EXEC,
    FrameUse.SIGRETURN: CallKind.SIGRETURN,
    FrameUse.FLAGS: CallKind.FLAGS,
    FrameUse.VM86: CallKind.PROBE,
    FrameUse.PROBE: CallKind.PROBE,
}
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Symbols that generated code and the platform define themselves.
_RESERVED = frozenset(function.name for function in PLATFORM_FUNCTIONS) | {
    "entry_SYSCALL_64", "ret_from_fork", "slow_path", "stub_call_return", "stub_full_frame",
    "fast_call_return", "fast_x32_call_return", "do_syscall_64", "syscall_return_slowpath",
    "syscall_trace_enter_phase1", "syscall_trace_enter_phase2", "syscall_trace_leave",
    "do_notify_resume", *FAST_TABLES.values(), *SLOW_TABLES.values(),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Handler:
    """A C function that a table leads to.

    Attributes:
        symbol: its name.
        kind: what it does with the frame.
    """

    symbol: str
    kind: CallKind

    @property
    def stub(self) -> str:
        """The symbol of its stub, in strategies that have stubs."""
        return f"stub_{self.symbol}"


@dataclass(frozen=True, slots=True)
class TableSlot:
    """One slot of a dispatch table.

    Attributes:
        number: its index: the call's number without the x32 bit.
        name: the call's name.
        handler: its C function.
        annotated: whether the call needs the full register frame, says the table.
    """

    number: int
    name: str
    handler: Handler
    annotated: bool


@dataclass(frozen=True, slots=True)
class DispatchTables:
    """The dispatch tables of one system-call table.

    Attributes:
        slots: for each ABI (``64``, ``x32``) the slots that lead to a C function, by number.
    """

    slots: dict[str, tuple[TableSlot, ...]]

    @property
    def has_x32(self) -> bool:
        """Whether there are x32 calls at all."""
        return bool(self.slots["x32"])

    @property
    def abis(self) -> tuple[str, ...]:
        """The ABIs that have a table."""
        return ("64", "x32") if self.has_x32 else ("64",)

    def last_number(self, abi: str) -> int:
        """Return the highest number of an ABI, without the x32 bit."""
        return self.slots[abi][-1].number

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """Every C function, each once, by symbol."""
        found = {slot.handler.symbol: slot.handler for slot in self._all_slots()}
        return tuple(found[symbol] for symbol in sorted(found))

    @property
    def stubbed(self) -> tuple[Handler, ...]:
        """The C functions that annotated entries lead to, each once, by symbol."""
        found = {slot.handler.symbol: slot.handler for slot in self._all_slots() if slot.annotated}
        return tuple(found[symbol] for symbol in sorted(found))

    def calls(self, layout: KernelLayout) -> tuple[Call, ...]:
        """List every call as user space makes it, numbers with the x32 bit where it belongs."""
        bit = {"64": 0, "x32": 1 << layout.x32_bit}
        return tuple(
            Call(
                number=slot.number | bit[abi],
                abi=abi,
                name=slot.name,
                handler=slot.handler.symbol,
                kind=slot.handler.kind,
                annotated=slot.annotated,
            )
            for abi in self.abis
            for slot in self.slots[abi]
        )

    def _all_slots(self) -> Iterator[TableSlot]:
        for abi in self.abis:
            yield from self.slots[abi]


def dispatch_tables(table: Table) -> DispatchTables:
    """Make the dispatch tables of a system-call table.

    Args:
        table: any table with 64-bit calls; its i386 entries are passed over.

    Raises:
        InputError: the table has no 64-bit call.
        InputErrors: entry points that cannot be symbols, or that generated code defines itself.
    """
    errors: dict[tuple[int, str], InputError] = {}
    slots: dict[str, tuple[TableSlot, ...]] = {}
    for abi in FAST_TABLES:
        entries = table.entries_for(abi)
        found = []
        for entry in entries:
            symbol = entry.entry_point
            if symbol is None or is_unimplemented(symbol):
                continue
            error = _bad_symbol(table, entry, symbol)
            if error is not None:
                errors[entry.line, symbol] = error
            found.append(
                TableSlot(
                    number=entry.number,
                    name=entry.name,
                    handler=Handler(symbol, _kind(entry)),
                    annotated=entry.spelling is not None,
                )
            )
        slots[abi] = tuple(found)
    if errors:
        raise InputErrors([error for _, error in sorted(errors.items())])
    # An x32 table of nothing but common entries is what a kernel without x32 has.
    if not any(entry.abi == "x32" for entry in table.entries):
        slots["x32"] = ()
    if not slots["64"]:
        raise InputError(
            Place(table.path),
            f"no 64-bit call among {len(table.entries)} entries",
            "entries of ABI 64 or common with an entry point",
            "64-bit entry code needs an x86-64 table; without TABLE the packaged one is taken",
        )
    return DispatchTables(slots)


def _kind(entry: TableEntry) -> CallKind:
    need = full_frame_need(entry)
    return CallKind.ORDINARY if need is None else _KINDS[need.use]


def _bad_symbol(table: Table, entry: TableEntry, symbol: str) -> InputError | None:
    place = Place(table.path, entry.line, entry.columns.entry_point)
    shown = repr(symbol[:80])
    if not _SYMBOL.fullmatch(symbol):
        return InputError(
            place,
            f"entry point {shown} of {entry.name}",
            "the name of a C function (letters, digits and underscores)",
            "correct the entry point",
        )
    if symbol in _RESERVED:
        return InputError(
            place,
            f"entry point {shown} of {entry.name} is a symbol of the entry code itself",
            "a C function of the kernel",
            "give the function another name",
        )
    return None


def table_assembly(strategy: Strategy, tables: DispatchTables, banner: str) -> str:
    """Write the dispatch tables of a strategy.

    Args:
        strategy: which way out; decides what annotated entries become, and how many tables.
        tables: the calls.
        banner: text for the head of the file.

    Returns:
        Assembly in GNU syntax.
    """
    listing = Listing()
    listing.heading(banner)
    listing.blank()
    listing.op(".section", '.rodata, "a", @progbits')
    for abi in tables.abis:
        _table(listing, FAST_TABLES[abi], tables.slots[abi], strategy.stubs is not Stubs.NONE)
    if strategy.duplicates_tables:
        listing.heading("The same once more for the slow path, whose frames are full: no stubs.")
        for abi in tables.abis:
            _table(listing, SLOW_TABLES[abi], tables.slots[abi], False)
    listing.blank()
    listing.op(".section", '.note.GNU-stack, "", @progbits')
    return listing.render()


def _table(listing: Listing, name: str, slots: tuple[TableSlot, ...], stubs: bool) -> None:
    listing.blank()
    listing.op(".p2align", "6")
    listing.op(".globl", name)
    listing.op(".type", f"{name}, @object")
    listing.label(name)
    expected = 0
    for slot in slots:
        if slot.number > expected:
            hole = f"{expected}" if slot.number == expected + 1 else f"{expected}-{slot.number - 1}"
            listing.op(".rept", str(slot.number - expected), f"{hole}: no call")
            listing.op(".quad", NOT_IMPLEMENTED)
            listing.op(".endr")
        target = slot.handler.stub if stubs and slot.annotated else slot.handler.symbol
        listing.op(".quad", target, f"{slot.number}: {slot.name}")
        expected = slot.number + 1
    listing.op(".size", f"{name}, . - {name}")
