"""cfi attach: an object without CFI can be unwound through afterwards, and is else the same."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from fullframe.cfi.check import ImageChecker
from fullframe.cfi.claims import Answer
from fullframe.cfi.write.attach import attach
from fullframe.cfi.write.compare import RowMap
from fullframe.cli.main import main
from fullframe.elf.image import Image
from fullframe.errors import FullframeError, InputError
from tests.cfi_write.support import compiled, need
from tests.cfi_write.test_fix import C_SOURCE
from tests.support import skip_or_fail

#: int call_back(int (*f)(int), int x): saves registers, uses them, calls back into C.
NASM = {
    64: """bits 64
section .text
global call_back
call_back:
\tpush rbx
\tpush r12
\tsub rsp, 24
\tmov rbx, rdi
\tmov r12, 0x1234
\tmov rdi, rsi
.again:
\tcall rbx
\tadd rsp, 24
\tpop r12
\tpop rbx
\tret
""",
    32: """bits 32
section .text
global call_back
call_back:
\tpush ebx
\tpush esi
\tsub esp, 20
\tmov ebx, [esp+32]
\tmov esi, 0x1234
\tmov eax, [esp+36]
\tmov [esp], eax
.again:
\tcall ebx
\tadd esp, 20
\tpop esi
\tpop ebx
\tret
""",
}
#: Keeps a value in a callee-saved register that the assembly overwrites: it must come back.
CPP = """#include <cstdio>
#include <stdexcept>
extern "C" int call_back(int (*f)(int), int x);
extern "C" __attribute__((noinline)) int thrower(int x) {
  if (x > 2) throw std::runtime_error("through");
  return x;
}
int main() {
  register long keep asm(REGISTER) = 77;
  asm volatile("" : "+r"(keep));
  try { call_back(thrower, 5); }
  catch (std::exception &e) {
    asm volatile("" : "+r"(keep));
    std::printf("caught %s %ld\\n", e.what(), keep);
    return 0;
  }
  return 1;
}
"""


#: Walks the stack with libgcc's unwinder from the callback; counts the frames as far as main.
WALK = """#include <stdio.h>
#include <unwind.h>
int call_back(int (*f)(int), int x);
int main(void);
static int depth, found;
static _Unwind_Reason_Code visit(struct _Unwind_Context *context, void *unused) {
  depth++;
  if (_Unwind_FindEnclosingFunction((void *)_Unwind_GetIP(context)) == (void *)main) found = depth;
  return _URC_NO_REASON;
}
__attribute__((noinline)) int thrower(int x) { _Unwind_Backtrace(visit, 0); return x + found; }
int main(void) { printf("%d\\n", call_back(thrower, 5)); return 0; }
"""


def assembled(directory: Path, bits: int) -> Path:
    source, output = directory / "call_back.asm", directory / "call_back.o"
    source.write_text(NASM[bits])
    subprocess.run([need("nasm"), f"-felf{bits}", str(source), "-o", str(output)], check=True)
    return output


def linked(directory: Path, bits: int, obj: Path, text: str = CPP) -> Path:
    language = "c++" if text is CPP else "c"
    source, output = directory / f"main.{language}", directory / f"{obj.stem}.exe"
    source.write_text(text)
    register = '"r12"' if bits == 64 else '"esi"'
    run = subprocess.run(
        [need("g++" if text is CPP else "gcc"), "-w", "-O1", "-g", f"-m{bits}",
         f"-DREGISTER={register}", "-z", "noexecstack", "-x", language, str(source),
         "-x", "none", str(obj), "-o", str(output)],
        capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode:
        skip_or_fail(f"gcc -m{bits} cannot link {language} here: {run.stderr[-200:]}")
    return output


@pytest.mark.parametrize("bits", [64, 32])
def test_an_exception_comes_through(tmp_path: Path, bits: int) -> None:
    before = assembled(tmp_path, bits)
    first = subprocess.run([str(linked(tmp_path, bits, before))], capture_output=True, text=True)
    assert first.returncode == -6
    assert "terminate called" in first.stderr
    result = attach(str(before))
    assert (result.functions, result.left_out, result.remarks) == (["call_back"], [], [])
    after = tmp_path / "after.o"
    after.write_bytes(result.data)
    second = subprocess.run([str(linked(tmp_path, bits, after))], capture_output=True, text=True)
    assert (second.returncode, second.stdout) == (0, "caught through 77\n")


@pytest.mark.parametrize(("bits", "right", "wrong"), [(64, "8c03", "8c02"), (32, "8603", "8602")])
def test_wrong_rows_do_not_let_it_through(
    tmp_path: Path, bits: int, right: str, wrong: str
) -> None:
    """The test above can fail: with one saved register in the wrong slot, 77 does not come back.

    DW_CFA_offset of r12 or esi, 3 words below the CFA, becomes 2 words.
    """
    result = attach(str(assembled(tmp_path, bits)))
    assert result.data.count(bytes.fromhex(right)) == 1
    broken = tmp_path / "broken.o"
    broken.write_bytes(result.data.replace(bytes.fromhex(right), bytes.fromhex(wrong)))
    run = subprocess.run([str(linked(tmp_path, bits, broken))], capture_output=True, text=True)
    assert run.stdout != "caught through 77\n"


@pytest.mark.parametrize("bits", [64, 32])
def test_libgcc_walks_through_it(tmp_path: Path, bits: int) -> None:
    before, after = assembled(tmp_path, bits), tmp_path / "after.o"
    run = subprocess.run(
        [str(linked(tmp_path, bits, before, WALK))], capture_output=True, text=True
    )
    assert run.stdout == "5\n"  # main is not found
    after.write_bytes(attach(str(before)).data)
    run = subprocess.run([str(linked(tmp_path, bits, after, WALK))], capture_output=True, text=True)
    assert run.stdout == "8\n"  # thrower, call_back, main


@pytest.mark.parametrize("bits", [64, 32])
def test_gdb_walks_through_it(tmp_path: Path, bits: int) -> None:
    gdb = need("gdb")
    result = attach(str(assembled(tmp_path, bits)))
    after = tmp_path / "after.o"
    after.write_bytes(result.data)
    program = linked(tmp_path, bits, after, WALK)
    run = subprocess.run(
        [gdb, "-nx", "-batch", "-ex", "set startup-with-shell off", "-ex", "break thrower", "-ex",
         "run", "-ex", "backtrace", "-ex", "up", "-ex", "info frame", str(program)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if "ptrace" in run.stderr:
        skip_or_fail(f"gdb cannot run a program here: {run.stderr[-200:]}")
    assert "in call_back" in run.stdout
    assert "in main" in run.stdout
    saved = ("rbx", "r12") if bits == 64 else ("ebx", "esi")
    assert all(f"{register} at " in run.stdout for register in saved)


def test_objects_in_shared_libraries(tmp_path: Path) -> None:
    """No relocation against a preemptible symbol: those cannot be linked with -shared."""
    source, output = tmp_path / "g.s", tmp_path / "g.o"
    # No local symbol at all: GNU as drops the section symbol that nothing refers to.
    source.write_text("\t.globl f, g\nf:\tpush %rbx\n\tcall g@PLT\n\tpop %rbx\n\tret\ng:\tret\n")
    subprocess.run([need("as"), str(source), "-o", str(output)], check=True)
    before = Image.open(output)
    assert not [symbol for symbol in before.symbols if symbol.kind == "section"]
    result = attach(str(output))
    assert result.functions == ["f", "g"]
    output.write_bytes(result.data)
    after = Image.open(output)
    names = [symbol.name for symbol in before.symbols if symbol.binding == "global"]
    assert [s.name for s in after.symbols if s.binding == "global"] == names
    # The call still goes to g, whose symbol has another number now.
    (relocation,) = after.relocations.within(after.sections[1].address, after.sections[1].end)
    assert relocation.symbol is not None
    assert relocation.symbol.name == "g"
    shared = tmp_path / "libg.so"
    subprocess.run(
        [need("gcc"), "-shared", "-nostdlib", str(output), "-o", str(shared)], check=True
    )
    checker = ImageChecker(Image.open(shared))
    tallies = [result.tally for result in checker.results()]
    assert sum(tally[Answer.PROVED] for tally in tallies) >= 5
    assert all(tally[Answer.WRONG] == 0 for tally in tallies)


@pytest.mark.parametrize("flags", [("-O2",), ("-O2", "-m32"), ("-O2", "-ffunction-sections")],
                         ids=" ".join)  # fmt: skip
def test_compiler_output_without_its_cfi(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """What GCC wrote, taken away by objcopy, comes back; every other section is the same."""
    text = compiled(tmp_path, C_SOURCE, *flags)
    source, whole, bare = tmp_path / "in.s", tmp_path / "whole.o", tmp_path / "bare.o"
    source.write_text(text)
    subprocess.run([need("gcc"), *flags, "-c", str(source), "-o", str(whole)], check=True)
    subprocess.run(
        [need("objcopy"), "-R", ".eh_frame", "-R", ".rel*.eh_frame", str(whole), str(bare)],
        check=True,
    )
    result = attach(str(bare))
    assert result.left_out == []
    old, new = Image.open(bare), Image.from_bytes(result.data, "new.o")
    for section in old.sections:
        other = new.sections[section.index]
        assert (section.name, section.offset, section.size_bytes) == (
            other.name, other.offset, other.size_bytes,
        ) or section.name in (".shstrtab", ".symtab")  # fmt: skip
    data = bare.read_bytes()
    assert result.data[64 : len(data)][: old.sections[-1].offset][:64] == data[64:128]
    want, got = RowMap(Image.open(whole)), RowMap(new)
    names = {symbol.name for symbol in old.symbols if symbol.kind == "func"}
    assert len(got.fdes) == len(want.fdes) == len(names)
    assert result.boundaries > 100


def test_what_cannot_be_done_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output, new = tmp_path / "x.asm", tmp_path / "x.o", tmp_path / "new.o"
    source.write_text(
        "bits 64\nsection .text\nglobal good, lost, data\n"
        "good: push rbx\n call good\n pop rbx\n ret\n"
        "lost: mov rsp, rdi\n call good\n ret\n"
        "data: db 0x06, 0x07, 0x06\n"
    )
    subprocess.run([need("nasm"), "-felf64", str(source), "-o", str(output)], check=True)
    assert main(["cfi", "attach", str(output), "-o", str(new), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == 1
    assert told["functions"] == ["good"]
    assert {item["name"]: item["reason"] for item in told["left_out"]} == {
        "lost": "the CFA cannot be found from any register",
        "data": "control comes to bytes that are no instruction",
    }
    assert len(RowMap(Image.open(new)).fdes) == 1


class TestBadInput:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (None, "cannot be read"),
            (b"", "no"),
            (b"not an object at all, but long enough to be one, if it were" * 3, "ELF"),
        ],
    )
    def test_no_object(self, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                       content: bytes | None, expected: str) -> None:  # fmt: skip
        path, output = tmp_path / "in.o", tmp_path / "out.o"
        if content is not None:
            path.write_bytes(content)
        assert main(["cfi", "attach", str(path), "-o", str(output)]) == 3
        error = capsys.readouterr().err
        assert expected in error
        assert str(path) in error
        assert not output.exists()

    def test_a_linked_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="not a relocatable object"):
            attach("/proc/self/exe")
        del tmp_path

    def test_an_object_that_has_cfi(self, tmp_path: Path) -> None:
        text = compiled(tmp_path, "int f(void) { return 1; }", "-O2")
        (tmp_path / "a.s").write_text(text)
        subprocess.run(["gcc", "-c", "a.s", "-o", "a.o"], cwd=tmp_path, check=True)
        with pytest.raises(InputError, match="no function without call-frame information"):
            attach(str(tmp_path / "a.o"))

    def test_damaged_objects_give_errors_and_nothing_else(self, tmp_path: Path) -> None:
        good = assembled(tmp_path, 64).read_bytes()
        chance = random.Random(7)
        path = tmp_path / "damaged.o"
        for _ in range(300):
            data = bytearray(good)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            if chance.random() < 0.2:
                del data[chance.randrange(len(data)) :]
            path.write_bytes(data)
            try:
                attach(str(path))
            except FullframeError as error:
                assert str(path) in str(error)  # noqa: PT017 - some damage is harmless


#: Stays in the callback: for a sampling profiler, or (stopped) for a look from outside.
SPIN = """#include <signal.h>
int call_back(int (*f)(int), int x);
__attribute__((noinline)) int spinner(int x) {
  volatile int i;
  if (HOLD) raise(SIGSTOP);
  for (i = 0; i < 30000000; i++);
  return x + i;
}
int main(void) { return call_back(spinner, 5) == 0; }
"""


def _chains(program: Path) -> list[list[str]]:
    """Return the call chains that perf records in the callback, innermost first."""
    perf = need("perf")
    data = program.with_suffix(".perf")
    # The clock, since a virtual machine may count no cycles.
    run = subprocess.run(
        [perf, "record", "-q", "-e", "cpu-clock", "--call-graph", "dwarf", "-o", str(data),
         str(program)], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if run.returncode or not data.exists():
        skip_or_fail(f"perf cannot record here: {run.stderr[-200:]}")
    run = subprocess.run(
        [perf, "script", "-i", str(data), "-F", "ip,sym"], capture_output=True, text=True
    )
    chains = [
        [line.split()[1] for line in sample.splitlines() if len(line.split()) > 1]
        for sample in run.stdout.split("\n\n")
    ]
    return [chain for chain in chains if chain[:1] == ["spinner"]]


def test_perf_walks_through_it(tmp_path: Path) -> None:
    """`perf record --call-graph dwarf` copies the stack and unwinds it by the CFI."""
    before, after = assembled(tmp_path, 64), tmp_path / "after.o"
    text = SPIN.replace("HOLD", "0")
    chains = _chains(linked(tmp_path, 64, before, text))
    assert chains
    assert not any("main" in chain for chain in chains)
    after.write_bytes(attach(str(before)).data)
    chains = _chains(linked(tmp_path, 64, after, text))
    # Not every sample: perf copies what it is told to, and may lose some.
    through = [chain for chain in chains if chain[2:3] == ["main"]]
    assert len(through) > 0.9 * len(chains) > 0


@pytest.mark.parametrize("bits", [64, 32])
def test_elfutils_walks_through_it(tmp_path: Path, bits: int) -> None:
    """`eu-stack` unwinds a stopped process with elfutils' own unwinder."""
    stack = need("eu-stack")
    before, after = assembled(tmp_path, bits), tmp_path / "after.o"
    after.write_bytes(attach(str(before)).data)
    for obj, is_found in ((before, False), (after, True)):
        program = linked(tmp_path, bits, obj, SPIN.replace("HOLD", "1"))
        process = subprocess.Popen([str(program)])
        try:
            os.waitpid(process.pid, os.WUNTRACED)
            run = subprocess.run(
                [stack, "-p", str(process.pid)], capture_output=True, text=True, timeout=60
            )
        finally:
            process.kill()
            process.wait()
        if "spinner" not in run.stdout:
            skip_or_fail(f"eu-stack cannot look at a process here: {run.stderr[-200:]}")
        names = [line.split()[-1] for line in run.stdout.splitlines() if line.startswith("#")]
        assert ("main" in names) is is_found
        if is_found:
            where = names.index("main")
            assert names[where - 2 : where] == ["spinner", "call_back.again"]


