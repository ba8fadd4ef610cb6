"""How long ``fullframe compare`` takes on the packaged table, and the command line to start.

Budgets: 30 seconds on two cores, and 100 milliseconds.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time

_RUNS = 3


def main() -> None:
    """Print minimum, median and maximum of a few runs, and where ``compare`` spends them."""
    _print("fullframe --version", [_run("--version")[0] for _ in range(4 * _RUNS)])
    for arguments in (("compare", "--json"), ("compare", "--json", "--no-live")):
        runs = [_run(*arguments) for _ in range(_RUNS)]
        found = json.loads(runs[0][2])
        _print(f"fullframe {' '.join(arguments)}", [wall for wall, _, _ in runs])
        _print("  processor time, all processes", [cpu for _, cpu, _ in runs])
        print(f"  {found['calls']:,} emulated calls, {found['differences']} differences")
    print(f"on {len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}")


def _run(*arguments: str) -> tuple[float, float, str]:
    """Run a command; return wall time and processor time in seconds, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    output = subprocess.run(
        [sys.executable, "-m", "fullframe", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, output


def _print(what: str, seconds: list[float]) -> None:
    figures = (min(seconds), statistics.median(seconds), max(seconds))
    print(f"{what:40} {' / '.join(f'{each:.2f}' for each in figures)} s (min / median / max)")
