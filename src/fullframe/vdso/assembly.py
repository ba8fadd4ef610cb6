"""The assembly of an image: code and note, without any call-frame information.

The CFI is derived from this code (``fullframe.cfi.write.fix``): a directive here would be one
that somebody typed.
"""

from __future__ import annotations

from fullframe.entry.listing import Listing
from fullframe.table import open_table
from fullframe.vdso.images import RT_SIGRETURN, SIGRETURN, VSYSCALL, Call, VdsoImage
from fullframe.x86.registers import CX, DX

#: Where an interrupted call goes on; what the kernel must know of an image, like its functions.
LANDING_PAD = "vsyscall_landing_pad"
#: What the image's own functions call the entry by: a local label needs no relocation.
_ENTER = ".Lenter_kernel"
#: Registers that survive an entry into the kernel, although callees may change them: callers of
#: it write ``call *%gs:0x10`` where they could have written ``int $0x80``.
PRESERVED = {VSYSCALL: (CX, DX)}
#: Selector of the segment whose limit is the CPU's number and, from bit 12, its node's
#: (entry 15 of the GDT, requested privilege 3; arch/x86/include/asm/segment.h, __CPUNODE_SEG).
_CPU_NODE_SELECTOR = 0x7B


def assembly(image: VdsoImage, linux_version: tuple[int, int, int]) -> str:
    """Write the source of an image.

    Args:
        image: which one.
        linux_version: what the version note says: version, patch level, sublevel.

    Returns:
        GNU syntax that GNU as and LLVM take, not to be preprocessed. The same arguments give the
        same text.
    """
    listing = Listing()
    listing.heading(
        f"{image.soname} for {image.machine.name}, into the kernel by {image.entry}.\n\n"
        "Made by `fullframe vdso build`: do not edit, build it again."
    )
    _constants(listing, image)
    listing.blank()
    listing.op(".text")
    if image.machine.bits == 32:
        _VSYSCALL_OF[image.entry](listing)
        _sigreturn_32(listing)
        _rt_sigreturn(listing, "int", "$0x80")
        for call in image.calls:
            _call_32(listing, call)
    else:
        for call in image.calls:
            _call_64(listing, image, call)
        _getcpu_64(listing, image)
        _rt_sigreturn(listing, "syscall")
    _version_note(listing, linux_version)
    return listing.render()


def system_call_numbers(image: VdsoImage) -> dict[str, int]:
    """Return the numbers of the system calls that an image makes, from the packaged tables."""
    is_32 = image.machine.bits == 32
    table = open_table("i386" if is_32 else "x86-64")
    names = {call.call for call in image.calls} | {"rt_sigreturn", "getcpu"}
    if is_32:
        names.add("sigreturn")
    numbers = {entry.name: entry.number for entry in table.entries_for("i386" if is_32 else "64")}
    return {name: numbers[name] for name in sorted(names)}


def _constants(listing: Listing, image: VdsoImage) -> None:
    listing.heading("System-call numbers")
    numbers = system_call_numbers(image)
    listing.constants((f"NR_{name}", number, "") for name, number in numbers.items())
    if image.machine.bits == 64:
        listing.blank()
        listing.constants(
            [("CPU_NODE_SELECTOR", f"{_CPU_NODE_SELECTOR:#x}", "its limit: node << 12 | CPU")]
        )


# -- i386 ------------------------------------------------------------------------------------


def _vsyscall_begin(listing: Listing, text: str) -> None:
    listing.function(VSYSCALL)
    listing.label(_ENTER)
    listing.why(text)


def _vsyscall_int80(listing: Listing) -> None:
    _vsyscall_begin(
        listing,
        """eax: number; ebx ecx edx esi edi ebp: arguments. eax: result; all else survives.
        The CPU saves the way back, so there is nothing to do before or after.""",
    )
    listing.op("int", "$0x80")
    listing.label(LANDING_PAD)
    listing.op("ret")
    listing.end_function(VSYSCALL)


def _vsyscall_sysenter(listing: Listing) -> None:
    _vsyscall_begin(
        listing,
        """eax: number; ebx ecx edx esi edi ebp: arguments. eax: result; all else survives.
        SYSENTER saves nothing: the kernel takes the stack pointer from ebp, the sixth
        argument from where it points, and comes back to the landing pad. On the way back
        SYSEXIT needs ecx and edx. So all three are on the stack.""",
    )
    _push_three(listing)
    listing.op("movl", "%esp, %ebp")
    listing.op("sysenter")
    _restart_and_land(listing)


def _vsyscall_syscall(listing: Listing) -> None:
    _vsyscall_begin(
        listing,
        """eax: number; ebx ecx edx esi edi ebp: arguments. eax: result; all else survives.
        SYSCALL puts the return address in ecx: the second argument travels in ebp, and the
        sixth on the stack, where esp still points. The frame is that of the entry by
        SYSENTER, so that one landing pad serves both.""",
    )
    _push_three(listing)
    listing.op("movl", "%ecx, %ebp")
    listing.op("syscall")
    _restart_and_land(listing)


def _push_three(listing: Listing) -> None:
    listing.op("pushl", "%ecx")
    listing.op("pushl", "%edx")
    listing.op("pushl", "%ebp")


def _restart_and_land(listing: Listing) -> None:
    listing.why(
        """A call that a signal interrupted is made again by going back two bytes from where it
        would have returned to. The kernel has all arguments back in their registers by then:
        this way in needs no more.""",
    )
    listing.op("int", "$0x80")
    listing.label(LANDING_PAD)
    listing.op("popl", "%ebp")
    listing.op("popl", "%edx")
    listing.op("popl", "%ecx")
    listing.op("ret")
    listing.end_function(VSYSCALL)


