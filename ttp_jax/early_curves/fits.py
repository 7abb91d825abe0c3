"""Falling curves fitted to the first readings of a run, and when they reach a loss.

Each law is ``L(k) = a + c phi_r(k)``: an asymptote ``a >= 0``, the excess ``c >= 0`` over it at
the first reading, and a shape that falls from 1 there to 0 at a rate ``r > 0``. Given ``r`` the
best ``a`` and ``c`` are a linear problem with an exact answer, so that all that is searched
for is one rate (variable projection, Golub and Pereyra 1973).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq, least_squares
from scipy.special import stdtrit

from ttp_jax.types import Curve, InputError

Shape = Callable[..., np.ndarray]
"""``(k, first step, rate)``; an array in, an array out."""
HORIZON = 1e9
"""A loss that would be reached later than so many times the last step is never reached."""


@dataclass(frozen=True)
class Law:
    """A shape that falls from 1 at the first reading to 0."""

    name: str
    phi: Shape
    derivative: Shape
    """``d phi/d k``."""
    inverse: Callable[[float, float, float], float]
    """``(phi, first step, rate) -> k``."""
    slowest: float
    fastest: float
    """Rates that are searched: powers as they are, others in units of one over the last
    step."""
    per_step: bool = True
    """Whether the rate is one per step, rather than a power."""


HYPERBOLA = Law(
    "hyperbola",
    phi=lambda k, first, r: (1 + r * first) / (1 + r * k),
    derivative=lambda k, first, r: -r * (1 + r * first) / (1 + r * k) ** 2,
    inverse=lambda phi, first, r: ((1 + r * first) / phi - 1) / r,
    slowest=1e-4,
    fastest=1e6,
)
"""``L = a + c (1 + r k_0)/(1 + r k)``, that is ``1/(b_1 + b_2 k) + b_3`` with all ``b >= 0``:
the curve of LCGA (DOI 10.1109/IPDPSW55747.2022.00123)."""
POWER_LAW = Law(
    "power law",
    phi=lambda k, first, r: ((1 + first) / (1.0 + k)) ** r,
    derivative=lambda k, first, r: -r * ((1 + first) / (1.0 + k)) ** r / (1 + k),
    inverse=lambda phi, first, r: (1 + first) * phi ** (-1 / r) - 1,
    slowest=1e-4,
    fastest=10.0,
    per_step=False,
)
"""``L = a + c ((1 + k)/(1 + k_0))^(-r)``."""
EXPONENTIAL = Law(
    "exponential",
    phi=lambda k, first, r: np.exp(-r * (k - first)),
    derivative=lambda k, first, r: -r * np.exp(-r * (k - first)),
    inverse=lambda phi, first, r: first - np.log(phi) / r,
    slowest=1e-4,
    fastest=1e6,
)
"""``L = a + c exp(-r (k - k_0))``."""
LAWS = (HYPERBOLA, POWER_LAW, EXPONENTIAL)


@dataclass(frozen=True)
class Crossing:
    """When a fitted curve falls to a loss, in steps, or that it never does.

    The interval is that of the fitted curve, not of single noisy readings. ``latest_steps``
    is ``None`` where it may be never; both ends are ``None`` where it is never even so.
    """

    steps: float | None
    """``None`` where the asymptote is no smaller than the loss asked for, or it is reached
    only beyond :data:`HORIZON`."""
    earliest_steps: float | None
    latest_steps: float | None
    level: float
    """Of the interval."""

    @property
    def never(self) -> bool:
        """Whether the fitted curve stays above."""
        return self.steps is None


@dataclass(frozen=True)
class Fit:
    """A law and its parameters: ``L(k) = asymptote + amplitude phi_rate(k)``."""

    law: Law
    asymptote: float
    amplitude: float
    """Excess over the asymptote at the first reading."""
    rate: float
    """Per step; of a power law, the power."""
    readings: Curve
    """What was fitted."""

    def at(self, steps: Int[np.ndarray, " t"] | Float[np.ndarray, " t"]):
        """Loss at any steps ``[t]``."""
        return self.asymptote + self.amplitude * self.law.phi(steps, self._first, self.rate)

    def slope(self, steps: Int[np.ndarray, " t"] | Float[np.ndarray, " t"]):
        """``dL/dk`` at any steps ``[t]``: loss per step."""
        return self.amplitude * self.law.derivative(steps, self._first, self.rate)

    def elasticity(self, steps: Int[np.ndarray, " t"] | Float[np.ndarray, " t"]):
        """``E(k) = k L'(k)/L(k)`` at any steps ``[t]``: see :mod:`.elasticity`."""
        return steps * self.slope(steps) / self.at(steps)

    def curve(self, steps: Int[np.ndarray, " t"]) -> Curve:
        """The fitted curve at any steps, to be read by the rules for all curves.

        Seconds go on as over the readings; the accuracy is not known.
        """
        steps = np.asarray(steps)
        read, seconds = self.readings.steps, self.readings.seconds
        per_step = (seconds[-1] - seconds[0]) / (read[-1] - read[0])
        return Curve(
            steps=steps,
            loss=self.at(steps),
            accuracy=np.full(len(steps), np.nan),
            seconds=seconds[0] + per_step * (steps - read[0]),
        )

    def crossing(self, loss: float, *, level: float = 0.95) -> Crossing:
        """When the curve has fallen to a loss, by inversion.

        ``k* = phi_r^{-1}((loss - a)/c)``; of the hyperbola ``(1/(loss - b_3) - b_1)/b_2``.
        The interval holds every ``k`` for which some curve of the law with ``L(k) = loss``
        has ``RSS <= RSS_min (1 + t^2/(n - 3))``, ``t`` the two-sided quantile of Student's
        distribution with ``n - 3`` degrees of freedom (profile likelihood; Bates and Watts
        1988, ch. 6). Unlike a linear propagation of errors it knows the bounds and "never".
        Of 1,000 noisy curves of each law (60 readings, noise 0.04 on falls of 1.5 to 2) 88 to
        91 % of the 90 % intervals held the step, 1.5 and 4 times as far as the readings.

        Args:
            loss: To be reached.
            level: Of the interval.

        Returns:
            Steps as numbers that need not be whole, those of the interval to 0.1 %. With
            three readings nothing is excluded.

        Raises:
            InputError: A loss or level that cannot be meant.

        Cost: some ``10^4 n`` operations and 200 n numbers of memory, ``n`` readings.

        Breaks when: the noise is not independent from reading to reading with one variance
        (a smoothed curve), or the law does not go on to hold; then the interval is too short.
        """
        if not (loss > 0 and np.isfinite(loss)):
            raise InputError(f"the loss to be reached must be above 0, got {loss}")
        if not 0 < level < 1:
            raise InputError(f"level must lie between 0 and 1, got {level}")
        found = self._reached(loss)
        earliest, latest = self._interval(loss, found, level)
        return Crossing(found, earliest, latest, level)

    @property
    def _first(self) -> float:
        return float(self.readings.steps[0])

    @property
    def _end(self) -> float:
        return HORIZON * max(float(self.readings.steps[-1]), 1.0)

    def _reached(self, loss: float) -> float | None:
        if loss >= self.asymptote + self.amplitude:
            return self._first
        if loss <= self.asymptote:
            return None
        with np.errstate(over="ignore"):
            share = np.float64((loss - self.asymptote) / self.amplitude)
            steps = float(self.law.inverse(share, self._first, self.rate))
        return steps if steps <= self._end else None

    def _interval(
        self, loss: float, found: float | None, level: float
    ) -> tuple[float | None, float | None]:
        y = np.asarray(self.readings.loss, float)
        free = len(y) - 3
        if free < 1:
            return self._first, None
        smallest = float(((self.at(self.readings.steps) - y) ** 2).sum())
        # Below the rounding of the readings there is no noise to learn of.
        rounding = len(y) * (8 * np.finfo(float).eps * np.abs(y).max()) ** 2
        t = float(stdtrit(free, (1 + level) / 2))
        limit = max(smallest, rounding) * (1 + t**2 / free)
        excess = partial(self._excess_through, loss, self._possible_rates(limit), limit)
        start, end = 0.0, float(np.log1p(self._end - self._first))
        centre = end if found is None else float(np.log1p(found - self._first))
        if excess(centre) > 0:
            # Certain: no curve that is possible comes down to it, or none starts above it.
            return (None, None) if found is None else (found, found)
        earliest = start if excess(start) <= 0 else _root(excess, start, centre, 1e-3)
        latest = None
        if excess(end) > 0:
            latest = float(self._first + np.expm1(_root(excess, centre, end, 1e-3)))
        earliest = float(self._first + np.expm1(earliest))
        if found is None:
            return earliest, latest
        # Not beyond it by the rounding of the logarithm.
        return min(earliest, found), None if latest is None else max(latest, found)

    def _possible_rates(self, limit: float) -> Float[np.ndarray, " r"]:
        """Rates whose best curve stays within the limit, ends included."""
        bounds = _log_rates(self.law, float(self.readings.steps[-1]))
        centre = float(np.log(self.rate))
        excess = partial(self._excess_at, limit)
        ends = [b if excess(b) <= 0 else _root(excess, b, centre, 1e-12) for b in bounds]
        return np.exp(np.linspace(ends[0], ends[1], RATES))

    def _excess_at(self, limit: float, log_rate: float) -> float:
        """Of the best curve with this rate, over the limit."""
        residual = _best(self.law, self.readings, np.exp([log_rate])).residual
        return float((residual**2).sum()) - limit

    def _excess_through(
        self, loss: float, rates: Float[np.ndarray, " r"], limit: float, u: float
    ) -> float:
        """Of the best curve with ``L(k_0 + exp(u) - 1) = loss``, over the limit."""
        steps = self._first + float(np.expm1(u))
        squares = self._squares_through(loss, steps, rates)
        best = int(np.argmin(squares))
        near = rates[max(best - 1, 0)], rates[min(best + 1, len(rates) - 1)]
        finer = self._squares_through(loss, steps, np.geomspace(*near, FINER))
        return float(min(squares[best], finer.min())) - limit

    def _squares_through(
        self, loss: float, steps: float, rates: Float[np.ndarray, " r"]
    ) -> Float[np.ndarray, " r"]:
        """Smallest sums of squares of curves with ``L(steps) = loss``, by rate.

        ``L = loss + c (phi(k) - phi(steps))`` has ``c`` alone left to choose, in ``0 <= c
        <= loss/phi(steps)`` such that the asymptote is not negative.
        """
        k, y = np.asarray(self.readings.steps, float), np.asarray(self.readings.loss, float)
        there = self.law.phi(steps, self._first, rates[:, None])
        fall = self.law.phi(k, self._first, rates[:, None]) - there
        c = fall @ (y - loss) / np.maximum((fall**2).sum(axis=1), _TINY)
        c = np.clip(c, 0, loss / np.maximum(there[:, 0], _TINY))
        return ((y - loss - c[:, None] * fall) ** 2).sum(axis=1)


