"""Assembles a snippet and tells the tracker's state at every boundary of it.

A snippet is written one instruction a line; behind ``|`` stands what is expected *before* the
instruction is executed, in this notation: the stack pointer, then every callee-saved register
that no longer holds the caller's value (``bx=other``), then every slot but the return address's.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from fullframe.cfi.check import Engine, ImageChecker
from fullframe.cfi.context import FunctionContext
from fullframe.elf.image import Image
from fullframe.errors import ToolMissingError
from fullframe.toolchain.find import Toolchain, find_toolchain
from fullframe.track import CFA_REGION, Entry, Follower, State, Value, decode
from fullframe.x86.registers import IP, SLOT_OF_REGISTER, SP, Machine
from tests.support import skip_or_fail


@functools.cache
def _toolchain() -> Toolchain:
    try:
        return find_toolchain()
    except ToolMissingError as error:
        skip_or_fail(str(error))


def assembled(source: str, bits: int) -> Image:
    """Assemble a source; the image of the object."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "snippet.s")
        path.write_text(source)
        output = path.with_suffix(".o")
        _toolchain().assemble(path, output, bits=bits)
        return Image.from_bytes(output.read_bytes(), "snippet.o")


def _shown(value: Value) -> str:
    if isinstance(value, Entry):
        return SLOT_OF_REGISTER[value.register]
    return repr(value).replace(" stack", "")


def told(machine: Machine, state: State | None, scratch: tuple[int, ...] = ()) -> str:
    """Return a state in the notation of the snippets."""
    if state is None:
        return "unreached"
    parts = [_shown(state.stack_pointer)]
    for register in (*machine.callee_saved, *scratch):
        value = state.registers[register]
        if register != SP and not (isinstance(value, Entry) and value.register == register):
            parts.append(f"{SLOT_OF_REGISTER[register]}={_shown(value)}")
    own = (CFA_REGION, -machine.word_bytes)
    held = state.slots.get(own)
    intact = isinstance(held, Entry) and held.register == IP
    if not intact:
        parts.append("no return address")
    ordered = sorted(state.slots.items(), key=lambda item: (item[0][0].name, -item[0][1]))
    for (region, offset), value in ordered:
        if (region, offset) == own and intact:
            continue
        name = "" if region is CFA_REGION else region.name.replace(" stack", "")
        parts.append(f"[{name}{offset:+d}]={_shown(value)}")
    return " ".join(parts)


def followed(
    source: str, bits: int, *, precise: bool, scratch: tuple[int, ...] = (), x32: bool = False
) -> list[str]:
    """Follow the first function of a source; its states, in order."""
    image = assembled(source, bits)
    engine = Engine(image.machine, narrow_pointers=x32)
    checker = ImageChecker(image, engine, thorough=True)
    fde = min(checker.fdes, key=lambda fde: fde.begin)
    classifier = engine.precise if precise else engine.coarse
    body = checker.code.code_of(fde)
    context = FunctionContext(checker.facts, fde, body, engine.rows_of(fde), classifier)
    listing = decode(classifier, body, fde.begin)
    follower = Follower(classifier, context)
    flow = follower.start(listing)
    follower.follow(flow, [(0, classifier.space.function_entry())])
    states: list[State | None] = [None] * len(listing.starts)
    for changes, stop in flow.pieces.values():
        for number, (begin, state) in enumerate(changes):
            end = changes[number + 1][0] if number + 1 < len(changes) else stop
            states[begin:end] = [state] * (end - begin)
    return [told(image.machine, state, scratch) for state in states]


def hold(
    snippet: str,
    bits: int = 64,
    *,
    precise: bool = True,
    scratch: tuple[int, ...] = (),
    others: str = "",
    x32: bool = False,
) -> None:
    """Assert that every boundary of a snippet has the state that is written beside it."""
    code, wanted = [], []
    for line in filter(str.strip, snippet.splitlines()):
        text, _, state = line.partition("|")
        code.append(text.strip())
        if state:
            wanted.append(" ".join(state.split()))
    body = "\n".join(code)
    source = f".text\nf:\n.cfi_startproc\n{body}\n.cfi_endproc\n.type f,@function\n"
    source += f".size f,.-f\n{others}\n"
    seen = followed(source, bits, precise=precise, scratch=scratch, x32=x32)
    assert seen == wanted, "\n".join(
        f"{number}: seen {one!r}, expected {other!r}"
        for number, (one, other) in enumerate(zip(seen, wanted, strict=False))
        if one != other
    )
