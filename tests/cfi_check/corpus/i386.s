# Correct hand-written i386 functions with call-frame information.
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

# Takes its two arguments off the stack.
	.globl	takes_two
	.type	takes_two, @function
	.p2align 4
takes_two:
	.cfi_startproc
	movl	4(%esp), %eax
	addl	8(%esp), %eax
	ret	$8
	.cfi_endproc
	.size	takes_two, .-takes_two

# Calls a function that pops its arguments.
	.globl	calls_one_that_pops
	.type	calls_one_that_pops, @function
	.p2align 4
calls_one_that_pops:
	.cfi_startproc
	pushl	%ebx
	.cfi_def_cfa_offset 8
	.cfi_offset %ebx, -8
	movl	8(%esp), %ebx
	pushl	$2
	.cfi_def_cfa_offset 12
	pushl	%ebx
	.cfi_def_cfa_offset 16
	call	takes_two
	.cfi_def_cfa_offset 8
	movl	%eax, %ebx
	popl	%ebx
	.cfi_restore %ebx
	.cfi_def_cfa_offset 4
	ret
	.cfi_endproc
	.size	calls_one_that_pops, .-calls_one_that_pops

# The same with a callee of which nothing is known: the row behind the call tells.
	.globl	calls_unknown_that_pops
	.type	calls_unknown_that_pops, @function
	.p2align 4
calls_unknown_that_pops:
	.cfi_startproc
	subl	$12, %esp
	.cfi_def_cfa_offset 16
	subl	$8, %esp
	.cfi_def_cfa_offset 24
	pushl	$1
	.cfi_def_cfa_offset 28
	pushl	$2
	.cfi_def_cfa_offset 32
	call	stdcall_elsewhere
	.cfi_def_cfa_offset 24
	addl	$8, %esp
	.cfi_def_cfa_offset 16
	addl	$12, %esp
	.cfi_def_cfa_offset 4
	ret
	.cfi_endproc
	.size	calls_unknown_that_pops, .-calls_unknown_that_pops

# Four pushes, a frame, arguments on the stack, four pops.
	.globl	push_pop
	.type	push_pop, @function
	.p2align 4
push_pop:
	.cfi_startproc
	pushl	%ebp
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %ebp, 0
	pushl	%edi
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %edi, 0
	pushl	%esi
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %esi, 0
	pushl	%ebx
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %ebx, 0
	subl	$28, %esp
	.cfi_adjust_cfa_offset 28
	movl	48(%esp), %ebx
	movl	52(%esp), %esi
	movl	%ebx, %edi
	movl	%esi, %ebp
	pushl	%ebx
	.cfi_adjust_cfa_offset 4
	call	sink
	addl	$4, %esp
	.cfi_adjust_cfa_offset -4
	addl	$28, %esp
	.cfi_adjust_cfa_offset -28
	popl	%ebx
	.cfi_adjust_cfa_offset -4
	.cfi_restore %ebx
	popl	%esi
	.cfi_adjust_cfa_offset -4
	.cfi_restore %esi
	popl	%edi
	.cfi_adjust_cfa_offset -4
	.cfi_restore %edi
	popl	%ebp
	.cfi_adjust_cfa_offset -4
	.cfi_restore %ebp
	ret
	.cfi_endproc
	.size	push_pop, .-push_pop

# A big-number kernel with every register in use.
	.globl	bignum_add
	.type	bignum_add, @function
	.p2align 4
bignum_add:
	.cfi_startproc
	pushl	%ebp
	.cfi_def_cfa_offset 8
	.cfi_offset %ebp, -8
	pushl	%ebx
	.cfi_def_cfa_offset 12
	.cfi_offset %ebx, -12
	pushl	%esi
	.cfi_def_cfa_offset 16
	.cfi_offset %esi, -16
	pushl	%edi
	.cfi_def_cfa_offset 20
	.cfi_offset %edi, -20
	movl	20(%esp), %edi
	movl	24(%esp), %esi
	movl	$3, %ebp
	xorl	%ebx, %ebx
.Lbignum_next:
	movl	(%esi), %eax
	addl	%ebx, %eax
	movl	$0, %ebx
	adcl	$0, %ebx
	movl	%eax, (%edi)
	leal	4(%esi), %esi
	leal	4(%edi), %edi
	decl	%ebp
	jnz	.Lbignum_next
	movl	%ebx, %eax
	popl	%edi
	.cfi_restore %edi
	.cfi_def_cfa_offset 16
	popl	%esi
	.cfi_restore %esi
	.cfi_def_cfa_offset 12
	popl	%ebx
	.cfi_restore %ebx
	.cfi_def_cfa_offset 8
	popl	%ebp
	.cfi_restore %ebp
	.cfi_def_cfa_offset 4
	ret
	.cfi_endproc
	.size	bignum_add, .-bignum_add

