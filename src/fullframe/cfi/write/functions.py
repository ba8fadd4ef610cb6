"""Which functions an image has, where nothing but its code and its symbols say so.

Without FDEs a function is where something calls: a symbol of type function, a global symbol, or
the target of a call. Local labels (NASM writes every one into the symbol table) are places within
the function before them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from iced_x86 import Decoder, DecoderOptions, Mnemonic, OpKind

from fullframe.cfi.code import NamedCode
from fullframe.cfi.frames import Fde
from fullframe.cfi.lsda import CallSite, read_lsda
from fullframe.cfi.trampolines import find_trampoline
from fullframe.elf.image import Image, Symbol
from fullframe.errors import FullframeError
from fullframe.x86.registers import Machine


@dataclass(frozen=True, slots=True)
class Function:
    """A run of code that gets one FDE.

    Attributes:
        name: of its symbol.
        begin: first address.
        end: first address after it.
        entered_by_call: a call (or the loader, or another object) can enter at ``begin``;
            otherwise only jumps lead here, and bring a frame with them (a cold part).
        signal_return: the system-call number of a signal trampoline; None for a function.
        lsda: address of the language-specific data of the FDE that is there already, if any.
        entries: addresses within, ascending, that are entered as functions are.
    """

    name: str
    begin: int
    end: int
    entered_by_call: bool = True
    signal_return: int | None = None
    lsda: int | None = None
    entries: tuple[int, ...] = ()


def functions_of_fdes(image: Image, fdes: Sequence[Fde]) -> list[Function]:
    """Return one function for each FDE, by address.

    A signal trampoline's FDE may begin one byte before its code (unwinders look one byte before
    the return address); the function then begins at the code.
    """
    found = []
    for fde in fdes:
        if fde.end <= fde.begin:
            continue
        begin, number = fde.begin, None
        if fde.cie.is_signal_frame:
            body = _first_bytes(image, fde.begin, fde.end)
            trampoline = find_trampoline(image.machine, body, believed=True)
            if trampoline is not None:
                begin, number = fde.begin + trampoline.lead_bytes, trampoline.number
        symbol = image.symbol_at(begin)
        name = symbol.name if symbol is not None and symbol.address == begin else ""
        found.append(
            Function(
                name or image.place(begin), begin, fde.end, not is_cold(name), number, fde.lsda
            )
        )
    return sorted(found, key=lambda function: function.begin)


def with_entries(image: Image, functions: Sequence[Function]) -> list[Function]:
    """Find the places within functions that are entered as functions are.

    Those are the targets of calls from other functions, and what a function symbol names that other
    images see.

    Args:
        image: the image.
        functions: by address, none overlapping.
    """
    code = CodeMap(image, functions)
    entries: dict[int, set[int]] = {}

    def add(target: int, caller: Function | None) -> None:
        function = code.covering(target)
        if function is not None and function is not caller and function.begin < target:
            entries.setdefault(function.begin, set()).add(target)

    for function in functions:
        for _, target in _calls_of(image, function.begin, function.end):
            add(target, function)
    for address in image.visible_functions().tolist():
        add(address, None)
    return [
        replace(function, entries=tuple(sorted(entries[function.begin])))
        if function.begin in entries and function.signal_return is None
        else function
        for function in functions
    ]


def functions_of_symbols(image: Image, covered: Sequence[tuple[int, int]] = ()) -> list[Function]:
    """Find the functions of an image from its symbols and its direct calls.

    Args:
        image: the image.
        covered: the extents of the FDEs that are there already, by address.

    Returns:
        Functions by address, none overlapping; the fill between two (``nop`` and the like at the
        end of a function) belongs to the one before, as in compilers' output with no sizes.
    """
    begins: dict[int, tuple[str, bool]] = {}
    sizes: dict[int, int] = {}
    named: dict[int, str] = {}
    symbols = image.function_symbols()
    insides = _insides(symbols)
    for symbol in symbols:
        named.setdefault(symbol.address, symbol.name)
        is_function = symbol.kind in ("func", "ifunc")
        # A global label in the middle of a function's own extent is where others look or jump,
        # with the function's frame; only a call makes it a function (see below).
        if is_function or (
            symbol.binding in ("global", "weak") and not _is_inside(insides, symbol.address)
        ):
            known = begins.get(symbol.address)
            if known is None or known[1]:
                begins[symbol.address] = (symbol.name, is_cold(symbol.name))
            sizes[symbol.address] = max(sizes.get(symbol.address, 0), symbol.size_bytes)
    called = _called(image, image.executable_ranges())
    for target in sorted(called):
        if target in named:
            begins.setdefault(target, (named[target], False))
    for begin, end in covered:
        # A label without a size ends where its FDE does, not at the next label.
        if begin in begins and not sizes.get(begin):
            sizes[begin] = end - begin
    while True:
        found = _extents(image, begins, sizes)
        unnamed = _unnamed(image, called, [*covered, *((item.begin, item.end) for item in found)])
        if not unnamed:
            return found
        for target in unnamed:
            begins[target] = (image.place(target), False)


def _unnamed(
    image: Image, called: Mapping[int, list[int]], extents: Sequence[tuple[int, int]]
) -> list[int]:
    """Return the targets of calls that no function's extent covers: local labels.

    A call counts that stands among the instructions of one of the extents.
    """
    extents = sorted(extents)
    begins = [begin for begin, _ in extents]

    def around(address: int) -> tuple[int, int] | None:
        position = bisect_right(begins, address) - 1
        return extents[position] if position >= 0 and address < extents[position][1] else None

    found = []
    for target in sorted(called):
        if around(target) is not None or image.executable_end(target) is None:
            continue
        for place in called[target]:
            extent = around(place)
            if extent is not None and (place, target) in _calls_of(image, *extent):
                found.append(target)
                break
    return found


def _extents(
    image: Image, begins: Mapping[int, tuple[str, bool]], sizes: Mapping[int, int]
) -> list[Function]:
    starts = sorted(begins)
    found = []
    for position, begin in enumerate(starts):
        limit = image.executable_end(begin)
        if limit is None:
            continue
        if position + 1 < len(starts):
            limit = min(limit, starts[position + 1])
        size = sizes.get(begin, 0)
        end = min(begin + size, limit) if size else limit
        name, cold = begins[begin]
        number = signal_return_number(image, begin, end)
        found.append(Function(name, begin, end, not cold, number))
    return found


def _insides(symbols: Sequence[Symbol]) -> list[tuple[int, int]]:
    """Return the extents of functions whose size is known, by address, none overlapping."""
    found: list[tuple[int, int]] = []
    for symbol in sorted(symbols, key=lambda symbol: symbol.address):
        end = symbol.address + symbol.size_bytes
        if symbol.kind not in ("func", "ifunc") or not symbol.size_bytes:
            continue
        if found and symbol.address < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((symbol.address, end))
    return found


def _is_inside(insides: Sequence[tuple[int, int]], address: int) -> bool:
    """Return whether an address is within one of the extents, and not its first."""
    position = bisect_right(insides, (address, 0)) - 1
    return position >= 0 and insides[position][0] < address < insides[position][1]


def is_cold(name: str) -> bool:
    """Return whether a name is that of the cold part that GCC or Clang split off a function."""
    return ".cold" in name


def signal_return_number(image: Image, begin: int, end: int) -> int | None:
    """Return the system-call number of a signal trampoline at ``begin``; None if it is none."""
    body = _first_bytes(image, begin, end)
    trampoline = find_trampoline(image.machine, body, believed=False)
    return trampoline.number if trampoline is not None and not trampoline.lead_bytes else None


def _first_bytes(image: Image, begin: int, end: int) -> bytes:
    try:
        return bytes(image.read(begin, max(0, min(48, end - begin))))
    except FullframeError:
        return b""


def _called(image: Image, ranges: list[tuple[int, int]]) -> dict[int, list[int]]:
    """Return the targets of all direct calls within the executable ranges, and the calls."""
    found: dict[int, list[int]] = {}
    for begin, end in ranges:
        for place, target in _calls_of(image, begin, end):
            found.setdefault(target, []).append(place)
    return found


def _calls_of(image: Image, begin: int, end: int) -> list[tuple[int, int]]:
    """Return (address, target) of the direct calls among the instructions from ``begin`` on."""
    try:
        code = bytes(image.read(begin, end - begin))
    except FullframeError:
        return []
    found = []
    for instruction in Decoder(image.machine.bits, code, DecoderOptions.NONE, begin):
        if instruction.mnemonic == Mnemonic.CALL and instruction.op0_kind in (
            OpKind.NEAR_BRANCH32,
            OpKind.NEAR_BRANCH64,
        ):
            target = instruction.near_branch_target
            # `call 1f; 1: pop` reads the program counter: no function.
            if target != instruction.next_ip:
                found.append((instruction.ip, target))
    return found


class CodeMap(NamedCode):
    """An image's code by function: what the tracker asks of a callee.

    Args:
        image: the image.
        functions: by address, none overlapping.
    """

    def __init__(self, image: Image, functions: Sequence[Function]) -> None:
        super().__init__(image)
        self.functions = list(functions)
        self._begins = [function.begin for function in self.functions]

    @property
    def machine(self) -> Machine:
        """The image's machine."""
        return self.image.machine

    @property
    def got(self) -> int | None:
        """Address of the global offset table; 0 in an object, as its relocations are applied."""
        return 0 if self.image.is_relocatable else self.image.got_address

    def covering(self, address: int) -> Function | None:
        """Return the function whose range covers an address."""
        position = bisect_right(self._begins, address) - 1
        if position >= 0 and address < self.functions[position].end:
            return self.functions[position]
        return None

    def code_at(self, target: int) -> tuple[int, bytes] | None:
        """Return (``target``, the code from there to its function's end), if it is here."""
        function = self.covering(target)
        if function is None:
            return None
        try:
            return target, bytes(self.image.read(target, function.end - target))
        except FullframeError:
            return None

    def call_sites(self, function: Function) -> list[CallSite]:
        """Return the call sites of a function's LSDA by address; none without one."""
        if function.lsda is None:
            return []
        try:
            lsda = read_lsda(self.image, function.lsda, function.begin)
        except FullframeError:
            return []
        return sorted(lsda.call_sites, key=lambda site: site.begin)
