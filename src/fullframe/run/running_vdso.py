"""The vDSOs of the running kernel: one for each kind of process that it runs.

A process finds its own by the auxiliary vector (``AT_SYSINFO_EHDR``; getauxval(3)), and can read
it like any memory. So a tiny program of the wanted kind is run, which writes its vDSO to a file;
it is a few instructions in an ELF header, put together here, so that neither a compiler nor a
32-bit libc is needed. Program and output are anonymous files (memfd_create(2)): nothing is left
behind, and no directory needs to allow executing.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fullframe.elf.image import Image
from fullframe.elf.structures import PT_LOAD
from fullframe.errors import FullframeError, InputError, Place, ToolFailedError, ToolMissingError
from fullframe.toolchain.command import run_tool

#: Kinds of processes on x86 Linux, by the names of their ABIs.
PROCESS_ABIS: Final = ("x86-64", "i386", "x32")

_MAPS = "/proc/self/maps"
_PAGE_BYTES = 4096
#: The kernel's vDSOs are two to three pages; the programs write at most this many.
_MOST_PAGES = 64
_BASE = 0x10000
_EM_386, _EM_X86_64 = 3, 62
_ET_EXEC, _PF_READ_EXECUTE = 2, 5

# Each program: creat(argv[1]), look for AT_SYSINFO_EHDR (33) behind the environment, write page
# after page until one is refused (EFAULT: the mapping's end), exit(0); exit(1) without a file or
# a vDSO. Numbers of system calls: the tables of each ABI; x32's carry bit 30.
_I386_PROGRAM: Final = bytes.fromhex(
    "89e6"  # mov esi, esp
    "ad"  # lodsd: argc
    "8b5e04"  # mov ebx, [esi+4]: argv[1]
    "8d748604"  # lea esi, [esi+eax*4+4]: the environment
    "ad85c075fb"  # lodsd; test eax, eax; jnz lodsd
    "b808000000"  # mov eax, 8: creat
    "b980010000"  # mov ecx, 0600
    "cd80"  # int 0x80
    "85c0782f"  # test eax, eax; js fail
    "93"  # xchg ebx, eax: the descriptor
    "ad91ad"  # lodsd; xchg ecx, eax; lodsd: type in ecx, value in eax
    "e329"  # jecxz fail: AT_NULL
    "83f92175f6"  # cmp ecx, 33; jne to the next pair
    "91"  # xchg ecx, eax: the vDSO's address
    "bf40000000"  # mov edi, 64: pages at most
    "ba00100000"  # mov edx, 4096
    "b804000000"  # mov eax, 4: write
    "cd80"  # int 0x80
    "39d07505"  # cmp eax, edx; jne done
    "01d1"  # add ecx, edx
    "4f75f0"  # dec edi; jnz to the next write
    "31db"  # done: xor ebx, ebx
    "b801000000"  # mov eax, 1: exit
    "cd80"  # int 0x80
    "bb01000000"  # fail: mov ebx, 1
    "ebf2"  # jmp exit
)
_X32_PROGRAM: Final = bytes.fromhex(
    "89e6"  # mov esi, esp: the stack is in the lowest 4 GiB
    "ad"  # lodsd: argc
    "8b7e04"  # mov edi, [rsi+4]: argv[1]
    "8d5c8604"  # lea ebx, [rsi+rax*4+4]: the environment
    "83c304837bfc0075f7"  # add ebx, 4; cmp dword [rbx-4], 0; jne add
    "b855000040"  # mov eax, 0x40000055: creat
    "be80010000"  # mov esi, 0600
    "0f05"  # syscall
    "85c07837"  # test eax, eax; js fail
    "89c7"  # mov edi, eax: the descriptor
    "8b03"  # mov eax, [rbx]: type
    "8b7304"  # mov esi, [rbx+4]: value, the vDSO's address in the end
    "83c308"  # add ebx, 8
    "85c07429"  # test eax, eax; jz fail: AT_NULL
    "83f82175ef"  # cmp eax, 33; jne to the next pair
    "bb40000000"  # mov ebx, 64: pages at most
    "ba00100000"  # mov edx, 4096
    "b801000040"  # mov eax, 0x40000001: write
    "0f05"  # syscall
    "39d07506"  # cmp eax, edx; jne done
    "01d6"  # add esi, edx
    "ffcb75ef"  # dec ebx; jnz to the next write
    "31ff"  # done: xor edi, edi
    "b83c000040"  # mov eax, 0x4000003c: exit
    "0f05"  # syscall
    "bf01000000"  # fail: mov edi, 1
    "ebf2"  # jmp exit
)


@dataclass(frozen=True, slots=True)
class RunningVdso:
    """A vDSO that the running kernel maps.

    Attributes:
        abi: of the processes that get it: ``x86-64``, ``i386`` or ``x32``.
        data: the image, whole pages as they are mapped.
    """

    abi: str
    data: bytes

    @property
    def name(self) -> str:
        """Its name in reports: ``[vdso]``, as /proc/PID/maps has it, and the ABI if not 64-bit."""
        return "[vdso]" if self.abi == "x86-64" else f"[vdso] of {self.abi}"


def read_running_vdso(abi: str) -> RunningVdso:
    """Read the vDSO that the running kernel maps into processes of an ABI.

    Args:
        abi: ``x86-64`` (from this process), ``i386`` or ``x32`` (from a process started for it).

    Returns:
        The image.

    Raises:
        ToolMissingError: this is no Linux on x86-64, or its kernel does not run such processes.
        InputError: such processes run and have no vDSO that could be read.
    """
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "i686", "i386"):
        raise ToolMissingError(
            f"the running kernel's vDSO: this is {platform.system()} on {platform.machine()}; "
            "expected Linux on x86-64\n  next: dump it there, and check the file here"
        )
    if abi == "x86-64" and struct.calcsize("P") != 8:
        raise ToolMissingError(
            "the x86-64 vDSO is read from this process, and this Python is a 32-bit program\n"
            "  next: run fullframe with a 64-bit Python"
        )
    place = Place(RunningVdso(abi, b"").name)
    pages = _own_pages() if abi == "x86-64" else _pages_of_other(abi)
    data = pages[: _extent_bytes(pages, place)]
    return RunningVdso(abi, data)


def _own_pages() -> bytes:
    try:
        with open(_MAPS, encoding="ascii", errors="replace") as maps:  # noqa: PTH123
            for line in maps:
                if line.rstrip().endswith("[vdso]"):
                    begin, _, end = line.split()[0].partition("-")
                    return _memory(int(begin, 16), int(end, 16))
    except OSError as error:
        raise InputError(
            Place("[vdso]"), f"cannot be read: {error}", "", "see to it that /proc is mounted"
        ) from None
    raise InputError(
        Place("/proc/self/maps"), "no [vdso]", "a kernel that maps one into every process",
        "start the kernel without vdso=0",
    )  # fmt: skip


def _memory(begin: int, end: int) -> bytes:
    with open("/proc/self/mem", "rb", buffering=0) as memory:  # noqa: PTH123 - as maps, above
        memory.seek(begin)
        return memory.read(end - begin)


def _pages_of_other(abi: str) -> bytes:
    try:
        with _anonymous_file() as program, _anonymous_file() as output:
            os.write(program, dumping_program(abi))
            here = f"/proc/{os.getpid()}/fd"
            run_tool([f"{here}/{program}", f"{here}/{output}"], timeout_seconds=30)
            size = min(os.fstat(output).st_size, _MOST_PAGES * _PAGE_BYTES)
            return os.pread(output, size, 0)
    except ToolFailedError as error:
        if error.returncode == 1:
            raise InputError(
                Place(f"[vdso] of {abi}"), "a process of this kind found none",
                "a kernel that maps one into every process", "start the kernel without vdso32=0",
            ) from None  # fmt: skip
        raise _cannot_run(abi, error.output) from None
    except (OSError, FullframeError) as error:
        if isinstance(error, InputError):
            raise
        raise _cannot_run(abi, str(error).splitlines()[0]) from None


def _cannot_run(abi: str, reason: str) -> ToolMissingError:
    # The program is an anonymous file, whose name would tell nobody anything.
    reason = re.sub(r"\[Errno \d+\] |: '/proc/[^']*'", "", reason)
    option = "CONFIG_IA32_EMULATION" if abi == "i386" else "CONFIG_X86_X32_ABI"
    return ToolMissingError(
        f"the {abi} vDSO: {abi} programs do not run here ({reason.strip()})\n"
        f"  next: dump it on a kernel built with {option}, and check the file here"
    )


@contextlib.contextmanager
def _anonymous_file() -> Iterator[int]:
    descriptor = os.memfd_create("fullframe-vdso")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def dumping_program(abi: str) -> bytes:
    """Return a static executable that writes its vDSO to the file that its argument names.

    Args:
        abi: ``i386`` or ``x32``.

    Returns:
        The ELF file: header, one segment, code (gABI, chapters 4 and 5).
    """
    machine, code = (_EM_386, _I386_PROGRAM) if abi == "i386" else (_EM_X86_64, _X32_PROGRAM)
    header_bytes, segment_bytes = 52, 32
    begin = header_bytes + segment_bytes
    size = begin + len(code)
    ident = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9)  # 32-bit class, little-endian, version 1
    header = struct.pack(
        "<HHIIIIIHHHHHH", _ET_EXEC, machine, 1, _BASE + begin, header_bytes, 0, 0,
        header_bytes, segment_bytes, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack(
        "<IIIIIIII", PT_LOAD, 0, _BASE, _BASE, size, size, _PF_READ_EXECUTE, _PAGE_BYTES
    )
    return ident + header + segment + code


def _extent_bytes(pages: bytes, place: Place) -> int:
    """Return the size of an image in whole pages: what is mapped behind it is not part of it."""
    image = Image.from_bytes(pages, str(place))
    ends = [
        segment.offset + segment.file_size_bytes
        for segment in image.segments
        if segment.type == PT_LOAD
    ]
    if not ends or not 0 < max(ends) <= len(pages):
        raise InputError(
            place, "an image whose segment is longer than the mapping, or none", "a vDSO",
            "report the kernel's version with `fullframe vdso dump --json`",
        )  # fmt: skip
    return -(-max(ends) // _PAGE_BYTES) * _PAGE_BYTES
