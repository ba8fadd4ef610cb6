"""What every test may use."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip with a reason; fail instead where ``FULLFRAME_REQUIRE_ALL=1`` asks for everything."""
    if os.environ.get("FULLFRAME_REQUIRE_ALL") == "1":
        pytest.fail(f"would be skipped: {reason}")
    pytest.skip(reason)
