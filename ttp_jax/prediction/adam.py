"""Adam, by one linearisation and the second moments along its path."""

import numpy as np

from ttp_jax import outputs, trust
from ttp_jax.dynamics.adaptive import WAYPOINT_LOSS
from ttp_jax.kernel.choice import Computed
from ttp_jax.kernel.empirical import KernelCost
from ttp_jax.linearisation import preconditioning
from ttp_jax.linearisation.calibration import Start
from ttp_jax.optimizers import Adam
from ttp_jax.prediction.asked import Asked, refuse
from ttp_jax.prediction.way import Found, Parts, Way, dynamics_flops
from ttp_jax.types import Cost


def _require(asked: Asked) -> None:
    others, described = asked.others("Adam"), asked.described
    if isinstance(asked.kernel, Computed) or (
        (described.name, described.outputs) != ("exact", "full")
    ):
        others.append("kernel")
    refuse(others, "Adam is predicted by solver 'simulate' and the exact kernel alone")


def _cost(asked: Asked) -> KernelCost:
    return preconditioning.cost(asked.task, memory_budget_bytes=asked.memory_budget_bytes)


def _predicted(asked: Asked, start: Start, expected: Cost) -> Found:
    task, adam, parts = asked.task, asked.optimizer, Parts()
    assert isinstance(adam, Adam)
    with parts.timed("forward_s", "outputs at the start"):
        f0 = outputs.at_the_start(task.apply_fn, task.params, task.x)
        q0 = None
        if adam.weight_decay and adam.decay_toward == "zero":
            q0 = outputs.jvp(task.apply_fn, task.params, task.x, task.params)
    with parts.timed("solve_s", "kernels and dynamics (Adam)"):
        found, made = preconditioning.along_the_path(
            task,
            adam,
            f0,
            q0,
            steps=asked.steps,
            seed=asked.seed,
            every=asked.every,
            memory_budget_bytes=asked.memory_budget_bytes,
        )
    parts.add("solve_s", -made.run_s)
    parts.add("kernel_s", made.run_s)
    path = found.path
    with parts.timed("trust_s", "linearisation gap"):

        def gap(at) -> float:
            w = preconditioning.moved_weights(task, made, at.alpha, at.shrink)
            f = outputs.forward(task.apply_fn, w, task.x)
            return trust.linearization_gap(f, at.outputs, f0)

        # Rates grow where gradients shrink, and with them the curvature of cross-entropy.
        places = [(f0, found.rates[0]), (path.outputs, found.rates[-1])]
        if found.waypoint is not None:
            passed = np.argmax(path.loss <= WAYPOINT_LOSS * path.loss[0])
            rate = found.rates[max(path.steps[passed], 1) - 1]
            places.append((found.waypoint.outputs, rate))
        curvature, rate = max(
            (
                (
                    trust.largest_curvature(made.theta, f, task.targets, loss=task.loss),
                    float(rate),
                )
                for f, rate in places
                if np.isfinite(f).all()
            ),
            key=lambda pair: pair[0] * pair[1],
        )
        verdict = trust.judge_by_gaps(
            curvature=curvature,
            gap=gap(path),
            early_gap=0.0 if found.waypoint is None else gap(found.waypoint),
            sgd=adam,
            peak_rate=rate,
            predicted_loss=path.loss,
            assumed="Adam's second moments are taken as fixed but for their size",
        )
    return Found(
        curves=(path.trained,),
        trust=verdict,
        timings=parts.timings,
        compile_s=parts.compile_s,
        flops=expected.flops
        + 9 * expected.forward_flops_per_sample * task.n
        + dynamics_flops(task, adam, 2 * asked.steps),
    )


WAY = Way(_require, _predicted, _cost)
