"""llvm-mca's figure for a path, where it is installed and where its model applies.

llvm-mca simulates a core by LLVM's scheduling model of it. The models have no stack engine: each
push and pop there waits for the stack pointer of the one before, and a chain of twelve comes out
at several times what any core takes. So a path with push, pop, call or ret gets no figure, nor
does one with privileged or microcoded instructions, for which the models hold placeholders.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from iced_x86 import Formatter, FormatterSyntax

from fullframe.cost.bounds import Microarchitecture, undercounted
from fullframe.cost.path import decoded
from fullframe.errors import FullframeError, ToolMissingError
from fullframe.toolchain.command import run_tool
from fullframe.toolchain.find import find_tool
from fullframe.x86.trace import TracedInstruction

_ITERATIONS = 200
_VERSION = re.compile(r"LLVM version (\d+)")


@dataclass(frozen=True, slots=True)
class McaFigure:
    """What llvm-mca says of a path, or why it is not asked.

    Attributes:
        cycles: core cycles a pass over the path in a steady state; None: no figure.
        reason: why there is none; "" where there is one.
        core: llvm-mca's name of the core.
        tool: path of the llvm-mca used; "" if none was.
    """

    cycles: float | None
    reason: str
    core: str
    tool: str = ""


def mca_figure(
    path: Sequence[TracedInstruction], core: Microarchitecture, *, search_path: str | None = None
) -> McaFigure:
    """Ask llvm-mca how long a path takes on a core.

    Args:
        path: the executed instructions; branches in it count as the instructions that they are.
        core: the microarchitecture.
        search_path: directories to look for llvm-mca in, as in PATH; None: PATH itself.

    Returns:
        The figure, or the reason why there is none; never an error of the tool.

    Raises:
        InputError: an encoding is not exactly one instruction.
    """
    if not path:
        return McaFigure(None, "does not apply: the path is empty", core.mca)
    if any(item.is_stack_instruction for item in decoded(path)):
        return McaFigure(None, "does not apply: no stack engine in the model", core.mca)
    if placeholders := undercounted(path):
        names = ", ".join(dict.fromkeys(placeholders))
        return McaFigure(None, f"does not apply: the model only guesses at {names}", core.mca)
    try:
        tool = find_tool("llvm-mca", path=search_path, newest=True)
    except ToolMissingError:
        return McaFigure(None, "llvm-mca is not installed", core.mca)
    version = _llvm_version(tool)
    if version is not None and version < core.mca_since:
        reason = f"LLVM {version} has no model of it; next: LLVM {core.mca_since} or newer"
        return McaFigure(None, reason, core.mca, tool)
    formatter = Formatter(FormatterSyntax.GAS)
    source = "".join(f"{formatter.format(item)}\n" for item in decoded(path))
    command = [
        tool, "-mtriple=x86_64-linux-gnu", f"-mcpu={core.mca}", f"-iterations={_ITERATIONS}",
        "-instruction-info=false", "-resource-pressure=false", "-json",
    ]  # fmt: skip
    try:
        cycles = _cycles(run_tool(command, input_text=source, timeout_seconds=60).stdout)
    except (FullframeError, ValueError, LookupError, TypeError) as error:
        summary = next(iter(str(error).splitlines()[1:2]), str(error))
        return McaFigure(None, f"llvm-mca failed: {summary}", core.mca, tool)
    return McaFigure(cycles, "", core.mca, tool)


@cache
def _llvm_version(tool: str) -> int | None:
    """Return the major version of the LLVM that an llvm-mca is of; None where it does not say."""
    with contextlib.suppress(FullframeError):
        found = _VERSION.search(run_tool([tool, "--version"], timeout_seconds=30).stdout)
        if found is not None:
            return int(found[1])
    return None


def _cycles(output: str) -> float:
    """Read the cycles of one iteration from llvm-mca's JSON."""
    summary = json.loads(output[output.index("{") :])["CodeRegions"][0]["SummaryView"]
    return float(summary["TotalCycles"] / summary["Iterations"])
