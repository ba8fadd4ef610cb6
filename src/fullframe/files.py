"""Reading files within bounds, and writing them so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from fullframe.errors import InputError, Place


def read_at_most(path: str | os.PathLike[str], limit_bytes: int) -> bytes:
    """Read a file, but no more than a limit: a device or a pipe may never end.

    Args:
        path: the file.
        limit_bytes: how much is read.

    Returns:
        Its content, or ``limit_bytes`` of it.

    Raises:
        OSError: it cannot be read.
    """
    parts: list[bytes] = []
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - any kind of path
        while limit_bytes > 0 and (part := file.read(min(limit_bytes, 1 << 20))):
            parts.append(part)
            limit_bytes -= len(part)
    return b"".join(parts)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> bool:
    """Write a file all at once, and only if its content changes.

    Args:
        path: the file; its directory must exist. Through a symbolic link, the file it points at.
        data: its whole content.

    Returns:
        Whether the file was written; False if it held these bytes already.

    Raises:
        InputError: it cannot be written, or is no regular file; then it is as it was.
    """
    target = Path(path)
    try:
        if target.is_file() and target.stat().st_size == len(data) and target.read_bytes() == data:
            return False
        if target.exists() and not target.is_file():
            raise OSError(0, "is not a regular file")
        replace_files({target: data})
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            Place(os.fspath(path)),
            f"cannot be written: {reason}",
            "a file in a directory that you may write to",
            "check the path and its permissions",
        ) from error
    return True


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Replace files, or make them: all of them, or none if one cannot be written.

    Everything is written beside its place first, and moved into place only when all of it is on
    the disk. A file that is there keeps its mode, and as far as we may set them its owner and its
    group; its other names (hard links) keep the old content.

    Args:
        contents: file to its whole content; through a symbolic link, the file it points at.

    Raises:
        OSError: one of them cannot be written, or is no regular file; then all are as they were.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, data in contents.items():
            target = Path(os.path.realpath(path))
            if target.is_dir():
                # The only thing that a file cannot be moved over; better known before any is.
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            if target.exists() and not target.is_file():
                # A device or a pipe would be replaced by a file, and be gone.
                raise OSError(errno.EINVAL, f"{path} is not a regular file", str(path))
            temporary = target.with_name(f".fullframe-{os.urandom(8).hex()}.new")
            staged.append((temporary, target))
            _write_new(temporary, target, data)
        for temporary, target in staged:
            temporary.replace(target)
    finally:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _write_new(temporary: Path, target: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o666), "wb") as file:  # noqa: PTH123 - a descriptor
        with contextlib.suppress(FileNotFoundError):
            _take_after(file.fileno(), target.stat())
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _take_after(descriptor: int, old: os.stat_result) -> None:
    """Give a new file the owner, group and mode of the one in whose place it comes.

    To give a file away is root's privilege; a group can be any that we are in.
    """
    new = os.fstat(descriptor)
    mode = stat.S_IMODE(old.st_mode)
    for field, owner, bit in (
        ("st_gid", (-1, old.st_gid), stat.S_ISGID),
        ("st_uid", (old.st_uid, -1), stat.S_ISUID),
    ):
        if getattr(new, field) != getattr(old, field):
            try:
                os.fchown(descriptor, *owner)
            except OSError:
                # Such a bit gives its owner's or group's rights away; ours were never meant.
                mode &= ~bit
    # After the owner: to change that takes set-user-ID and set-group-ID bits away.
    os.fchmod(descriptor, mode)
