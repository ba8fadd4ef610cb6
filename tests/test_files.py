"""Files are replaced as a whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from fullframe import files
from fullframe.errors import InputError
from fullframe.files import replace_files, write_atomically


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old"
    path.write_bytes(b"before")
    return path


def test_written_only_if_it_changes(old: Path) -> None:
    status = old.stat()
    assert not write_atomically(old, b"before")
    assert old.stat().st_ino == status.st_ino
    assert write_atomically(old, b"after")
    assert old.read_bytes() == b"after"
    assert write_atomically(old.with_name("new"), b"")


def test_permissions_stay_and_new_files_get_the_usual_ones(old: Path) -> None:
    old.chmod(0o640)
    mask = os.umask(0o027)
    try:
        replace_files({old: b"after", old.with_name("new"): b"new"})
    finally:
        os.umask(mask)
    modes = [stat.S_IMODE((old.parent / name).stat().st_mode) for name in ("old", "new")]
    assert modes == [0o640, 0o640]


@pytest.mark.parametrize(
    ("denied", "mode"),
    [((), 0o6754), (("uid",), 0o2754), (("gid",), 0o4754), (("uid", "gid"), 0o754)],
)
def test_owner_and_group_stay_where_they_can(
    old: Path, monkeypatch: pytest.MonkeyPatch, denied: tuple[str, ...], mode: int
) -> None:
    """Where they cannot, neither do the bits that would give away the rights of another."""
    status = list(old.stat())
    status[0], status[4], status[5] = stat.S_IFREG | 0o6754, 12345, 23456
    given: list[tuple[int, int]] = []

    def fchown(descriptor: int, uid: int, gid: int) -> None:
        if ("gid" if uid == -1 else "uid") in denied:
            raise PermissionError(1, "Operation not permitted")
        given.append((uid, gid))

    monkeypatch.setattr(os, "fchown", fchown)
    with old.with_name("new").open("wb") as file:
        files._take_after(file.fileno(), os.stat_result(status))
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == mode
    wanted = {"gid": (-1, 23456), "uid": (12345, -1)}
    assert given == [pair for name, pair in wanted.items() if name not in denied]


def test_root_leaves_a_file_to_its_owner(old: Path) -> None:
    # Whoever else runs this has no file of another owner; the test above stands for it.
    owner = (12345, 23456) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(old, *owner)
    old.chmod(0o640)
    assert write_atomically(old, b"after")
    status = old.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (*owner, 0o640)
    assert write_atomically(old.with_name("new"), b"new")
    assert old.with_name("new").stat().st_uid == os.geteuid()


def test_another_name_of_a_file_keeps_the_old_content(old: Path) -> None:
    """As docs/commands.md says: to write through would leave half a file if the disk is full."""
    other = old.with_name("other")
    os.link(old, other)
    assert write_atomically(old, b"after")
    assert (old.read_bytes(), other.read_bytes()) == (b"after", b"before")


def test_a_file_without_an_end_is_read_to_a_limit(old: Path) -> None:
    assert files.read_at_most("/dev/zero", 3_000_000) == bytes(3_000_000)
    assert files.read_at_most(old, 3) == b"bef"
    assert files.read_at_most(old, 100) == b"before"


def test_a_pipe_or_device_is_not_replaced(old: Path) -> None:
    pipe = old.with_name("pipe")
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="pipe is not a regular file"):
        replace_files({old: b"after", pipe: b"after"})
    assert pipe.is_fifo()
    assert old.read_bytes() == b"before"
    assert sorted(path.name for path in old.parent.iterdir()) == ["old", "pipe"]


def test_a_symbolic_link_stays_one(old: Path) -> None:
    link = old.with_name("link")
    link.symlink_to(old.name)
    assert write_atomically(link, b"after")
    assert link.is_symlink()
    assert old.read_bytes() == b"after"


@pytest.mark.parametrize("at", ["write", "rename"])
def test_an_error_leaves_everything_as_it_was(
    old: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    write_new = files._write_new

    def full_disk(temporary: Path, target: Path, data: bytes) -> None:
        write_new(temporary, target, data)
        if target.name == "second":
            raise OSError(28, "No space left on device")

    contents = {old: b"after", old.with_name("second"): b"more"}
    if at == "write":
        monkeypatch.setattr(files, "_write_new", full_disk)
    else:
        (old.with_name("second")).mkdir()  # nothing can be moved there
    with pytest.raises(OSError, match=r"No space left|directory"):
        replace_files(contents)
    assert old.read_bytes() == b"before"
    assert {path.name for path in old.parent.iterdir()} <= {"old", "second"}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (".", "is not a regular file"),
        ("none/file", "No such file or directory"),
        ("old/file", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("a\0b", "null (byte|character)"),
        ("/dev/null", "is not a regular file"),
    ],
)
def test_what_cannot_be_written_is_said(old: Path, path: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"cannot be written: .*{reason}"):
        write_atomically(old.parent / path, b"data")
    assert [each.name for each in old.parent.iterdir()] == ["old"]
