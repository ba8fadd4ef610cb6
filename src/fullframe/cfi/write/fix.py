"""``cfi fix``: the directives that a source lacks, and the wrong ones mended, from its code."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType

from fullframe.cfi.check import ImageChecker
from fullframe.cfi.claims import Answer
from fullframe.cfi.frames import Fde
from fullframe.cfi.results import FunctionResult
from fullframe.cfi.uncovered import Uncovered, find_uncovered
from fullframe.cfi.write.compare import Difference, RowMap, difference, section_shift
from fullframe.cfi.write.conversion import Conversion
from fullframe.cfi.write.directives import (
    Unwind,
)
from fullframe.cfi.write.exception_tables import ExceptionTable, exception_tables
from fullframe.cfi.write.functions import Function, functions_of_fdes, functions_of_symbols
from fullframe.cfi.write.lines import (
    DirectiveLine,
    Refusal,
    RefusedError,
    directive_lines,
)
from fullframe.cfi.write.macros import ConflictError, Macros, Wanted, expansions_of
from fullframe.cfi.write.mend import Plan, line_of, mend, write_anew
from fullframe.cfi.write.normalize import can_be_split, renumbered, split_lines
from fullframe.cfi.write.patch import Patch
from fullframe.cfi.write.source import Assembled, AssemblySource, loaded_bytes
from fullframe.cfi.write.synthesize import Synthesized, synthesize
from fullframe.elf.image import Image
from fullframe.errors import InputError

#: Macros' bodies are tried at most so often, with fewer directives in them each time.
_MOST_MACRO_ROUNDS = 8
#: Plans that the proof refutes are dropped and the rest is proved again, at most so often.
_MOST_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class _Written:
    """What stands in the source.

    Attributes:
        directives: lines with CFI directives.
        macros: macros that directives may be written into, if that is wanted.
        tables: exception tables, by the begin of their functions.
    """

    directives: list[DirectiveLine]
    macros: Macros | None
    tables: dict[int, ExceptionTable]


def fix_source(
    source: AssemblySource,
    preserved: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> Conversion:
    """Write the missing directives of a source and mend the wrong ones.

    Rules that are there and are not wrong stay as they are written. The outcome is proved: the
    edited source is assembled, its code must be the same, and every boundary must have the rule
    that was meant; what fails is taken back and refused.

    Args:
        source: the source.
        preserved: function to the hardware numbers of registers that survive it although the ABI
            lets callees change them: missing directives are written for them, too.

    Returns:
        The edited text and what was compared.

    Raises:
        InputError: the source cannot be assembled.
    """
    assembled = source.assemble()
    result = _fix(source, assembled, preserved)
    origins: list[int] | None = None
    now = source
    crowded = {
        item.line
        for item in result.refused
        if item.line is not None and can_be_split(source, assembled, item.line)
    }
    if crowded:
        split, split_origins = split_lines(source, crowded)
        again = _fix(split, split.assemble(), preserved)
        if len(again.refused) < len(result.refused):  # else it was not for want of a place
            now, origins, result = split, split_origins, again
    if result.refused and ".macro" in now.text:
        result = _fix_within_macros(now, result, preserved)
    return result if origins is None else renumbered(result, source, origins)


def _fix_within_macros(
    source: AssemblySource, result: Conversion, preserved: Mapping[str, tuple[int, ...]]
) -> Conversion:
    """Write directives into macros' bodies too, if more can be done then."""
    try:
        assembled = source.assemble(within_macros=True)
    except InputError:
        return result  # a macro that does not bear labels
    macros = Macros(expansions_of(assembled))
    for _ in range(_MOST_MACRO_ROUNDS):
        try:
            again = _fix(source, assembled, preserved, macros)
        except ConflictError as conflict:
            macros.denied |= conflict.spots
            continue
        except InputError:
            return result  # a body that is assembled where no directive may be, as in data
        return again if len(again.refused) < len(result.refused) else result
    return result


