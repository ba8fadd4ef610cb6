"""Directives for one function: written anew where it has none, mended where some are wrong."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from fullframe.cfi.frames import Fde
from fullframe.cfi.write.directives import (
    DirectiveWriter,
    Simulator,
    UnreadableError,
    Unwind,
    initial_unwind,
)
from fullframe.cfi.write.functions import Function
from fullframe.cfi.write.lines import (
    Anchor,
    DirectiveLine,
    Refusal,
    RefusedError,
    anchor_after,
    anchor_before,
    register_prefix,
)
from fullframe.cfi.write.macros import Macros, Wanted
from fullframe.cfi.write.patch import Patch, indentation
from fullframe.cfi.write.source import Assembled, AssemblySource
from fullframe.cfi.write.spelling import insert, spelled
from fullframe.track.listing import is_filler


@dataclass(slots=True)
class Plan:
    """What is to be done for one function.

    Attributes:
        function: the function.
        wanted: the rules at its boundaries, by address.
        after_transfer: boundaries that the instruction before does not lead to.
        fde: the FDE that is there already, if any.
        patch: the edits.
        inside: what is wanted within macros' bodies.
        opening: directives right behind ``.cfi_startproc``.
        given_up: boundaries whose rules cannot be written.
        refused: why.
    """

    function: Function
    wanted: dict[int, Unwind]
    after_transfer: set[int]
    fde: Fde | None
    patch: Patch = field(default_factory=Patch)
    inside: Wanted = field(default_factory=Wanted)
    opening: list[str] = field(default_factory=list)
    given_up: set[int] = field(default_factory=set)
    refused: list[Refusal] = field(default_factory=list)


def line_of(assembled: Assembled, address: int) -> int | None:
    """Return the line of the source at an address, or None."""
    span = assembled.span_at(address)
    if span is None or not assembled.origins[span.line].own:
        return None
    return assembled.origins[span.line].line


# -- a function without CFI -------------------------------------------------------------------


def write_anew(
    source: AssemblySource, assembled: Assembled, plan: Plan, macros: Macros | None
) -> None:
    """Write a function's directives where it has none.

    Args:
        source: as it is.
        assembled: the same.
        plan: of the function; its patch, and what had to be given up, are filled in.
        macros: macros that directives may be written into, if that is wanted.
    """
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
    opening += [f"{space}{text}" for text in plan.opening]
    changes = _place_all(assembled, plan, writer, first, macros)
    plan.patch.insert_before(first.line, opening)
    for anchor, text in changes:
        insert(plan.patch, anchor, lines, text)
    plan.patch.insert_after(last.line, [f"{space}.cfi_endproc"])


def _opening(assembled: Assembled, plan: Plan) -> Anchor:
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
    plan: Plan,
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


def _last_byte(assembled: Assembled, plan: Plan) -> int:
    """Return the last address of a function's last line, fill after it left out."""
    boundaries = sorted(plan.wanted)
    span = assembled.span_at(boundaries[-1])
    return plan.function.end - 1 if span is None else min(span.end, plan.function.end) - 1


def _give_up(plan: Plan, address: int, refusal: Refusal) -> None:
    """Leave the rules at a boundary as they are."""
    plan.given_up.add(address)
    if refusal not in plan.refused:
        plan.refused.append(refusal)


def place(assembled: Assembled, address: int, plan: Plan) -> Anchor:
    """Return where the directives of a boundary go: beside the instruction that causes them."""
    if address in plan.after_transfer:
        return anchor_before(assembled, address)
    return anchor_after(assembled, address)


# -- a function whose CFI is wrong ------------------------------------------------------------


def mend(
    source: AssemblySource, assembled: Assembled, plan: Plan, directives: list[DirectiveLine]
) -> None:
    """Mend a function's directives where they are wrong, and keep those that are right.

    Args:
        source: as it is.
        assembled: the same.
        plan: of the function, which has an FDE; its patch is filled in.
        directives: the source's lines with CFI directives.

    Raises:
        RefusedError: the directives that are seen do not give the rules that are assembled.
    """
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
    assembled: Assembled, plan: Plan, directives: list[DirectiveLine], boundaries: list[int]
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
    plan: Plan, mended: Simulator, group: list[DirectiveLine], wanted: Unwind
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
    plan: Plan,
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
