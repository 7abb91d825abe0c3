"""When to freeze, chosen from predictions alone."""

from dataclasses import dataclass, replace

import numpy as np

from ttp_jax import outputs
from ttp_jax.accelerators.freezeout import FreezeOut, floor, frozen_at
from ttp_jax.linearisation import stage_costs
from ttp_jax.linearisation.grouped_prediction import Linearised, simulated
from ttp_jax.optimizers import SGD
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve

CANDIDATES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Values of ``t_0`` that are tried."""


@dataclass(frozen=True)
class Tried:
    """One way to freeze, as predicted."""

    freeze: FreezeOut
    operations: float
    """Of the whole run."""
    operations_to: float | None
    """To the threshold; ``None`` where it is not reached."""
    loss: float
    """At the end."""


def tried(
    start: Linearised,
    sgd: SGD,
    *,
    alpha: float,
    steps: int,
    epsilon: float,
    how: str = "cubic",
    scaled: bool = True,
    seed: int = 0,
    every: int = 1,
    candidates: tuple[float, ...] = CANDIDATES,
) -> list[Tried]:
    """Runs that freeze at different times, predicted from one kernel.

    Args:
        start: The task, linearised.
        sgd: The optimiser, but for its rates.
        alpha: Rate that FreezeOut begins with.
        steps: ``T``.
        epsilon: The threshold, as a fraction of the initial loss.
        how: As for :class:`ttp_jax.accelerators.freezeout.FreezeOut`.
        scaled: As there.
        seed: Of the stream of mini-batches.
        every: Read the curve every so many steps.
        candidates: ``t_0`` of each.

    Cost: for each candidate a pass of the dynamics; and tracing each stage that there can be.
    """
    task, groups = start.task, start.groups
    whole = (
        3
        * outputs.forward_flops(task.apply_fn, task.params, task.x)
        * (sgd.batch_size or task.n)
    )
    # A run in which every group has a stage.
    each = replace(sgd, learning_rate=np.triu(np.ones((groups.count,) * 2)))
    costs = stage_costs.stage_costs(task, each, groups, steps=groups.count, timed=False)
    found = []
    for t0 in candidates:
        freeze = FreezeOut(t0, how, scaled)  # type: ignore[arg-type]
        by = replace(sgd, learning_rate=freeze.rates(alpha, steps, groups.count))
        path = simulated(start, by, steps=steps, seed=seed, every=every)
        stages = stage_costs.at_other_steps(costs, by.grouped_rates(steps, groups.count))
        spent = stage_costs.spent(stages, whole, steps)[path.steps]
        nothing = np.zeros(len(path.steps))
        curve = Curve(path.steps, path.curves[0].loss, nothing, spent)
        # Of a curve whose seconds are operations.
        reached = time_to_threshold(curve, epsilon, "fraction_of_initial").seconds
        found.append(Tried(freeze, float(spent[-1]), reached, float(curve.loss[-1])))
    return found


def cheapest(of: list[Tried]) -> Tried:
    """The one with the fewest operations to the threshold; of equals the one freezing least.

    Where none reaches it, the one with the lowest loss.
    """
    there = [each for each in of if each.operations_to is not None]
    if there:
        return min(there, key=lambda each: (each.operations_to, -each.freeze.t0))
    return min(of, key=lambda each: (np.nan_to_num(each.loss, nan=np.inf), -each.freeze.t0))


def floors(
    start: Linearised, sgd: SGD, *, steps: int, seed: int = 0
) -> list[tuple[int, float]]:
    """Steps at which anything freezes, and the loss that no later step gets below (MSE).

    :func:`ttp_jax.accelerators.freezeout.floor` of the residual there and the kernels of the
    groups that go on.
    """
    rates = sgd.grouped_rates(steps, start.groups.count)
    frozen = frozen_at(rates)
    freezes = np.flatnonzero(np.diff(frozen)) + 1
    if not len(freezes):
        return []
    path = simulated(start, sgd, steps=steps, seed=seed, every=steps, keep=freezes)
    n, y = start.task.n, start.task.targets
    return [
        (int(step), floor(start.own[frozen[step] :].sum(0), f[:n] - y))
        for step, f in zip(freezes, path.kept.outputs, strict=True)
    ]
