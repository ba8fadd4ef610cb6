"""What the tests of every room share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test with its reason; fail instead where nothing may be skipped."""
    if os.environ.get("FULLFRAME_REQUIRE_ALL") == "1":
        pytest.fail(f"FULLFRAME_REQUIRE_ALL=1 allows no skip: {reason}")
    pytest.skip(reason)


def run_unprivileged(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run fullframe without root's privilege to read and write everything."""
    command = [sys.executable, "-m", "fullframe", *arguments]
    if os.geteuid() == 0:
        tool = shutil.which("setpriv")
        if tool is None:
            skip_or_fail("setpriv (util-linux) is needed to give up root's privileges")
        lost = "-dac_override,-dac_read_search"
        command = [tool, f"--bounding-set={lost}", f"--inh-caps={lost}", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
