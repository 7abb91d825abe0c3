"""One kernel, mended along the predicted path: where the loss has halved, the true model again.

A single linearisation is wrong for two reasons: the outputs leave it, and the kernel changes.
At a few places along the predicted path, at weights that no training step has led to, the true
outputs are one forward pass away; and of the kernel there, what counts is how it acts along
the residual, for which one direction a sample is enough: a kernel of scalars, ``n x n`` in the
place of ``nc x nc``. The rest of the kernel is that of the start, scaled alike.

Between two places the kernel turns from the one into the other. By default the path there is as
fast as the first says; or its clock goes as both say (:mod:`ttp_jax.linearisation.path_clock`).
"""

import weakref
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float

from ttp_jax import losses, programs, trust
from ttp_jax.dynamics.segment import Segment, segment
from ttp_jax.kernel.empirical import empirical_ntk, estimate
from ttp_jax.linearisation import calibration, path_clock, pieces
from ttp_jax.linearisation.pieces import Place
from ttp_jax.optimizers import SGD
from ttp_jax.progress import bar
from ttp_jax.reading import Readings
from ttp_jax.types import ApplyFn, Look, Masked, Task

FALL = 0.5
"""The model is asked again where the loss has fallen to this share since it was last asked."""
LATER = 3
FIRST = 0.25
"""At the latest after so many times the steps that led to the last place, and so large a share
of the run: a prediction that stands still may be wrong in that."""
MENDS = 4
"""So many times by default; more come nearer, each at the same cost."""
TOLERANCE = 0.7
"""A piece with a larger gap is taken with half of its steps; once, because a kernel that is not
quite the true one leaves a gap in the shortest."""
Clock = Literal["start", "both"]
"""Speed between two places: that of the kernel at the first, or from that to what is found at
the second."""
CLOCK: Clock = "start"
"""By default."""
RIDGE = 1e-6
"""Of the mean diagonal of the kernel along the residual: it has far smaller eigenvalues than
single precision knows of."""


@dataclass(frozen=True)
class Mended:
    """A mended curve, and what it took."""

    curves: tuple[Readings, ...]
    """At every step from the first to ``T``, of each of :attr:`Task.parts`."""
    looks: tuple[Look, ...]
    """Where the model was asked."""
    passes: int
    """Forward passes of all samples, those of :func:`along_residual` among them."""
    solved_steps: int
    """Steps of the dynamics."""


