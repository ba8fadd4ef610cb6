"""``cfi fix``: the directives that a source lacks, and the wrong ones mended, from its code."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fullframe.cfi.check import ImageChecker
from fullframe.cfi.claims import Answer
from fullframe.cfi.frames import Fde
from fullframe.cfi.results import FunctionResult
from fullframe.cfi.write.compare import Difference, RowMap, difference, section_shift
from fullframe.cfi.write.conversion import Conversion
from fullframe.cfi.write.directives import (
    DirectiveWriter,
    Simulator,
    UnreadableError,
    Unwind,
    initial_unwind,
)
from fullframe.cfi.write.functions import Function, functions_of_fdes, functions_of_symbols
from fullframe.cfi.write.lines import (
    Anchor,
    DirectiveLine,
    Refusal,
    RefusedError,
    anchor_after,
    anchor_before,
    directive_lines,
    register_prefix,
)
from fullframe.cfi.write.macros import ConflictError, Macros, Wanted, expansions_of
from fullframe.cfi.write.normalize import can_be_split, renumbered, split_lines
from fullframe.cfi.write.patch import Patch, indentation
from fullframe.cfi.write.source import Assembled, AssemblySource, loaded_bytes
from fullframe.cfi.write.spelling import insert, spelled
from fullframe.cfi.write.synthesize import Synthesized, synthesize
from fullframe.elf.image import Image
from fullframe.errors import InputError
from fullframe.track.listing import is_filler

#: Macros' bodies are tried at most so often, with fewer directives in them each time.
_MOST_MACRO_ROUNDS = 8
#: Plans that the proof refutes are dropped and the rest is proved again, at most so often.
_MOST_ROUNDS = 4


@dataclass(slots=True)
class _Plan:
    """What is to be done for one function.

    Attributes:
        function: the function.
        wanted: the rules at its boundaries, by address.
        after_transfer: boundaries that the instruction before does not lead to.
        fde: the FDE that is there already, if any.
        patch: the edits.
        inside: what is wanted within macros' bodies.
        given_up: boundaries whose rules cannot be written.
        refused: why.
    """

    function: Function
    wanted: dict[int, Unwind]
    after_transfer: set[int]
    fde: Fde | None
    patch: Patch = field(default_factory=Patch)
    inside: Wanted = field(default_factory=Wanted)
    given_up: set[int] = field(default_factory=set)
    refused: list[Refusal] = field(default_factory=list)


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
    source: AssemblySource, assembled: Assembled, plans: list[_Plan], macros: Macros | None
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


def _not_proved(assembled: Assembled, plan: _Plan) -> Refusal:
    line = line_of(assembled, plan.function.begin)
    text = (
        f"{plan.function.name}: assembled with the new directives, its rules are not those that "
        "were meant; macros that write directives of their own are the usual reason"
    )
    return Refusal(line, text)


def line_of(assembled: Assembled, address: int) -> int | None:
    """Return the line of the source at an address, or None."""
    span = assembled.span_at(address)
    if span is None or not assembled.origins[span.line].own:
        return None
    return assembled.origins[span.line].line


def _plans(
    source: AssemblySource,
    assembled: Assembled,
    preserved: Mapping[str, tuple[int, ...]],
    macros: Macros | None,
) -> tuple[list[_Plan], Conversion]:
    """Find out what every function lacks."""
    image = assembled.image
    conversion = Conversion(source.path, source.text, source.text)
    rows = RowMap(image)
    functions = _functions(image, rows)
    checker = ImageChecker(image)
    verdicts = {result.fde.begin: result for result in checker.results()}
    directives = directive_lines(assembled)
    plans = []
    for made in synthesize(image, functions, preserved):
        conversion.functions += 1
        fde = rows.fde_at(made.function.begin)
        result = None if fde is None else verdicts.get(fde.begin)
        if fde is not None and result is not None and not _is_wrong(result):
            conversion.functions_done += 1
            continue
        try:
            plan = _plan(source, assembled, made, fde, result, directives, macros)
        except RefusedError as error:
            conversion.refused.append(error.refusal)
            continue
        plans.append(plan)
        conversion.functions_done += 1
    return plans, conversion


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
    directives: list[DirectiveLine],
    macros: Macros | None,
) -> _Plan:
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
    plan = _Plan(function, wanted, made.after_transfer, fde)
    if fde is not None and result is not None:
        _keep_what_is_right(plan, fde, result)
        _mend(source, assembled, plan, directives)
    else:
        for gap in made.gaps:
            text = f"{function.name}: {gap.reason}; the rules before it are left in force"
            plan.refused.append(Refusal(line_of(assembled, gap.begin), text))
        _write_anew(source, assembled, plan, macros)
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


def _keep_what_is_right(plan: _Plan, fde: Fde, result: FunctionResult) -> None:
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


# -- a function without CFI -------------------------------------------------------------------


def _write_anew(
    source: AssemblySource, assembled: Assembled, plan: _Plan, macros: Macros | None
) -> None:
    image = assembled.image
    function = plan.function
    first = _opening(assembled, plan)
    last = anchor_after(assembled, _last_byte(assembled, plan) + 1)
    span = assembled.span_at(function.begin)
    assert span is not None
    writer = DirectiveWriter(image.machine, prefix=register_prefix(assembled, span.line))
    lines = source.lines
    space = indentation(lines[first.line - 1])
    opening = [f"{space}.cfi_startproc"]
    if function.signal_return is not None:
        opening.append(f"{space}.cfi_signal_frame")
    changes = _place_all(assembled, plan, writer, first, macros)
    plan.patch.insert_before(first.line, opening)
    for anchor, text in changes:
        insert(plan.patch, anchor, lines, text)
    plan.patch.insert_after(last.line, [f"{space}.cfi_endproc"])


def _opening(assembled: Assembled, plan: _Plan) -> Anchor:
    """Return where a function's directives begin: before its first instruction.

    A signal trampoline's begin before the fill that stands before it: unwinders look up the byte
    before the return address, and nothing called a trampoline.
    """
    function, image = plan.function, assembled.image
    usual = anchor_before(assembled, function.begin)
    if function.signal_return is None:
        return usual
    span = assembled.span_at(function.begin - 1)
    if span is not None and span.end == function.begin and assembled.origins[span.line].own:
        fill = bytes(image.read(span.begin, span.end - span.begin))
        if is_filler(image.machine.bits, fill):
            return anchor_before(assembled, span.begin)
    text = f"{function.name}: a signal trampoline needs a nop of its own before its label"
    plan.refused.append(Refusal(usual.line, text))
    return usual


def _place_all(
    assembled: Assembled,
    plan: _Plan,
    writer: DirectiveWriter,
    first: Anchor,
    macros: Macros | None,
) -> list[tuple[Anchor, list[str]]]:
    """Spell a function's rows and find a place for each change.

    Where there is no place the rules before stay in force, and the next change that has one says
    everything that has changed since.
    """
    while True:
        found = []
        refused = 0
        plan.inside = Wanted()
        held = writer.initial
        changes = [(address, plan.wanted[address]) for address in sorted(plan.wanted)]
        for address, text in spelled(writer, changes, plan.after_transfer):
            at_begin = address == plan.function.begin
            if macros is not None and not at_begin:
                inner = macros.spot(address, after_transfer=address in plan.after_transfer)
                if inner is not None:
                    plan.inside.add(*inner, text)
                    continue
            try:
                anchor = first if at_begin else place(assembled, address, plan)
                found.append((anchor, text))
            except RefusedError as error:
                refused += 1
                _give_up(plan, address, error.refusal)
        if not refused:
            return found
        for address in sorted(plan.wanted):
            if address in plan.given_up:
                plan.wanted[address] = held
            held = plan.wanted[address]


def _last_byte(assembled: Assembled, plan: _Plan) -> int:
    """Return the last address of a function's last line, fill after it left out."""
    boundaries = sorted(plan.wanted)
    span = assembled.span_at(boundaries[-1])
    return plan.function.end - 1 if span is None else min(span.end, plan.function.end) - 1


