# Correct hand-written functions with call-frame information, one for every shape in which such
# code is found. The directives are the subject of the mutation tests: each stands right behind
# the instruction that makes it true.
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

# Six pushes, a frame, a call, six pops.
	.globl	push_pop
	.type	push_pop, @function
	.p2align 4
push_pop:
	.cfi_startproc
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r15, 0
	pushq	%r14
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r14, 0
	pushq	%r13
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r13, 0
	pushq	%r12
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r12, 0
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbp, 0
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbx, 0
	subq	$24, %rsp
	.cfi_adjust_cfa_offset 24
	movq	%rdi, %rbx
	movq	%rsi, %rbp
	movl	$12, %r12d
	movl	$13, %r13d
	movl	$14, %r14d
	movl	$15, %r15d
	call	sink
	addq	%rbx, %rax
	addq	$24, %rsp
	.cfi_adjust_cfa_offset -24
	popq	%rbx
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbx
	popq	%rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbp
	popq	%r12
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r12
	popq	%r13
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r13
	popq	%r14
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r14
	popq	%r15
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r15
	ret
	.cfi_endproc
	.size	push_pop, .-push_pop

# A big-number kernel: pushes at the top, loads from fixed slots and one lea at the bottom.
	.globl	bignum_mul
	.type	bignum_mul, @function
	.p2align 4
bignum_mul:
	.cfi_startproc
	pushq	%rbx
	.cfi_def_cfa_offset 16
	.cfi_offset %rbx, -16
	pushq	%rbp
	.cfi_def_cfa_offset 24
	.cfi_offset %rbp, -24
	pushq	%r12
	.cfi_def_cfa_offset 32
	.cfi_offset %r12, -32
	pushq	%r13
	.cfi_def_cfa_offset 40
	.cfi_offset %r13, -40
	subq	$64, %rsp
	.cfi_def_cfa_offset 104
	movq	%rdx, %rbp
	xorl	%r12d, %r12d
	movl	$3, %ecx
.Lbignum_next:
	movq	(%rsi), %rax
	mulq	%rbp
	movq	%rax, %rbx
	addq	%r12, %rbx
	adcq	$0, %rdx
	movq	%rdx, %r12
	movq	%rbx, (%rsp,%rcx,8)
	movq	%rbx, %r13
	leaq	8(%rsi), %rsi
	decl	%ecx
	jnz	.Lbignum_next
	movq	%r13, (%rdi)
	leaq	104(%rsp), %rsi
	.cfi_def_cfa %rsi, 0
	movq	-40(%rsi), %r13
	.cfi_restore %r13
	movq	-32(%rsi), %r12
	.cfi_restore %r12
	movq	-24(%rsi), %rbp
	.cfi_restore %rbp
	movq	-16(%rsi), %rbx
	.cfi_restore %rbx
	leaq	-8(%rsi), %rsp
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	bignum_mul, .-bignum_mul

# A realigned frame whose old stack pointer lies in the frame itself: the CFA is an expression.
	.globl	bignum_realigned
	.type	bignum_realigned, @function
	.p2align 4
bignum_realigned:
	.cfi_startproc
	movq	%rsp, %rax
	.cfi_def_cfa_register %rax
	pushq	%rbx
	.cfi_offset %rbx, -16
	pushq	%rbp
	.cfi_offset %rbp, -24
	pushq	%r12
	.cfi_offset %r12, -32
	subq	$256, %rsp
	andq	$-64, %rsp
	movq	%rax, 152(%rsp)
	# DW_CFA_def_cfa_expression: breg7 rsp+152, deref, plus_uconst 8
	.cfi_escape 0x0f, 0x06, 0x77, 0x98, 0x01, 0x06, 0x23, 0x08
	movl	$7, %ebx
	movl	$8, %ebp
	movl	$9, %r12d
	movq	%rbx, 8(%rsp)
	call	sink
	movq	152(%rsp), %rsi
	.cfi_def_cfa %rsi, 8
	movq	-24(%rsi), %r12
	.cfi_restore %r12
	movq	-16(%rsi), %rbp
	.cfi_restore %rbp
	movq	-8(%rsi), %rbx
	.cfi_restore %rbx
	leaq	(%rsi), %rsp
	.cfi_def_cfa_register %rsp
	ret
	.cfi_endproc
	.size	bignum_realigned, .-bignum_realigned

