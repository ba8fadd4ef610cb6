"""Breaks the call-frame information of assembly on purpose, one directive at a time.

The input is assembly in GNU syntax with ``.cfi_*`` directives that are right. A file is cut into
*chunks*, one a function with everything that belongs to it (its cold part, its jump tables, its
exception table). A mutant is a chunk with one change in its directives; many mutants are assembled
in one object, each under names of its own, behind the untouched original.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

_DIRECTIVE = re.compile(r"\s*\.cfi_(\w+)\s*(.*?)\s*$")
_LABEL = re.compile(r"([A-Za-z_.$][\w.$]*):\s*$")
_TYPE = re.compile(r"\s*\.type\s+([\w.$]+)\s*,\s*[@%]function")
_LEADING = re.compile(r"\s*\.(globl|global|weak|hidden|local|p2align|align|text|section)\b")
#: Labels at the begin of a function's hot and cold part, which its exception table refers to.
_PARTITION = re.compile(r"\.L(COLDB|HOTB)\d+:")
_SECTION = re.compile(r"\s*\.(text\b|section\b|bss\b|data\b)")
_STARTPROC, _ENDPROC = ".cfi_startproc", ".cfi_endproc"

#: Directives that say nothing about rows.
_OTHER = frozenset({"startproc", "endproc", "sections", "personality", "lsda", "signal_frame"})

_NUMBERS_64 = {
    name: number
    for number, name in enumerate(
        [
            "rax",
            "rdx",
            "rcx",
            "rbx",
            "rsi",
            "rdi",
            "rbp",
            "rsp",
            "r8",
            "r9",
            "r10",
            "r11",
            "r12",
            "r13",
            "r14",
            "r15",
            "rip",
        ]
    )
} | {f"xmm{number}": 17 + number for number in range(16)}
_NUMBERS_32 = {
    name: number
    for number, name in enumerate(
        [
            "eax",
            "ecx",
            "edx",
            "ebx",
            "esp",
            "ebp",
            "esi",
            "edi",
            "eip",
        ]
    )
} | {f"xmm{number}": 21 + number for number in range(8)}


@dataclass(frozen=True)
class Chunk:
    """One function of a file.

    Attributes:
        name: of the function.
        section: the directive of the section that it starts in.
        lines: its text.
    """

    name: str
    section: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Mutant:
    """A chunk whose directives were changed.

    Attributes:
        chunk: the original.
        kind: of the change.
        change: the change in words.
        lines: the text.
    """

    chunk: Chunk
    kind: str
    change: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.chunk.name}: {self.kind}: {self.change}"


@dataclass(frozen=True)
class Directive:
    """A ``.cfi_*`` line: where it stands, and its words."""

    line: int
    name: str
    operands: tuple[str, ...]

    @property
    def text(self) -> str:
        return f".cfi_{self.name} {', '.join(self.operands)}".strip()


def without_comments(text: str) -> list[str]:
    """Lines without comments and blank ones; a hash within quotes does not occur."""
    lines = (line.split("#", 1)[0].rstrip() for line in text.splitlines())
    return [line for line in lines if line.strip()]


def chunks_of(text: str) -> list[Chunk]:
    """Cut a file into functions; what precedes the first is left out."""
    lines = without_comments(text)
    cuts = []
    for number, line in enumerate(lines):
        found = _TYPE.match(line)
        if found is None or ".cold" in found[1]:
            continue
        begin = number
        while begin and (_LEADING.match(lines[begin - 1]) or _PARTITION.match(lines[begin - 1])):
            begin -= 1
        cuts.append((begin, found[1]))
    chunks = []
    section, position = "\t.text", 0
    for number, (begin, name) in enumerate(cuts):
        for line in lines[position:begin]:
            if _SECTION.match(line):
                section = line
        end = cuts[number + 1][0] if number + 1 < len(cuts) else len(lines)
        body = tuple(lines[begin:end])
        if any(_STARTPROC in line for line in body):
            chunks.append(Chunk(name, section, body))
        position = begin
    return chunks


def renamed(lines: Iterable[str], suffix: str) -> list[str]:
    """The same text with every label that it defines under a name of its own."""
    lines = list(lines)
    names = {found[1] for line in lines if (found := _LABEL.match(line.strip()))}
    if not names:
        return lines
    pattern = re.compile(
        r"(?<![\w.$@])(" + "|".join(sorted(map(re.escape, names), key=len)[::-1]) + r")(?![\w.$])"
    )
    return [pattern.sub(lambda found: found[1] + suffix, line) for line in lines]


def is_instruction(line: str) -> bool:
    """Whether a line makes code (or is data within it)."""
    text = line.strip()
    return not text.endswith(":") and (
        not text.startswith(".") or text.startswith((".byte", ".long"))
    )


def directives_of(lines: Iterable[str]) -> list[Directive]:
    """The lines with directives about rows."""
    found = []
    for number, line in enumerate(lines):
        match = _DIRECTIVE.match(line)
        if match and match[1] not in _OTHER:
            operands = tuple(word.strip() for word in match[2].split(",")) if match[2] else ()
            found.append(Directive(number, match[1], operands))
    return found


def mutants_of(chunk: Chunk, bits: int) -> list[Mutant]:
    """Every mutant of a chunk, each text once."""
    seen = {chunk.lines}
    found = []
    for kind, change, lines in _changes(chunk, bits):
        if lines not in seen:
            seen.add(lines)
            found.append(Mutant(chunk, kind, change, lines))
    return found


_Change = tuple[str, str, tuple[str, ...]]


def _changes(chunk: Chunk, bits: int) -> Iterator[_Change]:
    lines = chunk.lines
    directives = directives_of(lines)
    for directive in directives:
        yield "drop", directive.text, _without(lines, {directive.line})
        yield from _shifted(lines, {directive.line}, "shift", directive.text)
        for text in _other_operands(directive, bits):
            changed = list(lines)
            changed[directive.line] = f"\t{text}"
            yield _kind_of_change(directive, text), f"{directive.text} -> {text}", tuple(changed)
    for one, other in pairwise(directives):
        if _of_one_procedure(lines, one.line, other.line):
            changed = list(lines)
            changed[one.line], changed[other.line] = lines[other.line], lines[one.line]
            yield "swap", f"{one.text} <-> {other.text}", tuple(changed)
    for group in _groups(lines, directives):
        if len(group) > 1:
            names = "; ".join(directive.text for directive in group)
            numbers = {directive.line for directive in group}
            yield "drop group", names, _without(lines, numbers)
            yield from _shifted(lines, numbers, "shift group", names)
    yield from _without_pairs(lines, directives)
    yield from _procedures(lines)


def _without(lines: tuple[str, ...], numbers: set[int]) -> tuple[str, ...]:
    return tuple(line for number, line in enumerate(lines) if number not in numbers)


def _of_one_procedure(lines: tuple[str, ...], begin: int, end: int) -> bool:
    return not any(_ENDPROC in line for line in lines[begin:end])


def _shifted(lines: tuple[str, ...], numbers: set[int], kind: str, text: str) -> Iterator[_Change]:
    """Move directives over the instruction before them, and over the one behind them."""
    moved = [lines[number] for number in sorted(numbers)]
    for way, step in (("earlier", -1), ("later", 1)):
        position = min(numbers) if step < 0 else max(numbers)
        position += step
        while 0 <= position < len(lines) and not is_instruction(lines[position]):
            if _STARTPROC in lines[position] or _ENDPROC in lines[position]:
                position = -1
                break
            position += step
        if not 0 <= position < len(lines):
            continue
        out = []
        for number, line in enumerate(lines):
            if number == position and step < 0:
                out += moved
            if number not in numbers:
                out.append(line)
            if number == position and step > 0:
                out += moved
        yield f"{kind} {way}", text, tuple(out)


def _groups(lines: tuple[str, ...], directives: list[Directive]) -> list[list[Directive]]:
    """Directives with no instruction and no label between them."""
    groups: list[list[Directive]] = []
    for directive in directives:
        if groups and directive.line == groups[-1][-1].line + 1:
            groups[-1].append(directive)
        else:
            groups.append([directive])
    return groups


def _without_pairs(lines: tuple[str, ...], directives: list[Directive]) -> Iterator[_Change]:
    """Drop each remember_state together with its restore_state."""
    remembered: list[Directive] = []
    for directive in directives:
        if directive.name == "remember_state":
            remembered.append(directive)
        elif directive.name == "restore_state" and remembered:
            first = remembered.pop()
            text = f"remember at {first.line}, restore at {directive.line}"
            yield "drop pair", text, _without(lines, {first.line, directive.line})


def _procedures(lines: tuple[str, ...]) -> Iterator[_Change]:
    """Break what encloses the directives: signal frame, nop before a trampoline, boundaries."""
    for number, line in enumerate(lines):
        text = line.strip()
        if text == ".cfi_signal_frame":
            yield "drop signal_frame", text, _without(lines, {number})
        if text == "nop" and any(".cfi_signal_frame" in other for other in lines[:number]):
            yield "drop nop", text, _without(lines, {number})
        if text == _ENDPROC:
            following = next(
                (n for n in range(number + 1, len(lines)) if _STARTPROC in lines[n]), None
            )
            if following is None:
                continue
            if any(_SECTION.match(other) for other in lines[number:following]):
                continue  # a procedure cannot run on in another section
            yield "drop endproc", "one procedure out of two", _without(lines, {number, following})


# -- operands --------------------------------------------------------------------------------


def _kind_of_change(directive: Directive, text: str) -> str:
    new = Directive(directive.line, directive.name, _operands(text))
    if directive.name == "escape":
        return "escape"
    same_number = _numbers(directive)[1] == _numbers(new)[1]
    return "register" if same_number else "offset"


def _operands(text: str) -> tuple[str, ...]:
    _, _, rest = text.partition(" ")
    return tuple(word.strip() for word in rest.split(","))


#: Directive to the kinds of its operands: r(egister) or o(ffset).
_SHAPES = {
    "def_cfa": "ro",
    "def_cfa_register": "r",
    "def_cfa_offset": "o",
    "adjust_cfa_offset": "o",
    "offset": "ro",
    "rel_offset": "ro",
    "val_offset": "ro",
    "register": "rr",
    "restore": "r",
    "undefined": "r",
    "same_value": "r",
}


def _numbers(directive: Directive) -> tuple[tuple[str, ...], tuple[int, ...]]:
    shape = _SHAPES.get(directive.name, "")
    pairs = list(zip(shape, directive.operands, strict=False))
    return (
        tuple(word for kind, word in pairs if kind == "r"),
        tuple(int(word, 0) for kind, word in pairs if kind == "o"),
    )


def _other_operands(directive: Directive, bits: int) -> Iterator[str]:
    if directive.name == "escape":
        yield from _other_escapes(directive, bits)
        return
    word = bits // 8
    for position, kind in enumerate(_SHAPES.get(directive.name, "")):
        operand = directive.operands[position]
        if kind == "o":
            number = int(operand, 0)
            others = [str(other) for other in (number - word, number + word, -number)]
        else:
            number = register_number(operand, bits)
            others = [f"{other}" for other in (number - 1, number + 1) if other >= 0]
        for other in others:
            operands = list(directive.operands)
            operands[position] = other
            yield f".cfi_{directive.name} {', '.join(operands)}"


def register_number(operand: str, bits: int) -> int:
    """DWARF number of a register as a directive names it."""
    bare = operand.lstrip("%")
    if bare.isdigit():
        return int(bare)
    return (_NUMBERS_64 if bits == 64 else _NUMBERS_32)[bare]


def _other_escapes(directive: Directive, bits: int) -> Iterator[str]:
    """Change the register, the base register or the distance of an escaped expression."""
    code = [int(word, 0) for word in directive.operands]
    head = {0x0F: 1, 0x10: 2}.get(code[0])
    if head is None:
        return
    columns = [code[:head]]
    if head == 2:
        columns += [[code[0], code[1] + step] for step in (-1, 1) if code[1] + step >= 0]
    body = code[head + 1 :]
    if not 0x70 <= body[0] < 0x90:
        return
    distance, size = _read_sleb(body[1:])
    rest = body[1 + size :]
    bodies = [
        [base, *_sleb(number), *rest]
        for base, number in (
            (body[0], distance),
            (body[0], distance - bits // 8),
            (body[0], distance + bits // 8),
            (body[0], -distance),
            (body[0] - 1, distance),
            (body[0] + 1, distance),
        )
        if base >= 0x70
    ]
    for column, other in [(columns[0], other) for other in bodies[1:]] + [
        (column, bodies[0]) for column in columns[1:]
    ]:
        out = [*column, len(other), *other]
        yield ".cfi_escape " + ", ".join(f"0x{byte:02x}" for byte in out)


def _read_sleb(code: list[int]) -> tuple[int, int]:
    value = 0
    for number, byte in enumerate(code):
        value |= (byte & 0x7F) << (7 * number)
        if not byte & 0x80:
            if byte & 0x40:
                value -= 1 << (7 * (number + 1))
            return value, number + 1
    raise ValueError(code)


def _sleb(value: int) -> list[int]:
    out = []
    while True:
        byte = value & 0x7F
        value >>= 7
        if (value == 0 and not byte & 0x40) or (value == -1 and byte & 0x40):
            return [*out, byte]
        out.append(byte | 0x80)
