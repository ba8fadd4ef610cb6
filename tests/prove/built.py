"""The generated strategies, built once for all tests of this room."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from fullframe.elf.image import Image
from fullframe.entry.build import build
from fullframe.entry.strategy import strategy_named
from fullframe.errors import ToolMissingError
from fullframe.table import open_table
from fullframe.toolchain.find import find_toolchain
from tests.support import skip_or_fail

_kept: list[TemporaryDirectory] = []


@cache
def table():
    return open_table("x86-64")


@cache
def image_path(strategy: str, kind: str | None = None) -> Path:
    try:
        toolchain = find_toolchain(kind)
    except ToolMissingError as error:
        skip_or_fail(f"no {kind or 'assembler'}: {error}")
    directory = TemporaryDirectory(prefix="fullframe-prove-")
    _kept.append(directory)
    return build(strategy_named(strategy), table(), toolchain, Path(directory.name)).image_path


def image(strategy: str, kind: str | None = None) -> Image:
    return Image.open(image_path(strategy, kind))
