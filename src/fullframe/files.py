"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from fullframe.errors import InputError, Place


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
    the disk. A file that is there keeps its permissions.

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
            temporary = target.with_name(f".fullframe-{secrets.token_hex(8)}.new")
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
        if target.exists():
            os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
