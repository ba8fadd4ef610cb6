"""Dumping the running kernel's vDSOs, and the tiny programs that do it."""

from __future__ import annotations

import errno
import json
import struct
import subprocess
from pathlib import Path

import pytest
from unicorn import UC_ARCH_X86, UC_HOOK_INSN, UC_HOOK_INTR, UC_MODE_32, UC_MODE_64, Uc
from unicorn.x86_const import (
    UC_X86_INS_SYSCALL,
    UC_X86_REG_EAX,
    UC_X86_REG_EBX,
    UC_X86_REG_ECX,
    UC_X86_REG_EDI,
    UC_X86_REG_EDX,
    UC_X86_REG_ESI,
    UC_X86_REG_ESP,
    UC_X86_REG_RSP,
)

from fullframe.cfi.files import check_bytes, check_live_vdsos
from fullframe.cli.main import main
from fullframe.elf.image import Image
from fullframe.errors import InputError, Place, ToolFailedError, ToolMissingError
from fullframe.run import running_vdso
from fullframe.run.running_vdso import RunningVdso, dumping_program, read_running_vdso
from fullframe.vdso.dump import DUMP_NAMES, dump
from tests.support import run_unprivileged, skip_or_fail
from tests.vdso.support import IMAGE, built, program
from tests.vdso.test_build import EXPORTS_32, EXPORTS_64


def vdso_of(abi: str) -> RunningVdso:
    try:
        return read_running_vdso(abi)
    except ToolMissingError as error:
        skip_or_fail(str(error).splitlines()[0])


@pytest.mark.parametrize(("abi", "soname"), [("x86-64", b"vdso"), ("i386", b"gate")])
def test_it_is_what_the_kernel_maps(abi: str, soname: bytes, tmp_path: Path) -> None:
    """The same bytes that a program compiled for it sees."""
    vdso = vdso_of(abi)
    assert len(vdso.data) % 4096 == 0
    assert b"linux-" + soname in vdso.data
    machine = IMAGE["x86-64" if abi == "x86-64" else "i386-int80"]
    seen = run_binary(program(tmp_path, "own_vdso.c", machine), len(vdso.data))
    assert vdso.data == seen


def run_binary(path: Path, size: int) -> bytes:
    return subprocess.run([path, str(size)], capture_output=True, check=True).stdout


