/* Switches that compilers turn into jump tables, in the shapes that tables come in. */
extern int ask(int);
extern void take(void *);
extern void die_quietly(int) __attribute__((noreturn));

int dense(int a, int b)
{
	switch (a) {
	case 0: return ask(b);
	case 1: return ask(b + 1) + b;
	case 2: return b * 5;
	case 3: b = ask(b + 3); break;
	case 4: b = ask(b ^ 4) - b; break;
	case 5: take(&b); break;
	case 6: return ask(ask(b));
	default: return -1;
	}
	return ask(b) + a;
}

/* Holes, a lowest case that is not 0, negative numbers. */
int with_holes(int a, int b)
{
	switch (a) {
	case -3: return ask(b);
	case -1: take(&b); return b;
	case 0: b = ask(1); break;
	case 2: b = ask(2) + b; break;
	case 3: b = ask(b); break;
	case 6: return ask(b) ^ 6;
	case 7: b -= ask(7); break;
	case 9: return 11;
	}
	return b;
}

/* The index is a byte: no bound check is needed beyond the type. */
int of_a_byte(unsigned char a, int b)
{
	switch (a & 7) {
	case 0: return ask(b);
	case 1: return ask(b + 1) + b;
	case 2: return b * 5;
	case 3: b = ask(b + 3); break;
	case 4: b = ask(b ^ 4) - b; break;
	case 5: take(&b); break;
	case 6: return ask(ask(b));
	case 7: b = 3; break;
	}
	return ask(b) + a;
}

/* The default cannot happen. */
int never_default(unsigned a, int b)
{
	switch (a) {
	case 0: return ask(b);
	case 1: return ask(b + 1) + b;
	case 2: return b * 5;
	case 3: b = ask(b + 3); break;
	case 4: b = ask(b ^ 4) - b; break;
	case 5: take(&b); break;
	default: __builtin_unreachable();
	}
	return ask(b);
}

/* Two in one function, the second within a case of the first, both in a loop. */
int nested(int n, const unsigned char *text)
{
	int sum = 0;

	for (int i = 0; i < n; i++) {
		switch (text[i]) {
		case 'a': sum += ask(i); break;
		case 'b': sum -= ask(i); break;
		case 'c':
			switch (sum) {
			case 0: sum = ask(3); break;
			case 1: take(&sum); break;
			case 2: sum ^= ask(sum); break;
			case 3: return ask(9);
			case 4: sum += 2; break;
			case 5: sum = ask(-sum); break;
			}
			break;
		case 'd': sum *= 7; continue;
		case 'e': return sum;
		case 'f': take((void *)text); break;
		case 'g': die_quietly(sum);
		default: sum++;
		}
		ask(sum);
	}
	return sum;
}

/* 64-bit index, and a result only: no call in sight, so that the frame is as at entry. */
long leaf_switch(long a, long b)
{
	switch (a) {
	case 0: return b + 3;
	case 1: return b * 9 + a;
	case 2: return b >> 3;
	case 3: return b ^ 77;
	case 4: return b * b;
	case 5: return b - 1001;
	case 6: return ~b;
	}
	return 0;
}

/* Tail calls out of a table. */
int tail_calls(int a, int b)
{
	switch (a) {
	case 0: return ask(b);
	case 1: return ask(b + 1);
	case 2: return ask(b * 5);
	case 3: return ask(b - 1);
	case 4: return ask(b ^ 4);
	case 5: return ask(~b);
	case 6: return ask(b << 3);
	}
	return 5;
}

/* GNU C's computed goto: an interpreter's dispatch. */
int interpret(const unsigned char *code, int x)
{
	static const void *const labels[] = { &&stop, &&more, &&less, &&call, &&twice };

	goto *labels[*code];
more:
	x++;
	goto *labels[*++code];
less:
	x--;
	goto *labels[*++code];
call:
	x = ask(x);
	goto *labels[*++code];
twice:
	x *= 2;
	goto *labels[*++code];
stop:
	return x;
}
