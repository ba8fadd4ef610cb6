"""Images in use: called as a library, returned through by signals, and as a process's own vDSO."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from iced_x86 import Decoder, Mnemonic

from fullframe.elf.image import Image
from fullframe.errors import FullframeError
from fullframe.run.running_vdso import read_running_vdso
from fullframe.toolchain.find import KINDS
from fullframe.vdso.build import build_from_source, derive
from fullframe.vdso.verify import address_of
from tests.support import skip_or_fail
from tests.vdso.support import (
    I386_NAMES,
    IMAGE,
    PROGRAMS,
    built,
    need,
    program,
    run,
    saved,
    toolchain,
)

#: Exit code of a shell, or of start_with, for a program that SIGILL ended.
ILLEGAL = 128 + 4


def runs_here(name: str) -> bool:
    """Whether this CPU and kernel can enter the kernel as an image does.

    int $0x80 always. SYSENTER and SYSCALL of 32-bit code: what the running kernel chose for its
    own vDSO; under a 64-bit kernel the other raises #UD (AMD APM vol. 3, SYSENTER; Intel SDM
    vol. 2, SYSCALL).
    """
    entry = IMAGE[name].entry
    if name == "x86-64" or entry == "int80":
        return True
    try:
        data = read_running_vdso("i386").data
    except FullframeError as error:
        skip_or_fail(str(error).splitlines()[0])
    image = Image.from_bytes(data, "[vdso]")
    begin = address_of(image, "__kernel_vsyscall")
    assert begin is not None
    wanted = {"sysenter": Mnemonic.SYSENTER, "syscall": Mnemonic.SYSCALL}[entry]
    code = bytes(image.read(begin, 16))
    return any(instruction.mnemonic == wanted for instruction in Decoder(32, code))


def code_of(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def extra(name: str, stem: str) -> list[str]:
    suffix = "x86_64" if name == "x86-64" else "i386"
    return [str(PROGRAMS / f"{stem}_{suffix}.S"), "-ldl"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(IMAGE))
def test_every_function_does_what_libcs_does(name: str, kind: str, tmp_path: Path) -> None:
    flags = ["-ldl"] if name == "x86-64" else extra(name, "enter")
    calls = program(tmp_path, "calls.c", IMAGE[name], *flags)
    done = run(calls, saved(built(name, kind), tmp_path))
    if runs_here(name):
        assert (done.returncode, done.stdout) == (0, "")
    else:
        assert code_of(done.returncode) == ILLEGAL


@pytest.mark.parametrize("with_flags", [False, True])
@pytest.mark.parametrize("name", list(IMAGE))
def test_signals_return_and_unwind_through_the_trampolines(
    name: str, with_flags: bool, tmp_path: Path
) -> None:
    """Every register of the interrupted instruction, by libgcc's unwinder, and after the return."""
    signals = program(tmp_path, "signals.c", IMAGE[name], *extra(name, "interrupt"))
    done = run(signals, saved(built(name, with_flags=with_flags), tmp_path))
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["i386-int80", "x86-64"])
def test_that_test_can_fail(name: str, tmp_path: Path) -> None:
    """One rule of the trampolines is another register's: the program says which."""
    signals = program(tmp_path, "signals.c", IMAGE[name], *extra(name, "interrupt"))
    # DW_CFA_expression (DWARF 5, section 6.4.2.3) of registers 0 and 2, exchanged.
    source = derive(IMAGE[name], toolchain())
    first, second, aside = "0x10, 0x00, ", "0x10, 0x02, ", "aside"
    text = source.text.replace(first, aside).replace(second, first).replace(aside, second)
    image = build_from_source(IMAGE[name], source.with_text(text), toolchain())
    assert not image.is_right
    done = run(signals, saved(image, tmp_path))
    assert done.returncode == 1
    assert done.stdout.count("register 0: ") == done.stdout.count("register 2: ") == 2


@pytest.mark.parametrize("name", list(IMAGE))
def test_an_exception_passes_through_the_trampolines(name: str, tmp_path: Path) -> None:
    throw = program(tmp_path, "throw.cc", IMAGE[name], "-fnon-call-exceptions", "-ldl")
    done = run(throw, saved(built(name), tmp_path))
    count = 1 if name == "x86-64" else 2
    assert (done.returncode, done.stdout) == (0, f"{count} caught, {count} destroyed\n")