def _fix(
    source: AssemblySource,
    assembled: Assembled,
    preserved: Mapping[str, tuple[int, ...]],
    macros: Macros | None = None,
) -> Conversion:
    plans, conversion, right = _plans(source, assembled, preserved, macros)
    for _ in range(_MOST_ROUNDS):
        text = _edited(source, assembled, plans, macros)
        if text == source.text:
            conversion.differences = []
            break
        proof = _prove(source.with_text(text), assembled, plans, right)
        conversion.boundaries_compared = proof.compared
        conversion.differences = proof.differences
        bad = {
            plan.function.begin
            for plan in plans
            for address in [*proof.wrong, *(item.address for item in proof.differences)]
            if _is_in(plan.function, address)
        }
        if not bad:
            for begin, address in proof.come_to_light.items():
                text = (
                    f"{assembled.image.function_name(begin)}: the rules here are wrong, as what "
                    "calls this place shows now that it has directives; run `cfi fix` again"
                )
                conversion.refused.append(Refusal(line_of(assembled, address), text))
                conversion.functions_done -= 1
            break
        refuted = [plan for plan in plans if plan.function.begin in bad]
        spoilt = {spot for plan in refuted for spot in plan.inside.texts}
        if spoilt:
            raise ConflictError(spoilt)
        for plan in plans:
            if plan.function.begin in bad:
                # Where the rules are not even those that were meant, that is the reason.
                differs = any(_is_in(plan.function, item.address) for item in proof.differences)
                wrong = [address for address in proof.wrong if _is_in(plan.function, address)]
                wrong = [] if differs else wrong
                conversion.refused.append(_not_proved(assembled, plan, wrong))
                conversion.functions_done -= 1
        plans = [plan for plan in plans if plan.function.begin not in bad]
    conversion.new_text = _edited(source, assembled, plans, macros)
    for plan in plans:
        conversion.refused += plan.refused
    conversion.refused.sort(key=lambda item: item.line or 0)
    return conversion


def _edited(
    source: AssemblySource, assembled: Assembled, plans: list[Plan], macros: Macros | None
) -> str:
    """Return the text with the edits of some functions.

    Raises:
        ConflictError: not all expansions of a macro need the same.
    """
    patches = [plan.patch for plan in plans]
    if macros is not None:
        inside = Wanted()
        inside.merge(plan.inside for plan in plans)
        conflicts = inside.conflicts(macros.expansions)
        if conflicts:
            raise ConflictError(conflicts)
        patches.append(inside.patch(assembled, source.lines))
    return _merge(patches).apply(source.text)


def _is_in(function: Function, address: int) -> bool:
    return function.begin <= address < function.end


def _not_proved(assembled: Assembled, plan: Plan, wrong: list[int]) -> Refusal:
    line = line_of(assembled, plan.function.begin)
    if wrong:
        text = (
            f"{plan.function.name}: with the new directives the checker finds the rules here "
            "wrong; write this function's directives by hand"
        )
        return Refusal(line_of(assembled, min(wrong)) or line, text)
    text = (
        f"{plan.function.name}: assembled with the new directives, its rules are not those that "
        "were meant; macros that write directives of their own are the usual reason"
    )
    return Refusal(line, text)


def _plans(
    source: AssemblySource,
    assembled: Assembled,
    preserved: Mapping[str, tuple[int, ...]],
    macros: Macros | None,
) -> tuple[list[Plan], Conversion, set[int]]:
    """Find out what every function lacks, and which FDEs, by their begin, lack nothing."""
    image = assembled.image
    conversion = Conversion(source.path, source.text, source.text)
    rows = RowMap(image)
    functions = _functions(image, rows)
    tables = exception_tables(assembled, functions)
    functions = [_with_table(function, tables) for function in functions]
    checker = ImageChecker(image)
    verdicts = {result.fde.begin: result for result in checker.results()}
    bare = {item.fde.begin: item for item in find_uncovered(checker.code, checker.facts.callees)}
    written = _Written(directive_lines(assembled), macros, tables)
    plans = []
    right: set[int] = set()
    for made in synthesize(image, functions, preserved):
        conversion.functions += 1
        fde = rows.fde_at(made.function.begin)
        result = None if fde is None else verdicts.get(fde.begin)
        if fde is not None and fde.begin in bare:
            conversion.refused.append(_not_covered(assembled, bare[fde.begin]))
            continue
        if (
            fde is not None
            and result is not None
            and not _is_wrong(result)
            and not _misses_an_entry(made, fde, result)
        ):
            conversion.functions_done += 1
            right.add(fde.begin)
            continue
        try:
            plan = _plan(source, assembled, made, fde, result, written)
        except RefusedError as error:
            conversion.refused.append(error.refusal)
            continue
        plans.append(plan)
        conversion.functions_done += 1
    return plans, conversion, right


