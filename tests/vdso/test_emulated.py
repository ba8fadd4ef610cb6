"""The 32-bit entries on an emulated CPU: no machine runs all three in earnest.

What the CPU and a kernel since Linux 4.4 do at each way in is written here from the manuals (Intel
SDM vol. 2, SYSENTER and SYSEXIT; AMD APM vol. 3, SYSCALL and SYSRET) and from the conventions of
the calls (arch/x86/entry/entry_64_compat.S): the image is held to it, and at every instruction its
rules must find every register of the caller in the emulated registers and memory.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass, field

import pytest
from iced_x86 import Decoder, Mnemonic
from unicorn import UC_ARCH_X86, UC_MODE_32, Uc, UcError, x86_const

from fullframe.cfi.rules import CfaRegister, Offset, Undefined
from fullframe.cfi.write.compare import RowMap
from fullframe.elf.image import Image
from fullframe.vdso.assembly import LANDING_PAD
from fullframe.vdso.verify import address_of
from tests.vdso.support import I386_NAMES, built

REGISTERS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
UNICORN = {name: getattr(x86_const, f"UC_X86_REG_{name.upper()}") for name in (*REGISTERS, "eip")}
ARGUMENTS = ("ebx", "ecx", "edx", "esi", "edi", "ebp")
BASE, STACK, RETURN = 0xF7FC0000, 0x7FFF0000, 0x08048123
#: How much below the caller's stack pointer is looked at.
STACK_BYTES = 256
NUMBER = 192
RESULT = 0xF7001000
#: What the way back leaves in a register that it does not keep.
JUNK = 0xDEAD0000

each_entry = pytest.mark.parametrize("name", I386_NAMES)


@dataclass
class Machine:
    """A 32-bit process with an image mapped, and a kernel behind it.

    Attributes:
        restarts: how often the kernel has the call made again before it answers.
        seen: number and arguments of each call that the kernel saw.
        steps: address of each instruction, and before it: all registers, and the stack.
    """

    name: str
    restarts: int = 0
    seen: list[tuple[int, ...]] = field(default_factory=list)
    steps: list[tuple[int, dict[str, int], bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        data = built(self.name).data
        self.image = Image.from_bytes(data, self.name)
        self.cpu = Uc(UC_ARCH_X86, UC_MODE_32)
        self.cpu.mem_map(BASE, 0x2000)
        self.cpu.mem_write(BASE, data)
        self.cpu.mem_map(STACK - 0x10000, 0x20000)
        self.cpu.mem_map(RETURN & ~0xFFF, 0x1000)
        pad = address_of(self.image, LANDING_PAD)
        assert pad is not None
        self.landing_pad = BASE + pad

    def get(self, name: str) -> int:
        return int(self.cpu.reg_read(UNICORN[name]))

    def set(self, **values: int) -> None:
        for name, value in values.items():
            self.cpu.reg_write(UNICORN[name], value & 0xFFFFFFFF)

    def word(self, address: int) -> int:
        return int(struct.unpack("<I", self.cpu.mem_read(address, 4))[0])

    def state(self) -> dict[str, int]:
        return {name: self.get(name) for name in REGISTERS}

    def run(self, function: str) -> None:
        """Call a function, and step until it returns."""
        begin = address_of(self.image, function)
        assert begin is not None
        self.set(eip=BASE + begin)
        for _ in range(200):
            ip = self.get("eip")
            if ip == RETURN:
                return
            stack = bytes(self.cpu.mem_read(STACK - STACK_BYTES, STACK_BYTES + 4))
            self.steps.append((ip - BASE, self.state(), stack))
            instruction = next(iter(Decoder(32, bytes(self.cpu.mem_read(ip, 15)))))
            enter = {
                Mnemonic.INT: self._int80,
                Mnemonic.SYSENTER: self._sysenter,
                Mnemonic.SYSCALL: self._syscall,
            }.get(instruction.mnemonic)
            if enter is not None:
                enter(ip + instruction.len)
            else:
                self.cpu.emu_start(ip, 0, count=1)
        raise AssertionError("it does not return")

    # -- the ways in and out ------------------------------------------------------------------

    def _int80(self, following: int) -> None:
        """The CPU saves all, and IRET brings all back."""
        arguments = [self.get(name) for name in ARGUMENTS]
        self._answer(arguments, following, following - 2, restored={})

    def _sysenter(self, following: int) -> None:
        """The stack pointer is what ebp says; back by SYSEXIT, which takes ecx and edx."""
        stack = self.get("ebp")
        arguments = [self.get(name) for name in ARGUMENTS[:5]] + [self.word(stack)]
        self.set(esp=JUNK)
        restored = {"esp": stack, "ebp": arguments[5]}
        lost = {"ecx": stack, "edx": self.landing_pad}
        self._answer(arguments, self.landing_pad, self.landing_pad - 2, restored, lost)

    def _syscall(self, following: int) -> None:
        """Ecx is the return address; the second argument is in ebp. Back by SYSRET."""
        self.set(ecx=following)
        stack = self.get("esp")
        arguments = [self.get(name) for name in ARGUMENTS]
        arguments[1], arguments[5] = arguments[5], self.word(stack)
        restored = {"ebp": arguments[5]}
        lost = {"ecx": self.landing_pad}
        self._answer(arguments, self.landing_pad, self.landing_pad - 2, restored, lost)

    def _answer(
        self,
        arguments: list[int],
        back: int,
        again: int,
        restored: dict[str, int],
        lost: dict[str, int] | None = None,
    ) -> None:
        self.seen.append((self.get("eax"), *arguments))
        self.set(**restored)
        if self.restarts:
            # Left by IRET, with the frame as the kernel has it: every argument in its register.
            self.restarts -= 1
            self.set(**dict(zip(ARGUMENTS, arguments, strict=True)), eip=again)
            return
        self.set(eax=RESULT, eip=back, **(lost or {}))


BEFORE = {
    "eax": NUMBER, "ecx": 0x11111111, "edx": 0x22222222, "ebx": 0x33333333, "esp": STACK,
    "ebp": 0x55555555, "esi": 0x66666666, "edi": 0x77777777,
}  # fmt: skip


def started(name: str, restarts: int = 0) -> Machine:
    machine = Machine(name, restarts)
    machine.set(**BEFORE)
    machine.cpu.mem_write(STACK, struct.pack("<I", RETURN))
    return machine


@each_entry
@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_the_kernel_sees_every_argument_and_the_caller_every_register(
    name: str, restarts: int
) -> None:
    machine = started(name, restarts)
    machine.run("__kernel_vsyscall")
    call = (NUMBER, *(BEFORE[name] for name in ARGUMENTS))
    assert machine.seen == [call] * (1 + restarts)
    assert machine.state() == {**BEFORE, "eax": RESULT, "esp": STACK + 4}


def word_of(stack: bytes, address: int) -> int:
    return int(struct.unpack_from("<I", stack, address - STACK + STACK_BYTES)[0])


def recovered(rows: RowMap, at: int, state: dict[str, int], stack: bytes) -> dict[str, int]:
    """The caller's registers as an unwinder that reads the rules finds them."""
    row = rows.at(at)
    assert row is not None
    assert isinstance(row.cfa, CfaRegister)
    cfa = state[REGISTERS[row.cfa.dwarf_register]] + row.cfa.offset_bytes
    caller = {**state, "esp": cfa}
    for number, rule in row.registers.items():
        name = "eip" if number == 8 else REGISTERS[number]
        if isinstance(rule, Undefined):
            del caller[name]
            continue
        assert isinstance(rule, Offset)
        caller[name] = word_of(stack, cfa + rule.offset_bytes)
    return caller


