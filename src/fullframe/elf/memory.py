"""The address space of an image: which bytes lie at which address."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fullframe.errors import InputError, Place


class AddressError(InputError):
    """An address that the image does not map, or a range that runs out of what it maps.

    Attributes:
        address: the address asked for.
    """

    def __init__(self, path: str, address: int, size_bytes: int) -> None:
        self.address = address
        super().__init__(
            Place(path),
            f"{size_bytes} bytes at address {address:#x}, which the image does not map",
            "an address within its loaded segments or sections",
        )


@dataclass(frozen=True, slots=True)
class Region:
    """Consecutive addresses.

    Attributes:
        begin: first address.
        end: first address after the region, zero-filled memory included.
        content: gives the bytes at its start; what they do not reach reads as zero.
    """

    begin: int
    end: int
    content: Callable[[], memoryview]


#: Zero-filled memory is made on demand; nobody needs more at once.
_LARGEST_ZERO_FILL_BYTES = 1 << 24


class AddressSpace:
    """Reads by address.

    Args:
        regions: any order; where two overlap, the one that begins later wins.
        path: named in errors.
    """

    def __init__(self, regions: Sequence[Region], path: str) -> None:
        self.regions = tuple(sorted(regions, key=lambda region: region.begin))
        self._begins = [region.begin for region in self.regions]
        self._path = path
        self._last: tuple[int, int, memoryview] = (0, 0, memoryview(b""))

    def region_at(self, address: int) -> Region | None:
        """Return the region that ``address`` lies in."""
        position = bisect_right(self._begins, address) - 1
        if position < 0:
            return None
        region = self.regions[position]
        return region if address < region.end else None

    def held(self) -> list[tuple[int, int]]:
        """Return (first address, first address after) of the bytes of each region, ascending.

        Without zero-filled memory, and without what another region hides.
        """
        spans = []
        for number, region in enumerate(self.regions, 1):
            end = min(region.end, region.begin + len(region.content()))
            if number < len(self.regions):
                end = min(end, self._begins[number])
            if region.begin < end:
                spans.append((region.begin, end))
        return spans

    def bytes_end(self, address: int) -> int | None:
        """Return the end of the bytes, zero-filled memory left out, that ``address`` lies in."""
        begin, end, _ = self._last
        if begin <= address < end:
            return end
        region = self.region_at(address)
        if region is None:
            return None
        end = self._held_end(region, address, len(region.content()))
        return end if address < end else None

    def _held_end(self, region: Region, address: int, size_bytes: int) -> int:
        """Return up to where a region, with an address in it, has its bytes, and none hides it."""
        end = min(region.end, region.begin + size_bytes)
        following = bisect_right(self._begins, address)
        return min(end, self._begins[following]) if following < len(self._begins) else end

    def read(self, address: int, size_bytes: int) -> memoryview:
        """Return ``size_bytes`` bytes at ``address``, without a copy where the file has them.

        Raises:
            AddressError: a byte of the range is not mapped.
        """
        begin, end, view = self._last
        if begin <= address and address + size_bytes <= end and size_bytes >= 0:
            return view[address - begin : address - begin + size_bytes]
        return self._read(address, size_bytes)

    def _read(self, address: int, size_bytes: int) -> memoryview:
        region = self.region_at(address)
        if region is None or size_bytes < 0 or address + size_bytes > region.end:
            raise AddressError(self._path, address, size_bytes)
        view = region.content()
        self._last = (region.begin, self._held_end(region, address, len(view)), view)
        offset = address - region.begin
        available = view[offset : offset + size_bytes]
        missing = size_bytes - len(available)
        if missing == 0:
            return available
        if missing > _LARGEST_ZERO_FILL_BYTES:
            raise AddressError(self._path, address, size_bytes)
        return memoryview(bytes(available) + bytes(missing))
