"""How far off a predicted time may be: laws learned from tasks really trained.

What was seen along a predicted path (:class:`ttp_jax.types.Look`) is made into a few numbers
for each threshold, and a logistic law makes of them the chance of an error above
:data:`ERROR`. A prediction of one linearisation and one that was mended have a law each. Such a
chance says how wide the errors are, and so between which steps the real time lies.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ttp_jax import trust
from ttp_jax.optimizers import SGD
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve, InputError, Look, ThresholdRule, Trust

ERROR = 0.2
"""Relative error of a time that the chance is of."""
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
LEVEL = 0.95
"""Probability of the interval that a run prints; names in records and pictures have it too."""


@dataclass(frozen=True)
class Law:
    """``1/(1 + exp(-(b + sum_i w_i x_i)))``."""

    intercept: float
    weights: Mapping[str, float]

    def chance(self, found: Mapping[str, float]) -> float:
        """Of an error above :data:`ERROR`."""
        odds = self.intercept + sum(w * found[name] for name, w in self.weights.items())
        return 1.0 / (1.0 + math.exp(-odds))


ONCE = Law(1.425, {"shift": 0.781, "stability": 0.763, "speed": 3.085})
"""Of :func:`seen_once`; fitted by ``experiments.trust`` to all its tasks. Its table says how
well a law fitted without a data set, or without a network, puts the errors there in order."""
MENDED = Law(-0.192, {"shift": 1.467})
"""Of :func:`seen_mending`; fitted by ``experiments.mending`` in the same way, to predictions
with as many mends as there are by default."""

COARSE = Law(-0.665, {"shift": 1.16})
"""Of :func:`seen_beside`, a coarse run beside one by fewer gradients; fitted by
``experiments.coarse`` to all its tasks, with a table as those."""
CHECKED = Law(5.653, {"shift": 3.342})
"""The same of a prediction beside a coarse run; fitted by ``experiments.coarse`` to mended
predictions of all its tasks. Its table says how well a law fitted without a data set does."""


def seen_once(
    looks: Sequence[Look],
    *,
    stability: float,
    reached: int | None,
    epsilon: float,
    rule: ThresholdRule,
) -> dict[str, float]:
    """What the chance of an error is read from, of one linearisation.

    Args:
        looks: From :func:`ttp_jax.linearisation.second_look.look_along`.
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
        "shift": _log(shift, 0.02, 2.0),
        "stability": _log(stability, math.exp(-4), math.e),
        "speed": max((_apart(look.speed) for look in seen), default=0.0),
    }


def seen_mending(
    times: Sequence[float], steps: Sequence[int], *, reached: int | None
) -> dict[str, float]:
    """The same of a mended prediction.

    Args:
        times: Steps to the threshold that one linearisation names, and then the curve after
            each mend; twice the run for never.
        steps: Where it was mended, one fewer.
        reached: The last of the times, ``None`` for never.

    Returns:
        The most that one mend at or before the threshold, or else the first, has changed its
        time: ``|log|`` of a ratio, as a logarithm again (``shift``). Gaps, speeds, stability
        and how far the threshold lies behind the last mend were tried beside it: on data sets
        and networks that were left out they do harm.
    """
    count = sum(reached is None or step <= reached for step in steps)
    changes = [abs(math.log(b / a)) for a, b in itertools.pairwise(times)]
    return {"shift": _log(max(changes[: max(count, 1)], default=0.0), 0.02, 2.0)}


def seen_beside(apart: float) -> dict[str, float]:
    """The same of two times, ``|log|`` of their ratio so far apart (``shift``)."""
    return {"shift": _log(apart, 0.02, 2.0)}


def score_of_threshold(curve: Curve, epsilon: float, rule: ThresholdRule) -> float | None:
    """Chance that a predicted time is within 20 % of the real one.

    Learned from times that were named: of one that is never reached before the end it says
    little, and a prediction that is unstable or grows has its own warning.

    Args:
        curve: A prediction for SGD; its looks are not kept in records.
        epsilon: The threshold.
        rule: How it is read off both curves.

    Returns:
        In [0, 1]; ``None`` for a curve without looks.
    """
    if curve.trust is None or curve.trust.looks is None:
        return None
    looks, stability = curve.trust.looks, curve.trust.stability
    reached = time_to_threshold(curve, epsilon, rule).steps
    if curve.trust.law in ("coarse", "checked"):
        law = COARSE if curve.trust.law == "coarse" else CHECKED
        return 1.0 - law.chance(seen_beside(_shift(looks[-1], epsilon, rule)))
    if curve.trust.law == "once":
        found = seen_once(
            looks, stability=stability, reached=reached, epsilon=epsilon, rule=rule
        )
        return 1.0 - ONCE.chance(found)
    after = [look.linear for look in looks] + [look.again for look in looks[-1:]]
    times = [_time(loss, epsilon, rule) for loss in after]
    steps = [look.step for look in looks]
    return 1.0 - MENDED.chance(seen_mending(times, steps, reached=reached))


