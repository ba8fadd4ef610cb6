"""A small writer of call-frame information: instructions by name, entries with every form.

It shares no code with the reader under test.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.elf.writer import EM_386, EM_X86_64, SHF_ALLOC, ElfWriter


def uleb(value: int, padding: int = 0) -> bytes:
    """Unsigned LEB128, with ``padding`` redundant groups behind it."""
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if value or padding:
            out.append(byte | 0x80)
            if not value:
                out += b"\x80" * (padding - 1) + b"\x00"
                return bytes(out)
        else:
            out.append(byte)
            return bytes(out)


def sleb(value: int) -> bytes:
    """Signed LEB128."""
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        done = (value == 0 and not byte & 0x40) or (value == -1 and byte & 0x40)
        out.append(byte if done else byte | 0x80)
        if done:
            return bytes(out)


def advance_loc(delta: int) -> bytes:
    return bytes([0x40 | delta])


def set_loc(pointer: bytes) -> bytes:
    return b"\x01" + pointer


def advance_loc1(delta: int) -> bytes:
    return bytes([0x02, delta])


def advance_loc2(delta: int) -> bytes:
    return b"\x03" + struct.pack("<H", delta)


def advance_loc4(delta: int) -> bytes:
    return b"\x04" + struct.pack("<I", delta)


def mips_advance_loc8(delta: int) -> bytes:
    return b"\x1d" + struct.pack("<Q", delta)


def offset(register: int, factored: int) -> bytes:
    return bytes([0x80 | register]) + uleb(factored)


def restore(register: int) -> bytes:
    return bytes([0xC0 | register])


def offset_extended(register: int, factored: int) -> bytes:
    return b"\x05" + uleb(register) + uleb(factored)


def restore_extended(register: int) -> bytes:
    return b"\x06" + uleb(register)


def undefined(register: int) -> bytes:
    return b"\x07" + uleb(register)


def same_value(register: int) -> bytes:
    return b"\x08" + uleb(register)


def register(register: int, other: int) -> bytes:
    return b"\x09" + uleb(register) + uleb(other)


REMEMBER_STATE = b"\x0a"
RESTORE_STATE = b"\x0b"
NOP = b"\x00"
WINDOW_SAVE = b"\x2d"


def def_cfa(register: int, offset_bytes: int) -> bytes:
    return b"\x0c" + uleb(register) + uleb(offset_bytes)


def def_cfa_register(register: int) -> bytes:
    return b"\x0d" + uleb(register)


def def_cfa_offset(offset_bytes: int) -> bytes:
    return b"\x0e" + uleb(offset_bytes)


def def_cfa_expression(code: bytes) -> bytes:
    return b"\x0f" + uleb(len(code)) + code


def expression(register: int, code: bytes) -> bytes:
    return b"\x10" + uleb(register) + uleb(len(code)) + code


def offset_extended_sf(register: int, factored: int) -> bytes:
    return b"\x11" + uleb(register) + sleb(factored)


def def_cfa_sf(register: int, factored: int) -> bytes:
    return b"\x12" + uleb(register) + sleb(factored)


def def_cfa_offset_sf(factored: int) -> bytes:
    return b"\x13" + sleb(factored)


def val_offset(register: int, factored: int) -> bytes:
    return b"\x14" + uleb(register) + uleb(factored)


def val_offset_sf(register: int, factored: int) -> bytes:
    return b"\x15" + uleb(register) + sleb(factored)


def val_expression(register: int, code: bytes) -> bytes:
    return b"\x16" + uleb(register) + uleb(len(code)) + code


def gnu_args_size(size_bytes: int) -> bytes:
    return b"\x2e" + uleb(size_bytes)


def gnu_negative_offset_extended(register: int, factored: int) -> bytes:
    return b"\x2f" + uleb(register) + uleb(factored)


@dataclass
class FrameWriter:
    """Writes the bytes of one section.

    ``address`` is where the section will be; pcrel pointers are made for it.
    """

    is_eh: bool = True
    address: int = 0x3000
    bits: int = 64
    wide: bool = False  # 64-bit lengths
    data: bytearray = field(default_factory=bytearray)

    def cie(
        self,
        instructions: bytes | None = None,
        *,
        version: int = 1,
        augmentation: str = "zR",
        augmentation_data: bytes = b"\x1b",
        code_alignment: int = 1,
        data_alignment: int | None = None,
        return_register: int | None = None,
        address_size: int | None = None,
        segment_size: int = 0,
    ) -> int:
        """Add a CIE; return its offset. The initial state is that after a call."""
        word = self.bits // 8
        if data_alignment is None:
            data_alignment = -word
        if return_register is None:
            return_register = 16 if self.bits == 64 else 8
        if instructions is None:
            stack_pointer = 7 if self.bits == 64 else 4
            instructions = def_cfa(stack_pointer, word) + offset(return_register, 1)
        body = bytes([version]) + augmentation.encode() + b"\0"
        if augmentation.startswith("eh"):
            body += bytes(word)
        if version >= 4:
            body += bytes([word if address_size is None else address_size, segment_size])
        body += uleb(code_alignment) + sleb(data_alignment)
        body += bytes([return_register]) if version == 1 else uleb(return_register)
        if augmentation.startswith("z"):
            body += uleb(len(augmentation_data))
        if augmentation not in ("", "eh"):
            body += augmentation_data
        return self._entry(None, body + instructions)

    def fde(
        self,
        cie: int,
        begin: int,
        size: int,
        instructions: bytes = b"",
        *,
        augmentation_data: bytes | None = b"",
        pointers: bytes | None = None,
    ) -> int:
        """Add an FDE; return its offset.

        ``pointers`` replaces the encoded beginning and size (pcrel sdata4 in ``.eh_frame``,
        absolute in ``.debug_frame``); ``augmentation_data`` None means a CIE without ``z``.
        """
        if pointers is None:
            if self.is_eh:
                at = self.address + len(self.data) + 8
                pointers = struct.pack("<iI", begin - at, size)
            else:
                pointers = struct.pack("<QQ" if self.bits == 64 else "<II", begin, size)
        if augmentation_data is None or not self.is_eh:
            augmentation = b""
        else:
            augmentation = uleb(len(augmentation_data)) + augmentation_data
        return self._entry(cie, pointers + augmentation + instructions)

    def pointer_address(self) -> int:
        """Address of the first pointer of the FDE that is written next."""
        return self.address + len(self.data) + 8

    def terminator(self) -> None:
        self.data += bytes(4)

    def raw(self, data: bytes) -> int:
        at = len(self.data)
        self.data += data
        return at

    def _entry(self, cie: int | None, body: bytes) -> int:
        at = len(self.data)
        identity_bytes = 8 if self.wide and not self.is_eh else 4
        word = 8 if self.bits == 64 else 4
        body += bytes(-(len(body) + identity_bytes + 4) % word)
        length = identity_bytes + len(body)
        prefix = b"\xff\xff\xff\xff" + struct.pack("<Q", length) if self.wide else b""
        prefix = prefix or struct.pack("<I", length)
        identity_at = at + len(prefix)
        if cie is None:
            identity = 0 if self.is_eh else (1 << 8 * identity_bytes) - 1
        else:
            identity = identity_at - cie if self.is_eh else cie
        self.data += prefix + identity.to_bytes(identity_bytes, "little") + body
        return at

    def elf(self, text_address: int = 0x1000, text_bytes: int = 0x1000) -> bytes:
        """Wrap the section into a shared object with code at ``text_address``."""
        machine = EM_X86_64 if self.bits == 64 else EM_386
        writer = ElfWriter(bits=self.bits, machine=machine, file_type=3)
        text = writer.text(b"\x90" * text_bytes, address=text_address)
        name = ".eh_frame" if self.is_eh else ".debug_frame"
        if self.is_eh:
            frames = writer.section(
                name, bytes(self.data), flags=SHF_ALLOC, address=self.address, alignment=8
            )
            writer.segment(1, 4, writer.offset_of(frames), self.address, len(self.data))
        else:
            writer.section(name, bytes(self.data))
        writer.segment(1, 5, writer.offset_of(text), text_address, text_bytes)
        return writer.build()