def _with_table(function: Function, tables: Mapping[int, ExceptionTable]) -> Function:
    """Return a function with the exception table that the source has for it."""
    table = tables.get(function.begin)
    if table is None or function.lsda is not None:
        return function
    return replace(function, lsda=table.address)


def _is_wrong(result: FunctionResult) -> bool:
    return bool(result.tally[Answer.WRONG] or result.contradictions or result.crossings)


def _functions(image: Image, rows: RowMap) -> list[Function]:
    """Return the functions that have FDEs, and those of the symbols that have none."""
    found = functions_of_fdes(image, rows.fdes)
    covered = [(fde.begin, fde.end) for fde in rows.fdes]
    for function in functions_of_symbols(image, covered):
        if all(end <= function.begin or begin >= function.end for begin, end in covered):
            found.append(function)
    return sorted(found, key=lambda function: function.begin)


def _plan(
    source: AssemblySource,
    assembled: Assembled,
    made: Synthesized,
    fde: Fde | None,
    result: FunctionResult | None,
    written: _Written,
) -> Plan:
    function = made.function
    line = line_of(assembled, function.begin)
    own = {row.address: Unwind(row.cfa, row.registers) for row in made.rows}
    starts = sorted(own)
    if made.crossings:
        comes, there = made.crossings[0]
        text = (
            f"{function.name}: a call enters a function here, and control comes from "
            f"{assembled.image.place(comes)} too with another frame: no rule is true of both; "
            "mend the code, or begin a function of its own here"
        )
        raise RefusedError(Refusal(line_of(assembled, there) or line, text))
    hopeless = next((gap for gap in made.gaps if gap.is_contradiction), None)
    if not starts or (hopeless is not None and fde is None):
        gap = hopeless or made.gaps[0]
        raise RefusedError(
            Refusal(
                line_of(assembled, gap.begin) or line,
                f"{function.name}: {gap.reason}; write this function's directives by hand",
            )
        )
    wanted = {
        address: own[starts[max(0, bisect_right(starts, address) - 1)]]
        for address in made.boundaries
    }
    plan = Plan(function, wanted, made.after_transfer, fde)
    if function.begin in written.tables:
        plan.opening += written.tables[function.begin].directives
    if fde is not None and result is not None:
        _keep_what_is_right(plan, fde, result, made)
        mend(source, assembled, plan, written.directives)
    else:
        for gap in made.gaps:
            text = f"{function.name}: {gap.reason}; the rules before it are left in force"
            plan.refused.append(Refusal(line_of(assembled, gap.begin), text))
        write_anew(source, assembled, plan, written.macros)
    for address, register in made.doubts:
        text = f"{function.name}: paths disagree about where {register} is; written as undefined"
        plan.refused.append(Refusal(line_of(assembled, address), text))
        break
    if made.assumed:
        text = (
            f"{function.name}: the targets of an indirect jump cannot be seen; what nothing else "
            "leads to is taken to have the jump's frame"
        )
        plan.refused.append(Refusal(line_of(assembled, made.assumed[0]), text))
    return plan


def _not_covered(assembled: Assembled, item: Uncovered) -> Refusal:
    name = assembled.image.function_name(item.function)
    if item.into:
        text = (
            f"{name}: .cfi_startproc stands behind instructions of the function; move it "
            "before the first, and run `cfi fix` again"
        )
        return Refusal(line_of(assembled, item.function), text)
    text = (
        f"{name}: .cfi_endproc stands before the end of the function: control goes on to "
        f"{assembled.image.place(item.target)}; move it behind the last "
        "instruction, and run `cfi fix` again"
    )
    return Refusal(line_of(assembled, item.source), text)


def _misses_an_entry(made: Synthesized, fde: Fde, result: FunctionResult) -> bool:
    """Return whether the rows are not those of a function where one is entered.

    The checker knows calls of what has rules; here what will have some is known as well.
    """
    seen = {entry.address for entry in result.entered.values()}
    initial = fde.cie.initial_row
    entry = Unwind(initial.cfa, initial.registers)
    rows = (fde.row_at(address) for address in made.function.entries if address not in seen)
    return any(
        row is not None and not entry.same_as(Unwind(row.cfa, row.registers, row.args_size))
        for row in rows
    )


