"""Where images go: into a directory, or one image into a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fullframe.errors import InputError, Place


def output_paths(output: str, names: Sequence[str], *, may_be_file: bool) -> list[Path]:
    """Return the path of each file, and make their directory if it is missing.

    Args:
        output: what the user named.
        names: of the files, if ``output`` is a directory.
        may_be_file: whether ``output`` names the file itself, unless a directory is there or it
            ends with a slash.

    Raises:
        InputError: the directory cannot be made, or a file is in its place.
    """
    target = Path(output)
    alone = may_be_file and len(names) == 1
    try:
        if alone and not target.is_dir() and not output.endswith(os.sep):
            return [target]
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if alone and not output.endswith(os.sep):
            raise InputError(
                Place(output),
                f"cannot be written: {error.strerror}",
                "a file, or a directory, in a directory that you may write to",
                "check the path and its permissions",
            ) from None
        raise InputError(
            Place(output),
            f"no directory, and none can be made here: {error.strerror}",
            "a directory for several images",
            "name another directory, or choose one image to be written to a file",
        ) from None
    return [target / name for name in names]
