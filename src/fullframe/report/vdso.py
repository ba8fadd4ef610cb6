"""Reports of vDSO images: JSON for tools, lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.table import Table as Grid

from fullframe.report.cfi import finding_json, write_findings
from fullframe.report.console import console_for, print_grid, printable
from fullframe.toolchain.find import Toolchain
from fullframe.vdso.build import BuiltImage
from fullframe.vdso.dump import Dump

BUILD_SCHEMA = 1
DUMP_SCHEMA = 1


def build_json(
    built: Sequence[BuiltImage], paths: Sequence[Path], toolchain: Toolchain
) -> dict[str, Any]:
    """Return the JSON object of ``vdso build``.

    Args:
        built: the images.
        paths: where they were written; empty if they were not.
        toolchain: what built them.
    """
    return {
        "schema": BUILD_SCHEMA,
        "toolchain": str(toolchain),
        "images": [
            _image_json(item, str(paths[number]) if paths else None)
            for number, item in enumerate(built)
        ],
    }


def _image_json(item: BuiltImage, path: str | None) -> dict[str, Any]:
    report = item.report
    return {
        "name": item.image.name,
        "machine": item.image.machine.name,
        "entry": item.image.entry,
        "soname": item.image.soname,
        "path": path,
        "size_bytes": len(item.data),
        "cfi": item.cfi,
        "functions": [
            {
                "name": function.name,
                "version": function.version,
                "address": function.address,
                "size_bytes": function.size_bytes,
                "boundaries": function.boundaries,
                "proved": function.proved,
            }
            for function in item.functions
        ],
        "boundaries": report.boundaries,
        "proved": report.proved,
        "wrong": report.wrong,
        "assumed": report.assumed,
        "cannot_tell": report.cannot_tell,
        "findings": [finding_json(finding) for finding in report.findings],
        "problems": list(item.problems),
    }


def write_build(
    out: TextIO, built: Sequence[BuiltImage], paths: Sequence[Path], toolchain: Toolchain
) -> None:
    """Write what each image holds, what is proved of it, and what is wrong with it."""
    console = console_for(out)
    out.write(f"built with {printable(str(toolchain))}\n")
    for number, item in enumerate(built):
        where = printable(str(paths[number])) if paths else "not written"
        image = item.image
        out.write(
            f"\n{where}: {image.soname} for {image.machine.name}, into the kernel by "
            f"{image.entry}, {len(item.data)} bytes, CFI {_CFI_WORDS[item.cfi]}\n"
        )
        grid = Grid(box=None, pad_edge=False)
        for title in ("address", "function", "version"):
            grid.add_column(title)
        for title in ("bytes", "boundaries", "proved"):
            grid.add_column(title, justify="right")
        for function in item.functions:
            figures = (function.size_bytes, function.boundaries, function.proved)
            grid.add_row(
                f"{function.address:#x}", function.name, function.version, *map(str, figures)
            )
        print_grid(console, grid)
        write_findings(out, item.report.findings)
        for problem in item.problems:
            out.write(f"  not as a kernel maps it: {problem}\n")
    total = sum(item.report.boundaries for item in built)
    proved = sum(item.report.proved for item in built)
    out.write(f"\n{proved} of {total} instruction boundaries proved\n")


_CFI_WORDS = {
    "directives": "derived from the code",
    "encoded": "derived from the code, written as data",
    "dropped": "none: the assembler lacks directives",
}


def dump_json(result: Dump) -> dict[str, Any]:
    """Return the JSON object of ``vdso dump``."""
    return {
        "schema": DUMP_SCHEMA,
        "images": [
            {
                "abi": item.vdso.abi,
                "path": str(item.path),
                "size_bytes": len(item.vdso.data),
                "written": item.written,
                "functions": list(item.functions),
                "without_cfi": list(item.without_cfi),
            }
            for item in result.images
        ],
        "missing": [{"abi": abi, "reason": reason} for abi, reason in result.missing.items()],
    }


def write_dump(out: TextIO, result: Dump) -> None:
    """Write what was saved, and what cannot be had here."""
    for item in result.images:
        action = "written" if item.written else "unchanged"
        out.write(
            f"{printable(str(item.path))}: {item.vdso.abi}, {len(item.vdso.data)} bytes, {action}; "
            f"{len(item.functions)} functions\n"
        )
        if item.without_cfi:
            names = ", ".join(map(printable, item.without_cfi))
            out.write(f"  without call-frame information: {names}\n")
    for reason in result.missing.values():
        out.write(f"left out: {reason}\n")
