"""Break generated entry code on purpose: in its text, and in the linked image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import iced_x86

from fullframe.entry.build import BuiltEntry, build_object, describe, link_image
from fullframe.entry.generate import ENTRY_FILE, STUBS_FILE
from fullframe.run.image import Image
from fullframe.run.result import RunReport
from fullframe.run.scenario import Scenario
from fullframe.run.session import run_scenarios, scenarios_for

#: A register (or a constant for its slot) put into the frame, or taken out of it.
_SAVE = re.compile(r"\tpushq\t|\tmovq\t%\w+, (8\+)?PT_\w+\(%rsp\)")
_RESTORE = re.compile(r"\tpopq\t%|\tmovq\tPT_[\w-]+\(%rsp\), %\w+")
_NOP = b"\x90"


@dataclass(frozen=True)
class TextMutant:
    """One line taken out of one generated file."""

    file: str
    line: int
    text: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: without {self.text.strip()!r}"


@dataclass(frozen=True)
class ImageMutant:
    """One instruction of the linked image changed."""

    address: int
    what: str
    image: Image

    def __str__(self) -> str:
        return f"{self.address:#x}: {self.what}"


def without_saves_and_restores(built: BuiltEntry) -> Iterator[TextMutant]:
    """Leave out each line that saves or restores a register, one at a time."""
    for file in (ENTRY_FILE, STUBS_FILE):
        lines = built.code.files.get(file, "").splitlines(keepends=True)
        for index, line in enumerate(lines):
            if _SAVE.match(line) or _RESTORE.match(line):
                source = "".join(lines[:index] + lines[index + 1 :])
                yield TextMutant(file, index + 1, line, source)


def run_text_mutant(built: BuiltEntry, mutant: TextMutant, scenarios: list[Scenario]) -> RunReport:
    """Assemble, link and run a mutant, up to its first difference."""
    source = built.directory / f"mutant_{mutant.file}"
    source.write_text(mutant.source)
    objects = dict(built.objects)
    objects[mutant.file] = build_object(built.toolchain, source)
    image = link_image(
        built.toolchain,
        list(objects.values()),
        built.directory / "mutant.elf",
        built.directory / "image.ld",
    )
    return run_scenarios(describe(built.code, image), scenarios, stop_at_first=True)


def image_mutants(built: BuiltEntry) -> Iterator[ImageMutant]:
    """Change each instruction of entry code and stubs, in each way that applies.

    Replace it by nops, unless it saves or restores a register (see above); turn a conditional
    branch round; move an access to the frame by one slot.
    """
    sizes = built.image.symbol_sizes
    names = ("entry_SYSCALL_64", "ret_from_fork", "stub_full_frame", *built.stubs)
    for name in names:
        if name not in sizes:
            continue
        address = built.symbols[name]
        code = built.image.read(address, sizes[name])
        decoder = iced_x86.Decoder(64, code, ip=address)
        for instruction in decoder:
            start = instruction.ip - address
            encoding = code[start : start + instruction.len]
            text = f"{instruction}"
            at = instruction.ip
            if not text.startswith(("push", "pop")) and not (
                text.startswith("mov") and "[rsp+" in text
            ):
                yield _mutant(built.image, at, _NOP * len(encoding), f"nops for {text}")
            if instruction.is_jcc_short_or_near:
                near = encoding[0] == 0x0F
                turned = bytearray(encoding)
                turned[1 if near else 0] ^= 1
                yield _mutant(built.image, at, bytes(turned), f"{text} turned round")
            offsets = decoder.get_constant_offsets(instruction)
            if instruction.memory_base == iced_x86.Register.RSP and offsets.has_displacement:
                moved = bytearray(encoding)
                moved[offsets.displacement_offset] = (moved[offsets.displacement_offset] + 8) & 0x7F
                yield _mutant(built.image, at, bytes(moved), f"{text} one slot further")


def _mutant(image: Image, address: int, encoding: bytes, what: str) -> ImageMutant:
    return ImageMutant(address, what, image.with_bytes(address, encoding))


def sufficient_scenarios(built: BuiltEntry) -> list[Scenario]:
    """Choose scenarios that take every path: all frame users, some ordinary calls, some holes."""
    subject = built.subject()
    chosen = {
        call.number
        for call in subject.calls
        if call.annotated or call.name in ("read", "getppid", "ioctl")
    }
    # x32's own numbers without the x32 bit lead nowhere, on every path.
    chosen |= {512, 513, 514}
    drawn = scenarios_for(subject)
    kept = [
        scenario
        for index, scenario in enumerate(drawn)
        if index % (3 if scenario.user.registers[0] in chosen else 9) == 0
    ]
    # Neighbours are much alike: spread them, so that a mutant is found soon.
    return [scenario for start in range(17) for scenario in kept[start::17]]
