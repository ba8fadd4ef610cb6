/* The parts of the stepped program whose registers matter, for i386. The stack is a static one, so
 * that every value is the same in every run. */

	.text
	.globl	_start
_start:
	.cfi_startproc
	.cfi_undefined %eip
	xor	%ebp, %ebp
	mov	(%esp), %eax
	lea	4(%esp), %esi
	mov	%esp, %ecx
	and	$-16, %esp
	/* __libc_start_main(main, argc, argv, init, fini, rtld_fini, stack_end) */
	sub	$4, %esp	/* 16-byte alignment at the call */
	push	%ecx
	push	$0
	push	$0
	push	$0
	push	%esi
	push	%eax
	push	$main
	call	__libc_start_main
	hlt
	.cfi_endproc
	.size	_start, . - _start

	.macro	load_registers
	mov	$step_stack + 8192 * 4, %esp
	mov	step_registers + 0, %eax
	mov	step_registers + 4, %ecx
	mov	step_registers + 8, %edx
	mov	step_registers + 12, %ebx
	mov	step_registers + 20, %ebp
	mov	step_registers + 24, %esi
	mov	step_registers + 28, %edi
	.endm

	/* Calls step_target. The breakpoint tells the driver that the next instruction is the call. */
	.globl	step_call, step_call_site, step_returned
	.type	step_call, @function
step_call:
	.cfi_startproc
	.cfi_undefined %eip
	load_registers
	int3
step_call_site:
	call	*step_target
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
	.cfi_undefined %eip
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
