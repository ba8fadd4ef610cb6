"""A traced process: single-stepped by ptrace, its registers and memory read and written.

Source: ptrace(2), ``sys/user.h`` (``struct user_regs_struct`` of x86-64, which a 64-bit tracer is
given of a 32-bit process too). The traced program asks to be traced itself (``PTRACE_TRACEME``), so
that nothing of Python runs between fork and exec. It cannot outlive its tracer: the kernel kills it
(``PTRACE_O_EXITKILL``). Processes that the program starts are traced too (``PTRACE_O_TRACEFORK``
and its kin), never let run, and end with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from fullframe.errors import ToolMissingError
from fullframe.run.stepped import ProgramDiedError, TimeLimitError
from fullframe.x86.registers import AX, BP, BX, CX, DI, DX, FLAGS, IP, R8, SI, SP

_CONT, _SINGLESTEP, _GETREGS, _SETREGS, _DETACH = 7, 9, 12, 13, 17
_SETOPTIONS, _GETEVENTMSG = 0x4200, 0x4201
#: The process does not outlive us, and what it starts (by fork, vfork, clone) stops before its
#: first instruction.
_OPTIONS = 0x00100000 | 0x2 | 0x4 | 0x8
_WALL = 0x40000000

#: ``struct user_regs_struct``: 27 words.
_USER_REGISTERS = struct.Struct("<27Q")
#: Hardware number to index in it.
_INDEX = {
    AX: 10, CX: 11, DX: 12, BX: 5, SP: 19, BP: 4, SI: 13, DI: 14, IP: 16, FLAGS: 18,
    R8: 9, R8 + 1: 8, R8 + 2: 7, R8 + 3: 6, R8 + 4: 3, R8 + 5: 2, R8 + 6: 1, R8 + 7: 0,
}  # fmt: skip
_ORIG_AX = 15
#: What the program exits with where the kernel does not let it be traced.
_FORBIDDEN = 91


class CannotRunError(ToolMissingError):
    """This machine does not run programs of that kind."""


class TracedProcess:
    """One process under ptrace, stopped whenever a method returns.

    A context manager: at its end the process is dead and waited for. All calls must come from the
    thread that made it (ptrace(2)).

    Args:
        command: the program and its arguments; it must ask to be traced.
        messages: file that takes what the program prints on stderr.
        bits: 32 or 64: of the program.
        limit_seconds: how long it may live, from here and from each restart of the clock.
        environment: the program's environment, all of it.

    Raises:
        CannotRunError: this machine does not run the program.
        ToolMissingError: this machine has no ptrace for it, or forbids it.
        ProgramDiedError: the program ended before it was traced.
    """

    def __init__(
        self,
        command: Sequence[str],
        messages: Path,
        *,
        bits: int,
        limit_seconds: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if platform.machine() != "x86_64" or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise ToolMissingError(
                "stepping a process needs an x86-64 Linux and a 64-bit Python\n"
                "  next: run it on such a machine"
            )
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype = ctypes.c_long
        self._libc.ptrace.argtypes = [
            ctypes.c_long,
            ctypes.c_long,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self.bits = bits
        self._mask = (1 << bits) - 1
        self._messages = messages
        self._limit_seconds = limit_seconds
        self._ended = False
        self._late = False
        self._entering = False
        self._lock = threading.Lock()
        self._memory: int | None = None
        self._resumed_by = _CONT
        self._started: list[int] = []
        self.pid = self._spawn(command, environment or {})
        self._timer = threading.Timer(0, self._out_of_time)
        self.restart_clock()
        try:
            self._expect(signal.SIGTRAP, "it was started")  # at its exec, once it is traced
            self._ptrace(_SETOPTIONS, 0, _OPTIONS)
            self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(self._messages), os.O_WRONLY | os.O_CREAT, 0o600),
        ]
        try:
            # A session of its own: an interrupt from the terminal is for the tracer.
            return os.posix_spawn(
                command[0], list(command), dict(environment), file_actions=actions, setsid=True
            )
        except OSError as error:
            # ENOENT is also the loader of 32-bit programs, where that is not there.
            raise CannotRunError(
                f"a {self.bits}-bit program cannot be run on this machine: {error.strerror}\n"
                "  next: a kernel that runs it, and its loader (Debian: apt-get install libc6-i386)"
            ) from error

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
        """Kill the process, if it lives, and wait for it."""
        self._timer.cancel()
        with self._lock:
            if not self._ended:
                self._kill_all()
        while not self._ended:
            with contextlib.suppress(ProgramDiedError, TimeLimitError):
                self._wait("it was to end")
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None

    def _kill_all(self) -> None:
        """Kill it and what it started."""
        # The group has those that were started without our knowing (CLONE_UNTRACED).
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in (*self._started, self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _end_started(self) -> None:
        """Kill what it started, and wait for that; once it has ended itself."""
        # Its number is not used again while its session has members.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        while self._started:
            pid = self._started.pop()
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                while os.WIFSTOPPED(os.waitpid(pid, _WALL)[1]):
                    pass

    def restart_clock(self) -> None:
        """Let the limit of time begin anew."""
        self._timer.cancel()
        self._timer = threading.Timer(self._limit_seconds, self._out_of_time)
        self._timer.daemon = True
        self._timer.start()

    def stop_clock(self) -> None:
        """Let time pass: the process waits for us."""
        self._timer.cancel()

    def _out_of_time(self) -> None:
        with self._lock:
            if not self._ended:
                self._late = True
                self._kill_all()

    def _ptrace(
        self,
        request: int,
        address: int,
        data: int | ctypes.Array[ctypes.c_char],
        pid: int | None = None,
    ) -> None:
        if request in (_CONT, _SINGLESTEP):
            self._resumed_by = request
        value = ctypes.cast(data, ctypes.c_void_p) if not isinstance(data, int) else data
        if self._libc.ptrace(request, pid or self.pid, address, value) >= 0:
            return
        code = ctypes.get_errno()
        if code == errno.ESRCH:  # killed meanwhile
            self._wait("it was stepped")
        raise ToolMissingError(
            f"ptrace is not allowed here: {os.strerror(code)}\n  next: run it where processes may "
            "be traced (kernel.yama.ptrace_scope below 3, a container with CAP_SYS_PTRACE)"
        )

    def _wait(self, doing: str) -> int:
        """Wait for a stop and return its signal; raise where the process ended."""
        while True:
            _, status = os.waitpid(self.pid, _WALL)
            if not os.WIFSTOPPED(status):
                break
            if not status >> 16:
                return os.WSTOPSIG(status)
            self._hold_started()
            self._ptrace(self._resumed_by, 0, 0)
        with self._lock:
            self._ended = True
        self._end_started()
        if self._late:
            raise TimeLimitError(f"not finished after {self._limit_seconds:g} seconds: killed")
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _FORBIDDEN:
            raise ToolMissingError(
                "ptrace is not allowed here: the program may not be traced\n  next: run it where "
                "processes may be traced (a container may need other seccomp rules)"
            )
        how = (
            f"ended with exit code {os.WEXITSTATUS(status)}"
            if os.WIFEXITED(status)
            else f"was ended by {signal_name(os.WTERMSIG(status))}"
        )
        said = ""
        with contextlib.suppress(OSError):
            said = self._messages.read_text("utf-8", "replace").strip()
        raise ProgramDiedError(f"{how} when {doing}" + (f": {said}" if said else ""))

    def _hold_started(self) -> None:
        """At the stop that tells of a new process or thread: keep a process from running."""
        buffer = ctypes.create_string_buffer(ctypes.sizeof(ctypes.c_ulong))
        self._ptrace(_GETEVENTMSG, 0, buffer)
        pid = int.from_bytes(buffer.raw, sys.byteorder)
        if not Path(f"/proc/{self.pid}/task/{pid}").exists():
            self._started.append(pid)
            return
        # A thread ends with its process, which the kernel does not tell us of while we trace it.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, _WALL)
            self._ptrace(_DETACH, 0, 0, pid)

    def _expect(self, wanted: int, doing: str) -> None:
        while (found := self._wait(doing)) != wanted:
            if found in _DEADLY:
                raise ProgramDiedError(f"got {signal_name(found)} when {doing}", found)
            # Anything else (SIGCONT, SIGWINCH) is none of our business.
            self._ptrace(_CONT, 0, 0)

    # ------------------------------------------------------------------ registers and memory

    def registers(self) -> dict[int, int]:
        """Return hardware number (and ``IP``, ``FLAGS``) to value."""
        words = self._words()
        general = range(16) if self.bits == 64 else range(8)
        return {number: words[_INDEX[number]] & self._mask for number in (*general, IP, FLAGS)}

    def _words(self) -> list[int]:
        buffer = ctypes.create_string_buffer(_USER_REGISTERS.size)
        self._ptrace(_GETREGS, 0, buffer)
        return list(_USER_REGISTERS.unpack(buffer.raw))

    def _write_words(self, words: Sequence[int]) -> None:
        buffer = ctypes.create_string_buffer(_USER_REGISTERS.pack(*words), _USER_REGISTERS.size)
        self._ptrace(_SETREGS, 0, buffer)

    def write_registers(self, values: Mapping[int, int]) -> None:
        """Set registers by hardware number (and ``IP``)."""
        words = self._words()
        for number, value in values.items():
            words[_INDEX[number]] = value & self._mask
        # A system call that the process was stopped behind is not to be begun again.
        words[_ORIG_AX] = (1 << 64) - 1
        self._write_words(words)

    def read(self, address: int, size_bytes: int) -> bytes:
        """Read memory; fewer bytes, or none, where it is not mapped."""
        assert self._memory is not None
        try:
            return os.pread(self._memory, size_bytes, address)
        except (OSError, OverflowError):
            return b""

    def write(self, address: int, data: bytes) -> None:
        """Write memory; nothing where it is not mapped."""
        assert self._memory is not None
        with contextlib.suppress(OSError, OverflowError):
            os.pwrite(self._memory, data, address)

    # ------------------------------------------------------------------ running

    def run_to_breakpoint(self) -> None:
        """Run on to a breakpoint instruction of the program's own.

        Raises:
            ProgramDiedError: it got another deadly signal, or ended.
        """
        self._ptrace(_CONT, 0, 0)
        self._expect(signal.SIGTRAP, "it ran on")

    def step(self, number: int = 0) -> None:
        """Execute one instruction; with a signal, enter its handler instead.

        Args:
            number: of a signal to deliver.

        Raises:
            ProgramDiedError: it got a deadly signal, or ended.
        """
        self._entering = bool(number)
        self._ptrace(_SINGLESTEP, 0, number)
        self._expect(signal.SIGTRAP, "it was stepped")

    def ask(self, number: int) -> str | None:
        """Deliver a signal, let its handler run to its breakpoint, and put everything back.

        Args:
            number: of the signal; its handler runs on a stack of its own.

        Returns:
            None, or what went wrong in the handler (the process is as before all the same).
        """
        words = self._words()
        if self._entering:
            # The stop at a handler's first instruction takes no signal: it is sent, and taken at
            # the stop that this makes.
            os.kill(self.pid, number)
            self._ptrace(_CONT, 0, 0)
            self._expect(number, "it was sent a signal")
        self._ptrace(_CONT, 0, number)
        wrong = None
        while (found := self._wait("an unwinder ran in it")) != signal.SIGTRAP:
            if found in _DEADLY:
                wrong = f"it died of {signal_name(found)}"
                break
            self._ptrace(_CONT, 0, 0)
        self._write_words(words)
        return wrong


_DEADLY = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS}
)


def signal_name(number: int) -> str:
    """Name a signal, as ``SIGSEGV``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
