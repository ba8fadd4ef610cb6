/* Calls every function of an image that was loaded as a library, and holds it against libc's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void *image;
static int failures;

#define CHECK(what) do { if (!(what)) { failures++; printf("%d: %s\n", __LINE__, #what); } } while (0)

static void *function(const char *name, const char *version)
{
	void *found = dlvsym(image, name, version);

	if (!found) {
		printf("%s: %s\n", name, dlerror());
		exit(2);
	}
	return found;
}

/* Whether a moment lies between two others that were taken around it. */
static int between(struct timespec before, long long seconds, long long nanoseconds,
		   struct timespec after)
{
	long long low = before.tv_sec * 1000000000LL + before.tv_nsec;
	long long high = after.tv_sec * 1000000000LL + after.tv_nsec;
	long long moment = seconds * 1000000000LL + nanoseconds;

	return low <= moment && moment <= high;
}

static void times(void)
{
	int (*clock_gettime_)(clockid_t, struct timespec *) =
		function("__vdso_clock_gettime", "LINUX_2.6");
	int (*clock_getres_)(clockid_t, struct timespec *) =
		function("__vdso_clock_getres", "LINUX_2.6");
	int (*gettimeofday_)(struct timeval *, struct timezone *) =
		function("__vdso_gettimeofday", "LINUX_2.6");
	time_t (*time_)(time_t *) = function("__vdso_time", "LINUX_2.6");
	struct timespec before, now, after;
	struct timeval of_day = { 0, 0 };
	struct timezone zone = { 77, 77 };
	static const clockid_t clocks[] = {
		CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID,
	};

	for (unsigned i = 0; i < sizeof(clocks) / sizeof(*clocks); i++) {
		clock_gettime(clocks[i], &before);
		CHECK(clock_gettime_(clocks[i], &now) == 0);
		clock_gettime(clocks[i], &after);
		CHECK(between(before, now.tv_sec, now.tv_nsec, after));
		clock_getres(clocks[i], &before);
		memset(&now, 0x55, sizeof now);
		CHECK(clock_getres_(clocks[i], &now) == 0);
		CHECK(now.tv_sec == before.tv_sec && now.tv_nsec == before.tv_nsec);
	}
	CHECK(clock_gettime_(12345, &now) == -EINVAL);
	CHECK(clock_gettime_(CLOCK_REALTIME, (void *)8) == -EFAULT);
	CHECK(clock_getres_(12345, &now) == -EINVAL);
	clock_gettime(CLOCK_REALTIME, &before);
	CHECK(gettimeofday_(&of_day, &zone) == 0);
	clock_gettime(CLOCK_REALTIME, &after);
	before.tv_nsec -= before.tv_nsec % 1000;
	CHECK(between(before, of_day.tv_sec, of_day.tv_usec * 1000LL, after));
	CHECK(zone.tz_minuteswest != 77);
	time_t stored = 0, result = time_(&stored);
	CHECK(result == stored);
	CHECK(result - of_day.tv_sec <= 2 && of_day.tv_sec - result <= 2);
	CHECK(time_(NULL) - result <= 2);
}

static void cpu(void)
{
	int (*getcpu_)(unsigned *, unsigned *, void *) = function("__vdso_getcpu", "LINUX_2.6");
	cpu_set_t allowed, one;
	unsigned cpu, node, true_node;

	CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
	for (int i = 0; i < CPU_SETSIZE && i < 8; i++) {
		if (!CPU_ISSET(i, &allowed))
			continue;
		CPU_ZERO(&one);
		CPU_SET(i, &one);
		CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
		cpu = node = 99999;
		CHECK(getcpu_(&cpu, &node, NULL) == 0);
		CHECK(cpu == (unsigned)i);
		syscall(SYS_getcpu, NULL, &true_node, NULL);
		CHECK(node == true_node);
		CHECK(getcpu_(NULL, NULL, NULL) == 0);
		node = 99999;
		CHECK(getcpu_(NULL, &node, NULL) == 0 && node == true_node);
		cpu = 99999;
		CHECK(getcpu_(&cpu, NULL, NULL) == 0 && cpu == (unsigned)i);
	}
	sched_setaffinity(0, sizeof allowed, &allowed);
}

#ifdef __x86_64__
static void of_this_machine(void)
{
	static const char *const names[] = {
		"clock_gettime", "gettimeofday", "clock_getres", "time", "getcpu",
	};

	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
		char full[64];

		snprintf(full, sizeof full, "__vdso_%s", names[i]);
		CHECK(function(names[i], "LINUX_2.6") == function(full, "LINUX_2.6"));
	}
}
#else
/* enter_i386.S: the registers are eax ebx ecx edx esi edi ebp, before and after. */
void enter(void *entry, const long before[7], long after[7]);

/* A call with six arguments, each of which matters, and every register seen afterwards. */
static void all_arguments(void *entry)
{
	char name[] = "/proc/self/exe";
	int file = open(name, O_RDONLY);
	long before[7] = {
		SYS_mmap2, 0, 4096, PROT_READ, MAP_PRIVATE, file, 1 /* the second page */
	};
	long after[7];
	char there[64];

	enter(entry, before, after);
	CHECK((unsigned long)after[0] < -4095UL);
	CHECK(memcmp(before + 1, after + 1, sizeof before - sizeof *before) == 0);
	CHECK(pread(file, there, sizeof there, 4096) == sizeof there);
	CHECK(memcmp((void *)after[0], there, sizeof there) == 0);
	close(file);
}

static void caught(int number)
{
	(void)number;
}

/* A call that a signal interrupts and the kernel makes again: by the instruction before the pad. */
static void restarted(void *entry)
{
	struct itimerval soon = { { 0, 0 }, { 0, 20000 } };
	struct sigaction action = { .sa_handler = caught, .sa_flags = SA_RESTART };
	int pipes[2];
	char byte = 0;
	long after[7];

	CHECK(pipe(pipes) == 0);
	sigaction(SIGALRM, &action, NULL);
	/* The first alarm interrupts the read; a child then writes what it waits for. */
	setitimer(ITIMER_REAL, &soon, NULL);
	pid_t child = fork();
	if (child == 0) {
		usleep(80000);
		_exit(write(pipes[1], "x", 1) != 1);
	}
	long before[7] = { SYS_read, pipes[0], (long)&byte, 1, 0x11111111, 0x22222222, 0x33333333 };
	enter(entry, before, after);
	CHECK(after[0] == 1 && byte == 'x');
	CHECK(memcmp(before + 1, after + 1, sizeof before - sizeof *before) == 0);
	waitpid(child, NULL, 0);
}

static void of_this_machine(void)
{
	void *entry = function("__kernel_vsyscall", "LINUX_2.5");
	int (*clock_gettime64_)(clockid_t, long long *) =
		function("__vdso_clock_gettime64", "LINUX_2.6");
	struct timespec before, after;
	long long now[2];

	all_arguments(entry);
	restarted(entry);
	clock_gettime(CLOCK_MONOTONIC, &before);
	CHECK(clock_gettime64_(CLOCK_MONOTONIC, now) == 0);
	clock_gettime(CLOCK_MONOTONIC, &after);
	CHECK(between(before, now[0], (int)now[1], after));
}
#endif

int main(int argc, char **argv)
{
	image = dlopen(argv[1], RTLD_NOW);
	if (!image) {
		puts(dlerror());
		return 2;
	}
	times();
	cpu();
	of_this_machine();
	return failures != 0;
}
