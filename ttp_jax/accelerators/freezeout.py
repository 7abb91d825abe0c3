"""FreezeOut (Brock et al., arXiv 1706.04983): layers stop learning one after the other.

Each group of layers has a cosine of its own that ends at its own time, those next to the
input first; from there on it is frozen, and neither its gradient nor any behind it is needed.
To the linearised model this is ``K_t = sum_g eta_g(t) Theta_g`` with fewer and fewer terms:
what is left of the residual outside the range of the kernels still active stays there.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from ttp_jax.types import InputError

How = Literal["linear", "squared", "cubic"]
_POWERS: dict[str, int] = {"linear": 1, "squared": 2, "cubic": 3}


@dataclass(frozen=True)
class FreezeOut:
    """When each group of weights freezes, and its rate until then.

    With ``G`` groups, ``i = 0`` next to the input: ``t_i = s(t_0 + (1 - t_0) i/(G - 1))`` of
    the run, ``s`` the identity, the square or the cube; the last has ``t = 1``. (Of one group
    alone, ``t = 1``.)

    ``eta_i(t) = (alpha_i/2) (1 + cos(pi t/(t_i T)))`` at steps ``t = 0, 1, ... < t_i T``, zero
    from there on; ``alpha_i = alpha``, or ``alpha/t_i`` where ``scaled``, which gives all
    groups the same area under their rates.

    Args:
        t0: ``t_0`` in (0, 1]; with 1 nothing freezes before the end.
        how: ``s``.
        scaled: Whether a group that has less time has higher rates.

    Raises:
        InputError: ``t_0`` or ``how`` out of range.
    """

    t0: float
    how: How = "cubic"
    scaled: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.t0 <= 1:
            raise InputError(
                f"t0 must lie in (0, 1], the share of the run after which the first group "
                f"freezes, got {self.t0}; 1 freezes nothing"
            )
        if self.how not in get_args(How):
            raise InputError(
                f"how must be one of {', '.join(get_args(How))}, got {self.how!r}"
            )

    def times(self, groups: int) -> Float[np.ndarray, " G"]:
        """``t_i`` of each group, as a share of the run."""
        if groups < 1:
            raise InputError(f"the number of groups must be at least 1, got {groups}")
        place = np.arange(groups) / (groups - 1) if groups > 1 else np.ones(1)
        return (self.t0 + (1 - self.t0) * place) ** _POWERS[self.how]

    def shares(self, steps: int, groups: int) -> Float[np.ndarray, "T G"]:
        """What each group takes of a schedule over steps: ``s_i`` while it learns, then 0.

        ``s_i = 1/t_i`` where ``scaled``, else 1. The rates of any schedule ``alpha(t)`` under
        which groups freeze at these times are the product ``alpha(t) share_i(t)``.
        """
        times = self.times(groups)
        t = np.arange(steps)[:, None]
        peaks = 1 / times if self.scaled else np.ones(groups)
        # Exactly zero, where FreezeOut's own cosine is 1e-17.
        return np.where(t < freezing_steps(times, steps), peaks, 0.0)

    def rates(self, alpha: float, steps: int, groups: int) -> Float[np.ndarray, "T G"]:
        """The learning rate of every step and group.

        Raises:
            InputError: A rate that is not positive.
        """
        if not (np.isfinite(alpha) and alpha > 0):
            raise InputError(f"the learning rate must be positive, got {alpha}")
        t = np.arange(steps)[:, None] / (self.times(groups) * steps)
        cosines = 0.5 * (1 + np.cos(np.pi * np.minimum(t, 1.0)))
        return alpha * cosines * self.shares(steps, groups)


def freezing_steps(times: Float[np.ndarray, " G"], steps: int) -> Int[np.ndarray, " G"]:
    """The number of steps that each group takes part in, ``ceil(t_i T)``."""
    # 0.8^3 of 1000 steps are 512, not one more for the last digit.
    return np.ceil(times * steps - 1e-9 * steps).astype(int)


def frozen_at(rates: Float[np.ndarray, "T G"]) -> Int[np.ndarray, " T"]:
    """How many of the first groups have come to their end at each step.

    A group has where its rate is zero and stays so; the last group never counts.
    """
    over = np.flip(np.cumsum(np.flip(rates, 0), axis=0), 0) == 0
    leading = np.cumprod(over, axis=1).sum(axis=1)
    return np.minimum(leading, rates.shape[1] - 1)


def stages_of(rates: Float[np.ndarray, "T G"]) -> list[tuple[int, int]]:
    """First step of each stage, and how many groups are frozen in it."""
    frozen = frozen_at(rates)
    first = np.flatnonzero(np.diff(frozen, prepend=-1))
    return [(int(k), int(frozen[k])) for k in first]


def share_of_cost(
    forward: Float[np.ndarray, " G"],
    times: Float[np.ndarray, " G"],
    *,
    cached: bool = False,
) -> float:
    """Operations of a run over those of one that freezes nothing, as layers have them.

    Of a layer with ``F_l`` operations forward, ``F_l`` go into its weights' gradient while it
    is active and ``F_l`` into its input's while any layer below it is: ``sum_l F_l (1 + t_l +
    t_{l-1})`` over ``3 sum_l F_l - F_0``, ``t_{-1} = 0``. Where outputs of the frozen layers
    are put by, their forward passes are saved as well, all but one of each sample: ``sum_l F_l
    (2 t_l + t_{l-1})``. (The authors' code counts a backward pass as one forward pass.)

    Args:
        forward: ``F_l`` of each group.
        times: ``t_l`` of each group.
        cached: Whether outputs of frozen layers are put by.
    """
    below = np.append(0.0, times[:-1])
    run = times if cached else 1.0
    whole = 3 * forward.sum() - forward[0]
    return float((forward * (run + times + below)).sum() / whole)


def floor(share: Float[np.ndarray, "nc nc"], residual: Float[np.ndarray, "n c"]) -> float:
    """``|P r|^2/(2 n)``, ``P`` projecting onto what an active kernel cannot reach.

    The MSE loss that no further step of the linearised model can get below, while the groups
    whose kernels sum to ``share`` are the ones that learn: eigenvalues under ``n c`` times
    the rounding of the largest are taken for zero.

    Cost: ``O((n c)^3)``.
    """
    lam, modes = np.linalg.eigh(np.asarray(share, float))
    reached = lam > len(lam) * np.finfo(float).eps * max(lam[-1], 0.0)
    r = np.asarray(residual, float).reshape(-1)
    left = r @ r - np.square(modes[:, reached].T @ r).sum()
    return float(max(left, 0.0) / (2 * len(residual)))


def autofreeze(norms: Float[np.ndarray, "i G"], frozen: int) -> int:
    """How many of the first groups are frozen next, by the gradients of each interval.

    After Liu et al. (arXiv 2102.01386): with ``d_l = |n_l - n'_l|/n'_l`` the relative change of
    the norm of a group's gradient, accumulated over an interval, against the interval before,
    the groups up to the first active one whose change is at least the median of those active
    are frozen. The authors take the norm of ``L_1``; here it is that of ``L_2``, which the
    kernels know too (``|J_l^T a|^2 = a^T Theta_l a``). The last group stays active.

    Args:
        norms: Of each interval so far and each group.
        frozen: How many are frozen already.
    """
    if len(norms) < 2:
        return frozen
    before, now = norms[-2:, frozen:]
    change = np.abs(now - before) / np.maximum(before, np.finfo(float).tiny)
    first = int(np.argmax(change >= np.median(change)))
    return min(frozen + first, norms.shape[1] - 1)
