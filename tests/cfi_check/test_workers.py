"""A worker process that is killed costs its own file and no other."""

import os
import signal

import pytest

from fullframe.cfi import files
from fullframe.cfi.findings import FileReport


def _check(path):
    """Stand in for the check of a file; the name says what becomes of the process."""
    if path.startswith("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    if path.startswith("disk"):
        raise OSError("input/output error")
    return FileReport(path, "x86-64", 1)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    monkeypatch.setattr(files, "check_file", _check)


@pytest.mark.parametrize("bad", [["kills"], ["kills", "kills too"]])
def test_a_killed_worker(bad):
    paths = ["a", *bad, *"bcdefgh"]
    told = []
    reports = files.check_files(paths, jobs=2, progress=lambda report, _: told.append(report.path))
    assert [report.path for report in reports] == paths
    assert sorted(told) == sorted(paths)
    for report in reports:
        if report.path in bad:
            assert report.error is not None
            assert report.error.startswith(f"{report.path}: the process that checked it was killed")
            assert "\n  next: " in report.error
        else:
            assert (report.error, report.functions) == (None, 1)


def test_an_error_in_a_worker():
    good, bad = files.check_files(["a", "disk"], jobs=2)
    assert good.error is None
    assert bad.error == "disk: input/output error"
