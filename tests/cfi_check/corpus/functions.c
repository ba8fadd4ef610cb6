/* What compilers make of C, in every shape that changes the frame. No headers: this is compiled
   for machines whose C library is not installed. */
typedef __SIZE_TYPE__ size_t;

extern void abort(void) __attribute__((noreturn));
extern void die_quietly(int) __attribute__((noreturn));
extern int ask(int);
extern int ask_many(int, int, int, int, int, int, int, int, int);
extern void take(void *);
extern int setjmp(void *) __attribute__((returns_twice));
extern void longjmp(void *, int) __attribute__((noreturn));

int leaf(int a, int b) { return a * b + 3; }

int saves_many(int a, int b, int c)
{
	int x = ask(a), y = ask(b), z = ask(c), u = ask(x + y), v = ask(y + z), w = ask(u + v);

	return x + 3 * y + 5 * z + 7 * u + 11 * v + 13 * w + ask(w);
}

int early_return(int a)
{
	int x;

	if (a == 0)
		return 7;
	x = ask(a);
	if (x == 1)
		return a;
	return ask(x) + a;
}

int big_switch(int a, int b)
{
	switch (a) {
	case 0: return ask(b);
	case 1: return ask(b + 1) + b;
	case 2: return b * 5;
	case 3: b = ask(b + 3); break;
	case 4: b = ask(b ^ 4) - b; break;
	case 5: take(&b); break;
	case 6: return ask(ask(b));
	case 7: b += 9; break;
	case 8: die_quietly(b);
	case 9: b = ask(7) + ask(b); break;
	default: return -1;
	}
	return ask(b) + a;
}

int many_arguments(int a)
{
	int x = ask(a);

	return ask_many(a, x, 3, 4, 5, 6, 7, 8, 9) + ask_many(x, a, 1, 2, 3, 4, 5, 6, ask(x));
}

int variable_length(int n)
{
	int array[(n & 15) + 1];

	array[0] = n;
	take(array);
	return array[0] + ask(array[n & 7 & n]);
}

int allocates(int n)
{
	char *last = 0;

	for (int i = 0; i < (n & 3); i++) {
		last = __builtin_alloca(16 + (n & 31));
		take(last);
	}
	return last ? *last : ask(n);
}

int aligned_local(int n)
{
	__attribute__((aligned(64))) char block[64];

	block[0] = n;
	take(block);
	return ask(block[1]) + block[2];
}

int aligned_and_variable(int n)
{
	__attribute__((aligned(64))) int block[(n & 15) + 16];

	block[0] = n;
	take(block);
	return ask(block[1]) + block[2];
}

int large_frame(int n)
{
	char block[20000];

	take(block);
	return block[n & 1023];
}

int ends_in_abort(int a)
{
	if (a > 3)
		return ask(a) + a;
	take(&a);
	abort();
}

int dies_on_some_path(int a, int b)
{
	int x = ask(a);

	if (__builtin_expect(x == 5, 0))
		die_quietly(x);
	if (__builtin_expect(b == x, 0)) {
		take(&b);
		die_quietly(b);
	}
	return ask(x + b) + x;
}

int unreachable(int a)
{
	int x = ask(a);

	if (x > 100) {
		take(&x);
		__builtin_unreachable();
	}
	return x + ask(a);
}

extern void unlikely(int) __attribute__((cold));

int has_cold_part(int a, int b)
{
	int x = ask(a), y = ask(b);

	if (x < 0) {
		unlikely(x);
		unlikely(y);
		x = ask(y);
	}
	return ask(x + y) + a;
}

int returns_twice(int a)
{
	long buffer[64];

	if (setjmp(buffer))
		return ask(a);
	take(buffer);
	if (a == 3)
		longjmp(buffer, 1);
	return a;
}

int tail_call(int a, int b)
{
	int x = ask(a);

	return x > b ? ask(b) : leaf(x, b);
}

int tail_call_through_pointer(int (*function)(int), int a) { return function(ask(a)); }

int variadic(int n, ...)
{
	__builtin_va_list arguments;
	int sum = 0;

	__builtin_va_start(arguments, n);
	for (int i = 0; i < (n & 3); i++)
		sum += ask(__builtin_va_arg(arguments, int));
	__builtin_va_end(arguments);
	return sum;
}

struct large { long words[12]; };

struct large returns_structure(int a)
{
	struct large value = {{0}};

	value.words[ask(a) & 7] = a;
	return value;
}

long takes_structure(struct large value, int a) { return value.words[a & 7] + ask(a); }

long passes_structure(int a)
{
	struct large value = returns_structure(a);

	return takes_structure(value, a) + ask(a);
}

int loops(int *values, int n)
{
	int sum = 0;

	for (int i = 0; i < (n & 7); i++) {
		if (values[i & 3] == 3)
			continue;
		sum += ask(values[i & 3]) * n;
		if (sum == 77)
			return sum;
	}
	return sum;
}

int recursive(int n) { return (n & 7) < 2 ? 1 : recursive((n & 7) - 1) + recursive((n & 7) - 2) + n; }

#ifdef __i386__
extern int __attribute__((stdcall)) stdcall_two(int, int);

int __attribute__((stdcall)) pops_its_arguments(int a, int b, int c) { return ask(a + b) + c; }

int __attribute__((fastcall)) fast(int a, int b, int c) { return ask(a - b) + c; }

int __attribute__((regparm(3))) in_registers(int a, int b, int c) { return ask(a + 1) + ask(b) + c; }

int calls_those_that_pop(int a)
{
	int x = stdcall_two(a, 2);

	return pops_its_arguments(x, a, 3) + stdcall_two(x, a) + fast(a, x, 1) + in_registers(1, x, a);
}
#endif
