"""Measure entry code on this machine, in user space: the linked bytes themselves.

Every variant's objects are linked again at several alignments (:mod:`fullframe.cost.live_image`)
and put into one static program without libc. It stands in for SYSCALL: return address in rcx,
flags in r11, number in rax, everything else the user's, and a jump to the entry symbol. The GS
base is the program's per-CPU area, so %gs-relative accesses run as they are. A batch of such
entries is timed with ``rdtsc`` and ``rdtscp`` between ``lfence`` instructions; the variants take
turns (A B C A B C …), batch by batch, so that what disturbs one disturbs all. Entries of a batch
follow one another at once, so a core that runs ahead overlaps them: the figure is one of
throughput, as the bounds of :mod:`fullframe.cost.bounds` are.

What it does not measure: SYSCALL and SYSRET, SWAPGS and CLI/STI themselves (see
:mod:`fullframe.cost.replace`), cold caches and predictors, page-table isolation and the other
mitigations. Two variants differ by none of these as long as they execute the same ones.

Cycles are those of the time-stamp counter, which runs at a fixed rate; a core that runs faster
does more in each. :attr:`LiveReport.core_cycles_per_tsc_cycle` is measured alongside.
"""

from __future__ import annotations

import platform
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fullframe.cost.live_image import LINE_BYTES, LiveImage, live_image, stand_ins
from fullframe.cost.replace import Replacement
from fullframe.cost.statistics import (
    LiveDifference,
    LiveMeasurement,
    difference,
    measurement,
    trimmed_median,
)
from fullframe.errors import FullframeError, ToolFailedError, UsageError
from fullframe.toolchain.command import run_tool
from fullframe.toolchain.find import Toolchain
from fullframe.x86.kernel_layout import HARNESS_LAYOUT, KernelLayout

#: Entries that one sample times, and how often each variant has its turn.
BATCH = 1000
ROUNDS = 200

#: Where in 64 bytes the entry symbol is put, one after the other.
ALIGNMENTS = (0, 16, 32, 48)

#: Far apart, and alike modulo 16 MiB: no variant has a better place than another.
_FIRST_IMAGE = 0x1000_0000
_IMAGE_DISTANCE = 0x100_0000
_MOST_IMAGES = 64

#: Size of the measuring program's per-CPU area.
_PER_CPU_BYTES = 4096

_ADDITIONS_PER_CHAIN = 64
_WARM_UP = 100
_BASELINE = "the loop alone"


@dataclass(frozen=True, slots=True)
class LiveVariant:
    """Entry code to measure.

    Attributes:
        name: of the variant, such as the strategy.
        objects: its relocatable objects; C functions that they lack return 0.
        entry_symbol: of the first instruction after SYSCALL.
    """

    name: str
    objects: tuple[Path, ...]
    entry_symbol: str = "entry_SYSCALL_64"


@dataclass(frozen=True, slots=True)
class LiveCall:
    """What to measure of each variant.

    Attributes:
        name: of the path that the call takes, such as ``fast_path``.
        number: system-call number.
        thread_flags: of the running task, while it is measured; work that stays undone for ever
            would never let the call return.
        result: what the call must return, as a check that the path was taken.
    """

    name: str
    number: int
    thread_flags: int = 0
    result: int = 0


@dataclass(frozen=True, slots=True)
class LiveReport:
    """Everything that was measured.

    Attributes:
        samples: variant and call to alignment to time-stamp cycles of one entry, a round each.
        replacements: variant to what was replaced in its code, at the first alignment.
        core_cycles_per_tsc_cycle: how much faster the core ran than the time-stamp counter.
        loop: what the loop around the entries takes with no entry code in it.
        cpu: the processor's own name.
    """

    samples: Mapping[tuple[str, str], Mapping[int, tuple[float, ...]]]
    replacements: Mapping[str, tuple[Replacement, ...]]
    core_cycles_per_tsc_cycle: float
    loop: LiveMeasurement
    cpu: str

    def measured(self, variant: str, call: str) -> LiveMeasurement:
        """Summarize one variant's path.

        Raises:
            KeyError: it was not measured.
        """
        return measurement(self.samples[variant, call])

    def difference(self, call: str, longer: str, shorter: str) -> LiveDifference:
        """Compare two variants, pairwise round by round.

        Raises:
            KeyError: one was not measured.
        """
        return difference(self.samples[longer, call], self.samples[shorter, call])


@dataclass(frozen=True, slots=True)
class LiveUnavailable:
    """Why there is no measurement.

    Attributes:
        reason: one sentence.
    """

    reason: str


