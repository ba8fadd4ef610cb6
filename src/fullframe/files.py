"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fullframe.errors import InputError, Place


def write_atomically(path: str | os.PathLike[str], data: bytes) -> bool:
    """Write a file all at once, and only if its content changes.

    Args:
        path: the file; its directory must exist.
        data: its whole content.

    Returns:
        Whether the file was written. Raises InputError where that is not possible; the old
        file is then untouched.
    """
    target = Path(path)
    temporary = ""
    try:
        if target.is_file() and target.read_bytes() == data:
            return False
        descriptor, temporary = tempfile.mkstemp(
            dir=target.parent or ".", prefix=f".{target.name}."
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        mode = target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~_umask()
        Path(temporary).chmod(mode)
        os.replace(temporary, target)  # noqa: PTH105 - the atomic call, by its own name
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(
            Place(str(path)), f"cannot be written: {error.strerror}", "", "check the directory"
        ) from None
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
