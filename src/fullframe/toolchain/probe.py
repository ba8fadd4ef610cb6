"""Which assemblers are there, and by trial which CFI directives each takes and gets right.

Every directive is assembled in a small source of its own; what the assembler wrote is read and
compared with what the GNU assembler's manual says that it means. Nothing that is built is ever
executed. What was found is cached by the program's path, size and time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fullframe.errors import FullframeError
from fullframe.toolchain.command import run_tool
from fullframe.toolchain.find import _wheel_zig, find_tools

KINDS = ("gas", "llvm", "nasm", "yasm", "zig")
RIGHT, WRONG, REFUSED = "right", "wrong", "refused"

#: Turns an object into a canonical text of its CFI: for each FDE a line
#: ``SECTION AUGMENTATION ra=N`` and, indented, ``+OFFSET CFA; REGISTER RULE; ...`` for each row.
#: The reader of CFI lies above this layer.
RowText = Callable[[bytes], str]


@dataclass(frozen=True, slots=True)
class Trial:
    """A source that shows whether a directive is taken and understood.

    Attributes:
        name: the directive, and where it matters its operand.
        body: lines between two ``nop``.
        expected: what the canonical text must hold, each on its own.
        opening: the line that starts the procedure.
        before: lines before it.
    """

    name: str
    body: tuple[str, ...]
    expected: tuple[str, ...]
    opening: str = ".cfi_startproc"
    before: tuple[str, ...] = ()


_START = "  +0x0 CFA rsp+8; rip c-8"


def _row(text: str) -> str:
    return f"  +0x1 {text}"


#: Every directive of the GNU assembler's manual that means something on x86-64, and the spelling
#: of the flags register, in which assemblers are known to differ.
TRIALS: tuple[Trial, ...] = (
    Trial(".cfi_startproc", (), (".eh_frame zR ra=16", _START)),
    Trial(".cfi_startproc simple", (".cfi_def_cfa 7, 24",), (_row("CFA rsp+24"),),
          opening=".cfi_startproc simple"),
    Trial(".cfi_endproc", (), (_START,)),
    Trial(".cfi_sections", (), (".debug_frame  ra=16", _START),
          before=(".cfi_sections .debug_frame",)),
    Trial(".cfi_personality", (".cfi_personality 0x9b, DW.ref.p",), (".eh_frame zPR ra=16",)),
    Trial(".cfi_lsda", (".cfi_personality 0x9b, DW.ref.p", ".cfi_lsda 0x1b, f"),
          (".eh_frame zPLR ra=16 lsda",)),
    Trial(".cfi_personality_id", (".cfi_personality_id 1",), ("compact",)),
    Trial(".cfi_inline_lsda", (".cfi_inline_lsda 4",), ("compact",)),
    Trial(".cfi_fde_data", (".cfi_fde_data 1",), ("compact",)),
    Trial(".cfi_def_cfa", (".cfi_def_cfa %rbx, 32",), (_row("CFA rbx+32; rip c-8"),)),
    Trial(".cfi_def_cfa_register", (".cfi_def_cfa_register %rbp",),
          (_row("CFA rbp+8; rip c-8"),)),
    Trial(".cfi_def_cfa_offset", (".cfi_def_cfa_offset 48",), (_row("CFA rsp+48; rip c-8"),)),
    Trial(".cfi_adjust_cfa_offset", (".cfi_adjust_cfa_offset 16",),
          (_row("CFA rsp+24; rip c-8"),)),
    Trial(".cfi_offset", (".cfi_offset %rbx, -16",), (_row("CFA rsp+8; rbx c-16; rip c-8"),)),
    Trial(".cfi_offset eflags", (".cfi_offset eflags, -16",),
          (_row("CFA rsp+8; rip c-8; r49 c-16"),)),
    Trial(".cfi_val_offset", (".cfi_val_offset %rbx, -16",),
          (_row("CFA rsp+8; rbx v-16; rip c-8"),)),
    Trial(".cfi_rel_offset", (".cfi_def_cfa_offset 32", ".cfi_rel_offset %rbx, 8"),
          (_row("CFA rsp+32; rbx c-24; rip c-8"),)),
    Trial(".cfi_register", (".cfi_register %rbx, %r10",),
          (_row("CFA rsp+8; rbx in r10; rip c-8"),)),
    Trial(".cfi_restore", (".cfi_offset %rbx, -16", "nop", ".cfi_restore %rbx"),
          (_row("CFA rsp+8; rbx c-16; rip c-8"), "  +0x2 CFA rsp+8; rip c-8")),
    Trial(".cfi_undefined", (".cfi_undefined %rip",), (_row("CFA rsp+8; rip undefined"),)),
    Trial(".cfi_same_value", (".cfi_same_value %rbx",), (_row("CFA rsp+8; rbx same; rip c-8"),)),
    Trial(".cfi_remember_state",
          (".cfi_remember_state", ".cfi_def_cfa_offset 64", "nop", ".cfi_restore_state"),
          (_row("CFA rsp+64; rip c-8"), "  +0x2 CFA rsp+8; rip c-8")),
    Trial(".cfi_restore_state",
          (".cfi_remember_state", ".cfi_def_cfa %rbx, 16", "nop", ".cfi_restore_state"),
          ("  +0x2 CFA rsp+8; rip c-8",)),
    Trial(".cfi_return_column", (".cfi_return_column 10",), (".eh_frame zR ra=10",)),
    Trial(".cfi_signal_frame", (".cfi_signal_frame",), (".eh_frame zRS ra=16",)),
    Trial(".cfi_window_save", (".cfi_window_save",), ("DW_CFA_GNU_window_save",)),
    Trial(".cfi_escape", (".cfi_escape 0x0f, 3, 0x77, 8, 6",),
          (_row("CFA *(77 08 06); rip c-8"),)),
    Trial(".cfi_val_encoded_addr", (".cfi_val_encoded_addr %rbx, 0x00, 4096",),
          (_row("CFA rsp+8; rbx value(03 00 10 00 00 00 00 00 00); rip c-8"),)),
    Trial(".cfi_label", (".cfi_label here",), ("symbol here",)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tool:
    """An assembler on this machine.

    Attributes:
        path: of the program.
        kind: ``gas``, ``llvm``, ``nasm``, ``yasm`` or ``zig``.
        version: what it says of itself, on one line.
    """

    path: str
    kind: str
    version: str

    def command(self, source: Path, output: Path, flags: Iterable[str] = ()) -> list[str]:
        """Return the command that assembles a source without preprocessing it."""
        files = [*flags, "-o", str(output), str(source)]
        if self.kind in ("nasm", "yasm"):
            form = [] if any(flag.startswith("-f") for flag in flags) else ["-felf64"]
            return [self.path, *form, *files]
        if self.kind == "gas":
            return [self.path, *files]
        if "llvm-mc" in Path(self.path).name:
            return [self.path, "-filetype=obj", "-triple=x86_64-linux-gnu", *files]
        target = "i386" if "-m32" in flags else "x86_64"
        command = [self.path, "clang"] if self.kind == "zig" else [self.path]
        return [*command, f"--target={target}-linux-gnu", "-c", "-x", "assembler", *files]


@dataclass(frozen=True, slots=True)
class Probed:
    """A tool and what trials showed.

    Attributes:
        tool: the tool.
        directives: by the name of the trial: ``right``, ``wrong`` (taken, but what comes out is
            not what the manual says) or ``refused``.
    """

    tool: Tool
    directives: dict[str, str] = field(default_factory=dict)


_PROGRAMS = (
    ("gas", ("as", "x86_64-linux-gnu-as"), "GNU assembler"),
    ("llvm", ("clang", "llvm-mc"), "version"),
    ("nasm", ("nasm",), "NASM"),
    ("yasm", ("yasm",), "yasm"),
    ("zig", ("zig",), ""),
)


def find_assemblers(path: str | None = None) -> list[Tool]:
    """Find the assemblers of this machine; a program with several names comes once.

    Args:
        path: directories to look in, as in PATH; None: PATH itself, and the ``ziglang`` package.

    Returns:
        Tools by kind, in the order of :data:`KINDS`.
    """
    found: list[Tool] = []
    seen: set[str] = set()
    for kind, names, mark in _PROGRAMS:
        programs = [program for name in names for program in find_tools(name, path=path)]
        if kind == "zig" and path is None and (wheel := _wheel_zig()):
            programs.insert(0, wheel)
        for program in programs:
            real = str(Path(program).resolve())
            if real in seen:
                continue
            version = _version(program, kind)
            if version is None or mark not in version:
                continue
            seen.add(real)
            found.append(Tool(program, kind, version))
    return found


def _version(program: str, kind: str) -> str | None:
    argument = {"zig": "version"}.get(kind, "--version")
    try:
        lines = run_tool([program, argument], timeout_seconds=30).stdout.splitlines()
    except FullframeError:
        return None
    for line in lines:
        if re.search(r"\d+\.\d+", line):
            return line.strip()
    return None


def probe(tool: Tool, row_text: RowText, *, use_cache: bool = True) -> Probed:
    """Try every directive on one assembler.

    Args:
        tool: the assembler.
        row_text: reads what it wrote.
        use_cache: take what an earlier run found of the same program, and keep what this one
            finds. A cache that cannot be read or written is no error.

    Returns:
        What was found.
    """
    place = _cache_place(tool)
    if use_cache and (known := _cached(place)) is not None:
        return Probed(tool, known)
    with tempfile.TemporaryDirectory(prefix="fullframe-") as name:
        directives = {trial.name: _try(tool, trial, row_text, Path(name)) for trial in TRIALS}
    if use_cache:
        _keep(place, directives)
    return Probed(tool, directives)


def _try(tool: Tool, trial: Trial, row_text: RowText, directory: Path) -> str:
    source, output = directory / "trial.s", directory / "trial.o"
    output.unlink(missing_ok=True)
    lines = [*trial.before, "f:", trial.opening, "nop", *trial.body, "nop", ".cfi_endproc", ""]
    source.write_text("\n".join(lines))
    try:
        completed = run_tool(tool.command(source, output), timeout_seconds=60, check=False)
    except FullframeError:
        return REFUSED
    if completed.returncode != 0 or not output.is_file():
        return REFUSED
    try:
        text = row_text(output.read_bytes())
    except (FullframeError, OSError):
        return WRONG
    told = text.splitlines()
    right = all(any(_holds(line, wanted) for line in told) for wanted in trial.expected)
    return RIGHT if right else WRONG


def _holds(line: str, wanted: str) -> bool:
    # Rows must be the same; marks that stand for themselves may be anywhere.
    return line == wanted if wanted.startswith(("  +", ".")) else wanted in line


# -- the cache -----------------------------------------------------------------------------------


def _cache_place(tool: Tool) -> Path | None:
    """Return the file that remembers a tool: named by its path, size, time, and the trials."""
    try:
        status = Path(tool.path).resolve().stat()
    except OSError:
        return None
    key = (tool.path, status.st_size, status.st_mtime_ns, status.st_ino, tool.version, TRIALS)
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(base) / "fullframe" / f"probe-{name}.json"


def _cached(place: Path | None) -> dict[str, str] | None:
    if place is None:
        return None
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = [trial.name for trial in TRIALS]
    if not isinstance(known, dict) or list(known) != names:
        return None
    return known if all(value in (RIGHT, WRONG, REFUSED) for value in known.values()) else None


def _keep(place: Path | None, directives: dict[str, str]) -> None:
    from fullframe.files import write_atomically

    if place is None:
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, json.dumps(directives, indent=1).encode())
    except (OSError, FullframeError):
        return
