"""A coarse run: the path of training, followed by few real gradients, each a long step.

Where the steps of a run are small beside what the curvature allows, training follows the
gradient flow ``dw/ds = -grad L(w)``, and how far it has come depends on ``s`` alone, the sum of
its rates. So the same way can be gone in far fewer steps: the linear scaling rule of Goyal et
al. (arXiv 1706.02677) read backwards, with small batches at high rates. No kernel is needed,
and what no linearisation sees, features that are learned, is followed.

It is not free of training: it takes real gradients, of a few passes over the samples where the
run itself takes many. Runs beside it (:mod:`ttp_jax.linearisation.coarse_plan`) say what it is
good for, how it would go on with more gradients, and how the first part goes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.interpolate import PchipInterpolator

from ttp_jax import sampling
from ttp_jax.linearisation import calibration
from ttp_jax.linearisation.coarse_plan import (
    Steps,
    coarse_optimizer,
    passes_of,
    places,
    plan,
    progress,
    read_whole,
)
from ttp_jax.linearisation.few_readings import Reader
from ttp_jax.optimizers import SGD
from ttp_jax.progress import bar
from ttp_jax.reading import Readings
from ttp_jax.types import Params, Task

ORDER = 2
"""By this power of the length of its steps the logarithm of the loss is taken to err; where
only batches are smaller than those of training, by the first power of their noise."""


class Coarse(NamedTuple):
    """What a coarse run finds."""

    curves: tuple[Readings, ...]
    """At every step of the run that is predicted, of each of :attr:`Task.parts`; NaN from
    where it has diverged. Extrapolated where the runs beside it get to the end."""
    coarser: Readings
    """The first of them by fewer gradients, not extrapolated: by half as many, and in the first
    part, if that was followed once more, by those of the whole run."""
    passes: int
    """Forward passes of all runs, over those of one sample."""
    steps: int
    """Of the finest."""


def coarse_path(
    task: Task, sgd: SGD, *, steps: int, passes: int | float, seed: int = 0
) -> Coarse:
    """Follow a run over all its length by few gradients, and by half of them.

    Steps are those of :func:`coarse_optimizer`, on batches that have the classes evenly; one
    stands for that step of the run where :func:`progress` is the same. Losses are read at
    means of the weights, of all samples at some and of few at the others, and joined
    monotonically, ``log L`` over ``sqrt(s)``. The curve is Richardson's extrapolation: of runs
    by steps of ``h`` and ``2h`` to those of training, of length 1,
    ``log L + (log L - log L_half) (1 - h^-p)/(2^p - 1)``, ``p`` :data:`ORDER`, or of runs by
    batches of ``b`` and ``b/2`` to its ``B``, ``log L + (log L - log L_half) (1 - b/B)`` (of
    the accuracy as it is). In the first part, to ``s_1``, it is that which was followed once
    more, and by what they differ at its end the rest is moved, by ``s_1/s`` of it: a curve
    that falls like a power, and is late by the same time.

    Args:
        task: What would be trained; with views, every epoch of the coarse run takes new ones.
        sgd: How.
        steps: ``T``.
        passes: Over the samples, of the finest run. The others take as many together.
        seed: Of the batches.

    Raises:
        InputError: As :func:`ttp_jax.linearisation.coarse_plan.plan`.

    Cost: ``6.3 passes n`` forward passes for gradients, and for reading seven to twelve a
    sample, of at most :data:`ttp_jax.linearisation.few_readings.MOST` samples.

    Breaks when: the steps of the run are near what the curvature allows, so that longer ones
    are unstable; samples are learned by heart one by one, for which few visits are not enough.
    """
    planned = plan(task, sgd, steps=steps, passes=passes)
    way = progress(sgd, steps)
    with bar("coarse run", planned.steps) as advance:
        runs = _Runs(task, sgd, way, seed, advance)
        batches = runs.batches(planned.whole, 0)
        fine, lacks = runs.read(planned.whole, batches, read_whole(task, planned.whole))
        whole = runs.joined(fine + lacks, planned.whole)
        if planned.whole.count == steps:
            sides = [batches.half(0), batches.half(1)]
            share = 1.0 - planned.whole.batch / (sgd.batch_size or task.n)
        else:
            sides = [runs.batches(planned.coarser[0], 1)]
            share = (1.0 - (planned.whole.count / steps) ** ORDER) / (2**ORDER - 1)
        half = [
            runs.joined(runs.read(taken, side)[0], taken)
            for taken, side in zip(planned.coarser, sides, strict=True)
        ]
        apart = runs.joined(fine, planned.whole) - np.mean(half, axis=0)
        curve = whole + share * apart if np.isfinite(apart).all() else whole
        coarser = whole - apart
        if planned.first is not None:
            few, _ = runs.read(planned.first, runs.batches(planned.first, 2))
            z = runs.joined(few + _at_levels(few, fine, lacks), planned.first)
            if np.isfinite(z).all():
                curve = _spliced(z, curve, way)
                coarser = _spliced(whole[: len(z)], coarser, way)
    return Coarse(
        curves=tuple(_readings(part) for part in np.moveaxis(curve, 1, 0)),
        coarser=_readings(coarser[:, 0]),
        passes=passes_of(task, planned),
        steps=planned.whole.count,
    )


class _Batches(NamedTuple):
    """Those of a run."""

    rows: Int[np.ndarray, "T B"]
    per_epoch: int
    """Steps between new views."""

    def half(self, side: int) -> "_Batches":
        """One half of each."""
        return self._replace(rows=self.rows[:, side::2])


class _Runs:
    """Coarse runs of one task, one program for each size of batches."""

    def __init__(self, task: Task, sgd: SGD, way: np.ndarray, seed: int, advance: Callable):
        self._task, self._sgd, self._way, self._seed = task, sgd, way, seed
        self._advance = advance
        self._reader = Reader(task, seed)
        # They differ in rate and momentum alone, which it takes.
        any_of_them = coarse_optimizer(sgd, Steps(1, 1, 1), way)
        self._step = jax.jit(calibration.step_in_weights(task, any_of_them))

    def batches(self, taken: Steps, order: int) -> _Batches:
        """Of a run of so many steps, other ones for each ``order``."""
        count, seed = taken.count + taken.extra, self._seed + order
        rows = sampling.evenly_mixed(self._task.y, taken.batch, count, seed)
        return _Batches(rows, sampling.steps_per_epoch(self._task.n, taken.batch))

    def read(
        self, taken: Steps, batches: _Batches, whole: Sequence[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the few say at the places of a run, and what they lack, as :class:`Reader`."""
        own, at = coarse_optimizer(self._sgd, taken, self._way), places(taken.count)
        weights = _followed(self._task, self._step, own, batches)
        means = _means(weights, at, taken.extra, self._advance)
        return self._reader.along(means, whole, np.sqrt(progress(own, taken.count)[at]))

    def joined(
        self, seen: Float[np.ndarray, "places parts 2"], taken: Steps
    ) -> Float[np.ndarray, "t1 parts 2"]:
        """What was read, at every step of training that the run stands for."""
        own, at = coarse_optimizer(self._sgd, taken, self._way), places(taken.count)
        come = np.sqrt(progress(own, taken.count)[at])
        return _joined(seen, come, np.sqrt(self._way[: taken.of + 1]))