def interval(steps: int, score: float, level: float = LEVEL) -> tuple[float, float]:
    """Between which steps the real time lies with a probability of ``level``.

    The logarithm of the real over the predicted time is taken to have a logistic distribution
    around zero, ``P(|log| > a) = 2/(1 + exp(a/s))``, whose scale is that for which
    ``P(|log| > log 1.2)`` is the chance of an error, ``1 - score``:

    ``|log| <= log(1.2) log((1 + level)/(1 - level)) / log(2/(1 - score) - 1)``.

    Args:
        steps: The predicted time.
        score: Its :func:`score_of_threshold`.
        level: At least 0 and below 1.

    Returns:
        The lowest and the highest; 0 and infinity where the score is zero.

    Raises:
        InputError: A level out of range.

    Breaks when: the score does. How many real times do lie there is in the tables of
    ``experiments.mending``, ``experiments.trust`` and ``experiments.coarse``, by laws fitted
    without the data set or the network that they are of.
    """
    if not 0 <= level < 1:
        raise InputError(f"level must be a probability in [0, 1), got {level}")
    chance = max(1.0 - score, np.finfo(float).eps)
    odds = math.log(2.0 / chance - 1.0)
    if odds <= 0:
        return 0.0, math.inf
    factor = math.exp(
        min(math.log1p(ERROR) * math.log((1 + level) / (1 - level)) / odds, 700.0)
    )
    return steps / factor, steps * factor


def interval_of_threshold(
    curve: Curve, epsilon: float, rule: ThresholdRule, level: float = LEVEL
) -> tuple[float, float] | None:
    """:func:`interval` of the time to a threshold.

    Args:
        curve: A prediction for SGD.
        epsilon: The threshold.
        rule: How it is read.
        level: At least 0 and below 1.

    Returns:
        ``None`` where the curve names no time, or has no score of it.

    Raises:
        InputError: An epsilon, rule or level out of range.
    """
    named = time_to_threshold(curve, epsilon, rule).steps
    score = score_of_threshold(curve, epsilon, rule)
    return None if named is None or score is None else interval(named, score, level)


def judge(
    looks: Sequence[Look],
    curve: Curve,
    *,
    curvature: float,
    gap: float,
    sgd: SGD,
    peak_rate: float,
    doubt: float = 0.0,
    mended: bool = False,
) -> Trust:
    """What the looks, the stability and the predicted loss say, in one line.

    ``score`` is the smallest :func:`score_of_threshold` over :data:`STANDARD`, times
    ``1/(1 + (doubt/DOUBT_LIMIT)^2)`` for a curve that was extrapolated from few samples, and
    halved where the step is unstable or the predicted loss grows.

    Args:
        looks: Along the path.
        curve: What was predicted.
        curvature: Largest curvature eigenvalue of the mean loss at the start.
        gap: From :func:`ttp_jax.trust.linearization_gap`, at the end or, of a mended
            prediction, the largest.
        sgd: The optimiser.
        peak_rate: Largest learning rate of the run.
        doubt: As for :func:`ttp_jax.trust.warnings`.
        mended: Whether the prediction goes on from each look.
    """
    stability = sgd.stability(curvature, peak_rate)
    law = "mended" if mended else "once"
    bare = Trust(True, 1.0, "", stability, gap, looks=tuple(looks), law=law)
    judged = dataclasses.replace(curve, trust=bare)
    scores = [score_of_threshold(judged, epsilon, rule) for rule, epsilon in STANDARD]
    certain = min(score for score in scores if score is not None)
    warnings = trust.warnings(sgd, stability, curve.loss, doubt)
    said = _words_of_mends(looks) if mended else _words(looks)
    if certain < TRUSTED:
        warnings.append(
            f"a time is off by more than {ERROR:.0%} with a chance of {1 - certain:.0%}: "
            f"{said}"
        )
    fine = f"{trust.step_size(sgd, stability)}; {said}"
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


