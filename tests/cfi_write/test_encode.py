"""cfi encode: directives become data that says the same; decode takes it back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullframe.cfi.write.compare import RowMap
from fullframe.cfi.write.decode import decode_source
from fullframe.cfi.write.encode import encode_source
from fullframe.cfi.write.encode_nasm import encode_nasm
from fullframe.cli.main import main
from fullframe.elf.image import Image
from fullframe.errors import InputError
from tests.cfi_write.support import compare_sources, compiled, need, source
from tests.cfi_write.test_fix import ANNOTATED, C_SOURCE

# -- the round trip, over generated frames -------------------------------------------------------

REGISTERS = {
    64: ["rax", "rbx", "rbp", "rsp", "r12", "r15", "rip"],
    32: ["eax", "ebx", "ebp", "esp"],
}


@st.composite
def directives(draw: st.DrawFn, bits: int) -> list[str]:
    """Directives of one function; every kind there is, in any order."""
    word = bits // 8
    register = st.sampled_from([f"%{name}" for name in REGISTERS[bits]] + ["17", "40"])
    aligned = st.integers(-40, 40).map(lambda number: number * word)
    positive = st.integers(0, 5000)
    escape = st.sampled_from(
        [
            "0x0f, 3, 0x76, 0x70, 0x06", "0x10, 3, 2, 0x76, 0x08", "0x16, 6, 3, 0x77, 0x80, 0x01",
            "0x2e, 16", "0x2e, 0", "0x0f, 5, 0x77, 8, 0x31, 0x22, 0x06",
        ]
    )  # fmt: skip
    one = st.one_of(
        st.builds(".cfi_def_cfa {}, {}".format, register, positive),
        st.builds(".cfi_offset {}, {}".format, register, aligned),
        st.builds(".cfi_val_offset {}, {}".format, register, aligned),
        st.builds(".cfi_register {}, {}".format, register, register),
        st.builds(".cfi_undefined {}".format, register),
        st.builds(".cfi_same_value {}".format, register),
        st.builds(".cfi_restore {}".format, register),
        st.builds(".cfi_escape {}".format, escape),
        st.just(".cfi_remember_state"),
    )
    found = draw(st.lists(one, max_size=8))
    depth = 0
    result = []
    for item in found:
        depth += item == ".cfi_remember_state"
        result.append(item)
        if depth and draw(st.booleans()):
            result.append(".cfi_restore_state")
            depth -= 1
    return result


CODE = ["\tnop", "\t.skip 100, 0x90", "\t.skip 300, 0x90", "\tjmp f0", "\tpush $1 # one"]


@st.composite
def sources(draw: st.DrawFn) -> tuple[str, str]:
    bits = draw(st.sampled_from([64, 32]))
    lines = ["\t.text"]
    section = draw(st.sampled_from(["", ".cfi_sections .debug_frame",
                                    ".cfi_sections .eh_frame, .debug_frame"]))  # fmt: skip
    if section:
        lines.append(f"\t{section}")
    for number in range(draw(st.integers(1, 3))):
        lines += [f"\t.globl f{number}", f"f{number}:"]
        # Every kind of CIE; a simple one starts with a rule of its own.
        simple = draw(st.booleans())
        lines.append("\t.cfi_startproc simple" if simple else "\t.cfi_startproc")
        if simple:
            lines.append("\t.cfi_def_cfa 5, 16")
        if draw(st.booleans()):
            lines.append("\t.cfi_signal_frame")
        for item in draw(directives(bits)):
            if draw(st.booleans()):
                lines.append(draw(st.sampled_from(CODE)))
            lines.append(f"\t{item}")
        lines += ["\tret", "\t.cfi_endproc"]
    return "\n".join(lines) + "\n", "-m32" if bits == 32 else "-m64"


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sources())
def test_encode_and_decode_keep_every_row(generated: tuple[str, str]) -> None:
    text, flag = generated
    original = source(text, flag)
    encoded = encode_source(original)
    assert encoded.refused == []
    assert encoded.differences == []
    assert encoded.boundaries_compared > 0
    assert ".cfi_" not in encoded.new_text.replace("/* .cfi_", "")
    decoded = decode_source(source(encoded.new_text, flag))
    assert decoded.refused == []
    assert decoded.differences == []
    compared, differences = compare_sources(original, source(decoded.new_text, flag))
    assert compared > 0
    assert differences == []
    again = encode_source(source(decoded.new_text, flag))
    assert (again.refused, again.differences) == ([], [])


@pytest.mark.parametrize("first", ["", "\t.cfi_remember_state\n"], ids=["into the CIE", "kept"])
def test_rules_before_the_first_instruction(first: str) -> None:
    """GNU as moves them into the CIE, and a later restore goes back to them; LLVM does neither."""
    text = (
        "\t.text\nf:\n\t.cfi_startproc\n"
        f"{first}\t.cfi_offset %rbx, -16\n\tnop\n\t.cfi_restore %rbx\n\tnop\n"
        "\t.cfi_register %rbx, %rax\n\tnop\n\t.cfi_restore %rbx\n\tret\n\t.cfi_endproc\n"
    )
    encoded = encode_source(source(text, "-m64"))
    assert (encoded.refused, encoded.differences) == ([], [])
    decoded = decode_source(source(encoded.new_text, "-m64"))
    assert (decoded.refused, decoded.differences) == ([], [])
    # What is written means one thing to every assembler.
    assert ".cfi_restore" not in decoded.new_text


# -- compilers' output and other assemblers ------------------------------------------------------


@pytest.mark.parametrize("flags", [("-O2",), ("-O2", "-m32")], ids=" ".join)
def test_compiler_output(tmp_path: Path, flags: tuple[str, ...]) -> None:
    text = compiled(tmp_path, C_SOURCE, *flags)
    result = encode_source(source(text, *flags[1:], name="input.s"))
    assert (result.refused, result.differences) == ([], [])
    assert result.boundaries_compared > 150


def test_exceptions_of_cpp_keep_their_personality(tmp_path: Path) -> None:
    text = compiled(
        tmp_path, "void g(); int f() { try { g(); } catch (int x) { return x; } return 0; }",
        "-O2", language="cc",
    )  # fmt: skip
    result = encode_source(source(text, name="input.s"))
    assert (result.refused, result.differences) == ([], [])
    assert "DW.ref.__gxx_personality_v0 - ." in result.new_text


def test_llvm_assembles_the_data(tmp_path: Path) -> None:
    llvm_mc = need("llvm-mc")
    result = encode_source(source(ANNOTATED))
    path, output = tmp_path / "a.s", tmp_path / "a.o"
    path.write_text(result.new_text)
    subprocess.run(
        [llvm_mc, "-filetype=obj", "-triple=x86_64-linux-gnu", str(path), "-o", str(output)],
        check=True,
    )
    want, got = RowMap(source(ANNOTATED).assemble().image), RowMap(Image.open(output))
    (old,), (new,) = want.fdes, got.fdes
    assert [row[1:] for row in old.relative_rows()] == [row[1:] for row in new.relative_rows()]


def test_statements_that_share_a_line() -> None:
    text = "\t.globl f\nf:\t.cfi_startproc; push %rbx; .cfi_def_cfa_offset 16 # both\n"
    text += "\tpop %rbx; .cfi_def_cfa_offset 8\n\tret\n\t.cfi_endproc\n"
    result = encode_source(source(text))
    assert (result.refused, result.differences) == ([], [])
    assert result.boundaries_compared == 3


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("#define P push %rbx; .cfi_def_cfa_offset 16\nf: .cfi_startproc\n P\n.cfi_endproc\n", 3,
         "written by a macro"),
        (".macro P\npush %rbx\n.cfi_undefined %rbx\n.endm\nf:\n.cfi_startproc\nP\n.cfi_endproc\n",
         3, "stays in a macro"),
        ("f:\n.cfi_startproc\nnop\n.cfi_endproc\n#ifdef X\n.cfi_startproc\n#endif\n", 8,
         "a branch that these flags do not assemble"),
    ],
)  # fmt: skip
def test_refusals_name_the_line(text: str, line: int, expected: str) -> None:
    result = encode_source(source(text))
    assert not result.changed
    messages = [(item.line, item.message) for item in result.refused]
    assert any(expected in message for _, message in messages), messages
    assert any(number is not None and number <= line for number, _ in messages), messages


# -- NASM ----------------------------------------------------------------------------------------

NASM = """; a helper
bits 64
section .text
extern g
global f
f:
\t.cfi_startproc
\tpush rbx
\t.cfi_adjust_cfa_offset 8
\t.cfi_rel_offset rbx, 0\t; saved
.again:
\tcall g
\ttest eax, eax
\tjz .again
\tjs .out
\t.cfi_remember_state
\tpop rbx
\t.cfi_def_cfa_offset 8
\t.cfi_restore rbx
\tret
.out:
\t.cfi_restore_state
\tadd rsp, 8
\t.cfi_def_cfa_offset 8
\tjmp g
\t.cfi_endproc
"""


@pytest.mark.parametrize("assembler", ["nasm", "yasm"])
def test_nasm_and_yasm_give_the_rows(tmp_path: Path, assembler: str) -> None:
    need("nasm")
    tool = need(assembler)
    result = encode_nasm("f.asm", NASM)
    assert (result.refused, result.differences) == ([], [])
    assert result.boundaries_compared == 9
    path, output = tmp_path / "f.asm", tmp_path / "f.o"
    path.write_text(result.new_text)
    subprocess.run([tool, "-felf64", str(path), "-o", str(output)], check=True)
    (fde,) = RowMap(Image.open(output)).fdes
    gnu = """\t.globl f\nf:\t.cfi_startproc\n\tpush %rbx\n\t.cfi_def_cfa_offset 16
