"""Steps on masked weights, by corrected gradients, on attacked pictures, or all of these."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from ttp_jax import losses, outputs
from ttp_jax.accelerators import correction as corrections
from ttp_jax.accelerators import sparsity as masks_of
from ttp_jax.accelerators.correction import Agent, Correction
from ttp_jax.accelerators.sparsity import Sparsity
from ttp_jax.attacks import Attack, attacked
from ttp_jax.optimizers import Optimizer
from ttp_jax.training.loop import Steps
from ttp_jax.training.plain import optax_of
from ttp_jax.training.sparse import sparse
from ttp_jax.types import InputError, Params, Task, apply_masks


class Snapshot(NamedTuple):
    """Weights at the start of an epoch, the mean gradient there, and its pictures."""

    params: Params
    mean: Params
    x: Any
    """Of all samples, attacked at these weights; those of the task where nothing is."""
    tau: jax.Array
    coefficient: jax.Array


class State(NamedTuple):
    """What one step hands to the next."""

    params: Params
    optimizer: Any
    snapshot: Snapshot | None


def corrected_steps(
    task: Task,
    sgd: Optimizer,
    *,
    steps: int,
    seed: int,
    sparsity: Sparsity | None = None,
    correction: Correction | None = None,
    attack: Attack | None = None,
) -> tuple[Steps, Callable[[], Float[np.ndarray, " E"]]]:
    """Steps of the optimiser under masks, corrections and attacks, each of them or none.

    The gradient of the mini-batch is corrected at every step
    (:func:`ttp_jax.accelerators.correction.corrected`), the snapshot taken every ``n // B``
    steps from one pass over all samples. Gradients are those of all weights and are masked
    last (:func:`ttp_jax.training.sparse.sparse`), so that masks may move within an epoch and
    the correction keeps its mean of zero; RigL grows by the gradient that is not corrected.
    What a snapshot costs is timed with the step that it comes before.

    Args:
        task: What to train, dense.
        sgd: How.
        steps: ``T``.
        seed: Of the stream of mini-batches.
        sparsity: The masks.
        correction: Of the gradients.
        attack: On the pictures of every batch.

    Returns:
        The steps, and what gives the coefficient of every epoch so far.

    Raises:
        InputError: Masks that would not move, or fewer than two batches an epoch to correct.

    Cost: ``3 B`` forward passes a step as without; ``2 k B`` more under an attack of ``k``
    steps; the passes of :func:`ttp_jax.accelerators.correction.extra_passes` by a correction,
    and ``2 k n`` an epoch more where both come together. Memory: two copies of the weights by
    a correction, and one of the pictures where these are attacked.
    """
    if sgd.batch_size is None and correction is not None:
        corrections.require_batches(1)
    n, size = task.n, sgd.batch_size or task.n
    per_epoch = n // size
    epochs = corrections.epochs_of(steps, per_epoch)
    if correction is not None:
        corrections.require_batches(per_epoch)
    stream = sgd.batches(n, epochs * per_epoch, seed)
    rows = by_epoch = None
    if stream is not None:
        rows = jnp.asarray(stream)
        by_epoch = rows.reshape(epochs, per_epoch, size)
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)
    weights = jax.tree.map(jnp.asarray, task.params)
    if sparsity is not None:
        weights = apply_masks(masks_of.first_masks(weights, sparsity), weights)
    optimizer = optax.with_extra_args_support(optax_of(sgd, steps, weights))
    if sparsity is not None:
        optimizer = sparse(optimizer, sparsity, steps)
    batch_loss = outputs.batch_loss(task)
    raise_loss = None if attack is None else attacked(task, attack)
    scheduled = None
    if correction is not None:
        scheduled = corrections.coefficients(correction, epochs)
    clean = isinstance(correction, Agent) and correction.mean == "clean"
    seen: list[Any] = []
    # All samples in batches, the last one filled up.
    places = np.arange(-(-n // size) * size).reshape(-1, size)
    all_rows = jnp.asarray(np.minimum(places, n - 1)), jnp.asarray(places < n)

    @jax.jit
    def update(state: State, x, y, batch):
        params, remembered, snapshot = state
        at = x if batch is None else x[batch]
        answers = y if batch is None else y[batch]
        if raise_loss is not None:
            at = raise_loss(params, at, answers)
        value, raw = jax.value_and_grad(batch_loss)(params, at, answers, None)
        gradient = raw
        if snapshot is not None:
            there = at if clean else snapshot.x[batch]
            old = jax.grad(batch_loss)(snapshot.params, there, answers, None)
            gradient = corrections.corrected(raw, old, snapshot.mean, snapshot.coefficient)
        extra = {} if sparsity is None else {"raw": raw}
        updates, remembered = optimizer.update(gradient, remembered, params, **extra)
        params = optax.apply_updates(params, updates)
        return State(params, remembered, snapshot), value

    chunk = jax.jit(
        partial(
            _chunk,
            task,
            attack=None if clean else raise_loss,
            look_back=correction is not None and _looks_back(correction),
        )
    )

    @jax.jit
    def joined(sums, parts, before: Snapshot, params, batches, scheduled):
        assert correction is not None
        now, then = (jnp.concatenate(values)[:n] for values in parts)
        tau, coefficient = corrections.follow(
            correction, scheduled, before.tau, now, then, batches
        )
        like = before.tau.dtype
        mean = jax.tree.map(lambda *values: sum(values) / n, *sums)
        return Snapshot(params, mean, None, tau.astype(like), coefficient.astype(like))

    def snapshot_of(params: Params, before: Snapshot, epoch: int) -> Snapshot:
        """From one pass over all samples, a batch at a time."""
        # A loop that is compiled as one would run its convolutions slowly on a CPU.
        assert by_epoch is not None
        assert scheduled is not None
        found = [
            chunk(params, before.params, x, y, rows, there)
            for rows, there in zip(*all_rows, strict=True)
        ]
        sums, now, then, pictures = zip(*found, strict=True)
        # By one index: every slice would be a program of its own.
        batches = by_epoch[epoch]
        fresh = joined(sums, (now, then), before, params, batches, scheduled[epoch])
        if raise_loss is None or clean:
            return fresh._replace(x=x)
        return fresh._replace(x=jnp.concatenate(pictures)[:n])

    def start() -> State:
        snapshot = None
        if correction is not None:
            first = correction.tau if isinstance(correction, Agent) else 0.0
            # With its type said: of a weak one the programs would be compiled once more.
            tau = jnp.asarray(first, jnp.result_type(float))
            zeros = jax.tree.map(jnp.zeros_like, weights)
            snapshot = Snapshot(weights, zeros, x, tau, jnp.zeros_like(tau))
            jax.block_until_ready(snapshot_of(weights, snapshot, 0))
        state = State(weights, optimizer.init(weights), snapshot)
        first = None if rows is None else rows[0]
        jax.block_until_ready(update(state, x, y, first))
        return state

    def step(state: State, k: int) -> tuple[State, Any]:
        if state.snapshot is not None and k % per_epoch == 0:
            fresh = snapshot_of(state.params, state.snapshot, k // per_epoch)
            seen.append(fresh.coefficient)
            state = state._replace(snapshot=fresh)
        return update(state, x, y, None if rows is None else rows[k])

    forward = outputs.forward_flops(task.apply_fn, task.params, task.x)

    def flops(taken: int) -> float:
        return forward * passes(taken, size, n, correction=correction, attack=attack)

    def coefficients() -> np.ndarray:
        return np.array(jax.device_get(seen), float)

    return Steps(start, step, lambda state: state.params, flops), coefficients


def passes(
    taken: int,
    batch: int,
    n: int,
    *,
    correction: Correction | None = None,
    attack: Attack | None = None,
) -> float:
    """Forward passes of one sample that so many steps cost, attacks and corrections too."""
    found = 3.0 * batch * taken
    if attack is not None:
        found += attack.passes * batch * taken
    if correction is not None:
        found += corrections.extra_passes(correction, taken, batch, n)
        if attack is not None and not (
            isinstance(correction, Agent) and correction.mean == "clean"
        ):
            found += attack.passes * n * corrections.epochs_of(taken, n // batch)
    return found


def optimal_coefficient(
    task: Task, now: Params, snapshot: Params, batches: Int[np.ndarray, "K B"]
) -> float:
    """The best coefficient as it really is, ``Cov(g_B, g_B(w_s))/Var(g_B(w_s))`` over batches.

    Of the weights ``now`` and those of a snapshot, all coordinates together
    (:func:`ttp_jax.accelerators.correction.optimal_coefficient`): what a correction would have
    to know, measured. Cost: six forward passes of the batches.
    """
    if len(batches) < 2:
        raise InputError(f"a covariance needs at least 2 batches, got {len(batches)}")
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)
    gradient = jax.jit(jax.grad(outputs.batch_loss(task)))

    def flat(w: Params):
        found = [
            jax.flatten_util.ravel_pytree(gradient(w, x, y, jnp.asarray(rows)))[0]
            for rows in batches
        ]
        return jnp.stack(found)

    return corrections.optimal_coefficient(flat(now), flat(snapshot))


def _looks_back(correction: Correction) -> bool:
    return isinstance(correction, Agent) and correction.previous == "epoch_before"


def _chunk(task, params, before, x, y, rows, there, *, attack, look_back):
    """Of some samples: sum of gradients, losses now and an epoch before, and the pictures."""
    each = partial(losses.per_sample, task.loss)
    at, answers = x[rows], y[rows]
    if attack is not None:
        at = attack(params, at, answers)

    def weighed(w):
        f = task.apply_fn(w, at)
        found = each(f, answers.astype(f.dtype))
        return jnp.sum(jnp.where(there, found, 0.0)), found

    (_, now), gradient = jax.value_and_grad(weighed, has_aux=True)(params)
    then = now
    if look_back:
        f = task.apply_fn(before, at)
        then = each(f, answers.astype(f.dtype))
    return gradient, now, then, None if attack is None else at
