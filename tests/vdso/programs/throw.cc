// An exception thrown by a signal handler, through an image's trampoline, to who was interrupted.
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __x86_64__
static const char version[] = "LINUX_2.6";
#else
static const char version[] = "LINUX_2.5";
#endif

struct kernel_sigaction {
	void (*handler)(int);
	unsigned long flags;
	void *restorer;
	unsigned long mask[8 / sizeof(long)];
};

static void handler(int number)
{
	throw number;
}

static int destroyed;

struct Guard {
	~Guard() { destroyed++; }
};

// The fault is at the very begin of a landing-pad range: a lookup of the byte before would miss it.
__attribute__((noinline)) static int read_from(volatile int *place)
{
	Guard guard;
	return *place;
}

int main(int argc, char **argv)
{
	void *image = dlopen(argv[1], RTLD_NOW);
	int caught = 0;

	if (!image)
		return 2;
	const char *names[] = { "__kernel_rt_sigreturn", "__kernel_sigreturn" };
	unsigned long flags[] = { SA_SIGINFO, 0 };
	for (int i = 0; i < (sizeof(long) == 8 ? 1 : 2); i++) {
		kernel_sigaction action = { handler, flags[i] | 0x04000000UL | SA_NODEFER,
					    dlvsym(image, names[i], version), {} };
		if (!action.restorer || syscall(SYS_rt_sigaction, SIGSEGV, &action, nullptr, 8))
			return 2;
		try {
			read_from(static_cast<volatile int *>(
				mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
		} catch (int number) {
			caught += number == SIGSEGV;
		}
	}
	printf("%d caught, %d destroyed\n", caught, destroyed);
	return caught == destroyed && caught == (sizeof(long) == 8 ? 1 : 2) ? 0 : 1;
}
