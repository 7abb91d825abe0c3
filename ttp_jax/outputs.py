"""A model over many samples: its cost, Jacobian products and the weights they lead to."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import chunks, losses
from ttp_jax.types import ApplyFn, Params, Task


def batch_loss(task: Task):
    """``(params, x, y, rows) -> L`` of a batch, all samples where ``rows`` is ``None``.

    The data set is an argument: as a constant it would be copied into the program.
    """

    def of(params: Params, x, y, rows):
        x_batch, y_batch = (x, y) if rows is None else (x[rows], y[rows])
        f = task.apply_fn(params, x_batch)
        return losses.mean(task.loss, f, y_batch.astype(f.dtype))

    return of


def forward_flops(apply_fn: ApplyFn, params: Params, x) -> float:
    """Floating-point operations of one forward pass of one sample, as XLA counts them."""
    counted = jax.jit(apply_fn).lower(params, x[:1]).cost_analysis() or {}
    return float(counted.get("flops", 0.0))


def jvp(
    apply_fn: ApplyFn, params: Params, x, direction: Params
) -> Float[np.ndarray, "n c"]:
    """``J d``: how the outputs answer to moving the weights along ``d``. A JVP a sample."""

    @jax.jit
    def product(params, direction, part):
        return jax.jvp(lambda w: apply_fn(w, part), (params,), (direction,))[1]

    return chunks.map_samples(lambda part: product(params, direction, part), x)


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

    @partial(jax.jit, donate_argnums=0)
    def subtract(w, params, part, a):
        (step,) = jax.vjp(lambda p: apply_fn(p, part), params)[1](a)
        return jax.tree.map(jnp.subtract, w, step)

    w = jax.tree.map(lambda leaf: jnp.array(leaf), params)
    for size, direction in along:
        w = jax.tree.map(lambda a, d, size=size: a - size * d, w, direction)
    dtype = jax.eval_shape(apply_fn, params, x[:1]).dtype
    pieces = chunks.even(len(x), 128)
    size = pieces[0].stop
    for where in pieces:
        part = np.zeros((size, alpha.shape[1]), dtype)  # zeros where x is filled up
        with np.errstate(over="ignore"):  # of a path that diverged: the gap is infinite
            part[: where.stop - where.start] = alpha[where]
        w = subtract(w, params, chunks.take(x, where, size), part)
    return w
