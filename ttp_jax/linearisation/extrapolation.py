"""The curve of many samples from the kernel of few.

In the dynamics of ``m`` samples each weighs ``1/m`` in the mean, its own gradient among them,
by which it is learnt by heart: the loss of few samples falls sooner than that of many. To
first orders in ``1/m``, at every step,

``log L_m = a + b/m + d/m^2``,

and ``a, b, d`` follow from the few samples, their halves and their quarters, all of which share
one kernel (Richardson's extrapolation; the same bias in the spectrum is what
:mod:`ttp_jax.subset` corrects).
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ttp_jax.dynamics.simulate import simulate
from ttp_jax.optimizers import SGD
from ttp_jax.types import InputError, LossName, Task

PARTS = {2: 3, 4: 2}
"""Into so many parts the few are cut, so many times over."""
PARTS_COST = sum(times / parts for parts, times in PARTS.items())
"""Of all parts together, in full batches of the few: each has ``1/parts^2``."""
FEWEST = 4 * max(PARTS)
"""Samples that can be cut so: four to the smallest part."""


def few(task: Task, count: int, seed: int) -> Task:
    """The task with some of its samples, classes in proportion.

    Raises:
        InputError: Too few, or more than there are.
    """
    if task.n < FEWEST:
        raise InputError(
            f"kernel_samples needs a task of at least {FEWEST} samples, got {task.n}; leave it "
            "out"
        )
    if not FEWEST <= count <= task.n:
        raise InputError(
            f"kernel_samples must lie in {FEWEST}..{task.n} (the samples of the task), got "
            f"{count}"
        )
    classes = np.argmax(task.targets, axis=1)
    rows = balanced_order(classes, np.random.default_rng(seed))[:count]
    return dataclasses.replace(task, x=task.x[rows], y=np.asarray(task.y)[rows])


def balanced_order(
    classes: Int[np.ndarray, " n"], rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """A random order in which every run of samples has the classes in proportion."""
    position = np.empty(len(classes))
    for k in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == k))
        position[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(position)


class Extrapolated(NamedTuple):
    """A curve of many samples, and how far it had to be guessed."""

    loss: Float[np.ndarray, " t"]
    accuracy: Float[np.ndarray, " t"]
    doubt: float
    """Largest difference, in ``log L``, to what ``d = 0`` gives."""


def to_many(
    theta: Float[np.ndarray, "mc mc"],
    f0: Float[np.ndarray, "m c"],
    targets: Float[np.ndarray, "m c"],
    sgd: SGD,
    loss_of_few: Float[np.ndarray, " t"],
    accuracy_of_few: Float[np.ndarray, " t"],
    *,
    n: int,
    loss: LossName,
    steps: int,
    every: int = 1,
    q0: Float[np.ndarray, "m c"] | None = None,
    seed: int = 0,
) -> Extrapolated:
    """Loss and accuracy of ``n`` samples from those of ``m``.

    Args:
        theta: Kernel of the few.
        f0: Their outputs at the start.
        targets: Their targets.
        sgd: The optimiser, full batch: the noise of batches is not part of this.
        loss_of_few: Curve of the few.
        accuracy_of_few: The same of accuracy.
        n: Samples of the whole task.
        loss: ``"mse"`` or ``"cross_entropy"``.
        steps: ``T``.
        every: As the curve of the few was read.
        q0: As for :func:`ttp_jax.dynamics.simulate.simulate`.
        seed: Of the halves and quarters.

    Cost: that of ``simulate`` for the parts, twice that for the few (:data:`PARTS_COST`).

    Breaks when: ``b/m`` is not small, that is when the few have been learnt by heart long
    before the many, which ``doubt`` tells; and the draw of the few has a scatter of its own,
    which it does not.
    """
    m, c = f0.shape
    rng = np.random.default_rng(seed)
    classes = np.argmax(targets, axis=1)
    sizes, logs, accuracies = [m], [_log(loss_of_few)], [accuracy_of_few]
    for parts, times in PARTS.items():
        size, found = m // parts, []
        for _ in range(times):
            order = balanced_order(classes, rng)
            for start in range(0, parts * size, size):
                rows = order[start : start + size]
                flat = (rows[:, None] * c + np.arange(c)).ravel()
                path = simulate(
                    theta[np.ix_(flat, flat)],
                    f0[rows],
                    targets[rows],
                    sgd,
                    loss=loss,
                    steps=steps,
                    every=every,
                    q0=None if q0 is None else q0[rows],
                )
                found.append((_log(path.loss), path.accuracy))
        sizes.append(size)
        logs.append(np.mean([log for log, _ in found], axis=0))
        accuracies.append(np.mean([accuracy for _, accuracy in found], axis=0))
    at = 1.0 / np.array(sizes)
    weights = _weights(at, 1.0 / n)
    log = weights @ np.array(logs)
    linear = _weights(at[:2], 1.0 / n) @ np.array(logs[:2])
    return Extrapolated(
        loss=np.exp(log),
        accuracy=np.clip(weights @ np.array(accuracies), 0.0, 1.0),
        doubt=float(np.max(np.abs(log - linear))),
    )


def _log(loss: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    return np.log(np.maximum(loss, np.finfo(float).tiny))


def _weights(at: Float[np.ndarray, " k"], x: float) -> Float[np.ndarray, " k"]:
    """Lagrange's: ``sum_i w_i g(at_i) = g(x)`` for polynomials ``g`` through all points."""
    others = ~np.eye(len(at), dtype=bool)
    return np.array(
        [np.prod((x - at[row]) / (at[i] - at[row])) for i, row in enumerate(others)]
    )
