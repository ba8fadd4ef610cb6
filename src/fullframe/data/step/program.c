/* The program that `fullframe vdso step` steps through: it loads an image, says where, and calls
 * into it, or is interrupted and returns through it. Whoever drives it (ptrace, gdb) writes what is
 * to be called into step_* and lets it run on from one breakpoint instruction to the next.
 *
 * Freestanding C with declarations of its own, so that no libc's headers are needed to build it.
 */

typedef unsigned long word;
typedef unsigned long long u64;

#define FRAMES 8
#define REGISTERS 17
#define REASON_BYTES 200
#define STACK_WORDS 8192

/* --- what is taken from libc; layouts are those of the System V ABI and of glibc --- */

extern void *dlopen(const char *file, int mode);
extern void *dlsym(void *handle, const char *name);
extern char *dlerror(void);
extern word getauxval(word type);
extern long syscall(long number, ...);
extern long ptrace(int request, ...);
extern int personality(word persona);
extern int prctl(int option, ...);
extern int execv(const char *path, char *const arguments[]);
extern int open(const char *path, int flags, ...);
extern long read(int descriptor, void *buffer, word bytes);
extern long pread(int descriptor, void *buffer, word bytes, word offset);
extern long write(int descriptor, const void *buffer, word bytes);
extern void *mmap(void *address, word bytes, int access, int flags, int descriptor, word offset);
extern int mprotect(void *address, word bytes, int access);
extern word strlen(const char *text);
extern void *memcpy(void *to, const void *from, word bytes);
extern void _exit(int code) __attribute__((noreturn));

struct libc_sigaction {
	void *handler;
	unsigned char mask[128];
	int flags;
	void *restorer;
};
extern int sigaction(int number, const struct libc_sigaction *new, struct libc_sigaction *old);

struct stack {
	void *base;
	int flags;
	word bytes;
};
extern int sigaltstack(const struct stack *new, struct stack *old);

struct kernel_sigaction {
	void *handler;
	word flags;
	void *restorer;
	word mask[8 / sizeof(word)];
};

enum { RTLD_NOW = 2, AT_SYSINFO = 32, AT_SYSINFO_EHDR = 33 };
enum { SIGUSR1 = 10, SIGUSR2 = 12 };
enum { SA_SIGINFO = 4, SA_RESTORER = 0x04000000, SA_ONSTACK = 0x08000000, SA_NODEFER = 0x40000000 };
enum { ADDR_NO_RANDOMIZE = 0x0040000, PR_SET_PDEATHSIG = 1, SIGKILL = 9 };

#ifdef __x86_64__
enum { SYS_rt_sigaction = 13, CONTEXT_IP = 168 };
#define UNWIND_PREFIX "_ULx86_64_"
enum { GENERAL = 16, STACK_POINTER = 7 };
#else
enum { SYS_rt_sigaction = 174, CONTEXT_IP = 76 };
#define UNWIND_PREFIX "_ULx86_"
enum { GENERAL = 8, STACK_POINTER = 4 };
#endif

/* --- what the driver reads and writes; fixed widths, so that it is laid out alike everywhere --- */

struct frame {
	u64 ip;
	u64 stack_pointer;
	u64 known; /* registers that follow are set */
	u64 registers[REGISTERS]; /* by the unwinder's own numbers */
};

struct step_control {
	u64 load_bias; /* of the image */
	u64 vsyscall; /* AT_SYSINFO */
	u64 mapped_by_hand;
	u64 libc_restorer;
	u64 is_signal; /* the driver: interrupt, do not call */
	u64 with_siginfo; /* the driver: which kind of signal frame */
	u64 frame_table; /* the driver: .eh_frame to register, or 0 */
	u64 asked; /* the driver: 0 libgcc, 1 libunwind */
	u64 frame_count;
	u64 missing[2];
	char reasons[2][REASON_BYTES];
	char refusal[REASON_BYTES]; /* why the loader did not take the image */
	struct frame frames[FRAMES];
};

struct step_control step_control;
word step_target;
word step_registers[16];
unsigned char step_buffer[4096] __attribute__((aligned(64)));
struct {
	word below[STACK_WORDS];
	word arguments[64];
} step_stack __attribute__((aligned(64)));

extern void step_call(void) __attribute__((noreturn));
extern void step_interrupt(void) __attribute__((noreturn));
extern void step_handler(int);
void step_begin(void) __attribute__((noreturn));

static unsigned char alternate_stack[1 << 17] __attribute__((aligned(64)));

/* --- libgcc: what profilers and C++ do --- */

