"""cfi fix: what the compiler wrote comes back; what is wrong is mended; what is right stays."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from fullframe.cfi.check import ImageChecker
from fullframe.cfi.claims import Answer
from fullframe.cfi.write import synthesize
from fullframe.cfi.write.fix import fix_source
from fullframe.cli.main import main
from tests.cfi_write.support import compare_sources, compiled, need, source, stripped
from tests.support import skip_or_fail

C_SOURCE = """
#include <stddef.h>
extern void *alloca(size_t); extern int sprintf(char *, const char *, ...);
extern size_t strlen(const char *); extern void abort(void);
extern void die(const char *) __attribute__((noreturn));
int variable(int n) { char *p = __builtin_alloca(n); sprintf(p, "%d", n); return strlen(p); }
int table(int a, int b) {
  if (a < 0) die("x");
  for (int i = 0; i < b; i++) a += variable(i) * variable(a);
  switch (a) {
    case 1: return variable(3); case 2: return variable(5) + 1; case 3: return variable(8) + 2;
    case 4: return variable(9) + 3; case 5: return variable(10) * 2; case 6: abort();
  }
  return a * variable(b);
}
typedef float v8 __attribute__((vector_size(32)));
extern void use(v8 *);
int aligned(int x) { v8 v = {x}; use(&v); return v[0]; }
int leaf(int a, int b) { return a * b + 1; }
int many(int a, int b, int c, int d, int e, int f, int g, int h) {
  return variable(a) + variable(b) + variable(c) + table(d, e) + table(f, g) + h; }
int early(int *p) { if (!p) return 0; int s = 0; for (int i = 0; i < 9; i++) s += variable(p[i]);
  return s; }
