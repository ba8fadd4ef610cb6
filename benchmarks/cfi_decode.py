"""Decoding all call-frame rows of a file: fullframe beside readelf, llvm-dwarfdump, pyelftools.

``python -m benchmarks.cfi_decode [--runs N] [FILE...]`` (default: libc). The runs of the tools are
interleaved, so that a noisy machine is noisy for all of them, and only ratios within one round
are compared. readelf and llvm-dwarfdump also print what they decode (to nowhere); pyelftools and
fullframe make objects: every FDE's rows.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

DEFAULT_FILE = "/lib/x86_64-linux-gnu/libc.so.6"


def run_fullframe(path: str) -> int:
    """Decode with fullframe; return the number of rows."""
    from fullframe.cfi.frames import read_frames
    from fullframe.elf.image import Image

    image = Image.open(path)
    return sum(len(fde.relative_rows()) for table in read_frames(image) for fde in table.fdes)


def run_pyelftools(path: str) -> int:
    """Decode with pyelftools; return the number of rows."""
    from elftools.dwarf.callframe import ZERO
    from elftools.elf.elffile import ELFFile

    count = 0
    with open(path, "rb") as file:  # noqa: PTH123
        dwarf = ELFFile(file).get_dwarf_info()
        entries = dwarf.EH_CFI_entries() if dwarf.has_EH_CFI() else []
        if dwarf.has_CFI():
            entries = [*entries, *dwarf.CFI_entries()]
        for entry in entries:
            if isinstance(entry, ZERO):
                continue
            try:
                count += len(entry.get_decoded().table)
            except ValueError:
                # pyelftools 0.33 does not know DW_CFA_GNU_args_size.
                continue
    return count


def command(*words: str) -> Callable[[str], int]:
    """Make a runner of a tool that prints to nowhere."""

    def run(path: str) -> int:
        subprocess.run([*words, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return 0

    return run


RUNNERS: dict[str, Callable[[str], int]] = {
    "fullframe": run_fullframe,
    "readelf -wF": command("readelf", "-wFN"),
    "llvm-dwarfdump": command("llvm-dwarfdump", "--eh-frame"),
    "pyelftools": run_pyelftools,
}


def measure(path: str, runs: int, names: list[str]) -> dict[str, list[float]]:
    """Return the seconds of each runner's runs, one round after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    run_fullframe(path)  # imports and the page cache
    for _ in range(runs):
        for name in names:
            gc.collect()
            start = time.perf_counter()
            RUNNERS[name](path)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float], digits: int) -> str:
    """Render minimum, median and maximum."""
    cells = (min(values), statistics.median(values), max(values))
    return "".join(f"{value:10.{digits}f}" for value in cells)


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison for every file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="rounds (default: 7)")
    parser.add_argument("--skip", action="append", default=[], help="leave a tool out")
    parser.add_argument("files", nargs="*", default=[DEFAULT_FILE])
    options = parser.parse_args(arguments)
    names = []
    for name in RUNNERS:
        tool = name.split()[0]
        if tool in options.skip:
            continue
        if tool not in ("fullframe", "pyelftools") and shutil.which(tool) is None:
            print(f"{tool}: not on this machine, left out", file=sys.stderr)
            continue
        names.append(name)
    for path in options.files:
        rows = run_fullframe(path)
        seconds = measure(path, options.runs, names)
        print(f"{path}: {rows:,} rows, {options.runs} rounds")
        print(f"{'':16}{'seconds':>20}{'':10}{'times fullframe':>20}")
        print(f"{'':16}" + 2 * f"{'min':>10}{'median':>10}{'max':>10}")
        for name in names:
            ratios = [
                other / ours
                for other, ours in zip(seconds[name], seconds["fullframe"], strict=True)
            ]
            print(f"{name:16}{spread(seconds[name], 3)}{spread(ratios, 2)}")
        ours = seconds["fullframe"]
        if max(ours) > 1.5 * min(ours):
            print("note: fullframe's slowest run took half as long again as its fastest: noisy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
