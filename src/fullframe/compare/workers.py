"""Run a function on a few long jobs, each in a process of its own.

For a handful of jobs of seconds each. Unlike an executor it can be left at any moment, by an
error or by an interrupt, and then no process is left behind; and a worker that dies (out of
memory, say) is an error, not a wait for ever.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from fullframe.errors import FullframeError, InputError, Place

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Failed:
    """An error of ours in a worker; anything else prints its traceback there and ends it."""

    error: FullframeError


@dataclass(frozen=True, slots=True)
class _Running:
    index: int
    process: BaseProcess


def in_processes(
    function: Callable[[_Job], _Result],
    jobs: Sequence[_Job],
    processes: int,
    done: Callable[[], None],
) -> list[_Result]:
    """Apply a function to each job.

    Args:
        function: importable by name; its results and jobs can be pickled.
        jobs: what to apply it to.
        processes: how many may run at a time; below 2: all run here, one after the other.
        done: called after each.

    Returns:
        The results in the order of the jobs.

    Raises:
        FullframeError: what the function raised; the other jobs are then given up.
        InputError: a process ended without a word.
    """
    if processes < 2 or len(jobs) < 2:
        results = []
        for job in jobs:
            results.append(function(job))
            done()
        return results
    found: dict[int, _Result] = {}
    running: dict[Connection, _Running] = {}
    waiting = list(enumerate(jobs))
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                _start(function, *waiting.pop(0), running)
            for ready in connection.wait(list(running)):
                assert isinstance(ready, Connection)
                found[running[ready].index] = _receive(ready)
                running.pop(ready).process.join()
                ready.close()
                done()
    finally:
        for each in running.values():
            each.process.terminate()
        for receiver, each in running.items():
            each.process.join()
            receiver.close()
    return [found[index] for index in range(len(jobs))]


def _start(
    function: Callable[[_Job], _Result],
    index: int,
    job: _Job,
    running: dict[Connection, _Running],
) -> None:
    # Spawned, not forked: a progress bar has threads, and a fork would take their locks along.
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, job, sender), daemon=True)
    process.start()
    running[receiver] = _Running(index, process)
    # Ours only: the worker's end is the only one left, so that its death ends the wait.
    sender.close()


def _work(function: Callable[[_Job], object], job: _Job, sender: Connection) -> None:
    # An interrupt goes to all processes of a terminal; the parent ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sender.send(function(job))
    except FullframeError as error:
        sender.send(_Failed(error))


def _receive(receiver: Connection) -> Any:
    try:
        result = receiver.recv()
    except EOFError:
        raise InputError(
            Place("worker process"),
            "ended without a result",
            "",
            "see whether memory ran out, or whether it says more above",
        ) from None
    if isinstance(result, _Failed):
        raise result.error
    return result
