"""What is known of callees: which never return, which take their arguments off the stack.

Every answer comes with its source: a name, or the callee's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from iced_x86 import (
    Decoder,
    DecoderOptions,
    FlowControl,
    InstructionInfoFactory,
    Mnemonic,
    Register,
)

from fullframe.track.classify import FAST_CALL_WRITES, WRITES, Classifier
from fullframe.track.listing import (
    BRANCH,
    CALL,
    CALL_INSIDE,
    INDIRECT,
    JUMP,
    STOP,
    Listing,
    decode,
)
from fullframe.track.operands import HARDWARE

_DIRECT: Final = frozenset(
    {FlowControl.CALL, FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH}
)

#: Functions that never return, by name; from the C, POSIX and C++ standards, the GNU C library's
#: manual, the Itanium C++ ABI, and the runtime libraries' published interfaces.
NEVER_RETURN: Final = frozenset(
    {
        "abort",
        "exit",
        "_exit",
        "_Exit",
        "quick_exit",
        "__assert_fail",
        "__assert_perror_fail",
        "__assert",
        "__stack_chk_fail",
        "__stack_chk_fail_local",
        "__fortify_fail",
        "__chk_fail",
        "__libc_fatal",
        "longjmp",
        "_longjmp",
        "siglongjmp",
        "__longjmp_chk",
        "__libc_longjmp",
        "__libc_siglongjmp",
        "pthread_exit",
        "thrd_exit",
        "err",
        "errx",
        "verr",
        "verrx",
        "__cxa_throw",
        "__cxa_rethrow",
        "__cxa_bad_cast",
        "__cxa_bad_typeid",
        "__cxa_throw_bad_array_new_length",
        "__cxa_throw_bad_array_length",
        "__cxa_call_unexpected",
        "__cxa_call_terminate",
        "__cxa_pure_virtual",
        "__cxa_deleted_virtual",
        "_Unwind_Resume",
        "__libc_start_main",
        "rust_begin_unwind",
        "_ZSt9terminatev",
        "_ZSt10unexpectedv",
        "__clang_call_terminate",
        "rust_panic",
        "_Py_FatalErrorFunc",
        "Py_FatalError",
        "Py_Exit",
        "xmalloc_failed",
        "g_assertion_message",
        "g_assertion_message_expr",
        "g_assertion_message_cmpnum",
        "g_assertion_message_cmpstr",
        "g_assertion_message_error",
        "g_abort",
        "_dl_signal_error",
        "_gfortran_stop_string",
        "_gfortran_runtime_error",
        "_gfortran_runtime_error_at",
        "_gfortran_os_error",
        "_gfortran_os_error_at",
        "__ubsan_handle_builtin_unreachable",
        "__ubsan_handle_missing_return",
        "_ZN4llvm18report_fatal_error",
    }
)
#: Prefixes of mangled names of functions that never return.
NEVER_RETURN_PREFIXES: Final = (
    "_ZSt20__throw_",
    "_ZSt16__throw_",
    "_ZSt17__throw_",
    "_ZSt19__throw_",
    "_ZSt21__throw_",
    "_ZSt22__throw_",
    "_ZSt23__throw_",
    "_ZSt24__throw_",
    "_ZSt25__throw_",
    "_ZSt26__throw_",
    "_ZSt28__throw_",
    "_ZSt29__throw_",
    "_ZSt33__throw_",
    "_ZSt18__throw_",
    "_ZSt15__throw_",
    "_ZN4llvm18report_fatal_error",
    "_ZN4llvm25llvm_unreachable_internal",
    "_ZN4core9panicking",
    "_ZN4core6result13unwrap_failed",
    "_ZN4core6option13expect_failed",
    "_ZN4core6option13unwrap_failed",
    "_ZN4core5slice5index",
    "_ZN3std9panicking",
    "_ZN5alloc5alloc18handle_alloc_error",
    "_ZN5alloc7raw_vec17capacity_overflow",
)


#: Longer functions are not looked through for what they do to their callers.
_LARGEST_CALLEE_BYTES: Final = 1 << 16
#: Instructions looked at for a short way through a callee.
_MOST_LOOKED_AT: Final = 64
#: Bytes of callees looked through for an image of unknown size.
_MOST_BYTES: Final = 1 << 23


class CodeSource(Protocol):
    """What is asked of an image."""

    def callee_name(self, target: int) -> str | None:
        """Name of the function at an address or behind the PLT stub there."""

    def first_bytes(self, target: int) -> bytes:
        """A few bytes of code at an address, whether a function is known there or not."""

    def is_stub(self, target: int) -> bool:
        """Whether a PLT stub is at an address."""

    def definition_of(self, target: int) -> int:
        """Address of the image's own definition behind a PLT stub; else ``target`` itself."""

    def code_at(self, target: int) -> tuple[int, bytes] | None:
        """(``target``, the code from there to its function's end), if it is in the image."""


