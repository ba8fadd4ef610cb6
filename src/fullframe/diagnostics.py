"""What every diagnostic's catalogue entry says; the rooms hold their own catalogues of them.

A room that reports findings has a ``diagnostics.py`` with a ``DIAGNOSTICS`` dictionary from code
to :class:`Diagnostic`; ``fullframe explain CODE`` reads those.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """The catalogue entry of one diagnostic.

    Attributes:
        code: stable code, such as ``FF-T001``; a code is never used again for something else.
        title: a few words.
        meaning: what is so when this is reported.
        cause: how it usually comes about.
        fix: what to do about it.
    """

    code: str
    title: str
    meaning: str
    cause: str
    fix: str


def catalogue(diagnostics: Iterable[Diagnostic]) -> dict[str, Diagnostic]:
    """Index diagnostics by their code.

    Args:
        diagnostics: any number of entries.

    Returns:
        Code to entry, in the order given.

    Raises:
        ValueError: if a code is there twice (a bug in the catalogue).
    """
    result: dict[str, Diagnostic] = {}
    for diagnostic in diagnostics:
        if diagnostic.code in result:
            raise ValueError(f"diagnostic code {diagnostic.code} is used twice")
        result[diagnostic.code] = diagnostic
    return result
