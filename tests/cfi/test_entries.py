"""CIEs and FDEs in all their forms, and everything that can be wrong with them."""

from __future__ import annotations

import struct

import pytest

from fullframe.cfi.frames import FrameTable, read_frames
from fullframe.cfi.header import check_frame_header, read_frame_header
from fullframe.cfi.problems import PROBLEM_KINDS
from fullframe.cfi.rules import CfaRegister
from fullframe.elf.image import Image
from tests.cfi import writer as w
from tests.cfi.writer import FrameWriter
from tests.elf.writer import SHF_ALLOC, ElfWriter

BEGIN = 0x1000


def read(frames: FrameWriter) -> FrameTable:
    (found,) = read_frames(Image.from_bytes(frames.elf(), "sample.so"))
    return found


def ranges(found: FrameTable):
    return [(fde.begin, fde.end) for fde in found.fdes]


# ---------------------------------------------------------------------------- good entries


@pytest.mark.parametrize("wide", [False, True], ids=["32-bit lengths", "64-bit lengths"])
@pytest.mark.parametrize("is_eh", [True, False], ids=["eh_frame", "debug_frame"])
@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("version", [1, 3, 4])
def test_versions_and_lengths(version, bits, is_eh, wide):
    frames = FrameWriter(is_eh=is_eh, bits=bits, wide=wide)
    augmentation = "zR" if is_eh else ""
    cie = frames.cie(version=version, augmentation=augmentation)
    frames_expected = []
    for number in range(2):
        begin = BEGIN + number * 0x20
        if is_eh and wide:
            # The writer's pcrel assumes a short length.
            at = frames.address + len(frames.data) + 16
            pointers = struct.pack("<iI", begin - at, 0x20)
        else:
            pointers = None
        frames.fde(cie, begin, 0x20, w.advance_loc(1), pointers=pointers)
        frames_expected.append((begin, begin + 0x20))
    found = read(frames)
    assert found.all_problems() == []
    assert ranges(found) == frames_expected
    (only,) = found.cies
    assert (only.version, only.augmentation) == (version, augmentation)
    assert only.return_register == (16 if bits == 64 else 8)
    assert only.data_alignment == -bits // 8
    assert only.section == (".eh_frame" if is_eh else ".debug_frame")
    assert only.initial_row.cfa == CfaRegister(*((7, 8) if bits == 64 else (4, 4)))


def test_debug_frame_cie_may_follow_its_fdes():
    frames = FrameWriter(is_eh=False)
    probe = FrameWriter(is_eh=False)
    probe.fde(0, BEGIN, 16)
    cie_offset = len(probe.data)
    frames.fde(cie_offset, BEGIN, 16)
    cie = frames.cie(augmentation="")
    assert cie == cie_offset
    frames.fde(cie, BEGIN + 16, 16)
    found = read(frames)
    assert found.all_problems() == []
    assert ranges(found) == [(BEGIN, BEGIN + 16), (BEGIN + 16, BEGIN + 32)]


def test_old_eh_augmentation():
    frames = FrameWriter()
    cie = frames.cie(augmentation="eh")
    frames.fde(cie, BEGIN, 16, pointers=struct.pack("<QQ", BEGIN, 16), augmentation_data=None)
    found = read(frames)
    assert found.all_problems() == []
    assert ranges(found) == [(BEGIN, BEGIN + 16)]


def encoded(encoding: int, value: int, at: int, bases: dict[int, int]) -> bytes:
    relative = value - (at if encoding & 0x70 == 0x10 else bases.get(encoding & 0x70, 0))
    form = encoding & 0x0F
    if form == 1:
        return w.uleb(relative)
    if form == 9:
        return w.sleb(relative)
    size = {0: 8, 2: 2, 3: 4, 4: 8, 8: 8, 10: 2, 11: 4, 12: 8}[form]
    return relative.to_bytes(size, "little", signed=relative < 0)


FORMS = {
    "absptr": 0, "uleb128": 1, "udata2": 2, "udata4": 3, "udata8": 4, "signed": 8,
    "sleb128": 9, "sdata2": 10, "sdata4": 11, "sdata8": 12,
}  # fmt: skip


