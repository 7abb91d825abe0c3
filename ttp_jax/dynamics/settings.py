"""Many settings of SGD on one linearised model at once, in the largest modes of its kernel."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Int

from ttp_jax import losses, spectrum
from ttp_jax.progress import bar
from ttp_jax.types import LossName

_HELD = 2**20
"""Outputs of all settings of one program together: what they fill should stay in the cache."""


class Modes(NamedTuple):
    """``Theta = Z Z^T + R`` with ``R`` replaced by its blocks between outputs of one sample."""

    z: Float[np.ndarray, "n c k"]
    own: Float[np.ndarray, "n c c"] | None
    """What the modes leave of each sample's own block; ``None`` where nothing is left."""


def largest_modes(theta: Float[np.ndarray, "nc nc"], c: int, rank: int) -> Modes:
    """The ``rank`` largest modes, and each sample's own block of what they leave.

    The small modes are those of single samples, by and large: what moves them is the sample's
    own gradient, which the blocks keep. With ``rank >= n c`` nothing is left out.

    Cost: ``O((n c)^3)``.
    """
    size = len(theta)
    n = size // c
    if rank >= size:
        found = spectrum.of_gram(theta)
        z = found.train_modes * np.sqrt(found.eigvals)
        return Modes(z.reshape(n, c, size), None)
    largest = [size - rank, size - 1]
    lam, modes = scipy.linalg.eigh(np.asarray(theta, float), subset_by_index=largest)
    z = (modes * np.sqrt(np.maximum(lam, 0))).reshape(n, c, rank)
    blocks = np.asarray(theta).reshape(n, c, n, c)[np.arange(n), :, np.arange(n), :]
    return Modes(z, blocks - np.einsum("nck,ndk->ncd", z, z))


class _State(NamedTuple):
    """``f = f_0 - Z a - d - shrink q_0`` of every setting (last axis), and the velocities."""

    a: Array
    b: Array
    d: Array
    shrink: Array
    pull: Array


class _Problem(NamedTuple):
    z: Array
    own: Array | None
    f0: Array
    q0: Array | None
    targets: Array
    weight_decay: Array | None


