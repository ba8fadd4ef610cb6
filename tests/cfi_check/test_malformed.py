"""Hostile and damaged files: findings or fullframe's own errors, within bounds, nothing else."""

from __future__ import annotations

import random
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullframe.cfi import files
from fullframe.cfi.files import check_file
from fullframe.cfi.findings import FileReport, Severity
from fullframe.cli.main import main
from fullframe.elf.image import Image
from fullframe.elf.memory import AddressSpace
from fullframe.errors import FullframeError
from fullframe.toolchain.find import Toolchain, find_toolchain
from fullframe.track.flow import Follower
from fullframe.track.state import StateSpace
from tests.cfi import writer as w
from tests.cfi_check.campaign import CORPUS
from tests.cfi_check.small import X86_64, assemble
from tests.elf.writer import EM_X86_64, SHF_ALLOC, ElfWriter
from tests.support import skip_or_fail

SETTINGS = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    try:
        return find_toolchain()
    except FullframeError as error:
        skip_or_fail(f"nothing to assemble hostile code with: {error}")


@pytest.fixture(scope="session")
def objects(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    directory = tmp_path_factory.mktemp("objects")
    found = []
    for name, bits in (("x86_64", 64), ("i386", 32)):
        output = directory / f"{name}.o"
        toolchain.assemble(CORPUS / f"{name}.s", output, bits=bits, warnings_are_errors=False)
        found.append(output.read_bytes())
        linked = directory / name
        flags = ["--unresolved-symbols=ignore-all", "--eh-frame-hdr", "--entry=0x401000"]
        toolchain.link([output], linked, bits=bits, flags=flags)
        found.append(linked.read_bytes())
    return found


class Counter:
    """Counts the checker's work."""

    def __init__(self) -> None:
        self.sweeps = 0
        self.states = 0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()
    sweep, make = Follower._sweep, StateSpace.make

    def counted_sweep(self: Follower, *arguments: object) -> None:
        counter.sweeps += 1
        sweep(self, *arguments)

    def counted_make(self: StateSpace, *arguments: object) -> object:
        counter.states += 1
        return make(self, *arguments)

    monkeypatch.setattr(Follower, "_sweep", counted_sweep)
    monkeypatch.setattr(StateSpace, "make", counted_make)
    return counter


def check(data: bytes, directory: Path) -> FileReport:
    path = directory / "input"
    path.write_bytes(data)
    report = check_file(str(path))
    assert report.proved + report.wrong + report.assumed + report.cannot_tell == report.boundaries
    if report.error is not None:
        assert str(path) in report.error
        assert not report.findings
    return report


@SETTINGS
@given(st.integers(0, 3), st.integers(0, 1 << 40), st.integers(1, 24))
def test_flipped_bytes(
    objects: list[bytes], tmp_path: Path, which: int, seed: int, count: int
) -> None:
    data = bytearray(objects[which])
    chance = random.Random(seed)
    for _ in range(count):
        data[chance.randrange(len(data))] = chance.randrange(256)
    check(bytes(data), tmp_path)


@SETTINGS
@given(st.integers(0, 3), st.integers(0, 1 << 40))
def test_flipped_bytes_in_the_frames(
    objects: list[bytes], tmp_path: Path, which: int, seed: int
) -> None:
    """Flips are aimed at .eh_frame, where nearly every one makes another table."""
    data = bytearray(objects[which])
    chance = random.Random(seed)
    # A CIE's version, augmentation string and first bytes: "zR" stands in each.
    at = data.find(b"\x01zR")
    assert at > 0
    for _ in range(chance.randrange(1, 40)):
        data[min(at - 12 + chance.randrange(3000), len(data) - 1)] = chance.randrange(256)
    check(bytes(data), tmp_path)


@SETTINGS
@given(st.integers(0, 3), st.integers(0, 100))
def test_truncated_files(objects: list[bytes], tmp_path: Path, which: int, percent: int) -> None:
    data = objects[which]
    check(data[: len(data) * percent // 100], tmp_path)


@SETTINGS
@given(st.sampled_from([1, 2, 0, 255]), st.binary(max_size=400))
def test_random_bytes_with_elf_magic(tmp_path: Path, elf_class: int, data: bytes) -> None:
    check(b"\x7fELF" + bytes([elf_class, 1, 1]) + data, tmp_path)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 15, 16, 52, 63, 64])
def test_short_files(tmp_path: Path, size: int) -> None:
    data = (b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 3, 62, 1) + bytes(64))[:size]
    assert check(data, tmp_path).error


