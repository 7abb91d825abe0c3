"""Mean and covariance of the outputs under mini-batch SGD and MSE, exactly."""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ttp_jax import losses
from ttp_jax.dynamics.path import Path
from ttp_jax.optimizers import SGD
from ttp_jax.reading import read_steps
from ttp_jax.types import InputError, LossName

Form = Literal["discrete", "sde"]


class Moments(NamedTuple):
    """Mean ``[nc]`` and covariance ``[nc, nc]`` of the residual ``r = f - y`` at a step."""

    mean: Float[np.ndarray, " nc"]
    covariance: Float[np.ndarray, "nc nc"]


def moments(
    theta: Float[np.ndarray, "nc nc"],
    f0: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
    sgd: SGD,
    *,
    loss: LossName = "mse",
    steps: int,
    q0: Float[np.ndarray, "n c"] | None = None,
    every: int = 1,
    form: Form = "discrete",
) -> tuple[Path, Moments]:
    """Expected loss of SGD on the linearised model, from the recursion of two moments.

    With ``K = Theta/n + wd I``, ``b = wd (q_0 - f_0 + y)`` (``wd`` acts on ``q = J w``) and
    ``Q = E[r r^T]``, the batch gradient has mean ``K r + b`` and covariance

    ``N(Q) = (phi/B) Theta [blockdiag(Q)/n - Q/n^2] Theta``,

    ``blockdiag`` keeping the ``c x c`` block of each sample, ``phi = 1`` with replacement
    and ``(n - B)/(n - 1)`` for independent batches drawn without. ``discrete``: the exact
    recursion of ``(r, u)``, ``u <- mu u + G``, ``r <- r - eta (G + mu u or u)``. ``sde``:
    the moments of ``dr = -h (K r + b) dt + h N(Q)^{1/2} dW`` with the effective rate
    ``h = eta/(1 - mu)`` (Zancato et al., arXiv 2008.12478, Prop. 1, with the exact noise
    covariance), unit time one step, four-stage Runge-Kutta with one stage set a step.

    Args:
        theta: Kernel of the training set.
        f0: Outputs at the start.
        targets: Targets.
        sgd: Independent batches (with or without replacement) or the full batch.
        loss: Must be ``"mse"``: moments do not close under cross-entropy.
        steps: ``T``.
        q0: ``J w_0``, needed with weight decay.
        every: Read every so many steps.
        form: ``"discrete"`` or ``"sde"``.

    Returns:
        The path of the expected loss, ``E L = (tr C + |m|^2)/(2n)``, with the accuracy and
        the coefficients of the *mean* outputs, and the moments at the last step.

    Raises:
        InputError: Another loss, or batches that are not independent of each other.

    Cost: nine products of ``[nc, nc]`` matrices a step (``form="sde"``: twelve), memory
    about twelve such matrices. For ``n c`` in the hundreds; ``simulate`` goes further.
    """
    require_closed_moments(sgd, loss)
    if sgd.weight_decay and q0 is None:
        raise ValueError("weight decay needs q0 = J w_0")
    n, c = f0.shape
    read = read_steps(steps, every)
    sgd.batches(n, 1, 0)  # refuses a batch larger than n
    noise = 0.0
    if sgd.batch_size is not None:
        phi = 1.0
        if sgd.sampling == "without_replacement":
            phi = (n - sgd.batch_size) / max(n - 1, 1)
        noise = phi / sgd.batch_size
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        y, start = f64(targets), f64(f0)
        pull = sgd.weight_decay * (f64(start if q0 is None else q0) - start + y)
        scan = _scan_discrete if form == "discrete" else _scan_sde
        (mean, covariance, alpha, shrink), (expected, accuracy) = scan(
            f64(theta),
            start,
            y,
            pull.reshape(-1),
            f64(sgd.learning_rates(steps)),
            sgd.momentum,
            sgd.weight_decay,
            noise,
            nesterov=sgd.nesterov,
        )
        path = Path(
            steps=read,
            loss=np.asarray(expected)[read],
            accuracy=np.asarray(accuracy)[read],
            outputs=np.asarray(y + mean.reshape(n, c)),
            alpha=np.asarray(alpha),
            shrink=float(shrink),
        )
        return path, Moments(np.asarray(mean), np.asarray(covariance))


def require_closed_moments(sgd: SGD, loss: LossName) -> None:
    """Refuse what :func:`moments` does not hold for.

    Raises:
        InputError: It says what came and what to use instead.
    """
    if loss != "mse":
        raise InputError(
            f"solver 'moments' needs loss='mse', got {loss!r}; use solver 'simulate'"
        )
    if sgd.batch_size is not None and sgd.sampling == "shuffle":
        raise InputError(
            "solver 'moments' needs batches that are independent of each other, got "
            "sampling='shuffle'; use 'with_replacement' or 'without_replacement', or "
            "solver 'simulate'"
        )


