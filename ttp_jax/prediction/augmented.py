"""Training on augmented pictures: the usual way, of a few views of each picture.

See :mod:`ttp_jax.linearisation.augmented_prediction`.
"""

import dataclasses

from ttp_jax import outputs
from ttp_jax.kernel.choice import Computed
from ttp_jax.kernel.empirical import KernelCost
from ttp_jax.linearisation import augmented_prediction, calibration
from ttp_jax.linearisation.calibration import Start
from ttp_jax.prediction import linearised, mended
from ttp_jax.prediction.asked import Asked, refuse
from ttp_jax.prediction.way import Found, Parts, Way, dynamics_flops
from ttp_jax.types import Cost, InputError


def _views(asked: Asked) -> int:
    """As many as were asked for, or as there are epochs."""
    epochs = augmented_prediction.epochs_of(asked.task, asked.sgd, asked.steps)
    return min(asked.views, epochs)


def _require(asked: Asked) -> None:
    others = asked.others("held_out")
    if isinstance(asked.kernel, Computed):
        others.append("a kernel that was computed before")
    if asked.views < 1:
        raise InputError(f"views must be at least 1, got {asked.views}")
    refuse(
        others,
        "augmented training is predicted by solver 'simulate' of SGD, with mends or once "
        "linearised",
    )


def _cost(asked: Asked) -> KernelCost:
    task = asked.task
    wide = augmented_prediction.shape_of(task, views=_views(asked))
    return asked.described.cost(
        task.apply_fn, task.params, wide, memory_budget_bytes=asked.memory_budget_bytes
    )


def _predicted(asked: Asked, start: Start, expected: Cost) -> Found:
    parts, views = Parts(), _views(asked)
    with parts.timed("forward_s", "views of the pictures"):
        wide, sgd = augmented_prediction.widened(asked.task, asked.sgd, views=views)
        f0 = outputs.at_the_start(wide.apply_fn, wide.params, wide.joint.x)
        q0 = None
        if sgd.weight_decay and sgd.decay_toward == "zero":
            q0 = outputs.jvp(wide.apply_fn, wide.params, wide.joint.x, wide.params)
    start = calibration.at_the_start(wide)
    kernel = asked.kernel_of(wide, start)
    own = dataclasses.replace(asked, task=wide, optimizer=sgd, kernel=kernel)
    found = (mended if asked.mend else linearised).WAY.predicted(own, start, expected)
    with parts.timed("trust_s", "other views"):
        doubt = augmented_prediction.doubt_of(
            wide,
            sgd,
            kernel.theta[: wide.n * wide.c],
            f0,
            q0,
            steps=asked.steps,
            seed=asked.seed,
        )
    curves = found.curves if asked.mend else tuple(c.at(asked.read) for c in doubt.curves)
    for name, spent in found.timings.items():
        parts.add(name, spent)
    return dataclasses.replace(
        found,
        curves=curves[1:],
        trust=augmented_prediction.judged(found.trust, doubt, views=views),
        timings=parts.timings,
        compile_s=found.compile_s + parts.compile_s,
        flops=found.flops + dynamics_flops(wide, sgd, 2 * asked.steps),
    )


WAY = Way(_require, _predicted, _cost)
