"""A few real steps before the linearisation, by the same description of the optimiser."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ttp_jax import outputs
from ttp_jax.optimizers import SGD, Adam, Optimizer
from ttp_jax.reading import Readings, at_weights
from ttp_jax.types import Params, Task

_TIMED_STEPS = 6
_TIMED_SAMPLES = 300
_TIMED_SECONDS = 1.0
"""So many training steps are timed, or as many as take so many samples or so long, but two."""


@dataclass(frozen=True)
class Start:
    """Where a linearised prediction begins: weights, velocity, and what was seen so far."""

    params: Params
    velocity: Params | None
    """``v_k``; ``None`` before the first step."""
    steps: int
    """Real steps that led here, ``k``."""
    seen: tuple[Readings, ...]
    """Of each of :attr:`Task.parts`, at those of the steps asked for that come before ``k``."""


def at_the_start(task: Task) -> Start:
    """No real step: a prediction without training."""
    nothing = Readings(np.zeros(0), np.zeros(0))
    return Start(task.params, None, 0, (nothing,) * len(task.parts))


def decayed(task: Task, sgd: Optimizer, w: Params) -> Params:
    """What weight decay shrinks: ``w``, or ``w - w_0`` toward the initial weights."""
    if sgd.decay_toward == "initial":
        return jax.tree.map(jnp.subtract, w, task.params)
    return w


def at_rest(sgd: Optimizer, w: Params) -> Any:
    """The state ``v`` of the optimiser before the first step."""
    zeros = jax.tree.map(jnp.zeros_like, w)
    return (zeros, zeros, 0) if isinstance(sgd, Adam) else zeros


def step_in_weights(task: Task, sgd: Optimizer) -> Callable:
    """One step ``(w, v, eta, x, y, rows) -> (w, v)`` on rows of ``x`` and ``y``, or on all.

    That of SGD takes another ``momentum`` too, so that one program serves several.
    ``G = g + wd w;  v <- mu v + G;  w <- w - eta (G + mu v if nesterov else v)``, as
    :class:`ttp_jax.SGD` has it (``wd (w - w_0)`` for decay toward the initial weights); for
    :class:`ttp_jax.Adam` as it stands there, ``v`` being both moments and the step's number.
    """
    if isinstance(sgd, Adam):
        return _adam_in_weights(task, sgd)
    batch_loss = _loss(task)

    def step(w, v, eta, x, y, rows, momentum=sgd.momentum):
        G = jax.grad(batch_loss)(w, x, y, rows)
        if sgd.weight_decay:
            G = jax.tree.map(
                lambda g, p: g + sgd.weight_decay * p, G, decayed(task, sgd, w)
            )
        v = jax.tree.map(lambda a, g: momentum * a + g, v, G)
        moves = v
        if sgd.nesterov:
            moves = jax.tree.map(lambda g, a: g + momentum * a, G, v)
        w = jax.tree.map(lambda a, m: (a - eta * m).astype(a.dtype), w, moves)
        return w, v

    return step


def _loss(task: Task) -> Callable:
    """What a step goes down, running statistics apart."""
    stats = None if task.batch_norm is None else task.batch_norm.stats
    loss = outputs.training_loss(task)
    return lambda w, x, y, rows: loss(w, stats, x, y, rows)[0]


def _adam_in_weights(task: Task, adam: Adam) -> Callable:
    batch_loss = _loss(task)

    def step(w, state, eta, x, y, rows):
        m, v, t = state
        t = t + 1
        g = jax.grad(batch_loss)(w, x, y, rows)
        m = jax.tree.map(lambda a, g: adam.beta1 * a + (1 - adam.beta1) * g, m, g)
        v = jax.tree.map(lambda a, g: adam.beta2 * a + (1 - adam.beta2) * g**2, v, g)

        def moved(w, m, v, pulled):
            root = jnp.sqrt(v / (1 - adam.beta2**t)) + adam.eps
            move = m / (1 - adam.beta1**t) / root + adam.weight_decay * pulled
            return (w - eta * move).astype(w.dtype)

        return jax.tree.map(moved, w, m, v, decayed(task, adam, w)), (m, v, t)

    return step


def real_steps(
    task: Task, sgd: SGD, *, calibrate_steps: int, steps: int, read: np.ndarray, seed: int
) -> Start:
    """Train for the first ``calibrate_steps`` of ``steps``, on their mini-batches.

    Args:
        task: What to train.
        sgd: How.
        calibrate_steps: ``k``.
        steps: ``T``, which the schedule is made for.
        read: Steps at which the curve is read.
        seed: Of the stream of mini-batches.

    Cost: ``3 B k`` forward passes, and ``n + m`` for each reading.
    """
    rates = sgd.learning_rates(steps)
    stream = sgd.batches(task.n, steps, seed)
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)
    step = jax.jit(step_in_weights(task, sgd))
    read_at, curve = at_weights(task), []
    w = jax.tree.map(jnp.asarray, task.params)
    v = at_rest(sgd, w)
    for k in range(calibrate_steps):
        if k in read:
            curve.append(read_at(w))
        rows = None if stream is None else jnp.asarray(stream[k])
        w, v = step(w, v, rates[k], x, y, rows)
    series = np.array(curve, float).reshape(-1, len(task.parts), 2).transpose(1, 2, 0)
    return Start(w, v, calibrate_steps, tuple(Readings(*values) for values in series))


def step_seconds(task: Task, sgd: Optimizer, *, at_most: int) -> tuple[float, int]:
    """Median seconds of one training step of this task, compilation apart; samples it took.

    Of a real step it has everything but the schedule; its result is thrown away. A batch of
    more than ``at_most`` samples is timed by so many of them and scaled.
    """
    asked = sgd.batch_size or task.n
    size = min(asked, at_most)
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)
    rows = jnp.arange(size)
    w = jax.tree.map(jnp.asarray, task.params)
    v = at_rest(sgd, w)
    eta = 1e-3
    step = step_in_weights(task, sgd)
    compiled = jax.jit(step).lower(w, v, eta, x, y, rows).compile()
    took: list[float] = []
    while len(took) < _TIMED_STEPS and (
        len(took) < 2 or (len(took) * size < _TIMED_SAMPLES and sum(took) < _TIMED_SECONDS)
    ):
        start = time.perf_counter()
        w, v = jax.block_until_ready(compiled(w, v, eta, x, y, rows))
        took.append(time.perf_counter() - start)
    return float(np.median(took)) * asked / size, len(took) * size
