"""The commands: output, exit codes, JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fullframe.cli.main import main
from fullframe.errors import (
    EXIT_FINDINGS,
    EXIT_INPUT,
    EXIT_OK,
    EXIT_TOOL_MISSING,
    EXIT_USAGE,
)
from fullframe.toolchain.find import Toolchain
from tests.entry.tables_for_tests import SMALL


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.tbl"
    path.write_text(SMALL)
    return str(path)


def test_generate(tmp_path: Path, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["entry", "generate", "--strategy", "annotated", "-o", str(out), small]) == EXIT_OK
    printed = capsys.readouterr().out
    assert f"created    {out}/entry_64.s\n" in printed
    assert printed.endswith("strategy annotated: 7 files, 6 stubs\n")
    again = ["entry", "generate", "--strategy", "partial", "-o", str(out), small, "--json"]
    assert main(again) == EXIT_OK
    result = json.loads(capsys.readouterr().out)
    assert result["schema"] == 1
    assert result["strategy"] == "partial"
    assert result["image"] is None
    assert "stub_sys_execve" in result["stubs"]
    actions = {Path(file["path"]).name: file["action"] for file in result["files"]}
    assert actions["entry_64.s"] == "replaced"
    assert actions["syscall_tables.h"] == "removed"


def test_generate_without_a_table_takes_linux_s(tmp_path: Path) -> None:
    assert main(["entry", "generate", "--strategy", "full", "-o", str(tmp_path / "o")]) == EXIT_OK
    assert "sys_clone3" in (tmp_path / "o" / "syscall_tables.s").read_text()


def test_generate_and_build(
    tmp_path: Path, small: str, toolchain: Toolchain, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["entry", "generate", "--strategy", "full", "-o", str(tmp_path / "o"), small]
    assert main([*arguments, "--build", "--toolchain", toolchain.kind, "--json"]) == EXIT_OK
    result = json.loads(capsys.readouterr().out)
    assert result["toolchain"] == toolchain.kind
    assert Path(result["image"]).read_bytes().startswith(b"\x7fELF")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--strategy", "fast"], EXIT_USAGE, "there are partial, full, annotated"),
        (["--strategy", "full", "none.tbl"], EXIT_INPUT, "none.tbl"),
        (["--strategy", "full", "i386"], EXIT_INPUT, "no 64-bit call"),
        (["--strategy", "full", "--toolchain", "msvc"], EXIT_USAGE, "msvc"),
    ],
)
def test_generate_refuses(
    arguments: list[str], code: int, message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    assert main(["entry", "generate", "-o", str(out), *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not out.exists()


def test_run(
    small: str, toolchain: Toolchain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["entry", "run", small, "--toolchain", toolchain.kind, "--seed", "7"]
    assert main([*arguments, "--keep", str(tmp_path / "kept")]) == EXIT_OK
    printed = capsys.readouterr().out
    assert "the same, byte for byte" in printed
    assert "emulated system calls, seed 7: no difference" in printed
    assert (tmp_path / "kept" / "annotated" / "entry.elf").is_file()


def test_run_reports_differences(
    tmp_path: Path, toolchain: Toolchain, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.tbl"
    path.write_text(SMALL.replace("sys_fork:regs", "sys_fork"))
    arguments = ["entry", "run", str(path), "--toolchain", toolchain.kind, "--json"]
    assert main([*arguments, "--strategy", "full", "--strategy", "annotated"]) == EXIT_FINDINGS
    result = json.loads(capsys.readouterr().out)
    assert result["schema"] == 1
    assert result["fast_path_identity"] is None
    assert result["strategies"]["full"]["difference_count"] == 0
    broken = result["strategies"]["annotated"]
    assert broken["difference_count"] > 0
    assert {item["name"] for item in broken["differences"]} >= {"fork/64"}
    assert broken["differences"][0]["code"].startswith("FF-R")
    assert result["disagreements"]
    assert main(arguments[:-1]) == EXIT_FINDINGS
    printed = capsys.readouterr().out
    assert "FF-R003 annotated: fork/64 (0x3)" in printed
    assert "(unwritten)" in printed


@pytest.mark.parametrize("rounds", ["0", "x", "99999"])
def test_run_refuses_rounds(rounds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["entry", "run", "--rounds", rounds])
    assert caught.value.code == EXIT_USAGE
    assert "--rounds" in capsys.readouterr().err


def test_run_without_a_toolchain(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["entry", "run", "--toolchain", "gnu"]) == EXIT_TOOL_MISSING
    assert "next:" in capsys.readouterr().err


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["entry"]) == EXIT_USAGE
    assert "generate" in capsys.readouterr().err
