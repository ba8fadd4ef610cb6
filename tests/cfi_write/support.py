"""What the tests of writing CFI share: assembling, stripping, comparing with the compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from iced_x86 import Decoder

from fullframe.cfi.write.compare import Difference, RowMap, compare_rows
from fullframe.cfi.write.source import Assembler, AssemblySource
from fullframe.elf.image import Image
from fullframe.toolchain.find import find_toolchain
from tests.support import skip_or_fail


def need(tool: str) -> str:
    """Return a tool's path; skip (or fail) with the reason where it is missing."""
    found = shutil.which(tool)
    if found is None:
        skip_or_fail(f"{tool} is not installed")
    return found


def gnu(*flags: str) -> Assembler:
    need("gcc")
    return Assembler(find_toolchain("gnu"), flags)


def source(text: str, *flags: str, name: str = "test.S") -> AssemblySource:
    return AssemblySource(name, text, gnu(*flags))


def stripped(text: str) -> str:
    """Take every line with a CFI directive away."""
    return "\n".join(line for line in text.split("\n") if not re.match(r"\s*\.cfi_", line))


def compiled(directory: Path, c_source: str, *flags: str, language: str = "c") -> str:
    """Return what gcc -S makes of a C source."""
    path = directory / f"input.{language}"
    path.write_text(c_source)
    output = directory / "input.s"
    gcc = need("gcc" if language == "c" else "g++")
    run = subprocess.run(
        [gcc, "-S", "-w", *flags, str(path), "-o", str(output)], capture_output=True, text=True
    )
    if run.returncode:
        skip_or_fail(f"gcc {' '.join(flags)} does not work here: {run.stderr[:200]}")
    return output.read_text()


def boundaries(image: Image, rows: RowMap) -> list[int]:
    """Return every instruction boundary that an FDE covers."""
    found = []
    for fde in rows.fdes:
        code = bytes(image.read(fde.begin, fde.end - fde.begin))
        found += [item.ip for item in Decoder(image.machine.bits, code, 0, fde.begin)]
    return found


def compare_sources(old: AssemblySource, new: AssemblySource) -> tuple[int, list[Difference]]:
    """Compare the rows of two sources of the same code at every boundary of the first."""
    first, second = old.assemble(), new.assemble()
    rows = RowMap(first.image)
    return compare_rows(rows, RowMap(second.image), boundaries(first.image, rows))
