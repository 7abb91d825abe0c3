"""Mean and covariance of the outputs under mini-batch SGD."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ttp_jax import losses, sampling
from ttp_jax.dynamics import noise as batch_noise
from ttp_jax.dynamics.gaussian import Expected, expected
from ttp_jax.dynamics.path import Path
from ttp_jax.optimizers import SGD
from ttp_jax.reading import Keep, kept_steps, read_steps, slots_of
from ttp_jax.types import InputError, LossName

Form = Literal["discrete", "sde"]


class Moments(NamedTuple):
    """Mean ``[nc]`` and covariance ``[nc, nc]`` of the residual ``r = f - y`` at a step."""

    mean: Float[np.ndarray, " nc"]
    covariance: Float[np.ndarray, "nc nc"]
    products: Float[np.ndarray, "k k"] | None = None
    """``E r_i . r_j`` after the steps that were to be kept."""


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
    noise: batch_noise.Noise = "exact",
    keep: Keep = (),
) -> tuple[Path, Moments]:
    """Expected loss of SGD on the linearised model, from the recursion of two moments.

    With ``g`` the loss's gradients in the outputs, ``h`` their curvatures, both at outputs
    ``f ~ N(m, C)``, and ``K = Theta E[h]/n + wd I``: the batch gradient has mean
    ``Theta E[g]/n + wd q``, answers to a deviation of ``f`` by ``K``, and has noise of
    covariance ``Theta N Theta``,

    ``N = (phi/B) [blockdiag(E g g^T)/n - E[g g^T]/n^2]``,

    ``blockdiag`` keeping the ``c x c`` block of each sample, ``phi = 1`` with replacement
    and ``(n - B)/(n - 1)`` without. ``discrete``: the recursion of ``(f, u)``,
    ``u <- mu u + G``, ``f <- f - eta (G + mu u or u)``. ``sde``: the moments of
    ``df = -h G dt + h (Theta N Theta)^{1/2} dW`` with the effective rate
    ``h = eta/(1 - mu)`` (Zancato et al., arXiv 2008.12478, Prop. 1, with the exact noise
    covariance), unit time one step, four-stage Runge-Kutta with one stage set a step.

    Under MSE all of this is exact for batches drawn independently of each other: ``g`` is
    linear in ``f``. **Under cross-entropy it closes the moments by taking the outputs to be
    Gaussian** and the noise of two samples to be related through ``E[h] C E[h]``.

    ``sampling="shuffle"`` (``discrete``): two batches of an epoch exclude each other, so that
    their noise is related by ``-1/(n (n - 1))`` where one batch has ``phi/(n B)``. To second
    order in the noise, with ``N`` that of the mean outputs.

    Args:
        theta: Kernel of the training set.
        f0: Outputs at the start.
        targets: Targets.
        sgd: The optimiser. ``form="sde"`` knows independent batches alone and overstates
            the noise of shuffled ones.
        loss: ``"mse"`` or ``"cross_entropy"``.
        steps: ``T``.
        q0: ``J w_0``, needed with weight decay toward zero.
        every: Read every so many steps.
        form: ``"discrete"`` or ``"sde"``.
        noise: ``"exact"``, or an approximation of ``Theta N Theta``
            (:mod:`ttp_jax.dynamics.noise`), for independent batches.
        keep: Steps between whose outputs the products are wanted (:attr:`Moments.products`),
            of independent batches, ``discrete``. Noise that is still to come has no mean, so
            ``Cov(f_j, f_i)`` is what the step without noise makes of ``Cov(f_i, f_i)``.

    Returns:
        The path of the expected loss, with the accuracy and the coefficients of the *mean*
        outputs, and the moments at the last step.

    Raises:
        InputError: An approximation of the noise, or steps to keep, under shuffled epochs.

    Cost: four products of ``[nc, nc]`` matrices a step, with momentum six, under shuffled
    epochs three more; ``form="sde"`` twelve. Memory about twelve such matrices. Of each step
    kept one product a step more, and two matrices. For ``n c``
    in the hundreds; ``simulate`` goes further.
    """
    epochs = sgd.sampling == "shuffle" and sgd.batch_size is not None and form == "discrete"
    batch_noise.require_independent(noise, shuffled=epochs)
    kept = kept_steps(keep, steps)
    if len(kept) and (epochs or form != "discrete"):
        raise InputError(
            "products between steps need form 'discrete' and independent batches, got form "
            f"{form!r} and sampling {sgd.sampling!r}; take sampling 'without_replacement'"
        )
    pull_to = sgd.decay_origin(f0, q0)
    n, c = f0.shape
    read = read_steps(steps, every)
    sgd.batches(n, 1, 0)  # refuses a batch larger than n
    B = sgd.batch_size
    strength = 0.0 if B is None else sampling.variance_factor(n, B, sgd.sampling) / B
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        per_step = {"eta": f64(sgd.learning_rates(steps))}
        if epochs:
            per_step["ends"] = jnp.arange(1, steps + 1) % (n // B) == 0
            strength = n / (B * max(n - 1, 1))
        if len(kept):
            per_step["slot"] = jnp.asarray(slots_of(kept, steps))
        scan = _scan_discrete if form == "discrete" else _scan_sde
        (mean, covariance, alpha, shrink, *taken), (loss_read, accuracy) = scan(
            f64(theta),
            f64(f0),
            f64(targets),
            f64(pull_to),
            per_step,
            sgd.momentum,
            sgd.weight_decay,
            strength,
            loss=loss,
            noise=noise,
            nesterov=sgd.nesterov,
            two_state=sgd.momentum > 0,
            to_zero=sgd.decay_toward == "zero",
            **({"kept": len(kept)} if len(kept) else {}),
        )
        path = Path(
            steps=read,
            loss=np.asarray(loss_read)[read],
            accuracy=np.asarray(accuracy)[read],
            outputs=np.asarray(mean.reshape(n, c)),
            alpha=np.asarray(alpha),
            shrink=float(shrink),
        )
        residual = np.asarray(mean) - np.asarray(targets, np.float64).reshape(-1)
        products = np.asarray(taken[0].products) if taken else None
        return path, Moments(residual, np.asarray(covariance), products)


class _State(NamedTuple):
    """Mean and covariance of the outputs ``f`` and of the velocity's image ``u = J v``."""

    m: Array
    u: Array
    Cff: Array
    Cfu: Array
    Cuu: Array


