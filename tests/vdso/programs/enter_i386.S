/*
 * void enter(void *entry, const long before[7], long after[7]): call an entry into the kernel with
 * eax ebx ecx edx esi edi ebp from memory, and put there what they hold afterwards.
 */
	.text
	.globl	enter
	.type	enter, @function
enter:
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
	movl	24(%esp), %ebp			# before
	pushl	20(%esp)			# entry
	.cfi_def_cfa_offset 24
	movl	0(%ebp), %eax
	movl	4(%ebp), %ebx
	movl	8(%ebp), %ecx
	movl	12(%ebp), %edx
	movl	16(%ebp), %esi
	movl	20(%ebp), %edi
	movl	24(%ebp), %ebp
	call	*(%esp)
	pushl	%ebp
	.cfi_def_cfa_offset 28
	movl	36(%esp), %ebp			# after
	movl	%eax, 0(%ebp)
	movl	%ebx, 4(%ebp)
	movl	%ecx, 8(%ebp)
	movl	%edx, 12(%ebp)
	movl	%esi, 16(%ebp)
	movl	%edi, 20(%ebp)
	popl	24(%ebp)
	.cfi_def_cfa_offset 24
	addl	$4, %esp
	.cfi_def_cfa_offset 20
	popl	%edi
	.cfi_def_cfa_offset 16
	.cfi_restore %edi
	popl	%esi
	.cfi_def_cfa_offset 12
	.cfi_restore %esi
	popl	%ebx
	.cfi_def_cfa_offset 8
	.cfi_restore %ebx
	popl	%ebp
	.cfi_def_cfa_offset 4
	.cfi_restore %ebp
	ret
	.cfi_endproc
	.size	enter, . - enter
	.section .note.GNU-stack, "", @progbits
