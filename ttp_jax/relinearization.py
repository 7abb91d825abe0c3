"""Many short linearisations along the predicted path, for models that leave a single one.

The dynamics of one linearisation are followed for as long as the model follows them: the
weights are moved along the predicted path, the outputs there are compared with those that
were predicted, and where they differ too much the piece is taken shorter. Then the kernel is
computed anew, at weights that no training step has led to. Pieces are first order in their
length; velocity goes from one to the next as a vector of weights, and the mini-batches are
those of the real run.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import losses, outputs
from ttp_jax.calibration import Start
from ttp_jax.dynamics.segment import Segment, segment
from ttp_jax.kernel.choice import Computed, Kernel
from ttp_jax.optimizers import SGD
from ttp_jax.progress import bar
from ttp_jax.reading import loss_and_accuracy
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

    loss: Float[np.ndarray, " t"]
    """At every step from the first to ``T``."""
    accuracy: Float[np.ndarray, " t"]
    pieces: tuple[Piece, ...]
    rejected: int
    """Pieces that went too far and were taken again, shorter."""
    theta: Float[np.ndarray, "nc nc"]
    """The first kernel."""
    outputs: Float[np.ndarray, "n c"]
    """At the first step."""
    kernels: int
    """Of accepted and rejected pieces."""
    kernel_s: float
    """Seconds in the kernels, but for one that was given."""
    passes: int
    """Forward passes of all samples that it took beside the kernels; a backward pass is two."""
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
    start: Start,
    *,
    steps: int,
    tolerance: float,
    kernel: Kernel | Computed,
    seed: int = 0,
    memory_budget_bytes: int | None = None,
) -> Relinearized:
    """Follow one linearisation after the other to step ``T``.

    Between two of them ``w <- w - J^T alpha - coast v`` and ``v <- J^T beta + speed v``
    (:class:`ttp_jax.dynamics.segment.Segment`); the next begins at the true outputs
    ``f(w)``. In between the curve is that of the linearisation and ``s^2`` times what it
    misses at the end, with ``s`` the share of the way: the part of ``f`` that a linearisation
    misses grows as the square of the way.

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
        InputError: A tolerance that is not positive.

    Cost: for a piece a kernel, 9 forward passes a sample (3 fewer without momentum, 3 more
    with weight decay) and the dynamics; 6 for one that is rejected.

    Breaks when: the model is bent within single steps, where one kernel a step is spent.
    """
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise InputError(
            f"relinearize must be a tolerance above 0, such as 0.3, got {tolerance}"
        )
    described = kernel.described if isinstance(kernel, Computed) else kernel
    loss, accuracy = np.full((2, steps + 1), np.nan)
    targets = task.targets
    pieces: list[Piece] = []
    rejected = solved_steps = 0
    passes, kernels, kernel_s = 1, 1, 0.0

    def computed(w: Params) -> Computed:
        return described.of(
            dataclasses.replace(task, params=w), memory_budget_bytes=memory_budget_bytes
        )

    w, v, k = start.params, start.velocity, start.steps
    f = f_first = outputs.at_the_start(task.apply_fn, w, task.x).astype(np.float64)
    if not isinstance(kernel, Computed):
        kernel = computed(w)
        kernel_s += kernel.run_s
    theta = theta_first = kernel.theta
    farthest = np.inf
    with bar("re-linearised dynamics", steps - k) as advance:
        while k < steps:
            decayed = _decayed(task, sgd, w)
            u0 = q0 = None
            if v is not None:
                u0 = outputs.jvp(task.apply_fn, w, task.x, v)
                passes += 3
            if sgd.weight_decay:
                q0 = outputs.jvp(task.apply_fn, w, task.x, decayed)
                passes += 3
            last, theta_next, drift = steps, theta, 0.0
            while True:
                piece = segment(
                    theta,
                    f,
                    targets,
                    sgd,
                    loss=task.loss,
                    steps=steps,
                    first=k,
                    last=last,
                    u0=u0,
                    q0=q0,
                    seed=seed,
                    farthest=farthest,
                )
                w_next, v_next = _moved(task, sgd, w, v, decayed, piece)
                f_next = outputs.forward(task.apply_fn, w_next, task.x).astype(np.float64)
                passes += 6 if sgd.momentum else 4
                solved_steps += piece.last - k
                gap = linearization_gap(f_next, piece.outputs, f)
                single = piece.last == k + 1
                if gap <= tolerance or single:
                    if piece.last < steps and np.isfinite(f_next).all():
                        kernel = computed(w_next)
                        kernels, kernel_s = kernels + 1, kernel_s + kernel.run_s
                        theta_next = kernel.theta
                        drift = _drift(theta, theta_next, f_next, targets, task.loss)
                    if drift <= DRIFT * tolerance or single:
                        break
                rejected += 1
                last = _shorter(piece, tolerance / max(gap, drift / DRIFT))
            ends = loss_and_accuracy(task.loss, jnp.asarray(f_next), jnp.asarray(targets))
            end_loss, end_accuracy = (float(value) for value in ends)
            floor = FLOOR * loss[start.steps] if pieces else FLOOR * piece.loss[0]
            jump = float(np.log((end_loss + floor) / (piece.loss[-1] + floor)))
            share = (piece.moved / max(piece.moved[-1], TINY)).clip(0, 1) ** 2
            now = slice(k, piece.last + 1)
            missed = piece.loss + (end_loss - piece.loss[-1]) * share
            loss[now] = np.maximum(missed, np.minimum(piece.loss, end_loss))
            accuracy[now] = piece.accuracy + (end_accuracy - piece.accuracy[-1]) * share
            pieces.append(Piece(k, piece.last, gap, drift, jump))
            advance(piece.last - k)
            used = max(gap, drift / DRIFT, TINY) / tolerance
            farthest = piece.moved[-1] * min(LONGER, SAFETY / used)
            w, v, f, k, theta = w_next, v_next, f_next, piece.last, theta_next
            if not np.isfinite(f).all():
                break
    return Relinearized(
        loss=loss[start.steps :],
        accuracy=accuracy[start.steps :].clip(0, 1),
        pieces=tuple(pieces),
        rejected=rejected,
        theta=theta_first,
        outputs=f_first,
        kernels=kernels,
        kernel_s=kernel_s,
        passes=passes,
        solved_steps=solved_steps,
    )


def _drift(theta, theta_next, f, targets, loss) -> float:
    """``|(Theta' - Theta) g| / |Theta g|`` with the gradient ``g`` where ``Theta'`` is."""
    g = np.asarray(losses.gradient(loss, jnp.asarray(f), jnp.asarray(targets))).ravel()
    before, after = theta @ g, theta_next @ g
    return float(np.linalg.norm(after - before) / max(np.linalg.norm(before), TINY))


def _decayed(task: Task, sgd: SGD, w: Params) -> Params:
    """``w - origin``: what weight decay shrinks."""
    if sgd.decay_toward == "initial":
        return jax.tree.map(jnp.subtract, w, task.params)
    return w


def _moved(
    task: Task, sgd: SGD, w: Params, v: Params | None, decayed: Params, piece: Segment
) -> tuple[Params, Params | None]:
    """Weights and velocity at the end of a piece."""
    coefficients = [piece.alpha, piece.beta] if sgd.momentum else [piece.alpha]
    step, *rest = outputs.vjps(task.apply_fn, w, task.x, coefficients)
    along = [(1.0, step)]
    if sgd.weight_decay:
        along.append((piece.shrink, decayed))
    if v is not None:
        along.append((piece.coast, v))
    w_next = outputs.minus(w, along)
    if not sgd.momentum:
        return w_next, None
    (v_next,) = rest
    if sgd.weight_decay:
        v_next = outputs.minus(v_next, [(-piece.pull, decayed)])
    if v is not None:
        v_next = outputs.minus(v_next, [(-piece.speed, v)])
    return w_next, v_next


def _shorter(piece: Segment, ratio: float) -> int:
    """Last step of the next try: one at least less than that of ``piece``."""
    moved = piece.moved
    seen = moved[np.isfinite(moved)].max()
    target = seen * np.clip(SAFETY * ratio, *SHORTER)
    # The first step beyond, or at which the path has diverged, is one too many.
    within = int(np.argmax(~(moved <= target))) - 1
    return piece.first + int(np.clip(within, 1, len(moved) - 2))
