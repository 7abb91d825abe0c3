"""The spectrum of many samples from the kernel of few, by power laws."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ttp_jax.types import InputError


@dataclass(frozen=True)
class PowerLaw:
    """``value_k = exp(intercept) k^(-exponent)`` fitted to ``log value`` over ``log k``."""

    intercept: float
    exponent: float
    covariance: Float[np.ndarray, "2 2"]
    """Of ``(intercept, -exponent)``, from the scatter of the residuals."""
    first: int
    """Modes ``first..last`` were fitted, counted from 1."""
    last: int

    def at(self, k: Int[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
        """The law at modes ``k``, counted from 1."""
        return np.exp(self.intercept - self.exponent * np.log(k))

    def drawn(self, rng: np.random.Generator) -> "PowerLaw":
        """Another law that the fit leaves possible."""
        line = (self.intercept, -self.exponent)
        intercept, slope = rng.multivariate_normal(line, self.covariance)
        return PowerLaw(
            float(intercept), float(-slope), self.covariance, self.first, self.last
        )


def fit_power_law(values: Float[np.ndarray, " r"], *, first: int, last: int) -> PowerLaw:
    """Least squares in ``log value`` over ``log k`` for the modes ``first..last``.

    Neighbours of one spectrum are related: the covariance assumes that they are not, and is
    too small for that.

    Raises:
        InputError: Fewer than three modes, or values that are not positive.
    """
    values = np.asarray(values, np.float64)
    if not 1 <= first <= last - 2 or last > len(values):
        raise InputError(
            f"a power law needs at least 3 modes within 1..{len(values)}, got {first}..{last}"
        )
    chosen = values[first - 1 : last]
    if not (np.isfinite(chosen).all() and chosen.min() > 0):
        raise InputError(
            f"a power law needs positive values, got {chosen.min()} in modes {first}..{last}; "
            "end the fit before the spectrum reaches zero"
        )
    k = np.arange(first, last + 1)
    line, covariance = np.polyfit(np.log(k), np.log(chosen), 1, cov="unscaled")
    residual = np.log(chosen) - np.polyval(line, np.log(k))
    covariance = covariance * ((residual @ residual) / (len(k) - 2))
    return PowerLaw(
        intercept=float(line[1]),
        exponent=float(-line[0]),
        covariance=covariance[::-1, ::-1],
        first=first,
        last=last,
    )


@dataclass(frozen=True)
class Subset:
    """What a kernel of ``n0`` samples says of ``n``: leading modes as found, a fitted tail.

    Under the mean loss ``lam_k/n`` and ``energy_k/n`` are what more samples leave as they are.
    """

    n0: int
    c: int
    eigvals: Float[np.ndarray, " r"]
    """``lam_k/n0``."""
    energies: Float[np.ndarray, " r"]
    """``(v_k . (f_0 - y))^2/n0``."""
    eigval_law: PowerLaw
    energy_law: PowerLaw
    kept: int
    """Modes before this one are taken as found."""

    def extended(
        self, n: int, rng: np.random.Generator | None = None
    ) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]:
        """``lam_k`` and ``energy_k`` of ``n`` samples.

        The energies of the tail are scaled such that all of them together are those of the
        subset: the loss at the start is known.

        Args:
            n: Samples, ``n0`` or more.
            rng: Draw the two laws from what their fits leave possible; by default the fits.

        Raises:
            InputError: Fewer samples than the subset has.
        """
        if n < self.n0:
            raise InputError(f"n must be at least {self.n0} (the subset's), got {n}")
        laws = [
            law if rng is None else law.drawn(rng)
            for law in (self.eigval_law, self.energy_law)
        ]
        k = np.arange(self.kept + 1, n * self.c + 1)
        head = self.eigvals[: self.kept], self.energies[: self.kept]
        # A drawn law must not start above what is kept: the spectrum is in order.
        values = np.minimum(laws[0].at(k), head[0][-1] if self.kept else np.inf)
        tail = laws[1].at(k)
        tail *= max(self.energies.sum() - head[1].sum(), 0.0) / tail.sum()
        return n * np.append(head[0], values), n * np.append(head[1], tail)


def from_subset(
    eigvals: Float[np.ndarray, " r"],
    energies: Float[np.ndarray, " r"],
    *,
    n0: int,
    c: int,
    first: int | None = None,
    last: int | None = None,
) -> Subset:
    """Fit both power laws to the spectrum of ``n0`` samples.

    The last two thirds of a subset's eigenvalues are biased low (a sum over few samples has
    too few large directions) and are replaced by the law; the first ``2 c`` stand out of it
    (the classes and the mean) and are kept as they are, as is everything up to ``last``.

    Breaks when: the subset's leading modes themselves are biased, which they are where the
    tail is heavy (its mass over ``n0`` adds to every one of them): the late part of the curve
    is then still too fast. On Gaussian features with eigenvalues ``k^-1.5`` 250 samples of
    1,000 give the time to 3 % of the loss 1 to 20 % early, and a quarter to a third of the
    way from the subset's own late loss to the true one (``tests/kernel/test_subset.py``).

    Args:
        eigvals: ``lam_k`` of the subset's kernel, in order.
        energies: ``(v_k . (f_0 - y))^2``.
        n0: Its samples.
        c: Outputs.
        first: First mode of the fit; by default ``2 c + 1``.
        last: Its last; by default a third of the samples' number of modes, ``n0 c/3``.

    Raises:
        InputError: Too few modes, or eigenvalues that are not positive.
    """
    first = 2 * c + 1 if first is None else first
    last = n0 * c // 3 if last is None else last
    scaled = np.asarray(eigvals) / n0, np.asarray(energies) / n0
    return Subset(
        n0=n0,
        c=c,
        eigvals=scaled[0],
        energies=scaled[1],
        eigval_law=fit_power_law(scaled[0], first=first, last=last),
        energy_law=fit_power_law(_smoothed(scaled[1]), first=first, last=last),
        kept=last,
    )


def _smoothed(values: Float[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
    """Geometric mean over a window that grows with ``k``: energies scatter by decades."""
    logs = np.log(np.maximum(values, 1e-30 * max(values.sum(), 1e-300)))
    total = np.append(0.0, np.cumsum(logs))
    k = np.arange(len(values))
    low, high = (k * 0.8).astype(int), np.minimum((k * 1.25).astype(int) + 1, len(values))
    return np.exp((total[high] - total[low]) / (high - low))
