"""What GCC and Clang make of switches, exceptions and code without optimisation is proved.

Compilers' jump tables come in a dozen forms. A table that is not understood leaves its cases
unreached, and their boundaries are *assumed*; a call that is wrongly taken to return, or not to,
brings paths together that never meet. Neither must be.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fullframe.cfi.check import ImageChecker
from fullframe.cfi.claims import Answer
from fullframe.cfi.describe import findings_of
from fullframe.cfi.lsda import read_lsda
from fullframe.elf.image import Image
from fullframe.errors import ToolMissingError
from fullframe.toolchain.find import find_toolchain, find_tools
from tests.cfi_check.campaign import CORPUS
from tests.cfi_write.support import need
from tests.support import skip_or_fail

_OPTIONS = ("-O0", "-O2", "-Os", "-O0 -fPIC", "-O2 -fPIC")


def _compiler(name: str, bits: int) -> list[str]:
    target = f"--target={'x86_64' if bits == 64 else 'i386'}-linux-gnu"
    if name == "gcc":
        return [need("gcc")]
    if name == "zig's clang":
        try:
            return [*find_toolchain("zig").compiler, target]
        except ToolMissingError as error:
            skip_or_fail(str(error))
    found = find_tools("clang")
    if not found:
        skip_or_fail("clang is not installed")
    return [found[0], target]


def _made(name: str, bits: int, options: str, source: str, directory: Path) -> Image:
    """Compile a source; position-independent code is linked into a shared library."""
    output = directory / "made.o"
    compiler = _compiler(name, bits)
    common = [f"-m{bits}", "-w", "-fasynchronous-unwind-tables", "-fexceptions"]
    command = [*compiler, *common, *options.split(), "-c", str(CORPUS / source), "-o", str(output)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        skip_or_fail(f"{name} -m{bits} does not work here: {run.stderr[-200:]}")
    if "-fPIC" not in options:
        return Image.open(output)
    library = directory / "made.so"
    subprocess.run(
        [need("ld"), f"-m{'elf_x86_64' if bits == 64 else 'elf_i386'}", "-shared",
         str(output), "-o", str(library)], check=True, capture_output=True,
    )  # fmt: skip
    return Image.open(library)


def _judge(image: Image, name: str, *, dead: int = 0) -> int:
    """Assert that every boundary is proved; return how many there are.

    Args:
        image: what was compiled.
        name: the compiler.
        dead: instructions of a function to which nothing leads, at the most.
    """
    checker = ImageChecker(image)
    boundaries = 0
    for result in checker.results():
        function = image.function_name(result.fde.begin)
        codes = {finding.code for finding in findings_of(checker, result)}
        if name != "gcc" and image.machine.bits == 32:
            # Clang does not restore what an epilogue has popped, and i386 has no red zone: a
            # signal may overwrite the slots, which is what this finding says.
            codes.discard("FF-C004")
            if function == "calls_those_that_pop":
                # Nor does it tell, for one instruction, what its callee took off the stack.
                codes.discard("FF-C001")
        assert not codes, function
        assert result.tally[Answer.ASSUMED] <= dead, function
        assert not result.tally[Answer.CANNOT_TELL], function
        boundaries += result.boundaries
    return boundaries


@pytest.mark.parametrize("options", _OPTIONS)
@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", ["gcc", "clang", "zig's clang"])
def test_jump_tables(name: str, bits: int, options: str, tmp_path: Path) -> None:
    image = _made(name, bits, options, "switches.c", tmp_path)
    assert _judge(image, name) > 300


@pytest.mark.parametrize("options", ["-O0", "-O2 -fPIC"])
@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", ["clang", "zig's clang"])
def test_shapes_of_functions(name: str, bits: int, options: str, tmp_path: Path) -> None:
    """GCC's are in the mutation campaigns, which begin with the same demand."""
    image = _made(name, bits, options, "functions.c", tmp_path)
    assert _judge(image, name) > 600


@pytest.mark.parametrize("options", ["-O0", "-O2", "-O2 -fPIC"])
@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_landing_pads(name: str, bits: int, options: str, tmp_path: Path) -> None:
    """Landing pads are reached from the calls that may throw, in those calls' frames."""
    image = _made(name, bits, options, "exceptions.cc", tmp_path)
    checker = ImageChecker(image)
    pads = [
        site.landing_pad
        for fde in checker.fdes
        if fde.lsda is not None
        for site in read_lsda(image, fde.lsda, fde.begin).call_sites
        if site.landing_pad is not None
    ]
    assert len(pads) >= 5
    # Without optimisation Clang puts a jump behind the call of __cxa_throw.
    assert _judge(image, name, dead=1 if (name, options) == ("clang", "-O0") else 0) > 100
