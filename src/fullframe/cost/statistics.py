"""Medians and spreads of samples with outliers, and what may be concluded from them.

A shared machine interrupts: a few samples are far too long. So the highest and the lowest eighth
are dropped before the median is taken, and the spread is what the rest extends over, the
inter-octile range. A difference is told only if it is larger than its spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RESOLVED = "difference resolved"
TOO_NOISY = "too noisy to tell"


@dataclass(frozen=True, slots=True)
class LiveMeasurement:
    """What one path took, measured.

    Attributes:
        median_cycles_tsc: time-stamp cycles of one entry, the loop around it included.
        spread_cycles_tsc: inter-octile range of all samples, at all alignments.
        samples: how many.
        by_alignment: the median by the entry symbol's offset within 64 bytes.
    """

    median_cycles_tsc: float
    spread_cycles_tsc: float
    samples: int
    by_alignment: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class LiveDifference:
    """What one path took more than another, measured pairwise, each pair in the same round.

    Attributes:
        median_cycles_tsc: time-stamp cycles of one entry; negative: it took less.
        spread_cycles_tsc: inter-octile range over the rounds, or the range over the alignments,
            whichever is larger.
        samples: how many rounds.
        by_alignment: the median by the entry symbols' offset within 64 bytes.
        verdict: :data:`RESOLVED` if the difference is larger than its spread, else
            :data:`TOO_NOISY`.
    """

    median_cycles_tsc: float
    spread_cycles_tsc: float
    samples: int
    by_alignment: Mapping[int, float]
    verdict: str

    @property
    def resolved(self) -> bool:
        """Whether the difference is larger than its spread."""
        return self.verdict == RESOLVED


def octile_trimmed(values: Sequence[float]) -> list[float]:
    """Return the values in order without the lowest and the highest eighth (rounded down)."""
    ordered = sorted(values)
    drop = len(ordered) // 8
    return ordered[drop : len(ordered) - drop]


def trimmed_median(values: Sequence[float]) -> float:
    """Return the median of what :func:`octile_trimmed` leaves.

    Raises:
        statistics.StatisticsError: no values.
    """
    return statistics.median(octile_trimmed(values))


def inter_octile_range(values: Sequence[float]) -> float:
    """Return how far apart the lowest and the highest value are that are not trimmed away."""
    trimmed = octile_trimmed(values)
    return trimmed[-1] - trimmed[0]


def measurement(by_alignment: Mapping[int, Sequence[float]]) -> LiveMeasurement:
    """Summarize the samples of one path.

    Args:
        by_alignment: alignment offset in bytes to the samples at it, in the order of the rounds.

    Returns:
        The median over the alignments of their medians, and the spread over everything.
    """
    medians = {offset: trimmed_median(samples) for offset, samples in by_alignment.items()}
    pooled = [sample for samples in by_alignment.values() for sample in samples]
    return LiveMeasurement(
        statistics.median(medians.values()), inter_octile_range(pooled), len(pooled), medians
    )


def difference(
    longer: Mapping[int, Sequence[float]], shorter: Mapping[int, Sequence[float]]
) -> LiveDifference:
    """Summarize how much more one path took than another.

    Args:
        longer: alignment offset in bytes to samples, in the order of the rounds.
        shorter: the same of the other path, measured in the same rounds at the same alignments.

    Returns:
        The difference and whether it can be told.
    """
    paired = {
        offset: [one - other for one, other in zip(longer[offset], shorter[offset], strict=True)]
        for offset in longer
    }
    medians = {offset: trimmed_median(values) for offset, values in paired.items()}
    # One value a round: the median over the alignments, which shift the result by as much as the
    # work that is measured does.
    rounds = [statistics.median(values) for values in zip(*paired.values(), strict=True)]
    median = trimmed_median(rounds)
    spread = max(inter_octile_range(rounds), max(medians.values()) - min(medians.values()))
    verdict = RESOLVED if abs(median) > spread else TOO_NOISY
    return LiveDifference(median, spread, len(rounds), medians, verdict)