class _Epoch(NamedTuple):
    """What the batches of this epoch have left behind, for those that are still to come.

    A sample's noise of one epoch is ``-1/(n - 1)`` of itself in every later batch: what
    counts is the sum ``W[:, i]`` of its kicks, each as far as it has come by now. ``Cff`` of
    the state is without that part, ``-W P W^T/(n (n - 1))`` with ``P`` the centring matrix.
    ``answered``: the mean gradients so far, each times how far ``f`` has moved with it.
    """

    Wf: Array
    Wu: Array
    answered: Array
    kicked: Array

    def excluded(self, left: Array, right: Array) -> Array:
        n = left.shape[1]
        centred = left - left.mean(1, keepdims=True)
        return centred @ right.T / (n * max(n - 1, 1))


class _Taken(NamedTuple):
    """Covariances of ``(f, u)`` with outputs of earlier steps, and those steps' residuals."""

    Cf: Array
    Cu: Array
    residuals: Array
    products: Array

    @classmethod
    def none(cls, kept: int, size: int) -> "_Taken":
        matrices = jnp.zeros((kept, size, size))
        return cls(matrices, matrices, jnp.zeros((kept, size)), jnp.zeros((kept, kept)))

    def moved(self, deviate: Callable, slot: Array, r, Cff, Cuf) -> "_Taken":
        """A step later; the outputs of this step are taken where they have a slot."""
        Cf, Cu = jax.vmap(deviate)(self.Cf, self.Cu)
        Cf, Cu, residuals = (
            all.at[slot].set(one, mode="drop")
            for all, one in ((Cf, Cff), (Cu, Cuf), (self.residuals, r))
        )
        # Of steps that are still to be taken all is zero.
        here = jnp.trace(Cf, axis1=1, axis2=2) + residuals @ r
        products = self.products.at[slot].set(here, mode="drop")
        return _Taken(Cf, Cu, residuals, products.at[:, slot].set(here, mode="drop"))


def _moments_of(loss, m, C, y) -> Expected:
    n, c = y.shape
    own = C.reshape(n, c, n, c)[jnp.arange(n), :, jnp.arange(n), :]
    return expected(loss, m.reshape(n, c), own, y)


def _times_blocks(matrix: Array, blocks: Array) -> Array:
    """``matrix @ blockdiag(blocks)``."""
    n, c, _ = blocks.shape
    return jnp.einsum("kia,iab->kib", matrix.reshape(-1, n, c), blocks).reshape(-1, n * c)


