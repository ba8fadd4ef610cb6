import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fullframe.errors import FullframeError, InputError, UsageError
from fullframe.table import (
    PACKAGED_TABLES,
    TableErrors,
    open_table,
    packaged_table,
    parse_table,
    read_table,
    write_table,
)
from fullframe.table.parse import MAX_FILE_BYTES
from tests.support import skip_or_fail

TEXT = b"0 64 read sys_read\n"


def test_file_is_read(tmp_path):
    path = tmp_path / "t.tbl"
    path.write_bytes(TEXT)
    table = read_table(path)
    assert table == parse_table(TEXT, str(path))


@pytest.mark.parametrize("name", PACKAGED_TABLES)
def test_packaged_tables_open_by_name(name):
    assert open_table(name) == packaged_table(name)


def test_unknown_packaged_table():
    with pytest.raises(UsageError, match="there are x86-64, i386"):
        packaged_table("arm64")


def test_missing_file():
    with pytest.raises(InputError, match=r"cannot be read: No such file.*\n  next: .*x86-64"):
        read_table("does/not/exist.tbl")


def test_directory(tmp_path):
    with pytest.raises(InputError, match="is a directory; expected a regular file"):
        read_table(tmp_path)


def test_fifo_that_nobody_writes_to_does_not_hang(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(InputError, match="is a pipe"):
        read_table(path)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_device(device):
    with pytest.raises(InputError, match="is a character device"):
        read_table(device)


def test_path_with_nul():
    with pytest.raises(InputError, match="embedded null byte"):
        read_table("a\0b")


def test_unreadable_file(tmp_path):
    if os.geteuid() == 0:
        # Root may read anything but what the kernel itself refuses.
        path = Path("/proc/self/mem")
        message = "cannot be read"
    else:
        path = tmp_path / "secret.tbl"
        path.write_bytes(TEXT)
        path.chmod(0)
        message = "Permission denied"
    with pytest.raises(InputError, match=message):
        read_table(path)


@pytest.mark.parametrize("first", [b"", b"0 64 read sys_read\n", b"\xff\n" * 10])
def test_gigabyte_is_refused_early(tmp_path, first):
    path = tmp_path / "huge.tbl"
    with path.open("wb") as file:
        file.write(first)
        file.truncate(1 << 30)
    with pytest.raises(TableErrors) as caught:
        read_table(path)
    (error,) = caught.value.errors
    assert "1,073,741,824 bytes" in error.found
    assert error.place.line == first.count(b"\n") + 1
    assert error.place.column == MAX_FILE_BYTES - len(first) + 1


def test_gigabyte_takes_little_memory(tmp_path):
    path = tmp_path / "huge.tbl"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    limit = 256 << 20
    done = subprocess.run(
        [sys.executable, "-m", "fullframe", "table", "lint", str(path)],
        capture_output=True, text=True, check=False, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stdout == ""
    assert f"{path}:1:{MAX_FILE_BYTES + 1}: the file goes on" in done.stderr


def test_file_that_hides_its_size():
    path = Path("/proc/kallsyms")
    if not path.exists():
        skip_or_fail("no /proc/kallsyms on this machine")
    with pytest.raises(FullframeError):
        read_table(path)


def test_write_is_atomic_and_only_on_change(tmp_path):
    path = tmp_path / "t.tbl"
    table = parse_table(TEXT)
    assert write_table(table, path) is True
    inode = path.stat().st_ino
    assert write_table(table, path) is False
    assert path.stat().st_ino == inode
    assert write_table(table.with_annotation("read", True), path) is True
    assert path.read_bytes() == b"0 64 read sys_read:regs\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.tbl"]


def test_write_keeps_the_mode_and_follows_links(tmp_path):
    path = tmp_path / "t.tbl"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link = tmp_path / "link.tbl"
    link.symlink_to(path)
    write_table(parse_table(TEXT), link)
    assert link.is_symlink()
    assert path.read_bytes() == TEXT
    assert path.stat().st_mode & 0o777 == 0o640


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.tbl"
    path.write_bytes(b"old")

    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        write_table(parse_table(TEXT), path)
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["t.tbl"]


@pytest.mark.parametrize("where", ["missing/t.tbl", "."])
def test_write_to_an_impossible_place(tmp_path, where):
    with pytest.raises(InputError, match="cannot be written"):
        write_table(parse_table(TEXT), tmp_path / where)
    assert [path.name for path in tmp_path.iterdir()] == []
