"""Several models as one: the mean of their predictions, and what it is worth."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Float

from ttp_jax import losses
from ttp_jax.types import InputError, LossName


@dataclass(frozen=True)
class Quality:
    """How good predictions are on some samples."""

    loss: float
    accuracy: float
    calibrated: float | None
    """Log-likelihood a sample after temperature scaling; ``None`` under MSE."""


def combined(
    loss: LossName, outputs: Float[np.ndarray, "k n c"]
) -> Float[np.ndarray, "n c"]:
    """Outputs of the ensemble.

    ``cross_entropy``: ``log((1/k) sum_i softmax(f_i))``, logits whose softmax is the mean of
    the members' (Huang et al., arXiv 1704.00109, sec. 3). ``mse``: ``(1/k) sum_i f_i``.
    """
    if loss == "mse":
        return np.asarray(outputs, np.float64).mean(axis=0)
    with jax.enable_x64(True):
        logs = jax.nn.log_softmax(jnp.asarray(outputs, jnp.float64), axis=2)
        return np.asarray(jax.nn.logsumexp(logs, axis=0) - np.log(len(outputs)))


def quality(
    loss: LossName, outputs: Float[np.ndarray, "n c"], targets: Float[np.ndarray, "n c"]
) -> Quality:
    """Loss, accuracy and calibrated log-likelihood of outputs."""
    with jax.enable_x64(True):
        f, y = (jnp.asarray(values, jnp.float64) for values in (outputs, targets))
        value, hits = float(losses.mean(loss, f, y)), float(losses.accuracy(f, y))
    calibrated = None
    if loss == "cross_entropy" and np.isfinite(value) and len(outputs) > 1:
        calibrated = calibrated_log_likelihood(outputs, targets)
    return Quality(value, hits, calibrated)


def calibrated_log_likelihood(
    outputs: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
    *,
    splits: int = 5,
    seed: int = 0,
) -> float:
    """``(1/n) sum_i y_i . log softmax(f_i/tau)``, ``tau`` fitted on other samples.

    Samples are halved at random ``splits`` times; each half has the temperature that is best
    for the other, and all halves are averaged (Ashukha et al., arXiv 2002.06470, sec. 3).
    Models that differ in how sure they are of themselves alone are then equal. One more
    sample, its label spread over all classes, is fitted with each half (Platt, Advances in
    Large Margin Classifiers, 1999): of a half that is all right no temperature would be too
    low.

    Raises:
        InputError: Fewer than two samples, or fewer than one split.
    """
    n = len(outputs)
    if n < 2 or splits < 1:
        raise InputError(
            f"calibration needs at least 2 samples and 1 split, got {n} and {splits}"
        )
    f, y = np.asarray(outputs, np.float64), np.asarray(targets, np.float64)

    def likelihood(rows: np.ndarray, log_tau: float, y: np.ndarray) -> float:
        logs = scipy.special.log_softmax(f[rows] / np.exp(log_tau), axis=1)
        return float((y[rows] * logs).sum(axis=1).mean())

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(splits):
        order = rng.permutation(n)
        halves = order[: n // 2], order[n // 2 :]
        for fit, held in (halves, halves[::-1]):
            spread = (len(fit) * y + 1 / f.shape[1]) / (len(fit) + 1)
            best = scipy.optimize.fminbound(
                lambda log_tau, rows=fit, y=spread: -likelihood(rows, log_tau, y), -5, 5
            )
            found.append(likelihood(held, float(np.asarray(best)), y))
    return float(np.mean(found))
