"""Saving the vDSOs of the running kernel, so that they can be checked, shown and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fullframe.elf.image import Image
from fullframe.errors import ToolMissingError
from fullframe.files import write_atomically
from fullframe.run.running_vdso import PROCESS_ABIS, RunningVdso, read_running_vdso
from fullframe.vdso.output import output_paths
from fullframe.vdso.verify import exported_functions, functions_without_cfi

#: File names of dumps, as the kernel's build calls its images.
DUMP_NAMES = {"x86-64": "vdso64.so", "i386": "vdso32.so", "x32": "vdsox32.so"}


@dataclass(frozen=True, slots=True)
class Dumped:
    """A vDSO that was saved.

    Attributes:
        vdso: the image.
        path: where it is.
        written: whether the file was written; False if it held these bytes already.
        functions: names of the functions that programs look up.
        without_cfi: those of them that have no call-frame information.
    """

    vdso: RunningVdso
    path: Path
    written: bool
    functions: tuple[str, ...]
    without_cfi: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dump:
    """What a dump gave.

    Attributes:
        images: what was saved.
        missing: ABI to why its vDSO cannot be had here.
    """

    images: tuple[Dumped, ...]
    missing: dict[str, str]


def dump(output: str, abi: str | None = None) -> Dump:
    """Save the vDSOs that the running kernel maps into processes.

    Args:
        output: a directory, made if it is missing; or a file, if one ABI is asked for.
        abi: one of :data:`PROCESS_ABIS`; None: every one that this kernel runs.

    Returns:
        What was saved, and what cannot be had.

    Raises:
        ToolMissingError: what was asked for cannot be had, or nothing can; nothing was written.
        InputError: an image cannot be read, or a file not be written.
    """
    found: list[RunningVdso] = []
    missing: dict[str, str] = {}
    for each in PROCESS_ABIS if abi is None else (abi,):
        try:
            found.append(read_running_vdso(each))
        except ToolMissingError as error:
            if abi is not None or each == "x86-64":
                raise
            missing[each] = str(error)
    return Dump(_write(output, found, alone=abi is not None), missing)


def _write(output: str, found: Sequence[RunningVdso], *, alone: bool) -> tuple[Dumped, ...]:
    paths = output_paths(output, [DUMP_NAMES[vdso.abi] for vdso in found], may_be_file=alone)
    dumped = []
    for vdso, path in zip(found, paths, strict=True):
        image = Image.from_bytes(vdso.data, vdso.name)
        names = tuple(symbol.name for symbol in exported_functions(image))
        lacking = tuple(functions_without_cfi(image))
        dumped.append(Dumped(vdso, path, write_atomically(path, vdso.data), names, lacking))
    return tuple(dumped)
