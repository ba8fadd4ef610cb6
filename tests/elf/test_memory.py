"""The address space of an image: which region's bytes are where."""

import pytest

from fullframe.elf.memory import AddressError, AddressSpace, Region


def space():
    """A region, and a later one that hides its middle and, with that, its end."""
    return AddressSpace(
        [
            Region(0x1000, 0x3000, lambda: memoryview(b"\xaa" * 0x2000)),
            Region(0x2000, 0x2800, lambda: memoryview(b"\xbb" * 0x800)),
        ],
        "x.so",
    )


@pytest.mark.parametrize("before", [None, 0x1000, 0x2400], ids=["fresh", "first", "second"])
def test_what_was_read_before_makes_no_difference(before):
    def made():
        found = space()
        if before is not None:
            found.read(before, 1)
        return found

    assert bytes(made().read(0x1FFF, 1)) == b"\xaa"
    assert bytes(made().read(0x2400, 1)) == b"\xbb"
    assert made().bytes_end(0x1000) == 0x2000
    assert made().bytes_end(0x2400) == 0x2800
    assert made().bytes_end(0x2900) is None
    with pytest.raises(AddressError):
        made().read(0x2900, 1)
