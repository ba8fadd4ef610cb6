"""The packaged tables against the headers of this machine, read here by other means."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fullframe.table import packaged_table
from fullframe.table.model import X32_SYSCALL_BIT
from tests.support import skip_or_fail

ROOT = Path(__file__).parents[2]
FOLDERS = (Path("/usr/include/x86_64-linux-gnu"), Path("/usr/include"))
#: Header, packaged table, the ABI of the processes that use it.
HEADERS = [
    ("unistd_64.h", "x86-64", "64"),
    ("unistd_x32.h", "x86-64", "x32"),
    ("unistd_32.h", "i386", "i386"),
]


def header_folder():
    for folder in FOLDERS:
        if (folder / "asm" / "unistd_64.h").is_file():
            return folder
    return skip_or_fail("no asm/unistd_64.h: install linux-libc-dev")


def header_version():
    text = next(
        path for folder in FOLDERS if (path := folder / "linux" / "version.h").is_file()
    ).read_text()
    numbers = dict(re.findall(r"LINUX_VERSION_(\w+) (\d+)", text))
    return f"{numbers['MAJOR']}.{numbers['PATCHLEVEL']}"


def header_calls(header):
    """Read a header the way the C preprocessor does: by evaluating what is defined."""
    calls = {}
    for line in (header_folder() / "asm" / header).read_text().splitlines():
        words = line.split(maxsplit=2)
        if len(words) == 3 and words[0] == "#define" and words[1].startswith("__NR_"):
            terms = words[2].strip("()").replace("__X32_SYSCALL_BIT", str(X32_SYSCALL_BIT))
            calls[words[1][5:]] = sum(int(term) for term in terms.split("+"))
    return calls


def packaged_version(name):
    text = packaged_table(name).to_bytes().decode()
    return re.search(r"\(Linux ([0-9.]+)\)", text)[1]


@pytest.mark.parametrize(("header", "name", "abi"), HEADERS)
def test_packaged_table_holds_to_the_installed_header(header, name, abi, capsys):
    installed = header_calls(header)
    bit = X32_SYSCALL_BIT if abi == "x32" else 0
    packaged = {e.name: e.number + bit for e in packaged_table(name).entries_for(abi)}
    assert len(installed) > 340
    shared = installed.keys() & packaged.keys()
    assert {n: installed[n] for n in shared} == {n: packaged[n] for n in shared}
    only_installed = sorted(installed.keys() - packaged.keys())
    only_packaged = sorted(packaged.keys() - installed.keys())
    if header_version() == packaged_version(name):
        assert (only_installed, only_packaged) == ([], [])
    elif only_installed or only_packaged:
        with capsys.disabled():
            print(
                f"\n{header} is Linux {header_version()}'s, the packaged table "
                f"{packaged_version(name)}'s; only in the header: {only_installed}; "
                f"only in the packaged table: {only_packaged}"
            )


def test_the_script_makes_the_packaged_tables_again():
    script = ROOT / "scripts" / "make_tables.py"
    if not script.is_file():
        skip_or_fail("scripts/make_tables.py is not there: not a source checkout")
    header_folder()
    if header_version() != packaged_version("x86-64"):
        skip_or_fail(
            f"headers are Linux {header_version()}'s, the packaged tables were made from "
            f"{packaged_version('x86-64')}'s"
        )
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def make_tables():
    path = ROOT / "scripts" / "make_tables.py"
    if not path.is_file():
        skip_or_fail("scripts/make_tables.py is not there: not a source checkout")
    spec = importlib.util.spec_from_file_location("make_tables", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_tables"] = module
    spec.loader.exec_module(module)
    return module


def test_every_exception_of_the_script_is_about_a_call_that_exists(make_tables):
    x86_64 = {e.name for e in packaged_table("x86-64").entries_for("64")}
    x32_own = {e.name for e in packaged_table("x86-64").entries if e.abi == "x32"}
    i386 = {e.name for e in packaged_table("i386").entries}
    assert make_tables.ENTRY_POINTS_64.keys() <= x86_64
    assert x86_64 >= make_tables.WITHOUT_ENTRY_POINT_64
    assert make_tables.ENTRY_POINTS_X32.keys() | make_tables.X32_NATIVE <= x32_own
    for facts in ("SIXTEEN_BIT_IDS", "TIME32", "TIME32_UNDERSCORED", "TIME64", "SPLIT_ARGUMENT",
                  "ENTRY_POINTS_I386", "WITHOUT_ENTRY_POINT_I386", "COMPAT",
                  "COMPAT_ENTRY_POINTS"):  # fmt: skip
        assert set(getattr(make_tables, facts)) <= i386, facts


@pytest.mark.parametrize(
    ("name", "number", "abi", "point", "compat"),
    [
        ("x86-64", 0, "common", "sys_read", None),
        ("x86-64", 4, "common", "sys_newstat", None),
        ("x86-64", 134, "64", None, None),
        ("x86-64", 513, "x32", "compat_sys_x32_rt_sigreturn", None),
        ("x86-64", 515, "x32", "sys_readv", None),
        ("x86-64", 534, "x32", "compat_sys_preadv64", None),
        ("i386", 13, "i386", "sys_time32", None),
        ("i386", 16, "i386", "sys_lchown16", None),
        ("i386", 17, "i386", None, None),
        ("i386", 76, "i386", "sys_old_getrlimit", "compat_sys_old_getrlimit"),
        ("i386", 120, "i386", "sys_clone", "compat_sys_ia32_clone"),
        ("i386", 177, "i386", "sys_rt_sigtimedwait_time32", "compat_sys_rt_sigtimedwait_time32"),
        ("i386", 198, "i386", "sys_lchown", None),
        ("i386", 403, "i386", "sys_clock_gettime", None),
        ("i386", 421, "i386", "sys_rt_sigtimedwait", "compat_sys_rt_sigtimedwait_time64"),
    ],
)
def test_entry_points_of_each_rule(name, number, abi, point, compat):
    entry = next(e for e in packaged_table(name).entries if e.number == number)
    assert (entry.abi, entry.entry_point, entry.compat_entry_point) == (abi, point, compat)


def test_a_new_call_and_a_wrong_header(make_tables, tmp_path):
    (tmp_path / "asm").mkdir()
    (tmp_path / "linux").mkdir()
    (tmp_path / "linux" / "version.h").write_text(
        "#define LINUX_VERSION_MAJOR 7\n#define LINUX_VERSION_PATCHLEVEL 3\n"
    )
    (tmp_path / "asm" / "unistd_64.h").write_text("#define __NR_read 0\n#define __NR_new 999\n")
    (tmp_path / "asm" / "unistd_x32.h").write_text("#define __NR_read (__X32_SYSCALL_BIT + 0)\n")
    (tmp_path / "asm" / "unistd_32.h").write_text("#define __NR_new 999\n")
    tables = make_tables.make_tables(tmp_path)
    rows = [(e.number, e.abi, e.entry_point) for e in tables["syscall_64.tbl"].entries]
    assert rows == [(0, "common", "sys_read"), (999, "64", "sys_new")]
    assert b"(Linux 7.3)" in tables["syscall_64.tbl"].to_bytes()
    (tmp_path / "asm" / "unistd_32.h").write_text("#define __NR_new sizeof(int)\n")
    with pytest.raises(SystemExit, match="cannot read"):
        make_tables.make_tables(tmp_path)
