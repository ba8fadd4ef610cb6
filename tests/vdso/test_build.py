"""Building: every toolchain, what is in an image, what is refused, and that the check can fail."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.hash import ELFHashTable, GNUHashTable

from fullframe.cfi.frames import read_frames
from fullframe.cfi.write.compare import RowMap
from fullframe.cfi.write.row_text import row_text
from fullframe.cli.main import main
from fullframe.elf.image import Image
from fullframe.errors import InputError, ToolFailedError, UsageError
from fullframe.toolchain.find import KINDS
from fullframe.vdso import linking
from fullframe.vdso.assembly import assembly, system_call_numbers, version_code
from fullframe.vdso.build import BuildOptions, build_from_source, build_image, derive, write_images
from fullframe.vdso.images import IMAGES, choose_images
from fullframe.vdso.linking import link_script
from fullframe.vdso.verify import functions_without_cfi
from tests.cfi import oracles
from tests.vdso.support import IMAGE, built, need, saved, toolchain

NAMES = tuple(IMAGE)
each_image = pytest.mark.parametrize("name", NAMES)
each_kind = pytest.mark.parametrize("kind", KINDS)

EXPORTS_32 = {
    "__kernel_vsyscall": "LINUX_2.5",
    "__kernel_sigreturn": "LINUX_2.5",
    "__kernel_rt_sigreturn": "LINUX_2.5",
    "__vdso_clock_gettime": "LINUX_2.6",
    "__vdso_gettimeofday": "LINUX_2.6",
    "__vdso_clock_getres": "LINUX_2.6",
    "__vdso_time": "LINUX_2.6",
    "__vdso_clock_gettime64": "LINUX_2.6",
    "__vdso_getcpu": "LINUX_2.6",
}
EXPORTS_64 = {
    name: "LINUX_2.6"
    for plain in ("clock_gettime", "gettimeofday", "clock_getres", "time", "getcpu")
    for name in (plain, f"__vdso_{plain}")
} | {"__kernel_rt_sigreturn": "LINUX_2.6"}


# -- what comes out ---------------------------------------------------------------------------


@each_kind
@each_image
def test_every_boundary_of_every_image_is_proved(name: str, kind: str) -> None:
    image = built(name, kind)
    assert image.problems == ()
    assert image.report.findings == []
    assert image.report.proved == image.report.boundaries > 30
    assert image.report.functions == len(image.functions) == (6 if name == "x86-64" else 9)
    assert image.is_right
    assert len(image.data) <= 4096, "a kernel maps one page, although two would do"


def dynamic_symbols(elf: ELFFile) -> dict[str, str]:
    names = {
        version["vd_ndx"]: next(iter(found)).name
        for version, found in elf.get_section_by_name(".gnu.version_d").iter_versions()
    }
    numbers = elf.get_section_by_name(".gnu.version")
    symbols = elf.get_section_by_name(".dynsym")
    return {
        symbol.name: names[numbers.get_symbol(index)["ndx"]]
        for index, symbol in enumerate(symbols.iter_symbols())
        if symbol.name and symbol["st_info"]["type"] == "STT_FUNC"
    }


@each_kind
@each_image
def test_an_independent_reader_finds_what_a_kernel_maps(
    name: str, kind: str, tmp_path: Path
) -> None:
    image = built(name, kind)
    with saved(image, tmp_path).open("rb") as file:
        elf = ELFFile(file)
        assert elf["e_type"] == "ET_DYN"
        by_type = {segment["p_type"]: segment for segment in elf.iter_segments()}
        load = by_type["PT_LOAD"]
        assert (load["p_flags"], load["p_offset"], load["p_vaddr"]) == (5, 0, 0)
        assert load["p_filesz"] == load["p_memsz"] <= 4096
        assert sum(segment["p_type"] == "PT_LOAD" for segment in elf.iter_segments()) == 1
        assert by_type.keys() == {
            "PT_LOAD", "PT_DYNAMIC", "PT_NOTE", "PT_GNU_EH_FRAME", "PT_GNU_STACK",
        }  # fmt: skip
        assert by_type["PT_GNU_STACK"]["p_flags"] == 6
        note, build_id = by_type["PT_NOTE"].iter_notes()
        assert (build_id["n_name"], build_id["n_type"]) == ("GNU", "NT_GNU_BUILD_ID")
        assert (note["n_name"], note["n_type"]) == ("Linux", 0)
        assert note["n_descdata"] == struct.pack("<I", 0x60100)
        tags = {tag.entry.d_tag: tag for tag in by_type["PT_DYNAMIC"].iter_tags()}
        assert tags["DT_SONAME"].soname == (
            "linux-vdso.so.1" if name == "x86-64" else "linux-gate.so.1"
        )
        assert not tags.keys() & {
            "DT_REL", "DT_RELA", "DT_RELR", "DT_JMPREL", "DT_NEEDED", "DT_TEXTREL", "DT_INIT",
        }  # fmt: skip
        assert dynamic_symbols(elf) == (EXPORTS_64 if name == "x86-64" else EXPORTS_32)
        symbols = elf.get_section_by_name(".dynsym")
        assert [
            symbol.name
            for symbol in symbols.iter_symbols()
            if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name
        ] == []
        # By both tables, as the two kinds of C libraries look symbols up.
        exported = EXPORTS_64 if name == "x86-64" else EXPORTS_32
        hashed = ELFHashTable(elf, tags["DT_HASH"]["d_ptr"], None, symbols)
        assert {symbol for symbol in exported if hashed.get_symbol(symbol)} == exported.keys()
        hashed = GNUHashTable(elf, tags["DT_GNU_HASH"]["d_ptr"], symbols)
        assert {symbol for symbol in exported if hashed.get_symbol(symbol)} == exported.keys()


@each_image
@pytest.mark.parametrize("tool", ["readelf", "llvm-dwarfdump"])
def test_other_readers_see_the_derived_rows(name: str, tool: str, tmp_path: Path) -> None:
    need(tool)
    path = saved(built(name), tmp_path)
    assert len(oracles.readelf_fdes(str(path), ".eh_frame")) == built(name).report.functions
    assert list(oracles.differences(str(path), tool)) == []


@each_image
def test_toolchains_agree_on_code_and_rows(name: str) -> None:
    def functions(kind: str) -> dict[str, tuple[bytes, list[object]]]:
        image = Image.from_bytes(built(name, kind).data, name)
        rows = RowMap(image)
        found = {}
        for function in built(name, kind).functions:
            addresses = range(function.address - 1, function.address + function.size_bytes)
            # The byte before belongs to the trampolines only.
            relative = [rows.at(address) for address in addresses]
            code = bytes(image.read(function.address, function.size_bytes))
            found[function.name] = (
                code,
                relative if "sigreturn" in function.name else relative[1:],
            )
        return found

    first = functions("gnu")
    for kind in KINDS[1:]:
        for function, (code, rows) in functions(kind).items():
            assert code == first[function][0]
            for mine, theirs in zip(rows, first[function][1], strict=True):
                assert (mine is None) == (theirs is None)
                assert mine is None or mine.same_as(theirs)


@each_image
def test_building_is_deterministic(name: str) -> None:
    again = build_image(IMAGE[name], toolchain())
    assert again.data == built(name).data
    assert again.source == built(name).source


@each_image
def test_no_directive_is_typed(name: str) -> None:
    text = assembly(IMAGE[name], (6, 1, 0))
    assert ".cfi" not in text
    assert ".eh_frame" not in text
    assert ".cfi_signal_frame" in built(name).source


@pytest.mark.parametrize("with_flags", [False, True])
@each_image
def test_the_signal_trampolines(name: str, with_flags: bool) -> None:
    """Rules for every register, one byte early, marked: in the code that unwinders read."""
    made = built(name, with_flags=with_flags)
    assert made.is_right
    image = Image.from_bytes(made.data, name)
    (table,) = read_frames(image)
    marked = [fde for fde in table.fdes if fde.cie.is_signal_frame]
    assert len(marked) == (1 if name == "x86-64" else 2)
    numbers = set(image.machine.dwarf_to_hardware) - {7 if name == "x86-64" else 4}
    if with_flags:
        numbers.add(49 if name == "x86-64" else 9)
    for fde in marked:
        assert bytes(image.read(fde.begin, 1)) == b"\x90"
        assert image.symbol_at(fde.begin + 1).address == fde.begin + 1
        for row in fde.rows():
            assert set(row.registers) == numbers


def test_the_fast_entry_tells_all_that_survives() -> None:
    """ecx and edx are pushed although callees may change them: callers count on them."""
    text = row_text(built("i386-sysenter").data)
    (rows,) = re.findall(r"zR ra=8\n((?:  .*\n)+)", text)[:1]
    assert rows.splitlines() == [
        "  +0x0 CFA esp+4; eip c-4",
        "  +0x1 CFA esp+8; ecx c-8; eip c-4",
        "  +0x2 CFA esp+12; ecx c-8; edx c-12; eip c-4",
        "  +0x3 CFA esp+16; ecx c-8; edx c-12; ebp c-16; eip c-4",
        "  +0xa CFA esp+12; ecx c-8; edx c-12; eip c-4",
        "  +0xb CFA esp+8; ecx c-8; eip c-4",
        "  +0xc CFA esp+4; eip c-4",
    ]


def test_numbers_are_the_packaged_tables() -> None:
    assert system_call_numbers(IMAGE["i386-int80"]) == {
        "clock_getres": 266, "clock_gettime": 265, "clock_gettime64": 403, "getcpu": 318,
        "gettimeofday": 78, "rt_sigreturn": 173, "sigreturn": 119, "time": 13,
    }  # fmt: skip
    assert system_call_numbers(IMAGE["x86-64"])["rt_sigreturn"] == 15


@pytest.mark.parametrize(
    ("version", "code"), [((6, 1, 0), 0x60100), ((4, 9, 337), 0x409FF), ((5, 10, 7), 0x50A07)]
)
def test_version_code(version: tuple[int, int, int], code: int) -> None:
    assert version_code(version) == code


@each_kind
@pytest.mark.parametrize(
    ("name", "base"),
    [("i386-int80", 0xFFFFE000), ("x86-64", 0x7FFFFFFFE000), ("x86-64", 0x1000)],
)
def test_base_address(name: str, base: int, kind: str) -> None:
    image = build_image(IMAGE[name], toolchain(kind), BuildOptions(base_address=base))
    assert image.is_right
    assert image.functions[0].address & ~0xFFF == base


# -- that the check can fail --------------------------------------------------------------------


def mutants(source: str) -> dict[str, str]:
    """Break each directive of a source in every way that fits it."""
    found = {}
    lines = source.split("\n")
    for number, line in enumerate(lines):
        if ".cfi_" not in line:
            continue
        changes = [""]
        if match := re.search(r"(_offset (?:%\w+, )?)(-?\d+)$", line):
            changes.append(line[: match.end(1)] + str(int(match[2]) + 4))
            changes.append(line[: match.end(1)] + str(int(match[2]) - 4))
        if ".cfi_offset %ebp" in line:
            changes.append(line.replace("%ebp", "%ebx"))
        if ".cfi_escape" in line:
            # The distance from the stack pointer, and the register's number.
            words = line.split("/*")[0].rstrip().split(", ")
            place = -2 if words[0].endswith("0x0f") else -1
            if len(words) > 4 and int(words[-2 if place == -1 else -3], 16) & 0x80:
                place -= 1
            shifted = [*words]
            shifted[place] = f"{int(words[place], 16) ^ 4:#04x}"
            changes.append(", ".join(shifted))
            if words[0].endswith("0x10"):
                other = [*words]
                other[1] = f"{int(words[1], 16) ^ 1:#04x}"
                changes.append(", ".join(other))
        for change in changes:
            changed = [*lines]
            changed[number] = change
            found[f"{number + 1}: {line.strip()} -> {change.strip()}"] = "\n".join(changed)
    return found


#: Of registers that callees may change, CFI that says nothing is not wrong, and nobody is harmed
#: if it still names a slot that holds them. test_the_fast_entry_tells holds these to their rows.
#: Nor is anybody wrong who does not say where the flags are, even if it is said of register 48
#: instead, of which nothing is known.
HARMLESS = re.compile(
    r"\.cfi_(offset|restore) %e[cd]x(, -\d+)? -> $|flags saved at .* -> ($|.* 0x10, 0x30,)"
)


@pytest.mark.parametrize("name", ["i386-sysenter", "x86-64"])
def test_every_broken_directive_is_reported(name: str) -> None:
    image = IMAGE[name]
    source = derive(image, toolchain(), BuildOptions(with_flags=True))
    right = built(name, with_flags=True)
    survivors = []
    broken = mutants(source.text)
    assert len(broken) > 30
    for what, text in broken.items():
        try:
            made = build_from_source(image, source.with_text(text), toolchain())
        except ToolFailedError:
            continue  # the assembler reports it
        if row_text(made.data) == row_text(right.data):
            continue
        if made.is_right and not HARMLESS.search(what):
            survivors.append(what)
    assert survivors == []


@pytest.mark.parametrize(("entry", "proved"), [("int80", True), ("sysenter", False)])
def test_a_frame_that_hangs_on_ebp_is_not_proved_over_a_fast_call(entry: str, proved: bool) -> None:
    """The kernel comes back with ebp as it was before the entry loaded it, or not."""
    image = IMAGE["i386-sysenter"]
    source = derive(image, toolchain())
    text = source.text.replace(
        "\tmovl\t%esp, %ebp\n", "\tmovl\t%esp, %ebp\n\t.cfi_def_cfa_register %ebp\n"
    ).replace("\tpopl\t%ebp\n\t", "\tpopl\t%ebp\n\t.cfi_def_cfa_register %esp\n\t")
    if entry == "int80":
        text = text.replace("\tsysenter\n", "\tint $0x80\n")
    made = build_from_source(image, source.with_text(text), toolchain())
    assert made.problems == ()
    assert made.is_right == proved
    assert (made.report.cannot_tell == 0) == proved


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("FLAGS(5)", "FLAGS(7)"), "its segment has access flags 7 (write expected read and"),
        (("PT_NOTE FLAGS(4)", "0x12345 FLAGS(4)"), "0 segments PT_NOTE within the loaded one"),
        (
            ("{ *(.note.linux) ", "{ BYTE(0) } :load :note .x : { *(.note.linux) } :load .y : { "),
            "the C library finds no version of Linux",
        ),
        ((". = 0x0", ". = 0x4000"), "its segment begins at 0x4000"),
        (("ALIGN(16) {", "ALIGN(16) { . = . + 0x2000;"), "expected at most 2 pages"),
    ],
)
def test_a_linker_that_does_otherwise(
    change: tuple[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fullframe.vdso.linking.link_script",
        lambda base, *, with_cfi: link_script(base, with_cfi=with_cfi).replace(*change),
    )
    image = build_image(IMAGE["x86-64"], toolchain("gnu"))
    assert not image.is_right
    assert any(problem in line for line in image.problems), image.problems


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("__kernel_sigreturn;", ""), "__kernel_sigreturn has version None; expected LINUX_2.5"),
        (("LINUX_2.5 {", "LINUX_2.4 {"), "__kernel_vsyscall has version LINUX_2.4; expected"),
        (("__vdso_time;", "__vdso_time; extra;"), "extra is exported, and should not be"),
        (("__vdso_time;", "__vdso_time; missing;"), "missing is undefined"),
    ],
)
def test_versions_that_are_otherwise(
    change: tuple[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = linking.version_script
    monkeypatch.setattr(linking, "version_script", lambda image: usual(image).replace(*change))
    source = derive(IMAGE["i386-int80"], toolchain("gnu"))
    text = source.text + "\t.text\n\t.globl extra\n\t.type extra, @function\nextra: ret\n"
    if "missing" in problem:
        text += "\t.weak missing\n\t.long missing - .\n"
    image = build_from_source(IMAGE["i386-int80"], source.with_text(text), toolchain("gnu"))
    assert any(problem in line for line in image.problems), image.problems


def test_a_relocation_is_told() -> None:
    source = derive(IMAGE["i386-int80"], toolchain("gnu"))
    text = source.text + "\t.text\n\t.long __kernel_vsyscall\n"
    image = build_from_source(IMAGE["i386-int80"], source.with_text(text), toolchain("gnu"))
    told = [line.split(":")[0] for line in image.problems if "relocates" in line]
    assert told == ["a dynamic entry DT_REL", "a dynamic entry DT_TEXTREL"]


def test_an_undefined_symbol_is_refused() -> None:
    source = derive(IMAGE["x86-64"], toolchain("gnu"))
    text = source.text + "\t.text\n\tjmp elsewhere\n"
    with pytest.raises(ToolFailedError, match="elsewhere"):
        build_from_source(IMAGE["x86-64"], source.with_text(text), toolchain("gnu"))


def test_code_without_cfi_is_told() -> None:
    source = derive(IMAGE["x86-64"], toolchain())
    begin = source.text.index(".cfi_startproc")
    end = source.text.index(".cfi_endproc") + len(".cfi_endproc")
    without = source.text[:begin] + re.sub(r"\.cfi_\w+", "", source.text[begin:end])
    made = build_from_source(
        IMAGE["x86-64"], source.with_text(without + source.text[end:]), toolchain()
    )
    assert set(made.problems) == {
        "clock_gettime has no call-frame information that covers it",
        "__vdso_clock_gettime has no call-frame information that covers it",
    }
    image = Image.from_bytes(made.data, "made")
    assert functions_without_cfi(image) == ["__vdso_clock_gettime", "clock_gettime"]
    assert functions_without_cfi(Image.from_bytes(built("x86-64").data, "right")) == []


# -- the command ----------------------------------------------------------------------------------


def test_command_writes_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toolchain()
    directory = tmp_path / "new" / "images"
    assert main(["vdso", "build", "-o", str(directory), "--sources"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "194 of 194 instruction boundaries proved"
    for image in IMAGES:
        assert f"{directory}/{image.file_name}: {image.soname} for {image.machine.name}" in out
        assert (directory / image.file_name).read_bytes() == built(image.name).data
    assert sorted(path.suffix for path in directory.iterdir()) == sorted(
        [".so", ".s", ".lds", ".map"] * len(IMAGES)
    )
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert main(["vdso", "build", "-o", str(directory), "--sources"]) == 0
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_command_writes_a_file_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toolchain()
    path = tmp_path / "gate.so"
    command = ["vdso", "build", "--machine", "i386", "--entry", "sysenter", "-o", str(path)]
    assert main([*command, "--linux-version", "5.10.7", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    (image,) = found["images"]
    assert image["name"] == "i386-sysenter"
    assert (image["path"], image["size_bytes"]) == (str(path), path.stat().st_size)
    assert (image["boundaries"], image["proved"], image["wrong"]) == (57, 57, 0)
    assert (image["findings"], image["problems"]) == ([], [])
    assert image["functions"][0] == {
        "name": "__kernel_vsyscall", "version": "LINUX_2.5", "size_bytes": 13, "boundaries": 10,
        "proved": 10, "address": image["functions"][0]["address"],
    }  # fmt: skip
    assert struct.pack("<I", 0x50A07) in path.read_bytes()
    assert main([*command[:-1], f"{path}.d/"]) == 0
    assert (tmp_path / "gate.so.d" / "vdso32-sysenter.so").is_file()


def test_command_writes_nothing_that_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fullframe.vdso import build

    usual = build.derive

    def broken(*arguments):
        source = usual(*arguments)
        return source.with_text(source.text.replace(".cfi_def_cfa_offset 8", "", 1))

    toolchain()
    monkeypatch.setattr(build, "derive", broken)
    command = ["vdso", "build", "--machine", "i386", "-o", str(tmp_path / "none")]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "not written: linux-gate.so.1 for i386" in out
    assert "FF-C0" in out
    assert not (tmp_path / "none").exists()
    assert main([*command, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [image["path"] for image in found["images"]] == [None] * 3
    assert any(image["findings"] for image in found["images"])


def rows_by_offset(path: Path) -> list[list[tuple[int, str]]]:
    """The rows of each function as readelf sees them, wherever the function is."""
    return [
        [(address - fde.begin, text) for address, text in fde.rows]
        for fde in oracles.readelf_fdes(str(path), ".eh_frame")
    ]


def old_assembler(directory: Path) -> Path:
    """An assembler without any .cfi_*."""
    tool = directory / "old-as"
    tool.write_text(
        f"""#!/bin/sh
