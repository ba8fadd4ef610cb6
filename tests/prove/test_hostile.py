"""Code that nobody would write: the prover answers, in bounded time, whatever the bytes are."""

import random

import pytest

from fullframe.elf.image import Image
from fullframe.entry.prove.prove import prove_image
from tests.prove.built import image_path, table
from tests.prove.mutants import Mutant, applied
from tests.prove.samples import build


def entry(code: str) -> str:
    return f"""\
	.section .entry.text, "ax", @progbits
	.globl entry_SYSCALL_64
	.type entry_SYSCALL_64, @function
entry_SYSCALL_64:
	swapgs
	movq %rsp, %gs:0
	movq %gs:8, %rsp
{code}
	.size entry_SYSCALL_64, . - entry_SYSCALL_64
	.section .rodata, "a", @progbits
	.globl sys_call_table
	.type sys_call_table, @object
sys_call_table:
	.quad 0
	.size sys_call_table, . - sys_call_table
	.section .handlers, "ax", @progbits
"""


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("1: pushq %rax; jmp 1b", "too many states arrive here"),
        ("1: call 1b", "too many states arrive here"),
        ("1: incq %rcx; testq %rcx, %rax; jnz 1b; jmp 1b", "no path from entry_SYSCALL_64"),
        ("1: movl $0, %ecx; 2: incl %ecx; jmp 2b", "no path from entry_SYSCALL_64"),
        ("jmp .", "no path from entry_SYSCALL_64"),
        ("ud2", "control reaches a trap"),
        ("ret", "returns to memory beyond the top of the task stack"),
        (".byte 0x06", "control reaches bytes that are no instruction"),
        ("jmp *%rax", "an indirect transfer to the user's ax"),
        ("call *8(%rax)", "an indirect transfer whose targets cannot be seen"),
        ("movq %rax, %rsp; pushq %rax", "pushes to a stack that is not known"),
        ("movq %rax, 8(%rsp)", "stores beyond the top of the task stack"),
        ("movq %rax, %gs:8", "overwrites stack_top"),
        ("movq %rax, %cr3", "writes a system register"),
        ("wrmsr", "writes a model-specific register"),
        ("lgdt (%rax)", "changes what the prover does not follow"),
        ("hlt", "control goes on in a way that is not modelled: hlt"),
        ("loop .", "a jump that is not modelled"),
        ("stosq", "writes memory in a way that is not modelled"),
        ("jmp 0x10", "jumps to 0x10, of which the contract says nothing"),
        ("iretq", "IRETQ gives the user as ip memory beyond the top of the task stack"),
    ],
)
def test_strange_code(tmp_path, code, answer):
    proof = prove_image(build(tmp_path, entry(code)), "full", entries=["entry_SYSCALL_64"])
    assert not proof.proved
    texts = [finding.message for finding in proof.findings]
    texts += [item.reason for item in proof.not_proved]
    assert any(answer in text for text in texts), texts


def test_random_bytes_never_raise():
    path = image_path("annotated")
    data, image = path.read_bytes(), Image.open(path)
    begin = next(s.address for s in image.function_symbols() if s.name == "entry_SYSCALL_64")
    choose = random.Random(4)
    for _ in range(60):
        where = begin + choose.randrange(0x1B0)
        noise = choose.randbytes(choose.randrange(1, 5))
        changed = applied(image, data, Mutant("noise", where, noise))
        prove_image(
            changed, "annotated", table=table(), entries=["entry_SYSCALL_64"], stop_at_first=True
        )
