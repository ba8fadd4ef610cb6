/*
 * Measures entry code in user space: prints, a line a sample, the number of the case and the
 * time-stamp cycles that a batch of entries took. cases.h, generated, names the cases.
 */
#include <stdint.h>

struct measured_case {
	uint64_t entry;		/* address of the entry code */
	uint64_t number;	/* of the system call */
	uint64_t result;	/* that the call must return */
	uint32_t thread_flags;	/* of the running task */
};

#include "cases.h"

long enter_many(uint64_t entry, uint64_t number, uint64_t count);
void add_chain(uint64_t count);
int measure(void);

enum { SYS_write = 1, SYS_arch_prctl = 158, SYS_sched_setaffinity = 203, SYS_getcpu = 309 };
enum { ARCH_SET_GS = 0x1001 };

static unsigned char per_cpu[PER_CPU_BYTES] __attribute__((aligned(4096)));
static unsigned char task_stack[65536] __attribute__((aligned(4096)));

static char output[65536];
static unsigned long output_used;

static long system_call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return result;
}

static void flush(void)
{
	unsigned long done = 0;

	while (done < output_used) {
		long wrote = system_call(SYS_write, 1, (long)(output + done),
					 (long)(output_used - done));
		if (wrote <= 0)
			break;
		done += (unsigned long)wrote;
	}
	output_used = 0;
}

static void put(char character)
{
	if (output_used == sizeof(output))
		flush();
	output[output_used++] = character;
}

static void put_number(uint64_t number)
{
	char digits[20];
	int count = 0;

	do {
		digits[count++] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	while (count)
		put(digits[--count]);
}

static void put_sample(uint64_t which, uint64_t cycles_tsc)
{
	put_number(which);
	put(' ');
	put_number(cycles_tsc);
	put('\n');
}

static int fail(const char *why, uint64_t number)
{
	for (output_used = 0; *why; why++)
		put(*why);
	put(' ');
	put_number(number);
	put('\n');
	flush();
	return 1;
}

/* Nothing before it is still running when the clock is read, nothing after it has begun. */
static uint64_t start_clock(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

static uint64_t stop_clock(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtscp\n\tlfence" : "=a"(low), "=d"(high) : : "rcx", "memory");
	return (uint64_t)high << 32 | low;
}

/* Stay on the CPU that we are on, if we may: another has other caches, and its own clock. */
static void stay_here(void)
{
	static uint64_t mask[16];
	uint32_t cpu = 0;

	if (system_call(SYS_getcpu, (long)&cpu, 0, 0) == 0 && cpu < 64 * 16) {
		mask[cpu / 64] = 1UL << cpu % 64;
		system_call(SYS_sched_setaffinity, 0, sizeof(mask), (long)mask);
	}
}

static void prepare(const struct measured_case *one)
{
	*(volatile uint64_t *)(per_cpu + STACK_TOP_OFFSET) =
		(uint64_t)(task_stack + sizeof(task_stack));
	*(volatile uint32_t *)(per_cpu + THREAD_FLAGS_OFFSET) = one->thread_flags;
}

int measure(void)
{
	stay_here();
	if (system_call(SYS_arch_prctl, ARCH_SET_GS, (long)per_cpu, 0) != 0)
		return fail("this system does not let a program set its GS base", 0);
	for (uint64_t which = 0; which < CASES; which++) {
		prepare(&cases[which]);
		long result = enter_many(cases[which].entry, cases[which].number, WARM_UP);
		if ((uint64_t)result != cases[which].result)
			return fail("unexpected result of case", which);
	}
	for (uint64_t round = 0; round < ROUNDS; round++) {
		uint64_t started = start_clock();
		add_chain(BATCH);
		put_sample(CASES, stop_clock() - started);
		for (uint64_t which = 0; which < CASES; which++) {
			prepare(&cases[which]);
			started = start_clock();
			enter_many(cases[which].entry, cases[which].number, BATCH);
			put_sample(which, stop_clock() - started);
		}
	}
	flush();
	return 0;
}
