"""The noise of a batch's gradient in function space, exact and approximated.

Exact: covariance ``Theta N Theta`` (:func:`ttp_jax.dynamics.moments.moments`). The others are
what a ``p x p`` covariance is commonly replaced by; the noise approximation of Zancato et al.
(arXiv 2008.12478) is not known to us, so each is an option and none is called theirs.

``isotropic``: per-sample gradients scattered alike in all directions of weight space, which
gives ``sigma^2 Theta``, with ``sigma^2`` such that the trace is the exact one. ``diagonal``:
the outputs' noise without its correlations. ``frozen``: the exact covariance at the start.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ttp_jax.types import InputError

Noise = Literal["exact", "isotropic", "diagonal", "frozen"]


def require_independent(noise: Noise, *, shuffled: bool) -> None:
    """Refuse an approximation where batches are not independent.

    Raises:
        InputError: It says so, or that there is no such approximation.
    """
    if noise not in get_args(Noise):
        raise InputError(
            f"noise must be one of {', '.join(get_args(Noise))}, got {noise!r}"
        )
    if noise != "exact" and shuffled:
        raise InputError(
            f"noise {noise!r} needs batches that are independent of each other, got "
            "sampling='shuffle'; use 'with_replacement' or 'without_replacement', or "
            "noise='exact'"
        )


def approximate(
    noise: Noise,
    theta: Float[Array, "nc nc"],
    exact: Float[Array, "nc nc"],
    frozen: Float[Array, "nc nc"] | None,
) -> Float[Array, "nc nc"]:
    """What stands for the covariance ``exact``; ``frozen`` is that of the start."""
    if noise == "isotropic":
        return jnp.trace(exact) / jnp.trace(theta) * theta
    if noise == "diagonal":
        return jnp.diag(jnp.diag(exact))
    if noise == "frozen":
        assert frozen is not None
        return frozen
    return exact


def sampler(
    noise: Noise,
    theta: Float[Array, "nc nc"],
    strength: Float[Array, ""] | float,
    g0: Float[Array, "n c"],
) -> Callable[[Array, Array], Array]:
    """The function ``(key, g[paths, n, c]) -> xi[paths, n, c]`` that draws the noise.

    Args:
        noise: Exact or approximated.
        theta: Kernel.
        strength: ``phi/B``.
        g0: Gradients in the outputs at the start, for ``frozen``.

    Cost: one product of the kernel with a vector a path; ``diagonal`` two more, of which one
    with the squared kernel by outputs, ``isotropic`` an eigendecomposition once.
    """
    n, c = g0.shape
    image = lambda g: (g.reshape(-1, n * c) @ theta).reshape(g.shape)  # noqa: E731
    if noise in ("exact", "frozen"):

        def exact(key, g):
            z = jax.random.normal(key, g.shape[:2], g.dtype)
            z = z - z.mean(axis=1, keepdims=True)
            g = jnp.broadcast_to(g0, g.shape) if noise == "frozen" else g
            return jnp.sqrt(strength / n) * image(z[:, :, None] * g)

        return exact

    if noise == "isotropic":
        lam, modes = jnp.linalg.eigh(theta)
        root = (modes * jnp.sqrt(jnp.maximum(lam, 0.0))) @ modes.T
        square = (theta @ theta).reshape(n, c, n, c)[jnp.arange(n), :, jnp.arange(n), :]

        def isotropic(key, g):
            own = jnp.einsum("sia,iab,sib->s", g, square, g) / n
            trace = own - jnp.sum(image(g) ** 2, axis=(1, 2)) / n**2
            z = jax.random.normal(key, (len(g), n * c), g.dtype)
            size = jnp.sqrt(strength * trace / jnp.trace(theta))
            return (size[:, None] * (z @ root)).reshape(g.shape)

        return isotropic

    by_sample = theta.reshape(n * c, n, c)

    def diagonal(key, g):
        own = jnp.einsum("kia,sia->ski", by_sample, g)
        variance = jnp.sum(own**2, axis=2) / n - jnp.sum(own, axis=2) ** 2 / n**2
        z = jax.random.normal(key, (len(g), n * c), g.dtype)
        return (jnp.sqrt(strength * variance) * z).reshape(g.shape)

    return diagonal
