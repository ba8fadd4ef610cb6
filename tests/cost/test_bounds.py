from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullframe.cost.bounds import (
    Demand,
    Microarchitecture,
    bound,
    cycles_bounds,
    demand,
    difference_bounds,
    microarchitectures,
    undercounted,
)
from fullframe.cost.path import path_cost, straight
from fullframe.cost.sequences import six_registers
from fullframe.errors import UsageError
from fullframe.x86.trace import TracedInstruction

CORES = microarchitectures()
NAMED = ("Sandy Bridge", "Haswell", "Skylake", "Ice Lake", "Zen 3")


def hex_path(text: str) -> list[TracedInstruction]:
    return straight(bytes.fromhex(text))


def test_the_cores_that_were_asked_for_are_there() -> None:
    assert set(NAMED) <= set(CORES)


@pytest.mark.parametrize("core", CORES.values(), ids=list(CORES))
def test_every_figure_has_its_source(core: Microarchitecture) -> None:
    figures = {field.name for field in fields(core)} - {"name", "mca", "source"}
    assert set(core.source) == figures
    assert all(len(text) > 5 for text in core.source.values())
    # "as X" must lead somewhere.
    for text in core.source.values():
        if text.startswith("as "):
            assert any(text.startswith(f"as {name}") for name in CORES), text


@pytest.mark.parametrize("how", ["mov", "push"])
def test_six_registers_are_limited_by_the_store_ports(how: str) -> None:
    path = six_registers(how)
    counted = path_cost(path)
    assert (counted.instructions, counted.stores, counted.loads) == (12, 6, 6)
    bounds = cycles_bounds(path)
    # By hand: 6 stores / 1 a cycle on Sandy Bridge, Haswell, Skylake; on Ice Lake 6 / 2 (and the
    # 6 loads / 2); on Zen 3 12 accesses / 3 address generation units.
    assert {name: bounds[name] for name in NAMED} == {
        "Sandy Bridge": 6,
        "Haswell": 6,
        "Skylake": 6,
        "Ice Lake": 3,
        "Zen 3": 4,
    }
    core = CORES["Sandy Bridge"]
    assert bound(demand(path, core), core).limited_by == "stores"


def test_the_encodings_of_the_six_registers() -> None:
    pushes = "53554154415541564157" + "415f415e415d415c5d5b"
    assert b"".join(item.encoding for item in six_registers("push")).hex() == pushes
    moves = six_registers("mov")
    assert moves[0].encoding.hex() == "48895c2428"  # mov %rbx, 40(%rsp)
    assert moves[5].encoding.hex() == "4c893c24"  # mov %r15, (%rsp)
    assert moves[6].encoding.hex() == "4c8b3c24"  # mov (%rsp), %r15
    assert moves[11].encoding.hex() == "488b5c2428"  # mov 40(%rsp), %rbx
    assert [item.address for item in moves][:2] == [0, 5]
    with pytest.raises(UsageError, match="expected mov or push"):
        six_registers("xmm")


#: Code, µops on Intel's cores, µops on AMD's: by hand, from the rules in the module.
UOPS = [
    ("50", 1, 1),  # push %rax
    ("58", 1, 1),  # pop %rax
    ("ff7010", 2, 1),  # push 16(%rax)
    ("8f4010", 2, 1),  # pop 16(%rax)
    ("480107", 2, 1),  # add %rax, (%rdi)
    ("480307", 1, 1),  # add (%rdi), %rax
    ("48894424f8", 1, 1),  # mov %rax, -8(%rsp)
    ("e800000000", 2, 1),  # call .+5
    ("ff14c500000000", 2, 1),  # call *0(,%rax,8)
    ("ff2500000000", 1, 1),  # jmp *0(%rip)
    ("c3", 1, 1),  # ret
    ("0f1f440000", 1, 1),  # nopl
    ("4839c77500", 1, 1),  # cmp %rax, %rdi; jne .+2: fused
    ("4839c7907500", 3, 3),  # cmp; nop; jne: not fused
    ("4889c77500", 2, 2),  # mov; jne: not fused
    ("4801c77500", 1, 1),  # add; jne: fused (Zen 3 too)
    ("4809c77500", 2, 1),  # or; jne: fused on Zen 3 only
    ("4839c7eb00", 2, 2),  # cmp; jmp: only conditional jumps fuse
    ("0f01f8", 1, 1),  # swapgs: undercounted
    ("f348a5", 1, 1),  # rep movsq: undercounted
    ("f0480107", 1, 1),  # lock add: undercounted
]


