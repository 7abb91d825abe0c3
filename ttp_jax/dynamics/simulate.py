"""Exact function-space SGD of the linearised model, on the real stream of mini-batches."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import losses
from ttp_jax.dynamics import recursion
from ttp_jax.dynamics.path import Path, Places, quantiles
from ttp_jax.dynamics.recursion import State
from ttp_jax.optimizers import SGD
from ttp_jax.reading import Keep, Readings, kept_steps, of_both, read_steps, slots_of
from ttp_jax.types import InputError, LossName

OTHER_SEEDS = 1_000_003
"""Added to a seed: streams that no run of a neighbouring seed has."""


def simulate(
    theta: Float[np.ndarray, "nc kc"],
    f0: Float[np.ndarray, "k c"],
    targets: Float[np.ndarray, "k c"],
    sgd: SGD,
    *,
    loss: LossName,
    steps: int,
    q0: Float[np.ndarray, "k c"] | None = None,
    seed: int = 0,
    every: int = 1,
    paths: int = 1,
    first: int = 0,
    u0: Float[np.ndarray, "k c"] | None = None,
    keep: Keep = (),
) -> Path:
    """SGD of ``f_0 + J (w - w_0)`` without ever forming ``w``.

    With ``G_k = Theta[:, batch] g[batch]/B + wd q_k`` and ``q_k = J w_k = q_0 + f_k - f_0``
    (``f_k - f_0`` for decay toward the initial weights),

    ``u <- mu u + G;  f <- f - eta_k (G + mu u  if nesterov else  u)``,

    which is the image under ``J`` of the step that :class:`SGD` describes, hence equal to
    training the linearised model, to rounding, for any loss, sampling and schedule. Batches
    are drawn from the first ``n`` of ``k`` samples; what is left, ``m = k - n``, is held out:
    its outputs move by the same equations.

    Args:
        theta: Kernel ``J J^T``, rows those of the ``n`` samples that are trained on and
            columns those of all ``k``. Square where none is held out.
        f0: Outputs at the start.
        targets: Targets ``[k, c]``.
        sgd: The optimiser.
        loss: ``"mse"`` or ``"cross_entropy"``.
        steps: ``T``.
        q0: ``J w_0``, needed with weight decay toward zero; ``J (w_0 - w)`` toward weights
            ``w`` other than those at the start.
        seed: Of the stream of mini-batches.
        every: Read loss and accuracy every so many steps.
        paths: With more than one, the quantiles over so many other streams come with the
            path of ``seed``: how much of a curve is the luck of its batches.
        first: Steps that were really taken before: schedule and stream go on from there.
            The path then has the steps from there on, and reads ``first`` itself, where
            ``every`` does, and all later ones that ``every`` does.
        u0: ``J v_0``, the velocity they have left.
        keep: Steps after which outputs and coefficients are kept (:attr:`Path.places`);
            those up to ``first`` stay zero.

    Raises:
        InputError: Arguments out of range.

    Cost: ``T B k c^2`` multiply-adds a path in float64; memory that of ``theta``. Runs as
    one compiled ``lax.scan``.

    Breaks when: the linearised model leaves the true one. This solver is exact for the
    linearised model alone.
    """
    k, c = f0.shape
    n = len(theta) // c
    read = read_steps(steps, every)
    read = read[read >= first] - first
    origin = sgd.decay_origin(f0, q0)
    batches = sgd.batches(n, steps, seed)
    with jax.enable_x64(True):
        per_step = {"eta": jnp.asarray(sgd.learning_rates(steps)[first:])}
        if batches is not None:
            per_step["batch"] = jnp.asarray(batches[first:])
        kept = kept_steps(keep, steps)
        if len(kept):
            per_step["slot"] = jnp.asarray(slots_of(kept, steps)[first:])
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        (end, places), curves = _scan(
            f64(theta).reshape(n, c, k * c),
            f64(f0),
            f64(targets),
            f64(origin),
            f64(np.zeros_like(f0) if u0 is None else u0),
            per_step,
            sgd.momentum,
            sgd.weight_decay,
            loss=loss,
            nesterov=sgd.nesterov,
            along_q0=q0 is not None,
            kept=len(kept),
        )
        trained, *held_out = (
            Readings(np.asarray(loss_of)[read], np.asarray(accuracy)[read])
            for loss_of, accuracy in curves
        )
        path = Path(
            steps=read + first,
            loss=trained.loss,
            accuracy=trained.accuracy,
            outputs=np.asarray(end.f[:n]),
            alpha=np.asarray(end.alpha).reshape(-1),
            shrink=float(end.shrink),
            coast=float(end.coast),
            held_out=held_out[0] if held_out else None,
            places=Places(*map(np.asarray, places)) if len(kept) else None,
        )
    if paths < 2 or batches is None:
        return path
    begin = seed + OTHER_SEEDS
    trained, *held_out = streams(
        theta,
        f0,
        targets,
        sgd,
        loss=loss,
        steps=steps,
        q0=q0,
        seeds=range(begin, begin + paths),
        every=every,
        first=first,
        u0=u0,
    )
    path = replace(path, **_bands(trained))
    if path.held_out is None:
        return path
    return replace(path, held_out=replace(path.held_out, **_bands(held_out[0])))


Streams = tuple[Float[np.ndarray, "paths t"], Float[np.ndarray, "paths t"]]
"""Loss and accuracy of many paths."""


def _bands(found: Streams) -> dict[str, dict[float, np.ndarray]]:
    loss, accuracy = (quantiles(values) for values in found)
    return {"loss_quantiles": loss, "accuracy_quantiles": accuracy}


def streams(
    theta: Float[np.ndarray, "nc kc"],
    f0: Float[np.ndarray, "k c"],
    targets: Float[np.ndarray, "k c"],
    sgd: SGD,
    *,
    loss: LossName,
    steps: int,
    seeds: Iterable[int],
    q0: Float[np.ndarray, "k c"] | None = None,
    every: int = 1,
    first: int = 0,
    u0: Float[np.ndarray, "k c"] | None = None,
) -> tuple[Streams, ...]:
    """Loss and accuracy of :func:`simulate` for many seeds at once.

    Arguments are those of :func:`simulate`, with mini-batches.

    Returns:
        Of the samples that are trained on and, where there are any, of those held out.

    Cost: a product of the kernel with a vector a step and path, ``n k c^2``: all of the
    kernel and not the columns of the batch alone, but in one matrix product for all paths.
    """
    read = read_steps(steps, every)
    read = read[read >= first] - first
    n = len(theta) // f0.shape[1]
    drawn = [sgd.batches(n, steps, seed) for seed in seeds]
    if any(batches is None for batches in drawn):
        raise InputError("streams of mini-batches need a batch size, got the full batch")
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        per_step = {
            "eta": jnp.asarray(sgd.learning_rates(steps)[first:]),
            "batch": jnp.asarray(np.stack(drawn, axis=1)[first:]),  # type: ignore[arg-type]
        }
        values = _scan_many(
            f64(theta),
            f64(f0),
            f64(targets),
            f64(sgd.decay_origin(f0, q0)),
            f64(np.zeros_like(f0) if u0 is None else u0),
            per_step,
            sgd.momentum,
            sgd.weight_decay,
            loss=loss,
            nesterov=sgd.nesterov,
        )
        return jax.tree.map(lambda value: np.asarray(value)[read].T, values)


@partial(jax.jit, static_argnames=("loss", "nesterov"))
def _scan_many(
    theta, f0, targets, origin, u0, per_step, mu, weight_decay, *, loss, nesterov
):
    """Loss and accuracy of many streams at once: one product with the kernel a step."""
    c = f0.shape[1]
    n = len(theta) // c

    def step(state, now):
        f, u = state
        rows = now["batch"]
        picked = jnp.take_along_axis(f, rows[:, :, None], axis=1)
        g = jax.vmap(lambda f, y: losses.gradient(loss, f, y))(picked, targets[rows])
        full = jax.vmap(lambda r, v: jnp.zeros((n, c)).at[r].add(v))(rows, g)
        G = (full.reshape(-1, n * c) @ theta).reshape(f.shape) / rows.shape[1]
        G = G + weight_decay * (origin + f)
        u = mu * u + G
        f = f - now["eta"] * (G + mu * u if nesterov else u)
        return (f, u), read(f)

    read = jax.vmap(lambda f: of_both(loss, f, targets, n))
    f = jnp.broadcast_to(f0, (per_step["batch"].shape[1], *f0.shape))
    _, curves = jax.lax.scan(step, (f, jnp.broadcast_to(u0, f.shape)), per_step)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), read(f), curves)


@partial(jax.jit, static_argnames=("loss", "nesterov", "along_q0", "kept"))
def _scan(
    theta,
    f0,
    targets,
    origin,
    u0,
    per_step,
    mu,
    weight_decay,
    *,
    loss,
    nesterov,
    along_q0,
    kept,
):
    n = len(theta)

    def step(carry, now):
        state, places = carry
        new = recursion.step(
            state,
            theta,
            targets[:n],
            origin,
            now["eta"],
            now.get("batch"),
            mu,
            weight_decay,
            loss=loss,
            nesterov=nesterov,
            along_q0=along_q0,
        )
        if kept:
            one = Places(new.f, new.alpha.reshape(-1), new.shrink)
            places = places.with_one(now["slot"], one)
        return (new, places), of_both(loss, new.f, targets, n)

    first = of_both(loss, f0, targets, n)
    start = State.at_the_start(f0, u0, n)
    empty = Places(
        jnp.zeros((kept, *f0.shape)), jnp.zeros((kept, f0[:n].size)), jnp.zeros(kept)
    )
    end, curves = jax.lax.scan(step, (start, empty), per_step)
    return end, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, curves)
