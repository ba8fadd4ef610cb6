"""Put the program's own output into README.md and docs/: what they show is what it prints.

A block of output follows a line ``<!-- output of: COMMAND -->``. Every such block is replaced by
what the command prints now; ``tests/docs`` holds them to it. Usage::

    python scripts/update_docs.py [TEXT...]

With TEXT, only blocks whose command contains one of them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?P<head><!-- output of: (?P<command>fullframe[^\n]*) -->\n```text\n)"
    r"(?P<output>.*?)(?P<tail>^```$)",
    re.MULTILINE | re.DOTALL,
)


def documents() -> list[Path]:
    """List the documents that may hold such blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def output_of(command: str) -> str:
    """Run a fullframe command and return what it prints on stdout, as in a window 80 wide."""
    words = shlex.split(command)[1:]
    return subprocess.run(
        [sys.executable, "-m", "fullframe", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONPATH": str(ROOT / "src")},
    ).stdout


def main(wanted: list[str]) -> None:
    """Replace the blocks of all the documents."""

    def replaced(block: re.Match[str]) -> str:
        command = block["command"]
        if wanted and not any(each in command for each in wanted):
            return block[0]
        print(command)
        return block["head"] + output_of(command).rstrip("\n") + "\n" + block["tail"]

    for path in documents():
        text = path.read_text(encoding="utf-8")
        new = BLOCK.sub(replaced, text)
        if new != text:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