@pytest.mark.parametrize("application", [0, 0x10, 0x20], ids=["absolute", "pcrel", "textrel"])
@pytest.mark.parametrize("form", FORMS)
def test_pointer_encodings_of_fdes(form, application):
    encoding = FORMS[form] | application
    if application == 0x10 and form in ("uleb128", "udata2", "udata4", "udata8", "absptr"):
        address = 0x800  # unsigned: the frames must lie below the code
    else:
        address = 0x3000
    frames = FrameWriter(address=address)
    cie = frames.cie(augmentation_data=bytes([encoding]))
    pointer = encoded(encoding, BEGIN + 8, frames.pointer_address(), {0x20: BEGIN})
    size = encoded(FORMS[form], 16, 0, {})
    frames.fde(cie, 0, 0, w.advance_loc(2), pointers=pointer + size)
    found = read(frames)
    assert found.all_problems() == []
    assert found.cies[0].fde_pointer_encoding == encoding
    assert ranges(found) == [(BEGIN + 8, BEGIN + 24)]
    assert len(found.fdes[0].rows()) == 2


def test_aligned_pointers():
    frames = FrameWriter()
    cie = frames.cie(augmentation_data=b"\x50")
    padding = -frames.pointer_address() % 8
    pointers = bytes(padding) + struct.pack("<QQ", BEGIN, 16)
    frames.fde(cie, 0, 0, pointers=pointers)
    found = read(frames)
    assert found.all_problems() == []
    assert ranges(found) == [(BEGIN, BEGIN + 16)]


def test_indirect_pointers_are_followed():
    frames = FrameWriter()
    cie = frames.cie(augmentation_data=b"\x9b")
    at = frames.pointer_address()
    # The word that holds the address is the last one of the FDE, behind padding.
    word_at = at + 8 + 8
    frames.fde(cie, 0, 0, bytes(15), pointers=struct.pack("<iI", word_at - at, 16))
    frames.data[-8:] = struct.pack("<Q", BEGIN + 4)
    found = read(frames)
    assert ranges(found) == [(BEGIN + 4, BEGIN + 20)]


def test_lsda_personality_and_signal_frames():
    frames = FrameWriter()
    # z, then P: encoding indirect pcrel sdata4 and pointer; L: pcrel sdata4; R: pcrel sdata4; S.
    personality_at = frames.address + 8 + 1 + 6 + 1 + 1 + 1 + 1 + 1
    data = b"\x9b" + struct.pack("<i", 0x5000 - personality_at) + b"\x1b" + b"\x1b"
    cie = frames.cie(augmentation="zPLRS", augmentation_data=data)
    lsda_at = frames.pointer_address() + 8 + 1
    frames.fde(cie, BEGIN, 16, augmentation_data=struct.pack("<i", 0x6000 - lsda_at))
    frames.fde(cie, BEGIN + 16, 16, augmentation_data=struct.pack("<i", 0))
    found = read(frames)
    assert found.all_problems() == []
    (only,) = found.cies
    assert (only.personality, only.personality_is_indirect) == (0x5000, True)
    assert only.is_signal_frame
    assert only.lsda_encoding == 0x1B
    assert [fde.lsda for fde in found.fdes] == [0x6000, None]


def test_lsda_of_the_general_path_agrees_with_the_common_one():
    """The same entry read by the path for common FDEs and by the one for all others."""
    for encoding in (0x1B, 0x1C):  # sdata4 is common, sdata8 is not
        frames = FrameWriter()
        cie = frames.cie(augmentation="zLR", augmentation_data=bytes([encoding, encoding]))
        at = frames.pointer_address()
        size = 4 if encoding == 0x1B else 8
        pointers = (BEGIN - at).to_bytes(size, "little", signed=True) + (16).to_bytes(
            size, "little"
        )
        lsda_at = at + 2 * size + 1
        lsda = (0x6000 - lsda_at).to_bytes(size, "little", signed=True)
        frames.fde(cie, 0, 0, w.advance_loc(1), pointers=pointers, augmentation_data=lsda)
        found = read(frames)
        assert found.all_problems() == []
        assert [(fde.begin, fde.end, fde.lsda) for fde in found.fdes] == [
            (BEGIN, BEGIN + 16, 0x6000)
        ]


def test_removed_functions_of_debug_frame_are_set_aside():
    frames = FrameWriter(is_eh=False)
    cie = frames.cie(augmentation="")
    for begin in (0, 1, (1 << 64) - 1):
        frames.fde(cie, begin, 1)
    frames.fde(cie, BEGIN, 16)
    found = read(frames)
    assert found.problems == []
    assert len(found.discarded) == 3
    assert ranges(found) == [(BEGIN, BEGIN + 16)]