def measure_live(
    variants: Sequence[LiveVariant],
    calls: Sequence[LiveCall],
    toolchain: Toolchain,
    *,
    layout: KernelLayout = HARNESS_LAYOUT,
    batch: int = BATCH,
    rounds: int = ROUNDS,
    alignments: Sequence[int] = ALIGNMENTS,
    directory: Path | None = None,
    timeout_seconds: float = 120,
) -> LiveReport | LiveUnavailable:
    """Measure variants of entry code on this machine.

    Args:
        variants: what to compare, at least one, each with a name of its own.
        calls: the paths to take through each of them, at least one.
        toolchain: what to link with.
        layout: where the entry code expects its per-CPU data.
        batch: entries in one sample.
        rounds: samples of each variant, call and alignment.
        alignments: offsets of the entry symbol within 64 bytes, multiples of 16.
        directory: where intermediate files go; None: a temporary one, removed at the end.
        timeout_seconds: for the measuring program.

    Returns:
        The samples, or why this machine or this code cannot be measured.

    Raises:
        UsageError: arguments that make no sense.
    """
    _check(variants, calls, batch, rounds, alignments)
    offsets = (
        layout.user_sp_offset_bytes,
        layout.stack_top_offset_bytes,
        layout.thread_flags_offset_bytes,
    )
    if not all(0 <= offset <= _PER_CPU_BYTES - 8 for offset in offsets):
        return LiveUnavailable(f"per-CPU data at {offsets}: only the first 4 KiB are provided")
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        return LiveUnavailable(
            f"this is {platform.system()} on {platform.machine()}, not on x86-64"
        )
    try:
        with tempfile.TemporaryDirectory(prefix="fullframe-live-") as temporary:
            where = Path(temporary) if directory is None else directory
            where.mkdir(parents=True, exist_ok=True)
            images = _images(variants, alignments, toolchain, where)
            cases = _Cases(variants, calls, alignments, images, layout)
            program = _program(cases, batch, rounds, toolchain, where)
            output = _run(program, timeout_seconds)
    except (FullframeError, OSError) as error:
        return LiveUnavailable(str(error))
    if isinstance(output, LiveUnavailable):
        return output
    return _report(output, cases, batch, rounds)


def _check(
    variants: Sequence[LiveVariant],
    calls: Sequence[LiveCall],
    batch: int,
    rounds: int,
    alignments: Sequence[int],
) -> None:
    for what, names in (
        ("variants", [variant.name for variant in variants]),
        ("calls", [call.name for call in calls]),
    ):
        if not names or len(set(names)) != len(names):
            raise UsageError(f"{what} to measure: expected at least one, each with its own name")
    if any(not re.fullmatch(r"[\w-]+", variant.name, re.ASCII) for variant in variants):
        raise UsageError("a variant's name: expected letters, digits, _ and -")
    known = set(range(0, LINE_BYTES, 16))
    if not alignments or not set(alignments) <= known or len(set(alignments)) != len(alignments):
        raise UsageError("alignments: expected some of 0, 16, 32, 48")
    if (len(variants) + 1) * len(alignments) > _MOST_IMAGES:
        raise UsageError(f"too many variants: expected at most {_MOST_IMAGES // len(alignments)}")
    if not (1 <= batch <= 1_000_000 and 8 <= rounds <= 10_000):
        raise UsageError("expected 1 to 1000000 entries in a sample, and 8 to 10000 rounds")


class _Cases:
    """The order of the measured cases: alignments, calls, and innermost the variants in turn."""

    def __init__(
        self,
        variants: Sequence[LiveVariant],
        calls: Sequence[LiveCall],
        alignments: Sequence[int],
        images: Mapping[tuple[str, int], LiveImage],
        layout: KernelLayout,
    ) -> None:
        self.images = images
        self.layout = layout
        self.names = [variant.name for variant in variants]
        #: Variant, call, alignment of each case.
        self.order: list[tuple[str, LiveCall, int]] = []
        for alignment in alignments:
            for call in calls:
                self.order += [(variant.name, call, alignment) for variant in variants]
            self.order.append((_BASELINE, LiveCall(_BASELINE, 0), alignment))

    def header(self, batch: int, rounds: int) -> str:
        """Write the header that tells the measuring program its cases."""
        constants = {
            "CASES": len(self.order),
            "BATCH": batch,
            "ROUNDS": rounds,
            "WARM_UP": _WARM_UP,
            "PER_CPU_BYTES": _PER_CPU_BYTES,
            "STACK_TOP_OFFSET": self.layout.stack_top_offset_bytes,
            "THREAD_FLAGS_OFFSET": self.layout.thread_flags_offset_bytes,
        }
        rows = "".join(
            f"\t{{ {self.images[name, alignment].entry:#x}, {call.number:#x}, "
            f"{call.result & (1 << 64) - 1:#x}, {call.thread_flags:#x} }},\n"
            for name, call, alignment in self.order
        )
        defines = "".join(f"#define {name} {value}\n" for name, value in constants.items())
        return f"{defines}static const struct measured_case cases[CASES] = {{\n{rows}}};\n"


