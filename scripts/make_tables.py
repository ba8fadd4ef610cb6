#!/usr/bin/env python3
"""Make the packaged system-call tables from the kernel's user-space headers.

Names and numbers come from ``asm/unistd_64.h``, ``asm/unistd_x32.h`` and ``asm/unistd_32.h``
(Debian: package linux-libc-dev). Headers do not name entry points, so those come from rules and
from the exceptions written down below, and the annotations from what
``fullframe.table.needs`` knows of each call. The entry points are Linux 6.1's; a name that is
new in a later header gets ``sys_NAME``.

    python scripts/make_tables.py            writes the tables into src/fullframe/data/tables
    python scripts/make_tables.py --check    exits with 1 if they would change

The result depends on the headers and this script only.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fullframe.table.files import write_table
from fullframe.table.model import Spelling, Table, is_unimplemented
from fullframe.table.needs import entry_point_need
from fullframe.table.parse import parse_table

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "src" / "fullframe" / "data" / "tables"
HEADER_FOLDERS = (Path("/usr/include/x86_64-linux-gnu"), Path("/usr/include"))

_DEFINE = re.compile(r"#define\s+__NR_(\w+)\s+(?:\(__X32_SYSCALL_BIT\s*\+\s*(\d+)\)|(\d+))\s*$")
_VERSION = re.compile(r"#define\s+LINUX_VERSION_(MAJOR|PATCHLEVEL)\s+(\d+)")


def names(text: str) -> frozenset[str]:
    """Make a set of the words of a text."""
    return frozenset(text.split())


# --- x86-64 ---------------------------------------------------------------------------------

#: Names whose C function has another name (the stat family and uname were once replaced).
ENTRY_POINTS_64 = {
    "stat": "sys_newstat",
    "fstat": "sys_newfstat",
    "lstat": "sys_newlstat",
    "uname": "sys_newuname",
    "sendfile": "sys_sendfile64",
    "umount2": "sys_umount",
    "_sysctl": "sys_ni_syscall",
}
#: Names that only ever were reserved, or whose call was taken out: no entry point.
WITHOUT_ENTRY_POINT_64 = names(
    """
    afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms get_thread_area
    getpmsg nfsservctl putpmsg query_module security set_thread_area tuxcall uselib vserver
    """
)

# --- x32 ------------------------------------------------------------------------------------

#: The first number of those that x32 has for itself (512 to 547). These take structures with
#: 32-bit pointers, so they use the compat functions, but for the exceptions below.
FIRST_X32_NUMBER = 512
#: x32 calls whose structures the native function tells apart by itself.
X32_NATIVE = names(
    """
    getsockopt move_pages process_vm_readv process_vm_writev readv setsockopt vmsplice writev
    """
)
#: x32 has 64-bit time_t and file offsets in one register, and a signal frame of its own.
ENTRY_POINTS_X32 = {
    "preadv": "compat_sys_preadv64",
    "preadv2": "compat_sys_preadv64v2",
    "pwritev": "compat_sys_pwritev64",
    "pwritev2": "compat_sys_pwritev64v2",
    "recvmmsg": "compat_sys_recvmmsg_time64",
    "rt_sigreturn": "compat_sys_x32_rt_sigreturn",
    "rt_sigtimedwait": "compat_sys_rt_sigtimedwait_time64",
}

# --- i386 -----------------------------------------------------------------------------------

#: Calls from the time of 16-bit user and group numbers: sys_NAME16. The call with 32-bit ones
#: is named NAME32 and has the plain function, sys_NAME.
SIXTEEN_BIT_IDS = names(
    """
    chown fchown getegid geteuid getgid getgroups getresgid getresuid getuid lchown setfsgid
    setfsuid setgid setgroups setregid setresgid setresuid setreuid setuid
    """
)
#: Calls with 32-bit time_t: sys_NAME32 here, sys_NAME_time32 below. The call with a 64-bit one
#: has another name (NAME64 or NAME_time64) and the plain function.
TIME32 = names(
    """
    clock_adjtime clock_gettime clock_settime stime time timer_gettime timer_settime
    timerfd_gettime timerfd_settime utime
    """
)
TIME32_UNDERSCORED = names(
    """
    adjtimex clock_getres clock_nanosleep futex futimesat io_getevents io_pgetevents
    mq_timedreceive mq_timedsend nanosleep ppoll pselect6 recvmmsg rt_sigtimedwait
    sched_rr_get_interval utimensat utimes
    """
)
TIME64 = names(
    """
    clock_adjtime64 clock_gettime64 clock_settime64 timer_gettime64 timer_settime64
    timerfd_gettime64 timerfd_settime64
    """
)
#: A 64-bit argument in two registers: put together in arch/x86/kernel/sys_ia32.c.
SPLIT_ARGUMENT = names(
    """
    fadvise64 fadvise64_64 fallocate ftruncate64 pread64 pwrite64 readahead sync_file_range
    truncate64
    """
)
ENTRY_POINTS_I386 = {
    "_llseek": "sys_llseek",
    "_newselect": "sys_select",
    "_sysctl": "sys_ni_syscall",
    "bdflush": "sys_ni_syscall",
    "fstat": "sys_newfstat",
    "getrlimit": "sys_old_getrlimit",
    "lstat": "sys_newlstat",
    "mmap": "sys_old_mmap",
    "mmap2": "sys_mmap_pgoff",
    "oldfstat": "sys_fstat",
    "oldlstat": "sys_lstat",
    "oldolduname": "sys_olduname",
    "oldstat": "sys_stat",
    "olduname": "sys_uname",
    "readdir": "sys_old_readdir",
    "select": "sys_old_select",
    "stat": "sys_newstat",
    "ugetrlimit": "sys_getrlimit",
    "umount": "sys_oldumount",
    "umount2": "sys_umount",
    "uname": "sys_newuname",
}
WITHOUT_ENTRY_POINT_I386 = names(
    """
    afs_syscall break create_module ftime get_kernel_syms getpmsg gtty idle lock mpx nfsservctl
    prof profil putpmsg query_module stty ulimit vserver
    """
)
#: Calls that a 64-bit kernel serves by a function of its own for 32-bit processes, which has
#: the native function's name behind compat_.
COMPAT = names(
    """
    _newselect arch_prctl epoll_pwait2 execve execveat fanotify_mark fcntl64 fstat fstatfs
    fstatfs64 ftruncate get_robust_list getdents getitimer getrlimit getrusage gettimeofday
    io_setup io_submit ioctl ipc kexec_load keyctl lookup_dcookie lseek lstat mq_getsetattr
    mq_notify mq_open msgctl msgrcv msgsnd open open_by_handle_at openat ppoll preadv preadv2
    pselect6 ptrace pwritev pwritev2 readdir recvfrom recvmmsg recvmsg rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_tgsigqueueinfo sched_getaffinity sched_setaffinity select semctl sendfile sendmmsg
    sendmsg set_robust_list setitimer setrlimit settimeofday shmat shmctl sigaction sigaltstack
    signalfd signalfd4 sigpending sigprocmask sigreturn socketcall stat statfs statfs64 sysinfo
    timer_create times truncate ugetrlimit ustat wait4 waitid
    """
)
COMPAT_ENTRY_POINTS = {
    "clone": "compat_sys_ia32_clone",  # the order of the arguments is i386's
    "fcntl": "compat_sys_fcntl64",
    "fstat64": "compat_sys_ia32_fstat64",
    "fstatat64": "compat_sys_ia32_fstatat64",
    "getsockopt": "sys_getsockopt",
    "io_pgetevents": "compat_sys_io_pgetevents",
    "io_pgetevents_time64": "compat_sys_io_pgetevents_time64",
    "lstat64": "compat_sys_ia32_lstat64",
    "mmap": "compat_sys_ia32_mmap",
    "ppoll_time64": "compat_sys_ppoll_time64",
    "pselect6_time64": "compat_sys_pselect6_time64",
    "recvmmsg_time64": "compat_sys_recvmmsg_time64",
    "rt_sigtimedwait_time64": "compat_sys_rt_sigtimedwait_time64",
    "setsockopt": "sys_setsockopt",
    "stat64": "compat_sys_ia32_stat64",
    "vm86": "sys_ni_syscall",  # there is no virtual-8086 mode under a 64-bit kernel
    "vm86old": "sys_ni_syscall",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One entry to be written."""

    number: int
    abi: str
    name: str
    entry_point: str | None
    compat_entry_point: str | None = None