_VSYSCALL_OF = {
    "int80": _vsyscall_int80,
    "sysenter": _vsyscall_sysenter,
    "syscall": _vsyscall_syscall,
}


def _trampoline(listing: Listing, name: str, text: str) -> None:
    """Begin a signal trampoline: something of its own stands before its label."""
    listing.blank()
    listing.why(text)
    listing.op(".p2align", "4, 0x90")
    listing.op(".globl", name)
    listing.op(".type", f"{name}, @function")
    listing.op("nop", "", "unwinders look up the byte before")
    listing.label(name)


def _sigreturn_32(listing: Listing) -> None:
    _trampoline(
        listing,
        SIGRETURN,
        """Handlers without SA_SIGINFO return here. The kernel expects the stack as it was
        behind the signal's number, which the handler got as its argument.""",
    )
    listing.op("popl", "%eax", "the signal's number")
    listing.op("movl", "$NR_sigreturn, %eax")
    listing.op("int", "$0x80")
    listing.end_function(SIGRETURN)


def _rt_sigreturn(listing: Listing, mnemonic: str, operand: str = "") -> None:
    _trampoline(
        listing,
        RT_SIGRETURN,
        "Signal handlers return here, with the stack pointer at the frame that the kernel built."
        if not operand
        else "Handlers with SA_SIGINFO return here; the frame begins at the stack pointer.",
    )
    listing.op("movl", "$NR_rt_sigreturn, %eax")
    listing.op(mnemonic, operand)
    listing.end_function(RT_SIGRETURN)


def _call_32(listing: Listing, call: Call) -> None:
    listing.function(call.function)
    listing.why(
        f"{call.about}.\nThere is no page of the kernel's to read it from, so ask. The result "
        "is the kernel's:\nan error is a negative number."
    )
    listing.op("pushl", "%ebx")
    for number, register in enumerate(("ebx", "ecx", "edx")[: call.arguments]):
        listing.op("movl", f"{8 + 4 * number}(%esp), %{register}")
    listing.op("movl", f"$NR_{call.call}, %eax")
    listing.op("call", _ENTER)
    listing.op("popl", "%ebx")
    listing.op("ret")
    listing.end_function(call.function)


# -- x86-64 ----------------------------------------------------------------------------------


def _function_64(listing: Listing, image: VdsoImage, name: str) -> None:
    alias = image.alias(name)
    listing.blank()
    listing.op(".weak", alias)
    listing.op(".set", f"{alias}, {name}")
    listing.function(name)


def _call_64(listing: Listing, image: VdsoImage, call: Call) -> None:
    _function_64(listing, image, call.function)
    listing.why(
        f"{call.about}.\nThere is no page of the kernel's to read it from, so ask. The result "
        "is the kernel's:\nan error is a negative number."
    )
    listing.op("movl", f"$NR_{call.call}, %eax")
    listing.op("syscall")
    listing.op("ret")
    listing.end_function(call.function)


def _getcpu_64(listing: Listing, image: VdsoImage) -> None:
    name = "__vdso_getcpu"
    _function_64(listing, image, name)
    listing.why(
        """int (unsigned *cpu, unsigned *node, void *unused). Linux keeps both in the limit of
        a segment of each CPU's GDT, which any program may ask for. Where there is no such
        segment, the kernel is asked.""",
    )
    listing.op("movl", "$CPU_NODE_SELECTOR, %ecx")
    listing.op("lsll", "%ecx, %eax")
    listing.op("jnz", ".Lask_for_cpu")
    listing.op("testq", "%rdi, %rdi")
    listing.op("jz", ".Lno_cpu_wanted")
    listing.op("movl", "%eax, %ecx")
    listing.op("andl", "$0xfff, %ecx")
    listing.op("movl", "%ecx, (%rdi)")
    listing.label(".Lno_cpu_wanted")
    listing.op("testq", "%rsi, %rsi")
    listing.op("jz", ".Lno_node_wanted")
    listing.op("shrl", "$12, %eax")
    listing.op("movl", "%eax, (%rsi)")
    listing.label(".Lno_node_wanted")
    listing.op("xorl", "%eax, %eax")
    listing.op("ret")
    listing.label(".Lask_for_cpu")
    listing.op("movl", "$NR_getcpu, %eax")
    listing.op("syscall")
    listing.op("ret")
    listing.end_function(name)


# -- the note --------------------------------------------------------------------------------


def version_code(linux_version: tuple[int, int, int]) -> int:
    """Return a version of Linux as one number, LINUX_VERSION_CODE: a byte for each lower part.

    The sublevel stops at 255, as in kernels since 4.4.256 and 4.9.256: it would run over.
    """
    version, patch_level, sublevel = linux_version
    return version << 16 | patch_level << 8 | min(sublevel, 255)


def _version_note(listing: Listing, linux_version: tuple[int, int, int]) -> None:
    written = ".".join(str(part) for part in linux_version)
    listing.heading("What the C library reads: the version of Linux whose calls these are.")
    listing.op(".section", '.note.linux, "a", @note')
    listing.op(".balign", "4")
    listing.op(".long", "6, 4, 0", "sizes of name and description, type")
    listing.op(".asciz", '"Linux"')
    listing.op(".balign", "4")
    listing.op(".long", f"{version_code(linux_version):#x}", written)
    listing.blank()
    listing.op(".section", '.note.GNU-stack, "", @progbits')
