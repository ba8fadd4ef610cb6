"""Find an assembler, a C compiler and a linker for x86 ELF, and use them all in one way.

Three kinds, tried in this order: ``gnu`` (gcc, as, ld), ``llvm`` (clang with its own assembler,
ld.lld), ``zig`` (the clang and lld inside the ``ziglang`` wheel, for a machine without a
toolchain). A set that is not complete, or that is made for another machine, is passed over.
Zig is used through ``zig clang`` and ``zig ld.lld``, its plain clang and lld: ``zig cc`` would
add its own choices (sanitizers, compiler-rt, a libc's start files, a cache).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fullframe.errors import FullframeError, ToolMissingError, UsageError
from fullframe.toolchain.command import Completed, missing_tool, run_tool

KINDS = ("gnu", "llvm", "zig")

_NEXT_STEP = 'next: apt-get install gcc binutils (Debian, Ubuntu), or pip install "fullframe[zig]"'

#: Freestanding C as a kernel wants it: no register but the general ones, nothing below the stack
#: pointer, nothing that a distribution's compiler adds by default. The caller's flags follow
#: these, so that each can be turned round (-fPIC, -fcf-protection=branch, -O0 ...).
_FREESTANDING = (
    "-std=gnu11", "-O2", "-fno-pic", "-fno-pie",
    "-mno-red-zone", "-mno-sse", "-mno-mmx", "-mno-80387",
    "-fno-stack-protector", "-fcf-protection=none", "-fno-strict-aliasing",
    "-fno-stack-clash-protection", "-U_FORTIFY_SOURCE",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A complete set of tools for x86 ELF.

    Attributes:
        kind: ``gnu``, ``llvm`` or ``zig``.
        version: of the compiler (and assembler, where it is the same program).
        linker_version: of the linker.
        compiler: command that compiles and assembles, one word an item.
        linker: command that links.
        header_directory: the compiler's own freestanding headers (``stddef.h``, ``stdint.h``).
    """

    kind: str
    version: str
    linker_version: str
    compiler: tuple[str, ...]
    linker: tuple[str, ...]
    header_directory: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.version}, {self.linker_version}"

    def assemble(
        self,
        source: Path,
        output: Path,
        *,
        bits: int = 64,
        include: Sequence[Path] = (),
        flags: Sequence[str] = (),
        warnings_are_errors: bool = True,
    ) -> Completed:
        """Assemble one file (``.S`` is preprocessed, ``.s`` is not) into a relocatable object.

        Args:
            source: assembly in GNU syntax.
            output: the object, replaced only if the assembler succeeds.
            bits: 64 or 32.
            include: directories of ``#include`` and ``.include``.
            flags: more arguments for the compiler driver, after fullframe's own.
            warnings_are_errors: whether a warning of the assembler or preprocessor is a failure.

        Returns:
            What the assembler printed.

        Raises:
            ToolFailedError: the source was refused.
        """
        strict = ("-Wa,--fatal-warnings", "-Werror") if warnings_are_errors else ()
        return self._compile_to(
            output, [*self._machine(bits), *strict, *_includes(include), *flags, "-c", str(source)]
        )

    def preprocess(
        self,
        source: Path,
        output: Path,
        *,
        bits: int = 64,
        include: Sequence[Path] = (),
        flags: Sequence[str] = (),
        language: str = "assembler-with-cpp",
    ) -> Completed:
        """Run the C preprocessor over one file (a linker script, assembly, C), without linemarks.

        Args:
            source: the file.
            output: where the text goes.
            bits: 64 or 32.
            include: directories of ``#include``.
            flags: more arguments, such as ``-DNAME=1``.
            language: ``assembler-with-cpp`` or ``c``.

        Returns:
            What the preprocessor printed on stderr.

        Raises:
            ToolFailedError: the source was refused.
        """
        arguments = [*self._machine(bits), *_includes(include), *flags]
        return self._compile_to(output, [*arguments, "-E", "-P", "-x", language, str(source)])

    def compile(
        self,
        source: Path,
        output: Path,
        *,
        bits: int = 64,
        include: Sequence[Path] = (),
        flags: Sequence[str] = (),
    ) -> Completed:
        """Compile one C file, freestanding, into a relocatable object.

        The defaults are a kernel's: ``-O2``, general registers only, no red zone, no stack
        protector, no control-flow protection, not position-independent, the compiler's own
        headers only. The code model is the caller's (``-mcmodel=kernel``).

        Args:
            source: C.
            output: the object, replaced only if the compiler succeeds.
            bits: 64 or 32.
            include: directories of ``#include``.
            flags: more arguments, after fullframe's own, so that they can turn each round.

        Returns:
            What the compiler printed (warnings).

        Raises:
            ToolFailedError: the source was refused.
        """
        own = [*self._machine(bits), *_FREESTANDING, *_includes(include)]
        return self._compile_to(output, [*own, *flags, "-c", str(source)])

    def link(
        self,
        objects: Sequence[Path],
        output: Path,
        *,
        script: Path | None = None,
        bits: int = 64,
        flags: Sequence[str] = (),
        shared: bool = False,
    ) -> Completed:
        """Link objects into a static image at fixed addresses, or a shared object; no libc.

        Args:
            objects: relocatable objects, in order.
            output: the image, replaced only if the linker succeeds.
            script: linker script.
            bits: 64 or 32.
            flags: more arguments of the linker (not of a compiler driver).
            shared: make a shared object.

        Returns:
            What the linker printed.

        Raises:
            ToolFailedError: an undefined symbol, a relocation that does not fit, ...
        """
        emulation = "elf_x86_64" if _known_bits(bits) == 64 else "elf_i386"
        # --build-id would differ between linkers for the same input; -z noexecstack because the
        # linkers' defaults differ for objects that do not say.
        arguments = ["-m", emulation, "--build-id=none", "-z", "noexecstack"]
        arguments += ["-shared" if shared else "-static", "--no-undefined"]
        if script is not None:
            arguments += ["-T", str(script)]
        arguments += [*flags, *(str(item) for item in objects)]
        return _into(output, lambda partial: [*self.linker, *arguments, "-o", partial])

    def _machine(self, bits: int) -> list[str]:
        # No header of this machine's libc; and `zig clang` does not find its own by itself.
        headers = ["-ffreestanding", "-nostdinc", "-isystem", self.header_directory]
        if self.kind == "gnu":
            return [f"-m{_known_bits(bits)}", *headers]
        target = "x86_64-linux-gnu" if _known_bits(bits) == 64 else "i386-linux-gnu"
        # One set of flags serves C and assembly; clang remarks on those that one does not use.
        return [f"--target={target}", "-Wno-unused-command-line-argument", *headers]

    def _compile_to(self, output: Path, arguments: Sequence[str]) -> Completed:
        return _into(output, lambda partial: [*self.compiler, *arguments, "-o", partial])


