from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from fullframe.errors import ToolFailedError, ToolMissingError, UsageError
from fullframe.toolchain import __main__ as asked
from fullframe.toolchain import find
from fullframe.toolchain.find import KINDS, Toolchain, find_tool, find_toolchain, find_tools
from tests.support import skip_or_fail

ASSEMBLY = """\
#include "number.h"
	.text
	.globl	entry
	.balign	64
entry:
	.cfi_startproc
	swapgs
	movq	%rsp, %gs:0
	pushq	$NUMBER
	.cfi_adjust_cfa_offset 8
	call	add
	popq	%rcx
	.cfi_adjust_cfa_offset -8
	sysretq
	.cfi_endproc
	.section .note.GNU-stack, "", @progbits
"""
C_SOURCE = """\
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "number.h"
static uint64_t sums[NUMBER];
uint64_t add(uint64_t a, uint64_t b);
uint64_t add(uint64_t a, uint64_t b) { return sums[a % NUMBER] += b; }
"""
SCRIPT = """\
ENTRY(entry)
SECTIONS {
    . = 0xffffffff81000000;
    .text : { *(.text*) }
    . = 0xffffffff81004000;
    .eh_frame : { *(.eh_frame) }
    . = 0xffffffff81008000;
    .data : { *(.data*) *(.bss*) }
    /DISCARD/ : { *(.comment) *(.note*) }
}
"""


@pytest.fixture(params=KINDS)
def toolchain(request: pytest.FixtureRequest) -> Toolchain:
    try:
        return find_toolchain(request.param)
    except ToolMissingError as error:
        skip_or_fail(str(error))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "number.h").write_text("#define NUMBER 3\n")
    (tmp_path / "a.S").write_text(ASSEMBLY)
    (tmp_path / "b.c").write_text(C_SOURCE)
    (tmp_path / "script.ld").write_text(SCRIPT)
    return tmp_path


def build(toolchain: Toolchain, sources: Path) -> Path:
    include = [sources / "include"]
    warned = toolchain.assemble(sources / "a.S", sources / "a.o", include=include)
    assert warned.stderr == ""
    flags = ["-mcmodel=kernel", "-Wall", "-Wextra", "-Werror"]
    toolchain.compile(sources / "b.c", sources / "b.o", include=include, flags=flags)
    objects = [sources / "a.o", sources / "b.o"]
    toolchain.link(objects, sources / "image", script=sources / "script.ld")
    return sources / "image"


def test_every_toolchain_makes_the_same_static_image(toolchain: Toolchain, sources: Path) -> None:
    with build(toolchain, sources).open("rb") as stream:
        image = ELFFile(stream)
        assert image["e_type"] == "ET_EXEC"
        assert image["e_entry"] == 0xFFFFFFFF81000000
        names = {section.name for section in image.iter_sections()}
        assert not names & {".interp", ".dynamic", ".got", ".plt", ".note.gnu.build-id"}
        symbols = {
            symbol.name: symbol["st_value"]
            for symbol in image.get_section_by_name(".symtab").iter_symbols()
        }
        assert symbols["entry"] == 0xFFFFFFFF81000000
        assert symbols["sums"] == 0xFFFFFFFF81008000
        text = image.get_section_by_name(".text").data()
    distance = symbols["add"] - (symbols["entry"] + 19)
    assert text[:23] == (
        b"\x0f\x01\xf8"  # swapgs
        b"\x65\x48\x89\x24\x25\0\0\0\0"  # mov %rsp, %gs:0
        b"\x6a\x03"  # push $3
        b"\xe8" + distance.to_bytes(4, "little", signed=True)  # call add
        + b"\x59"  # pop %rcx
        b"\x48\x0f\x07"  # sysretq
    )  # fmt: skip
    assert b"\xf3\x0f\x1e\xfa" not in text, (
        "endbr64: control-flow protection is the caller's choice"
    )


def test_the_same_input_gives_the_same_bytes(toolchain: Toolchain, sources: Path) -> None:
    first = build(toolchain, sources).read_bytes()
    assert build(toolchain, sources).read_bytes() == first


def test_the_callers_flags_turn_the_defaults_round(toolchain: Toolchain, sources: Path) -> None:
    flags = ["-fcf-protection=branch", "-fPIC"]
    toolchain.compile(sources / "b.c", sources / "b.o", include=[sources / "include"], flags=flags)
    with (sources / "b.o").open("rb") as stream:
        text = ELFFile(stream).get_section_by_name(".text").data()
    assert text.startswith(b"\xf3\x0f\x1e\xfa")