def _spread(e: Expected, C: Array | None) -> Array:
    """``blockdiag(E g g^T)/n - E[g g^T]/n^2``; of the mean gradients alone without ``C``."""
    n, c = e.gradient.shape
    g = e.gradient.reshape(-1)
    full, square = jnp.outer(g, g), e.gradient[:, :, None] * e.gradient[:, None, :]
    if C is not None:
        full = full + _times_blocks(_times_blocks(C, e.curvature).T, e.curvature).T
        square = e.square
    own = jnp.arange(n)
    full = full.reshape(n, c, n, c).at[own, :, own, :].set(square)
    spread = (-full / n**2).at[own, :, own, :].add(square / n)
    return spread.reshape(n * c, n * c)


@partial(
    jax.jit, static_argnames=("loss", "noise", "nesterov", "two_state", "to_zero", "kept")
)
def _scan_discrete(
    theta,
    f0,
    y,
    pull_to,
    per_step,
    mu,
    weight_decay,
    strength,
    *,
    loss,
    noise,
    nesterov,
    two_state,
    to_zero,
    kept=0,
):
    n, c = y.shape
    size = theta.shape[0]
    epochs = "ends" in per_step
    # f' = f - eta (a G + b u) with u the velocity before the step
    a, b = (1 + mu, mu**2) if nesterov else (1.0, mu)
    own_theta = theta.reshape(n, c, n, c)[jnp.arange(n), :, jnp.arange(n), :]
    matrix = jnp.zeros((size, size))
    frozen = None
    if noise == "frozen":
        frozen = (
            theta @ _spread(_moments_of(loss, f0.reshape(-1), matrix, y), matrix) @ theta
        )

    def mean_noise(e: Expected, answered):
        """``E[e_k]``: batches of an epoch avoid each other, and what they have changed."""
        image = jnp.einsum("iab,ib->ia", own_theta, answered) / n
        image = image - (theta @ answered.reshape(-1)).reshape(n, c) / n**2
        return jnp.einsum("iab,ib->ia", e.curvature, image) / max(n - 1, 1)

    def avoid(state, epoch, deviate, e, eta, ends):
        """The step of what a batch leaves behind; settled where the epoch ends."""
        Wf, Wu = deviate(epoch.Wf, epoch.Wu)
        kick = jnp.einsum("kib,ib->ki", theta.reshape(size, n, c), e.gradient)
        epoch = _Epoch(
            Wf=Wf - eta * a * kick,
            Wu=Wu + kick,
            answered=epoch.answered + eta * (a * e.gradient + b * epoch.kicked),
            kicked=mu * epoch.kicked + e.gradient,
        )
        settled = state._replace(Cff=state.Cff - epoch.excluded(epoch.Wf, epoch.Wf))
        if two_state:
            settled = settled._replace(
                Cfu=state.Cfu - epoch.excluded(epoch.Wf, epoch.Wu),
                Cuu=state.Cuu - epoch.excluded(epoch.Wu, epoch.Wu),
            )
        state = jax.tree.map(lambda x, z: jnp.where(ends, z, x), state, settled)
        return state, jax.tree.map(lambda v: jnp.where(ends, 0.0, v), epoch)

    def step(carry, now):
        state, epoch, coefficients, e, taken = carry
        m, u, Cff, Cfu, Cuu = state
        eta = now["eta"]
        K = _times_blocks(theta, e.curvature) / n + weight_decay * jnp.eye(size)
        spread = _spread(e, None if epochs else Cff)
        xi = strength * batch_noise.approximate(
            noise, theta, theta @ spread @ theta, frozen
        )

        g = e.gradient / n
        if epochs:
            g = g + mean_noise(e, epoch.answered)
        G = theta @ g.reshape(-1) + weight_decay * (pull_to.reshape(-1) + m)

        def deviate(f, v):
            """One step of a deviation of ``(f, u)``, without noise."""
            Kf = K @ f
            return f - eta * (a * Kf + b * v), Kf + mu * v

        f_f, u_f = deviate(Cff, Cfu.T)
        right = f_f @ K.T
        new_ff = f_f - eta * a * right + (eta * a) ** 2 * xi
        new_fu, new_uu = Cfu, Cuu
        if two_state:
            f_u, u_u = deviate(Cfu, Cuu)
            new_ff = new_ff - eta * b * f_u
            new_fu = right + mu * f_u - eta * a * xi
            new_uu = u_f @ K.T + mu * u_u + xi
        Cff = 0.5 * (new_ff + new_ff.T)
        state = _State(m - eta * (a * G + b * u), mu * u + G, Cff, new_fu, new_uu)
        if epochs:
            state, epoch = avoid(state, epoch, deviate, e, eta, now["ends"])
            Cff = state.Cff - epoch.excluded(epoch.Wf, epoch.Wf)
        coefficients = _coefficients(
            coefficients, g.reshape(-1), eta, mu, weight_decay * to_zero, weight_decay, a, b
        )
        e = _moments_of(loss, state.m, Cff, y)
        if taken is not None:
            Cuf = new_fu.T if two_state else matrix
            taken = taken.moved(deviate, now["slot"], state.m - y.reshape(-1), Cff, Cuf)
        carry = state, epoch, coefficients, e, taken
        return carry, (e.loss, _accuracy(state.m, y))

    vector = jnp.zeros(size)
    second = matrix if two_state else jnp.zeros(())
    start = _State(f0.reshape(-1), vector, matrix, second, second)
    epoch = None
    if epochs:
        left, each = jnp.zeros((size, n)), jnp.zeros((n, c))
        epoch = _Epoch(left, left, each, each)
    first = _moments_of(loss, start.m, matrix, y)
    taken = _Taken.none(kept, size) if kept else None
    carry = (start, epoch, _no_coefficients(size), first, taken)
    carry, observed = jax.lax.scan(step, carry, per_step)
    end, epoch, coefficients, _, taken = carry
    alpha, _, shrink, _ = coefficients
    Cff = end.Cff
    if epoch is not None:
        Cff = Cff - epoch.excluded(epoch.Wf, epoch.Wf)
    found = (end.m, Cff, alpha, shrink, *(() if taken is None else (taken,)))
    return found, _with_start(observed, first, f0, y)


