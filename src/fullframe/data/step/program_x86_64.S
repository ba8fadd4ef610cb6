/* The parts of the stepped program whose registers matter, for x86-64. The stack is a static one,
 * so that every value is the same in every run. */

	.text
	.globl	_start
_start:
	.cfi_startproc
	.cfi_undefined %rip
	xor	%ebp, %ebp
	mov	(%rsp), %rsi
	lea	8(%rsp), %rdx
	mov	%rsp, %rax
	and	$-16, %rsp
	push	%rax		/* 16-byte alignment at the call */
	push	%rax		/* end of the stack */
	mov	$main, %edi
	xor	%ecx, %ecx
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	/* __libc_start_main(main, argc, argv, init, fini, rtld_fini, stack_end) */
	call	*__libc_start_main@GOTPCREL(%rip)
	hlt
	.cfi_endproc
	.size	_start, . - _start

	.macro	load_registers
	mov	$step_stack + 8192 * 8, %esp
	mov	step_registers + 8(%rip), %rcx
	mov	step_registers + 16(%rip), %rdx
	mov	step_registers + 24(%rip), %rbx
	mov	step_registers + 40(%rip), %rbp
	mov	step_registers + 48(%rip), %rsi
	mov	step_registers + 56(%rip), %rdi
	mov	step_registers + 64(%rip), %r8
	mov	step_registers + 72(%rip), %r9
	mov	step_registers + 80(%rip), %r10
	mov	step_registers + 88(%rip), %r11
	mov	step_registers + 96(%rip), %r12
	mov	step_registers + 104(%rip), %r13
	mov	step_registers + 112(%rip), %r14
	mov	step_registers + 120(%rip), %r15
	mov	step_registers + 0(%rip), %rax
	.endm

	/* Calls step_target. The breakpoint tells the driver that the next instruction is the call. */
	.globl	step_call, step_call_site, step_returned
	.type	step_call, @function
step_call:
	.cfi_startproc
	.cfi_undefined %rip
	load_registers
	int3
step_call_site:
	call	*step_target(%rip)
step_returned:
	int3
	hlt
	.cfi_endproc
	.size	step_call, . - step_call

	/* Calls what is interrupted, at its first instruction. Whoever takes that for one behind a call
	 * and looks one byte before it finds the rows of this function, in which nobody has a caller. */
	.globl	step_interrupt, step_interrupt_site, step_interrupted, step_resumed
	.type	step_interrupt, @function
step_interrupt:
	.cfi_startproc
	.cfi_undefined %rip
	load_registers
	stc			/* the handler clears it */
	int3
step_interrupt_site:
	call	step_interrupted
step_resumed:
	int3
	hlt
	.cfi_endproc
	.size	step_interrupt, . - step_interrupt

	.type	step_interrupted, @function
step_interrupted:
	.cfi_startproc
	nop
	ret
	.cfi_endproc
	.size	step_interrupted, . - step_interrupted

	/* The signal handler: returns to the trampoline. */
	.globl	step_handler, step_handler_end
	.type	step_handler, @function
step_handler:
	.cfi_startproc
	xor	%eax, %eax	/* other flags than the interrupted code's */
	ret
step_handler_end:
	.cfi_endproc
	.size	step_handler, . - step_handler

	.section .note.GNU-stack, "", @progbits
