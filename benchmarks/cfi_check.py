"""Checking CFI beside the tools that only decode it; and the share of boundaries proved, by file.

``python -m benchmarks cfi_check`` or ``python benchmarks/cfi_check.py [--runs N] [FILE...]``.
Every run of fullframe is a fresh process, as are readelf's and llvm-dwarfdump's; pyelftools runs
in a fresh process as well. Runs are interleaved; only ratios within one round are compared. The
line "decode only" is iced-x86 decoding the same code and doing nothing with it: it says how fast
the machine is.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.cfi_decode import spread

DEFAULT_FILES = (
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
)

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
from fullframe.cfi.files import check_file
report = check_file(sys.argv[1])
print(report.boundaries, report.proved, report.wrong, report.assumed, report.cannot_tell,
      report.seconds)
"""


def timed(words: list[str]) -> tuple[float, str]:
    """Run a command; return its wall-clock seconds and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return time.perf_counter() - began, done.stdout


def commands(path: str) -> dict[str, list[str]]:
    """Return what is compared, by name."""
    python = sys.executable
    found = {"fullframe check": [python, "-c", _CHECK, path]}
    if shutil.which("readelf"):
        found["readelf -wF"] = ["readelf", "-wFN", path]
    if shutil.which("llvm-dwarfdump"):
        found["llvm-dwarfdump"] = ["llvm-dwarfdump", "--eh-frame", path]
    found["pyelftools"] = [python, "-c", _PYELFTOOLS, path]
    found["decode only"] = [python, "-c", _DECODE_ONLY, path]
    return found


def compare(path: str, runs: int) -> None:
    """Print one file's table."""
    tools = commands(path)
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    check_rates, decode_rates = [], []
    counts: list[str] = []
    for _ in range(runs):
        for name, words in tools.items():
            elapsed, output = timed(words)
            seconds[name].append(elapsed)
            if name == "fullframe check":
                counts = output.split()
                check_rates.append(int(counts[0]) / float(counts[5]) / 1e6)
            elif name == "decode only":
                number, inner = output.split()
                decode_rates.append(int(number) / float(inner) / 1e6)
    boundaries, proved, wrong, assumed, cannot_tell = map(int, counts[:5])
    print(f"{path}: {boundaries:,} boundaries, {proved / boundaries:.3%} proved, {wrong:,} wrong, ")
    print(f"  {assumed:,} assumed, {cannot_tell:,} cannot tell; {runs} rounds")
    print(f"{'':18}{'seconds':>20}{'':10}{'times fullframe':>20}")
    print(f"{'':18}" + 2 * f"{'min':>10}{'median':>10}{'max':>10}")
    for name in tools:
        ratios = [
            other / ours
            for other, ours in zip(seconds[name], seconds["fullframe check"], strict=True)
        ]
        print(f"{name:18}{spread(seconds[name], 3)}{spread(ratios, 2)}")
    print(f"{'M boundaries/s':18}{spread(check_rates, 2)}")
    print(f"{'M decoded/s':18}{spread(decode_rates, 2)}")


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison for every file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("files", nargs="*", default=list(DEFAULT_FILES))
    options = parser.parse_args([] if arguments is None else arguments)
    for path in options.files:
        if not Path(path).is_file():
            print(f"{path}: not on this machine, left out", file=sys.stderr)
            continue
        compare(path, options.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
