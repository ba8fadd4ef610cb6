"""Checking many files: finding them, one process a core, the largest first.

One bad file never ends the run: its report carries the error.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fullframe.cfi.check import Engine, check_image
from fullframe.cfi.findings import FileReport
from fullframe.elf.image import LARGEST_READ_BYTES, Image
from fullframe.errors import FullframeError, InputError, Place, ToolMissingError
from fullframe.run.running_vdso import PROCESS_ABIS, RunningVdso, read_running_vdso

if TYPE_CHECKING:
    from concurrent.futures import Future

_MAGIC = b"\x7fELF"
#: Larger files are checked by all processes together.
SMALLEST_SHARED_BYTES = 8 << 20
_engines: dict[tuple[int, bool], Engine] = {}


def engine_for(image: Image) -> Engine:
    """Return this process's engine for an image's machine."""
    key = (image.machine.bits, image.is_x32)
    found = _engines.get(key)
    if found is None:
        found = _engines[key] = Engine(image.machine, narrow_pointers=image.is_x32)
    return found


def check_file(path: str, jobs: int = 1) -> FileReport:
    """Check one file; an unreadable one gives a report with ``error``.

    So does a bug of fullframe's own, with its traceback in ``bug``: the other files are still
    checked.

    Args:
        path: the file.
        jobs: processes, for a large one.
    """
    began = time.perf_counter()
    bug = None
    # Checking makes millions of small objects and hardly a cycle: looking for cycles among them
    # would take a third of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        image = Image.open(path)
        return check_image(image, engine_for(image), jobs)
    except FullframeError as error:
        return FileReport(path, seconds=time.perf_counter() - began, error=str(error))
    except RecursionError:
        error_text = f"{Place(path)}: nested too deeply to be followed"
    except MemoryError:
        error_text = f"{Place(path)}: not enough memory to check it"
    except Exception as error:  # noqa: BLE001 - what went wrong here says nothing of other files
        error_text = f"{Place(path)}: a bug in fullframe: {type(error).__name__}: {error}"
        import traceback

        bug = traceback.format_exc()
    finally:
        gc.collect(1)  # the image refers to its readers, and they to it
        if collecting:
            gc.enable()
    return FileReport(path, seconds=time.perf_counter() - began, error=error_text, bug=bug)


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to check.

    Attributes:
        paths: files, each once however many names it has, in a stable order.
        unread: a report with ``error`` for each place below a directory that cannot be looked
            into, and for each directory without an ELF file.
    """

    paths: tuple[str, ...]
    unread: tuple[FileReport, ...]


def expand(names: Iterable[str]) -> Found:
    """Turn files and directories into files.

    Args:
        names: a file is taken as it is, even if it is not there: checking it says so; of a
            directory, the ELF files below it.
    """
    paths: dict[tuple[int, int] | str, str] = {}
    unread: dict[str, FileReport] = {}
    for name in names:
        try:
            status = Path(name).stat()
        except (OSError, ValueError):
            paths.setdefault(name, name)
            continue
        if not stat.S_ISDIR(status.st_mode):
            paths.setdefault((status.st_dev, status.st_ino), name)
            continue
        files, errors = _elf_files(Path(name))
        if not files and not errors:
            errors = [_nothing_in(name)]
        for error in errors:
            path = error.place.path
            unread.setdefault(path, FileReport(path, error=str(error)))
        for file, identity in sorted(files.items()):
            paths.setdefault(identity, file)
    return Found(tuple(paths.values()), tuple(unread.values()))


def _nothing_in(name: str) -> InputError:
    # A mistyped or not yet built directory must not pass for one in which nothing is wrong.
    return InputError(
        Place(name),
        "no ELF file in this directory",
        "at least one below it",
        "check the path's spelling, and that what is to be checked has been built",
    )


def _elf_files(directory: Path) -> tuple[dict[str, tuple[int, int]], list[InputError]]:
    """Return the ELF files below a directory, with device and inode, and what cannot be read."""
    files: dict[str, tuple[int, int]] = {}
    errors: list[InputError] = []

    def unreadable(error: OSError, path: Path | None = None) -> None:
        # What went away meanwhile, or is a symbolic link to nothing, is no file to be read.
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return
        errors.append(
            InputError(
                Place(str(path or Path(error.filename))),
                f"cannot be read: {error.strerror}",
                "files and directories that you may read",
                "check the permissions, or name what is to be checked",
            )
        )

    for root, _, names in os.walk(directory, onerror=unreadable):
        for name in names:
            path = Path(root, name)
            try:
                # Before opening it: to open a named pipe is to wait for its writer.
                if not stat.S_ISREG(path.stat().st_mode):
                    continue
                with path.open("rb") as file:
                    if file.read(4) == _MAGIC:
                        status = os.fstat(file.fileno())
                        files[str(path)] = (status.st_dev, status.st_ino)
            except OSError as error:
                unreadable(error, path)
    return files, sorted(errors, key=lambda error: error.place.path)


