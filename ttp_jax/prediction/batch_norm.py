"""BatchNorm in training mode (:mod:`ttp_jax.linearisation.batch_norm_prediction`)."""

from ttp_jax import outputs
from ttp_jax.kernel.choice import Computed
from ttp_jax.linearisation import batch_norm_prediction
from ttp_jax.linearisation.calibration import Start
from ttp_jax.prediction.asked import Asked, refuse
from ttp_jax.prediction.way import Found, Parts, Way, dynamics_flops
from ttp_jax.types import Cost


def _require(asked: Asked) -> None:
    others = asked.others("held_out")
    if asked.task.views is not None:
        others.append("views")
    if isinstance(asked.kernel, Computed) or asked.described.name != "exact":
        others.append("a kernel")
    refuse(
        others,
        "BatchNorm in training mode is predicted by solver 'simulate' of SGD, once linearised, "
        "with the exact kernel",
    )


def _predicted(asked: Asked, start: Start, expected: Cost) -> Found:
    task, sgd, parts = asked.task, asked.sgd, Parts()
    with parts.timed("forward_s", "statistics of mini-batches"):
        like = batch_norm_prediction.settled(task, sgd, seed=asked.seed)
        own = like.task
        f0 = outputs.at_the_start(own.apply_fn, own.params, own.joint.x)
    kernel = asked.described.of(
        own, groups=like.groups, memory_budget_bytes=asked.memory_budget_bytes
    )
    parts.add_kernel(kernel)
    assert kernel.shares is not None
    along = {"steps": asked.steps, "seed": asked.seed}
    with parts.timed("solve_s", "dynamics"):
        theta = batch_norm_prediction.centred(kernel.shares, task.n, task.c, like.speed)
        way = batch_norm_prediction.followed(like, sgd, theta, f0, **along)
        curves = batch_norm_prediction.settling(
            task, like, way.read_at(asked.read), asked.read
        )
    with parts.timed("trust_s", "gaps"):
        verdict = batch_norm_prediction.judged(task, like, sgd, theta, f0, way, **along)
    passes = like.passes + (6 + len(batch_norm_prediction.SETTLING)) * (task.n + task.m)
    return Found(
        curves=curves,
        trust=verdict,
        timings=parts.timings,
        compile_s=parts.compile_s,
        flops=expected.flops
        + passes * expected.forward_flops_per_sample
        + dynamics_flops(task, sgd, 2 * asked.steps),
    )


WAY = Way(_require, _predicted)
