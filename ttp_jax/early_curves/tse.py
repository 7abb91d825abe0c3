"""Training-speed estimators: sums of the training loss over the first epochs.

Ru, Lyle, Schut, Fil, van der Wilk, Gal, "Speedy Performance Estimation for Neural Architecture
Search" (NeurIPS 2021, arXiv 2006.04492). With ``l_t`` the mean training loss of epoch ``t``
(:func:`~ttp_jax.early_curves.prefix.epoch_means`) and ``T`` the whole epochs of the curve:
smaller is better in every one of them, as a model that trains fast has the larger marginal
likelihood. They rank runs on the same data, loss and batches, and name neither a time nor a
loss.

Under the name TSE-EMA three different numbers are in use; each has its own function here. A run
whose loss is not finite anywhere in the epochs has an infinite score, the worst there is.
"""

import numpy as np
from jaxtyping import Float

from ttp_jax.early_curves.prefix import Score, epoch_means
from ttp_jax.types import Curve, InputError


def tse(curve: Curve, *, steps_per_epoch: int) -> Score:
    """Area under the training curve, ``TSE = sum_{t=1..T} l_t`` (arXiv 2006.04492).

    Args:
        curve: Its first epochs.
        steps_per_epoch: ``B``, updates in an epoch; 1 where a log has one row an epoch.

    Returns:
        In units of the loss times epochs; smaller is better.

    Raises:
        InputError: No whole epoch, or one without a reading.
    """
    return _score("TSE", epoch_means(curve, steps_per_epoch).sum())


def tse_e(curve: Curve, *, steps_per_epoch: int, epochs: int = 1) -> Score:
    """The same of the last ``E`` epochs, ``TSE-E = sum_{t=T-E+1..T} l_t``.

    The epochs before are the burn-in. With ``E = 1``, which the authors recommend, it is
    the last epoch's mean training loss.

    Args:
        curve: Its first epochs.
        steps_per_epoch: Updates in an epoch.
        epochs: ``E``.

    Raises:
        InputError: Fewer whole epochs than ``E``, or one without a reading.
    """
    means = epoch_means(curve, steps_per_epoch)
    if not 1 <= epochs <= len(means):
        raise InputError(
            f"epochs must lie in 1..{len(means)} (the whole epochs of the curve), got {epochs}"
        )
    return _score(f"TSE-E (E={epochs})", means[-epochs:].sum())


def tse_ema_last(curve: Curve, *, steps_per_epoch: int, mu: float = 0.9) -> Score:
    """TSE-EMA as in the authors' code: the moving average itself, at the last epoch.

    ``e_1 = l_1``, ``e_t = (1 - mu) e_{t-1} + mu l_t``, score ``e_T``. With their
    ``mu = 0.9`` nearly the last epoch's loss.

    Args:
        curve: Its first epochs.
        steps_per_epoch: Updates in an epoch.
        mu: Weight of the newest epoch, above 0 and at most 1.

    Raises:
        InputError: ``mu`` out of range, no whole epoch, or one without a reading.
    """
    average = _moving_average(epoch_means(curve, steps_per_epoch), mu)
    return _score(f"TSE-EMA, last (mu={mu:g})", average[-1])


def tse_ema_summed(curve: Curve, *, steps_per_epoch: int, mu: float = 0.99) -> Score:
    """TSE-EMA as in NASLib: the same moving average, summed over the epochs.

    Score ``sum_{t=1..T} e_t``; with its ``mu = 0.99`` nearly TSE.

    Args:
        curve: Its first epochs.
        steps_per_epoch: Updates in an epoch.
        mu: Weight of the newest epoch, above 0 and at most 1.

    Raises:
        InputError: ``mu`` out of range, no whole epoch, or one without a reading.
    """
    average = _moving_average(epoch_means(curve, steps_per_epoch), mu)
    return _score(f"TSE-EMA, summed (mu={mu:g})", average.sum())


def tse_ema_discounted(
    curve: Curve, *, steps_per_epoch: int, gamma: float = 0.999
) -> Score:
    """TSE-EMA as in litmatter and the LCGA toolbox: old epochs count geometrically less.

    Score ``sum_{t=1..T} gamma^(T-t) l_t``; with their ``gamma = 0.999`` nearly TSE.

    Args:
        curve: Its first epochs.
        steps_per_epoch: Updates in an epoch.
        gamma: Weight of an epoch relative to the next, above 0 and at most 1.

    Raises:
        InputError: ``gamma`` out of range, no whole epoch, or one without a reading.
    """
    _require_weight("gamma", gamma)
    means = epoch_means(curve, steps_per_epoch)
    weights = gamma ** np.arange(len(means))[::-1]
    return _score(f"TSE-EMA, discounted (gamma={gamma:g})", (weights * means).sum())


def _moving_average(means: Float[np.ndarray, " T"], mu: float) -> Float[np.ndarray, " T"]:
    _require_weight("mu", mu)
    average = means.copy()
    for t in range(1, len(means)):
        average[t] = (1 - mu) * average[t - 1] + mu * means[t]
    return average


def _require_weight(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise InputError(f"{name} must lie above 0 and at most at 1, got {value}")


def _score(name: str, value: float) -> Score:
    return Score(name, float(value) if np.isfinite(value) else np.inf, False)
