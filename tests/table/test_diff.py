import pytest

from fullframe.table import parse_table
from fullframe.table.diff import diff_tables


def diff(first, second):
    differences = diff_tables(parse_table(first), parse_table(second))
    return [(d.abis, d.name, d.what, d.first, d.second) for d in differences]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("0 64 a s\n", "# c\n0  64\ta  s\n", []),
        ("0 64 a s:regs\n", "0 64 a s/ptregs\n", []),
        ("0 common a s\n", "1 common a s\n", [(("64", "x32"), "a", "number", "0", "1")]),
        ("0 64 a s\n", "0 common a s\n", [(("x32",), "a", "only in the second", "", "0 s")]),
        ("0 64 a s\n", "", [(("64",), "a", "only in the first", "0 s", "")]),
        ("0 64 a s\n", "0 64 a\n", [(("64",), "a", "entry_point", "s", "-")]),
        ("0 i386 a s c\n", "0 i386 a s\n", [(("i386",), "a", "compat_entry_point", "c", "-")]),
        (
            "0 64 a s:regs\n",
            "0 64 a s\n",
            [(("64",), "a", "needs_full_frame", "annotated", "not annotated")],
        ),
        (
            "0 64 a s - noreturn\n",
            "0 64 a s\n",
            [(("64",), "a", "later_columns", "noreturn", "-")],
        ),
        (
            "0 common a s\n",
            "0 64 a s\n5 x32 a t\n",
            [
                (("x32",), "a", "number", "0", "5"),
                (("x32",), "a", "entry_point", "s", "t"),
            ],
        ),
    ],
)
def test_differences(first, second, expected):
    assert diff(first, second) == expected


def test_order_is_by_number():
    found = diff("9 64 a s\n2 64 b t\n", "5 64 c u\n")
    assert [name for _, name, _, _, _ in found] == ["b", "c", "a"]