def _keep_what_is_right(plan: Plan, fde: Fde, result: FunctionResult, made: Synthesized) -> None:
    """Want the rule that is there wherever it is not wrong."""
    starts = result.listing.starts
    wrong: set[int] = set()
    for run in result.runs:
        if run.verdict.answer is Answer.WRONG:
            wrong.update(
                result.listing.begin + starts[index] for index in range(run.begin, run.end)
            )
    for source, _, _ in result.contradictions:
        if source >= 0:
            wrong.add(result.listing.begin + starts[source])
    if _misses_an_entry(made, fde, result):
        # What follows from rows that were taken at their word is not known to be right.
        unseen = {address for gap in made.gaps for address in range(gap.begin, gap.end)}
        for run in result.runs:
            if run.premised:
                wrong.update(
                    result.listing.begin + starts[index] for index in range(run.begin, run.end)
                )
        wrong -= unseen
    for address in plan.wanted:
        if address not in wrong:
            row = fde.row_at(address)
            if row is not None:
                plan.wanted[address] = Unwind(row.cfa, row.registers, row.args_size)


# -- the proof ----------------------------------------------------------------------------------


def _merge(patches: list[Patch]) -> Patch:
    merged = Patch()
    for patch in patches:
        for line, text in patch.before.items():
            merged.insert_before(line, text)
        for line, text in patch.after.items():
            merged.insert_after(line, text)
        merged.deleted |= patch.deleted
        merged.replaced.update(patch.replaced)
    return merged


@dataclass(frozen=True, slots=True)
class _Proof:
    """What assembling the edited source showed.

    Attributes:
        compared: boundaries held against what was meant.
        differences: those that are not the same.
        wrong: addresses, as before, of boundaries that were planned and that the checker finds
            wrong, with all that the whole object shows.
        come_to_light: where functions begin, as before, for which nothing was planned and which
            are wrong now that others have rules, to the first address that is.
    """

    compared: int
    differences: list[Difference]
    wrong: list[int]
    come_to_light: dict[int, int]


def _found_wrong(image: Image, before: Image) -> dict[int, list[int]]:
    """Return the addresses that the checker finds wrong, by where the function begins.

    Args:
        image: the object with the new rules.
        before: the object as it was, whose addresses are given.
    """
    shift = section_shift(image, before)
    found = {}
    for result in ImageChecker(image).results():
        if _is_wrong(result):
            section = image.section_at(result.fde.begin)
            assert section is not None
            wrong = {target for _, target, _ in result.crossings}
            wrong.update(source for source, _, _ in result.contradictions if source >= 0)
            for run in result.runs:
                if run.verdict.answer is Answer.WRONG:
                    wrong.update(range(run.begin, run.end))
            moved, listing = shift.get(section.index, 0), result.listing
            found[result.fde.begin + moved] = sorted(
                listing.begin + moved + listing.starts[index] for index in wrong
            )
    return found


def _prove(
    edited: AssemblySource, assembled: Assembled, plans: list[Plan], right: set[int]
) -> _Proof:
    """Assemble the edited source and hold every boundary against what was meant.

    The checker is asked of the whole object: what was written may bring to light what else leads
    to a function.
    """
    again = edited.assemble()
    if loaded_bytes(again.image, again.data, code_only=True) != loaded_bytes(
        assembled.image, assembled.data, code_only=True
    ):
        raise AssertionError("directives changed the code")
    after, before = RowMap(again.image), RowMap(assembled.image)
    shift = section_shift(assembled.image, again.image)
    compared = 0
    differences = []
    planned: dict[int, Mapping[int, Unwind]] = {
        plan.function.begin: {
            address: rules for address, rules in plan.wanted.items() if address not in plan.given_up
        }
        for plan in plans
    }
    for fde in before.fdes:
        if fde.begin not in planned:
            planned[fde.begin] = {
                row.address: Unwind(row.cfa, row.registers, row.args_size) for row in fde.rows()
            }
    for rows in planned.values():
        for address, rules in rows.items():
            section = assembled.image.section_at(address)
            if section is None:
                continue
            compared += 1
            found = after.at(address + shift.get(section.index, 0))
            if found is None or not found.same_as(rules):
                differences.append(difference(assembled.image, address, rules, found))
    meant = {address for plan in plans for address in set(plan.wanted) - plan.given_up}
    mended = {plan.fde.begin if plan.fde is not None else plan.function.begin for plan in plans}
    told = _found_wrong(again.image, assembled.image)
    wrong = sorted(meant.intersection(chain.from_iterable(told.values())))
    come_to_light = {
        begin: addresses[0]
        for begin, addresses in told.items()
        if begin not in mended and begin in right and addresses
    }
    return _Proof(compared, differences, wrong, come_to_light)
