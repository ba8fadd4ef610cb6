"""Which call site holds an address: the first in the table, whatever their order."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fullframe.cfi.call_sites import _disjoint
from fullframe.cfi.lsda import CallSite

SITES = st.builds(
    lambda begin, size, pad: CallSite(begin, begin + size, pad, 0),
    st.integers(0, 30),
    st.integers(0, 12),
    st.none() | st.integers(1, 9),
)


@given(st.lists(SITES, max_size=12))
def test_the_first_in_the_table_counts(sites):
    found = _disjoint(sites)
    assert all(one.end <= other.begin for one, other in pairwise(found))
    for address in range(45):
        first = next((site for site in sites if site.begin <= address < site.end), None)
        here = [site for site in found if site.begin <= address < site.end]
        assert [site.landing_pad for site in here] == ([first.landing_pad] if first else [])


def test_many_that_hold_each_other():
    """Quadratic time would be minutes."""
    count = 50_000
    sites = [CallSite(n, 2 * count - n, n, 0) for n in range(count)][::-1]
    found = _disjoint(sites)
    assert len(found) == 2 * count - 1
    assert {site.landing_pad for site in found} == set(range(count))