# An early return in the middle, with the state remembered and restored around it.
	.globl	early_return
	.type	early_return, @function
	.p2align 4
early_return:
	.cfi_startproc
	pushq	%rbx
	.cfi_def_cfa_offset 16
	.cfi_offset %rbx, -16
	pushq	%r12
	.cfi_def_cfa_offset 24
	.cfi_offset %r12, -24
	subq	$8, %rsp
	.cfi_def_cfa_offset 32
	movq	%rdi, %rbx
	movq	%rdi, %r12
	testq	%rdi, %rdi
	jne	.Learly_work
	.cfi_remember_state
	addq	$8, %rsp
	.cfi_def_cfa_offset 24
	popq	%r12
	.cfi_restore %r12
	.cfi_def_cfa_offset 16
	popq	%rbx
	.cfi_restore %rbx
	.cfi_def_cfa_offset 8
	ret
.Learly_work:
	.cfi_restore_state
	call	sink
	leaq	(%rbx,%rax), %rax
	addq	$8, %rsp
	.cfi_def_cfa_offset 24
	popq	%r12
	.cfi_restore %r12
	.cfi_def_cfa_offset 16
	popq	%rbx
	.cfi_restore %rbx
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	early_return, .-early_return

# Frame pointer, leave.
	.globl	framed
	.type	framed, @function
	.p2align 4
framed:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	movq	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	pushq	%r14
	.cfi_offset %r14, -24
	subq	$40, %rsp
	movq	%rdi, %r14
	call	sink
	movq	%r14, %rax
	movq	-8(%rbp), %r14
	.cfi_restore %r14
	leave
	.cfi_restore %rbp
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	framed, .-framed

# Frame pointer with two ways out.
	.globl	framed_early
	.type	framed_early, @function
	.p2align 4
framed_early:
	.cfi_startproc
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbp, 0
	movq	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	pushq	%r15
	.cfi_offset %r15, -24
	pushq	%rbx
	.cfi_offset %rbx, -32
	movq	%rdi, %rbx
	movq	%rsi, %r15
	cmpq	%rbx, %r15
	jbe	.Lframed_less
	.cfi_remember_state
	popq	%rbx
	.cfi_restore %rbx
	popq	%r15
	.cfi_restore %r15
	popq	%rbp
	.cfi_restore %rbp
	.cfi_def_cfa %rsp, 8
	ret
.Lframed_less:
	.cfi_restore_state
	movq	%rbx, %rdi
	call	sink
	movq	-16(%rbp), %rbx
	.cfi_restore %rbx
	movq	-8(%rbp), %r15
	.cfi_restore %r15
	movq	%rbp, %rsp
	popq	%rbp
	.cfi_restore %rbp
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	framed_early, .-framed_early

# enter instead of push and mov.
	.globl	entered
	.type	entered, @function
	.p2align 4
entered:
	.cfi_startproc
	enter	$32, $0
	.cfi_def_cfa %rbp, 16
	.cfi_offset %rbp, -16
	movq	%r12, -8(%rbp)
	.cfi_offset %r12, -24
	movl	$1, %r12d
	call	sink
	movq	-8(%rbp), %r12
	.cfi_restore %r12
	leave
	.cfi_restore %rbp
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	entered, .-entered

# GCC's way with a realigned stack: the caller's stack pointer in r10, saved in the frame.
	.globl	realigned_drap
	.type	realigned_drap, @function
	.p2align 4
