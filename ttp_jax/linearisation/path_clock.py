"""How fast a linearised path is really followed: as the kernels of both of its ends say.

A kernel that changes along the path changes the speed along it. At the beginning of a piece
the speed is that of its kernel; at the end, where the true model is asked, it is known; in
between it is taken to change evenly with the way.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ttp_jax.linearisation.calibration import Start
from ttp_jax.optimizers import SGD

FASTEST = 4.0
"""A place is not believed to be more times as fast, or as slow, as the kernel before said."""
SAME = 1e-6
"""Speeds that differ by no more are equal: so nearly are kernels in single precision known."""


class Inertia(NamedTuple):
    """Which share of the velocity that it goes to a run has: 1 without momentum."""

    own: float
    """As the piece itself has it, whose kernel is that of its beginning."""
    real: float
    """As it has with the kernel that turns."""


def beginning(start: Start, sgd: SGD) -> Inertia:
    """At the start of a prediction: from rest, or, after real steps, running."""
    return Inertia(*(0.0, 0.0) if start.velocity is None and sgd.momentum else (1.0, 1.0))


def clocked(
    speed: float,
    rates: Float[np.ndarray, " T"],
    momentum: float | int,
    first: int,
    last: int,
    inertia: Inertia,
) -> tuple[Float[np.ndarray, " t"], Inertia]:
    """When the steps of a piece are really reached, if its speed goes from 1 to ``speed``.

    The piece goes ``eta_k w_k`` of its way in step ``k``, with ``w_k = mu w_k-1 + (1 - mu)``;
    in reality ``w_k = mu w_k-1 + (1 - mu) (1 + (s - 1) u_k)``, with ``s`` the speed and ``u_k``
    the share of the way that is behind. Without momentum, for small steps,
    ``t = tau ln(s)/(s - 1)`` where the piece says ``tau``. Nesterov's form counts as the other.

    Args:
        speed: ``s``, as ``kappa`` of :func:`ttp_jax.linearisation.mending.updated`; beyond
            :data:`FASTEST` as there.
        rates: ``eta`` of the run.
        momentum: ``mu``.
        first: Where the piece begins, in its steps and in real ones.
        last: Where it ends, in its own steps.
        inertia: There.

    Returns:
        Real steps, with fractions, infinite where the run ends before; and the inertia at the
        end, as shares of what the kernel there leads to.
    """
    end = 1.0
    if abs(speed - 1.0) > SAME:
        end = float(np.clip(speed, 1 / FASTEST, FASTEST))
    own, real = inertia
    way = [0.0]
    for eta in rates[first:last]:
        own = momentum * own + (1 - momentum)
        way.append(way[-1] + eta * own)
    gone = [0.0]
    for eta in rates[first:]:
        if gone[-1] >= way[-1]:
            break
        faster = 1.0 + (end - 1.0) * gone[-1] / way[-1]
        real = momentum * real + (1 - momentum) * faster
        gone.append(gone[-1] + eta * real)
    at = np.interp(way, gone, first + np.arange(len(gone)), right=np.inf)
    return at, Inertia(own / end, real / end)