"""


def assert_no_wrong(text: str, *flags: str, name: str = "test.S") -> None:
    for result in ImageChecker(source(text, *flags, name=name).assemble().image).results():
        assert result.tally[Answer.WRONG] == 0, result.fde


FLAGS = [
    ("-O2",), ("-O0",), ("-Os",), ("-O2", "-fno-omit-frame-pointer"),
    ("-O2", "-m32", "-fno-pic"), ("-O2", "-m32", "-fPIC"), ("-O1", "-mavx"),
]  # fmt: skip


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_the_compilers_rows_come_back(tmp_path: Path, flags: tuple[str, ...]) -> None:
    text = compiled(tmp_path, C_SOURCE, *flags)
    machine = tuple(flag for flag in flags if flag == "-m32")
    original = source(text, *machine, name="input.s")
    result = fix_source(original.with_text(stripped(text)))
    assert result.functions_done == result.functions >= 6
    assert not result.differences
    compared, differences = compare_sources(original, original.with_text(result.new_text))
    assert compared > 100
    assert all(difference.second is not None for difference in differences)
    # GCC says of a push only where a frame pointer stands what it has pushed so far, one or two
    # instructions late, and describes the frame of a realigned stack by the register
    # that it went through while that lives, where we take the slot it was saved in.
    # Both rows are true there (the check below), and at no more than 6 % of the boundaries.
    assert len(differences) <= compared * 0.06
    assert_no_wrong(result.new_text, *machine, name="input.s")


@pytest.mark.parametrize("flags", [("-O2", "-fno-pic"), ("-O2", "-fPIC"), ("-Os",)], ids=" ".join)
def test_callees_that_take_a_word_off_the_stack(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """i386: who returns a structure takes its address off; only the returns tell."""
    text = compiled(
        tmp_path,
        "struct s { int a, b, c; }; extern struct s get(int); extern int use(int);"
        "int f(int x) { struct s v = get(x); if (v.a) v = get(v.b); use(v.c);"
        " return v.a + use(v.b); }",
        "-m32", *flags,
    )  # fmt: skip
    original = source(text, "-m32", name="input.s")
    result = fix_source(original.with_text(stripped(text)))
    assert result.refused == []
    _, differences = compare_sources(original, original.with_text(result.new_text))
    assert all(item.first is not None and item.second is not None
               and item.first.cfa == item.second.cfa for item in differences)  # fmt: skip


def _musl() -> tuple[Path, list[str]]:
    try:
        import ziglang
    except ImportError:
        skip_or_fail("the Python package ziglang, which carries musl's sources, is not installed")
    libc = Path(str(ziglang.__file__)).parent / "lib/libc"
    musl = libc / "musl"
    directories = (
        musl / "arch/x86_64", musl / "arch/generic", musl / "src/include", musl / "src/internal",
        libc / "include/x86_64-linux-musl", libc / "include/generic-musl", musl / "include",
    )  # fmt: skip
    return musl, [f"-I{directory}" for directory in directories]


def test_a_libcs_rows_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    musl, include = _musl()
    need("gcc")
    # One unit of forty sources is assembled once, not forty times.
    files = sorted(musl.glob("src/string/*.c")) + sorted(musl.glob("src/stdlib/*.c"))
    files += sorted(musl.glob("src/stdio/f*.c"))
    random.Random(3).shuffle(files)
    functions = done = compared = different = 0
    for file in files[:30]:
        text = compiled(
            tmp_path, file.read_text(), "-O2", "-std=c99", "-nostdinc", "-D_XOPEN_SOURCE=700",
            f"-I{file.parent}", *include,
        )  # fmt: skip
        original = source(text, name="input.s")
        result = fix_source(original.with_text(stripped(text)))
        functions += result.functions
        done += result.functions_done
        count, differences = compare_sources(original, original.with_text(result.new_text))
        compared += count
        different += len(differences)
    with capsys.disabled():
        print(f"\nfix: {done} of {functions} functions of musl reached, {compared} boundaries "
              f"compared with gcc, {different} different")  # fmt: skip
    assert done >= 0.99 * functions
    assert different <= 0.002 * compared


def test_a_libcs_own_assembly(capsys: pytest.CaptureFixture[str]) -> None:
    """Hand-written assembly without any CFI: memcpy, setjmp, clone, cancellation points."""
    musl, _ = _musl()
    functions = done = 0
    refused = []
    for file in sorted(musl.glob("src/*/x86_64/*.[sS]")):
        original = source(file.read_text(), name=str(file))
        result = fix_source(original)
        functions += result.functions
        done += result.functions_done
        refused += [f"{file.name}: {item.message}" for item in result.refused]
        assert not result.differences
        assert_no_wrong(result.new_text, name=str(file))
    with capsys.disabled():
        print(f"\nfix: {done} of {functions} functions of musl's x86-64 assembly; {refused}")
    assert functions > 20
    # longjmp leaves its caller's stack for another: no CFA can be named.
    assert all(item.startswith("longjmp.s") for item in refused)


HAND_WRITTEN = """\t.text
\t.globl f
\t.type f, @function
f:
\tpush %rbp\t\t# the frame
\tmov %rsp, %rbp
\tpush %r13
\tcall g
\ttest %eax, %eax
\tjz 1f
\tpop %r13
\tpop %rbp
\tret
1:\tcall h
\t.byte 0x41, 0x5d   /* pop %r13, for an old assembler */
\tleave
\tret
\t.size f, .-f
"""


def test_hand_written_code_reads_as_if_annotated_by_hand() -> None:
    result = fix_source(source(HAND_WRITTEN))
    assert result.refused == []
    assert result.diff.splitlines()[2:] == [
        "@@ -2,17 +2,26 @@",
        " \t.globl f",
        " \t.type f, @function",
        " f:",
        "+\t.cfi_startproc",
        " \tpush %rbp\t\t# the frame",
        "+\t.cfi_def_cfa_offset 16",
        "+\t.cfi_offset %rbp, -16",
        " \tmov %rsp, %rbp",
        "+\t.cfi_def_cfa_register %rbp",
        " \tpush %r13",
        "+\t.cfi_offset %r13, -24",
        " \tcall g",
        " \ttest %eax, %eax",
        " \tjz 1f",
        " \tpop %r13",
        " \tpop %rbp",
        "+\t.cfi_def_cfa %rsp, 8",
        " \tret",
        "+\t.cfi_def_cfa %rbp, 16",
        " 1:\tcall h",
        " \t.byte 0x41, 0x5d   /* pop %r13, for an old assembler */",
        " \tleave",
        "+\t.cfi_def_cfa %rsp, 8",
        " \tret",
        "+\t.cfi_endproc",
        " \t.size f, .-f",
    ]


ANNOTATED = """\t.text
\t.globl k
k:
\t.cfi_startproc
\tpush %rbx
\t.cfi_adjust_cfa_offset 8   # keep this
\t.cfi_rel_offset %rbx, 0
\tmov %rdi, %rbx
\tsub $32, %rsp
\t.cfi_adjust_cfa_offset 32
\ttest %edi, %edi
\tjz 2f
\tcall g
\tadd $32, %rsp
\t.cfi_remember_state
\t.cfi_adjust_cfa_offset -32
\tpop %rbx
\t.cfi_adjust_cfa_offset -8
\t.cfi_restore %rbx
\tret
2:
\t.cfi_restore_state
\tcall h
\tadd $32, %rsp
\t.cfi_adjust_cfa_offset -32
\tpop %rbx
\t.cfi_adjust_cfa_offset -8
\t.cfi_restore %rbx
\tret
\t.cfi_endproc
"""


@pytest.mark.parametrize(("caller", "functions"), [("", 1), ("g:\tcall\tinside\n\tret\n", 3)])
def test_a_global_label_within_a_function_is_none(caller: str, functions: int) -> None:
    """It has the function's frame; only what is called is entered without one."""
    text = """\
\t.globl\tf, inside
\t.type\tf, @function
f:
\tpushq\t%rbx
\tmovq\t%rdi, %rbx
inside:
\tpopq\t%rbx
\tret
\t.size\tf, . - f
"""
    text += "\t.globl g\n" + caller if caller else ""
    result = fix_source(source(text))
    assert result.functions == functions
    if not caller:
        assert result.new_text.count(".cfi_startproc") == 1
        assert "\tpopq\t%rbx\n\t.cfi_def_cfa_offset 8\n" in result.new_text