def mended(
    task: Task,
    sgd: SGD,
    start: calibration.Start,
    theta: Float[np.ndarray, "nc kc"],
    f0: Float[np.ndarray, "k c"],
    *,
    steps: int,
    mends: int = MENDS,
    clock: Clock = CLOCK,
    seed: int = 0,
    memory_budget_bytes: int | None = None,
) -> Mended:
    """Follow the linearised dynamics to step ``T``, and mend them where the loss has halved.

    At such a place the outputs become the true ones, the velocity is carried over as a vector
    of weights, the way there is bent to the true loss (:mod:`ttp_jax.linearisation.pieces`),
    and the kernel becomes :func:`updated`. The mini-batches are those of the real run, of a
    piece from the step on where it begins.

    Args:
        task: What is predicted.
        sgd: How it is trained.
        start: Where the prediction begins.
        theta: Kernel there, rows of the ``n`` samples that are trained on and columns of all
            ``k``.
        f0: Outputs there.
        steps: ``T``.
        mends: At most so many times; 0 for a single linearisation.
        clock: What the speed between two places is taken from.
        seed: Of the stream of mini-batches.
        memory_budget_bytes: For a kernel along the residual.

    Cost: for each mend 12 forward passes a sample (5 fewer without momentum, 3 more with
    weight decay; 6 more, or 4, where a piece is taken again), ``n^2 p`` multiply-adds for the
    kernel along the residual, ``n^3 c^2`` for the update, and the dynamics again from there. A
    model that is linear in its weights is predicted as without.

    Breaks when: the loss does not halve before the model has left its linearisation, as on a
    plateau, the kernel turns in directions other than the residual's, or it goes on changing
    after the last mend. A place is only as true as the path to it: one mend alone can be worse
    than none.
    """
    rates = np.asarray(sgd.learning_rates(steps), np.float64)
    n, y = task.n, np.asarray(task.joint.targets)
    here = Place(start.steps, start.params, start.velocity, np.asarray(f0, np.float64))
    curves = np.full((len(task.parts), 2, steps + 1), np.nan)
    looks: list[Look] = []
    passes = solved = 0
    inertia = path_clock.beginning(start, sgd)
    with bar("mending", mends) as advance:
        while True:
            before = pieces.images(task, sgd, here)
            passes += before.passes

            follow = partial(
                segment,
                theta,
                here.f,
                y,
                sgd,
                loss=task.loss,
                steps=steps,
                first=here.step,
                u0=before.u0,
                q0=before.q0,
                seed=seed,
                sizes=task.sizes,
            )
            rest = follow(last=steps)
            solved += steps - here.step
            for part, read in zip(curves, rest.curves, strict=True):
                part[:, here.step :] = np.nan  # behind where a path has diverged
                part[:, here.step : rest.last + 1] = np.stack([read.loss, read.accuracy])
                if not looks:
                    part[:, : here.step] = part[:, [here.step]]
            k = _next(rest, steps)
            if looks:
                looks[-1] = _after(looks[-1], curves[0, 0])
            if len(looks) == mends or k is None:
                break
            linear = curves[0, 0].copy()
            for last in (k, here.step + (k - here.step + 1) // 2):
                way = follow(last=last)
                solved += last - here.step
                there = pieces.moved(task, sgd, here, before, way)
                passes += pieces.move_passes(sgd)
                gap = trust.linearization_gap(there.f[:n], way.outputs, here.f[:n])
                if gap <= TOLERANCE:
                    break
            k = way.last
            if not np.isfinite(there.f).all():
                looks.append(Look(k, gap, np.inf, np.inf, linear, None))
                break
            ends = pieces.ends(task, there)
            found = along_residual(
                task, there, theta, memory_budget_bytes=memory_budget_bytes
            )
            passes += 3
            theta, speed = updated(theta, *found)
            ratio = ends[0][0] / max(float(linear[k]), np.finfo(float).tiny)
            at = np.arange(here.step, k + 1.0)
            if clock == "both":
                at, inertia = path_clock.clocked(
                    speed, rates, sgd.momentum, here.step, k, inertia
                )
            reached = max(here.step + 1, round(min(at[-1], steps)))
            now = np.arange(here.step, reached + 1)
            for part, read, end in zip(curves, way.curves, ends, strict=True):
                bent = pieces.blended(way, read, *end)
                part[:, now] = [np.interp(now, at, values) for values in bent]
            looks.append(Look(reached, gap, ratio, speed, linear, None))
            here = there._replace(step=reached)
            advance(1)
            if reached == steps:
                looks[-1] = _after(looks[-1], curves[0, 0])
                break
    return Mended(
        curves=tuple(
            Readings(loss[start.steps :], accuracy[start.steps :].clip(0, 1))
            for loss, accuracy in curves
        ),
        looks=tuple(looks),
        passes=passes,
        solved_steps=solved,
    )


def along_residual(
    task: Task,
    there: Place,
    theta: Float[np.ndarray, "nc kc"],
    *,
    memory_budget_bytes: int | None = None,
) -> tuple[Float[np.ndarray, "n c"], Float[np.ndarray, "n n"], Float[np.ndarray, "n kc"]]:
    """The true kernel at a place along each sample's residual, and what the old one says.

    Returns:
        The directions ``v_i = g_i/|g_i|``, with ``g`` the gradient of the loss in the outputs;
        ``S_ij = v_i^T Theta'_ij v_j`` of the kernel there; and ``V^T Theta`` of the given one.

    Cost: a forward and a backward pass a sample, ``n^2 p`` multiply-adds.
    """
    n, c = task.n, task.c
    f = jnp.asarray(there.f[:n])
    g = np.asarray(losses.gradient(task.loss, f, jnp.asarray(task.targets)), np.float64)
    # Of a sample that is fitted to the last digit any direction will do.
    size = np.linalg.norm(g, axis=1, keepdims=True)
    v = np.where(size > 0, g / np.maximum(size, np.finfo(float).tiny), c**-0.5)
    x = np.asarray(task.x)
    v = v.astype(x.dtype)
    true = empirical_ntk(
        _along(task.apply_fn, x.shape[1:], c),
        there.params,
        jnp.asarray(np.concatenate([x.reshape(n, -1), v], axis=1)),
        memory_budget_bytes=memory_budget_bytes,
    )
    v = v.astype(np.float64)
    return v, true, np.einsum("ia,iak->ik", v, np.asarray(theta).reshape(n, c, -1))


def kernel_flops(task: Task) -> float:
    """Operations of one :func:`along_residual` beyond its passes."""
    scalar = _along(task.apply_fn, np.shape(task.x)[1:], task.c)
    wide = jnp.zeros((task.n, int(np.prod(np.shape(task.x)[1:])) + task.c), task.x.dtype)
    whole = estimate(scalar, task.params, wide)
    return whole.flops - 3 * whole.forward_flops_per_sample * task.n


def updated(
    theta: Float[np.ndarray, "nc kc"],
    v: Float[np.ndarray, "n c"],
    true: Float[np.ndarray, "n n"],
    image: Float[np.ndarray, "n kc"],
) -> tuple[Float[np.ndarray, "nc kc"], float]:
    """The kernel that acts along ``V`` as the true one does, and elsewhere as scaled.

    With ``A = V^T Theta V``, ``kappa = tr S/tr A`` and ``P = (A + ridge)^-1 V^T Theta``,

    ``Theta' = kappa Theta + P^T (S - kappa A) P``:

    for no ridge ``V^T Theta' V = S`` and ``u^T Theta' u = kappa u^T Theta u`` for all ``u``
    with ``V^T Theta u = 0``, as of the symmetric secant updates of quasi-Newton methods with
    many directions at once. Positive semi-definite if ``Theta`` is: ``Theta - P^T A P`` is
    never less than its Schur complement.

    Args:
        theta: The old kernel.
        v: Directions.
        true: ``S``.
        image: ``V^T Theta``.

    Returns:
        ``Theta'`` and ``kappa``.
    """
    n, c = v.shape
    a = np.einsum("ijb,jb->ij", image[:, : n * c].reshape(n, n, c), v)
    kappa = float(np.trace(true) / max(np.trace(a), np.finfo(float).tiny))
    ridge = RIDGE * np.trace(a) / n * np.eye(n)
    p = scipy.linalg.solve(a + ridge, image, assume_a="pos")
    change = p[:, : n * c].T @ ((true - kappa * a) @ p)
    return kappa * np.asarray(theta) + change, kappa


def _along(apply_fn: ApplyFn, shape: tuple[int, ...], c: int) -> ApplyFn:
    """The model ``v_i^T f(x_i)``, its input ``x_i`` and ``v_i`` side by side."""

    def make() -> ApplyFn:
        if isinstance(apply_fn, Masked):
            return Masked(_along(apply_fn.model, shape, c), apply_fn.masks)
        # By a reference: what is kept for its owner must not keep the owner.
        ref = weakref.ref(apply_fn)

        def scalar(params, joined):
            alive = ref()
            assert alive is not None
            x, v = joined[:, :-c], joined[:, -c:]
            return jnp.sum(alive(params, x.reshape(-1, *shape)) * v, axis=1, keepdims=True)

        return scalar

    return programs.kept(apply_fn, (_along, shape, c), make)


def _next(way: Segment, steps: int) -> int | None:
    """The next place; ``None`` where the run ends before."""
    loss = way.curves[0].loss
    fallen = np.flatnonzero(loss <= FALL * loss[0])
    latest = max(LATER * way.first, way.first + FIRST * steps)
    found = min(way.first + max(int(fallen[0]), 1) if len(fallen) else steps, round(latest))
    return found if found < steps else None


def _after(look: Look, loss: Float[np.ndarray, " t"]) -> Look:
    """With what is predicted after it."""
    return Look(look.step, look.gap, look.loss_ratio, look.speed, look.linear, loss.copy())