static int (*backtrace_)(int (*)(void *, void *), void *);
static word (*get_register)(void *, int);
static word (*get_ip)(void *, int *);
static word (*get_cfa)(void *);
static void (*register_frame)(void *);
static word interrupted_ip;
static int below_interrupted;

static int visit(void *context, void *argument)
{
	struct frame *frame = &step_control.frames[step_control.frame_count];
	int before = 0, number;
	word ip = get_ip(context, &before);

	(void)argument;
	/* Frames before the interrupted one are this handler's. Registers can be asked for only
	 * behind the signal frame, which says where each of them is. */
	if (!below_interrupted) {
		if (!before || ip != interrupted_ip)
			return 0;
		below_interrupted = 1;
	}
	frame->ip = ip;
	frame->stack_pointer = get_cfa(context);
	for (number = 0; number < GENERAL; number++)
		if (number != STACK_POINTER)
			frame->registers[number] = get_register(context, number);
	frame->known = 1;
	step_control.frame_count++;
	return step_control.frame_count == 4 ? 5 : 0; /* 5: stop */
}

/* --- libunwind --- */

static int (*init_local)(void *, void *, int);
static int (*unwind_step)(void *);
static int (*unwind_get)(void *, int, word *);

static void ask_libunwind(void *context)
{
	static word cursor[512];
	int number;

	/* 1: the context is that of a signal frame: the next instruction to run. */
	if (init_local(cursor, context, 1) < 0)
		return;
	do {
		struct frame *frame = &step_control.frames[step_control.frame_count];
		word value = 0;

		for (number = 0; number <= GENERAL; number++) {
			if (unwind_get(cursor, number, &value) < 0)
				continue;
			frame->registers[number] = value;
			frame->known |= 1u << number;
		}
		step_control.frame_count++;
	} while (step_control.frame_count < 4 && unwind_step(cursor) > 0);
}

/* Runs on a stack of its own, so that the stack that is asked about stays as it is; never
 * returns: the driver puts the interrupted registers back. */
static void answer(int number, void *information, void *context)
{
	(void)number, (void)information;
	interrupted_ip = *(word *)((char *)context + CONTEXT_IP);
	below_interrupted = 0;
	step_control.frame_count = 0;
	for (int index = 0; index < FRAMES; index++)
		step_control.frames[index].known = 0;
	if (step_control.asked == 0)
		backtrace_(visit, 0);
	else
		ask_libunwind(context);
	__asm__ volatile("int3");
	_exit(99);
}

/* --- setting up --- */

static void say(const char *text)
{
	write(2, text, strlen(text));
}

static void fail(const char *what, const char *why)
{
	say(what);
	say(why);
	say("\n");
	_exit(90);
}

static void keep(char *to, const char *text)
{
	word bytes = strlen(text);

	memcpy(to, text, bytes < REASON_BYTES ? bytes : REASON_BYTES - 1);
}

static void *from(void *library, const char *name, int which)
{
	void *found = library ? dlsym(library, name) : 0;

	if (!found && !step_control.missing[which]) {
		step_control.missing[which] = 1;
		keep(step_control.reasons[which], dlerror());
	}
	return found;
}

static int pass(void *context, void *argument)
{
	(void)context, (void)argument;
	return 0;
}

static void find_unwinders(void)
{
	void *library = dlopen("libgcc_s.so.1", RTLD_NOW);

	backtrace_ = from(library, "_Unwind_Backtrace", 0);
	get_register = from(library, "_Unwind_GetGR", 0);
	get_ip = from(library, "_Unwind_GetIPInfo", 0);
	get_cfa = from(library, "_Unwind_GetCFA", 0);
	register_frame = from(library, "__register_frame", 0);
	library = dlopen("libunwind.so.8", RTLD_NOW);
	init_local = from(library, UNWIND_PREFIX "init_local2", 1);
	unwind_step = from(library, UNWIND_PREFIX "step", 1);
	unwind_get = from(library, UNWIND_PREFIX "get_reg", 1);
	/* What it sets up once it should not set up in a signal handler. */
	if (!step_control.missing[0])
		backtrace_(pass, 0);
}

/* Map an image as a kernel would, where the loader does not take it. */

#ifdef __x86_64__
struct file_header { unsigned char ident[16]; unsigned short type, machine; unsigned version;
	word entry, segments, sections; unsigned flags; unsigned short size, segment_size,
	segment_count; };
struct segment { unsigned type, flags; word offset, address, physical, file_bytes, bytes, align; };
#else
struct file_header { unsigned char ident[16]; unsigned short type, machine; unsigned version;
	word entry, segments, sections; unsigned flags; unsigned short size, segment_size,
	segment_count; };
