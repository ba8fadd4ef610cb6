"""``python -m benchmarks [NAME...]``: run the benchmarks, in order of their names.

A benchmark is a module of this package with a ``main()``. One that fails does not keep the others
from running; the exit code then is 1.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback

import benchmarks


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all of them.

    Args:
        names: module names without the package; empty: all.

    Returns:
        The exit code: 0, 1 if a benchmark failed, 2 if a name is unknown.
    """
    known = sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if not module.name.startswith("_")
    )
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(known)}")
        return 2
    failed = []
    for name in names or known:
        print(f"== {name}", flush=True)
        try:
            importlib.import_module(f"benchmarks.{name}").main()
        except Exception:  # noqa: BLE001 - whatever it is, the other benchmarks still run
            traceback.print_exc()
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
