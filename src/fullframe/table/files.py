"""Read tables from files, write them back, and find the packaged ones."""

from __future__ import annotations

import os
import stat
from importlib import resources

from fullframe.errors import InputError, Place, UsageError
from fullframe.files import write_atomically
from fullframe.table.model import Table
from fullframe.table.parse import MAX_FILE_BYTES, TableErrors, parse_table, too_large

#: The packaged tables: the machine's name to the file in ``fullframe/data/tables``.
PACKAGED_TABLES = {"x86-64": "syscall_64.tbl", "i386": "syscall_32.tbl"}

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a table from a file.

    At most one byte more than the largest table allowed is read, and nothing but a regular
    file is opened for longer than it takes to see that: a pipe could never end.

    Args:
        path: the file.

    Returns:
        The table.

    Raises:
        InputError: if the file cannot be read, is not a regular file, or is far too large.
        TableErrors: with every error of the table.
    """
    name = os.fspath(path)
    try:
        # Without O_NONBLOCK, opening a FIFO that nobody writes to would wait forever.
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            kind = next((text for test, text in _KINDS if test(status.st_mode)), None)
            if kind is not None:
                raise InputError(
                    Place(name),
                    f"is {kind}",
                    "a regular file with a system-call table",
                    "give a .tbl file, or write the table to a file first",
                )
            data = _read_at_most(descriptor, MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            Place(name),
            f"cannot be read: {reason}",
            "a file with a system-call table",
            f"check the path; the packaged tables are named {' and '.join(PACKAGED_TABLES)}",
        ) from error
    if len(data) > MAX_FILE_BYTES:
        # A file of /proc or /sys says it holds nothing, whatever it holds.
        size = status.st_size if status.st_size > MAX_FILE_BYTES else None
        raise TableErrors([too_large(data, name, size)], 1)
    return parse_table(data, name)


def packaged_table(name: str) -> Table:
    """Read a packaged table.

    Args:
        name: one of :data:`PACKAGED_TABLES`.

    Raises:
        UsageError: if there is no packaged table of that name.
    """
    if name not in PACKAGED_TABLES:
        raise UsageError(
            f"no packaged table named {name!r}; there are {', '.join(PACKAGED_TABLES)}"
        )
    with resources.as_file(_packaged_file(name)) as path:
        return read_table(path)


def open_table(name_or_path: str) -> Table:
    """Read a packaged table by its name, or any other from its file.

    Args:
        name_or_path: one of :data:`PACKAGED_TABLES`, or a path; a file that happens to have a
            packaged table's name is meant by ``./NAME``.

    Raises:
        InputError: see :func:`read_table`.
        TableErrors: see :func:`read_table`.
    """
    if name_or_path in PACKAGED_TABLES:
        return packaged_table(name_or_path)
    return read_table(name_or_path)


def write_table(table: Table, path: str | os.PathLike[str]) -> bool:
    """Write a table, atomically: the file is the old one or the new one, never a part.

    Args:
        table: the table.
        path: the file; through a symbolic link, the file it points at.

    Returns:
        Whether the file was written; False if it held these bytes already.

    Raises:
        InputError: if the file cannot be written; then it is as it was.
    """
    return write_atomically(path, table.to_bytes())


def _packaged_file(name: str) -> resources.abc.Traversable:
    return resources.files("fullframe.data").joinpath("tables", PACKAGED_TABLES[name])


def _read_at_most(descriptor: int, limit_bytes: int) -> bytes:
    """Read up to a limit, whatever the file says its size is."""
    parts: list[bytes] = []
    left = limit_bytes
    while left > 0 and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