realigned_drap:
	.cfi_startproc
	leaq	8(%rsp), %r10
	.cfi_def_cfa %r10, 0
	andq	$-32, %rsp
	pushq	-8(%r10)
	pushq	%rbp
	movq	%rsp, %rbp
	# DW_CFA_expression rbp: breg6 rbp+0
	.cfi_escape 0x10, 0x06, 0x02, 0x76, 0x00
	pushq	%r10
	# DW_CFA_def_cfa_expression: breg6 rbp-8, deref
	.cfi_escape 0x0f, 0x03, 0x76, 0x78, 0x06
	pushq	%rbx
	# DW_CFA_expression rbx: breg6 rbp-16
	.cfi_escape 0x10, 0x03, 0x02, 0x76, 0x70
	subq	$32, %rsp
	movl	$5, %ebx
	call	sink
	movq	-8(%rbp), %r10
	.cfi_def_cfa %r10, 0
	movq	-16(%rbp), %rbx
	.cfi_restore %rbx
	leave
	.cfi_restore %rbp
	leaq	-8(%r10), %rsp
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	realigned_drap, .-realigned_drap

# A stack realigned under a frame pointer.
	.globl	realigned_framed
	.type	realigned_framed, @function
	.p2align 4
realigned_framed:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	movq	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	pushq	%r13
	.cfi_offset %r13, -24
	andq	$-16, %rsp
	subq	$64, %rsp
	movl	$3, %r13d
	call	sink
	movq	-8(%rbp), %r13
	.cfi_restore %r13
	movq	%rbp, %rsp
	.cfi_def_cfa_register %rsp
	popq	%rbp
	.cfi_restore %rbp
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	realigned_framed, .-realigned_framed

# Saves in the red zone of a leaf function.
	.globl	red_zone
	.type	red_zone, @function
	.p2align 4
red_zone:
	.cfi_startproc
	movq	%rbx, -8(%rsp)
	.cfi_offset %rbx, -16
	movq	%r12, -16(%rsp)
	.cfi_offset %r12, -24
	movq	%rdi, %rbx
	leaq	(%rdi,%rdi), %r12
	leaq	(%rbx,%r12), %rax
	movq	-8(%rsp), %rbx
	.cfi_restore %rbx
	movq	-16(%rsp), %r12
	.cfi_restore %r12
	ret
	.cfi_endproc
	.size	red_zone, .-red_zone

# Saves by mov into a frame made beforehand.
	.globl	mov_saves
	.type	mov_saves, @function
	.p2align 4
mov_saves:
	.cfi_startproc
	subq	$56, %rsp
	.cfi_adjust_cfa_offset 56
	movq	%rbx, 8(%rsp)
	.cfi_rel_offset %rbx, 8
	movq	%r14, 40(%rsp)
	.cfi_rel_offset %r14, 40
	movq	%r15, 48(%rsp)
	.cfi_rel_offset %r15, 48
	movq	%rdi, %rbx
	movq	%rsi, %r14
	movq	%rdi, %r15
	call	sink
	movq	8(%rsp), %rbx
	.cfi_restore %rbx
	movq	40(%rsp), %r14
	.cfi_restore %r14
	movq	48(%rsp), %r15
	.cfi_restore %r15
	addq	$56, %rsp
	.cfi_adjust_cfa_offset -56
	ret
	.cfi_endproc
	.size	mov_saves, .-mov_saves

# A callee-saved register kept in a scratch register by a leaf function.
	.globl	kept_in_register
	.type	kept_in_register, @function
	.p2align 4
kept_in_register:
	.cfi_startproc
	movq	%rbx, %r8
	.cfi_register %rbx, %r8
	movq	%rbp, %r9
	.cfi_register %rbp, %r9
	movl	$1, %ebx
	movl	$2, %ebp
	leaq	(%rbx,%rbp), %rax
	movq	%r8, %rbx
	.cfi_restore %rbx
	movq	%r9, %rbp
	.cfi_restore %rbp
	ret
	.cfi_endproc
	.size	kept_in_register, .-kept_in_register

# A callee-saved register kept in a vector register.
	.globl	kept_in_vector
	.type	kept_in_vector, @function
	.p2align 4
