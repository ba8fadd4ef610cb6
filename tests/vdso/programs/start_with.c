/*
 * start_with IMAGE VSYSCALL PROGRAM ARGUMENTS: start a program as a kernel would whose vDSO is IMAGE.
 *
 * The program is stopped before its first instruction, made to map the image, and told so in its
 * auxiliary vector: AT_SYSINFO_EHDR, and for a 32-bit one AT_SYSINFO, the address of the function at
 * offset VSYSCALL. From there on its libc does with the image what it does with the kernel's.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define IMAGE_FD 100

static pid_t child;
static int memory;

static void must(int right, const char *what)
{
	if (right)
		return;
	perror(what);
	if (child > 0)
		kill(child, SIGKILL);
	exit(125);
}

static unsigned long word(unsigned long *at, int bytes)
{
	unsigned long value = 0;

	must(pread(memory, &value, bytes, *at) == bytes, "read");
	*at += bytes;
	return value;
}

/* Let the program map the file that it inherited, by one system call at its first instruction. */
static unsigned long map_image(struct user_regs_struct start, int is_32, size_t size)
{
	static const unsigned char by_syscall[] = { 0x0f, 0x05 }, by_int[] = { 0xcd, 0x80 };
	struct user_regs_struct regs = start;
	unsigned char saved[2];
	int status;

	regs.orig_rax = -1;
	if (is_32) {
		regs.rax = 192; /* mmap2 */
		regs.rbx = 0;
		regs.rcx = size;
		regs.rdx = PROT_READ | PROT_EXEC;
		regs.rsi = MAP_PRIVATE;
		regs.rdi = IMAGE_FD;
		regs.rbp = 0;
	} else {
		regs.rax = 9; /* mmap */
		regs.rdi = 0;
		regs.rsi = size;
		regs.rdx = PROT_READ | PROT_EXEC;
		regs.r10 = MAP_PRIVATE;
		regs.r8 = IMAGE_FD;
		regs.r9 = 0;
	}
	must(pread(memory, saved, 2, start.rip) == 2, "read code");
	must(pwrite(memory, is_32 ? by_int : by_syscall, 2, start.rip) == 2, "write code");
	must(!ptrace(PTRACE_SETREGS, child, 0, &regs), "set registers");
	must(!ptrace(PTRACE_SINGLESTEP, child, 0, 0), "step");
	must(waitpid(child, &status, 0) == child && WIFSTOPPED(status), "wait");
	must(!ptrace(PTRACE_GETREGS, child, 0, &regs), "get registers");
	must(regs.rip == start.rip + 2 && regs.rax < -4095UL, "map the image");
	must(pwrite(memory, saved, 2, start.rip) == 2, "restore code");
	must(!ptrace(PTRACE_SETREGS, child, 0, &start), "restore registers");
	return is_32 ? (unsigned)regs.rax : regs.rax;
}

static void tell(unsigned long at, int bytes, unsigned long base, unsigned long vsyscall)
{
	unsigned long count = word(&at, bytes), type, value;
	int told = 0;

	at += (count + 1) * bytes; /* arguments */
	while (word(&at, bytes)) /* environment */
		;
	while ((type = word(&at, bytes)) != AT_NULL) {
		value = type == AT_SYSINFO_EHDR ? base : base + vsyscall;
		if (type == AT_SYSINFO_EHDR || (type == AT_SYSINFO && vsyscall)) {
			must(pwrite(memory, &value, bytes, at) == bytes, "write");
			told++;
		}
		at += bytes;
	}
	must(told == (vsyscall ? 2 : 1), "the auxiliary vector");
}

int main(int argc, char **argv)
{
	struct user_regs_struct start;
	struct stat file;
	char path[64];
	int status;
	int image = open(argv[1], O_RDONLY);
	unsigned long vsyscall = strtoul(argv[2], NULL, 0);

	must(image >= 0 && !fstat(image, &file) && dup2(image, IMAGE_FD) == IMAGE_FD, argv[1]);
	child = fork();
	must(child >= 0, "fork");
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		execv(argv[3], argv + 3);
		_exit(126);
	}
	must(waitpid(child, &status, 0) == child && WIFSTOPPED(status), argv[3]);
	snprintf(path, sizeof path, "/proc/%d/mem", child);
	memory = open(path, O_RDWR);
	must(memory >= 0, path);
	must(!ptrace(PTRACE_GETREGS, child, 0, &start), "get registers");
	int is_32 = start.cs == 0x23;
	tell(start.rsp, is_32 ? 4 : 8, map_image(start, is_32, file.st_size), vsyscall);
	must(!ptrace(PTRACE_DETACH, child, 0, 0), "detach");
	must(waitpid(child, &status, 0) == child, "wait");
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
