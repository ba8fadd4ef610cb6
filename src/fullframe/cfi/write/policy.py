"""Building with an assembler that lacks directives: require, drop, or encode.

The three ways out of the 2015 proposal: fail and say which version is needed, build without
call-frame information, or write it as data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fullframe.cfi.write.directives import parse_directive
from fullframe.cfi.write.encode import encode_source
from fullframe.cfi.write.encode_nasm import encode_nasm
from fullframe.cfi.write.lines import statements_of
from fullframe.cfi.write.normalize import statements_of_text
from fullframe.cfi.write.patch import indentation
from fullframe.cfi.write.source import AssemblySource, what_was_made
from fullframe.errors import InputError, Place, ToolFailedError, ToolMissingError
from fullframe.files import write_atomically
from fullframe.toolchain.command import run_tool
from fullframe.toolchain.probe import RIGHT, Probed, Tool

POLICIES = ("require", "drop", "encode")

#: The first release that takes a directive, where a source says so: binutils' gas/NEWS for
#: val_encoded_addr; commit 696025802ec3 of January 2015 for label; LLVM commit 3e30278e0c71 for
#: the name of the flags register. All others: taken by GNU as 2.40, as the trials show.
_NEEDED = {
    ".cfi_val_encoded_addr": "GNU binutils 2.19",
    ".cfi_label": "GNU binutils 2.26",
    ".cfi_offset eflags": "LLVM 16, or any GNU binutils",
}
_NEEDED_OTHERWISE = "GNU binutils 2.40 (older ones were not tried)"


@dataclass(frozen=True, slots=True)
class Built:
    """What a build with a policy did.

    Attributes:
        lacking: directives that the source uses and the assembler does not get right.
        action: ``as it is``, ``dropped`` or ``encoded``.
    """

    lacking: tuple[str, ...]
    action: str


def used_directives(lines: Sequence[str]) -> dict[str, int]:
    """Return the directives that preprocessed lines use, by the names of the trials.

    Returns:
        Name to the index of the first line with it; those within macros' bodies count.
    """
    found: dict[str, int] = {}
    for index, line in enumerate(lines):
        if ".cfi_" not in line:
            continue
        for statement in statements_of(line):
            directive = parse_directive(statement)
            if directive is None:
                continue
            name = f".cfi_{directive.name}"
            if directive.name == "startproc" and "simple" in directive.operands:
                name += " simple"
            flags = {operand.lstrip("%") for operand in directive.operands[:1]}
            if directive.name == "offset" and flags & {"eflags", "rflags"}:
                name += " eflags"
            found.setdefault(name, index)
    return found


def build(
    source: AssemblySource, output: str, probed: Probed, policy: str, others: Sequence[Probed] = ()
) -> Built:
    """Assemble a source with one assembler, whatever directives it lacks.

    Args:
        source: in GNU syntax, or for NASM and YASM in theirs.
        output: the object; written only on success, all at once.
        probed: the assembler.
        policy: ``require``, ``drop`` or ``encode``.
        others: assemblers to be named where this one does not do.

    Returns:
        What was done.

    Raises:
        ToolMissingError: with ``require``, if a directive is lacking.
        InputError: the source is refused, or cannot be encoded.
    """
    tool = probed.tool
    is_nasm = tool.kind in ("nasm", "yasm")
    lines = source.lines if is_nasm else source.preprocessed()
    used = used_directives(lines)
    lacking = tuple(name for name in used if probed.directives.get(name) != RIGHT)
    action = "as it is"
    if lacking and policy == "require":
        raise _missing(source.path, probed, lacking, others)
    if lacking and policy == "drop":
        lines, action = without_directives(lines), "dropped"
    elif lacking:
        lines, action = _encoded(source, is_nasm), "encoded"
    _assemble(source, tool, lines, output)
    return Built(lacking, action)


def _missing(
    path: str, probed: Probed, lacking: tuple[str, ...], others: Sequence[Probed]
) -> ToolMissingError:
    tool = probed.tool
    is_nasm = tool.kind in ("nasm", "yasm")

    def needed(name: str) -> str:
        if is_nasm:
            return "no version of NASM or YASM has it"
        return f"needed: {_NEEDED.get(name, _NEEDED_OTHERWISE)}"

    told = "\n".join(
        f"  {name}: {probed.directives.get(name, 'not known')}; {needed(name)}" for name in lacking
    )
    good = [
        other.tool.path
        for other in others
        if not is_nasm and all(other.directives.get(name) == RIGHT for name in lacking)
    ]
    here = f"use {good[0]}, which takes them, or " if good else ""
    return ToolMissingError(
        f"{path}: {tool.path} ({tool.version}) does not get these directives right:\n{told}\n"
        f"  next: {here}build with --cfi encode (as data) or --cfi drop (without)"
    )


def without_directives(lines: Sequence[str]) -> list[str]:
    """Return lines without CFI directives; what shares a line with one stays."""
    result = []
    for line in lines:
        statements = statements_of(line) if ".cfi_" in line else []
        if all(parse_directive(statement) is None for statement in statements):
            result.append(line)
            continue
        kept = [item for item in statements_of_text(line) if not item.startswith(".cfi_")]
        text = " ; ".join(item for item in kept if not item.endswith(":"))
        labels = " ".join(item for item in kept if item.endswith(":"))
        result.append(f"{labels}{indentation(line)}{text}" if kept else "")
    return result


def _encoded(source: AssemblySource, is_nasm: bool) -> list[str]:
    if is_nasm:
        result = encode_nasm(source.path, source.text, source.assembler.flags)
    else:
        result = encode_source(source)
    if result.refused or result.differences:
        first = result.refused[0] if result.refused else None
        raise InputError(
            Place(source.path, first.line if first else None),
            first.message if first else "the data does not give the rows of the directives",
            "directives that can be written as data",
            "`fullframe cfi encode` lists everything that stands in the way",
        )
    again = source.with_text(result.new_text)
    return again.lines if is_nasm else again.preprocessed()


def _assemble(source: AssemblySource, tool: Tool, lines: Sequence[str], output: str) -> None:
    flags = source.assembler.flags
    with tempfile.TemporaryDirectory(prefix="fullframe-") as name:
        temporary, made = Path(name, "source.s"), Path(name, "object.o")
        text = "\n".join(lines) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        try:
            run_tool(tool.command(temporary, made, _own_flags(tool, flags)))
        except ToolFailedError as error:
            said = error.output.replace(str(temporary), source.path)[:4000]
            raise InputError(
                Place(source.path), f"{tool.path} refuses it:\n{said}",
                "a source that this assembler takes", "build it with another --assembler",
            ) from None  # fmt: skip
        own = _own_flags(tool, flags)
        write_atomically(output, what_was_made(source.path, made, [tool.path, *own]))


def _own_flags(tool: Tool, flags: Sequence[str]) -> list[str]:
    """Translate a compiler's flags to those of the assembler itself."""
    if tool.kind in ("nasm", "yasm"):
        return list(flags)
    include = [flag for flag in flags if flag.startswith("-I")]
    if tool.kind == "gas":
        width = {"-m32": "--32", "-mx32": "--x32"}
        return [*(width[flag] for flag in flags if flag in width), *include]
    if "llvm-mc" in Path(tool.path).name:
        return ["-triple=i386-linux-gnu"] if "-m32" in flags else []
    return [flag for flag in flags if flag.startswith(("-m", "-I"))]
