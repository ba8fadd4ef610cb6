"""``fullframe vdso step``: step through a vDSO, and ask unwinders at every instruction."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

from fullframe.cli.arguments import path_object
from fullframe.cli.output import print_json
from fullframe.errors import EXIT_FINDINGS, EXIT_OK

_UNWINDERS = ("gdb", "libgcc", "libunwind", "fullframe")


def add_command(commands: Any) -> None:
    """Add the command to the group ``vdso``."""
    step: argparse.ArgumentParser = commands.add_parser(
        "step",
        help="step a process through a vDSO, and ask unwinders at every instruction",
        description="Steps a process instruction by instruction through __kernel_vsyscall, through "
        "return from a signal, and through the __vdso_* functions, and at each instruction asks "
        "gdb, libgcc's _Unwind_Backtrace, libunwind and fullframe's own reading of the rows for "
        "the caller's registers. They must be what they were at the call, or where the signal "
        "interrupted. What this processor or kernel cannot run is stepped in the emulator. "
        "The program is built for it; no code of unknown origin runs but that of FILE. Exit code 1 "
        "if an unwinder is wrong anywhere.",
    )
    step.add_argument(
        "--image",
        type=path_object,
        metavar="FILE",
        help="the vDSO to step through: its code is run; default: the running kernel's own",
    )
    step.add_argument(
        "--machine",
        choices=("i386", "x86-64"),
        help="of the program; default: the image's, or x86-64",
    )
    step.add_argument(
        "--function",
        action="append",
        default=[],
        metavar="NAME",
        help="step only through this one; may be given again",
    )
    step.add_argument(
        "--unwinder",
        action="append",
        default=[],
        choices=_UNWINDERS,
        help="ask only this one, which must be there; may be given again; default: all that are",
    )
    step.add_argument(
        "--timeout",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long stepping through one call may take; default: 60",
    )
    step.add_argument("--toolchain", choices=("gnu", "llvm", "zig"), help="build with this one")
    step.add_argument("--json", action="store_true", help="print one JSON object")
    step.set_defaults(handler=_step)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a number of seconds from 0.1 to 86400"
        )
    return value


@contextlib.contextmanager
def _ending_on_termination() -> Iterator[None]:
    """Let a request to end (``timeout``, a build that is stopped) remove what was made."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _step(arguments: argparse.Namespace) -> int:
    from fullframe.report.vdso_step import step_json, write_step
    from fullframe.vdso.step.result import StepOptions
    from fullframe.vdso.step.stepping import step_image

    options = StepOptions(
        image=arguments.image,
        machine=arguments.machine,
        functions=tuple(arguments.function),
        unwinders=tuple(arguments.unwinder),
        limit_seconds=arguments.timeout,
        toolchain=arguments.toolchain,
    )
    with _ending_on_termination():
        result = step_image(options)
    if arguments.json:
        print_json(step_json(result))
    else:
        write_step(sys.stdout, result)
    return EXIT_FINDINGS if result.failures() else EXIT_OK
