"""Sparse training and corrected gradients, predicted: a linearisation for every set of masks.

Masks that stay are a part of the model (:func:`ttp_jax.accelerators.sparsity.settled`): its
kernel is ``J diag(s) J^T``, and one linearisation is followed to the end. Where masks move the
weights are moved along the predicted path to each update, the masks are updated there as the
real run would update them (by the true model's gradient on that step's mini-batch, at weights
that no training step has led to), and the model is linearised again: outputs jump by what was
dropped, the kernel by what was dropped and grown.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import chances, outputs, trust
from ttp_jax.accelerators import correction as corrections
from ttp_jax.accelerators import sparsity as masks_of
from ttp_jax.accelerators.corrected_path import CorrectedSegment, Epochs, corrected_segment
from ttp_jax.accelerators.correction import Correction
from ttp_jax.accelerators.sparsity import Masks, Sparsity
from ttp_jax.kernel.choice import Computed, Kernel
from ttp_jax.linearisation import calibration, second_look
from ttp_jax.optimizers import SGD, Optimizer
from ttp_jax.progress import bar
from ttp_jax.reading import Readings, at_weights
from ttp_jax.trust import linearization_gap
from ttp_jax.types import Curve, InputError, Params, Task, Trust, apply_masks


@dataclass(frozen=True)
class MaskedPath:
    """A curve under masks, and what it took."""

    curves: tuple[Readings, ...]
    """At every step, of each of :attr:`Task.parts`."""
    epochs: Epochs
    """What the gradients were corrected by."""
    masks: Masks | None
    """At the end; ``None`` of dense weights."""
    first: CorrectedSegment
    """Up to the first mask update."""
    theta: Float[np.ndarray, "nc nc"]
    """The first kernel, of the samples that are trained on."""
    outputs: Float[np.ndarray, "n c"]
    """At the start, of the same."""
    gaps: tuple[float, ...]
    """``|f(w_predicted) - f_linear| / |f_linear - f_first|`` at the end of each of them."""
    kernels: int
    kernel_s: float
    """Seconds of the kernels, one that was given among them."""
    passes: int
    """Forward passes of all samples beside the kernels."""


def start_of(task: Task, sparsity: Sparsity | None) -> tuple[Params, Masks | None]:
    """Weights that a run begins with, and their masks."""
    if sparsity is None:
        return task.params, None
    masks = masks_of.first_masks(task.params, sparsity)
    return apply_masks(masks, task.params), masks


def kernel_at_the_start(
    task: Task,
    sparsity: Sparsity | None,
    kernel: Kernel,
    *,
    memory_budget_bytes: int | None = None,
) -> Computed:
    """The kernel of the masked start, for predictions that differ in what follows."""
    w, masks = start_of(task, sparsity)
    return _kernel(task, w, masks, kernel, memory_budget_bytes)


def along_masks(
    task: Task,
    sgd: SGD,
    *,
    steps: int,
    sparsity: Sparsity | None,
    correction: Correction | None,
    kernel: Kernel | Computed,
    seed: int = 0,
    memory_budget_bytes: int | None = None,
) -> MaskedPath:
    """Follow the linearised model through all masks to step ``T``.

    Args:
        task: What would be trained, dense.
        sgd: How.
        steps: ``T``.
        sparsity: The masks; ``None`` for none.
        correction: Of the gradients; ``None`` for none.
        kernel: What computes the kernels, or that of :func:`kernel_at_the_start`.
        seed: Of the stream of mini-batches.
        memory_budget_bytes: For a kernel.

    Raises:
        InputError: A kernel other than the exact one under masks, outputs that are not finite.

    Cost: for each set of masks a kernel, up to 10 forward passes a sample, and the dynamics.

    Breaks when: the model leaves its linearisation before the next mask update. Weights that
    RigL grows are the largest of a gradient's entries: where predicted weights are off, so are
    the masks, and what follows is then another run's.
    """
    described = kernel.described if isinstance(kernel, Computed) else kernel
    computed = partial(
        _kernel, task, kernel=described, memory_budget_bytes=memory_budget_bytes
    )
    w, masks = start_of(task, sparsity)
    updates = np.zeros(0, int) if sparsity is None else sparsity.update_steps(steps)
    still = np.zeros(steps, bool)
    still[updates] = True
    ends = [*(int(k) + 1 for k in updates if k + 1 < steps), steps]
    joint = task.joint
    curves = np.full((len(task.parts), 2, steps + 1), np.nan)
    epochs = None
    v = snapshot = None
    regrow = None if sparsity is None else _regrowth(task, sgd, sparsity, steps, seed)
    begin, kernel_s, passes = 0, 0.0, 0
    pieces: list[tuple[CorrectedSegment, np.ndarray, np.ndarray]] = []
    gaps = []
    with bar("masks and dynamics", len(ends)) as advance:
        for end in ends:
            f = outputs.at_the_start(task.apply_fn, w, joint.x).astype(np.float64)
            made = (
                kernel
                if isinstance(kernel, Computed) and not pieces
                else computed(w, masks)
            )
            kernel_s += made.run_s
            decayed = _masked(masks, calibration.decayed(_at(task, sparsity), sgd, w))
            u0 = q0 = None
            if v is not None:
                u0 = outputs.jvp(task.apply_fn, w, joint.x, v)
            if sgd.weight_decay:
                q0 = outputs.jvp(task.apply_fn, w, joint.x, decayed)
            theta = made.theta[: task.n * task.c]
            way = corrected_segment(
                theta,
                f,
                joint.targets,
                sgd,
                correction,
                loss=task.loss,
                steps=steps,
                first=begin,
                last=end,
                still=still,
                snapshot=snapshot,
                u0=u0,
                q0=q0,
                seed=seed,
            )
            snapshot = way.snapshot
            for at, read in enumerate(way.segment.curves):
                curves[at, :, begin : end + 1] = read.loss, read.accuracy
            epochs = way.epochs if epochs is None else _joined(epochs, way.epochs)
            pieces.append((way, theta, f))
            w, v = _moved(task, sgd, w, v, decayed, masks, way)
            reached = outputs.forward(task.apply_fn, w, task.x)
            gaps.append(linearization_gap(reached, way.segment.outputs, f[: task.n]))
            passes += 2 + 3 * sum(x is not None for x in (u0, q0)) + 5
            advance(1)
            if still[end - 1] and regrow is not None and np.isfinite(gaps[-1]):
                w, v, masks = regrow(w, v, masks, end - 1)
                if end == steps:
                    curves[:, :, end] = _read(task, w)
            elif not np.isfinite(gaps[-1]):
                break
            begin = end
    assert epochs is not None
    first, theta, f0 = pieces[0]
    return MaskedPath(
        curves=tuple(Readings(*values) for values in curves),
        epochs=epochs,
        masks=masks,
        first=first,
        theta=theta[:, : task.n * task.c],
        outputs=f0[: task.n],
        gaps=tuple(gaps),
        kernels=len(pieces),
        kernel_s=kernel_s,
        passes=passes,
    )


def judged(
    task: Task,
    sgd: SGD,
    found: MaskedPath,
    sparsity: Sparsity | None,
    *,
    steps: int,
    seed: int,
) -> tuple[Trust, int]:
    """Whether to believe a path, and how many second looks that took.

    One linearisation is judged as that of a plain run is
    (:mod:`ttp_jax.linearisation.second_look`), at the path without the correction, whose mean
    is the same; several by the largest of their gaps.
    """
    w, masks = start_of(task, sparsity)
    at = dataclasses.replace(task, params=w, held_out=None)
    loss = found.curves[0].loss
    common = {
        "curvature": trust.largest_curvature(
            found.theta, found.outputs, task.targets, loss=task.loss
        ),
        "sgd": sgd,
        "peak_rate": float(sgd.learning_rates(steps).max()),
    }
    if len(found.gaps) > 1:
        verdict = trust.judge_by_gaps(
            gap=max(found.gaps),
            early_gap=0.0,
            predicted_loss=loss,
            assumed=f"masks are those of the predicted path ({found.kernels} linearisations)",
            **common,
        )
        return verdict, 0
    if masks is not None:
        at = masks_of.masked_task(at, masks)
    q0 = None
    if sgd.weight_decay and sgd.decay_toward == "zero":
        q0 = outputs.jvp(at.apply_fn, at.params, at.x, at.params)
    looks = second_look.look_along(
        at,
        sgd,
        calibration.at_the_start(at),
        found.theta,
        found.outputs,
        steps=steps,
        q0=q0,
        seed=seed,
    )
    curve = Curve(np.arange(len(loss)), loss, found.curves[0].accuracy, 0.0 * loss)
    return chances.judge(looks, curve, gap=max(found.gaps), **common), len(looks)


def require_usable(
    task: Task,
    sgd: Optimizer,
    sparsity: Sparsity | None,
    correction: Correction | None,
    kernel: Kernel,
    steps: int,
) -> None:
    """Raises: InputError: What :func:`along_masks` would refuse."""
    if sparsity is not None:
        require_exact(kernel)
        masks_of.counts_of(task.params, sparsity)
        sparsity.update_steps(steps)
    if correction is not None:
        corrections.require_batches(task.n // (sgd.batch_size or task.n))


def require_exact(kernel: Kernel) -> None:
    """Raises: InputError: A kernel that has no masks."""
    if (kernel.name, kernel.outputs) != ("exact", "full"):
        raise InputError(
            "masked weights are predicted by the exact kernel alone, got "
            f"{kernel.name!r} between outputs {kernel.outputs!r}; leave the kernel out"
        )


def _at(task: Task, sparsity: Sparsity | None) -> Task:
    """The task at the weights that its run begins with: what decay may pull to."""
    return dataclasses.replace(task, params=start_of(task, sparsity)[0])


def _masked(masks: Masks | None, values: Params) -> Params:
    return values if masks is None else apply_masks(masks, values)


def _kernel(
    task: Task,
    w: Params,
    masks: Masks | None,
    kernel: Kernel,
    memory_budget_bytes: int | None,
) -> Computed:
    at = dataclasses.replace(task, params=w)
    if masks is not None:
        require_exact(kernel)
        at = masks_of.masked_task(at, masks)
    return kernel.of(at, memory_budget_bytes=memory_budget_bytes)


def _joined(one: Epochs, other: Epochs) -> Epochs:
    """What either has seen."""
    return Epochs(*(np.where(np.isnan(b), a, b) for a, b in zip(one, other, strict=True)))


def _moved(
    task: Task,
    sgd: SGD,
    w: Params,
    v: Params | None,
    decayed: Params,
    masks: Masks | None,
    way: CorrectedSegment,
) -> tuple[Params, Params | None]:
    """Weights and velocity at the end of a piece."""
    end = way.segment
    wanted = [end.alpha, end.beta] if sgd.momentum else [end.alpha]
    step, *rest = (
        _masked(masks, found) for found in outputs.vjps(task.apply_fn, w, task.x, wanted)
    )
    along = [(1.0, step), (end.shrink, decayed)]
    if v is not None:
        along.append((end.coast, v))
    there = outputs.minus(w, along)
    if not sgd.momentum:
        return there, None
    speed = outputs.minus(rest[0], [(-end.pull, decayed)])
    if v is not None:
        speed = outputs.minus(speed, [(-end.speed, v)])
    return there, speed


def _regrowth(
    task: Task, sgd: SGD, sparsity: Sparsity, steps: int, seed: int
) -> Callable[[Params, Params | None, Masks, int], tuple[Params, Params | None, Masks]]:
    """``(w, v, masks, k) -> (w, v, masks)``: the mask update of step ``k``."""
    counts = masks_of.counts_of(task.params, sparsity)
    drops = masks_of.drops_of(sparsity, counts, steps)
    stream = sgd.batches(task.n, steps, seed)
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)
    gradient = outputs.batch_gradient(task)

    def of(w, v, masks, k):
        rows = None if stream is None else jnp.asarray(stream[k])
        g = gradient(w, x, y, rows)
        key = masks_of.update_key(sparsity, k)
        new = masks_of.moved(masks, w, g, counts, drops[k], key, grow=sparsity.grow)
        kept = jax.tree.map(jnp.logical_and, masks, new)
        w = apply_masks(kept, w)
        return w, None if v is None else apply_masks(kept, v), new

    return of


def _read(task: Task, w: Params) -> np.ndarray:
    return np.array(at_weights(task)(w))
