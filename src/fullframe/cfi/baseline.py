"""Baselines: known findings, so that a build fails only on new ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fullframe.cfi.findings import Finding
from fullframe.errors import InputError, Place
from fullframe.files import read_at_most
from fullframe.printable import valid

#: Version of the baseline file.
BASELINE_SCHEMA = 1
#: A baseline of this size knows a million findings.
_MOST_BYTES = 128 << 20


def read_baseline(path: str) -> Counter[str]:
    """Read a baseline.

    Args:
        path: a file that :func:`baseline_text` made.

    Returns:
        How many findings of each fingerprint are known; raises InputError on anything else.
    """
    try:
        data = read_at_most(path, _MOST_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            Place(path), f"cannot be read: {reason}", "a baseline file", "check the path"
        ) from None
    if len(data) > _MOST_BYTES:
        raise InputError(
            Place(path),
            f"more than {_MOST_BYTES} bytes",
            "a baseline file",
            "check the path; --write-baseline writes one",
        )
    try:
        body = json.loads(text)
        known = body["known"]
        if body["schema"] != BASELINE_SCHEMA or not isinstance(known, dict):
            raise ValueError(f"schema {body.get('schema')!r}")
        counts = Counter({valid(str(key)): int(number) for key, number in known.items()})
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
    # A path may be bytes that are no text; JSON's readers take only text.
    return valid(f"{Path(finding.path).name}|{finding.fingerprint}")
