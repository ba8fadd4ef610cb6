"""The two machines, x86-64 and i386, as two descriptions of one kind of register file.

A general register is named by its hardware number (0 to 15: ax cx dx bx sp bp si di r8 … r15,
Intel SDM vol. 2, table 2-2) everywhere inside fullframe; DWARF numbers differ between the
machines and are converted at the edges (System V ABI x86-64 figure 3.36; i386 psABI table 2.14).
"""

from __future__ import annotations

from dataclasses import dataclass

AX, CX, DX, BX, SP, BP, SI, DI = range(8)
R8, R9, R10, R11, R12, R13, R14, R15 = range(8, 16)
#: The return address, as a pseudo register after the sixteen general ones.
IP = 16
#: The flags register, likewise; only a signal frame holds the caller's.
FLAGS = 17

#: Names of the slots of ``struct pt_regs`` by hardware register number.
SLOT_OF_REGISTER = (
    "ax", "cx", "dx", "bx", "sp", "bp", "si", "di",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "ip",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """One of the two machines.

    Attributes:
        name: ``x86-64`` or ``i386``.
        bits: 64 or 32.
        word_bytes: size of a general register and of a pushed word, in bytes.
        register_names: hardware number (and :data:`IP`, :data:`FLAGS`) to the full register's name.
        dwarf_to_hardware: DWARF number to hardware number (:data:`IP` for the return address).
        hardware_to_dwarf: the inverse.
        callee_saved: hardware numbers that a callee preserves, the stack pointer excepted
            (System V ABI x86-64 section 3.2.1; i386 psABI section 2.2.2).
        red_zone_bytes: bytes below the stack pointer that signal handlers leave alone.
        dwarf_flags: DWARF number of the flags register, which is in neither mapping: nothing but a
            signal frame's rules are followed for it.
    """

    name: str
    bits: int
    word_bytes: int
    register_names: tuple[str, ...]
    dwarf_to_hardware: dict[int, int]
    hardware_to_dwarf: dict[int, int]
    callee_saved: tuple[int, ...]
    red_zone_bytes: int
    dwarf_flags: int

    def __hash__(self) -> int:
        return self.bits

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return (machine, (self.bits,))

    def dwarf_name(self, dwarf_register: int) -> str:
        """Name a DWARF register of this machine; numbers of no known register as ``r#N``."""
        hardware = self.dwarf_to_hardware.get(dwarf_register)
        if hardware is None and dwarf_register == self.dwarf_flags:
            hardware = FLAGS
        if hardware is not None:
            return self.register_names[hardware]
        vector = self.dwarf_to_vector(dwarf_register)
        return f"r#{dwarf_register}" if vector is None else f"xmm{vector}"

    def dwarf_to_vector(self, dwarf_register: int) -> int | None:
        """Return the number of the vector register that a DWARF number means, or None.

        Source: System V ABI x86-64 figure 3.36 (17 to 32, and 67 to 82 for xmm16 to xmm31);
        i386 psABI table 2.14 (21 to 28).
        """
        if self.bits == 32:
            return dwarf_register - 21 if 21 <= dwarf_register <= 28 else None
        if 17 <= dwarf_register <= 32:
            return dwarf_register - 17
        return dwarf_register - 51 if 67 <= dwarf_register <= 82 else None


def _inverse(mapping: dict[int, int]) -> dict[int, int]:
    return {value: key for key, value in mapping.items()}


_X86_64_DWARF = {0: AX, 1: DX, 2: CX, 3: BX, 4: SI, 5: DI, 6: BP, 7: SP, 16: IP} | {
    number: number for number in range(8, 16)
}
_I386_DWARF = {number: number for number in range(8)} | {8: IP}

X86_64 = Machine(
    name="x86-64",
    bits=64,
    word_bytes=8,
    register_names=(
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags",
    ),
    dwarf_to_hardware=_X86_64_DWARF,
    hardware_to_dwarf=_inverse(_X86_64_DWARF),
    callee_saved=(BX, BP, R12, R13, R14, R15),
    red_zone_bytes=128,
    dwarf_flags=49,
)  # fmt: skip

I386 = Machine(
    name="i386",
    bits=32,
    word_bytes=4,
    register_names=(
        "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi",
        "", "", "", "", "", "", "", "", "eip", "eflags",
    ),
    dwarf_to_hardware=_I386_DWARF,
    hardware_to_dwarf=_inverse(_I386_DWARF),
    callee_saved=(BX, BP, SI, DI),
    red_zone_bytes=0,
    dwarf_flags=9,
)  # fmt: skip


def machine(bits: int) -> Machine:
    """Return the machine of that word size (64 or 32)."""
    return X86_64 if bits == 64 else I386
