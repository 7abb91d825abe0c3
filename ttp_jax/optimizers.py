"""One description of the optimiser, read by optax and by the dynamics."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from ttp_jax import sampling as _sampling
from ttp_jax import schedules
from ttp_jax.types import InputError

DecayToward = Literal["zero", "initial"]


class _MiniBatches:
    """What every optimiser here has: rates, a stream of mini-batches, and weight decay."""

    learning_rate: schedules.LearningRate
    weight_decay: float
    batch_size: int | None
    sampling: _sampling.Sampling | _sampling.OfViews
    decay_toward: DecayToward

    def __post_init__(self) -> None:
        if not (np.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InputError(f"weight decay must not be negative, got {self.weight_decay}")
        if self.decay_toward not in get_args(DecayToward):
            raise InputError(
                f"decay_toward must be one of {', '.join(get_args(DecayToward))}, got "
                f"{self.decay_toward!r}"
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch size must be at least 1, got {self.batch_size}")
        if not callable(self.learning_rate) and np.ndim(self.learning_rate) == 0:
            schedules.as_array(self.learning_rate, 1)

    def learning_rates(self, steps: int) -> Float[np.ndarray, "T *G"]:
        """``eta`` of each step, and of each group of weights where there are such."""
        return schedules.as_array(self.learning_rate, steps)

    def grouped_rates(self, steps: int, groups: int | None) -> Float[np.ndarray, "T *G"]:
        """The same, for so many groups of weights; ``None`` for one rate for all of them.

        Raises:
            InputError: Rates of another number of groups.
        """
        rates = self.learning_rates(steps)
        if rates.shape[1:] != (() if groups is None else (groups,)):
            expected = f"[{steps}]" if groups is None else f"[{steps}, {groups}]"
            raise InputError(
                f"learning rates must be {expected}, one a step"
                f"{'' if groups is None else ' and group of weights'}, got "
                f"{list(rates.shape)}; give groups to a schedule that was made for them"
            )
        return rates

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

    def decay_origin(
        self, f0: Float[np.ndarray, "n c"], q0: Float[np.ndarray, "n c"] | None
    ) -> Float[np.ndarray, "n c"]:
        """What turns outputs into the image of the decayed weights: ``q = origin + f``.

        ``q = J w`` and ``origin = q_0 - f_0`` for decay toward zero, ``q = J (w - w_0)``
        and ``origin = -f_0`` for decay toward the initial weights, zeros without decay.
        With decay toward weights that were left some steps ago ``q_0 = J (w - w_0)``.
        """
        if not self.weight_decay:
            return np.zeros_like(f0)
        if self.decay_toward == "initial" and q0 is None:
            return -f0
        if q0 is None:
            raise ValueError("weight decay toward zero needs q0 = J w_0")
        return q0 - f0


@dataclass(frozen=True)
class SGD(_MiniBatches):
    """Stochastic gradient descent with momentum, as PyTorch and ``optax.sgd`` define it.

    ``G = g + wd w;  v <- mu v + G;  w <- w - eta (G + mu v if nesterov else v)`` with
    ``g`` the gradient of the mean loss of the batch and ``v_0 = 0``.

    Args:
        learning_rate: A number, an array ``[T]`` or an optax schedule; ``[T, G]`` for groups of
            weights (:mod:`ttp_jax.groups`).
        momentum: ``mu`` in [0, 1).
        nesterov: Nesterov's form of the momentum step.
        weight_decay: ``wd``, on every trained parameter.
        batch_size: ``B``; ``None`` for the full batch.
        sampling: ``"shuffle"``, ``"without_replacement"`` or ``"with_replacement"``; of no
            effect with the full batch. A prediction makes of it one of views
            (:class:`ttp_jax.sampling.OfViews`).
        decay_toward: ``"zero"``, or ``"initial"``: ``wd (w - w_0)`` in the place of ``wd w``.
    """

    learning_rate: schedules.LearningRate
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    batch_size: int | None = None
    sampling: _sampling.Sampling | _sampling.OfViews = "shuffle"
    decay_toward: DecayToward = "zero"

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {self.momentum}")
        if self.nesterov and self.momentum == 0:
            raise InputError("nesterov needs a momentum above 0, got 0")
        super().__post_init__()

    def at_effective_rate(self, steps: int) -> "SGD":
        """The same without momentum, at the rate ``eta/(1 - mu)``.

        How Zancato et al. (arXiv 2008.12478) treat momentum: the drift of small steps is
        the same; what the first ``1/(1 - mu)`` steps and the noise do is not.
        """
        rates = self.learning_rates(steps) / (1 - self.momentum)
        return replace(self, learning_rate=rates, momentum=0.0, nesterov=False)

    def stability_limit(self) -> float:
        """Largest stable ``eta * lam_max`` of the mean loss's curvature, full batch.

        ``2 (1 + mu)`` for heavy-ball momentum, ``2 (1 + mu)/(1 + 2 mu)`` for Nesterov's
        (both from the roots of the two-step recursion leaving the unit circle at -1);
        2 without momentum.
        """
        if self.nesterov:
            return 2 * (1 + self.momentum) / (1 + 2 * self.momentum)
        return 2 * (1 + self.momentum)

    def stability(self, curvature: float, rate: float) -> float:
        """``eta (lam_max + wd)`` over the limit; above 1 the full batch grows."""
        return float(rate * (curvature + self.weight_decay) / self.stability_limit())


@dataclass(frozen=True)
class Adam(_MiniBatches):
    """Adam (Kingma and Ba, arXiv 1412.6980), with decoupled weight decay AdamW.

    ``m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;``
    ``w <- w - eta (m/(1 - b1^t) / (sqrt(v/(1 - b2^t)) + eps) + wd w)`` at step ``t`` from 1,
    as ``optax.adamw`` (and PyTorch's ``AdamW``) define it: decay as in Loshchilov and Hutter,
    arXiv 1711.05101, in the step and not in the gradient.

    Args:
        learning_rate: A number, an array ``[T]`` or an optax schedule.
        beta1: ``b1`` in [0, 1).
        beta2: ``b2`` in [0, 1).
        eps: Added to the root of the second moment, above 0.
        weight_decay: ``wd``, on every trained parameter.
        batch_size: As for :class:`SGD`.
        sampling: As for :class:`SGD`.
        decay_toward: As for :class:`SGD`.
    """

    learning_rate: schedules.LearningRate
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    batch_size: int | None = None
    sampling: _sampling.Sampling | _sampling.OfViews = "shuffle"
    decay_toward: DecayToward = "zero"

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not (np.isfinite(self.eps) and self.eps > 0):
            raise InputError(f"eps must be positive, got {self.eps}")
        super().__post_init__()

    def stability_limit(self) -> float:
        """Largest stable ``eta * lam_max`` of the preconditioned curvature, full batch.

        ``2 (1 + b1)/(1 - b1)``: momentum as an average is heavy-ball momentum at the rate
        ``(1 - b1) eta`` (Cohen et al., arXiv 2207.14484).
        """
        return 2 * (1 + self.beta1) / (1 - self.beta1)

    def stability(self, curvature: float, rate: float) -> float:
        """``eta lam_max`` over the limit, and ``eta wd / 2``; together above 1 it grows.

        Where the slowest root of ``z^2 - (1 + b1 - eta wd - (1 - b1) eta lam) z + b1 (1 -
        eta wd)`` leaves the unit circle at -1.
        """
        return float(rate * (curvature / self.stability_limit() + self.weight_decay / 2))


Optimizer = SGD | Adam
