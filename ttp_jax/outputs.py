"""A model over many samples: its cost, Jacobian products and the weights they lead to."""

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


def jvp_of_weights(apply_fn: ApplyFn, params: Params, x) -> Float[np.ndarray, "n c"]:
    """``q_0 = J w_0``: how the outputs answer to scaling all weights. One JVP a sample."""

    @jax.jit
    def product(params, part):
        return jax.jvp(lambda w: apply_fn(w, part), (params,), (params,))[1]

    return chunks.map_samples(lambda part: product(params, part), x)


def moved_weights(
    apply_fn: ApplyFn,
    params: Params,
    x,
    alpha: Float[np.ndarray, "n c"],
    shrink: float,
) -> Params:
    """``w = (1 - shrink) w_0 - J^T alpha``: the weights of a linearised prediction.

    Args:
        apply_fn: The model.
        params: ``w_0``.
        x: Inputs ``[n, ...]``.
        alpha: Coefficients of the outputs' gradients.
        shrink: How much of ``w_0`` weight decay has taken.

    Cost: one VJP a sample.
    """

    @partial(jax.jit, donate_argnums=0)
    def subtract(w, params, part, a):
        (step,) = jax.vjp(lambda p: apply_fn(p, part), params)[1](a)
        return jax.tree.map(jnp.subtract, w, step)

    w = jax.tree.map(lambda leaf: (1 - shrink) * jnp.asarray(leaf), params)
    dtype = jax.eval_shape(apply_fn, params, x[:1]).dtype
    pieces = chunks.even(len(x), 128)
    size = pieces[0].stop
    for where in pieces:
        part = np.zeros((size, alpha.shape[1]), dtype)  # zeros where x is filled up
        with np.errstate(over="ignore"):  # of a path that diverged: the gap is infinite
            part[: where.stop - where.start] = alpha[where]
        w = subtract(w, params, chunks.take(x, where, size), part)
    return w
