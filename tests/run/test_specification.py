"""The order of events that the specification demands, and what each does to the frame."""

from __future__ import annotations

import pytest

from fullframe.run.draw import draw_scenarios, plain_scenario
from fullframe.run.scenario import Scenario
from fullframe.run.specification import (
    AX_SLOT,
    ENOSYS,
    FLAGS_SLOT,
    MASK_64,
    ORIG_AX_SLOT,
    Specification,
    frame_after_syscall,
)
from fullframe.run.subject import Call, CallKind, FrameCheck
from fullframe.x86.kernel_layout import HARNESS_LAYOUT as LAYOUT
from fullframe.x86.ptregs import INDEX_OF_SLOT

_X32 = 1 << LAYOUT.x32_bit
_CALLS = (
    Call(0, "64", "read", "sys_read"),
    Call(3, "64", "fork", "sys_fork", CallKind.FORK, True),
    Call(5, "64", "iopl", "sys_iopl", CallKind.FLAGS, True),
    Call(7, "64", "own", "sys_own", CallKind.ORDINARY, True),
    Call(_X32 | 9, "x32", "readv", "compat_sys_readv"),
)
_TRACE = 1 << LAYOUT.syscall_trace_bit
_SECCOMP = 1 << LAYOUT.seccomp_bit
_SIGNAL = 1 << LAYOUT.signal_pending_bit
_RESCHED = 1 << LAYOUT.need_resched_bit
_NOTIFY = 1 << LAYOUT.notify_resume_bit


def _run(number: int, **circumstances: object) -> tuple[list[str], list[int]]:
    plain = plain_scenario(number, LAYOUT)
    scenario = Scenario("test", plain.user, result=77, **circumstances)  # type: ignore[arg-type]
    frame = frame_after_syscall(scenario.user)
    specification = Specification(_CALLS, LAYOUT, frames_are_full=False)
    return [call.symbol for call in specification.call(scenario, frame)], frame


@pytest.mark.parametrize(
    ("number", "circumstances", "calls"),
    [
        (0, {}, ["sys_read"]),
        (_X32 | 9, {}, ["compat_sys_readv"]),
        (9, {}, []),
        (_X32, {}, []),
        (1 << 32, {}, []),
        (
            0, {"thread_flags": _TRACE},
            ["ptrace_report_syscall_entry", "sys_read", "ptrace_report_syscall_exit"],
        ),
        (
            0, {"thread_flags": _TRACE, "tracer_refuses": True},
            ["ptrace_report_syscall_entry", "ptrace_report_syscall_exit"],
        ),
        (
            0, {"thread_flags": _TRACE | _SECCOMP},
            [
                "seccomp_filter", "ptrace_report_syscall_entry", "sys_read",
                "ptrace_report_syscall_exit",
            ],
        ),
        (
            0, {"thread_flags": _TRACE | _SECCOMP, "seccomp_refuses": True},
            ["seccomp_filter", "ptrace_report_syscall_exit"],
        ),
        (0, {"raised_flags": _TRACE}, ["sys_read", "ptrace_report_syscall_exit"]),
        (
            0, {"raised_flags": _SIGNAL | _NOTIFY | _RESCHED},
            ["sys_read", "schedule", "do_signal", "tracehook_notify_resume"],
        ),
        (
            0, {"thread_flags": _RESCHED, "schedule_raises": _SIGNAL},
            ["sys_read", "schedule", "do_signal"],
        ),
        (
            0, {"thread_flags": _RESCHED, "schedule_raises": _RESCHED},
            ["sys_read", "schedule", "schedule"],
        ),
        # The tracer sends the call elsewhere, or nowhere.
        (
            0, {"thread_flags": _TRACE, "tracer_entry_edits": {ORIG_AX_SLOT: 7}},
            ["ptrace_report_syscall_entry", "sys_own", "ptrace_report_syscall_exit"],
        ),
        (
            0, {"thread_flags": _TRACE, "tracer_entry_edits": {ORIG_AX_SLOT: MASK_64}},
            ["ptrace_report_syscall_entry", "ptrace_report_syscall_exit"],
        ),
    ],
)  # fmt: skip
def test_order(number: int, circumstances: dict[str, object], calls: list[str]) -> None:
    assert _run(number, **circumstances)[0] == calls


