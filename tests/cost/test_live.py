"""The live measurement: that it runs what it says, and says why where it cannot. No timings."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from importlib import resources
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from fullframe.cost import live
from fullframe.cost.live import (
    LiveCall,
    LiveReport,
    LiveUnavailable,
    LiveVariant,
    measure_live,
)
from fullframe.cost.live_image import live_image, stand_ins
from fullframe.errors import InputError, ToolMissingError, UsageError
from fullframe.toolchain.find import KINDS, Toolchain, find_toolchain
from fullframe.x86.kernel_layout import KernelLayout
from tests.support import skip_or_fail

#: An entry with a fast path that leaves by SYSRET and a slow path that leaves by IRET. SAVE and
#: RESTORE are the six registers' room; TRAP goes where a test wants something to go wrong.
ENTRY = """\
	.section .entry.text, "ax", @progbits
	.globl	entry_SYSCALL_64
	.balign	64
entry_SYSCALL_64:
	swapgs
	movq	%rsp, %gs:0
	movq	%gs:8, %rsp
	pushq	$0x2b
	pushq	%gs:0
	pushq	%r11
	pushq	$0x33
	pushq	%rcx
	SAVE
	testl	$1, %gs:16
	jnz	1f
	sti
	TRAP
	call	*table(,%rax,8)
	cli
	RESTORE
	popq	%rcx
	addq	$8, %rsp
	popq	%r11
	popq	%rsp
	swapgs
	sysretq
1:	call	tracer
	movl	$7, %eax
	RESTORE
	swapgs
	iretq
	.section .rodata
table:	.quad	first_handler, second_handler
	.section .note.GNU-stack, "", @progbits
