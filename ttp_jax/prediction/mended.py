"""The default: one kernel, mended along the path (:mod:`ttp_jax.linearisation.mending`)."""

import numpy as np

from ttp_jax import chances, outputs, trust
from ttp_jax.linearisation import mending
from ttp_jax.linearisation.calibration import Start
from ttp_jax.prediction.asked import Asked, require_together
from ttp_jax.prediction.way import Found, Parts, Way, dynamics_flops
from ttp_jax.types import Cost, Curve


def _predicted(asked: Asked, start: Start, expected: Cost) -> Found:
    task, sgd, parts = asked.task, asked.sgd, Parts()
    with parts.timed("forward_s", "outputs at the start"):
        f0 = outputs.at_the_start(task.apply_fn, start.params, task.joint.x)
    kernel = asked.kernel_of(task, start)
    parts.add_kernel(kernel)
    theta = kernel.theta[: task.n * task.c]
    with parts.timed("solve_s"):
        found = mending.mended(
            task,
            sgd,
            start,
            theta,
            f0,
            steps=asked.steps,
            mends=asked.mend,
            clock=asked.mend_clock,
            seed=asked.seed,
            memory_budget_bytes=asked.memory_budget_bytes,
        )
    with parts.timed("trust_s"):
        curve = found.curves[0]
        taken = np.arange(start.steps, asked.steps + 1)
        verdict = chances.judge(
            found.looks,
            Curve(taken, curve.loss, curve.accuracy, np.zeros(len(taken))),
            curvature=trust.largest_curvature(
                theta[:, : task.n * task.c], f0[: task.n], task.targets, loss=task.loss
            ),
            gap=max((look.gap for look in found.looks), default=0.0),
            mended=True,
            sgd=sgd,
            peak_rate=asked.peak_rate,
        )
    return Found(
        curves=tuple(curve.at(asked.ahead(start)) for curve in found.curves),
        trust=verdict,
        timings=parts.timings,
        compile_s=parts.compile_s,
        flops=expected.flops
        + found.passes * expected.forward_flops_per_sample * (task.n + task.m)
        + len(found.looks) * mending.kernel_flops(task)
        + dynamics_flops(task, sgd, found.solved_steps),
    )


WAY = Way(require_together, _predicted)
