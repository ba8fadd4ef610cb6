"""Alternatives: every variant is followed, and a path keeps to the features it started with."""

import pytest

from fullframe.elf.image import Image
from fullframe.entry.prove.code import Code
from fullframe.entry.prove.prove import prove_image
from fullframe.errors import InputError
from tests.prove.samples import build


def alternative(number: int, original: str, replacement: str, feature: int) -> str:
    """Write original code, padded, with its replacement and record; our own layout of both."""
    return f"""\
.Lo{number}: {original}
.Lp{number}: .skip -(((.Ls{number}-.Lr{number}) - (.Lp{number}-.Lo{number})) > 0) * \
((.Ls{number}-.Lr{number}) - (.Lp{number}-.Lo{number})), 0x90
.Le{number}:
	.pushsection .altinstr_replacement, "ax"
.Lr{number}: {replacement}
.Ls{number}:
	.popsection
	.pushsection .altinstructions, "a"
	.long .Lo{number} - .
	.long .Lr{number} - .
	.value {feature}
	.byte .Le{number} - .Lo{number}
	.byte .Ls{number} - .Lr{number}
	.popsection
"""


PTI, PCID, SMAP = 235, 145, 308
_PUSHES = "\n".join(
    f"\tpushq {source}"
    for source in (
        "$0x2b", "%gs:cpu_tss_rw+20", "%r11", "$0x33", "%rcx", "%rax", "%rdi", "%rsi", "%rdx",
        "%rcx", "$-38", "%r8", "%r9", "%r10", "%r11", "%rbx", "%rbp", "%r12", "%r13", "%r14",
        "%r15",
    )
)  # fmt: skip
_POPS = "\n".join(
    f"\tpopq %{register}"
    for register in (
        "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
        "rsi",
    )
)  # fmt: skip


def kernel(*, way_in: str | None = None, way_out: str | None = None) -> str:
    """Entry code with page-table isolation as an alternative; its own, IRET only."""
    to_kernel = way_in or (
        alternative(1, "jmp .Le2", "", PTI)
        + "\tmovq %cr3, %rsp\n"
        + alternative(2, "andq $~0x1800, %rsp; movq %rsp, %cr3", "", 0x8000 | PTI)
    )
    to_user = way_out or (
        alternative(3, "jmp .Luser", "", PTI)
        + "\tmovq %cr3, %rdi\n\torq $0x1000, %rdi\n"
        + alternative(4, "", "bts $63, %rdi", PCID)
        + "\tmovq %rdi, %cr3\n.Luser:\n"
    )
    return f"""\
	.section .entry.text, "ax", @progbits
	.globl entry_SYSCALL_64
	.type entry_SYSCALL_64, @object
entry_SYSCALL_64:
	swapgs
	movq %rsp, %gs:cpu_tss_rw+20
{to_kernel}
	movq %gs:cpu_current_top_of_stack, %rsp
{_PUSHES}
	movq %rsp, %rdi
	movslq %eax, %rsi
	call do_syscall_64
{_POPS}
	movq %rsp, %rdi
	movq %gs:cpu_tss_rw+4, %rsp
	pushq 48(%rdi)
	pushq 40(%rdi)
	pushq 32(%rdi)
	pushq 24(%rdi)
	pushq 16(%rdi)
	pushq (%rdi)
{to_user}	popq %rdi
	swapgs
	iretq
	.size entry_SYSCALL_64, . - entry_SYSCALL_64
	.globl cpu_tss_rw
	.set cpu_tss_rw, 0x1000
	.globl cpu_current_top_of_stack
	.set cpu_current_top_of_stack, 0x2000
	.section .handlers, "ax", @progbits
"""


def prove(tmp_path, text, **options):
    path = build(tmp_path, text, ["do_syscall_64"])
    return prove_image(path, "linux-6.1", entries=["entry_SYSCALL_64"], **options)


def test_all_variants_are_proved(tmp_path):
    proof = prove(tmp_path, kernel())
    assert proof.findings == ()
    assert proof.not_proved == ()
    entry = proof.entries[0]
    assert [way.instruction for way in entry.ways_out] == ["iretq"]
    for features in ([], ["PTI"], ["PTI", "PCID"]):
        assert prove(tmp_path, kernel(), features=features).proved


def test_a_switch_that_is_missing_is_found_only_where_it_matters(tmp_path):
    text = kernel(way_in="\tnop\n")
    proof = prove(tmp_path, text)
    found = {(finding.code, finding.message) for finding in proof.findings}
    assert ("FF-P004", "do_syscall_64 is called with page tables the user's") in found
    assert all("PTI" in finding.features for finding in proof.findings)
    assert prove(tmp_path, text, features=[]).proved
    assert not prove(tmp_path, text, features=["PTI"]).proved


def test_a_way_out_with_the_kernels_page_tables_is_found(tmp_path):
    text = kernel(way_out=alternative(3, "", "nop", PTI))
    messages = [finding.message for finding in prove(tmp_path, text).findings]
    assert messages == ["IRETQ with page tables the kernel's"]


def test_the_task_stack_is_not_mapped_in_the_users_page_tables(tmp_path):
    text = kernel().replace("movq %gs:cpu_tss_rw+4, %rsp", "nop")
    messages = {finding.message for finding in prove(tmp_path, text).findings}
    assert "the task stack is used with the user's page tables" in messages
    assert prove(tmp_path, text, features=[]).proved


def test_a_jump_into_a_site_is_not_followed(tmp_path):
    inside = alternative(9, "nop; nop; nop", "xorl %eax, %eax", SMAP).replace(
        ".Lo9: nop;", ".Lo9: nop; .Linside:", 1
    )
    text = kernel().replace("\tmovq %rsp, %rdi\n\tmovslq", f"\tjmp .Linside\n{inside}\tmovslq", 1)
    reasons = [item.reason for item in prove(tmp_path, text).not_proved]
    assert reasons == ["jumps into instructions that alternatives replace"]


def test_records_of_another_layout_are_refused(tmp_path):
    text = kernel() + '\t.section .altinstructions, "a"\n\t.long 0\n'
    with pytest.raises(InputError, match=r"\.altinstructions: 64 bytes; expected a multiple"):
        prove(tmp_path, text)


def test_sites_are_read(tmp_path):
    code = Code(Image.open(build(tmp_path, kernel(), ["do_syscall_64"])))
    records = [record for group in code.sites.values() for record in group]
    assert [record.feature for record in records] == [PTI, PTI, PTI, PCID]
    assert [record.inverted for record in records] == [False, True, False, False]
