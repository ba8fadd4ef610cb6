"""The code of an image as the prover reads it: instructions, names, alternatives, tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from iced_x86 import Decoder, FlowControl, Instruction, OpKind, Register

from fullframe.elf.image import Image
from fullframe.elf.memory import AddressError
from fullframe.elf.symbols import Symbol
from fullframe.errors import InputError, Place
from fullframe.x86.registers import X86_64

_LONGEST_INSTRUCTION = 15
_MOST_TABLE_BYTES = 1 << 16
_MOST_SITES = 1 << 18


@dataclass(frozen=True, slots=True)
class Alternative:
    """One record of ``.altinstructions``: other bytes for CPUs with a feature.

    Source of the layout: ``struct alt_instr`` of Linux 6.1, ``asm/alternative.h``: two 32-bit
    offsets from their own places, a 16-bit feature whose bit 15 inverts it, two lengths.

    Attributes:
        address: of the original instructions.
        length_bytes: of the original instructions, padding included.
        begin: of the replacement.
        end: after it.
        feature: number of the CPU feature.
        inverted: whether the replacement is for CPUs without it.
    """

    address: int
    length_bytes: int
    begin: int
    end: int
    feature: int
    inverted: bool

    @property
    def entered_at(self) -> int:
        """Where control goes: an empty replacement is nothing but padding."""
        return self.begin if self.begin < self.end else self.address + self.length_bytes


class Code:
    """Reads one image.

    Args:
        image: linked or relocatable, x86-64.

    Raises:
        InputError: not x86-64 code.
    """

    def __init__(self, image: Image) -> None:
        if image.machine is not X86_64:
            raise InputError(
                Place(image.path),
                f"{image.machine.name} code",
                "x86-64 entry code",
                "give the image that holds the 64-bit entry code",
            )
        self.image = image
        self._instructions: dict[int, tuple[Instruction, bytes] | None] = {}
        self._targets: dict[int, tuple[str, int] | None] = {}

    @cached_property
    def _symbols(self) -> dict[str, Symbol]:
        found: dict[str, Symbol] = {}
        for symbol in self.image.symbols:
            if symbol.name and (symbol.name not in found or symbol.binding == "global"):
                found[symbol.name] = symbol
        return found

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all symbols."""
        return frozenset(self._symbols)

    @cached_property
    def names_by_address(self) -> dict[int, list[str]]:
        """Symbols by address, undefined ones of a relocatable object included."""
        found: dict[int, list[str]] = {}
        for name, symbol in self._symbols.items():
            if symbol.kind not in ("section", "file"):
                found.setdefault(symbol.address, []).append(name)
        return found

    def symbol(self, name: str) -> Symbol | None:
        """Return a symbol by name."""
        return self._symbols.get(name)

    def address_of(self, name: str) -> int | None:
        """Return a symbol's address if the image defines it."""
        symbol = self._symbols.get(name)
        return None if symbol is None or not symbol.is_defined else symbol.address

    def is_code(self, address: int) -> bool:
        """Return whether the image has executable bytes there."""
        return self.image.executable_end(address) is not None

    def instruction(self, address: int) -> tuple[Instruction, bytes] | None:
        """Decode the instruction at an address; None if there is none."""
        if address in self._instructions:
            return self._instructions[address]
        found: tuple[Instruction, bytes] | None = None
        end = self.image.executable_end(address)
        if end is not None:
            try:
                raw = bytes(self.image.read(address, min(_LONGEST_INSTRUCTION, end - address)))
                decoded = Decoder(64, raw, ip=address).decode()
                if not decoded.is_invalid:
                    found = decoded, raw[: decoded.len]
            except AddressError:
                pass
        self._instructions[address] = found
        return found

    # ------------------------------------------------------------------ names in operands

    def named_operand(self, i: Instruction) -> tuple[str, int] | None:
        """Return (symbol, offset) that the memory operand of a relocatable object's code names."""
        if not self.image.is_relocatable:
            return None
        begin: int = i.ip
        if begin not in self._targets:
            self._targets[begin] = None
            for relocation in self.image.relocations.within(begin, begin + i.len):
                symbol = relocation.symbol
                if symbol is None or not symbol.name or symbol.kind == "section":
                    continue
                offset = relocation.addend
                if i.is_ip_rel_memory_operand:
                    offset += begin + i.len - relocation.address
                self._targets[begin] = (symbol.name, offset)
                # An immediate comes after the displacement: the first relocation is the place.
                break
        return self._targets[begin]

    def place_name(self, i: Instruction, address: int) -> str:
        """Name an absolute place in memory."""
        named = self.named_operand(i)
        if named is not None:
            return f"{named[0]}+{named[1]:#x}" if named[1] else named[0]
        names = self.names_by_address.get(address)
        return names[0] if names else self.image.name_of(address)

    # ------------------------------------------------------------------ alternatives

    @cached_property
    def sites(self) -> dict[int, list[Alternative]]:
        """Alternatives by the address of what they replace, in the order of the section.

        Raises:
            InputError: the section is no whole number of records.
        """
        section = self.image.section(".altinstructions")
        found: dict[int, list[Alternative]] = {}
        if section is None or not section.size_bytes:
            return found
        data, base = bytes(section.data), section.address
        size = 12
        if len(data) % size:
            raise InputError(
                Place(self.image.path, section=".altinstructions"),
                f"{len(data)} bytes",
                f"a multiple of {size}: struct alt_instr of Linux 5.18 to 6.2",
                "this kernel's records have another layout; fullframe cannot follow them",
            )
        for offset in range(0, min(len(data), size * _MOST_SITES), size):
            here = int.from_bytes(data[offset : offset + 4], "little", signed=True)
            there = int.from_bytes(data[offset + 4 : offset + 8], "little", signed=True)
            feature = int.from_bytes(data[offset + 8 : offset + 10], "little")
            begin = (base + offset + 4 + there) & (1 << 64) - 1
            alternative = Alternative(
                address=(base + offset + here) & (1 << 64) - 1,
                length_bytes=data[offset + 10],
                begin=begin,
                end=begin + data[offset + 11],
                feature=feature & 0x7FFF,
                inverted=bool(feature >> 15),
            )
            found.setdefault(alternative.address, []).append(alternative)
        return found

    @cached_property
    def _replacements(self) -> dict[int, Alternative]:
        """Every byte address of a replacement to the alternative that it belongs to."""
        return {
            address: alternative
            for alternatives in self.sites.values()
            for alternative in alternatives
            for address in range(alternative.begin, alternative.end)
        }

    def after(self, i: Instruction) -> int:
        """Return where control goes after an instruction that does not transfer it."""
        following: int = i.ip + i.len
        if self.sites:
            alternative = self._replacements.get(i.ip)
            if alternative is not None and following >= alternative.end:
                return alternative.address + alternative.length_bytes
        return following

    def inside_a_site(self, address: int, source: int) -> bool:
        """Return whether a jump from outside lands within instructions that may be replaced."""
        for distance in range(1, 64):
            for alternative in self.sites.get(address - distance, ()):
                end = alternative.address + alternative.length_bytes
                if address < end and not alternative.address <= source < end:
                    return True
        return False

    # ------------------------------------------------------------------ tables

    def table(self, name: str) -> list[int] | None:
        """Return the addresses in a table of pointers; None if the image does not hold it."""
        symbol = self._symbols.get(name)
        if symbol is None or not symbol.is_defined or not symbol.size_bytes:
            return None
        try:
            raw = bytes(self.image.read(symbol.address, min(symbol.size_bytes, _MOST_TABLE_BYTES)))
        except AddressError:
            return None
        return [int.from_bytes(raw[n : n + 8], "little") for n in range(0, len(raw) - 7, 8)]


def static_successors(code: Code, i: Instruction) -> Iterator[int]:
    """Return where control may go after an instruction, without knowing anything of its state.

    A call goes to its target and on; returns and indirect jumps go nowhere.
    """
    flow = i.flow_control
    if i.op_count and i.op0_kind == OpKind.NEAR_BRANCH64:
        yield i.near_branch_target
    if flow in (
        FlowControl.NEXT,
        FlowControl.CONDITIONAL_BRANCH,
        FlowControl.CALL,
        FlowControl.INDIRECT_CALL,
    ):
        yield code.after(i)


NO_REGISTER = Register.NONE