def test_32_bit_shared_object(toolchain: Toolchain, sources: Path) -> None:
    include = [sources / "include"]
    (sources / "c.S").write_text(
        '.globl entry\nentry: pushl $3\npopl %eax\nret\n.section .note.GNU-stack, "", @progbits\n'
    )
    toolchain.assemble(sources / "c.S", sources / "c.o", bits=32)
    flags = ["-fPIC", "-fvisibility=hidden"]
    (sources / "d.c").write_text("#include <stdint.h>\nint32_t f(void) { return 3; }\n")
    toolchain.compile(sources / "d.c", sources / "d.o", bits=32, include=include, flags=flags)
    objects = [sources / "c.o", sources / "d.o"]
    toolchain.link(objects, sources / "c.so", bits=32, shared=True, flags=["-soname", "c.so"])
    with (sources / "c.so").open("rb") as stream:
        image = ELFFile(stream)
        assert (image.elfclass, image["e_type"], image["e_machine"]) == (32, "ET_DYN", "EM_386")
        assert image.get_section_by_name(".dynsym").get_symbol_by_name("entry")


def test_preprocess_leaves_no_linemarks(toolchain: Toolchain, sources: Path) -> None:
    (sources / "x.lds.S").write_text('#include "number.h"\n. = NUMBER + EXTRA;\n')
    toolchain.preprocess(
        sources / "x.lds.S", sources / "x.lds", include=[sources / "include"], flags=["-DEXTRA=4"]
    )
    assert (sources / "x.lds").read_text().strip() == ". = 3 + 4;"
    include = [sources / "include"]
    toolchain.preprocess(sources / "b.c", sources / "b.i", include=include, language="c")
    assert "sums[3]" in (sources / "b.i").read_text()


def test_a_warning_of_the_assembler_is_a_failure_unless_allowed(
    toolchain: Toolchain, sources: Path
) -> None:
    (sources / "w.S").write_text('.warning "look here"\nnop\n')
    with pytest.raises(ToolFailedError, match="look here"):
        toolchain.assemble(sources / "w.S", sources / "w.o")
    assert not (sources / "w.o").exists()
    done = toolchain.assemble(sources / "w.S", sources / "w.o", warnings_are_errors=False)
    assert "look here" in done.stderr


def test_a_failure_leaves_the_earlier_output_alone(toolchain: Toolchain, sources: Path) -> None:
    output = sources / "out.o"
    output.write_text("earlier")
    (sources / "bad.S").write_text("\tnop\n\tno_such_instruction %rax\n")
    with pytest.raises(ToolFailedError, match=r"bad\.S:2"):
        toolchain.assemble(sources / "bad.S", output)
    (sources / "bad.c").write_text("int f(void) { return undeclared; }\n")
    with pytest.raises(ToolFailedError, match="undeclared"):
        toolchain.compile(sources / "bad.c", output)
    with pytest.raises(ToolFailedError):
        toolchain.preprocess(sources / "missing.S", output)
    assert output.read_text() == "earlier"
    assert not list(sources.glob(".*")), "partial outputs are taken away"


def test_an_undefined_symbol_is_refused(toolchain: Toolchain, sources: Path) -> None:
    toolchain.assemble(sources / "a.S", sources / "a.o", include=[sources / "include"])
    with pytest.raises(ToolFailedError, match=r"undefined.*add"):
        toolchain.link([sources / "a.o"], sources / "image")
    assert not (sources / "image").exists()


def test_bits_other_than_the_two_machines_are_refused(sources: Path) -> None:
    chain = Toolchain("gnu", "", "", ("gcc",), ("ld",), "/nowhere")
    with pytest.raises(UsageError, match="16 bits: expected 64 or 32"):
        chain.assemble(sources / "a.S", sources / "a.o", bits=16)


# --- what the Makefile asks ---


def test_the_module_says_what_it_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = Toolchain("gnu", "gcc 12", "GNU ld 2.40", ("gcc",), ("ld",), "/nowhere")
    monkeypatch.setattr(asked, "find_toolchain", lambda: chain)
    assert asked.main([]) == 0
    assert capsys.readouterr().out == "gnu: gcc 12, GNU ld 2.40\n"
    assert asked.main(["--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("no_wheel")
def test_the_module_says_what_it_did_not_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asked.main([]) == 4
    assert "no complete toolchain" in capsys.readouterr().err
    assert asked.main(["--quiet"]) == 4
    assert capsys.readouterr() == ("", "")


# --- finding ---


def program(directory: Path, name: str, output: str = "", case: str = "") -> Path:
    """Write a stand-in for a tool: prints ``output``, or runs the cases of a shell ``case``."""
    directory.mkdir(exist_ok=True)
    file = directory / name
    body = f'case "$1" in {case} esac' if case else f"echo '{output}'"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "_wheel_zig", lambda: None)


@pytest.mark.usefixtures("no_wheel")
def test_nothing_at_all_lists_what_was_tried_and_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ToolMissingError) as caught:
        find_toolchain(path=str(tmp_path))
    message = str(caught.value)
    for word in ("gcc", "as", "ld", "clang", "ld.lld", "ziglang", "apt-get", "fullframe[zig]"):
        assert word in message


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="gnu, llvm, zig"):
        find_toolchain("msvc")


