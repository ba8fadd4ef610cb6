"""Frame contracts: what is promised about an image, and what has to be proved of it.

A contract is data, read from TOML by :mod:`fullframe.entry.prove.read_contract`; every key is
described in ``docs/contracts.md``. Names of slots are those of ``struct pt_regs`` without the
historical ``r`` prefix.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fullframe.errors import Place

#: How user mode came into the kernel, or, for the last two, where the frame comes from otherwise.
WAYS_IN = ("SYSCALL", "SYSCALL32", "SYSENTER", "INT", "fork", "call")
WAYS_OUT = ("SYSRETQ", "SYSRETL", "IRETQ")
_NOWHERE = Place("")
WORD_KINDS = ("task stack top", "entry stack top", "scratch", "thread flags")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of kernel memory that entry code uses.

    Attributes:
        name: for messages and for :class:`Work`.
        symbol: the symbol it is counted from; "" for the start of the per-CPU data.
        offset_bytes: from the symbol.
        holds: one of :data:`WORD_KINDS`.
        place: where the contract names it.
    """

    name: str
    symbol: str
    offset_bytes: int
    holds: str
    place: Place = _NOWHERE


@dataclass(frozen=True, slots=True)
class Work:
    """Work that thread flags announce, and that must not be passed over.

    Attributes:
        name: for messages.
        word: name of the word that holds the flags; "" for work that the way in brings with it.
        mask: the flags.
        before: ``handler`` or ``way out``: where it must be known that there is none; "" if it
            need only be done where it was found.
        done_by: C functions that do it. ``f == 0`` counts where ``f`` returned zero.
        volatile: whether an interrupt, or C, can bring it up again, so that a look at the flags
            counts only while interrupts are off.
    """

    name: str
    word: str
    mask: int
    before: str
    done_by: tuple[str, ...]
    volatile: bool


@dataclass(frozen=True, slots=True)
class Function:
    """A C function that entry code calls.

    Attributes:
        symbols: its names.
        frame: ``full``, ``partial`` or ``none``: what it needs of the frame.
        arguments: what each argument register must hold: ``frame`` (its address), the name of a
            slot, ``int(SLOT)`` (its low half, sign-extended), ``previous task`` (what a new
            task was given in rax), or ``any``.
        modifies: slots that it may change.
        sets: slots with what the user is to find in them, whatever the function wrote there.
        interrupts: ``on``, ``off`` or ``any``: what it needs.
        returns_interrupts: ``on``, ``off`` or ``same``.
        dispatches: it makes the system call; that happens once.
        before_call: it must run before the system call is made.
        because: name of the work that must have been found before; "" for no such condition.
        returns: ``frame`` if its value is the frame's address, ``number`` if it is the number of
            the call to make, "" otherwise.
        moves_frame: it copies the frame from the entry stack to the task stack.
        nonzero: facts that hold where it returns something else than zero, as
            (slot, mask, bits), or (slot, 0, number of bits) for a canonical address.
        shared: symbol that the function is reached by through a pointer (``*rbx``), or "".
    """

    symbols: tuple[str, ...]
    frame: str = "none"
    arguments: tuple[str, ...] = ()
    modifies: tuple[str, ...] = ()
    sets: tuple[tuple[str, int], ...] = ()
    interrupts: str = "any"
    returns_interrupts: str = "same"
    dispatches: bool = False
    before_call: bool = False
    because: str = ""
    returns: str = ""
    moves_frame: bool = False
    nonzero: tuple[tuple[str, int, int], ...] = ()
    shared: str = ""


