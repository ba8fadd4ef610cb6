"""Finding functions by what a user types, which is what fullframe and nm print."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from fullframe.cfi.check import ImageChecker
from fullframe.elf.image import Image
from fullframe.errors import InputError, Place
from fullframe.printable import printable

#: The last part: names of sections and of functions may have a plus sign, too.
_OFFSET = re.compile(r"(.+)\+(0[xX][0-9a-fA-F]+|[0-9]+)")
#: Sections that an error lists.
_MOST_LISTED = 5


def functions_named(checker: ImageChecker, text: str) -> list[int]:
    """Return where the functions with call-frame information begin that are meant.

    Args:
        checker: of the file.
        text: a function's name; ``NAME+OFFSET`` or ``SECTION+OFFSET``; an address (``0x…``): in a
            linked image one of its own, in an object one that ``--json`` gives, or an offset in a
            section, as nm and objdump print them, if only one function can be meant.

    Returns:
        One address as a rule; several where an object has several sections of that name.

    Raises:
        InputError: there is none, or a number in an object can mean several.
    """
    begins = _covering(checker, _symbols(checker.image, text))[:1]
    begins = begins or _covering(checker, _places(checker.image, text))
    if begins:
        return begins
    number = _number(text)
    if number is not None:
        return _by_number(checker, text, number)
    # Names that only the separate debug file has, and names as they are printed.
    begins = [
        fde.begin
        for fde in checker.fdes
        if printable(checker.image.function_name(fde.begin)) == text
    ]
    if begins:
        return begins
    raise _nothing_named(checker.image, text)


def _covering(checker: ImageChecker, addresses: Iterator[int]) -> list[int]:
    fdes = [checker.code.covering(address) for address in addresses]
    return sorted({fde.begin for fde in fdes if fde is not None})


def _symbols(image: Image, text: str) -> Iterator[int]:
    """Yield the addresses of the symbols of that name."""
    for symbol in image.function_symbols():
        if symbol.name.split("@")[0] == text:
            yield symbol.address


def _places(image: Image, text: str) -> Iterator[int]:
    """Yield what ``NAME+OFFSET`` may mean."""
    match = _OFFSET.fullmatch(text)
    if match is None:
        return
    name, offset = match[1], int(match[2], 16 if match[2][:2] in ("0x", "0X") else 10)
    for section in image.sections:
        is_named = section.alloc and name in (section.name, printable(section.name))
        if is_named and offset < section.size_bytes:
            yield section.address + offset
    for address in _symbols(image, name):
        yield address + offset


def _number(text: str) -> int | None:
    if not text.lower().startswith("0x"):
        return None
    try:
        return int(text, 16)
    except ValueError:
        return None


def _by_number(checker: ImageChecker, text: str, number: int) -> list[int]:
    image = checker.image
    addresses = [number]
    if image.is_relocatable:
        addresses += [
            section.address + number
            for section in image.sections
            if section.alloc and section.executable and number < section.size_bytes
        ]
    found: dict[int, int] = {}
    for address in addresses:
        fde = checker.code.covering(address)
        if fde is not None:
            found.setdefault(fde.begin, address)
    if len(found) > 1:
        places = [printable(image.place(address)) for address in found.values()]
        more = f" and {len(places) - _MOST_LISTED} more" if len(places) > _MOST_LISTED else ""
        raise InputError(
            Place(image.path),
            f"{text} can be {len(places)} places in this object: "
            + ", ".join(places[:_MOST_LISTED])
            + more,
            "one of them",
            "name the section, too",
        )
    if not found:
        raise _nothing_named(image, text)
    return list(found)


def _nothing_named(image: Image, text: str) -> InputError:
    names = {symbol.name for symbol in image.function_symbols()}
    near = difflib.get_close_matches(text, names, 3)
    nm = "nm" if image.section(".symtab") is not None else "nm -D"
    return InputError(
        Place(image.path),
        f"no function {text!r} that has call-frame information",
        "a symbol's name, an address such as 0x1040, or a place such as .text+0x40",
        f"nearest names: {', '.join(map(printable, near))}"
        if near
        else f"list the symbols with {nm}, or name none to see every function",
    )
