"""Adversarial pictures by projected gradient ascent (Madry et al., arXiv 1706.06083)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ttp_jax import losses
from ttp_jax.types import InputError, Params, Task


@dataclass(frozen=True)
class Attack:
    """PGD in the space of the network's own inputs, without a random start.

    ``x <- clip(x + step sign(dl/dx))``, each value kept within ``radius`` of the picture and,
    where bounds are given, within these. As nothing in it is random, the same weights and
    picture always give the same attack.

    Args:
        radius: Largest change of a value, in the units of ``task.x`` (which, where stages are
            frozen, are features and not pixels).
        step: Of one ascent.
        steps: How many.
        bounds: Smallest and largest value that an input can have.

    Raises:
        InputError: A number out of range.
    """

    radius: float
    step: float
    steps: int = 10
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        sizes = self.radius, self.step
        if not (all(np.isfinite(v) and v > 0 for v in sizes) and self.steps >= 1):
            raise InputError(
                "an attack needs a radius and a step above 0 and at least 1 step, got "
                f"{self.radius}, {self.step} and {self.steps}"
            )
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise InputError(
                f"the bounds of an attack must ascend, got {self.bounds[0]} and "
                f"{self.bounds[1]}"
            )

    @property
    def passes(self) -> float:
        """Forward passes a sample: one and a backward pass to the input for each step."""
        return 2.0 * self.steps


def attacked(task: Task, attack: Attack) -> Callable[[Params, Any, Any], Any]:
    """``(w, x, y) -> x'``: the pictures that raise the loss of these weights."""

    def total(x, params, y):
        f = task.apply_fn(params, x)
        return jnp.sum(losses.per_sample(task.loss, f, y.astype(f.dtype)))

    def of(params: Params, x, y):
        at = x
        # Unrolled: convolutions within a compiled loop are slow on a CPU.
        for _ in range(attack.steps):
            at = at + attack.step * jnp.sign(jax.grad(total)(at, params, y))
            at = jnp.clip(at, x - attack.radius, x + attack.radius)
            at = at if attack.bounds is None else jnp.clip(at, *attack.bounds)
        return jax.lax.stop_gradient(at)

    return of
