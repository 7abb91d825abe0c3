"""A task with its kernel: any schedule of one optimiser, predicted and really run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ttp_jax import outputs, study
from ttp_jax.accelerators import diversity, ensemble, snapshot
from ttp_jax.accelerators.plan import Plan
from ttp_jax.dynamics.path import Places
from ttp_jax.dynamics.simulate import simulate
from ttp_jax.finetune import finetune
from ttp_jax.kernel.choice import Computed
from ttp_jax.optimizers import SGD
from ttp_jax.reading import read_steps
from ttp_jax.types import Curve, Params, Task

Side = Literal["predicted", "measured"]
SIDES: tuple[Side, ...] = ("predicted", "measured")
OTHER_HEADS = 1000
"""Added to a seed: heads that no run of a neighbouring seed has."""


@dataclass(frozen=True)
class Models:
    """What runs on one side have left, in their order."""

    outputs: np.ndarray
    """``[k, n + m, c]``."""
    gram: np.ndarray | None
    """Inner products of their moves (:class:`ttp_jax.types.Kept`), from one start alone."""
    weights: tuple[Params, ...]
    """Of real runs."""
    curve: Curve
    """Of the first run."""


@dataclass(frozen=True)
class _Head:
    """The task with one head, and what a prediction of it needs."""

    task: Task
    theta: np.ndarray
    f0: np.ndarray
    q0: np.ndarray
    size: float


class Bench:
    """Runs by plans, with the task's own head and mini-batches or with others.

    Args:
        config: The task; SGD without weight decay, on held-out pictures too.
    """

    def __init__(self, config: study.Config) -> None:
        self.seed = config.seed
        self.built = study.build(config)
        assert isinstance(self.built.sgd, SGD)
        self.sgd: SGD = self.built.sgd
        self._described = study.kernel_of(config)
        self.kernel = self._kernel(self.built.task)
        self._heads: dict[int, _Head] = {}

    @property
    def task(self) -> Task:
        """With its own head."""
        return self.built.task

    def _kernel(self, task: Task) -> Computed:
        budget = self.built.memory_budget_bytes
        return self._described.of(task, memory_budget_bytes=budget)

    def _head(self, seed: int) -> _Head:
        if seed not in self._heads:
            task, kernel = self.task, self.kernel
            if seed != self.seed:
                task = self.built.with_head(seed)
                kernel = self._kernel(task)
            q0 = outputs.jvp(task.apply_fn, task.params, task.x, task.params)
            self._heads[seed] = _Head(
                task=task,
                theta=kernel.theta[: q0.size],
                f0=outputs.at_the_start(task.apply_fn, task.params, task.joint.x),
                q0=q0.reshape(-1),
                size=float(outputs.gram_of_moves(task.params, ())[0, 0]),
            )
        return self._heads[seed]

    def run(self, side: Side, plan: Plan) -> Models | None:
        """The models that one run keeps; ``None`` where it loses the numbers."""
        return self._runs(side, plan, [self.seed], [self.seed])

    def restarts(
        self, side: Side, plan: Plan, count: int, *, other_heads: bool = False
    ) -> Models | None:
        """Those of independent runs, by other mini-batches, from the same start or others."""
        streams = [snapshot.restart_seed(self.seed, k) for k in range(count)]
        apart = OTHER_HEADS if other_heads else 0
        return self._runs(
            side, plan, streams, [self.seed + apart * k for k in range(count)]
        )

    def _runs(
        self, side: Side, plan: Plan, streams: Sequence[int], heads: Sequence[int]
    ) -> Models | None:
        one = self._predicted if side == "predicted" else self._measured
        found = [
            one(plan, stream, self._head(head))
            for stream, head in zip(streams, heads, strict=True)
        ]
        curves, kept = zip(*found, strict=True)
        f = np.concatenate([outputs for outputs, *_ in kept])
        if len(f) < len(plan.keep) * len(streams) or not np.isfinite(f).all():
            return None
        alike = len(set(heads)) == 1
        weights: tuple[Params, ...] = ()
        gram = None
        if side == "measured":
            weights = tuple(w for _, of_run in kept for w in of_run)
            if alike:
                gram = outputs.gram_of_moves(self._head(heads[0]).task.params, weights)
        elif alike:
            head = self._head(heads[0])
            places = Places(*map(np.concatenate, zip(*(p for _, p in kept), strict=True)))
            gram = places.gram(head.theta[:, : len(head.q0)], head.q0, head.size)
        return Models(f, gram, weights, curves[0])

    def _asked(self, plan: Plan, stream: int) -> dict[str, Any]:
        return {
            "steps": plan.steps,
            "seed": stream,
            "every": min(self.built.every, plan.steps),
            "keep": plan.keep,
        }

    def _measured(self, plan: Plan, stream: int, head: _Head):
        curve = finetune(head.task, plan.of(self.sgd), **self._asked(plan, stream))
        if curve.kept is None:
            return curve, (np.zeros((0, *head.f0.shape)), ())
        return curve, (curve.kept.outputs, curve.kept.weights)

    def _predicted(self, plan: Plan, stream: int, head: _Head):
        asked = self._asked(plan, stream)
        path = simulate(
            head.theta,
            head.f0,
            head.task.joint.targets,
            plan.of(self.sgd),
            loss=head.task.loss,
            **asked,
        )
        read = read_steps(plan.steps, asked["every"])
        curve = Curve(read, path.loss, path.accuracy, np.full(len(read), np.nan))
        assert path.places is not None
        return curve, (path.places.outputs, path.places)


def parts(task: Task) -> dict[str, tuple[slice, np.ndarray]]:
    """Places and targets of what is trained on, chosen on, and told.

    The latter two are halves of what is held out, in which classes take turns.
    """
    n, m, y = task.n, task.m, task.joint.targets
    cut = n + task.c * (m // task.c // 2)
    where = {
        "trained": slice(0, n),
        "chosen": slice(n, cut),
        "told": slice(cut, n + m),
    }
    return {name: (rows, y[rows]) for name, rows in where.items()}


def quality(task: Task, f: np.ndarray | None) -> dict[str, Any] | None:
    """Loss, accuracy and calibrated log-likelihood on each part; ``None`` of a lost run."""
    if f is None or not np.isfinite(f).all():
        return None
    return {
        name: _rounded(ensemble.quality(task.loss, f[rows], y))
        for name, (rows, y) in parts(task).items()
    }


def _rounded(found: ensemble.Quality | diversity.Apart) -> dict[str, Any]:
    """Its fields, to six digits: a record of many runs stays small."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in dataclasses.asdict(found).items()
    }


def averages(
    task: Task, found: dict[Side, Models | None]
) -> list[dict[Side, dict[str, Any] | None]]:
    """Quality of the average of the last ``m`` models, for ``m = 1, 2, ...``."""
    count = max(len(models.outputs) for models in found.values() if models is not None)

    def of(models: Models | None, last: int) -> dict[str, Any] | None:
        if models is None:
            return None
        return quality(task, ensemble.combined(task.loss, models.outputs[-last:]))

    return [
        {side: of(models, last) for side, models in found.items()}
        for last in range(1, count + 1)
    ]


def pairs(task: Task, found: dict[Side, Models | None]) -> list[dict[Side, dict[str, Any]]]:
    """How far apart the models are on what is told, pair by pair; none of a lost run."""
    rows, y = parts(task)["told"]
    sides = {}
    for side, models in found.items():
        if models is None:
            return []
        middles = None
        if models.weights and models.gram is not None:
            middles = diversity.outputs_between(task, models.weights)[:, rows]
        sides[side] = diversity.apart(
            task.loss, models.outputs[:, rows], y, gram=models.gram, middles=middles
        )
    return [
        {side: _rounded(pair) for side, pair in zip(sides, both, strict=True)}
        for both in zip(*sides.values(), strict=True)
    ]
