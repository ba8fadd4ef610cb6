"""Small objects for the tests of the commands: a right function and two that are wrong."""

from __future__ import annotations

from pathlib import Path

from fullframe.errors import ToolMissingError
from fullframe.toolchain.find import find_toolchain
from tests.support import skip_or_fail

X86_64 = """\
\t.text
\t.globl right, unadjusted, lost
\t.type right, @function
right:
\t.cfi_startproc
\tpushq %rbx
\t.cfi_adjust_cfa_offset 8
\t.cfi_offset %rbx, -16
\tmovl %edi, %ebx
\tmovl %ebx, %eax
\tpopq %rbx
\t.cfi_adjust_cfa_offset -8
\t.cfi_restore %rbx
\tret
\t.cfi_endproc
\t.size right, .-right

\t.type unadjusted, @function
unadjusted:
\t.cfi_startproc
\tpushq %rax
\tcall ask
\tpopq %rcx
\tret
\t.cfi_endproc
\t.size unadjusted, .-unadjusted

\t.type lost, @function
lost:
\t.cfi_startproc
\tpushq %r12
\t.cfi_adjust_cfa_offset 8
\txorl %r12d, %r12d
\tpopq %r12
\t.cfi_adjust_cfa_offset -8
\tret
\t.cfi_endproc
\t.size lost, .-lost
\t.section .note.GNU-stack,"",@progbits
"""

I386 = (
    X86_64.replace("pushq %r12", "pushl %esi")
    .replace("popq %r12", "popl %esi")
    .replace("%r12d", "%esi")
    .replace("pushq", "pushl")
    .replace("popq", "popl")
    .replace("%rax", "%eax")
    .replace("%rcx", "%ecx")
    .replace("movl %edi, %ebx", "movl %edx, %ebx")
    .replace("%rbx, -16", "%ebx, -8")
    .replace("%rbx", "%ebx")
    .replace("cfa_offset 8", "cfa_offset 4")
    .replace("cfa_offset -8", "cfa_offset -4")
)

RIGHT = X86_64[: X86_64.index("\t.type unadjusted")].replace(", unadjusted, lost", "")


def assemble(text: str, output: Path, bits: int = 64, flags: tuple[str, ...] = ()) -> Path:
    """Assemble a text into an object; without a toolchain, skip (or fail)."""
    try:
        toolchain = find_toolchain()
    except ToolMissingError as error:
        skip_or_fail(str(error))
    source = output.with_suffix(".s")
    source.write_text(text)
    toolchain.assemble(source, output, bits=bits, flags=flags)
    source.unlink()
    return output
