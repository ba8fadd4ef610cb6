"""The one wrapper around every subprocess: quoted, bounded in time and output, no shell.

Every tool that fullframe runs is run by :func:`run_tool`, so that a missing tool, a failure, a
hang and a flood of output are reported in the same way everywhere, and so that the log (logger
``fullframe.toolchain``, level INFO) shows each command as it could be typed into a shell.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fullframe.errors import ToolFailedError, ToolMissingError

_log = logging.getLogger("fullframe.toolchain")

#: What a tool may print before it is stopped, stdout and stderr each, in bytes.
OUTPUT_LIMIT_BYTES = 64 << 20

_READ_BYTES = 1 << 16

#: Debian's package of each tool that fullframe can make use of.
DEBIAN_PACKAGES: Mapping[str, str] = {
    "as": "binutils",
    "clang": "clang",
    "gcc": "gcc",
    "gdb": "gdb",
    "ld": "binutils",
    "ld.lld": "lld",
    "llvm-dwarfdump": "llvm",
    "llvm-mc": "llvm",
    "llvm-mca": "llvm",
    "objcopy": "binutils",
    "objdump": "binutils",
    "qemu-system-x86_64": "qemu-system-x86",
    "readelf": "binutils",
}


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished tool left.

    Attributes:
        returncode: its exit code; negative: the signal that ended it.
        stdout: its standard output, decoded as UTF-8 (undecodable bytes replaced).
        stderr: its standard error, likewise.
    """

    returncode: int
    stdout: str
    stderr: str


def missing_tool(name: str) -> ToolMissingError:
    """Make the error for a tool that is not on this machine, with the way to get it."""
    base = Path(name).name
    package = DEBIAN_PACKAGES.get(base.rstrip("-0123456789") or base)
    how = (
        f"on Debian or Ubuntu: apt-get install {package}"
        if package
        else "install it, or put its directory on PATH"
    )
    return ToolMissingError(f"{name} is needed and was not found on PATH\n  next: {how}")


def run_tool(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    input_text: str | None = None,
    timeout_seconds: float = 120,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
    output_limit_bytes: int = OUTPUT_LIMIT_BYTES,
) -> Completed:
    """Run one tool to its end.

    The tool runs without a shell, in a session of its own (so that a timeout ends its children
    too), with ``LC_ALL=C``.

    Args:
        command: the program and its arguments.
        cwd: directory to run in; None: the current one.
        input_text: given to the tool on standard input (as UTF-8); None: an empty input.
        timeout_seconds: how long it may take before it is killed.
        environment: variables to set on top of this process's environment.
        check: whether an exit code other than 0 is an error.
        output_limit_bytes: how much it may print on stdout and stderr each before it is killed.

    Returns:
        Exit code and output.

    Raises:
        ToolMissingError: the program does not exist or may not be executed.
        ToolFailedError: it failed (with ``check``), took too long, or printed too much.
    """
    words = [str(word) for word in command]
    _log.info("%s", shlex.join(words))
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**os.environ, **(environment or {}), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL if input_text is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        if cwd is not None and not cwd.is_dir():
            raise ToolFailedError(words, 127, f"no such directory to run in: {cwd}") from error
        raise missing_tool(words[0]) from error
    except (OSError, ValueError) as error:  # not an executable format; a NUL in an argument
        raise ToolFailedError(words, 126, str(error)) from error
    stdout, stderr, stopped = _drain(process, input_text, timeout_seconds, output_limit_bytes)
    if stopped:
        output = f"{_tail(stdout)}{_tail(stderr)}\n[{stopped}]"
        raise ToolFailedError(words, process.returncode, output)
    completed = Completed(process.returncode, _text(stdout), _text(stderr))
    if check and completed.returncode != 0:
        raise ToolFailedError(words, completed.returncode, _tail(stdout) + _tail(stderr))
    return completed


def _text(data: bytes | bytearray) -> str:
    return data.decode("utf-8", errors="replace")


def _tail(data: bytearray, limit: int = 1 << 15) -> str:
    """Keep of a failed tool's output what a person can still read."""
    cut = "" if len(data) <= limit else f"[{len(data) - limit} bytes left out]\n"
    return cut + _text(data[-limit:])


class _Reader(threading.Thread):
    """Reads one pipe to its end, or to the limit, in the background."""

    def __init__(self, pipe: IO[bytes], limit_bytes: int, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self.data = bytearray()
        self.too_much = False
        self._pipe = pipe
        self._limit_bytes = limit_bytes
        self._process = process

    def run(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), _READ_BYTES):
                room = self._limit_bytes - len(self.data)
                self.data += chunk[:room]
                if len(chunk) > room:
                    self.too_much = True
                    _kill(self._process)
                    return


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # The session that it leads: its children would keep the pipes open.
        os.killpg(process.pid, signal.SIGKILL)


def _feed(pipe: IO[bytes], text: str) -> None:
    # A tool that ends before it has read everything is no error of ours.
    with contextlib.suppress(BrokenPipeError), pipe:
        pipe.write(text.encode())


def _drain(
    process: subprocess.Popen[bytes],
    input_text: str | None,
    timeout_seconds: float,
    limit_bytes: int,
) -> tuple[bytearray, bytearray, str]:
    """Feed and read a process to its end; the last item says why it was stopped, if it was."""
    assert process.stdout is not None
    assert process.stderr is not None
    readers = [_Reader(pipe, limit_bytes, process) for pipe in (process.stdout, process.stderr)]
    threads: list[threading.Thread] = list(readers)
    if input_text is not None:
        assert process.stdin is not None
        threads.append(
            threading.Thread(target=_feed, args=(process.stdin, input_text), daemon=True)
        )
    stopped = ""
    try:
        for thread in threads:
            thread.start()
        process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        stopped = f"killed: not finished after {timeout_seconds:g} seconds"
    finally:
        # Also after a normal end: a child left behind would hold the pipes open for ever.
        _kill(process)
        process.wait()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if any(reader.too_much for reader in readers):
        stopped = f"killed: printed more than {limit_bytes} bytes"
    return readers[0].data, readers[1].data, stopped
