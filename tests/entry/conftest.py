"""Builds of the packaged table's entry code, made once for all the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullframe.entry.build import BuiltEntry, build
from fullframe.entry.strategy import STRATEGIES
from fullframe.errors import ToolMissingError
from fullframe.table import Table, packaged_table
from fullframe.toolchain.find import Toolchain, find_toolchain
from tests.support import skip_or_fail


@pytest.fixture(scope="session")
def linux_table() -> Table:
    return packaged_table("x86-64")


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    try:
        return find_toolchain()
    except ToolMissingError as error:
        skip_or_fail(str(error))


@pytest.fixture(scope="session")
def builds(
    linux_table: Table, toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, BuiltEntry]:
    directory: Path = tmp_path_factory.mktemp("entry")
    return {
        name: build(strategy, linux_table, toolchain, directory / name)
        for name, strategy in STRATEGIES.items()
    }