for last; do :; done
if [ "$1" = --version ]; then exec {need("as")} --version; fi
if grep -q '^[[:space:]]*\\.cfi_' "$last"; then
    echo "$last:1: Error: unknown pseudo-op" >&2
    exit 1
fi
exec {need("as")} "$@"
"""
    )
    tool.chmod(0o755)
    return tool


@pytest.mark.parametrize(
    ("policy", "code", "told"),
    [
        ("require", 4, "does not get these directives right:"),
        ("drop", 0, "CFI none: the assembler lacks directives"),
        ("encode", 0, "CFI derived from the code, written as data"),
    ],
)
def test_an_assembler_without_directives(
    policy: str,
    code: int,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fullframe.cfi.write.row_text import row_text as rows
    from fullframe.toolchain.probe import Tool, probe

    old = probe(Tool(str(old_assembler(tmp_path)), "gas", "old"), rows, use_cache=False)
    monkeypatch.setattr("fullframe.cli.toolchain.probe_all", lambda *, use_cache: [old])
    path = tmp_path / "gate.so"
    command = ["vdso", "build", "--machine", "i386", "--entry", "int80", "-o", str(path)]
    assert main([*command, "--assembler", "old-as", "--cfi", policy]) == code
    out = capsys.readouterr()
    assert told in out.out + out.err
    if policy == "encode":
        assert "49 of 49 instruction boundaries proved" in out.out
        usual = saved(built("i386-int80"), tmp_path)
        assert rows_by_offset(path) == rows_by_offset(usual)
    elif policy == "drop":
        assert read_frames(Image.open(path)) == []
    else:
        assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--machine", "x86-64", "--entry", "int80"], 2,
         "fullframe: no image for machine x86-64, entry int80; there are: i386 int80, "
         "i386 sysenter, i386 syscall, x86-64 syscall\n"),
        (["--base", "0x123"], 2,
         "fullframe: --base 0x123: expected a multiple of 0x1000 up to 0xffffe000 for i386\n"),
        (["--base", "0xfffff000", "--machine", "i386"], 2,
         "fullframe: --base 0xfffff000: expected a multiple of 0x1000 up to 0xffffe000 for i386\n"),
        (["--base=-0x1000", "--machine", "x86-64"], 2,
         "fullframe: --base -0x1000: expected a multiple of 0x1000 up to 0x7fffffffe000 for "
         "x86-64\n"),
        (["--assembler", "no-such-thing"], 4, "no assembler no-such-thing was found; there are: "),
    ],
)  # fmt: skip
def test_refused(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    toolchain()
    assert main(["vdso", "build", "-o", str(tmp_path / "out"), *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "here"], "argument --base: 'here': expected an address such as 0xffffe000"),
        (["--linux-version", "six"],
         "argument --linux-version: 'six': expected a version of Linux such as 6.1.0"),
        (["--linux-version", "6.999"],
         "argument --linux-version: '6.999': expected a version of Linux such as 6.1.0"),
        (["--entry", "int81"], "argument --entry: invalid choice: 'int81'"),
        (["--machine", "arm"], "argument --machine: invalid choice: 'arm'"),
    ],
)  # fmt: skip
def test_refused_by_the_parser(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["vdso", "build", "-o", "nowhere", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_nasm_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    need("nasm")
    assert main(["vdso", "build", "-o", "nowhere", "--assembler", "nasm"]) == 2
    assert "does not take GNU syntax, which the source of an image is in" in capsys.readouterr().err


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    images = [built("x86-64"), built("i386-int80")]
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="no directory, and none can be made here"):
        write_images(images, str(file), sources=False)
    assert file.read_text() == "mine"
    directory = tmp_path / "directory"
    (directory / "vdso64.so").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be written: Is a directory"):
        write_images(images, str(directory), sources=False)
    assert [path.name for path in directory.iterdir()] == ["vdso64.so"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match=r"cannot be written: .*pipe is not a regular file"):
        write_images(images[:1], str(pipe), sources=False)
    assert pipe.is_fifo()
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_images(images[:1], str(tmp_path / "no" / "image.so"), sources=False)
    with pytest.raises(UsageError, match=r"image\.s is the name of a source"):
        write_images(images[:1], str(tmp_path / "image.s"), sources=True)


def test_choosing() -> None:
    assert [image.name for image in choose_images(None, None)] == list(NAMES)
    assert [image.name for image in choose_images(None, "syscall")] == ["i386-syscall", "x86-64"]
    assert [image.name for image in choose_images("i386", "all")] == list(NAMES[:3])