\t.cfi_offset %rbx, -16\n1:\tcall g\n\ttest %eax, %eax\n\tjz 1b\n\tjs 2f\n\t.cfi_remember_state
\tpop %rbx\n\t.cfi_def_cfa_offset 8\n\t.cfi_restore %rbx\n\tret\n2:\t.cfi_restore_state
\tadd $8, %rsp\n\t.cfi_def_cfa_offset 8\n\tjmp g\n\t.cfi_endproc\n"""
    (want,) = RowMap(source(gnu).assemble().image).fdes
    # NASM spells every instruction here in as many bytes as GNU as does.
    assert fde.end - fde.begin == want.end - want.begin
    for offset in range(fde.end - fde.begin):
        mine, theirs = fde.row_at(fde.begin + offset), want.row_at(want.begin + offset)
        assert mine is not None
        assert theirs is not None
        assert mine[1:] == theirs[1:]


def test_nasm_32_bits_with_local_labels() -> None:
    need("nasm")
    text = NASM.replace("bits 64", "bits 32").replace("rbx", "ebx").replace("rsp", "esp")
    text = text.replace("adjust_cfa_offset 8", "adjust_cfa_offset 4").replace(
        "add esp, 8", "add esp, 4"
    )
    text = text.replace("cfa_offset 8", "cfa_offset 4")
    result = encode_nasm("f.asm", text, ["-felf32"])
    assert (result.refused, result.differences) == ([], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f: ret\n", "no CFI directives"),
        ("f:\n.cfi_startproc\nret\n", "f.asm:2: a .cfi_startproc without .cfi_endproc"),
        ("f:\n.cfi_def_cfa_offset 8\nret\n", "f.asm:2: .cfi_def_cfa_offset out of place"),
        ("f:\n.cfi_startproc\n.cfi_startproc\n", "f.asm:3: .cfi_startproc out of place"),
        ("f:\n.cfi_startproc\npush nothing\n.cfi_endproc\n", "NASM refuses the outcome"),
    ],
)
def test_bad_nasm(text: str, expected: str) -> None:
    need("nasm")
    with pytest.raises(InputError) as caught:
        encode_nasm("f.asm", text)
    assert expected in str(caught.value)


def test_nasm_operands_that_cannot_be_computed_are_refused() -> None:
    result = encode_nasm(
        "f.asm", "f:\n.cfi_startproc\nnop\n.cfi_def_cfa_offset SIZE\n.cfi_endproc\n"
    )
    assert not result.changed
    assert result.refused[0].line == 4


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("nasm")
    path = tmp_path / "f.asm"
    path.write_text(NASM)
    assert main(["cfi", "encode", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["changed"], told["differences"], told["boundaries_compared"]) == (True, [], 9)
    assert main(["cfi", "encode", str(path), "--in-place"]) == 0
    assert "section .eh_frame" in path.read_text()
    again = path.read_text()
    assert main(["cfi", "encode", str(path), "--in-place"]) == 3
    assert path.read_text() == again
    path = tmp_path / "k.S"
    path.write_text(ANNOTATED)
    assert main(["cfi", "encode", str(path), "-o", str(tmp_path / "out.S")]) == 0
    assert path.read_text() == ANNOTATED
    assert ".section\t.eh_frame" in (tmp_path / "out.S").read_text()