def read_header(path: Path) -> dict[str, int]:
    """Read names and numbers from a unistd header; numbers are without the x32 bit."""
    calls: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := _DEFINE.match(line):
            calls[match[1]] = int(match[2] or match[3])
        elif line.startswith("#define __NR_"):
            sys.exit(f"{path}: cannot read {line!r}")
    if not calls:
        sys.exit(f"{path}: no system calls in it")
    return calls


def linux_version(folder: Path) -> str:
    """Read the kernel version of the headers, without the point release."""
    found = dict(_VERSION.findall((folder / "linux" / "version.h").read_text(encoding="utf-8")))
    return f"{found['MAJOR']}.{found['PATCHLEVEL']}"


def entry_point_64(name: str) -> str | None:
    """Name the 64-bit entry point of a call."""
    if name in WITHOUT_ENTRY_POINT_64:
        return None
    return ENTRY_POINTS_64.get(name, f"sys_{name}")


def entry_point_x32(name: str) -> str:
    """Name the entry point of one of the calls that x32 has for itself."""
    if name in X32_NATIVE:
        return f"sys_{name}"
    return ENTRY_POINTS_X32.get(name, f"compat_sys_{name}")


def entry_point_i386(name: str) -> str | None:
    """Name the entry point of a call on an i386 kernel."""
    if name in WITHOUT_ENTRY_POINT_I386:
        return None
    if name in ENTRY_POINTS_I386:
        return ENTRY_POINTS_I386[name]
    if name in SIXTEEN_BIT_IDS:
        return f"sys_{name}16"
    if name.removesuffix("32") in SIXTEEN_BIT_IDS:
        return f"sys_{name.removesuffix('32')}"
    if name in TIME32:
        return f"sys_{name}32"
    if name in TIME32_UNDERSCORED:
        return f"sys_{name}_time32"
    if name in TIME64:
        return f"sys_{name.removesuffix('64')}"
    if name in SPLIT_ARGUMENT:
        return f"sys_ia32_{name}"
    return f"sys_{name.removesuffix('_time64')}"


