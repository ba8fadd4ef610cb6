"""Stepping through images: every instruction right under every unwinder, and broken CFI is seen."""

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

import pytest

from fullframe.cli.main import main
from fullframe.elf.image import Image
from fullframe.errors import InputError, ToolMissingError, UsageError
from fullframe.run import ptrace
from fullframe.run.gdb import GdbProcess
from fullframe.run.stepped import ProgramDiedError
from fullframe.run.vsyscall_emulator import EmulatedProgram
from fullframe.vdso.step.result import StepOptions
from fullframe.vdso.step.stepping import step_image
from fullframe.x86.flags import CF
from fullframe.x86.registers import AX, BP, CX, DX, IP, SP
from tests.docs.test_documents import documented_keys
from tests.support import skip_or_fail
from tests.vdso.stepped_images import (
    HEAD,
    IMAGE_32,
    IMAGE_64,
    RT_SIGRETURN_64,
    build_image,
    flags_rule_32,
    need_gdb,
    need_i386,
    signal_rules,
    toolchain,
)

pytestmark = pytest.mark.usefixtures("tools")


@pytest.fixture
def tools():
    toolchain()
    need_gdb()


def stepped(text, directory, bits=32, **options):
    if bits == 32:
        need_i386()
    image = build_image(text, bits, directory)
    return step_image(StepOptions(image, **options))


def instructions(result, function):
    return [row.instruction for row in result.rows if row.function == function]


def wrong(result, unwinder):
    """Where an unwinder is wrong: the instructions, in order."""
    return [one.instruction for one in result.failures() if one.unwinder == unwinder]


# --- what is right ---


def test_every_instruction_of_int80_and_signal_return_is_right(tmp_path):
    result = stepped(IMAGE_32, tmp_path)
    assert result.failures() == []
    assert {"gdb", "libgcc", "fullframe"} <= set(result.unwinders)
    assert [(one.name, one.instructions, one.stepped) for one in result.functions] == [
        ("__kernel_vsyscall", 11, 11),
        ("__kernel_sigreturn", 3, 3),
        ("__kernel_rt_sigreturn", 2, 2),
    ]
    for row in result.rows:
        # Nobody was left out anywhere.
        assert set(row.unwinders) == set(result.unwinders), row
        assert row.stepped == "process"
    by_name = {row.instruction: row for row in result.rows if row.object_name == "image"}
    assert set(by_name["int $0x80"].expected) >= {"eip", "esp", "eax", "ecx", "ebp"}
    assert set(by_name["push %ebp"].expected) == {
        "eip", "esp", "ebx", "esi", "edi", "ebp", "ecx", "edx",
    }  # fmt: skip


