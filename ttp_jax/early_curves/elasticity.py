"""How much a little more compute still buys: elasticity along a curve, and when to stop.

Zhao et al. (DOI 10.1109/IPDPSW55747.2022.00123) borrow the elasticity of demand from economics
to stop training early. Here it is the percentage by which a loss or an error changes when the
compute, proportional to the steps, grows by one per cent: ``E(k) = dlog L/dlog k``, that is
``k L'(k)/L(k)``. Falling curves have a negative one; at ``E = -1`` one per cent more steps
takes one per cent off.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from ttp_jax.types import Curve, InputError

Quantity = Literal["loss", "error"]
"""The loss, or ``1 - accuracy``."""


def elasticity(
    curve: Curve, *, window: int = 2, quantity: Quantity = "loss"
) -> Float[np.ndarray, " t"]:
    """``E(k) = dlog L/dlog k`` at every reading, from it and those before.

    The slope of ``log L`` over ``log k`` by least squares over the last ``window`` readings:
    of a power law its exponent exactly, of another curve that of somewhere between the first
    and the last of them. The same on a prediction as on a real run.

    Args:
        curve: Predicted or measured.
        window: Readings to a slope; two is a secant, more smooth the noise.
        quantity: What is to change.

    Returns:
        Percentages per per cent; NaN where the window holds step 0, starts before the curve
        or has a loss or error that is zero, negative or not finite.

    Raises:
        InputError: A window or quantity out of range.

    Breaks when: the steps are not all the compute; and near the start, where ``k`` itself
    makes it small however fast the loss falls.
    """
    k, value = np.asarray(curve.steps, float), _value(curve, quantity)
    usable = (k > 0) & (value > 0) & np.isfinite(value)
    log_k = np.log(k, out=np.full(len(k), np.nan), where=usable)
    log_value = np.log(value, out=np.full(len(k), np.nan), where=usable)
    return _slopes(log_k, log_value, window)


def marginal_gain(
    curve: Curve,
    *,
    window: int = 2,
    quantity: Quantity = "loss",
    watts: int | float | None = None,
) -> Float[np.ndarray, " t"]:
    """``-dL/ds``: what one more second, or kilojoule, of training takes off, at every reading.

    Least squares over the last ``window`` readings, as :func:`elasticity`.

    Args:
        curve: Predicted or measured, with ``seconds``.
        window: Readings to a slope.
        quantity: What is to fall.
        watts: Power that training draws, by :func:`ttp_jax.power.watts` or a meter; the gain
            is then that of a kilojoule.

    Returns:
        Loss or error per second or kilojoule, negative where it rises; NaN where the window
        starts before the curve, takes no time or has values that are not finite.

    Raises:
        InputError: A window, quantity or power out of range.
    """
    if watts is not None and not (np.isfinite(watts) and watts > 0):
        raise InputError(
            f"watts must be a positive number, got {watts}; leave it out for the gain of a "
            "second"
        )
    value = _value(curve, quantity)
    value = np.where(np.isfinite(value), value, np.nan)
    spent = np.asarray(curve.seconds, float) * (1.0 if watts is None else watts / 1000)
    return -_slopes(spent, value, window)


@dataclass(frozen=True, kw_only=True)
class ElasticityRule:
    """Stop once one per cent more steps takes less than ``level`` per cent off.

    A rule for ``ttp.finetune(..., stop=rule)``: called with the curve so far it says whether
    to stop at its last reading. Every curve starts inelastic, as ``k L'/L`` is small while
    ``k`` is; so the rule waits until the curve has once been elastic, or for ``after_steps``.
    A power law whose exponent is below the level was never elastic and is not stopped.

    Raises:
        InputError: Options out of range.
    """

    level: float
    """Per cent per per cent; 1 is the unit elasticity of economics."""
    quantity: Quantity = "loss"
    window: int = 5
    """Readings to a slope."""
    patience: int = 1
    """Readings in a row that must be inelastic."""
    after_steps: int | None = None
    """From this step on the curve need not have been elastic before."""

    def __post_init__(self) -> None:
        if not (self.level > 0 and np.isfinite(self.level)):
            raise InputError(f"level must be above 0, got {self.level}")
        if self.patience < 1:
            raise InputError(f"patience must be at least 1 reading, got {self.patience}")
        _require_window(self.window)
        _require_quantity(self.quantity)

    def __call__(self, curve: Curve) -> bool:
        """Whether to stop at the last reading of the curve, or before."""
        return stopping_step(curve, self) is not None


def stopping_step(curve: Curve, rule: ElasticityRule) -> int | None:
    """First step that was read at which the rule stops; ``None`` where it never does.

    It looks at no reading after the one at which it stops: on a measured curve it is where
    the run would have stopped, on a predicted one where it will. A loss or error of zero has
    nothing left to gain and stops at once; a rise counts as inelastic.
    """
    steps = np.asarray(curve.steps)
    found = elasticity(curve, window=rule.window, quantity=rule.quantity)
    gain = -found
    # A comparison with NaN is false: what is not known neither starts nor stops.
    awake = np.maximum.accumulate(gain >= rule.level)
    if rule.after_steps is not None:
        awake |= steps >= rule.after_steps
    inelastic = awake & (gain < rule.level)
    in_a_row = np.convolve(inelastic, np.ones(rule.patience))[: len(steps)]
    stops = (in_a_row >= rule.patience) | (_value(curve, rule.quantity) <= 0)
    return int(steps[np.argmax(stops)]) if stops.any() else None


def _value(curve: Curve, quantity: Quantity) -> Float[np.ndarray, " t"]:
    _require_quantity(quantity)
    if quantity == "loss":
        return np.asarray(curve.loss, float)
    return 1 - np.asarray(curve.accuracy, float)


def _slopes(
    x: Float[np.ndarray, " t"], y: Float[np.ndarray, " t"], window: int
) -> Float[np.ndarray, " t"]:
    """Of ``y`` over ``x`` by least squares, over the last ``window`` values at each one."""
    _require_window(window)
    slopes = np.full(len(x), np.nan)
    if len(x) < window:
        return slopes
    xs, ys = (np.lib.stride_tricks.sliding_window_view(v, window) for v in (x, y))
    xs = xs - xs.mean(axis=1, keepdims=True)
    squares = (xs**2).sum(axis=1)
    known = squares > 0
    slopes[window - 1 :][known] = (xs * ys).sum(axis=1)[known] / squares[known]
    return slopes


def _require_window(window: int) -> None:
    if window < 2:
        raise InputError(f"window must be at least 2 readings, got {window}")


def _require_quantity(quantity: str) -> None:
    if quantity not in get_args(Quantity):
        raise InputError(
            f"quantity must be one of {', '.join(get_args(Quantity))}, got {quantity!r}"
        )
