"""A linearised piece of a path: where it begins, the true model at its end, what is in between.

Between two pieces the weights go where the first says, ``w <- w - J^T alpha - shrink (w -
origin) - coast v`` and ``v <- J^T beta + pull (w - origin) + speed v``
(:class:`ttp_jax.dynamics.segment.Segment`): the velocity is a vector of weights, and enters
the next piece as ``J v`` with the Jacobian there.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import outputs
from ttp_jax.dynamics.segment import Segment
from ttp_jax.linearisation import calibration
from ttp_jax.optimizers import SGD
from ttp_jax.reading import Readings, of_parts
from ttp_jax.types import Params, Task


class Place(NamedTuple):
    """The true model at a step."""

    step: int
    params: Params
    velocity: Params | None
    """``None`` where there was no step yet, or without momentum."""
    f: Float[np.ndarray, "k c"]
    """Outputs of all samples: those that are trained on, then those held out."""


class Images(NamedTuple):
    """What a piece needs from its place besides the kernel."""

    decayed: Params
    """``w - origin``."""
    u0: Float[np.ndarray, "k c"] | None
    """``J v``; ``None`` for nothing."""
    q0: Float[np.ndarray, "k c"] | None
    """``J (w - origin)``; ``None`` without weight decay."""
    passes: int
    """Forward passes of all samples that it took."""


def images(task: Task, sgd: SGD, here: Place) -> Images:
    """Velocity and decayed weights as the outputs see them: a JVP each."""
    decayed = calibration.decayed(task, sgd, here.params)
    x, passes = task.joint.x, 0
    u0 = q0 = None
    if here.velocity is not None:
        u0 = outputs.jvp(task.apply_fn, here.params, x, here.velocity)
        passes += 3
    if sgd.weight_decay:
        q0 = outputs.jvp(task.apply_fn, here.params, x, decayed)
        passes += 3
    return Images(decayed, u0, q0, passes)


def move_passes(sgd: SGD) -> int:
    """Forward passes of all samples that :func:`moved` takes."""
    return 6 if sgd.momentum else 4


def moved(task: Task, sgd: SGD, here: Place, before: Images, way: Segment) -> Place:
    """The true model at the end of a way. Cost: :func:`move_passes`."""
    w, v, decayed = here.params, here.velocity, before.decayed
    coefficients = [way.alpha, way.beta] if sgd.momentum else [way.alpha]
    step, *rest = outputs.vjps(task.apply_fn, w, task.x, coefficients)
    along = [(1.0, step)]
    if sgd.weight_decay:
        along.append((way.shrink, decayed))
    if v is not None:
        along.append((way.coast, v))
    w_next, v_next = outputs.minus(w, along), None
    if sgd.momentum:
        (v_next,) = rest
        if sgd.weight_decay:
            v_next = outputs.minus(v_next, [(-way.pull, decayed)])
        if v is not None:
            v_next = outputs.minus(v_next, [(-way.speed, v)])
    f = outputs.forward(task.apply_fn, w_next, task.joint.x).astype(np.float64)
    return Place(way.last, w_next, v_next, f)


def ends(task: Task, there: Place) -> list[tuple[float, float]]:
    """Loss and accuracy of the true outputs, of each of :attr:`Task.parts`."""
    joint = task.joint
    f, targets = jnp.asarray(there.f), jnp.asarray(joint.targets)
    read = of_parts(task.loss, f, targets, task.sizes)
    return [(float(loss), float(accuracy)) for loss, accuracy in read]


def blended(
    way: Segment, read: Readings, loss: float, accuracy: float
) -> Float[np.ndarray, "2 t"]:
    """Loss and accuracy on the way to those of the true outputs, from those of the segment.

    ``s^2`` times what is missed at the end, with ``s`` the share of the way: the part of
    ``f`` that a linearisation misses grows as the square of the way.
    """
    with np.errstate(invalid="ignore"):  # of a path that diverged
        share = (way.moved / max(way.moved[-1], np.finfo(float).tiny)).clip(0, 1) ** 2
        mended = read.loss + (loss - read.loss[-1]) * share
    return np.stack(
        [
            np.maximum(mended, np.minimum(read.loss, loss)),
            read.accuracy + (accuracy - read.accuracy[-1]) * share,
        ]
    )