# -- tables -----------------------------------------------------------------------------------


def cie(
    augmentation: bytes = b"\x00", instructions: bytes = w.def_cfa(7, 8) + w.offset(16, 1)
) -> bytes:
    body = b"\x00\x00\x00\x00\x01" + augmentation + b"\x01\x78\x10" + instructions
    body += bytes(-len(body) % 4)
    return struct.pack("<I", len(body)) + body


def fde(at: int, begin: int, size: int, instructions: bytes = b"") -> bytes:
    """An FDE at an offset in a section whose CIE is at 0, with absolute pointers."""
    body = struct.pack("<IQQ", at + 4, begin, size) + instructions
    body += bytes(-len(body) % 8)
    return struct.pack("<I", len(body)) + body


def image(frames: bytes, code: bytes = b"\x90" * 63 + b"\xc3", **claims: int) -> bytes:
    elf = ElfWriter(machine=EM_X86_64, file_type=3)
    elf.text(code, address=0x1000)
    assert 0x1000 + len(code) <= 0x100000, "the sections overlap"
    elf.section(".eh_frame", frames, flags=SHF_ALLOC, address=0x100000, **claims)
    return elf.build()


HEAD = cie()


def frames(*entries: Callable[[int], bytes]) -> bytes:
    data = HEAD
    for entry in entries:
        data += entry(len(data))
    return data + bytes(4)


def malformed(report: FileReport) -> list[str]:
    return [one.message for one in report.findings if one.severity is Severity.MALFORMED]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (image(frames(lambda at: fde(at, 0x1000, 64)), claimed_size=1 << 40), None),
        (
            image(frames(lambda at: fde(at, 0x1000, 64), lambda at: fde(at, 0x1010, 16))),
            "overlap",
        ),
        (image(frames(lambda at: fde(at, 0x9000, 64))), "no code"),
        (image(frames(lambda at: fde(at, 0x1000, 1 << 40))), None),
        (image(frames(lambda at: fde(at, 0x1000, 0))), None),
        (image(frames(lambda at: fde(at, 0x1000, 64, b"\x0e" + b"\x80" * (1 << 20)))), "1048580"),
        (image(frames(lambda at: fde(at, 0x1000, 64, b"\x0e" + b"\xff" * 5000))), "LEB128"),
        (image(b"\xff\xff\xff\xff" + b"\xff" * 8 + frames()), None),
        (image(frames(lambda at: fde(at + 8, 0x1000, 64))), None),
        (image(frames(lambda at: fde(at, 0x1000, 64, w.restore(3) + b"\x0b"))), "remember"),
    ],
    ids=[
        "section claims more than the file",
        "overlapping FDEs",
        "FDE outside its section",
        "FDE longer than any section",
        "zero-length FDE",
        "LEB128 of 1 MB",
        "LEB128 of 5 KB",
        "64-bit length beyond everything",
        "CIE pointer into the middle",
        "restore without remember",
    ],
)
def test_broken_tables(tmp_path: Path, data: bytes, expected: str | None) -> None:
    report = check(data, tmp_path)
    messages = malformed(report)
    assert report.error or messages or report.functions
    if expected is not None:
        assert any(expected in message for message in messages), messages


def test_code_is_not_in_zero_filled_memory(tmp_path: Path, work: Counter) -> None:
    """A segment may claim any size in memory; an FDE over it covers no code."""
    elf = ElfWriter(machine=EM_X86_64, file_type=3)
    elf.text(b"\x90" * 63 + b"\xc3", address=0x1000)
    table = frames(lambda at: fde(at, 0x1000, 1 << 20))
    elf.section(".eh_frame", table, flags=SHF_ALLOC, address=0x100000)
    elf.segment(1, 5, 0, 0, 0)
    elf.segments[0] = (1, 5, elf.offset_of(0), 0x1000, 64, 1 << 30)
    report = check(elf.build(), tmp_path)
    assert report.error is None
    assert report.functions == 0
    assert any("no code" in message for message in malformed(report))