def test_terminators_at_the_end_are_no_problem():
    frames = FrameWriter()
    frames.fde(frames.cie(), BEGIN, 16)
    frames.terminator()
    frames.terminator()
    assert read(frames).all_problems() == []


# ---------------------------------------------------------------------------- bad entries


def bad_program(code: bytes, **cie):
    def build(frames: FrameWriter) -> None:
        frames.fde(frames.cie(**cie), BEGIN, 16, code)

    return build


def truncated_entry(frames: FrameWriter) -> None:
    frames.raw(struct.pack("<II", 100, 0) + bytes(8))


def reserved_length(frames: FrameWriter) -> None:
    frames.raw(struct.pack("<II", 0xFFFFFFF3, 0))


def too_short_for_its_id(frames: FrameWriter) -> None:
    frames.raw(struct.pack("<I", 2) + bytes(2))


def stray_bytes(frames: FrameWriter) -> None:
    frames.cie()
    frames.raw(b"\1\2\3")


def cie_loop(frames: FrameWriter) -> None:
    """Two FDEs, each the other's "CIE"."""
    frames.raw(struct.pack("<II", 12, 0xFFFFFFF4 + 4 + 4) + bytes(8))
    frames.raw(struct.pack("<II", 12, 20) + bytes(8))


def own_cie(frames: FrameWriter) -> None:
    frames.raw(struct.pack("<II", 12, 4) + bytes(8))


def pointer_into_an_entry(frames: FrameWriter) -> None:
    frames.cie()
    frames.fde(4, BEGIN, 16)


def terminator_in_the_middle(frames: FrameWriter) -> None:
    cie = frames.cie()
    frames.fde(cie, BEGIN, 16)
    frames.terminator()
    frames.fde(cie, BEGIN + 16, 16)


def overlap(frames: FrameWriter) -> None:
    cie = frames.cie()
    frames.fde(cie, BEGIN, 32)
    frames.fde(cie, BEGIN + 31, 32)


def outside(frames: FrameWriter) -> None:
    frames.fde(frames.cie(), 0x900000, 16)


def partly_outside(frames: FrameWriter) -> None:
    frames.fde(frames.cie(), BEGIN + 0xFFF, 2)


def wraps(frames: FrameWriter) -> None:
    cie = frames.cie(augmentation_data=b"\x00")
    frames.fde(cie, 0, 0, pointers=struct.pack("<QQ", (1 << 64) - 16, 32))


def empty(frames: FrameWriter) -> None:
    frames.fde(frames.cie(), BEGIN, 0)


def negative(frames: FrameWriter) -> None:
    frames.fde(frames.cie(), BEGIN, 0xFFFFFFF0)


def long_leb(frames: FrameWriter) -> None:
    frames.fde(frames.cie(), BEGIN, 16, b"\x0e" + b"\x80" * (1 << 20) + b"\x01")


def big_leb(frames: FrameWriter) -> None:
    frames.fde(frames.cie(), BEGIN, 16, b"\x0e" + b"\xff" * 9 + b"\x7f")


def augmentation_data_too_long(frames: FrameWriter) -> None:
    cie = frames.cie()
    at = frames.fde(cie, BEGIN, 16, w.NOP * 3)
    frames.data[at + 16] = 0x7F


def cie_with(**fields):
    def build(frames: FrameWriter) -> None:
        cie = frames.cie(**fields)
        frames.fde(cie, BEGIN, 16)

    return build


def endless_string(frames: FrameWriter) -> None:
    frames.raw(struct.pack("<II", 12, 0) + b"\x01zRRRRRR")


def indirect_to_nowhere(frames: FrameWriter) -> None:
    cie = frames.cie(augmentation_data=b"\x80")
    frames.fde(cie, 0, 0, pointers=struct.pack("<QQ", 0xDEAD0000, 16))


DEEP = w.REMEMBER_STATE * 2000
MANY_RULES = b"".join(w.offset_extended(number, 1) for number in range(4000))

