"""Losses as functions of the outputs ``f[n, c]``: value, gradient and curvature.

The loss of a set is the mean over its samples, ``L = (1/n) sum_i l(f_i, y_i)``, for the
prediction and for real training alike.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ttp_jax.types import LossName


def per_sample(
    loss: LossName, f: Float[Array, "n c"], targets: Float[Array, "n c"]
) -> Float[Array, " n"]:
    """Loss of each sample.

    ``mse``: ``l = 0.5 |f - y|^2``; ``cross_entropy``: ``l = -sum_k y_k log softmax(f)_k``.
    """
    if loss == "mse":
        return 0.5 * jnp.sum((f - targets) ** 2, axis=1)
    return -jnp.sum(targets * jax.nn.log_softmax(f, axis=1), axis=1)


def mean(
    loss: LossName, f: Float[Array, "n c"], targets: Float[Array, "n c"]
) -> Float[Array, ""]:
    """Loss of the set, ``L = (1/n) sum_i l(f_i, y_i)``."""
    return jnp.mean(per_sample(loss, f, targets))


def gradient(
    loss: LossName, f: Float[Array, "n c"], targets: Float[Array, "n c"]
) -> Float[Array, "n c"]:
    """``g_i = dl(f_i, y_i)/df_i``, not divided by n.

    ``mse``: ``f - y``; ``cross_entropy``: ``softmax(f) sum_k y_k - y``.
    """
    if loss == "mse":
        return f - targets
    return jax.nn.softmax(f, axis=1) * jnp.sum(targets, axis=1, keepdims=True) - targets


def curvature_product(
    loss: LossName,
    f: Float[Array, "n c"],
    targets: Float[Array, "n c"],
    v: Float[Array, "n c"],
) -> Float[Array, "n c"]:
    """``h_i v_i`` with ``h_i = d^2 l(f_i, y_i)/df_i^2``, for each sample.

    ``mse``: ``v``; ``cross_entropy``: ``(diag(s) - s s^T) v`` with ``s = softmax(f)``.
    """
    if loss == "mse":
        return v
    s = jax.nn.softmax(f, axis=1)
    total = jnp.sum(targets, axis=1, keepdims=True)
    return total * (s * v - s * jnp.sum(s * v, axis=1, keepdims=True))


def curvature(
    loss: LossName, f: Float[Array, "n c"], targets: Float[Array, "n c"]
) -> Float[Array, "n c c"]:
    """``h_i = d^2 l(f_i, y_i)/df_i^2``, for each sample, as matrices."""
    columns = [
        curvature_product(loss, f, targets, jnp.broadcast_to(e, f.shape))
        for e in jnp.eye(f.shape[1], dtype=f.dtype)
    ]
    return jnp.stack(columns, axis=2)


def hits(f: Float[Array, "n c"], targets: Float[Array, "n c"]) -> Float[Array, " n"]:
    """1 of each sample whose largest output is its largest target, 0 of the others.

    With a single output (targets -1 and +1) the sign decides.
    """
    if f.shape[1] == 1:
        hit = ((f > 0) == (targets > 0))[:, 0]
    else:
        hit = jnp.argmax(f, axis=1) == jnp.argmax(targets, axis=1)
    return hit.astype(f.dtype)


def accuracy(f: Float[Array, "n c"], targets: Float[Array, "n c"]) -> Float[Array, ""]:
    """Share of samples that :func:`hits` counts."""
    return jnp.mean(hits(f, targets))
