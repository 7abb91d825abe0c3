"""Many short linearisations along the predicted path, for models that leave a single one.

The dynamics of one linearisation are followed for as long as the model follows them: the
weights are moved along the predicted path, the outputs there are compared with those that
were predicted, and where they differ too much the piece is taken shorter. Then the kernel is
computed anew, at weights that no training step has led to. Pieces are first order in their
length; velocity goes from one to the next as a vector of weights, and the mini-batches are
those of the real run.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import losses, outputs
from ttp_jax.dynamics.segment import Segment, segment
from ttp_jax.kernel.choice import Computed, Kernel
from ttp_jax.linearisation import calibration, pieces
from ttp_jax.linearisation.pieces import Place
from ttp_jax.optimizers import SGD
from ttp_jax.progress import bar
from ttp_jax.reading import Readings
from ttp_jax.trust import linearization_gap
from ttp_jax.types import InputError, Params, Task

SAFETY = 0.9
TINY = np.finfo(float).tiny
FLOOR = 1e-3
"""Of the first loss: what is lost below is not missed."""
SHORTER = (0.1, 0.9)
LONGER = 4.0
DRIFT = 8.0
"""A piece is tried as long as its gap should come to :data:`SAFETY` times the tolerance, by
what it was for the last, between these shares of a rejected one and up to so many times an
accepted one; length is how far the outputs move. A kernel that drifts by :data:`DRIFT` times
the tolerance counts as a gap that reaches it: half a drift of the Jacobian is a gap, two are a
drift of the kernel, and twice that is let pass, because the kernel is spent when it is known.
Where the path swings to and fro, past the limit of stability, only the drift tells."""


@dataclass(frozen=True)
class Piece:
    """One linearisation and how far it went."""

    first: int
    last: int
    gap: float
    """``|f(w_predicted) - f_linear| / |f_linear - f_first|`` at ``last``."""
    drift: float
    """``|(Theta_last - Theta_first) g| / |Theta_first g|`` of the gradient at ``last``; 0 for
    the last piece, at whose end no kernel is needed."""
    jump: float
    """``log (L(f(w_predicted)) + c) - log (L(f_linear) + c)`` at ``last``, with ``c`` the
    :data:`FLOOR`."""


@dataclass(frozen=True)
class Relinearized:
    """A curve from many linearisations, and what it took."""

    curves: tuple[Readings, ...]
    """At every step from the first to ``T``, of each of :attr:`Task.parts`."""
    pieces: tuple[Piece, ...]
    theta: Float[np.ndarray, "nc nc"]
    """The first kernel, of the samples that are trained on."""
    outputs: Float[np.ndarray, "n c"]
    """At the first step, of the same."""
    kernels: int
    """Of accepted and rejected pieces."""
    kernel_s: float
    """Seconds in the kernels, but for one that was given."""
    passes: int
    """Forward passes of all samples that it took beside the kernels; a backward pass, for which
    those held out are not needed, is two."""
    solved_steps: int
    """Steps of the dynamics, rejected ones among them."""

    @property
    def gap(self) -> float:
        """The largest of an accepted piece."""
        return max(piece.gap for piece in self.pieces)

    @property
    def error(self) -> float:
        """Estimate of the relative error of the loss: all jumps together, whatever their sign.

        A jump is what the linearisation missed in the outputs, and is mended; about as much
        is missed in the weights, and is not.
        """
        return float(sum(abs(piece.jump) for piece in self.pieces))


def relinearized(
    task: Task,
    sgd: SGD,
    start: calibration.Start,
    *,
    steps: int,
    tolerance: float,
    kernel: Kernel | Computed,
    seed: int = 0,
    memory_budget_bytes: int | None = None,
) -> Relinearized:
    """Follow one linearisation after the other to step ``T``.

    Between two of them weights and velocity go where the linearisation says, the next begins
    at the true outputs, and what the linearisation misses there is spread over the way
    (:mod:`ttp_jax.linearisation.pieces`).

    A piece of one step is that step of training to rounding, for any kernel: with a
    tolerance near zero this *is* training, at the price of a kernel a step.

    Args:
        task: What would be trained.
        sgd: How.
        start: Where the prediction begins.
        steps: ``T``.
        tolerance: Largest gap of a piece.
        kernel: What computes the kernels; or that of the start, and then as it was described.
        seed: Of the stream of mini-batches.
        memory_budget_bytes: For a kernel.

    Raises:
        InputError: A tolerance that is not positive, outputs that are not finite.

    Cost: for a piece a kernel, 9 forward passes a sample (5 fewer without momentum, 3 more
    with weight decay) and the dynamics; 6 (4) for one that is rejected, and a kernel where
    that is the reason.

    Breaks when: the model is bent within single steps, where one kernel a step is spent; the
    tolerance is above 0.5 or so, where pieces end at weights that no training would come to,
    and curves are bent to the loss there (``experiments.frontier``).
    """
    require_tolerance(tolerance)
    described = kernel.described if isinstance(kernel, Computed) else kernel
    spent = _Spent()

    def computed(w: Params) -> np.ndarray:
        made = described.of(
            dataclasses.replace(task, params=w), memory_budget_bytes=memory_budget_bytes
        )
        spent.kernels += 1
        spent.kernel_s += made.run_s
        return made.theta[: task.n * task.c]

    joint = task.joint
    f = outputs.at_the_start(task.apply_fn, start.params, joint.x).astype(np.float64)
    spent.passes += 1
    if isinstance(kernel, Computed):
        theta = kernel.theta[: task.n * task.c]
        spent.kernels += 1
    else:
        theta = computed(start.params)
    here, first_theta = Place(start.steps, start.params, start.velocity, f), theta
    first = here
    curves = np.full((len(task.parts), 2, steps + 1), np.nan)
    accepted: list[Piece] = []
    farthest = np.inf
    with bar("re-linearised dynamics", steps - here.step) as advance:
        while here.step < steps:
            way, there, theta_there, gap, drift = _as_far_as_it_goes(
                task,
                sgd,
                here,
                theta,
                steps=steps,
                tolerance=tolerance,
                farthest=farthest,
                seed=seed,
                computed=computed,
                spent=spent,
            )
            ends = pieces.ends(task, there)
            now = slice(way.first, way.last + 1)
            for at, (end, read) in enumerate(zip(ends, way.curves, strict=True)):
                curves[at, :, now] = pieces.blended(way, read, *end)
            floor = FLOOR * curves[0, 0, first.step]
            with np.errstate(invalid="ignore"):  # of a path that diverged
                linear = way.curves[0].loss[-1]
                jump = float(np.log((ends[0][0] + floor) / (linear + floor)))
            accepted.append(Piece(way.first, way.last, gap, drift, jump))
            advance(way.last - way.first)
            if not (np.isfinite(there.f).all() and np.isfinite(way.moved[-1])):
                break
            used = max(gap, drift / DRIFT, TINY) / tolerance
            farthest = way.moved[-1] * min(LONGER, SAFETY / used)
            here, theta = there, theta_there
    return Relinearized(
        curves=tuple(
            Readings(loss[first.step :], accuracy[first.step :].clip(0, 1))
            for loss, accuracy in curves
        ),
        pieces=tuple(accepted),
        theta=first_theta[:, : len(first_theta)],
        outputs=first.f[: task.n],
        kernels=spent.kernels,
        kernel_s=spent.kernel_s,
        passes=spent.passes,
        solved_steps=spent.solved_steps,
    )


def require_tolerance(tolerance: float) -> None:
    """Raises: InputError: It is not positive."""
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise InputError(
            f"relinearize must be a tolerance above 0, such as 0.5, got {tolerance}"
        )


@dataclass
class _Spent:
    """See :class:`Relinearized`."""

    kernels: int = 0
    kernel_s: float = 0.0
    passes: int = 0
    solved_steps: int = 0


def _as_far_as_it_goes(
    task: Task,
    sgd: SGD,
    here: Place,
    theta: np.ndarray,
    *,
    steps: int,
    tolerance: float,
    farthest: float,
    seed: int,
    computed: Callable[[Params], np.ndarray],
    spent: _Spent,
) -> tuple[Segment, Place, np.ndarray, float, float]:
    """One piece, where it leads, the kernel there, and the gap and drift it ends with.

    Where no kernel is needed, that of the piece itself.
    """
    before = pieces.images(task, sgd, here)
    spent.passes += before.passes
    targets = task.joint.targets
    last = steps
    while True:
        way = segment(
            theta,
            here.f,
            targets,
            sgd,
            loss=task.loss,
            steps=steps,
            first=here.step,
            last=last,
            u0=before.u0,
            q0=before.q0,
            seed=seed,
            farthest=farthest,
        )
        there = pieces.moved(task, sgd, here, before, way)
        spent.passes += pieces.move_passes(sgd)
        spent.solved_steps += way.last - way.first
        theta_there = theta
        gap = linearization_gap(there.f[: task.n], way.outputs, here.f[: task.n])
        drift = 0.0
        single = way.last == way.first + 1
        if gap <= tolerance or single:
            if way.last < steps and np.isfinite(there.f).all():
                theta_there = computed(there.params)
                drift = _drift(theta, theta_there, there, task)
            if drift <= DRIFT * tolerance or single:
                return way, there, theta_there, gap, drift
        last = _shorter(way, tolerance / max(gap, drift / DRIFT))


def _drift(theta: np.ndarray, new: np.ndarray, there: Place, task: Task) -> float:
    """``|(Theta' - Theta) g| / |Theta g|`` with the gradient ``g`` where ``Theta'`` is."""
    f = jnp.asarray(there.f[: task.n])
    g = np.asarray(losses.gradient(task.loss, f, jnp.asarray(task.targets))).ravel()
    before = theta[:, : g.size] @ g
    difference = np.linalg.norm(new[:, : g.size] @ g - before)
    return float(difference / max(np.linalg.norm(before), TINY))


def _shorter(way: Segment, ratio: float) -> int:
    """Last step of the next try: one at least less than that of ``way``."""
    moved = way.moved
    seen = moved[np.isfinite(moved)].max()
    target = seen * np.clip(SAFETY * ratio, *SHORTER)
    # The first step beyond, or at which the path has diverged, is one too many.
    within = int(np.argmax(~(moved <= target))) - 1
    return way.first + int(np.clip(within, 1, len(moved) - 2))
