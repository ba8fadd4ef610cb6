/*
 * Start of the measuring program, and the loop that enters entry code as SYSCALL would.
 */
	.text
	.globl	_start
_start:
	xorl	%ebp, %ebp
	andq	$-16, %rsp
	call	measure
	movl	%eax, %edi
	movl	$60, %eax		/* exit */
	syscall
	ud2

/*
 * long enter_many(void *entry, long number, long count)
 *
 * Jump to the entry code count times in the state that SYSCALL leaves: the return address in rcx,
 * the flags in r11, the number in rax, everything else the user's. Returns what the last call
 * returned in rax; stops the program if the stack pointer did not come back.
 */
	.balign	64
	.globl	enter_many
enter_many:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rdi, %r13
	movq	%rsi, %r12
	movq	%rdx, %rbx
	movq	%rsp, %rbp
	pushfq
	popq	%r14
	xorl	%edi, %edi
	xorl	%esi, %esi
	xorl	%edx, %edx
	xorl	%r10d, %r10d
	xorl	%r8d, %r8d
	xorl	%r9d, %r9d
	leaq	2f(%rip), %r15
	.balign	64
1:	movq	%r12, %rax
	movq	%r14, %r11
	movq	%r15, %rcx
	jmp	*%r13
2:	decq	%rbx
	jnz	1b
	cmpq	%rbp, %rsp
	jne	3f
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret
3:	ud2

/*
 * void add_chain(long count)
 *
 * count times 64 additions that wait for one another: one core cycle each, on every core there is.
 */
	.balign	64
	.globl	add_chain
add_chain:
	xorl	%eax, %eax
1:	.rept	64
	addq	$1, %rax
	.endr
	decq	%rdi
	jnz	1b
	ret

	.section .note.GNU-stack, "", @progbits
