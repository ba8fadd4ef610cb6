"""Memory of words, as a reader of jump tables asks for it."""

from collections.abc import Callable
from itertools import takewhile


def words_at(words: dict[int, int], word_bytes: int) -> Callable[[int, int, int], list[int]]:
    """Read words of one size by address; there are none of another size."""

    def read(address: int, size_bytes: int, most: int) -> list[int]:
        if size_bytes != word_bytes:
            return []
        places = range(address, address + most * size_bytes, size_bytes)
        return [words[place] for place in takewhile(words.__contains__, places)]

    return read
