"""The harness can fail: break generated code on purpose, and it must say so."""

from __future__ import annotations

import pytest

from fullframe.entry.build import BuiltEntry
from fullframe.entry.strategy import STRATEGIES
from fullframe.run.session import run_scenarios
from tests.entry.mutants import (
    image_mutants,
    run_text_mutant,
    sufficient_scenarios,
    without_saves_and_restores,
)

#: How many saves and restores there are at least: a test over none would prove nothing.
_AT_LEAST = {"partial": 170, "full": 50, "annotated": 70}

#: Mutants that change nothing that anybody could see, with the reason.
_EQUIVALENT = {
    "partial": {
        # The slow exit tests the same flags again, and leaves the same way: only slower.
        "nops for test dword ptr gs:[10h],0Fh",
        # The C function computes its result with an instruction that sets the flags alike.
        "nops for test rax,rax",
        # Falls through to where stubs return, which stores ax and reloads what is there.
        "nops for jmp",
    },
    "full": set(),
    "annotated": set(),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_save_and_restore_counts(builds: dict[str, BuiltEntry], name: str) -> None:
    built = builds[name]
    scenarios = sufficient_scenarios(built)
    assert run_scenarios(built.subject(), scenarios).difference_count == 0
    mutants = list(without_saves_and_restores(built))
    assert len(mutants) >= _AT_LEAST[name]
    survivors = [
        str(mutant)
        for mutant in mutants
        if run_text_mutant(built, mutant, scenarios).difference_count == 0
    ]
    assert survivors == []


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_instruction_counts(builds: dict[str, BuiltEntry], name: str) -> None:
    built = builds[name]
    subject, scenarios = built.subject(), sufficient_scenarios(built)
    survivors = []
    for mutant in image_mutants(built):
        report = run_scenarios(subject, scenarios, stop_at_first=True, image=mutant.image)
        if report.difference_count == 0:
            survivors.append(str(mutant))
    unexplained = [
        survivor
        for survivor in survivors
        if not any(known in survivor for known in _EQUIVALENT[name])
    ]
    assert unexplained == []
    # Each reason above explains one mutant, not a class of them.
    assert len(survivors) <= len(_EQUIVALENT[name])
