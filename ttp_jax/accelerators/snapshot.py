"""Snapshot ensembles (Huang et al., ICLR 2017, arXiv 1704.00109), and restarts beside them.

One run of ``M`` cosine cycles leaves ``M`` models, whose softmax outputs are averaged. One
cycle moves the mean outputs by ``alpha_0 (T_c + 1)/2`` of flow time, all of a run by
``alpha_0 T/2`` for every ``M``, half of a constant rate: to the mean, restarts do nothing.
They heat the noise of the batches up again, and a linear model's snapshots differ by that
noise alone and by how far the mean has come.
"""

import numpy as np
from jaxtyping import Float

from ttp_jax import schedules
from ttp_jax.accelerators.plan import Plan
from ttp_jax.dynamics.moments import Moments
from ttp_jax.types import InputError

OTHER_STREAMS = 7_000_003
"""Added to a seed: streams of restarts that no run of a neighbouring seed has."""


def snapshots(alpha0: float, steps: int, cycles: int) -> Plan:
    """One run of cosine cycles, kept at the end of each, before the rate jumps.

    The schedule of :func:`ttp_jax.schedules.cyclic_cosine`. Momentum is carried over from
    cycle to cycle, as the authors do.

    Args:
        alpha0: Rate at the start of every cycle.
        steps: ``T``, of all cycles.
        cycles: ``M``.

    Raises:
        InputError: As that schedule.
    """
    return Plan(
        schedules.cyclic_cosine(alpha0, steps, cycles), schedules.cycle_ends(steps, cycles)
    )


def restart(alpha0: float, steps: int, cycles: int) -> Plan:
    """One of ``M`` independent runs that share the budget of :func:`snapshots`.

    A single cosine cycle of ``floor(T/M)`` steps from ``alpha_0``: what a cycle of a snapshot
    run is, from the weights at the start. (The paper's own baseline has another schedule and
    another rate.)

    Raises:
        InputError: As :func:`snapshots`.
    """
    schedules.cycle_ends(steps, cycles)
    return snapshots(alpha0, steps // cycles, 1)


def restart_seed(seed: int, k: int) -> int:
    """Seed of the mini-batches of the ``k``-th restart; the first has the run's own."""
    return seed + k * OTHER_STREAMS


def averaged(cycles: int, last: int | None) -> int:
    """How many of the last snapshots are averaged, ``m``; all by default.

    Raises:
        InputError: ``m`` outside ``1..M``.
    """
    if last is None:
        return cycles
    if not 1 <= last <= cycles:
        raise InputError(
            f"last must lie in 1..{cycles} (the number of cycles), got {last}; it says how "
            "many of the last snapshots are averaged"
        )
    return last


def expected_distances(products: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """``E |f_j - f_i|^2`` over all outputs, of the products ``E r_i . r_j``.

    ``tr M_j + tr M_i - 2 tr(P_ji M_i)`` with ``M`` the second moments of the residuals and
    ``P_ji`` what the noiseless steps from ``i`` to ``j`` make of them: what
    :attr:`ttp_jax.dynamics.moments.Moments.products` holds.
    """
    own = np.diag(products)
    return own[:, None] + own - 2 * products


def expected_loss(products: Float[np.ndarray, "k k"], n: int, last: int) -> float:
    """Expected MSE loss of the mean output of the last ``m`` snapshots.

    ``E L = (1/(2 n m^2)) sum_ij E r_i . r_j``. Of a linear model it is also the loss of their
    mean weights.
    """
    return float(products[-last:, -last:].sum() / (2 * n * last**2))


def expected_loss_of_restarts(end: Moments, n: int, count: int) -> float:
    """Expected MSE loss of the mean output of independent runs from the same outputs.

    ``E L = (|m|^2 + tr(C)/M)/(2 n)``: averaging takes away the noise, and the mean stays.

    Args:
        end: Moments of one of them at its last step.
        n: Samples.
        count: ``M``.
    """
    noise = np.trace(end.covariance) / count
    return float((end.mean @ end.mean + noise) / (2 * n))
