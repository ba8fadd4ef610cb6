"""The documentation is held to the program: output, examples, JSON keys, layers, links."""

import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fullframe.cli.main import GROUPS, main
from fullframe.report.compare import print_comparison
from fullframe.report.compare_json import comparison_json
from fullframe.run.session import DEFAULT_SEED
from fullframe.toolchain.find import find_toolchain
from tests.compare.sample import comparison, with_difference

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("update_docs", ROOT / "scripts/update_docs.py")
update_docs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(update_docs)

DOCUMENTS = update_docs.documents()
BLOCKS = {
    match["command"]: match["output"]
    for path in DOCUMENTS
    for match in update_docs.BLOCK.finditer(path.read_text(encoding="utf-8"))
}
HELP = [command for command in BLOCKS if command.endswith("--help")]
EXAMPLES = [
    line.partition("#")[0].strip()
    for path in DOCUMENTS
    for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("fullframe ")
]


def words(text):
    """Text without its line breaks: how usage is wrapped is Python's business, and changes."""
    return " ".join(text.split())


# --- output ---


@pytest.mark.parametrize("command", HELP)
def test_help_is_what_is_printed(command):
    assert words(update_docs.output_of(command)) == words(BLOCKS[command])


def test_every_command_is_documented():
    documented = {tuple(command.split()[1:-1]) for command in HELP}
    found = {()}
    for group, _, _ in GROUPS:
        found.add((group,))
        text = update_docs.output_of(f"fullframe {group} --help")
        subcommands = re.search(r"^(?:sub)?commands:\n(.*?)(?:\n\n|\Z)", text, re.M | re.S)
        for name in re.findall(r"^    (\w[\w-]*)", subcommands[1] if subcommands else "", re.M):
            found.add((group, name))
    assert found == documented


def stable(text):
    """Lines of a comparison that are the same on every machine and with every toolchain."""
    lines, section = [], ""
    for line in text.splitlines():
        section = line if line[:1].strip() else section
        # C code of the slow paths, and tables behind it, are as the compiler makes them.
        compiled = section.startswith(("slow path", "annotated call", "Masked"))
        if "measured" in line or "built with" in line or (compiled and "slots" not in line):
            continue
        if line.startswith("  ") or "fast path is partial's" in line or "calls run" in line:
            lines.append(words(line))
    return lines


@pytest.fixture(scope="session")
def packaged():
    """The packaged table compared once more, without the measurement."""
    from tests.compare.test_comparison import packaged_comparison

    return packaged_comparison()


def test_the_comparison_in_the_readme_is_what_is_found(packaged):
    stream = io.StringIO()
    print_comparison(packaged, stream)
    documented = stable(BLOCKS["fullframe compare"])
    assert documented == stable(stream.getvalue())
    assert len(documented) > 20
    assert f"seed {DEFAULT_SEED}" in BLOCKS["fullframe compare"]


def test_output_in_documents_names_no_place_of_the_machine_that_made_it():
    for command, output in BLOCKS.items():
        assert not re.search(r"/(?:home|root|tmp|work|usr)\b", output), command


# --- examples ---


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example, tmp_path):
    find_toolchain()
    done = subprocess.run(
        [sys.executable, "-m", "fullframe", *shlex.split(example)[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_there_are_examples():
    assert len(EXAMPLES) >= 5


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set()
    for path in (*DOCUMENTS, ROOT / "CONTRIBUTING.md"):
        named |= set(re.findall(r"(?:`|^)make ([\w-]+)", path.read_text(encoding="utf-8"), re.M))
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    assert {"compare", "test", "check", "bench"} <= named <= targets


# --- JSON ---

#: Keys that are data: names of cores, strategies, calls, symbols, labels, alignments.
_DATA = {
    "strategies", "cycles_bound", "bounds", "mca", "by_alignment", "table_bytes", "by_resource",
    "differences_by_call", "replacements", "left_by", "paths",
}  # fmt: skip


def keys(value, data=False):
    """Yield every key of an object that is not data."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not data:
                yield key
            yield from keys(each, key in _DATA)
    elif isinstance(value, list):
        for each in value:
            yield from keys(each)


def documented_keys(command):
    text = (ROOT / "docs/json.md").read_text(encoding="utf-8")
    section = re.search(rf"^## `{re.escape(command)}`\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]
    return {key for word in re.findall(r"`([^`\n]+)`", section) for key in re.split(r"\W+", word)}


def printed(capsys, *arguments):
    assert main(arguments) in (0, 1)
    return json.loads(capsys.readouterr().out)


def test_every_key_of_compare_is_documented():
    found = set(keys(comparison_json(with_difference(comparison()))))
    assert found - documented_keys("fullframe compare --json") == set()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("table show", ["bad.tbl"]),
        ("table lint", ["bad.tbl"]),
        ("table diff", ["bad.tbl", "good.tbl"]),
        ("entry generate", ["good.tbl", "--strategy", "annotated", "-o", "out", "--build"]),
        ("vdso build", ["--machine", "i386", "-o", "images"]),
        ("vdso dump", ["-o", "running"]),
        ("explain", []),
    ],
)
def test_every_key_is_documented(command, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.tbl").write_text("0 common read sys_read\n57 64 fork sys_fork\n")
    (tmp_path / "good.tbl").write_text("0 common read sys_read\n57 64 fork sys_fork:regs\n")
    found = set(keys(printed(capsys, *command.split(), *arguments, "--json")))
    assert found - documented_keys(f"fullframe {command} --json") == set()


def test_every_key_of_entry_run_is_documented(tmp_path, capsys):
    table = tmp_path / "good.tbl"
    table.write_text("0 common read sys_read\n1 64 fork sys_fork:regs\n")
    found = set(keys(printed(capsys, "entry", "run", str(table), "--json")))
    documented = documented_keys("fullframe entry run --json")
    assert found - documented - documented_keys("fullframe compare --json") == set()


# --- the map ---


def test_the_map_has_every_room():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / "src/fullframe").glob("*/__init__.py")}
    assert set(re.findall(r"^(\w+)/  ", text, re.M)) == rooms


def test_the_map_has_the_order_that_is_enforced():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawn = re.search(r"^\| (cli > [^|]+) \|", text, re.M)[1]
    order = [set(re.findall(r"\w+", layer)) for layer in drawn.split(" > ")]
    assert order == [set(re.findall(r"fullframe\.(\w+)", layer)) for layer in layers]


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"])
def test_modules_that_documents_name_exist(path):
    rooms = "|".join(name.name for name in (ROOT / "src/fullframe").iterdir() if name.is_dir())
    for name in re.findall(rf"`((?:{rooms})(?:\.\w+)+)`", path.read_text(encoding="utf-8")):
        parts = name.split(".")
        base = ROOT / "src/fullframe"
        module = base.joinpath(*parts).with_suffix(".py")
        holder = base.joinpath(*parts[:-1])
        inside = [holder.with_suffix(".py"), holder / "__init__.py"]
        assert module.exists() or any(
            file.exists() and re.search(rf"\b{parts[-1]}\b", file.read_text()) for file in inside
        ), name