def test_what_is_right_stays() -> None:
    result = fix_source(source(ANNOTATED))
    assert not result.changed
    assert result.functions_done == result.functions == 1


#: What people get wrong (see the catalogue of the field's mistakes), as edits of ANNOTATED.
MUTATIONS = {
    "a push without adjust": ("\t.cfi_adjust_cfa_offset 8   # keep this\n", ""),
    "a save without offset": ("\t.cfi_rel_offset %rbx, 0\n", ""),
    "a wrong amount": ("\t.cfi_adjust_cfa_offset 32\n", "\t.cfi_adjust_cfa_offset 24\n"),
    "the wrong sign": (".cfi_rel_offset %rbx, 0", ".cfi_offset %rbx, 16"),
    "the wrong register": (".cfi_rel_offset %rbx, 0", ".cfi_rel_offset %rbp, 0"),
    "no remember, no restore": ("\t.cfi_remember_state\n", ""),
    "a pop without adjust": ("\tpop %rbx\n\t.cfi_adjust_cfa_offset -8\n", "\tpop %rbx\n"),
    "a CFA register left behind": (
        "sub $32, %rsp\n", "sub $32, %rsp\n\t.cfi_def_cfa_register %rbx\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_wrong_is_mended(name: str) -> None:
    old, new = MUTATIONS[name]
    assert old in ANNOTATED
    broken = ANNOTATED.replace(old, new, 1)
    if name.startswith("no remember"):
        broken = broken.replace("\t.cfi_restore_state\n", "", 1)
    result = fix_source(source(broken))
    assert result.refused == []
    assert result.changed
    assert result.boundaries_compared == 13
    _, differences = compare_sources(source(ANNOTATED), source(result.new_text))
    # The epilogue may keep the rule of a register that was popped: it is true there as well.
    assert all(item.first is not None and item.second is not None
               and item.first.cfa == item.second.cfa for item in differences)  # fmt: skip
    assert_no_wrong(result.new_text)
    assert not fix_source(source(result.new_text)).changed


def test_a_macro_that_hides_instructions_is_reported() -> None:
    text = (
        "#define SAVE push %rbx; push %r12\nk:\n\tSAVE\n\tcall g\n\tpop %r12\n\tpop %rbx\n\tret\n"
    )
    result = fix_source(source(f"\t.globl k\n{text}"))
    (refused,) = result.refused
    assert refused.line == 4
    assert "expands to several instructions" in refused.message
    assert "\t.cfi_def_cfa_offset 24\n" in result.new_text


def test_statements_that_share_a_line_are_split() -> None:
    text = "\t.globl k\nk:\tpush %rbx; push %r12 # both\n\tcall g\n\tpop %r12; pop %rbx\n\tret\n"
    result = fix_source(source(text))
    assert result.refused == []
    assert result.old_text == text
    assert result.new_text.split("\n")[1:9] == [
        "k:", "\t.cfi_startproc", "\tpush %rbx", "\t.cfi_def_cfa_offset 16",
        "\t.cfi_offset %rbx, -16", "\tpush %r12 # both", "\t.cfi_def_cfa_offset 24",
        "\t.cfi_offset %r12, -24",
    ]  # fmt: skip
    assert_no_wrong(result.new_text)


def test_code_of_an_included_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "body.h").write_text("\tpush %rbx\n\tcall g\n\tpop %rbx\n\tret\n")
    path = tmp_path / "main.S"
    path.write_text('\t.globl f\nf:\n#include "body.h"\n')
    result = fix_source(source(path.read_text(), name=str(path)))
    assert not result.changed
    assert "included file" in result.refused[0].message
    assert "body.h:1" in result.refused[0].message


@pytest.mark.parametrize(
    ("flag", "code"),
    [
        ("-m64", "\tmov $15, %rax\n\tsyscall\n"),
        ("-m32", "\tpop %eax\n\tmov $119, %eax\n\tint $0x80\n"),
        ("-m32", "\tmov $173, %eax\n\tint $0x80\n"),
    ],
)
def test_signal_trampolines_get_the_signal_frame(flag: str, code: str) -> None:
    text = f"\t.text\n\tret\n\tnop\n\t.globl restore\nrestore:\n{code}"
    result = fix_source(source(text, flag))
    assert result.refused == []
    assert "\tret\n\t.cfi_startproc\n\t.cfi_signal_frame\n\t.cfi_escape 0x0f" in result.new_text
    image = source(result.new_text, flag).assemble().image
    (checked,) = ImageChecker(image).results()
    assert not checked.has_findings
    assert checked.tally[Answer.PROVED] == checked.boundaries
    without = fix_source(source(text.replace("\tnop\n", ""), flag))
    assert "needs a nop of its own" in without.refused[0].message


def test_intel_syntax_and_crlf() -> None:
    text = ".intel_syntax noprefix\n.globl f\nf:\n  push rbx\n  call g\n  pop rbx\n  ret\n"
    result = fix_source(source(text.replace("\n", "\r\n"), name="test.s"))
    assert "  .cfi_offset rbx, -16\r\n" in result.new_text
    assert result.new_text.replace("\r\n", "").count("\n") == 0


class TestCommand:
    def test_check_and_in_place(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        need("gcc")
        path = tmp_path / "f.S"
        path.write_text(HAND_WRITTEN)
        assert main(["cfi", "fix", str(path), "--check", "--", "-Wall"]) == 1
        assert path.read_text() == HAND_WRITTEN
        assert main(["cfi", "fix", str(path), "--in-place"]) == 0
        assert ".cfi_startproc" in path.read_text()
        capsys.readouterr()
        assert main(["cfi", "fix", str(path), "--check"]) == 0
        assert capsys.readouterr().out == ""

    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        need("gcc")
        path = tmp_path / "f.S"
        path.write_text(HAND_WRITTEN)
        assert main(["cfi", "fix", str(path), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["schema"] == 1
        assert (told["path"], told["changed"]) == (str(path), True)
        assert told["boundaries_compared"] == 13
        assert told["differences"] == told["refused"] == []
        assert told["diff"].startswith("--- a/")

    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("a.S", b"\tpush %rbx, %rcx\n", "the assembler refuses it"),
            ("a.S", b"#include <no/such/file.h>\n", "the assembler refuses it"),
            ("a.S", b"\x7fELF\0\0", "a binary file"),
            ("a.c", b"int x;\n", "does not end in .S"),
            ("a.S", None, "cannot be read"),
        ],
    )
    def test_bad_input(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str,
                       content: bytes | None, expected: str) -> None:  # fmt: skip
        need("gcc")
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        assert main(["cfi", "fix", str(path), "--in-place"]) == 3
        error = capsys.readouterr().err
        assert expected in error
        assert str(path) in error
        if content is not None:
            assert path.read_bytes() == content
        assert [entry.name for entry in tmp_path.iterdir()] == ([name] if content else [])

    def test_in_place_leaves_the_file_when_something_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        need("gcc")
        macro = ".globl k\n.macro SAVE\npush %rbx; push %r12\n\n.endm\n"
        text = macro + "k:\n SAVE\n call g\n pop %r12\n pop %rbx\n ret\n"
        path = tmp_path / "m.S"
        path.write_text(text)
        assert main(["cfi", "fix", str(path), "--in-place"]) == 1
        assert path.read_text() == text
        assert f"{path}:7:" in capsys.readouterr().err


#: Two functions under one ``.cfi_startproc``. The rows are true at the second's call, and wrong at
#: its begin; the first's row at its ``ret`` is wrong too.
SHARED = """\
\t.text
\t.globl f1, user
f1:\t.cfi_startproc
\tsub $72, %rsp
\t.cfi_def_cfa_offset 80
\tcall ext
\tadd $72, %rsp
\tret
{names}
f2:\tsub $72, %rsp
\tcall ext
\tadd $72, %rsp
\t.cfi_def_cfa_offset 8
\tret
\t.cfi_endproc
user:{caller}
\tsub $8, %rsp
\tcall f2
\tadd $8, %rsp
\tret
\t.size user, .-user
"""
_GLOBAL = "\t.globl f2\n\t.type f2, @function"


@pytest.mark.parametrize("names", ["", _GLOBAL], ids=["local", "global"])
@pytest.mark.parametrize("kind", ["", "\n\t.type user, @function"], ids=["label", "function"])
def test_functions_that_share_a_procedure(names: str, kind: str) -> None:
    """Each begins with the frame of an entry, and what is true behind that stays."""
    result = fix_source(source(SHARED.format(names=names, caller=kind)))
    assert result.refused == []
    assert (result.functions, result.functions_done) == (2, 2)
    lines = [line.strip() for line in result.new_text.splitlines()]
    assert lines[lines.index("f2:\tsub $72, %rsp") + 1] == ".cfi_def_cfa_offset 80"
    assert ".cfi_def_cfa_offset 8" in lines[: lines.index("f2:\tsub $72, %rsp")]
    assert_no_wrong(result.new_text)
    assert not fix_source(source(result.new_text)).changed


def test_an_entry_that_control_also_falls_into() -> None:
    """No rule is true of both: the function is refused, at the entry."""
    text = SHARED.format(names="", caller="").replace(
        "\tadd $72, %rsp\n\tret\n", "\txor %edi, %edi\n", 1
    )
    result = fix_source(source(text))
    (refusal,) = result.refused
    assert (result.functions, result.functions_done) == (2, 1)
    assert refusal.line == text.splitlines().index("f2:\tsub $72, %rsp") + 1
    assert "no rule is true of both" in refusal.message


def test_what_the_checker_finds_wrong_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the entry not known, the proof would still refuse what it makes of the function."""
    monkeypatch.setattr(synthesize, "with_entries", lambda _, functions: functions)
    text = SHARED.format(names="", caller="")
    result = fix_source(source(text))
    assert result.functions_done == 1
    assert [item.line for item in result.refused] == [
        text.splitlines().index("f2:\tsub $72, %rsp") + 1
    ]
    assert "the checker finds the rules here wrong" in result.refused[0].message
    assert result.new_text.count(".cfi_def_cfa_offset 80") == 1


def test_a_local_function_without_a_symbol() -> None:
    """Assemblers drop ``.L`` labels; the call that leads there tells of the function."""
    text = """\
\t.globl pub
\t.type pub, @function
pub:\tsub $8, %rsp
\tcall .Lh
\tadd $8, %rsp
\tret
\t.size pub, .-pub
\t.type .Lh, @function
.Lh:\tpush %rbx
\tcall .Ldeeper
\tpop %rbx
\tret
\t.size .Lh, .-.Lh
.Ldeeper:
\tpush %rbx
\tpop %rbx
\tret
"""
    result = fix_source(source(text))
    assert (result.functions, result.functions_done, result.refused) == (2, 2, [])
    assert "\t.cfi_startproc\n.Lh:\tpush %rbx\n" in result.new_text
    assert_no_wrong(result.new_text)
    annotated = text.replace("pub:", "pub:\t.cfi_startproc\n").replace(
        "\t.size pub, .-pub\n", "\t.cfi_endproc\n"
    )
    result = fix_source(source(annotated))
    assert result.new_text.count(".cfi_startproc") == 2


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "f:\t.cfi_startproc\n\tcall ext\n\t.cfi_endproc\n\tcall ext\n\tret\n",
            5,
            "f: .cfi_endproc stands before the end of the function: control goes on to .text+0x5; "
            "move it behind the last instruction, and run `cfi fix` again",
        ),
        (
            "f:\tpush %rbx\n\t.cfi_startproc\n\tpop %rbx\n\tret\n\t.cfi_endproc\n",
            4,
            "f: .cfi_startproc stands behind instructions of the function; move it before the "
            "first, and run `cfi fix` again",
        ),
    ],
)
def test_a_procedure_of_a_part_of_a_function_is_refused(text: str, line: int, message: str) -> None:
    text = "\t.text\n\t.globl f\n\t.type f, @function\n" + text + "\t.size f, .-f\n"
    result = fix_source(source(text))
    assert [(item.line, item.message) for item in result.refused] == [(line, message)]
    assert (result.functions, result.functions_done, result.changed) == (1, 0, False)


def test_rows_at_calls_last_as_long_as_the_callee_runs() -> None:
    """The popped return address is below the stack pointer, where the call writes its own."""
    text = (
        "\t.text\n\t.globl f\n\t.type f, @function\nf:\n\tpush %rbx\n\tmov %rbx, %r10\n"
        "\tmov %rbx, -8(%rsp)\n\txor %ebx, %ebx\n\tcall ext\n\tpop %rbx\n\tret\n\t.size f, .-f\n"
        "\t.globl g\n\t.type g, @function\ng:\n\tpop %rdi\n\tcall *%rsi\n\thlt\n\t.size g, .-g\n"
    )
    result = fix_source(source(text))
    assert not result.refused
    assert_no_wrong(result.new_text)
    before_the_call = result.new_text[: result.new_text.index("call *%rsi")]
    assert ".cfi_undefined %rip" in before_the_call
