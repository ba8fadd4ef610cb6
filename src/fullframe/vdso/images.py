"""Which images there are, and what each exports.

Names and versions of the symbols are interfaces: the C library looks them up by both (vdso(7),
tables "i386 functions" and "x86-64 functions"; 32-bit signal trampolines: sigreturn(2)).
"""

from __future__ import annotations

from dataclasses import dataclass

from fullframe.errors import UsageError
from fullframe.x86.registers import I386, X86_64, Machine

#: Ways into the kernel of 32-bit code (``struct pt_regs`` is the same behind all of them).
ENTRIES_I386 = ("int80", "sysenter", "syscall")

VSYSCALL = "__kernel_vsyscall"
SIGRETURN = "__kernel_sigreturn"
RT_SIGRETURN = "__kernel_rt_sigreturn"


@dataclass(frozen=True, slots=True)
class Call:
    """A function of an image that makes one system call, and does nothing else.

    Attributes:
        function: its name.
        call: the system call's name in the packaged table of the machine.
        arguments: how many.
        about: what it does, for the comment.
    """

    function: str
    call: str
    arguments: int
    about: str


@dataclass(frozen=True, slots=True)
class VdsoImage:
    """One image that can be built.

    Attributes:
        name: ``x86-64``, or ``i386-`` and the way into the kernel.
        machine: whose code it is.
        entry: the way into the kernel.
        file_name: of the image, as kernels' builds call theirs.
        soname: what C libraries and debuggers know it by.
        calls: functions that make one system call each.
    """

    name: str
    machine: Machine
    entry: str
    file_name: str
    soname: str
    calls: tuple[Call, ...]

    @property
    def exports(self) -> dict[str, tuple[str, ...]]:
        """Symbol version to the symbols that it holds, the older version first."""
        functions = [call.function for call in self.calls]
        if self.machine.bits == 32:
            return {
                "LINUX_2.5": (VSYSCALL, SIGRETURN, RT_SIGRETURN),
                "LINUX_2.6": tuple(functions),
            }
        functions.append("__vdso_getcpu")
        aliases = [self.alias(function) for function in functions]
        return {"LINUX_2.6": (*functions, *aliases, RT_SIGRETURN)}

    @staticmethod
    def alias(function: str) -> str:
        """Return the weak alias of a function: its name without the prefix."""
        return function.removeprefix("__vdso_")


_CALLS_64 = (
    Call("__vdso_clock_gettime", "clock_gettime", 2, "int (clockid_t, struct timespec *)"),
    Call("__vdso_gettimeofday", "gettimeofday", 2, "int (struct timeval *, struct timezone *)"),
    Call("__vdso_clock_getres", "clock_getres", 2, "int (clockid_t, struct timespec *)"),
    Call("__vdso_time", "time", 1, "time_t (time_t *)"),
)
_CALLS_32 = (
    *_CALLS_64,
    Call("__vdso_clock_gettime64", "clock_gettime64", 2, "int (clockid_t, struct timespec64 *)"),
    Call("__vdso_getcpu", "getcpu", 3, "int (unsigned *, unsigned *, void *)"),
)

IMAGES: tuple[VdsoImage, ...] = (
    *(
        VdsoImage(f"i386-{entry}", I386, entry, f"vdso32-{entry}.so", "linux-gate.so.1", _CALLS_32)
        for entry in ENTRIES_I386
    ),
    VdsoImage("x86-64", X86_64, "syscall", "vdso64.so", "linux-vdso.so.1", _CALLS_64),
)


def choose_images(machine: str | None, entry: str | None) -> tuple[VdsoImage, ...]:
    """Return the images of a machine and a way into the kernel.

    Args:
        machine: ``i386``, ``x86-64``; None: both.
        entry: one of :data:`ENTRIES_I386`; None or ``all``: every one that the machine has.

    Raises:
        UsageError: there is none; the message lists what there is.
    """
    entry = None if entry == "all" else entry
    found = tuple(
        image
        for image in IMAGES
        if machine in (None, image.machine.name) and entry in (None, image.entry)
    )
    if not found:
        there = ", ".join(f"{image.machine.name} {image.entry}" for image in IMAGES)
        raise UsageError(
            f"no image for machine {machine or 'any'}, entry {entry or 'any'}; there are: {there}"
        )
    return found
