"""Adam of the linearised model, its second moments fixed but for one number in common."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ttp_jax import losses
from ttp_jax.dynamics.path import Path
from ttp_jax.optimizers import Adam
from ttp_jax.reading import loss_and_accuracy, read_steps
from ttp_jax.types import LossName

SMALLEST = 1e-12
"""Of ``s_t``, where there is no gradient at all."""


WAYPOINT_LOSS = 0.3
"""Share of the loss at the start."""


class Waypoint(NamedTuple):
    """Where a path stood when its loss had first fallen to a share of that at the start.

    The end of a long path says little of how it began: by then the weights have mostly
    moved where the loss no longer changes.
    """

    outputs: Any
    alpha: Any
    shrink: Any
    passed: Any

    def update(self, now: "Waypoint", loss: jax.Array, first: jax.Array) -> "Waypoint":
        """Itself, or ``now`` where the loss is there for the first time."""
        arrived = ~self.passed & (loss <= WAYPOINT_LOSS * first)
        return jax.tree.map(lambda a, b: jnp.where(arrived, b, a), self, now)

    @classmethod
    def none(cls, f0: jax.Array) -> "Waypoint":
        """Before it is passed."""
        return cls(f0, jnp.zeros(f0.size), jnp.zeros(()), jnp.zeros((), bool))

    def settled(self) -> "Waypoint | None":
        """As NumPy arrays; ``None`` if it was never passed."""
        return Waypoint(*(np.asarray(v) for v in self)) if self.passed else None


class Adapted(NamedTuple):
    """What becomes of a linearised model under Adam."""

    path: Path
    """Its ``alpha`` counts directions ``D J^T``: the weights are ``(1 - shrink) w_0 - D J^T
    alpha``."""
    waypoint: Waypoint | None
    """``None`` if it was never passed."""
    rates: Float[np.ndarray, " T"]
    """``eta_t/s_t``: learning rates of the preconditioned model."""
    kept: Float[np.ndarray, "k n c"]
    """Outputs before the steps that were asked for."""


def adapted(
    theta: Float[np.ndarray, "nc nc"],
    f0: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
    adam: Adam,
    *,
    loss: LossName,
    steps: int,
    energy: float,
    adaptive: float,
    q0: Float[np.ndarray, "n c"] | None = None,
    seed: int = 0,
    every: int = 1,
    keep: Int[np.ndarray, " k"] | tuple[int, ...] = (),
) -> Adapted:
    """Adam of ``f_0 + J (w - w_0)`` with ``sqrt(v_t) + eps`` taken as ``s_t`` times ``1/D``.

    With ``a = g[batch]/B`` in the rows of the batch and 0 elsewhere, at step ``t`` from 1,

    ``u <- b1 u + (1 - b1) Theta a;  f <- f - eta_t (u/((1 - b1^t) s_t) + wd q)``,

    the image under ``J`` of the step that :class:`ttp_jax.Adam` describes, where ``Theta = J D
    J^T`` and ``q`` is the image of the decayed weights. ``s_t`` follows the size of the
    gradients, whose preconditioned norm ``a^T Theta a = g^T D g`` is known without them:

    ``r <- b2 r + (1 - b2) a^T Theta a/energy;  s_t = 1 + adaptive (sqrt(r/(1 - b2^t)) - 1)``.

    Exact for the linearised model where ``eps`` is so large that nothing adapts
    (``adaptive`` near 0), or where all squared gradients rise and fall alike.

    Args:
        theta: ``J D J^T`` of the training set.
        f0: Outputs at the start.
        targets: Targets ``[n, c]``.
        adam: The optimiser.
        loss: ``"mse"`` or ``"cross_entropy"``.
        steps: ``T``.
        energy: ``g^T D g`` of a gradient with the second moments that ``D`` is made of.
        adaptive: Share of ``sqrt(v)`` in ``sqrt(v) + eps``; 0 keeps ``s_t`` at 1.
        q0: ``J w_0``, needed with weight decay toward zero.
        seed: Of the stream of mini-batches.
        every: Read loss and accuracy every so many steps.
        keep: Steps, in rising order, before which the outputs are returned.

    Raises:
        InputError: Arguments out of range.

    Cost: ``T B n c^2`` multiply-adds in float64.

    Breaks when: the shape of the second moments changes along the run, not their size alone.
    """
    n, c = f0.shape
    read = read_steps(steps, every)
    batches = adam.batches(n, steps, seed)
    slots = np.full(steps, len(keep))  # one more, for all that is not kept
    slots[list(keep)] = np.arange(len(keep))
    with jax.enable_x64(True):
        per_step = {
            "eta": jnp.asarray(adam.learning_rates(steps)),
            "t": jnp.arange(1.0, steps + 1),
            "slot": jnp.asarray(slots),
        }
        if batches is not None:
            per_step["batch"] = jnp.asarray(batches)
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        (end, waypoint, kept), (curves, rates) = _scan(
            f64(theta).reshape(n, c, n * c),
            f64(f0),
            f64(targets),
            f64(adam.decay_origin(f0, q0)),
            per_step,
            (adam.beta1, adam.beta2, adam.weight_decay, energy, adaptive),
            loss=loss,
            along_w0=bool(adam.weight_decay) and adam.decay_toward == "zero",
            places=len(keep),
        )
        curve_loss, curve_accuracy = (np.asarray(values)[read] for values in curves)
        path = Path(
            steps=read,
            loss=curve_loss,
            accuracy=curve_accuracy,
            outputs=np.asarray(end.f),
            alpha=np.asarray(end.alpha).reshape(-1),
            shrink=float(end.shrink),
        )
        return Adapted(path, waypoint.settled(), np.asarray(rates), np.asarray(kept)[:-1])


class _State(NamedTuple):
    """Outputs, momentum in outputs and in coefficients, coefficients of the weights, ``r``."""

    f: Array
    u: Array
    beta: Array
    alpha: Array
    shrink: Array
    r: Array


@partial(jax.jit, static_argnames=("loss", "along_w0", "places"))
def _scan(theta, f0, targets, origin, per_step, numbers, *, loss, along_w0, places):
    n, c = f0.shape
    b1, b2, weight_decay, energy, adaptive = numbers

    def step(carry, now):
        state, waypoint, kept = carry
        kept = kept.at[now["slot"]].set(state.f)
        rows = now.get("batch", jnp.arange(n))
        a = losses.gradient(loss, state.f[rows], targets[rows]) / len(rows)
        image = jnp.einsum("bck,bc->k", theta[rows], a).reshape(n, c)
        t, eta = now["t"], now["eta"]
        r = b2 * state.r + (1 - b2) * jnp.sum(a * image[rows]) / energy
        s = 1 + adaptive * (jnp.sqrt(r / (1 - b2**t)) - 1)
        s = jnp.maximum(s, SMALLEST)
        u = b1 * state.u + (1 - b1) * image
        # add: with replacement an index can come twice
        beta = (b1 * state.beta).at[rows].add((1 - b1) * a)
        rate, decay = eta / s, eta * weight_decay
        new = _State(
            f=state.f - rate * u / (1 - b1**t) - decay * (origin + state.f),
            u=u,
            beta=beta,
            alpha=(1 - decay) * state.alpha + rate * beta / (1 - b1**t),
            shrink=state.shrink + along_w0 * decay * (1 - state.shrink),
            r=r,
        )
        observed = loss_and_accuracy(loss, new.f, targets)
        here = Waypoint(new.f, new.alpha.reshape(-1), new.shrink, jnp.ones((), bool))
        waypoint = waypoint.update(here, observed[0], first[0])
        return (new, waypoint, kept), (observed, rate)

    first = loss_and_accuracy(loss, f0, targets)
    zero, none = jnp.zeros_like(f0), jnp.zeros(())
    start = _State(f0, zero, zero, zero, none, none)
    carry = start, Waypoint.none(f0), jnp.zeros((places + 1, n, c))
    end, (curves, rates) = jax.lax.scan(step, carry, per_step)
    curves = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, curves)
    return end, (curves, rates)
