"""The program that is stepped: its parts by name, building it, and how stepping it can fail.

The program is fullframe's own (``data/step``); only an image that the user gave is loaded into
it. It is linked at fixed addresses and runs on a static stack, so that the registers of a caller
are the same in every run: under ptrace, under gdb, and in the emulator.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fullframe.elf.image import Image
from fullframe.errors import FullframeError, InputError, ToolMissingError
from fullframe.toolchain.command import run_tool
from fullframe.toolchain.find import Toolchain
from fullframe.x86.registers import Machine

#: Program interpreters by word size (System V ABI i386, x86-64: "Program Interpreter").
_LOADERS = {64: "/lib64/ld-linux-x86-64.so.2", 32: "/lib/ld-linux.so.2"}
#: Where distributions keep the C library: Debian's multiarch and multilib places, then the others'.
_LIBRARIES = {
    64: ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"),
    32: ("/lib/i386-linux-gnu", "/usr/lib/i386-linux-gnu", "/lib32", "/usr/lib32", "/usr/lib"),
}
_PACKAGES = {64: "libc6", 32: "libc6-i386"}

UNWINDERS_IN_PROCESS = ("libgcc", "libunwind")
#: Bytes of the static stack below its arguments, and of its arguments.
STACK_WORDS, ARGUMENT_WORDS = 8192, 64


class ProgramDiedError(FullframeError):
    """The stepped program ended, or was about to.

    Args:
        message: how.
        number: of the deadly signal that it got; None if it ended.
    """

    exit_code = 3

    def __init__(self, message: str, number: int | None = None) -> None:
        self.number = number
        super().__init__(message)


class TimeLimitError(FullframeError):
    """Stepping took longer than it may."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class SteppedProgram:
    """The built program.

    Attributes:
        path: the executable.
        machine: its machine.
        image: its ELF image.
        symbols: name to address, for the names that begin with ``step_``.
        libc: path of the C library that it was linked with.
    """

    path: Path
    machine: Machine
    image: Image
    symbols: dict[str, int]
    libc: Path

    @property
    def stack_pointer(self) -> int:
        """The caller's stack pointer at the call, or at the interruption."""
        return self.symbols["step_stack"] + STACK_WORDS * self.machine.word_bytes


def build_program(machine: Machine, toolchain: Toolchain, directory: Path) -> SteppedProgram:
    """Build the program.

    Args:
        machine: for which.
        toolchain: builds it.
        directory: where; the caller removes it.

    Returns:
        The program.

    Raises:
        ToolMissingError: no C library or loader of that machine.
        ToolFailedError: the toolchain cannot build it.
    """
    bits = machine.bits
    loader, libc = Path(_LOADERS[bits]), _find_libc(bits)
    if not loader.exists() or libc is None:
        missing = str(loader) if not loader.exists() else "libc.so.6"
        raise ToolMissingError(
            f"{missing} of {machine.name} is needed to run a process, and was not found\n"
            f"  next: on Debian or Ubuntu: apt-get install {_PACKAGES[bits]}"
        )
    sources = resources.files("fullframe.data").joinpath("step")
    texts = {
        "program.c": sources.joinpath("program.c").read_text("utf-8"),
        "registers.S": sources.joinpath(f"program_{_NAMES[bits]}.S").read_text("utf-8"),
    }
    for name, text in texts.items():
        (directory / name).write_text(text, "utf-8")
    objects = [directory / "program.o", directory / "registers.o"]
    flags = ("-fno-builtin", "-fasynchronous-unwind-tables")
    toolchain.compile(directory / "program.c", objects[0], bits=bits, flags=flags)
    toolchain.assemble(directory / "registers.S", objects[1], bits=bits)
    path = directory / "stepped"
    emulation = "elf_x86_64" if bits == 64 else "elf_i386"
    # In glibc before 2.34 dlopen is in a library of its own.
    libraries = [libc, *(each for each in [libc.with_name("libdl.so.2")] if each.exists())]
    run_tool(
        [
            *toolchain.linker, "-m", emulation, "-dynamic-linker", loader, "--build-id=none",
            "-z", "noexecstack", "-z", "now", "--as-needed", "--eh-frame-hdr", "-o", path,
            *objects, *libraries,
        ]
    )  # fmt: skip
    image = Image.open(path)
    symbols = {
        symbol.name: symbol.address for symbol in image.symbols if symbol.name.startswith("step_")
    }
    return SteppedProgram(path, machine, image, symbols, libc)


