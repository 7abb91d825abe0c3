"""Eigenvalues and modes of a kernel, with what had to be clipped."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from ttp_jax.types import InputError


@dataclass(frozen=True)
class Spectrum:
    """The kernel as ``Theta = V diag(lam) V^T``, largest eigenvalue first.

    ``clipped_mass`` is the sum of the absolute eigenvalues that rounding had pushed below
    zero (set to zero here), relative to the trace.
    """

    eigvals: Float[np.ndarray, " r"]
    train_modes: Float[np.ndarray, "nc r"]
    clipped_mass: float

    def energies(self, residual: Float[np.ndarray, " nc"]) -> Float[np.ndarray, " r"]:
        """``(v_k . r)^2``: how much of a residual, flattened alike, lies in each mode."""
        return (self.train_modes.T @ residual) ** 2


def of_gram(theta: Float[np.ndarray, "nc nc"]) -> Spectrum:
    """Spectrum of a symmetric positive semi-definite Gram matrix, in float64.

    Raises:
        InputError: A matrix that is not finite, or so negative that it is no Gram matrix.

    Cost: ``O((n c)^3)`` time, two matrices of ``8 (n c)^2`` bytes.
    """
    theta = np.asarray(theta, dtype=np.float64)
    if not np.isfinite(theta).all():
        raise InputError("the kernel must be finite, got NaN or infinite entries")
    lam, modes = scipy.linalg.eigh(theta)
    negative = -lam[lam < 0].sum()
    clipped_mass = float(negative / max(np.trace(theta), np.finfo(float).tiny))
    if clipped_mass > 1e-3:
        raise InputError(
            f"a kernel must be positive semi-definite, got negative eigenvalues worth "
            f"{clipped_mass:.1%} of its trace; compute it in a higher precision"
        )
    return Spectrum(
        eigvals=np.maximum(lam[::-1], 0.0),
        train_modes=np.ascontiguousarray(modes[:, ::-1]),
        clipped_mass=clipped_mass,
    )


def of_factor(factor: Float[np.ndarray, "nc d"]) -> Spectrum:
    """Spectrum of ``Theta = Z Z^T`` from the singular values of ``Z``.

    Never negative, and precise where the eigenvalues of the product are lost to rounding.

    Raises:
        InputError: A factor that is not finite.

    Cost: ``O(n c d min(n c, d))``.
    """
    factor = np.asarray(factor, dtype=np.float64)
    if not np.isfinite(factor).all():
        raise InputError("the kernel must be finite, got NaN or infinite entries")
    modes, singular, _ = scipy.linalg.svd(factor, full_matrices=False)
    return Spectrum(eigvals=singular**2, train_modes=modes, clipped_mass=0.0)
