"""Functions of which only a part has call-frame information.

A ``.cfi_endproc`` that stands too early, or a ``.cfi_startproc`` that stands too late, leaves code
without rules that control goes on to. Code without rules may be a function of its own, and a call
at the end of an FDE may never return: only where the size of a function's symbol says that both
are one function is it told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from iced_x86 import Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic

from fullframe.cfi.frames import Fde
from fullframe.cfi.image_code import ImageCode
from fullframe.errors import FullframeError
from fullframe.track.calls import Callees
from fullframe.track.listing import is_filler

_GOES_ON = frozenset(
    {
        FlowControl.NEXT,
        FlowControl.CALL,
        FlowControl.INDIRECT_CALL,
        FlowControl.CONDITIONAL_BRANCH,
        FlowControl.XBEGIN_XABORT_XEND,
    }
)
_BRANCHES = frozenset({FlowControl.CONDITIONAL_BRANCH, FlowControl.UNCONDITIONAL_BRANCH})
#: Hostile symbols could cover the same FDEs thousands of times.
_MOST_BYTES = 1 << 26
_SYSTEM_CALLS = frozenset({Mnemonic.SYSCALL, Mnemonic.SYSENTER, Mnemonic.INT})
#: Nothing is done before an FDE that begins behind the mark of an indirect branch's target.
_MARKS = frozenset({Mnemonic.ENDBR32, Mnemonic.ENDBR64})


@dataclass(frozen=True, slots=True)
class Uncovered:
    """Where control goes between an FDE and code without rules of the same function.

    Attributes:
        fde: the FDE.
        source: address of the instruction that control comes from.
        target: where it goes.
        into: control comes into the FDE; otherwise it goes out of it.
        function: first address of the function, by its symbol.
        end: the address after it.
        bare_end: the address after the code without rules, as far as control runs straight on.
        calls: whether there is a call in it.
    """

    fde: Fde
    source: int
    target: int
    into: bool
    function: int
    end: int
    bare_end: int
    calls: bool = False


def find_uncovered(code: ImageCode, callees: Callees) -> list[Uncovered]:
    """Return where control leaves FDEs for code of the same function without rules, or comes in.

    Args:
        code: the image.
        callees: tells which calls never return.

    Returns:
        One item for each FDE at most, by address.
    """
    fdes = code.fdes
    if not fdes:
        return []
    begins, ends = code.image.function_extents()
    if not len(begins):
        return []
    fde_begins = np.array([fde.begin for fde in fdes], np.uint64)
    fde_ends = np.array([min(fde.end, (1 << 64) - 1) for fde in fdes], np.uint64)
    # Functions within which an FDE ends, or begins: nearly none.
    after = np.searchsorted(fde_ends, begins, "right")
    first_end = fde_ends[np.minimum(after, len(fdes) - 1)]
    ending = (after < len(fdes)) & (first_end > begins) & (first_end < ends)
    behind = np.searchsorted(fde_begins, begins, "right")
    first_begin = fde_begins[np.minimum(behind, len(fdes) - 1)]
    beginning = (behind < len(fdes)) & (first_begin > begins) & (first_begin < ends)
    found: dict[int, Uncovered] = {}
    budget = _MOST_BYTES
    for number in np.flatnonzero(ending | beginning).tolist():
        begin, end = int(begins[number]), int(ends[number])
        position = int(after[number])
        budget -= end - begin
        if budget < 0:
            break
        if not _has_bare_code(code, position, begin, end):
            continue
        while position < len(fdes) and fdes[position].begin < end and budget > 0:
            fde = fdes[position]
            position += 1
            budget -= end - begin
            if code.is_plt(fde) or fde.cie.is_signal_frame:
                continue
            try:
                item = _out_of(code, callees, fde, begin, end) or _into(code, fde, begin, end)
            except FullframeError:
                continue
            if item is not None:
                found.setdefault(fde.begin, item)
    return [found[begin] for begin in sorted(found)]


def _has_bare_code(code: ImageCode, position: int, begin: int, end: int) -> bool:
    """Return whether anything but fill and marks is without rules in a function.

    Args:
        code: the image.
        position: number of the first FDE that ends behind the function's begin.
        begin: of the function.
        end: of the function.
    """
    bits = code.image.machine.bits
    while begin < end:
        fde = code.fdes[position] if position < len(code.fdes) else None
        until = end if fde is None else min(end, fde.begin)
        if begin < until:
            try:
                gap = bytes(code.image.read(begin, until - begin))
            except FullframeError:
                return False
            for instruction in Decoder(bits, gap, DecoderOptions.NONE, begin):
                start = instruction.ip - begin
                filler = is_filler(bits, gap[start : start + 15])
                if not filler and instruction.mnemonic not in _MARKS:
                    return True
        if fde is None:
            break
        begin = max(begin, fde.end)
        position += 1
    return False


def _out_of(code: ImageCode, callees: Callees, fde: Fde, begin: int, end: int) -> Uncovered | None:
    """Return where control goes out of an FDE to code without rules of the function around it."""
    if fde.begin < begin:
        return None
    last: Instruction | None = None
    bits = code.image.machine.bits
    body = code.code_of(fde)
    for instruction in Decoder(bits, body, DecoderOptions.NONE, fde.begin):
        if instruction.flow_control in _BRANCHES and instruction.near_branch_target:
            target = instruction.near_branch_target
            bare = _bare_code(code, target, begin, end)
            if bare is not None:
                return Uncovered(fde, instruction.ip, target, False, begin, end, *bare)
        start = instruction.ip - fde.begin
        if instruction.is_invalid or not is_filler(bits, body[start : start + 15]):
            last = instruction.copy()
    if last is None or last.is_invalid or last.flow_control not in _GOES_ON:
        return None
    if last.flow_control == FlowControl.CALL and callees.never_returns(last.near_branch_target):
        return None
    bare = _bare_code(code, fde.end, begin, end)
    if bare is None:
        return None
    return Uncovered(fde, last.ip, fde.end, False, begin, end, *bare)


def _bare_code(code: ImageCode, address: int, begin: int, end: int) -> tuple[int, bool] | None:
    """Look at the code without rules at an address of a function.

    Returns:
        (where it ends, as far as control runs straight on; whether there is a call in it); None
        where there is no such code, or only fill; and where it begins with a system call: the
        kernel may come back from there to a new thread too, whose frames end there on purpose.
    """
    if not begin <= address < end or code.covering(address) is not None:
        return None
    bits = code.image.machine.bits
    following = bytes(code.image.read(address, end - address))
    is_first, calls, until = True, False, address
    for instruction in Decoder(bits, following, DecoderOptions.NONE, address):
        start = instruction.ip - address
        if code.covering(instruction.ip) is not None or instruction.is_invalid:
            break
        if is_first and is_filler(bits, following[start : start + 15]):
            continue
        if is_first and instruction.mnemonic in _SYSTEM_CALLS:
            return None
        is_first = False
        calls = calls or instruction.mnemonic == Mnemonic.CALL
        until = instruction.next_ip
        if instruction.flow_control not in _GOES_ON:
            break
    return None if is_first else (until, calls)


def _into(code: ImageCode, fde: Fde, begin: int, end: int) -> Uncovered | None:
    """Return where control comes into an FDE from the begin of its function, without rules."""
    if not begin < fde.begin < end or code.covering(begin) is not None:
        return None
    bits = code.image.machine.bits
    before = bytes(code.image.read(begin, fde.begin - begin))
    last: Instruction | None = None
    only_fill = True
    for instruction in Decoder(bits, before, DecoderOptions.NONE, begin):
        start = instruction.ip - begin
        if instruction.is_invalid or code.covering(instruction.ip) is not None:
            return None
        if instruction.flow_control != FlowControl.NEXT:
            return None
        only_fill = only_fill and (
            instruction.mnemonic in _MARKS or is_filler(bits, before[start : start + 15])
        )
        last = instruction.copy()
    if last is None or only_fill or last.next_ip != fde.begin:
        return None
    return Uncovered(fde, last.ip, fde.begin, True, begin, end, fde.begin)
