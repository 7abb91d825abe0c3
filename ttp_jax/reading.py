"""How a curve is read: at which steps, and which numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ttp_jax import losses, outputs
from ttp_jax.types import InputError, LossName, Params, Task

Keep = Sequence[int] | Int[np.ndarray, " kept"]
"""Steps after which the model is kept, ascending in ``1..T``."""


@dataclass(frozen=True)
class Readings:
    """Loss and accuracy on one set of samples, at the steps that were read."""

    loss: Float[np.ndarray, " t"]
    accuracy: Float[np.ndarray, " t"]
    loss_quantiles: Mapping[float, np.ndarray] | None = None
    """Over random paths, by level; ``None`` where there is one path."""
    accuracy_quantiles: Mapping[float, np.ndarray] | None = None

    def after(self, seen: "Readings") -> "Readings":
        """The same with what was read before; bands have its own value there."""

        def led(before, bands):
            if bands is None:
                return None
            return {level: np.concatenate([before, band]) for level, band in bands.items()}

        return Readings(
            np.concatenate([seen.loss, self.loss]),
            np.concatenate([seen.accuracy, self.accuracy]),
            led(seen.loss, self.loss_quantiles),
            led(seen.accuracy, self.accuracy_quantiles),
        )

    def at(self, read: Int[np.ndarray, " s"]) -> "Readings":
        """Some of them; without bands."""
        return Readings(self.loss[read], self.accuracy[read])


def read_steps(steps: int, every: int) -> Int[np.ndarray, " t"]:
    """Steps at which a curve is read: ``0, every, 2 every, ...`` and the last, ``T``.

    Raises:
        InputError: Fewer than one step, or ``every`` outside ``1..T``.
    """
    if steps < 1:
        raise InputError(f"the number of steps must be at least 1, got {steps}")
    if not 1 <= every <= steps:
        raise InputError(f"every must lie in 1..{steps} (the number of steps), got {every}")
    return np.unique(np.append(np.arange(0, steps + 1, every), steps))


def kept_steps(keep: Keep, steps: int) -> Int[np.ndarray, " k"]:
    """Steps after which the model is kept, as an array.

    Raises:
        InputError: They do not ascend, or lie outside ``1..T``.
    """
    kept = np.asarray(keep, dtype=int).reshape(-1)
    if len(kept) and (kept[0] < 1 or kept[-1] > steps or (np.diff(kept) < 1).any()):
        raise InputError(
            f"steps to keep must ascend in 1..{steps} (the number of steps), got "
            f"{kept.tolist()}"
        )
    return kept


def slots_of(kept: Int[np.ndarray, " k"], steps: int) -> Int[np.ndarray, " T"]:
    """The place of each step among those kept; ``k``, which there is not, of the others."""
    slots = np.full(steps, len(kept))
    slots[kept - 1] = np.arange(len(kept))
    return slots


def loss_and_accuracy(loss: LossName, f, targets):
    """Both numbers that a curve keeps, of outputs ``[n, c]``."""
    return losses.mean(loss, f, targets), losses.accuracy(f, targets)


def at_weights(task: Task) -> Callable[[Params], list[tuple[float, float]]]:
    """From weights to those of each of :attr:`Task.parts`. A forward pass a sample."""
    parts = [(part.x, jnp.asarray(part.targets)) for part in task.parts]

    def read(params: Params) -> list[tuple[float, float]]:
        values = []
        for x, y in parts:
            f = jnp.asarray(outputs.forward(task.apply_fn, params, x))
            loss, accuracy = loss_and_accuracy(task.loss, f, y.astype(f.dtype))
            values.append((float(loss), float(accuracy)))
        return values

    return read


def of_both(loss: LossName, f, targets, n: int):
    """Those of the first ``n`` samples and, where there are more, of the others apart."""
    return of_parts(loss, f, targets, (n, len(f) - n) if len(f) > n else (n,))


def of_parts(loss: LossName, f, targets, sizes: tuple[int, ...]):
    """Those of so many samples each, one group after the other."""
    ends = np.cumsum(sizes)
    groups = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return tuple(loss_and_accuracy(loss, f[rows], targets[rows]) for rows in groups)
