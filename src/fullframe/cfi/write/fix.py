"""``cfi fix``: the directives that a source lacks, and the wrong ones mended, from its code."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from fullframe.cfi.check import ImageChecker
from fullframe.cfi.claims import Answer
from fullframe.cfi.frames import Fde
from fullframe.cfi.results import FunctionResult
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
        now, origins = split_lines(source, crowded)
        result = _fix(now, now.assemble(), preserved)
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
    plans, conversion = _plans(source, assembled, preserved, macros)
    for _ in range(_MOST_ROUNDS):
        text = _edited(source, assembled, plans, macros)
        if text == source.text:
            conversion.differences = []
            break
        compared, differences = _prove(source.with_text(text), assembled, plans)
        conversion.boundaries_compared = compared
        conversion.differences = differences
        if not differences:
            break
        bad = {
            plan.function.begin
            for plan in plans
            for difference in differences
            if plan.function.begin <= difference.address < plan.function.end
        }
        refuted = [plan for plan in plans if plan.function.begin in bad]
        spoilt = {spot for plan in refuted for spot in plan.inside.texts}
        if spoilt:
            raise ConflictError(spoilt)
        for plan in plans:
            if plan.function.begin in bad:
                conversion.refused.append(_not_proved(assembled, plan))
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


def _not_proved(assembled: Assembled, plan: Plan) -> Refusal:
    line = line_of(assembled, plan.function.begin)
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
) -> tuple[list[Plan], Conversion]:
    """Find out what every function lacks."""
    image = assembled.image
    conversion = Conversion(source.path, source.text, source.text)
    rows = RowMap(image)
    functions = _functions(image, rows)
    tables = exception_tables(assembled, functions)
    functions = [_with_table(function, tables) for function in functions]
    checker = ImageChecker(image)
    verdicts = {result.fde.begin: result for result in checker.results()}
    written = _Written(directive_lines(assembled), macros, tables)
    plans = []
    for made in synthesize(image, functions, preserved):
        conversion.functions += 1
        fde = rows.fde_at(made.function.begin)
        result = None if fde is None else verdicts.get(fde.begin)
        if fde is not None and result is not None and not _is_wrong(result):
            conversion.functions_done += 1
            continue
        try:
            plan = _plan(source, assembled, made, fde, result, written)
        except RefusedError as error:
            conversion.refused.append(error.refusal)
            continue
        plans.append(plan)
        conversion.functions_done += 1
    return plans, conversion


def _with_table(function: Function, tables: Mapping[int, ExceptionTable]) -> Function:
    """Return a function with the exception table that the source has for it."""
    table = tables.get(function.begin)
    if table is None or function.lsda is not None:
        return function
    return replace(function, lsda=table.address)


def _is_wrong(result: FunctionResult) -> bool:
    return bool(result.tally[Answer.WRONG] or result.contradictions)


def _functions(image: Image, rows: RowMap) -> list[Function]:
    """Return the functions that have FDEs, and those of the symbols that have none."""
    found = functions_of_fdes(image, rows.fdes)
    covered = [(fde.begin, fde.end) for fde in rows.fdes]
    for function in functions_of_symbols(image):
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
        _keep_what_is_right(plan, fde, result)
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


def _keep_what_is_right(plan: Plan, fde: Fde, result: FunctionResult) -> None:
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


def _prove(
    edited: AssemblySource, assembled: Assembled, plans: list[Plan]
) -> tuple[int, list[Difference]]:
    """Assemble the edited source and hold every boundary against what was meant."""
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
    return compared, differences
