"""How long proving takes, and how many mutants of generated entry code the prover kills."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
ROUNDS = 5


def main() -> None:
    """Print both."""
    sys.path.insert(0, str(ROOT))  # the mutants are the tests'
    from fullframe.entry.build import build
    from fullframe.entry.strategy import STRATEGIES
    from fullframe.table import open_table
    from fullframe.toolchain.find import find_toolchain

    table, toolchain = open_table("x86-64"), find_toolchain()
    print(f"built with {toolchain}")
    with TemporaryDirectory(prefix="fullframe-") as directory:
        images = {
            name: build(strategy, table, toolchain, Path(directory) / name).image_path
            for name, strategy in STRATEGIES.items()
        }
        for name, path in images.items():
            _time(name, path, name)
        for path in sorted((ROOT / "build" / "linux").glob("*/entry.o")):
            _time(f"Linux 6.1, {path.parent.name}, entry.o", path, "linux-6.1")
        for path in sorted((ROOT / "build" / "linux").glob("*/vmlinux")):
            _time(f"Linux 6.1, {path.parent.name}, vmlinux", path, "linux-6.1")
        for name, path in images.items():
            _kill(name, path)


def _time(title: str, path: Path, contract: str) -> None:
    from fullframe.entry.prove.prove import prove_image

    def once() -> str:
        proof = prove_image(path, contract)
        verdict = "proved" if proof.proved else "NOT proved"
        return f"{verdict}, {proof.boundary_count} boundaries"

    seconds, answer = _measured(once)
    spread = max(seconds) - min(seconds)
    median = statistics.median(seconds)
    print(f"{title}: {answer}; median {median:.2f} s of {ROUNDS} (spread {spread:.2f} s)")


def _measured(run: Callable[[], str]) -> tuple[list[float], str]:
    seconds, answer = [], ""
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - begin)
    return seconds, answer


def _kill(name: str, path: Path) -> None:
    from tests.prove.mutants import applied, code_mutants, equivalent, table_mutants

    from fullframe.elf.image import Image
    from fullframe.entry.prove.prove import prove_image
    from fullframe.table import open_table

    data, image, table = path.read_bytes(), Image.open(path), open_table("x86-64")
    killed = same = 0
    for mutant in [*code_mutants(image), *table_mutants(image)]:
        proof = prove_image(applied(image, data, mutant), name, table=table, stop_at_first=True)
        if not proof.proved:
            killed += 1
        elif (reason := equivalent(image, name, mutant)) is not None:
            same += 1
            print(f"{name}: equivalent: {mutant.name}: {reason}")
        else:
            print(f"{name}: SURVIVES: {mutant.name}")
    total = sum(1 for _ in [*code_mutants(image), *table_mutants(image)])
    print(f"{name}: {killed} mutants killed of {total}, {same} equivalent")
