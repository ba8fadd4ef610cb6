"""``fullframe cfi check``, ``cfi show`` and ``explain`` as they are typed."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from fullframe.cfi.diagnostics import DIAGNOSTICS
from fullframe.cli.main import main
from fullframe.elf.image import Image
from fullframe.errors import ToolMissingError
from fullframe.toolchain.command import run_tool
from fullframe.toolchain.find import find_tool
from tests.cfi_check import small
from tests.support import run_unprivileged, skip_or_fail

#: Keys as docs/json.md has them.
FILE_KEYS = [
    "path", "machine", "functions", "boundaries", "proved", "wrong", "assumed", "cannot_tell",
    "covered_bytes", "uncovered_bytes", "uncovered_functions", "seconds", "error",
]  # fmt: skip
FINDING_KEYS = [
    "code", "severity", "path", "function", "address", "end_address", "place", "source",
    "instruction", "claimed", "actual", "message", "suggestion",
]  # fmt: skip
SHOWN_KEYS = [
    "address", "place", "text", "answer", "cfa_claimed", "rules", "cfa_actual", "registers",
    "notes",
]  # fmt: skip


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    small.assemble(small.RIGHT, folder / "right.o")
    small.assemble(small.X86_64, folder / "wrong.o")
    small.assemble(small.I386, folder / "wrong32.o", bits=32)
    return folder


@pytest.fixture(autouse=True)
def folder(objects, tmp_path, monkeypatch):
    """Work beside copies, so that the paths in the output are the same in every run."""
    for name in ("right.o", "wrong.o", "wrong32.o"):
        shutil.copy(objects / name, tmp_path / name)
    (tmp_path / "text.o").write_text("not an object\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def check(capsys):
    """Run ``cfi check``; give the exit code and what went to stdout and stderr."""

    def run(*arguments):
        code = main(["cfi", "check", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_text(check, snapshot):
    code, out, err = check("right.o", "wrong.o", "wrong32.o")
    assert (code, err) == (1, "")
    assert out == snapshot


def test_nothing_wrong(check, snapshot):
    code, out, err = check("right.o")
    assert (code, err) == (0, "")
    assert out == snapshot


def test_json(check):
    code, out, err = check("right.o", "wrong.o", "wrong32.o", "--json")
    assert (code, err) == (1, "")
    found = json.loads(out)
    assert list(found) == ["schema", "files", "findings"]
    assert found["schema"] == 1
    assert [file["path"] for file in found["files"]] == ["right.o", "wrong.o", "wrong32.o"]
    assert [file["machine"] for file in found["files"]] == ["x86-64", "x86-64", "i386"]
    assert [file["functions"] for file in found["files"]] == [1, 3, 3]
    for file in found["files"]:
        assert list(file) == FILE_KEYS
        counts = [file[key] for key in ("proved", "wrong", "assumed", "cannot_tell")]
        assert sum(counts) == file["boundaries"] > 0
        assert file["error"] is None
    for finding in found["findings"]:
        assert list(finding) == FINDING_KEYS
        assert finding["address"] < finding["end_address"]
        assert finding["source"] is None
    assert [(one["path"], one["function"], one["code"]) for one in found["findings"]] == [
        ("wrong.o", "unadjusted", "FF-C001"),
        ("wrong.o", "lost", "FF-C003"),
        ("wrong32.o", "unadjusted", "FF-C001"),
        ("wrong32.o", "lost", "FF-C003"),
    ]
    assert [one["severity"] for one in found["findings"]] == [
        "return-address-lost", "asynchronous-only",
    ] * 2  # fmt: skip


def test_sarif(check):
    code, out, err = check("wrong.o", "--sarif")
    assert (code, err) == (1, "")
    log = json.loads(out)
    assert list(log) == ["$schema", "version", "runs"]
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "fullframe"
    assert [rule["id"] for rule in driver["rules"]] == list(DIAGNOSTICS)
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"]
        assert rule["help"]["text"]
    results = run["results"]
    assert [result["ruleId"] for result in results] == ["FF-C001", "FF-C003"]
    assert [result["level"] for result in results] == ["error", "warning"]
    for result in results:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"] == {"uri": "wrong.o"}
        assert location["physicalLocation"]["address"]["absoluteAddress"] > 0
    functions = [one["locations"][0]["logicalLocations"][0]["name"] for one in results]
    assert functions == ["unadjusted", "lost"]
    fingerprints = [one["partialFingerprints"]["fullframe/v1"] for one in results]
    assert len(set(fingerprints)) == len(fingerprints)


def test_sarif_of_nothing(check):
    code, out, _ = check("right.o", "--sarif")
    assert code == 0
    assert json.loads(out)["runs"][0]["results"] == []


def test_fingerprints_stay_when_code_moves(check, folder):
    def fingerprints():
        _, out, _ = check("wrong.o", "--sarif")
        results = json.loads(out)["runs"][0]["results"]
        places = [one["locations"][0]["physicalLocation"]["address"] for one in results]
        return [one["partialFingerprints"] for one in results], places

    before, places = fingerprints()
    moved = small.X86_64.replace("\tmovl %edi, %ebx\n", "\tmovl %edi, %ebx\n" * 9)
    small.assemble(moved, folder / "wrong.o")
    after, moved_places = fingerprints()
    assert after == before
    assert moved_places != places


def test_source_lines(check, folder):
    """With line numbers in the object a finding names the line, SARIF too."""
    small.assemble(small.X86_64, folder / "wrong.o", flags=("-g",))
    line = small.X86_64.splitlines().index("\tcall ask") + 1
    _, out, _ = check("wrong.o", "--json")
    source = json.loads(out)["findings"][0]["source"]
    assert source.endswith(f"wrong.s:{line}")
    _, out, _ = check("wrong.o", "--sarif")
    physical = json.loads(out)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert physical["region"] == {"startLine": line}
    assert physical["artifactLocation"]["uri"].endswith("wrong.s")


def test_baseline_round_trip(check, folder):
    code, out, _ = check("wrong.o", "--write-baseline", "known.json")
    assert code == 1
    assert "FF-C001" in out
    code, out, err = check("wrong.o", "--baseline", "known.json")
    assert (code, err) == (0, "")
    assert "FF-C" not in out
    assert "2 known finding(s) in the baseline, not shown\n" in out
    code, out, _ = check("wrong.o", "--baseline", "known.json", "--json")
    assert code == 0
    assert json.loads(out)["findings"] == []
    assert json.loads(out)["files"][0]["wrong"] > 0
    code, out, _ = check("wrong.o", "--baseline", "known.json", "--sarif")
    assert code == 0
    assert json.loads(out)["runs"][0]["results"] == []
    # The same file installed elsewhere is the same file.
    (folder / "installed").mkdir()
    shutil.copy("wrong.o", "installed/wrong.o")
    assert check("installed/wrong.o", "--baseline", "known.json")[0] == 0


def test_a_new_finding_beside_a_baseline(check, folder):
    check("wrong.o", "--write-baseline", "known.json")
    worse = small.X86_64.replace("\t.cfi_offset %rbx, -16\n", "")
    small.assemble(worse, folder / "wrong.o")
    code, out, _ = check("wrong.o", "--baseline", "known.json", "--json")
    assert code == 1
    assert {one["function"] for one in json.loads(out)["findings"]} == {"right"}


def test_the_same_findings_give_the_same_baseline(check, folder):
    check("wrong.o", "wrong32.o", "--write-baseline", "first.json")
    check("wrong32.o", "wrong.o", "--write-baseline", "second.json", "--jobs", "2")
    assert (folder / "first.json").read_bytes() == (folder / "second.json").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a baseline: "),
        ("{", "not a baseline: "),
        ("[]", "not a baseline: "),
        ("7", "not a baseline: "),
        ("{}", "not a baseline: 'known'"),
        ('{"known": {}}', "not a baseline: 'schema'"),
        ('{"schema": 2, "known": {}}', "not a baseline: schema 2; expected"),
        ('{"schema": 1, "known": []}', "not a baseline: "),
        ('{"schema": 1, "known": {"a": "x"}}', "not a baseline: "),
        ('{"schema": 1, "known": {"a": null}}', "not a baseline: "),
        ('{"schema": 1, "known": {"a": Infinity}}', "not a baseline: "),
        ("[" * 100_000, "not a baseline: "),
        (b"\xff\xfe\x00", "cannot be read: "),
    ],
)
def test_broken_baselines(check, folder, text, message):
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "known.json").write_bytes(data)
    code, out, err = check("wrong.o", "--baseline", "known.json")
    assert (code, out) == (3, "")
    assert err.startswith(f"fullframe: known.json: {message}")
    assert "\n  next: " in err


def test_no_such_baseline(check):
    code, out, err = check("wrong.o", "--baseline", "none.json")
    assert (code, out) == (3, "")
    assert err == (
        "fullframe: none.json: cannot be read: No such file or directory; expected a baseline "
        "file\n  next: check the path\n"
    )


def test_an_unreadable_file_does_not_end_the_run(check):
    code, out, _ = check("text.o", "wrong.o", "--json")
    assert code == 3
    found = json.loads(out)
    bad, good = found["files"]
    assert list(bad) == FILE_KEYS
    assert "not an ELF file" in bad["error"]
    assert (bad["machine"], bad["functions"], bad["boundaries"]) == ("", 0, 0)
    assert (good["error"], good["functions"]) == (None, 3)
    assert {one["path"] for one in found["findings"]} == {"wrong.o"}
    code, out, _ = check("text.o", "right.o")
    assert code == 3
    assert "text.o   not read: text.o: offset 0x0: not an ELF file" in out
    assert "right.o  x86-64 " in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "fullframe: nothing to check: name files or directories, or use --live-vdso\n"),
        (["right.o", "--jobs", "-1"], 2, "fullframe: --jobs -1: expected a number of processes"),
    ],
)
def test_refused(check, arguments, code, message):
    got, out, err = check(*arguments)
    assert (got, out) == (code, "")
    assert err.startswith(message)


def test_json_and_sarif_together_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["cfi", "check", "right.o", "--json", "--sarif"])
    assert stopped.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_directories_and_hard_links(check, folder):
    (folder / "tree" / "deep").mkdir(parents=True)
    shutil.copy("wrong.o", "tree/deep/b.o")
    shutil.copy("right.o", "tree/a.o")
    shutil.copy("text.o", "tree/text.o")  # in a directory only ELF files are looked at
    os.link("tree/a.o", "tree/deep/again.o")
    (folder / "tree" / "link.o").symlink_to("a.o")
    code, out, _ = check("tree", "--json")
    assert code == 1
    assert [file["path"] for file in json.loads(out)["files"]] == ["tree/a.o", "tree/deep/b.o"]
    _, out, _ = check("tree/deep/again.o", "tree", "right.o", "--json")
    assert [file["path"] for file in json.loads(out)["files"]] == [
        "tree/deep/again.o", "tree/deep/b.o", "right.o",
    ]  # fmt: skip
    os.chdir("tree")
    _, out, _ = check(".", "--json")
    assert [file["path"] for file in json.loads(out)["files"]] == ["a.o", "deep/b.o"]


def test_a_directory_without_elf_files_is_not_read(check, folder):
    """A mistyped directory must not pass for one in which nothing is wrong."""
    (folder / "empty").mkdir()
    shutil.copy("text.o", "empty/text.o")
    error = (
        "empty: no ELF file in this directory; expected at least one below it\n"
        "  next: check the path's spelling, and that what is to be checked has been built"
    )
    code, out, _ = check("empty", "--json")
    found = json.loads(out)
    assert (code, found["findings"]) == (3, [])
    assert [(file["path"], file["error"]) for file in found["files"]] == [("empty", error)]
    code, out, _ = check("empty", "right.o")
    assert code == 3
    assert f"empty    not read: {error}\n" in out
    assert "right.o  x86-64 " in out


NOT_THERE = (
    "none.o: cannot be opened: No such file or directory; expected a file\n"
    "  next: check the path's spelling"
)


@pytest.mark.parametrize("others", [[], ["wrong.o"]])
def test_a_file_that_is_not_there_does_not_end_the_run(check, others):
    code, out, err = check("none.o", *others, "--json")
    found = json.loads(out)
    assert (code, err) == (3, "")
    assert [file["path"] for file in found["files"]] == ["none.o", *others]
    assert found["files"][0]["error"] == NOT_THERE
    assert {one["path"] for one in found["findings"]} == set(others)
    code, out, err = check("none.o", *others)
    assert (code, err) == (3, "")
    assert f"not read: {NOT_THERE}\n" in out
    # SARIF has no place for it in its results.
    code, out, err = check("none.o", *others, "--sarif")
    assert (code, err) == (3, f"not read: {NOT_THERE}\n")
    assert len(json.loads(out)["runs"][0]["results"]) == 2 * len(others)


def test_a_name_that_is_too_long(check):
    name = "x" * 300
    code, out, _ = check(name, "right.o", "--json")
    first, second = json.loads(out)["files"]
    assert code == 3
    assert first["error"] == (
        f"{name}: cannot be opened: File name too long; expected a file\n"
        "  next: check the path's spelling"
    )
    assert second["functions"] == 1


def test_two_processes_say_what_one_says(check):
    names = ["right.o", "text.o", "wrong.o", "wrong32.o"]

    def without_times(*arguments):
        code, out, _ = check(*names, "--json", *arguments)
        found = json.loads(out)
        for file in found["files"]:
            file.pop("seconds")
        return code, found

    assert without_times("--jobs", "2") == without_times("--jobs", "1")


def test_live_vdso(check):
    code, out, _ = check("--live-vdso", "right.o", "--json")
    found = json.loads(out)
    # Others come behind it, for the kinds of processes that this kernel runs.
    assert [file["path"] for file in found["files"]][:2] == ["right.o", "[vdso]"]
    vdso = found["files"][1]
    assert vdso["error"] is None
    assert vdso["functions"] > 0
    assert vdso["proved"] > 0
    assert code == (1 if found["findings"] else 0)


def test_a_name_that_is_no_text(check, folder):
    """A path may be any bytes; it is escaped, in every form of the output."""
    name = os.fsdecode(b"odd\xff #.o")
    shutil.copy("wrong.o", name)
    code, out, _ = check(name, "--json")
    assert code == 1
    assert json.loads(out)["files"][0]["path"] == "odd\\xff #.o"
    assert {one["path"] for one in json.loads(out)["findings"]} == {"odd\\xff #.o"}
    code, out, _ = check(name, "--sarif")
    assert code == 1
    result = json.loads(out)["runs"][0]["results"][0]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "odd%FF%20%23.o"
    assert check(name, "--json", "--write-baseline", "known.json")[0] == 1
    for key in json.loads((folder / "known.json").read_bytes())["known"]:
        assert key.encode().startswith(b"odd\\xff #.o|")
    assert check(name, "--json", "--baseline", "known.json")[0] == 0
    # Baselines of before have such a name as a lone surrogate.
    old = (folder / "known.json").read_text().replace(r"odd\\xff", r"odd\udcff")
    assert r"\udcff" in old
    (folder / "known.json").write_text(old)
    assert check(name, "--json", "--baseline", "known.json")[0] == 0


HOSTILE = os.fsdecode(b"a\nb\x1b[31m\xe9.o")


def test_a_name_that_a_terminal_would_obey(check, folder):
    shutil.copy("wrong.o", HOSTILE)
    (folder / ("n" + HOSTILE)).write_text("no object")
    code, out, _ = check(HOSTILE, "n" + HOSTILE)
    shown = r"a\nb\x1b[31m\xe9.o"
    assert code == 3
    assert out.startswith(f"{shown}\n  FF-C001")
    assert f"\n{shown}   x86-64 " in out
    assert f"\nn{shown}  not read: n{shown}: offset 0x0: not an ELF file" in out
    assert "\x1b" not in out
    code, out, _ = check(HOSTILE, "n" + HOSTILE, "--json")
    # The JSON that strict readers take: every text can be encoded.
    assert json.loads(out)["files"][0]["path"] == "a\nb\x1b[31m\\xe9.o"
    json.dumps(json.loads(out), ensure_ascii=False).encode()
    _, out, _ = check(HOSTILE, "--sarif")
    json.dumps(json.loads(out), ensure_ascii=False).encode()


def test_names_in_a_file_that_a_terminal_would_obey(check, capsys, folder):
    """The names of functions and sections are the file's, too."""
    small.assemble(small.X86_64.replace("unadjusted", "unadXusted"), folder / "hostile.o")
    data = (folder / "hostile.o").read_bytes()
    assert data.count(b"unadXusted") == 1
    data = data.replace(b"unadXusted", b"un\n\x1b[7m\xffd!").replace(b"\0.text\0", b"\0.t\nxt\0")
    (folder / "hostile.o").write_bytes(data)
    code, out, _ = check("hostile.o")
    assert code == 1
    assert r"FF-C001 return-address-lost: un\n\x1b[7m\xffd! at " in out
    assert "\x1b" not in out
    assert main(["cfi", "show", "hostile.o", r"un\n\x1b[7m\xffd!"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(r"un\n\x1b[7m\xffd!  .")
    assert "\x1b" not in out
    assert main(["cfi", "show", "hostile.o", "nothing\x1b[7m"]) == 3
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(("file", "function"), [("wrong.o", "lost"), ("wrong32.o", "unadjusted")])
def test_show_by_name(capsys, snapshot, file, function):
    assert main(["cfi", "show", file, function]) == 0
    captured = capsys.readouterr()
    assert captured.out == snapshot
    assert captured.err == ""


def test_show_json_and_by_address(capsys):
    assert main(["cfi", "show", "wrong.o", "--json"]) == 0
    everything = json.loads(capsys.readouterr().out)
    assert list(everything) == ["schema", "path", "functions"]
    assert (everything["schema"], everything["path"]) == (1, "wrong.o")
    assert [one["name"] for one in everything["functions"]] == ["right", "unadjusted", "lost"]
    for function in everything["functions"]:
        assert list(function) == ["name", "begin", "end", "place", "instructions", "left_out"]
        assert function["instructions"][0]["address"] == function["begin"]
        for instruction in function["instructions"]:
            assert list(instruction) == SHOWN_KEYS
        # By any address in it, not only its first.
        address = hex(function["end"] - 1)
        assert main(["cfi", "show", "wrong.o", address, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["functions"] == [function]


def test_show_does_not_depend_on_what_was_checked_before(capsys, check):
    """States that are known to be proved are shown one by one like any others."""
    main(["cfi", "show", "right.o"])
    alone = capsys.readouterr().out
    assert ".text+0x1  mov %edi, %ebx  rsp+16         rsp+16         rbx: itself, CFA-16" in alone
    check("wrong.o")
    main(["cfi", "show", "right.o"])
    assert capsys.readouterr().out == alone


def test_a_second_function_with_the_states_of_the_first(capsys, folder):
    begin, end = small.RIGHT.index("\t.type"), small.RIGHT.index("\t.size")
    twin = small.RIGHT[begin:end].replace("right", "twin")
    small.assemble(small.RIGHT + "\t.text\n" + twin, folder / "twins.o")
    assert main(["cfi", "show", "twins.o", "--json"]) == 0
    functions = json.loads(capsys.readouterr().out)["functions"]
    first, second = (
        [(one["cfa_actual"], one["registers"]) for one in function["instructions"]]
        for function in functions
    )
    assert [cfa for cfa, _ in first] == ["rsp+8", "rsp+16", "rsp+16", "rsp+16", "rsp+8"]
    assert second == first


def test_show_and_check_agree(check, capsys):
    """What check counts and finds is what show marks, boundary by boundary."""
    _, out, _ = check("wrong32.o", "wrong.o", "--json")
    found = json.loads(out)
    for file in found["files"]:
        main(["cfi", "show", file["path"], "--json"])
        shown = json.loads(capsys.readouterr().out)["functions"]
        instructions = [one for function in shown for one in function["instructions"]]
        answers = [one["answer"] for one in instructions]
        assert answers.count("proved") == file["proved"]
        assert answers.count("wrong") == file["wrong"]
        wrong = {one["address"] for one in instructions if one["answer"] == "wrong"}
        ranges = [
            range(one["address"], one["end_address"])
            for one in found["findings"]
            if one["path"] == file["path"]
        ]
        assert wrong == {
            one["address"]
            for one in instructions
            if any(one["address"] in addresses for addresses in ranges)
        }


@pytest.mark.parametrize(
    ("arguments", "message", "next_step"),
    [
        (["wrong.o", "unadjust"], "wrong.o: no function 'unadjust'", "nearest names: unadjusted"),
        (["wrong.o", "zzz"], "wrong.o: no function 'zzz'", "list the symbols"),
        (["wrong.o", "0x7fffffff"], "wrong.o: no function '0x7fffffff'", "list the symbols"),
        (["wrong.o", "0xyz"], "wrong.o: no function '0xyz'", "list the symbols"),
        (["text.o", "lost"], "text.o: offset 0x0: not an ELF file", "give an x86"),
        (["none.o"], "none.o: cannot be opened: No such file", None),
        (["wrong.o", ".text+0x1000"], "wrong.o: no function '.text+0x1000'", "list the symbols"),
        (["wrong.o", ".data+0x0"], "wrong.o: no function '.data+0x0'", "list the symbols"),
        (["wrong.o", "lost+0x9999"], "wrong.o: no function 'lost+0x9999'", "list the symbols"),
    ],
)
def test_show_refused(capsys, arguments, message, next_step):
    assert main(["cfi", "show", *arguments]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"fullframe: {message}")
    if next_step is not None:
        assert f"  next: {next_step}" in captured.err


def test_show_says_what_can_be_named(capsys):
    assert main(["cfi", "show", "wrong.o", "zzz"]) == 3
    assert capsys.readouterr().err == (
        "fullframe: wrong.o: no function 'zzz' that has call-frame information; expected a "
        "symbol's name, an address such as 0x1040, or a place such as .text+0x40\n"
        "  next: list the symbols with nm, or name none to see every function\n"
    )


@pytest.fixture
def shown(capsys):
    """Run ``cfi show``; give the names of the functions that were shown."""

    def run(*arguments):
        assert main(["cfi", "show", *arguments, "--json"]) == 0
        return [one["name"] for one in json.loads(capsys.readouterr().out)["functions"]]

    return run


def test_show_takes_every_address_that_is_printed(check, shown, capsys, folder):
    """In an object: SECTION+OFFSET, as findings have it, and an offset as nm and objdump do."""
    _, out, _ = check("wrong.o", "--json")
    findings = json.loads(out)["findings"]
    assert findings
    for finding in findings:
        place, name = finding["place"], finding["function"]
        assert place.startswith(".text+0x")
        assert shown("wrong.o", place) == [name]
        assert shown("wrong.o", place.removeprefix(".text+")) == [name]
        assert shown("wrong.o", hex(finding["address"])) == [name]
    main(["cfi", "show", "wrong.o", "--json"])
    for function in json.loads(capsys.readouterr().out)["functions"]:
        for one in function["instructions"]:
            assert shown("wrong.o", one["place"]) == [function["name"]]
            offset = one["address"] - function["begin"]
            assert shown("wrong.o", f"{function['name']}+{offset:#x}") == [function["name"]]
            assert shown("wrong.o", f"{function['name']}+{offset}") == [function["name"]]


def test_show_an_offset_that_several_sections_have(shown, capsys, folder):
    begin, end = small.RIGHT.index("\t.type"), small.RIGHT.index("\t.size")
    twin = small.RIGHT[begin:end].replace("right", "twin")
    small.assemble(small.RIGHT + '\t.section .more,"ax",@progbits\n' + twin, folder / "two.o")
    assert shown("two.o", ".text+0x1") == ["right"]
    assert shown("two.o", ".more+0x1") == ["twin"]
    assert main(["cfi", "show", "two.o", "0x1"]) == 3
    assert capsys.readouterr().err == (
        "fullframe: two.o: 0x1 can be 2 places in this object: .text+0x1, .more+0x1; "
        "expected one of them\n  next: name the section, too\n"
    )


def test_show_sections_of_one_name(shown, folder):
    begin, end = small.RIGHT.index("\t.type"), small.RIGHT.index("\t.size")
    twin = small.RIGHT[begin:end].replace("right", "twin")
    section = '\t.section .text,"axG",@progbits,twin,comdat\n'
    small.assemble(small.RIGHT + section + twin, folder / "group.o")
    assert shown("group.o", ".text+0x1") == ["right", "twin"]
    assert shown("group.o", "twin+0x1") == ["twin"]


def test_show_a_place_in_a_linked_image(shown, folder):
    try:
        linker = find_tool("ld")
    except ToolMissingError as error:
        skip_or_fail(str(error))
    run_tool([linker, "-shared", "right.o", "-o", "right.so"])
    image = Image.open("right.so")
    assert image.kind == "shared"
    begin = image.function_addresses()["right"]
    section = image.section_at(begin)
    for text in ("right", hex(begin + 1), f".text+{begin + 1 - section.address:#x}", "right+0x1"):
        assert shown("right.so", text) == ["right"]


@pytest.mark.parametrize("code", list(DIAGNOSTICS))
def test_every_code_is_explained(capsys, code):
    assert main(["explain", code.lower()]) == 0
    out = capsys.readouterr().out
    entry = DIAGNOSTICS[code]
    assert out.startswith(f"{code}: {entry.title}\n\nMeaning: ")
    words = " ".join(out.split())
    for title, text in (("Meaning", entry.meaning), ("Cause", entry.cause), ("Fix", entry.fix)):
        assert f"{title}: {' '.join(text.split())}" in words
    assert main(["explain", code, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    assert [list(one) for one in found["diagnostics"]] == [
        ["code", "title", "meaning", "cause", "fix"]
    ]


def test_an_unknown_code(capsys):
    assert main(["explain", "FF-C009"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fullframe: FF-C009: no such diagnostic; there are ")
    assert "FF-C0" in captured.err.partition("there are")[2]
    assert captured.err.endswith("\n  next: `fullframe explain` without a code lists them all\n")
    main(["explain"])
    lines = capsys.readouterr().out.splitlines()
    assert f"there are {len(lines)}, such as " in captured.err
    assert set(DIAGNOSTICS) < {line.split()[0] for line in lines}


@pytest.mark.parametrize("target", ["none/known.json", "."])
def test_a_baseline_that_cannot_be_written(check, target):
    code, out, err = check("wrong.o", "--write-baseline", target)
    assert (code, out) == (3, "")
    assert err.startswith("fullframe: ")
    assert "Traceback" not in err


@pytest.fixture
def closed(folder):
    """A directory that only root may look into, and a file that only root may read."""
    inside = folder / "tree" / "closed"
    inside.mkdir(parents=True)
    shutil.copy("right.o", "tree/right.o")
    shutil.copy("right.o", "tree/secret.o")
    (folder / "tree" / "nowhere").symlink_to("none")
    os.mkfifo(folder / "tree" / "pipe")
    inside.chmod(0)
    (folder / "tree" / "secret.o").chmod(0)
    yield folder
    inside.chmod(0o700)


DENIED = (
    "cannot be read: Permission denied; expected files and directories that you may read\n"
    "  next: check the permissions, or name what is to be checked"
)


def test_what_may_not_be_read_in_a_directory_is_reported(closed):
    done = run_unprivileged("cfi", "check", "tree", "wrong.o", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (3, "")
    assert {file["path"]: file["error"] for file in found["files"]} == {
        "tree/right.o": None,
        "wrong.o": None,
        "tree/closed": f"tree/closed: {DENIED}",
        "tree/secret.o": f"tree/secret.o: {DENIED}",
    }
    assert len(found["findings"]) == 2
    done = run_unprivileged("cfi", "check", "tree")
    assert done.returncode == 3
    assert f"not read: tree/closed: {DENIED}\n" in done.stdout
    assert "tree/right.o   x86-64 " in done.stdout


def test_a_file_in_a_directory_that_may_not_be_entered(closed):
    done = run_unprivileged("cfi", "check", "tree/closed/x", "right.o")
    assert (done.returncode, done.stderr) == (3, "")
    assert (
        "tree/closed/x  not read: tree/closed/x: cannot be opened: Permission denied; expected a "
        "file\n  next: check the path's spelling\n"
    ) in done.stdout
    assert "right.o        x86-64 " in done.stdout


def test_a_baseline_without_an_end(check):
    code, out, err = check("wrong.o", "--baseline", "/dev/zero")
    assert (code, out) == (3, "")
    assert err == (
        "fullframe: /dev/zero: more than 134217728 bytes; expected a baseline file\n"
        "  next: check the path; --write-baseline writes one\n"
    )


CUT_SHORT = """
import os, sys
from fullframe.cfi import files
from fullframe.elf import image

def cut_short(image, engine, jobs):
    os.truncate(image.path, 0)
    return whole(image, engine, jobs)

whole, files.check_image = files.check_image, cut_short
image.LARGEST_READ_BYTES = files.LARGEST_READ_BYTES = int(sys.argv[1])
(report,) = files.check_files([sys.argv[2]], jobs=int(sys.argv[3]))
print(report.functions, report.error)
"""


def cut_short(largest_read_bytes, jobs):
    return subprocess.run(
        [sys.executable, "-c", CUT_SHORT, str(largest_read_bytes), "wrong.o", str(jobs)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_that_is_cut_short_meanwhile(jobs):
    """What was read is checked; a mapping would end the process with a bus error."""
    done = cut_short(1 << 20, jobs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 None\n", "")


def test_a_mapped_file_that_is_cut_short_meanwhile():
    """The bus error ends a process of its own, so that it can be told."""
    done = cut_short(0, 1)
    # The second try, in case memory ran out, finds the file empty.
    assert (done.returncode, done.stdout, done.stderr) == (
        0, "0 wrong.o: an empty file; expected an ELF file\n", "",
    )  # fmt: skip
