"""All three strategies are proved, on every toolchain's output."""

import pytest

from fullframe.entry.prove.prove import prove_image
from fullframe.x86.ptregs import CALLEE_SAVED_SLOTS, SLOTS
from tests.prove.built import image, image_path, table

STRATEGIES = ("partial", "full", "annotated")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ["gnu", "llvm", "zig"])
def test_proved(strategy, kind):
    proof = prove_image(image_path(strategy, kind), strategy, table=table())
    assert proof.findings == ()
    assert proof.not_proved == ()
    assert proof.absent == ()
    assert proof.proved
    names = [entry.symbol for entry in proof.entries]
    assert names[:2] == ["entry_SYSCALL_64", "ret_from_fork"]


def test_every_boundary_of_the_entry_is_reached():
    """What was not reached was not proved: padding is all that is left out."""
    for strategy in STRATEGIES:
        code = image(strategy)
        proof = prove_image(code, strategy, table=table())
        symbol = next(s for s in code.function_symbols() if s.name == "entry_SYSCALL_64")
        from tests.prove.mutants import instructions

        begin, end = symbol.address, symbol.address + symbol.size_bytes
        everything = sum(1 for _ in instructions(code, begin, end))
        assert proof.entries[0].boundaries >= everything


def test_slots_on_the_fast_path():
    for strategy in STRATEGIES:
        proof = prove_image(image_path(strategy), strategy, table=table())
        calls = proof.entries[0].calls
        handlers = [call for call in calls if "no full frame" in call.callee]
        assert handlers
        first = handlers[0].slots
        assert list(first) == list(SLOTS)
        for slot in CALLEE_SAVED_SLOTS:
            expected = f"the user's {slot}" if strategy == "full" else "unwritten"
            assert first[slot].split(" | ")[0] == expected
        assert first["orig_ax"].startswith("the user's ax")
        assert first["cx"].startswith("the user's ip")


@pytest.mark.parametrize(("strategy", "contract"), [("partial", "full"), ("annotated", "partial")])
def test_the_wrong_contract_is_not_proved(strategy, contract):
    assert not prove_image(image_path(strategy), contract, table=table()).proved
