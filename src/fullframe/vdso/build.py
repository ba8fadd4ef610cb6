"""Building images: write the code, derive its CFI, assemble, link, and check what came out.

No directive is typed. The tracker follows the code; of a signal trampoline it starts from the
layout of the signal frame (``fullframe.cfi.premises.SIGNAL_FRAMES``), and what it finds is written
into the source as directives. The linked image is then read back, and checked like anybody's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fullframe.cfi.check import ImageChecker
from fullframe.cfi.claims import Answer
from fullframe.cfi.files import check_bytes
from fullframe.cfi.findings import FileReport
from fullframe.cfi.write.conversion import Conversion
from fullframe.cfi.write.fix import fix_source
from fullframe.cfi.write.policy import build as build_with_policy
from fullframe.cfi.write.source import Assembler, AssemblySource
from fullframe.elf.image import Image
from fullframe.errors import InputError, Place, UsageError
from fullframe.files import replace_files
from fullframe.toolchain.find import Toolchain
from fullframe.toolchain.probe import Probed
from fullframe.vdso.assembly import PRESERVED, assembly
from fullframe.vdso.images import RT_SIGRETURN, SIGRETURN, VdsoImage
from fullframe.vdso.linking import check_base_address, link, link_script, version_script
from fullframe.vdso.output import output_paths
from fullframe.vdso.verify import exported_functions, problems_of
from fullframe.x86.registers import FLAGS

#: Of the packaged tables, whose numbers the code has.
DEFAULT_LINUX_VERSION = (6, 1, 0)


@dataclass(frozen=True, slots=True)
class AssemblerPolicy:
    """An assembler of the user's choice, and what is done where it lacks directives.

    Attributes:
        assembler: what it was found to get right.
        policy: ``require``, ``drop`` or ``encode`` (see :mod:`fullframe.cfi.write.policy`).
        others: assemblers to be named where this one does not do.
    """

    assembler: Probed
    policy: str
    others: tuple[Probed, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What can be chosen of every image.

    Attributes:
        linux_version: what the version note says.
        base_address: that the header is linked at.
        assembler: None for the toolchain's own.
        with_flags: whether the rules of signal trampolines say where the flags register is, too.
            gdb then shows the interrupted instruction's; LLVM's libunwind refuses any CFI with a
            register that it has no number for (``src/DwarfParser.hpp``, "reg too big").
    """

    linux_version: tuple[int, int, int] = DEFAULT_LINUX_VERSION
    base_address: int = 0
    assembler: AssemblerPolicy | None = None
    with_flags: bool = False


