"""A second look along the predicted path, and the chance it leaves that a time is far off.

Where the predicted loss has fallen to certain shares of the start, the weights are moved to
where the prediction says they are, and three things are asked of the true model there: its
loss, how fast that falls, and when the thresholds come if the prediction is made again from
there. What such looks say of the error is learned in :mod:`ttp_jax.chances`. A prediction
that is mended (:mod:`ttp_jax.linearisation.mending`) has looked already.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import losses, outputs, trust
from ttp_jax.dynamics.segment import Segment, segment
from ttp_jax.linearisation import calibration
from ttp_jax.optimizers import SGD
from ttp_jax.types import Look, Task

LEVELS = (0.5, 0.3, 0.1)
"""Shares of the predicted loss at the start at which the model is looked at."""
PASSES = 7
"""Forward passes a sample that a look costs."""


def look_along(
    task: Task,
    sgd: SGD,
    start: calibration.Start,
    theta: Float[np.ndarray, "nc nc"],
    f0: Float[np.ndarray, "n c"],
    *,
    steps: int,
    q0: Float[np.ndarray, "n c"] | None = None,
    u0: Float[np.ndarray, "n c"] | None = None,
    seed: int = 0,
) -> tuple[Look, ...]:
    """The model at :data:`LEVELS` of the predicted path, and the path from there.

    At the weights ``w`` of step ``k`` (:class:`ttp_jax.dynamics.segment.Segment`) the true
    outputs ``f(w)`` are the new start, with the velocity that the path has there, and the
    kernel is that of the start times

        ``kappa = |J_w^T g|^2 / (g^T Theta g)``,    ``g = dL/df`` at ``f(w)``:

    the speed at which the true loss falls under gradient flow, over what ``Theta`` says.

    Args:
        task: What is predicted.
        sgd: How it is trained.
        start: Where the prediction begins.
        theta: Kernel there, of the samples that are trained on.
        f0: Outputs there.
        steps: ``T``.
        q0: ``J (w - origin)`` there, needed with weight decay.
        u0: ``J v`` there.
        seed: Of the stream of mini-batches.

    Returns:
        Where the path reaches them before its end, each once.

    Cost: for each :data:`PASSES` forward passes a sample and, with the path up to it, the
    dynamics again.
    """
    y = np.asarray(task.targets)
    run = partial(
        segment, targets=y, sgd=sgd, loss=task.loss, steps=steps, seed=seed, last=steps
    )
    decayed = calibration.decayed(task, sgd, start.params)
    linear = _losses(run(theta, f0, first=start.steps, u0=u0, q0=q0), steps)
    looks = []
    for k in _places(linear, start.steps):
        way = run(theta, f0, first=start.steps, u0=u0, q0=q0, last=k)
        along = [(way.shrink, decayed)]
        if start.velocity is not None:
            along.append((way.coast, start.velocity))
        w = outputs.moved_weights(
            task.apply_fn, start.params, task.x, way.alpha.reshape(f0.shape), along
        )
        f = outputs.forward(task.apply_fn, w, task.x).astype(np.float64)
        gap = trust.linearization_gap(f, way.outputs, f0)
        if not np.isfinite(f).all():
            looks.append(Look(k, gap, math.inf, math.inf, linear, None))
            continue
        g = np.asarray(losses.gradient(task.loss, jnp.asarray(f), jnp.asarray(y)), float)
        (downhill,) = outputs.vjps(task.apply_fn, w, task.x, [g])
        true = sum(
            float(np.square(np.asarray(leaf, np.float64)).sum())
            for leaf in jax.tree.leaves(downhill)
        )
        speed = true / max(float(g.ravel() @ theta @ g.ravel()), np.finfo(float).tiny)
        u = (theta @ way.beta.ravel()).reshape(f0.shape)
        q = None
        if sgd.weight_decay:
            decayed_f = np.zeros_like(f0) if q0 is None else q0
            q = decayed_f + way.outputs - f0
            u = u + way.pull * decayed_f
        if u0 is not None:
            u = u + way.speed * u0
        again = linear.copy()
        again[k:] = _losses(run(speed * theta, f, first=k, u0=u, q0=q), steps)[k:]
        loss = float(losses.mean(task.loss, jnp.asarray(f), jnp.asarray(y)))
        looks.append(Look(k, gap, loss / float(linear[k]), speed, linear, again))
    return tuple(looks)


def _losses(way: Segment, steps: int) -> Float[np.ndarray, " t"]:
    """At every step up to ``T``: before the segment as where it begins, behind it NaN."""
    loss = way.curves[0].loss
    found = np.full(steps + 1, np.nan)
    found[: way.first] = loss[0]
    found[way.first : way.last + 1] = loss
    return found


def _places(loss: Float[np.ndarray, " t"], first: int) -> list[int]:
    """Steps at which the loss has first fallen to :data:`LEVELS` of the start."""
    found = []
    for level in LEVELS:
        there = np.flatnonzero(loss[first:] <= level * loss[first]) + first
        if len(there) and first < there[0] < len(loss) - 1 and there[0] not in found:
            found.append(int(there[0]))
    return found
