import json
import subprocess
import sys

import pytest

from fullframe.cli.main import main
from tests.prove.built import image_path
from tests.prove.samples import MISTAKES, build, changed
from tests.support import run_unprivileged

SLOTS = 21


@pytest.fixture
def wrong(tmp_path):
    return str(build(tmp_path, changed(*MISTAKES[4][1])))


ONLY = ("--entry", "entry_SYSCALL_64", "--entry", "sys_call_table")


def test_proved_text(capsys):
    assert main(["entry", "prove", str(image_path("annotated")), "--contract", "annotated"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == ("entry_SYSCALL_64 (by SYSCALL): 151 boundaries, 4 calls into C, 3 ways out")
    assert "entry_SYSCALL_64+0x55   sys_read and 338 more" in out
    assert "    bx       unwritten" in lines
    assert "    ax       constant -38" in lines
    assert lines[-1].startswith("proved against annotated: 18 ways in, ")


def test_json(capsys):
    path = str(image_path("full"))
    assert main(["entry", "prove", path, "--contract", "full", "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert list(proof) == [
        "schema", "image", "contract", "proved", "entries", "absent", "findings", "not_proved",
    ]  # fmt: skip
    assert proof["schema"] == 1
    assert proof["image"] == path
    assert proof["contract"] == "full"
    assert proof["proved"] is True
    assert proof["findings"] == proof["not_proved"] == []
    entry = proof["entries"][0]
    assert entry["symbol"] == "entry_SYSCALL_64"
    assert entry["boundaries"] > 100
    assert entry["paths_merged"] > 0
    call = entry["calls"][0]
    assert set(call) == {"address", "callee", "frame", "slots", "ok"}
    assert call["frame"] == "full"
    assert len(call["slots"]) == SLOTS
    assert call["slots"]["bx"].startswith("the user's bx")
    assert {way["instruction"] for way in entry["ways_out"]} == {"sysretq", "iretq"}
    assert all(way["ok"] for way in entry["ways_out"])


def test_findings_as_json(wrong, capsys):
    assert main(["entry", "prove", wrong, "--contract", "annotated", "--json", *ONLY]) == 1
    proof = json.loads(capsys.readouterr().out)
    assert proof["proved"] is False
    finding = proof["findings"][0]
    assert set(finding) == {
        "code", "severity", "entry", "address", "message", "path", "features",
    }  # fmt: skip
    assert finding["code"] == "FF-P004"
    assert finding["severity"] == "error"
    assert finding["entry"] == "entry_SYSCALL_64"
    assert finding["path"][-1] == finding["address"]


def test_findings_as_text(wrong, capsys):
    assert main(["entry", "prove", wrong, "--contract", "annotated", *ONLY]) == 1
    out = capsys.readouterr().out
    assert "do_syscall_64 is called with interrupts on; it needs them off" in out
    assert "  from entry_SYSCALL_64: entry_SYSCALL_64 > " in out
    assert out.splitlines()[-1].startswith("NOT proved against annotated: 1 finding, 0 not")


def test_sarif(wrong, capsys):
    assert main(["entry", "prove", wrong, "--contract", "annotated", "--sarif", *ONLY]) == 1
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0"
    run = log["runs"][0]
    result = run["results"][0]
    assert result["ruleId"] == "FF-P004"
    assert result["level"] == "error"
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "FF-P004"


def test_not_proved(tmp_path, capsys):
    # A store through a pointer that nobody knows.
    path = str(build(tmp_path, changed(("\tsti\n\tcmpq", "\tsti\n\tmovq\t%rax, (%rdi)\n\tcmpq"))))
    command = ["entry", "prove", path, "--contract", "annotated", *ONLY]
    assert main(command) == 1
    assert "stores to memory at the user's di" in capsys.readouterr().out
    assert main([*command, "--allow-unproved"]) == 0
    capsys.readouterr()
    assert main([*command, "--json", "--allow-unproved"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert proof["proved"] is False
    item = proof["not_proved"][0]
    assert item["entry"] == "entry_SYSCALL_64"
    assert item["reason"] == "stores to memory at the user's di"
    assert isinstance(item["address"], int)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.elf", "--contract", "full"], 3, "missing.elf: cannot be opened"),
        ([__file__, "--contract", "full"], 3, "not an ELF file"),
        ([sys.executable, "--contract", "ful"], 2, "no contract 'ful' (did you mean full?)"),
        (
            [sys.executable, "--contract", "x" * 300],
            3,
            f"fullframe: {'x' * 300}: cannot be read: File name too long; expected a TOML file in "
            "UTF-8\n  next: check the file\n",
        ),
    ],
)
def test_inputs_that_cannot_be_used(arguments, code, message, capsys):
    assert main(["entry", "prove", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_a_contract_in_a_directory_that_may_not_be_entered(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    path = str(closed / "x.toml")
    done = run_unprivileged("entry", "prove", sys.executable, "--contract", path)
    closed.chmod(0o700)
    assert (done.returncode, done.stdout, done.stderr) == (
        3,
        "",
        f"fullframe: {path}: cannot be read: Permission denied; expected a TOML file in UTF-8\n"
        "  next: check the file\n",
    )


def test_contract_is_required():
    result = subprocess.run(
        [sys.executable, "-m", "fullframe", "entry", "prove", "x"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "--contract" in result.stderr


def test_every_code_is_explained(capsys):
    assert main(["explain", "ff-p006"]) == 0
    assert "SYSRET without its conditions" in capsys.readouterr().out