def _give_up(plan: _Plan, address: int, refusal: Refusal) -> None:
    """Leave the rules at a boundary as they are."""
    plan.given_up.add(address)
    if refusal not in plan.refused:
        plan.refused.append(refusal)


def place(assembled: Assembled, address: int, plan: _Plan) -> Anchor:
    """Return where the directives of a boundary go: beside the instruction that causes them."""
    if address in plan.after_transfer:
        return anchor_before(assembled, address)
    return anchor_after(assembled, address)


# -- a function whose CFI is wrong ------------------------------------------------------------


def _mend(
    source: AssemblySource, assembled: Assembled, plan: _Plan, directives: list[DirectiveLine]
) -> None:
    assert plan.fde is not None
    boundaries = sorted(plan.wanted)
    groups, opening = _groups(assembled, plan, directives, boundaries)
    machine = assembled.image.machine
    simple = any("simple" in item.operands for item in opening.directives)
    initial = Unwind(None, {}) if simple else initial_unwind(machine)
    there, mended = Simulator(machine, initial), Simulator(machine, initial)
    writer = DirectiveWriter(machine, initial, prefix=register_prefix(assembled, opening.index))
    for address in boundaries:
        group = groups.get(address, [])
        try:
            for line in group:
                for directive in line.directives:
                    there.apply(directive)
            wanted = plan.wanted[address]
            kept = _keep(plan, mended, group, wanted)
        except UnreadableError as error:
            at = group[0].line if group else line_of(assembled, address)
            text = f"{plan.function.name}: {error} cannot be followed here; mend it by hand"
            raise RefusedError(Refusal(at, text)) from None
        row = plan.fde.row_at(address)
        if row is None or not there.now.same_as(Unwind(row.cfa, row.registers, row.args_size)):
            text = (
                f"{plan.function.name}: the assembled rules here are not those that the visible "
                "directives give; macros that write directives, or an offset that the assembler "
                "cannot write, are the usual reasons: mend them by hand"
            )
            raise RefusedError(Refusal(line_of(assembled, address), text))
        if mended.now.same_as(wanted):
            continue
        _add(source, assembled, plan, address, kept, writer.change(mended.now, wanted))
        if address in plan.given_up:
            plan.wanted[address] = mended.now
        else:
            mended.now = wanted


