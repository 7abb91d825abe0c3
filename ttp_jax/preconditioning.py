"""The kernel that Adam sees: every parameter weighed by one over its gradients' size.

Adam divides the gradient of every parameter by the root of the average of its squares. With
that average fixed, but for one number that all parameters share, its steps are those of
gradient descent with momentum under the kernel ``J D J^T``, ``D = diag(1/(sqrt(v) + eps))``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ttp_jax import losses, sampling
from ttp_jax.kernel import empirical, taps
from ttp_jax.optimizers import Adam
from ttp_jax.timing import measured
from ttp_jax.types import Params, Task


PLACES = 12
"""Of :func:`path_steps`."""
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
    outputs: Sequence[Float[np.ndarray, "n c"]],
    shares: Sequence[float],
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
        outputs: Where the gradients are taken, such as ``[f_0]``.
        shares: ``s_k``, which sum to 1.
        memory_budget_bytes: For the kernel.

    Raises:
        InputError: It does not fit the memory.

    Cost: that of :func:`ttp_jax.kernel.empirical.weighted_ntk`; each of the outputs adds
    ``n c p`` multiply-adds to ``(n c)^2 p``.

    Breaks when: few gradients are not small, as of a full batch at one place: ``D`` is then
    largest for parameters whose gradient happens to be zero there.
    """
    cotangents = [
        np.asarray(losses.gradient(task.loss, jnp.asarray(f), jnp.asarray(task.targets)))
        for f in outputs
    ]
    noise = 0.0
    if adam.batch_size is not None:
        phi = sampling.variance_factor(task.n, adam.batch_size, adam.sampling)
        noise = phi / adam.batch_size
    moments: dict[int, list[np.ndarray]] = {}

    def weigh(leaf: int, blocks: list) -> np.ndarray:
        v = _second_moments(blocks, np.stack(cotangents), np.asarray(shares), noise)
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
        energy = weight.sum()
        scale = _in_parameters(
            task, {leaf: 1 / (np.sqrt(v) + adam.eps) for leaf, v in by_leaf.items()}
        )
    return Preconditioned(
        theta=theta,
        scale=scale,
        energy=float(energy),
        adaptive=float((weight * root / (root + adam.eps)).sum() / max(energy, _TINY)),
        run_s=part.run_s,
        compile_s=part.compile_s,
    )


def _second_moments(
    blocks: list,
    cotangents: Float[np.ndarray, "k n c"],
    shares: Float[np.ndarray, " k"],
    noise: float,
) -> Float[np.ndarray, " columns"]:
    """``v`` of some columns of the Jacobian, which come in blocks of samples."""
    n, c = cotangents.shape[1:]
    mean = np.zeros((len(shares), blocks[0].shape[1]))
    squares = np.zeros_like(mean)
    first = 0
    for block in blocks:
        last = first + len(block) // c
        sums = _sums(jnp.asarray(block), jnp.asarray(cotangents[:, first:last], block.dtype))
        mean += np.asarray(sums[0], float) / n
        squares += np.asarray(sums[1], float) / n
        first = last
    # Rounding must not leave a variance below zero.
    spread = np.maximum(squares - mean**2, 0.0)
    return shares @ (mean**2 + noise * spread)


@jax.jit
def _sums(block, cotangents):
    """Over samples, of their gradients and of the squares: one place after the other."""
    rows = block.reshape(cotangents.shape[1], -1, block.shape[1])

    def at(a):
        g = jnp.einsum("bc,bcp->bp", a, rows)
        return g.sum(0), (g**2).sum(0)

    return jax.lax.map(at, cotangents)


def _in_parameters(task: Task, columns: dict[int, np.ndarray]) -> Params:
    """``D`` where it came by columns of the Jacobian; 0 where nothing depends on it."""
    leaves, treedef = jax.tree.flatten(task.params)
    traced = taps.traced(task.apply_fn, task.params, task.x)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    columns = {leaf: jnp.asarray(v, leaves[leaf].dtype) for leaf, v in columns.items()}
    return jax.tree.unflatten(treedef, taps.to_parameters(traced, leaves, columns))




def path_steps(steps: int) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Where a run is looked at for the average of its second moments, and with what share.

    Steps from 0 at a constant ratio, because gradients fall fast first and slowly later, and
    their shares in a mean over the whole run by the trapezoid rule.
    """
    places = np.unique(np.round(np.geomspace(1, steps, PLACES)).astype(int)) - 1
    gaps = np.diff(places)
    shares = np.append(gaps, 0) + np.insert(gaps, 0, 0) if len(gaps) else np.ones(1)
    return places, shares / shares.sum()
