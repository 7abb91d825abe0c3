"""The stream of mini-batches: one list of indices, read by the dynamics and by training."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int

from ttp_jax.types import InputError

Sampling = Literal["shuffle", "without_replacement", "with_replacement"]


@dataclass(frozen=True)
class OfViews:
    """Batches of ``pictures`` pictures of which there are ``views`` views each.

    The samples are the first view of all pictures, then the second, and so on. Epoch ``e``
    draws its pictures as ``base`` does and takes view ``e mod views`` of each.
    """

    base: Sampling
    pictures: int
    views: int


def batches(
    n: int, batch_size: int, steps: int, sampling: Sampling | OfViews, seed: int
) -> Int[np.ndarray, "T B"]:
    """Indices of the samples of each step.

    ``shuffle``: a new permutation an epoch, cut into ``n // B`` batches; the remainder of
    ``n mod B`` samples is left out of that epoch. ``without_replacement``: each batch an
    independent subset. ``with_replacement``: each index independent.

    The stream depends on the arguments alone (NumPy's Philox), not on the JAX version or
    the device, and a longer stream starts with the shorter one. :class:`OfViews` draws the
    pictures that training on them would draw.
    """
    if isinstance(sampling, OfViews):
        rows = batches(sampling.pictures, batch_size, steps, sampling.base, seed)
        epochs = np.arange(steps) // steps_per_epoch(sampling.pictures, batch_size)
        return rows + (epochs % sampling.views * sampling.pictures)[:, None]
    if sampling not in get_args(Sampling):
        raise InputError(
            f"sampling must be one of {', '.join(get_args(Sampling))}, got {sampling!r}"
        )
    rng = np.random.Generator(np.random.Philox(seed))
    if sampling == "with_replacement":
        return rng.integers(0, n, size=(steps, batch_size))
    if sampling == "without_replacement":
        return np.array([rng.permutation(n)[:batch_size] for _ in range(steps)]).reshape(
            steps, batch_size
        )
    per_epoch = steps_per_epoch(n, batch_size)
    epochs = [
        rng.permutation(n)[: per_epoch * batch_size].reshape(per_epoch, batch_size)
        for _ in range(-(-steps // per_epoch))
    ]
    return np.concatenate([np.zeros((0, batch_size), int), *epochs])[:steps]


def evenly_mixed(y: Any, size: int, steps: int, seed: int) -> Int[np.ndarray, "T B"]:
    """Batches of shuffled epochs in which every stretch has the classes in their proportion.

    Between classes the gradients differ most, so that batches differ less. Of targets that are
    no labels epochs are only shuffled.
    """
    y = np.asarray(y)
    labels = y if y.ndim == 1 else np.zeros(len(y), int)
    rng = np.random.Generator(np.random.Philox(seed))
    per_epoch = steps_per_epoch(len(y), size)
    epochs = []
    for _ in range(-(-steps // per_epoch)):
        members = [rng.permutation(np.flatnonzero(labels == k)) for k in np.unique(labels)]
        # Evenly over the epoch, each class beginning at its own time.
        when = [(np.arange(len(of)) + rng.random()) / len(of) for of in members]
        order = np.concatenate(members)[np.argsort(np.concatenate(when), kind="stable")]
        epochs.append(order[: per_epoch * size].reshape(per_epoch, size))
    return np.concatenate(epochs)[:steps]


def steps_per_epoch(n: int, batch_size: int | None) -> int:
    """Batches that fit into a pass over the samples; one of the full batch (``None``)."""
    return n // (batch_size or n)


def steps_of(epochs: int | float, n: int, batch_size: int | None) -> int:
    """Steps of a run of so many passes: the nearest number of batches, at least one."""
    return max(1, round(epochs * steps_per_epoch(n, batch_size)))


def variance_factor(n: int, batch_size: int, sampling: Sampling | OfViews) -> float:
    """``phi``: variance of a batch's mean over that of independent draws.

    1 with replacement, ``(n - B)/(n - 1)`` for a batch without repetitions, of which the
    batches of a shuffled epoch are each one. Of views that of their pictures.
    """
    if isinstance(sampling, OfViews):
        return variance_factor(sampling.pictures, batch_size, sampling.base)
    if sampling == "with_replacement":
        return 1.0
    return (n - batch_size) / max(n - 1, 1)
