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

    def of(self, sgd: SGD, shares: Float[np.ndarray, "T G"] | None = None) -> SGD:
        """The same optimiser by these rates; momentum, decay and batches stay.

        ``eta_g(t) = alpha(t) share_g(t)``: a schedule over steps times one over groups of
        weights (:meth:`ttp_jax.accelerators.freezeout.FreezeOut.shares`), where there is one.
        """
        rates = self.learning_rates
        if shares is not None:
            rates = rates[:, None] * shares
        return replace(sgd, learning_rate=rates)
