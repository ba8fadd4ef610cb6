"""From verdicts to findings: one cause, one finding, in words a reader can act on."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from iced_x86 import Decoder, DecoderOptions, Formatter, FormatterSyntax, OpKind

from fullframe.cfi.claims import CFA_COLUMN, Answer, Doubt
from fullframe.cfi.findings import Doubtful, Finding, FunctionReport, Severity
from fullframe.cfi.header import check_frame_header, read_frame_header
from fullframe.cfi.uncovered import find_uncovered
from fullframe.track.listing import CALL, CALL_INSIDE, Listing
from fullframe.x86.registers import IP

if TYPE_CHECKING:
    from fullframe.cfi.check import ImageChecker
    from fullframe.cfi.frames import FrameTable
    from fullframe.cfi.inner_entries import InnerEntry
    from fullframe.cfi.results import FunctionResult, Run
    from fullframe.elf.image import Image

_formatter = Formatter(FormatterSyntax.GAS)
_formatter.space_after_operand_separator = True
_NEAR_BRANCHES = frozenset({OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64})


def plain_text(bits: int, encoding: bytes, address: int) -> str:
    """Disassemble one instruction in GNU syntax, wherever it comes from.

    Args:
        bits: of the machine, 32 or 64.
        encoding: the instruction's bytes; more may follow.
        address: of the first.
    """
    return str(_formatter.format(Decoder(bits, encoding, DecoderOptions.NONE, address).decode()))


def instruction_text(image: Image, encoding: bytes, address: int) -> str:
    """Disassemble one instruction in GNU syntax.

    The target of a branch is named where a function or PLT stub is there, and is otherwise a place
    in the file's own terms.

    Args:
        image: the file.
        encoding: the instruction's bytes; more may follow.
        address: of the first.
    """
    instruction = Decoder(image.machine.bits, encoding, DecoderOptions.NONE, address).decode()
    if instruction.op_count != 1 or instruction.op0_kind not in _NEAR_BRANCHES:
        return str(_formatter.format(instruction))
    target = instruction.near_branch_target
    name = image.name_of(target)
    symbol = image.symbol_at(target)
    if symbol is not None and symbol.address != target:
        name = image.place(target)
    return f"{_formatter.format_mnemonic(instruction)} {name}"


def report_of(checker: ImageChecker, result: FunctionResult) -> FunctionReport:
    """Put a function's result in words.

    Args:
        checker: of the image.
        result: the function.
    """
    if result.coarse:
        return report_of_proved(result.boundaries)
    tally = result.tally
    assumed, cannot_tell = tally[Answer.ASSUMED], tally[Answer.CANNOT_TELL]
    return FunctionReport(
        proved=tally[Answer.PROVED],
        wrong=tally[Answer.WRONG],
        assumed=assumed,
        cannot_tell=cannot_tell,
        findings=tuple(findings_of(checker, result)) if result.has_findings else (),
        doubtful=tuple(_doubtful(checker, result)) if assumed or cannot_tell else (),
    )


@lru_cache(1 << 14)
def report_of_proved(boundaries: int) -> FunctionReport:
    """Return the report of a function of which all is proved; they share it.

    Args:
        boundaries: how many it has.
    """
    return FunctionReport(boundaries, 0, 0, 0)


def _doubtful(checker: ImageChecker, result: FunctionResult) -> list[Doubtful]:
    name = checker.image.function_name(result.fde.begin)
    found: list[Doubtful] = []
    end = -1
    for run in result.runs:
        if run.verdict.answer in (Answer.ASSUMED, Answer.CANNOT_TELL):
            if found and run.begin == end and found[-1].reason == run.reason:
                found[-1].boundaries += run.end - run.begin
            else:
                address = result.listing.begin + result.listing.starts[run.begin]
                place = checker.image.place(address)
                found.append(Doubtful(run.reason, name, place, run.end - run.begin))
            end = run.end
    return found


def findings_of(checker: ImageChecker, result: FunctionResult) -> list[Finding]:
    """Turn one function's wrong runs into findings.

    Consecutive boundaries where the same column is wrong are one finding, told by the first.

    Args:
        checker: of the image.
        result: the function.

    Returns:
        Findings by address.
    """
    found = []
    open_columns: dict[tuple[int, bool], tuple[Run, Doubt, int]] = {}
    padding = result.listing.padding
    for run in result.runs:
        wrong = {
            (doubt.column, doubt.below_red_zone): doubt
            for doubt in run.verdict.doubts
            if doubt.answer is Answer.WRONG
        }
        for key, (first, doubt, end) in list(open_columns.items()):
            touching = all(index in padding for index in range(end, run.begin))
            if key in wrong and touching:
                open_columns[key] = (first, doubt, run.end)
            else:
                found.append(_finding(checker, result, first, doubt, end))
                del open_columns[key]
        for key, doubt in wrong.items():
            if key not in open_columns:
                open_columns[key] = (run, doubt, run.end)
    for first, doubt, end in open_columns.values():
        found.append(_finding(checker, result, first, doubt, end))
    for source, target, verdict in result.contradictions:
        found += _contradictions(checker, result, source, target, verdict.doubts)
    for source, target, verdict in result.crossings:
        found += _crossings(checker, result, source, target, verdict.doubts)
    found += _trampoline_findings(checker, result)
    found.sort(key=lambda finding: (finding.address, finding.code))
    return found


def _trampoline_findings(checker: ImageChecker, result: FunctionResult) -> list[Finding]:
    found = []
    if result.unmarked:
        doubt = Doubt(
            IP,
            Answer.WRONG,
            "an ordinary function (no S augmentation)",
            "a signal trampoline: it loads the number of a signal return and makes the call",
            ".cfi_signal_frame",
        )
        message = (
            "an unwinder that comes here from a handler looks up the row of the byte before the "
            "interrupted instruction, which is another function's where a signal interrupts a "
            "function's first instruction"
        )
        found.append(
            _make(checker, result, "FF-C007", Severity.RETURN_ADDRESS, 0, 1, doubt, message)
        )
    if result.unprotected:
        doubt = Doubt(
            IP,
            Answer.WRONG,
            "the procedure begins with the trampoline's first instruction",
            "a handler returns to that instruction, and unwinders look up the byte before",
            "a nop between .cfi_startproc and the trampoline's label",
        )
        message = (
            "an unwinder that starts in a handler finds no CFI for the trampoline, or another "
            "function's, and ends there or goes astray"
        )
        found.append(
            _make(checker, result, "FF-C008", Severity.RETURN_ADDRESS, 0, 1, doubt, message)
        )
    return found


def _finding(
    checker: ImageChecker, result: FunctionResult, first: Run, doubt: Doubt, end: int
) -> Finding:
    synchronous = _has_call(result.listing, first.begin, end)
    code, severity = _classify(doubt, synchronous)
    message = _consequence(checker, first, doubt, synchronous)
    entry = result.entered.get(first.begin)
    if entry is not None:
        message += f" (a function's entry: {_entered_from(checker.image, entry)})"
    if first.premised:
        message += " (no visible edge leads here: an earlier row was taken at its word)"
    return _make(checker, result, code, severity, first.begin, end, doubt, message)


def _entered_from(image: Image, entry: InnerEntry) -> str:
    if not entry.calls:
        named = (
            symbol.name
            for symbol in image.function_symbols()
            if symbol.address == entry.address and symbol.kind in ("func", "ifunc")
        )
        return f"the function symbol {next(named)} is here"
    more = f", and {len(entry.calls) - 1} more" if len(entry.calls) > 1 else ""
    return f"the call at {image.place(entry.calls[0])} leads here{more}"


def _crossings(
    checker: ImageChecker,
    result: FunctionResult,
    source: int,
    target: int,
    doubts: tuple[Doubt, ...],
) -> list[Finding]:
    """Tell of control that goes into a function's entry with another frame than a call's."""
    listing, image = result.listing, checker.image
    where = "another FDE" if source < 0 else image.place(listing.begin + listing.starts[source])
    entry = _entered_from(image, result.entered[target])
    found = []
    for doubt in doubts:
        if doubt.answer is Answer.WRONG:
            code, severity = _classify(doubt, synchronous=False)
            message = (
                f"control comes here from {where} too, not by a call: the row is true only of a "
                f"function's entry ({entry})"
            )
            there = replace(doubt, suggestion="")
            found.append(_make(checker, result, code, severity, target, target + 1, there, message))
    return found


def _contradictions(
    checker: ImageChecker,
    result: FunctionResult,
    source: int,
    target: int,
    doubts: tuple[Doubt, ...],
) -> list[Finding]:
    listing = result.listing
    there = checker.image.place(listing.begin + listing.starts[target])
    index = max(source, 0)
    calls = _has_call(listing, index, index + 1)
    kind = "call" if calls else "jump"
    return [
        _make(
            checker, result, "FF-C006", Severity.ASYNCHRONOUS, index, index + 1,
            # At a call, what is so at its target is no row for the call.
            replace(doubt, suggestion="") if calls else doubt,
            f"taken at its word, the CFI before this {kind} contradicts the CFI at {there}",
        )
        for doubt in doubts
        if doubt.answer is Answer.WRONG
    ]  # fmt: skip


def _make(
    checker: ImageChecker,
    result: FunctionResult,
    code: str,
    severity: Severity,
    begin: int,
    end: int,
    doubt: Doubt,
    message: str,
) -> Finding:
    listing = result.listing
    image = checker.image
    address = listing.begin + listing.starts[begin]
    end_address = listing.begin + listing.starts[end] if end < len(listing.starts) else listing.end
    encoding = bytes(image.read(address, min(15, listing.end - address)))
    return Finding(
        code=code,
        severity=severity,
        path=image.path,
        function=image.function_name(listing.begin),
        address=address,
        end_address=end_address,
        source=image.source_line(address),
        instruction=instruction_text(image, encoding, address),
        claimed=doubt.claimed,
        actual=doubt.actual,
        message=message,
        suggestion=doubt.suggestion,
        place=image.place(address),
    )


def _has_call(listing: Listing, begin: int, end: int) -> bool:
    position = bisect_left(listing.events, (begin,))
    for index, kind, _ in listing.events[position:]:
        if index >= end:
            return False
        if kind in (CALL, CALL_INSIDE):
            return True
    return False


def _classify(doubt: Doubt, synchronous: bool) -> tuple[str, Severity]:
    if doubt.below_red_zone:
        return "FF-C004", Severity.ASYNCHRONOUS
    if doubt.column == CFA_COLUMN:
        code, severity = "FF-C001", Severity.RETURN_ADDRESS
    elif doubt.column == IP:
        code, severity = "FF-C002", Severity.RETURN_ADDRESS
    else:
        code, severity = "FF-C003", Severity.REGISTER
    return code, severity if synchronous else Severity.ASYNCHRONOUS


def _consequence(checker: ImageChecker, run: Run, doubt: Doubt, synchronous: bool) -> str:
    """Say what goes wrong for whom."""
    machine = checker.engine.machine
    who = "a debugger that stops here or a profiler that samples here"
    if doubt.while_called:
        who = "an unwind out of the callee, for an exception or a backtrace,"
    elif synchronous:
        who += ", and an exception thrown by a callee,"
    if doubt.below_red_zone:
        return f"{who} may find the slot overwritten by a signal handler"
    if doubt.column in (CFA_COLUMN, IP):
        taken = _taken_for_return_address(checker, run)
        return f"{who} takes {taken} for the return address"
    name = machine.register_names[doubt.column]
    return f"{who} shows and restores a wrong {name} in the caller"


def _taken_for_return_address(checker: ImageChecker, run: Run) -> str:
    state = run.calling or run.state
    if state is None or run.claim is None:
        return "something else"
    value = checker.engine.book.return_address_taken(checker.engine.precise.space, state, run.claim)
    return value or "something else"


def partly_uncovered(checker: ImageChecker) -> list[Finding]:
    """Turn the FDEs that cover a part of a function only into findings, by address.

    Args:
        checker: of the image.
    """
    image = checker.image
    found = []
    for item in find_uncovered(checker.code, checker.facts.callees):
        begin = item.function if item.into else item.target
        bare = image.place(begin)
        covered = (
            f"the FDE covers {image.place(item.fde.begin)} to {image.place(item.fde.end)} only"
        )
        who = "a debugger that stops and a profiler that samples"
        if item.calls:
            who += ", and an exception that a callee throws,"
        way = "comes from" if item.into else "goes on to"
        target = image.place(item.source if item.into else item.target)
        found.append(
            Finding(
                code="FF-C013",
                severity=Severity.RETURN_ADDRESS if item.calls else Severity.ASYNCHRONOUS,
                path=image.path,
                function=image.function_name(item.function),
                address=item.source,
                end_address=item.bare_end,
                source=image.source_line(item.source),
                instruction=instruction_text(
                    image, bytes(image.read(item.source, min(15, item.end - item.source))),
                    item.source,
                ),
                claimed=covered,
                actual=f"control {way} {target}, in the same function",
                message=f"from {bare} on {who} find no rules: an unwinder ends there",
                suggestion=(
                    ".cfi_startproc before the function's first instruction"
                    if item.into
                    else ".cfi_endproc behind the function's last instruction"
                ),
                place=image.place(item.source),
            )
        )  # fmt: skip
    return found


def malformed(image: Image, tables: list[FrameTable]) -> list[Finding]:
    """Turn malformed entries, tables that disagree, and what the file lacks into findings."""
    found = []
    for table in tables:
        for problem in table.all_problems():
            found.append(
                _plain(image, "FF-C010", problem.offset, table.section_name, problem.message)
            )
    header = read_frame_header(image)
    for table in tables:
        if header is not None and table.section_name == ".eh_frame":
            for problem in check_frame_header(header, table):
                found.append(
                    _plain(image, "FF-C011", problem.offset, problem.section, problem.message)
                )
    for warning in image.warnings:
        message = f"{warning.found}; expected {warning.expected}" if warning.expected else ""
        offset = warning.place.offset_bytes or 0
        plain = _plain(image, "FF-C012", offset, "headers", message or warning.found)
        found.append(replace(plain, place=f"offset {offset:#x}"))
    return found


def _plain(image: Image, code: str, offset: int, section: str, message: str) -> Finding:
    place = f"{section}+{offset:#x}"
    return Finding(
        code=code,
        severity=Severity.MALFORMED,
        path=image.path,
        function=section,
        address=offset,
        end_address=offset,
        source=None,
        instruction="",
        claimed="",
        actual="",
        message=message,
        suggestion="",
        place=place,
    )
