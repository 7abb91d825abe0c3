"""Seconds and operations of the training that is predicted, from a few timed steps."""

import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ttp_jax import sampling
from ttp_jax.accelerators import correction
from ttp_jax.linearisation import calibration, stage_costs
from ttp_jax.prediction.asked import Asked
from ttp_jax.prediction.way import Parts


class Seconds(NamedTuple):
    """What training takes up to every step that is read."""

    step_s: float
    seconds: Float[np.ndarray, " t"]
    operations: Float[np.ndarray, " t"]
    samples_timed: int
    """Samples that the timed steps have seen."""


TIMED_SHARE, TIMED_LEAST = 0.02, 10
"""Of the samples, in a step that is timed for a coarse run: it takes few itself."""


def of_training(asked: Asked, forward_flops: float, parts: Parts) -> Seconds:
    """Time a training step of the task, of each of its stages where layers freeze.

    Args:
        asked: The prediction.
        forward_flops: Operations of a forward pass of one sample.
        parts: What the timing takes is counted here.
    """
    task, optimizer, steps = asked.task, asked.optimizer, asked.steps
    with parts.timed("timing_s", "timing a training step"):
        step_s, samples = calibration.step_seconds(task, optimizer, at_most=_at_most(asked))
        if task.views is not None:
            begin = time.perf_counter()
            task.view(0)
            took = time.perf_counter() - begin
            step_s += took / sampling.steps_per_epoch(task.n, optimizer.batch_size)
        dearer = 1.0
        if asked.correction is not None and optimizer.batch_size is not None:
            batch = optimizer.batch_size
            extra = correction.extra_passes(asked.correction, steps, batch, task.n)
            dearer += extra / (3 * batch * steps)
        step_s *= dearer
        per_step = 3 * forward_flops * (optimizer.batch_size or task.n)
        seconds, operations = asked.read * step_s, asked.read * per_step * dearer
        if asked.groups is not None:
            stages = stage_costs.stage_costs(task, asked.sgd, asked.groups, steps=steps)
            samples *= 1 + len(stages)
            seconds, operations = (
                stage_costs.spent(stages, per_step, steps, seconds=wanted)[asked.read]
                for wanted in (True, False)
            )
    return Seconds(step_s, seconds, operations, samples)


def _at_most(asked: Asked) -> int:
    """Samples in a step that is timed; two at least are, and of few samples no more in both."""
    if asked.coarse is not None:
        return max(TIMED_LEAST, round(TIMED_SHARE * asked.task.n))
    few = asked.kernel_samples
    return asked.task.n if few is None else few // 2