def test_an_exception_does_not_pass_without_cfi(tmp_path: Path) -> None:
    """What the test before shows is the image's CFI at work.

    Of i386 it cannot be shown so: libgcc knows that trampoline by its bytes, and goes on without.
    """
    throw = program(tmp_path, "throw.cc", IMAGE["x86-64"], "-fnon-call-exceptions", "-ldl")
    data = built("x86-64").data
    # PT_GNU_EH_FRAME is how unwinders find it.
    broken = data.replace(b"\x50\xe5\x74\x64", b"\x50\xe5\x74\x60")
    assert broken != data
    path = tmp_path / "broken.so"
    path.write_bytes(broken)
    assert code_of(run(throw, path).returncode) == 128 + 6  # std::terminate


_REGISTER = re.compile(r"^([er]?[a-ds][xip]|[er]?[bs]p|[er][sd]i|r\d+|[er]ip|eflags) +(\S+)", re.M)


@pytest.mark.parametrize("with_flags", [False, True])
@pytest.mark.parametrize("name", list(IMAGE))
def test_gdb_shows_the_interrupted_registers(name: str, with_flags: bool, tmp_path: Path) -> None:
    """From the handler, the same that it showed when the signal came."""
    signals = program(tmp_path, "signals.c", IMAGE[name], *extra(name, "interrupt"))
    image = saved(built(name, with_flags=with_flags), tmp_path)
    commands = [
        "set debuginfod enabled off", "run", "info registers", "break handler", "signal SIGTRAP",
        "backtrace", "frame function interrupt", "info registers",
    ]  # fmt: skip
    done = run(
        need("gdb"), "-nx", "-batch", *(word for each in commands for word in ("-ex", each)),
        "--args", signals, image,
    )  # fmt: skip
    assert "<signal handler called>" in done.stdout, done.stdout + done.stderr
    at_trap, _, in_handler = done.stdout.partition("Breakpoint 1")
    before, after = dict(_REGISTER.findall(at_trap)), dict(_REGISTER.findall(in_handler))
    assert len(before) == (18 if name == "x86-64" else 10)
    if not with_flags:
        before.pop("eflags")
        after.pop("eflags")
    assert after == before


# -- as a process's own vDSO --------------------------------------------------------------------


def start_with(tmp_path: Path, name: str, image: Path) -> tuple[int, str]:
    """Start an ordinary program whose vDSO is an image."""
    launcher = program(tmp_path, "start_with.c", IMAGE["x86-64"])
    ordinary = program(tmp_path, "ordinary.c", IMAGE[name], "-lpthread")
    vsyscall = address_of(Image.from_bytes(built(name).data, name), "__kernel_vsyscall")
    done = run(launcher, image, hex(vsyscall or 0), ordinary)
    if done.returncode == 125 and "not permitted" in done.stderr:
        skip_or_fail(f"this machine forbids ptrace: {done.stderr.strip()}")
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", list(IMAGE))
def test_a_whole_process_runs_on_an_image(name: str, tmp_path: Path) -> None:
    image = saved(built(name), tmp_path)
    code, out = start_with(tmp_path, name, image)
    if runs_here(name):
        assert (code, out) == (0, f"{image.name}\nvDSO with 5 segments\n")
    else:
        assert code == ILLEGAL


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("x86-64", "__vdso_clock_gettime"),
        ("x86-64", "__vdso_gettimeofday"),
        ("x86-64", "__vdso_time"),
        ("x86-64", "__vdso_clock_getres"),
        ("i386-int80", "__kernel_vsyscall"),
        ("i386-int80", "__vdso_clock_gettime64"),
    ],
)
def test_libc_does_call_it(name: str, function: str, tmp_path: Path) -> None:
    """Found by libc, by name, version and hash: a function that is ud2 ends the program."""
    data = bytearray(built(name).data)
    (found,) = [each for each in built(name).functions if each.name == function]
    data[found.address : found.address + 2] = b"\x0f\x0b"
    image = tmp_path / "broken.so"
    image.write_bytes(data)
    assert start_with(tmp_path, name, image)[0] == ILLEGAL


def test_i386_images_differ_in_the_entry_only() -> None:
    functions = [built(name).functions for name in I386_NAMES]
    assert len({tuple(function.name for function in each) for each in functions}) == 1
    codes = dict.fromkeys(I386_NAMES, b"")
    for name in I386_NAMES:
        image = Image.from_bytes(built(name).data, name)
        for function in built(name).functions[1:3]:
            codes[name] += bytes(image.read(function.address, function.size_bytes))
    assert len(set(codes.values())) == 1