kept_in_vector:
	.cfi_startproc
	movq	%rbx, %xmm3
	.cfi_register %rbx, %xmm3
	movl	$1, %ebx
	leaq	(%rbx,%rdi), %rax
	movq	%xmm3, %rbx
	.cfi_restore %rbx
	ret
	.cfi_endproc
	.size	kept_in_vector, .-kept_in_vector

# The return address in a register while another value is on the stack.
	.globl	return_in_register
	.type	return_in_register, @function
	.p2align 4
return_in_register:
	.cfi_startproc
	popq	%rdx
	.cfi_adjust_cfa_offset -8
	.cfi_register %rip, %rdx
	movl	$1, %eax
	pushq	%rdx
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rip, -8
	ret
	.cfi_endproc
	.size	return_in_register, .-return_in_register

# Pops everything and jumps to another function.
	.globl	tail_call
	.type	tail_call, @function
	.p2align 4
tail_call:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	pushq	%rbx
	.cfi_def_cfa_offset 24
	.cfi_offset %rbx, -24
	subq	$8, %rsp
	.cfi_def_cfa_offset 32
	movq	%rdi, %rbx
	movq	%rsi, %rbp
	call	ask
	testq	%rax, %rax
	je	.Ltail_other
	.cfi_remember_state
	addq	$8, %rsp
	.cfi_def_cfa_offset 24
	popq	%rbx
	.cfi_restore %rbx
	.cfi_def_cfa_offset 16
	popq	%rbp
	.cfi_restore %rbp
	.cfi_def_cfa_offset 8
	jmp	sink
.Ltail_other:
	.cfi_restore_state
	movq	%rbx, %rdi
	addq	$8, %rsp
	.cfi_def_cfa_offset 24
	popq	%rbx
	.cfi_restore %rbx
	.cfi_def_cfa_offset 16
	popq	%rbp
	.cfi_restore %rbp
	.cfi_def_cfa_offset 8
	jmp	*%rdx
	.cfi_endproc
	.size	tail_call, .-tail_call

# Ends in a call that does not return; another function's code follows.
	.globl	ends_in_abort
	.type	ends_in_abort, @function
	.p2align 4
ends_in_abort:
	.cfi_startproc
	pushq	%rbx
	.cfi_def_cfa_offset 16
	.cfi_offset %rbx, -16
	movq	%rdi, %rbx
	testq	%rbx, %rbx
	jne	.Labort
	.cfi_remember_state
	popq	%rbx
	.cfi_restore %rbx
	.cfi_def_cfa_offset 8
	ret
.Labort:
	.cfi_restore_state
	movq	%rbx, %rdi
	call	abort
	.cfi_endproc
	.size	ends_in_abort, .-ends_in_abort

# A call that does not return in the middle, and a path with another frame behind it.
	.globl	aborts_in_the_middle
	.type	aborts_in_the_middle, @function
	.p2align 4
aborts_in_the_middle:
	.cfi_startproc
	testq	%rdi, %rdi
	je	.Lmiddle_fine
	subq	$8, %rsp
	.cfi_def_cfa_offset 16
	call	abort
.Lmiddle_fine:
	.cfi_def_cfa_offset 8
	movl	$1, %eax
	ret
	.cfi_endproc
	.size	aborts_in_the_middle, .-aborts_in_the_middle

# The same with a callee of which nothing is known: only the shape of the CFI tells.
	.globl	dies_by_shape
	.type	dies_by_shape, @function
	.p2align 4
dies_by_shape:
	.cfi_startproc
	testq	%rdi, %rdi
	je	.Lshape_fine
	pushq	%rax
	.cfi_def_cfa_offset 16
	call	die_quietly
.Lshape_fine:
	.cfi_def_cfa_offset 8
	movl	$1, %eax
	ret
	.cfi_endproc
	.size	dies_by_shape, .-dies_by_shape

# A register that is lost and said to be.
	.globl	says_lost
	.type	says_lost, @function
	.p2align 4
says_lost:
	.cfi_startproc
	.cfi_undefined %rbx
	movl	$1, %ebx
	pushq	%r12
	.cfi_def_cfa_offset 16
	.cfi_offset %r12, -16
	movl	$2, %r12d
	popq	%r12
	.cfi_same_value %r12
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	says_lost, .-says_lost

