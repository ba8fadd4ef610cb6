"""Small tables, as text."""

from __future__ import annotations

from fullframe.table import Table, parse_table

#: Every kind of call, both ABIs, a hole, and numbers small enough for one-byte comparisons.
SMALL = """\
0	common	read		sys_read
1	64	write		sys_write
3	common	fork		sys_fork:regs
4	64	execve		sys_execve:regs
5	64	rt_sigreturn	sys_rt_sigreturn:regs
6	common	iopl		sys_iopl:regs
7	common	own		sys_own:regs
9	common	getppid		sys_getppid
512	x32	execve		compat_sys_execve:regs
513	x32	readv		compat_sys_readv
"""
#: No x32 at all.
NATIVE = "".join(line for line in SMALL.splitlines(True) if "x32" not in line)


def table(text: str, name: str = "test.tbl") -> Table:
    return parse_table(text.encode(), name)
