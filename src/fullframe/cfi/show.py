"""Showing a function: each instruction, its rule, and where each register really is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from fullframe.cfi.check import ImageChecker
from fullframe.cfi.claims import Answer
from fullframe.cfi.describe import instruction_text
from fullframe.cfi.files import engine_for
from fullframe.cfi.named import functions_named
from fullframe.cfi.results import FunctionResult, Run
from fullframe.cfi.shares import Groups
from fullframe.elf.image import Image
from fullframe.errors import InputError, Place
from fullframe.track.state import State
from fullframe.track.values import CFA, CFA_REGION, Address, entry
from fullframe.x86.registers import IP

#: Functions that jump into each other and are followed for one of them.
_MOST_CONNECTED = 256
#: Code of a file of which all is followed where nothing else leads into a part of a function.
_MOST_WHOLE_BYTES = 1 << 21
_SHORT_JUMP_BYTES = 130


@dataclass(frozen=True, slots=True)
class ShownInstruction:
    """One instruction of a shown function.

    Attributes:
        address: of its first byte.
        place: the address in the file's own terms.
        text: GNU syntax.
        answer: ``proved``, ``wrong``, ``assumed``, ``cannot tell``, or ``padding``.
        cfa_claimed: the CFA rule.
        rules: register name to rule in words.
        cfa_actual: where the CFA really is, such as ``rsp+16``; None when not known.
        registers: register name to where the caller's value really is.
        notes: what is wrong or unknown.
    """

    address: int
    place: str
    text: str
    answer: str
    cfa_claimed: str
    rules: dict[str, str]
    cfa_actual: str | None
    registers: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShownFunction:
    """A function, instruction by instruction.

    Attributes:
        name: of the function.
        begin: address of its first byte.
        end: address after its last.
        place: both in the file's own terms.
        instructions: ascending.
        left_out: what was not followed although it may lead into the function, or "".
    """

    name: str
    begin: int
    end: int
    place: str
    instructions: tuple[ShownInstruction, ...]
    left_out: str = ""


_ANSWERS = {
    Answer.PROVED: "proved",
    Answer.WRONG: "wrong",
    Answer.ASSUMED: "assumed",
    Answer.CANNOT_TELL: "cannot tell",
}


def show_functions(path: str, function: str | None) -> Iterator[ShownFunction]:
    """Show functions of a file.

    Args:
        path: an ELF file.
        function: its name, an address or a place (see :func:`functions_named`); None for all.

    Yields:
        Functions by address. Raises InputError for an unreadable file or an unknown function.
    """
    image = Image.open(path)
    checker = ImageChecker(image, engine_for(image), thorough=True)
    if not checker.fdes:
        raise InputError(
            Place(path),
            "no call-frame information",
            "an .eh_frame or .debug_frame section",
            "link without stripping it, or build with -fasynchronous-unwind-tables",
        )
    if function is None:
        for result in checker.results():
            yield _shown(checker, result)
        return
    for begin in functions_named(checker, function):
        found, left_out = _follow_alone(checker, begin)
        if found is not None:
            yield _shown(checker, found, left_out)


def _follow_alone(checker: ImageChecker, wanted: int) -> tuple[FunctionResult | None, str]:
    """Follow a function, and no more of the file than leads into it.

    Args:
        checker: of the file.
        wanted: where the function begins.

    Returns:
        Its result (None where its bytes are missing), and what was left out, or "".
    """
    groups = Groups(checker)
    share = groups.connected([(wanted, wanted)]) | _neighbours(checker, wanted)
    left_out = ""
    if len(share) > _MOST_CONNECTED:
        left_out = f"{len(share)} functions that jump into each other with this one"
        share = frozenset([wanted, *islice(groups.jumping_into(wanted), _MOST_CONNECTED)])
    while True:
        checker.crossings = []
        results = checker.check(lambda result: result, share)
        more = groups.connected(checker.crossings) - share
        if not more:
            break
        if len(share | more) > _MOST_CONNECTED:
            left_out = f"{len(more)} functions that these jump into"
            break
        share |= more
    result = results.get(wanted)
    if result is None or wanted not in checker.parts or checker.handover.at(result.fde):
        return result, left_out
    # Nothing is seen to lead into this part of a function; a jump by a table may.
    if sum(fde.end - fde.begin for fde in checker.fdes) > _MOST_WHOLE_BYTES:
        return result, left_out or "functions that may jump into this one through a table"
    return checker.check(lambda result: result).get(wanted), ""


def _neighbours(checker: ImageChecker, wanted: int) -> frozenset[int]:
    """Return where the FDEs begin that a short jump can come from."""
    return frozenset(
        fde.begin
        for fde in checker.fdes
        if fde.begin - _SHORT_JUMP_BYTES <= wanted <= fde.end + _SHORT_JUMP_BYTES
    )


def _shown(checker: ImageChecker, result: FunctionResult, left_out: str = "") -> ShownFunction:
    image, listing = checker.image, result.listing
    code = checker.code.code_of(result.fde)
    by_index: dict[int, Run] = {}
    for run in result.runs:
        for index in range(run.begin, run.end):
            by_index[index] = run
    ends = [*listing.starts[1:], listing.end - listing.begin]
    shown = []
    rows = checker.engine.rows_of(result.fde)
    position = -1
    for index, (start, end) in enumerate(zip(listing.starts, ends, strict=True)):
        while position + 1 < len(rows) and rows[position + 1][0] <= start:
            position += 1
        shown.append(
            _instruction(
                checker,
                listing.begin + start,
                instruction_text(image, code[start:end], listing.begin + start),
                by_index.get(index),
                rows[position][1] if position >= 0 else None,
            )
        )
    begin, end = listing.begin, listing.end
    place = f"{image.place(begin)} to {image.place(end)}"
    name = image.function_name(begin)
    return ShownFunction(name, begin, end, place, tuple(shown), left_out)


def _instruction(
    checker: ImageChecker, address: int, text: str, run: Run | None, claim: object
) -> ShownInstruction:
    from fullframe.cfi.claims import Claim

    book, machine = checker.engine.book, checker.engine.machine
    assert claim is None or isinstance(claim, Claim)
    rules = {}
    if claim is not None:
        for column in (*machine.callee_saved, IP):
            if column in claim.rules:
                rules[machine.register_names[column]] = book.describe_rule(claim.rules[column])
    state = None if run is None else run.state
    return ShownInstruction(
        address=address,
        place=checker.image.place(address),
        text=text,
        answer="padding" if run is None else _ANSWERS[run.verdict.answer],
        cfa_claimed="nothing" if claim is None else book.describe_cfa(claim.cfa),
        rules=rules,
        cfa_actual=None if state is None else _cfa(checker, state),
        registers={} if state is None else _registers(checker, state),
        notes=_notes(run),
    )


def _notes(run: Run | None) -> tuple[str, ...]:
    if run is None:
        return ()
    if run.verdict.doubts:
        notes = []
        for doubt in run.verdict.doubts:
            note = f"claims {doubt.claimed}; {doubt.actual}"
            notes.append(note + (f"; mend: {doubt.suggestion}" if doubt.suggestion else ""))
        return tuple(notes)
    return (run.reason,) if run.reason else ()


def _cfa(checker: ImageChecker, state: State) -> str | None:
    machine = checker.engine.machine
    for register in (4, 5, *range(16)):
        value = state.registers[register]
        if isinstance(value, Address) and value.region is CFA_REGION:
            return f"{machine.register_names[register]}{-value.offset_bytes:+d}"
    for (region, offset), value in state.placed():
        if value is CFA:
            return f"[{region}{offset:+d}]"
    return None


def _registers(checker: ImageChecker, state: State) -> dict[str, str]:
    """Where each caller's register is: in itself, in slots, in other registers, or nowhere."""
    machine = checker.engine.machine
    found = {}
    for column in (*machine.callee_saved, IP):
        wanted = entry(column)
        places = []
        for number, value in enumerate(state.registers):
            if value is wanted:
                places.append("itself" if number == column else machine.register_names[number])
        for (region, offset), value in state.placed():
            if value is wanted:
                places.append(f"{region}{offset:+d}")
        found[machine.register_names[column]] = ", ".join(places) or "nowhere"
    return found
