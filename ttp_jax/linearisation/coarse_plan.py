"""How a coarse run is divided into steps, and what it costs.

Noise of batches and the length of steps make coarse curves late, so the run is never followed
once. Where its steps are longer than those of training, it is gone by half of them as well, and
its first part once more by shorter ones: losses fall fastest there, where a step of the whole
run is longest beside what has been gone. Where they are not longer, batches are small, and it
is gone again by both halves of every batch: their noise is twice as large and cancels in the
mean (antithetic coupling: Giles and Szpruch, arXiv 1202.6283), but for the bias it leaves.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ttp_jax.linearisation import few_readings
from ttp_jax.optimizers import SGD
from ttp_jax.types import InputError, Task

BATCH = 5
"""Samples a step, or more where the run itself has no more steps: for as many gradients in all,
small batches make more and shorter steps, which is the more stable."""
FIRST = 8
"""The first of so many parts of the run is followed once more, by half of the gradients."""
PLACES = 9
"""So often the loss is read, the start and the end with it."""
WHOLE = (0.0, 0.25, 0.5, 1.0)
"""At these shares of the places of the finest run all samples are read, elsewhere a few. All
are read at every place of it where that is no more work than its gradients."""
CLUSTERED = 1.7
"""Power by which the places lie nearer to the start, where curves are steep."""
AVERAGED = 0.05
"""The weights are read as their mean over this share of the run before and after a place,
which takes out what single batches do."""


class Steps(NamedTuple):
    """How a part of a run is gone."""

    count: int
    """``K``."""
    batch: int
    """Samples in each."""
    of: int
    """Steps of training, from the first one, that they stand for."""

    @property
    def extra(self) -> int:
        """Steps beyond the end, for the mean of the weights there."""
        return round(AVERAGED * self.count)

    @property
    def gradients(self) -> int:
        """Of single samples."""
        return self.batch * (self.count + self.extra)

    def __str__(self) -> str:
        return f"{self.count} steps of {self.batch} samples"


class Plan(NamedTuple):
    """The runs that a coarse one is made of."""

    whole: Steps
    """All of the run."""
    coarser: tuple[Steps, ...]
    """All of it by half as many gradients: once by half of the steps, or twice by as many."""
    first: Steps | None
    """Its first part; ``None`` where steps are as many as those of training, or few."""

    @property
    def steps(self) -> int:
        """Of all runs."""
        return sum(one.count for one in self.runs)

    @property
    def runs(self) -> tuple[Steps, ...]:
        """In the order in which they are gone."""
        return (self.whole, *self.coarser, *([self.first] if self.first else []))

    def __str__(self) -> str:
        parts = [str(self.whole), *map(str, self.coarser)]
        if self.first:
            parts.append(f"{self.first} for the first {self.first.of}")
        return ", ".join(parts)


def plan(task: Task, sgd: SGD, *, steps: int, passes: int | float) -> Plan:
    """How a run of ``steps`` is followed by gradients of ``passes`` passes over the samples.

    So many has the finest; the runs beside it have as many again.

    Raises:
        InputError: Too few for a curve, or as many gradients as the run itself takes.
    """
    own = sgd.batch_size or task.n
    least, most = 2 * PLACES / task.n, steps * own / task.n
    if not least <= passes < most:
        raise InputError(
            f"coarse must lie in [{least:.3g}, {most:.3g}) passes over the samples (two steps "
            f"for each reading, and fewer gradients than the run), got {passes}"
        )
    gradients = float(passes * task.n)
    whole = _divided(gradients, steps, own)
    if whole.count == steps:
        return Plan(whole, (whole._replace(batch=whole.batch // 2),) * 2, None)
    half = whole._replace(count=whole.count // 2)
    part = steps // FIRST
    return Plan(whole, (half,), _divided(0.5 * gradients, part, own) if part else None)


def _divided(gradients: float, steps: int, own: int) -> Steps:
    """In no more steps than the run takes, and by no larger batches."""
    batch = max(1, round(min(BATCH, gradients / (2 * PLACES))))
    if gradients < batch * steps:
        return Steps(min(steps, max(2 * PLACES, round(gradients / batch))), batch, steps)
    # An even number has two halves.
    return Steps(steps, min(own, 2 * max(1, round(gradients / steps / 2))), steps)


def passes_of(task: Task, planned: Plan) -> int:
    """Forward passes of single samples that the runs of a plan take, readings with them."""
    sizes = few_readings.sizes(task)
    few = sum(few_readings.few(size) for size in sizes)
    count = len(read_whole(task, planned.whole))
    found = 3 * planned.whole.gradients + count * sum(sizes)
    found += (len(places(planned.whole.count)) - count) * few
    for other in planned.runs[1:]:
        found += 3 * other.gradients + len(places(other.count)) * few
    return found


def places(count: int) -> Int[np.ndarray, " places"]:
    """Steps of a coarse run at which it is read, the first and the last with them."""
    return np.unique(np.round(count * np.linspace(0, 1, PLACES) ** CLUSTERED).astype(int))


def read_whole(task: Task, taken: Steps) -> list[int]:
    """Which places of the finest run are read of all samples."""
    at = np.arange(len(places(taken.count)))
    if len(at) * sum(few_readings.sizes(task)) <= 3 * taken.batch * taken.count:
        return at.tolist()
    return np.unique(np.round(np.array(WHOLE) * at[-1]).astype(int)).tolist()


def progress(sgd: SGD, steps: int) -> Float[np.ndarray, " T1"]:
    """How far a constant gradient has moved the weights after each step: ``s_0 .. s_T``.

    ``s_t = sum_k eta_k m_k`` with ``m_k = mu m_{k-1} + 1`` and ``m_{-1} = 0``; of Nesterov's
    form ``1 + mu m_k`` in the place of ``m_k``. After ``1/(1 - mu)`` steps a step so goes
    ``eta/(1 - mu)`` of the gradient flow.
    """
    moved, m = [0.0], 0.0
    for eta in sgd.learning_rates(steps):
        m = sgd.momentum * m + 1.0
        moved.append(moved[-1] + eta * (1.0 + sgd.momentum * m if sgd.nesterov else m))
    return np.array(moved)


def coarse_optimizer(sgd: SGD, taken: Steps, way: Float[np.ndarray, " T1"]) -> SGD:
    """How the steps of a coarse run are taken, in the place of those of training.

    A step is as long as ``h = t/K`` of them, so that momentum forgets as fast,
    ``1 - mu_K = min(1, h (1 - mu))``, and ``s_K`` of :func:`progress` is ``s_t``: of the
    heavy ball's ``w'' = -(1 - mu) w' - eta grad L`` both follow the same path, and where the
    minimum is 1 that of the gradient flow.

    Args:
        sgd: Of training.
        taken: ``K``, the size of the batches, and ``t``.
        way: ``s_0 .. s_T`` of training.
    """
    momentum = max(0.0, 1.0 - (1.0 - sgd.momentum) * taken.of / taken.count)
    unit = progress(SGD(1.0, momentum), taken.count)[-1]
    return SGD(
        float(way[taken.of] / unit),
        momentum,
        weight_decay=sgd.weight_decay,
        decay_toward=sgd.decay_toward,
        batch_size=taken.batch,
    )