"""
PUSHES = "pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15"
POPS = "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx"
DRIVER = resources.files("fullframe.data").joinpath("live/driver.c").read_text()
FAST = LiveCall("fast_path", 1)
SLOW = LiveCall("slow_path", 1, thread_flags=1, result=7)
FEW = {"batch": 20, "rounds": 8}


@pytest.fixture(params=KINDS)
def toolchain(request: pytest.FixtureRequest) -> Toolchain:
    try:
        return find_toolchain(request.param)
    except ToolMissingError as error:
        skip_or_fail(str(error))


@pytest.fixture
def any_toolchain() -> Toolchain:
    try:
        return find_toolchain()
    except ToolMissingError as error:
        skip_or_fail(str(error))


@pytest.fixture(autouse=True)
def x86_64_linux() -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        skip_or_fail(f"this machine is {platform.machine()}")


def variant(
    toolchain: Toolchain, directory: Path, name: str, save: str, restore: str, trap: str = ""
) -> LiveVariant:
    source = directory / f"{name}.S"
    source.write_text(
        f"#define SAVE {save}\n#define RESTORE {restore}\n#define TRAP {trap}\n{ENTRY}"
    )
    toolchain.assemble(source, directory / f"{name}.o")
    return LiveVariant(name, (directory / f"{name}.o",))


def pair(toolchain: Toolchain, directory: Path) -> list[LiveVariant]:
    return [
        variant(toolchain, directory, "partial", "subq $48, %rsp", "addq $48, %rsp"),
        variant(toolchain, directory, "full", PUSHES, POPS),
    ]


def unavailable(toolchain: Toolchain, directory: Path, trap: str, **more: object) -> str:
    bad = variant(toolchain, directory, "bad", "subq $48, %rsp", "addq $48, %rsp", trap)
    result = measure_live([bad], [FAST], toolchain, **{**FEW, **more})  # type: ignore[arg-type]
    assert isinstance(result, LiveUnavailable)
    return result.reason


def test_two_variants_two_paths(toolchain: Toolchain, tmp_path: Path) -> None:
    report = measure_live(pair(toolchain, tmp_path), [FAST, SLOW], toolchain, **FEW)
    assert isinstance(report, LiveReport), report
    assert set(report.samples) == {
        (name, call) for name in ("partial", "full") for call in ("fast_path", "slow_path")
    }
    for name, call in report.samples:
        samples = report.samples[name, call]
        assert set(samples) == {0, 16, 32, 48}
        assert all(len(rounds) == 8 for rounds in samples.values())
        measured = report.measured(name, call)
        assert measured.samples == 32
        # Sane, not timed: at least a cycle for the two dozen instructions, less than a millisecond.
        assert 1 < measured.median_cycles_tsc < 1e7
        assert json.loads(json.dumps(dataclasses.asdict(measured)))["samples"] == 32
    compared = report.difference("fast_path", "full", "partial")
    assert compared.samples == 8
    assert compared.verdict in ("difference resolved", "too noisy to tell")
    assert 0.1 < report.core_cycles_per_tsc_cycle < 10
    assert report.loop.samples == 32
    assert report.cpu
    with pytest.raises(KeyError):
        report.measured("partial", "no such path")


def test_what_was_replaced_is_said(any_toolchain: Toolchain, tmp_path: Path) -> None:
    report = measure_live(pair(any_toolchain, tmp_path), [FAST], any_toolchain, **FEW)
    assert isinstance(report, LiveReport), report
    for replacements in report.replacements.values():
        names = [item.instruction for item in replacements]
        assert names == ["swapgs", "sti", "cli", "swapgs", "sysretq", "swapgs"]


def test_nothing_is_left_behind_and_the_sources_stay(
    any_toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    variants = pair(any_toolchain, tmp_path / "sources")
    before = {path: path.read_bytes() for path in (tmp_path / "sources").iterdir()}
    assert isinstance(measure_live(variants, [FAST], any_toolchain, **FEW), LiveReport)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert {path: path.read_bytes() for path in (tmp_path / "sources").iterdir()} == before


def test_a_directory_with_an_awkward_name(any_toolchain: Toolchain, tmp_path: Path) -> None:
    directory = tmp_path / 'a "quoted" \\ name'
    variants = pair(any_toolchain, tmp_path)
    report = measure_live(variants, [FAST], any_toolchain, directory=directory, **FEW)
    assert isinstance(report, LiveReport), report
    assert (directory / "measure").exists()


def test_the_code_that_runs_is_the_code_that_was_linked(
    toolchain: Toolchain, tmp_path: Path
) -> None:
    """Byte for byte but for the replaced instructions, at every alignment, entry included."""
    one = pair(toolchain, tmp_path)[1]
    report = measure_live([one], [FAST], toolchain, directory=tmp_path / "work", **FEW)
    assert isinstance(report, LiveReport), report
    with (tmp_path / "work" / "measure").open("rb") as stream:
        carried = {
            section["sh_addr"]: section.data()
            for section in ELFFile(stream).iter_sections()
            if section.name.startswith(".image")
        }
    for alignment in (0, 16, 32, 48):
        with (tmp_path / "work" / f"variant-full.{alignment}.elf").open("rb") as stream:
            linked = ELFFile(stream)
            symbols = linked.get_section_by_name(".symtab")
            entry = symbols.get_symbol_by_name("entry_SYSCALL_64")[0]["st_value"]
            text = linked.get_section_by_name(".text")
            assert entry % 64 == alignment
            ours = carried[text["sh_addr"]]
            different = [
                i for i, (a, b) in enumerate(zip(text.data(), ours, strict=True)) if a != b
            ]
            privileged = re.finditer(rb"\x0f\x01\xf8|\x48\x0f\x07|\xfa|\xfb", text.data())
            covered = {index for match in privileged for index in range(*match.span())}
            assert different
            assert set(different) <= covered


def test_the_driver_compiles_without_warnings(toolchain: Toolchain, tmp_path: Path) -> None:
    constants = re.findall(
        r"\b[A-Z_]+_OFFSET\b|\b(?:CASES|BATCH|ROUNDS|WARM_UP|PER_CPU_BYTES)\b", DRIVER
    )
    header = "".join(
        f"#define {name} {4096 if name == 'PER_CPU_BYTES' else 8}\n"
        for name in sorted(set(constants))
    )
    (tmp_path / "cases.h").write_text(f"{header}static const struct measured_case cases[CASES];\n")
    driver = resources.files("fullframe.data").joinpath("live/driver.c")
    with resources.as_file(driver) as source:
        done = toolchain.compile(
            source,
            tmp_path / "driver.o",
            include=[tmp_path],
            flags=["-Wall", "-Wextra", "-Werror"],
        )
    assert done.stderr == ""


def test_the_variants_take_turns(any_toolchain: Toolchain, tmp_path: Path) -> None:
    variants = [*pair(any_toolchain, tmp_path), variant(any_toolchain, tmp_path, "third", "", "")]
    work = tmp_path / "work"
    report = measure_live(variants, [FAST, SLOW], any_toolchain, directory=work, **FEW)
    assert isinstance(report, LiveReport), report
    rows = re.findall(r"\{ (0x[0-9a-f]+), 0x1, (0x\d), (0x\d) \}", (work / "cases.h").read_text())
    assert len(rows) == 3 * 2 * 4
    for start in range(0, len(rows), 3):
        turn = rows[start : start + 3]
        assert len({entry for entry, _, _ in turn}) == 3, "three variants, one after the other"
        assert len({(result, flags) for _, result, flags in turn}) == 1, "of one call"
        assert len({int(entry, 16) % 64 for entry, _, _ in turn}) == 1, "at one alignment"


def test_per_cpu_data_is_where_the_layout_says(any_toolchain: Toolchain, tmp_path: Path) -> None:
    moved = (
        ENTRY.replace("%gs:16", "%gs:316").replace("%gs:8", "%gs:308").replace("%gs:0", "%gs:300")
    )
    (tmp_path / "moved.S").write_text(f"#define SAVE\n#define RESTORE\n#define TRAP\n{moved}")
    any_toolchain.assemble(tmp_path / "moved.S", tmp_path / "moved.o")
    variants = [LiveVariant("moved", (tmp_path / "moved.o",))]
    layout = KernelLayout(300, 308, 316)
    report = measure_live(variants, [FAST, SLOW], any_toolchain, layout=layout, **FEW)
    assert isinstance(report, LiveReport), report
    assert isinstance(measure_live(variants, [FAST], any_toolchain, **FEW), LiveUnavailable)
    far = measure_live(variants, [FAST], any_toolchain, layout=KernelLayout(0, 8, 4096), **FEW)
    assert isinstance(far, LiveUnavailable)
    assert "only the first 4 KiB" in far.reason


# --- where it cannot measure, it says why ---


def test_a_call_that_returns_something_else_is_not_measured(
    any_toolchain: Toolchain, tmp_path: Path
) -> None:
    variants = pair(any_toolchain, tmp_path)
    result = measure_live(variants, [LiveCall("fast_path", 1, result=-38)], any_toolchain, **FEW)
    assert isinstance(result, LiveUnavailable)
    assert "unexpected result of case 0" in result.reason


def test_entry_code_that_faults(any_toolchain: Toolchain, tmp_path: Path) -> None:
    assert "signal 4" in unavailable(any_toolchain, tmp_path, "ud2")
    assert "signal 11" in unavailable(any_toolchain, tmp_path, "movq %rax, 0")


def test_entry_code_that_loses_the_stack_pointer(any_toolchain: Toolchain, tmp_path: Path) -> None:
    # The user's stack pointer in the frame, off by a word.
    assert "signal 4" in unavailable(any_toolchain, tmp_path, "addq $8, 72(%rsp)")


def test_entry_code_that_never_returns(any_toolchain: Toolchain, tmp_path: Path) -> None:
    reason = unavailable(any_toolchain, tmp_path, "2: jmp 2b", timeout_seconds=1)
    assert "not finished after 1 seconds" in reason


def test_privileged_instructions_without_a_replacement(
    any_toolchain: Toolchain, tmp_path: Path
) -> None:
    reason = unavailable(any_toolchain, tmp_path, "movq %rax, %cr3")
    assert "privileged instructions that cannot run in user space: mov %rax,%cr3 at 0x" in reason


def test_objects_without_the_entry_symbol(any_toolchain: Toolchain, tmp_path: Path) -> None:
    one = dataclasses.replace(pair(any_toolchain, tmp_path)[0], entry_symbol="entry_INT80_32")
    result = measure_live([one], [FAST], any_toolchain, **FEW)
    assert isinstance(result, LiveUnavailable)
    assert "no symbol entry_INT80_32" in result.reason


@pytest.mark.parametrize("content", [b"", b"not an object", b"\x7fELF" + bytes(60)])
def test_objects_that_are_none(any_toolchain: Toolchain, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "junk.o").write_bytes(content)
    variants = [LiveVariant("junk", (tmp_path / "junk.o",))]
    assert isinstance(measure_live(variants, [FAST], any_toolchain, **FEW), LiveUnavailable)
    (tmp_path / "junk.o").unlink()
    result = measure_live(variants, [FAST], any_toolchain, **FEW)
    assert isinstance(result, LiveUnavailable)
    assert "junk.o" in result.reason


def test_an_image_that_is_too_large(any_toolchain: Toolchain, tmp_path: Path) -> None:
    (tmp_path / "large.s").write_text(
        f"{ENTRY.replace('SAVE', '').replace('RESTORE', '').replace('TRAP', '')}"
        "\t.bss\n\t.zero 1 << 30\n"
    )
    any_toolchain.assemble(tmp_path / "large.s", tmp_path / "large.o")
    result = measure_live([LiveVariant("large", (tmp_path / "large.o",))], [FAST], any_toolchain)
    assert isinstance(result, LiveUnavailable)
    assert "expected at most 4194304" in result.reason


def test_another_machine_is_not_measured(
    any_toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    result = measure_live([LiveVariant("a", ())], [FAST], any_toolchain)
    assert result == LiveUnavailable("this is Linux on aarch64, not on x86-64")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'this system does not let a program set its GS base 0'; exit 1", "set its GS base"),
        ("kill -31 $$", "signal 31"),  # SIGSYS: what seccomp sends
        ("echo 0 100", "ended before it was done"),
        ("echo what", "printed 'what'"),
        ("echo 99999 1", "printed '99999 1'"),
    ],
)
def test_a_system_that_does_not_let_it_run(
    any_toolchain: Toolchain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    reason: str,
) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(live, "_program", lambda *arguments: program)
    result = measure_live(pair(any_toolchain, tmp_path), [FAST], any_toolchain, **FEW)
    assert isinstance(result, LiveUnavailable)
    assert reason in result.reason


A = LiveVariant("a", ())


@pytest.mark.parametrize(
    ("variants", "calls", "more", "message"),
    [
        ([], [FAST], {}, "variants to measure"),
        ([A, A], [FAST], {}, "each with its own name"),
        ([A], [], {}, "calls to measure"),
        ([LiveVariant("../a", ())], [FAST], {}, "a variant's name"),
        ([A], [FAST], {"alignments": [8]}, "alignments"),
        ([A], [FAST], {"alignments": []}, "alignments"),
        ([A], [FAST], {"alignments": [0, 0]}, "alignments"),
        ([A], [FAST], {"rounds": 7}, "8 to 10000 rounds"),
        ([A], [FAST], {"batch": 0}, "entries in a sample"),
        ([LiveVariant(f"v{n}", ()) for n in range(16)], [FAST], {}, "too many variants"),
    ],
)
def test_arguments_that_make_no_sense(
    any_toolchain: Toolchain,
    variants: list[LiveVariant],
    calls: list[LiveCall],
    more: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(UsageError, match=message):
        measure_live(variants, calls, any_toolchain, **more)  # type: ignore[arg-type]


# --- images ---


def test_an_entry_that_is_not_the_first_thing_is_still_placed(
    toolchain: Toolchain, tmp_path: Path
) -> None:
    (tmp_path / "a.s").write_text(
        "\t.text\n\t.globl entry, odd\n\tnop\nodd:\tnop\n"
        "\t.balign 16\n\tnop\n\t.balign 16\nentry:\tret\n"
        '\t.section .note.GNU-stack, "", @progbits\n'
    )
    toolchain.assemble(tmp_path / "a.s", tmp_path / "a.o")
    for offset in (0, 16, 32, 48):
        image = live_image(
            "a", [tmp_path / "a.o"], "entry", 0x1000_0000, offset, toolchain, tmp_path
        )
        assert image.entry % 64 == offset
        assert image.pieces[0].data[image.entry - image.pieces[0].address] == 0xC3
    with pytest.raises(InputError, match=r"odd cannot lie at 16.*aligned to 16 bytes"):
        live_image("a", [tmp_path / "a.o"], "odd", 0x1000_0000, 16, toolchain, tmp_path)


def test_stand_ins_are_made_for_what_is_missing_only(
    any_toolchain: Toolchain, tmp_path: Path
) -> None:
    (tmp_path / "a.s").write_text("\tcall one\n\tcall two\n\t.globl one\none: ret\n")
    (tmp_path / "b.s").write_text("\tcall three\n\t.globl two\ntwo: ret\n")
    objects = []
    for name in ("a", "b"):
        any_toolchain.assemble(tmp_path / f"{name}.s", tmp_path / f"{name}.o")
        objects.append(tmp_path / f"{name}.o")
    output = stand_ins(objects, any_toolchain, tmp_path / "stand-ins.o")
    with output.open("rb") as stream:
        symbols = {
            symbol.name: symbol["st_info"]["bind"]
            for symbol in ELFFile(stream).get_section_by_name(".symtab").iter_symbols()
            if symbol.name
        }
    assert symbols == {"three": "STB_WEAK"}


def test_a_symbol_that_no_assembler_takes_is_refused(
    any_toolchain: Toolchain, tmp_path: Path
) -> None:
    (tmp_path / "a.s").write_text('\tcall "a b"\n')
    any_toolchain.assemble(tmp_path / "a.s", tmp_path / "a.o")
    with pytest.raises(InputError, match="an undefined symbol named 'a"):
        stand_ins([tmp_path / "a.o"], any_toolchain, tmp_path / "b.o")