# Frame pointer with two ways out.
	.globl	framed_early
	.type	framed_early, @function
	.p2align 4
framed_early:
	.cfi_startproc
	pushl	%ebp
	.cfi_def_cfa_offset 8
	.cfi_offset %ebp, -8
	movl	%esp, %ebp
	.cfi_def_cfa_register %ebp
	pushl	%esi
	.cfi_offset %esi, -12
	subl	$20, %esp
	movl	8(%ebp), %esi
	testl	%esi, %esi
	jne	.Lframed_work
	.cfi_remember_state
	movl	-4(%ebp), %esi
	.cfi_restore %esi
	leave
	.cfi_restore %ebp
	.cfi_def_cfa %esp, 4
	ret
.Lframed_work:
	.cfi_restore_state
	call	sink
	addl	$20, %esp
	popl	%esi
	.cfi_restore %esi
	popl	%ebp
	.cfi_restore %ebp
	.cfi_def_cfa %esp, 4
	ret
	.cfi_endproc
	.size	framed_early, .-framed_early

# The thunk that loads the program counter, and its use.
	.globl	__x86.get_pc_thunk.bx
	.type	__x86.get_pc_thunk.bx, @function
	.p2align 4
# As compilers write it: its callers know that it loads ebx, and no rule says so.
__x86.get_pc_thunk.bx:
	.cfi_startproc
	movl	(%esp), %ebx
	ret
	.cfi_endproc
	.size	__x86.get_pc_thunk.bx, .-__x86.get_pc_thunk.bx

	.globl	uses_thunk
	.type	uses_thunk, @function
	.p2align 4
uses_thunk:
	.cfi_startproc
	pushl	%ebx
	.cfi_def_cfa_offset 8
	.cfi_offset %ebx, -8
	call	__x86.get_pc_thunk.bx
	addl	$16, %ebx
	movl	%ebx, %eax
	popl	%ebx
	.cfi_restore %ebx
	.cfi_def_cfa_offset 4
	ret
	.cfi_endproc
	.size	uses_thunk, .-uses_thunk

# Reads its own address by a call of the next instruction.
	.globl	reads_its_address
	.type	reads_its_address, @function
	.p2align 4
reads_its_address:
	.cfi_startproc
	call	.Lnext_instruction
.Lnext_instruction:
	.cfi_adjust_cfa_offset 4
	popl	%ecx
	.cfi_adjust_cfa_offset -4
	movl	%ecx, %eax
	ret
	.cfi_endproc
	.size	reads_its_address, .-reads_its_address

# GCC's way with a realigned stack, as in main.
	.globl	realigned_drap
	.type	realigned_drap, @function
	.p2align 4
realigned_drap:
	.cfi_startproc
	leal	4(%esp), %ecx
	.cfi_def_cfa %ecx, 0
	andl	$-16, %esp
	pushl	-4(%ecx)
	pushl	%ebp
	movl	%esp, %ebp
	# DW_CFA_expression ebp: breg5 ebp+0
	.cfi_escape 0x10, 0x05, 0x02, 0x75, 0x00
	pushl	%ecx
	# DW_CFA_def_cfa_expression: breg5 ebp-4, deref
	.cfi_escape 0x0f, 0x03, 0x75, 0x7c, 0x06
	subl	$20, %esp
	call	sink
	movl	-4(%ebp), %ecx
	.cfi_def_cfa %ecx, 0
	leave
	.cfi_restore %ebp
	leal	-4(%ecx), %esp
	.cfi_def_cfa %esp, 4
	ret
	.cfi_endproc
	.size	realigned_drap, .-realigned_drap

# The fast system-call entry of a vDSO.
	.globl	system_call_entry
	.type	system_call_entry, @function
	.p2align 4
system_call_entry:
	.cfi_startproc
	pushl	%ecx
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %ecx, 0
	pushl	%edx
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %edx, 0
	pushl	%ebp
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %ebp, 0
	movl	%esp, %ebp
	sysenter
	int	$0x80
	popl	%ebp
	.cfi_restore %ebp
	.cfi_adjust_cfa_offset -4
	popl	%edx
	.cfi_restore %edx
	.cfi_adjust_cfa_offset -4
	popl	%ecx
	.cfi_restore %ecx
	.cfi_adjust_cfa_offset -4
	ret
	.cfi_endproc
	.size	system_call_entry, .-system_call_entry

