"""Assemble, compile and link generated entry code into an image that the harness can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fullframe.entry import pieces
from fullframe.entry.generate import (
    GeneratedCode,
    generate,
    in_comment,
    write_files,
    write_generated,
)
from fullframe.entry.listing import Listing
from fullframe.entry.platform import HARNESS_PLATFORM, PLATFORM_FUNCTIONS
from fullframe.entry.strategy import Strategy, Stubs
from fullframe.entry.tables import FAST_TABLES, SLOW_TABLES
from fullframe.run.image import Image, load_image
from fullframe.run.subject import FrameCheck, InternalFunction, Subject
from fullframe.table.model import Table
from fullframe.toolchain.find import Toolchain

HANDLERS_FILE = "handlers.s"
SCRIPT_FILE = "image.ld"
IMAGE_FILE = "entry.elf"

#: Where Linux puts its text (``__START_KERNEL_map`` plus 16 MiB); any address in the top 2 GiB
#: will do, since the code addresses its tables by sign-extended 32-bit numbers.
IMAGE_BASE = 0xFFFF_FFFF_8100_0000

#: On top of a freestanding kernel's flags, which the toolchain gives by itself.
COMPILE_FLAGS = (
    "-mcmodel=kernel", "-fno-asynchronous-unwind-tables", "-fno-ident", "-Wall", "-Wextra",
    "-Werror",
)  # fmt: skip

_SCRIPT = f"""\
SECTIONS
{{
	. = {IMAGE_BASE:#x};
	.text : {{ *(.entry.text) *(.text .text.*) }}
	. = ALIGN(0x1000);
	.handlers : {{ *(.handlers) }}
	. = ALIGN(0x1000);
	.rodata : {{ *(.rodata .rodata.*) }}
	. = ALIGN(0x1000);
	.data : {{ *(.data .data.*) *(.bss .bss.*) }}
	/DISCARD/ : {{ *(.comment) *(.note .note.*) *(.eh_frame) }}
}}
ENTRY({pieces.ENTRY})
"""


@dataclass(frozen=True, slots=True)
class BuiltEntry:
    """Linked entry code.

    Attributes:
        code: the generated files.
        toolchain: what built them.
        directory: where sources, objects and image are.
        image_path: the linked image.
        image: its contents and symbols.
        objects: object file of each source, by the source's name.
    """

    code: GeneratedCode
    toolchain: Toolchain
    directory: Path
    image_path: Path
    image: Image
    objects: dict[str, Path]

    @property
    def strategy(self) -> Strategy:
        """The strategy that the code was generated for."""
        return self.code.strategy

    @property
    def symbols(self) -> dict[str, int]:
        """Symbol to address."""
        return self.image.symbols

    @property
    def stubs(self) -> tuple[str, ...]:
        """Symbols of the stubs that the dispatch tables lead to."""
        return self.code.stubs

    @property
    def stub_bytes(self) -> int:
        """Size of all stubs, their common part included, padding left out."""
        names = {*self.stubs, "stub_full_frame"}
        return sum(size for name, size in self.image.symbol_sizes.items() if name in names)

    @property
    def table_bytes(self) -> dict[str, int]:
        """Size of each dispatch table by its symbol."""
        names = (*FAST_TABLES.values(), *SLOW_TABLES.values())
        sizes = self.image.symbol_sizes
        return {name: sizes[name] for name in names if name in sizes}

    @property
    def duplicated_table_bytes(self) -> int:
        """Size of the tables that this strategy has on top of one for each ABI."""
        sizes = self.table_bytes
        return sum(sizes.get(name, 0) for name in SLOW_TABLES.values())

    @property
    def generated_objects(self) -> tuple[Path, ...]:
        """The objects of the generated code alone, without the stand-ins for C functions."""
        return tuple(self.objects[name] for name in self.code.sources)

    def subject(self) -> Subject:
        """Describe the image to the harness."""
        return describe(self.code, self.image_path)


def describe(code: GeneratedCode, image_path: Path) -> Subject:
    """Describe an image that was linked from generated code to the harness."""
    strategy, tables = code.strategy, code.tables
    overlays: tuple[tuple[str, str], ...] = ()
    if strategy.duplicates_tables:
        overlays = tuple((SLOW_TABLES[abi], FAST_TABLES[abi]) for abi in tables.abis)
    return Subject(
        name=strategy.name,
        image=image_path,
        layout=code.platform.layout,
        calls=tables.calls(code.platform.layout),
        frames_are_full=strategy.saves_all_on_entry,
        internal_functions=_internal_functions(code),
        table_overlays=overlays,
    )


def _internal_functions(code: GeneratedCode) -> tuple[InternalFunction, ...]:
    """Say when each C function of the generated slow path may be entered, and with what."""
    layout, full = code.platform.layout, FrameCheck.FULL
    if code.strategy.slow_path_in_c:
        return (
            InternalFunction(
                "do_syscall_64", False, full, layout.work_entry,
                for_annotated=code.strategy.stubs is Stubs.SWITCH_PATH,
            ),
            InternalFunction(
                "syscall_return_slowpath", True, full, layout.work_exit,
                for_iret=True, for_child=True, after=("do_syscall_64",),
            ),
        )  # fmt: skip
    notify = 1 << layout.signal_pending_bit | 1 << layout.notify_resume_bit
    trace = 1 << layout.syscall_trace_bit
    return (
        InternalFunction("syscall_trace_enter_phase1", True, FrameCheck.PARTIAL, layout.work_entry),
        InternalFunction("syscall_trace_enter_phase2", True, full, trace),
        InternalFunction("syscall_trace_leave", True, full, layout.work_syscall_exit),
        InternalFunction("do_notify_resume", True, full, notify),
    )


def build(strategy: Strategy, table: Table, toolchain: Toolchain, directory: Path) -> BuiltEntry:
    """Generate, assemble, compile and link a strategy for the harness.

    Args:
        strategy: which way out.
        table: the system-call table.
        toolchain: what to build with.
        directory: where to put sources, objects and image; made if need be.

    Raises:
        InputError: the table has no 64-bit call, or the directory cannot be written.
        InputErrors: entry points that cannot be symbols.
        ToolFailedError: the toolchain refused generated code.
    """
    return build_generated(generate(strategy, table, HARNESS_PLATFORM), toolchain, directory)


def build_generated(code: GeneratedCode, toolchain: Toolchain, directory: Path) -> BuiltEntry:
    """Write, assemble, compile and link generated code.

    The image holds stand-ins for the kernel's C functions, in ``handlers.s``, and is put together
    by ``image.ld``; both are written beside the generated files.

    Raises:
        InputError: the directory cannot be written.
        ToolFailedError: the toolchain refused generated code.
    """
    write_generated(code, directory)
    script = {SCRIPT_FILE: f"{in_comment(code.banner)}\n{_SCRIPT}"}
    write_files({HANDLERS_FILE: stand_ins(code)} | script, directory)
    objects = {
        name: build_object(toolchain, directory / name) for name in (*code.sources, HANDLERS_FILE)
    }
    image_path = link_image(
        toolchain, list(objects.values()), directory / IMAGE_FILE, directory / SCRIPT_FILE
    )
    return BuiltEntry(code, toolchain, directory, image_path, load_image(image_path), objects)


def build_object(toolchain: Toolchain, source: Path) -> Path:
    """Assemble or compile one generated file into an object beside it; warnings are errors."""
    output = source.with_suffix(f".{source.suffix[1:]}.o")
    if source.suffix == ".c":
        toolchain.compile(source, output, include=[source.parent], flags=COMPILE_FLAGS)
    else:
        toolchain.assemble(source, output)
    return output


def link_image(toolchain: Toolchain, objects: Sequence[Path], output: Path, script: Path) -> Path:
    """Link objects at the image's addresses."""
    toolchain.link(objects, output, script=script)
    return output


def stand_ins(code: GeneratedCode) -> str:
    """Write a stand-in for each C function of the kernel: the harness models what it does.

    Args:
        code: the generated code; every handler of its tables gets one, and every function of the
            platform.

    Returns:
        Assembly in GNU syntax.
    """
    listing = Listing()
    listing.heading(code.banner)
    listing.heading("Stand-ins for the kernel's C functions: the harness does their work.")
    listing.blank()
    listing.op(".section", '.handlers, "ax", @progbits')
    names = [handler.symbol for handler in code.tables.handlers]
    names += [function.name for function in PLATFORM_FUNCTIONS]
    for name in names:
        listing.function(name)
        listing.op("ret")
        listing.end_function(name)
    listing.blank()
    listing.op(".section", '.note.GNU-stack, "", @progbits')
    return listing.render()
