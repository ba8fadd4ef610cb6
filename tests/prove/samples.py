"""Small entry code of our own, right and with the mistakes that history knows."""

from pathlib import Path

from fullframe.toolchain.find import find_toolchain

_PUSHES = "".join(
    f"\tpushq\t{source}\n"
    for source in (
        "$0x2b", "%gs:0", "%r11", "$0x33", "%rcx", "%rax",
        "%rdi", "%rsi", "%rdx", "%rcx", "$-38", "%r8", "%r9", "%r10", "%r11",
    )
)  # fmt: skip
_STORES = "".join(
    f"\tmovq\t%{register}, {8 * number}(%rsp)\n"
    for number, register in enumerate(("r15", "r14", "r13", "r12", "rbp", "rbx"))
)
_ALL = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
    "rsi", "rdi",
)  # fmt: skip
_POPS = "".join(f"\tpopq\t%{register}\n" for register in _ALL)
#: What the fast path's exit loads, by its offset in the frame.
_FAST_LOADS = """\
	movq	112(%rsp), %rdi
	movq	104(%rsp), %rsi
	movq	96(%rsp), %rdx
	movq	56(%rsp), %r10
	movq	72(%rsp), %r8
	movq	64(%rsp), %r9
	movq	80(%rsp), %rax
	movq	128(%rsp), %rcx
	movq	152(%rsp), %rsp
"""

#: A fast path with a partial frame, a slow path in C, stubs that switch: proved as it stands.
RIGHT = f"""\
	.section .entry.text, "ax", @progbits
	.globl	entry_SYSCALL_64
	.type	entry_SYSCALL_64, @function
entry_SYSCALL_64:
	swapgs
	movq	%rsp, %gs:0
	movq	%gs:8, %rsp
{_PUSHES}	subq	$48, %rsp
	testl	$0x101, %gs:16
	jnz	slow_path
	sti
	cmpq	$2, %rax
	ja	1f
	movq	%r10, %rcx
	call	*sys_call_table(, %rax, 8)
fast_return:
	movq	%rax, 80(%rsp)
1:	cli
	testl	$0xf, %gs:16
	jnz	exit_work
	movq	144(%rsp), %r11		# fast exit: flags
	testl	$0x10100, %r11d
	jnz	exit_work
{_FAST_LOADS}	swapgs
	sysretq
exit_work:
	sti
{_STORES}	movq	%rsp, %rdi
	call	syscall_return_slowpath
leave:
	movq	88(%rsp), %rcx
	movq	128(%rsp), %r11
	cmpq	%rcx, %r11
	jne	leave_iret
	shlq	$16, %rcx
	sarq	$16, %rcx
	cmpq	%rcx, %r11
	jne	leave_iret
	cmpq	$0x33, 136(%rsp)
	jne	leave_iret
	movq	48(%rsp), %r11
	cmpq	%r11, 144(%rsp)		# r11 equals flags?
	jne	leave_iret		# r11 equals flags!
	testl	$0x10100, %r11d
	jnz	leave_iret
	cmpq	$0x2b, 160(%rsp)
	jne	leave_iret
	# sysret exit
{_POPS}	movq	32(%rsp), %rsp
	swapgs
	sysretq
leave_iret:
	# iret exit
{_POPS}	addq	$8, %rsp
	swapgs
	iretq
slow_path:
{_STORES}	movq	%rsp, %rdi
	call	do_syscall_64
	jmp	leave
	.size	entry_SYSCALL_64, . - entry_SYSCALL_64

	.type	stub_sys_clone, @function
stub_sys_clone:
	leaq	sys_clone(%rip), %rax
	jmp	stub
	.type	stub_sys_iopl, @function
stub_sys_iopl:
	leaq	sys_iopl(%rip), %rax
stub:	cmpq	$fast_return, (%rsp)
	je	1f
	jmp	*%rax
1:	cli				# off on the slow path
	addq	$8, %rsp
	jmp	slow_path

	.section .rodata, "a", @progbits
	.globl	sys_call_table
	.type	sys_call_table, @object
sys_call_table:
	.quad	sys_read
	.quad	stub_sys_clone
	.quad	stub_sys_iopl
	.size	sys_call_table, . - sys_call_table

	.section .handlers, "ax", @progbits
"""
_C_FUNCTIONS = ("sys_read", "sys_clone", "sys_iopl", "do_syscall_64", "syscall_return_slowpath")

_SCRIPT = """\
SECTIONS
{
	. = 0xffffffff81000000;
	.text : { *(.entry.text) *(.text) }
	.handlers : { *(.handlers) }
	.altinstr_replacement : { *(.altinstr_replacement) }
	.rodata : { *(.rodata) }
	.altinstructions : { *(.altinstructions) }
	.data : { *(.data) *(.bss) }
	/DISCARD/ : { *(.comment) *(.note*) }
}
"""


