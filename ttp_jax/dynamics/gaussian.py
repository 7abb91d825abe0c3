"""Means over Gaussian outputs: what the moment equations need of a loss."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ttp_jax import losses
from ttp_jax.types import LossName


class Expected(NamedTuple):
    """Means over ``f_i ~ N(m_i, C_ii)``, ``g_i`` and ``h_i`` the loss's derivatives."""

    loss: Float[Array, ""]
    """``(1/n) sum_i E l(f_i, y_i)``."""
    gradient: Float[Array, "n c"]
    """``E g_i``."""
    curvature: Float[Array, "n c c"]
    """``E h_i``; by Stein's lemma ``Cov(g_i, f) = E[h_i] Cov(f_i, f)``."""
    square: Float[Array, "n c c"]
    """``E g_i g_i^T``."""


def expected(
    loss: LossName,
    mean: Float[Array, "n c"],
    blocks: Float[Array, "n c c"],
    targets: Float[Array, "n c"],
) -> Expected:
    """The means that drive the moments of the outputs.

    ``mse``: exact. ``cross_entropy``: the cubature rule of degree five in ``c`` dimensions
    (``2 c^2 + 1`` points; Stroud, Approximate Calculation of Multiple Integrals, 1971,
    rule E_n^{r^2} 5-2) for every sample.

    Args:
        loss: ``"mse"`` or ``"cross_entropy"``.
        mean: Of the outputs.
        blocks: Covariance of each sample's outputs.
        targets: Targets.
    """
    n, c = mean.shape
    if loss == "mse":
        r = mean - targets
        square = blocks + r[:, :, None] * r[:, None, :]
        return Expected(
            loss=jnp.trace(square, axis1=1, axis2=2).sum() / (2 * n),
            gradient=r,
            curvature=jnp.broadcast_to(jnp.eye(c), (n, c, c)),
            square=square,
        )
    points, weights = _cubature(c)
    # A covariance that is singular, as at the start, still has a root.
    size = jnp.trace(blocks, axis1=1, axis2=2)[:, None, None]
    root = jnp.linalg.cholesky(blocks + (1e-12 * size + 1e-30) * jnp.eye(c))
    f = mean + jnp.einsum("nab,sb->sna", root, points)
    flat, y = f.reshape(-1, c), jnp.tile(targets, (len(points), 1))

    def weigh(values):
        return jnp.tensordot(weights, values.reshape(f.shape[:2] + values.shape[1:]), 1)

    g = losses.gradient(loss, flat, y)
    return Expected(
        loss=weigh(losses.per_sample(loss, flat, y)).mean(),
        gradient=weigh(g),
        curvature=weigh(losses.curvature(loss, flat, y)),
        square=weigh(g[:, :, None] * g[:, None, :]),
    )


def _cubature(c: int) -> tuple[Array, Array]:
    """Points ``[s, c]`` and weights ``[s]`` for the standard normal distribution."""
    axes = np.sqrt(c + 2.0) * np.eye(c)
    first, second = np.triu_indices(c, 1)
    corners = [
        np.sqrt(c / 2.0 + 1.0) * (np.eye(c)[first] + sign * np.eye(c)[second])
        for sign in (1.0, -1.0)
    ]
    points = np.concatenate(
        [np.zeros((1, c)), axes, -axes, *corners, *(-k for k in corners)]
    )
    weights = np.concatenate(
        [
            [2.0 / (c + 2)],
            np.full(2 * c, (4.0 - c) / (2 * (c + 2) ** 2)),
            np.full(4 * len(first), 1.0 / (c + 2) ** 2),
        ]
    )
    return jnp.asarray(points), jnp.asarray(weights)
