"""SGD of the linearised model with corrected gradients, on the real stream of mini-batches."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from ttp_jax import losses
from ttp_jax.accelerators import correction as corrections
from ttp_jax.accelerators.correction import Correction
from ttp_jax.dynamics import recursion
from ttp_jax.dynamics.recursion import State
from ttp_jax.dynamics.segment import Segment
from ttp_jax.optimizers import SGD
from ttp_jax.reading import Readings, of_both
from ttp_jax.types import LossName


class Snapshot(NamedTuple):
    """What one piece of a path hands to the next: the last snapshot, and AGENT's average."""

    outputs: Any
    """``[n, c]``."""
    tau: Any
    coefficient: Any


class Epochs(NamedTuple):
    """What was seen at the start of each epoch; NaN of those that were not reached.

    ``optimum``: the coefficient that would leave the least variance of the batch gradient in
    weights, at the end of the epoch before, ``c* = V(g, g_s)/V(g_s, g_s)`` with ``V(a, b) =
    (1/n) sum_i a_i^T Theta_ii b_i - (1/n^2) a^T Theta b`` and ``g``, ``g_s`` the gradients in
    the outputs there and at the snapshot of that epoch (5.6: its share of ``E g_B g_B^T``).
    ``variance_left``: variance with the coefficient that was used, over that without.
    """

    coefficient: Any
    """``[E]``, as the others are."""
    optimum: Any
    variance_left: Any


@dataclass(frozen=True)
class CorrectedSegment:
    """A piece of a path, what it hands on, and what its epochs were corrected by."""

    segment: Segment
    snapshot: Snapshot
    epochs: Epochs


def corrected_segment(
    theta: Float[np.ndarray, "nc kc"],
    f0: Float[np.ndarray, "k c"],
    targets: Float[np.ndarray, "k c"],
    sgd: SGD,
    correction: Correction | None,
    *,
    loss: LossName,
    steps: int,
    first: int = 0,
    last: int | None = None,
    still: Bool[np.ndarray, " T"] | None = None,
    snapshot: Snapshot | None = None,
    u0: Float[np.ndarray, "k c"] | None = None,
    q0: Float[np.ndarray, "k c"] | None = None,
    seed: int = 0,
) -> CorrectedSegment:
    """From ``f0`` at step ``first`` to ``last`` by ``g~ = g_B - c (g_B(w_s) - gbar(w_s))``.

    With ``g`` the loss's gradients in the outputs, ``g_s`` those at the outputs of the
    snapshot, and ``D`` the mini-batch, the gradient's image under ``J`` is

    ``(1/B) Theta D (g - c g_s) + (c/n) Theta g_s``,

    which for the model that is linear in its parameters is that of the real run to rounding,
    for any loss, momentum, schedule and sampling. The snapshot is taken every ``n // B``
    steps; AGENT's coefficient follows the losses of the linearised model, and needs no
    training either.

    Args:
        theta: Kernel, rows of the samples that are trained on, columns of all.
        f0: Outputs at ``first``.
        targets: Targets ``[k, c]``.
        sgd: The optimiser.
        correction: Of the gradient; ``None`` for none.
        loss: ``"mse"`` or ``"cross_entropy"``.
        steps: ``T``.
        first: Steps that were taken before.
        last: Where the piece ends; ``T`` by default.
        still: Steps in which nothing moves, velocity neither, because a mask update takes
            their place; a snapshot is taken all the same.
        snapshot: Handed on by the piece before.
        u0: ``J v`` at ``first``.
        q0: Image of the decayed weights, as for :func:`ttp_jax.dynamics.segment.segment`.
        seed: Of the stream of mini-batches.

    Raises:
        InputError: Fewer than two batches an epoch under a correction.

    Cost: that of :func:`ttp_jax.dynamics.simulate.simulate`, and a product with all of the
    kernel an epoch. One compiled loop for all pieces.

    Breaks when: the model leaves its linearisation; between the pieces of a path the snapshot
    is taken to have the Jacobian of the new piece.
    """
    n, c = len(theta) // f0.shape[1], f0.shape[1]
    batches = sgd.batches(n, steps, seed)
    per_epoch = 1 if batches is None else n // batches.shape[1]
    if correction is not None:
        corrections.require_batches(per_epoch)
        # The last epoch's losses are of whole epochs, also where the run ends within one.
        batches = sgd.batches(n, corrections.epochs_of(steps, per_epoch) * per_epoch, seed)
    epochs = corrections.epochs_of(steps, per_epoch)
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        tau = correction.tau if isinstance(correction, corrections.Agent) else 0.0
        scheduled = np.zeros(epochs)
        if correction is not None:
            scheduled = corrections.coefficients(correction, epochs)
        if snapshot is None:
            snapshot = Snapshot(np.asarray(f0[:n]), np.asarray(tau), np.zeros(()))
        end, state, held, curves, seen = _loop(
            f64(theta).reshape(n, c, f0.size),
            f64(f0),
            f64(targets),
            f64(sgd.decay_origin(f0, q0)),
            f64(np.zeros_like(f0) if u0 is None else u0),
            jnp.asarray(sgd.learning_rates(steps)),
            None if batches is None else jnp.asarray(batches),
            jnp.zeros(steps, bool) if still is None else jnp.asarray(still),
            f64(scheduled),
            Snapshot(*map(f64, snapshot)),
            jnp.asarray(first),
            jnp.asarray(steps if last is None else last),
            sgd.momentum,
            sgd.weight_decay,
            loss=loss,
            nesterov=sgd.nesterov,
            correction=correction,
            per_epoch=per_epoch,
        )
        read = jax.tree.map(lambda values: np.asarray(values)[first : int(end) + 1], curves)
        way = Segment(
            first,
            int(end),
            tuple(Readings(*pair) for pair in read[0]),
            read[1],
            outputs=np.asarray(state.f[:n]),
            alpha=np.asarray(state.alpha),
            beta=np.asarray(state.beta),
            shrink=float(state.shrink),
            pull=float(state.pull),
            coast=float(state.coast),
            speed=float(state.speed),
        )
        held = Snapshot(*(np.asarray(value) for value in held))
        return CorrectedSegment(way, held, Epochs(*map(np.asarray, seen)))


