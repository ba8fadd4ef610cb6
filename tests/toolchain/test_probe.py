"""Probing assemblers: real ones, and scripts that refuse, lie or count."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from fullframe.cfi.write.policy import build, used_directives, without_directives
from fullframe.cfi.write.row_text import row_text
from fullframe.cli.main import main
from fullframe.errors import InputError, ToolMissingError
from fullframe.toolchain.probe import (
    KINDS,
    TRIALS,
    Probed,
    Tool,
    find_assemblers,
    probe,
)
from tests.cfi_write.support import need, source
from tests.cfi_write.test_encode import NASM
from tests.cfi_write.test_fix import ANNOTATED
from tests.support import skip_or_fail


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real tools are probed once for this module, and never from the user's cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def wrapper(directory: Path, filter_command: str, name: str = "as") -> Tool:
    """An assembler that is GNU as behind a filter of its source, and counts how often it runs."""
    real = need("as")
    path = directory / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f'#!/bin/sh\necho run >> "{directory}/runs"\n'
        f'if [ "$1" = --version ]; then echo "GNU assembler version 2.13"; exit; fi\n'
        f'for last; do :; done\n{filter_command} "$last" > "{directory}/filtered.s" || exit 1\n'
        f'exec {real} "$1" "$2" "{directory}/filtered.s"\n'
    )
    path.chmod(0o755)
    return Tool(str(path), "gas", "GNU assembler version 2.13")


def runs(directory: Path) -> int:
    return len((directory / "runs").read_text().splitlines())


def test_gnu_as_gets_all_right_that_it_takes() -> None:
    tools = [tool for tool in find_assemblers() if tool.kind == "gas"]
    if not tools:
        need("as")
    directives = probe(tools[0], row_text).directives
    assert list(directives) == [trial.name for trial in TRIALS]
    assert "wrong" not in directives.values()
    for name in (".cfi_startproc", ".cfi_offset eflags", ".cfi_signal_frame", ".cfi_escape"):
        assert directives[name] == "right"


def test_llvm_before_16_rejects_eflags() -> None:
    """LLVM commit 3e30278e0c71."""
    llvm = [tool for tool in find_assemblers() if tool.kind == "llvm"]
    if not llvm:
        need("llvm-mc")
    for tool in llvm:
        major = int(tool.version.split("version ")[1].split(".")[0])
        expected = "right" if major >= 16 else "refused"
        assert probe(tool, row_text).directives[".cfi_offset eflags"] == expected


@pytest.mark.parametrize("kind", ["nasm", "yasm"])
def test_nasm_takes_a_directive_for_a_label(kind: str) -> None:
    need(kind)
    (tool,) = [tool for tool in find_assemblers() if tool.kind == kind]
    directives = probe(tool, row_text).directives
    assert directives[".cfi_startproc"] == "wrong"
    assert directives[".cfi_def_cfa_offset"] == "refused"
    assert "right" not in directives.values()


def test_an_assembler_that_lies_is_caught(tmp_path: Path) -> None:
    tool = wrapper(
        tmp_path, "sed -e 's/cfa_offset 48/cfa_offset 40/; s/cfi_undefined/cfi_same_value/'"
    )
    directives = probe(tool, row_text).directives
    wrong = [name for name, value in directives.items() if value == "wrong"]
    assert wrong == [".cfi_def_cfa_offset", ".cfi_undefined"]


def test_an_old_assembler_is_told(tmp_path: Path) -> None:
    tool = wrapper(
        tmp_path, "sed -e 's/cfi_sections/cfi_nothing/; s/cfi_signal_frame/cfi_nothing/'"
    )
    directives = probe(tool, row_text).directives
    assert directives[".cfi_sections"] == directives[".cfi_signal_frame"] == "refused"
    assert directives[".cfi_def_cfa"] == "right"


def test_the_cache_is_per_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tool = wrapper(tmp_path, "cat")
    first = probe(tool, row_text)
    count = runs(tmp_path)
    assert count == len(TRIALS)
    assert probe(tool, row_text) == first
    assert runs(tmp_path) == count
    # Another program of the same name is tried again.
    tool = wrapper(tmp_path, "sed -e 's/cfi_escape/cfi_nothing/'")
    assert probe(tool, row_text).directives[".cfi_escape"] == "refused"
    assert runs(tmp_path) > count
    # So is one whose memory is damaged, and one for which nothing is to be remembered.
    for file in (tmp_path / "cache/fullframe").iterdir():
        file.write_text('{".cfi_escape": "right"}')
    assert probe(tool, row_text).directives[".cfi_escape"] == "refused"
    count = runs(tmp_path)
    probe(tool, row_text, use_cache=False)
    assert runs(tmp_path) == count + len(TRIALS)


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert probe(wrapper(tmp_path, "cat"), row_text).directives[".cfi_offset"] == "right"


def test_a_program_that_is_none_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "as").write_text("#!/bin/sh\necho something else 1.0\n")
    (tmp_path / "nasm").write_text("no program")
    for name in ("as", "nasm"):
        (tmp_path / name).chmod(0o755)
    assert find_assemblers(str(tmp_path)) == []


def test_zig_in_the_wheel() -> None:
    tools = [tool for tool in find_assemblers() if tool.kind == "zig"]
    if not tools:
        skip_or_fail("the Python package ziglang is not installed")
    (tool,) = tools
    assert probe(tool, row_text).directives[".cfi_def_cfa"] == "right"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    need("as")
    assert main(["toolchain", "probe", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"schema", "tools"}
    for tool in told["tools"]:
        assert set(tool) == {"path", "kind", "version", "directives"}
        assert tool["kind"] in KINDS
        assert set(tool["directives"].values()) <= {"right", "wrong", "refused"}
    assert main(["toolchain", "probe"]) == 0
    assert ".cfi_offset eflags" in capsys.readouterr().out


def test_no_assembler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("fullframe.toolchain.probe.find_tools", lambda *_, **__: [])
    monkeypatch.setattr("fullframe.toolchain.probe._wheel_zig", lambda: None)
    assert main(["toolchain", "probe"]) == 4
    assert "apt-get install binutils" in capsys.readouterr().err


# -- the policy ----------------------------------------------------------------------------------


def old_assembler(tmp_path: Path) -> Probed:
    """An assembler without any .cfi_*."""
    tool = wrapper(tmp_path, "sed -e 's/\\.cfi_/.nothing_/'")
    return probe(tool, row_text, use_cache=False)


def rows_of(path: Path) -> list[str]:
    return [line for line in row_text(path.read_bytes()).splitlines() if line.startswith("  +")]


def test_require_names_what_is_needed(tmp_path: Path) -> None:
    probed = old_assembler(tmp_path)
    good = Probed(Tool("/usr/bin/as", "gas", "2.40"), {trial.name: "right" for trial in TRIALS})
    output = tmp_path / "out.o"
    with pytest.raises(ToolMissingError) as caught:
        build(source(ANNOTATED), str(output), probed, "require", [probed, good])
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert "  .cfi_rel_offset: refused; needed: GNU binutils" in message
    assert "use /usr/bin/as, which takes them, or build with --cfi encode" in message
    assert not output.exists()


def test_drop_builds_without(tmp_path: Path) -> None:
    output = tmp_path / "out.o"
    built = build(source(ANNOTATED), str(output), old_assembler(tmp_path), "drop")
    assert built.action == "dropped"
    assert rows_of(output) == []
    assert b"k\0" in output.read_bytes()


def test_encode_builds_the_same_rows(tmp_path: Path) -> None:
    output, wanted = tmp_path / "out.o", tmp_path / "wanted.o"
    built = build(source(ANNOTATED), str(output), old_assembler(tmp_path), "encode")
    assert built.action == "encoded"
    (tmp_path / "k.s").write_text(ANNOTATED)
    subprocess.run([need("as"), str(tmp_path / "k.s"), "-o", str(wanted)], check=True)
    seen: dict[str, None] = {}
    for line in rows_of(wanted):
        if not seen or next(reversed(seen)).split(" ", 3)[3] != line.split(" ", 3)[3]:
            seen[line] = None
    assert rows_of(output) == list(seen)


def test_what_is_taken_is_assembled_as_it_is(tmp_path: Path) -> None:
    need("as")
    tool = next(tool for tool in find_assemblers() if tool.kind == "gas")
    built = build(source(ANNOTATED), str(tmp_path / "out.o"), probe(tool, row_text), "require")
    assert (built.lacking, built.action) == ((), "as it is")


def test_command_with_nasm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("nasm")
    path, output = tmp_path / "f.asm", tmp_path / "f.o"
    path.write_text(NASM)
    command = ["toolchain", "assemble", str(path), "-o", str(output), "--assembler", "nasm"]
    assert main([*command, "--cfi", "require"]) == 4
    assert "no version of NASM or YASM has it" in capsys.readouterr().err
    assert main([*command, "--cfi", "drop", "--", "-felf64"]) == 0
    assert rows_of(output) == []
    assert main([*command, "--cfi", "encode"]) == 0
    assert len(rows_of(output)) == 5
    assert main([*command[:-1], "no-such-assembler"]) == 4
    assert "there are: " in capsys.readouterr().err


def test_a_source_that_the_assembler_refuses(tmp_path: Path) -> None:
    need("as")
    tool = next(tool for tool in find_assemblers() if tool.kind == "gas")
    output = tmp_path / "out.o"
    output.write_bytes(b"old")
    with pytest.raises(InputError, match="refuses it"):
        build(source("f:\tpush nothing, at, all\n"), str(output), probe(tool, row_text), "drop")
    assert output.read_bytes() == b"old"
    assert shutil.which("as")


def test_the_directives_of_a_source() -> None:
    lines = ["f: .cfi_startproc simple; nop", " .cfi_offset eflags, -16", "# .cfi_escape 1"]
    assert used_directives(lines) == {".cfi_startproc simple": 0, ".cfi_offset eflags": 1}
    assert without_directives(lines) == ["f:\tnop", "", "# .cfi_escape 1"]
