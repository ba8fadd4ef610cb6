"""Every mutant of every generated strategy is killed by the prover alone, or is equivalent.

By default a sample, spread over all of them; with FULLFRAME_ALL_MUTANTS=1 every one (some three
minutes). `python -m benchmarks prove` prints the kill rate of all of them.
"""

import os

import pytest

from fullframe.elf.image import Image
from fullframe.entry.prove.prove import prove_image
from fullframe.entry.prove.read_contract import open_contract
from tests.prove.built import image_path, table
from tests.prove.mutants import applied, code_mutants, equivalent, table_mutants

#: Of how many mutants one is tried: about five seconds each.
SAMPLE = {"partial": 41, "full": 2, "annotated": 5}


@pytest.mark.parametrize("strategy", SAMPLE)
def test_mutants(strategy):
    path = image_path(strategy, "gnu")
    data, image, contract = path.read_bytes(), Image.open(path), open_contract(strategy)
    mutants = [*code_mutants(image), *table_mutants(image)]
    assert len(mutants) > 250
    everything = os.environ.get("FULLFRAME_ALL_MUTANTS") == "1"
    survivors, killed = [], 0
    chosen = mutants if everything else mutants[:: SAMPLE[strategy]]
    for mutant in chosen:
        proof = prove_image(
            applied(image, data, mutant), contract, table=table(), stop_at_first=True
        )
        if proof.proved:
            survivors.append(mutant)
        else:
            killed += 1
    alive = [mutant for mutant in survivors if equivalent(image, strategy, mutant) is None]
    print(f"{strategy}: {killed} of {len(chosen)} killed, {len(survivors) - len(alive)} equivalent")
    assert alive == []


@pytest.mark.parametrize("strategy", ["partial", "annotated"])
def test_every_unannotated_entry_is_found(strategy):
    path = image_path(strategy, "gnu")
    data, image, contract = path.read_bytes(), Image.open(path), open_contract(strategy)
    mutants = list(table_mutants(image))
    assert len(mutants) >= 10
    for mutant in mutants if strategy == "annotated" else mutants[::4]:
        proof = prove_image(
            applied(image, data, mutant), contract, table=table(), entries=["entry_SYSCALL_64"]
        )
        assert "FF-P002" in {finding.code for finding in proof.findings}, mutant.name


def test_full_has_no_entry_to_unannotate():
    """In this strategy annotations change nothing: its un-annotated mutants are the same bytes."""
    assert list(table_mutants(Image.open(image_path("full", "gnu")))) == []
