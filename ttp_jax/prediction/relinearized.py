"""One linearisation after the other along the predicted path."""

from ttp_jax import trust
from ttp_jax.kernel.choice import Computed
from ttp_jax.linearisation import relinearization
from ttp_jax.linearisation.calibration import Start
from ttp_jax.prediction.asked import Asked, require_together
from ttp_jax.prediction.way import Found, Parts, Way, dynamics_flops
from ttp_jax.types import Cost


def _predicted(asked: Asked, start: Start, expected: Cost) -> Found:
    task, sgd, parts = asked.task, asked.sgd, Parts()
    given = asked.kernel if isinstance(asked.kernel, Computed) else None
    assert asked.relinearize is not None
    with parts.timed("solve_s"):
        found = relinearization.relinearized(
            task,
            sgd,
            start,
            steps=asked.steps,
            tolerance=asked.relinearize,
            kernel=given or asked.described,
            seed=asked.seed,
            memory_budget_bytes=asked.memory_budget_bytes,
        )
    parts.add("solve_s", -found.kernel_s)
    parts.add("kernel_s", found.kernel_s)
    if given is not None:
        parts.add_kernel(given)
    with parts.timed("trust_s"):
        verdict = trust.judge_relinearized(
            curvature=trust.largest_curvature(
                found.theta, found.outputs, task.targets, loss=task.loss
            ),
            gap=found.gap,
            error=found.error,
            kernels=len(found.pieces),
            sgd=sgd,
            peak_rate=asked.peak_rate,
            predicted_loss=found.curves[0].loss,
        )
    return Found(
        curves=tuple(curve.at(asked.ahead(start)) for curve in found.curves),
        trust=verdict,
        timings=parts.timings,
        compile_s=parts.compile_s,
        flops=found.kernels * expected.flops
        + found.passes * expected.forward_flops_per_sample * (task.n + task.m)
        + dynamics_flops(task, sgd, found.solved_steps),
    )


WAY = Way(require_together, _predicted)
