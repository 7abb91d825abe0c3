"""Correcting a mini-batch gradient by what the same batch's was at an earlier snapshot.

``g~ = g_B(w) - c (g_B(w_s) - gbar(w_s))``, with ``gbar`` the gradient over all samples and the
snapshot ``w_s`` taken anew at the start of every epoch. ``c = 1`` is SVRG (Johnson and Zhang,
2013); AGENT (Lei et al., arXiv 2301.03573) and alpha-SVRG (Yin et al., arXiv 2311.05589) say
how large ``c`` is to be. As the second term has mean zero, every ``c`` leaves the mean of the
gradient as it is.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ttp_jax.types import InputError, Params

Previous = Literal["epoch_before", "itself"]
MeanOf = Literal["attacked", "clean"]


@dataclass(frozen=True)
class Agent:
    """AGENT's coefficient: ``c = gamma tau``, ``tau`` an average over epochs (2301.03573).

    ``tau <- (1 - a) tau + a Cov(l, l_prev)/Var(l_prev)`` at the start of every epoch, over the
    losses of its mini-batches at the weights there and at those an epoch before: a regression
    of losses, one number for the whole network, where the optimum regresses gradients. In the
    first epoch both weights are those of the start, and the regression gives 1.

    Args:
        gamma: Below 1, so as not to overcorrect.
        smoothing: ``a``.
        tau: Before the first epoch; the public code has 0.1, or 0 for adversarial training.
        mean: Of adversarial training: ``"attacked"`` takes ``gbar`` and the batch at the
            snapshot on the same pictures, those attacked there, so that the correction has
            mean zero. ``"clean"``: as the public code runs, ``gbar`` on clean pictures beside
            batches that are attacked at the present weights: biased by ``c`` times the
            difference of both mean gradients. The same where nothing is attacked.
        previous: ``"epoch_before"``: as the paper has it. ``"itself"``: as the adversarial
            part of the public code runs, whose "previous" weights are copied from the present
            ones just before the losses are compared. The regression then always gives 1 and
            ``c = gamma (1 - (1 - tau_0)(1 - a)^e)`` whatever the network does: a constant
            schedule under the name of an adaptive one.

    Breaks when: the losses of an epoch's batches hardly differ. The regression is then one of
    noise, of either sign and without a bound, and a run near the limit of stability can be lost
    by it (``experiments.correction_noise``).

    Raises:
        InputError: A number out of range.
    """

    gamma: float = 0.1
    smoothing: float = 0.3
    tau: float = 0.1
    mean: MeanOf = "attacked"
    previous: Previous = "epoch_before"

    def __post_init__(self) -> None:
        if not (np.isfinite(self.gamma) and self.gamma >= 0):
            raise InputError(f"gamma must not be negative, got {self.gamma}")
        if not 0 <= self.smoothing <= 1 or not np.isfinite(self.tau):
            raise InputError(
                "AGENT's smoothing must lie in [0, 1] and its tau be finite, got "
                f"{self.smoothing} and {self.tau}"
            )
        for name, value, of in (
            ("previous", self.previous, Previous),
            ("mean", self.mean, MeanOf),
        ):
            if value not in get_args(of):
                raise InputError(
                    f"{name} must be one of {', '.join(get_args(of))}, got {value!r}"
                )


@dataclass(frozen=True)
class AlphaSvrg:
    """``c`` from ``start`` in the first epoch linearly toward 0 at the end (2311.05589).

    ``c_e = start (1 - e/E)`` in epoch ``e`` of ``E``, constant within it. The authors start
    at 0.5, 0.75 or 1.
    """

    start: float = 0.5

    def __post_init__(self) -> None:
        if not (np.isfinite(self.start) and self.start >= 0):
            raise InputError(f"alpha-SVRG must not start below 0, got {self.start}")


@dataclass(frozen=True)
class Svrg:
    """The same ``c`` all through: 1 is SVRG, 0 the plain gradient."""

    coefficient: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.coefficient) and self.coefficient >= 0):
            raise InputError(
                f"the coefficient of SVRG must not be negative, got {self.coefficient}"
            )


Correction = Agent | AlphaSvrg | Svrg


def require_batches(per_epoch: int) -> None:
    """Raises: InputError: An epoch of one batch, where there is no noise to take away."""
    if per_epoch < 2:
        raise InputError(
            "a corrected gradient needs at least 2 mini-batches an epoch, got "
            f"{per_epoch}; lower the batch size or leave the correction out"
        )


def epochs_of(steps: int, per_epoch: int) -> int:
    """Epochs that a run begins: snapshots that it takes."""
    return -(-steps // per_epoch)


def coefficients(correction: Correction, epochs: int) -> Float[np.ndarray, " E"]:
    """``c`` of each epoch; of :class:`Agent` NaN, because it follows the losses."""
    if isinstance(correction, AlphaSvrg):
        return correction.start * (1 - np.arange(epochs) / epochs)
    if isinstance(correction, Svrg):
        return np.full(epochs, float(correction.coefficient))
    return np.full(epochs, np.nan)


def follow(
    correction: Correction,
    scheduled: Float[Array, ""],
    tau: Float[Array, ""],
    now: Float[Array, " n"],
    before: Float[Array, " n"],
    batches: Int[Array, "K B"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """``(tau, c)`` of the epoch that begins.

    Args:
        correction: Whose.
        scheduled: Of :func:`coefficients`, for those that have a schedule.
        tau: Of the epoch before.
        now: Loss of every sample at the new snapshot.
        before: At the snapshot of the epoch before.
        batches: Of the epoch that begins.
    """
    if not isinstance(correction, Agent):
        return tau, jnp.asarray(scheduled, tau.dtype)
    old = now if correction.previous == "itself" else before
    agreed = regression(now[batches].mean(axis=1), old[batches].mean(axis=1))
    tau = (1 - correction.smoothing) * tau + correction.smoothing * agreed
    return tau, correction.gamma * tau


def regression(now: Float[Array, " K"], before: Float[Array, " K"]) -> Float[Array, ""]:
    """``Cov(now, before)/Var(before)`` over batches; 0 where nothing varies."""
    deviation = before - before.mean()
    variance = jnp.sum(deviation**2)
    covariance = jnp.sum((now - now.mean()) * deviation)
    return jnp.where(variance > 0, covariance / jnp.where(variance > 0, variance, 1.0), 0.0)


def corrected(g: Params, at_snapshot: Params, mean: Params, c) -> Params:
    """``g - c (g_s - gbar)``; with ``c = 0`` the gradient itself, bit for bit."""

    def one(g, old, mean):
        return g - jnp.asarray(c, g.dtype) * (old - mean)

    return jax.tree.map(one, g, at_snapshot, mean)


def optimal_coefficient(now: Float[Array, "K p"], before: Float[Array, "K p"]) -> float:
    """``c* = sum_j Cov(g_j, g_sj) / sum_j Var(g_sj)``: one number for all coordinates.

    What makes the variance of ``g - c (g_s - gbar)``, summed over coordinates, smallest (Yin
    et al., arXiv 2311.05589, for each coordinate apart).

    Args:
        now: Gradients of some batches.
        before: Of the same batches at the snapshot.
    """
    now, before = (values - values.mean(axis=0) for values in (now, before))
    return float(jnp.sum(now * before) / jnp.sum(before**2))


PASSES = {"gradient": 3.0, "losses": 1.0}
"""Forward passes that a sample's gradient and its loss alone cost."""


def extra_passes(correction: Correction, steps: int, batch: int, n: int) -> float:
    """Forward passes of one sample that a run of ``T`` steps costs more by its correction.

    ``3 B`` a step for the batch at the snapshot; ``3 n`` an epoch for the mean there, and of
    AGENT ``n`` more for the losses an epoch before (Lei et al.'s count, and its public code's:
    ten passes a sample and epoch where plain training has three).
    """
    epochs = epochs_of(steps, n // batch)
    looks_back = isinstance(correction, Agent) and correction.previous == "epoch_before"
    fresh = PASSES["gradient"] + (PASSES["losses"] if looks_back else 0.0)
    return PASSES["gradient"] * batch * steps + fresh * n * epochs
