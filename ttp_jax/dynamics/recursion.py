"""One step of SGD on the linearised model, in outputs and in coefficients of the weights."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from ttp_jax import losses
from ttp_jax.types import LossName


class State(NamedTuple):
    """Outputs and velocity, as functions and as coefficients of ``J^T``, ``w_0`` and ``v_0``.

    ``f = f_0 - Theta alpha - shrink q_0 - coast u_0``; the weights are
    ``(1 - shrink) w_0 - J^T alpha - coast v_0``; velocity ``u = J v``,
    ``v = J^T beta + pull w_0 + speed v_0``. With weight decay toward other weights ``w``
    read ``w_0 - w`` for ``w_0`` where it is shrunk and where it pulls. Outputs and velocity
    may have more rows than the samples that are trained on, coefficients have theirs.
    """

    f: Array
    u: Array
    alpha: Array
    beta: Array
    shrink: Array
    pull: Array
    coast: Array
    speed: Array

    @classmethod
    def at_the_start(cls, f0: Array, u0: Array, n: int) -> "State":
        """Nothing moved yet; the first ``n`` samples are trained on."""
        zero, none = jnp.zeros_like(f0[:n]), jnp.zeros(())
        return cls(f0, u0, zero, zero, none, none, none, jnp.ones(()))


def step(
    state: State,
    theta: Array,
    targets: Array,
    origin: Array,
    eta: Array,
    batch: Array | None,
    mu: Array | float,
    weight_decay: Array | float,
    *,
    loss: LossName,
    nesterov: bool,
    along_q0: bool,
    at: Array | None = None,
) -> State:
    """The image under ``J`` of the step that :class:`ttp_jax.SGD` describes.

    Args:
        state: Before the step.
        theta: Kernel ``[n, c, (n + m) c]`` of the samples that are trained on with all.
        targets: Targets of the former ``[n, c]``.
        origin: From :meth:`ttp_jax.SGD.decay_origin`.
        eta: Learning rate of the step.
        batch: Rows of the mini-batch, ``None`` for all ``n``.
        mu: Momentum.
        weight_decay: ``wd``.
        loss: ``"mse"`` or ``"cross_entropy"``.
        nesterov: Nesterov's form of the momentum step.
        along_q0: Whether decay pulls along ``q_0``.
        at: Outputs at which the loss is differentiated, where these are not ``state.f`` alone
            (that of one group of weights, :mod:`ttp_jax.dynamics.grouped`).
    """
    at = state.f if at is None else at
    if batch is None:
        values = losses.gradient(loss, at[: len(targets)], targets)
    else:
        values = losses.gradient(loss, at[batch], targets[batch])
    image, coefficients = gradient(values, theta, batch)
    return moved(
        state,
        image,
        coefficients,
        origin,
        eta,
        mu,
        weight_decay,
        nesterov=nesterov,
        along_q0=along_q0,
    )


def gradient(values: Array, theta: Array, batch: Array | None) -> tuple[Array, Array]:
    """The mean of samples' gradients: its image under ``J``, and as coefficients ``[n, c]``.

    Args:
        values: ``dl/df`` of the samples in ``batch``, ``None`` for all ``n``.
        theta: Kernel, as for :func:`step`.
        batch: Their rows.
    """
    n, c = theta.shape[:2]
    values = values / len(values)
    if batch is None:
        return values.reshape(-1) @ theta.reshape(n * c, -1), values
    # add: with replacement an index can come twice
    coefficients = jnp.zeros((n, c), values.dtype).at[batch].add(values)
    return jnp.einsum("bck,bc->k", theta[batch], values), coefficients


def moved(
    state: State,
    image: Array,
    coefficients: Array,
    origin: Array,
    eta: Array,
    mu: Array | float,
    weight_decay: Array | float,
    *,
    nesterov: bool,
    along_q0: bool,
) -> State:
    """A step by any gradient ``J^T coefficients``, of image ``[(n + m) c]``.

    Other arguments are those of :func:`step`.
    """
    # The gradient's image under J, and its parts along J^T, w_0 and v_0.
    whole = (
        image.reshape(state.f.shape) + weight_decay * (origin + state.f),
        coefficients - weight_decay * state.alpha,
        along_q0 * weight_decay * (1 - state.shrink),
        -weight_decay * state.coast,
    )
    old = state.u, state.beta, state.pull, state.speed
    velocity = tuple(mu * v + g for v, g in zip(old, whole, strict=True))
    move = velocity
    if nesterov:
        move = tuple(g + mu * v for g, v in zip(whole, velocity, strict=True))
    return State(
        f=state.f - eta * move[0],
        u=velocity[0],
        alpha=state.alpha + eta * move[1],
        beta=velocity[1],
        shrink=state.shrink + eta * move[2],
        pull=velocity[2],
        coast=state.coast + eta * move[3],
        speed=velocity[3],
    )
