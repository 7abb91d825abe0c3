"""A task whose groups of weights have rates of their own: predicted and really run."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import bench
from ttp_jax import outputs, schedules, study
from ttp_jax.accelerators import ensemble
from ttp_jax.accelerators import sparsity as masks_of
from ttp_jax.accelerators.sparsity import Sparsity
from ttp_jax.dynamics.grouped import GroupedPath
from ttp_jax.groups import Groups, grouped
from ttp_jax.linearisation import grouped_prediction, stage_costs
from ttp_jax.optimizers import SGD
from ttp_jax.reading import Keep
from ttp_jax.types import Curve, Task


@dataclass(frozen=True)
class Setting:
    """A task, linearised, with what every stage costs."""

    built: study.Built
    groups: Groups
    start: grouped_prediction.Linearised
    costs: list[stage_costs.StageCost]
    sgd: SGD
    seed: int

    @property
    def task(self) -> Task:
        """What is trained."""
        return self.built.task

    def asked(self) -> dict[str, Any]:
        """What both sides are asked for."""
        steps = self.built.steps
        return {"steps": steps, "seed": self.seed, "every": self.built.every}

    def by(self, rates: np.ndarray) -> SGD:
        """The optimiser by these rates."""
        return dataclasses.replace(self.sgd, learning_rate=rates)

    def alike(self, rates: np.ndarray) -> np.ndarray:
        """A schedule over steps as one that is the same for all groups."""
        return np.repeat(rates[:, None], self.groups.count, axis=1)


def setting(
    built: study.Built, config: study.Config, sparsity: Sparsity | None = None
) -> Setting:
    """The task of a configuration, its masks on it where there are some; they must stay."""
    sgd = built.sgd
    assert isinstance(sgd, SGD)
    task, moving = masks_of.settled(built.task, sparsity)
    assert moving is None
    groups = grouped(task.apply_fn, task.params, task.x)
    shares = study.kernel_of(config).of(task, groups=groups).shares
    assert shares is not None
    start = grouped_prediction.linearised(task, groups, shares, decayed=False)
    each = dataclasses.replace(sgd, learning_rate=np.triu(np.ones((groups.count,) * 2)))
    costs = stage_costs.stage_costs(task, each, groups, steps=groups.count)
    built = dataclasses.replace(built, task=task)
    return Setting(built, groups, start, costs, sgd, config.seed)


def plain_rates(schedule: str, rate: float, steps: int) -> np.ndarray:
    """Of a plain run."""
    return schedules.cosine(rate, steps) if schedule == "cosine" else np.full(steps, rate)


@dataclass(frozen=True)
class Both:
    """A run on both sides."""

    told: dict[str, Any]
    """By side: quality at the end, operations and seconds."""
    curves: dict[str, Curve]
    path: GroupedPath
    """As predicted."""


def both(
    on: Setting,
    rates: np.ndarray,
    real: Curve,
    *,
    keep: Keep = (),
    averaged: int = 1,
) -> Both:
    """What is told of both sides of a run.

    Args:
        on: The task.
        rates: ``[T, G]``, which ``real`` was run by.
        real: With these models kept.
        keep: Steps whose models are kept, the end among them; it alone by default.
        averaged: The last so many of them are averaged.
    """
    steps = on.built.steps
    keep = keep if len(keep) else [steps]
    path = grouped_prediction.simulated(on.start, on.by(rates), keep=keep, **on.asked())
    stages = stage_costs.at_other_steps(on.costs, rates)
    forward = outputs.forward_flops(on.task.apply_fn, on.task.params, on.task.x)
    whole = 3 * forward * (on.sgd.batch_size or on.task.n)
    operations, seconds = (
        stage_costs.spent(stages, whole, steps, seconds=wanted)[path.steps]
        for wanted in (False, True)
    )
    readings = path.curves[0]
    predicted = Curve(
        path.steps, readings.loss, readings.accuracy, seconds, operations=operations
    )
    ended = real.kept is not None and len(real.kept.steps) == len(keep)
    ends = {
        "predicted": path.kept.outputs[-averaged:],
        "measured": real.kept.outputs[-averaged:] if ended and real.kept else None,
    }
    curves = {"predicted": predicted, "measured": real}
    told = {side: _told(on, curve, ends[side]) for side, curve in curves.items()}
    return Both(told, curves, path)


def _told(on: Setting, curve: Curve, ends: np.ndarray | None) -> dict[str, Any]:
    assert curve.operations is not None
    end = None
    if ends is not None:
        end = ends[0] if len(ends) == 1 else ensemble.combined(on.task.loss, ends)
    return {
        "quality": bench.quality(on.task, end),
        "operations": float(curve.operations[-1]),
        "seconds": float(curve.seconds[-1]),
    }
