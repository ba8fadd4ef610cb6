"""cfi decode on call-frame information that people wrote by hand, in what Debian carries.

Each source is fetched when the test runs; nothing of it is kept here. After decoding, the rules
are the same at every instruction boundary, which the command itself proves by assembling again.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from fullframe.cli.main import main
from fullframe.x86.registers import IP, X86_64
from tests.cfi_write.packages import debian_source, unpack
from tests.cfi_write.support import need
from tests.support import skip_or_fail


def _decoded(
    capsys: pytest.CaptureFixture[str], path: Path, *flags: str, boundaries: int, what: str
) -> str:
    """Decode a source; return the new text's diff."""
    original = path.read_text()
    assert main(["cfi", "decode", str(path), "--json", "--", *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["changed"]
    assert told["differences"] == told["refused"] == []
    assert told["boundaries_compared"] >= boundaries
    assert path.read_text() == original
    with capsys.disabled():
        print(f"\ndecode: {what}: {told['boundaries_compared']} boundaries, 0 differences")
    diff: str = told["diff"]
    added = [line for line in diff.splitlines() if line.startswith("+")]
    assert not any(".eh_frame" in line or ".debug_frame" in line for line in added
                   if ".cfi_sections" not in line)  # fmt: skip
    return diff


LIBFFI_CONFIG = """#define HAVE_AS_X86_PCREL 1
#define HAVE_HIDDEN_VISIBILITY_ATTRIBUTE 1
#define EH_FRAME_FLAGS "a"
#define HAVE_LONG_DOUBLE 1
#define FFI_HIDDEN(name) .hidden name
"""


def test_libffi(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Calls and closures of x86-64 and i386."""
    root = debian_source(tmp_path, "libffi")
    (root / "fficonfig.h").write_text(LIBFFI_CONFIG)
    template = (root / "include/ffi.h.in").read_text()
    for name, value in (("TARGET", "X86_64"), ("HAVE_LONG_DOUBLE", "1"), ("VERSION", "0"),
                        ("FFI_EXEC_TRAMPOLINE_TABLE", "0")):  # fmt: skip
        template = template.replace(f"@{name}@", value)
    (root / "ffi.h").write_text(template)
    include = [f"-I{root}", f"-I{root}/include", f"-I{root}/src/x86"]
    for name, flags in (
        ("unix64", []),
        ("sysv", ["-m32", "-fno-pic"]),
        ("sysv", ["-m32", "-fPIC"]),
    ):
        path = root / f"src/x86/{name}.S"
        what = f"libffi {name}.S {' '.join(flags)}"
        _decoded(capsys, path, *include, *flags, boundaries=200, what=what)


def test_glibc_signal_trampoline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``__restore_rt`` of x86-64: assembly within C, every register by an expression.

    gdb knows it by its instructions, so those must stay (they do: the command demands it).
    """
    source = "sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c"
    debian_source(tmp_path, "glibc", f"*/{source}")
    text = next(tmp_path.rglob("libc_sigaction.c")).read_text()
    # What the library's build makes: offsets in the ucontext of Linux (asm/sigcontext.h).
    order = "R8 R9 R10 R11 R12 R13 R14 R15 RDI RSI RBP RBX RDX RAX RCX RSP RIP"
    head = "#define CFI_STRINGIFY2(x) #x\n#define CFI_STRINGIFY(x) CFI_STRINGIFY2(x)\n"
    head += '#define LP_SIZE "8"\n#define __NR_rt_sigreturn 15\n'
    head += "".join(
        f"#define o{name} {40 + 8 * number}\n" for number, name in enumerate(order.split())
    )
    cut, output = tmp_path / "restore.c", tmp_path / "restore.s"
    cut.write_text(head + text[text.index("#define do_cfa_expr") :])
    subprocess.run([need("gcc"), "-S", "-O2", str(cut), "-o", str(output)], check=True)
    diff = _decoded(capsys, output, boundaries=3, what="glibc __restore_rt")
    assert "+\t.cfi_signal_frame\n" in diff
    # A readable comment beside every escape: all 16 registers, the return address and the CFA.
    for register in X86_64.register_names[: IP + 1]:
        assert f"/* {register} saved at DW_OP_breg7 rsp+" in diff
    assert "/* CFA = DW_OP_breg7 rsp+160, DW_OP_deref */" in diff


@pytest.mark.parametrize(
    ("options", "flags", "boundaries"),
    [
        ((), (), 8000),
        (("CC=gcc -m32", "HOST_CC=gcc -m32"), ("-m32",), 7500),
        (("XCFLAGS=-DLUAJIT_DISABLE_GC64",), (), 7500),
    ],
    ids=["x64", "x86", "x64 without GC64"],
)
def test_luajit(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    flags: tuple[str, ...],
    boundaries: int,
) -> None:
    """The interpreter: .debug_frame and .eh_frame of the same code, one with a personality."""
    root = debian_source(tmp_path, "luajit", "src", "dynasm")
    root = root if (root / "src").is_dir() else tmp_path / "luajit"
    run = subprocess.run(
        [need("make"), "-s", "-C", str(root / "src"), *options, "lj_vm.S"],
        capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode:
        skip_or_fail(f"LuaJIT's generator cannot be built here: {run.stderr[-200:]}")
    path = root / "src/lj_vm.S"
    what = f"LuaJIT lj_vm.S {' '.join(options)}"
    diff = _decoded(capsys, path, *flags, boundaries=boundaries, what=what)
    assert "lj_err_unwind_dwarf\n" in diff
    assert "+\t.cfi_sections .debug_frame, .eh_frame\n" in diff


def test_valgrind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Replacements of libc functions, and a test of expressions that somebody wrote out."""
    root = debian_source(
        tmp_path, "valgrind", "*/coregrind/m_trampoline.S", "*/coregrind/*.h", "*/include/*.h",
        "*/defcfaexpr.S",
    )  # fmt: skip
    (root / "config.h").write_text("")
    platform = ("VGA_amd64", "VGO_linux", "VGP_amd64_linux", "VGPV_amd64_linux_vanilla")
    include = [f"-I{root}", f"-I{root}/include", f"-I{root}/coregrind"]
    defined = [f"-D{name}=1" for name in platform]
    _decoded(
        capsys, root / "coregrind/m_trampoline.S", *include, *defined,
        boundaries=19, what="valgrind m_trampoline.S",
    )  # fmt: skip
    path = next(root.rglob("defcfaexpr.S"))
    _decoded(capsys, path, *include, boundaries=15, what="valgrind defcfaexpr.S")


LINUX_HEADERS = {
    "linux/linkage.h": "#define ALIGN .align 4\n#define SYM_L_GLOBAL(name) .globl name\n"
    "#define SYM_INNER_LABEL(name, linkage) linkage(name); name:\n",
    "asm/unistd_32.h": "#define __NR_sigreturn 119\n#define __NR_rt_sigreturn 173\n",
    # Offsets in struct sigcontext_32, and of it in the frame (asm/sigcontext.h, asm/sigframe.h).
    "asm/asm-offsets.h": "".join(
        f"#define IA32_SIGCONTEXT_{name} {offset}\n"
        for name, offset in (("ax", 44), ("bx", 32), ("cx", 40), ("dx", 36), ("si", 20),
                             ("di", 16), ("bp", 24), ("sp", 28), ("ip", 56))
    ) + "#define IA32_RT_SIGFRAME_sigcontext 164\n",
}  # fmt: skip


def test_linux_signal_trampolines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The i386 vDSO's ``sigreturn.S``, which Linux 6.1 keeps as data."""
    archive = Path("/usr/src/linux-source-6.1.tar.xz")
    if not archive.exists():
        skip_or_fail("linux-source-6.1 is not installed")
    unpack(archive, tmp_path, "--occurrence=1", "*/arch/x86/entry/vdso/vdso32/sigreturn.S")
    path = next(tmp_path.rglob("sigreturn.S"))
    for name, text in LINUX_HEADERS.items():
        header = tmp_path / "include" / name
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(text)
    diff = _decoded(
        capsys, path, "-m32", f"-I{tmp_path}/include", boundaries=6, what="Linux 6.1 sigreturn.S"
    )
    assert diff.count("+\t.cfi_signal_frame\n") == 2
