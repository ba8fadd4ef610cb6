"""i386 and x86-64 images with hand-written CFI, to be stepped through and to be broken."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from fullframe.errors import ToolMissingError
from fullframe.toolchain.find import Toolchain, find_tool, find_toolchain
from tests.support import skip_or_fail

#: A way into the kernel by INT 0x80 that saves, and changes, ebp: a wrong rule for it shows.
VSYSCALL = """
	.globl __kernel_vsyscall
	.type __kernel_vsyscall, @function
__kernel_vsyscall:
	.cfi_startproc
	push %ecx
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %ecx, 0
	push %edx
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %edx, 0
	push %ebp
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %ebp, 0
	mov %esp, %ebp
	int $0x80
	xor %ecx, %ecx
	xor %edx, %edx
	pop %ebp
	.cfi_restore %ebp
	.cfi_adjust_cfa_offset -4
	pop %edx
	.cfi_restore %edx
	.cfi_adjust_cfa_offset -4
	pop %ecx
	.cfi_restore %ecx
	.cfi_adjust_cfa_offset -4
	ret
	.cfi_endproc
	.size __kernel_vsyscall, . - __kernel_vsyscall
"""

#: Index of each register in the kernel's saved registers, by DWARF number
#: (Linux, asm/sigcontext.h: 32-bit gs fs es ds di si bp sp bx dx cx ax trapno err ip ...; 64-bit
#: r8-r15 di si bp bx dx ax cx sp ip).
_SAVED = {
    32: {0: 11, 1: 10, 2: 9, 3: 8, 5: 6, 6: 5, 7: 4, 8: 14},
    64: {
        0: 13, 1: 12, 2: 14, 3: 11, 4: 9, 5: 8, 6: 10,
        8: 0, 9: 1, 10: 2, 11: 3, 12: 4, 13: 5, 14: 6, 15: 7, 16: 16,
    },
}  # fmt: skip
_SAVED_SP = {32: 7, 64: 15}


def _sleb(value: int) -> list[int]:
    found = []
    while True:
        byte, value = value & 0x7F, value >> 7
        if value in (0, -1) and bool(byte & 0x40) == (value == -1):
            return [*found, byte]
        found.append(byte | 0x80)


def _escape(code: list[int]) -> str:
    return "\t.cfi_escape " + ", ".join(f"{byte:#x}" for byte in code) + "\n"


def flags_rule_32(place: int, index: int = 16) -> str:
    """The rule of eflags (DWARF 9, behind ip and cs); another index is wrong."""
    address = [0x74, *_sleb(place + 4 * index)]
    return _escape([0x10, 9, len(address), *address])


def signal_rules(bits: int, place: int) -> str:
    """CFI of a signal trampoline whose saved registers begin ``place`` bytes above sp."""
    word, base = bits // 8, 0x74 if bits == 32 else 0x77  # DW_OP_breg4 (esp), breg7 (rsp)
    address = [base, *_sleb(place + word * _SAVED_SP[bits])]
    text = _escape([0x0F, len(address) + 1, *address, 0x06])  # def_cfa_expression ... deref
    for register, index in _SAVED[bits].items():
        address = [base, *_sleb(place + word * index)]
        text += _escape([0x10, register, len(address), *address])
    return text


SIGRETURN_32 = f"""
	.cfi_startproc
	.cfi_signal_frame
{signal_rules(32, 4)}
	nop
	.globl __kernel_sigreturn
	.type __kernel_sigreturn, @function
__kernel_sigreturn:
	pop %eax
{signal_rules(32, 0)}
	mov $119, %eax
	int $0x80
	.cfi_endproc
	.size __kernel_sigreturn, . - __kernel_sigreturn
"""

RT_SIGRETURN_32 = f"""
	.cfi_startproc
	.cfi_signal_frame
{signal_rules(32, 160)}
	nop
	.globl __kernel_rt_sigreturn
	.type __kernel_rt_sigreturn, @function
__kernel_rt_sigreturn:
	mov $173, %eax
	int $0x80
	.cfi_endproc
	.size __kernel_rt_sigreturn, . - __kernel_rt_sigreturn
"""

RT_SIGRETURN_64 = f"""
	.cfi_startproc
	.cfi_signal_frame
{signal_rules(64, 40)}
	nop
	.globl __kernel_rt_sigreturn
	.type __kernel_rt_sigreturn, @function
__kernel_rt_sigreturn:
	mov $15, %rax
	syscall
	.cfi_endproc
	.size __kernel_rt_sigreturn, . - __kernel_rt_sigreturn
"""

#: Calls a function of its own, which saves a register and loops.
TIME_64 = """
	.globl __vdso_time
	.type __vdso_time, @function
__vdso_time:
	.cfi_startproc
	push %rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbx, 0
	mov $3, %ebx
	call inner
	pop %rbx
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbx
	ret
	.cfi_endproc
	.size __vdso_time, . - __vdso_time
	.type inner, @function
inner:
	.cfi_startproc
	push %r12
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r12, 0
	mov $5, %r12d
1:	dec %r12d
	jnz 1b
	mov %ebx, %eax
	pop %r12
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r12
	ret
	.cfi_endproc
	.size inner, . - inner
"""

HEAD = "\t.text\n\tnop\n\t.balign 16\n"
IMAGE_32 = HEAD + VSYSCALL + SIGRETURN_32 + RT_SIGRETURN_32
IMAGE_64 = HEAD + TIME_64 + RT_SIGRETURN_64


@cache
def toolchain() -> Toolchain:
    """The toolchain, or a skip with its reason."""
    try:
        return find_toolchain()
    except ToolMissingError as error:
        skip_or_fail(str(error))


def need_gdb() -> None:
    """Skip where there is no gdb."""
    try:
        find_tool("gdb")
    except ToolMissingError as error:
        skip_or_fail(str(error))


@cache
def need_i386() -> None:
    """Skip where i386 programs do not run."""
    loader = Path("/lib/ld-linux.so.2")
    try:
        subprocess.run([loader, "--version"], capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        skip_or_fail("i386 programs do not run here: apt-get install libc6-i386")


def build_image(text: str, bits: int, directory: Path, name: str = "vdso.so") -> Path:
    """Assemble and link an image."""
    source, middle, image = directory / "image.s", directory / "image.o", directory / name
    source.write_text(text)
    toolchain().assemble(source, middle, bits=bits)
    toolchain().link(
        [middle],
        image,
        bits=bits,
        shared=True,
        flags=["--eh-frame-hdr", "-soname", "linux-gate.so.1"],
    )
    return image
