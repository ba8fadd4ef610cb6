"""Reports of vDSO images: JSON for tools, lines for people."""

from __future__ import annotations

from typing import IO, Any

from fullframe.report.console import printable
from fullframe.vdso.dump import Dump

DUMP_SCHEMA = 1


def dump_json(result: Dump) -> dict[str, Any]:
    """Return the JSON object of ``vdso dump``."""
    return {
        "schema": DUMP_SCHEMA,
        "images": [
            {
                "abi": item.vdso.abi,
                "path": str(item.path),
                "size_bytes": len(item.vdso.data),
                "written": item.written,
            }
            for item in result.images
        ],
        "missing": [{"abi": abi, "reason": reason} for abi, reason in result.missing.items()],
    }


def write_dump(out: IO[str], log: IO[str], result: Dump) -> None:
    """Write what was saved to ``out``, and what cannot be had here to ``log``."""
    for item in result.images:
        action = "written" if item.written else "unchanged"
        out.write(
            f"{printable(str(item.path))}: {item.vdso.abi}, {len(item.vdso.data)} bytes, {action}\n"
        )
    out.flush()
    for reason in result.missing.values():
        log.write(f"left out: {reason}\n")
