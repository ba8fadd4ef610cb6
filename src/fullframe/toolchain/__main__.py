"""``python -m fullframe.toolchain``: say which toolchain fullframe would use (the Makefile asks).

Exit code 0 with its name and versions, 4 if there is none. ``--quiet`` prints nothing.
"""

from __future__ import annotations

import sys

from fullframe.errors import EXIT_OK, FullframeError
from fullframe.toolchain.find import find_toolchain


def main(arguments: list[str]) -> int:
    """Find a toolchain and print it.

    Args:
        arguments: the command line without the program's name.

    Returns:
        The exit code.
    """
    quiet = "--quiet" in arguments
    try:
        toolchain = find_toolchain()
    except FullframeError as error:
        if not quiet:
            print(f"fullframe: {error}", file=sys.stderr)
        return error.exit_code
    if not quiet:
        print(toolchain)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
