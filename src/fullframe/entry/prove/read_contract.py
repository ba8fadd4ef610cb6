"""Reading frame contracts from TOML, with the position of everything that is wrong."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fullframe.entry.prove.contract import (
    WAYS_IN,
    WAYS_OUT,
    WORD_KINDS,
    Contract,
    DispatchTable,
    Function,
    Helper,
    WayIn,
    WayOut,
    Word,
    Work,
)
from fullframe.entry.prove.contract_text import Reader, single, tables
from fullframe.errors import InputError, InputErrors, Place, UsageError
from fullframe.x86.ptregs import FRAME_BYTES, SLOTS
from fullframe.x86.registers import X86_64

_PACKAGED = ("partial", "full", "annotated", "linux-6.1")
_MOST_BYTES = 1 << 20
_REGISTERS = {name: number for number, name in enumerate(X86_64.register_names[:16])}
_SECTIONS = (
    "contract", "frame", "word", "way_in", "way_out", "function", "helper", "table", "handler",
    "work", "features", "modes", "memory", "canonical",
)  # fmt: skip


def packaged_contracts() -> tuple[str, ...]:
    """Return the names of the contracts that come with fullframe."""
    return _PACKAGED


def open_contract(name: str) -> Contract:
    """Read a contract by its packaged name or its path.

    Raises:
        InputError: it cannot be opened or is not TOML.
        InputErrors: it names what does not exist; every error with its position.
        UsageError: neither a packaged contract nor a file.
    """
    if name in _PACKAGED:
        file = resources.files("fullframe.data") / "contracts" / f"{name}.toml"
        return read_contract(f"{name}.toml", file.read_text(encoding="utf-8"))
    path = Path(name)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        near = difflib.get_close_matches(name, _PACKAGED, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"no contract {name[:200]!r}{hint}; there are {', '.join(_PACKAGED)}, or give a file"
        ) from None
    except (OSError, ValueError):
        pass  # opening it says why it cannot be read
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        text = data.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            Place(name), f"cannot be read: {reason}", "a TOML file in UTF-8", "check the file"
        ) from None
    if len(data) > _MOST_BYTES:
        raise InputError(Place(name), "longer than 1 MiB", "a contract", "check the file")
    return read_contract(name, text)


def read_contract(path: str, text: str) -> Contract:
    """Read a contract.

    Args:
        path: for messages.
        text: TOML.

    Raises:
        InputError: not TOML.
        InputErrors: everything in it that makes no sense.
    """
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        match = re.search(r"line (\d+), column (\d+)", str(error))
        place = Place(path, int(match[1]), int(match[2])) if match else Place(path)
        raise InputError(place, f"not TOML: {error}", "TOML 1.0", "correct it") from None
    reader = Reader(path, text)
    for section in data:
        if section not in _SECTIONS:
            reader.wrong((section, 0), section, f"table [{section[:80]}]", "a known one", _SECTIONS)
    contract = _contract(reader, data)
    if reader.errors:
        raise InputErrors(sorted(reader.errors, key=lambda e: (e.place.line or 0, str(e))))
    return contract


def _contract(reader: Reader, data: Mapping[str, Any]) -> Contract:
    head = single(reader, data, "contract")
    reader.keys(("contract", 0), head, ("name", "summary"))
    features = _features(reader, data)
    modes = single(reader, data, "modes")
    at = ("modes", 0)
    reader.keys(at, modes, ("page_tables", "ac", "harmless_msrs"))
    cr3 = reader.typed(at, modes, "page_tables", "")
    ac = reader.typed(at, modes, "ac", "")
    for feature in (cr3, ac):
        if feature:
            reader.one_of(at, "feature", feature, features[0])
    memory = single(reader, data, "memory")
    reader.keys(("memory", 0), memory, ("writable",))
    words = _words(reader, data)
    functions = tuple(
        _function(reader, "function", number, table)
        for number, table in enumerate(tables(reader, data, "function"))
    )
    handler_table = single(reader, data, "handler")
    annotations = reader.typed(("handler", 0), handler_table, "annotations", "")
    handler = _function(
        reader, "handler", 0, {k: v for k, v in handler_table.items() if k != "annotations"}
    )
    offset, invariants = _frame(reader, data)
    ways_in = _ways_in(reader, data)
    flags = [word.name for word in words if word.holds == "thread flags"]
    flags += [name for way_in in ways_in for _, name in way_in.flags]
    work = _work(reader, data, flags, functions)
    _check_work_names(reader, work, functions, ways_in)
    canonical = single(reader, data, "canonical")
    for key in canonical:
        if key != "bits":
            reader.one_of(("canonical", 0), "feature", key, (*features[0], "bits"))
    return Contract(
        name=reader.typed(("contract", 0), head, "name", ""),
        summary=reader.typed(("contract", 0), head, "summary", ""),
        path=reader.path,
        frame_offset_bytes=offset,
        invariants=invariants,
        words=words,
        writable=tuple(reader.typed(("memory", 0), memory, "writable", [])),
        ways_in=ways_in,
        ways_out=_ways_out(reader, data),
        functions=functions,
        helpers=_helpers(reader, data),
        tables=_dispatch_tables(reader, data),
        annotations=annotations,
        handler=handler,
        work=work,
        features=features[0],
        decided=features[1],
        cr3_feature=cr3,
        ac_feature=ac,
        canonical_bits={
            ("" if key == "bits" else key): bits
            for key, bits in canonical.items()
            if isinstance(bits, int)
        }
        or {"": 48},
        harmless_msrs=tuple(
            number for number in modes.get("harmless_msrs", []) if isinstance(number, int)
        ),
    )


def _check_work_names(
    reader: Reader,
    work: tuple[Work, ...],
    functions: tuple[Function, ...],
    ways_in: tuple[WayIn, ...],
) -> None:
    names = [kind.name for kind in work]
    for number, function in enumerate(functions):
        if function.because:
            reader.one_of(("function", number), "work", function.because, names)
    for number, way_in in enumerate(ways_in):
        for name in way_in.brings:
            reader.one_of(("way_in", number), "work", name, names)


def _features(reader: Reader, data: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, bool]]:
    at = ("features", 0)
    numbers: dict[str, int] = {}
    decided: dict[str, bool] = {}
    for name, table in single(reader, data, "features").items():
        if not isinstance(table, dict):
            table = {"number": table}
        reader.keys(at, table, ("number", "present"))
        numbers[name] = reader.typed(at, table, "number", 0)
        if "present" in table:
            decided[name] = reader.typed(at, table, "present", False)
    return numbers, decided


def _frame(reader: Reader, data: Mapping[str, Any]) -> tuple[int, tuple[tuple[str, int, int], ...]]:
    frame = single(reader, data, "frame")
    at = ("frame", 0)
    reader.keys(at, frame, ("slots", "offset", "always"))
    slots = reader.typed(at, frame, "slots", list(SLOTS))
    for number, slot in enumerate(slots):
        reader.one_of(at, "slot", slot, SLOTS)
        if slot in SLOTS and (number >= len(SLOTS) or SLOTS[number] != slot):
            expected = SLOTS[number] if number < len(SLOTS) else "none"
            reader.wrong(
                at, slot, f"slot {slot} in place {number}", f"{expected} there", [expected]
            )
    if len(slots) != len(SLOTS):
        reader.wrong(at, "slots", f"{len(slots)} slots", f"{len(SLOTS)}", SLOTS)
    invariants = []
    for slot, rule in reader.typed(at, frame, "always", {}).items():
        reader.one_of(at, "slot", slot, SLOTS)
        if isinstance(rule, dict):
            invariants.append((slot, int(rule.get("mask", 0)), int(rule.get("bits", 0))))
    return reader.typed(at, frame, "offset", -FRAME_BYTES), tuple(invariants)


def _words(reader: Reader, data: Mapping[str, Any]) -> tuple[Word, ...]:
    words = []
    for number, table in enumerate(tables(reader, data, "word")):
        at = ("word", number)
        reader.keys(at, table, ("name", "symbol", "offset", "holds"))
        words.append(
            Word(
                reader.typed(at, table, "name", ""),
                reader.typed(at, table, "symbol", ""),
                reader.typed(at, table, "offset", 0),
                reader.one_of(at, "contents", table.get("holds"), WORD_KINDS),
                reader.place("word", number, str(table.get("symbol", ""))),
            )
        )
    return tuple(words)


def _slots(reader: Reader, at: tuple[str, int], names: Iterable[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        if name == "*":
            found.extend(SLOTS)
        else:
            found.append(reader.one_of(at, "slot", name, SLOTS))
    return tuple(found)


_FUNCTION_KEYS = (
    "symbols", "frame", "arguments", "modifies", "sets", "interrupts", "returns_interrupts",
    "dispatches", "before_call", "because", "returns", "moves_frame", "nonzero", "through",
)  # fmt: skip


def _function(reader: Reader, section: str, number: int, table: dict[str, Any]) -> Function:
    at = (section, number)
    reader.keys(at, table, _FUNCTION_KEYS)
    arguments = reader.typed(at, table, "arguments", [])
    for argument in arguments:
        inner = re.sub(r"^int\((.*)\)$", r"\1", argument)
        reader.one_of(at, "argument", inner, (*SLOTS, "frame", "previous task", "any"))
    sets = reader.typed(at, table, "sets", {})
    through = reader.typed(at, table, "through", "")
    if through:
        reader.one_of(at, "register", through, _REGISTERS)
    nonzero = []
    for text in reader.typed(at, table, "nonzero", []):
        fact = _fact(text)
        if fact is None or fact[0] not in SLOTS:
            reader.wrong(
                at,
                text,
                f"{text[:80]!r}",
                "SLOT == N, SLOT & MASK == N or SLOT is canonical",
                SLOTS,
            )
        else:
            nonzero.append(fact)
    return Function(
        symbols=tuple(reader.typed(at, table, "symbols", [])),
        frame=reader.one_of(at, "frame", table.get("frame", "none"), ("full", "partial", "none")),
        arguments=tuple(arguments),
        modifies=_slots(reader, at, reader.typed(at, table, "modifies", [])),
        sets=tuple(zip(_slots(reader, at, sets), sets.values(), strict=False)),
        interrupts=reader.one_of(
            at, "interrupts", table.get("interrupts", "any"), ("on", "off", "any")
        ),
        returns_interrupts=reader.one_of(
            at,
            "returns_interrupts",
            table.get("returns_interrupts", "same"),
            ("on", "off", "same"),
        ),
        dispatches=reader.typed(at, table, "dispatches", False),
        before_call=reader.typed(at, table, "before_call", False),
        because=reader.typed(at, table, "because", ""),
        returns=reader.one_of(at, "returns", table.get("returns", ""), ("", "frame", "number")),
        moves_frame=reader.typed(at, table, "moves_frame", False),
        nonzero=tuple(nonzero),
        shared=through,
    )


def _fact(text: str) -> tuple[str, int, int] | None:
    match = re.fullmatch(r"(\w+) (?:& (\w+) )?== (\w+)", text)
    if match is not None:
        try:
            mask = (1 << 64) - 1 if match[2] is None else int(match[2], 0)
            return match[1], mask, int(match[3], 0)
        except ValueError:
            return None
    match = re.fullmatch(r"(\w+) is canonical", text)
    return None if match is None else (match[1], 0, 48)


_WAY_IN_KEYS = (
    "symbol", "by", "bits", "slots", "canonical_ip", "brings", "flags", "optional", "dispatches",
)  # fmt: skip


def _flag_registers(
    reader: Reader, at: tuple[str, int], table: Mapping[str, Any]
) -> tuple[tuple[int, str], ...]:
    found = []
    for register, name in reader.typed(at, table, "flags", {}).items():
        if reader.one_of(at, "register", register, _REGISTERS) in _REGISTERS:
            found.append((_REGISTERS[register], str(name)))
    return tuple(found)


def _ways_in(reader: Reader, data: Mapping[str, Any]) -> tuple[WayIn, ...]:
    found = []
    for number, table in enumerate(tables(reader, data, "way_in")):
        at = ("way_in", number)
        reader.keys(at, table, _WAY_IN_KEYS)
        slots = reader.typed(at, table, "slots", {})
        for slot, value in slots.items():
            reader.one_of(at, "slot", slot, SLOTS)
            if isinstance(value, str):
                reader.one_of(at, "value", value, (*SLOTS, "live flags"))
        found.append(
            WayIn(
                reader.typed(at, table, "symbol", ""),
                reader.one_of(at, "way in", table.get("by"), WAYS_IN),
                reader.typed(at, table, "bits", 64),
                tuple(slots.items()),
                reader.typed(at, table, "canonical_ip", False),
                tuple(reader.typed(at, table, "brings", [])),
                _flag_registers(reader, at, table),
                reader.typed(at, table, "optional", False),
                reader.typed(at, table, "dispatches", False),
                reader.place("way_in", number, str(table.get("symbol", ""))),
            )
        )
    if not found:
        reader.errors.append(
            InputError(Place(reader.path), "no [[way_in]]", "at least one", "name a way in")
        )
    return tuple(found)


def _ways_out(reader: Reader, data: Mapping[str, Any]) -> dict[str, WayOut]:
    found = {}
    for number, table in enumerate(tables(reader, data, "way_out")):
        at = ("way_out", number)
        reader.keys(at, table, ("instruction", "registers", "cs", "ss"))
        name = reader.one_of(at, "instruction", table.get("instruction"), WAYS_OUT)
        registers = []
        for slot, values in reader.typed(at, table, "registers", {}).items():
            reader.one_of(at, "slot", slot, SLOTS)
            choices = values if isinstance(values, list) else [values]
            for choice in choices:
                if isinstance(choice, str):
                    reader.one_of(at, "slot", choice, SLOTS)
            registers.append((slot, tuple(choices)))
        found[name] = WayOut(name, tuple(registers), table.get("cs"), table.get("ss"))
    return found


def _helpers(reader: Reader, data: Mapping[str, Any]) -> tuple[Helper, ...]:
    found = []
    for number, table in enumerate(tables(reader, data, "helper")):
        at = ("helper", number)
        reader.keys(at, table, ("symbols", "does", "clobbers"))
        does = reader.typed(at, table, "does", "clobber")
        verb, _, register = does.partition(" ")
        reader.one_of(at, "effect", verb, ("return", "jump", "clobber"))
        if verb == "jump":
            reader.one_of(at, "register", register, _REGISTERS)
        clobbers = []
        for name in reader.typed(at, table, "clobbers", []):
            if reader.one_of(at, "register", name, _REGISTERS) in _REGISTERS:
                clobbers.append(_REGISTERS[name])
        found.append(Helper(tuple(reader.typed(at, table, "symbols", [])), does, tuple(clobbers)))
    return tuple(found)


def _dispatch_tables(reader: Reader, data: Mapping[str, Any]) -> tuple[DispatchTable, ...]:
    found = []
    for number, table in enumerate(tables(reader, data, "table")):
        at = ("table", number)
        reader.keys(at, table, ("symbol", "abi", "marker_bit", "stub_prefix", "optional"))
        found.append(
            DispatchTable(
                reader.typed(at, table, "symbol", ""),
                reader.one_of(at, "ABI", table.get("abi", "64"), ("64", "x32")),
                reader.typed(at, table, "marker_bit", 0) if "marker_bit" in table else None,
                reader.typed(at, table, "stub_prefix", "stub_"),
                reader.typed(at, table, "optional", False),
                reader.place("table", number, str(table.get("symbol", ""))),
            )
        )
    return tuple(found)


def _work(
    reader: Reader,
    data: Mapping[str, Any],
    names: list[str],
    functions: tuple[Function, ...],
) -> tuple[Work, ...]:
    symbols = [symbol for function in functions for symbol in function.symbols]
    found = []
    for number, table in enumerate(tables(reader, data, "work")):
        at = ("work", number)
        reader.keys(at, table, ("name", "word", "mask", "before", "done_by", "volatile"))
        done_by = reader.typed(at, table, "done_by", [])
        for symbol in done_by:
            reader.one_of(at, "function", symbol.removesuffix(" == 0"), symbols)
        found.append(
            Work(
                reader.typed(at, table, "name", ""),
                reader.one_of(at, "word", table.get("word", ""), ("", *names)),
                reader.typed(at, table, "mask", 0) & (1 << 64) - 1,
                reader.one_of(at, "place", table.get("before", ""), ("", "handler", "way out")),
                tuple(done_by),
                reader.typed(at, table, "volatile", False),
            )
        )
    return tuple(found)
