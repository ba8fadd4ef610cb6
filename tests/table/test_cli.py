import json
import os
import subprocess
import sys

import pytest

from fullframe.cli.main import main

GOOD = """\
# number abi name entry point
0\tcommon\tread\tsys_read
59\t64\texecve\tsys_execve:regs
60\t64\texit\tsys_exit\t-\tnoreturn
134\t64\tuselib
520\tx32\texecve\tcompat_sys_execve:regs
11\ti386\texecve\tsys_execve:regs\tcompat_sys_execve:regs
"""
FAULTY = """\
0 common read sys_read:regs
57 common fork sys_fork
59 64 execve sys_execve/ptregs
520 x32 execve compat_sys_execve
11 i386 execve sys_execve:regs compat_sys_execve
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.tbl").write_text(GOOD)
    (tmp_path / "faulty.tbl").write_text(FAULTY)
    (tmp_path / "wrong.tbl").write_text("one 64 write sys_write\n2 64\n")
    (tmp_path / "i386").write_text("0 i386 only sys_only\n")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "show good.tbl",
        "show good.tbl --json",
        "show good.tbl faulty.tbl --abi common,x32",
        "show good.tbl --abi i386",
        "show ./i386",
        "lint good.tbl",
        "lint faulty.tbl",
        "lint faulty.tbl --json",
        "lint good.tbl --json",
        "lint good.tbl --needs read --needs uselib",
        "lint wrong.tbl",
        "lint missing.tbl good.tbl wrong.tbl",
        "lint --json wrong.tbl",
        "show good.tbl --abi x86",
        "diff good.tbl faulty.tbl",
        "diff good.tbl faulty.tbl --json",
        "diff good.tbl good.tbl",
    ],
)
def test_output(command, capsys, snapshot):
    code = main(["table", *command.split()])
    captured = capsys.readouterr()
    assert f"exit code {code}\n{captured.out}\n--- stderr\n{captured.err}" == snapshot


def test_lint_json_has_what_is_promised(capsys):
    assert main(["table", "lint", "--json", "faulty.tbl"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result["schema"], int)
    assert len(result["findings"]) == 4
    for finding in result["findings"]:
        assert list(finding) == [
            "code", "severity", "path", "line", "column", "message", "name", "number", "abi",
        ]  # fmt: skip


def test_packaged_tables_are_the_default(capsys):
    assert main(["table", "lint"]) == 0
    assert capsys.readouterr().out == "2 tables, 838 entries: 0 errors, 0 warnings\n"
    assert main(["table", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["tables"]
    assert [len(table["entries"]) for table in shown] == [398, 440]
    assert shown[0]["abis"] == ["64", "common", "x32"]
    assert main(["table", "show", "x86-64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"] == shown[:1]


def test_wrong_input_prints_nothing_on_stdout(capsys):
    assert main(["table", "show", "good.tbl", "wrong.tbl"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "wrong.tbl:1:1: number 'one' is not a number" in captured.err
    assert "wrong.tbl:2:5: missing column: the line ends where the name should be" in captured.err


def test_no_subcommand_is_a_usage_error(capsys):
    assert main(["table"]) == 2
    assert "lint" in capsys.readouterr().err


def test_piped_output_is_neither_cut_nor_coloured(folder):
    long_name = "a" * 300
    (folder / "long.tbl").write_text(f"0 64 {long_name} sys_{long_name}\n")
    done = subprocess.run(
        [sys.executable, "-m", "fullframe", "table", "show", "long.tbl"],
        capture_output=True, text=True, check=True,
        env=os.environ | {"COLUMNS": "40", "FORCE_COLOR": ""},
    )  # fmt: skip
    row = done.stdout.splitlines()[2]
    assert row.split() == ["0", "64", long_name, f"sys_{long_name}"]
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_path_and_encoding_can_be_printed(folder, encoding):
    name = os.fsdecode(b"caf\xe9-\xe2\x82\xac.tbl")
    (folder / name).write_text(FAULTY)
    for command in ("show", "lint"):
        for extra in ([], ["--json"]):
            done = subprocess.run(
                [sys.executable, "-m", "fullframe", "table", command, name, *extra],
                capture_output=True, check=False,
                env=os.environ | {"PYTHONIOENCODING": encoding},
            )  # fmt: skip
            assert done.returncode == (1 if command == "lint" else 0), done.stderr


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_reader_that_goes_away_is_no_error(extra):
    with subprocess.Popen(
        [sys.executable, "-m", "fullframe", "table", "show", *extra],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_path_cannot_command_the_terminal(folder, capsys):
    name = "esc\x1b[2J.tbl"
    (folder / name).write_text(FAULTY)
    assert main(["table", "lint", name]) == 1
    assert main(["table", "show", name]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "esc\\x1b[2J.tbl:1:23" in out