# Six arguments in registers around a system call, in the C library's manner.
	.globl	six_arguments
	.type	six_arguments, @function
	.p2align 4
six_arguments:
	.cfi_startproc
	pushl	%ebp
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %ebp, 0
	pushl	%edi
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %edi, 0
	pushl	%esi
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %esi, 0
	pushl	%ebx
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset %ebx, 0
	movl	40(%esp), %ebp
	movl	36(%esp), %edi
	movl	32(%esp), %esi
	movl	28(%esp), %edx
	movl	24(%esp), %ecx
	movl	20(%esp), %ebx
	movl	$192, %eax
	int	$0x80
	popl	%ebx
	.cfi_adjust_cfa_offset -4
	.cfi_restore %ebx
	popl	%esi
	.cfi_adjust_cfa_offset -4
	.cfi_restore %esi
	popl	%edi
	.cfi_adjust_cfa_offset -4
	.cfi_restore %edi
	popl	%ebp
	.cfi_adjust_cfa_offset -4
	.cfi_restore %ebp
	ret
	.cfi_endproc
	.size	six_arguments, .-six_arguments

# Saves by mov into a frame made beforehand.
	.globl	mov_saves
	.type	mov_saves, @function
	.p2align 4
mov_saves:
	.cfi_startproc
	subl	$28, %esp
	.cfi_adjust_cfa_offset 28
	movl	%ebx, 16(%esp)
	.cfi_rel_offset %ebx, 16
	movl	%esi, 20(%esp)
	.cfi_rel_offset %esi, 20
	movl	%edi, 24(%esp)
	.cfi_rel_offset %edi, 24
	movl	32(%esp), %ebx
	movl	%ebx, %esi
	movl	%esi, %edi
	call	sink
	movl	16(%esp), %ebx
	.cfi_restore %ebx
	movl	20(%esp), %esi
	.cfi_restore %esi
	movl	24(%esp), %edi
	.cfi_restore %edi
	addl	$28, %esp
	.cfi_adjust_cfa_offset -28
	ret
	.cfi_endproc
	.size	mov_saves, .-mov_saves

# A callee-saved register kept in a scratch register, and in a vector register.
	.globl	kept_in_register
	.type	kept_in_register, @function
	.p2align 4
kept_in_register:
	.cfi_startproc
	movl	%ebx, %edx
	.cfi_register %ebx, %edx
	movd	%esi, %xmm1
	.cfi_register %esi, %xmm1
	movl	4(%esp), %ebx
	movl	%ebx, %esi
	movl	%esi, %eax
	movl	%edx, %ebx
	.cfi_restore %ebx
	movd	%xmm1, %esi
	.cfi_restore %esi
	ret
	.cfi_endproc
	.size	kept_in_register, .-kept_in_register

# pusha, popa.
	.globl	pushes_all
	.type	pushes_all, @function
	.p2align 4
pushes_all:
	.cfi_startproc
	pusha
	.cfi_adjust_cfa_offset 32
	.cfi_rel_offset %edi, 0
	.cfi_rel_offset %esi, 4
	.cfi_rel_offset %ebp, 8
	.cfi_rel_offset %ebx, 16
	movl	36(%esp), %ebx
	movl	%ebx, %esi
	movl	%ebx, %edi
	movl	%ebx, %ebp
	call	sink
	popa
	.cfi_adjust_cfa_offset -32
	.cfi_restore %edi
	.cfi_restore %esi
	.cfi_restore %ebp
	.cfi_restore %ebx
	ret
	.cfi_endproc
	.size	pushes_all, .-pushes_all

# A switch through a table of addresses.
	.globl	switch_absolute
	.type	switch_absolute, @function
	.p2align 4
switch_absolute:
	.cfi_startproc
	subl	$12, %esp
	.cfi_def_cfa_offset 16
	movl	16(%esp), %eax
	cmpl	$2, %eax
	ja	.Labsolute_default
	jmp	*.Labsolute_table(,%eax,4)
.Labsolute_0:
	movl	$20, %eax
	.cfi_remember_state
	addl	$12, %esp
	.cfi_def_cfa_offset 4
	ret
.Labsolute_1:
	.cfi_restore_state
	call	sink
.Labsolute_2:
.Labsolute_default:
	addl	$12, %esp
	.cfi_def_cfa_offset 4
	ret
	.cfi_endproc
	.size	switch_absolute, .-switch_absolute
	.section .rodata
	.p2align 2
.Labsolute_table:
	.long	.Labsolute_0
	.long	.Labsolute_1
	.long	.Labsolute_2
	.text

