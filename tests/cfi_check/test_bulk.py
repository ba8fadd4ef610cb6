"""What is proved of many functions together is what is proved of each alone, on real libraries."""

from pathlib import Path

import pytest

from fullframe.cfi.bulk import BulkProver
from fullframe.cfi.check import ImageChecker
from fullframe.cfi.claims import Answer
from fullframe.cfi.results import FunctionResult
from fullframe.elf.image import Image
from tests.support import skip_or_fail

LIBRARIES = [
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/lib32/libc.so.6",
]


def outcomes(path: str) -> dict[int, tuple[int, dict[Answer, int], bool]]:
    """Boundaries, answers and whether all was proved in the coarse space, of each function."""
    checker = ImageChecker(Image.open(path))
    return checker.check(lambda result: (result.boundaries, dict(result.tally), result.coarse))


@pytest.mark.parametrize("path", LIBRARIES)
def test_together_or_alone(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path(path).is_file():
        skip_or_fail(f"{path} is not on this machine")
    proved = 0
    original = BulkProver.proved

    def counted(self: BulkProver, fde: object, coming: object) -> FunctionResult | None:
        nonlocal proved
        found = original(self, fde, coming)  # type: ignore[arg-type]
        proved += found is not None
        return found

    monkeypatch.setattr(BulkProver, "proved", counted)
    together = outcomes(path)
    # Nearly all, or the way that is fast is not taken.
    assert proved > 0.85 * len(together)
    monkeypatch.setattr(BulkProver, "proved", lambda *arguments: None)
    alone = outcomes(path)
    assert together.keys() == alone.keys()
    for begin, (boundaries, tally, coarse) in together.items():
        other, other_tally, other_coarse = alone[begin]
        if coarse and not other_coarse:
            # An indirect jump whose targets cannot be seen is no obstacle where all is reached
            # without it. Visits know by name that some callees never return, and take what only
            # fills space behind such a call for unreached.
            assert set(map(bool, tally.values())) == {True, False}, hex(begin)
            assert other_tally[Answer.PROVED] == other, hex(begin)
            assert other <= boundaries <= other + 8, hex(begin)
        else:
            assert (boundaries, tally) == (other, other_tally), hex(begin)
