# Correct hand-written functions with call-frame information for x32: 32-bit pointers in the
# 64-bit machine. Stack slots stay 8 bytes wide, and the DWARF registers are those of x86-64.
	.text

	.globl	sink
	.type	sink, @function
	.p2align 4
sink:
	.cfi_startproc
	xorl	%eax, %eax
	ret
	.cfi_endproc
	.size	sink, .-sink

	.globl	push_pop
	.type	push_pop, @function
	.p2align 4
push_pop:
	.cfi_startproc
	pushq	%r13
	.cfi_def_cfa_offset 16
	.cfi_offset %r13, -16
	pushq	%r12
	.cfi_def_cfa_offset 24
	.cfi_offset %r12, -24
	pushq	%rbp
	.cfi_def_cfa_offset 32
	.cfi_offset %rbp, -32
	pushq	%rbx
	.cfi_def_cfa_offset 40
	.cfi_offset %rbx, -40
	subl	$8, %esp
	.cfi_def_cfa_offset 48
	movl	%edi, %ebx
	movl	%esi, %ebp
	movl	%edi, %r12d
	movl	%edi, %r13d
	call	sink
	addl	$8, %esp
	.cfi_def_cfa_offset 40
	popq	%rbx
	.cfi_restore %rbx
	.cfi_def_cfa_offset 32
	popq	%rbp
	.cfi_restore %rbp
	.cfi_def_cfa_offset 24
	popq	%r12
	.cfi_restore %r12
	.cfi_def_cfa_offset 16
	popq	%r13
	.cfi_restore %r13
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	push_pop, .-push_pop

	.globl	framed
	.type	framed, @function
	.p2align 4
framed:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	movl	%esp, %ebp
	.cfi_def_cfa_register %rbp
	pushq	%rbx
	.cfi_offset %rbx, -24
	movl	%edi, %ebx
	subl	$24, %esp
	testl	%edi, %edi
	jne	.Lframed_work
	.cfi_remember_state
	movq	-8(%ebp), %rbx
	.cfi_restore %rbx
	leave
	.cfi_restore %rbp
	.cfi_def_cfa %rsp, 8
	ret
.Lframed_work:
	.cfi_restore_state
	call	sink
	movq	-8(%ebp), %rbx
	.cfi_restore %rbx
	leave
	.cfi_restore %rbp
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	framed, .-framed

	.globl	realigned
	.type	realigned, @function
	.p2align 4
realigned:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	movl	%esp, %ebp
	.cfi_def_cfa_register %rbp
	andl	$-64, %esp
	subl	$64, %esp
	call	sink
	leave
	.cfi_restore %rbp
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	realigned, .-realigned

# The signal trampoline of x32: the number carries the x32 bit.
	.globl	restore_rt
	.type	restore_rt, @function
	.p2align 4
	.cfi_startproc
	.cfi_signal_frame
	# DW_CFA_def_cfa_expression: breg7 rsp+160, deref_size 8
	.cfi_escape 0x0f, 0x05, 0x77, 0xa0, 0x01, 0x94, 0x08
	# DW_CFA_expression r8 to r15: breg7 rsp+40 and the following words
	.cfi_escape 0x10, 0x08, 0x02, 0x77, 0x28
	.cfi_escape 0x10, 0x09, 0x02, 0x77, 0x30
	.cfi_escape 0x10, 0x0a, 0x02, 0x77, 0x38
	.cfi_escape 0x10, 0x0b, 0x03, 0x77, 0xc0, 0x00
	.cfi_escape 0x10, 0x0c, 0x03, 0x77, 0xc8, 0x00
	.cfi_escape 0x10, 0x0d, 0x03, 0x77, 0xd0, 0x00
	.cfi_escape 0x10, 0x0e, 0x03, 0x77, 0xd8, 0x00
	.cfi_escape 0x10, 0x0f, 0x03, 0x77, 0xe0, 0x00
	# rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip
	.cfi_escape 0x10, 0x05, 0x03, 0x77, 0xe8, 0x00
	.cfi_escape 0x10, 0x04, 0x03, 0x77, 0xf0, 0x00
	.cfi_escape 0x10, 0x06, 0x03, 0x77, 0xf8, 0x00
	.cfi_escape 0x10, 0x03, 0x03, 0x77, 0x80, 0x01
	.cfi_escape 0x10, 0x01, 0x03, 0x77, 0x88, 0x01
	.cfi_escape 0x10, 0x00, 0x03, 0x77, 0x90, 0x01
	.cfi_escape 0x10, 0x02, 0x03, 0x77, 0x98, 0x01
	.cfi_escape 0x10, 0x07, 0x03, 0x77, 0xa0, 0x01
	.cfi_escape 0x10, 0x10, 0x03, 0x77, 0xa8, 0x01
	nop
restore_rt:
	movl	$0x40000201, %eax
	syscall
	.cfi_endproc
	.size	restore_rt, .-restore_rt
	.section .note.GNU-stack, "", @progbits
