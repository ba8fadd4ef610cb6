"""``fullframe compare`` as it is typed: exit codes, streams, messages."""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fullframe.cli.main import main
from fullframe.compare.comparison import _work_directory
from fullframe.errors import ToolMissingError
from fullframe.toolchain import find
from fullframe.toolchain.find import find_toolchain
from tests.compare.test_comparison import SMALL
from tests.support import skip_or_fail

COMMAND = [sys.executable, "-m", "fullframe", "compare"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.tbl").write_text(SMALL)
    (tmp_path / "wrong.tbl").write_text(SMALL.replace("4 64 execve", "four 65 execve"))
    (tmp_path / "lacking.tbl").write_text(SMALL.replace("sys_fork:regs", "sys_fork"))
    return tmp_path


@pytest.fixture
def _needs_toolchain():
    try:
        find_toolchain()
    except ToolMissingError as error:
        skip_or_fail(str(error))


@pytest.mark.usefixtures("_needs_toolchain")
def test_nothing_wrong(capsys):
    assert main(["compare", "small.tbl", "--no-live", "--seed", "0x10"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("small.tbl: 7 entries")
    assert "; seed 16\n" in captured.out
    assert captured.err == ""


@pytest.mark.usefixtures("_needs_toolchain")
def test_a_call_that_breaks(capsys):
    """Lint's finding first, and the call by name where the code breaks."""
    assert main(["compare", "lacking.tbl", "--no-live"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("lacking.tbl:4:11: error: fork needs the full register frame")
    assert "FF-R003 partial: fork/64 (0x3)" in out
    assert "FF-R003 annotated: fork/64 (0x3)" in out
    assert main(["compare", "lacking.tbl", "--no-live", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0]["name"] == "fork"
    broken = found["strategies"]["partial"]["run"]
    assert broken["differences_by_call"]["fork/64"] > 0
    assert broken["differences"] >= len(broken["differences_found"]) > 0
    assert found["strategies"]["full"]["run"]["differences"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["wrong.tbl"], 3, "wrong.tbl:5:1: "),
        (["none.tbl"], 3, "none.tbl: cannot be read: No such file"),
        (["i386"], 3, "64-bit entry code needs an x86-64 table"),
        (["small.tbl", "--toolchain", "msvc"], 2, "gnu"),
        (["small.tbl", "--seed", "x"], 2, "--seed 'x': expected a number from 0 to 2**64 - 1"),
        (["small.tbl", "--seed", "-1"], 2, "--seed '-1'"),
        (["small.tbl", "--seed", str(1 << 64)], 2, "--seed"),
    ],
)
def test_refused(arguments, code, message, capsys):
    assert main(["compare", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_no_toolchain_at_all(capsys, monkeypatch):
    monkeypatch.setattr(find, "KINDS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "ziglang", None)
    monkeypatch.setattr(find.importlib.util, "find_spec", lambda _name: None)
    assert main(["compare", "small.tbl"]) == 4
    captured = capsys.readouterr()
    assert "no complete toolchain" in captured.err
    assert "next: apt-get install gcc binutils" in captured.err
    assert captured.out == ""


@pytest.mark.usefixtures("_needs_toolchain")
def test_progress_goes_to_a_terminal_and_data_to_stdout(folder):
    terminal, stderr = pty.openpty()
    arguments = [*COMMAND, "small.tbl", "--no-live", "--json"]
    shown = b""
    # Into a file, which takes all of it while only the terminal is read.
    with (
        (folder / "out").open("wb") as out,
        subprocess.Popen(arguments, stdout=out, stderr=stderr) as process,
    ):
        os.close(stderr)
        with contextlib.suppress(OSError):  # what Linux says at the end of a terminal
            while part := os.read(terminal, 4096):
                shown += part
        os.close(terminal)
    assert process.returncode == 0
    found = json.loads((folder / "out").read_text())
    assert found["differences"] == 0
    assert b"building and running partial, full, annotated" in shown


@pytest.mark.usefixtures("_needs_toolchain")
def test_an_interrupt_leaves_nothing_behind(folder):
    temporary = folder / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        [*COMMAND], env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        limit = time.monotonic() + 60
        while not any(temporary.rglob("*.elf")) and time.monotonic() < limit:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"fullframe: interrupted\n")
    assert list(temporary.iterdir()) == []
    # Nobody of its session is left; multiprocessing's own tracker ends a moment later.
    while _is_alive(process.pid) and time.monotonic() < limit + 60:
        time.sleep(0.02)
    assert not _is_alive(process.pid)


def test_what_is_written_to_meanwhile_is_removed_all_the_same(tmp_path, monkeypatch):
    remove, written = shutil.rmtree, iter(["one", "two"])

    def written_to(name, **options):
        """Remove it, but for what somebody has just written there."""
        remove(name, **options)
        for late in written:
            Path(name, late).mkdir(parents=True)
            break

    monkeypatch.setattr(shutil, "rmtree", written_to)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with _work_directory() as name:
        assert Path(name).is_dir()
    assert not Path(name).exists()


def _is_alive(group):
    """Whether a process of a session is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
