"""Breaks call-frame information in every way there is; the checker must say so each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fullframe.errors import FullframeError
from fullframe.toolchain.find import Toolchain, find_toolchain
from tests.cfi_check.campaign import ASSEMBLY, Result, Source, run
from tests.cfi_check.judging import I386, X86_64
from tests.support import skip_or_fail

#: What is wrong with compilers' own CFI, so that originals are not all proved: (function, what).
#: GCC describes its thunks as if the register that they load were kept.
THUNK = "__x86.get_pc_thunk"


@pytest.fixture(scope="session")
def gnu() -> Toolchain:
    try:
        return find_toolchain("gnu")
    except FullframeError as error:
        skip_or_fail(f"the corpus is assembled with GNU as: {error}")


Record = Callable[[str, object], None]


#: Survivors that are called "cannot tell", with the reason.
UNDECIDED = {
    "system_call_entry: shift earlier: .cfi_restore %ebp": (
        "behind SYSENTER the kernel has loaded EBP from the user's stack: the sixth argument, "
        "which is the caller's EBP; where int $0x80 was taken it is still the stack pointer"
    ),
}


def check(result: Result, record: Record) -> None:
    record("mutants", result.summary())
    unproved = [one for one in result.unproved if not one[0].startswith(THUNK)]
    false = {one for one in result.false_originals if not one[0].startswith(THUNK)}
    assert not unproved, "the corpus is right, but not proved"
    assert not false, "the corpus itself is wrong"
    assert not result.disagreements
    # Nothing that changes a row at a boundary that is reached is taken for proved; and what is not
    # called wrong is on the reviewed list.
    missed = {str(outcome.mutant): dict(outcome.answers) for outcome in result.missed}
    assert not {name for name, answers in missed.items() if not answers.get("cannot_tell")}
    assert missed.keys() <= UNDECIDED.keys()
    assert result.total()["killed"] > 100


@pytest.mark.parametrize("source", ASSEMBLY, ids=str)
def test_every_mutant_of_hand_written_code_is_reported(
    source: Source, gnu: Toolchain, tmp_path: Path, record_property: Record
) -> None:
    result = run(source, gnu, tmp_path)
    check(result, record_property)
    executed, total = result.executed
    assert executed > 0.85 * total, "execution judges next to nothing"


# The whole campaign, over all the ways to compile, is `python -m benchmarks mutants`.
@pytest.mark.parametrize(
    ("source", "stride"),
    [
        (Source("functions.c", X86_64, ("-O2",)), 5),
        (Source("functions.c", X86_64, ("-O0",)), 5),
        (Source("functions.c", I386, ("-O2",)), 10),
        (Source("exceptions.cc", X86_64, ("-O2", "-fPIC")), 1),
    ],
    ids=str,
)
def test_mutants_of_compiled_code_are_reported(
    source: Source, stride: int, gnu: Toolchain, tmp_path: Path, record_property: Record
) -> None:
    check(run(source, gnu, tmp_path, stride=stride), record_property)


def test_a_survivor_is_a_true_claim(gnu: Toolchain, tmp_path: Path) -> None:
    """What survives is what may: a register's slot still holds it, or it was not yet changed."""
    result = run(ASSEMBLY[2], gnu, tmp_path)
    assert result.true_survivors
    for outcome in result.true_survivors:
        assert outcome.mutant.kind not in ("drop signal_frame", "drop nop", "drop endproc")
