"""Mutation campaigns: every mutant of a text, judged by the checker and by execution.

A survivor is a mutant whose rows differ and of which nothing is reported. It is *true* if the
checker proves the changed rows themselves (a ``.cfi_restore`` that is missing while the slot still
holds the value) and no run on the emulated CPU shows one of them false. Any other survivor is a
fault of the checker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fullframe.cfi.claims import Answer
from fullframe.cfi.frames import Fde
from fullframe.cfi.rules import CfaRegister
from fullframe.toolchain.command import run_tool
from fullframe.toolchain.find import Toolchain
from fullframe.x86.registers import SP
from tests.cfi_check.execution import Runner, Snapshot, Trace, false_columns, places_of
from tests.cfi_check.judging import (
    I386,
    X32,
    X86_64,
    Assembled,
    Outcome,
    Row,
    Target,
    assemble,
    bases_of,
    judge,
    load,
    procedures,
    rows_at,
    sections_of,
)
from tests.cfi_check.mutation import Chunk, Mutant, chunks_of, mutants_of

CORPUS = Path(__file__).parent / "corpus"

#: Functions that are not entered by a call: they cannot be run like one.
_NOT_CALLED = frozenset({"restore_rt", "restore_old", "stubs", "outermost", "system_call_entry"})
_RUNS = 18
#: Snapshots of one place that are looked at: more of them tell little more.
_MOST_SNAPSHOTS = 6


@dataclass(frozen=True)
class Source:
    """One text of the corpus, and how to make it.

    Attributes:
        file: in the corpus.
        target: what to make it for.
        flags: of the compiler; None for assembly.
        pops: bytes of arguments that functions outside take off the stack, where it matters.
    """

    file: str
    target: Target
    flags: tuple[str, ...] | None = None
    pops: tuple[tuple[str, int], ...] | None = None

    def __str__(self) -> str:
        return " ".join([self.file, self.target.name, *(self.flags or ())])


ASSEMBLY = (Source("x86_64.s", X86_64), Source("i386.s", I386), Source("x32.s", X32))
_ALL_POP = (
    ("ask", 4), ("ask_many", 36), ("take", 4), ("die_quietly", 4), ("unlikely", 4),
    ("setjmp", 4), ("stdcall_two", 8),
)  # fmt: skip
_COMPILED = tuple(
    Source("functions.c", X86_64, tuple(flags.split()))
    for flags in (
        "-O0",
        "-O1",
        "-O2",
        "-Os",
        "-O2 -fomit-frame-pointer -fno-pic",
        "-O2 -fno-omit-frame-pointer",
        "-O2 -fstack-clash-protection",
        "-O2 -fcf-protection=full -fPIC",
    )
) + tuple(
    Source("functions.c", I386, tuple(flags.split()), pops)
    for flags, pops in (
        ("-O0", None),
        ("-O2", None),
        ("-Os", None),
        ("-O2 -mregparm=3", ()),
        ("-O2 -fPIC", None),
        ("-O2 -mrtd", _ALL_POP),
        ("-O2 -fstack-clash-protection", None),
    )
)
_EXCEPTIONS = tuple(
    Source("exceptions.cc", target, tuple(flags.split()))
    for target in (X86_64, I386)
    for flags in ("-O0", "-O2", "-O2 -fPIC")
)
#: x32 needs a compiler that knows its ABI.
_X32 = (Source("functions.c", X32, ("-O2",)),)


def compiled_sources(toolchain: Toolchain) -> tuple[Source, ...]:
    """Every compiled text of the corpus that a toolchain can make."""
    return _COMPILED + _EXCEPTIONS + (_X32 if toolchain.kind == "gnu" else ())


@dataclass
class Result:
    """What a campaign over one source showed.

    Attributes:
        source: it.
        by_kind: kind of mutation to counts of ``killed``, ``true`` (survived because the changed
            rows are true), ``missed``, ``equivalent`` and ``refused``.
        missed: survivors that are not true.
        disagreements: mutants of which one pass and following everything found different things.
        unproved: boundaries of originals that are not proved: (function, answer, why).
        false_originals: places where execution shows an original's row false.
        unexplained: findings at places where every run shows the row true.
        true_survivors: the others that survived.
        executed: boundaries of originals that were executed, of all.
    """

    source: Source
    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    missed: list[Outcome] = field(default_factory=list)
    disagreements: list[Mutant] = field(default_factory=list)
    unproved: list[tuple[str, str, str]] = field(default_factory=list)
    false_originals: set[tuple[str, tuple[int, int]]] = field(default_factory=set)
    true_survivors: list[Outcome] = field(default_factory=list)
    executed: tuple[int, int] = (0, 0)

    def total(self) -> Counter[str]:
        """Counts over all kinds."""
        total = Counter[str]()
        for counts in self.by_kind.values():
            total += counts
        return total

    def summary(self) -> str:
        """One line: the kill rate over mutants that make some row false."""
        total = self.total()
        decided = total["killed"] + total["missed"]
        rate = 100 * total["killed"] / decided if decided else 100.0
        return (
            f"{self.source}: {rate:.2f} % killed ({total['killed']} of {decided}); "
            f"{total['true']} changed rows into true ones, {total['equivalent']} changed none, "
            f"{total['refused']} refused by the assembler"
        )


def text_of(source: Source, toolchain: Toolchain, directory: Path) -> str:
    """Return the assembly of a source."""
    path = CORPUS / source.file
    if source.flags is None:
        return path.read_text(encoding="ascii")
    bits = source.target.bits
    target = [f"-m{bits}"]
    if toolchain.kind != "gnu":
        target = [f"--target={'x86_64' if bits == 64 else 'i386'}-linux-gnu"]
    output = directory / "corpus.s"
    run_tool(
        [
            *toolchain.compiler, *target, *source.target.flags, "-fno-stack-protector", "-w",
            "-fasynchronous-unwind-tables", "-fexceptions", *source.flags,
            "-S", str(path), "-o", str(output),
        ]
    )  # fmt: skip
    return output.read_text()


def run(source: Source, toolchain: Toolchain, directory: Path, *, stride: int = 1) -> Result:
    """Run a campaign.

    Args:
        source: of the corpus.
        toolchain: makes it.
        directory: for files.
        stride: take every so-manieth mutant.
    """
    text = text_of(source, toolchain, directory)
    chunks = chunks_of(text)
    mutants = [m for chunk in chunks for m in mutants_of(chunk, source.target.bits)][::stride]
    path, left, refused = assemble(toolchain, source.target, text, mutants, directory)
    copies = [procedures(chunk.section, chunk.lines) for chunk in chunks]
    copies += [procedures(mutant.chunk.section, mutant.lines) for mutant in left]
    assembled = load(path, copies)
    result = Result(source)
    steps = _execute(assembled, source, chunks, result)
    for mutant in refused:
        result.by_kind.setdefault(mutant.kind, Counter())["refused"] += 1
    for outcome in judge(assembled, chunks, left):
        _classify(result, outcome, steps.get(outcome.mutant.chunk.name, {}), assembled)
    return result


_Steps = dict[tuple[int, int], list[tuple[Trace, Snapshot]]]


def _execute(
    assembled: Assembled, source: Source, chunks: Sequence[Chunk], result: Result
) -> dict[str, _Steps]:
    """Run every original, and hold its own rows against what is seen."""
    runner = Runner(assembled.image, None if source.pops is None else dict(source.pops))
    found: dict[str, _Steps] = {}
    executed = total = 0
    for chunk, fdes in zip(chunks, assembled.fdes, strict=False):
        _note_unproved(assembled, chunk, fdes, result)
        total += sum(assembled.results[fde.begin].boundaries for fde in fdes)
        if chunk.name in _NOT_CALLED:
            continue
        begins = bases_of(fdes, sections_of(assembled.image, fdes))
        own = [(fde.begin, fde.end) for fde in fdes]
        traces = [
            runner.run(fde.begin, own, seed)
            for fde in fdes
            if _is_entry(assembled, fde)
            for seed in range(_RUNS)
        ]
        steps = places_of(traces, begins, own)
        executed += len(steps)
        found[chunk.name] = {
            place: seen[:: max(1, len(seen) // _MOST_SNAPSHOTS)] for place, seen in steps.items()
        }
        rows = rows_at(fdes, begins, steps)
        for place in steps:
            if _is_false(assembled, rows[place], found[chunk.name][place]):
                result.false_originals.add((chunk.name, place))
    result.executed = (executed, total)
    return found


def _is_entry(assembled: Assembled, fde: Fde) -> bool:
    _, cfa, _, _ = fde.relative_rows()[0]
    machine = assembled.image.machine
    return (
        isinstance(cfa, CfaRegister)
        and machine.dwarf_to_hardware.get(cfa.dwarf_register) == SP
        and cfa.offset_bytes == machine.word_bytes
    )


def _note_unproved(assembled: Assembled, chunk: Chunk, fdes: list[Fde], result: Result) -> None:
    for fde in fdes:
        for one in assembled.results[fde.begin].runs:
            if one.verdict.answer is not Answer.PROVED:
                result.unproved.append((chunk.name, one.verdict.answer.name, one.reason))


def _is_false(assembled: Assembled, row: Row, seen: list[tuple[Trace, Snapshot]]) -> bool:
    machine = assembled.image.machine
    return any(false_columns(machine, row, trace, step) for trace, step in seen)


def _classify(result: Result, outcome: Outcome, steps: _Steps, assembled: Assembled) -> None:
    counts = result.by_kind.setdefault(outcome.mutant.kind, Counter())
    if not outcome.agreed:
        result.disagreements.append(outcome.mutant)
    if outcome.verdict != "survived":
        counts[outcome.verdict] += 1
        return
    false = any(
        place in outcome.changed and _is_false(assembled, outcome.rows[place], seen)
        for place, seen in steps.items()
    )
    if set(outcome.answers) == {"proved"} and not false:
        counts["true"] += 1
        result.true_survivors.append(outcome)
    else:
        counts["missed"] += 1
        result.missed.append(outcome)
