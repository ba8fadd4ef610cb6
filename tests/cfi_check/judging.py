"""Assembles mutants by the hundred, reads their rows, and asks the checker about each.

A mutant *matters* if at some instruction that control reaches its rows differ from the original's.
What the rows of original and mutant are is read with the reader, not with the checker; what control
reaches is taken from the original, of which every boundary must be proved.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fullframe.cfi.check import ImageChecker
from fullframe.cfi.claims import Answer
from fullframe.cfi.describe import findings_of
from fullframe.cfi.files import engine_for
from fullframe.cfi.frames import Fde
from fullframe.cfi.results import FunctionResult
from fullframe.elf.image import Image
from fullframe.errors import ToolFailedError
from fullframe.toolchain.find import Toolchain
from tests.cfi_check.mutation import Chunk, Mutant, renamed

#: Kinds of mutants that change no row and must be reported all the same.
ROWLESS = frozenset({"drop signal_frame", "drop nop"})

Row = tuple[object, frozenset[object]] | None


@dataclass(frozen=True)
class Target:
    """How to assemble: 64, 32 or (x32) 64 with narrow pointers."""

    name: str
    bits: int
    flags: tuple[str, ...] = ()


X86_64 = Target("x86-64", 64)
I386 = Target("i386", 32)
X32 = Target("x32", 64, ("-mx32",))


@dataclass
class Outcome:
    """What became of one mutant.

    Attributes:
        mutant: it.
        verdict: ``killed``, ``survived``, ``equivalent`` or ``refused`` (by the assembler).
        changed: boundaries, by (section number within the chunk, distance), whose row differs.
        codes: diagnostics that were reported.
        answers: what the checker said at the changed boundaries.
        rows: at every reached boundary.
        found_at: (section number, distance, code) of every byte of a finding.
        agreed: both of the checker's ways gave the same answer.
    """

    mutant: Mutant
    verdict: str
    changed: tuple[tuple[int, int], ...] = ()
    codes: tuple[str, ...] = ()
    answers: Counter[str] = field(default_factory=Counter)
    rows: dict[tuple[int, int], Row] = field(default_factory=dict)
    found_at: tuple[tuple[int, int, str], ...] = ()
    agreed: bool = True


@dataclass
class Assembled:
    """A file of originals and mutants in one object.

    Attributes:
        image: the object.
        checker: followed every function, so that results tell every boundary.
        results: by the FDE's address.
        quick: whether there are findings, by the FDE's address, in a run like users' runs, where
            most functions are proved in one pass.
        fdes: of each chunk's copy, in order: the originals first.
    """

    image: Image
    checker: ImageChecker
    results: dict[int, FunctionResult]
    quick: dict[int, bool]
    fdes: list[list[Fde]]


def assemble(
    toolchain: Toolchain, target: Target, original: str, mutants: Sequence[Mutant], directory: Path
) -> tuple[Path, list[Mutant], list[Mutant]]:
    """Assemble a file with mutants behind it.

    Returns:
        The object, the mutants in it, and those that the assembler refused.
    """
    left, refused = list(mutants), []
    for attempt in range(4):
        text, begins = original.rstrip("\n") + "\n", []
        lines = text.count("\n")
        parts = [text]
        for number, mutant in enumerate(left):
            part = copy_text(mutant.chunk, mutant.lines, f"__m{number}")
            begins.append(lines + 1)
            lines += part.count("\n")
            parts.append(part)
        source = directory / f"mutants{attempt}.s"
        source.write_text("".join(parts))
        output = directory / "mutants.o"
        try:
            toolchain.assemble(
                source, output, bits=target.bits, flags=target.flags, warnings_are_errors=False
            )
        except ToolFailedError as error:
            bad = _refused(error.output, source.name, begins)
            if not bad:
                raise
            refused += [mutant for number, mutant in enumerate(left) if number in bad]
            left = [mutant for number, mutant in enumerate(left) if number not in bad]
            continue
        return output, left, refused
    raise AssertionError("the assembler refuses something else each time")


def copy_text(chunk: Chunk, lines: Iterable[str], suffix: str) -> str:
    """The text of one copy of a chunk."""
    return "\n".join([chunk.section, "\t.p2align 4", *renamed(lines, suffix), ""])


def _refused(output: str, name: str, begins: list[int]) -> set[int]:
    """Numbers of the mutants in whose lines the assembler found errors."""
    from bisect import bisect_right

    bad = set()
    for line in re.findall(rf"{re.escape(name)}:(\d+):(?:\d+:)? *[Ee]rror", output):
        position = bisect_right(begins, int(line)) - 1
        if position < 0:
            raise AssertionError(f"the original is refused: {output}")
        bad.add(position)
    return bad


def load(path: Path, copies: Sequence[Sequence[str]]) -> Assembled:
    """Read and check an object, in both of the checker's ways.

    Args:
        path: the object.
        copies: for each copy, in order, the sections of its procedures.
    """
    image = Image.open(str(path))
    engine = engine_for(image)
    checker = ImageChecker(image, engine, thorough=True)
    results = {result.fde.begin: result for result in checker.results()}
    quick = {
        result.fde.begin: result.has_findings for result in ImageChecker(image, engine).results()
    }
    (table,) = [table for table in checker.tables if table.fdes]
    assert not table.problems, table.problems
    # Assemblers order FDEs in ways of their own, but code stays in the order of the text.
    queues: dict[str, list[Fde]] = {}
    for fde in sorted(table.fdes, key=lambda fde: -fde.begin):
        section = image.section_at(fde.begin)
        assert section is not None
        queues.setdefault(section.name, []).append(fde)
    fdes = [[queues[name].pop() for name in names] for names in copies]
    assert not any(queues.values())
    return Assembled(image, checker, results, quick, fdes)


def procedures(section: str, lines: Iterable[str]) -> list[str]:
    """The name of the section that each FDE of a text lies in."""
    found = []
    for line in (section, *lines):
        words = re.split(r"[\s,]+", line.strip())
        if words[0] == ".section":
            section = words[1].strip('"')
        elif words[0] == ".text":
            section = ".text"
        elif words[0] == ".cfi_startproc":
            found.append(section)
    return found


def rows_at(
    fdes: list[Fde], begins: list[int], places: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], Row]:
    """Rows in force at places, which are (number of the base in ``begins``, distance from it)."""
    spread = [(fde.begin, fde.end, fde.relative_rows()) for fde in fdes]
    found: dict[tuple[int, int], Row] = {}
    for base, distance in places:
        address = begins[base] + distance
        found[base, distance] = None
        for begin, end, rows in spread:
            if begin <= address < end:
                for delta, cfa, registers, _ in rows:
                    if begin + delta > address:
                        break
                    found[base, distance] = (cfa, frozenset(registers.items()))
    return found


def bases_of(fdes: list[Fde], sections: list[int]) -> list[int]:
    """The first address of each section that a copy has procedures in."""
    found: dict[int, int] = {}
    for fde, section in zip(fdes, sections, strict=True):
        found.setdefault(section, fde.begin)
    return list(found.values())


def sections_of(image: Image, fdes: list[Fde]) -> list[int]:
    """The section of each procedure."""
    found = []
    for fde in fdes:
        section = image.section_at(fde.begin)
        assert section is not None
        found.append(section.index)
    return found


def reached(
    assembled: Assembled, fdes: list[Fde], begins: list[int], sections: list[int]
) -> list[tuple[int, int]]:
    """The boundaries that control reaches, of a copy of which the checker has proved all."""
    order = list(dict.fromkeys(sections))
    places = []
    for fde, section in zip(fdes, sections, strict=True):
        base = order.index(section)
        result = assembled.results[fde.begin]
        if result.listing.begin > fde.begin:
            # A handler's unwind looks up the byte before a trampoline.
            places.append((base, fde.begin - begins[base]))
        for run in result.runs:
            for index in range(run.begin, run.end):
                address = result.listing.begin + result.listing.starts[index]
                places.append((base, address - begins[base]))
    return places


def judge(
    assembled: Assembled, chunks: Sequence[Chunk], mutants: Sequence[Mutant]
) -> list[Outcome]:
    """Compare every mutant with its original and with what the checker says of it."""
    originals: dict[str, _Original] = {}
    for chunk, fdes in zip(chunks, assembled.fdes, strict=False):
        sections = sections_of(assembled.image, fdes)
        begins = bases_of(fdes, sections)
        places = reached(assembled, fdes, begins, sections)
        known = frozenset(_found(assembled, fdes, begins))
        originals[chunk.name] = _Original(rows_at(fdes, begins, places), known)
    outcomes = []
    for mutant, fdes in zip(mutants, assembled.fdes[len(chunks) :], strict=True):
        outcomes.append(_judge_one(assembled, originals[mutant.chunk.name], mutant, fdes))
    return outcomes


@dataclass(frozen=True)
class _Original:
    """Rows of a chunk that is as the compiler made it, and what is found in it even so."""

    rows: dict[tuple[int, int], Row]
    findings: frozenset[tuple[int, int, str]]


def _found(assembled: Assembled, fdes: list[Fde], begins: list[int]) -> set[tuple[int, int, str]]:
    """(section number, distance, code) of every byte that a finding covers."""
    sections = sections_of(assembled.image, fdes)
    order = list(dict.fromkeys(sections))
    found = set()
    for fde, section in zip(fdes, sections, strict=True):
        base = order.index(section)
        for finding in findings_of(assembled.checker, assembled.results[fde.begin]):
            begin = finding.address - begins[base]
            for offset in range(begin, begin + max(1, finding.end_address - finding.address)):
                found.add((base, offset, finding.code))
    return found


def _judge_one(
    assembled: Assembled, original: _Original, mutant: Mutant, fdes: list[Fde]
) -> Outcome:
    sections = sections_of(assembled.image, fdes)
    # Without its nop, the trampoline's procedure begins a byte later than the original's.
    lead = 1 if mutant.kind == "drop nop" else 0
    begins = [begin - lead for begin in bases_of(fdes, sections)]
    order = list(dict.fromkeys(sections))
    mine = rows_at(fdes, begins, original.rows)
    changed = tuple(place for place, row in original.rows.items() if mine[place] != row)
    found_at = _found(assembled, fdes, begins) - original.findings
    answers = Counter[str]()
    for fde, section in zip(fdes, sections, strict=True):
        result = assembled.results[fde.begin]
        base = order.index(section)
        for run in result.runs:
            for index in range(run.begin, run.end):
                address = result.listing.begin + result.listing.starts[index]
                if (base, address - begins[base]) in changed:
                    answers[run.verdict.answer.name.lower()] += 1
        if result.listing.begin > fde.begin and (base, fde.begin - begins[base]) in changed:
            answers["wrong" if result.tally[Answer.WRONG] else "proved"] += 1
    answers["not followed"] += len(changed) - sum(answers.values())
    if found_at:
        verdict = "killed"
    elif changed or mutant.kind in ROWLESS:
        verdict = "survived"
    else:
        verdict = "equivalent"
    return Outcome(
        mutant,
        verdict,
        changed,
        tuple(sorted({code for _, _, code in found_at})),
        +answers,
        mine,
        tuple(sorted(found_at)),
        all(_agrees(assembled, fde) for fde in fdes),
    )


def _agrees(assembled: Assembled, fde: Fde) -> bool:
    """Whether one pass and following everything found the same of a procedure."""
    return assembled.results[fde.begin].has_findings == assembled.quick[fde.begin]


def all_proved(assembled: Assembled, fdes: Iterable[Fde]) -> bool:
    """Whether every boundary of these procedures is proved."""
    return all(
        assembled.results[fde.begin].tally[Answer.PROVED] == assembled.results[fde.begin].boundaries
        for fde in fdes
    )
