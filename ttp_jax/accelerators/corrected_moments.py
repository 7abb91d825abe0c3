"""Expected loss of SGD with corrected gradients, by a recursion of two moments."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ttp_jax import sampling
from ttp_jax.optimizers import SGD
from ttp_jax.types import InputError


class CorrectedMoments(NamedTuple):
    """At every step ``0..T``, and what the correction does to the noise at steps ``0..T-1``."""

    loss: Float[np.ndarray, " t"]
    """``E L = tr(M)/(2 n)`` with ``M = E r r^T``."""
    variance_left: Float[np.ndarray, " T"]
    """``V(Q)/V(M)``: variance of the outputs' step with the correction over that without."""
    optimum: Float[np.ndarray, " T"]
    """``c* = V(C)/V(M_s)``, the coefficient that leaves least of it."""


def corrected_moments(
    theta: Float[np.ndarray, "nc nc"],
    f0: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
    sgd: SGD,
    coefficients: Float[np.ndarray, " E"],
    *,
    steps: int,
) -> CorrectedMoments:
    """Exact for MSE and batches drawn independently of each other.

    The correction has mean zero, so the mean of the residuals ``r`` moves as without it. In the
    noise ``d = r - c r_s`` takes the place of ``r``: with ``G(X) = blockdiag(X)/n - X/n^2``
    (each sample's block) and ``phi/B`` of :mod:`ttp_jax.dynamics.moments`

    ``M' = A M A^T + eta^2 (phi/B) Theta G(Q) Theta,  Q = M - c (C + C^T) + c^2 M_s``

    with ``C = E r r_s^T``, which the noiseless step moves from ``M_s``, because noise that is
    still to come has no mean. With momentum the same for ``(r, u)``. ``V(X) = tr(Theta G(X)
    Theta)``. The snapshot is taken every ``n // B`` steps. (Variance-reduced updates of Lei et
    al., arXiv 2301.03573, in function space; derived here.)

    Args:
        theta: Kernel of the samples that are trained on.
        f0: Outputs at the start.
        targets: Targets.
        sgd: Without weight decay; batches that do not exclude each other.
        coefficients: ``c`` of each epoch.
        steps: ``T``.

    Raises:
        InputError: Weight decay, the full batch, shuffled epochs, or too few coefficients.

    Cost: six products of ``[nc, nc]`` matrices a step, nine with momentum.
    """
    n = len(f0)
    if sgd.weight_decay or sgd.batch_size is None or sgd.sampling == "shuffle":
        raise InputError(
            "moments under a corrected gradient need independent mini-batches and no weight "
            f"decay, got sampling {sgd.sampling!r}, batch size {sgd.batch_size} and decay "
            f"{sgd.weight_decay}; follow the mini-batches themselves instead"
        )
    sgd.batches(n, 1, 0)
    per_epoch = n // sgd.batch_size
    needed = -(-steps // per_epoch)
    if len(coefficients) < needed:
        raise InputError(
            f"a coefficient is needed for each of {needed} epochs, got {len(coefficients)}"
        )
    strength = sampling.variance_factor(n, sgd.batch_size, sgd.sampling) / sgd.batch_size
    k = np.arange(steps)
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        per_step = {
            "eta": f64(sgd.learning_rates(steps)),
            "c": f64(np.asarray(coefficients)[k // per_epoch]),
            "begins": jnp.asarray(k % per_epoch == 0),
        }
        r0 = f64(np.asarray(f0, float) - np.asarray(targets, float)).reshape(-1)
        found = _scan(
            f64(theta), r0, per_step, sgd.momentum, strength, n=n, nesterov=sgd.nesterov
        )
        loss, left, optimum = map(np.asarray, found)
        first = float(jnp.sum(r0**2)) / (2 * n)
    return CorrectedMoments(np.append(first, loss), left, optimum)


class _State(NamedTuple):
    """Second moments of ``(r, u)``, and with the snapshot's residual ``r_s``."""

    rr: Array
    ru: Array
    uu: Array
    rs: Array
    us: Array
    ss: Array


def _spread(second: Array, n: int) -> Array:
    """``G(X) = blockdiag(X)/n - X/n^2``."""
    c = len(second) // n
    own = jnp.arange(n)
    blocks = second.reshape(n, c, n, c)[own, :, own, :]
    spread = (-second / n**2).reshape(n, c, n, c).at[own, :, own, :].add(blocks / n)
    return spread.reshape(second.shape)


@partial(jax.jit, static_argnames=("n", "nesterov"))
def _scan(theta, r0, per_step, mu, strength, *, n, nesterov):
    a, b = (1 + mu, mu**2) if nesterov else (1.0, mu)
    square = theta @ theta

    def size(second):
        """``V(X) = tr(Theta G(X) Theta)``."""
        return jnp.sum(square * _spread(second, n))

    def step(state, now):
        eta, c = now["eta"], now["c"]
        fresh = state._replace(rs=state.rr, us=state.ru.T, ss=state.rr)
        state = jax.tree.map(lambda x, y: jnp.where(now["begins"], y, x), state, fresh)
        cross = (state.rs + state.rs.T) / 2
        left = state.rr - 2 * c * cross + c**2 * state.ss
        xi = strength * theta @ _spread(left, n) @ theta

        def deviate(r, u):
            """A step of ``(r, u)`` without noise."""
            push = theta @ r / n
            return r - eta * (a * push + b * u), push + mu * u

        def noiseless(rr, ru, uu):
            r_r, u_r = deviate(rr, ru.T)
            r_u, u_u = deviate(ru, uu)
            new_rr, new_ru = deviate(r_r.T, r_u.T)
            _, new_uu = deviate(u_r.T, u_u.T)
            return new_rr.T, new_ru.T, new_uu

        rr, ru, uu = noiseless(state.rr, state.ru, state.uu)
        rs, us = deviate(state.rs, state.us)
        rr = rr + (eta * a) ** 2 * xi
        new = _State(
            rr=(rr + rr.T) / 2,
            ru=ru - eta * a * xi,
            uu=uu + xi,
            rs=rs,
            us=us,
            ss=state.ss,
        )
        alone = size(state.rr)
        seen = jnp.trace(rr) / (2 * n), size(left) / alone, size(cross) / size(state.ss)
        return new, seen

    rr = jnp.outer(r0, r0)
    zero = jnp.zeros_like(rr)
    _, seen = jax.lax.scan(step, _State(rr, zero, zero, rr, zero, rr), per_step)
    return seen
