"""Source lines of addresses, from ``.debug_line`` by way of pyelftools."""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullframe.elf.structures import SHT_NOTE
from fullframe.errors import FullframeError

if TYPE_CHECKING:
    from fullframe.elf.image import Image

#: Units without a range whose line programs are read for one address.
_MOST_UNITS_SEARCHED = 64
DEBUG_DIRECTORY = Path("/usr/lib/debug/.build-id")

#: The sections that a line lookup needs, by the keyword under which pyelftools takes them.
_NEEDED = {
    "debug_info_sec": ".debug_info",
    "debug_aranges_sec": ".debug_aranges",
    "debug_abbrev_sec": ".debug_abbrev",
    "debug_str_sec": ".debug_str",
    "debug_ranges_sec": ".debug_ranges",
    "debug_line_sec": ".debug_line",
    "debug_addr_sec": ".debug_addr",
    "debug_str_offsets_sec": ".debug_str_offsets",
    "debug_line_str_sec": ".debug_line_str",
    "debug_rnglists_sec": ".debug_rnglists",
}
_UNUSED = (
    "debug_frame_sec", "eh_frame_sec", "debug_loc_sec", "debug_pubtypes_sec",
    "debug_pubnames_sec", "debug_loclists_sec", "debug_sup_sec", "gnu_debugaltlink_sec",
    "debug_types_sec",
)  # fmt: skip


def build_id(image: Image) -> str | None:
    """Return the GNU build ID as hexadecimal digits; None without one.

    Source: the note of type 3 and name ``GNU`` (``NT_GNU_BUILD_ID`` in ``elf.h``).
    """
    for section in image.sections:
        if section.type == SHT_NOTE:
            found = _build_id_in(bytes(section.data[: 1 << 16]))
            if found is not None:
                return found
    return None


def _build_id_in(notes: bytes) -> str | None:
    offset = 0
    while offset + 12 <= len(notes):
        name_bytes, value_bytes, kind = (
            int.from_bytes(notes[offset + at : offset + at + 4], "little") for at in (0, 4, 8)
        )
        name_at = offset + 12
        value_at = name_at + (name_bytes + 3) // 4 * 4
        if kind == 3 and notes[name_at : name_at + name_bytes] == b"GNU\0":
            return notes[value_at : value_at + value_bytes].hex() or None
        offset = value_at + (value_bytes + 3) // 4 * 4
    return None


