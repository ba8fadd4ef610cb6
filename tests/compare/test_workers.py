"""Jobs in processes: results in order, errors told, no process left behind."""

import multiprocessing
import os
import signal
import time

import pytest

from fullframe.compare.workers import in_processes
from fullframe.errors import InputError, InputErrors, Place, ToolFailedError

ERROR = InputError(Place("a.tbl", 3, 4), "this", "that", "do")


def double(value):
    return 2 * value


def slow_if_first(value):
    time.sleep(0.3 if value == 0 else 0)
    return value


def fail(value):
    errors = [ERROR, InputErrors([ERROR, ERROR]), ToolFailedError(["as", "x y"], 1, "no")]
    raise errors[value % 3]


def die(_value):
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt(value):
    """The first job interrupts the parent; the others would go on for a minute."""
    if value == 0:
        os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)


def nothing():
    pass


@pytest.fixture(autouse=True)
def no_process_left():
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("processes", [0, 1, 2, 9])
def test_results_come_in_the_order_of_the_jobs(processes):
    told = []
    found = in_processes(slow_if_first, [0, 1, 2, 3], processes, lambda: told.append(1))
    assert found == [0, 1, 2, 3]
    assert len(told) == 4


@pytest.mark.parametrize("processes", [1, 2])
def test_no_jobs_and_one(processes):
    assert in_processes(double, [], processes, nothing) == []
    assert in_processes(double, [21], processes, nothing) == [42]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_error_comes_over_as_it_was(processes, which):
    with pytest.raises((InputError, InputErrors, ToolFailedError)) as caught:
        in_processes(fail, [which, which], processes, nothing)
    expected = ["a.tbl:3:4: this; expected that\n  next: do"] * 2
    texts = [expected[0], "\n".join(expected), "as 'x y': exit code 1\nno"]
    assert str(caught.value) == texts[which]
    assert caught.value.exit_code == 3
    if which == 0:
        assert caught.value.place == ERROR.place


def test_a_worker_that_dies_is_an_error():
    with pytest.raises(InputError, match="worker process: ended without a result"):
        in_processes(die, [1, 2], 2, nothing)


def test_an_interrupt_ends_the_workers():
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        in_processes(interrupt, [0, 1, 2], 2, nothing)
    assert time.monotonic() - started < 30