@partial(jax.jit, static_argnames=("loss", "nesterov", "correction", "per_epoch"))
def _loop(
    theta,
    f0,
    targets,
    origin,
    u0,
    rates,
    batches,
    still,
    scheduled,
    snapshot,
    first,
    last,
    mu,
    weight_decay,
    *,
    loss,
    nesterov,
    correction,
    per_epoch,
):
    n, c, _ = theta.shape
    y = targets[:n]
    own = theta.reshape(n, c, -1, c)[jnp.arange(n), :, jnp.arange(n), :]
    of = partial(losses.gradient, loss)

    def mean_image(outputs):
        return recursion.gradient(of(outputs, y), theta, None)

    def variance(a, b, image_b):
        """``V(a, b)`` of :class:`Epochs`, ``image_b`` being ``Theta b/n``."""
        each = jnp.einsum("ia,iab,ib->", a, own, b) / n
        return each - jnp.sum(a.reshape(-1) * image_b[: n * c]) / n

    def renewed(k, state, held, image, seen):
        e = k // per_epoch
        f, old = state.f[:n], held.outputs
        g, before = of(f, y), of(old, y)
        now_image, _ = mean_image(f)
        mixed = variance(before, g, now_image)
        size = variance(before, before, image)
        alone = variance(g, g, now_image)
        used = held.coefficient
        left = (alone - 2 * used * mixed + used**2 * size) / alone
        rows = jax.lax.dynamic_slice_in_dim(batches, e * per_epoch, per_epoch)
        tau, coefficient = corrections.follow(
            correction,
            scheduled[e],
            held.tau,
            losses.per_sample(loss, f, y),
            losses.per_sample(loss, old, y),
            rows,
        )
        begun = jnp.where(e > 0, 1.0, jnp.nan)
        one = Epochs(coefficient, begun * mixed / size, begun * left)
        seen = jax.tree.map(lambda all, value: all.at[e].set(value), seen, one)
        return Snapshot(f, tau, coefficient), now_image, seen

    def step(carry):
        k, state, held, image, curves, seen = carry
        rows = None if batches is None else batches[k]
        if correction is None:
            f, target = (state.f[:n], y) if rows is None else (state.f[rows], y[rows])
            moves, coefficients = recursion.gradient(of(f, target), theta, rows)
        else:
            held, image, seen = jax.lax.cond(
                k % per_epoch == 0,
                lambda *args: renewed(k, *args),
                lambda state, held, image, seen: (held, image, seen),
                state,
                held,
                image,
                seen,
            )
            strength = held.coefficient
            values = of(state.f[rows], y[rows])
            values = values - strength * of(held.outputs[rows], y[rows])
            moves, coefficients = recursion.gradient(values, theta, rows)
            moves = moves + strength * image
            coefficients = coefficients + strength * of(held.outputs, y) / n
        new = recursion.moved(
            state,
            moves,
            coefficients,
            origin,
            rates[k],
            mu,
            weight_decay,
            nesterov=nesterov,
            along_q0=True,
        )
        new = jax.tree.map(lambda old, new: jnp.where(still[k], old, new), state, new)
        return k + 1, new, held, image, noted(curves, k + 1, new.f), seen

    def noted(curves, k, f):
        moved = jnp.linalg.norm(f[:n] - f0[:n])
        found = (of_both(loss, f, targets, n), moved)
        return jax.tree.map(lambda all, value: all.at[k].set(value), curves, found)

    series = jnp.zeros(len(rates) + 1)
    groups = 2 if len(f0) > n else 1
    curves = noted((((series, series),) * groups, series), first, f0)
    seen = Epochs(*(jnp.full(len(scheduled), jnp.nan),) * 3)
    image, _ = mean_image(snapshot.outputs)
    start = first, State.at_the_start(f0, u0, n), snapshot, image, curves, seen
    k, state, held, _, curves, seen = jax.lax.while_loop(
        lambda carry: carry[0] < last, step, start
    )
    return k, state, held, curves, seen
