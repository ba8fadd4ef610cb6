"""Flags with which a compiler assembles nothing, and calls that a success."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fullframe.cli.main import main
from tests.cfi_write.support import need
from tests.cfi_write.test_encode import NASM

SOURCE = """\t.text
\t.globl f
\t.type f, @function
f:
\t.cfi_startproc
\tpush %rbx
\t.cfi_adjust_cfa_offset 8
\t.cfi_offset %rbx, -16
\tpop %rbx
\t.cfi_adjust_cfa_offset -8
\tret
\t.cfi_endproc
\t.size f, .-f
"""
STEP = (
    "  next: leave out the flags that make it do something else than assemble, such as -M, -E, -S "
    "or --version\n"
)


@pytest.mark.parametrize("command", ["fix", "decode", "encode"])
@pytest.mark.parametrize(
    ("flag", "mode"),
    [
        ("-M", "-E"),
        ("-MM", "-E"),
        ("-E", "-c"),
        ("-S", "-c"),
        ("--version", "-E"),
        ("--help", "-E"),
        ("-###", "-E"),
        ("-dumpversion", "-E"),
    ],
)
def test_nothing_is_assembled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    flag: str,
    mode: str,
) -> None:
    compiler = need("gcc")
    monkeypatch.chdir(tmp_path)
    Path("f.S").write_text(SOURCE)
    assert main(["cfi", command, "--toolchain", "gnu", "f.S", "--in-place", "--", flag]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    ran = shlex.join([compiler, flag, mode])
    what = "an object" if mode == "-c" else "preprocessed text"
    expected = re.escape(f"fullframe: f.S: `{ran}` succeeded, but ") + "(nothing|something else)"
    expected += re.escape(f" came out; expected {what}\n{STEP}")
    assert re.fullmatch(expected, captured.err)
    assert Path("f.S").read_text() == SOURCE


@pytest.mark.parametrize("flag", ["-M", "--version"])
def test_toolchain_assemble_makes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: str,
) -> None:
    """GNU as makes an empty object of a list of dependencies."""
    need("as")
    compiler = need("gcc")
    monkeypatch.chdir(tmp_path)
    Path("f.S").write_text(SOURCE)
    assert main(["toolchain", "assemble", "f.S", "-o", "f.o", "--", flag]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"fullframe: f.S: `{compiler} {flag} -E` succeeded, but ")
    assert err.endswith(f" came out; expected preprocessed text\n{STEP}")
    assert not Path("f.o").exists()


@pytest.mark.parametrize("flag", ["-M", "-E", "-v"])
def test_nasm_assembles_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: str,
) -> None:
    nasm = need("nasm")
    monkeypatch.chdir(tmp_path)
    Path("f.asm").write_text(NASM)
    assert main(["cfi", "encode", "f.asm", "-o", "out.asm", "--", flag]) == 2
    captured = capsys.readouterr()
    expected = re.escape(f"fullframe: f.asm: `{nasm} -felf64 {flag}` succeeded, but ")
    expected += "(nothing|something else)" + re.escape(f" came out; expected an object\n{STEP}")
    assert re.fullmatch(expected, captured.err)
    assert not Path("out.asm").exists()


def test_flags_that_write_dependencies_beside_the_object_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need("gcc")
    path = tmp_path / "f.S"
    path.write_text(SOURCE)
    assert main(["cfi", "fix", "--toolchain", "gnu", str(path), "--", "-MD", "-v"]) == 0


def test_a_source_without_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    need("nasm")
    assert main(["cfi", "encode", "--syntax", "nasm", "/dev/zero"]) == 3
    assert capsys.readouterr().err == (
        "fullframe: /dev/zero: a source without an end; expected at most 67108864 bytes\n"
    )


def test_an_object_without_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cfi", "attach", "/dev/zero", "-o", str(tmp_path / "out.o")]) == 3
    assert capsys.readouterr().err == (
        "fullframe: /dev/zero: not a regular file; expected an object\n  next: check the path\n"
    )