def _known_bits(bits: int) -> int:
    if bits not in (32, 64):
        raise UsageError(f"a machine of {bits} bits: expected 64 or 32")
    return bits


def _includes(directories: Iterable[Path]) -> list[str]:
    return [f"-I{directory}" for directory in directories]


def _into(output: Path, command: Callable[[str], Sequence[str]]) -> Completed:
    """Run a command that writes to a neighbour of ``output``, then put it in place."""
    partial = output.with_name(f".{os.getpid()}.{output.name}")
    try:
        completed = run_tool(command(str(partial)))
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return completed


def find_tools(name: str, *, path: str | None = None) -> list[str]:
    """Find every program of that name: the plain one first, then versions, highest first.

    Args:
        name: ``clang`` also finds ``clang-19``; a name with a slash is taken as it is.
        path: directories to look in, as in PATH; None: PATH itself.

    Returns:
        Paths of executable files, possibly none.
    """
    searched = os.environ.get("PATH", os.defpath) if path is None else path
    plain = shutil.which(name, path=searched)
    found = [plain] if plain else []
    if "/" in name:
        return found
    versioned: list[tuple[tuple[int, ...], str]] = []
    pattern = re.compile(re.escape(name) + r"-(\d+(?:\.\d+)*)")
    for directory in dict.fromkeys(searched.split(os.pathsep)):
        with contextlib.suppress(OSError):
            for entry in Path(directory or ".").iterdir():
                match = pattern.fullmatch(entry.name)
                if match and entry.is_file() and os.access(entry, os.X_OK):
                    version = tuple(int(part) for part in match[1].split("."))
                    versioned.append((version, str(entry)))
    return found + [tool for _, tool in sorted(versioned, reverse=True)]


def find_tool(name: str, *, path: str | None = None, newest: bool = False) -> str:
    """Find one program: the plain name if it is there, else the highest version.

    Args:
        name: ``readelf``, ``gdb``, ``llvm-mca`` ...
        path: directories to look in, as in PATH; None: PATH itself.
        newest: prefer the highest version to the plain name (for tools that only get better).

    Returns:
        Its path.

    Raises:
        ToolMissingError: it is not there; the message says how to get it.
    """
    found = find_tools(name, path=path)
    if not found:
        raise missing_tool(name)
    return found[1] if newest and len(found) > 1 else found[0]


