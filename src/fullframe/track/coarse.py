"""What effects come to in the coarse space.

That space keeps only the caller's values in callee-saved registers, and addresses in the stack and
frame pointers (:func:`fullframe.track.effects.assign`). So most of what is written to a register is
no different from any other value there, and the effects of thousands of instructions are one:
whatever is asked of states and effects is asked of fewer.
"""

from __future__ import annotations

from collections.abc import Callable

from fullframe.track.effects import Apply, Memory, clobber
from fullframe.track.stack_effects import pop, push, store
from fullframe.x86.registers import BP, SP, Machine

Key = tuple[object, ...]
Make = Callable[[], Apply]


def in_coarse_space(machine: Machine, key: Key, make: Make) -> tuple[Key, Make]:
    """Return the key and the making of the simplest effect with the same consequence.

    Args:
        machine: of the space. Its words are as wide as its addresses.
        key: of the effect.
        make: makes it.
    """
    kept = (*machine.callee_saved, SP)
    match key:
        case ("store", memory, int(source), int(size)) if source not in kept:
            place: Memory = memory  # type: ignore[assignment]
            return ("store", memory, None, size), lambda: store(place, None, size)
        case ("push", int(source), int(size)) if source not in kept:
            return ("push", None, size), lambda: push(None, size)
        case ("pop", int(into), int(size)) if into not in kept:
            return ("pop", None, size), lambda: pop(None, size)
        case (kind, int(target), *rest) if _takes_nothing_kept(machine, kind, target, tuple(rest)):
            return ("clobber", target), lambda: clobber((target,))
    return key, make


def _takes_nothing_kept(machine: Machine, kind: object, target: int, rest: Key) -> bool:
    """Return whether what a register takes is nothing that the space keeps."""
    if target == SP:
        return False
    keeps_addresses = target == BP
    match kind, rest:
        case "set", _:
            return True
        case "copy", (source,):
            return source not in (*machine.callee_saved, SP)
        case "load", ((base, _, indexed),):
            return bool(base not in (SP, BP) or indexed)
        case "lea", ((base, displacement, _),):
            # Without a displacement it is a copy.
            return bool(not keeps_addresses and (displacement or base not in machine.callee_saved))
        case "add", (delta,):
            return bool(not keeps_addresses and delta)
        case ("lea", (_, _, _, _)) | ("add register" | "align", _):
            return not keeps_addresses
        case "cmov", (source,):
            return not keeps_addresses and source not in (*machine.callee_saved, SP)
    return False
