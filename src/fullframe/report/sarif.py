"""SARIF 2.1.0 (OASIS standard), for code-scanning services and editors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fullframe import __version__
from fullframe.diagnostics import Diagnostic

#: A rule's name is an identifier: what section names bring along stays out.
_WORDS = re.compile("[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class SarifResult:
    """One result, whatever room it comes from.

    Attributes:
        code: the diagnostic's code.
        level: ``error``, ``warning`` or ``note``.
        message: in words.
        path: the file.
        line: line of a text file, from 1, or None.
        address: address in a binary, or None.
        function: logical location, or None.
        fingerprint: what identifies the result between runs.
    """

    code: str
    level: str
    message: str
    path: str
    line: int | None = None
    address: int | None = None
    function: str | None = None
    fingerprint: str = ""


def sarif(results: Iterable[SarifResult], catalogue: Mapping[str, Diagnostic]) -> dict[str, Any]:
    """Return a SARIF log.

    Args:
        results: what was found.
        catalogue: every code that may occur, described.

    Returns:
        The log as a JSON-ready object.
    """
    rules = [
        {
            "id": entry.code,
            "name": "".join(word.capitalize() for word in _WORDS.findall(entry.title)),
            "shortDescription": {"text": entry.title},
            "fullDescription": {"text": entry.meaning},
            "help": {"text": f"Cause: {entry.cause}\nFix: {entry.fix}"},
        }
        for entry in catalogue.values()
    ]
    index = {rule["id"]: number for number, rule in enumerate(rules)}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "fullframe", "version": __version__, "rules": rules}},
                "results": [_result(result, index) for result in results],
            }
        ],
    }


def _result(result: SarifResult, index: Mapping[Any, int]) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(result.path)}}
    if result.line is not None:
        physical["region"] = {"startLine": result.line}
    if result.address is not None:
        physical["address"] = {"absoluteAddress": result.address}
    location: dict[str, Any] = {"physicalLocation": physical}
    if result.function is not None:
        location["logicalLocations"] = [{"name": result.function, "kind": "function"}]
    out: dict[str, Any] = {
        "ruleId": result.code,
        "ruleIndex": index[result.code],
        "level": result.level,
        "message": {"text": result.message},
        "locations": [location],
    }
    if result.fingerprint:
        out["partialFingerprints"] = {"fullframe/v1": result.fingerprint}
    return out


def _uri(path: str) -> str:
    from pathlib import PurePosixPath
    from urllib.parse import quote

    if PurePosixPath(path).is_absolute():
        return "file://" + quote(os.fsencode(path))
    return quote(os.fsencode(path))  # a path may be bytes that are no text
