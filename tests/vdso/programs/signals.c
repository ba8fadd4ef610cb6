/*
 * A signal whose handler returns through an image's trampoline: from the handler, the registers of
 * the interrupted instruction are asked of the C compiler's unwinder; afterwards they must be back.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <unwind.h>

#ifdef __x86_64__
#define REGISTERS 16
#define SP 7
#else
#define REGISTERS 8
#define SP 4
#endif

#define KERNEL_SA_RESTORER 0x04000000

/* What rt_sigaction itself takes. */
struct kernel_sigaction {
	void *handler;
	unsigned long flags;
	void *restorer;
	unsigned long mask[8 / sizeof(long)];
};

/* interrupt_*.S: registers by DWARF number, loaded from before and stored to after a trap. */
void interrupt(const unsigned long before[REGISTERS], unsigned long after[REGISTERS]);
unsigned long interrupted_sp;

static unsigned long before[REGISTERS], after[REGISTERS];
static int failures, handled, frames;

static _Unwind_Reason_Code frame(struct _Unwind_Context *context, void *data)
{
	int is_before = 0;
	unsigned long ip = _Unwind_GetIPInfo(context, &is_before);

	(void)data;
	/* Behind the trap of interrupt(). */
	if (ip - (unsigned long)interrupt > 256 || ((unsigned char *)ip)[-1] != 0xcc)
		return _URC_NO_REASON;
	frames++;
	if (!is_before) {
		failures++;
		puts("the trampoline's frame is no signal frame");
	}
	if (_Unwind_GetCFA(context) != interrupted_sp) {
		failures++;
		printf("sp %lx, not %lx\n", (unsigned long)_Unwind_GetCFA(context), interrupted_sp);
	}
	for (int i = 0; i < REGISTERS; i++) {
		if (i == SP || _Unwind_GetGR(context, i) == before[i])
			continue;
		failures++;
		printf("register %d: %lx, not %lx\n", i, (unsigned long)_Unwind_GetGR(context, i),
		       before[i]);
	}
	return _URC_NO_REASON;
}

static void handler(int number)
{
	(void)number;
	handled++;
	_Unwind_Backtrace(frame, NULL);
}

static void one(void *restorer, unsigned long flags)
{
	struct kernel_sigaction action = {
		.handler = handler, .flags = flags | KERNEL_SA_RESTORER, .restorer = restorer,
	};

	handled = frames = 0;
	memset(after, 0, sizeof after);
	if (syscall(SYS_rt_sigaction, SIGTRAP, &action, NULL, sizeof action.mask))
		exit(2);
	interrupt(before, after);
	if (handled != 1 || frames != 1) {
		failures++;
		printf("%d signals handled, the interrupted frame found %d times\n", handled, frames);
	}
	after[SP] = before[SP];
	if (memcmp(before, after, sizeof before)) {
		failures++;
		puts("registers differ after the signal's return");
	}
}

int main(int argc, char **argv)
{
	void *image = dlopen(argv[1], RTLD_NOW);

	if (!image) {
		puts(dlerror());
		return 2;
	}
	for (int i = 0; i < REGISTERS; i++)
		before[i] = 0x1000001UL * (i + 1);
#ifdef __x86_64__
	one(dlvsym(image, "__kernel_rt_sigreturn", "LINUX_2.6"), 0);
	one(dlvsym(image, "__kernel_rt_sigreturn", "LINUX_2.6"), SA_SIGINFO);
#else
	one(dlvsym(image, "__kernel_sigreturn", "LINUX_2.5"), 0);
	one(dlvsym(image, "__kernel_rt_sigreturn", "LINUX_2.5"), SA_SIGINFO);
#endif
	return failures != 0;
}
