"""The prediction of training with BatchNorm in training mode, as far as a kernel can.

In training mode the output of a sample depends on its mini-batch: a step that moves the
outputs of all samples alike is taken back by the mean of the batch, where in inference mode it
would be the largest of all. Three things are made of this, all at the starting weights:

- the model is that of inference mode, by the mean statistics of the task's own mini-batches,
  which the running ones settle to within some tens of steps;
- of the kernel of all weights but the last layer's, the mean over samples is taken out on both
  sides, ``Theta = Theta_last + s H Theta_rest H`` with ``H = I - 1 1^T/n`` for each output, and
  ``s`` is how much of the gradient of training mode this explains;
- until the running statistics are settled, the curve is that of the loss by them.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ttp_jax import losses, outputs, sampling, trust
from ttp_jax.dynamics.segment import Segment, segment
from ttp_jax.groups import Groups
from ttp_jax.kernel import classes
from ttp_jax.linearisation import calibration
from ttp_jax.optimizers import SGD
from ttp_jax.reading import Readings, at_weights
from ttp_jax.types import Params, Task, Trust

BATCHES = 8
"""So many mini-batches of an epoch are looked at, or all of it where it has fewer."""
SETTLING = (0, 1, 2, 3, 5, 7, 10, 14, 20, 30, 50)
"""Steps at which the loss by running statistics is asked for; between them it is taken as
linear in the weight of the first ones, and as settled after the last."""
COSINE_LIMIT = 0.8
"""Smallest :attr:`Settled.cosine` that is trusted: a choice, not calibrated."""
EARLY = 0.3
"""The early gap is that where the loss has fallen to this share of the start."""


class Settled(NamedTuple):
    """A task in inference mode that stands for one in training mode."""

    task: Task
    """By the statistics of its own mini-batches."""
    stats: Params
    groups: Groups
    """The last layer, and all before it."""
    speed: float
    """``s = <g, h>/|h|^2`` over all weights but the last layer's, of the mean gradients ``g``
    of training mode and ``h``, which the centred kernel stands for."""
    cosine: float
    """``<g, h>/(|g| |h|)`` over all weights."""
    passes: float
    """Forward passes of one sample that it took."""


def settled(task: Task, sgd: SGD, *, seed: int) -> Settled:
    """Look at some mini-batches at the starting weights, without taking a step.

    Args:
        task: With BatchNorm in training mode.
        sgd: How it is trained.
        seed: Of the stream of mini-batches.

    Cost: eight forward passes of the samples of :data:`BATCHES` mini-batches.
    """
    batch_norm = task.batch_norm
    assert batch_norm is not None
    rows = _batches(task, sgd, seed)
    stats = statistics(task, task.params, sgd, seed=seed)
    own = inferring(task, stats)
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)
    training = outputs.training_loss(task)

    @jax.jit
    def gradients(params, x, y):
        """In training mode, and in inference mode with what all samples share taken out."""
        g = jax.grad(lambda w: training(w, batch_norm.stats, x, y, None)[0])(params)
        f, back = jax.vjp(lambda w: own.apply_fn(w, x), params)
        r = losses.gradient(task.loss, f, y.astype(f.dtype)) / len(x)
        return g, back(r - r.mean(axis=0))[0], back(r)[0]

    found = [gradients(task.params, x[batch], y[batch]) for batch in rows]
    g, centred, plain = (
        jax.tree.leaves(jax.tree.map(lambda *v: sum(v) / len(v), *trees))
        for trees in zip(*found, strict=True)
    )
    last = classes.last_layer_leaves(task.apply_fn, task.params, task.x[:1])
    groups = Groups(("rest", "last layer"), tuple(int(k in last) for k in range(len(g))))
    rest = [not group for group in groups.of_leaf]
    g_rest, h_rest = _flat(g, rest), _flat(centred, rest)
    speed = float(g_rest @ h_rest / max(h_rest @ h_rest, np.finfo(float).tiny))
    whole = [True] * len(g)
    h = _flat([c if r else p for c, p, r in zip(centred, plain, rest, strict=True)], whole)
    whole_g = _flat(g, whole)
    size = np.linalg.norm(whole_g) * np.linalg.norm(h)
    cosine = float(whole_g @ h / max(size, np.finfo(float).tiny))
    passes = 9.0 * sum(len(batch) for batch in rows)
    return Settled(own, stats, groups, max(speed, 0.0), cosine, passes)


def statistics(task: Task, params: Params, sgd: SGD, *, seed: int) -> Params:
    """Mean over mini-batches of their statistics, which running ones settle to."""
    batch_norm = task.batch_norm
    assert batch_norm is not None
    nothing = jax.tree.map(jnp.zeros_like, batch_norm.stats)
    of_batch = jax.jit(lambda params, x: batch_norm.train(params, nothing, x)[1])
    found = [
        of_batch(params, jnp.asarray(task.x[batch])) for batch in _batches(task, sgd, seed)
    ]
    share = len(found) * (1 - batch_norm.momentum)
    return jax.tree.map(lambda *values: sum(values) / share, *found)


def inferring(task: Task, stats: Params) -> Task:
    """The task in inference mode by statistics that are given."""
    batch_norm = task.batch_norm
    assert batch_norm is not None

    def apply_fn(params, x):
        return batch_norm.infer(params, stats, x)

    return dataclasses.replace(task, apply_fn=apply_fn, batch_norm=None)


def _batches(task: Task, sgd: SGD, seed: int) -> list[Int[np.ndarray, " B"]]:
    """The first mini-batches of the real run."""
    count = min(BATCHES, sampling.steps_per_epoch(task.n, sgd.batch_size))
    stream = sgd.batches(task.n, count, seed)
    return [np.arange(task.n)] if stream is None else list(stream)


def _flat(leaves: list, wanted: list[bool]) -> Float[np.ndarray, " p"]:
    chosen = [v for v, there in zip(leaves, wanted, strict=True) if there]
    parts = [np.asarray(leaf, np.float64).ravel() for leaf in chosen]
    return np.concatenate([np.zeros(0), *parts])


def centred(
    shares: Float[np.ndarray, "2 kc kc"], n: int, c: int, speed: float
) -> Float[np.ndarray, "nc kc"]:
    """``Theta_last + s H Theta_rest H``, rows of the ``n`` samples that are trained on.

    Args:
        shares: Of all weights but the last layer's, and of these.
        n: Samples that are trained on, the first; ``H`` takes out their mean.
        c: Outputs.
        speed: ``s``.
    """
    rest, last = shares[:, : n * c]
    blocks = rest.reshape(n, c, -1, c)
    blocks = blocks - blocks.mean(axis=0, keepdims=True)
    blocks = blocks - blocks[:, :, :n].mean(axis=2, keepdims=True)
    return last + speed * blocks.reshape(rest.shape)


def followed(
    like: Settled,
    sgd: SGD,
    theta: Float[np.ndarray, "nc kc"],
    f0: Float[np.ndarray, "k c"],
    *,
    steps: int,
    seed: int,
    last: int | None = None,
) -> Segment:
    """The dynamics of that kernel, to step ``last`` of ``steps``."""
    task, q0 = like.task, None
    if sgd.weight_decay:
        # Of what decays, too, the mean of the mini-batch takes back what all samples share.
        decayed = calibration.decayed(task, sgd, task.params)
        of_rest, of_last = (
            outputs.jvp(
                task.apply_fn, task.params, task.joint.x, like.groups.part(decayed, group)
            )
            for group in range(2)
        )
        q0 = of_last + of_rest - of_rest[: task.n].mean(axis=0)
    return segment(
        theta,
        f0,
        np.asarray(task.joint.targets),
        sgd,
        loss=task.loss,
        steps=steps,
        first=0,
        last=steps if last is None else last,
        q0=q0,
        seed=seed,
    )


def settling(
    task: Task,
    like: Settled,
    curves: tuple[Readings, ...],
    read: Int[np.ndarray, " t"],
) -> tuple[Readings, ...]:
    """The curves as the running statistics of each step read them.

    With ``s_0`` those at the start and ``s`` the settled ones, step ``k`` is read by
    ``s + m^k (s_0 - s)``, as if all mini-batches had the same. What this does to the loss, as a
    factor, and to the accuracy, as a difference, is found at the starting weights.

    Args:
        task: With BatchNorm in training mode.
        like: From :func:`settled`.
        curves: Predicted by the settled statistics, of each part.
        read: Steps that they were read at.

    Cost: a forward pass of all samples for each of :data:`SETTLING`.
    """
    batch_norm = task.batch_norm
    assert batch_norm is not None
    weights = np.array([0.0, *(batch_norm.momentum ** np.array(SETTLING[::-1], float))])
    at = at_weights(
        dataclasses.replace(
            task,
            apply_fn=lambda stats, x: batch_norm.infer(task.params, stats, x),
            params=batch_norm.stats,
            batch_norm=None,
        )
    )

    def between(weight):
        return jax.tree.map(
            lambda first, last: last + weight * (first - last), batch_norm.stats, like.stats
        )

    values = np.array([at(between(weight)) for weight in weights], float)
    now = batch_norm.momentum ** read.astype(float)
    found = []
    for part, curve in enumerate(curves):
        loss, accuracy = (np.interp(now, weights, values[:, part, k]) for k in (0, 1))
        first_loss, first_accuracy = values[0, part]
        found.append(
            Readings(
                curve.loss * loss / first_loss,
                (curve.accuracy + accuracy - first_accuracy).clip(0, 1),
            )
        )
    return tuple(found)


def judged(
    task: Task,
    like: Settled,
    sgd: SGD,
    theta: Float[np.ndarray, "nc kc"],
    f0: Float[np.ndarray, "k c"],
    way: Segment,
    *,
    steps: int,
    seed: int,
) -> Trust:
    """Gaps along the path, of the true model by the statistics of its own mini-batches there.

    The score is that of the gaps (:func:`ttp_jax.trust.judge_by_gaps`) times ``cosine^2``: what
    the gradient of training mode does beside the direction that is predicted, no gap knows of.

    Cost: two passes back and two forward, of all samples.
    """
    n, c = task.n, task.c
    loss = way.curves[0].loss
    fallen = np.flatnonzero(loss <= EARLY * loss[0])
    early = 0.0
    if len(fallen) and 0 < fallen[0]:
        there = followed(like, sgd, theta, f0, steps=steps, seed=seed, last=int(fallen[0]))
        early = _gap(task, like, sgd, there, f0[:n], seed)
    found = trust.judge_by_gaps(
        curvature=trust.largest_curvature(
            theta[:, : n * c], f0[:n], task.targets, loss=task.loss
        ),
        gap=_gap(task, like, sgd, way, f0[:n], seed),
        early_gap=early,
        sgd=sgd,
        peak_rate=float(sgd.learning_rates(steps).max()),
        predicted_loss=loss,
    )
    said = (
        "BatchNorm in training mode is approximated: its gradient has a cosine of "
        f"{like.cosine:.2f} to the one that is predicted by"
    )
    warned = not like.cosine > COSINE_LIMIT
    if warned:
        said += f", at least {COSINE_LIMIT} is trusted"
    return dataclasses.replace(
        found,
        ok=found.ok and not warned,
        score=found.score * max(like.cosine, 0.0) ** 2,
        reason=f"{found.reason}; {said}",
    )


def _gap(
    task: Task,
    like: Settled,
    sgd: SGD,
    way: Segment,
    f0: Float[np.ndarray, "n c"],
    seed: int,
) -> float:
    """Of the true model at the end of a way, by statistics of its mini-batches there."""
    own = like.task
    alpha = way.alpha.reshape(f0.shape)
    rest, last = outputs.vjps(
        own.apply_fn, own.params, own.x, [like.speed * (alpha - alpha.mean(axis=0)), alpha]
    )
    decayed = calibration.decayed(own, sgd, own.params)
    along = [
        (1.0, like.groups.part(rest, 0)),
        (1.0, like.groups.part(last, 1)),
        (way.shrink, decayed),
    ]
    w = outputs.minus(own.params, along)
    moved = inferring(task, statistics(task, w, sgd, seed=seed))
    f = outputs.forward(moved.apply_fn, w, task.x)
    return trust.linearization_gap(f, way.outputs, f0)
