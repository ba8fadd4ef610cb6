"""Every row of every FDE, against readelf and llvm-dwarfdump."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.cfi import writer as w
from tests.cfi.oracles import TOOLS, differences
from tests.cfi.samples import C_SOURCE, COMPILED, LIBRARIES, compile_source, compiled, library, need
from tests.cfi.writer import FrameWriter
from tests.support import skip_or_fail

tools = pytest.mark.parametrize("tool", TOOLS)


@tools
@pytest.mark.parametrize("name", LIBRARIES)
def test_system_library(name, tool):
    path = library(name)
    need(tool)
    assert list(differences(path, tool)) == []


@tools
@pytest.mark.parametrize("name", COMPILED)
def test_object_by_gcc(name, tool):
    need(tool)
    path = compiled(C_SOURCE, "-c", *COMPILED[name])
    assert list(differences(path, tool)) == []


@tools
def test_start_files(tool):
    need(tool)
    paths = [
        str(path)
        for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib32", "/usr/libx32", "/usr/lib/gcc")
        for path in sorted(Path(folder).glob("**/*crt*.o"))
    ]
    if not paths:
        skip_or_fail("no C start files on this machine")
    assert [line for path in paths for line in differences(path, tool)] == []


@tools
@pytest.mark.parametrize("target", ["x86_64-linux-gnu", "x86-linux-gnu"])
def test_object_by_clang(target, tool):
    need(tool)
    try:
        import ziglang  # noqa: F401
    except ImportError:
        skip_or_fail("the ziglang wheel is not installed")
    options = ("-c", "-O2", "-g", "-target", target)
    path = compile_source(C_SOURCE, options, ".c", "zig")
    if path.startswith("!"):
        skip_or_fail(f"zig cc does not work here: {path}")
    assert list(differences(path, tool)) == []


#: PLT stubs: the CFA of an address within a 16-byte stub (as ld writes it).
PLT = {
    64: bytes.fromhex("77 08 80 00 3f 1a 3b 2a 33 24 22"),
    32: bytes.fromhex("74 04 78 00 3f 1a 3b 2a 32 24 22"),
}

REGISTERS = {64: range(17), 32: range(9)}


def random_program(random_source: random.Random, bits: int, size: int, restores: bool) -> bytes:
    """Instructions that are valid one by one and in their order.

    ``restores``: use DW_CFA_restore_state (see ``llvm_restores_only_registers``).
    """
    code = b""
    depth = 0
    location = 0
    in_expression = False
    for _ in range(random_source.randrange(24)):
        register = random_source.choice(REGISTERS[bits])
        number = random_source.choice([0, 1, 2, 5, 63, 64, 127, 128, 300, 70000])
        signed = random_source.choice([-70000, -129, -64, -1, 0, 1, 63, 64, 200])
        expression = random_source.choice([PLT[bits], b"\x70\x00", b"\x77\x90\x7f\x06", b"\x35"])
        delta = random_source.choice([1, 2, 63])
        choices = [
            w.advance_loc(delta), w.advance_loc1(delta), w.advance_loc2(delta * 3),
            w.advance_loc4(delta), w.offset(register, number), w.restore(register),
            w.offset_extended(register, number), w.restore_extended(register),
            w.undefined(register), w.same_value(register), w.register(register, 3),
            w.def_cfa(register, number), w.def_cfa_expression(PLT[bits]),
            w.expression(register, expression), w.offset_extended_sf(register, signed),
            w.def_cfa_sf(register, signed), w.val_offset(register, number),
            w.val_offset_sf(register, signed), w.val_expression(register, expression),
            w.gnu_args_size(number), w.REMEMBER_STATE, w.NOP,
        ]  # fmt: skip
        if not in_expression:
            choices += [
                w.def_cfa_register(register), w.def_cfa_offset(number),
                w.def_cfa_offset_sf(signed),
            ] * 3  # fmt: skip
        if depth and restores:
            choices += [w.RESTORE_STATE] * 3
        chosen = random_source.choice(choices)
        if chosen[0] in (1, 2, 3, 4) or 0x40 <= chosen[0] < 0x80:
            location += delta * 3
            if location >= size:
                continue
        depth += (chosen == w.REMEMBER_STATE) - (chosen == w.RESTORE_STATE)
        # After a restore we no longer know: stay on the safe side.
        in_expression = chosen[0] == 0x0F or (in_expression and chosen[0] not in (0x0C, 0x12))
        in_expression = in_expression or chosen == w.RESTORE_STATE
        code += chosen
    return code


@tools
@pytest.mark.parametrize("is_eh", [True, False], ids=["eh", "debug"])
@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("seed", range(4))
def test_random_programs(seed, bits, is_eh, tool, tmp_path):
    need(tool)
    random_source = random.Random(f"{seed} {bits} {is_eh}")
    frames = FrameWriter(is_eh=is_eh, bits=bits, address=0x100000)
    step = 512
    cies = [
        frames.cie(augmentation="zR" if is_eh else "", version=1),
        frames.cie(augmentation="zR" if is_eh else "", version=3, code_alignment=2),
        frames.cie(augmentation="zRS" if is_eh else "", data_alignment=4),
    ]
    if not is_eh:
        cies.append(frames.cie(augmentation="", version=4))
    for number in range(150):
        code = random_program(random_source, bits, step, restores=tool == "readelf")
        frames.fde(random_source.choice(cies), 0x1000 + number * step, step, code)
    path = tmp_path / "random.so"
    path.write_bytes(frames.elf(0x1000, 150 * step))
    found = list(differences(str(path), tool))
    assert found == [], f"seed {seed}"


def test_the_comparison_can_fail(tmp_path):
    """A row changed behind the tool's back is a difference."""
    need("readelf")
    frames = FrameWriter()
    cie = frames.cie()
    frames.fde(cie, 0x1000, 16, w.advance_loc(1) + w.def_cfa_offset(16))
    path = tmp_path / "sample.so"
    data = frames.elf()
    path.write_bytes(data)
    assert list(differences(str(path), "readelf")) == []
    seen = TOOLS["readelf"][0](str(path), ".eh_frame")
    seen[0].rows[1] = (seen[0].rows[1][0], "rsp+24 ra=c-8")
    saved = TOOLS["readelf"]
    TOOLS["readelf"] = (lambda path, section: seen, saved[1])
    try:
        (line,) = differences(str(path), "readelf")
    finally:
        TOOLS["readelf"] = saved
    assert "rsp+24" in line
