"""One linearisation at the start, by any solver: the paper's prediction."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ttp_jax import chances, outputs, spectrum, trust
from ttp_jax.dynamics.flow import flow
from ttp_jax.dynamics.moments import moments
from ttp_jax.dynamics.path import Path, Places
from ttp_jax.dynamics.sde import sde
from ttp_jax.dynamics.simulate import simulate
from ttp_jax.linearisation import calibration, extrapolation, second_look
from ttp_jax.linearisation.calibration import Start
from ttp_jax.prediction.asked import Asked, require_together
from ttp_jax.prediction.way import Found, Parts, Way, dynamics_flops
from ttp_jax.reading import Readings
from ttp_jax.types import Cost, Curve, Kept, Task

SDE_PATHS = 32
"""Of the continuous process, where no bands are asked for and the mean alone is read."""


def _predicted(asked: Asked, start: Start, expected: Cost) -> Found:
    whole, parts, steps = asked.task, Parts(), asked.steps
    task, sgd = whole, asked.sgd
    if asked.kernel_samples is not None:
        task = extrapolation.few(whole, asked.kernel_samples, asked.seed)
        sgd = dataclasses.replace(sgd, batch_size=None)
    joint = task.joint
    with parts.timed("forward_s", "outputs at the start"):
        f0 = outputs.at_the_start(task.apply_fn, start.params, joint.x)
        targets = joint.targets
        q0 = u0 = None
        decayed = calibration.decayed(task, sgd, start.params)
        if sgd.weight_decay and (sgd.decay_toward == "zero" or start.steps):
            q0 = outputs.jvp(task.apply_fn, start.params, joint.x, decayed)
        if start.velocity is not None:
            u0 = outputs.jvp(task.apply_fn, start.params, joint.x, start.velocity)

    kernel = asked.kernel_of(task, start)
    parts.add_kernel(kernel)
    # What is held out answers to the gradients of the others and has none of its own.
    theta = kernel.theta[: task.n * task.c]

    with parts.timed("solve_s", f"dynamics ({asked.solver})"):
        problem = (theta, f0, targets, sgd)
        path = _path(asked, problem, first=start.steps, q0=q0, u0=u0)
        trained, doubt, solved = path.trained, 0.0, 1.0
        if task is not whole:
            solved += extrapolation.PARTS_COST
            loss, accuracy, doubt = extrapolation.to_many(
                *problem,
                path.loss,
                path.accuracy,
                n=whole.n,
                loss=task.loss,
                steps=steps,
                every=asked.every,
                q0=q0,
                seed=asked.seed,
            )
            trained = Readings(loss, accuracy)

    # Trust is judged on what is trained on.
    theta, k = theta[:, : task.n * task.c], task.n
    f0, targets = f0[:k], targets[:k]
    q0, u0 = (None if image is None else image[:k] for image in (q0, u0))
    with parts.timed("trust_s", "a second look"):
        along = [(float(path.shrink), decayed)]
        if start.velocity is not None:
            along.append((float(path.coast), start.velocity))
        w = outputs.moved_weights(
            task.apply_fn, start.params, task.x, path.alpha.reshape(f0.shape), along
        )
        f = outputs.forward(task.apply_fn, w, task.x)
        looks = second_look.look_along(
            task, sgd, start, theta, f0, steps=steps, q0=q0, u0=u0, seed=asked.seed
        )
        verdict = chances.judge(
            looks,
            Curve(path.steps, trained.loss, trained.accuracy, np.zeros(len(path.steps))),
            curvature=trust.largest_curvature(theta, f0, targets, loss=task.loss),
            gap=trust.linearization_gap(f, path.outputs, f0),
            sgd=sgd,
            peak_rate=asked.peak_rate,
            doubt=doubt,
        )
    kept = None
    if path.places is not None:
        with parts.timed("kept_s"):
            kept = _kept(task, path.places, theta, asked.kept)
    return Found(
        curves=(trained,) if path.held_out is None else (trained, path.held_out),
        trust=verdict,
        timings=parts.timings,
        compile_s=parts.compile_s,
        flops=expected.flops
        + expected.forward_flops_per_sample
        * ((5 + second_look.PASSES * len(looks)) * task.n + task.m)
        + dynamics_flops(task, sgd, steps * (solved + 1 + len(looks))),
        kept=kept,
    )


WAY = Way(require_together, _predicted)


def _path(
    asked: Asked,
    problem: tuple,
    *,
    first: int,
    u0: np.ndarray | None,
    q0: np.ndarray | None,
) -> Path:
    """What a solver makes of ``(theta, f0, targets, sgd)``; each takes what it has use for."""
    theta, f0, targets, sgd = problem
    solver, noise = asked.solver, asked.noise
    common: dict[str, Any] = {
        "loss": asked.task.loss,
        "steps": asked.steps,
        "every": asked.every,
    }
    random: dict[str, Any] = {"q0": q0, "seed": asked.seed, "paths": asked.paths}
    if solver == "flow":
        return flow(spectrum.of_gram(theta), f0, targets, sgd, **common)
    if solver == "simulate":
        own: dict[str, Any] = {"first": first, "u0": u0, "keep": asked.keep}
        return simulate(theta, f0, targets, sgd, **own, **common, **random)
    if solver in ("sde", "ode"):
        random["paths"] = asked.paths or SDE_PATHS
        noisy = solver == "sde"
        return sde(theta, f0, targets, sgd, noise=noise, noisy=noisy, **common, **random)
    form = "sde" if solver == "moments_sde" else "discrete"
    return moments(theta, f0, targets, sgd, q0=q0, form=form, noise=noise, **common)[0]


def _kept(
    task: Task,
    places: Places,
    theta: Float[np.ndarray, "nc nc"],
    steps: Int[np.ndarray, " k"],
) -> Kept:
    """Linearised models along the way. A JVP a sample."""
    q0 = outputs.jvp(task.apply_fn, task.params, task.x, task.params)
    size = outputs.gram_of_moves(task.params, ())[0, 0]
    own = theta[:, : q0.size]
    return Kept(steps, places.outputs, places.gram(own, q0.reshape(-1), float(size)))