def gnu_set(directory: Path, target: str = "x86_64-linux-gnu", version: str = "gcc 12") -> None:
    cases = f"-dumpmachine) echo {target};; --version) echo '{version}';; *) echo /headers;;"
    program(directory, "gcc", case=cases)
    program(directory, "as", "GNU assembler 2.40")
    program(directory, "ld", "GNU ld 2.40")


def llvm_set(directory: Path, suffix: str = "") -> None:
    cases = "--version) echo 'clang version 19';; *) echo /resources;;"
    program(directory, f"clang{suffix}", case=cases)
    program(directory, f"ld.lld{suffix}", "LLD 19 (compatible with GNU linkers)")


def test_gnu_comes_first_and_an_incomplete_set_falls_through(tmp_path: Path) -> None:
    gnu_set(tmp_path)
    llvm_set(tmp_path)
    assert find_toolchain(path=str(tmp_path)).kind == "gnu"
    for name in ("as", "ld", "gcc"):
        (tmp_path / name).rename(tmp_path / "hidden")
        assert find_toolchain(path=str(tmp_path)).kind == "llvm"
        (tmp_path / "hidden").rename(tmp_path / name)


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize(
    ("target", "version", "said"),
    [("aarch64-linux-gnu", "gcc 12", "aarch64"), ("x86_64-linux-gnu", "Apple clang 15", "clang")],
)
def test_a_set_for_another_machine_is_passed_over(
    tmp_path: Path, target: str, version: str, said: str
) -> None:
    gnu_set(tmp_path, target, version)
    with pytest.raises(ToolMissingError, match=said):
        find_toolchain(path=str(tmp_path))


def test_clang_is_paired_with_the_linker_of_its_version(tmp_path: Path) -> None:
    for suffix in ("-9", "-18", "-19"):
        llvm_set(tmp_path, suffix)
    found = find_toolchain("llvm", path=str(tmp_path))
    assert found.compiler == (str(tmp_path / "clang-19"),)
    assert found.linker == (str(tmp_path / "ld.lld-19"),)
    (tmp_path / "ld.lld-19").unlink()
    assert find_toolchain("llvm", path=str(tmp_path)).linker == (str(tmp_path / "ld.lld-18"),)


def test_the_wheel_serves_where_nothing_else_does(tmp_path: Path) -> None:
    if find._wheel_zig() is None:
        skip_or_fail("the ziglang wheel is not installed")
    assert find_toolchain(path=str(tmp_path)).kind == "zig"


def test_tools_are_found_by_version_highest_first(tmp_path: Path) -> None:
    for name in ("llvm-mca-9", "llvm-mca-19", "llvm-mca-14", "llvm-mca-x", "llvm-mcas"):
        program(tmp_path, name)
    (tmp_path / "llvm-mca-21").write_text("not executable")
    (tmp_path / "llvm-mca-20").mkdir()
    path = f"/nonexistent:{tmp_path}"
    found = [Path(tool).name for tool in find_tools("llvm-mca", path=path)]
    assert found == ["llvm-mca-19", "llvm-mca-14", "llvm-mca-9"]
    program(tmp_path, "llvm-mca")
    assert find_tool("llvm-mca", path=path) == str(tmp_path / "llvm-mca")
    assert find_tool("llvm-mca", path=path, newest=True) == str(tmp_path / "llvm-mca-19")
    assert find_tool(str(tmp_path / "llvm-mca-9")) == str(tmp_path / "llvm-mca-9")


def test_a_tool_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ToolMissingError, match=r"gdb is needed.*\n.*apt-get install gdb"):
        find_tool("gdb", path=str(tmp_path))
    assert find_tools("gdb", path=str(tmp_path)) == []


def test_a_zig_on_path_is_used_without_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = find._wheel_zig()
    if wheel is None:
        skip_or_fail("the ziglang wheel is not installed")
    monkeypatch.setattr(find, "_wheel_zig", lambda: None)
    (tmp_path / "zig").symlink_to(wheel)
    found = find_toolchain("zig", path=str(tmp_path))
    assert Path(found.header_directory, "stddef.h").is_file()
    assert shutil.which(found.compiler[0])
