"""Every small thing that can be wrong with entry code, made in the bytes of a linked image.

A deleted instruction becomes as many bytes of NOP; a register, a displacement or a condition is
changed in place. So a mutant needs no assembler, and all its other instructions stay where they
were.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from iced_x86 import Decoder, Encoder, FlowControl, Instruction, Mnemonic, OpKind, Register

from fullframe.elf.image import Image

#: Partners for a swap, which keep the length of the encoding.
_LOW = (
    Register.RAX, Register.RCX, Register.RDX, Register.RBX, Register.RBP, Register.RSI,
    Register.RDI,
)  # fmt: skip
_HIGH = tuple(Register.R8 + number for number in range(8))
_SAVES = frozenset({Mnemonic.PUSH, Mnemonic.POP, Mnemonic.MOV})


@dataclass(frozen=True)
class Mutant:
    """One change: its name, the place in the image, and the bytes there instead."""

    name: str
    address: int
    encoding: bytes


def instructions(image: Image, begin: int, end: int) -> Iterator[Instruction]:
    yield from Decoder(64, bytes(image.read(begin, end - begin)), ip=begin)


def functions(image: Image, wanted) -> list[tuple[str, int, int]]:
    """Return (name, begin, end) of the functions whose name is wanted."""
    return [
        (symbol.name, symbol.address, symbol.address + symbol.size_bytes)
        for symbol in image.function_symbols()
        if symbol.size_bytes and wanted(symbol.name)
    ]


def is_generated(name: str) -> bool:
    return name in ("entry_SYSCALL_64", "ret_from_fork") or name.startswith("stub_")


def code_mutants(image: Image, wanted=is_generated) -> Iterator[Mutant]:
    for name, begin, end in functions(image, wanted):
        for i in instructions(image, begin, end):
            if i.mnemonic in (Mnemonic.NOP, Mnemonic.INT3):
                continue
            raw = bytes(image.read(i.ip, i.len))
            where = f"{name}+{i.ip - begin:#x}: {i}"
            yield Mutant(f"deleted {where}", i.ip, b"\x90" * i.len)
            yield from _inverted(i, raw, where)
            yield from _displaced(i, raw, where)
            yield from _swapped(i, raw, where)


def _inverted(i: Instruction, raw: bytes, where: str) -> Iterator[Mutant]:
    if i.flow_control == FlowControl.CONDITIONAL_BRANCH:
        at = 1 if raw[0] == 0x0F else 0
        changed = bytes((*raw[:at], raw[at] ^ 1, *raw[at + 1 :]))
        yield Mutant(f"inverted {where}", i.ip, changed)


def _displaced(i: Instruction, raw: bytes, where: str) -> Iterator[Mutant]:
    kinds = [i.op_kind(operand) for operand in range(i.op_count)]
    for delta in (8, -8):
        changed = Decoder(64, raw, ip=i.ip).decode()
        if OpKind.MEMORY in kinds and i.mnemonic != Mnemonic.NOP:
            changed.memory_displacement = (i.memory_displacement + delta) & ((1 << 64) - 1)
        elif i.mnemonic in (Mnemonic.ADD, Mnemonic.SUB) and i.op0_register == Register.RSP:
            changed.set_immediate_i32(1, i.immediate(1) + delta)
        else:
            return
        encoding = _encoded(changed, i)
        if encoding is not None and encoding != raw:
            yield Mutant(f"off by {delta:+}: {where}", i.ip, encoding)


def _swapped(i: Instruction, raw: bytes, where: str) -> Iterator[Mutant]:
    if i.mnemonic not in _SAVES:
        return
    for operand in range(i.op_count):
        if i.op_kind(operand) != OpKind.REGISTER:
            continue
        register = i.op_register(operand)
        group = _LOW if register in _LOW else _HIGH if register in _HIGH else ()
        if not group:
            continue
        position = group.index(register)
        for step in (1, 3):
            other = group[(position + step) % len(group)]
            changed = Decoder(64, raw, ip=i.ip).decode()
            setattr(changed, f"op{operand}_register", other)
            encoding = _encoded(changed, i)
            if encoding is not None:
                yield Mutant(f"register {operand} swapped in {where}", i.ip, encoding)


def _encoded(changed: Instruction, original: Instruction) -> bytes | None:
    """Encode an instruction in as many bytes as the original; None where that cannot be."""
    encoder = Encoder(64)
    try:
        encoder.encode(changed, original.ip)
    except ValueError:
        return None
    encoding: bytes = encoder.take_buffer()
    if len(encoding) > original.len:
        return None
    return encoding + b"\x90" * (original.len - len(encoding))


def table_mutants(image: Image, tables=("sys_call_table", "x32_sys_call_table")):
    """Lead each annotated entry of a fast path's table straight to its C function."""
    symbols = {symbol.name: symbol for symbol in image.symbols}
    names = {symbol.address: symbol.name for symbol in image.function_symbols()}
    for table in tables:
        symbol = symbols.get(table)
        for number in range(symbol.size_bytes // 8 if symbol else 0):
            where = symbol.address + 8 * number
            target = int.from_bytes(image.read(where, 8), "little")
            name = names.get(target, "")
            if name.startswith("stub_"):
                handler = symbols[name.removeprefix("stub_")].address
                yield Mutant(
                    f"un-annotated {table}[{number}]: {name}", where, handler.to_bytes(8, "little")
                )


def applied(image: Image, data: bytes, mutant: Mutant) -> Image:
    """Return the image with the change made."""
    section = image.section_at(mutant.address)
    offset = section.offset + mutant.address - section.address
    changed = bytearray(data)
    changed[offset : offset + len(mutant.encoding)] = mutant.encoding
    return Image.from_bytes(changed, image.path)


def equivalent(image: Image, strategy: str, mutant: Mutant) -> str | None:
    """Return why a mutant does what the original does; None if no reason is known."""
    after = {symbol.address: symbol.name for symbol in image.function_symbols()}
    end = after.get(mutant.address + len(mutant.encoding) + 1) or after.get(
        mutant.address + len(mutant.encoding)
    )
    if (
        strategy == "partial"
        and mutant.name.startswith("deleted")
        and ": jmp " in mutant.name
        and end == "stub_call_return"
    ):
        return (
            "control falls into stub_call_return, which stores rax as .Lslow_store does, and then "
            "loads bx, bp, r12-r15 from slots that, after phase 2 of tracing, hold the same"
        )
    return None
