"""Build and run one strategy: the part of the comparison that needs no other strategy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fullframe.compare.six_registers import with_six_registers
from fullframe.cost.live import LiveVariant
from fullframe.entry.build import BuiltEntry, build_object
from fullframe.entry.generate import ENTRY_FILE
from fullframe.entry.prove.prove import prove_image
from fullframe.entry.prove.result import ProofReport
from fullframe.entry.strategy import Strategy
from fullframe.entry.verify import VerifiedStrategy, verify
from fullframe.table.model import Table
from fullframe.toolchain.find import Toolchain


@dataclass(frozen=True, slots=True)
class Job:
    """One strategy to examine; made to be handed to another process.

    Attributes:
        strategy: which.
        table: the system-call table.
        toolchain: what to build with.
        directory: where the files go; each strategy gets a directory of its own in it.
        seed: of the scenarios.
        with_six_registers: whether to build the fast path with the six registers as well.
    """

    strategy: Strategy
    table: Table
    toolchain: Toolchain
    directory: Path
    seed: int
    with_six_registers: bool = False


@dataclass(frozen=True, slots=True)
class Examined:
    """What became of it.

    Attributes:
        verified: the linked entry code, what the harness found, and the executed paths.
        proof: what was proved of the register frame at every C call and way out.
        variants: what to measure: the strategy itself, and its fast path with the six registers
            if that was asked for.
    """

    verified: VerifiedStrategy
    proof: ProofReport
    variants: tuple[LiveVariant, ...]


def examine(job: Job) -> Examined:
    """Build one strategy, run every call of the table under it, prove it, record its paths.

    Args:
        job: what to examine.

    Raises:
        InputError: the table has no 64-bit call, or the directory cannot be written.
        InputErrors: entry points that cannot be symbols.
        ToolFailedError: the toolchain refused generated code.
        UsageError: the table has no ordinary call.
    """
    verified = verify(
        job.table, job.toolchain, job.directory, strategies=(job.strategy,), seed=job.seed
    ).strategies[job.strategy.name]
    variants = [LiveVariant(job.strategy.name, verified.built.generated_objects)]
    if job.with_six_registers:
        variants.append(_with_six_registers(verified.built))
    proof = prove_image(verified.built.image_path, job.strategy.name, table=job.table)
    return Examined(verified, proof, tuple(variants))


def six_registers_variant(strategy_name: str) -> str:
    """Name the variant of a strategy whose fast path saves and loads the six registers."""
    return f"{strategy_name}-six-registers"


def _with_six_registers(built: BuiltEntry) -> LiveVariant:
    source = built.directory / "six_registers" / ENTRY_FILE
    source.parent.mkdir(exist_ok=True)
    source.write_text(with_six_registers(built.code.files[ENTRY_FILE]))
    changed = build_object(built.toolchain, source)
    objects = [
        changed if name == ENTRY_FILE else built.objects[name] for name in built.code.sources
    ]
    return LiveVariant(six_registers_variant(built.strategy.name), tuple(objects))