@dataclass(frozen=True, slots=True)
class BuiltFunction:
    """One exported function of an image, or one signal trampoline.

    Attributes:
        name: of its symbol.
        version: of its symbol.
        address: of its first instruction.
        size_bytes: of its code.
        boundaries: instruction boundaries, padding left out; 0 without CFI.
        proved: those where the CFA and all registers are proved.
    """

    name: str
    version: str
    address: int
    size_bytes: int
    boundaries: int
    proved: int


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image, and whether it is right.

    Attributes:
        image: what it is.
        data: its bytes.
        source: its assembly, with the directives that were derived.
        scripts: of the linker, by the suffix of their file.
        cfi: ``directives``; with another assembler also ``encoded`` or ``dropped``.
        functions: by address, aliases left out.
        report: of ``cfi check``.
        problems: what is not as a kernel maps it.
    """

    image: VdsoImage
    data: bytes
    source: str
    scripts: dict[str, str]
    cfi: str
    functions: tuple[BuiltFunction, ...]
    report: FileReport
    problems: tuple[str, ...] = field(default=())

    @property
    def is_right(self) -> bool:
        """Whether it is as it must be, and every boundary is proved."""
        report = self.report
        return not self.problems and not report.findings and report.proved == report.boundaries


def build_image(
    image: VdsoImage, toolchain: Toolchain, options: BuildOptions = BuildOptions()
) -> BuiltImage:
    """Build one image.

    Args:
        image: which one.
        toolchain: assembles (unless the options name another assembler) and links it.
        options: see :class:`BuildOptions`.

    Returns:
        The image; nothing is written.

    Raises:
        UsageError: it cannot be linked at the base address.
        ToolMissingError: the assembler lacks directives, with the policy ``require``.
        ToolFailedError: a tool refused its input.
        InputError: no CFI could be derived: a fault of fullframe's own code.
    """
    check_base_address(image, options.base_address)
    derived = derive(image, toolchain, options)
    return build_from_source(image, derived, toolchain, options)


def build_from_source(
    image: VdsoImage,
    source: AssemblySource,
    toolchain: Toolchain,
    options: BuildOptions = BuildOptions(),
) -> BuiltImage:
    """Build an image from its source, as it is: what is wrong with it is told, not mended.

    Args:
        image: which one.
        source: with directives (see :func:`derive`).
        toolchain: as in :func:`build_image`.
        options: as in :func:`build_image`.

    Returns:
        The image; raises what :func:`build_image` does.
    """
    with tempfile.TemporaryDirectory(prefix="fullframe-") as name:
        made, output = Path(name, "object.o"), Path(name, image.file_name)
        cfi = _assemble(source, toolchain, made, options.assembler)
        with_cfi = cfi != "dropped"
        link(toolchain, image, made, output, base_address=options.base_address, with_cfi=with_cfi)
        data = output.read_bytes()
    built = Image.from_bytes(data, image.file_name)
    problems = problems_of(
        image,
        built,
        base_address=options.base_address,
        linux_version=options.linux_version,
        with_cfi=with_cfi,
    )
    return BuiltImage(
        image,
        data,
        source.text,
        {
            ".lds": link_script(options.base_address, with_cfi=with_cfi),
            ".map": version_script(image),
        },
        cfi,
        tuple(_functions(built)),
        check_bytes(data, image.file_name),
        tuple(problems),
    )


def derive(
    image: VdsoImage,
    toolchain: Toolchain,
    options: BuildOptions = BuildOptions(),
) -> AssemblySource:
    """Write the source of an image, and derive its call-frame information.

    Args:
        image: which one.
        toolchain: assembles it, to see what the code is.
        options: as in :func:`build_image`.

    Returns:
        The source with directives.

    Raises:
        InputError: the rules of a boundary could not be derived or written.
    """
    flags = ("-m32",) if image.machine.bits == 32 else ()
    name = str(Path(image.file_name).with_suffix(".s"))
    bare = AssemblySource(name, assembly(image, options.linux_version), Assembler(toolchain, flags))
    preserved: dict[str, tuple[int, ...]] = dict(PRESERVED)
    if options.with_flags:
        preserved |= {SIGRETURN: (FLAGS,), RT_SIGRETURN: (FLAGS,)}
    derived = fix_source(bare, preserved)
    _require_all(derived)
    return bare.with_text(derived.new_text)


def _require_all(derived: Conversion) -> None:
    for refused in derived.refused:
        raise InputError(
            Place(derived.path, refused.line), refused.message, "code whose rules can be derived"
        )
    if derived.differences:
        place = Place(f"{derived.path}: {derived.differences[0].place}")
        raise InputError(place, "the assembled rules are not those that were derived")


def _assemble(
    source: AssemblySource, toolchain: Toolchain, output: Path, chosen: AssemblerPolicy | None
) -> str:
    """Assemble a source; return what was made of its directives."""
    if chosen is not None:
        done = build_with_policy(
            source, str(output), chosen.assembler, chosen.policy, chosen.others
        )
        return "directives" if done.action == "as it is" else done.action
    text = output.with_suffix(".s")
    text.write_text(source.text, encoding="ascii")
    bits = 32 if "-m32" in source.assembler.flags else 64
    toolchain.assemble(text, output, bits=bits)
    return "directives"


def _functions(built: Image) -> list[BuiltFunction]:
    """Return the exported functions with what is proved of each."""
    tallies = [
        (result.fde.begin, result.fde.end, result.boundaries, result.tally[Answer.PROVED])
        for result in ImageChecker(built).results()
    ]
    found: dict[int, BuiltFunction] = {}
    for symbol in exported_functions(built):
        if symbol.binding != "global" or symbol.version is None:
            continue
        boundaries, proved = next(
            (
                (total, right)
                for begin, end, total, right in tallies
                if begin <= symbol.address < end
            ),
            (0, 0),
        )
        found[symbol.address] = BuiltFunction(
            symbol.name, symbol.version, symbol.address, symbol.size_bytes, boundaries, proved
        )
    return [found[address] for address in sorted(found)]


def write_images(built: Sequence[BuiltImage], output: str, *, sources: bool) -> list[Path]:
    """Write images, all of them or none.

    Args:
        built: the images.
        output: a directory, made if it is missing; or, for one image, a file.
        sources: also write the assembly and the linker's scripts, beside each image.

    Returns:
        The path of each image.

    Raises:
        InputError: something cannot be written; then all is as it was.
        UsageError: an image and its source would have one name.
    """
    names = [item.image.file_name for item in built]
    paths = output_paths(output, names, may_be_file=len(built) == 1)
    if sources and any(path.suffix in (".s", ".lds", ".map") for path in paths):
        raise UsageError(
            f"-o {output} --sources: {paths[0].name} is the name of a source; "
            "expected another one for the image, such as one that ends in .so"
        )
    files: dict[Path, bytes] = {}
    for item, path in zip(built, paths, strict=True):
        files[path] = item.data
        if sources:
            files[path.with_suffix(".s")] = item.source.encode()
            for suffix, text in item.scripts.items():
                files[path.with_suffix(suffix)] = text.encode()
    try:
        replace_files({path: data for path, data in files.items() if not _holds(path, data)})
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            Place(output), f"cannot be written: {reason}",
            "a place that you may write to", "check the path and its permissions",
        ) from None  # fmt: skip
    return paths


def _holds(path: Path, data: bytes) -> bool:
    """Return whether a file holds these bytes already, so that its time can stay."""
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
