"""Function-space SGD whose groups of weights have rates of their own.

``K_t = sum_g eta_g(t) Theta_g`` where one rate would have ``eta(t) Theta``: layers that learn
at different speeds, or stop.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ttp_jax import losses
from ttp_jax.dynamics import recursion
from ttp_jax.dynamics.path import Places
from ttp_jax.dynamics.recursion import State
from ttp_jax.optimizers import SGD
from ttp_jax.reading import Keep, Readings, kept_steps, of_both, read_steps, slots_of
from ttp_jax.types import LossName

WAYPOINT_LOSS = 0.3
"""Share of the initial loss at which the path is looked at on its way."""


@dataclass(frozen=True)
class Place:
    """Outputs of all samples, and what the weights of each group are made of.

    ``w_g = (1 - shrink_g) w_0g - J_g^T alpha_g``.
    """

    outputs: Float[np.ndarray, "k c"]
    alpha: Float[np.ndarray, "G n c"]
    shrink: Float[np.ndarray, " G"]


@dataclass(frozen=True)
class GroupedPath:
    """A path of the linearised model under rates by group."""

    steps: Int[np.ndarray, " t"]
    curves: tuple[Readings, ...]
    """Of the samples that are trained on and, where there are any, of those held out."""
    end: Place
    waypoint: Place | None
    """Where the loss has first fallen to :data:`WAYPOINT_LOSS` of the start."""
    kept: Places
    """After the steps that were to be kept: outputs ``[s, k, c]``, and of each group its
    coefficients, ``alpha [s, G, n, c]`` and ``shrink [s, G]``."""


def simulate_groups(
    shares: Float[np.ndarray, "G nc kc"],
    f0: Float[np.ndarray, "k c"],
    targets: Float[np.ndarray, "k c"],
    sgd: SGD,
    *,
    loss: LossName,
    steps: int,
    q0: Float[np.ndarray, "G k c"] | None = None,
    seed: int = 0,
    every: int = 1,
    keep: Keep = (),
) -> GroupedPath:
    """SGD of ``f_0 + sum_g J_g (w_g - w_0g)`` without ever forming ``w``.

    With ``g`` the loss's gradients at ``f = f_0 + sum_g d_g``, and of each group
    ``G_g = Theta_g[:, batch] g[batch]/B + wd (q_0g + d_g)``,

    ``u_g <- mu u_g + G_g;  d_g <- d_g - eta_g (G_g + mu u_g  if nesterov else  u_g)``:

    the image under ``J_g`` of what :class:`ttp_jax.SGD` does to the weights of a group at the
    rate of that group, with a velocity of its own, as optax has one for every weight. Equal to
    training the linearised model, to rounding, for any rates, loss and sampling. A group at
    rate zero does not move at all, whatever its velocity and decay.

    Args:
        shares: Kernels ``J_g J_g^T`` (:func:`ttp_jax.kernel.empirical.grouped_ntk`), rows
            those of the ``n`` samples that are trained on, columns those of all ``k``.
        f0: Outputs at the start.
        targets: Targets ``[k, c]``.
        sgd: The optimiser; rates ``[T, G]``.
        loss: ``"mse"`` or ``"cross_entropy"``.
        steps: ``T``.
        q0: ``J_g w_0g``, needed with weight decay toward zero.
        seed: Of the stream of mini-batches.
        every: Read loss and accuracy every so many steps.
        keep: Steps after which outputs and coefficients are kept.

    Raises:
        InputError: Arguments out of range.

    Cost: ``G`` times that of :func:`ttp_jax.dynamics.simulate.simulate`, one compiled scan.
    """
    chunk = _Chunks(shares, f0, targets, sgd, loss=loss, steps=steps, q0=q0, seed=seed)
    with jax.enable_x64(True):
        kept = kept_steps(keep, steps)
        state, seen = chunk.run(chunk.start(), 0, steps, slots=slots_of(kept, steps),
                                kept=len(kept))  # fmt: skip
        waypoint, left, curves = seen
        read = read_steps(steps, every)
        first = of_both(loss, chunk.f0, chunk.targets, chunk.n)
        curves = jax.tree.map(
            lambda a, b: np.concatenate([np.asarray(a)[None], np.asarray(b)])[read],
            first,
            curves,
        )
        reached, place = waypoint
        return GroupedPath(
            steps=read,
            curves=tuple(Readings(*pair) for pair in curves),
            end=chunk.place(state),
            waypoint=chunk.place(place) if bool(reached) else None,
            kept=Places(*map(np.asarray, left)),
        )


def accumulated_norms(
    shares: Float[np.ndarray, "G nc kc"],
    f0: Float[np.ndarray, "k c"],
    targets: Float[np.ndarray, "k c"],
    sgd: SGD,
    *,
    loss: LossName,
    steps: int,
    ends: Int[np.ndarray, " i"],
    decide,
    q0: Float[np.ndarray, "G k c"] | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "i G"]:
    """``|sum_t g_g(t)|`` over the steps between ``ends``, each group's accumulated gradient.

    From the coefficients ``a`` of the accumulated gradient ``J_g^T a`` its square is
    ``a^T Theta_g a``, exactly, for the linearised model. After each interval ``decide(norms)``
    is asked, with those so far ``[i, G]``, how many of the first groups are frozen from there
    on; their rates are zero then.

    Arguments as for :func:`simulate_groups`.
    """
    chunk = _Chunks(shares, f0, targets, sgd, loss=loss, steps=steps, q0=q0, seed=seed)
    norms = np.zeros((0, len(shares)))
    with jax.enable_x64(True):
        state, begin, active = chunk.start(), 0, np.ones(len(shares), bool)
        square = np.asarray(chunk.theta).reshape(len(shares), -1, f0.size)
        for end in ends:
            state, seen = chunk.run(state, begin, int(end), active=active)
            a = np.asarray(seen[1]).reshape(-1)
            found = [a @ theta[:, : len(a)] @ a for theta in square]
            norms = np.vstack([norms, np.sqrt(np.maximum(found, 0.0))])
            active = np.arange(len(shares)) >= decide(norms)
            begin = int(end)
    return norms


class _Chunks:
    """The scan over some of the steps, from one state to the next."""

    def __init__(self, shares, f0, targets, sgd: SGD, *, loss, steps, q0, seed) -> None:
        c = f0.shape[1]
        count, self.n = len(shares), shares.shape[1] // c
        batches = sgd.batches(self.n, steps, seed)
        rates = sgd.grouped_rates(steps, count)
        self._along = sgd.weight_decay > 0 and sgd.decay_toward == "zero"
        if self._along and q0 is None:
            raise ValueError("weight decay toward zero needs q0 = J_g w_0g")
        with jax.enable_x64(True):
            f64 = partial(jnp.asarray, dtype=jnp.float64)
            self.theta = f64(shares).reshape(count, self.n, c, -1)
            self.f0, self.targets = f64(f0), f64(targets)
            zeros = jnp.zeros((count, *f0.shape))
            self._origin = f64(q0) if self._along else zeros
            self._per_step = {"eta": f64(rates)}
            if batches is not None:
                self._per_step["batch"] = jnp.asarray(batches)
        self._options = {"loss": loss, "nesterov": sgd.nesterov, "along_q0": self._along}
        self._numbers = sgd.momentum, sgd.weight_decay

    def start(self) -> State:
        """Nothing moved yet, in any group."""
        nothing = jnp.zeros_like(self.f0)
        one = State.at_the_start(nothing, nothing, self.n)
        return jax.tree.map(lambda v: jnp.broadcast_to(v, (len(self.theta), *v.shape)), one)

    def run(
        self,
        state: State,
        begin: int,
        end: int,
        *,
        slots: np.ndarray | None = None,
        kept: int = 0,
        active: Bool[np.ndarray, " G"] | None = None,
    ):
        """The state after step ``end``, and what was seen on the way."""
        per_step = {name: values[begin:end] for name, values in self._per_step.items()}
        per_step["slot"] = jnp.asarray(
            np.full(end - begin, kept) if slots is None else slots[begin:end]
        )
        if active is not None:
            per_step["eta"] = per_step["eta"] * jnp.asarray(active, float)
        return _scan(
            state,
            self.theta,
            self.f0,
            self.targets,
            self._origin,
            per_step,
            *self._numbers,
            kept=kept,
            accumulate=active is not None,
            **self._options,
        )

    def place(self, state: State) -> Place:
        """Outputs and coefficients of a state."""
        return Place(
            np.asarray(self.f0 + state.f.sum(0)),
            np.asarray(state.alpha),
            np.asarray(state.shrink),
        )


@partial(jax.jit, static_argnames=("loss", "nesterov", "along_q0", "kept", "accumulate"))
def _scan(
    state,
    theta,
    f0,
    targets,
    origin,
    per_step,
    mu,
    weight_decay,
    *,
    loss,
    nesterov,
    along_q0,
    kept,
    accumulate,
):
    n = theta.shape[1]
    low = WAYPOINT_LOSS * of_both(loss, f0, targets, n)[0][0]

    def one(state, theta, origin, eta, at, batch):
        return recursion.step(
            state,
            theta,
            targets[:n],
            origin,
            eta,
            batch,
            mu,
            weight_decay,
            loss=loss,
            nesterov=nesterov,
            along_q0=along_q0,
            at=at,
        )

    over_groups = jax.vmap(one, in_axes=(0, 0, 0, 0, None, None))

    def step(carry, now):
        state, (reached, place), left = carry
        at = f0 + state.f.sum(0)
        batch = now.get("batch")
        new = over_groups(state, theta, origin, now["eta"], at, batch)
        f = f0 + new.f.sum(0)
        read = of_both(loss, f, targets, n)
        here = ~reached & (read[0][0] <= low)
        place = jax.tree.map(lambda old, new: jnp.where(here, new, old), place, new)
        if accumulate:
            rows = slice(None, n) if batch is None else batch
            size = n if batch is None else len(batch)
            g = losses.gradient(loss, at[rows], targets[rows]) / size
            left = left.at[rows].add(g)
        elif kept:
            left = left.with_one(now["slot"], Places(f, new.alpha, new.shrink))
        return (new, (reached | here, place), left), read

    left = jnp.zeros((n, f0.shape[1]))
    if not accumulate:
        start = Places(f0, state.alpha, state.shrink)
        left = jax.tree.map(lambda v: jnp.zeros((kept, *v.shape)), start)
    carry = (state, (jnp.asarray(False), state), left)
    (state, waypoint, left), curves = jax.lax.scan(step, carry, per_step)
    return state, (waypoint, left, curves)
