"""Groups of weights at rates of their own (:mod:`ttp_jax.linearisation.grouped_prediction`)."""

from ttp_jax.kernel.choice import Computed
from ttp_jax.linearisation import grouped_prediction
from ttp_jax.linearisation.calibration import Start
from ttp_jax.prediction.asked import Asked, refuse, require_kernel_of_task
from ttp_jax.prediction.way import Found, Parts, Way, dynamics_flops
from ttp_jax.types import Cost


def _require(asked: Asked) -> None:
    kernel, groups = asked.kernel, asked.groups
    assert groups is not None
    others = asked.others("groups", "solver 'moments'", "held_out", "keep")
    if asked.solver == "moments" and len(asked.keep):
        others.append("keep by solver 'moments'")
    if isinstance(kernel, Computed) and (
        kernel.shares is None or len(kernel.shares) != groups.count
    ):
        others.append("a kernel without shares")
    refuse(
        others,
        "groups of weights are predicted by solvers 'simulate' and 'moments' of SGD, once "
        "linearised",
    )
    require_kernel_of_task(asked)


def _predicted(asked: Asked, start: Start, expected: Cost) -> Found:
    task, sgd, groups, parts = asked.task, asked.sgd, asked.groups, Parts()
    steps, every = asked.steps, asked.every
    assert groups is not None
    kernel = asked.kernel
    if not isinstance(kernel, Computed):
        kernel = asked.described.of(
            task, groups=groups, memory_budget_bytes=asked.memory_budget_bytes
        )
    parts.add_kernel(kernel)
    assert kernel.shares is not None
    toward_zero = sgd.weight_decay > 0 and sgd.decay_toward == "zero"
    with parts.timed("forward_s", "outputs at the start"):
        first = grouped_prediction.linearised(
            task, groups, kernel.shares, decayed=toward_zero
        )
    with parts.timed("solve_s", f"dynamics ({asked.solver})"):
        path = grouped_prediction.simulated(
            first, sgd, steps=steps, seed=asked.seed, every=every, keep=asked.keep
        )
        curves = path.curves
        if asked.solver == "moments":
            curves = grouped_prediction.expected(first, sgd, steps=steps, every=every)
    with parts.timed("trust_s", "linearisation gap"):
        verdict = grouped_prediction.judged(first, sgd, path, curves[0].loss, steps=steps)
    kept = None
    if len(asked.kept):
        with parts.timed("kept_s"):
            kept = grouped_prediction.kept(first, path, asked.kept)
    return Found(
        curves=curves,
        trust=verdict,
        timings=parts.timings,
        compile_s=parts.compile_s,
        flops=expected.flops
        + expected.forward_flops_per_sample * (2 + 6 * groups.count) * task.n
        + groups.count * dynamics_flops(task, sgd, steps),
        kept=kept,
    )


WAY = Way(_require, _predicted)