def curves(
    modes: Modes,
    f0: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
    *,
    loss: LossName,
    learning_rates: Float[np.ndarray, " s"],
    momenta: Float[np.ndarray, " s"],
    shape: Float[np.ndarray, " T"],
    batches: Int[np.ndarray, "T B"] | None,
    read: Int[np.ndarray, " t"],
    nesterov: bool = False,
    weight_decay: float = 0.0,
    q0: Float[np.ndarray, "n c"] | None = None,
) -> Float[np.ndarray, "s t"]:
    """Loss of ``s`` settings that share their mini-batches.

    The recursion of :func:`ttp_jax.dynamics.simulate.simulate` for all settings side by side,
    on coordinates of the modes: with ``Z`` the modes' factor and ``g`` the gradient of the
    batch in its outputs,

    ``b <- mu b + Z_batch^T g/B - wd a;  a <- a + eta b;  f = f_0 - Z a - d``

    and for what the modes leave of a sample's own block ``D_i`` (none at full rank, where this
    is the recursion itself) ``d_i <- d_i + eta/(1 - mu) D_i g_i/B``: small eigenvalues move so
    slowly that the velocity follows their gradient.

    Args:
        modes: From :func:`largest_modes`.
        f0: Outputs at the start.
        targets: Targets.
        loss: ``"mse"`` or ``"cross_entropy"``.
        learning_rates: Of each setting, at the peak of its schedule.
        momenta: Of each setting.
        shape: The schedule, as a share of the peak at every step.
        batches: The mini-batches, ``None`` for the full batch.
        read: Steps at which the curves are read, ascending; the last may come before ``T``.
        nesterov: Nesterov's form of the momentum step (without momentum the same).
        weight_decay: ``wd``.
        q0: ``J w_0`` where the decay is toward zero; ``None`` toward the initial weights.

    Cost: ``4 n c k`` operations an epoch and setting, ``2 n c k`` more for a reading of the
    mini-batch curve. In float32 unless JAX has been told to use float64.
    """
    n, c, k = modes.z.shape
    held = partial(jnp.asarray, dtype=jnp.zeros(()).dtype)
    problem = _Problem(
        held(modes.z),
        None if modes.own is None else held(modes.own),
        held(f0),
        None if q0 is None else held(q0),
        held(targets),
        held(weight_decay) if weight_decay else None,
    )
    s = len(learning_rates)
    size = max(1, min(s, _HELD // (n * c)))
    found = np.empty((s, len(read)))
    per_step = held(shape), None if batches is None else jnp.asarray(batches)
    with (
        jax.default_matmul_precision("highest"),
        bar("settings", s * int(read[-1])) as advance,
    ):
        for first in range(0, s, size):
            part = slice(first, first + size)
            # One program for all parts: the last one is filled up with copies.
            filled = np.resize(np.arange(s)[part], size)
            eta, mu = held(learning_rates[filled]), held(momenta[filled])
            width = 0 if modes.own is None else n
            zeros = partial(jnp.zeros, dtype=eta.dtype)
            state = _State(
                zeros((k, size)),
                zeros((k, size)),
                zeros((width, c, size)),
                zeros(size),
                zeros(size),
            )
            last = 0
            for at, step in enumerate(read):
                state, values = _advance(
                    state,
                    problem,
                    eta,
                    mu,
                    *per_step,
                    last,
                    int(step),
                    loss=loss,
                    nesterov=nesterov,
                )
                found[part, at] = np.asarray(values)[: s - first]
                advance((int(step) - last) * min(size, s - first))
                last = int(step)
    return found


@partial(jax.jit, static_argnames=("loss", "nesterov"), donate_argnums=0)
def _advance(state, problem, eta, mu, shape, batches, begin, end, *, loss, nesterov):
    """From one reading to the next, and what is read there."""
    # Settings last: what is done to each output is then one long loop over settings.
    over_settings = partial(jax.vmap, in_axes=-1, out_axes=-1)

    def outputs(state: _State, rows):
        z = problem.z[rows]
        f = problem.f0[rows][..., None] - (z.reshape(-1, z.shape[2]) @ state.a).reshape(
            *z.shape[:2], -1
        )
        if problem.own is not None:
            f = f - state.d[rows]
        if problem.q0 is not None:
            f = f - state.shrink * problem.q0[rows][..., None]
        return f

    def step(k, state: _State) -> _State:
        rows = slice(None) if batches is None else batches[k]
        y, z = problem.targets[rows], problem.z[rows]
        g = over_settings(lambda f: losses.gradient(loss, f, y))(outputs(state, rows))
        g = g / len(y)
        wd = problem.weight_decay
        rate = eta * shape[k]
        gradient = (
            z.reshape(-1, z.shape[2]).T @ g.reshape(-1, len(eta)),
            jnp.zeros_like(eta),
        )
        if wd is not None:
            gradient = gradient[0] - wd * state.a, wd * (1 - state.shrink)
        velocity = mu * state.b + gradient[0], mu * state.pull + gradient[1]
        move = velocity
        if nesterov:
            move = gradient[0] + mu * velocity[0], gradient[1] + mu * velocity[1]
        d = state.d
        if problem.own is not None:
            slow = rate / (1 - mu)
            pushed = jnp.einsum("bcd,bcs->bds", problem.own[rows], g)
            # Nothing else touches all samples at every step.
            d = d if wd is None else d * (1 - wd * slow)
            d = d.at[rows].add(slow * pushed)
        return _State(
            a=state.a + rate * move[0],
            b=velocity[0],
            d=d,
            shrink=state.shrink + rate * move[1],
            pull=velocity[1],
        )

    state = jax.lax.fori_loop(begin, end, step, state)
    read = jax.vmap(lambda f: losses.mean(loss, f, problem.targets), in_axes=-1)
    return state, read(outputs(state, slice(None)))
