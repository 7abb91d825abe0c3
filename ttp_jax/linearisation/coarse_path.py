"""A coarse run: the path of training, followed by few real gradients, each a long step.

Where the steps of a run are small beside what the curvature allows, training follows the
gradient flow ``dw/ds = -grad L(w)``, and how far it has come depends on ``s`` alone, the sum of
its rates. So the same way can be gone in far fewer steps: the linear scaling rule of Goyal et
al. (arXiv 1706.02677) read backwards, with small batches at high rates. No kernel is needed,
and what no linearisation sees, features that are learned, is followed.

It is not free of training: it takes real gradients, of a few passes over the samples where the
run itself takes many. A second one with half of the steps says what the first is good for, and
how it would go on with more of them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.interpolate import PchipInterpolator

from ttp_jax import sampling
from ttp_jax.linearisation import calibration, few_readings
from ttp_jax.linearisation.few_readings import Reader
from ttp_jax.optimizers import SGD
from ttp_jax.progress import bar
from ttp_jax.reading import Readings
from ttp_jax.types import InputError, Params, Task

BATCH = 5
"""Samples a step, or more where the run itself has no more steps: for as many gradients in all,
small batches make more and shorter steps, which is the more stable."""
PLACES = 9
"""So often the loss is read, the start and the end with it."""
WHOLE = (0.0, 0.25, 0.5, 1.0)
"""At these shares of the places of the finer run all samples are read, elsewhere a few. All are
read at every place of it where that is no more work than its gradients."""
CLUSTERED = 1.7
"""Power by which the places lie nearer to the start, where curves are steep."""
AVERAGED = 0.05
"""The weights are read as their mean over this share of the run before and after a place,
which takes out what single batches do."""
ORDER = 2
"""By this power of the length of its steps the logarithm of the loss is taken to err."""


class Coarse(NamedTuple):
    """What a coarse run finds."""

    curves: tuple[Readings, ...]
    """At every step of the run that is predicted, of each of :attr:`Task.parts`; NaN from
    where it has diverged. Extrapolated where both runs get to the end."""
    coarser: Readings
    """The first of them by half of the steps, not extrapolated."""
    passes: int
    """Forward passes of both, over those of one sample."""
    steps: int
    """Of the finer."""


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


class Steps(NamedTuple):
    """How a coarse run is gone."""

    count: int
    """``K``."""
    batch: int
    """Samples in each."""

    @property
    def half(self) -> "Steps":
        """Half as many, as large."""
        return Steps(self.count // 2, self.batch)

    @property
    def extra(self) -> int:
        """Steps beyond the end, for the mean of the weights there."""
        return round(AVERAGED * self.count)


def steps_of(task: Task, sgd: SGD, *, steps: int, passes: int | float) -> Steps:
    """How many steps a coarse run of so many passes takes, and how large they are.

    Raises:
        InputError: Too few for a curve, or as many gradients as the run itself takes.
    """
    least, own = 2 * PLACES / task.n, steps * (sgd.batch_size or task.n) / task.n
    if not least <= passes < own:
        raise InputError(
            f"coarse must lie in [{least:.3g}, {own:.3g}) passes over the samples (two steps "
            f"for each reading, and fewer gradients than the run), got {passes}"
        )
    gradients = passes * task.n
    batch = max(1, round(max(min(BATCH, gradients / (2 * PLACES)), gradients / steps)))
    return Steps(max(2 * PLACES, round(gradients / batch)), batch)


def passes_of(task: Task, taken: Steps) -> int:
    """Forward passes of single samples that a coarse run and that of half its steps take."""
    gradients = sum(one.batch * (one.count + one.extra) for one in (taken, taken.half))
    fine, half = len(places(taken.count)), len(places(taken.half.count))
    whole = len(_whole(task, taken))
    sizes = few_readings.sizes(task)
    few = sum(few_readings.few(size) for size in sizes)
    return 3 * gradients + whole * sum(sizes) + (fine - whole + half) * few


def coarse_optimizer(sgd: SGD, taken: Steps, steps: int) -> SGD:
    """How the steps of a coarse run are taken, in the place of ``T`` of the run.

    A step is as long as ``h = T/K`` of the run, so that momentum forgets as fast,
    ``1 - mu_K = min(1, h (1 - mu))``, and ``s_K`` of :func:`progress` is ``s_T``: of the
    heavy ball's ``w'' = -(1 - mu) w' - eta grad L`` both follow the same path, and where the
    minimum is 1 that of the gradient flow.
    """
    momentum = max(0.0, 1.0 - (1.0 - sgd.momentum) * steps / taken.count)
    unit = progress(SGD(1.0, momentum), taken.count)[-1]
    return SGD(
        float(progress(sgd, steps)[-1] / unit),
        momentum,
        weight_decay=sgd.weight_decay,
        decay_toward=sgd.decay_toward,
        batch_size=taken.batch,
    )


def coarse_path(
    task: Task, sgd: SGD, *, steps: int, passes: int | float, seed: int = 0
) -> Coarse:
    """Follow a run over all its length by few steps, and by half of them.

    Steps are those of :func:`coarse_optimizer`, on batches that have the classes evenly; one
    stands for that step of the run where :func:`progress` is the same. Losses are read at
    :data:`PLACES` means of the weights, of all samples at some and of few at the others, and
    joined monotonically, ``log L`` over ``sqrt(s)``. The curve is Richardson's extrapolation of
    both runs from steps of ``h`` and ``2h`` to those of the run, of length 1:
    ``log L + (log L - log L_half) (1 - h^-p)/(2^p - 1)``, ``p`` :data:`ORDER` (of the accuracy
    as it is).

    Args:
        task: What would be trained; with views, every epoch of the coarse run takes new ones.
        sgd: How.
        steps: ``T``.
        passes: Over the samples, of the finer run. The coarser takes half.
        seed: Of the batches.

    Raises:
        InputError: As :func:`steps_of`.

    Cost: ``4.7 passes n`` forward passes for gradients, and for reading six to ten a sample,
    of at most :data:`ttp_jax.linearisation.few_readings.MOST` samples.

    Breaks when: the steps of the run are near what the curvature allows, so that longer ones
    are unstable; the noise of its batches slows it, which the coarse run has more of; samples
    are learned by heart one by one, for which few visits are not enough.
    """
    taken = steps_of(task, sgd, steps=steps, passes=passes)
    way = progress(sgd, steps)
    both = [(one, coarse_optimizer(sgd, one, steps)) for one in (taken, taken.half)]
    # Of both: they differ in rate and momentum alone, which it takes.
    step = jax.jit(calibration.step_in_weights(task, both[0][1]))
    reader = Reader(task, seed)
    joined = []
    with bar("coarse run", taken.count + taken.half.count) as advance:
        for order, (one, own) in enumerate(both):
            at = places(one.count)
            weights = _means(
                _followed(task, step, own, one, seed + order), at, one.extra, advance
            )
            come = np.sqrt(progress(own, one.count)[at])
            whole = _whole(task, taken) if order == 0 else []
            few, lacks = reader.along(weights, whole, come)
            joined.append([_joined(z, come, np.sqrt(way)) for z in (few, few + lacks)])
    (few, fine), (half, _) = joined
    apart = few - half
    share = (1.0 - (taken.count / steps) ** ORDER) / (2**ORDER - 1)
    more = share * apart if np.isfinite(half).all() else 0.0
    return Coarse(
        curves=tuple(_readings(part) for part in np.moveaxis(fine + more, 1, 0)),
        coarser=_readings((fine - apart)[:, 0]),
        passes=passes_of(task, taken),
        steps=taken.count,
    )


def places(count: int) -> Int[np.ndarray, " places"]:
    """Steps of a coarse run at which it is read, the first and the last with them."""
    return np.unique(np.round(count * np.linspace(0, 1, PLACES) ** CLUSTERED).astype(int))


def _followed(
    task: Task, step: Callable, own: SGD, taken: Steps, seed: int
) -> Iterator[Params]:
    """The weights at the start and after each step."""
    per_epoch = sampling.steps_per_epoch(task.n, taken.batch)
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)
    w = jax.tree.map(jnp.asarray, task.params)
    v = calibration.at_rest(own, w)
    yield w
    stream = sampling.evenly_mixed(task.y, taken.batch, taken.count + taken.extra, seed)
    for k, rows in enumerate(stream):
        if task.views is not None and k % per_epoch == 0:
            x = jnp.asarray(task.view(k // per_epoch))
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


def _whole(task: Task, taken: Steps) -> list[int]:
    """Which places of the finer run are read of all samples."""
    at = np.arange(len(places(taken.count)))
    if len(at) * sum(few_readings.sizes(task)) <= 3 * taken.batch * taken.count:
        return at.tolist()
    return np.unique(np.round(np.array(WHOLE) * at[-1]).astype(int)).tolist()


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
