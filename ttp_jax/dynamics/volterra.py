"""Expected loss from a spectrum alone: every mode a state of its own, coupled by the loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import sampling
from ttp_jax.optimizers import SGD
from ttp_jax.types import InputError


def volterra(
    eigvals: Float[np.ndarray, " r"],
    energies: Float[np.ndarray, " r"],
    sgd: SGD,
    *,
    n: int,
    c: int,
    steps: int,
    outside: float = 0.0,
) -> Float[np.ndarray, " T"]:
    """Expected loss of mini-batch SGD under MSE, ``E L_t = sum_k s_k(t)/(2n)``.

    The moment equations of :func:`ttp_jax.dynamics.moments.moments` in the modes of the
    kernel, where the modes are spread over many samples: ``blockdiag(Q)`` is then about
    ``tr(Q)/(n c) I``, and the energy ``s_k = E (v_k . r)^2`` meets the noise

    ``xi_k = (phi/B) lam_k^2 [sum_j s_j/(n^2 c) - s_k/n^2]``.

    Without momentum ``s_k <- (1 - eta lam_k/n)^2 s_k + eta^2 xi_k``; with it, the second
    moments of residual and velocity of each mode. This is the recursion whose solution is a
    Volterra equation (Paquette et al., arXiv 2102.04396; with momentum, Velikanov et al.,
    arXiv 2206.11124). Exact without noise.

    Args:
        eigvals: ``lam_k`` of ``Theta``, over ``n`` samples.
        energies: ``(v_k . (f_0 - y))^2``.
        sgd: No weight decay. Shuffled epochs, whose noise cancels but for what the residual
            moves within one, are taken to have none.
        n: Samples.
        c: Outputs.
        steps: ``T``.
        outside: Energy of the residual outside the modes, which stays.

    Returns:
        The loss at steps ``0..T``.

    Raises:
        InputError: Weight decay.

    Cost: ``r T``: no matrix of the size of the kernel.

    Breaks when: modes sit on few samples (outliers): their noise is then of those samples.
    """
    if sgd.weight_decay:
        raise InputError(
            f"volterra needs weight decay 0, got {sgd.weight_decay}; use solver 'moments'"
        )
    strength = 0.0
    if sgd.batch_size is not None and sgd.sampling != "shuffle":
        strength = sampling.variance_factor(n, sgd.batch_size, sgd.sampling)
        strength /= sgd.batch_size
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        energy = _scan(
            f64(eigvals) / n,
            f64(energies),
            f64(sgd.learning_rates(steps)),
            sgd.momentum,
            strength,
            float(outside),
            n * c,
            n,
            nesterov=sgd.nesterov,
        )
        return np.asarray(energy) / (2 * n)


@partial(jax.jit, static_argnames=("nesterov",))
def _scan(rate, energies, eta, mu, strength, outside, size, n, *, nesterov):
    a, b = (1 + mu, mu**2) if nesterov else (1.0, mu)

    def step(state, eta_k):
        rr, ru, uu = state
        total = jnp.sum(rr) + outside
        xi = strength * rate**2 * (n * total / size - rr)
        # r' = p r - q u, u' = rate r + mu u, noise (-eta a, 1)
        p, q = 1 - eta_k * a * rate, eta_k * b
        new = (
            p**2 * rr - 2 * p * q * ru + q**2 * uu + (eta_k * a) ** 2 * xi,
            p * rate * rr + (p * mu - q * rate) * ru - q * mu * uu - eta_k * a * xi,
            rate**2 * rr + 2 * rate * mu * ru + mu**2 * uu + xi,
        )
        return new, jnp.sum(new[0]) + outside

    zero = jnp.zeros_like(energies)
    _, energy = jax.lax.scan(step, (energies, zero, zero), eta)
    return jnp.concatenate([(jnp.sum(energies) + outside)[None], energy])