def _followed(task: Task, step: Callable, own: SGD, batches: _Batches) -> Iterator[Params]:
    """The weights at the start and after each step."""
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)
    w = jax.tree.map(jnp.asarray, task.params)
    v = calibration.at_rest(own, w)
    yield w
    for k, rows in enumerate(batches.rows):
        if task.views is not None and k % batches.per_epoch == 0:
            x = jnp.asarray(task.view(k // batches.per_epoch))
        w, v = step(w, v, own.learning_rate, x, y, rows, own.momentum)
        yield w


def _means(
    weights: Iterator[Params],
    at: Int[np.ndarray, " places"],
    most: int,
    advance: Callable[[int], object],
) -> Iterator[Params]:
    """The mean of the weights around each place, over no more than a third of the way to it."""
    width = np.minimum(at // 3, most)
    sums: dict[int, Params] = {}
    for j, w in enumerate(weights):
        for k in np.flatnonzero(np.abs(j - at) <= width).tolist():
            share = 1.0 / (2 * int(width[k]) + 1)
            sums[k] = _added(sums.get(k), w, share)
        if 0 < j <= at[-1]:
            advance(1)
        for k in np.flatnonzero(j == at + width).tolist():
            yield sums.pop(k)


def _at_levels(
    few: Float[np.ndarray, "places parts 2"],
    known: Float[np.ndarray, "others parts 2"],
    lacks: Float[np.ndarray, "others parts 2"],
) -> Float[np.ndarray, "places parts 2"]:
    """What the few lack to all samples, as it was where their loss was the same.

    Another run is elsewhere after as many steps, but comes by the same losses.
    """
    found = np.zeros_like(few)
    for part in range(few.shape[1]):
        level = known[:, part, 0]
        order = np.argsort(level)[: np.isfinite(level).sum()]
        for which in range(few.shape[2]):
            column = lacks[order, part, which]
            found[:, part, which] = np.interp(few[:, part, 0], level[order], column)
    return found


def _spliced(
    first: Float[np.ndarray, "t1 parts 2"],
    whole: Float[np.ndarray, "T1 parts 2"],
    way: Float[np.ndarray, " T1"],
) -> Float[np.ndarray, "T1 parts 2"]:
    """Another first part, and the rest moved to join it, less the farther it is."""
    end = len(first) - 1
    moved = (first[-1] - whole[end]) * (way[end] / way[end + 1 :])[:, None, None]
    return np.concatenate([first, whole[end + 1 :] + moved])


def _joined(
    seen: Float[np.ndarray, "places parts 2"],
    come: Float[np.ndarray, " places"],
    wanted: Float[np.ndarray, " T1"],
) -> Float[np.ndarray, "T1 parts 2"]:
    """What was read, at every step of the run; NaN from where it has diverged."""
    fine = int(np.isfinite(seen).all(axis=(1, 2)).cumprod().sum())
    if fine < 2:
        return np.full((len(wanted), *seen.shape[1:]), np.nan)
    through = PchipInterpolator(come[:fine], seen[:fine], extrapolate=False)
    return through(np.minimum(wanted, come[-1]))


def _readings(z: Float[np.ndarray, "T1 2"]) -> Readings:
    """Loss and accuracy of ``log L`` and accuracy."""
    with np.errstate(over="ignore"):
        return Readings(np.exp(z[:, 0]), np.clip(z[:, 1], 0.0, 1.0))


@jax.jit
def _added(sum_, w, share):
    if sum_ is None:
        return jax.tree.map(lambda a: (share * a).astype(a.dtype), w)
    return jax.tree.map(lambda s, a: (s + share * a).astype(a.dtype), sum_, w)