def _noise(theta: Array, second_moment: Array, n: int, strength: Array) -> Array:
    """``N(Q)`` of the docstring above, ``strength = phi/B``."""
    c = len(theta) // n
    sample = jnp.arange(n * c) // c
    own_block = sample[:, None] == sample[None, :]
    spread = jnp.where(own_block, second_moment, 0.0) / n - second_moment / n**2
    return strength * theta @ spread @ theta


def _observe(mean: Array, covariance: Array, y: Array) -> tuple[Array, Array]:
    expected = (jnp.trace(covariance) + mean @ mean) / (2 * len(y))
    return expected, losses.accuracy(y + mean.reshape(y.shape), y)


def _with_start(observed, f0, y):
    first = _observe((f0 - y).reshape(-1), jnp.zeros((f0.size, f0.size)), y)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, observed)


@partial(jax.jit, static_argnames=("nesterov",))
def _scan_discrete(theta, f0, y, pull, eta, mu, weight_decay, noise, *, nesterov):
    n = len(y)
    size = theta.shape[0]
    K = theta / n + weight_decay * jnp.eye(size)
    # r' = r - eta (a G + b u) with u the velocity before the step
    a, b = (1 + mu, mu**2) if nesterov else (1.0, mu)

    def step(state, eta_k):
        r, u, Crr, Cru, Cuu, coefficients = state
        xi = _noise(theta, Crr + jnp.outer(r, r), n, noise)
        A = jnp.eye(size) - eta_k * a * K
        ArrK = A @ Crr - eta_k * b * Cru.T  # row block of F C, against r
        AruK = A @ Cru - eta_k * b * Cuu  # row block of F C, against u
        Krr = K @ Crr + mu * Cru.T
        Kru = K @ Cru + mu * Cuu
        new_rr = ArrK @ A - eta_k * b * AruK + eta_k**2 * a**2 * xi
        new_ru = ArrK @ K + mu * AruK - eta_k * a * xi
        new_uu = Krr @ K + mu * Kru + xi
        G = K @ r + pull
        coefficients = _coefficients(coefficients, r / n, eta_k, mu, weight_decay, a, b)
        state = (
            r - eta_k * (a * G + b * u),
            mu * u + G,
            0.5 * (new_rr + new_rr.T),
            new_ru,
            0.5 * (new_uu + new_uu.T),
            coefficients,
        )
        return state, _observe(state[0], state[2], y)

    r = (f0 - y).reshape(-1)
    zero = jnp.zeros((size, size))
    start = (r, jnp.zeros(size), zero, zero, zero, _no_coefficients(size))
    end, observed = jax.lax.scan(step, start, eta)
    (alpha, _, shrink, _) = end[5]
    return (end[0], end[2], alpha, shrink), _with_start(observed, f0, y)


@partial(jax.jit, static_argnames=("nesterov",))
def _scan_sde(theta, f0, y, pull, eta, mu, weight_decay, noise, *, nesterov):
    del nesterov  # the effective rate is the same
    n = len(y)
    size = theta.shape[0]
    K = theta / n + weight_decay * jnp.eye(size)

    def drift(state, h):
        r, C, alpha, shrink = state
        xi = _noise(theta, C + jnp.outer(r, r), n, noise)
        KC = K @ C
        return (
            -h * (K @ r + pull),
            -h * (KC + KC.T) + h**2 * xi,
            h * (r / n - weight_decay * alpha),
            h * weight_decay * (1 - shrink),
        )

    def step(state, eta_k):
        h = eta_k / (1 - mu)
        move = lambda s, k, w: jax.tree.map(lambda x, d: x + w * d, s, k)  # noqa: E731
        k1 = drift(state, h)
        k2 = drift(move(state, k1, 0.5), h)
        k3 = drift(move(state, k2, 0.5), h)
        k4 = drift(move(state, k3, 1.0), h)
        total = jax.tree.map(lambda p, q, s, t: (p + 2 * q + 2 * s + t) / 6, k1, k2, k3, k4)
        state = move(state, total, 1.0)
        return state, _observe(state[0], state[1], y)

    r = (f0 - y).reshape(-1)
    start = (r, jnp.zeros((size, size)), jnp.zeros(size), jnp.zeros(()))
    end, observed = jax.lax.scan(step, start, eta)
    return end, _with_start(observed, f0, y)


def _no_coefficients(size: int) -> tuple[Array, Array, Array, Array]:
    return jnp.zeros(size), jnp.zeros(size), jnp.zeros(()), jnp.zeros(())


def _coefficients(state, g, eta, mu, weight_decay, a, b):
    """Mean weights: coefficients of ``J^T`` and of ``w_0``, each with its velocity."""
    alpha, beta, shrink, pull = state
    g_alpha = g - weight_decay * alpha
    g_shrink = weight_decay * (1 - shrink)
    return (
        alpha + eta * (a * g_alpha + b * beta),
        mu * beta + g_alpha,
        shrink + eta * (a * g_shrink + b * pull),
        mu * pull + g_shrink,
    )
