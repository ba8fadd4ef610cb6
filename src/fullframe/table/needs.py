"""Which system calls need the full register frame, and why.

A call *needs the full frame* if its handler reads or writes, in ``struct pt_regs``, a slot that
the fast path neither writes at entry nor reloads at exit: bx, bp, r12 to r15; or ``flags``,
``ip`` and ``sp`` where the fast path leaves with SYSRET, which takes rip from the cx slot's
value and rflags from the r11 slot's. Sources: the stubs of Linux 4.2's ``entry_64.S`` and
``entry_64_compat.S`` and the annotations of Linux 4.6 (commits cfcbadb49dab, 302f5b260c32,
eb2a54c3271c), unless an entry below says otherwise.

What matters is the handler, so an entry is recognised by its entry point, in any ABI's spelling
(``sys_execve``, ``compat_sys_execve``, ``__x64_sys_execve``, ``stub_x32_execve``), and by the
call's name as well, since a private entry point for a call does the same to the frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from fullframe.table.model import TableEntry, is_unimplemented


class FrameUse(StrEnum):
    """What a handler does with the frame, beyond reading its arguments and returning a value."""

    FORK = "fork-like"
    """Copies the whole frame."""
    EXEC = "exec-like"
    """Writes the whole frame anew for the new program."""
    SIGRETURN = "sigreturn-like"
    """Restores the whole frame from user memory."""
    FLAGS = "iopl-like"
    """Writes the flags slot only."""
    VM86 = "vm86-like"
    """Puts the whole frame away and loads another."""
    PROBE = "probe-like"
    """Shows the whole frame to probes, which read and may write it."""


@dataclass(frozen=True, slots=True)
class FullFrameNeed:
    """Why a call needs the full register frame.

    Attributes:
        call: the call, as its entry point names it without prefixes.
        use: what its handler does with the frame.
        reason: one sentence for people: what goes wrong without a full frame.
    """

    call: str
    use: FrameUse
    reason: str


_COPIES = "the child gets a copy of the whole frame, unwritten slots included"
_REWRITES = "it rewrites the whole frame, from which every register must be reloaded"
_RESTORES = "it restores the whole frame from user memory, and every register must be reloaded"
_FLAGS = "it writes the flags slot, and a path that restores flags from the r11 slot loses that"
_SWITCHES = "it puts the whole frame away and loads another for virtual-8086 mode"
_PROBES = "probes are given the whole frame and may read or change any register in it"

#: The calls that need the full frame, by the name in their entry points.
FULL_FRAME_NEEDS: dict[str, FullFrameNeed] = {
    call: FullFrameNeed(call, use, reason)
    for use, reason, calls in (
        (FrameUse.FORK, _COPIES, ("fork", "vfork", "clone", "clone3")),
        (FrameUse.EXEC, _REWRITES, ("execve", "execveat")),
        (FrameUse.SIGRETURN, _RESTORES, ("rt_sigreturn", "sigreturn")),
        # Commit eb2a54c3271c. Since c8137ace5638 (2019) iopl no longer touches flags; a table
        # does not say for which kernel it is, and a full frame is never wrong.
        (FrameUse.FLAGS, _FLAGS, ("iopl",)),
        # i386 only; arch/x86/kernel/vm86_32.c copies the frame whole, both ways.
        (FrameUse.VM86, _SWITCHES, ("vm86", "vm86old")),
        # Commits ff474a78cef5 (uretprobe) and 56101b69c919 (uprobe), arch/x86/kernel/uprobes.c.
        (FrameUse.PROBE, _PROBES, ("uretprobe", "uprobe")),
    )
    for call in calls
}

_MACHINE_PREFIX = re.compile(r"__(?:x64|ia32|x32)_")
_PREFIX = re.compile(r"(?:compat_sys|sys32|sys|ptregs|stub_x32|stub32|stub|x32|x86|ia32)_")


def call_of_entry_point(entry_point: str) -> str:
    """Strip an entry point's prefixes: ``__x32_compat_sys_execve`` is ``execve``."""
    call = _MACHINE_PREFIX.sub("", entry_point, count=1)
    while (match := _PREFIX.match(call)) and match.end() < len(call):
        call = call[match.end() :]
    return call


def is_stub(entry_point: str) -> bool:
    """Tell whether an entry point is one of the stubs of Linux up to 4.5 (``stub_execve``)."""
    return entry_point.startswith(("stub", "ptregs_"))


def entry_point_need(entry_point: str, name: str) -> FullFrameNeed | None:
    """Return why one entry point of a call needs the full frame, or None if it does not.

    Args:
        entry_point: the C function, without annotation.
        name: the call's name.
    """
    if is_unimplemented(entry_point):
        return None
    need = FULL_FRAME_NEEDS.get(call_of_entry_point(entry_point))
    return need or FULL_FRAME_NEEDS.get(name)


def full_frame_need(entry: TableEntry) -> FullFrameNeed | None:
    """Return why an entry needs the full frame, or None if nothing is known to need it.

    An entry that is not implemented needs nothing, whatever its name.
    """
    for point, _, _ in entry.entry_points():
        need = entry_point_need(point, entry.name)
        if need is not None:
            return need
    return None