RATES = 61
"""Rates tried at once, equally far apart in their logarithm."""
FINER = 15
"""Tried between the neighbours of the best of them."""
_TINY = 1e-200
"""Keeps a division by a shape that has underflowed finite."""


def fit(curve: Curve, law: Law) -> Fit:
    """Least squares of a law over the readings of a curve.

    ``min_{a >= 0, c >= 0, r} sum_k (a + c phi_r(k) - L_k)^2``: from the best of
    :data:`RATES` rates by ``scipy.optimize.least_squares`` in ``log r``, with ``a`` and ``c``
    exact for every ``r``. Scaling the loss scales ``a`` and ``c`` and nothing else.

    Args:
        curve: As much of a run as may be seen (:func:`~.prefix.prefix`).
        law: :data:`HYPERBOLA`, :data:`POWER_LAW` or :data:`EXPONENTIAL`.

    Raises:
        InputError: Fewer than three readings, as many as there are parameters, or some that
            are not finite.

    Breaks when: the curve rises or stays: amplitude 0, or the smallest rate; what is asked of
    it is then never reached.
    """
    k, y = np.asarray(curve.steps, float), np.asarray(curve.loss, float)
    if len(k) < 3:
        raise InputError(
            f"a {law.name} needs at least 3 readings, got {len(k)}; read more of the curve"
        )
    if not np.isfinite(y).all():
        raise InputError(
            f"a {law.name} needs finite losses, got {y[~np.isfinite(y)][0]} at step "
            f"{int(k[~np.isfinite(y)][0])}; end the prefix before the run diverges"
        )
    scale = float(np.abs(y).max()) or 1.0
    readings = replace(curve, loss=y / scale)
    bounds = _log_rates(law, k[-1])
    tried = np.linspace(*bounds, RATES)
    squares = (_best(law, readings, np.exp(tried)).residual ** 2).sum(axis=1)
    polished = least_squares(
        lambda log_rate: _best(law, readings, np.exp(log_rate)).residual[0],
        tried[[np.argmin(squares)]],
        bounds=bounds,
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    found = _best(law, readings, np.exp(polished.x))
    a, c = float(found.asymptote[0]), float(found.amplitude[0])
    return Fit(law, a * scale, c * scale, float(np.exp(polished.x[0])), curve)


class _Linear(NamedTuple):
    asymptote: Float[np.ndarray, " r"]
    amplitude: Float[np.ndarray, " r"]
    residual: Float[np.ndarray, "r n"]


def _best(law: Law, readings: Curve, rates: Float[np.ndarray, " r"]) -> _Linear:
    """Best ``a, c >= 0`` for each rate, and what they leave."""
    k, y = np.asarray(readings.steps, float), np.asarray(readings.loss, float)
    phi = law.phi(k, k[0], rates[:, None])
    mean = phi.mean(axis=1)
    centred = phi - mean[:, None]
    c = centred @ (y - y.mean()) / np.maximum((centred**2).sum(axis=1), _TINY)
    a = y.mean() - c * mean
    # Where a bound is met the other one is alone left to choose.
    flat, to_zero = max(y.mean(), 0.0), phi @ y / (phi**2).sum(axis=1)
    a, c = (
        np.where(c < 0, flat, np.maximum(a, 0.0)),
        np.where(c < 0, 0.0, np.where(a < 0, np.maximum(to_zero, 0.0), c)),
    )
    return _Linear(a, c, a[:, None] + c[:, None] * phi - y)


def _root(
    function: Callable[[float], float], start: float, end: float, within: float
) -> float:
    return cast(float, brentq(function, start, end, xtol=within))


def _log_rates(law: Law, last_step: float) -> tuple[float, float]:
    unit = max(last_step, 1.0) if law.per_step else 1.0
    return float(np.log(law.slowest / unit)), float(np.log(law.fastest / unit))
