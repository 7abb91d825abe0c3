"""The loss of all samples along a path, most of it read of few of them.

At some weights all samples are read, at the others few, spread evenly through all in the order
of their loss at the start. What the few lack there, ``log L_all - log L_few``, changes little
on the way and is interpolated between the places where all are read: a ratio estimator
(Cochran, Sampling Techniques, chapter 6).
"""

from collections.abc import Container, Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ttp_jax import losses, outputs, sampling
from ttp_jax.types import Params, Task

FEW, FEWEST = 0.1, 100
"""The few: this share of the samples, and no fewer than so many."""
MOST = 2000
"""Of more samples so many, drawn with the classes evenly, stand for all that are read."""


def sizes(task: Task) -> list[int]:
    """Samples of each of :attr:`Task.parts` that stand for all of it."""
    return [min(size, MOST) for size in task.sizes]


def few(size: int) -> int:
    """How many of so many are the few."""
    return min(size, max(FEWEST, round(FEW * size)))


class Reader:
    """``log L`` and accuracy along paths that start alike, of each of :attr:`Task.parts`.

    Args:
        task: Whose samples are read.
        seed: Of the draw where there are more than :data:`MOST`.
    """

    def __init__(self, task: Task, seed: int):
        self._task = task
        self._parts = [_thinned(part, seed) for part in task.parts]
        self._rows: list[np.ndarray] = []

    def along(
        self, weights: Iterator[Params], whole: Container[int], come: np.ndarray
    ) -> tuple[Float[np.ndarray, "places parts 2"], Float[np.ndarray, "places parts 2"]]:
        """Those of the few at all weights, and what they lack to those of all samples.

        Args:
            weights: Where to read.
            whole: Of which of them all samples are read; of the first path the first one at
                least, which chooses the few. Without any, nothing is said to lack.
            come: Over which what lacks is interpolated, one number for each of the weights.

        Cost: a forward pass for every sample read.
        """
        seen_of_few, known, lacks = [], [], []
        for place, w in enumerate(weights):
            if place not in whole:
                seen_of_few.append(_means(self._samples(w, self._rows)))
                continue
            seen = self._samples(w)
            self._rows = self._rows or [_spread(part[:, 0]) for part in seen]
            chosen = [part[rows] for part, rows in zip(seen, self._rows, strict=True)]
            seen_of_few.append(_means(chosen))
            known.append(come[place])
            lacks.append(_means(seen) - seen_of_few[-1])
        found = np.array(seen_of_few)
        if not lacks:
            return found, np.zeros_like(found)
        columns = np.array(lacks).reshape(len(lacks), -1).T
        between = [np.interp(come, known, column) for column in columns]
        return found, np.stack(between, axis=1).reshape(found.shape)

    def _samples(
        self, w: Params, rows: Sequence[np.ndarray] | None = None
    ) -> list[Float[np.ndarray, "n 2"]]:
        """Loss of each sample, and whether it is right."""
        found = []
        for k, (x, targets) in enumerate(self._parts):
            of = slice(None) if rows is None else rows[k]
            f = jnp.asarray(outputs.forward(self._task.apply_fn, w, x[of]))
            y = jnp.asarray(targets[of], f.dtype)
            each = losses.per_sample(self._task.loss, f, y), losses.hits(f, y)
            found.append(np.stack([np.asarray(v, float) for v in each], axis=1))
        return found


def _means(seen: Sequence[np.ndarray]) -> Float[np.ndarray, "parts 2"]:
    means = np.array([part.mean(axis=0) for part in seen])
    means[:, 0] = np.log(np.maximum(means[:, 0], np.finfo(float).tiny))
    return means


def _thinned(part: Task, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of at most :data:`MOST` samples."""
    x, targets = np.asarray(part.x), part.targets
    if part.n <= MOST:
        return x, targets
    rows = sampling.evenly_mixed(part.y, 1, MOST, seed).reshape(-1)
    return x[rows], targets[rows]


def _spread(loss: Float[np.ndarray, " n"]) -> Int[np.ndarray, " few"]:
    """Few samples evenly through all in the order of their loss."""
    count = few(len(loss))
    places = (np.arange(count) + 0.5) * len(loss) / count
    return np.sort(np.argsort(loss, kind="stable")[places.astype(int)])
