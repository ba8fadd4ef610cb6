"""Breaks the CFI of the whole corpus in every way there is, with every compiler there is.

Prints the kill rate by source and by kind of mutation, and every survivor whose changed rows are
not shown to be true. The same campaign as ``tests/cfi_check/test_mutants.py``, in full.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from tests.cfi_check.campaign import ASSEMBLY, Result, compiled_sources, run

from fullframe.errors import FullframeError
from fullframe.toolchain.find import KINDS, Toolchain, find_toolchain

_COLUMNS = ("killed", "missed", "true", "equivalent", "refused")


def main() -> None:
    """Run the campaign with each toolchain."""
    by_kind: dict[str, Counter[str]] = {}
    for kind in KINDS:
        try:
            toolchain = find_toolchain(kind)
        except FullframeError as error:
            print(f"{kind}: left out: {str(error).splitlines()[0]}")
            continue
        print(f"-- {toolchain}")
        for result in _results(toolchain):
            _print(result)
            for name, counts in result.by_kind.items():
                by_kind.setdefault(name, Counter()).update(counts)
    _print_kinds(by_kind)


def _results(toolchain: Toolchain):
    sources = compiled_sources(toolchain)
    if toolchain.kind == "gnu":
        sources = ASSEMBLY + sources
    for source in sources:
        with tempfile.TemporaryDirectory() as directory:
            yield run(source, toolchain, Path(directory))


def _print(result: Result) -> None:
    print(result.summary(), flush=True)
    executed, total = result.executed
    print(f"    executed {executed} of {total} boundaries of the originals")
    own = Counter((name, answer) for name, answer, _ in result.unproved)
    if own:
        wrong = sum(count for (_, answer), count in own.items() if answer == "WRONG")
        print(
            f"    the compiler's own CFI: {wrong} boundaries wrong, {own.total() - wrong} not "
            f"proved; execution shows {len(result.false_originals)} false"
        )
    for mutant in result.disagreements:
        print(f"    one pass and following everything disagree: {mutant}")
    for outcome in result.missed:
        print(f"    MISSED {outcome.mutant}: {dict(outcome.answers)}")


def _print_kinds(by_kind: dict[str, Counter[str]]) -> None:
    print(f"{'kind of mutation':22}" + "".join(f"{name:>12}" for name in _COLUMNS) + "   killed %")
    total = Counter[str]()
    for kind, counts in sorted(by_kind.items()):
        total += counts
        print(_row(kind, counts))
    print(_row("all", total))
    print(
        "missed: a row became false, or is not proved, and nothing is reported; true: the changed "
        "rows hold as well; equivalent: no row changed at a reachable boundary"
    )


def _row(kind: str, counts: Counter[str]) -> str:
    decided = counts["killed"] + counts["missed"]
    rate = f"{100 * counts['killed'] / decided:10.3f}" if decided else f"{'-':>10}"
    return f"{kind:22}" + "".join(f"{counts[name]:12}" for name in _COLUMNS) + rate


if __name__ == "__main__":
    main()