@dataclass(frozen=True, slots=True)
class Helper:
    """An assembly helper that is not in the image, or is not to be followed.

    Attributes:
        symbols: its names.
        does: ``return`` (a return thunk), ``jump REGISTER`` (an indirect thunk), or ``clobber``.
        clobbers: hardware numbers of the registers that it changes.
    """

    symbols: tuple[str, ...]
    does: str
    clobbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DispatchTable:
    """A table of handlers.

    Attributes:
        symbol: where it is.
        abi: ``64`` or ``x32``.
        marker_bit: bit that must have been set in the number, and cleared; None for none.
        stub_prefix: what the name of an assembly stub has before the name of the handler that
            it leads to.
        optional: whether a linked image may lack it.
        place: where the contract names it.
    """

    symbol: str
    abi: str
    marker_bit: int | None
    stub_prefix: str = "stub_"
    optional: bool = False
    place: Place = _NOWHERE


@dataclass(frozen=True, slots=True)
class WayIn:
    """A way into the image.

    Attributes:
        symbol: the first instruction; with ``by`` = ``call``, the tables whose assembly stubs C
            calls.
        by: one of :data:`WAYS_IN`.
        bits: 32 where user code is 32-bit: only low halves of registers count.
        slots: what C is to find in a slot where it is not the user's value of that register: a
            number, the name of another of the user's registers, or ``live flags``.
        canonical_ip: whether the user's ip is canonical by the platform's promise.
        brings: work that has to be done on every path from here.
        flags: (hardware number, name) of registers whose being zero or not announces work, under
            that name.
        optional: whether a linked image may lack it.
        dispatches: whether every path from here makes the system call.
        place: where the contract names it.
    """

    symbol: str
    by: str
    bits: int = 64
    slots: tuple[tuple[str, str | int], ...] = ()
    canonical_ip: bool = False
    brings: tuple[str, ...] = ()
    flags: tuple[tuple[int, str], ...] = ()
    optional: bool = False
    dispatches: bool = False
    place: Place = _NOWHERE


@dataclass(frozen=True, slots=True)
class WayOut:
    """What must hold where an instruction leaves for user mode.

    Attributes:
        instruction: one of :data:`WAYS_OUT`.
        registers: for a register (by its slot) other slots or numbers that it may hold instead
            of its own slot's value.
        cs: the code selector that the instruction loads; None if it takes it from the stack.
        ss: likewise.
    """

    instruction: str
    registers: tuple[tuple[str, tuple[str | int, ...]], ...] = ()
    cs: int | None = None
    ss: int | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """Everything that is promised, and demanded, of one kind of image.

    Attributes:
        name: what the command line calls it.
        summary: one sentence.
        path: where it was read from.
        frame_offset_bytes: from the task stack's top to the frame's first slot.
        invariants: (slot, mask, bits) that hold in the frame whatever C does.
        words: memory that entry code reads.
        writable: symbols that entry code may write to.
        ways_in: where user mode enters.
        ways_out: by instruction.
        functions: the C functions.
        helpers: assembly helpers.
        tables: dispatch tables.
        annotations: system-call table (packaged name or file) whose annotations say which
            handlers need the full frame.
        handler: what is true of every handler: a :class:`Function` without symbols.
        work: what thread flags announce.
        features: names of the CPU features of alternatives, by number.
        decided: features that are known to be there, or not.
        cr3_feature: the feature that separates user's page tables from the kernel's, or "".
        ac_feature: the feature that makes AC matter to C code; "" where it always does.
        canonical_bits: feature name ("" for none) to the number of virtual-address bits.
        harmless_msrs: model-specific registers that entry code may write.
    """

    name: str
    summary: str
    path: str
    frame_offset_bytes: int
    invariants: tuple[tuple[str, int, int], ...]
    words: tuple[Word, ...]
    writable: tuple[str, ...]
    ways_in: tuple[WayIn, ...]
    ways_out: dict[str, WayOut]
    functions: tuple[Function, ...]
    helpers: tuple[Helper, ...]
    tables: tuple[DispatchTable, ...]
    annotations: str
    handler: Function
    work: tuple[Work, ...]
    features: dict[str, int]
    decided: dict[str, bool] = field(default_factory=dict)
    cr3_feature: str = ""
    ac_feature: str = ""
    canonical_bits: dict[str, int] = field(default_factory=dict)
    harmless_msrs: tuple[int, ...] = ()