# The process's first instruction: there is no caller.
	.globl	outermost
	.type	outermost, @function
	.p2align 4
outermost:
	.cfi_startproc
	.cfi_undefined %rip
	xorl	%ebp, %ebp
	movq	%rdx, %r9
	popq	%rsi
	movq	%rsp, %rdx
	andq	$-16, %rsp
	pushq	%rax
	pushq	%rsp
	call	*table(%rip)
	hlt
	.cfi_endproc
	.size	outermost, .-outermost

# A switch through a table of distances.
	.globl	switch_relative
	.type	switch_relative, @function
	.p2align 4
switch_relative:
	.cfi_startproc
	pushq	%rbx
	.cfi_def_cfa_offset 16
	.cfi_offset %rbx, -16
	cmpl	$3, %edi
	ja	.Lrelative_default
	leaq	.Lrelative_table(%rip), %rdx
	movl	%edi, %edi
	movslq	(%rdx,%rdi,4), %rax
	addq	%rdx, %rax
	jmp	*%rax
.Lrelative_0:
	movl	$10, %ebx
	jmp	.Lrelative_done
.Lrelative_1:
	pushq	$1
	.cfi_adjust_cfa_offset 8
	movl	$11, %ebx
	popq	%rcx
	.cfi_adjust_cfa_offset -8
	jmp	.Lrelative_done
.Lrelative_2:
	movl	$12, %ebx
.Lrelative_done:
	movl	%ebx, %eax
.Lrelative_default:
	popq	%rbx
	.cfi_restore %rbx
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	switch_relative, .-switch_relative
	.section .rodata
	.p2align 2
.Lrelative_table:
	.long	.Lrelative_0-.Lrelative_table
	.long	.Lrelative_1-.Lrelative_table
	.long	.Lrelative_2-.Lrelative_table
	.long	.Lrelative_default-.Lrelative_table
	.text

# A switch through a table of addresses.
	.globl	switch_absolute
	.type	switch_absolute, @function
	.p2align 4
switch_absolute:
	.cfi_startproc
	subq	$24, %rsp
	.cfi_def_cfa_offset 32
	cmpq	$2, %rdi
	ja	.Labsolute_default
	jmp	*.Labsolute_table(,%rdi,8)
.Labsolute_0:
	movl	$20, %eax
	addq	$24, %rsp
	.cfi_remember_state
	.cfi_def_cfa_offset 8
	ret
.Labsolute_1:
	.cfi_restore_state
	call	sink
.Labsolute_2:
.Labsolute_default:
	addq	$24, %rsp
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	switch_absolute, .-switch_absolute
	.section .rodata
	.p2align 3
.Labsolute_table:
	.quad	.Labsolute_0
	.quad	.Labsolute_1
	.quad	.Labsolute_2
	.text

# A loop that pushes, and a frame pointer that finds the way back.
	.globl	pushes_in_a_loop
	.type	pushes_in_a_loop, @function
	.p2align 4
pushes_in_a_loop:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	movq	%rsp, %rbp
	.cfi_def_cfa_register %rbp
.Lpush_more:
	pushq	%rdi
	decl	%esi
	jg	.Lpush_more
	movq	(%rsp), %rax
	movq	%rbp, %rsp
	popq	%rbp
	.cfi_restore %rbp
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	pushes_in_a_loop, .-pushes_in_a_loop

# Touches every page of a large frame.
	.globl	probes_the_stack
	.type	probes_the_stack, @function
	.p2align 4
probes_the_stack:
	.cfi_startproc
	leaq	-16384(%rsp), %r11
	.cfi_def_cfa %r11, 16392
.Lprobe_more:
	subq	$4096, %rsp
	orq	$0, (%rsp)
	cmpq	%r11, %rsp
	jne	.Lprobe_more
	.cfi_def_cfa_register %rsp
	subq	$8, %rsp
	.cfi_def_cfa_offset 16400
	call	sink
	addq	$16392, %rsp
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	probes_the_stack, .-probes_the_stack

