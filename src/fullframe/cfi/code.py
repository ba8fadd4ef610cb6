"""An image's code and names, as the tracker asks for them."""

from __future__ import annotations

import struct

from fullframe.cfi.references import References
from fullframe.elf.image import Image
from fullframe.errors import FullframeError


class NamedCode:
    """What is asked of an image's bytes and symbols, whoever knows where its functions begin.

    Args:
        image: the image.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.references = References(image)
        self._ranges = image.executable_ranges()
        self._defined: dict[str, int] | None = None

    def first_bytes(self, target: int) -> bytes:
        """Return up to 16 bytes of code at an address; none where the file holds none."""
        for begin, end in self._ranges:
            if begin <= target < end:
                try:
                    return bytes(self.image.read(target, min(16, end - target)))
                except FullframeError:
                    return b""
        return b""

    def callee_name(self, target: int) -> str | None:
        """Return the name of the function at an address or behind the PLT stub there."""
        behind = self.image.import_at_plt(target)
        if behind is not None:
            return behind
        symbol = self.image.symbol_at(target)
        return symbol.name if symbol is not None and symbol.address == target else None

    def is_stub(self, target: int) -> bool:
        """Return whether a PLT stub is at an address."""
        return self.image.import_at_plt(target) is not None

    def definition_of(self, target: int) -> int:
        """Return where the image itself defines what a PLT stub at ``target`` leads to.

        Another image may define it first, but what a symbol's definition promises (that it
        never returns) was known to the compiler, and holds for any definition.
        """
        name = self.image.import_at_plt(target)
        if name is None:
            return target
        if self._defined is None:
            self._defined = {
                name.split("@", 1)[0]: address
                for name, address in self.image.function_addresses().items()
            }
        return self._defined.get(name.split("@", 1)[0], target)

    def read_words(self, address: int, size_bytes: int, most: int) -> tuple[int, ...]:
        """Return the unsigned numbers from an address on, as far as there are any.

        Args:
            address: of the first.
            size_bytes: of each: 4 or 8.
            most: how many are wanted.
        """
        try:
            data = self.image.read_from(address)
        except FullframeError:
            return ()
        count = min(most, len(data) // size_bytes)
        kind = "I" if size_bytes == 4 else "Q"
        return struct.unpack(f"<{count}{kind}", data[: count * size_bytes])

    def is_code(self, address: int) -> bool:
        """Return whether an address lies in an executable section."""
        return any(begin <= address < end for begin, end in self._ranges)