@partial(jax.jit, static_argnames=("loss", "noise", "nesterov", "two_state", "to_zero"))
def _scan_sde(
    theta,
    f0,
    y,
    pull_to,
    per_step,
    mu,
    weight_decay,
    strength,
    *,
    loss,
    noise,
    nesterov,
    two_state,
    to_zero,
):
    del nesterov, two_state  # the effective rate is the same
    n = len(y)
    size = theta.shape[0]
    matrix = jnp.zeros((size, size))
    frozen = None
    if noise == "frozen":
        frozen = (
            theta @ _spread(_moments_of(loss, f0.reshape(-1), matrix, y), matrix) @ theta
        )

    def drift(state, h):
        m, C, alpha, shrink = state
        e = _moments_of(loss, m, C, y)
        xi = batch_noise.approximate(noise, theta, theta @ _spread(e, C) @ theta, frozen)
        KC = _times_blocks(theta, e.curvature) @ C / n + weight_decay * C
        g = e.gradient.reshape(-1) / n
        return (
            -h * (theta @ g + weight_decay * (pull_to.reshape(-1) + m)),
            -h * (KC + KC.T) + h**2 * strength * xi,
            h * (g - weight_decay * alpha),
            h * to_zero * weight_decay * (1 - shrink),
        )

    def step(state, now):
        h = now["eta"] / (1 - mu)
        move = lambda s, k, w: jax.tree.map(lambda x, d: x + w * d, s, k)  # noqa: E731
        k1 = drift(state, h)
        k2 = drift(move(state, k1, 0.5), h)
        k3 = drift(move(state, k2, 0.5), h)
        k4 = drift(move(state, k3, 1.0), h)
        total = jax.tree.map(lambda p, q, s, t: (p + 2 * q + 2 * s + t) / 6, k1, k2, k3, k4)
        state = move(state, total, 1.0)
        m, C, *_ = state
        return state, (_moments_of(loss, m, C, y).loss, _accuracy(m, y))

    start = (f0.reshape(-1), matrix, jnp.zeros(size), jnp.zeros(()))
    first = _moments_of(loss, start[0], matrix, y)
    end, observed = jax.lax.scan(step, start, per_step)
    return end, _with_start(observed, first, f0, y)


def _accuracy(m: Array, y: Array) -> Array:
    return losses.accuracy(m.reshape(y.shape), y)


def _with_start(observed, e: Expected, f0, y):
    first = e.loss, losses.accuracy(f0, y)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, observed)


def _no_coefficients(size: int) -> tuple[Array, Array, Array, Array]:
    return jnp.zeros(size), jnp.zeros(size), jnp.zeros(()), jnp.zeros(())


def _coefficients(state, g, eta, mu, decay_of_start, weight_decay, a, b):
    """Mean weights: coefficients of ``J^T`` and of ``w_0``, each with its velocity."""
    alpha, beta, shrink, pull = state
    g_alpha = g - weight_decay * alpha
    g_shrink = decay_of_start * (1 - shrink)
    return (
        alpha + eta * (a * g_alpha + b * beta),
        mu * beta + g_alpha,
        shrink + eta * (a * g_shrink + b * pull),
        mu * pull + g_shrink,
    )
