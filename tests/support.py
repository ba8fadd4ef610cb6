"""What the tests of every room share."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test with its reason; fail instead where nothing may be skipped."""
    if os.environ.get("FULLFRAME_REQUIRE_ALL") == "1":
        pytest.fail(f"FULLFRAME_REQUIRE_ALL=1 allows no skip: {reason}")
    pytest.skip(reason)
