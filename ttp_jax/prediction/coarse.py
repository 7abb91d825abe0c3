"""By a coarse run, few and long real gradients and no kernel; or by one beside a kernel."""

import dataclasses
from dataclasses import dataclass

from ttp_jax import chances, outputs
from ttp_jax.linearisation import coarse_path, coarse_plan
from ttp_jax.linearisation.calibration import Start
from ttp_jax.prediction.asked import Asked, refuse
from ttp_jax.prediction.way import Found, Parts, Way
from ttp_jax.types import Cost, InputError


@dataclass(frozen=True)
class CoarseCost(Cost):
    """What a coarse run will cost."""

    planned: coarse_plan.Plan
    own: int
    """Steps of the run that is predicted."""

    def __str__(self) -> str:
        return (
            f"coarse run: {self.planned}, in the place of {self.own}, {self.flops:.2g} "
            "operations"
        )


def _require(asked: Asked) -> None:
    if asked.check is not None:
        raise InputError(
            f"check lays a coarse run beside another prediction, got coarse {asked.coarse} as "
            "well; leave either out"
        )
    _require_plain(asked, "coarse", "held_out")
    _plan(asked, asked.coarse)


def require_check(asked: Asked) -> None:
    """Refuse to lay a coarse run beside what it cannot follow.

    Raises:
        InputError: Another optimiser than SGD, or steps that are not plain.
    """
    _require_plain(asked, "held_out", "relinearize", "kernel_samples")
    _plan(asked, asked.check)


def _require_plain(asked: Asked, *usable: str) -> None:
    others = asked.others(*usable)
    if asked.task.batch_norm is not None:
        others.append("BatchNorm in training mode")
    refuse(
        others,
        "coarse and check follow plain SGD on all weights, by the solver 'simulate'",
    )


def _plan(asked: Asked, passes: int | float | None) -> coarse_plan.Plan:
    assert passes is not None
    return coarse_plan.plan(asked.task, asked.sgd, steps=asked.steps, passes=passes)


def checked(asked: Asked, found: Found, expected: Cost) -> Found:
    """A prediction with what a coarse run beside it says of it."""
    parts, passes = Parts(), asked.check
    assert passes is not None
    with parts.timed("check_s"):
        run = coarse_path.coarse_path(
            asked.task, asked.sgd, steps=asked.steps, passes=passes, seed=asked.seed
        )
    verdict = chances.judge_checked(
        found.trust, found.curves[0].loss, run.curves[0].loss[asked.read]
    )
    return dataclasses.replace(
        found,
        trust=verdict,
        timings={**found.timings, **parts.timings},
        compile_s=found.compile_s + parts.compile_s,
        flops=found.flops + expected.forward_flops_per_sample * run.passes,
    )


def _cost(asked: Asked) -> CoarseCost:
    task, planned = asked.task, _plan(asked, asked.coarse)
    forward = outputs.forward_flops(task.apply_fn, task.params, task.x)
    return CoarseCost(
        flops=forward * coarse_plan.passes_of(task, planned),
        forward_flops_per_sample=forward,
        planned=planned,
        own=asked.steps,
    )


def _predicted(asked: Asked, start: Start, expected: Cost) -> Found:
    parts = Parts()
    assert asked.coarse is not None
    with parts.timed("solve_s"):
        found = coarse_path.coarse_path(
            asked.task, asked.sgd, steps=asked.steps, passes=asked.coarse, seed=asked.seed
        )
    parts.add("kernel_s", 0.0)
    return Found(
        curves=tuple(curve.at(asked.read) for curve in found.curves),
        trust=chances.judge_coarse(found.curves[0].loss, found.coarser.loss),
        timings=parts.timings,
        compile_s=parts.compile_s,
        flops=expected.flops,
    )


WAY = Way(_require, _predicted, _cost)
