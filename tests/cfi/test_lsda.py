"""Call-site tables of exception handling."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullframe.cfi.encoding import MalformedError, read_uleb128
from fullframe.cfi.frames import read_frames
from fullframe.cfi.lsda import CallSite, _call_sites, read_lsda
from fullframe.elf.image import Image
from fullframe.errors import InputError
from tests.cfi.samples import compiled, library
from tests.cfi.writer import uleb
from tests.elf.writer import SHF_ALLOC, ElfWriter

FUNCTION, LSDA = 0x1000, 0x2000


def image_with(data: bytes) -> Image:
    writer = ElfWriter(file_type=3)
    text = writer.text(b"\x90" * 0x1000, address=FUNCTION)
    section = writer.section(".gcc_except_table", data, flags=SHF_ALLOC, address=LSDA)
    writer.segment(1, 5, writer.offset_of(text), FUNCTION, 0x1000)
    writer.segment(1, 4, writer.offset_of(section), LSDA, len(data))
    return Image.from_bytes(writer.build(), "sample.so")


def lsda(call_sites: bytes, encoding: int = 1, start: bytes = b"\xff\xff") -> bytes:
    return start + bytes([encoding]) + uleb(len(call_sites)) + call_sites


def test_call_sites():
    table = uleb(0x10) + uleb(5) + uleb(0x40) + uleb(1) + uleb(0x20) + uleb(8) + uleb(0) + uleb(0)
    found = read_lsda(image_with(lsda(table)), LSDA, FUNCTION)
    assert found.call_sites == (
        CallSite(0x1010, 0x1015, 0x1040, 1),
        CallSite(0x1020, 0x1028, None, 0),
    )
    assert found.landing_pad_base == FUNCTION
    assert found.type_table is None
    assert found.end == LSDA + 4 + len(table)


#: Numbers of one to ten bytes, some padded.
NUMBERS = st.integers(0, 2**64 - 1).map(uleb) | st.integers(0, 300).map(uleb)
NUMBERS |= st.sampled_from([b"\x80\x00", b"\x85\x80\x00", b"\x81\x80\x80\x00"])


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=6), st.binary(max_size=2))
@settings(deadline=None)
def test_sites_are_the_same_one_by_one(numbers, stray):
    table = b"".join(map(b"".join, numbers)) + stray
    expected, at = [], 0
    try:
        while at < len(table):
            values = []
            for _ in range(4):
                value, at = read_uleb128(table, at)
                values.append(value)
            begin = (0x1000 + values[0]) % 2**64
            pad = (0x1000 + values[2]) % 2**64 if values[2] else None
            expected.append(CallSite(begin, begin + values[1], pad, values[3]))
    except MalformedError:
        with pytest.raises(MalformedError):
            _call_sites(table, 1, 8, 0x1000, 0x1000)
    else:
        assert _call_sites(table, 1, 8, 0x1000, 0x1000) == tuple(expected)


def test_landing_pad_base_and_type_table():
    table = b"".join(value.to_bytes(4, "little") for value in (0x10, 5, 0x40)) + uleb(3)
    start = b"\x03" + (0x1800).to_bytes(4, "little") + b"\x9b" + uleb(0x30)
    found = read_lsda(image_with(lsda(table, 3, start)), LSDA, FUNCTION)
    assert found.call_sites == (CallSite(0x1010, 0x1015, 0x1840, 3),)
    assert found.landing_pad_base == 0x1800
    assert found.type_table == LSDA + 7 + 0x30
    assert found.type_encoding == 0x9B


ASSEMBLY = """
    .text
    .globl f, site_begin, site_end, pad, __gxx_personality_v0
f:  .cfi_startproc
    .cfi_personality 0x3, __gxx_personality_v0
    .cfi_lsda 0x3, .Llsda
    nop
site_begin:
    call f
site_end:
    ret
pad:
    ret
    .cfi_endproc
    .section .gcc_except_table,"a",@progbits
.Llsda:
    .byte 0xff, 0xff, 0x01
    .uleb128 .Lend-.Lbegin
.Lbegin:
    .uleb128 site_begin-f
    .uleb128 site_end-site_begin
    .uleb128 pad-f
    .uleb128 1
.Lend:
"""


@pytest.mark.parametrize("options", [("-m64",), ("-m32",), ("-mx32",)])
def test_against_the_assembler(options):
    """In an object file: the LSDA's address comes from a relocation."""
    image = Image.open(compiled(ASSEMBLY, "-c", *options, suffix=".s"))
    (frames,) = read_frames(image)
    (fde,) = frames.fdes
    address = {symbol.name: symbol.address for symbol in image.symbols}
    assert fde.begin == address["f"]
    found = read_lsda(image, fde.lsda, fde.begin)
    assert found.call_sites == (
        CallSite(address["site_begin"], address["site_end"], address["pad"], 1),
    )
    personality = next(s for s in image.symbols if s.name == "__gxx_personality_v0")
    assert fde.cie.personality == personality.address
    assert image.name_of(fde.cie.personality) == "__gxx_personality_v0"


def test_those_of_a_library_lie_within_its_code():
    image = Image.open(library("libstdc++"))
    frames = next(table for table in read_frames(image) if table.is_eh)
    seen = 0
    for fde in frames.fdes:
        if fde.lsda is None:
            continue
        for site in read_lsda(image, fde.lsda, fde.begin).call_sites:
            seen += 1
            assert fde.begin <= site.begin <= site.end <= fde.end
            if site.landing_pad is not None:
                assert image.executable_end(site.landing_pad) is not None
    assert seen > 1000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not map"),
        (b"\xff", "1 bytes needed"),
        (b"\xff\xff\x01", "runs past its end"),
        (lsda(b"", 0x1B), "call sites with the encoding pcrel sdata4"),
        (b"\xff\xff\x01\x7f\x01", "127 bytes at address"),
        (b"\xff\xff\x01" + uleb(1 << 40), "1099511627776 bytes"),
        (lsda(b"\x01\x02"), "runs past its end"),
        (lsda(b"\x01\x02\x03\x80"), "runs past its end"),
        (b"\x77", "unknown pointer format"),
    ],
)
def test_malformed(data, message):
    with pytest.raises(InputError) as caught:
        read_lsda(image_with(data), LSDA, FUNCTION)
    assert message in str(caught.value)
    assert "sample.so" in str(caught.value)


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_call_sites_or_our_error(data):
    try:
        found = read_lsda(image_with(data), LSDA, FUNCTION)
    except InputError:
        return
    assert len(found.call_sites) <= len(data)
