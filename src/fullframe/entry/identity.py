"""Whether two strategies execute the same fast path, byte for byte.

Two linked images differ where the linker has put addresses, and where a branch leads to code
that lies elsewhere. Those bytes are masked, and listed; everything else must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fullframe.entry import pieces
from fullframe.entry.build import BuiltEntry
from fullframe.entry.generate import ENTRY_FILE
from fullframe.entry.verify import VerifiedStrategy
from fullframe.x86.trace import TracedInstruction

#: Relocations that occur in entry code, by their number (System V ABI x86-64, table 4.9), with
#: the size of the field in bytes: R_X86_64_64, PC32, PLT32, 32, 32S, GOTPCREL and their kind.
_FIELD_BYTES = {1: 8, 2: 4, 4: 4, 9: 4, 10: 4, 11: 4, 12: 2, 14: 1, 24: 8, 41: 4, 42: 4}


@dataclass(frozen=True, slots=True)
class MaskedField:
    """Bytes of one instruction that were not compared.

    Attributes:
        index: the instruction's place on the path, from 0.
        offset_bytes: where in the instruction they begin.
        size_bytes: how many they are.
        reason: ``relocated`` or ``branch displacement``.
        text: the instruction as the first path has it.
        first: the bytes on the first path.
        second: the bytes on the second.
    """

    index: int
    offset_bytes: int
    size_bytes: int
    reason: str
    text: str
    first: bytes
    second: bytes


@dataclass(frozen=True, slots=True)
class PathDifference:
    """An instruction that is not the same on both paths.

    Attributes:
        index: its place, from 0.
        first: the first path's instruction and its bytes, or "" where that path has ended.
        second: the second path's.
    """

    index: int
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class IdentityResult:
    """The comparison of two paths.

    Attributes:
        instructions: length of the first path.
        encoded_bytes: size of the first path, in bytes.
        masked: the bytes that were left out.
        differences: what differs; nothing, if the paths are identical.
    """

    instructions: int
    encoded_bytes: int
    masked: tuple[MaskedField, ...]
    differences: tuple[PathDifference, ...]

    @property
    def identical(self) -> bool:
        """Whether the paths are the same but for masked bytes."""
        return not self.differences


def compare_fast_paths(
    first: Sequence[TracedInstruction],
    second: Sequence[TracedInstruction],
    relocated_first: Mapping[int, int],
    relocated_second: Mapping[int, int],
) -> IdentityResult:
    """Compare two executed paths instruction by instruction.

    A field is masked only if it is one on both paths, at the same place in the instruction.

    Args:
        first: one path, from the first instruction after SYSCALL to SYSRET.
        second: the other.
        relocated_first: address to size in bytes of each field that the linker filled in on the
            first path (see :func:`relocated_fields`).
        relocated_second: the same for the second.
    """
    masked: list[MaskedField] = []
    differences: list[PathDifference] = []
    for index in range(max(len(first), len(second))):
        one = first[index] if index < len(first) else None
        other = second[index] if index < len(second) else None
        fields = (
            _masked_fields(index, one, other, relocated_first, relocated_second)
            if one is not None and other is not None
            else []
        )
        if one is None or other is None or _without(one, fields) != _without(other, fields):
            differences.append(PathDifference(index, _describe(one), _describe(other)))
        masked.extend(fields)
    size_bytes = sum(len(instruction.encoding) for instruction in first)
    return IdentityResult(len(first), size_bytes, tuple(masked), tuple(differences))


def compare_paths_of(first: VerifiedStrategy, second: VerifiedStrategy) -> IdentityResult:
    """Compare the fast paths that two strategies executed on an ordinary call of their table."""
    return compare_fast_paths(
        first.paths["fast"].instructions,
        second.paths["fast"].instructions,
        relocated_fields(first.built),
        relocated_fields(second.built),
    )


def relocated_fields(built: BuiltEntry) -> dict[int, int]:
    """List the fields of the entry code that the linker fills in: address to size in bytes."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.relocation import RelocationSection

    with built.objects[ENTRY_FILE].open("rb") as file:
        elf = ELFFile(file)
        symbol = elf.get_section_by_name(".symtab").get_symbol_by_name(pieces.ENTRY)[0]
        base = built.symbols[pieces.ENTRY] - symbol["st_value"]
        return {
            base + relocation["r_offset"]: _FIELD_BYTES.get(relocation["r_info_type"], 8)
            for section in elf.iter_sections()
            if isinstance(section, RelocationSection) and section["sh_info"] == symbol["st_shndx"]
            for relocation in section.iter_relocations()
        }


def _masked_fields(
    index: int,
    one: TracedInstruction,
    other: TracedInstruction,
    relocated_first: Mapping[int, int],
    relocated_second: Mapping[int, int],
) -> list[MaskedField]:
    def fields(
        instruction: TracedInstruction, relocated: Mapping[int, int]
    ) -> dict[int, tuple[int, str]]:
        end = len(instruction.encoding)
        found = {
            offset: (relocated[instruction.address + offset], "relocated")
            for offset in range(end)
            if instruction.address + offset in relocated
        }
        return _branch_field(instruction) | found

    in_one, in_other = fields(one, relocated_first), fields(other, relocated_second)
    return [
        MaskedField(
            index=index,
            offset_bytes=offset,
            size_bytes=size,
            reason=reason,
            text=_text(one),
            first=one.encoding[offset : offset + size],
            second=other.encoding[offset : offset + size],
        )
        for offset, (size, reason) in sorted(in_one.items())
        if in_other.get(offset) == (size, reason)
    ]


def _branch_field(instruction: TracedInstruction) -> dict[int, tuple[int, str]]:
    import iced_x86

    decoder = iced_x86.Decoder(64, instruction.encoding, ip=instruction.address)
    decoded = decoder.decode()
    if not (decoded.is_jcc_short_or_near or decoded.is_jmp_short_or_near or decoded.is_call_near):
        return {}
    offsets = decoder.get_constant_offsets(decoded)
    if not offsets.has_immediate:
        return {}
    return {offsets.immediate_offset: (offsets.immediate_size, "branch displacement")}


def _without(instruction: TracedInstruction, fields: Sequence[MaskedField]) -> bytes:
    encoding = bytearray(instruction.encoding)
    for field in fields:
        end = field.offset_bytes + field.size_bytes
        encoding[field.offset_bytes : end] = bytes(field.size_bytes)
    return bytes(encoding)


def _text(instruction: TracedInstruction) -> str:
    import iced_x86

    decoded = iced_x86.Decoder(64, instruction.encoding, ip=instruction.address).decode()
    formatter = iced_x86.Formatter(iced_x86.FormatterSyntax.GAS)
    return str(formatter.format(decoded))


def _describe(instruction: TracedInstruction | None) -> str:
    return "" if instruction is None else f"{_text(instruction)} ({instruction.encoding.hex(' ')})"
