// C++ exceptions: landing pads, cleanups, a catch in the middle.
extern "C" int ask(int);
extern "C" void take(void *);

struct Guard {
	int value;
	explicit Guard(int a);
	~Guard();
};

extern "C" int cleans_up(int a)
{
	Guard guard(a);
	int x = ask(a);

	take(&guard);
	return ask(x) + guard.value;
}

extern "C" int catches(int a)
{
	int x = ask(a);

	try {
		x += ask(x + a);
		if (x == 5)
			throw x;
		take(&x);
	} catch (int number) {
		return ask(number) + a;
	}
	return ask(x) + x;
}

extern "C" int catches_and_cleans_up(int a, int b)
{
	Guard outer(a);
	int x = 1;

	try {
		Guard inner(b);
		x = ask(a + b);
		take(&inner);
		x += ask(inner.value);
	} catch (...) {
		x = ask(outer.value);
		if (x == 3)
			throw;
	}
	return x + ask(b);
}
