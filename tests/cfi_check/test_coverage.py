"""What no FDE covers is said: it is not checked, whatever the share of what is proved."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from fullframe.cfi.check import check_image
from fullframe.cfi.coverage import MOST_NAMED
from fullframe.cfi.files import check_file
from fullframe.cfi.findings import Coverage, FileReport, Uncovered
from fullframe.cli.main import main
from fullframe.elf.image import Image
from fullframe.errors import EXIT_OK
from fullframe.toolchain.find import find_toolchain
from tests.cfi_check.small import RIGHT, assemble
from tests.elf.writer import SHF_ALLOC, ElfWriter

_RIGHT_BYTES = 7


def _bare(name: str, body: str = "movl %edi, %eax\n\tret", kind: str = "function") -> str:
    return f"\t.type {name}, @{kind}\n{name}:\n\t{body}\n\t.size {name}, .-{name}\n"


def _coverage(text: str, tmp_path: Path, bits: int = 64) -> Coverage:
    report = check_file(str(assemble(text, tmp_path / "x.o", bits=bits)))
    assert report.error is None
    assert not report.findings
    return report.coverage


def test_all_is_covered(tmp_path: Path) -> None:
    assert _coverage(RIGHT, tmp_path) == Coverage(covered_bytes=_RIGHT_BYTES)


def test_functions_without_cfi(tmp_path: Path) -> None:
    found = _coverage(RIGHT + "\t.text\n" + _bare("one") + _bare("two"), tmp_path)
    assert found == Coverage(
        _RIGHT_BYTES, 6, 2, (Uncovered("one", ".text+0x7"), Uncovered("two", ".text+0xa"))
    )


@pytest.mark.parametrize("fill", [".p2align 6", ".balign 64, 0xcc", ".balign 64, 0", ".skip 200"])
@pytest.mark.parametrize("bits", [64, 32])
def test_filler_is_not_counted(fill: str, bits: int, tmp_path: Path) -> None:
    again = RIGHT.replace("right", "again") if bits == 64 else _bare("again")
    first = RIGHT if bits == 64 else _bare("right")
    text = f"\t.text\n{first}\t.text\n\t{fill}\n{again}\t.text\n\t{fill}\n{_bare('bare')}"
    text += f"\t{fill}\n{_bare('last')}\t{fill}\n"
    if bits == 32:
        text = text.replace("%edi", "%edx")
    found = _coverage(text, tmp_path, bits)
    # Of long i386 filler the jump over it and the last nop, of one byte, stay: 3 bytes a gap.
    left = 0 if bits == 64 else 3 * 4
    assert 0 <= found.uncovered_bytes - (6 if bits == 64 else 12) <= left
    assert found.uncovered_functions == (2 if bits == 64 else 4)


def test_data_among_the_code_is_no_function(tmp_path: Path) -> None:
    table = _bare("table", "\n\t".join([".long 0x12345678, 0x9abcdef0"] * 16), "object")
    found = _coverage(RIGHT + "\t.text\n" + table + "label:\n\t.long 0x12345678\n", tmp_path)
    assert (found.uncovered_bytes, found.uncovered_functions) == (132, 0)


_CALLER = """\
\t.text
\t.globl caller
\t.type caller, @function
caller:
\t.cfi_startproc
\tcall .Lhelper
\tmovl $0xe8, %eax
\tcall .Linner
\tret
\t.cfi_endproc
\t.size caller, .-caller
.Lhelper:
\txorl %eax, %eax
\tret
\t.type known, @function
known:
\tnop
.Linner:
\tret
\t.size known, .-known
"""


def test_what_is_called_is_a_function(tmp_path: Path) -> None:
    """Stripped files have no symbols of their own functions; calls tell some."""
    found = _coverage(_CALLER, tmp_path)
    assert [one.place for one in found.functions] == [".text+0x10", ".text+0x13"]
    assert found.uncovered_functions == 2


def test_stubs_are_not_counted(tmp_path: Path) -> None:
    def described(name: str) -> Coverage:
        elf = ElfWriter(file_type=3)
        elf.text(b"\xff\x25\x00\x00\x00\x00\x66\x90" * 8, name=name, address=0x1000)
        elf.section(".eh_frame", bytes(4), flags=SHF_ALLOC, address=0x2000)
        return check_image(Image.from_bytes(elf.build(), "sample")).coverage

    assert described(".plt.sec") == Coverage()
    assert described(".text").uncovered_bytes == 48


def test_an_image_without_sections(tmp_path: Path) -> None:
    """A segment holds headers and data, too: only what stands between functions counts."""
    linked = tmp_path / "x.so"
    text = RIGHT + "\t.text\n" + _bare("bare") + RIGHT.replace("right", "again")
    flags = ["--eh-frame-hdr", "-z", "noseparate-code"]
    find_toolchain().link([assemble(text, tmp_path / "x.o")], linked, flags=flags, shared=True)
    whole = check_file(str(linked)).coverage
    data = bytearray(linked.read_bytes())
    struct.pack_into("<Q", data, 40, 0)
    data[58:64] = bytes(6)
    bare = check_image(Image.from_bytes(bytes(data), "bare")).coverage
    assert whole.covered_bytes == bare.covered_bytes == 2 * _RIGHT_BYTES
    assert whole.uncovered_bytes == bare.uncovered_bytes == 3


def test_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not a finding: assembly without CFI may be meant so. But no reader takes it for checked."""
    path = assemble(
        RIGHT + "\t.text\n" + "".join(_bare(f"f{number}") for number in range(30)),
        tmp_path / "x.o",
    )
    assert main(["cfi", "check", str(path)]) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].endswith("100.000")
    assert lines[-1].strip() == (
        "92.8 % of its code has no call-frame information and is not checked: "
        "90 bytes, 30 functions"
    )
    assert main(["cfi", "check", "--verbose", str(path)]) == EXIT_OK
    verbose = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in verbose if " at .text+" in line]
    assert listed == [f"f{number}" for number in range(MOST_NAMED)]
    assert "and 10 more" in verbose[-1]
    assert main(["cfi", "check", "--json", str(path)]) == EXIT_OK
    (told,) = json.loads(capsys.readouterr().out)["files"]
    assert (told["covered_bytes"], told["uncovered_bytes"]) == (_RIGHT_BYTES, 90)
    assert told["uncovered_functions"] == 30


def test_start_files_are_nothing_to_tell() -> None:
    """Every program that GCC links has a few functions without CFI."""
    assert not FileReport("x", coverage=Coverage(1 << 20, 200, 6)).is_partly_uncovered
    assert FileReport("x", coverage=Coverage(1 << 20, 2000, 6)).is_partly_uncovered
    assert FileReport("x.o", coverage=Coverage(100, 3, 1), is_linked=False).is_partly_uncovered
    assert not FileReport("x.o", coverage=Coverage(100), is_linked=False).is_partly_uncovered
