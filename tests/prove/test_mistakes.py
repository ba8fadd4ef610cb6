"""The mistakes that history knows, rebuilt in assembly of our own, are found."""

import pytest

from fullframe.entry.prove.prove import prove_image
from tests.prove.samples import MISTAKES, RIGHT, build, changed

ENTRIES = ("entry_SYSCALL_64", "sys_call_table")


def test_the_right_code_is_proved(tmp_path):
    proof = prove_image(build(tmp_path, RIGHT), "annotated", entries=ENTRIES)
    assert proof.findings == ()
    assert proof.not_proved == ()
    assert proof.proved
    symbols = [entry.symbol for entry in proof.entries]
    assert symbols == ["entry_SYSCALL_64", "stub_sys_clone", "stub_sys_iopl"]
    assert proof.absent == ()


@pytest.mark.parametrize(
    ("pairs", "code", "message"),
    [mistake[1:] for mistake in MISTAKES],
    ids=[mistake[0] for mistake in MISTAKES],
)
def test_mistake_is_found(tmp_path, pairs, code, message):
    proof = prove_image(build(tmp_path, changed(*pairs)), "annotated", entries=ENTRIES)
    assert not proof.proved
    found = [finding for finding in proof.findings if finding.code == code]
    assert any(message in finding.message for finding in found), proof.findings
    for finding in found:
        # The path leads from the way in to the place of the finding.
        entry = next(entry for entry in proof.entries if entry.symbol == finding.entry)
        assert finding.path[-1] == finding.address
        assert len(finding.path) <= entry.boundaries


def test_the_path_of_a_finding_can_be_walked(tmp_path):
    """Each step of a path starts where the step before it can get to."""
    pairs, code = MISTAKES[4][1], MISTAKES[4][2]
    proof = prove_image(build(tmp_path, changed(*pairs)), "annotated", entries=ENTRIES)
    finding = next(finding for finding in proof.findings if finding.code == code)
    symbol = proof.entries[0].symbol
    assert finding.entry == symbol
    assert len(finding.path) >= 4
    assert len(set(finding.path)) == len(finding.path)
