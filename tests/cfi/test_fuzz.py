"""Damaged files: the project's own errors or problems, in bounded time and memory, nothing else."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullframe.cfi.expressions import IntegerReader, evaluate, expression_text
from fullframe.cfi.frames import FrameTable, read_frames
from fullframe.cfi.header import check_frame_header, read_frame_header
from fullframe.cfi.lsda import read_lsda
from fullframe.cfi.problems import PROBLEM_KINDS
from fullframe.cfi.rules import CfaExpression, Expression, ValExpression
from fullframe.elf.image import Image
from fullframe.errors import FullframeError
from tests.cfi.samples import C_SOURCE, COMPILED, compiled
from tests.cfi.writer import FrameWriter


def read_everything(data: bytes) -> int:
    """Ask an image for all that the readers know; return how many rows it gave."""
    try:
        image = Image.from_bytes(data, "fuzzed")
    except FullframeError as error:
        assert_named(error)
        return 0
    touch_image(image)
    count = 0
    for table in read_frames(image):
        for problem in table.all_problems():
            assert problem.kind in PROBLEM_KINDS
        header = read_frame_header(image)
        if header is not None and table.is_eh:
            check_frame_header(header, table)
        for fde in table.fdes:
            rows = fde.rows()
            assert rows[0].address == fde.begin
            assert all(a.address < b.address for a, b in itertools.pairwise(rows))
            count += len(rows)
            touch_expressions(image, rows[-1])
            if fde.lsda is not None:
                try:
                    read_lsda(image, fde.lsda, fde.begin)
                except FullframeError:
                    continue
    return count


def assert_named(error: FullframeError) -> None:
    assert str(error).startswith("fuzzed")


def touch_image(image: Image) -> None:
    assert image.kind
    for section in image.sections:
        try:
            assert len(section.data) >= 0
        except FullframeError:
            continue
    assert len(image.symbols) >= 0
    for symbol in image.function_symbols()[:20]:
        image.name_of(symbol.address + 1)
    for begin, end in image.executable_ranges()[:20]:
        image.import_at_plt(begin)
        image.name_of(begin)
        image.place(begin)
        try:
            image.read(begin, min(64, max(0, end - begin)))
        except FullframeError:
            continue
        image.source_line(begin)
    for address in list(image.relocations)[:50]:
        assert image.relocations[address]


def touch_expressions(image: Image, row) -> None:
    reader = IntegerReader(image.machine.bits, dict.fromkeys(range(17), 64), lambda at, size: at)
    for rule in (row.cfa, *row.registers.values()):
        if isinstance(rule, CfaExpression | Expression | ValExpression):
            expression_text(rule.code, image.machine)
            try:
                evaluate(rule.code, image.machine, [0], reader)
            except FullframeError:
                continue


@pytest.mark.parametrize("name", ["eh-sections", "debug-zlib", "i386-eh", "x32-debug"])
def test_flipped_bytes_of_objects(name):
    original = Path(compiled(C_SOURCE, "-c", *COMPILED[name])).read_bytes()
    assert read_everything(original) > 0
    flip(original, f"{name}", 150)


@pytest.mark.parametrize("options", [("-m64",), ("-m32",)])
def test_flipped_bytes_of_libraries(options):
    path = compiled("int f(int a) { return a; }", "-shared", "-fPIC", "-g", *options)
    original = Path(path).read_bytes()
    assert read_everything(original) > 0
    flip(original, str(options), 150)


def flip(original: bytes, seed: str, count: int) -> None:
    """Damage a few bytes at a time, mostly where the structure is: a failure names its seed."""
    for number in range(count):
        source = random.Random(f"{seed} {number}")
        data = bytearray(original)
        interesting = [source.randrange(len(data)) for _ in range(source.randrange(1, 8))]
        interesting += [source.randrange(64) for _ in range(source.randrange(2))]
        for at in interesting:
            data[at] = source.choice([0, 0xFF, 0x7F, 0x80, data[at] ^ 1 << source.randrange(8)])
        if source.randrange(6) == 0:
            del data[source.randrange(len(data)) :]
        try:
            read_everything(bytes(data))
        except FullframeError:
            raise
        except Exception as error:
            raise AssertionError(f"flip {seed!r} number {number}: {error!r}") from error


ADDRESS = 0x3000


def frames_of(data: bytes, is_eh: bool, bits: int) -> FrameTable:
    frames = FrameWriter(is_eh=is_eh, address=ADDRESS, bits=bits)
    frames.raw(data)
    return read_frames(Image.from_bytes(frames.elf(), "fuzzed"))[0]


@given(st.binary(max_size=200), st.booleans(), st.sampled_from([32, 64]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_as_a_section(data, is_eh, bits):
    frames = FrameWriter(is_eh=is_eh, address=ADDRESS, bits=bits)
    frames.raw(data)
    read_everything(frames.elf(text_bytes=64))


@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from([32, 64]))
@settings(max_examples=400, deadline=None)
def test_any_bytes_as_instructions(initial, code, bits):
    frames = FrameWriter(bits=bits)
    frames.fde(frames.cie(instructions=initial), 0x1000, 64, code)
    read_everything(frames.elf(text_bytes=64))


@given(st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=8), st.binary())
@settings(max_examples=200, deadline=None)
def test_any_augmentation(augmentation, data):
    frames = FrameWriter()
    frames.fde(frames.cie(augmentation=augmentation, augmentation_data=data), 0x1000, 64)
    read_everything(frames.elf(text_bytes=64))


HOSTILE = {
    "zeros": bytes(1 << 20),
    "one byte repeated": b"\x0a" * (1 << 20),
    "tiny entries": b"\x04\0\0\0\1\0\0\0" * (1 << 17),
    "entries that are their own CIE": b"\x08\0\0\0\4\0\0\0\0\0\0\0" * (1 << 16),
    "terminators between entries": (b"\0\0\0\0" + b"\x04\0\0\0\1\0\0\0") * (1 << 16),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_memory_stays_within_a_few_times_the_file(name):
    frames = FrameWriter()
    frames.raw(HOSTILE[name])
    check_memory(frames, 6)


def check_memory(frames: FrameWriter, times: int) -> None:
    """Read everything; the peak may be ``times`` the size of the section."""
    data = frames.elf(text_bytes=64)
    tracemalloc.start()
    try:
        read_everything(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < times * len(frames.data) + (1 << 22)


@pytest.mark.parametrize(
    "code",
    [
        b"\x41" * 60_000,  # a row for every byte
        b"\x0a" * 60_000,
        b"\x0b" * 60_000,
        b"".join(b"\x05" + bytes([0x80 | n & 0x7F, n >> 7, 1]) for n in range(15_000)),
        b"\x83\x01\xc3" * 20_000,
        (b"\x0e" + b"\x80" * 58 + b"\x00") * 1000,
        b"\x16\x03\x7f" + b"\x96" * 127,
    ],
    ids=["rows", "remember", "restore", "registers", "save and restore", "leb128", "expression"],
)
def test_hostile_instructions(code):
    frames = FrameWriter()
    cie = frames.cie()
    for number in range(4):
        frames.fde(cie, 0x1000 + number, 1, code + bytes([0] * number))
    check_memory(frames, 100)
