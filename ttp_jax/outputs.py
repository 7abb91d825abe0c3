"""A model over many samples: its cost, Jacobian products and the weights they lead to."""

from collections.abc import Sequence
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import chunks, losses, programs
from ttp_jax.types import ApplyFn, InputError, LossName, Params, Task, dense


def batch_loss(task: Task):
    """:func:`loss_of` the model and the loss of a task."""
    return loss_of(task.apply_fn, task.loss)


def loss_of(apply_fn: ApplyFn, loss: LossName):
    """``(params, x, y, rows) -> L`` of a batch, all samples where ``rows`` is ``None``.

    The data set is an argument: as a constant it would be copied into the program.
    """

    def of(params: Params, x, y, rows):
        x_batch, y_batch = (x, y) if rows is None else (x[rows], y[rows])
        f = apply_fn(params, x_batch)
        return losses.mean(loss, f, y_batch.astype(f.dtype))

    return of


def training_loss(task: Task):
    """``(params, stats, x, y, rows) -> (L, stats)``: the loss as it is trained on.

    With BatchNorm in training mode by the statistics of the batch, and the running ones after
    it; else :func:`batch_loss`, and ``stats`` as they are.
    """
    if task.batch_norm is None:
        plain = batch_loss(task)
        return lambda params, stats, x, y, rows: (plain(params, x, y, rows), stats)
    train = task.batch_norm.train

    def of(params: Params, stats: Params, x, y, rows):
        x_batch, y_batch = (x, y) if rows is None else (x[rows], y[rows])
        f, stats = train(params, stats, x_batch)
        return losses.mean(task.loss, f, y_batch.astype(f.dtype)), stats

    return of


def batch_gradient(task: Task):
    """Gradient of :func:`batch_loss`, compiled once for as long as the model lives."""
    return programs.compiled(task.apply_fn, _BATCH_GRADIENTS[task.loss])


def forward_flops(apply_fn: ApplyFn, params: Params, x) -> float:
    """Floating-point operations of one forward pass of one sample, as XLA counts them.

    Of a masked model those of the dense one: putting zeros into the weights, once a program and
    not once a sample, does not count.
    """
    return programs.operations(dense(apply_fn), params, x[:1])


def forward(apply_fn: ApplyFn, params: Params, x) -> Float[np.ndarray, "n *c"]:
    """``f(w)`` of all samples, chunk by chunk. A forward pass a sample."""
    product = programs.compiled(apply_fn, _forward)
    return chunks.map_samples(lambda part: product(params, part), x)


def at_the_start(apply_fn: ApplyFn, params: Params, x) -> Float[np.ndarray, "n c"]:
    """``f(w_0)``, which a prediction begins with.

    Raises:
        InputError: They are not finite.
    """
    f0 = forward(apply_fn, params, x)
    if not np.isfinite(f0).all():
        raise InputError(
            "the model's outputs must be finite, got NaN or infinite ones at the start; "
            "check the weights and the preprocessing"
        )
    return f0


def jvp(
    apply_fn: ApplyFn, params: Params, x, direction: Params
) -> Float[np.ndarray, "n c"]:
    """``J d``: how the outputs answer to moving the weights along ``d``. A JVP a sample."""
    product = programs.compiled(apply_fn, _jvp)
    return chunks.map_samples(lambda part: product(params, direction, part), x)


def vjps(
    apply_fn: ApplyFn, params: Params, x, cotangents: Sequence[Float[np.ndarray, "n c"]]
) -> list[Params]:
    """``J^T a`` for each ``a``: the direction in weights that coefficients stand for.

    Cost: a forward pass a sample, and a backward pass for each ``a``.
    """
    add = programs.compiled(apply_fn, _add_vjps, donate_argnums=0)
    dtype = jax.eval_shape(apply_fn, params, x[:1]).dtype
    sums = [jax.tree.map(jnp.zeros_like, params) for _ in cotangents]
    pieces = chunks.even(len(x), 128)
    size = pieces[0].stop
    for where in pieces:
        parts = []
        for a in cotangents:
            part = np.zeros((size, a.shape[1]), dtype)  # zeros where x is filled up
            with np.errstate(over="ignore"):  # of a path that diverged: the gap is infinite
                part[: where.stop - where.start] = a[where]
            parts.append(part)
        sums = add(sums, params, chunks.take(x, where, size), parts)
    return sums


def moved_weights(
    apply_fn: ApplyFn,
    params: Params,
    x,
    alpha: Float[np.ndarray, "n c"],
    along: Sequence[tuple[float, Params]] = (),
) -> Params:
    """``w = w_0 - sum_d s_d d - J^T alpha``: the weights of a linearised prediction.

    Args:
        apply_fn: The model.
        params: ``w_0``.
        x: Inputs ``[n, ...]``.
        alpha: Coefficients of the outputs' gradients.
        along: Coefficients ``s_d`` of other directions ``d``.

    Cost: one VJP a sample.
    """
    (step,) = vjps(apply_fn, params, x, [alpha])
    return minus(params, [(1.0, step), *along])


def minus(params: Params, along: Sequence[tuple[float, Params]]) -> Params:
    """``w - sum_d s_d d``."""
    for size, direction in along:
        params = jax.tree.map(lambda a, d, size=size: a - size * d, params, direction)
    return params


def gram_of_moves(start: Params, weights: Sequence[Params]) -> Float[np.ndarray, "k1 k1"]:
    """Inner products of ``w_0, w_1 - w_0, ..., w_k - w_0``, in float64.

    Cost: ``k^2 p``.
    """
    gram = np.zeros((len(weights) + 1,) * 2)
    for w0, *leaves in zip(*map(jax.tree.leaves, (start, *weights)), strict=True):
        first = np.asarray(w0, np.float64).ravel()
        moves = [np.asarray(leaf, np.float64).ravel() - first for leaf in leaves]
        rows = np.stack([first, *moves])
        gram += rows @ rows.T
    return gram


def _forward(apply_fn):
    return apply_fn


def _jvp(apply_fn):
    def of(params, direction, x):
        return jax.jvp(lambda w: apply_fn(w, x), (params,), (direction,))[1]

    return of


def _add_vjps(apply_fn):
    def of(sums, params, x, cotangents):
        _, back = jax.vjp(lambda w: apply_fn(w, x), params)
        # One after the other: vectorised over ``a`` a convolution would become a grouped one.
        return [
            jax.tree.map(jnp.add, total, back(a)[0])
            for total, a in zip(sums, cotangents, strict=True)
        ]

    return of


def _batch_gradient(loss: LossName):
    return lambda apply_fn: jax.grad(loss_of(apply_fn, loss))


_BATCH_GRADIENTS = {loss: _batch_gradient(loss) for loss in get_args(LossName)}
"""Made once: what is compiled for a model is found again by them."""
