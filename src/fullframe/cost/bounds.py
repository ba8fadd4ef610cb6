"""A lower bound, in core cycles, of a path on each microarchitecture, with its sources.

What a core can rename, load, store and branch in a cycle is limited; a path that needs so much of
each cannot take fewer cycles than the most contended of them needs. It is a bound of throughput:
latencies, cache misses, mispredictions and the cost of microcode come on top, and are not in it.
The figures, each with its source, are in ``data/microarchitectures.toml``.

How µops are counted, so that the bound stays one:

* Every instruction is at least one fused-domain µop (macro-op on AMD). ``push`` of a register and
  ``pop`` of one are exactly that: the stack engine takes the update of the stack pointer off the
  µops, and so it is for ``call`` and ``ret``.
* Where a store is always a µop of its own (Intel), an instruction that stores and also loads,
  branches or reads, modifies and writes is two: ``push`` of memory, ``pop`` to memory, ``call``,
  ``add`` to memory. On AMD one macro-op may do all that, and counts one.
* A conditional jump right after an instruction that the core may fuse it with counts none, even
  where the core would not fuse the pair.
* Microcoded and serialising instructions (SWAPGS, SYSCALL, SYSRET, IRET, CLI, STI, locked and
  repeated ones, and everything else privileged) count one µop and their accesses to memory. They
  cost tens of cycles more; :attr:`Demand.undercounted` names them. Two ways out that execute the
  same ones differ by the rest.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources

from iced_x86 import FlowControl, Formatter, FormatterSyntax, Instruction, Mnemonic

from fullframe.cost.path import decoded, memory_accesses
from fullframe.x86.trace import TracedInstruction

_BRANCHES = frozenset(
    {
        FlowControl.UNCONDITIONAL_BRANCH,
        FlowControl.INDIRECT_BRANCH,
        FlowControl.CONDITIONAL_BRANCH,
        FlowControl.RETURN,
        FlowControl.CALL,
        FlowControl.INDIRECT_CALL,
    }
)

#: Instructions that are microcoded or serialise although they are not privileged
#: (Intel SDM vol. 3, "Serializing Instructions"; the instruction tables of Agner Fog).
_MICROCODED = frozenset(
    {
        Mnemonic.SYSCALL, Mnemonic.SYSENTER, Mnemonic.INT, Mnemonic.INT1, Mnemonic.INT3,
        Mnemonic.IRET, Mnemonic.IRETD, Mnemonic.IRETQ, Mnemonic.CPUID, Mnemonic.RDTSC,
        Mnemonic.RDTSCP, Mnemonic.LFENCE, Mnemonic.MFENCE, Mnemonic.SFENCE, Mnemonic.POPFQ,
        Mnemonic.POPFD, Mnemonic.PUSHFQ, Mnemonic.PUSHFD, Mnemonic.ENTER, Mnemonic.VERW,
        Mnemonic.RDFSBASE, Mnemonic.RDGSBASE, Mnemonic.WRFSBASE, Mnemonic.WRGSBASE,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Microarchitecture:
    """What a core can do in a cycle; ``data/microarchitectures.toml`` describes each figure.

    Attributes:
        name: such as ``Sandy Bridge``.
        issue_uops: fused-domain µops a cycle.
        loads: loads a cycle.
        stores: stores a cycle.
        memory: loads and stores together a cycle.
        taken_branches: taken branches a cycle.
        store_is_own_uop: whether a store never shares its µop with another operation.
        fuses: mnemonics that a following conditional jump may fuse with.
        mca: llvm-mca's name of the core.
        mca_since: the first LLVM (major version) that has a model of this very core.
        source: for each figure by its name, where it is documented.
    """

    name: str
    issue_uops: int
    loads: int
    stores: int
    memory: int
    taken_branches: int
    store_is_own_uop: bool
    fuses: tuple[str, ...]
    mca: str
    mca_since: int
    source: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a path needs of a core.

    Attributes:
        uops: fused-domain µops, at least.
        loads: loads.
        stores: stores.
        taken_branches: taken branches.
        undercounted: the instructions that cost more than they count for, one entry an execution.
    """

    uops: int
    loads: int
    stores: int
    taken_branches: int
    undercounted: tuple[str, ...] = ()

    def beyond(self, other: Demand) -> Demand:
        """Return what this path needs more than another, each kind by itself, at least 0."""
        return Demand(
            max(0, self.uops - other.uops),
            max(0, self.loads - other.loads),
            max(0, self.stores - other.stores),
            max(0, self.taken_branches - other.taken_branches),
        )


@dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound and what it comes from.

    Attributes:
        cycles: core cycles that the path takes at least.
        limited_by: the resource that gives the bound: ``issue``, ``loads``, ``stores``,
            ``memory`` or ``taken branches``.
        by_resource: the cycles that each resource needs.
    """

    cycles: float
    limited_by: str
    by_resource: Mapping[str, float]


@cache
def microarchitectures() -> Mapping[str, Microarchitecture]:
    """Return every known core by its name, oldest first for each maker."""
    text = resources.files("fullframe.data").joinpath("microarchitectures.toml").read_text("utf-8")
    known = {}
    for entry in tomllib.loads(text)["core"]:
        values = {field.name: entry[field.name] for field in fields(Microarchitecture)}
        values["fuses"] = tuple(values["fuses"])
        known[entry["name"]] = Microarchitecture(**values)
    return known


def demand(path: Sequence[TracedInstruction], core: Microarchitecture, *, bits: int = 64) -> Demand:
    """Count what a path needs of a core.

    Args:
        path: the executed instructions. A conditional jump counts as taken if the next
            instruction is not the one behind it.
        core: the microarchitecture.
        bits: 64 or 32.

    Returns:
        The needs.

    Raises:
        InputError: an encoding is not exactly one instruction.
    """
    uops = loads = stores = taken = 0
    undercounted: list[str] = []
    before: Instruction | None = None
    instructions = list(decoded(path, bits=bits))
    for index, instruction in enumerate(instructions):
        read, written = memory_accesses(instruction)
        loads += read
        stores += written
        taken += _is_taken(instruction, instructions[index + 1 : index + 2])
        if _is_undercounted(instruction):
            undercounted.append(_mnemonic(instruction))
            uops += 1
        elif not _fuses(before, instruction, core):
            uops += _fewest_uops(instruction, read, written, core)
        before = instruction
    return Demand(uops, loads, stores, taken, tuple(undercounted))


def bound(needs: Demand, core: Microarchitecture) -> Bound:
    """Compute the lower bound of what a path needs, on one core."""
    by_resource = {
        "issue": needs.uops / core.issue_uops,
        "loads": needs.loads / core.loads,
        "stores": needs.stores / core.stores,
        "memory": (needs.loads + needs.stores) / core.memory,
        "taken branches": needs.taken_branches / core.taken_branches,
    }
    # The narrower resource where two give the same: "stores" says more than "memory".
    limited_by = max(by_resource, key=lambda name: by_resource[name])
    return Bound(by_resource[limited_by], limited_by, by_resource)


def cycles_bounds(path: Sequence[TracedInstruction], *, bits: int = 64) -> dict[str, float]:
    """Compute a path's lower bound on every core.

    Args:
        path: the executed instructions.
        bits: 64 or 32.

    Returns:
        Name of the core to core cycles.

    Raises:
        InputError: an encoding is not exactly one instruction.
    """
    return {
        core.name: bound(demand(path, core, bits=bits), core).cycles
        for core in microarchitectures().values()
    }


def difference_bounds(
    longer: Sequence[TracedInstruction], shorter: Sequence[TracedInstruction], *, bits: int = 64
) -> dict[str, float]:
    """Compute, on every core, what the extra needs of one path cost at least on their own.

    Args:
        longer: the path that does more.
        shorter: the path that it is compared with.
        bits: 64 or 32.

    Returns:
        Name of the core to core cycles: of the µops, loads, stores and branches that ``longer``
        has more of, were the rest of the path free. The difference of the two paths' own bounds
        may be smaller: where another resource limits a path, the extra work partly hides.

    Raises:
        InputError: an encoding is not exactly one instruction.
    """
    result = {}
    for core in microarchitectures().values():
        extra = demand(longer, core, bits=bits).beyond(demand(shorter, core, bits=bits))
        result[core.name] = bound(extra, core).cycles
    return result


def undercounted(path: Sequence[TracedInstruction], *, bits: int = 64) -> tuple[str, ...]:
    """Name the microcoded and serialising instructions of a path, in order, repeated ones too."""
    return tuple(_mnemonic(item) for item in decoded(path, bits=bits) if _is_undercounted(item))


#: Intel's syntax, since its mnemonics carry no suffix of the operand's size.
_formatter = Formatter(FormatterSyntax.INTEL)


def _mnemonic(instruction: Instruction) -> str:
    return _formatter.format_mnemonic(instruction).split()[-1]  # without rep, lock


def _is_undercounted(instruction: Instruction) -> bool:
    return (
        instruction.is_privileged
        or instruction.mnemonic in _MICROCODED
        or instruction.has_lock_prefix
        or instruction.has_rep_prefix
        or instruction.has_repne_prefix
    )


def _is_taken(instruction: Instruction, following: Sequence[Instruction]) -> bool:
    if instruction.flow_control not in _BRANCHES or _is_undercounted(instruction):
        return False
    if instruction.flow_control != FlowControl.CONDITIONAL_BRANCH:
        return True
    return bool(following) and following[0].ip != instruction.next_ip


def _fuses(before: Instruction | None, instruction: Instruction, core: Microarchitecture) -> bool:
    return (
        before is not None
        and instruction.flow_control == FlowControl.CONDITIONAL_BRANCH
        and before.next_ip == instruction.ip
        and _mnemonic(before) in core.fuses
    )


def _fewest_uops(instruction: Instruction, loads: int, stores: int, core: Microarchitecture) -> int:
    branches = instruction.flow_control in _BRANCHES
    if core.store_is_own_uop and stores and (loads or branches):
        return 2
    return 1