def test_results() -> None:
    assert _run(0)[1][AX_SLOT] == 77
    assert _run(9)[1][AX_SLOT] == ENOSYS
    refused = {"thread_flags": _SECCOMP, "seccomp_refuses": True, "seccomp_edits": {AX_SLOT: 5}}
    assert _run(0, **refused)[1][AX_SLOT] == 5
    assert _run(0, **refused)[1][ORIG_AX_SLOT] == MASK_64
    # A tracer's ax stands where no call is made; a hole in the table is "not implemented".
    for number, ax in ((MASK_64, 5), (8, 5), (2, ENOSYS), (_X32 | 10, 5), (_X32 | 8, ENOSYS)):
        edits = {ORIG_AX_SLOT: number, AX_SLOT: 5}
        frame = _run(0, thread_flags=_TRACE, tracer_entry_edits=edits)[1]
        assert frame[AX_SLOT] == ax, hex(number)


def test_iopl_changes_flags_and_nothing_else() -> None:
    before, after = _run(0)[1], _run(5)[1]
    assert after[FLAGS_SLOT] == before[FLAGS_SLOT] | 0x3000
    assert after[INDEX_OF_SLOT["r11"]] == before[INDEX_OF_SLOT["r11"]]


def test_who_is_promised_a_full_frame() -> None:
    def checks(number: int, full: bool) -> list[FrameCheck]:
        scenario = plain_scenario(number, LAYOUT)
        specification = Specification(_CALLS, LAYOUT, frames_are_full=full)
        frame = frame_after_syscall(scenario.user)
        return [call.check for call in specification.call(scenario, frame)]

    assert checks(0, full=False) == [FrameCheck.PARTIAL]
    assert checks(0, full=True) == [FrameCheck.FULL]
    assert checks(3, full=False) == checks(7, full=False) == [FrameCheck.FULL]


def test_drawn_scenarios_cover_every_call_in_every_circumstance() -> None:
    scenarios = draw_scenarios(_CALLS, LAYOUT, seed=3)
    seen = {(scenario.user.registers[0], scenario.label) for scenario in scenarios}
    labels = {"plain", "traced", "signal", "reschedule", "filtered", "work comes up"}
    for call in _CALLS:
        assert {label for number, label in seen if number == call.number} == labels
    # And numbers that lead nowhere, each for its own reason.
    numbers = {number for number, _ in seen}
    assert {9, _X32, _X32 | 3, MASK_64, 1, 8, _X32 | 10, 1 << 32} <= numbers


def test_edges_of_sysret_are_drawn() -> None:
    """Frames that miss exactly one condition must not be left to chance."""
    scenarios = draw_scenarios(_CALLS, LAYOUT, seed=3, rounds=8)
    edits = [dict(scenario.tracer_exit_edits) for scenario in scenarios]
    near = [edit for edit in edits if len(edit) > 18]
    cx, ip, r11, flags, cs, ss = (
        INDEX_OF_SLOT[slot] for slot in ("cx", "ip", "r11", "flags", "cs", "ss")
    )
    fine = {"cx": 0, "r11": 0, "cs": 0, "ss": 0, "flags": 0}
    for edit in near:
        fine["cx"] += edit[cx] != edit[ip] and edit[r11] == edit[flags]
        fine["r11"] += edit[cx] == edit[ip] and edit[r11] != edit[flags]
        fine["cs"] += edit[cs] != LAYOUT.user_cs
        fine["ss"] += edit[ss] != LAYOUT.user_ss
        fine["flags"] += bool(edit[flags] & 0x10100)
    assert min(fine.values()) > 0