# The old signal trampoline: the handler's argument is popped first.
	.globl	restore_old
	.type	restore_old, @function
	.p2align 4
	.cfi_startproc
	.cfi_signal_frame
	# DW_CFA_def_cfa_expression: breg4 esp+distance, deref; DW_CFA_expression for the registers
	# CFA; eax, ecx, edx, ebx, ebp, esi, edi, eip
	.cfi_escape 0x0f, 0x03, 0x74, 0x20, 0x06
	.cfi_escape 0x10, 0x00, 0x02, 0x74, 0x30
	.cfi_escape 0x10, 0x01, 0x02, 0x74, 0x2c
	.cfi_escape 0x10, 0x02, 0x02, 0x74, 0x28
	.cfi_escape 0x10, 0x03, 0x02, 0x74, 0x24
	.cfi_escape 0x10, 0x05, 0x02, 0x74, 0x1c
	.cfi_escape 0x10, 0x06, 0x02, 0x74, 0x18
	.cfi_escape 0x10, 0x07, 0x02, 0x74, 0x14
	.cfi_escape 0x10, 0x08, 0x02, 0x74, 0x3c
	nop
restore_old:
	popl	%eax
	# CFA; eax, ecx, edx, ebx, ebp, esi, edi, eip
	.cfi_escape 0x0f, 0x03, 0x74, 0x1c, 0x06
	.cfi_escape 0x10, 0x00, 0x02, 0x74, 0x2c
	.cfi_escape 0x10, 0x01, 0x02, 0x74, 0x28
	.cfi_escape 0x10, 0x02, 0x02, 0x74, 0x24
	.cfi_escape 0x10, 0x03, 0x02, 0x74, 0x20
	.cfi_escape 0x10, 0x05, 0x02, 0x74, 0x18
	.cfi_escape 0x10, 0x06, 0x02, 0x74, 0x14
	.cfi_escape 0x10, 0x07, 0x02, 0x74, 0x10
	.cfi_escape 0x10, 0x08, 0x02, 0x74, 0x38
	movl	$119, %eax
	int	$0x80
	.cfi_endproc
	.size	restore_old, .-restore_old

# The newer signal trampoline.
	.globl	restore_rt
	.type	restore_rt, @function
	.p2align 4
	.cfi_startproc
	.cfi_signal_frame
	# DW_CFA_def_cfa_expression: breg4 esp+188, deref
	.cfi_escape 0x0f, 0x04, 0x74, 0xbc, 0x01, 0x06
	# eax, ecx, edx, ebx, esp, ebp, esi, edi, eip
	.cfi_escape 0x10, 0x00, 0x03, 0x74, 0xcc, 0x01
	.cfi_escape 0x10, 0x01, 0x03, 0x74, 0xc8, 0x01
	.cfi_escape 0x10, 0x02, 0x03, 0x74, 0xc4, 0x01
	.cfi_escape 0x10, 0x03, 0x03, 0x74, 0xc0, 0x01
	.cfi_escape 0x10, 0x05, 0x03, 0x74, 0xb8, 0x01
	.cfi_escape 0x10, 0x06, 0x03, 0x74, 0xb4, 0x01
	.cfi_escape 0x10, 0x07, 0x03, 0x74, 0xb0, 0x01
	.cfi_escape 0x10, 0x08, 0x03, 0x74, 0xd8, 0x01
	nop
restore_rt:
	movl	$173, %eax
	int	$0x80
	.cfi_endproc
	.size	restore_rt, .-restore_rt

# What the linker makes for lazy binding.
	.section .plt, "ax", @progbits
	.p2align 4
	.type	stubs, @function
stubs:
	.cfi_startproc
	.cfi_def_cfa_offset 8
	pushl	resolver
	.cfi_def_cfa_offset 12
	jmp	*resolver+4
	nopl	0(%eax)
	# DW_CFA_def_cfa_expression: breg4 esp+4, breg8 eip+0, lit15, and, lit11, ge, lit2, shl, plus
	.cfi_escape 0x0f, 0x0b, 0x74, 0x04, 0x78, 0x00, 0x3f, 0x1a, 0x3b, 0x2a, 0x32, 0x24, 0x22
	.p2align 4
	jmp	*resolver+8
	.byte	0x68
	.long	0
	.byte	0xe9
	.long	stubs-.-4
	jmp	*resolver+12
	.byte	0x68
	.long	8
	.byte	0xe9
	.long	stubs-.-4
	.cfi_endproc
	.size	stubs, .-stubs
	.text

	.bss
resolver:
	.skip	64
	.section .note.GNU-stack, "", @progbits
