"""String tables with a bound on how much text they give away."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class StringTable:
    """An ELF string table (gABI chapter 4, "String Table").

    A hostile table without NUL bytes can be referenced from every symbol at a different offset,
    which would turn a small file into gigabytes of names. Linkers share tails of strings, but all
    the names together still stay within a small multiple of the table; beyond that budget names
    come back empty and :attr:`exhausted` is set.

    Args:
        data: the bytes of the table.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._cache: dict[int, str] = {}
        self._budget_bytes = 16 * len(data) + (1 << 16)
        self.exhausted = False

    def __len__(self) -> int:
        return len(self._data)

    def first_bytes(self, offsets: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Return the first byte of the string at each offset; 0 where it is empty."""
        data = np.frombuffer(self._data or b"\0", np.uint8)
        found: npt.NDArray[np.uint8] = np.where(
            offsets < len(self._data), data[np.minimum(offsets, len(data) - 1)], 0
        )
        return found

    def get(self, offset: int) -> str:
        """Return the string at ``offset``; empty beyond the table or beyond the budget.

        Bytes that are not UTF-8 come back as escapes, so that every name can be printed.
        """
        name = self._cache.get(offset)
        if name is not None:
            return name
        data = self._data
        if not 0 <= offset < len(data):
            return ""
        end = data.find(b"\0", offset)
        if end < 0:
            end = len(data)
        if end - offset > self._budget_bytes:
            self.exhausted = True
            return ""
        self._budget_bytes -= end - offset
        name = data[offset:end].decode("utf-8", "backslashreplace")
        self._cache[offset] = name
        return name
