"""How far apart models are: clones, or members of an ensemble.

Weights alone do not tell (Fort et al., arXiv 1912.02757: one run's models differ much in
weights and little in function). Every number here is read alike off real models and off
predicted ones: where real models are further apart than the linearised ones, training has
moved them beyond the kernel; where they are not, they are what noise and the mean's progress
make of one linear model.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Float

from ttp_jax import losses, outputs
from ttp_jax.accelerators.averaging import mean_weights
from ttp_jax.types import LossName, Params, Task

_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Apart:
    """Two models, ``i`` before ``j``; places counted from 0."""

    first: int
    second: int
    output_distance: float
    """``sqrt(mean_s |f_j - f_i|^2)`` over samples."""
    disagreement: float
    """Share of samples that they put into different classes."""
    disagreement_over_error: float | None
    """Over the share that ``j`` gets wrong; ``None`` where that is none."""
    correlation: float
    """Pearson's, of all their softmax outputs (under MSE: outputs)."""
    divergence: float | None
    """Mean ``KL(p_i | p_j)``; ``None`` under MSE."""
    barrier: float
    """``max(0, L(middle) - (L_i + L_j)/2)``, the middle between their weights."""
    weight_distance: float | None = None
    """``|w_j - w_i|``."""
    relative_weight_distance: float | None = None
    """Over ``|w_i|``."""
    cosine: float | None = None
    """Between ``w_i - w_0`` and ``w_j - w_0``."""


def apart(
    loss: LossName,
    found: Float[np.ndarray, "k n c"],
    targets: Float[np.ndarray, "n c"],
    *,
    gram: Float[np.ndarray, "k1 k1"] | None = None,
    middles: Float[np.ndarray, "pairs n c"] | None = None,
) -> list[Apart]:
    """All pairs of models.

    Args:
        loss: ``"mse"`` or ``"cross_entropy"``.
        found: Outputs of each model.
        targets: Of the same samples.
        gram: Of their weights (:class:`ttp_jax.types.Kept`); ``None`` where they have no
            start in common.
        middles: Outputs half-way between their weights, from :func:`outputs_between`; by
            default those of models that are linear, hence convex, where no barrier is.
    """
    f, y = np.asarray(found, np.float64), np.asarray(targets, np.float64)
    p = f if loss == "mse" else scipy.special.softmax(f, axis=2)
    chosen = np.stack([_classes(one) for one in f])
    right = _classes(y)
    values = [_loss(loss, one, y) for one in f]
    pairs = []
    for k, (i, j) in enumerate(itertools.combinations(range(len(f)), 2)):
        middle = (f[i] + f[j]) / 2 if middles is None else middles[k]
        hill = _loss(loss, middle, y)
        differ = float(np.mean(chosen[i] != chosen[j]))
        error = float(np.mean(chosen[j] != right))
        pairs.append(
            Apart(
                first=i,
                second=j,
                output_distance=float(np.sqrt(((f[j] - f[i]) ** 2).sum(axis=1).mean())),
                disagreement=differ,
                disagreement_over_error=differ / error if error else None,
                correlation=_correlation(p[i], p[j]),
                divergence=None if loss == "mse" else _divergence(f[i], f[j]),
                barrier=max(0.0, hill - (values[i] + values[j]) / 2),
                **({} if gram is None else _of_weights(gram, i, j)),
            )
        )
    return pairs


def outputs_between(
    task: Task, weights: Sequence[Params]
) -> Float[np.ndarray, "pairs nm c"]:
    """Outputs of all samples half-way between the weights of each pair.

    Cost: a forward pass a sample and pair.
    """
    x = task.joint.x
    return np.stack(
        [
            outputs.forward(task.apply_fn, mean_weights(pair), x)
            for pair in itertools.combinations(weights, 2)
        ]
    )


def _loss(loss: LossName, f: np.ndarray, y: np.ndarray) -> float:
    with jax.enable_x64(True):
        return float(losses.mean(loss, jnp.asarray(f, jnp.float64), jnp.asarray(y)))


def _classes(f: np.ndarray) -> np.ndarray:
    return (f[:, 0] > 0).astype(int) if f.shape[1] == 1 else f.argmax(axis=1)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (values.ravel() - values.mean() for values in (a, b))
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), _TINY))


def _divergence(a: np.ndarray, b: np.ndarray) -> float:
    log_a, log_b = (scipy.special.log_softmax(f, axis=1) for f in (a, b))
    return float((np.exp(log_a) * (log_a - log_b)).sum(axis=1).mean())


def _of_weights(gram: np.ndarray, i: int, j: int) -> dict[str, float]:
    """Places in the Gram matrix are one further: the first is that of ``w_0``."""
    a, b = i + 1, j + 1
    distance = np.sqrt(max(gram[a, a] + gram[b, b] - 2 * gram[a, b], 0.0))
    size = np.sqrt(max(gram[0, 0] + 2 * gram[0, a] + gram[a, a], 0.0))
    moved = np.sqrt(max(gram[a, a] * gram[b, b], 0.0))
    return {
        "weight_distance": float(distance),
        "relative_weight_distance": float(distance / max(size, _TINY)),
        "cosine": float(gram[a, b] / max(moved, _TINY)),
    }