def test_function_with_code_that_nothing_visible_leads_to(tmp_path: Path) -> None:
    """Rules that the code behind an unreadable jump contradicts are not written."""
    source, output = tmp_path / "x.asm", tmp_path / "x.o"
    source.write_text(
        "bits 64\nsection .text\nglobal good, blind\n"
        "good: push rbx\n mov rbx, rdi\n pop rbx\n ret\n"
        "blind: mov rax, [rdi]\n push rbp\n test esi, esi\n js .last\n jz .framed\n jmp rax\n"
        ".framed: sub rsp, 24\n jmp rax\n"
        ".one: push rbx\n mov rbx, rdi\n call good\n pop rbx\n pop rbp\n ret\n"
        ".last: pop rbp\n ret\n"
    )
    subprocess.run([need("nasm"), "-felf64", str(source), "-o", str(output)], check=True)
    result = attach(str(output))
    assert result.functions == ["good"]
    (left,) = result.left_out
    assert left.name == "blind"
    assert "what leads there, such as a table of jumps, is not understood" in left.reason
    rows = RowMap(Image.from_bytes(result.data, "x.o"))
    assert len(rows.fdes) == 1
    assert not any(
        checked.tally[Answer.WRONG]
        for checked in ImageChecker(Image.from_bytes(result.data, "x.o")).results()
    )
