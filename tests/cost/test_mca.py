from __future__ import annotations

from pathlib import Path

import pytest

from fullframe.cost.bounds import bound, demand, microarchitectures
from fullframe.cost.mca import mca_figure
from fullframe.cost.path import straight
from fullframe.cost.sequences import six_registers
from fullframe.errors import ToolMissingError
from fullframe.toolchain.find import find_tool
from tests.support import skip_or_fail

CORES = microarchitectures()
SKYLAKE = CORES["Skylake"]


@pytest.fixture
def tool() -> str:
    try:
        return find_tool("llvm-mca", newest=True)
    except ToolMissingError as error:
        skip_or_fail(str(error))


@pytest.mark.parametrize("core", CORES.values(), ids=list(CORES))
@pytest.mark.usefixtures("tool")
def test_six_stores_and_loads_agree_with_the_bound(core) -> None:  # type: ignore[no-untyped-def]
    path = six_registers("mov")
    figure = mca_figure(path, core)
    if "has no model of it" in figure.reason:
        skip_or_fail(f"{figure.tool}: {figure.reason}")
    assert figure.cycles is not None, figure.reason
    expected = bound(demand(path, core), core).cycles
    # llvm-mca's models of AMD's cores differ from AMD's guides (see the sources of the figures):
    # Zen 2's lets three address units store in one cycle, Zen 3's and 4's store once a cycle.
    expected = {"Zen 2": 4, "Zen 3": 6, "Zen 4": 6}.get(core.name, expected)
    assert figure.cycles == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("50", "no stack engine"),
        ("58", "no stack engine"),
        ("e800000000", "no stack engine"),
        ("c3", "no stack engine"),
        ("0f01f8", "only guesses at swapgs"),
        ("fa0f01f8fa", "only guesses at cli, swapgs"),
        ("480f07", "only guesses at sysretq"),
        ("", "path is empty"),
    ],
)
def test_the_model_is_not_asked_where_it_does_not_apply(code: str, reason: str) -> None:
    figure = mca_figure(straight(bytes.fromhex(code)), SKYLAKE)
    assert figure.cycles is None
    assert figure.reason.startswith("does not apply: ")
    assert reason in figure.reason


def test_the_six_pushes_and_pops_are_refused() -> None:
    figure = mca_figure(six_registers("push"), SKYLAKE)
    assert figure.reason == "does not apply: no stack engine in the model"


def test_without_llvm_mca_the_reason_says_so(tmp_path: Path) -> None:
    figure = mca_figure(six_registers("mov"), SKYLAKE, search_path=str(tmp_path))
    assert (figure.cycles, figure.reason) == (None, "llvm-mca is not installed")


def test_an_llvm_that_takes_another_cores_model_is_not_asked(tmp_path: Path) -> None:
    # LLVM 14 knows icelake-server by Skylake's model: one store a cycle instead of two.
    (tmp_path / "llvm-mca").write_text("#!/bin/sh\necho 'Debian LLVM version 14.0.6'\n")
    (tmp_path / "llvm-mca").chmod(0o755)
    figure = mca_figure(six_registers("mov"), CORES["Ice Lake"], search_path=str(tmp_path))
    assert figure.cycles is None
    assert figure.reason == "LLVM 14 has no model of it; next: LLVM 17 or newer"


@pytest.mark.parametrize("output", ["error", '{"CodeRegions": []}', '{"CodeRegions": 1}', "{"])
def test_a_tool_that_answers_nonsense_gives_a_reason(tmp_path: Path, output: str) -> None:
    (tmp_path / "llvm-mca").write_text(f"#!/bin/sh\ncat >/dev/null\necho '{output}'\n")
    (tmp_path / "llvm-mca").chmod(0o755)
    figure = mca_figure(six_registers("mov"), SKYLAKE, search_path=str(tmp_path))
    assert figure.cycles is None
    assert figure.reason.startswith("llvm-mca failed: ")


@pytest.mark.usefixtures("tool")
def test_all_addressing_forms_of_entry_code_are_understood() -> None:
    code = bytes.fromhex(
        "654889242500000000"  # mov %rsp, %gs:0
        + "65f704251000000001000000"  # testl $1, %gs:16
        + "7510"  # jne
        + "488b04c500000000"  # mov 0(,%rax,8), %rax
        + "483b442460"  # cmp 96(%rsp), %rax
        + "0f1f440000"  # nopl
        + "48c1e010"  # shl $16, %rax
        + "ffe0"  # jmp *%rax
    )
    figure = mca_figure(straight(code), SKYLAKE)
    assert figure.cycles is not None, figure.reason
