"""Mean and covariance of the outputs where groups of weights have rates of their own."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ttp_jax import losses, sampling
from ttp_jax.optimizers import SGD
from ttp_jax.reading import read_steps
from ttp_jax.types import InputError, LossName


class ExpectedPath(NamedTuple):
    """Expected loss, and the accuracy of the mean outputs, at the steps that were read."""

    steps: Int[np.ndarray, " t"]
    loss: Float[np.ndarray, " t"]
    accuracy: Float[np.ndarray, " t"]
    mean: Float[np.ndarray, "n c"]
    """Outputs at the end."""
    covariance: Float[np.ndarray, "nc nc"]
    """Of these."""


def grouped_moments(
    shares: Float[np.ndarray, "G nc nc"],
    f0: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
    sgd: SGD,
    *,
    loss: LossName = "mse",
    steps: int,
    q0: Float[np.ndarray, "G n c"] | None = None,
    every: int = 1,
) -> ExpectedPath:
    """Expected loss of SGD on the linearised model, exact under MSE and independent batches.

    The state is ``z = (d_1, u_1, ..., d_G, u_G)``, each group's displacement and velocity in
    outputs (:mod:`ttp_jax.dynamics.grouped`), ``r = f_0 + sum_g d_g - y``. A batch's gradient
    is ``g = r/n + e`` with ``E e = 0`` and, of ``R = E r r^T``,

    ``E e e^T = (phi/B) [blockdiag(R)/n - R/n^2]``

    (as in :func:`ttp_jax.dynamics.moments.moments`), and what it does to ``z`` is linear: ``z'
    = A_t z + b_t + N_t e``. Hence ``E z``, and ``Cov z' = A_t Cov z A_t^T + N_t (E e e^T)
    N_t^T``.

    Args:
        shares: Kernel of each group.
        f0: Outputs at the start.
        targets: Targets.
        sgd: The optimiser; rates ``[T, G]``; batches that are drawn independently.
        loss: ``"mse"``.
        steps: ``T``.
        q0: ``J_g w_0g``, needed with weight decay toward zero.
        every: Read every so many steps.

    Raises:
        InputError: Another loss, or shuffled epochs.

    Cost: ``O((2 G n c)^3)`` a step: for outputs in the hundreds, all groups together.
    """
    if loss != "mse":
        raise InputError(
            f"moments of groups are exact for loss 'mse' and for no other, got {loss!r}; take "
            "solver 'simulate'"
        )
    if sgd.sampling == "shuffle" and sgd.batch_size is not None:
        raise InputError(
            "moments of groups need batches that are independent, got sampling 'shuffle'; take "
            "sampling 'without_replacement' or solver 'simulate'"
        )
    n, c = f0.shape
    read = read_steps(steps, every)
    sgd.batches(n, 1, 0)  # refuses a batch larger than n
    B = sgd.batch_size
    strength = 0.0 if B is None else sampling.variance_factor(n, B, sgd.sampling) / B
    toward_zero = sgd.weight_decay > 0 and sgd.decay_toward == "zero"
    if toward_zero and q0 is None:
        raise ValueError("weight decay toward zero needs q0 = J_g w_0g")
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        mean, covariance, curves = _scan(
            f64(shares),
            f64(f0),
            f64(targets),
            f64(q0 if toward_zero else np.zeros((len(shares), n, c))),
            f64(sgd.grouped_rates(steps, len(shares))),
            sgd.momentum,
            sgd.weight_decay,
            strength,
            nesterov=sgd.nesterov,
        )
        loss_read, accuracy = (np.asarray(values)[read] for values in curves)
    return ExpectedPath(
        read, loss_read, accuracy, np.asarray(mean).reshape(n, c), np.asarray(covariance)
    )


@partial(jax.jit, static_argnames=("nesterov",))
def _scan(shares, f0, y, q0, rates, mu, weight_decay, strength, *, nesterov):
    (count, size, _), (n, c) = shares.shape, f0.shape
    # d' = d - eta (a G + b u), u' = mu u + G.
    a, b = (1 + mu, mu**2) if nesterov else (1.0, mu)
    own = jnp.arange(n)
    into = jnp.tile(jnp.eye(size), (1, count))  # all d_g to f - f_0

    def answer(eta, image, d, u):
        """What a gradient with images ``image`` makes of ``d`` and ``u``, rows by group."""
        G = image + weight_decay * d
        return d - eta[:, None, None] * (a * G + b * u), mu * u + G

    def linear(eta, d, u):
        """One step of a deviation, without noise. ``[G, nc, columns]``."""
        image = jnp.einsum("gij,jk->gik", shares, d.sum(0)) / n
        return answer(eta, image, d, u)

    def step(state, eta):
        (d, u), C = state
        f = (f0.reshape(-1) + d.sum(0)[:, 0]) - y.reshape(-1)
        image = shares @ f / n + weight_decay * q0.reshape(count, -1)
        mean = answer(eta, image[:, :, None], d, u)
        # Covariance [2 G nc, 2 G nc]: all displacements, then all velocities.
        half = count * size
        second = into @ C[:half, :half] @ into.T + jnp.outer(f, f)
        full = second.reshape(n, c, n, c)
        blocks = full[own, :, own, :]
        spread = (-full / n**2).at[own, :, own, :].add(blocks / n).reshape(size, size)
        kick = jnp.concatenate(
            [(-a * eta[:, None, None] * shares).reshape(half, size),
             shares.reshape(half, size)]
        )  # fmt: skip

        def through(columns):
            parts = columns.reshape(2, count, size, -1)
            return jnp.concatenate(
                [v.reshape(half, -1) for v in linear(eta, parts[0], parts[1])]
            )

        C = through(through(C).T).T + strength * kick @ spread @ kick.T
        C = 0.5 * (C + C.T)
        return (mean, C), read(mean[0], C)

    def read(d, C):
        f = f0 + d.sum(0).reshape(n, c)
        half = count * size
        noise = jnp.trace(into @ C[:half, :half] @ into.T)
        return losses.mean("mse", f, y) + noise / (2 * n), losses.accuracy(f, y)

    zero = jnp.zeros((count, size, 1))
    start = ((zero, zero), jnp.zeros((2 * count * size,) * 2))
    ((d, _), C), curves = jax.lax.scan(step, start, rates)
    first = read(zero, start[1])
    half = count * size
    return (
        f0.reshape(-1) + d.sum(0)[:, 0],
        into @ C[:half, :half] @ into.T,
        jax.tree.map(lambda x, v: jnp.concatenate([x[None], v]), first, curves),
    )
