"""A look at the code before it is followed: where control can meet, which features lie ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from iced_x86 import FlowControl

from fullframe.entry.prove.code import Code, static_successors

_MOST_SCANNED = 20_000


@dataclass(frozen=True, slots=True)
class Scan:
    """What is known without following any state.

    Attributes:
        leaders: addresses where control can arrive from elsewhere.
        ahead: by address, the CPU features that alternatives reachable from there ask for;
            empty for images without alternatives.
        features: all of these features.
    """

    leaders: frozenset[int]
    ahead: dict[int, frozenset[int]]
    features: frozenset[int]


def scan(code: Code, start: int, is_named: Callable[[int], bool]) -> Scan:
    """Scan from a way in, through jumps and calls.

    Args:
        code: the image.
        start: the first instruction.
        is_named: whether the contract says what is at a place, so that it is not followed.
    """
    leaders: set[int] = set()
    successors: dict[int, list[int]] = {}
    work, returns, ends = [start], [], []
    while work and len(successors) < _MOST_SCANNED:
        where = work.pop()
        if where in successors:
            continue
        out = [alternative.entered_at for alternative in code.sites.get(where, ())]
        found = code.instruction(where)
        if found is not None:
            i = found[0]
            out += static_successors(code, i)
            if i.flow_control in (FlowControl.CALL, FlowControl.INDIRECT_CALL):
                returns.append(code.after(i))
            if i.flow_control in (FlowControl.RETURN, FlowControl.INDIRECT_BRANCH):
                ends.append(where)
            if i.flow_control != FlowControl.NEXT or where in code.sites:
                leaders.update(out)
        out = [target for target in out if _goes_on(code, target, is_named)]
        successors[where] = out
        work += out
    if not code.sites:
        return Scan(frozenset(leaders), {}, frozenset())
    leaders.update(a.address + a.length_bytes for sites in code.sites.values() for a in sites)
    for where in ends:
        successors[where] = successors[where] + returns
    ahead = _ahead(code, successors)
    return Scan(frozenset(leaders), ahead, frozenset().union(*ahead.values()))


def _goes_on(code: Code, target: int, is_named: Callable[[int], bool]) -> bool:
    """Return whether the scan goes on at a place: not in what is marked as a function.

    Entry code is no function to the ABI, and is not marked as one in Linux; what is, most likely
    is C, and may be the whole kernel. If it is assembly, and followed later, features are kept
    there.
    """
    if not code.is_code(target) or is_named(target):
        return False
    if not code.sites:
        return True
    symbols = [code.symbol(name) for name in code.names_by_address.get(target, ())]
    return not any(symbol is not None and symbol.kind == "func" for symbol in symbols)


def _ahead(code: Code, successors: dict[int, list[int]]) -> dict[int, frozenset[int]]:
    """Compute the features of sites reachable from each place, backward to a fixed point."""
    before: dict[int, list[int]] = {}
    for where, out in successors.items():
        for target in out:
            before.setdefault(target, []).append(where)
    ahead = {where: frozenset(a.feature for a in code.sites.get(where, ())) for where in successors}
    work = [where for where, features in ahead.items() if features]
    while work:
        where = work.pop()
        for source in before.get(where, ()):
            union = ahead[source] | ahead[where]
            if union != ahead[source]:
                ahead[source] = union
                work.append(source)
    return ahead
