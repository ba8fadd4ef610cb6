"""Where output cannot go: a full disk, a closed descriptor, a reader that went away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fullframe import __version__
from fullframe.cli.main import main
from tests.support import skip_or_fail

FULL = Path("/dev/full")
#: Python writes at once, or when its buffer is full: each has its own place to fail at.
BUFFERINGS = pytest.mark.parametrize("unbuffered", ["", "1"])


def run(shell_tail: str, arguments: str, unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    if "/dev/full" in shell_tail and not FULL.exists():
        skip_or_fail("no /dev/full on this machine")
    return subprocess.run(
        ["/bin/bash", "-c", f'"$0" -m fullframe {arguments} {shell_tail}', sys.executable],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        timeout=60,
        check=False,
    )


@BUFFERINGS
@pytest.mark.parametrize(
    "arguments", ["table show x86-64", "table lint --json", "--version", "--help", "table -h"]
)
def test_a_full_disk_is_an_error_and_no_bug(arguments: str, unbuffered: str) -> None:
    done = run(">/dev/full", arguments, unbuffered)
    assert done.returncode == 3
    assert done.stderr == (
        "fullframe: output: cannot be read or written: No space left on device\n"
        "  next: see to it that there is space, and a place to write to\n"
    )


@BUFFERINGS
@pytest.mark.parametrize("arguments", ["table show x86-64", "--version"])
def test_a_closed_stdout_is_an_error(arguments: str, unbuffered: str) -> None:
    done = run(">&-", arguments, unbuffered)
    assert done.returncode == 3
    assert "Bad file descriptor" in done.stderr


@BUFFERINGS
@pytest.mark.parametrize(
    ("arguments", "code"), [("", 2), ("table show /nowhere", 3), ("table lint", 0)]
)
@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_the_exit_code_stands_where_nothing_can_be_said(
    arguments: str, code: int, stderr: str, unbuffered: str
) -> None:
    done = run(stderr, arguments, unbuffered)
    assert (done.returncode, done.stderr) == (code, "")


def test_a_reader_that_went_away_is_no_error() -> None:
    done = run("| head -1; exit ${PIPESTATUS[0]}", "table show x86-64")
    assert (done.returncode, done.stderr) == (0, "")
    assert "398 entries" in done.stdout


#: A table with one call that needs an annotation, so that there is something to find.
NEEDY = "0 64 rt_sigreturn sys_rt_sigreturn\n"


@BUFFERINGS
@pytest.mark.parametrize("reader", ["head -1", "true"])
@pytest.mark.parametrize("form", ["", "--json"])
def test_the_exit_code_is_what_was_found_though_nobody_reads_on(
    tmp_path: Path, reader: str, form: str, unbuffered: str
) -> None:
    table = tmp_path / "needy.tbl"
    table.write_text(NEEDY)
    for _ in range(3):  # whether the reader is gone before anything is written is a race
        done = run(f"| {reader}; exit ${{PIPESTATUS[0]}}", f"table lint {form} {table}", unbuffered)
        assert (done.returncode, done.stderr) == (1, "")


def test_a_pipe_that_breaks_before_it_is_known_what_was_found(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("fullframe.report.tables.print_table", broken)
    assert main(["table", "show"]) == 141


def test_the_module_runs_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fullframe.cli.main", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"fullframe {__version__}\n"


def test_a_name_that_is_no_text_on_stdout(tmp_path: Path) -> None:
    """Whatever the locale: bytes that are no text are printed as their numbers."""
    table = tmp_path / os.fsdecode(b"caf\xe9.tbl")
    table.write_text("0 64 read sys_read\n")
    done = subprocess.run(
        [sys.executable, "-m", "fullframe", "table", "show", "--json", str(table)],
        capture_output=True,
        env={**os.environ, "PYTHONUTF8": "1"},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"caf\\xe9.tbl" in done.stdout


def test_no_stream_at_all() -> None:
    assert run("<&- >&- 2>&-", "table show x86-64").returncode == 3
    assert run("<&- 2>&-", "table show x86-64").returncode == 0