def check_files(
    paths: Sequence[str],
    *,
    jobs: int = 0,
    progress: Callable[[FileReport, int], None] | None = None,
) -> list[FileReport]:
    """Check files, several at once.

    Args:
        paths: the files.
        jobs: processes; 0 for one a core.
        progress: called after each file with its report and its size in bytes.

    Returns:
        Reports in the order of ``paths``.
    """
    sizes = {path: _size(path) for path in paths}
    order = sorted(paths, key=lambda path: -sizes[path])
    jobs = jobs or len(os.sched_getaffinity(0))
    reports: dict[str, FileReport] = {}
    for report in _checked(order, sizes, jobs):
        reports[report.path] = report
        if progress is not None:
            progress(report, sizes[report.path])
    return [reports[path] for path in paths]


def _checked(order: Sequence[str], sizes: dict[str, int], jobs: int) -> Iterator[FileReport]:
    """Check files, the large ones one after the other in all processes together."""
    if jobs == 1:
        for path in order:
            if sizes[path] > LARGEST_READ_BYTES:
                # It is mapped, and may be cut short meanwhile: then the process is killed.
                yield from _in_processes([path], 1)
            else:
                yield check_file(path)
        return
    large = [path for path in order if sizes[path] >= SMALLEST_SHARED_BYTES]
    for path in large:
        yield from _in_processes([path], 1, jobs)
    rest = order[len(large) :]
    if len(rest) == 1:
        yield check_file(rest[0])
    elif rest:
        yield from _in_processes(rest, min(jobs, len(rest)))


def _in_processes(paths: Sequence[str], jobs: int, *more: int) -> Iterator[FileReport]:
    """Check files in several processes; yield the reports as they are done.

    A killed process (out of memory, as a rule) takes the whole pool with it: what it had not done
    is then checked one file at a time, each in a process of its own, and only the file whose own
    process is killed counts as not read.

    Args:
        paths: the files.
        jobs: processes.
        more: what ``check_file`` is given besides.
    """
    # Nothing else needs these, and to import them takes a while.
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    left = dict.fromkeys(paths)
    with contextlib.suppress(BrokenProcessPool), ProcessPoolExecutor(max_workers=jobs) as pool:
        futures = {pool.submit(check_file, path, *more): path for path in paths}
        for future in as_completed(futures):
            report = _result(future, futures[future])
            del left[futures[future]]
            yield report
    for path in left:
        try:
            with ProcessPoolExecutor(max_workers=1) as pool:
                report = _result(pool.submit(check_file, path), path)
        except BrokenProcessPool:
            report = FileReport(
                path,
                error=f"{Place(path)}: the process that checked it was killed"
                "\n  next: see whether memory ran out (then check with fewer --jobs), or the file "
                "was cut short meanwhile",
            )
        yield report


def _result(future: Future[FileReport], path: str) -> FileReport:
    try:
        return future.result()
    except (OSError, MemoryError) as error:
        return FileReport(path, error=f"{Place(path)}: {error}")


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0


def check_live_vdsos() -> list[FileReport]:
    """Check the vDSOs that the running kernel maps into processes of each kind that it runs.

    Returns:
        The report of the 64-bit one, whatever comes of it, and of the others that there are.
    """
    reports = []
    for abi in PROCESS_ABIS:
        try:
            vdso = read_running_vdso(abi)
        except ToolMissingError as error:
            if abi == "x86-64":
                reports.append(FileReport("[vdso]", error=str(error)))
            continue
        except FullframeError as error:
            reports.append(FileReport(RunningVdso(abi, b"").name, error=str(error)))
            continue
        reports.append(check_bytes(vdso.data, vdso.name))
    return reports


def check_bytes(data: bytes, name: str) -> FileReport:
    """Check an image that is in memory; ``name`` is what its report calls it."""
    began = time.perf_counter()
    try:
        image = Image.from_bytes(data, name)
        return check_image(image, engine_for(image))
    except FullframeError as error:
        return FileReport(name, seconds=time.perf_counter() - began, error=str(error))
