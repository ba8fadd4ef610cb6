"""Checking CFI beside the tools that only decode it; and the share of boundaries proved, by file.

``python -m benchmarks cfi_check``, or ``python -m benchmarks.cfi_check [--runs N] [FILE...]``.
Every run of fullframe is a fresh process, as are readelf's and llvm-dwarfdump's; pyelftools runs
in a fresh process as well. Runs are interleaved; only ratios within one round are compared. The
line "decode only" is iced-x86 decoding the same code and doing nothing with it: it says how fast
the machine is. A large file is checked on one core and on all, and the memory of all processes
together is watched (their proportional set sizes: a page that processes share counts once).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.cfi_decode import spread

DEFAULT_FILES = (
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
)

#: Where a large file to check is looked for: the largest of these.
LARGE_FILES = "/usr/lib/x86_64-linux-gnu/libLLVM*.so*"
LARGE_BYTES = 8 << 20

_DECODE_ONLY = """
import sys, time
from iced_x86 import Decoder
from fullframe.elf.image import Image
image = Image.open(sys.argv[1])
texts = [(bytes(s.data), s.address) for s in image.sections if s.executable]
began = time.perf_counter()
count = 0
for data, address in texts:
    for instruction in Decoder(image.machine.bits, data, 0, address):
        count += 1
print(count, time.perf_counter() - began)
"""

_PYELFTOOLS = """
import sys
sys.path.insert(0, ".")
from benchmarks.cfi_decode import run_pyelftools
run_pyelftools(sys.argv[1])
"""

_CHECK = """
import sys
from fullframe.cfi.files import check_file, check_files
path, jobs, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in range(times):
    (report,) = check_files([path], jobs=jobs) if jobs > 1 else [check_file(path)]
    print(report.boundaries, report.proved, report.wrong, report.assumed, report.cannot_tell,
          report.seconds)
"""


def timed(words: list[str]) -> tuple[float, str, float]:
    """Run a command; return wall-clock seconds, what it printed, and its peak memory in MiB.

    Memory is that of the command and all it has started, looked at ten times a second.
    """
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    output, _ = process.communicate()
    elapsed = time.perf_counter() - began
    watcher.join()
    return elapsed, output, peak[0] / 1024


def _watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_proportional_kib, _family(process.pid))))
        time.sleep(0.1)


def _family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            found += _family(int(child))
    return found


def _proportional_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def commands(path: str, jobs: int) -> dict[str, list[str]]:
    """Return what is compared, by name."""
    python = sys.executable
    large = Path(path).stat().st_size >= LARGE_BYTES
    found = {"fullframe check": [python, "-c", _CHECK, path, "1", "1" if large else "2"]}
    if large and jobs > 1:
        found[f"... with {jobs} jobs"] = [python, "-c", _CHECK, path, str(jobs), "1"]
    if shutil.which("readelf"):
        found["readelf -wF"] = ["readelf", "-wFN", path]
    if shutil.which("llvm-dwarfdump"):
        found["llvm-dwarfdump"] = ["llvm-dwarfdump", "--eh-frame", path]
    found["pyelftools"] = [python, "-c", _PYELFTOOLS, path]
    found["decode only"] = [python, "-c", _DECODE_ONLY, path]
    return found


def compare(path: str, runs: int, jobs: int) -> None:
    """Print one file's table."""
    tools = commands(path, jobs)
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    memory: dict[str, float] = dict.fromkeys(tools, 0)
    rates: dict[str, list[float]] = {}
    counts: list[str] = []
    for _ in range(runs):
        for name, words in tools.items():
            elapsed, output, mebibytes = timed(words)
            memory[name] = max(memory[name], mebibytes)
            lines = [line.split() for line in output.splitlines()]
            if name == "fullframe check":
                counts = lines[0]
                # The second check of a process finds its states and effects made.
                elapsed -= sum(float(line[5]) for line in lines[1:])
                for line, kind in zip(lines, ("first file", "next file"), strict=False):
                    rates.setdefault(f"M boundaries/s, {kind}", []).append(
                        int(line[0]) / float(line[5]) / 1e6
                    )
            elif name == "decode only":
                ((number, inner),) = lines
                rates.setdefault("M instructions/s, decode only", []).append(
                    int(number) / float(inner) / 1e6
                )
            seconds[name].append(elapsed)
    boundaries, proved, wrong, assumed, cannot_tell = map(int, counts[:5])
    print(f"{path}: {boundaries:,} boundaries, {proved / boundaries:.3%} proved, {wrong:,} wrong, ")
    print(f"  {assumed:,} assumed, {cannot_tell:,} cannot tell; {runs} rounds")
    print(f"{'':18}{'seconds':>20}{'':10}{'times fullframe':>20}{'':10}{'MiB':>8}")
    print(f"{'':18}" + 2 * f"{'min':>10}{'median':>10}{'max':>10}" + f"{'max':>8}")
    for name in tools:
        ratios = [
            other / ours
            for other, ours in zip(seconds[name], seconds["fullframe check"], strict=True)
        ]
        print(f"{name:18}{spread(seconds[name], 3)}{spread(ratios, 2)}{memory[name]:8.0f}")
    for name, found in rates.items():
        print(f"{name:32}{spread(found, 2)}")


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison for every file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("files", nargs="*", help="default: libc, libstdc++, libcrypto, libLLVM")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes for a large file"
    )
    options = parser.parse_args([] if arguments is None else arguments)
    files = options.files
    if not files:
        large = sorted(Path("/").glob(LARGE_FILES[1:]), key=lambda path: path.stat().st_size)
        files = [*DEFAULT_FILES, *map(str, large[-1:])]
    for path in files:
        if not Path(path).is_file():
            print(f"{path}: not on this machine, left out", file=sys.stderr)
            continue
        large_file = Path(path).stat().st_size >= LARGE_BYTES
        compare(path, 1 if large_file else options.runs, options.jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