def compat_entry_point(name: str, entry_point: str | None) -> str | None:
    """Name the entry point of a call of 32-bit processes on a 64-bit kernel, if it differs."""
    if name in COMPAT:
        return f"compat_{entry_point}"
    return COMPAT_ENTRY_POINTS.get(name)


def rows_64(native: dict[str, int], x32: dict[str, int]) -> list[Row]:
    """Merge the 64-bit and the x32 calls into one table's rows."""
    rows = [
        Row(number, "common" if x32.get(name) == number else "64", name, entry_point_64(name))
        for name, number in native.items()
    ]
    rows += [
        Row(
            number,
            "x32",
            name,
            entry_point_x32(name) if number >= FIRST_X32_NUMBER else entry_point_64(name),
        )
        for name, number in x32.items()
        if native.get(name) != number
    ]
    return sorted(rows, key=lambda row: (row.number, row.abi))


def rows_i386(calls: dict[str, int]) -> list[Row]:
    """Return the rows of the i386 table."""
    rows = []
    for name, number in sorted(calls.items(), key=lambda call: call[1]):
        point = entry_point_i386(name)
        rows.append(Row(number, "i386", name, point, compat_entry_point(name, point)))
    return rows


def annotated(entry_point: str | None, name: str) -> str | None:
    """Add the annotation to an entry point that needs it."""
    if entry_point is None or is_unimplemented(entry_point):
        return entry_point
    return entry_point + (Spelling.REGS if entry_point_need(entry_point, name) else "")


def format_rows(rows: Iterable[Row], banner: str) -> bytes:
    """Lay the rows out in columns under the banner."""
    table = [
        (
            str(row.number),
            row.abi,
            row.name,
            annotated(row.entry_point, row.name) or "",
            annotated(row.compat_entry_point, row.name) or "",
        )
        for row in rows
    ]
    widths = [max(len(cells[i]) for cells in table) for i in range(5)]
    lines = ["# " + line if line else "#" for line in banner.splitlines()]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in table
    ]
    return ("\n".join(lines) + "\n").encode("ascii")


def banner(title: str, version: str, headers: str) -> str:
    """Write the comment at the head of a table."""
    return f"""{title}

Made by scripts/make_tables.py: do not edit, change the script and run it again.
Names and numbers: {headers} (Linux {version}).
Entry points: Linux 6.1's, by the script's rules. {Spelling.REGS} behind one: the call needs
the full register frame (fullframe.table.needs says why).

number, abi, name, entry point, compat entry point
"""


def make_tables(headers: Path) -> dict[str, Table]:
    """Make both tables.

    Args:
        headers: the folder with ``linux/version.h``; ``asm`` may be there or in Debian's
            multiarch folder below it.
    """
    asm = headers / "asm"
    root = headers if (headers / "linux" / "version.h").is_file() else headers.parent
    version = linux_version(root)
    native = read_header(asm / "unistd_64.h")
    x32 = read_header(asm / "unistd_x32.h")
    i386 = read_header(asm / "unistd_32.h")
    texts = {
        "syscall_64.tbl": format_rows(
            rows_64(native, x32),
            banner(
                "System calls of x86-64: 64-bit and x32 processes.",
                version,
                "asm/unistd_64.h and asm/unistd_x32.h",
            ),
        ),
        "syscall_32.tbl": format_rows(
            rows_i386(i386), banner("System calls of i386.", version, "asm/unistd_32.h")
        ),
    }
    return {name: parse_table(text, name) for name, text in texts.items()}


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description="make the packaged system-call tables")
    parser.add_argument("--headers", type=Path, help="folder that has asm/unistd_64.h")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write to")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a change")
    arguments = parser.parse_args()
    folders = HEADER_FOLDERS if arguments.headers is None else (arguments.headers,)
    headers = next((folder for folder in folders if (folder / "asm/unistd_64.h").is_file()), None)
    if headers is None:
        sys.exit(f"no asm/unistd_64.h in {' or '.join(map(str, folders))}: install linux-libc-dev")
    changed = 0
    for name, table in make_tables(headers).items():
        path = arguments.output / name
        if arguments.check:
            differs = not path.is_file() or path.read_bytes() != table.to_bytes()
        else:
            differs = write_table(table, path)
        changed += differs
        print(f"{name}: {len(table.entries)} entries, {'changed' if differs else 'as it was'}")
    return 1 if arguments.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