#: Name to (what builds it, kind, part of the message). Every kind of the catalogue is here.
BAD = {
    "entry beyond the section": (truncated_entry, "truncated", "100 bytes, of which"),
    "reserved length": (reserved_length, "truncated", "reserved length 0xfffffff3"),
    "too short for its ID": (too_short_for_its_id, "truncated", "too short"),
    "stray bytes": (stray_bytes, "truncated", "3 stray bytes"),
    "CIE loop": (cie_loop, "bad-cie-pointer", "no CIE"),
    "its own CIE": (own_cie, "bad-cie-pointer", "no CIE"),
    "CIE pointer into an entry": (pointer_into_an_entry, "bad-cie-pointer", "0x4, where"),
    "terminator in the middle": (terminator_in_the_middle, "terminator-in-middle", "more entries"),
    "overlap": (overlap, "overlap", "0x101f..0x103f overlaps"),
    "outside": (outside, "outside-code", "0x900000..0x900010"),
    "partly outside": (partly_outside, "outside-code", "hold no code"),
    "wraps": (wraps, "outside-code", "wraps around"),
    "zero length": (empty, "empty-range", "0 bytes"),
    "negative length": (negative, "empty-range", "-16 bytes"),
    "LEB128 of 1 MB": (long_leb, "too-complex", "bytes of instructions"),
    "LEB128 of 70 bits": (big_leb, "bad-leb128", "more than 64 bits"),
    "LEB128 without an end": (
        bad_program(b"\x0e" + b"\x80" * 14),
        "bad-leb128",
        "runs past its end",
    ),
    "augmentation data too long": (augmentation_data_too_long, "truncated", "127 bytes"),
    "version 2": (cie_with(version=2), "bad-cie", "version 2"),
    "address size": (cie_with(version=4, address_size=3), "bad-cie", "addresses of 3 bytes"),
    "factor 0": (cie_with(code_alignment=0), "bad-cie", "alignment factors 0"),
    "augmentation string without an end": (endless_string, "truncated", "without an end"),
    "augmentation of AArch64": (
        cie_with(augmentation="zRB"),
        "unknown-augmentation",
        "'B' (AArch64: return addresses signed with key B)",
    ),
    "augmentation of nobody": (cie_with(augmentation="zRx"), "unknown-augmentation", "'x'"),
    "augmentation overrun": (
        cie_with(augmentation="zRPL", augmentation_data=b"\x1b\x9b\0\0"),
        "truncated",
        "longer than it says",
    ),
    "pointer encoding": (cie_with(augmentation_data=b"\x6b"), "bad-encoding", "0x6b"),
    "pointer format": (cie_with(augmentation_data=b"\x07"), "bad-encoding", "0x07"),
    "base that is not known": (
        cie_with(augmentation_data=b"\x3b"),
        "bad-encoding",
        "datarel sdata4, whose base is not known",
    ),
    "indirect to nowhere": (indirect_to_nowhere, "bad-encoding", "0xdead0000"),
    "opcode": (bad_program(b"\x1c"), "unknown-instruction", "opcode 0x1c"),
    "window_save": (
        bad_program(w.WINDOW_SAVE),
        "unknown-instruction",
        "DW_CFA_GNU_window_save (SPARC;",
    ),
    "instruction cut short": (
        bad_program(w.NOP * 14 + b"\x83"),
        "truncated",
        "DW_CFA_offset is cut short",
    ),
    "advance cut short": (bad_program(w.NOP * 12 + b"\x04\0\0"), "truncated", "4 bytes needed"),
    "expression cut short": (
        bad_program(b"\x0f\x7f" + bytes(13)),
        "truncated",
        "expression of 127 bytes",
    ),
    "restore without remember": (
        bad_program(w.RESTORE_STATE),
        "restore-without-remember",
        "without a remembered state",
    ),
    "one restore too many": (
        bad_program(w.REMEMBER_STATE + w.RESTORE_STATE + w.RESTORE_STATE),
        "restore-without-remember",
        "without a remembered state",
    ),
    "offset of an expression": (
        bad_program(w.def_cfa_expression(b"\x77\x08") + w.def_cfa_offset(16)),
        "cfa-not-register",
        "DW_CFA_def_cfa_offset while the CFA has an expression",
    ),
    "register of an expression": (
        bad_program(w.def_cfa_expression(b"\x77\x08") + w.def_cfa_register(6)),
        "cfa-not-register",
        "DW_CFA_def_cfa_register while",
    ),
    "signed offset of an expression": (
        bad_program(w.def_cfa_expression(b"\x77\x08") + w.def_cfa_offset_sf(-2)),
        "cfa-not-register",
        "DW_CFA_def_cfa_offset_sf while",
    ),
    "offset of nothing": (
        bad_program(w.def_cfa_offset(16), instructions=w.NOP),
        "cfa-not-register",
        "no rule",
    ),
    "advance in a CIE": (
        bad_program(b"", instructions=w.advance_loc(1) + w.def_cfa(7, 8)),
        "advance-in-cie",
        "advance the location",
    ),
    "set_loc in a CIE": (
        bad_program(b"", instructions=w.set_loc(bytes(4))),
        "advance-in-cie",
        "DW_CFA_set_loc in a CIE",
    ),
    "set_loc backwards": (
        bad_program(
            w.advance_loc(8) + w.set_loc(struct.pack("<Q", BEGIN + 4)),
            augmentation="",
            augmentation_data=b"",
        ),
        "backward-location",
        "back by 4 bytes",
    ),
    "rows past the end": (
        bad_program(w.advance_loc(17) + w.def_cfa_offset(16)),
        "rows-past-end",
        "the last row is at +0x11",
    ),
    "states too deep": (bad_program(DEEP), "too-complex", "too deep"),
    "rules without end": (bad_program(MANY_RULES), "too-complex", "register rules"),
    "too many problems": (
        bad_program(w.RESTORE_STATE * 100),
        "too-many-problems",
        "too many problems in one entry",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_entry(name):
    build, kind, message = BAD[name]
    frames = FrameWriter(is_eh=name != "set_loc backwards")
    build(frames)
    found = read(frames)
    problems = found.all_problems()
    assert kind in [problem.kind for problem in problems]
    (problem,) = [item for item in problems if item.kind == kind and message in item.message][:1]
    assert problem.section == found.section_name
    assert 0 <= problem.offset <= len(frames.data)
    assert {item.kind for item in problems} <= set(PROBLEM_KINDS)


def test_an_entry_that_is_malformed_leaves_the_others_readable():
    frames = FrameWriter()
    cie = frames.cie()
    frames.fde(cie, BEGIN, 16)
    bad = frames.cie(augmentation="zRx")
    frames.fde(bad, BEGIN + 16, 16)
    frames.fde(cie, BEGIN + 32, 16, w.WINDOW_SAVE)
    frames.fde(cie, BEGIN + 48, 16)
    found = read(frames)
    assert ranges(found) == [(BEGIN + at, BEGIN + at + 16) for at in (0, 32, 48)]
    assert found.unreadable_count == 1
    assert [item.kind for item in found.all_problems()] == [
        "unknown-augmentation",
        "unknown-instruction",
    ]


def test_rows_stop_where_instructions_cannot_be_decoded():
    frames = FrameWriter()
    code = w.advance_loc(1) + w.def_cfa_offset(16) + w.advance_loc(1) + w.WINDOW_SAVE
    frames.fde(frames.cie(), BEGIN, 16, code + w.def_cfa_offset(99))
    (fde,) = read(frames).fdes
    assert [row.cfa for row in fde.rows()] == [
        CfaRegister(7, 8),
        CfaRegister(7, 16),
        CfaRegister(7, 16),
    ]


def test_problems_of_a_hostile_section_are_bounded():
    frames = FrameWriter()
    for _ in range(3000):
        frames.raw(struct.pack("<II", 12, 4) + bytes(8))
    problems = read(frames).all_problems()
    assert len(problems) < 1100
    assert problems[-1].kind == "too-many-problems"


def test_a_compressed_section_that_is_broken():
    writer = ElfWriter(file_type=3)
    writer.text(address=BEGIN)
    header = struct.pack("<IIQQ", 1, 0, 100, 1)
    writer.section(".debug_frame", header + b"not zlib", flags=0x800)
    (found,) = read_frames(Image.from_bytes(writer.build(), "sample.so"))
    (problem,) = found.all_problems()
    assert problem.kind == "unreadable-section"
    assert "zlib" in problem.message


# ---------------------------------------------------------------------------- .eh_frame_hdr


def with_header(change=lambda header: header, fde_count: int = 3, **fields):
    """An image of three functions and its index, changed by ``change``."""
    frames = FrameWriter(address=0x3000)
    cie = frames.cie()
    offsets = [frames.fde(cie, BEGIN + number * 16, 16) for number in range(fde_count)]
    header_at = 0x2000
    data = bytearray(b"\x01\x1b\x03\x3b")
    data += struct.pack("<i", 0x3000 - (header_at + 4))
    data += struct.pack("<I", fde_count)
    for number, offset in enumerate(offsets):
        data += struct.pack("<ii", BEGIN + number * 16 - header_at, 0x3000 + offset - header_at)
    data = change(data)
    writer = ElfWriter(file_type=3)
    text = writer.text(b"\x90" * 0x1000, address=BEGIN)
    header = writer.section(".eh_frame_hdr", bytes(data), flags=SHF_ALLOC, address=header_at)
    section = writer.section(".eh_frame", bytes(frames.data), flags=SHF_ALLOC, address=0x3000)
    writer.segment(1, 5, writer.offset_of(text), BEGIN, 0x1000)
    writer.segment(1, 4, writer.offset_of(header), header_at, len(data))
    writer.segment(1, 4, writer.offset_of(section), 0x3000, len(frames.data))
    writer.segment(0x6474E550, 4, writer.offset_of(header), header_at, len(data))
    image = Image.from_bytes(writer.build(), "sample.so")
    found = read_frame_header(image)
    (frame_table,) = read_frames(image)
    return found, check_frame_header(found, frame_table)


def patched(at: int, layout: str, value: int):
    def change(data: bytearray) -> bytearray:
        struct.pack_into(layout, data, at, value)
        return data

    return change


def swapped(data: bytearray) -> bytearray:
    data[12:20], data[20:28] = data[20:28], data[12:20]
    return data


def shortened(data: bytearray) -> bytearray:
    struct.pack_into("<I", data, 8, 2)
    return data[:-8]


def test_a_header_that_is_right():
    header, problems = with_header()
    assert problems == []
    assert header.count == 3
    assert header.locations == (BEGIN, BEGIN + 16, BEGIN + 32)


def test_a_header_without_a_table_is_right():
    header, problems = with_header(lambda data: bytearray(b"\x01\x1b\xff\xff") + data[4:8])
    assert header.count is None
    assert problems == []


BAD_HEADERS = {
    "version": (patched(0, "B", 2), ["header-version"], "version 2"),
    "empty": (lambda data: bytearray(), ["header-version"], ""),
    "cut short": (lambda data: data[:6], ["header-version"], ""),
    "address of the frames": (patched(4, "<i", 0), ["header-table-address"], ""),
    "other address": (patched(4, "<i", 0x1010), ["header-table-address"], "0x3014"),
    "count too high": (patched(8, "<I", 1 << 30), ["header-count"] * 2, "1073741824 entries"),
    "count too low": (shortened, ["header-count", "header-missing"], "no entry"),
    "unsorted": (swapped, ["header-unsorted"], "entry 1 is for 0x1000"),
    "location": (patched(20, "<i", 4 - 0x1000), ["header-wrong"], "leads to the FDE of 0x1010"),
    "entry to nowhere": (patched(24, "<i", 0x1004), ["header-wrong", "header-missing"], "no FDE"),
    "table encoding": (patched(3, "B", 0x31), ["header-version"], "datarel uleb128"),
    "unknown encoding": (patched(1, "B", 0x77), ["header-version"], ""),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_header(name):
    change, kinds, message = BAD_HEADERS[name]
    header, problems = with_header(change)
    if name == "address of the frames":
        assert header.frames_address is None
        kinds = []
    assert [problem.kind for problem in problems] == kinds
    assert message in "\n".join(problem.message for problem in problems)


def test_other_table_encodings():
    def absolute(data: bytearray) -> bytearray:
        out = data[:12]
        out[3] = 0x04  # udata8
        for at in range(12, len(data), 4):
            out += struct.pack("<Q", 0x2000 + struct.unpack_from("<i", data, at)[0])
        return out

    header, problems = with_header(absolute)
    assert problems == []
    assert header.locations == (BEGIN, BEGIN + 16, BEGIN + 32)


def test_every_kind_of_problem_has_a_bad_input():
    kinds = {kind for _, kind, _ in BAD.values()} | {"unreadable-section"}
    for _, header_kinds, _ in BAD_HEADERS.values():
        kinds.update(header_kinds)
    assert kinds == set(PROBLEM_KINDS)
