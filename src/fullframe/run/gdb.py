"""A program under gdb, driven by its machine interface (MI).

gdb runs as it would for a user, but for what would make it wait, look for files elsewhere or read
somebody's settings. Source: "GDB/MI" in "Debugging with GDB".
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from fullframe.errors import FullframeError
from fullframe.run.stepped import ProgramDiedError, TimeLimitError, child_environment
from fullframe.toolchain.command import run_tool
from fullframe.toolchain.find import find_tool
from fullframe.x86.registers import FLAGS, IP, Machine

#: What a debugger may say in one answer; far above any honest one.
_MOST_BYTES = 1 << 20
#: What it may take to end when it is told to; then it is killed, and what it debugs with it
#: (``PTRACE_O_EXITKILL``, since gdb 7.6).
_SECONDS_TO_END = 1
_VALUE = re.compile(r'number="(\d+)",value="(0x[0-9a-f]+)"')
_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')
_STOPPED = re.compile(r'^\*stopped(?:,reason="([\w-]+)")?', re.MULTILINE)
_STARTED = re.compile(r'=thread-group-started,.*pid="(\d+)"')
_SIGNAL = re.compile(r'signal-name="(\w+)"')

_SETTINGS = (
    "-gdb-set confirm off",
    "-gdb-set pagination off",
    "-gdb-set startup-with-shell off",
    "-gdb-set disable-randomization on",
    "-gdb-set step-mode on",
    "-gdb-set print thread-events off",
    # What the program starts is held, and killed with it.
    "-gdb-set detach-on-fork off",
)
#: Before anything is loaded: no network, no scripts of the user's or the libraries'.
_EARLY = ("set debuginfod enabled off", "set auto-load off")


class GdbError(FullframeError):
    """gdb refused a command, or is gone."""

    exit_code = 4


class GdbProcess:
    """One gdb with one program; a context manager that leaves neither behind.

    Args:
        program: the executable.
        arguments: its arguments.
        machine: of the program.
        directory: for what the program prints.
        limit_seconds: how long it may take from here, and from each restart of the clock.

    Attributes:
        pid: the program's process.

    Raises:
        ToolMissingError: no gdb.
        GdbError: gdb cannot run the program.
    """

    def __init__(
        self,
        program: Path,
        arguments: Sequence[str],
        machine: Machine,
        directory: Path,
        *,
        limit_seconds: float = 60,
    ) -> None:
        self.machine = machine
        self._limit_seconds = limit_seconds
        self._deadline = time.monotonic() + limit_seconds
        self._buffer = ""
        self._numbers: dict[int, int] = {}
        self.pid = 0
        self._process = self._start(["--args", str(program), *arguments], directory)
        assert self._process.stdout is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _start(arguments: Sequence[str], directory: Path) -> subprocess.Popen[bytes]:
        early = [word for command in _EARLY for word in ("-iex", command)]
        command = [find_tool("gdb"), "-nx", "-q", "--interpreter=mi2", *early]
        environment = {**os.environ, "LC_ALL": "C"}
        environment.pop("DEBUGINFOD_URLS", None)
        with (directory / "gdb.err").open("wb") as errors:
            try:
                return subprocess.Popen(
                    [*command, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=directory,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise GdbError(f"gdb cannot be run: {error.strerror}") from error

    def _set_up(self) -> None:
        """Let nothing wait for a user, and run the program to its first breakpoint."""
        self._until_prompt()
        for setting in _SETTINGS:
            # An old gdb may lack one.
            with contextlib.suppress(GdbError):
                self.command(setting)
        self.command(f"-inferior-tty-set {os.devnull}")
        self.console("unset environment")
        for name, value in child_environment().items():
            self.console(f"set environment {name} {value}")
        for name in ("SIGUSR1", "SIGUSR2"):
            self.console(f"handle {name} nostop noprint pass")
        self._resume("-exec-run")
        self._name_registers()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End gdb and what it debugs."""
        process = self._process
        debugged = _traced_by(process.pid)
        if process.poll() is None:
            with contextlib.suppress(OSError, FullframeError, subprocess.TimeoutExpired):
                # gdb kills what it runs, which is in a process group of its own.
                self._send("-gdb-exit")
                process.wait(_SECONDS_TO_END)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _await_end(debugged)
        self._selector.close()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    # ------------------------------------------------------------------ the machine interface

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise GdbError(f"gdb is gone: {error.strerror}") from error

    def _line(self) -> str:
        """Return the next line of what gdb says."""
        while True:
            left = self._deadline - time.monotonic()
            if left > 0 and "\n" in self._buffer:
                break
            if left <= 0 or not self._selector.select(left):
                raise TimeLimitError(f"gdb had not finished after {self._limit_seconds:g} seconds")
            assert self._process.stdout is not None
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data or len(self._buffer) > _MOST_BYTES:
                raise GdbError("gdb ended" if not data else "gdb does not stop talking")
            self._buffer += data.decode("utf-8", "replace")
        line, _, self._buffer = self._buffer.partition("\n")
        return line.rstrip("\r")

    def _until_prompt(self) -> list[str]:
        lines = []
        while (line := self._line()).strip() != "(gdb)":
            lines.append(line)
        return lines

    def command(self, line: str) -> str:
        """Give one MI command; return its result record.

        Raises:
            GdbError: gdb refused it; the message is gdb's.
        """
        self._send(line)
        for each in self._until_prompt():
            self._learn_pid(each)
            if each.startswith("^error"):
                message = _MESSAGE.search(each)
                raise GdbError(_unescaped(message[1]) if message else each)
            if each.startswith("^"):
                return each
        raise GdbError(f"gdb gave no answer to {line}")

    def _learn_pid(self, line: str) -> None:
        found = _STARTED.match(line)
        if found is not None:
            self.pid = int(found[1])

    def console(self, line: str) -> None:
        """Give one command of the command line."""
        escaped = line.replace("\\", "\\\\").replace('"', '\\"')
        self.command(f'-interpreter-exec console "{escaped}"')

    def _resume(self, line: str) -> None:
        """Give a command that lets the program run, and wait until it stops."""
        self.command(line)
        while True:
            text = self._line()
            self._learn_pid(text)
            stopped = _STOPPED.match(text)
            if stopped is None:
                continue
            self._until_prompt()
            reason = stopped[1] or ""
            if reason.startswith("exited"):
                raise ProgramDiedError(f"ended under gdb ({reason})")
            name = _SIGNAL.search(text)
            if name is not None and name[1] != "SIGTRAP":
                number = getattr(signal, name[1], None)
                raise ProgramDiedError(f"got {name[1]} under gdb", number)
            return

    # ------------------------------------------------------------------ the program

    def _name_registers(self) -> None:
        answer = self.command("-data-list-register-names")
        names = re.findall(r'"(\w*)"', answer.partition("register-names=")[2])
        general = self.machine.register_names[: IP + 1]
        wanted = {name: number for number, name in enumerate(general) if name}
        wanted["eflags"] = FLAGS  # gdb's name on both machines
        self._numbers = {index: wanted[name] for index, name in enumerate(names) if name in wanted}
        self._list = " ".join(map(str, self._numbers))

    def registers(self, level: int = 0) -> dict[int, int]:
        """Return the registers of a frame, by hardware number (and ``IP``, ``FLAGS``).

        Args:
            level: 0 the innermost frame, 1 its caller.

        Returns:
            Those that gdb has a value for.

        Raises:
            GdbError: there is no such frame; the message is gdb's.
        """
        answer = self.command(
            f"-data-list-register-values --thread 1 --frame {level} x {self._list}"
        )
        mask = (1 << self.machine.bits) - 1
        return {
            self._numbers[int(number)]: int(value, 16) & mask
            for number, value in _VALUE.findall(answer)
        }

    def read(self, address: int, size_bytes: int) -> bytes:
        """Read memory; nothing where it cannot be read."""
        try:
            answer = self.command(f"-data-read-memory-bytes {address:#x} {size_bytes}")
        except GdbError:
            return b""
        contents = re.search(r'contents="([0-9a-f]*)"', answer)
        return bytes.fromhex(contents[1]) if contents else b""

    def write(self, address: int, data: bytes) -> None:
        """Write memory; nothing where it is not mapped."""
        with contextlib.suppress(GdbError):
            self.command(f"-data-write-memory-bytes {address:#x} {data.hex()}")

    def write_registers(self, values: Mapping[int, int]) -> None:
        """Set registers of the innermost frame by hardware number (and ``IP``)."""
        self.command("-stack-select-frame 0")
        for number, value in values.items():
            name = self.machine.register_names[number]
            self.command(f'-data-evaluate-expression "${name} = {value:#x}"')

    def run_to_breakpoint(self) -> None:
        """Run on to a breakpoint instruction of the program's own."""
        self._resume("-exec-continue")

    def run_to(self, addresses: Iterable[int]) -> None:
        """Run on to the first of some addresses."""
        for address in addresses:
            self.command(f"-break-insert *{address:#x}")
        try:
            self._resume("-exec-continue")
        finally:
            self.command("-break-delete")

    def restart_clock(self) -> None:
        """Let the limit of time begin anew."""
        self._deadline = time.monotonic() + self._limit_seconds

    def stop_clock(self) -> None:
        """Nothing to stop: time is looked at only where gdb is waited for."""

    def step(self, number: int = 0) -> None:
        """Let gdb execute one instruction; with a signal, enter its handler instead."""
        if number:
            self.console(f"queue-signal {signal.Signals(number).name}")
        self._resume("-exec-step-instruction")

    def add_symbol_file(self, path: Path, load_bias: int) -> None:
        """Tell gdb of an image that the program's loader does not know."""
        self.console(f"add-symbol-file {path} -o {load_bias:#x}")


def _traced_by(pid: int) -> list[int]:
    """Return the processes and threads that one traces (``TracerPid`` of proc(5))."""
    found = []
    for path in Path("/proc").glob("[0-9]*/task/[0-9]*/status"):
        with contextlib.suppress(OSError):
            if f"\nTracerPid:\t{pid}\n" in path.read_text("utf-8", "replace"):
                found.append(int(path.parent.name))
    return found


def _await_end(pids: Iterable[int]) -> None:
    """Wait until processes whose tracer has died are dead: the kernel kills them after it."""
    for pid in pids:
        for _ in range(500):
            try:
                status = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
            except OSError:
                break
            if "\nState:\tZ" in status or "\nState:\tX" in status:
                break
            time.sleep(0.01)


def gdb_version() -> str:
    """Return gdb's own first line.

    Raises:
        ToolMissingError: no gdb.
    """
    text = run_tool([find_tool("gdb"), "-nx", "--version"], timeout_seconds=30).stdout
    return next(iter(text.splitlines()), "gdb")


def _unescaped(text: str) -> str:
    return text.replace("\\n", " ").replace('\\"', '"').replace("\\\\", "\\").strip()