def test_signal_return_expects_every_general_register_and_one_frame_more(tmp_path):
    result = stepped(IMAGE_32, tmp_path, functions=("__kernel_sigreturn",))
    row = next(row for row in result.rows if row.instruction == "pop %eax")
    general = {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip"}
    assert set(row.expected) == general | {"caller's eip", "caller's esp"}
    values = [row.expected[name] for name in general]
    assert len(set(values)) == len(values)
    # Within the handler, it is the frame beyond the trampoline that is asked for.
    assert [(row.object_name, row.frame) for row in result.rows[:3]] == [
        ("program", 2),
        ("program", 2),
        ("image", 1),
    ]


def test_calls_of_its_own_loops_and_signal_return_on_x86_64(tmp_path):
    result = stepped(IMAGE_64, tmp_path, 64)
    assert result.failures() == []
    assert result.machine == "x86-64"
    assert {"gdb", "libgcc", "fullframe"} <= set(result.unwinders)
    inner = next(row for row in result.rows if row.instruction == "push %r12")
    outer = next(row for row in result.rows if row.instruction == "push %rbx")
    # The inner function's caller is the outer one, in the image.
    assert inner.expected["rip"] != outer.expected["rip"]
    assert inner.expected["rbx"] == 3
    loop = next(row for row in result.rows if row.instruction == "dec %r12d")
    assert loop.visits >= 5
    assert set(loop.unwinders) == set(result.unwinders)


def test_gdb_runs_out_of_a_loop_to_what_it_has_not_seen(tmp_path, monkeypatch):
    loop = "\tmov $9, %ebx\n2:\tdec %ebx\n\tjnz 2b\n\tmov $3, %ebx\n"
    text = IMAGE_64.replace("\tmov $3, %ebx\n", loop)
    run_to, calls = GdbProcess.run_to, []

    def remember(self, addresses):
        calls.append(list(addresses))
        run_to(self, calls[-1])

    monkeypatch.setattr(GdbProcess, "run_to", remember)
    result = stepped(text, tmp_path, 64, functions=("__vdso_time",))
    assert result.failures() == []
    assert len(calls) == 2  # once for each of the two calls
    for row in result.rows:
        assert set(row.unwinders) == set(result.unwinders), row
    (turns,) = {row.visits for row in result.rows if row.instruction == "dec %ebx"}
    assert turns == 18


def test_the_running_kernels_own(capsys):
    need_i386()
    for machine in ("i386", "x86-64"):
        names = {
            "i386": ["__kernel_vsyscall", "__kernel_sigreturn", "__kernel_rt_sigreturn"],
            "x86-64": ["__vdso_time", "__vdso_getcpu", "libc's rt_sigreturn"],
        }[machine]
        options = [word for name in names for word in ("--function", name)]
        assert main(["vdso", "step", "--machine", machine, "--json", *options]) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["image"] == "the running kernel's vDSO"
        assert data["failures"] == []
        assert {step["function"] for step in data["steps"]} == set(names)
        for step in data["steps"]:
            assert set(step["unwinders"]) >= {"gdb", "libgcc", "fullframe"}
            assert all(answer["ok"] for answer in step["unwinders"].values())


def test_libunwind_is_asked_where_it_is(tmp_path):
    result = stepped(IMAGE_64, tmp_path, 64)
    if "libunwind" in result.missing:
        skip_or_fail(f"{result.missing['libunwind']}: apt-get install libunwind8")
    assert all(row.unwinders["libunwind"].ok for row in result.rows)
    broken = IMAGE_64.replace("\t.cfi_rel_offset %r12, 0\n", "")
    result = stepped(broken, tmp_path, 64, functions=("__vdso_time",))
    affected = ["dec %r12d", "jne", "mov %ebx, %eax", "pop %r12"]
    found = [each if each in affected else each.split()[0] for each in wrong(result, "libunwind")]
    assert found == affected


# --- what is wrong ---

_PUSH_EBP = "\tpush %ebp\n\t.cfi_adjust_cfa_offset 4\n\t.cfi_rel_offset %ebp, 0\n"
_BODY = ["mov %esp, %ebp", "int $0x80", "xor %ecx, %ecx", "xor %edx, %edx", "pop %ebp"]
_TAIL = ["pop %edx", "pop %ecx", "ret"]


def without(text):
    return text, ""


#: Name to (text, what it becomes) and the instructions at which the CFI is then wrong.
BROKEN = {
    "a rule dropped": (without("\t.cfi_rel_offset %ebp, 0\n"), _BODY[1:]),
    "an adjustment dropped": (
        (_PUSH_EBP, "\tpush %ebp\n\t.cfi_rel_offset %ebp, 0\n"),
        _BODY + _TAIL,
    ),
    "the CFA shifted": (
        ("push %edx\n\t.cfi_adjust_cfa_offset 4", "push %edx\n\t.cfi_adjust_cfa_offset 8"),
        ["push %ebp", *_BODY, *_TAIL],
    ),
    "the wrong register": (
        (".cfi_rel_offset %edx, 0", ".cfi_rel_offset %ebx, 0"),
        ["push %ebp", *_BODY, *_TAIL],
    ),
    "the wrong slot": (
        (".cfi_rel_offset %edx, 0", ".cfi_rel_offset %edx, 4"),
        ["push %ebp", *_BODY, "pop %edx"],
    ),
    # Right by luck while nobody has used the stack again: it is overwritten.
    "a rule not taken back": (without("\t.cfi_restore %ebp\n"), _TAIL),
    "an adjustment forgotten at the end": (
        ("\t.cfi_restore %ecx\n\t.cfi_adjust_cfa_offset -4\n", "\t.cfi_restore %ecx\n"),
        ["ret"],
    ),
    "a row one instruction late": (
        (
            "\tpush %ecx\n\t.cfi_adjust_cfa_offset 4\n\t.cfi_rel_offset %ecx, 0\n\tpush %edx\n",
            "\tpush %ecx\n\tpush %edx\n\t.cfi_adjust_cfa_offset 4\n\t.cfi_rel_offset %ecx, 0\n",
        ),
        ["push %edx"],
    ),
    "rules of another instruction": (
        (signal_rules(32, 0), ""),
        ["mov $0x77, %eax", "int $0x80"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_cfi_is_seen_at_exactly_its_instructions(name, tmp_path):
    (text, becomes), affected = BROKEN[name]
    assert text in IMAGE_32
    result = stepped(IMAGE_32.replace(text, becomes, 1), tmp_path)
    assert wrong(result, "fullframe") == affected
    assert wrong(result, "libgcc") == affected
    # gdb does not look at the CFI at an i386 ret (docs/findings: gdb's own idea of an epilogue).
    assert wrong(result, "gdb") == [each for each in affected if each != "ret"]


def test_a_trampoline_that_is_no_signal_frame(tmp_path):
    image = IMAGE_32.replace("\t.cfi_signal_frame\n", "")
    result = stepped(image, tmp_path)
    old = ["xor %eax, %eax", "ret", "pop %eax", "mov $0x77, %eax", "int $0x80"]
    new = ["xor %eax, %eax", "ret", "mov $0xAD, %eax", "int $0x80"]
    assert wrong(result, "fullframe") == old + new
    # libgcc knows the bytes of the kernel's rt_sigreturn trampoline, and mends it at its begin;
    # gdb knows both trampolines by their names.
    assert wrong(result, "libgcc") == [*old, "int $0x80"]
    assert wrong(result, "gdb") == []
    # Every register of the interrupted code is right: it is its caller that is not found.
    registers = {name for one in result.failures() for name in one.registers}
    assert registers <= {"caller's eip", "caller's esp"}


def test_flags_where_a_rule_says_where_they_are(tmp_path):
    rules = signal_rules(32, 160)
    right = IMAGE_32.replace(rules, rules + flags_rule_32(160))
    result = stepped(right, tmp_path, functions=("__kernel_rt_sigreturn",))
    assert result.failures() == []
    assert all("eflags" in row.expected for row in result.rows)
    assert {"eflags"} <= set(result.rows[-1].unwinders["gdb"].got)
    # The slot of cs is not that of the flags.
    false = IMAGE_32.replace(rules, rules + flags_rule_32(160, 15))
    result = stepped(false, tmp_path, functions=("__kernel_rt_sigreturn",))
    every = instructions(result, "__kernel_rt_sigreturn")
    assert wrong(result, "gdb") == wrong(result, "fullframe") == every
    assert wrong(result, "libgcc") == []
    assert {name for one in result.failures() for name in one.registers} == {"eflags"}


def test_a_trampoline_whose_cfi_begins_at_it_is_not_found_from_its_handler(tmp_path):
    image = IMAGE_32.replace(
        "\tnop\n\t.globl __kernel_rt_sigreturn", "\t.globl __kernel_rt_sigreturn"
    )
    result = stepped(image, tmp_path, functions=("__kernel_rt_sigreturn",))
    assert wrong(result, "fullframe") == wrong(result, "libgcc") == ["xor %eax, %eax", "ret"]


def test_no_signal_frame_on_x86_64(tmp_path):
    image = HEAD + RT_SIGRETURN_64.replace("\t.cfi_signal_frame\n", "")
    result = stepped(image, tmp_path, 64)
    every = ["xor %eax, %eax", "ret", "mov $0xF, %rax", "syscall"]
    assert wrong(result, "fullframe") == wrong(result, "libgcc") == every


def test_no_cfi_at_all(tmp_path):
    text = "".join(line for line in IMAGE_32.splitlines(True) if ".cfi" not in line)
    result = stepped(text, tmp_path, functions=("__kernel_vsyscall",))
    every = instructions(result, "__kernel_vsyscall")
    assert wrong(result, "fullframe") == wrong(result, "libgcc") == every
    messages = {one.message for one in result.failures() if one.unwinder == "fullframe"}
    assert messages == {"no FDE covers the instruction"}


def test_code_that_does_not_give_a_register_back(tmp_path):
    text = IMAGE_32.replace("\txor %ecx, %ecx\n", "\txor %esi, %esi\n")
    result = stepped(text, tmp_path, functions=("__kernel_vsyscall",), unwinders=("fullframe",))
    (failure,) = result.process_failures
    assert failure.registers == {"esi": (0xA7A7A7A7, 0)}
    assert failure in result.failures()


# --- what this machine cannot run ---


def sysenter(text):
    return text.replace("\tint $0x80\n\txor %ecx", "\tsysenter\n\tint $0x80\n\txor %ecx", 1)


def test_a_way_in_that_the_cpu_does_not_know_is_stepped_in_the_emulator(tmp_path):
    # ebp is the stack pointer and holds the caller's at its top, as Linux wants it.
    result = stepped(sysenter(IMAGE_32), tmp_path, functions=("__kernel_vsyscall",))
    assert result.failures() == []
    rows = {row.instruction: row for row in result.rows if row.object_name == "image"}
    assert rows["sysenter"].stepped == "process"
    # Wherever the kernel goes on, it is not in this image.
    assert {rows[name].stepped for name in ("int $0x80", *_BODY[2:], *_TAIL)} == {"emulator"}
    assert set(rows["pop %ebp"].unwinders) == set(result.unwinders)
    (function,) = result.functions
    assert function.stepped == function.instructions == 12
    assert "what no process comes by was stepped in the emulator" in function.remarks


def test_broken_cfi_is_seen_in_the_emulator(tmp_path):
    text = sysenter(IMAGE_32).replace("\t.cfi_restore %ebp\n", "", 1)
    result = stepped(text, tmp_path, functions=("__kernel_vsyscall",))
    assert wrong(result, "libgcc") == wrong(result, "fullframe") == _TAIL
    assert wrong(result, "gdb") == _TAIL[:-1]


def test_a_kernel_that_runs_no_i386_programs(tmp_path, monkeypatch):
    def refuse(self, command, environment):
        raise ptrace.CannotRunError("no i386 programs here")

    need_i386()
    monkeypatch.setattr(ptrace.TracedProcess, "_spawn", refuse)
    text = IMAGE_32.replace("\t.cfi_restore %ebp\n", "", 1)
    result = stepped(text, tmp_path)
    assert result.unwinders == ["fullframe"]
    assert wrong(result, "fullframe") == _TAIL
    assert {row.stepped for row in result.rows} == {"emulator"}
    assert "no i386 programs here" in result.missing["gdb"]
    assert [(one.instructions, one.stepped) for one in result.functions] == [
        (11, 11),
        (3, 3),
        (2, 2),
    ]


def test_emulated_signals_are_the_kernels(tmp_path, monkeypatch):
    """The same rows, with the same truth, in the process and in the emulator."""
    rules = signal_rules(32, 160)
    text = IMAGE_32.replace(rules, rules + flags_rule_32(160))
    real = stepped(text, tmp_path, unwinders=("fullframe",))

    def refuse(self, command, environment):
        raise ptrace.CannotRunError("no i386 programs here")

    monkeypatch.setattr(ptrace.TracedProcess, "_spawn", refuse)
    emulated = stepped(text, tmp_path, unwinders=("fullframe",))
    assert real.failures() == emulated.failures() == []
    assert len(real.rows) == len(emulated.rows)
    for one, other in zip(real.rows, emulated.rows, strict=True):
        assert (one.address, one.frame) == (other.address, other.frame)
        # Of the flags, the one that the program sets itself.
        flags = [row.expected.pop("eflags", 0) & CF for row in (one, other)]
        assert one.expected == other.expected
        assert flags[0] == flags[1]
        assert (one.stepped, other.stepped) == ("process", "emulator")


def test_code_that_dies_is_told_of(tmp_path):
    text = IMAGE_64.replace("\tmov $3, %ebx\n", "\tmov $3, %ebx\n\tmov %rbx, (%rbx)\n")
    result = stepped(text, tmp_path, 64)
    first, second = result.functions
    (remark,) = first.remarks
    assert remark == "the process got SIGSEGV when it was stepped at 0x1016 (image)"
    assert first.stepped == 3
    # The next function has a process of its own again.
    assert second.stepped == second.instructions == 2


def test_code_that_loses_its_stack(tmp_path):
    text = IMAGE_64.replace("\tmov $3, %ebx\n", "\txor %esp, %esp\n")
    result = stepped(text, tmp_path, 64, functions=("__vdso_time",))
    (function,) = result.functions
    assert function.remarks == ["the process got SIGSEGV when it was stepped at 0x1013 (image)"]
    assert {one.instruction.split()[0] for one in result.failures()} == {"call"}


@pytest.mark.parametrize(
    "start",
    [
        "\tmov $57, %eax\n\tsyscall\n",  # fork
        "\tmov $58, %eax\n\tsyscall\n",  # vfork
        # clone(0, its stack pointer): nobody is sent a signal at its end.
        "\tmov $56, %eax\n\txor %edi, %edi\n\tmov %rsp, %rsi\n\tsyscall\n",
    ],
    ids=["fork", "vfork", "clone"],
)
@pytest.mark.parametrize("unwinder", ["fullframe", "gdb"])
def test_an_image_that_starts_processes_leaves_none(unwinder, start, tmp_path, monkeypatch):
    # What is started leaves the session, and pauses, as the one that started it does.
    leave = "\tmov $112, %eax\n\tsyscall\n"
    pause = "\tmov $34, %eax\n\tsyscall\n"
    text = IMAGE_64.replace("\tmov $3, %ebx\n", start + leave + pause)
    # Other tests step programs at the same time: those of this one are in its own directory.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = stepped(
        text, tmp_path, 64, unwinders=(unwinder,), functions=("__vdso_time",), limit_seconds=1.0
    )
    assert "not finished after 1 seconds" in result.functions[0].remarks[0]
    assert processes_of(tmp_path) == set()


def test_a_thread_that_an_image_starts_ends_with_it(tmp_path):
    # clone(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, its stack pointer)
    start = "\tmov $56, %eax\n\tmov $0x10f00, %edi\n\tlea -256(%rsp), %rsi\n\tsyscall\n"
    text = IMAGE_64.replace("\tmov $3, %ebx\n", start + "\tmov $34, %eax\n\tsyscall\n")
    result = stepped(
        text, tmp_path, 64, unwinders=("fullframe",), functions=("__vdso_time",), limit_seconds=1.0
    )
    assert "not finished after 1 seconds" in result.functions[0].remarks[0]


def processes_of(directory):
    """The stepped programs that there are below a directory."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{directory}/fullframe-step-".encode() in path.read_bytes():
                found.add(path.parent.name)
    return found


def test_code_that_never_returns(tmp_path):
    text = IMAGE_64.replace("\tdec %r12d\n", "\tinc %r12d\n")
    result = stepped(text, tmp_path, 64, unwinders=("fullframe",), functions=("__vdso_time",))
    (function,) = result.functions
    assert "not back after 20000 instructions" in function.remarks[0]


def test_code_that_waits_for_ever(tmp_path):
    text = IMAGE_64.replace("\tmov $3, %ebx\n", "\tmov $34, %eax\n\tsyscall\n")  # pause
    result = stepped(
        text, tmp_path, 64, unwinders=("fullframe",), functions=("__vdso_time",), limit_seconds=1.0
    )
    (function,) = result.functions
    assert "not finished after 1 seconds: killed" in function.remarks[0]


# --- what cannot be stepped ---


def test_an_image_that_the_loader_does_not_take_is_mapped_by_hand(tmp_path):
    need_i386()
    image = build_image(IMAGE_32, 32, tmp_path)
    data = bytearray(image.read_bytes())
    offset, count = int.from_bytes(data[28:32], "little"), data[44]
    for index in range(count):
        at = offset + 32 * index
        if data[at] == 2:  # PT_DYNAMIC becomes PT_NULL
            data[at] = 0
    image.write_bytes(data)
    result = step_image(StepOptions(image))
    assert result.failures() == []
    assert {"gdb", "libgcc"} <= set(result.unwinders)
    assert "the loader does not take the image" in result.remarks[0]


def test_refusals(tmp_path):
    image = build_image(IMAGE_64, 64, tmp_path)
    with pytest.raises(InputError) as refused:
        step_image(StepOptions(image, "i386"))
    assert str(refused.value) == (
        f"{image}: an image of x86-64; expected i386\n"
        "  next: leave out --machine, or say --machine x86-64"
    )
    with pytest.raises(InputError, match="kind relocatable; expected a vDSO: a shared object"):
        step_image(StepOptions(tmp_path / "image.o"))
    with pytest.raises(
        UsageError, match="has no function 'nobody' that can be stepped through; it"
    ):
        step_image(StepOptions(image, functions=("nobody",)))
    with pytest.raises(UsageError, match="no unwinder 'addr2line': expected one of gdb, libgcc"):
        step_image(StepOptions(image, unwinders=("addr2line",)))


def test_an_image_with_nothing_to_step_through(tmp_path):
    with pytest.raises(InputError, match="no function that can be stepped through; expected __ker"):
        stepped("\t.globl other\n\t.type other, @function\nother:\tret\n", tmp_path, 64)


def test_an_image_whose_constructor_never_ends(tmp_path):
    text = IMAGE_64 + "spin:\tjmp spin\n" + '\t.section .init_array, "aw"\n\t.quad spin\n'
    with pytest.raises(InputError, match="the program that loads it not finished after"):
        stepped(text, tmp_path, 64, limit_seconds=0.5)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "gdb ended"),
        ("while :; do echo; done", "gdb had not finished after 1 seconds"),
        ("yes | tr -d '\\n'", "gdb does not stop talking"),
        ("exec sleep 30", "gdb had not finished after 1 seconds"),
        ("echo '(gdb) '; while read line; do echo '^error,msg=\"no\"'; echo '(gdb) '; done", "no"),
    ],
)
def test_a_gdb_that_does_not_work(script, reason, tmp_path, monkeypatch):
    fake = tmp_path / "gdb"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr("fullframe.run.gdb.find_tool", lambda name: str(fake))
    result = stepped(
        IMAGE_64, tmp_path, 64, limit_seconds=1.0, functions=("__kernel_rt_sigreturn",)
    )
    assert result.missing["gdb"] == reason
    assert "libgcc" in result.unwinders
    assert result.failures() == []


def test_an_image_that_kills_the_loader(tmp_path):
    text = IMAGE_64 + '\t.section .init_array, "aw"\n\t.quad 1\n'
    with pytest.raises(InputError) as refused:
        stepped(text, tmp_path, 64)
    assert "the program that loads it got SIGSEGV when it ran on" in str(refused.value)


def test_functions_whose_arguments_nobody_knows_are_named(tmp_path):
    text = IMAGE_64.replace("__vdso_time", "__vdso_unheard_of")
    result = stepped(text, tmp_path, 64, unwinders=("fullframe",))
    assert result.not_stepped == {"__vdso_unheard_of": "as it is not known what to call it with"}


def test_an_unwinder_that_was_asked_for_and_is_not_there(tmp_path, monkeypatch, capsys):
    image = build_image(IMAGE_64, 64, tmp_path)
    monkeypatch.setattr("fullframe.run.gdb.find_tool", _no_tool)
    assert main(["vdso", "step", "--image", str(image), "--unwinder", "gdb"]) == 4
    assert "gdb cannot be asked: gdb is not here" in capsys.readouterr().err
    # Where nobody insists, the others are asked, and it says so.
    assert main(["vdso", "step", "--image", str(image)]) == 0
    assert "gdb was not asked: gdb is not here" in capsys.readouterr().out


def _no_tool(name):
    raise ToolMissingError(f"{name} is not here")


#: Runs the command line under a filter that answers ptrace with "not permitted", as containers'
#: do: load the number of the system call; if 101 (asm/unistd_64.h) EPERM, else allow.
_FILTERED = """
import ctypes, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
code = b"".join(struct.pack("<HBBI", *one) for one in [
    (0x20, 0, 0, 0), (0x15, 0, 1, 101), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)])
buffer = ctypes.create_string_buffer(code)
program = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
from fullframe.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_ptrace_that_is_forbidden(tmp_path):
    image = build_image(IMAGE_64, 64, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _FILTERED, "vdso", "step", "--image", str(image)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "ptrace is not allowed here: the program may not be traced\n  next: " in done.stderr
    assert done.stdout == ""


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "in").mkdir()
    started = []
    spawn = ptrace.TracedProcess._spawn

    def remember(self, *arguments):
        started.append(spawn(self, *arguments))
        return started[-1]

    monkeypatch.setattr(ptrace.TracedProcess, "_spawn", remember)
    text = IMAGE_64.replace("\tmov $3, %ebx\n", "\tmov $3, %ebx\n\tud2\n")
    stepped(text, tmp_path / "in", 64)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert len(started) == 3  # two calls that die, and the signal return
    for pid in started:
        with pytest.raises(ProcessLookupError):
            ptrace.os.kill(pid, 0)


# --- the report ---


def test_the_table_and_the_json_say_the_same(tmp_path, capsys):
    need_i386()
    broken = IMAGE_32.replace("\t.cfi_rel_offset %ebp, 0\n", "")
    image = build_image(broken, 32, tmp_path)
    command = ["vdso", "step", "--image", str(image), "--function", "__kernel_vsyscall"]
    assert main(command) == 1
    text = capsys.readouterr().out
    assert main([*command, "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert "__kernel_vsyscall (call): 11 of 11 instructions stepped" in text
    line = next(line for line in text.splitlines() if "int $0x80" in line)
    assert line.split()[-3:].count("WRONG") + line.split()[-4:].count("WRONG") >= 3
    assert "fullframe: ebp 0x8053ff0, expected 0xa6a6a6a6" in text
    assert data["schema"] == 1
    assert data["image"] == str(image)
    wrong_steps = [
        step
        for step in data["steps"]
        if not all(answer["ok"] for answer in step["unwinders"].values())
    ]
    assert [step["instruction"] for step in wrong_steps] == _BODY[1:]
    for step in wrong_steps:
        for answer in step["unwinders"].values():
            assert answer["got"]["ebp"] != step["expected"]["ebp"]
    count = sum(not a["ok"] for step in data["steps"] for a in step["unwinders"].values())
    assert len(data["failures"]) == count


#: Keys of objects whose own keys are names.
_NAMES = {"expected", "got", "registers", "unwinders", "missing", "versions", "not_stepped"}


def keys(value):
    """Every key that is not the name of a register, an unwinder or a function."""
    if isinstance(value, list):
        return {key for each in value for key in keys(each)}
    if not isinstance(value, dict):
        return set()
    found = set(value)
    for key, each in value.items():
        named = key in _NAMES and isinstance(each, dict)
        found |= keys(list(each.values()) if named else each)
    return found


def test_every_key_is_documented(tmp_path, capsys):
    need_i386()
    broken = IMAGE_32.replace("\t.cfi_rel_offset %ebp, 0\n", "")
    image = build_image(broken, 32, tmp_path)
    assert main(["vdso", "step", "--image", str(image), "--json"]) == 1
    found = keys(json.loads(capsys.readouterr().out))
    assert {"steps", "failures", "expected", "got", "message", "remarks"} <= found
    assert found - documented_keys("fullframe vdso step --json") == set()


# --- against libgcc, whatever the CFI says ---


@pytest.mark.parametrize("bits", [32, 64])
def test_rows_are_read_as_libgcc_reads_them(bits, tmp_path):
    """Random bytes of the call-frame information changed: where both find a frame, it is the same.

    (They need not find the same FDEs: libgcc looks them up in a table, fullframe reads them all.)
    """
    if bits == 32:
        need_i386()
    image = build_image(IMAGE_32 if bits == 32 else IMAGE_64, bits, tmp_path)
    data = image.read_bytes()
    section = bytes(Image.open(image).section(".eh_frame").data)
    begin = data.index(section)
    random = Random(20150824 + bits)
    compared = wrongs = 0
    for _ in range(8):
        changed = bytearray(data)
        changed[begin + random.randrange(len(section))] = random.randrange(256)
        image.write_bytes(changed)
        result = step_image(StepOptions(image, unwinders=("libgcc", "fullframe")))
        for row in result.rows:
            own, libgcc = row.unwinders["fullframe"], row.unwinders["libgcc"]
            if not own.message and not libgcc.message:
                assert own.got == libgcc.got, row
                compared += 1
                wrongs += not own.ok
    assert compared > 50
    assert wrongs > 0


# --- the images that fullframe builds ---


def test_built_images_are_right_everywhere(tmp_path, capsys):
    need_i386()
    assert main(["vdso", "build", "-o", str(tmp_path)]) == 0
    images = sorted(tmp_path.glob("*.so"))
    assert len(images) == 4
    for image in images:
        capsys.readouterr()
        assert main(["vdso", "step", "--image", str(image), "--json"]) == 0, image
        data = json.loads(capsys.readouterr().out)
        assert data["failures"] == []
        assert data["not_stepped"] == {}
        assert {"gdb", "libgcc", "fullframe"} <= set(data["unwinders"])
        for function in data["functions"]:
            # Linux puts the processor's number into a segment: only without it, it is asked for.
            left = 3 if (image.name, function["name"]) == ("vdso64.so", "__vdso_getcpu") else 0
            assert function["stepped"] == function["instructions"] - left, (image, function)
        for step in data["steps"]:
            assert set(step["unwinders"]) == set(data["unwinders"]), (image, step)


# --- the emulator ---


def emulated(code, **registers):
    names = {"ebp": BP, "esp": SP, "ecx": CX, "edx": DX, "eax": AX}
    values = {names[name]: value for name, value in registers.items()} | {IP: 0x1000}
    stack = (0x11111111).to_bytes(4, "little") + (0x22222222).to_bytes(4, "little")
    program = EmulatedProgram([(0x1000, code), (0x8000, stack)], values, result=7)
    program.step()
    return program


def test_sysenter_comes_back_where_the_kernel_puts_it():
    # sysenter; nop: esp from ebp, ebp from the stack, eax the result, ecx and edx lost.
    after = emulated(b"\x0f\x34\x90", ebp=0x8004, esp=0x8000, ecx=3, edx=4, eax=20).registers()
    assert (after[SP], after[BP], after[AX], after[IP]) == (0x8004, 0x22222222, 7, 0x1002)
    assert after[CX] != 3
    assert after[DX] != 4


def test_syscall_is_made_again_by_the_int80_behind_it():
    # syscall; int $0x80; ret: argument 2, which was in ebp, is in ecx, as INT 0x80 wants it.
    program = emulated(b"\x0f\x05\xcd\x80\xc3", ebp=5, esp=0x8000, ecx=3, edx=4, eax=20)
    again = program.registers()
    assert (again[SP], again[BP], again[AX], again[IP]) == (0x8000, 0x11111111, 20, 0x1002)
    assert (again[CX], again[DX]) == (5, 4)
    program.step()
    after = program.registers()
    assert (after[AX], after[CX], after[IP]) == (7, 5, 0x1004)


def test_what_cannot_be_emulated():
    with pytest.raises(ProgramDiedError, match="cannot be emulated at 0x1000"):
        emulated(b"\x0f\x0b")
    with pytest.raises(ProgramDiedError, match="no sixth argument at 0x70000000"):
        emulated(b"\x0f\x34\x90", ebp=0x70000000)