def judge_coarse(loss: Float[np.ndarray, " t"], coarser: Float[np.ndarray, " t"]) -> Trust:
    """What a coarse run (:mod:`ttp_jax.linearisation.coarse_path`) and those beside it say.

    ``score`` is the smallest :func:`score_of_threshold` over :data:`STANDARD`, halved where the
    loss grows. It has no kernel, and so no stability and no gap: they are 0.

    Args:
        loss: Predicted, at evenly spaced steps.
        coarser: The same by fewer gradients, :attr:`Coarse.coarser` there.
    """
    bare = Trust(True, 1.0, "", 0.0, 0.0, law="coarse")
    score, look = _beside(bare, loss, coarser)
    warnings = []
    if trust.grows(loss):
        warnings.append("the loss grows: the steps are too long here; raise coarse")
        score *= 0.5
    said = f"fewer gradients name times that are up to {_most(look)} other"
    if score < TRUSTED:
        warnings.append(f"{said}; raise coarse")
    return dataclasses.replace(
        bare,
        ok=not warnings,
        score=score,
        reason="; ".join(warnings) or said,
        looks=(look,),
    )


def judge_checked(
    before: Trust, loss: Float[np.ndarray, " t"], coarse: Float[np.ndarray, " t"]
) -> Trust:
    """A prediction beside a coarse run of the same task.

    ``score`` is the smallest :func:`score_of_threshold` over :data:`STANDARD`; what was found
    without the coarse run stays in the words, and warns where it warned before of the step or
    of the loss.

    Args:
        before: What was said without it.
        loss: Predicted, at evenly spaced steps.
        coarse: The same by the coarse run.
    """
    score, look = _beside(dataclasses.replace(before, law="checked"), loss, coarse)
    wild = before.stability > 1 or trust.grows(loss)
    if wild:
        score *= 0.5
    said = f"a coarse run names times that are up to {_most(look)} other"
    return dataclasses.replace(
        before,
        ok=score >= TRUSTED and not wild,
        score=score,
        reason=f"{said}; {before.reason}",
        looks=(*(before.looks or ()), look),
        law="checked",
    )


def _beside(
    bare: Trust, loss: Float[np.ndarray, " t"], other: Float[np.ndarray, " t"]
) -> tuple[float, Look]:
    """The smallest score of a curve beside another one, and both of them."""
    with np.errstate(invalid="ignore"):
        ratio = float(other[-1] / max(loss[-1], np.finfo(float).tiny))
    again = loss if np.isfinite(loss).all() else None
    look = Look(len(loss) - 1, 0.0, ratio, 1.0, other, again)
    none = np.zeros(len(loss))
    judged = Curve(
        np.arange(len(loss)),
        loss,
        none,
        none,
        trust=dataclasses.replace(bare, looks=(look,)),
    )
    scores = [score_of_threshold(judged, epsilon, rule) for rule, epsilon in STANDARD]
    return min(score for score in scores if score is not None), look


def _most(look: Look) -> str:
    """The largest change of a time, in words."""
    shift = max(math.expm1(_shift(look, epsilon, rule)) for rule, epsilon in STANDARD)
    return f"{min(shift, 9.99):.0%}"


def _words(looks: Sequence[Look]) -> str:
    if not looks:
        return "the predicted loss never halves, so that there was nothing to look at"
    look = max(looks, key=lambda look: _apart(look.loss_ratio) + _apart(look.speed))
    if look.again is None:
        return f"at the weights predicted for step {look.step} the model overflows"
    return (
        f"at the weights predicted for step {look.step} the loss is {look.loss_ratio:.2g} "
        f"times the predicted one and falls {look.speed:.2g} times as fast; predicted again "
        f"from there, times change by up to {_most(look)}"
    )


def _words_of_mends(looks: Sequence[Look]) -> str:
    if not looks:
        return "the run ends before the loss has halved, so that nothing was mended"
    last = looks[-1]
    if last.again is None:
        return f"at the weights predicted for step {last.step} the model overflows"
    steps = ", ".join(str(look.step) for look in looks)
    speed = ", ".join(f"{look.speed:.2g}" for look in looks)
    return (
        f"mended at step {steps}, where learning goes on {speed} times as fast as the kernel "
        f"before said; the last changes times by up to {_most(last)}"
    )


def _log(value: float, low: float, high: float) -> float:
    return math.log(float(np.clip(value, low, high)))


def _apart(ratio: float) -> float:
    return min(abs(math.log(max(ratio, 1e-9))), 2.0) if math.isfinite(ratio) else 2.0


def _shift(look: Look, epsilon: float, rule: ThresholdRule) -> float:
    """``|log|`` of the ratio of both times; never counts as twice the run."""
    if look.again is None:
        return math.inf
    first, second = (_time(loss, epsilon, rule) for loss in (look.linear, look.again))
    return abs(math.log(first / second))


def _time(
    loss: Float[np.ndarray, " t"] | None, epsilon: float, rule: ThresholdRule
) -> float:
    if loss is None:
        return math.inf
    steps = np.arange(len(loss))
    none = np.zeros(len(loss))
    found = time_to_threshold(Curve(steps, loss, none, none), epsilon, rule).steps
    return 2.0 * int(steps[-1]) if found is None else float(max(found, 1))
