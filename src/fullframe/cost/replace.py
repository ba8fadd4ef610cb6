"""Make entry code run in user space: replace its privileged instructions in place.

Each replacement has the length of what it replaces, so that every other byte, every address and
every branch stays as it was linked. What is replaced, and by what:

* ``swapgs`` by a 3-byte ``nop``: the measuring program's GS base is the per-CPU area already.
* ``sysretq`` by ``jmp *%rcx; nop``: the same target, but r11 is not loaded into the flags.
* ``cli`` and ``sti`` by ``nop``; ``clac`` and ``stac`` by a 3-byte ``nop``.

``iretq`` runs in user mode as it is. Anything else privileged is refused: there is no telling
what the code would measure without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from iced_x86 import Decoder, Formatter, FormatterSyntax, Instruction, Mnemonic

from fullframe.errors import InputError, Place

_NOP_3 = bytes.fromhex("0f1f00")

#: Mnemonic to the bytes that replace it and what they are.
_REPLACEMENTS: dict[int, tuple[bytes, str]] = {
    Mnemonic.SWAPGS: (_NOP_3, "nopl (%rax)"),
    Mnemonic.SYSRETQ: (bytes.fromhex("ffe190"), "jmp *%rcx; nop"),
    Mnemonic.CLI: (b"\x90", "nop"),
    Mnemonic.STI: (b"\x90", "nop"),
    Mnemonic.CLAC: (_NOP_3, "nopl (%rax)"),
    Mnemonic.STAC: (_NOP_3, "nopl (%rax)"),
}


@dataclass(frozen=True, slots=True)
class Replacement:
    """One replaced instruction.

    Attributes:
        address: its virtual address.
        instruction: what it was.
        replaced_by: what stands there now.
    """

    address: int
    instruction: str
    replaced_by: str


def replace_privileged(
    code: bytes, address: int, starts: Iterable[int] = (), *, name: str = "entry code"
) -> tuple[bytes, tuple[Replacement, ...]]:
    """Replace the privileged instructions of linked 64-bit code.

    Args:
        code: machine code.
        address: virtual address of its first byte.
        starts: addresses at which an instruction is known to start (symbols); decoding starts
            anew at each, so that data between functions does not lead it astray.
        name: of the code, for messages.

    Returns:
        Code of the same length, and what was replaced, by address.

    Raises:
        InputError: there are privileged instructions that have no replacement; all are named.
    """
    patched = bytearray(code)
    replacements: list[Replacement] = []
    refused: list[Instruction] = []
    limits = sorted({address, *(at for at in starts if address < at < address + len(code))})
    for start, end in zip(limits, [*limits[1:], address + len(code)], strict=True):
        piece = code[start - address : end - address]
        for instruction in Decoder(64, piece, ip=start):
            if not instruction.is_privileged or instruction.is_invalid:
                continue
            new = _REPLACEMENTS.get(instruction.mnemonic)
            if new is None or len(new[0]) != instruction.len:
                refused.append(instruction)
                continue
            offset = instruction.ip - address
            patched[offset : offset + instruction.len] = new[0]
            replacements.append(Replacement(instruction.ip, _text(instruction), new[1]))
    if refused:
        listing = ", ".join(f"{_text(item)} at {item.ip:#x}" for item in refused[:8])
        raise InputError(
            Place(name),
            f"privileged instructions that cannot run in user space: {listing}",
            "none but swapgs, sysretq, cli, sti, clac, stac",
            "leave this path out of the live measurement",
        )
    return bytes(patched), tuple(replacements)


_formatter = Formatter(FormatterSyntax.GAS)


def _text(instruction: Instruction) -> str:
    return _formatter.format(instruction)