def changed(*pairs: tuple[str, str]) -> str:
    """Return the right code with each text replaced, where it occurs first."""
    text = RIGHT
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def build(directory: Path, assembly: str, functions=_C_FUNCTIONS) -> Path:
    """Assemble and link; each C function is a symbol with a RET."""
    toolchain = find_toolchain()
    for name in functions:
        assembly += f"\t.globl {name}\n\t.type {name}, @function\n{name}:\tret\n\t.p2align 4\n"
    source = directory / "sample.s"
    source.write_text(assembly)
    (directory / "sample.ld").write_text(_SCRIPT)
    toolchain.assemble(source, directory / "sample.o")
    output = directory / "sample.elf"
    toolchain.link([directory / "sample.o"], output, script=directory / "sample.ld")
    return output


#: What went wrong in history, rebuilt: (what, changes, diagnostic, part of the message).
MISTAKES = (
    (
        "flags restored from the r11 slot after a call that may write flags",
        (
            ("movq\t144(%rsp), %r11\t\t# fast exit: flags", "movq\t48(%rsp), %r11"),
            ("\t.quad\tstub_sys_iopl", "\t.quad\tsys_iopl"),
        ),
        "FF-P003",
        "as flags the user's flags; the frame says what the handler that writes flags left",
    ),
    (
        "the slow exit takes flags from the r11 slot without a look at flags",
        (("\tjne\tleave_iret\t\t# r11 equals flags!", ""),),
        "FF-P003",
        "SYSRETQ gives the user as flags what",
    ),
    (
        "one exit reloads rbp and another does not",
        (("# sysret exit\n\tpopq\t%r15\n\tpopq\t%r14\n\tpopq\t%r13\n\tpopq\t%r12\n\tpopq\t%rbp",
          "\tpopq\t%r15\n\tpopq\t%r14\n\tpopq\t%r13\n\tpopq\t%r12\n\taddq\t$8, %rsp"),),
        "FF-P003",
        "SYSRETQ gives the user as bp the user's bp; the frame says what do_syscall_64",
    ),
    (
        "a fast path calls a handler that needs the full frame",
        (("\t.quad\tstub_sys_clone", "\t.quad\tsys_clone"),),
        "FF-P002",
        "sys_clone (handlers that read the full frame) needs the full frame",
    ),
    (
        "interrupts on where the stub switches to the slow path",
        (("\tcli\t\t\t\t# off on the slow path", "\tnop"),),
        "FF-P004",
        "do_syscall_64 is called with interrupts on; it needs them off",
    ),
    (
        "an exit that pops in the wrong order",
        (("# iret exit\n\tpopq\t%r15\n\tpopq\t%r14", "\tpopq\t%r14\n\tpopq\t%r15"),),
        "FF-P003",
        "IRETQ gives the user as r15 what do_syscall_64",
    ),
    (
        "a C call with the user's GS base",
        (("\tswapgs\n\tmovq\t%rsp, %gs:0", "\tmovq\t%rsp, %gs:0"),),
        "FF-P009",
        "per-CPU data (user_sp) is used with the user's GS base",
    ),
    (
        "a return with the kernel's GS base",
        (("\taddq\t$8, %rsp\n\tswapgs\n\tiretq", "\taddq\t$8, %rsp\n\tiretq"),),
        "FF-P005",
        "IRETQ with GS base the kernel's",
    ),
    (
        "SYSRET without a look whether ip is canonical",
        (("\tshlq\t$16, %rcx\n\tsarq\t$16, %rcx\n", ""),),
        "FF-P006",
        "was not found to be canonical",
    ),
    (
        "SYSRET without a look at the selector",
        (("\tcmpq\t$0x33, 136(%rsp)\n\tjne\tleave_iret\n", ""),),
        "FF-P006",
        "gives the user as cs constant 0x33",
    ),
    (
        "a kernel value in a user register",
        (("# iret exit\n\tpopq\t%r15", "\tpopq\t%r15\n\tmovq\t%rsp, %r15"),),
        "FF-P003",
        "IRETQ gives the user as r15 the address task stack",
    ),
    (
        "work looked for while interrupts are on",
        (("1:\tcli\n\ttestl\t$0xf, %gs:16\n\tjnz\texit_work",
          "1:\ttestl\t$0xf, %gs:16\n\tjnz\texit_work\n\tcli"),),
        "FF-P010",
        "nobody looked, with interrupts off since, for work before user mode",
    ),
    (
        "the user's stack pointer read from scratch when interrupts have been on",
        (("\tpushq\t%gs:0\n", "\tpushq\t%rcx\n"),
         ("\tsti\n\tcmpq", "\tsti\n\tpushq\t%gs:0\n\tpopq\t152(%rsp)\n\tcmpq")),
        "FF-P001",
        "finds in slot sp: what was left in user_sp; expected the user's sp",
    ),
    (
        "a number that is not bounded by the table",
        (("\tcmpq\t$2, %rax", "\tcmpq\t$3, %rax"),),
        "FF-P012",
        "the index of sys_call_table is at most 3; the table ends at 2",
    ),
)  # fmt: skip
