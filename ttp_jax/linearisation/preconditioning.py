"""The kernel that Adam sees: every parameter weighed by one over its gradients' size.

Adam divides the gradient of every parameter by the root of the average of its squares. With
that average fixed, but for one number that all parameters share, its steps are those of
gradient descent with momentum under the kernel ``J D J^T``, ``D = diag(1/(sqrt(v) + eps))``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ttp_jax import losses, outputs, sampling
from ttp_jax.dynamics.adaptive import Adapted, adapted
from ttp_jax.kernel import empirical, taps
from ttp_jax.optimizers import Adam
from ttp_jax.timing import measured
from ttp_jax.types import Params, Task

PLACES = 12
"""Of :func:`path_steps`."""
DIVERGED = 10.0
"""Times its first loss, from which on a rough path is not looked at."""
_TINY = np.finfo(float).tiny


@dataclass(frozen=True)
class Preconditioned:
    """A preconditioned kernel and what is known of its second moments ``v``."""

    theta: Float[np.ndarray, "nc nc"]
    """``J D J^T``."""
    scale: Params
    """``D``, for every parameter."""
    energy: float
    """``sum_j D_j v_j``: of a gradient whose squares are ``v``, the norm ``g^T D g``."""
    adaptive: float
    """Share of ``sqrt(v)`` in ``sqrt(v) + eps``, averaged as in ``energy``: near 1, or 0
    where ``eps`` is so large that nothing adapts."""
    run_s: float
    compile_s: float


def preconditioned(
    task: Task,
    adam: Adam,
    places: Sequence[Float[np.ndarray, "n c"]],
    shares: Float[np.ndarray, " k"],
    *,
    memory_budget_bytes: int | None = None,
) -> Preconditioned:
    """The kernel under the second moments of mini-batch gradients at some outputs.

    ``v = sum_k s_k (gbar_k^2 + (phi/B) (mean_i g_ik^2 - gbar_k^2))`` with ``g_ik`` the gradient
    of sample ``i`` at the ``k``-th outputs, by the Jacobian at ``task.params``, and ``gbar_k``
    their mean: what the squares of the mean of ``B`` samples, drawn as ``adam`` has it, are on
    average (``phi`` of :func:`ttp_jax.sampling.variance_factor`).

    Args:
        task: Model, weights, samples, loss.
        adam: The optimiser.
        places: Outputs where the gradients are taken, such as ``[f_0]``.
        shares: ``s_k``, which sum to 1.
        memory_budget_bytes: For the kernel.

    Raises:
        InputError: It does not fit the memory.

    Cost: that of :func:`ttp_jax.kernel.empirical.weighted_ntk`; each of the places adds
    ``n c p`` multiply-adds, all together ``n c^2 p``, to ``(n c)^2 p``.

    Breaks when: few gradients are not small, as of a full batch at one place: ``D`` is then
    largest for parameters whose gradient happens to be zero there.
    """
    cotangents = [
        np.asarray(losses.gradient(task.loss, jnp.asarray(f), jnp.asarray(task.targets)))
        for f in places
    ]
    noise = 0.0
    if adam.batch_size is not None:
        phi = sampling.variance_factor(task.n, adam.batch_size, adam.sampling)
        noise = phi / adam.batch_size
    moments: dict[int, list[np.ndarray]] = {}

    def weigh(leaf: int, blocks: list) -> np.ndarray:
        v = _second_moments(blocks, np.stack(cotangents), shares, noise)
        moments.setdefault(leaf, []).append(v)
        return 1 / (np.sqrt(v) + adam.eps)

    with measured() as part:
        theta = empirical.weighted_ntk(
            task.apply_fn,
            task.params,
            task.x,
            weigh,
            memory_budget_bytes=memory_budget_bytes,
        )
        by_leaf = {leaf: np.concatenate(parts) for leaf, parts in moments.items()}
        v = np.concatenate(list(by_leaf.values()))
        root = np.sqrt(v)
        weight = v / (root + adam.eps)
        energy = max(float(weight.sum()), _TINY)
        scale = _in_parameters(
            task, {leaf: 1 / (np.sqrt(v) + adam.eps) for leaf, v in by_leaf.items()}
        )
    return Preconditioned(
        theta=theta,
        scale=scale,
        energy=energy,
        adaptive=float((weight * root / (root + adam.eps)).sum() / energy),
        run_s=part.run_s,
        compile_s=part.compile_s,
    )


def along_the_path(
    task: Task,
    adam: Adam,
    f0: Float[np.ndarray, "n c"],
    q0: Float[np.ndarray, "n c"] | None,
    *,
    steps: int,
    seed: int = 0,
    every: int = 1,
    memory_budget_bytes: int | None = None,
) -> tuple[Adapted, Preconditioned]:
    """Adam of the linearised model under the second moments that its own path gives.

    The moments at the start give a kernel and with it a rough path; their average along that
    path (:func:`path_steps`) gives the kernel of the path that is returned. What is divided by
    at the end of a run of up to ``1/(1 - b2)`` steps is such an average. The start alone would
    not do: parameters whose gradient is small there and nowhere else would then be followed
    at a rate that they never have.

    Args:
        task: Model, weights, samples, loss.
        adam: The optimiser.
        f0: Outputs at the start.
        q0: Image of the decayed weights, with weight decay toward zero.
        steps: ``T``.
        seed: Of the stream of mini-batches.
        every: Read loss and accuracy every so many steps.
        memory_budget_bytes: For a kernel.

    Returns:
        The path and its kernel, whose seconds are those of both.

    Raises:
        InputError: Arguments out of range.

    Cost: two kernels, ``2 (1 + 2c) F n + 2 (n c)^2 p``, and the dynamics twice.
    """
    common: dict[str, Any] = {"loss": task.loss, "steps": steps, "q0": q0, "seed": seed}
    first = preconditioned(
        task, adam, [f0], np.ones(1), memory_budget_bytes=memory_budget_bytes
    )
    places, shares = path_steps(steps)
    rough = adapted(
        first.theta,
        f0,
        task.targets,
        adam,
        **common,
        every=steps,
        energy=1.0,
        adaptive=0.0,
        keep=places,
    )
    spent_s, spent_compile_s = first.run_s, first.compile_s
    del first  # the next kernel needs the memory
    # A rough path that diverges tells something until it has.
    there = _before_it_diverges(task, rough.kept)
    made = preconditioned(
        task,
        adam,
        list(rough.kept[there]),
        shares[there] / shares[there].sum(),
        memory_budget_bytes=memory_budget_bytes,
    )
    found = adapted(
        made.theta,
        f0,
        task.targets,
        adam,
        **common,
        every=every,
        energy=made.energy,
        adaptive=made.adaptive,
    )
    return found, replace(
        made,
        run_s=made.run_s + spent_s,
        compile_s=made.compile_s + spent_compile_s,
    )


def cost(task: Task, *, memory_budget_bytes: int | None = None) -> empirical.KernelCost:
    """What :func:`along_the_path` will take for its two kernels, one after the other.

    Raises:
        InputError: It does not fit the memory.
    """
    one = empirical.estimate(
        task.apply_fn,
        task.params,
        task.x,
        memory_budget_bytes=memory_budget_bytes,
        weighted=True,
    )
    return replace(
        one,
        flops=2 * one.flops,
        seconds=2 * one.seconds,
        jacobian_passes=2 * one.jacobian_passes,
    )


def moved_weights(task: Task, made: Preconditioned, alpha: np.ndarray, shrink) -> Params:
    """``w = (1 - shrink) w_0 - D J^T alpha``. Cost: one VJP a sample."""
    shape = len(task.x), -1
    (step,) = outputs.vjps(task.apply_fn, task.params, task.x, [alpha.reshape(shape)])
    step = jax.tree.map(jnp.multiply, made.scale, step)
    return outputs.minus(task.params, [(1.0, step), (float(shrink), task.params)])


def _before_it_diverges(
    task: Task, kept: Float[np.ndarray, "k n c"]
) -> Bool[np.ndarray, " k"]:
    targets = jnp.asarray(task.targets)
    with np.errstate(over="ignore"):
        loss = [float(losses.mean(task.loss, jnp.asarray(f), targets)) for f in kept]
    return np.logical_and.accumulate(np.array(loss) <= DIVERGED * loss[0])


def _second_moments(
    blocks: list,
    cotangents: Float[np.ndarray, "k n c"],
    shares: Float[np.ndarray, " k"],
    noise: float,
) -> Float[np.ndarray, " columns"]:
    """``v`` of some columns of the Jacobian, which come in blocks of samples."""
    n, c = cotangents.shape[1:]
    # sum_k s_k (a_k J)^2 = |R J|^2 with R^T R = sum_k s_k a_k a_k^T: c rows for k places.
    outer = np.einsum("k,knc,knd->ncd", shares, cotangents, cotangents)
    size, axes = np.linalg.eigh(outer)
    roots = np.sqrt(np.maximum(size, 0))[:, :, None] * axes.swapaxes(1, 2)
    means = np.zeros((len(shares), blocks[0].shape[1]))
    squares = np.zeros(blocks[0].shape[1])
    first = 0
    for block in blocks:
        last = first + len(block) // c
        here = cotangents[:, first:last], roots[first:last]
        sums = _sums(block, *(jnp.asarray(values, block.dtype) for values in here))
        means += np.asarray(sums[0], float) / n
        squares += np.asarray(sums[1], float) / n
        first = last
    mean = shares @ means**2
    # Rounding must not leave a variance below zero.
    return mean + noise * np.maximum(squares - mean, 0.0)


@jax.jit
def _sums(block, cotangents, roots):
    """Over samples: of their gradients at each place, and of the squares over all."""
    rows = block.reshape(cotangents.shape[1], -1, block.shape[1])
    g = jnp.einsum("bdc,bcp->bdp", roots, rows)
    return cotangents.reshape(len(cotangents), -1) @ block, (g**2).sum((0, 1))


def _in_parameters(task: Task, columns: dict[int, np.ndarray]) -> Params:
    """``D`` where it came by columns of the Jacobian; 0 where nothing depends on it."""
    leaves, treedef = jax.tree.flatten(task.params)
    traced = taps.traced(task.apply_fn, task.params, task.x)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    moved = {leaf: jnp.asarray(v, leaves[leaf].dtype) for leaf, v in columns.items()}
    return jax.tree.unflatten(treedef, taps.to_parameters(traced, leaves, moved))


def path_steps(steps: int) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Where a run is looked at for the average of its second moments, and with what share.

    Steps from 0 at a constant ratio, because gradients fall fast first and slowly later, and
    their shares in a mean over the whole run by the trapezoid rule.
    """
    places = np.unique(np.round(np.geomspace(1, steps, PLACES)).astype(int)) - 1
    gaps = np.diff(places)
    shares = np.append(gaps, 0) + np.insert(gaps, 0, 0) if len(gaps) else np.ones(1)
    return places, shares / shares.sum()
