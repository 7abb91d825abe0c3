"""A second look along the predicted path, and the chance it leaves that a time is far off.

Where the predicted loss has fallen to certain shares of the start, the weights are moved to
where the prediction says they are, and three things are asked of the true model there: its
loss, how fast that falls, and when the thresholds come if the prediction is made again from
there. What such looks say of the error was learned from tasks that were really trained.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import calibration, losses, outputs, trust
from ttp_jax.dynamics.segment import Segment, segment
from ttp_jax.optimizers import SGD
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve, Look, Task, ThresholdRule, Trust

LEVELS = (0.5, 0.3, 0.1)
"""Shares of the predicted loss at the start at which the model is looked at."""
PASSES = 7
"""Forward passes a sample that a look costs."""
ERROR = 0.2
"""Relative error of a time that the chance is of."""
INTERCEPT = 1.425
WEIGHTS = {"shift": 0.781, "stability": 0.763, "speed": 3.085}
"""Of :func:`features` in the log odds of an error above :data:`ERROR`; fitted by
``experiments.trust`` to all its tasks. Its table says how well weights that were fitted
without a data set, or without a network, put the errors there in order."""
STANDARD: tuple[tuple[ThresholdRule, float], ...] = (
    ("within_of_final", 0.1),
    ("fraction_of_initial", 0.5),
    ("fraction_of_initial", 0.2),
    ("fraction_of_initial", 0.1),
    ("fraction_of_initial", 0.05),
)
"""Thresholds that the chances were learned on; a prediction is judged by the worst of them."""
TRUSTED = 0.5
"""Smallest score that is trusted."""


def look_along(
    task: Task,
    sgd: SGD,
    start: calibration.Start,
    theta: Float[np.ndarray, "nc nc"],
    f0: Float[np.ndarray, "n c"],
    *,
    steps: int,
    q0: Float[np.ndarray, "n c"] | None = None,
    u0: Float[np.ndarray, "n c"] | None = None,
    seed: int = 0,
) -> tuple[Look, ...]:
    """The model at :data:`LEVELS` of the predicted path, and the path from there.

    At the weights ``w`` of step ``k`` (:class:`ttp_jax.dynamics.segment.Segment`) the true
    outputs ``f(w)`` are the new start, with the velocity that the path has there, and the
    kernel is that of the start times

        ``kappa = |J_w^T g|^2 / (g^T Theta g)``,    ``g = dL/df`` at ``f(w)``:

    the speed at which the true loss falls under gradient flow, over what ``Theta`` says.

    Args:
        task: What is predicted.
        sgd: How it is trained.
        start: Where the prediction begins.
        theta: Kernel there, of the samples that are trained on.
        f0: Outputs there.
        steps: ``T``.
        q0: ``J (w - origin)`` there, needed with weight decay.
        u0: ``J v`` there.
        seed: Of the stream of mini-batches.

    Returns:
        Where the path reaches them before its end, each once.

    Cost: for each :data:`PASSES` forward passes a sample and, with the path up to it, the
    dynamics again.
    """
    y = np.asarray(task.targets)
    run = partial(
        segment, targets=y, sgd=sgd, loss=task.loss, steps=steps, seed=seed, last=steps
    )
    decayed = calibration.decayed(task, sgd, start.params)
    linear = _losses(run(theta, f0, first=start.steps, u0=u0, q0=q0), steps)
    looks = []
    for k in _places(linear, start.steps):
        way = run(theta, f0, first=start.steps, u0=u0, q0=q0, last=k)
        along = [(way.shrink, decayed)]
        if start.velocity is not None:
            along.append((way.coast, start.velocity))
        w = outputs.moved_weights(
            task.apply_fn, start.params, task.x, way.alpha.reshape(f0.shape), along
        )
        f = outputs.forward(task.apply_fn, w, task.x).astype(np.float64)
        gap = trust.linearization_gap(f, way.outputs, f0)
        if not np.isfinite(f).all():
            looks.append(Look(k, gap, math.inf, math.inf, linear, None))
            continue
        g = np.asarray(losses.gradient(task.loss, jnp.asarray(f), jnp.asarray(y)), float)
        (downhill,) = outputs.vjps(task.apply_fn, w, task.x, [g])
        true = sum(
            float(np.square(np.asarray(leaf, np.float64)).sum())
            for leaf in jax.tree.leaves(downhill)
        )
        speed = true / max(float(g.ravel() @ theta @ g.ravel()), np.finfo(float).tiny)
        u = (theta @ way.beta.ravel()).reshape(f0.shape)
        q = None
        if sgd.weight_decay:
            decayed_f = np.zeros_like(f0) if q0 is None else q0
            q = decayed_f + way.outputs - f0
            u = u + way.pull * decayed_f
        if u0 is not None:
            u = u + way.speed * u0
        again = linear.copy()
        again[k:] = _losses(run(speed * theta, f, first=k, u0=u, q0=q), steps)[k:]
        loss = float(losses.mean(task.loss, jnp.asarray(f), jnp.asarray(y)))
        looks.append(Look(k, gap, loss / float(linear[k]), speed, linear, again))
    return tuple(looks)


def _losses(way: Segment, steps: int) -> Float[np.ndarray, " t"]:
    """At every step up to ``T``: before the segment as where it begins, behind it NaN."""
    loss = way.curves[0].loss
    found = np.full(steps + 1, np.nan)
    found[: way.first] = loss[0]
    found[way.first : way.last + 1] = loss
    return found


def _places(loss: Float[np.ndarray, " t"], first: int) -> list[int]:
    """Steps at which the loss has first fallen to :data:`LEVELS` of the start."""
    found = []
    for level in LEVELS:
        there = np.flatnonzero(loss[first:] <= level * loss[first]) + first
        if len(there) and first < there[0] < len(loss) - 1 and there[0] not in found:
            found.append(int(there[0]))
    return found


def features(
    looks: Sequence[Look],
    *,
    stability: float,
    reached: int | None,
    epsilon: float,
    rule: ThresholdRule,
) -> dict[str, float]:
    """What the chance of an error is read from.

    Args:
        looks: Of the prediction.
        stability: Of its first step (:class:`ttp_jax.types.Trust`).
        reached: Step that the prediction names for the threshold; ``None`` for never.
        epsilon: The threshold.
        rule: How it is read.

    Returns:
        Of the looks at or before the threshold the largest ``|log|`` of the ratio of both
        times (as a logarithm again: ``shift``) and of the speed; the logarithm of the
        stability. All are cut off where more says no more. The ratio of the losses, too, and
        whether the path has no place to look at were tried: they add nothing to these three.
    """
    seen = [look for look in looks if reached is None or look.step <= reached]
    shift = max((_shift(look, epsilon, rule) for look in seen), default=0.0)
    return {
        "shift": math.log(float(np.clip(shift, 0.02, 2.0))),
        "stability": float(np.clip(math.log(max(stability, 1e-9)), -4.0, 1.0)),
        "speed": max((_apart(look.speed) for look in seen), default=0.0),
    }


def judge(
    looks: Sequence[Look],
    curve: Curve,
    *,
    curvature: float,
    gap: float,
    sgd: SGD,
    peak_rate: float,
    doubt: float = 0.0,
) -> Trust:
    """What the looks, the stability and the predicted loss say, in one line.

    ``score`` is the smallest :func:`score_of_threshold` over :data:`STANDARD`, times
    ``1/(1 + (doubt/DOUBT_LIMIT)^2)`` for a curve that was extrapolated from few samples, and
    halved where the step is unstable or the predicted loss grows.

    Args:
        looks: From :func:`look_along`.
        curve: What was predicted.
        curvature: Largest curvature eigenvalue of the mean loss at the start.
        gap: From :func:`ttp_jax.trust.linearization_gap`, at the end.
        sgd: The optimiser.
        peak_rate: Largest learning rate of the run.
        doubt: As for :func:`ttp_jax.trust.warnings`.
    """
    stability = sgd.stability(curvature, peak_rate)
    bare = Trust(True, 1.0, "", stability, gap, looks=tuple(looks))
    judged = dataclasses.replace(curve, trust=bare)
    scores = [score_of_threshold(judged, epsilon, rule) for rule, epsilon in STANDARD]
    certain = min(score for score in scores if score is not None)
    warnings = trust.warnings(sgd, stability, curve.loss, doubt)
    if certain < TRUSTED:
        warnings.append(
            f"a time is off by more than {ERROR:.0%} with a chance of {1 - certain:.0%}: "
            f"{_words(looks)}"
        )
    fine = f"{trust.step_size(sgd, stability)}; {_words(looks)}"
    score = certain / (1.0 + (doubt / trust.DOUBT_LIMIT) ** 2)
    if stability > 1 or trust.grows(curve.loss):
        score *= 0.5
    return dataclasses.replace(
        bare,
        ok=not warnings,
        score=score,
        reason="; ".join(warnings) or fine,
        early_gap=max((look.gap for look in looks), default=0.0),
        doubt=doubt,
    )


def _words(looks: Sequence[Look]) -> str:
    if not looks:
        return "the predicted loss never halves, so that there was nothing to look at"
    look = max(looks, key=lambda look: _apart(look.loss_ratio) + _apart(look.speed))
    if look.again is None:
        return f"at the weights predicted for step {look.step} the model overflows"
    shift = max(math.expm1(_shift(look, epsilon, rule)) for rule, epsilon in STANDARD)
    return (
        f"at the weights predicted for step {look.step} the loss is {look.loss_ratio:.2g} "
        f"times the predicted one and falls {look.speed:.2g} times as fast; predicted again "
        f"from there, times change by up to {min(shift, 9.99):.0%}"
    )


def _apart(ratio: float) -> float:
    return min(abs(math.log(max(ratio, 1e-9))), 2.0) if math.isfinite(ratio) else 2.0


def _shift(look: Look, epsilon: float, rule: ThresholdRule) -> float:
    """``|log|`` of the ratio of both times; never counts as twice the run."""
    if look.again is None:
        return math.inf
    first, second = (_time(loss, epsilon, rule) for loss in (look.linear, look.again))
    return abs(math.log(first / second))


def _time(loss: Float[np.ndarray, " t"], epsilon: float, rule: ThresholdRule) -> int:
    steps = np.arange(len(loss))
    none = np.zeros(len(loss))
    found = time_to_threshold(Curve(steps, loss, none, none), epsilon, rule).steps
    return 2 * int(steps[-1]) if found is None else max(found, 1)


def chance(found: dict[str, float]) -> float:
    """Of an error above :data:`ERROR`: ``1/(1 + exp(-(b + sum_i w_i x_i)))``."""
    odds = INTERCEPT + sum(WEIGHTS[name] * value for name, value in found.items())
    return 1.0 / (1.0 + math.exp(-odds))


def score_of_threshold(curve: Curve, epsilon: float, rule: ThresholdRule) -> float | None:
    """Chance that a predicted time is within 20 % of the real one.

    Learned from times that were named: of one that is never reached before the end it says
    little, and a prediction that is unstable or grows has its own warning.

    Args:
        curve: A prediction for SGD, once linearised; its looks are not kept in records.
        epsilon: The threshold.
        rule: How it is read off both curves.

    Returns:
        In [0, 1]; ``None`` for a curve without looks.
    """
    if curve.trust is None or curve.trust.looks is None:
        return None
    return 1.0 - chance(
        features(
            curve.trust.looks,
            stability=curve.trust.stability,
            reached=time_to_threshold(curve, epsilon, rule).steps,
            epsilon=epsilon,
            rule=rule,
        )
    )
