"""``fullframe explain``: what a diagnostic means, how it comes about, how to mend it."""

from __future__ import annotations

import argparse
import difflib
import importlib
import textwrap

from fullframe.cli.output import print_json
from fullframe.diagnostics import Diagnostic
from fullframe.errors import EXIT_OK, UsageError

#: Rooms with a catalogue of diagnostics.
_ROOMS = (
    "fullframe.cfi.diagnostics",
    "fullframe.entry.prove.diagnostics",
    "fullframe.run.diagnostics",
    "fullframe.table.diagnostics",
)
SCHEMA = 1


def all_diagnostics() -> dict[str, Diagnostic]:
    """Return every diagnostic of every room by its code."""
    found: dict[str, Diagnostic] = {}
    for room in _ROOMS:
        found.update(importlib.import_module(room).DIAGNOSTICS)
    return dict(sorted(found.items()))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("code", nargs="?", metavar="CODE", help="such as FF-C001; none: list all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    known = all_diagnostics()
    if arguments.code is None:
        chosen = list(known.values())
    else:
        code = arguments.code.upper()
        if code not in known:
            near = difflib.get_close_matches(code, known, 3) or list(known)[:3]
            raise UsageError(
                f"{arguments.code}: no such diagnostic; there are {len(known)}, such as "
                f"{', '.join(near)}\n  next: `fullframe explain` without a code lists them all"
            )
        chosen = [known[code]]
    if arguments.json:
        fields = ("code", "title", "meaning", "cause", "fix")
        entries = [{name: getattr(entry, name) for name in fields} for entry in chosen]
        print_json({"schema": SCHEMA, "diagnostics": entries})
    elif arguments.code is None:
        for entry in chosen:
            print(f"{entry.code}  {entry.title}")
    else:
        print(_text(chosen[0]))
    return EXIT_OK


def _text(entry: Diagnostic) -> str:
    parts = [f"{entry.code}: {entry.title}"]
    for title, text in (("Meaning", entry.meaning), ("Cause", entry.cause), ("Fix", entry.fix)):
        parts.append(textwrap.fill(text, 78, initial_indent=f"{title}: ", subsequent_indent="  "))
    return "\n\n".join(parts)
