from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import pytest

from fullframe.errors import EXIT_TOOL_MISSING, ToolFailedError, ToolMissingError
from fullframe.toolchain.command import run_tool


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def test_output_and_exit_code_come_back() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    done = run_tool(python(code), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_failure_carries_command_exit_code_and_output() -> None:
    code = "import sys; print('what went wrong'); sys.exit(7)"
    with pytest.raises(ToolFailedError) as caught:
        run_tool(python(code, "an argument"))
    assert caught.value.returncode == 7
    assert "what went wrong" in caught.value.output
    assert "'an argument'" in str(caught.value)


def test_a_signal_is_a_failure() -> None:
    with pytest.raises(ToolFailedError) as caught:
        run_tool(python("import os; os.kill(os.getpid(), 11)"))
    assert caught.value.returncode == -11


def test_the_command_is_logged_as_it_could_be_typed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fullframe.toolchain"):
        run_tool(python("pass", "two words", "$HOME"))
    assert "'two words' '$HOME'" in caplog.text


def test_arguments_reach_the_tool_unchanged_by_any_shell() -> None:
    words = ["$HOME", "`id`", "a;b", "", "ä"]
    code = "import sys; print(ascii(sys.argv[1:]))"
    assert run_tool(python(code, *words)).stdout.strip() == ascii(words)


def test_input_and_environment_and_directory(tmp_path: Path) -> None:
    code = (
        "import os,sys; print(os.environ['LC_ALL'], os.environ['X'], os.getcwd(), sys.stdin.read())"
    )
    environment = {"X": "given", "LC_ALL": "de_DE.UTF-8"}
    done = run_tool(python(code), cwd=tmp_path, input_text="text", environment=environment)
    assert done.stdout.split() == ["C", "given", os.fspath(tmp_path.resolve()), "text"]


def test_no_input_is_an_empty_input() -> None:
    assert run_tool(python("import sys; print(repr(sys.stdin.read()))")).stdout == "''\n"


def test_an_input_that_is_not_read_is_no_error() -> None:
    assert run_tool(python("pass"), input_text="x" * 1_000_000).returncode == 0


@pytest.mark.parametrize(
    ("name", "step"),
    [("no-such-tool", "PATH"), ("/nonexistent/readelf", "apt-get install binutils")],
)
def test_a_missing_tool_is_named_with_the_way_to_get_it(name: str, step: str) -> None:
    with pytest.raises(ToolMissingError, match="was not found") as caught:
        run_tool([name, "--version"])
    assert name in str(caught.value)
    assert step in str(caught.value)
    assert caught.value.exit_code == EXIT_TOOL_MISSING


def test_a_versioned_name_leads_to_the_same_package() -> None:
    with pytest.raises(ToolMissingError, match="apt-get install llvm"):
        run_tool(["/nonexistent/llvm-mca-19"])


def test_what_cannot_be_executed_is_refused_without_a_traceback(tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"\x00\x01\x02")
    junk.chmod(0o755)
    with pytest.raises(ToolFailedError, match="format"):
        run_tool([junk])
    junk.chmod(0o644)
    with pytest.raises(ToolMissingError):
        run_tool([junk])
    with pytest.raises(ToolFailedError, match="null byte"):
        run_tool([sys.executable, "a\0b"])
    with pytest.raises(ToolFailedError, match="no such directory"):
        run_tool([sys.executable], cwd=tmp_path / "nowhere")


def test_a_hang_ends_at_the_timeout_with_its_children() -> None:
    # The child inherits the pipes: only killing it as well lets the reading end.
    code = (
        "import subprocess,sys,time; print('started', flush=True);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
    )
    started = time.monotonic()
    with pytest.raises(ToolFailedError, match="not finished after 2 seconds") as caught:
        run_tool(python(code), timeout_seconds=2)
    assert "started" in caught.value.output
    assert time.monotonic() - started < 300  # far from the 600 s that it would hang


def test_a_flood_of_output_is_stopped() -> None:
    code = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    with pytest.raises(ToolFailedError, match="printed more than 1000000 bytes") as caught:
        run_tool(python(code), output_limit_bytes=1_000_000)
    assert len(caught.value.output) < 100_000


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert run_tool(python("import os; os.write(1, b'a\\xffb')")).stdout == "a�b"
