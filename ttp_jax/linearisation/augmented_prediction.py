"""The prediction of training on augmented pictures, from a few views of each.

Training sees a new view of every picture in every epoch. Here ``K`` views of each are drawn,
and epoch ``e`` trains on view ``e mod K``: the ``n K`` views are samples like any others, of
which a mini-batch takes those of its epoch, and the pictures themselves are only read, as held
out samples are. So the kernel of all views with all pictures is all that is needed, and the
dynamics are those of any other task.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ttp_jax import sampling
from ttp_jax.dynamics.segment import segment
from ttp_jax.optimizers import SGD
from ttp_jax.reading import Readings
from ttp_jax.types import Task, Trust

VIEWS = 4
"""So many views of each picture by default."""
SEEN = 0.05
"""Two predictions are compared until the loss has fallen to this share of the start."""
DOUBT_LIMIT = 0.2
"""Largest :class:`Doubt` that is trusted, in ``log L``: a choice, not calibrated."""


def epochs_of(task: Task, sgd: SGD, steps: int) -> int:
    """Epochs that a run begins: the most views that it can tell apart."""
    return -(-steps // sampling.steps_per_epoch(task.n, sgd.batch_size))


def widened(task: Task, sgd: SGD, *, views: int) -> tuple[Task, SGD]:
    """The task of all views, whose pictures are held out, and the optimiser that draws them.

    Args:
        task: With :attr:`ttp_jax.Task.views`.
        sgd: How it is trained.
        views: ``K``: those of the epochs ``0..K-1``.

    Returns:
        A task whose parts are the ``n K`` views, the ``n`` pictures and the held-out ones;
        and the optimiser whose mini-batches are views of the pictures that training draws.

    Raises:
        InputError: Views of another shape than the pictures.

    Memory: ``K`` times the pictures.
    """
    seen = [np.asarray(task.view(epoch)) for epoch in range(views)]
    read = [(np.asarray(part.x), part.targets) for part in task.parts]
    wide = dataclasses.replace(
        task,
        x=np.concatenate(seen),
        y=np.tile(task.targets, (views, 1)),
        held_out=(
            np.concatenate([x for x, _ in read]),
            np.concatenate([y for _, y in read]),
        ),
        apart=task.sizes,
        views=None,
    )
    stream = sampling.OfViews(_base(sgd), task.n, views)
    return wide, dataclasses.replace(
        sgd, batch_size=sgd.batch_size or task.n, sampling=stream
    )


def shape_of(task: Task, *, views: int) -> np.ndarray:
    """Inputs of the shape that all samples of :func:`widened` have; takes no memory."""
    one = np.zeros_like(np.asarray(task.x[:1]))
    return np.broadcast_to(one, (views * task.n + task.n + task.m, *one.shape[1:]))


def _base(sgd: SGD) -> sampling.Sampling:
    """How pictures are drawn; all of them, in any order, for the full batch."""
    if sgd.batch_size is None:
        return "shuffle"
    assert not isinstance(sgd.sampling, sampling.OfViews)
    return sgd.sampling


class Doubt(NamedTuple):
    """How much a prediction depends on the views that were drawn."""

    size: float
    """Largest ``|log|`` of the ratio of the losses that half of the views predict to those of
    all, while these are above :data:`SEEN` of the start; ``nan`` where there is one view."""
    curves: tuple[Readings, ...]
    """Those of all views, at every step, of each part of :func:`widened`."""


def doubt_of(
    wide: Task,
    sgd: SGD,
    theta: Float[np.ndarray, "nKc kc"],
    f0: Float[np.ndarray, "k c"],
    q0: Float[np.ndarray, "k c"] | None,
    *,
    steps: int,
    seed: int,
) -> Doubt:
    """Predict from the first half of the views, from the second, and from all of them.

    One linearisation, which all three share. Fewer views are learnt by heart sooner, and other
    views are other ones: the difference has both.

    Args:
        wide: From :func:`widened`.
        sgd: From there.
        theta: Kernel of the views with all samples.
        f0: Outputs of all samples.
        q0: ``J (w_0 - origin)`` of them, needed with weight decay.
        steps: ``T``.
        seed: Of the stream of mini-batches.

    Cost: the dynamics three times.
    """
    stream = sgd.sampling
    assert isinstance(stream, sampling.OfViews)
    c, n, total = f0.shape[1], stream.pictures, len(f0)
    read = np.arange(wide.n, total)

    def predicted(views: Sequence[int]) -> tuple[Readings, ...]:
        own = np.concatenate([np.arange(n) + n * view for view in views])
        rows = np.concatenate([own, read])
        flat, flat_own = ((r[:, None] * c + np.arange(c)).ravel() for r in (rows, own))
        way = segment(
            theta[np.ix_(flat_own, flat)],
            f0[rows],
            wide.joint.targets[rows],
            dataclasses.replace(
                sgd, sampling=dataclasses.replace(stream, views=len(views))
            ),
            loss=wide.loss,
            steps=steps,
            first=0,
            last=steps,
            q0=None if q0 is None else q0[rows],
            seed=seed,
            sizes=(len(own), *wide.sizes[1:]),
        )
        return way.read_at(np.arange(steps + 1))

    views = list(range(stream.views))
    whole = predicted(views)
    if len(views) < 2:
        return Doubt(float("nan"), whole)
    half = len(views) // 2
    halves = [predicted(part)[1].loss for part in (views[:half], views[half:])]
    return Doubt(_apart(halves, whole[1].loss), whole)


def judged(found: Trust, doubt: Doubt, *, views: int) -> Trust:
    """The verdict on a prediction from so many views, with what depends on their draw.

    Its score is multiplied by ``1/(1 + (doubt/LIMIT)^2)``; of a single view the doubt cannot be
    known, and counts as the limit.
    """
    if views < 2:
        size, said = DOUBT_LIMIT, "one view of each picture, which tells nothing of others"
    else:
        size = doubt.size
        said = (
            f"{views} views of each picture stand for a new one in every epoch: from half of "
            f"them the loss is up to {np.expm1(size):.0%} off"
        )
    warned = not size < DOUBT_LIMIT
    if warned:
        said += f", at most {np.expm1(DOUBT_LIMIT):.0%} is trusted; raise views"
    return dataclasses.replace(
        found,
        ok=found.ok and not warned,
        score=found.score / (1.0 + (size / DOUBT_LIMIT) ** 2),
        reason=f"{found.reason}; {said}",
        doubt=size,
    )


def _apart(halves: Sequence[np.ndarray], whole: np.ndarray) -> float:
    """Infinite where a path has diverged."""
    seen = whole > SEEN * whole[0]
    tiny = np.finfo(float).tiny
    logs = [np.log(np.maximum(loss[seen], tiny)) for loss in (whole, *halves)]
    apart = np.max([np.abs(log - logs[0]) for log in logs[1:]])
    return float(apart) if np.isfinite(apart) and np.isfinite(whole).all() else np.inf
