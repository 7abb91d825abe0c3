"""Closed form of full-batch gradient descent under MSE."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import losses
from ttp_jax.dynamics.path import Path
from ttp_jax.optimizers import SGD
from ttp_jax.reading import read_steps
from ttp_jax.spectrum import Spectrum
from ttp_jax.types import InputError, LossName


def flow(
    spectrum: Spectrum,
    f0: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
    sgd: SGD,
    *,
    loss: LossName = "mse",
    steps: int,
    every: int = 1,
) -> Path:
    """Residuals mode by mode, ``r_t = V prod_{k<t} (1 - eta_k lam/n) V^T r_0``.

    The discrete-time form of ``L_t = sum_k exp(-2 eta lam_k t) (dy . v_k)^2`` (Zancato et
    al., arXiv 2008.12478, the closed form of their ODE), under the mean loss: hence
    ``lam/n``. With a constant rate the product is ``(1 - eta lam/n)^t``. The part of the
    residual outside the modes stays.

    Args:
        spectrum: Of the kernel of the training set.
        f0: Outputs at the start.
        targets: Targets.
        sgd: Full batch, no momentum, no weight decay; any learning-rate schedule.
        loss: Must be ``"mse"``.
        steps: ``T``.
        every: Read every so many steps.

    Raises:
        InputError: Another loss or optimiser than the closed form holds for.

    Cost: ``r T`` for the loss (memory too), ``n c r T/every`` for the accuracy.
    """
    require_closed_form(sgd, loss)
    n, c = f0.shape
    read = read_steps(steps, every)
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        lam, modes = f64(spectrum.eigvals), f64(spectrum.train_modes)
        y = f64(targets)
        residual = (f64(f0) - y).reshape(-1)
        projected = modes.T @ residual
        rates = f64(sgd.learning_rates(steps))
        factors, integrals = _decay(lam / n, rates)
        outside = residual - modes @ projected

        def outputs(factor):
            return y + (outside + modes @ (factor * projected)).reshape(n, c)

        alpha = (modes @ (integrals[-1] * projected) + jnp.sum(rates) * outside) / n
        square = jnp.sum((factors * projected) ** 2, axis=1) + jnp.sum(outside**2)
        at_read = factors[jnp.asarray(read)]
        accuracy = jax.lax.map(lambda k: losses.accuracy(outputs(k), y), at_read)
        return Path(
            steps=read,
            loss=np.asarray(square / (2 * n))[read],
            accuracy=np.asarray(accuracy),
            outputs=np.asarray(outputs(factors[-1])),
            alpha=np.asarray(alpha),
            shrink=0.0,
        )


def require_closed_form(sgd: SGD, loss: LossName) -> None:
    """Refuse what :func:`flow` does not hold for.

    Raises:
        InputError: It names what is missing.
    """
    asked = {
        "loss='mse'": loss == "mse",
        "the full batch": sgd.batch_size is None,
        "momentum 0": sgd.momentum == 0,
        "weight decay 0": sgd.weight_decay == 0,
    }
    if not all(asked.values()):
        missing = ", ".join(name for name, holds in asked.items() if not holds)
        raise InputError(f"solver 'flow' needs {missing}; use solver 'simulate' instead")


@jax.jit
def _decay(rate_of_mode, eta):
    """Products of ``1 - eta_k rate`` at every step, and ``sum_k eta_k`` of them."""

    def step(carry, eta_k):
        factor, integral = carry
        carry = factor * (1 - eta_k * rate_of_mode), integral + eta_k * factor
        return carry, carry

    one = jnp.ones_like(rate_of_mode)
    start = one, jnp.zeros_like(one)
    _, series = jax.lax.scan(step, start, eta)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, series)
