"""What the tests of vDSO images share: images of each toolchain, and programs that use them."""

from __future__ import annotations

import errno
import functools
import shutil
import subprocess
from pathlib import Path

from fullframe.errors import ToolMissingError
from fullframe.toolchain.find import Toolchain, find_toolchain
from fullframe.vdso.build import BuildOptions, BuiltImage, build_image
from fullframe.vdso.images import IMAGES, VdsoImage
from tests.support import skip_or_fail

PROGRAMS = Path(__file__).parent / "programs"
IMAGE = {image.name: image for image in IMAGES}
I386_NAMES = tuple(image.name for image in IMAGES if image.machine.bits == 32)


@functools.cache
def toolchain(kind: str | None = None) -> Toolchain:
    try:
        return find_toolchain(kind)
    except ToolMissingError as error:
        skip_or_fail(str(error).replace("\n", " "))


@functools.cache
def built(name: str, kind: str | None = None, *, with_flags: bool = False) -> BuiltImage:
    """An image, built once for all tests."""
    return build_image(IMAGE[name], toolchain(kind), BuildOptions(with_flags=with_flags))


def saved(image: BuiltImage, directory: Path) -> Path:
    path = directory / image.image.file_name
    path.write_bytes(image.data)
    return path


def need(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        skip_or_fail(f"{tool} is not installed")
    return found


def program(directory: Path, source: str, machine: VdsoImage, *flags: str) -> Path:
    """Compile a program of ``programs/`` for an image's machine, with the libc of this machine."""
    compiler = need("g++" if source.endswith(".cc") else "gcc")
    output = directory / Path(source).stem
    command = [
        compiler, f"-m{machine.machine.bits}", "-O1", "-g", "-Wall", "-Werror",
        str(PROGRAMS / source), "-o", str(output), *flags,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and ("No such file" in done.stderr or "cannot find" in done.stderr):
        skip_or_fail(f"{compiler} -m{machine.machine.bits} has no libc here (gcc-multilib)")
    assert done.returncode == 0, done.stderr
    return output


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        skip_or_fail("this kernel runs no i386 programs (CONFIG_IA32_EMULATION)")
