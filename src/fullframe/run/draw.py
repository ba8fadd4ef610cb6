"""Draw scenarios at random: the same seed gives the same scenarios.

Every call of the table is made in each of the circumstances below, with random registers; the
calls that use the frame more often, since each of them is few. Numbers that lead to no call, and
frames that miss exactly one condition of SYSRET, are drawn on purpose.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from fullframe.run.scenario import Edits, Scenario
from fullframe.run.specification import MASK_64
from fullframe.run.subject import Call, CallKind
from fullframe.x86.flags import FIXED, IF, RF, TF, USER_SETTABLE
from fullframe.x86.kernel_layout import KernelLayout
from fullframe.x86.ptregs import INDEX_OF_SLOT, SLOTS
from fullframe.x86.registers import AX
from fullframe.x86.transitions import UserState

#: How often calls that use the frame are made, for each time that an ordinary one is.
_FRAME_USER_ROUNDS = 6
#: Numbers that lead to no call: at most this many are tried.
_MOST_NO_CALLS = 384
_IP, _CS, _FLAGS, _SP, _SS = (INDEX_OF_SLOT[slot] for slot in ("ip", "cs", "flags", "sp", "ss"))
_AX, _CX, _R11, _ORIG_AX = (INDEX_OF_SLOT[slot] for slot in ("ax", "cx", "r11", "orig_ax"))
_GENERAL = tuple(range(_ORIG_AX))
_USER_CS_32 = 0x23
_EPERM = -1 & MASK_64


class _Draw:
    """Draws values and edits."""

    def __init__(self, layout: KernelLayout, seed: int) -> None:
        self.layout = layout
        self.random = random.Random(seed)
        self.flag = {
            "trace": 1 << layout.syscall_trace_bit,
            "notify": 1 << layout.notify_resume_bit,
            "signal": 1 << layout.signal_pending_bit,
            "resched": 1 << layout.need_resched_bit,
            "seccomp": 1 << layout.seccomp_bit,
        }

    def word(self) -> int:
        return self.random.getrandbits(64)

    def user_address(self) -> int:
        # Below the last page of the lower half, which Linux maps to nobody.
        return self.random.randrange(0x1000, (1 << self.layout.virtual_address_bits - 1) - 0x1000)

    def flags(self) -> int:
        # Single-stepping is rare, and takes a way of its own: one in eight.
        settable = USER_SETTABLE if self.random.random() < 0.125 else USER_SETTABLE & ~TF
        return self.word() & settable | FIXED | IF

    def chance(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def user(self, number: int) -> UserState:
        registers = [self.word() for _ in range(16)]
        registers[AX] = number
        return UserState(
            tuple(registers),
            self.user_address(),
            self.flags(),
            self.layout.user_cs,
            self.layout.user_ss,
        )

    def result(self) -> int:
        return self.word() if self.chance(2) else -self.random.randrange(1, 4096) & MASK_64

    def some(self) -> Edits:
        """Write about half of the general registers, and sometimes what decides how to leave."""
        edits = {slot: self.word() for slot in _GENERAL if self.chance(2)}
        if self.chance(3):
            edits[_IP] = self.user_address()
        if self.chance(3):
            edits[_FLAGS] = self.flags()
        if self.chance(3):
            edits[_SP] = self.word()
        return edits

    def all(self) -> Edits:
        """Write every slot, as sigreturn does."""
        edits = {slot: self.word() for slot in _GENERAL}
        edits |= {_IP: self.user_address(), _SP: self.word(), _FLAGS: self.flags()}
        edits |= {_CS: self.layout.user_cs, _SS: self.layout.user_ss}
        if self.chance(8):
            edits[_CS] = _USER_CS_32
        return edits

    def near_sysret(self) -> Edits:
        """Write every slot so that SYSRET would do, or all but one of its conditions hold."""
        edits = dict(self.all())
        edits[_FLAGS] &= ~TF
        edits[_CS] = self.layout.user_cs
        edits[_CX], edits[_R11] = edits[_IP], edits[_FLAGS]
        bits = self.layout.virtual_address_bits
        miss = self.random.randrange(8)
        if miss == 0:
            edits[_CX] ^= 1 << self.random.randrange(64)
        elif miss == 1:
            edits[_IP] = edits[_CX] = self.random.choice(
                (1 << bits - 1, MASK_64 >> 1, 1 << 63, edits[_IP] | 1 << bits)
            )
        elif miss == 2:
            edits[_CS] = _USER_CS_32
        elif miss == 3:
            edits[_R11] ^= 1 << self.random.randrange(12)
        elif miss in (4, 5):
            edits[_FLAGS] |= RF if miss == 4 else TF
            edits[_R11] = edits[_FLAGS]
        elif miss == 6:
            edits[_SS] = 0
        return edits

    def exec(self) -> Edits:
        """Write the frame anew for a new program: all zero, but for where it starts."""
        if self.chance(4):
            return {}  # it failed
        edits = dict.fromkeys(range(len(SLOTS)), 0)
        edits |= {_ORIG_AX: self.word(), _IP: self.user_address(), _SP: self.user_address()}
        return edits | {
            _FLAGS: FIXED | IF, _CS: self.layout.user_cs, _SS: self.layout.user_ss,
        }  # fmt: skip

    def signal(self) -> Edits:
        """Set up a signal handler: where it runs and its arguments; now and then everything."""
        if self.chance(3):
            return self.all()
        edits = {INDEX_OF_SLOT[slot]: self.word() for slot in ("di", "si", "dx", "ax")}
        edits |= {_IP: self.user_address(), _SP: self.user_address()}
        return edits | {_CS: self.layout.user_cs, _SS: self.layout.user_ss}


def draw_scenarios(
    calls: Sequence[Call], layout: KernelLayout, seed: int, rounds: int = 1
) -> tuple[Scenario, ...]:
    """Draw scenarios for every call, and for numbers that lead to none.

    Args:
        calls: every call of the table.
        layout: the kernel.
        seed: of the random numbers.
        rounds: how often each ordinary call is made in each circumstance.
    """
    draw = _Draw(layout, seed)
    numbers = [call.number for call in calls]
    scenarios: list[Scenario] = []
    for call in calls:
        ordinary = call.kind is CallKind.ORDINARY and not call.annotated
        for _ in range(rounds if ordinary else rounds * _FRAME_USER_ROUNDS):
            scenarios.extend(_around(draw, call.number, call.kind, numbers))
    for number in _no_calls(draw, numbers):
        scenarios.extend(_around(draw, number, None, numbers))
    return tuple(scenarios)


def plain_scenario(number: int, layout: KernelLayout, thread_flags: int = 0) -> Scenario:
    """Make the scenario whose path is shown: fixed registers, nobody writes to the frame."""
    registers = tuple(0x1111_1111_1111_1111 * (index & 15) for index in range(16))
    user = UserState(
        (number, *registers[1:]), 0x40_1000, FIXED | IF, layout.user_cs, layout.user_ss
    )
    return Scenario("plain", user, thread_flags)


def _around(
    draw: _Draw, number: int, kind: CallKind | None, numbers: Sequence[int]
) -> Iterator[Scenario]:
    """Draw one scenario of each circumstance for a number; no kind: it leads to no call."""
    flag = draw.flag

    def scenario(label: str, **circumstances: object) -> Scenario:
        return Scenario(
            label,
            draw.user(number),
            result=0 if kind is CallKind.EXEC else draw.result(),
            handler_edits=_handler_edits(draw, kind),
            child_edits={_AX: 0} | ({_SP: draw.word()} if draw.chance(2) else {}),
            child_flags=draw.random.choice((0, 0, flag["trace"], flag["signal"])),
            tracer_entry_edits=_tracer_entry(draw, numbers),
            tracer_refuses=draw.chance(8),
            tracer_exit_edits=draw.near_sysret() if draw.chance(2) else draw.some(),
            seccomp_refuses=draw.chance(2),
            seccomp_edits={_AX: _EPERM},
            signal_edits=draw.signal(),
            notify_edits=draw.some(),
            **circumstances,  # type: ignore[arg-type]
        )

    yield scenario("plain")
    yield scenario("traced", thread_flags=flag["trace"])
    yield scenario(
        "reschedule",
        thread_flags=flag["resched"],
        schedule_raises=draw.random.choice((0, flag["signal"], flag["resched"])),
    )
    yield scenario(
        "filtered", thread_flags=flag["seccomp"] | draw.random.choice((0, flag["trace"]))
    )
    if kind is None:
        return
    yield scenario("signal", raised_flags=flag["signal"])
    raised = [name for name in ("trace", "notify", "signal", "resched") if draw.chance(2)]
    yield scenario("work comes up", raised_flags=sum(flag[name] for name in raised))


def _handler_edits(draw: _Draw, kind: CallKind | None) -> Edits:
    drawn: dict[CallKind, Callable[[], Edits]] = {
        CallKind.EXEC: draw.exec,
        CallKind.SIGRETURN: lambda: draw.near_sysret() if draw.chance(2) else draw.all(),
        CallKind.PROBE: draw.some,
    }
    return drawn[kind]() if kind is not None and kind in drawn else {}


def _tracer_entry(draw: _Draw, numbers: Sequence[int]) -> Edits:
    edits = dict(draw.some())
    if draw.chance(3):
        edits[_ORIG_AX] = draw.random.choice((draw.random.choice(numbers), MASK_64, draw.word()))
    return edits


def _no_calls(draw: _Draw, numbers: Sequence[int]) -> list[int]:
    """List numbers that lead to no call, each for its own reason."""
    known, x32_bit = set(numbers), 1 << draw.layout.x32_bit
    native = [number for number in numbers if number < x32_bit]
    last = max(native, default=0)
    last_x32 = max((number & ~x32_bit for number in numbers if number & x32_bit), default=last)
    candidates = [
        *range(last + 2), *(x32_bit | number for number in range(last_x32 + 2)),  # holes, ends
        *(number & ~x32_bit for number in numbers), *(number | x32_bit for number in native),
        MASK_64, MASK_64 >> 1, 1 << 63, 0xFFFF_FFFF, 0x7FFF_FFFF, x32_bit - 1, x32_bit << 1,
        *(native[0] | 1 << bit for bit in range(31, 64)), *(draw.word() for _ in range(16)),
    ]  # fmt: skip
    found = [number for number in dict.fromkeys(candidates) if number not in known]
    if len(found) <= _MOST_NO_CALLS:
        return found
    # A table with a few numbers far apart has thousands of holes, all alike.
    return draw.random.sample(found, _MOST_NO_CALLS)