class LineReader:
    """Finds source lines for one image, reading line programs only as they are needed.

    Args:
        image: the image; where it has no line table a separate debug file is looked for.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._programs: dict[int, list[tuple[int, int, str]]] = {}

    def at(self, address: int) -> str | None:
        """Return ``file:line`` for an address; None where no line table covers it.

        Line tables are a courtesy: a broken one gives None, not an error.
        """
        try:
            for unit in self._units_covering(address):
                line = self._in_unit(unit, address)
                if line is not None:
                    return line
        except FullframeError:
            return None
        except Exception:  # noqa: BLE001 - pyelftools raises all kinds on malformed DWARF
            return None
        return None

    @property
    def source(self) -> Image | None:
        """The image that has the line table; None where there is none, or it cannot be read."""
        try:
            return self._source
        except FullframeError:
            return None

    @cached_property
    def _source(self) -> Image | None:
        """The image that has the line table: this one, or its separate debug file."""
        if self._image.section(".debug_line") or self._image.section(".zdebug_line"):
            return self._image
        identity = build_id(self._image)
        if identity is None or len(identity) < 4:
            return None
        path = DEBUG_DIRECTORY / identity[:2] / f"{identity[2:]}.debug"
        if not path.is_file():
            return None
        return type(self._image).open(path)

    @cached_property
    def _dwarf(self) -> Any:
        source = self._source
        if source is None:
            return None
        from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

        sections: dict[str, Any] = dict.fromkeys(_UNUSED)
        for keyword, name in _NEEDED.items():
            section = source.section(name) or source.section(name.replace(".", ".z", 1))
            sections[keyword] = None
            if section is not None:
                data = bytes(section.data)
                sections[keyword] = DebugSectionDescriptor(
                    io.BytesIO(data), name, section.offset, len(data), section.address
                )
        if sections["debug_info_sec"] is None or sections["debug_line_sec"] is None:
            return None
        config = DwarfConfig(
            little_endian=True,
            machine_arch="x64" if source.machine.bits == 64 else "x86",
            default_address_size=source.address_size_bytes,
        )
        return DWARFInfo(config=config, **sections)

    def _units_covering(self, address: int) -> list[Any]:
        """The units that may have a line for an address, the likely ones first."""
        if self._dwarf is None:
            return []
        index = self._index
        position = bisect_right(index, (address, 1 << 65, 0)) - 1
        likely = []
        if position >= 0 and address < index[position][1]:
            likely.append(self._dwarf.get_CU_at(index[position][2]))
        return likely + self._units_without_range

    @cached_property
    def _index(self) -> list[tuple[int, int, int]]:
        """(first address, first address after, offset of the unit), sorted."""
        found = list(_address_ranges(self._bytes_of(".debug_aranges")))
        indexed = {offset for _, _, offset in found}
        for offset in self._unit_offsets:
            if offset not in indexed:
                unit = self._dwarf.get_CU_at(offset)
                found += [(begin, end, offset) for begin, end in self._ranges(unit)]
        return sorted(found)

    @cached_property
    def _units_without_range(self) -> list[Any]:
        """Units that do not say what they cover; only some, each costs a line program."""
        known = {offset for _, _, offset in self._index}
        offsets = (offset for offset in self._unit_offsets if offset not in known)
        return [self._dwarf.get_CU_at(offset) for offset in islice(offsets, _MOST_UNITS_SEARCHED)]

    @cached_property
    def _unit_offsets(self) -> list[int]:
        """Where the units start in ``.debug_info`` (DWARF 5, section 7.5.1)."""
        data = self._bytes_of(".debug_info")
        offsets, at = [], 0
        while at + 4 <= len(data):
            offsets.append(at)
            at = _unit_body(data, at)[1]
        return offsets

    def _bytes_of(self, name: str) -> bytes:
        source = self._source
        assert source is not None
        section = source.section(name) or source.section(name.replace(".", ".z", 1))
        return b"" if section is None else bytes(section.data)

    def _ranges(self, unit: Any) -> list[tuple[int, int]]:
        """What a unit says it covers, in its first entry (DWARF 5, section 2.17)."""
        attributes = unit.get_top_DIE().attributes
        low = attributes["DW_AT_low_pc"].value if "DW_AT_low_pc" in attributes else 0
        if "DW_AT_high_pc" in attributes:
            high = attributes["DW_AT_high_pc"]
            return [(low, high.value if high.form == "DW_FORM_addr" else low + high.value)]
        if "DW_AT_ranges" not in attributes:
            return []
        lists = self._dwarf.range_lists()
        ranges = []
        for entry in lists.get_range_list_at_offset(attributes["DW_AT_ranges"].value, cu=unit):
            if hasattr(entry, "base_address"):
                low = entry.base_address
            else:
                base = 0 if entry.is_absolute else low
                ranges.append((base + entry.begin_offset, base + entry.end_offset))
        return ranges

    def _in_unit(self, unit: Any, address: int) -> str | None:
        offset = unit.cu_offset
        if offset not in self._programs:
            self._programs[offset] = self._read_program(unit)
        rows = self._programs[offset]
        position = bisect_right(rows, (address, 1 << 65, "")) - 1
        if position >= 0 and rows[position][0] <= address < rows[position][1]:
            return rows[position][2]
        return None

    def _read_program(self, unit: Any) -> list[tuple[int, int, str]]:
        """Read the line program of a unit as (begin, end, "file:line"), sorted."""
        program = self._dwarf.line_program_for_CU(unit)
        if program is None:
            return []
        files = _file_names(program)
        rows = []
        previous: Any = None
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if previous is not None and state.address > previous.address:
                name = files.get(previous.file, "?")
                rows.append((previous.address, state.address, f"{name}:{previous.line}"))
            previous = None if state.end_sequence else state
        return sorted(rows)


def _unit_body(data: bytes, offset: int) -> tuple[int, int, int]:
    """Return (begin, end, size of an offset) of a unit, by its initial length (section 7.4)."""
    (length,) = struct.unpack_from("<I", data, offset)
    if length != 0xFFFFFFFF:
        return offset + 4, offset + 4 + length, 4
    (length,) = struct.unpack_from("<Q", data, offset + 4)
    return offset + 12, offset + 12 + length, 8


def _address_ranges(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, offset of the unit) of ``.debug_aranges`` (DWARF 5, section 6.1.2)."""
    at = 0
    while at + 4 <= len(data):
        start = at
        begin, at, offset_bytes = _unit_body(data, at)
        form = "<HQBB" if offset_bytes == 8 else "<HIBB"
        version, unit, address_bytes, segment_bytes = struct.unpack_from(form, data, begin)
        if version != 2 or address_bytes not in (4, 8) or segment_bytes:
            continue
        # Tuples begin at a multiple of their size, counted from the header's begin.
        size = 2 * address_bytes
        first = begin + struct.calcsize(form) - start
        first = start + (first + size - 1) // size * size
        end = min(at, len(data))
        whole = data[first : first + (end - first) // size * size]
        for low, length in struct.iter_unpack("<QQ" if address_bytes == 8 else "<II", whole):
            if low or length:
                yield low, low + length, unit


def _file_names(program: Any) -> dict[int, str]:
    """Names of a line program's files by their numbers, with their directories."""
    header = program.header
    version5 = header["version"] >= 5
    directories = [_text(item) for item in header["include_directory"]]
    names = {}
    for number, item in enumerate(header["file_entry"]):
        name = _text(item.name)
        directory = item.dir_index if version5 else item.dir_index - 1
        if not name.startswith("/") and 0 <= directory < len(directories):
            name = f"{directories[directory]}/{name}"
        names[number if version5 else number + 1] = name
    return names


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
