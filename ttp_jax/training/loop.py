"""The loop of real training: takes steps, reads curves, keeps weights, stops early, times."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from ttp_jax import outputs
from ttp_jax.progress import bar
from ttp_jax.reading import Keep, at_weights, kept_steps, read_steps
from ttp_jax.timing import measured
from ttp_jax.types import Curve, InputError, Kept, Params, Task

State = Any
"""Whatever the steps hand on: weights, what the optimiser remembers, what is frozen."""


@dataclass(frozen=True)
class Steps:
    """How a task is trained, step by step; the loop knows no more of it.

    What a step does it is timed for: a pass over all samples at the start of an epoch, say,
    or outputs of a frozen part that are put by, belong into the step that they come before.
    """

    start: Callable[[], State]
    """The state at step 0. Compiles all programs of the run; its seconds are no training."""
    step: Callable[[State, int], tuple[State, Any]]
    """From step ``k`` to ``k + 1``: the new state, and the loss of the mini-batch before its
    update. It need not wait for its results."""
    weights: Callable[[State], Params]
    """Those of :attr:`ttp_jax.Task.params`, whole."""
    flops: Callable[[int], float]
    """Floating-point operations of the first so many steps."""


def run(
    task: Task,
    taking: Steps,
    *,
    steps: int,
    every: int = 1,
    stop: Callable[[Curve], bool] | None = None,
    keep: Keep = (),
) -> Curve:
    """Take the steps and read the curve on all samples, those held out apart.

    A run whose loss stops being finite ends there; the rest of its curve is NaN. Arguments
    and returns are those of :func:`ttp_jax.finetune`, which says more of them.

    Raises:
        InputError: Arguments out of range, or a loss that is not finite at the start.

    Cost: that of the steps, and ``n + m`` forward passes for each reading and step kept.
    """
    wanted = set(kept_steps(keep, steps).tolist())
    read = read_steps(steps, every)
    read_curves = at_weights(task)

    with measured() as compiling, bar("compiling the training step", None):
        state = taking.start()
        read_curves(taking.weights(state))

    curves = np.full((len(task.parts), 2, len(read)), np.nan)
    loss = curves[0, 0]
    seconds = np.full(len(read), np.nan)
    train_s = reading_s = 0.0
    kept, weights = len(read), {}
    of_batches = []
    with bar("fine-tuning", steps) as advance:
        for at, step_read in enumerate(read):
            begin = 0 if at == 0 else read[at - 1]
            start = time.perf_counter()
            for k in range(begin, step_read):
                state, value = taking.step(state, k)
                of_batches.append(value)
                if k + 1 in wanted:
                    weights[k + 1] = taking.weights(state)
            jax.block_until_ready(state)
            trained = time.perf_counter()
            curves[:, :, at] = read_curves(taking.weights(state))
            train_s += trained - start
            reading_s += time.perf_counter() - trained
            seconds[at] = train_s
            advance(step_read - begin)
            if not np.isfinite(loss[at]):
                break
            seen = at + 1
            if (
                stop is not None
                and seen < kept
                and stop(_curve(read, curves, seconds, seen))
            ):
                kept = seen
                break
    if not np.isfinite(loss[0]):
        raise InputError(
            "the loss at the start must be finite, got "
            f"{loss[0]}; check the weights and the preprocessing"
        )
    last = int(read[kept - 1])
    taken = np.full(last, np.nan)
    taken[: len(of_batches)] = jax.device_get(of_batches)
    return dataclasses.replace(
        _curve(read, curves, seconds, kept),
        batch_loss=taken,
        timings={
            "train_s": train_s,
            "reading_s": reading_s,
            "compile_s": compiling.run_s + compiling.compile_s,
        },
        flops=taking.flops(last),
        operations=np.array([taking.flops(int(k)) for k in read[:kept]]),
        planned_steps=steps if kept < len(read) else None,
        kept=_kept(task, weights) if weights else None,
    )


def _kept(task: Task, weights: Mapping[int, Params]) -> Kept:
    """Weights by step, with their outputs and inner products."""
    x, found = task.joint.x, tuple(weights.values())
    return Kept(
        steps=np.array(list(weights)),
        outputs=np.stack([outputs.forward(task.apply_fn, w, x) for w in found]),
        gram=outputs.gram_of_moves(task.params, found),
        weights=found,
    )


def _curve(
    read: Int[np.ndarray, " t"],
    curves: Float[np.ndarray, "parts 2 t"],
    seconds: Float[np.ndarray, " t"],
    kept: int,
) -> Curve:
    """The first ``kept`` readings, those of samples held out with them."""
    curve, *held_out = (
        Curve(read[:kept], series[0, :kept], series[1, :kept], seconds[:kept])
        for series in curves
    )
    return dataclasses.replace(curve, held_out=held_out[0] if held_out else None)