def find_toolchain(kind: str | None = None, path: str | None = None) -> Toolchain:
    """Find a complete toolchain for x86 ELF.

    Args:
        kind: ``gnu``, ``llvm`` or ``zig``: that one only. None: the first of them that is there.
        path: directories to look in, as in PATH; None: PATH itself. The ``ziglang`` package is
            looked for in this Python as well.

    Returns:
        The toolchain.

    Raises:
        UsageError: no such kind.
        ToolMissingError: none is complete; the message lists everything that was tried.
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"unknown toolchain {kind!r}: expected one of {', '.join(KINDS)}")
    tried: list[str] = []
    for candidate in KINDS if kind is None else (kind,):
        found = _PROBES[candidate](path, tried)
        if found is not None:
            return found
    listing = "\n".join(f"  {line}" for line in tried)
    raise ToolMissingError(f"no complete toolchain for x86 ELF; tried:\n{listing}\n  {_NEXT_STEP}")


def _first_line(command: Sequence[str]) -> str:
    """Run a probe; "" if the program does not work at all."""
    try:
        completed = run_tool(command, timeout_seconds=30)
    except FullframeError:
        return ""
    return next(iter(completed.stdout.splitlines()), "").strip()


def _probe_gnu(path: str | None, tried: list[str]) -> Toolchain | None:
    # The prefixed names are those of a cross toolchain on another machine.
    for prefix in ("", "x86_64-linux-gnu-"):
        compilers = find_tools(f"{prefix}gcc", path=path)
        others = {name: find_tools(prefix + name, path=path) for name in ("as", "ld")}
        missing = [prefix + name for name, tools in others.items() if not tools]
        if not compilers:
            missing.insert(0, f"{prefix}gcc")
        if missing:
            tried.append(f"gnu: not found: {', '.join(missing)}")
            continue
        compiler, linker = compilers[0], others["ld"][0]
        target = _first_line([compiler, "-dumpmachine"])
        if not re.match(r"(x86_64|i[3-6]86)\b.*linux", target):
            tried.append(f"gnu: {compiler} is made for {target or 'nothing that it would tell'}")
            continue
        # Apple's and others' "gcc" is clang under another name, and takes other flags.
        version = _first_line([compiler, "--version"])
        linker_version = _first_line([linker, "--version"])
        if "clang" in version or not linker_version.startswith("GNU"):
            tried.append(f"gnu: {compiler} and {linker} are not GNU ({version}, {linker_version})")
            continue
        headers = _first_line([compiler, "-print-file-name=include"])
        return Toolchain("gnu", version, linker_version, (compiler,), (linker,), headers)
    return None


def _probe_llvm(path: str | None, tried: list[str]) -> Toolchain | None:
    compilers, linkers = find_tools("clang", path=path), find_tools("ld.lld", path=path)
    missing = [name for name, found in (("clang", compilers), ("ld.lld", linkers)) if not found]
    if missing:
        tried.append(f"llvm: not found: {', '.join(missing)}")
        return None
    compiler = compilers[0]
    # The linker of the same version, where there are several.
    suffix = Path(compiler).name.removeprefix("clang")
    same = [linker for linker in linkers if Path(linker).name == f"ld.lld{suffix}"]
    linker = (same or linkers)[0]
    version = _first_line([compiler, "--version"])
    linker_version = _first_line([linker, "--version"])
    resources = _first_line([compiler, "-print-resource-dir"])
    if "clang" not in version or "LLD" not in linker_version or not resources:
        tried.append(f"llvm: {compiler} and {linker} do not work ({version}, {linker_version})")
        return None
    headers = f"{resources}/include"
    return Toolchain("llvm", version, linker_version, (compiler,), (linker,), headers)


def _wheel_zig() -> str | None:
    """The zig program of the ``ziglang`` package of this Python."""
    spec = importlib.util.find_spec("ziglang")
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        if os.access(program := Path(directory, "zig"), os.X_OK):
            return str(program)
    return None


def _probe_zig(path: str | None, tried: list[str]) -> Toolchain | None:
    wheel = _wheel_zig()
    if wheel is None:
        tried.append("zig: the Python package ziglang is not installed")
    on_path = find_tools("zig", path=path)
    if not on_path:
        tried.append("zig: not found: zig")
    for zig in [wheel, *on_path] if wheel else on_path:
        library = _zig_library(zig)
        version = _first_line([zig, "clang", "--version"])
        linker_version = _first_line([zig, "ld.lld", "--version"])
        if library is None or "clang" not in version or "LLD" not in linker_version:
            tried.append(f"zig: {zig} does not work ({version}, {linker_version})")
            continue
        compiler, linker = (zig, "clang"), (zig, "ld.lld")
        headers = f"{library}/include"
        return Toolchain("zig", f"zig's {version}", linker_version, compiler, linker, headers)
    return None


def _zig_library(zig: str) -> str | None:
    beside = Path(zig).resolve().parent / "lib"
    if (beside / "include" / "stddef.h").is_file():
        return str(beside)
    try:
        listing = run_tool([zig, "env"], timeout_seconds=30).stdout
    except FullframeError:
        return None
    # JSON before zig 0.15, zig's own notation since.
    match = re.search(r'lib_dir"?\s*[:=]\s*"([^"]+)"', listing)
    return match[1] if match else None


_PROBES: dict[str, Callable[[str | None, list[str]], Toolchain | None]] = {
    "gnu": _probe_gnu,
    "llvm": _probe_llvm,
    "zig": _probe_zig,
}