_NAMES = {64: "x86_64", 32: "i386"}


def _find_libc(bits: int) -> Path | None:
    for directory in _LIBRARIES[bits]:
        path = Path(directory) / "libc.so.6"
        try:
            image = Image.open(path)
        except InputError:
            continue
        if image.elf_bits == bits:
            return path
    return None


# ------------------------------------------------------------------ what it and we tell each other

_HEAD = struct.Struct("<11Q200s200s200s")
_FRAME = struct.Struct("<20Q")
_FIELDS = (
    "load_bias", "vsyscall", "mapped_by_hand", "libc_restorer", "is_signal", "with_siginfo",
    "frame_table", "asked", "frame_count",
)  # fmt: skip
CONTROL_BYTES = _HEAD.size + 8 * _FRAME.size


@dataclass(frozen=True, slots=True)
class Control:
    """The head of ``struct step_control``: what the program told.

    Attributes:
        load_bias: run-time address minus link-time address, of the image.
        vsyscall: ``AT_SYSINFO``, the kernel's way in; 0 without.
        mapped_by_hand: the loader did not take the image.
        refusal: why.
        libc_restorer: address of libc's own signal trampoline; 0 if it has none.
        frame_count: frames that the last answer has.
        missing: unwinder to why it is not there.
    """

    load_bias: int
    vsyscall: int
    mapped_by_hand: bool
    refusal: str
    libc_restorer: int
    frame_count: int
    missing: dict[str, str]


def read_control(data: bytes) -> Control:
    """Read ``struct step_control``."""
    *numbers, first, second, refusal = _HEAD.unpack_from(data)
    values = dict(zip(_FIELDS, numbers, strict=False))
    reasons = zip(UNWINDERS_IN_PROCESS, numbers[9:11], (first, second), strict=True)
    return Control(
        load_bias=values["load_bias"],
        vsyscall=values["vsyscall"],
        mapped_by_hand=bool(values["mapped_by_hand"]),
        refusal=_text(refusal),
        libc_restorer=values["libc_restorer"],
        frame_count=values["frame_count"],
        missing={name: _text(text) for name, missing, text in reasons if missing},
    )


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def control_field(name: str) -> int:
    """Return the offset of a field of ``struct step_control`` in bytes."""
    return 8 * _FIELDS.index(name)


@dataclass(frozen=True, slots=True)
class AnsweredFrame:
    """One frame as an unwinder in the process gave it, in its own numbers.

    Attributes:
        ip: its instruction pointer (libgcc only).
        stack_pointer: libgcc's ``_Unwind_GetCFA``.
        known: the registers that follow are set; libunwind: one bit each.
        registers: by the unwinder's own numbers.
    """

    ip: int
    stack_pointer: int
    known: int
    registers: tuple[int, ...]


def read_answered(data: bytes, count: int) -> list[AnsweredFrame]:
    """Read the frames of the last answer, the interrupted one first."""
    frames = []
    for index in range(min(count, 8)):
        ip, stack_pointer, known, *values = _FRAME.unpack_from(
            data, _HEAD.size + index * _FRAME.size
        )
        frames.append(AnsweredFrame(ip, stack_pointer, known, tuple(values)))
    return frames


def child_environment() -> dict[str, str]:
    """The stepped program's environment: where libraries are looked for, and nothing else."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if os.environ.get(name)}
    return {"LC_ALL": "C", **kept}
