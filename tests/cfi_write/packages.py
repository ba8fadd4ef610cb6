"""Fetches the sources of Debian packages, without touching the system's apt lists."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

from tests.cfi_write.support import need
from tests.support import skip_or_fail


@functools.cache
def _state() -> tempfile.TemporaryDirectory[str]:
    """Make a directory for apt's lists and for what it fetches, and fill the lists: once."""
    state = tempfile.TemporaryDirectory(prefix="fullframe-apt-")
    directory = Path(state.name)
    (directory / "parts").mkdir()
    (directory / "lists/partial").mkdir(parents=True)
    suite = "bookworm"
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            suite = line.split("=")[1].strip('"')
    (directory / "parts/source.sources").write_text(
        f"Types: deb-src\nURIs: http://deb.debian.org/debian\nSuites: {suite}\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    _apt(directory, "update")
    return state


def _apt(directory: Path, *command: str) -> None:
    options = [
        "-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={directory}/parts",
        "-o", f"Dir::State::Lists={directory}/lists", "-o", f"Dir::Cache={directory}",
        "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20",
    ]  # fmt: skip
    run = subprocess.run(
        [need("apt-get"), "-q", *options, *command],
        cwd=directory, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    if run.returncode:
        skip_or_fail(f"apt-get {' '.join(command)} gets no sources here: {run.stderr[-200:]}")


def debian_source(directory: Path, package: str, *members: str) -> Path:
    """Fetch a Debian source package and unpack it.

    Args:
        directory: where to.
        package: its name.
        members: patterns of what to unpack; everything where none are given.

    Returns:
        The directory that holds what was unpacked.
    """
    state = Path(_state().name)
    if not list(state.glob(f"{package}_*.orig.tar.*")):
        _apt(state, "source", "--download-only", package)
    archives = [path for path in state.glob(f"{package}_*.orig.tar.*") if path.suffix != ".asc"]
    if len(archives) != 1:
        skip_or_fail(f"the source package {package} has no single archive")
    root = directory / package
    root.mkdir()
    unpack(archives[0], root, *members)
    inner = [path for path in root.iterdir() if path.is_dir()]
    return inner[0] if len(list(root.iterdir())) == 1 and inner else root


def unpack(archive: Path, directory: Path, *members: str) -> None:
    """Unpack an archive, or the members of it that match patterns."""
    patterns = ["--wildcards", *members] if members else []
    subprocess.run(
        [need("tar"), "-x", "-f", str(archive), "-C", str(directory), *patterns], check=True
    )