class Callees:
    """Knowledge of the callees of one image, found on demand and remembered.

    Args:
        source: names and code.
        classifier: of the image's machine; its events are all that is needed.
        code_bytes: how much code the image has.
    """

    def __init__(self, source: CodeSource, classifier: Classifier, code_bytes: int = 0) -> None:
        self._source = source
        self._classifier = classifier
        self._never_returns: dict[int, bool] = {}
        self._popped: dict[int, int | None] = {}
        self._thunks: dict[int, tuple[int, ...]] = {}
        self._written: dict[int, frozenset[int] | None] = {}
        self._factory = InstructionInfoFactory()
        # A hostile image may call every byte of itself.
        self._bytes_left = _MOST_BYTES + 4 * code_bytes

    def _code(self, target: int) -> tuple[int, bytes] | None:
        """Return a callee's code; None where it is too long to look through, or enough was."""
        found = self._source.code_at(target) if self._bytes_left > 0 else None
        if found is None or len(found[1]) > _LARGEST_CALLEE_BYTES:
            return None
        self._bytes_left -= len(found[1])
        return found

    def never_returns(self, target: int, depth: int = 0) -> bool:
        """Return whether the function at ``target`` is known never to return."""
        known = self._never_returns.get(target)
        if known is not None:
            return known
        name = self._source.callee_name(target)
        if name is not None and is_known_never_to_return(name):
            answer = True
        elif depth >= 6:
            return False
        else:
            self._never_returns[target] = False  # recursion: assume the outer one returns
            answer = self._code_never_returns(self._source.definition_of(target), depth)
        self._never_returns[target] = answer
        return answer

    def _code_never_returns(self, target: int, depth: int) -> bool:
        found = self._code(target)
        if found is None:
            return False
        begin, code = found
        if returns_without_calls(self._classifier.space.machine.bits, code, begin):
            return False
        listing = decode(self._classifier, code, begin)
        return not can_leave(
            listing,
            lambda callee: callee is not None and self.never_returns(callee, depth + 1),
            lambda callee: not self.never_returns(callee, depth + 1),
        )

    def is_seen(self, target: int) -> bool:
        """Return whether the code of the callee is in the image: what it does is known."""
        target = self._source.definition_of(target)
        return self._source.code_at(target) is not None and not self._source.is_stub(target)

    def popped_bytes(self, target: int) -> int | None:
        """Return n where every return of the function at ``target`` is ``ret n``; else None."""
        if target not in self._popped:
            self._popped[target] = self._find_popped(target)
        return self._popped[target]

    def _find_popped(self, target: int) -> int | None:
        found = self._code(target)
        if found is None:
            return None
        amounts = set()
        for instruction in Decoder(
            self._classifier.space.machine.bits, found[1], DecoderOptions.NONE, found[0]
        ):
            if instruction.mnemonic == Mnemonic.RET:
                amounts.add(instruction.immediate16 if instruction.op_count else 0)
        return amounts.pop() if len(amounts) == 1 else None

    def kept(self, target: int) -> frozenset[int]:
        """Return the caller-clobbered registers that the function at ``target`` never writes.

        Hand-written code calls helpers of its own that keep more than the ABI asks.
        """
        written = self.written(target)
        if written is None:
            return frozenset()
        return frozenset(self._classifier.scratch) - written

    def written(self, target: int, depth: int = 0) -> frozenset[int] | None:
        """Return the general registers that a callee may write, or None where not all is seen."""
        if target in self._written:
            return self._written[target]
        if depth >= 6:
            return None
        self._written[target] = frozenset()  # recursion adds nothing of its own
        answer = self._find_written(target, depth)
        self._written[target] = answer
        return answer

    def _find_written(self, target: int, depth: int) -> frozenset[int] | None:
        found = self._code(target)
        if found is None or len(found[1]) > 1 << 14:
            return None
        begin, code = found
        end = begin + len(code)
        written: set[int] = set()
        bits = self._classifier.space.machine.bits
        for instruction in Decoder(bits, code, DecoderOptions.NONE, begin):
            if instruction.is_invalid:
                return None
            flow = instruction.flow_control
            if flow in (FlowControl.INDIRECT_CALL, FlowControl.INDIRECT_BRANCH):
                return None
            if flow in _DIRECT:
                if instruction.mnemonic in (Mnemonic.SYSCALL, Mnemonic.SYSENTER):
                    written.update(FAST_CALL_WRITES[bits, instruction.mnemonic])
                    continue
                there = instruction.near_branch_target
                if begin <= there < end and flow != FlowControl.CALL:
                    continue
                inner = self.written(there, depth + 1)
                if inner is None:
                    return None
                written |= inner
                continue
            for used in self._factory.info(instruction).used_registers():
                if used.access in WRITES and used.register in HARDWARE:
                    written.add(HARDWARE[used.register])
        return frozenset(written)

    def clobbered(self, target: int) -> tuple[int, ...]:
        """Return the registers that a program-counter thunk at ``target`` loads.

        The i386 thunks are ``mov (%esp), %reg; ret``; the register may be a callee-saved one.
        """
        if target not in self._thunks:
            self._thunks[target] = self._find_thunk(target)
        return self._thunks[target]

    def _find_thunk(self, target: int) -> tuple[int, ...]:
        # Thunks that the linker keeps one of for all objects may have no FDE.
        code = self._source.first_bytes(target)
        decoder = Decoder(self._classifier.space.machine.bits, code, DecoderOptions.NONE, target)
        body = [i for i in (decoder.decode(), decoder.decode()) if i.mnemonic != Mnemonic.ENDBR32]
        if (
            len(body) == 2
            and body[0].mnemonic == Mnemonic.MOV
            and body[0].memory_base in (Register.ESP, Register.RSP)
            and body[0].memory_displacement == 0
            and body[0].op0_register in HARDWARE
            and body[1].mnemonic == Mnemonic.RET
        ):
            return (HARDWARE[body[0].op0_register],)
        return ()