struct segment { unsigned type; word offset, address, physical, file_bytes, bytes; unsigned flags;
	word align; };
#endif

static word map_by_hand(const char *path)
{
	struct file_header header;
	struct segment segments[32];
	word low = -1ul, high = 0;
	int file = open(path, 0), index;
	char *base;

	if (file < 0 || pread(file, &header, sizeof header, 0) != sizeof header)
		fail("the image cannot be read", "");
	if (header.segment_size != sizeof *segments || header.segment_count > 32)
		fail("the image has program headers that cannot be mapped", "");
	pread(file, segments, header.segment_count * sizeof *segments, header.segments);
	for (index = 0; index < header.segment_count; index++)
		if (segments[index].type == 1) {
			word end = segments[index].address + segments[index].bytes;
			if (segments[index].address < low)
				low = segments[index].address;
			if (end > high)
				high = end;
		}
	low &= -4096ul;
	if (low >= high || high - low > 1ul << 28)
		fail("the image has no segments that can be mapped", "");
	/* PROT 7: an image's own access rights are the loader's business; private, anonymous. */
	base = mmap(0, high - low, 7, 0x22, -1, 0);
	if (base == (char *)-1)
		fail("the image cannot be mapped", "");
	for (index = 0; index < header.segment_count; index++)
		if (segments[index].type == 1)
			pread(file, base + (segments[index].address - low),
			      segments[index].file_bytes, segments[index].offset);
	return (word)base - low;
}

static word bias_of_mapped(word header_address)
{
	const struct file_header *header = (void *)header_address;
	const struct segment *segment = (void *)(header_address + header->segments);

	for (int index = 0; index < header->segment_count; index++)
		if (segment[index].type == 1)
			return header_address - segment[index].offset - segment[index].address;
	return header_address;
}

static void load(const char *path)
{
	if (*path == '-') {
		word header = getauxval(AT_SYSINFO_EHDR);

		if (!header)
			fail("this kernel gives the program no vDSO", "");
		step_control.load_bias = bias_of_mapped(header);
		return;
	}
	void *handle = dlopen(path, RTLD_NOW);
	if (handle) {
		step_control.load_bias = *(word *)handle; /* struct link_map: l_addr */
		return;
	}
	keep(step_control.refusal, dlerror());
	step_control.mapped_by_hand = 1;
	step_control.load_bias = map_by_hand(path);
}

static void prepare_signals(void)
{
	struct stack stack = { alternate_stack, 0, sizeof alternate_stack };
	struct libc_sigaction ask = { answer, { 0 }, SA_SIGINFO | SA_ONSTACK | SA_NODEFER, 0 };
	struct kernel_sigaction seen;

	sigaltstack(&stack, 0);
	sigaction(SIGUSR2, &ask, 0);
	/* libc names its own restorer to the kernel, and tells nobody else. */
	if (syscall(SYS_rt_sigaction, SIGUSR2, 0, &seen, 8l) == 0 && seen.flags & SA_RESTORER)
		step_control.libc_restorer = (word)seen.restorer;
}

/* Where the driver lets the program run on from, as often as it likes. */
void step_begin(void)
{
	if (step_control.frame_table && register_frame)
		register_frame((void *)(word)step_control.frame_table);
	step_control.frame_table = 0;
	if (!step_control.is_signal)
		step_call();
	struct kernel_sigaction action = { step_handler,
		SA_RESTORER | (step_control.with_siginfo ? SA_SIGINFO : 0), (void *)step_target, { 0 } };
	if (syscall(SYS_rt_sigaction, SIGUSR1, &action, 0, 8l) != 0)
		fail("the kernel does not take the signal handler", "");
	step_interrupt();
}

/* argv: how (traced, running), the image's path (-: the running kernel's own). */
int main(int count, char **arguments)
{
	if (count != 3)
		fail("two arguments are needed", "");
	if (*arguments[1] == 't') {
		prctl(PR_SET_PDEATHSIG, (word)SIGKILL);
		if (ptrace(0) < 0) {
			say("ptrace is forbidden here\n");
			_exit(91);
		}
		personality(personality(0xffffffff) | ADDR_NO_RANDOMIZE);
		arguments[1] = "running";
		execv("/proc/self/exe", arguments);
		fail("the program cannot run itself again", "");
	}
	load(arguments[2]);
	step_control.vsyscall = getauxval(AT_SYSINFO);
	prepare_signals();
	find_unwinders();
	__asm__ volatile("int3" ::: "memory");
	step_begin();
}
