"""Baselines: known findings, so that a build fails only on new ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fullframe.cfi.findings import Finding
from fullframe.errors import InputError, Place

#: Version of the baseline file.
BASELINE_SCHEMA = 1


def read_baseline(path: str) -> Counter[str]:
    """Read a baseline.

    Args:
        path: a file that :func:`baseline_text` made.

    Returns:
        How many findings of each fingerprint are known; raises InputError on anything else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            Place(path), f"cannot be read: {error}", "a baseline file", "check the path"
        ) from None
    try:
        data = json.loads(text)
        known = data["known"]
        if data["schema"] != BASELINE_SCHEMA or not isinstance(known, dict):
            raise ValueError(f"schema {data.get('schema')!r}")
        counts = Counter({str(key): int(number) for key, number in known.items()})
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            Place(path),
            f"not a baseline: {error}",
            f'an object with "schema": {BASELINE_SCHEMA} and "known"',
            "write it again with --write-baseline",
        ) from None
    return counts


def baseline_text(findings: Iterable[Finding]) -> str:
    """Return the baseline of these findings; the same findings give the same text."""
    counts = Counter(_key(finding) for finding in findings)
    # All ASCII: a path that is no text has no other form that can be written.
    body = {"schema": BASELINE_SCHEMA, "known": dict(sorted(counts.items()))}
    return json.dumps(body, indent=1) + "\n"


def new_findings(findings: Iterable[Finding], known: Counter[str]) -> list[Finding]:
    """Return the findings that a baseline does not hold."""
    left = known.copy()
    new = []
    for finding in findings:
        key = _key(finding)
        if left[key] > 0:
            left[key] -= 1
        else:
            new.append(finding)
    return new


def _key(finding: Finding) -> str:
    # The directory is left out: the same library is built and installed in different places.
    return f"{Path(finding.path).name}|{finding.fingerprint}"
