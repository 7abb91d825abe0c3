"""Where prediction and training meet: what is read off each side, and what each has cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttp_jax.early_curves.elasticity import ElasticityRule, stopping_step
from ttp_jax.thresholds import TimeToThreshold, best_step, time_to_threshold
from ttp_jax.types import Curve, ThresholdRule

PREDICTION_PARTS = (
    "calibrate_s",
    "forward_s",
    "kernel_s",
    "solve_s",
    "trust_s",
    "check_s",
    "timing_s",
    "kept_s",
)

_HELD_OUT = (
    "loss_final",
    "accuracy_final",
    "best_steps",
    "best_seconds",
    "best_loss",
    "best_censored",
)


@dataclass(frozen=True)
class Threshold:
    """One threshold read off both curves; a side that is missing is ``None``."""

    rule: ThresholdRule
    epsilon: float
    predicted: TimeToThreshold | None
    measured: TimeToThreshold | None

    @property
    def relative_error(self) -> float | None:
        """``|That - T| / T`` in steps; ``None`` where a side is missing or censored.

        Met at the start by both is no error; by the run alone there is nothing to divide
        by, hence ``None``.
        """
        if self.predicted is None or self.measured is None:
            return None
        predicted, measured = self.predicted.steps, self.measured.steps
        if predicted is None or measured is None:
            return None
        if measured == 0:
            return 0.0 if predicted == 0 else None
        return abs(predicted - measured) / measured

    def as_json(self) -> dict:
        """Plain values under the names that the command line prints."""
        sides = [side for side in (self.predicted, self.measured) if side is not None]
        return {
            "rule": self.rule,
            "epsilon": self.epsilon,
            "predicted_steps": self.predicted and self.predicted.steps,
            "measured_steps": self.measured and self.measured.steps,
            "predicted_seconds": self.predicted and self.predicted.seconds,
            "measured_seconds": self.measured and self.measured.seconds,
            "relative_error": self.relative_error,
            "censored": any(side.censored for side in sides),
            "budget_steps": sides[0].budget_steps,
        }


def compare_thresholds(
    predicted: Curve | None,
    measured: Curve | None,
    *,
    rules: Sequence[ThresholdRule],
    epsilons: Sequence[float],
    smoothing: int = 1,
) -> list[Threshold]:
    """Every rule at every epsilon, both curves read alike.

    Raises:
        InputError: A rule, epsilon or smoothing out of range.
    """

    def read(curve: Curve | None, epsilon: float, rule: ThresholdRule):
        if curve is None:
            return None
        return time_to_threshold(curve, epsilon, rule, smoothing=smoothing)

    return [
        Threshold(
            rule, epsilon, read(predicted, epsilon, rule), read(measured, epsilon, rule)
        )
        for rule in rules
        for epsilon in epsilons
    ]


def held_out(
    predicted: Curve | None, measured: Curve | None, *, smoothing: int = 1
) -> dict[str, float | bool | None]:
    """Where both held-out curves end and are lowest.

    ``None`` for a side without one, for what is not finite, and for the step and seconds
    of a loss that is still falling at the end (``censored``).

    Raises:
        InputError: A smoothing out of range.
    """
    found: dict[str, float | bool | None] = {}
    for side, curve in (("predicted", predicted), ("measured", measured)):
        values: dict[str, float | bool | None] = dict.fromkeys(_HELD_OUT)
        if curve is not None and curve.held_out is not None:
            best, end = best_step(curve, smoothing=smoothing), curve.held_out
            values |= {
                "loss_final": _finite(end.loss[-1]),
                "accuracy_final": _finite(end.accuracy[-1]),
                "best_steps": best.steps,
                "best_seconds": best.seconds,
                "best_loss": _finite(best.loss),
                "best_censored": best.censored,
            }
        found |= {f"{side}_{name}": value for name, value in values.items()}
    return found


def stopping(
    predicted: Curve | None, measured: Curve | None, rule: ElasticityRule
) -> dict[str, float | int | str | None]:
    """Where a rule ends both curves, and what it has saved of the real one.

    Args:
        predicted: Whole.
        measured: As far as it was run.
        rule: That it was run by.

    Returns:
        ``predicted_steps`` and ``measured_steps``, the step of the stop, ``None`` where the
        rule never stops that side or there is no such side; of a real run that was stopped
        ``saved_steps``, the ``saved_share`` of the planned ones, and ``saved_seconds``, at
        the seconds a step that those before it took, zero of one that was not.
    """
    found: dict[str, float | int | str | None] = {
        "level": rule.level,
        "quantity": rule.quantity,
        "predicted_steps": predicted and stopping_step(predicted, rule),
        "measured_steps": None,
    }
    if measured is not None:
        taken, saved = measured.budget_steps, measured.saved_steps
        found |= {
            "measured_steps": taken if saved else stopping_step(measured, rule),
            "saved_steps": saved,
            "saved_share": saved / max(taken + saved, 1),
            "saved_seconds": _finite(saved * measured.seconds[-1] / max(taken, 1)),
            "loss": _finite(measured.loss[-1]),
        }
    return found


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def cost(predicted: Curve | None, measured: Curve | None) -> dict[str, float | None]:
    """Seconds of both sides without compilation and without reading the measured curve.

    ``ratio = finetune_s / predict_s`` and ``ratio_flops``, the same of counted
    floating-point operations; above 1 the prediction was the cheaper.
    """
    predict_s = kernel_s = finetune_s = ratio = ratio_flops = None
    if predicted is not None:
        predict_s = sum(predicted.timings.get(part, 0.0) for part in PREDICTION_PARTS)
        kernel_s = predicted.timings["kernel_s"]
    if measured is not None:
        finetune_s = measured.timings["train_s"]
    if predicted is not None and measured is not None:
        ratio = measured.timings["train_s"] / max(predict_s or 0.0, 1e-9)
        ratio_flops = measured.flops / max(predicted.flops, 1.0)
    return {
        "predict_s": predict_s,
        "kernel_s": kernel_s,
        "finetune_s": finetune_s,
        "ratio": ratio,
        "ratio_flops": ratio_flops,
    }
