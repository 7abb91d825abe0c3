"""What to choose from a sweep: the fastest setting, the largest rate, the batch, its rate."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from ttp_jax.sampling import steps_per_epoch
from ttp_jax.sweep import Setting, Sweep, Times
from ttp_jax.types import InputError

USEFUL = 1.1
"""A batch is as good as a larger one if it takes at most so many times its steps."""

Index = tuple[int, ...]
"""Place in the arrays of a sweep."""


@dataclass(frozen=True)
class Choice:
    """A setting and what it takes to the threshold."""

    index: Index
    setting: Setting
    steps: int
    samples: int
    """Steps times the batch: the computation, up to that of one sample."""


def fastest(
    sweep: Sweep,
    times: Times,
    by: Literal["steps", "samples"],
    *,
    batch_size: int | Literal["any"] | None = "any",
    largest_rate: float = np.inf,
) -> Choice | None:
    """The stable setting that meets the threshold first; the smaller rate of two equals.

    Args:
        sweep: The predicted curves.
        times: Of these, to the threshold.
        by: ``"steps"`` where a larger batch takes no longer (many devices), ``"samples"``
            where a step takes as long as its batch is large (one).
        batch_size: Of the settings to choose from.
        largest_rate: Of these; above it none is chosen.

    Returns:
        ``None`` where no stable setting gets there.
    """
    sizes = np.array([size or sweep.n for size in sweep.grid.batch_sizes])
    samples = times.steps * sizes[:, None, None]
    rates = np.array(sweep.grid.learning_rates)
    low = rates <= largest_rate
    allowed = sweep.stable & ~times.censored & low[:, None, None, None, None]
    if batch_size != "any":
        here = np.array([size == batch_size for size in sweep.grid.batch_sizes])
        allowed &= here[:, None, None]
    if not allowed.any():
        return None
    cost = np.where(allowed, times.steps if by == "steps" else samples, np.inf)
    first = min(np.argwhere(cost == cost.min()).tolist(), key=lambda i: rates[i[0]])
    index = tuple(first)
    return Choice(
        index, sweep.grid.setting(index), int(times.steps[index]), int(samples[index])
    )


def largest_stable_rates(sweep: Sweep) -> list[list[float | None]]:
    """Of each momentum and batch size, the largest rate below which all rates are stable.

    At the greatest length, of a constant schedule where the grid has one; ``None`` where the
    smallest rate is not stable.
    """
    grid = sweep.grid
    schedule = grid.schedules.index("constant") if "constant" in grid.schedules else 0
    length = int(np.argmax(grid.epochs))
    order = np.argsort(grid.learning_rates)
    stable = sweep.stable[order, :, :, schedule, length]
    count = np.cumprod(stable, axis=0).sum(axis=0)
    rates = [None, *(float(grid.learning_rates[k]) for k in order)]
    return [[rates[k] for k in row] for row in count]


@dataclass(frozen=True)
class Scaling:
    """What larger batches buy, each at the best of all other options of the grid."""

    best: tuple[Choice | None, ...]
    """Of each batch size, smallest first; ``None`` where none gets there."""
    useful: int | None
    """See :func:`useful_batch`; ``None`` where no batch gets there."""
    critical: float | None
    """See :func:`critical_batch`."""


def scaling(sweep: Sweep, times: Times) -> Scaling:
    """Steps to the threshold over the batch size."""
    order = sorted(sweep.grid.batch_sizes, key=lambda size: size or sweep.n)
    best = tuple(fastest(sweep, times, "steps", batch_size=size) for size in order)
    there = [choice for choice in best if choice is not None]
    if not there:
        return Scaling(best, None, None)
    sizes = np.array([choice.setting.batch_size or sweep.n for choice in there])
    steps = np.array([choice.steps for choice in there], float)
    return Scaling(best, useful_batch(sizes, steps), critical_batch(sizes, steps))


def useful_batch(sizes: Int[np.ndarray, " s"], steps: Float[np.ndarray, " s"]) -> int:
    """The smallest batch whose steps are within :data:`USEFUL` of the fewest of all."""
    return int(sizes[steps <= USEFUL * steps.min()].min())


def critical_batch(
    sizes: Int[np.ndarray, " s"], steps: Float[np.ndarray, " s"]
) -> float | None:
    """``B_crit = E_min/S_min`` of ``S(B) = S_min (1 + B_crit/B)``.

    McCandlish et al. (arXiv 1812.06162); by least squares of relative errors on ``1/B``. There
    steps and samples are both twice their least.

    Returns:
        ``None`` with fewer than two batch sizes, or where steps do not fall with the batch.
    """
    if len(sizes) < 2:
        return None
    # Relative errors: a step more of ten is as much as ten of a hundred.
    slope, least = np.polyfit(1 / sizes, steps, 1, w=1 / np.maximum(steps, 1))
    return float(slope / least) if slope > 0 and least > 0 else None


def paired_rate(sweep: Sweep, index: Index, batch_size: int | None) -> float:
    """The rate of the grid at which another batch size gives the curve of a setting.

    The one whose log loss over epochs is nearest in the mean square; momentum, schedule and
    length stay. Without noise it is the one of the same rate a sample, ``eta/B``.

    Raises:
        InputError: A batch size that the grid does not have.
    """
    if batch_size not in sweep.grid.batch_sizes:
        raise InputError(
            f"batch size must be one of the grid ({list(sweep.grid.batch_sizes)}), got "
            f"{batch_size}"
        )
    wanted = sweep.curve(index)
    other = list(sweep.grid.batch_sizes).index(batch_size)

    def epochs(steps: np.ndarray, size: int | None) -> np.ndarray:
        return steps / steps_per_epoch(sweep.n, size)

    at = epochs(wanted.steps, sweep.grid.setting(index).batch_size)
    apart = []
    for k in range(len(sweep.grid.learning_rates)):
        curve = sweep.curve((k, index[1], other, *index[3:]))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            logs = np.interp(at, epochs(curve.steps, batch_size), np.log(curve.loss))
            apart.append(np.mean((logs - np.log(wanted.loss)) ** 2))
    nearest = int(np.argmin(np.nan_to_num(apart, nan=np.inf)))
    return float(sweep.grid.learning_rates[nearest])
