"""One description of the optimiser, read by optax and by the dynamics."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ttp_jax import sampling as _sampling
from ttp_jax import schedules
from ttp_jax.types import InputError


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, as PyTorch and ``optax.sgd`` define it.

    ``G = g + wd w;  v <- mu v + G;  w <- w - eta (G + mu v if nesterov else v)`` with
    ``g`` the gradient of the mean loss of the batch and ``v_0 = 0``.

    Args:
        learning_rate: A number, an array ``[T]`` or an optax schedule.
        momentum: ``mu`` in [0, 1).
        nesterov: Nesterov's form of the momentum step.
        weight_decay: ``wd``, toward zero, on every trained parameter.
        batch_size: ``B``; ``None`` for the full batch.
        sampling: ``"shuffle"``, ``"without_replacement"`` or ``"with_replacement"``; of no
            effect with the full batch.
    """

    learning_rate: schedules.LearningRate
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    batch_size: int | None = None
    sampling: _sampling.Sampling = "shuffle"

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {self.momentum}")
        if self.nesterov and self.momentum == 0:
            raise InputError("nesterov needs a momentum above 0, got 0")
        if not (np.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InputError(f"weight decay must not be negative, got {self.weight_decay}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch size must be at least 1, got {self.batch_size}")
        if not callable(self.learning_rate) and np.ndim(self.learning_rate) == 0:
            schedules.as_array(self.learning_rate, 1)

    def learning_rates(self, steps: int) -> Float[np.ndarray, " T"]:
        """``eta`` of each step."""
        return schedules.as_array(self.learning_rate, steps)

    def batches(self, n: int, steps: int, seed: int) -> Int[np.ndarray, "T B"] | None:
        """The stream of mini-batches of this seed; ``None`` for the full batch."""
        if self.batch_size is None:
            return None
        if self.batch_size > n:
            raise InputError(
                f"batch size must be at most the number of samples ({n}), got "
                f"{self.batch_size}; lower it or leave it out for the full batch"
            )
        return _sampling.batches(n, self.batch_size, steps, self.sampling, seed)

    def stability_limit(self) -> float:
        """Largest stable ``eta * lam_max`` of the mean loss's curvature, full batch.

        ``2 (1 + mu)`` for heavy-ball momentum, ``2 (1 + mu)/(1 + 2 mu)`` for Nesterov's
        (both from the roots of the two-step recursion leaving the unit circle at -1);
        2 without momentum.
        """
        if self.nesterov:
            return 2 * (1 + self.momentum) / (1 + 2 * self.momentum)
        return 2 * (1 + self.momentum)
