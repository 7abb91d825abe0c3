"""Whether to believe a prediction: stability of the step, and the linearisation gap."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import losses
from ttp_jax.optimizers import SGD, Optimizer
from ttp_jax.types import LossName, Trust

GAP_LIMIT = 0.5
"""Relative gap at the end above which the true model has left its linearisation."""
EARLY_GAP_LIMIT = 0.25
"""The same where the loss has fallen to 0.3 of the start. Both limits were set on digits and
sign-language digits, fine-tuned with the embedded network and a CIFAR ResNet-20."""
ERROR_LIMIT = 0.5
"""Of the jumps between many linearisations, all together, in ``log L``. Not calibrated: on
twelve tasks (``experiments.frontier``) they were a third to four times the error of the
curve."""
DOUBT_LIMIT = 0.08
"""Difference between two extrapolations from few samples to all, in ``log L``. From 90, 150 and
300 of 750 pictures of digits, sign-language digits and CIFAR-10 (five draws that are reported
nowhere else, four rates and batch sizes) the time to 10 % was off that of the kernel of all by
4 % at the median and 32 % at most where they differ by less, by 16 and 110 % where by more;
what is left below the limit is the luck of the draw."""


def largest_curvature(
    theta: Float[np.ndarray, "nc nc"],
    f: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
    *,
    loss: LossName,
    iterations: int = 100,
) -> float:
    """Largest eigenvalue of ``J^T h J / n``, the Gauss-Newton curvature of the mean loss.

    It is the largest eigenvalue of ``h^(1/2) Theta h^(1/2) / n`` with ``h`` the loss's
    curvature in the outputs, found by power iteration on ``v -> Theta h v / n`` with the
    Rayleigh quotient ``(h v)^T Theta (h v) / (n v^T h v)``, a lower bound that converges
    from below.

    Cost: ``iterations (n c)^2``.
    """
    with jax.enable_x64(True):
        f64 = partial(jnp.asarray, dtype=jnp.float64)
        start = np.random.default_rng(0).normal(size=f.shape)
        return float(
            _power_iteration(
                f64(theta), f64(f), f64(targets), f64(start), loss=loss, times=iterations
            )
        )


@partial(jax.jit, static_argnames=("loss", "times"))
def _power_iteration(theta, f, y, start, *, loss, times):
    n = len(f)

    def product(v, _):
        hv = losses.curvature_product(loss, f, y, v)
        image = (theta @ hv.reshape(-1)).reshape(f.shape) / n
        lam = jnp.sum(hv * image) / jnp.maximum(jnp.sum(v * hv), 1e-300)
        return image / jnp.maximum(jnp.linalg.norm(image), 1e-300), lam

    return jax.lax.scan(product, start, length=times)[1][-1]


def linearization_gap(
    f_true: Float[np.ndarray, "n c"],
    f_linear: Float[np.ndarray, "n c"],
    f0: Float[np.ndarray, "n c"],
) -> float:
    """``|f(w_predicted) - f_linear| / |f_linear - f_0|``, both at the predicted weights."""
    with np.errstate(over="ignore"):
        moved = np.linalg.norm(f_linear - f0)
    if not np.isfinite(f_true).all() or not np.isfinite(moved):
        return float("inf")
    return float(np.linalg.norm(f_true - f_linear) / max(moved, np.finfo(float).tiny))


def judge_by_gaps(
    *,
    curvature: float,
    gap: float,
    early_gap: float,
    sgd: Optimizer,
    peak_rate: float,
    predicted_loss: Float[np.ndarray, " t"],
    assumed: str = "",
) -> Trust:
    """Stability and two gaps in one line, where no more is known (Adam).

    ``stability = eta (lam_max + wd) / limit`` of the optimiser (:meth:`SGD.stability`);
    above 1 the linearised dynamics grow where the true run would often recover. ``score =
    1/(1 + x^2)`` with ``x`` the larger of ``gap/GAP_LIMIT`` and ``early_gap/EARLY_GAP_LIMIT``,
    halved where the step is unstable or the predicted loss grows: an order of merit, not a
    probability.

    Args:
        curvature: Largest curvature eigenvalue of the mean loss at the start.
        gap: From :func:`linearization_gap`, at the end.
        early_gap: The same where the loss has fallen to 0.3 of the start; 0 if never.
        sgd: The optimiser.
        peak_rate: Largest learning rate of the run.
        predicted_loss: Of the curve.
        assumed: What else the prediction takes for granted, said at the end of the line.
    """
    at_rate = sgd.stability(curvature, peak_rate)
    found = warnings(sgd, at_rate, predicted_loss)
    if not gap <= GAP_LIMIT:
        found.append(
            f"the model leaves its linearisation: gap {gap:.3g} at the end of the "
            f"prediction, at most {GAP_LIMIT} is trusted"
        )
    if not early_gap <= EARLY_GAP_LIMIT:
        found.append(
            f"the model leaves its linearisation early: gap {early_gap:.3g} at 0.3 of the "
            f"initial loss, at most {EARLY_GAP_LIMIT} is trusted"
        )
    worst = max(gap / GAP_LIMIT, early_gap / EARLY_GAP_LIMIT)
    score = 1.0 / (1.0 + worst**2) if np.isfinite(worst) else 0.0
    if at_rate > 1 or grows(predicted_loss):
        score *= 0.5
    fine = (
        f"{step_size(sgd, at_rate)}, linearisation gap {early_gap:.3g} early, {gap:.3g} at "
        "the end"
    )
    return Trust(
        ok=not found,
        score=float(score),
        reason="; ".join([*(found or [fine]), *([assumed] if assumed else [])]),
        stability=at_rate,
        gap=gap,
        early_gap=early_gap,
    )


def warnings(
    sgd: Optimizer, stability: float, loss: Float[np.ndarray, " t"], doubt: float = 0.0
) -> list[str]:
    """What speaks against any prediction: its step, its loss, few samples; a line each.

    Args:
        sgd: The optimiser.
        stability: Of its largest step, 1 at the limit.
        loss: Predicted.
        doubt: Of its extrapolation from few samples, where there was one
            (:class:`ttp_jax.linearisation.extrapolation.Extrapolated`).
    """
    found = []
    if stability > 1:
        limit = sgd.stability_limit()
        found.append(
            f"UNSTABLE: eta*lam_max = {stability * limit:.3g} exceeds the optimiser's limit "
            f"of {limit:.3g}; lower the learning rate"
        )
    if grows(loss):
        found.append("the predicted loss grows")
    if not doubt <= DOUBT_LIMIT:
        found.append(
            f"few samples are extrapolated far: two ways differ by {doubt:.0%} of the loss, at "
            f"most {DOUBT_LIMIT:.0%} is trusted; raise kernel_samples"
        )
    return found


def step_size(sgd: Optimizer, stability: float) -> str:
    """The largest step beside its limit, in words."""
    limit = sgd.stability_limit()
    return f"eta*lam_max = {stability * limit:.3g} of {limit:.3g}"


def judge_relinearized(
    *,
    curvature: float,
    gap: float,
    error: float,
    kernels: int,
    sgd: SGD,
    peak_rate: float,
    predicted_loss: Float[np.ndarray, " t"],
) -> Trust:
    """The same of many linearisations (:mod:`ttp_jax.linearisation.relinearization`).

    ``score = 1/(1 + x^2)`` with ``x = error/ERROR_LIMIT``, halved where the predicted loss
    ends higher than it began. Steps that are too large for the linearisation at the start are
    no warning: they are followed one by one.

    Args:
        curvature: As for :func:`judge`, at the start.
        gap: The largest that was accepted.
        error: Estimated relative error of the loss.
        kernels: How many it took.
        sgd: The optimiser.
        peak_rate: Largest learning rate of the run.
        predicted_loss: Of the curve.
    """
    found = []
    higher = not np.isfinite(predicted_loss).all() or predicted_loss[-1] > predicted_loss[0]
    if higher:
        found.append("the predicted loss grows")
    if not error <= ERROR_LIMIT:
        found.append(
            f"the pieces do not meet: the loss is off by an estimated {error:.0%}, at most "
            f"{ERROR_LIMIT:.0%} is trusted; lower the tolerance"
        )
    score = 1.0 / (1.0 + (error / ERROR_LIMIT) ** 2) if np.isfinite(error) else 0.0
    if higher:
        score *= 0.5
    return Trust(
        ok=not found,
        score=float(score),
        reason="; ".join(found)
        or f"{kernels} linearisations, the loss off by an estimated {error:.0%}",
        stability=sgd.stability(curvature, peak_rate),
        gap=gap,
        error=error,
    )


def grows(loss: Float[np.ndarray, " t"]) -> bool:
    """Whether a predicted loss ends above its start, doubles or is not finite."""
    return bool(
        not np.isfinite(loss).all() or loss[-1] > loss[0] or loss.max() > 2 * loss[0]
    )
