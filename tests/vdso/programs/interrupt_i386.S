/*
 * void interrupt(const unsigned long before[8], unsigned long after[8]): load every register, trap,
 * and store every register; by DWARF number, esp left out.
 */
	.text
	.globl	interrupt
	.type	interrupt, @function
interrupt:
	.cfi_startproc
	pushl	%ebx
	.cfi_def_cfa_offset 8
	.cfi_offset %ebx, -8
	pushl	%ebp
	.cfi_def_cfa_offset 12
	.cfi_offset %ebp, -12
	pushl	%esi
	.cfi_def_cfa_offset 16
	.cfi_offset %esi, -16
	pushl	%edi
	.cfi_def_cfa_offset 20
	.cfi_offset %edi, -20
	movl	20(%esp), %eax			# before
	pushl	24(%esp)			# after
	.cfi_def_cfa_offset 24
	call	1f				# position-independent
	.cfi_def_cfa_offset 28
1:	popl	%ecx
	.cfi_def_cfa_offset 24
	addl	$_GLOBAL_OFFSET_TABLE_ + (. - 1b), %ecx
	movl	interrupted_sp@GOT(%ecx), %ecx
	movl	%esp, (%ecx)
	movl	4(%eax), %ecx
	movl	8(%eax), %edx
	movl	12(%eax), %ebx
	movl	20(%eax), %ebp
	movl	24(%eax), %esi
	movl	28(%eax), %edi
	movl	0(%eax), %eax
	int3
	xchgl	%edi, (%esp)
	movl	%eax, 0(%edi)
	movl	%ecx, 4(%edi)
	movl	%edx, 8(%edi)
	movl	%ebx, 12(%edi)
	movl	%ebp, 20(%edi)
	movl	%esi, 24(%edi)
	popl	28(%edi)
	popl	%edi
	popl	%esi
	popl	%ebp
	popl	%ebx
	ret
	.cfi_endproc
	.size	interrupt, . - interrupt
	.section .note.GNU-stack, "", @progbits