def is_known_never_to_return(name: str) -> bool:
    """Return whether a function of that (mangled) name never returns."""
    bare = name.split("@", 1)[0]
    return bare in NEVER_RETURN or bare.startswith(NEVER_RETURN_PREFIXES)


def returns_without_calls(bits: int, code: bytes, begin: int) -> bool:
    """Return whether a short path through a function reaches ``ret`` and calls nothing.

    That is what :func:`can_leave` finds as well, after decoding the whole function.

    Args:
        bits: of the machine, 64 or 32.
        code: from the function's first byte to its last.
        begin: address of the first.
    """
    decoder = Decoder(bits, code, DecoderOptions.NONE, begin)
    paths, seen = [0], set()
    budget = _MOST_LOOKED_AT
    while paths:
        offset = paths.pop()
        if offset in seen or not 0 <= offset < len(code):
            continue
        seen.add(offset)
        decoder.position = offset
        decoder.ip = begin + offset
        for instruction in decoder:
            budget -= 1
            if budget < 0 or instruction.is_invalid:
                return False
            flow = instruction.flow_control
            if flow == FlowControl.NEXT:
                continue
            if flow == FlowControl.RETURN:
                return instruction.mnemonic == Mnemonic.RET
            if flow == FlowControl.CONDITIONAL_BRANCH:
                paths.append(instruction.near_branch_target - begin)
                continue
            if flow == FlowControl.UNCONDITIONAL_BRANCH:
                paths.append(instruction.near_branch_target - begin)
            break
    return False


def can_leave(
    listing: Listing,
    call_stops: Callable[[int | None], bool],
    jump_leaves: Callable[[int], bool],
) -> bool:
    """Return whether control that enters a range at its begin can come out of it.

    Args:
        listing: the range.
        call_stops: whether the call of an address (None: indirect) never returns.
        jump_leaves: whether a jump to an address outside the range comes back to the caller.
    """
    by_index: dict[int, list[tuple[int, Any]]] = {}
    for index, kind, payload in listing.events:
        if kind in (BRANCH, JUMP, CALL, CALL_INSIDE, STOP, INDIRECT):
            by_index.setdefault(index, []).append((kind, payload))
    marks = sorted(by_index)
    seen: set[int] = set()
    work = [0]
    from bisect import bisect_left

    while work:
        index = work.pop()
        while index not in seen and index < len(listing.starts):
            position = bisect_left(marks, index)
            if position == len(marks):
                return True  # runs off the end: unknown, so it may
            seen.add(index)
            index = marks[position]
            seen.add(index)
            kind, payload = by_index[index][-1]
            if kind == INDIRECT or (kind == STOP and payload == "return"):
                return True
            if kind in (BRANCH, JUMP):
                offset: int = payload
                target = listing.index_of(offset)
                if 0 <= offset < listing.end - listing.begin:
                    if target is None:
                        return True
                    work.append(target)
                elif jump_leaves(listing.begin + offset):
                    return True
            if kind in (JUMP, STOP):
                break
            if kind == CALL and call_stops(payload):
                break
            index += 1
    return False