# Space of a size that is known at run time only.
	.globl	allocates
	.type	allocates, @function
	.p2align 4
allocates:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	movq	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	pushq	%rbx
	.cfi_offset %rbx, -24
	subq	$8, %rsp
	leaq	15(%rdi), %rax
	andq	$-16, %rax
	subq	%rax, %rsp
	movq	%rsp, %rbx
	movq	%rbx, %rdi
	call	sink
	movq	-8(%rbp), %rbx
	.cfi_restore %rbx
	leave
	.cfi_restore %rbp
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	allocates, .-allocates

# Flags saved on the stack around a few instructions.
	.globl	keeps_flags
	.type	keeps_flags, @function
	.p2align 4
keeps_flags:
	.cfi_startproc
	pushfq
	.cfi_adjust_cfa_offset 8
	leaq	-128(%rsp), %rsp
	.cfi_adjust_cfa_offset 128
	incq	%rax
	subq	$-128, %rsp
	.cfi_adjust_cfa_offset -128
	popfq
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
	.size	keeps_flags, .-keeps_flags

# Pushes arguments for a callee that takes them off the stack again.
	.globl	callee_takes
	.type	callee_takes, @function
	.p2align 4
callee_takes:
	.cfi_startproc
	movq	8(%rsp), %rax
	addq	16(%rsp), %rax
	ret	$16
	.cfi_endproc
	.size	callee_takes, .-callee_takes

# Reads its own address by a call of the next instruction.
	.globl	reads_its_address
	.type	reads_its_address, @function
	.p2align 4
reads_its_address:
	.cfi_startproc
	call	.Lnext_instruction
.Lnext_instruction:
	.cfi_adjust_cfa_offset 8
	popq	%rax
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
	.size	reads_its_address, .-reads_its_address

# A retpoline: the pushed return address is overwritten and returned to.
	.globl	retpoline
	.type	retpoline, @function
	.p2align 4
retpoline:
	.cfi_startproc
	call	.Lretpoline_go
.Lretpoline_trap:
	pause
	lfence
	jmp	.Lretpoline_trap
.Lretpoline_go:
	.cfi_adjust_cfa_offset 8
	movq	%rax, (%rsp)
	ret
	.cfi_endproc
	.size	retpoline, .-retpoline

# A hot and a cold part, each with its own entry.
	.globl	has_cold_part
	.type	has_cold_part, @function
	.p2align 4
has_cold_part:
	.cfi_startproc
	pushq	%rbx
	.cfi_def_cfa_offset 16
	.cfi_offset %rbx, -16
	subq	$16, %rsp
	.cfi_def_cfa_offset 32
	movq	%rdi, %rbx
	testq	%rdi, %rdi
	js	has_cold_part.cold
	addq	$16, %rsp
	.cfi_def_cfa_offset 16
	popq	%rbx
	.cfi_restore %rbx
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	has_cold_part, .-has_cold_part
	.section .text.unlikely, "ax", @progbits
	.p2align 4
has_cold_part.cold:
	.cfi_startproc
	.cfi_def_cfa_offset 32
	.cfi_offset %rbx, -16
	movq	%rbx, %rdi
	call	sink
	addq	$16, %rsp
	.cfi_def_cfa_offset 16
	popq	%rbx
	.cfi_restore %rbx
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.text

# The rule of the stack pointer itself, by value and by memory.
	.globl	names_the_stack_pointer
	.type	names_the_stack_pointer, @function
	.p2align 4
names_the_stack_pointer:
	.cfi_startproc
	.cfi_val_offset %rsp, 0
	pushq	%r13
	.cfi_def_cfa_offset 16
	.cfi_offset %r13, -16
	movl	$1, %r13d
	popq	%r13
	.cfi_restore %r13
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	names_the_stack_pointer, .-names_the_stack_pointer

# The caller's registers exchanged and conditionally moved.
	.globl	exchanges
	.type	exchanges, @function
	.p2align 4
