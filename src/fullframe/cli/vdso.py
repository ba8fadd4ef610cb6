"""``fullframe vdso``: build vDSO images, save the running kernel's, step through them."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any

from fullframe.cli import vdso_step
from fullframe.cli.arguments import path
from fullframe.cli.output import print_json
from fullframe.errors import EXIT_FINDINGS, EXIT_OK, UsageError

if TYPE_CHECKING:
    from fullframe.vdso.build import AssemblerPolicy


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands."""
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    _add_build(commands)
    _add_dump(commands)
    vdso_step.add_command(commands)


def _add_build(commands: Any) -> None:
    build: argparse.ArgumentParser = commands.add_parser(
        "build",
        help="build vDSO images, their call-frame information derived from the code",
        description="Builds vDSO images as a kernel maps them: for i386 one for each way into the "
        "kernel, with __kernel_vsyscall and the signal trampolines; for x86-64 one. No "
        "call-frame information is typed: it is derived from the code and from the layout of the "
        "signal frame. Each image is read back and goes through `cfi check`; unless it is as it "
        "must be and every boundary is proved, nothing is written and the exit code is 1.",
    )
    build.add_argument("--machine", choices=("i386", "x86-64"), help="default: both")
    build.add_argument(
        "--entry",
        choices=("int80", "sysenter", "syscall", "all"),
        help="way into the kernel (x86-64: syscall); default: all that the machine has",
    )
    build.add_argument(
        "-o",
        "--output",
        type=path,
        required=True,
        metavar="PATH",
        help="a directory; if one image is chosen, a file unless a directory is there",
    )
    build.add_argument(
        "--sources",
        action="store_true",
        help="write each image's assembly and linker scripts beside it",
    )
    build.add_argument(
        "--base",
        type=_address,
        default=0,
        metavar="ADDRESS",
        help="link the image at this address; default: 0, as it can be mapped anywhere",
    )
    build.add_argument(
        "--linux-version",
        type=_linux_version,
        metavar="X.Y[.Z]",
        help="what the version note tells the C library; default: 6.1.0, the packaged tables'",
    )
    build.add_argument(
        "--with-flags",
        action="store_true",
        help="let the rules of signal trampolines say where the flags register is, too: gdb shows "
        "it, LLVM's libunwind refuses such CFI",
    )
    build.add_argument("--toolchain", choices=("gnu", "llvm", "zig"), help="build with this one")
    build.add_argument(
        "--assembler",
        type=path,
        metavar="PROGRAM",
        help="assemble with this one, whatever it lacks",
    )
    build.add_argument(
        "--cfi",
        choices=("require", "drop", "encode"),
        help="where the assembler lacks CFI directives: fail and say which version is needed, "
        "build without CFI, or write it as data; default: require",
    )
    build.add_argument("--json", action="store_true", help="print one JSON object")
    build.set_defaults(handler=_build)


def _add_dump(commands: Any) -> None:
    dump: argparse.ArgumentParser = commands.add_parser(
        "dump",
        help="save the vDSOs that the running kernel maps into processes",
        description="Saves the vDSOs of the running kernel: the 64-bit one from this process, the "
        "others from a tiny program that is started for it. Without --machine, all that this "
        "kernel has. Exit code 4 if the one that was asked for cannot be had here.",
    )
    dump.add_argument(
        "--machine", choices=("x86-64", "i386", "x32"), help="only of processes of this kind"
    )
    dump.add_argument(
        "-o",
        "--output",
        type=path,
        required=True,
        metavar="PATH",
        help="a directory; with --machine, a file unless a directory is there",
    )
    dump.add_argument("--json", action="store_true", help="print one JSON object")
    dump.set_defaults(handler=_dump)


def _address(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected an address such as 0xffffe000"
        ) from None


def _linux_version(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?", text, re.ASCII)
    parts = [int(part or 0) for part in match.groups()] if match else []
    if not parts or max(parts[:2]) > 255:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a version of Linux such as 6.1.0")
    return parts[0], parts[1], parts[2]


def _build(arguments: argparse.Namespace) -> int:
    from fullframe.report.vdso import build_json, write_build
    from fullframe.toolchain.find import find_toolchain
    from fullframe.vdso.build import DEFAULT_LINUX_VERSION, BuildOptions, build_image, write_images
    from fullframe.vdso.images import choose_images

    images = choose_images(arguments.machine, arguments.entry)
    toolchain = find_toolchain(arguments.toolchain)
    options = BuildOptions(
        arguments.linux_version or DEFAULT_LINUX_VERSION,
        arguments.base,
        _policy(arguments.assembler, arguments.cfi, toolchain.kind),
        arguments.with_flags,
    )
    built = [build_image(image, toolchain, options) for image in images]
    right = all(item.is_right for item in built)
    paths = write_images(built, arguments.output, sources=arguments.sources) if right else []
    if arguments.json:
        print_json(build_json(built, paths, toolchain))
    else:
        write_build(sys.stdout, built, paths, toolchain)
    return EXIT_OK if right else EXIT_FINDINGS


def _policy(assembler: str | None, policy: str | None, kind: str) -> AssemblerPolicy | None:
    """Return the assembler that was chosen, tried out; None for the toolchain's, as it is."""
    if assembler is None and policy is None:
        return None
    from fullframe.cli.toolchain import choose_assembler, probe_all
    from fullframe.vdso.build import AssemblerPolicy

    found = probe_all(use_cache=True)
    own = "gas" if kind == "gnu" else kind
    chosen = choose_assembler(assembler or own, found)
    if chosen.tool.kind in ("nasm", "yasm"):
        raise UsageError(
            f"--assembler {assembler}: {chosen.tool.path} does not take GNU syntax, which the "
            "source of an image is in; expected GNU as, clang, llvm-mc or zig"
        )
    return AssemblerPolicy(chosen, policy or "require", tuple(found))


def _dump(arguments: argparse.Namespace) -> int:
    from fullframe.report.vdso import dump_json, write_dump
    from fullframe.vdso.dump import dump

    result = dump(arguments.output, arguments.machine)
    if arguments.json:
        print_json(dump_json(result))
    else:
        write_dump(sys.stdout, result)
    return EXIT_OK