def _images(
    variants: Sequence[LiveVariant],
    alignments: Sequence[int],
    toolchain: Toolchain,
    directory: Path,
) -> dict[tuple[str, int], LiveImage]:
    """Link every variant at every alignment, and a baseline that returns at once."""
    baseline = directory / "baseline.s"
    baseline.write_text(
        "\t.text\n\t.balign\t64\n\t.globl\tentry_SYSCALL_64\nentry_SYSCALL_64:\n"
        "\txorl\t%eax, %eax\n\tjmp\t*%rcx\n"
        '\t.section .note.GNU-stack, "", @progbits\n'
    )
    toolchain.assemble(baseline, directory / "baseline.o")
    wanted = [(_BASELINE, "baseline", "entry_SYSCALL_64", [directory / "baseline.o"])]
    for variant in variants:
        objects = list(variant.objects)
        objects.append(stand_ins(objects, toolchain, directory / f"{variant.name}.stand-ins.o"))
        wanted.append((variant.name, f"variant-{variant.name}", variant.entry_symbol, objects))
    images: dict[tuple[str, int], LiveImage] = {}
    for alignment in alignments:
        for key, file, entry_symbol, objects in wanted:
            start = _FIRST_IMAGE + _IMAGE_DISTANCE * len(images)
            images[key, alignment] = live_image(
                file, objects, entry_symbol, start, alignment, toolchain, directory
            )
    return images


def _program(cases: _Cases, batch: int, rounds: int, toolchain: Toolchain, directory: Path) -> Path:
    """Build the measuring program around the images."""
    templates = resources.files("fullframe.data").joinpath("live")
    for name in ("driver.c", "enter.S"):
        (directory / name).write_text(templates.joinpath(name).read_text("utf-8"))
    (directory / "cases.h").write_text(cases.header(batch, rounds))
    carried: list[str] = []
    placed: list[str] = []
    for image in cases.images.values():
        for piece in image.pieces:
            name = f"image{len(placed)}"
            (directory / f"{name}.bin").write_bytes(piece.data)
            flags = "ax" if piece.executable else "aw"
            carried.append(f'\t.section .{name}, "{flags}", @progbits\n')
            carried.append(f"\t.incbin {_quoted(directory / f'{name}.bin')}\n")
            placed.append(f"\t.{name} {piece.address:#x} : {{ *(.{name}) }}\n")
    carried.append('\t.section .note.GNU-stack, "", @progbits\n')
    (directory / "images.s").write_text("".join(carried))
    script = directory / "program.ld"
    script.write_text(
        "ENTRY(_start)\nSECTIONS\n{\n\t. = 0x400000;\n\t.text : { *(.text .text.*) }\n"
        "\t. = ALIGN(0x1000);\n\t.data : { *(.rodata .rodata.*) *(.data .data.*) }\n"
        "\t.bss : { *(.bss .bss.*) }\n"
        "\t/DISCARD/ : { *(.comment) *(.note .note.*) *(.eh_frame) }\n" + "".join(placed) + "}\n"
    )
    toolchain.assemble(directory / "enter.S", directory / "enter.o")
    toolchain.assemble(directory / "images.s", directory / "images.o")
    toolchain.compile(directory / "driver.c", directory / "driver.o", include=[directory])
    objects = [directory / name for name in ("enter.o", "driver.o", "images.o")]
    program = directory / "measure"
    toolchain.link(objects, program, script=script)
    program.chmod(0o755)
    return program


def _quoted(path: Path) -> str:
    """A file's absolute name as a string of the assembler, which else looks in other places."""
    text = str(path.absolute()).replace("\\", r"\\").replace('"', r"\"")
    return f'"{text}"'


def _run(program: Path, timeout_seconds: float) -> str | LiveUnavailable:
    try:
        completed = run_tool([program], timeout_seconds=timeout_seconds, check=False)
    except ToolFailedError as error:
        return LiveUnavailable(f"the measuring program: {error.output.strip()}")
    if completed.returncode < 0:
        return LiveUnavailable(
            f"the measuring program was ended by signal {-completed.returncode}: "
            "the entry code, or this system, did not let it go on"
        )
    if completed.returncode:
        return LiveUnavailable(f"the measuring program: {completed.stdout.strip()[-200:]}")
    return completed.stdout


def _report(output: str, cases: _Cases, batch: int, rounds: int) -> LiveReport | LiveUnavailable:
    # One column a case, and the last for the chain of additions.
    columns: list[list[float]] = [[] for _ in range(len(cases.order) + 1)]
    try:
        for line in output.splitlines():
            which, cycles = line.split()
            columns[int(which)].append(int(cycles) / batch)
    except (ValueError, IndexError):
        return LiveUnavailable(f"the measuring program printed {line[:80]!r}")
    if any(len(column) != rounds for column in columns):
        return LiveUnavailable("the measuring program ended before it was done")
    samples: dict[tuple[str, str], dict[int, tuple[float, ...]]] = {}
    for (name, call, alignment), column in zip(cases.order, columns, strict=False):
        samples.setdefault((name, call.name), {})[alignment] = tuple(column)
    loop = measurement(samples.pop((_BASELINE, _BASELINE)))
    first = next(alignment for _, _, alignment in cases.order)
    return LiveReport(
        samples=samples,
        replacements={name: cases.images[name, first].replacements for name in cases.names},
        core_cycles_per_tsc_cycle=_ADDITIONS_PER_CHAIN / trimmed_median(columns[-1]),
        loop=loop,
        cpu=_cpu_name(),
    )


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return "unknown"
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else "unknown"
