"""Which functions of an image are stepped through, and how they are come by."""

from __future__ import annotations

from dataclasses import dataclass

from fullframe.cfi.trampolines import find_trampoline
from fullframe.elf.image import Image
from fullframe.elf.memory import AddressError
from fullframe.x86.registers import AX, BP, BX, CX, DI, DX, R8, SI, SP, Machine

#: Offset in the program's buffer that stands for a pointer; the buffer is 4096 bytes.
_BUFFER, _SECOND, _THIRD = "buffer+0", "buffer+512", "buffer+1024"
_ALL_ONES = (1 << 64) - 1

#: What each function is called with, one tuple of arguments a call: paths with and without a system
#: call. Source: vdso(7); for getrandom and sgx_enter_enclave the kernel's own description of what
#: they answer to arguments that only ask (``include/uapi/linux/random.h``, ``asm/sgx.h``).
_CLOCKS = (1, 0, 5, 2, 99)
ARGUMENTS: dict[str, tuple[tuple[int | str, ...], ...]] = {
    "clock_gettime": tuple((clock, _BUFFER) for clock in _CLOCKS),
    "clock_gettime64": tuple((clock, _BUFFER) for clock in _CLOCKS),
    "clock_getres": tuple((clock, _BUFFER) for clock in (1, 5, 2, 99)),
    "clock_getres_time64": tuple((clock, _BUFFER) for clock in (1, 5, 2, 99)),
    "gettimeofday": ((_BUFFER, _SECOND), (0, 0)),
    "time": ((_BUFFER,), (0,)),
    "getcpu": ((_BUFFER, _SECOND, 0), (0, 0, 0)),
    "getrandom": ((_SECOND, 0, 0, _THIRD, _ALL_ONES), (_SECOND, 16, 0, 0, 0)),
    "sgx_enter_enclave": ((0, 0, 0, 0, 0, 0, _BUFFER),),
}

#: Linux: getppid, a call that takes no argument and changes nothing (asm/unistd_32.h).
_GETPPID_32 = 64
_OLD_SIGRETURN_32 = 119


@dataclass(frozen=True, slots=True)
class Scenario:
    """One function of the image, and how it is come by.

    Attributes:
        name: the function's.
        address: link-time address.
        is_signal: a signal handler returns to it; otherwise it is called.
        with_siginfo: the kernel makes the frame of rt_sigreturn (not i386's old sigreturn).
        calls: what it is called with: hardware register or ("stack", index) to value; values
            are numbers or ``buffer+N``.
        preserved: hardware numbers that the caller finds as they were, the stack pointer excepted.
    """

    name: str
    address: int
    is_signal: bool
    with_siginfo: bool
    calls: tuple[dict[int, int | str], ...]
    preserved: tuple[int, ...]


#: Keys of ``Scenario.calls`` from here on are words of the stack, from the stack pointer up.
STACK_ARGUMENT = 100

_ARGUMENT_REGISTERS_64 = (DI, SI, DX, CX, R8, R8 + 1)


def find_scenarios(image: Image) -> tuple[list[Scenario], dict[str, str]]:
    """Find what can be stepped through.

    Args:
        image: a vDSO.

    Returns:
        The scenarios by address, and the names of other functions with the reason.
    """
    names: dict[int, list[str]] = {}
    for symbol in image.symbols:
        if symbol.kind not in ("func", "notype") or symbol.binding == "local":
            continue
        defined = symbol.name and symbol.section_index is not None
        if defined and image.executable_end(symbol.address) is not None:
            names.setdefault(symbol.address, []).append(symbol.name.partition("@")[0])
    found: list[Scenario] = []
    left: dict[str, str] = {}
    for address, aliases in sorted(names.items()):
        # clock_gettime and __vdso_clock_gettime are one function.
        name = sorted(aliases, key=lambda each: (not each.startswith("__"), each))[0]
        scenario = _scenario(image, name, address)
        if scenario is None:
            left[name] = "as it is not known what to call it with"
        else:
            found.append(scenario)
    return found, left


def _scenario(image: Image, name: str, address: int) -> Scenario | None:
    machine = image.machine
    number = _trampoline(image, address)
    if number is not None:
        return trampoline_scenario(machine, name, address, number)
    if name == "__kernel_vsyscall" and machine.bits == 32:
        # Every register but eax comes back (i386 way into the kernel; vdso(7)).
        return Scenario(name, address, False, False, ({AX: _GETPPID_32},), (BX, CX, DX, SI, DI, BP))
    base = name.removeprefix("__vdso_")
    arguments = ARGUMENTS.get(base)
    if arguments is None or (base == name and not name.startswith("clock")):
        return None
    calls = tuple(_placed(machine, call) for call in arguments)
    return Scenario(name, address, False, False, calls, machine.callee_saved)


def trampoline_scenario(machine: Machine, name: str, address: int, number: int) -> Scenario:
    """Make the scenario of a signal trampoline that makes system call ``number``."""
    general = range(16) if machine.bits == 64 else range(8)
    every = tuple(register for register in general if register != SP)
    old = machine.bits == 32 and number == _OLD_SIGRETURN_32
    return Scenario(name, address, True, not old, ({},), every)


def _trampoline(image: Image, address: int) -> int | None:
    """Return the number of the signal return that the code at an address makes."""
    try:
        end = image.executable_end(address) or address
        body = bytes(image.read(address, min(32, end - address)))
    except AddressError:
        return None
    found = find_trampoline(image.machine, body, believed=False)
    return found.number if found is not None and found.lead_bytes == 0 else None


def _placed(machine: Machine, arguments: tuple[int | str, ...]) -> dict[int, int | str]:
    """Put arguments where the calling convention wants them."""
    places: dict[int, int | str] = {}
    for index, value in enumerate(arguments):
        if machine.bits == 64 and index < len(_ARGUMENT_REGISTERS_64):
            places[_ARGUMENT_REGISTERS_64[index]] = value
        else:
            first = len(_ARGUMENT_REGISTERS_64) if machine.bits == 64 else 0
            places[STACK_ARGUMENT + index - first] = value
    return places


def register_pattern(machine: Machine) -> dict[int, int]:
    """Return a value for each general register: distinct, and nothing that is an address."""
    count = 16 if machine.bits == 64 else 8
    unit = 0x0101_0101_0101_0101 if machine.bits == 64 else 0x0101_0101
    # From 0xA1 on every byte: not canonical as an address on x86-64, the kernel's on i386 is not
    # asked for; recognisable in a table either way.
    top = (1 << machine.bits) - 1
    return {number: unit * (0xA1 + number) & top for number in range(count) if number != SP}