_FLIPPED = ("header", "segments", "sections", ".dynamic", ".eh_frame_hdr", ".eh_frame")


@pytest.mark.parametrize("part", _FLIPPED)
def test_flipped_bytes_of_headers(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte of what says where everything is; no work is beyond what the file holds."""
    assembled, linked = assemble(X86_64, tmp_path / "x.o"), tmp_path / "x.so"
    flags = ["--eh-frame-hdr", "--unresolved-symbols=ignore-all"]
    find_toolchain().link([assembled], linked, flags=flags, shared=True)
    data = linked.read_bytes()
    segments, sections = struct.unpack_from("<QQ", data, 32)
    segment_count, section_count = data[56], data[60]
    spans = {
        "header": (0, 64),
        "segments": (segments, segments + 56 * segment_count),
        "sections": (sections, sections + 64 * section_count),
    }
    if part not in spans:
        section = Image.open(linked).section(part)
        assert section is not None
        spans[part] = (section.offset, section.offset + min(section.size_bytes, 600))
    read, most = 0, 1 << 30
    reading = AddressSpace.read

    def counted(self: AddressSpace, address: int, size: int) -> memoryview:
        nonlocal read
        read += size
        assert read < most, "more is read than the file holds"
        return reading(self, address, size)

    monkeypatch.setattr(AddressSpace, "read", counted)
    check(data, tmp_path)
    most = 8 * read + (1 << 20)
    chance = random.Random(part)
    for at in range(*spans[part]):
        changed = bytearray(data)
        changed[at] ^= 1 << chance.randrange(8) if at % 2 else 0xFF
        read = 0
        report = check(bytes(changed), tmp_path)
        assert report.bug is None, (at, report.bug)


def test_a_cie_that_points_at_itself(tmp_path: Path) -> None:
    loop = struct.pack("<II", 20, 4) + bytes(16)  # an FDE whose CIE is the FDE
    report = check(image(loop + bytes(4)), tmp_path)
    assert malformed(report)


def test_a_thousand_fdes_over_the_same_code(tmp_path: Path, work: Counter) -> None:
    """Every one covers all the code, which is followed once."""
    code = b"\x53\x5b" * 20_000 + b"\xc3"
    entries = [
        lambda at, number=number: fde(at, 0x1000 + 2 * number, len(code) - 2 * number)
        for number in range(1000)
    ]
    report = check(image(frames(*entries), code), tmp_path)
    assert report.functions == 1
    assert report.boundaries <= len(code)
    assert work.sweeps < 2000


# -- hostile code -----------------------------------------------------------------------------


def one_function(code: bytes, *, bits: int = 64) -> bytes:
    assert bits == 64
    return image(frames(lambda at: fde(at, 0x1000, len(code))), code)


def jump_chain(count: int) -> bytes:
    """Blocks that each jump to the one before, entered at the last."""
    body = b"\xe9" + struct.pack("<i", 10 * count)
    body += b"\xc3" + b"\x90" * 9
    for _ in range(count):
        body += b"\x90" * 5 + b"\xe9" + struct.pack("<i", -20)
    return body


def diamonds(count: int) -> bytes:
    """Each fork pushes on one side only: as many states as paths, were they kept apart."""
    return b"\x74\x01\x53" * count + b"\xc3"


def loops(count: int) -> bytes:
    """Loops within loops, each of which moves the stack pointer."""
    body = b""
    for number in range(count):
        body = b"\x53" + body + b"\x0f\x85" + struct.pack("<i", -(len(body) + 7))
        assert len(body) == 7 * (number + 1)
    return body + b"\xc3"


def switches(count: int) -> bytes:
    """Bounded jumps, each through a table of its own that is not there."""
    jump = b"\x81\xff\xff\x1f\x00\x00\x77\x07" + b"\xff\x24\xfd"
    return b"".join(jump + struct.pack("<i", 0x1000 + 8 * number) for number in range(count))


HOSTILE = {
    "a million pushes": b"\x50" * 1_000_000,
    "a million pushes of a saved register": b"\x53" * 1_000_000,
    "nothing but returns": b"\xc3" * (1 << 16),
    "a chain of backward jumps": jump_chain(20_000),
    "forks that push on one side": diamonds(20_000),
    "nested loops that push": loops(1500),
    "calls of the next instruction": b"\xe8\0\0\0\0" * (1 << 14),
    "nothing but prefixes": b"\x66" * (1 << 18),
    "switches": switches(20_000),
    "calls out of the image": b"\xe8\xff\xff\xff\x7f" * (1 << 16),
    "enter": b"\xc8\xff\xff\x1f" * (1 << 16),
    "realigned again and again": b"\x48\x83\xe4\xf0\x53" * (1 << 16),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_stays_within_bounds(name: str, tmp_path: Path, work: Counter) -> None:
    code = HOSTILE[name]
    report = check(one_function(code), tmp_path)
    assert report.functions == 1
    assert report.error is None
    # Work is bounded by the code's length, whatever its shape.
    assert work.sweeps <= 4 * len(code) + 5000
    assert work.states <= 8 * len(code) + 5000


def test_a_deep_call_graph(tmp_path: Path, work: Counter) -> None:
    """Functions that each call the next one, thousands deep."""
    count = 3000
    code = b"".join(b"\xe8" + struct.pack("<i", 11) + b"\x90" * 10 + b"\xc3" for _ in range(count))
    entries = [lambda at, n=number: fde(at, 0x1000 + 16 * n, 16) for number in range(count)]
    report = check(image(frames(*entries), code), tmp_path)
    assert report.functions == count
    assert work.sweeps <= 10 * count


_IN_LITTLE_MEMORY = """
import sys
from fullframe.cfi.files import check_file
for path in sys.argv[1:]:
    report = check_file(path)
    print(report.boundaries, report.error or "", flush=True)
"""


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """Every hostile file is checked within an address space of 1.5 GiB."""
    paths = []
    for number, code in enumerate(HOSTILE.values()):
        path = tmp_path / f"hostile{number}"
        path.write_bytes(one_function(code))
        paths.append(str(path))
    limit = 3 << 29

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", _IN_LITTLE_MEMORY, *paths],
        capture_output=True, text=True, check=False, preexec_fn=little,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    assert not [line for line in lines if line.partition(" ")[2]]  # no error


# -- processes --------------------------------------------------------------------------------


@pytest.fixture
def three(objects: list[bytes], tmp_path: Path) -> Iterator[list[str]]:
    paths = []
    for number in range(3):
        path = tmp_path / f"object{number}.o"
        path.write_bytes(objects[0])
        paths.append(str(path))
    return paths


def test_a_killed_worker_does_not_end_the_run(
    three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_image = files.check_image

    def kill(image, engine=None, jobs=1):
        if image.path == three[1]:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        return check_image(image, engine, jobs)

    monkeypatch.setattr(files, "check_image", kill)
    reports = files.check_files(three, jobs=2)
    assert [report.path for report in reports] == three
    assert [report.error is None for report in reports] == [True, False, True]
    assert "killed" in str(reports[1].error)


def test_running_out_of_memory_is_the_files_error(
    three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image, engine=None, jobs=1):
        raise MemoryError

    monkeypatch.setattr(files, "check_image", fail)
    assert "memory" in str(check_file(three[0]).error)


def test_a_bug_of_our_own_does_not_end_the_run(
    three: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other files are checked; the traceback and exit code 70 tell of the bug."""
    whole = files.check_image

    def fail(image, engine=None, jobs=1):
        if image.path == three[1]:
            raise IndexError("one too many")
        return whole(image, engine, jobs)

    monkeypatch.setattr(files, "check_image", fail)
    assert main(["cfi", "check", "--jobs", "1", *three]) == 70
    out, err = capsys.readouterr()
    assert all(path in out for path in three)
    assert "a bug in fullframe: IndexError: one too many" in err
    assert "Traceback" in err


def test_a_file_cut_off_is_not_all_right(
    three: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not there was not checked: a finding says so, and no share is made of nothing."""
    cut = tmp_path / "cut"
    with Path("/proc/self/exe").open("rb") as whole:
        cut.write_bytes(whole.read(1000))
    assert main(["cfi", "check", str(cut)]) == 1
    out, _ = capsys.readouterr()
    assert "FF-C012 malformed: headers at offset 0x" in out
    assert "the section headers lie beyond the end of the file" in out
    assert out.splitlines()[-2].endswith("  -")
    assert "FF-C012" not in {finding.code for finding in check_file(three[0]).findings}