@each_entry
@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize(
    "function", ["__kernel_vsyscall", "__vdso_clock_gettime", "__vdso_time", "__vdso_getcpu"]
)
def test_the_rules_find_every_register_at_every_instruction(
    name: str, restarts: int, function: str
) -> None:
    machine = started(name, restarts)
    machine.run(function)
    rows = RowMap(machine.image)
    entry = address_of(machine.image, "__kernel_vsyscall")
    assert entry is not None
    kept = ["esp", "ebp", "ebx", "esi", "edi"]
    call: dict[str, int] = {}
    for at, state, stack in machine.steps:
        in_entry = entry <= at < entry + 16
        if at == entry:
            # Whoever calls it counts on ecx and edx as well.
            back = word_of(stack, state["esp"])
            call = {**state, "esp": state["esp"] + 4, "eip": back}
        caller = recovered(rows, at, state, stack)
        wanted = call if in_entry else {**BEFORE, "esp": STACK + 4, "eip": RETURN}
        names = [*kept, "eip", *(("ecx", "edx") if in_entry else ())]
        found = {each: caller[each] for each in names}
        assert found == {each: wanted[each] for each in names}, hex(at)
    assert len(machine.steps) >= (2 if name == "i386-int80" else 9)


@each_entry
def test_the_functions_pass_their_arguments_on(name: str) -> None:
    for function, number, count in (
        ("__vdso_clock_gettime", 265, 2),
        ("__vdso_gettimeofday", 78, 2),
        ("__vdso_clock_getres", 266, 2),
        ("__vdso_time", 13, 1),
        ("__vdso_clock_gettime64", 403, 2),
        ("__vdso_getcpu", 318, 3),
    ):
        machine = started(name)
        arguments = (0xA1, 0xA2, 0xA3)
        machine.cpu.mem_write(STACK + 4, struct.pack("<III", *arguments))
        machine.run(function)
        ((seen, *rest),) = machine.seen
        assert (seen, *rest[:count]) == (number, *arguments[:count])
        after = machine.state()
        assert after["eax"] == RESULT
        assert {each: after[each] for each in ("ebx", "ebp", "esi", "edi")} == {
            each: BEFORE[each] for each in ("ebx", "ebp", "esi", "edi")
        }
        assert after["esp"] == STACK + 4


def test_that_it_can_fail() -> None:
    """An entry that copies esp before the last push is caught by the kernel's sixth argument."""
    machine = started("i386-sysenter")
    code = bytes(machine.cpu.mem_read(BASE, 0x1000))
    right, wrong = b"\x51\x52\x55\x89\xe5", b"\x51\x52\x89\xe5\x55"
    assert code.count(right) == 1
    machine.cpu.mem_write(BASE, code.replace(right, wrong))
    with contextlib.suppress(UcError):  # the stack is a word off on the way back
        machine.run("__kernel_vsyscall")
    assert machine.seen[0][6] != BEFORE["ebp"]