def _groups(
    assembled: Assembled, plan: _Plan, directives: list[DirectiveLine], boundaries: list[int]
) -> tuple[dict[int, list[DirectiveLine]], DirectiveLine]:
    """Return a function's directive lines by the boundary they stand before, and the first one."""
    assert plan.fde is not None
    groups: dict[int, list[DirectiveLine]] = {}
    opening: DirectiveLine | None = None
    inside = False
    starts = (
        number
        for number, line in enumerate(directives)
        if line.address == plan.fde.begin and "startproc" in {d.name for d in line.directives}
    )
    for line in directives[next(starts, len(directives)) :]:
        if line.address is None:
            continue
        names = [directive.name for directive in line.directives]
        if "startproc" in names and line.address == plan.fde.begin and opening is None:
            opening, inside = line, True
        if inside and plan.fde.begin <= line.address <= plan.fde.end:
            position = bisect_left(boundaries, line.address)
            if position < len(boundaries):
                groups.setdefault(boundaries[position], []).append(line)
        if "endproc" in names and inside:
            break
    if opening is None:
        text = (
            f"{plan.function.name}: its .cfi_startproc is within a macro, or it is written as "
            "data; decode it first, or mend it by hand"
        )
        raise RefusedError(Refusal(line_of(assembled, plan.function.begin), text))
    return groups, opening


def _keep(
    plan: _Plan, mended: Simulator, group: list[DirectiveLine], wanted: Unwind
) -> list[DirectiveLine]:
    """Follow the directives of one boundary that lead towards what is wanted; delete others."""
    now, remembered = mended.now, list(mended.remembered)
    for line in group:
        for directive in line.directives:
            mended.apply(directive)
    if mended.now.same_as(wanted):
        return group
    mended.now, mended.remembered = now, remembered
    kept = []
    for line in group:
        now, remembered = mended.now, list(mended.remembered)
        for directive in line.directives:
            mended.apply(directive)
        names = {directive.name for directive in line.directives}
        structural = names & {"remember_state", "restore_state", "startproc", "endproc"}
        rules_changed = not mended.now.same_as(now)
        if (
            rules_changed
            and not structural
            and line.pure
            and line.line is not None
            and _distance(mended.now, wanted) >= _distance(now, wanted)
        ):
            mended.now, mended.remembered = now, remembered
            plan.patch.deleted.add(line.line)
        else:
            kept.append(line)
    return kept


def _distance(one: Unwind, other: Unwind) -> int:
    """Count the columns in which two rows differ; a CFA counts its register and its offset."""
    count = 0
    if one.cfa != other.cfa:
        parts = [
            getattr(one.cfa, name, None) != getattr(other.cfa, name, None)
            for name in ("dwarf_register", "offset_bytes", "code")
        ]
        count += sum(parts)
    mine, theirs = one.told(), other.told()
    count += sum(mine.get(number) != theirs.get(number) for number in {*mine, *theirs})
    return count + (one.args_size != other.args_size)


def _add(
    source: AssemblySource,
    assembled: Assembled,
    plan: _Plan,
    address: int,
    kept: list[DirectiveLine],
    text: list[str],
) -> None:
    own = [line.line for line in kept if line.line is not None]
    try:
        anchor = Anchor(own[-1], after=True) if own else place(assembled, address, plan)
    except RefusedError as error:
        _give_up(plan, address, error.refusal)
        return
    insert(plan.patch, anchor, source.lines, text)


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
    edited: AssemblySource, assembled: Assembled, plans: list[_Plan]
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
