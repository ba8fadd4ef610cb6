"""cfi fix on C++ without its directives: personality routines and exception tables come back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fullframe.cfi.write.compare import RowMap
from fullframe.cfi.write.fix import fix_source
from fullframe.elf.image import Image
from tests.cfi_check.campaign import CORPUS
from tests.cfi_write.support import boundaries, compare_sources, compiled, need, source, stripped
from tests.support import skip_or_fail

THROWS = """#include <cstdio>
#include <stdexcept>
struct Guard { int n; ~Guard() { std::printf("cleaned %d\\n", n); } };
__attribute__((noinline)) int inner(int x) {
  Guard guard{x};
  if (x > 2) throw std::runtime_error("thrown");
  return x;
}
__attribute__((noinline)) int outer(int x) {
  Guard guard{x + 10};
  try { return inner(x); }
  catch (std::logic_error &) { return 1; }
}
int main() {
  try { outer(5); }
  catch (std::exception &e) { std::printf("caught %s\\n", e.what()); return 0; }
  return 1;
}
"""


def _said(rows: RowMap, image: Image, address: int) -> tuple[str | None, str | None]:
    fde = rows.fde_at(address)
    assert fde is not None
    return tuple(  # type: ignore[return-value]
        None if pointer is None else image.place(pointer)
        for pointer in (fde.cie.personality, fde.lsda)
    )


def _assert_restored(text: str, *flags: str) -> int:
    """Strip a source, fix it, and compare it with what it was; the boundaries compared."""
    result = fix_source(source(stripped(text), *flags, name="x.s"))
    # Without optimisation Clang puts a jump behind the call of __cxa_throw, which nothing reaches.
    assert all("no visible edge leads here" in item.message for item in result.refused)
    old, new = source(text, *flags, name="x.s"), source(result.new_text, *flags, name="x.s")
    first, second = old.assemble().image, new.assemble().image
    before, after = RowMap(first), RowMap(second)
    compared = 0
    for address in boundaries(first, before):
        assert _said(before, first, address) == _said(after, second, address)
        compared += 1
    _, differences = compare_sources(old, new)
    # Compilers may tell of a saved register an instruction late, and what they popped never.
    assert all(item.first is not None and item.second is not None
               and item.first.cfa == item.second.cfa for item in differences)  # fmt: skip
    return compared


@pytest.mark.parametrize(
    "flags",
    ["-O0", "-O2", "-Os", "-O2 -fno-pic", "-O2 -ffunction-sections", "-O2 -m32", "-O0 -m32"],
)
def test_gcc(tmp_path: Path, flags: str) -> None:
    text = (CORPUS / "exceptions.cc").read_text()
    made = compiled(tmp_path, text, *flags.split(), language="cc")
    assert _assert_restored(made, *[flag for flag in flags.split() if flag == "-m32"]) > 100


@pytest.mark.parametrize("flags", ["-O0 -fPIC", "-O2"])
def test_clang(tmp_path: Path, flags: str) -> None:
    clang = next((name for name in ("clang++", "clang++-19", "clang-19") if _has(name)), None)
    if clang is None:
        skip_or_fail("clang is not installed")
    output = tmp_path / "x.s"
    command = [clang, "-S", *flags.split(), str(CORPUS / "exceptions.cc"), "-o", str(output)]
    subprocess.run(command, check=True)
    # GNU as does not know what Clang says of symbols whose addresses matter.
    text = "\n".join(line for line in output.read_text().split("\n") if ".addrsig" not in line)
    assert _assert_restored(text) > 100


def _has(name: str) -> bool:
    return subprocess.run(["which", name], capture_output=True).returncode == 0


@pytest.mark.parametrize("bits", [64, 32])
def test_exceptions_are_caught_again(tmp_path: Path, bits: int) -> None:
    """Without the directives the program is terminated; after fixing, it runs as before."""
    flags = ["-O2", f"-m{bits}"]
    text = compiled(tmp_path, THROWS, *flags, language="cc")
    fixed = fix_source(source(stripped(text), f"-m{bits}", name="x.s"))
    assert (fixed.refused, fixed.differences) == ([], [])
    runs = []
    for number, content in enumerate((stripped(text), fixed.new_text)):
        path, program = tmp_path / f"{number}.s", tmp_path / f"{number}.exe"
        path.write_text(content)
        linked = subprocess.run(
            [need("g++"), f"-m{bits}", str(path), "-o", str(program)],
            capture_output=True, text=True,
        )  # fmt: skip
        if linked.returncode:
            skip_or_fail(f"g++ -m{bits} cannot link here: {linked.stderr[-200:]}")
        runs.append(subprocess.run([str(program)], capture_output=True, text=True))
    assert runs[0].returncode == -6
    assert runs[1].returncode == 0
    assert runs[1].stdout == "cleaned 5\ncleaned 15\ncaught thrown\n"


def test_functions_that_have_directives_are_left_alone(tmp_path: Path) -> None:
    text = compiled(tmp_path, (CORPUS / "exceptions.cc").read_text(), "-O2", language="cc")
    assert not fix_source(source(text, name="x.s")).changed
