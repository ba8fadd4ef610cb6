"""Files to read that others have made: system libraries, and objects compiled on the spot."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import skip_or_fail

#: Shared objects of Debian and Ubuntu machines, by what they contribute.
LIBRARIES = {
    "libc": "/lib/x86_64-linux-gnu/libc.so.6",  # signal frames, expressions, args_size
    "ld.so": "/lib64/ld-linux-x86-64.so.2",
    "libm": "/lib/x86_64-linux-gnu/libm.so.6",
    "libgcc_s": "/lib/x86_64-linux-gnu/libgcc_s.so.1",
    "libstdc++": "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",  # LSDA and personality
    "libcrypto": "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",  # hand-written assembly
    "libc-i386": "/lib32/libc.so.6",
    "ld.so-i386": "/lib/ld-linux.so.2",
    "libc-x32": "/libx32/libc.so.6",
}

C_SOURCE = """
int callee(int *, double); void may_throw(void);
int leaf(int a) { return a + 1; }
int frame(int n) { int a[n]; callee(a, n); return a[0]; }
int many(int a, int b, int c, int d, int e, int f, int g)
{ int x[8]; int r = callee(x, a); r += callee(x + 1, b) * c; if (r) return callee(x, d + e);
  return r + f * g + callee(x, 2); }
int realigned(void) { __attribute__((aligned(64))) int a[16]; return callee(a, 1); }
"""

#: Name to options; every object has its own form of call-frame information.
COMPILED = {
    "eh-O2": ["-O2"],
    "eh-O0": ["-O0"],
    "eh-sections": ["-O2", "-ffunction-sections"],
    "debug-only": ["-O2", "-g", "-fno-asynchronous-unwind-tables"],
    "debug-zlib": ["-O2", "-g", "-fno-asynchronous-unwind-tables", "-gz=zlib"],
    "debug-zdebug": ["-O2", "-g", "-fno-asynchronous-unwind-tables", "-gz=zlib-gnu"],
    "debug-dwarf64": ["-O2", "-g", "-fno-asynchronous-unwind-tables", "-gdwarf64"],
    "debug-dwarf3": ["-O2", "-gdwarf-3", "-gstrict-dwarf", "-fno-asynchronous-unwind-tables"],
    "large-model": ["-O2", "-mcmodel=large"],
    "omit-none": ["-O2", "-fno-omit-frame-pointer"],
    "i386-eh": ["-O2", "-m32"],
    "i386-push": ["-O2", "-m32", "-maccumulate-outgoing-args"],
    "i386-debug": ["-O2", "-m32", "-g", "-fno-asynchronous-unwind-tables"],
    "x32-eh": ["-O2", "-mx32"],
    "x32-debug": ["-O2", "-mx32", "-g", "-fno-asynchronous-unwind-tables"],
}


def library(name: str) -> str:
    """Return a library's path; skip the test where this machine lacks it."""
    path = LIBRARIES[name]
    if not Path(path).is_file():
        skip_or_fail(f"{path} is not on this machine")
    return path


def need(tool: str) -> str:
    """Return a tool's path; skip the test where this machine lacks it."""
    path = shutil.which(tool)
    if path is None:
        skip_or_fail(f"{tool} is not on this machine")
    return path


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fullframe-samples-")


@functools.cache
def compile_source(source: str, options: tuple[str, ...], suffix: str = ".c", tool: str = "gcc"):
    """Compile a source text; return the output's path, or the reason why there is none."""
    directory = Path(_directory().name)
    stem = f"sample{len(list(directory.iterdir()))}"
    source_path = directory / f"{stem}{suffix}"
    source_path.write_text(source)
    output = directory / f"{stem}.out"
    command = [tool] if tool != "zig" else [sys.executable, "-m", "ziglang", "cc"]
    command += [*options, "-o", str(output), str(source_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return str(output) if done.returncode == 0 else f"!{done.stderr[:400]}"


def compiled(source: str, *options: str, suffix: str = ".c", tool: str = "gcc") -> str:
    """Compile a source text and return the path; skip the test where that cannot be done here."""
    need(tool)
    result = compile_source(source, options, suffix, tool)
    if result.startswith("!"):
        skip_or_fail(f"{tool} {' '.join(options)} does not work here: {result[1:]}")
    return result
