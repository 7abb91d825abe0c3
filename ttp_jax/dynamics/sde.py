"""Sample paths of the stochastic differential equation of the outputs."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import losses, sampling
from ttp_jax.dynamics import noise as batch_noise
from ttp_jax.dynamics.path import Path, quantiles
from ttp_jax.optimizers import SGD
from ttp_jax.reading import loss_and_accuracy, read_steps
from ttp_jax.types import InputError, LossName

Momentum = Literal["effective_rate", "two_state"]


def sde(
    theta: Float[np.ndarray, "nc nc"],
    f0: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
    sgd: SGD,
    *,
    loss: LossName,
    steps: int,
    q0: Float[np.ndarray, "n c"] | None = None,
    seed: int = 0,
    every: int = 1,
    paths: int = 32,
    substeps: int = 1,
    momentum: Momentum = "effective_rate",
    noise: batch_noise.Noise = "exact",
    noisy: bool = True,
) -> Path:
    """Mini-batch SGD as diffusion in function space, by Euler-Maruyama.

    ``df = -h G dt + h (Theta N Theta)^{1/2} dW``, ``G = Theta g/n + wd q``, unit time one
    step (Zancato et al., arXiv 2008.12478, Prop. 1, under the mean loss), with
    ``Theta N Theta`` of :mod:`ttp_jax.dynamics.noise`. The exact covariance takes no
    ``p x p`` object: ``(Theta N Theta)^{1/2} dW = (phi/(B n))^{1/2} Theta [(z_i - zbar) g_i]``
    with one ``z_i ~ N(0, dt)`` a sample, shared by its outputs.

    Args:
        theta: Kernel of the training set.
        f0: Outputs at the start.
        targets: Targets.
        sgd: The optimiser. Shuffled epochs are treated as batches drawn independently
            without replacement, which overstates their noise.
        loss: ``"mse"`` or ``"cross_entropy"``.
        steps: ``T``.
        q0: ``J w_0``, needed with weight decay toward zero.
        seed: Of the noise; it has nothing to do with the stream of mini-batches.
        every: Read every so many steps.
        paths: How many.
        substeps: Steps of the integrator in one of the optimiser, ``1/dt``. One is the
            recursion of SGD itself with Gaussian noise.
        momentum: ``"effective_rate"``: ``h = eta/(1 - mu)``, as Zancato et al. do.
            ``"two_state"``: ``du = (G - (1 - mu) u) dt + noise``, ``df = -eta u dt``
            (``-eta (du + u dt)`` with Nesterov).
        noise: Exact or approximated.
        noisy: ``False`` for the ordinary differential equation; then one path.

    Returns:
        The mean loss and accuracy over the paths with their quantiles; ``alpha`` and
        ``outputs`` those of the drift, averaged.

    Raises:
        InputError: Arguments out of range.

    Cost: ``substeps * T * paths`` products of the kernel with a vector, ``(n c)^2``
    multiply-adds each; weak order one in ``1/substeps``.
    """
    read = read_steps(steps, every)
    sgd.batches(len(f0), 1, 0)  # refuses a batch larger than n
    for name, value in (("paths", paths), ("substeps", substeps)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if momentum not in get_args(Momentum):
        raise InputError(
            f"momentum must be one of {', '.join(get_args(Momentum))}, got {momentum!r}"
        )
    batch_noise.require_independent(noise, shuffled=False)
    origin = sgd.decay_origin(f0, q0)
    n, c = f0.shape
    if momentum == "effective_rate":
        sgd = sgd.at_effective_rate(steps)
    B = sgd.batch_size
    strength = 0.0
    if B is not None and noisy:
        strength = sampling.variance_factor(n, B, sgd.sampling) / B
    if strength == 0.0:
        paths = 1
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        (loss_read, accuracy), (alpha, shrink) = _scan(
            f64(theta),
            f64(f0),
            f64(targets),
            f64(origin),
            f64(sgd.learning_rates(steps)),
            jax.random.key(seed),
            sgd.momentum,
            sgd.weight_decay,
            strength,
            loss=loss,
            noise=noise,
            nesterov=sgd.nesterov,
            to_zero=sgd.decay_toward == "zero",
            paths=paths,
            substeps=substeps,
            two_state=momentum == "two_state",
        )
        loss_read, accuracy = np.asarray(loss_read)[read].T, np.asarray(accuracy)[read].T
        alpha, shrink = np.asarray(alpha).mean(0), float(shrink)
    drifted = f0 - (theta @ alpha).reshape(n, c)
    if q0 is not None:
        drifted = drifted - shrink * q0
    return Path(
        steps=read,
        loss=loss_read.mean(0),
        accuracy=accuracy.mean(0),
        outputs=drifted,
        alpha=alpha,
        shrink=shrink,
        loss_quantiles=quantiles(loss_read) if paths > 1 else None,
        accuracy_quantiles=quantiles(accuracy) if paths > 1 else None,
    )


_STATIC = ("loss", "noise", "nesterov", "to_zero", "paths", "substeps", "two_state")


@partial(jax.jit, static_argnames=_STATIC)
def _scan(
    theta,
    f0,
    targets,
    origin,
    eta,
    key,
    mu,
    weight_decay,
    strength,
    *,
    loss,
    noise,
    nesterov,
    to_zero,
    paths,
    substeps,
    two_state,
):
    n, c = f0.shape
    dt = 1.0 / substeps
    gradient = jax.vmap(lambda f: losses.gradient(loss, f, targets))
    read = jax.vmap(lambda f: loss_and_accuracy(loss, f, targets))
    kick = batch_noise.sampler(noise, theta, strength, losses.gradient(loss, f0, targets))

    def forces(f, weights, key):
        """Noise of one substep; what acts on the outputs, and on the mean weights."""
        g = gradient(f)
        alpha, shrink = weights
        drift = jnp.einsum("sk,km->sm", g.reshape(-1, n * c), theta).reshape(f.shape) / n
        return jnp.sqrt(dt) * kick(key, g), (
            drift + weight_decay * (origin + f),
            g.reshape(-1, n * c) / n - weight_decay * alpha,
            to_zero * weight_decay * (1 - shrink),
        )

    def overdamped(state, eta_k, key):
        f, weights, velocity = state
        xi, (G, *H) = forces(f, weights, key)
        f = f - eta_k * (dt * G + xi)
        weights = [w + eta_k * dt * h for w, h in zip(weights, H, strict=True)]
        return f, weights, velocity

    def underdamped(state, eta_k, key):
        f, weights, velocity = state
        xi, force = forces(f, weights, key)
        u, *v = (v + dt * (G - (1 - mu) * v) for v, G in zip(velocity, force, strict=True))
        u = u + xi
        moves = [u, *v]
        if nesterov:
            moves = [G + mu * v for v, G in zip(moves, force, strict=True)]
        f = f - eta_k * (dt * moves[0] + (xi if nesterov else 0.0))
        weights = [w + eta_k * dt * m for w, m in zip(weights, moves[1:], strict=True)]
        return f, weights, [u, *v]

    def step(state, now):
        eta_k, key = now
        for each in jax.random.split(key, substeps):
            state = (underdamped if two_state else overdamped)(state, eta_k, each)
        return state, read(state[0])

    f = jnp.broadcast_to(f0, (paths, n, c))
    weights = [jnp.zeros((paths, n * c)), jnp.zeros(())]
    start = (f, weights, [jnp.zeros_like(f), *weights])
    first = read(f)
    keys = jax.random.split(key, len(eta))
    end, observed = jax.lax.scan(step, start, (eta, keys))
    observed = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, observed)
    return observed, end[1]