@pytest.mark.parametrize(("code", "intel", "amd"), UOPS)
def test_fused_domain_uops(code: str, intel: int, amd: int) -> None:
    path = hex_path(code)
    for name in ("Sandy Bridge", "Haswell", "Skylake", "Ice Lake"):
        assert demand(path, CORES[name]).uops == intel
    assert demand(path, CORES["Zen 3"]).uops == amd


def test_zen_2_fuses_only_compare_and_test() -> None:
    assert demand(hex_path("4839c77500"), CORES["Zen 2"]).uops == 1
    assert demand(hex_path("4801c77500"), CORES["Zen 2"]).uops == 2


def test_fusion_needs_neighbours_not_only_a_sequence() -> None:
    compare = TracedInstruction(0x10, bytes.fromhex("4839c7"))
    away = TracedInstruction(0x20, bytes.fromhex("7500"))
    assert demand([compare, away], CORES["Skylake"]).uops == 2


def test_taken_branches() -> None:
    def taken(*items: tuple[int, str]) -> int:
        path = [TracedInstruction(address, bytes.fromhex(code)) for address, code in items]
        return demand(path, CORES["Skylake"]).taken_branches

    assert taken((0, "7510"), (2, "90")) == 0  # jne, not taken
    assert taken((0, "7510"), (0x12, "90")) == 1  # jne, taken
    assert taken((0, "7510")) == 0  # the last: not known, so not counted
    assert taken((0, "eb10")) == 1  # jmp: always
    assert taken((0, "e810000000"), (0x15, "c3"), (5, "90")) == 2
    assert taken((0, "48cf")) == 0  # iretq is no branch of the branch unit


def test_what_costs_more_than_it_counts_is_named() -> None:
    path = hex_path("0f01f8fa5048cf480f07f348a59d0f01f8f30f1efa")
    names = ("swapgs", "cli", "iretq", "sysretq", "movsq", "popfq", "swapgs")
    assert undercounted(path) == names
    assert demand(path, CORES["Skylake"]).undercounted == names


def test_a_bound_names_what_limits_it() -> None:
    core = CORES["Haswell"]
    assert bound(Demand(8, 1, 1, 0), core).limited_by == "issue"
    assert bound(Demand(8, 1, 1, 0), core).cycles == 2
    assert bound(Demand(4, 0, 4, 0), core).limited_by == "stores"
    assert bound(Demand(8, 8, 0, 0), core).limited_by == "loads"
    assert bound(Demand(4, 0, 0, 3), core).limited_by == "taken branches"
    assert bound(Demand(12, 6, 6, 0), CORES["Zen 3"]).limited_by == "memory"
    assert bound(Demand(0, 0, 0, 0), core).cycles == 0


def test_difference_of_two_paths() -> None:
    shared = "0f01f85051c3"
    shorter = hex_path(shared)
    longer = hex_path("0f01f8505153554154415541564157415f415e415d415c5d5bc3")
    assert difference_bounds(longer, shorter) == cycles_bounds(six_registers("push"))
    assert set(difference_bounds(shorter, longer).values()) == {0.0}


INSTRUCTIONS = [bytes.fromhex(code) for code, _, _ in UOPS]
PATHS = st.lists(st.sampled_from(INSTRUCTIONS), max_size=25).map(lambda parts: b"".join(parts))


@given(PATHS, PATHS)
def test_a_longer_path_is_never_bounded_lower(head: bytes, tail: bytes) -> None:
    part, whole = cycles_bounds(straight(head)), cycles_bounds(straight(head + tail))
    assert all(part[name] <= whole[name] for name in CORES)


@given(PATHS)
def test_a_bound_is_the_largest_of_its_resources(code: bytes) -> None:
    path = straight(code)
    counted = path_cost(path)
    for core in CORES.values():
        needs = demand(path, core)
        assert (needs.loads, needs.stores) == (counted.loads, counted.stores)
        result = bound(needs, core)
        assert result.cycles == max(result.by_resource.values())
        assert result.cycles * core.issue_uops >= needs.uops
        # Ivy Bridge is Sandy Bridge; each later core of a maker bounds no higher.
    bounds = cycles_bounds(path)
    assert bounds["Ivy Bridge"] == bounds["Sandy Bridge"] >= bounds["Haswell"]
    assert bounds["Haswell"] == bounds["Skylake"] >= bounds["Ice Lake"]
    assert bounds["Zen 2"] >= bounds["Zen 3"] >= bounds["Zen 4"]


@given(PATHS, PATHS)
def test_extra_needs_are_never_negative(one: bytes, other: bytes) -> None:
    assert all(cycles >= 0 for cycles in difference_bounds(straight(one), straight(other)).values())
