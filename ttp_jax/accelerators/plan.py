"""What a method that is a schedule asks of one run."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from ttp_jax.optimizers import SGD


@dataclass(frozen=True)
class Plan:
    """The learning rates of one run, and the steps after which its model is kept."""

    learning_rates: Float[np.ndarray, " T"]
    keep: Int[np.ndarray, " k"]

    @property
    def steps(self) -> int:
        """``T``."""
        return len(self.learning_rates)

    def of(self, sgd: SGD) -> SGD:
        """The same optimiser by these rates; momentum, decay and batches stay."""
        return replace(sgd, learning_rate=self.learning_rates)
