"""Masked weights, corrected gradients (:mod:`ttp_jax.linearisation.masked_prediction`)."""

from ttp_jax.kernel.choice import Computed
from ttp_jax.linearisation import masked_prediction, second_look
from ttp_jax.linearisation.calibration import Start
from ttp_jax.prediction.asked import Asked, refuse, require_kernel_of_task
from ttp_jax.prediction.way import Found, Parts, Way, dynamics_flops
from ttp_jax.types import Cost


def _require(asked: Asked) -> None:
    refuse(
        asked.others("masks", "correction", "held_out"),
        "masked weights and corrected gradients are predicted for SGD by solver 'simulate' and "
        "one kernel of all samples",
    )
    masked_prediction.require_usable(
        asked.task,
        asked.sgd,
        asked.sparsity,
        asked.correction,
        asked.described,
        asked.steps,
    )
    require_kernel_of_task(asked)


def _predicted(asked: Asked, start: Start, expected: Cost) -> Found:
    task, sgd, parts = asked.task, asked.sgd, Parts()
    given = asked.kernel if isinstance(asked.kernel, Computed) else None
    with parts.timed("solve_s"):
        found = masked_prediction.along_masks(
            task,
            sgd,
            steps=asked.steps,
            sparsity=asked.sparsity,
            correction=asked.correction,
            kernel=given or asked.described,
            seed=asked.seed,
            memory_budget_bytes=asked.memory_budget_bytes,
        )
    given_s = 0.0 if given is None else given.run_s
    parts.add("solve_s", given_s - found.kernel_s)
    parts.add("kernel_s", found.kernel_s)
    with parts.timed("trust_s", "a second look"):
        verdict, looks = masked_prediction.judged(
            task, sgd, found, asked.sparsity, steps=asked.steps, seed=asked.seed
        )
    passes = found.passes + second_look.PASSES * looks
    return Found(
        curves=tuple(curve.at(asked.read) for curve in found.curves),
        trust=verdict,
        timings=parts.timings,
        compile_s=parts.compile_s,
        flops=found.kernels * expected.flops
        + passes * expected.forward_flops_per_sample * (task.n + task.m)
        + dynamics_flops(task, sgd, asked.steps * (1 + looks)),
        epochs=None if asked.correction is None else found.epochs._asdict(),
    )


WAY = Way(_require, _predicted)