exchanges:
	.cfi_startproc
	pushq	%rbx
	.cfi_def_cfa_offset 16
	.cfi_offset %rbx, -16
	movl	$1, %ebx
	xchgq	%rbx, (%rsp)
	.cfi_restore %rbx
	xchgq	%rbx, (%rsp)
	.cfi_offset %rbx, -16
	cmpq	%rdi, %rsi
	cmoveq	%rdi, %rbx
	popq	%rbx
	.cfi_restore %rbx
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	exchanges, .-exchanges

# A 16-bit push and pop.
	.globl	pushes_half_words
	.type	pushes_half_words, @function
	.p2align 4
pushes_half_words:
	.cfi_startproc
	pushw	%ax
	.cfi_adjust_cfa_offset 2
	pushw	%cx
	.cfi_adjust_cfa_offset 2
	popw	%dx
	.cfi_adjust_cfa_offset -2
	addq	$2, %rsp
	.cfi_adjust_cfa_offset -2
	ret
	.cfi_endproc
	.size	pushes_half_words, .-pushes_half_words

# A loop with rows of its own inside.
	.globl	rows_in_a_loop
	.type	rows_in_a_loop, @function
	.p2align 4
rows_in_a_loop:
	.cfi_startproc
	pushq	%r14
	.cfi_def_cfa_offset 16
	.cfi_offset %r14, -16
	movl	$3, %r14d
.Lloop_head:
	subq	$16, %rsp
	.cfi_def_cfa_offset 32
	movq	%r14, 8(%rsp)
	call	sink
	addq	$16, %rsp
	.cfi_def_cfa_offset 16
	decl	%r14d
	jne	.Lloop_head
	popq	%r14
	.cfi_restore %r14
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc
	.size	rows_in_a_loop, .-rows_in_a_loop

# Two procedures, the first of which ends with its frame still there.
	.globl	two_procedures
	.type	two_procedures, @function
	.p2align 4
two_procedures:
	.cfi_startproc
	pushq	%rbx
	.cfi_def_cfa_offset 16
	.cfi_offset %rbx, -16
	movl	$1, %ebx
	call	second_procedure
	call	abort
	.cfi_endproc
	.size	two_procedures, .-two_procedures
	.p2align 4
second_procedure:
	.cfi_startproc
	pushq	%r12
	.cfi_def_cfa_offset 16
	.cfi_offset %r12, -16
	movl	$1, %r12d
	popq	%r12
	.cfi_restore %r12
	.cfi_def_cfa_offset 8
	ret
	.cfi_endproc

# The signal trampoline: every register is found in the kernel's frame.
	.globl	restore_rt
	.type	restore_rt, @function
	.p2align 4
	.cfi_startproc
	.cfi_signal_frame
	# DW_CFA_def_cfa_expression: breg7 rsp+160, deref
	.cfi_escape 0x0f, 0x04, 0x77, 0xa0, 0x01, 0x06
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
	movl	$15, %eax
	syscall
	.cfi_endproc
	.size	restore_rt, .-restore_rt

# What the linker makes for lazy binding: the CFA depends on the instruction pointer.
	.section .plt, "ax", @progbits
	.p2align 4
	.type	stubs, @function
stubs:
	.cfi_startproc
	.cfi_def_cfa_offset 16
	pushq	resolver(%rip)
	.cfi_def_cfa_offset 24
	jmp	*resolver+8(%rip)
	nopl	0(%rax)
	# DW_CFA_def_cfa_expression: breg7 rsp+8, breg16 rip+0, lit15, and, lit11, ge, lit3, shl, plus
	.cfi_escape 0x0f, 0x0b, 0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22
	.p2align 4
	jmp	*resolver+16(%rip)
	.byte	0x68
	.long	0
	.byte	0xe9
	.long	stubs-.-4
	jmp	*resolver+24(%rip)
	.byte	0x68
	.long	1
	.byte	0xe9
	.long	stubs-.-4
	.cfi_endproc
	.size	stubs, .-stubs
	.text

	.bss
	.globl	table
table:
	.skip	64
resolver:
	.skip	64
	.section .note.GNU-stack, "", @progbits
