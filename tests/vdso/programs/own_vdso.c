/* Writes the first bytes of its own vDSO, as many as its argument says. */
#include <stdlib.h>
#include <sys/auxv.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	size_t size = strtoul(argv[1], NULL, 0);

	return write(1, (void *)getauxval(AT_SYSINFO_EHDR), size) != (ssize_t)size;
}