@pytest.mark.parametrize("abi", ["x86-64", "i386"])
def test_dumps_can_be_checked_and_shown(
    abi: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vdso_of(abi)
    path = tmp_path / "vdso.so"
    assert main(["vdso", "dump", "--machine", abi, "-o", str(path)]) == 0
    assert f"{path}: {abi}, {path.stat().st_size} bytes, written" in capsys.readouterr().out
    report = check_bytes(path.read_bytes(), str(path))
    assert report.error is None
    assert report.functions > 0
    code = main(["cfi", "check", str(path)])
    assert code == (1 if report.findings else 0)
    name = "__vdso_getcpu" if abi == "x86-64" else "__kernel_vsyscall"
    capsys.readouterr()
    assert main(["cfi", "show", str(path), name]) == 0
    assert name.removeprefix("__vdso_") in capsys.readouterr().out
    assert main(["vdso", "dump", "--machine", abi, "-o", str(path)]) == 0
    assert "unchanged" in capsys.readouterr().out


def test_all_that_the_kernel_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vdso_of("x86-64")
    assert main(["vdso", "dump", "-o", str(tmp_path / "new"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    there = [image["abi"] for image in found["images"]]
    assert there[0] == "x86-64"
    assert {*there, *(item["abi"] for item in found["missing"])} == {"x86-64", "i386", "x32"}
    for image in found["images"]:
        path = Path(image["path"])
        assert path == tmp_path / "new" / DUMP_NAMES[image["abi"]]
        assert (path.stat().st_size, image["written"]) == (image["size_bytes"], True)
        known = EXPORTS_64 if image["abi"] == "x86-64" else EXPORTS_32
        # Older kernels lack some, newer ones have more.
        assert len(set(image["functions"]) & known.keys()) >= 5
        assert set(image["without_cfi"]) <= set(image["functions"])


def test_what_is_missing_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(command: list[str], **options: object) -> None:
        text = f"[Errno {errno.ENOEXEC}] Exec format error: '{command[0]}'"
        raise ToolFailedError(command, 126, text)

    monkeypatch.setattr(running_vdso, "run_tool", refused)
    assert main(["vdso", "dump", "-o", str(tmp_path)]) == 0
    _, _, told = capsys.readouterr().out.partition("\n")
    assert told == (
        "left out: the i386 vDSO: i386 programs do not run here (Exec format error)\n"
        "  next: dump it on a kernel built with CONFIG_IA32_EMULATION, and check the file here\n"
        "left out: the x32 vDSO: x32 programs do not run here (Exec format error)\n"
        "  next: dump it on a kernel built with CONFIG_X86_X32_ABI, and check the file here\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["vdso64.so"]
    assert main(["vdso", "dump", "--machine", "i386", "-o", str(tmp_path / "one")]) == 4
    assert "i386 programs do not run here" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()
    assert [report.path for report in check_live_vdsos()] == ["[vdso]"]


def test_a_process_without_a_vdso(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(command: list[str], **options: object) -> None:
        raise ToolFailedError(command, 1, "")

    monkeypatch.setattr(running_vdso, "run_tool", without)
    with pytest.raises(InputError) as caught:
        read_running_vdso("i386")
    assert str(caught.value) == (
        "[vdso] of i386: a process of this kind found none; expected a kernel that maps one into "
        "every process\n  next: start the kernel without vdso32=0"
    )
    assert [report.error is None for report in check_live_vdsos()] == [True, False, False]


@pytest.mark.parametrize(("system", "machine"), [("FreeBSD", "x86_64"), ("Linux", "aarch64")])
def test_another_machine(
    system: str,
    machine: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(running_vdso.platform, "system", lambda: system)
    monkeypatch.setattr(running_vdso.platform, "machine", lambda: machine)
    assert main(["vdso", "dump", "-o", "nowhere"]) == 4
    assert capsys.readouterr().err == (
        f"fullframe: the running kernel's vDSO: this is {system} on {machine}; expected Linux on "
        "x86-64\n  next: dump it there, and check the file here\n"
    )
    assert not Path("nowhere").exists()
    (report,) = check_live_vdsos()
    assert report.error is not None


def test_no_vdso_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text("00400000-00401000 r-xp 00000000 00:00 0    /bin/true\n")
    monkeypatch.setattr(running_vdso, "_MAPS", str(maps))
    with pytest.raises(InputError, match="no \\[vdso\\]; expected a kernel that maps one"):
        read_running_vdso("x86-64")
    monkeypatch.setattr(running_vdso, "_MAPS", str(tmp_path / "none"))
    with pytest.raises(InputError, match="see to it that /proc is mounted"):
        read_running_vdso("x86-64")


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        (b"\x7fELF", "class is neither 32 nor 64"),
        (bytes(4096), "not an ELF file"),
        (b"", "not an ELF file (it starts with nothing)"),
    ],
)
def test_what_is_mapped_is_no_image(pages: bytes, told: str) -> None:
    with pytest.raises(InputError) as caught:
        running_vdso._extent_bytes(pages, Place("[vdso]"))
    assert told in str(caught.value)


def test_a_segment_longer_than_the_mapping() -> None:
    data = bytearray(built("x86-64").data.ljust(4096, b"\0"))
    assert running_vdso._extent_bytes(bytes(data) + bytes(8192), Place("[vdso]")) == 4096
    struct.pack_into("<QQ", data, 64 + 32, 1 << 40, 1 << 40)
    with pytest.raises(InputError, match="an image whose segment is longer than the mapping"):
        running_vdso._extent_bytes(bytes(data), Place("[vdso]"))


def test_places_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vdso_of("x86-64")
    file = tmp_path / "file"
    file.write_text("mine")
    assert main(["vdso", "dump", "-o", str(file)]) == 3
    assert "no directory, and none can be made here" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert main(["vdso", "dump", "--machine", "x86-64", "-o", str(tmp_path / "no/file")]) == 3
    assert "cannot be written" in capsys.readouterr().err


def test_dump_as_a_function(tmp_path: Path) -> None:
    vdso_of("x86-64")
    (image,) = dump(str(tmp_path / "vdso.so"), "x86-64").images
    assert (image.vdso.name, image.path, image.written) == ("[vdso]", tmp_path / "vdso.so", True)
    assert vdso_of("x86-64").data == image.path.read_bytes()


# -- the programs, on an emulated CPU: no kernel of this machine need run them --------------------

_STACK, _VDSO = 0x700000, 0x900000


class _Process:
    """An emulated process of 32-bit pointers, and a kernel that knows three calls."""

    def __init__(self, abi: str, vdso: bytes | None, mapped_pages: int) -> None:
        self.abi = abi
        self.numbers = {8: "creat", 4: "write", 1: "exit"}
        if abi == "x32":
            self.numbers = {0x40000055: "creat", 0x40000001: "write", 0x4000003C: "exit"}
        self.file: bytes | None = None
        self.path = ""
        self.status: int | None = None
        self.mapped_end = _VDSO + 4096 * mapped_pages
        self.cpu = Uc(UC_ARCH_X86, UC_MODE_64 if abi == "x32" else UC_MODE_32)
        self._load(dumping_program(abi))
        self.cpu.mem_map(_STACK, 0x10000)
        self.cpu.mem_map(_VDSO, 0x100000)
        if vdso is not None:
            self.cpu.mem_write(_VDSO, vdso)
        self._arguments(vdso is not None)
        if abi == "x32":
            self.cpu.hook_add(UC_HOOK_INSN, self._call, None, 1, 0, UC_X86_INS_SYSCALL)
        else:
            self.cpu.hook_add(UC_HOOK_INTR, self._interrupt)

    def _load(self, elf: bytes) -> None:
        image = Image.from_bytes(elf, "program")
        assert image.kind == "executable"
        assert (image.machine.bits, image.elf_bits) == (64 if self.abi == "x32" else 32, 32)
        (segment,) = image.segments
        assert (segment.offset, segment.flags) == (0, 5)
        self.cpu.mem_map(segment.address, 0x1000)
        self.cpu.mem_write(segment.address, elf)
        self.entry = image.entry

    def _arguments(self, with_vdso: bool) -> None:
        top = _STACK + 0x8000
        self.cpu.mem_write(top, b"program\0")
        self.cpu.mem_write(top + 16, b"output\0")
        words = [2, top, top + 16, 0, top, top, 0, 6, 4096]
        words += [33, _VDSO] if with_vdso else []
        words += [0, 0]
        pointer = _STACK + 0x4000
        self.cpu.mem_write(pointer, struct.pack(f"<{len(words)}I", *words))
        self.cpu.reg_write(UC_X86_REG_RSP if self.abi == "x32" else UC_X86_REG_ESP, pointer)

    def _interrupt(self, cpu: Uc, number: int, data: object) -> None:
        assert number == 0x80
        self._call(cpu, data)

    def _call(self, cpu: Uc, data: object) -> None:
        read = cpu.reg_read
        call = self.numbers[read(UC_X86_REG_EAX)]
        if self.abi == "x32":
            arguments = [read(each) for each in (UC_X86_REG_EDI, UC_X86_REG_ESI, UC_X86_REG_EDX)]
        else:
            arguments = [read(each) for each in (UC_X86_REG_EBX, UC_X86_REG_ECX, UC_X86_REG_EDX)]
        result = getattr(self, f"_{call}")(*arguments)
        cpu.reg_write(UC_X86_REG_EAX, result & 0xFFFFFFFF)

    def _creat(self, path: int, mode: int, _: int) -> int:
        self.path = bytes(self.cpu.mem_read(path, 7)).decode()
        assert mode == 0o600
        self.file = b""
        return 3

    def _write(self, descriptor: int, begin: int, size: int) -> int:
        assert (descriptor, size) == (3, 4096)
        if begin + size > self.mapped_end:
            return -errno.EFAULT
        assert self.file is not None
        self.file += bytes(self.cpu.mem_read(begin, size))
        return size

    def _exit(self, status: int, *_: int) -> int:
        self.status = status
        self.cpu.emu_stop()
        return 0

    def run(self) -> None:
        self.cpu.emu_start(self.entry, 0, count=10_000)


@pytest.mark.parametrize("abi", ["i386", "x32"])
@pytest.mark.parametrize("pages", [1, 2, 64, 65, 100])
def test_the_programs_write_what_is_mapped(abi: str, pages: int) -> None:
    vdso = bytes(number % 251 for number in range(4096 * pages))
    process = _Process(abi, vdso, pages)
    process.run()
    assert (process.path, process.status) == ("output\0", 0)
    assert process.file == vdso[: 4096 * 64]


@pytest.mark.parametrize("abi", ["i386", "x32"])
def test_the_programs_fail_without_a_vdso(abi: str) -> None:
    process = _Process(abi, None, 0)
    process.run()
    assert (process.file, process.status) == (b"", 1)


@pytest.mark.parametrize("abi", ["i386", "x32"])
def test_the_programs_fail_without_a_file(abi: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process = _Process(abi, bytes(4096), 1)
    monkeypatch.setattr(process, "_creat", lambda *_: -errno.EACCES)
    process.run()
    assert (process.file, process.status) == (None, 1)


OUTPUT_COMMANDS = pytest.mark.parametrize("command", ["dump", "build"])


def refused(path: str, reason: str) -> str:
    return (
        f"fullframe: {path}: cannot be written: {reason}; expected a file, or a directory, in a "
        "directory that you may write to\n  next: check the path and its permissions\n"
    )


@OUTPUT_COMMANDS
def test_a_name_that_is_too_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    vdso_of("x86-64")
    path = str(tmp_path / ("x" * 300))
    assert main(["vdso", command, "--machine", "x86-64", "-o", path]) == 3
    assert capsys.readouterr() == ("", refused(path, "File name too long"))
    assert list(tmp_path.iterdir()) == []


@OUTPUT_COMMANDS
def test_a_directory_that_may_not_be_entered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    vdso_of("x86-64")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    path = str(closed / "x")
    done = run_unprivileged("vdso", command, "--machine", "x86-64", "-o", path)
    closed.chmod(0o700)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == refused(path, "Permission denied")
    assert list(closed.iterdir()) == []
