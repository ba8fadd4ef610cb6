import pytest

from fullframe.errors import UsageError
from fullframe.table import Spelling, parse_table

TEXT = b"""\
# a comment, then a blank line

0\tcommon\tread\t\tsys_read
59\t64\texecve\t\tsys_execve:regs
57  common  fork  sys_fork/ptregs
60  64  exit  sys_exit  -  noreturn
134  64  uselib
520  x32  execve  compat_sys_execve:regs
11  i386  execve  sys_execve  compat_sys_execve:regs  # behind an entry
"""


def entry_of(name, abi, text=TEXT):
    return next(e for e in parse_table(text).entries if (e.name, e.abi) == (name, abi))


def test_every_column_is_read():
    entry = entry_of("execve", "i386")
    assert (entry.number, entry.line) == (11, 9)
    assert (entry.entry_point, entry.spelling) == ("sys_execve", None)
    assert entry.compat_entry_point == "compat_sys_execve"
    assert entry.compat_spelling is Spelling.REGS
    assert entry.later_columns == ()
    assert entry.needs_full_frame


def test_both_spellings_are_read():
    assert entry_of("execve", "64").spelling is Spelling.REGS
    assert entry_of("fork", "common").spelling is Spelling.PTREGS
    assert entry_of("fork", "common").entry_point == "sys_fork"


def test_dash_is_no_entry_point_and_later_columns_are_kept():
    entry = entry_of("exit", "64")
    assert entry.compat_entry_point is None
    assert entry.later_columns == ("noreturn",)
    assert not entry.needs_full_frame


def test_an_entry_may_have_no_entry_point():
    assert entry_of("uselib", "64").entry_point is None


def test_table_properties():
    table = parse_table(TEXT, "t.tbl")
    assert table.path == "t.tbl"
    assert table.abis == ("64", "common", "x32", "i386")
    assert table.annotated_names == ("execve", "fork")
    assert len(table.annotated) == 4
    assert [e.name for e in table.entries_for("x32")] == ["read", "fork", "execve"]
    assert [e.number for e in table.entries_for("64")] == [0, 57, 59, 60, 134]


def test_text_is_taken_as_utf8():
    text = "# caf\u00e9\n0 64 read sys_read\n"
    assert parse_table(text).to_bytes() == text.encode()


def test_crlf_is_kept():
    text = b"0 64 read sys_read\r\n"
    table = parse_table(text)
    assert table.entries[0].entry_point == "sys_read"
    assert table.to_bytes() == text


def test_names_may_be_shared_across_abis_as_x32_does():
    parse_table(b"59 64 execve sys_execve\n520 x32 execve compat_sys_execve\n11 i386 execve s\n")


@pytest.mark.parametrize(
    ("text", "on", "spelling", "expected"),
    [
        (b"1 64 a sys_a\n", True, None, b"1 64 a sys_a:regs\n"),
        (b"1 64 a sys_a # c\n", True, Spelling.PTREGS, b"1 64 a sys_a/ptregs # c\n"),
        (b"1 64 a sys_a:regs\n", False, None, b"1 64 a sys_a\n"),
        (b"1 64 a sys_a/ptregs\n", True, None, b"1 64 a sys_a/ptregs\n"),
        (b"1 64 a sys_a/ptregs\n", True, Spelling.REGS, b"1 64 a sys_a:regs\n"),
        (b"1 i386 a sys_a\tc_a x\n", True, None, b"1 i386 a sys_a:regs\tc_a:regs x\n"),
        (b"1 i386 a s sys_ni_syscall\n", True, None, b"1 i386 a s:regs sys_ni_syscall\n"),
        (b"1 i386 a - c_a/ptregs y\n", False, None, b"1 i386 a - c_a y\n"),
        (b"1 64 a s - noreturn\n", True, None, b"1 64 a s:regs - noreturn\n"),
        (b"1 64 a s\n2 64 b t/ptregs\n", True, None, b"1 64 a s/ptregs\n2 64 b t/ptregs\n"),
        (b"1 64 a s\n1 x32 a t\n", True, None, b"1 64 a s:regs\n1 x32 a t:regs\n"),
    ],
)
def test_changed_copy(text, on, spelling, expected):
    table = parse_table(text)
    changed = table.with_annotation("a", on, spelling=spelling)
    assert changed.to_bytes() == expected
    assert table.to_bytes() == text


def test_changed_copy_of_one_abi_only():
    changed = parse_table(b"1 64 a s\n1 x32 a t\n").with_annotation("a", True, abi="x32")
    assert changed.to_bytes() == b"1 64 a s\n1 x32 a t:regs\n"


@pytest.mark.parametrize(
    ("name", "abi", "message"),
    [
        ("exeve", None, "no call named 'exeve'; did you mean execve?"),
        ("read", "i386", "no call named 'read' in ABI i386"),
        ("uselib", None, "uselib has no implemented entry point to annotate"),
    ],
)
def test_changed_copy_refuses(name, abi, message):
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        parse_table(TEXT).with_annotation(name, True, abi=abi)
