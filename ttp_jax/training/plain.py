"""Steps of optax on the whole of the weights."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ttp_jax import outputs, programs, sampling
from ttp_jax.optimizers import Adam, Optimizer
from ttp_jax.training.loop import Steps
from ttp_jax.types import ApplyFn, BatchNorm, Params, Task


def optax_of(sgd: Optimizer, steps: int, params: Params) -> optax.GradientTransformation:
    """The optimiser in optax, reading the same learning rates as the dynamics.

    ``params`` are the initial weights, toward which the decay may go.
    """
    rates = jnp.asarray(sgd.grouped_rates(steps, None))
    decay = decay_of(sgd, params)
    if isinstance(sgd, Adam):
        # What optax.adamw is made of, but for weights other than zero to decay toward.
        return optax.chain(
            optax.scale_by_adam(sgd.beta1, sgd.beta2, sgd.eps),
            decay,
            optax.scale_by_learning_rate(lambda k: rates[k]),
        )
    momentum = sgd.momentum or None
    return optax.chain(
        decay,
        optax.sgd(lambda k: rates[k], momentum=momentum, nesterov=sgd.nesterov),
    )


def decay_of(sgd: Optimizer, params: Params) -> optax.GradientTransformation:
    """The pull toward zero, or toward the initial weights ``params``."""
    if sgd.decay_toward == "zero":
        return optax.add_decayed_weights(sgd.weight_decay)
    return optax.stateless(
        lambda gradient, w: jax.tree.map(
            lambda g, a, b: g + sgd.weight_decay * (a - b), gradient, w, params
        )
    )


def plain_steps(task: Task, sgd: Optimizer, *, steps: int, seed: int) -> Steps:
    """Steps of the optimiser on the mini-batches of a seed.

    Where a task has views, those of an epoch are made before its first step, and take part in
    the time of that step. With BatchNorm in training mode gradients go through the statistics
    of the mini-batch, and the state has running ones, too: its weights are those of
    :func:`as_read`.

    Args:
        task: What to train.
        sgd: How.
        steps: ``T``.
        seed: Of the stream of mini-batches.

    Cost: ``3 B`` forward passes a step (what ``flops`` counts).
    """
    stream = sgd.batches(task.n, steps, seed)
    optimizer = optax_of(sgd, steps, task.params)
    per_epoch = sampling.steps_per_epoch(task.n, sgd.batch_size)
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)
    if stream is not None:
        stream = jnp.asarray(stream)
    batch_norm = task.batch_norm
    batch_loss = outputs.training_loss(task)
    per_step = (
        3
        * outputs.forward_flops(task.apply_fn, task.params, task.x)
        * (sgd.batch_size or task.n)
    )
    compiled = None

    def inputs(k):
        """What the epoch of step ``k`` is trained on."""
        nonlocal x
        if task.views is not None and k % per_epoch == 0:
            x = jnp.asarray(task.view(k // per_epoch))
        return x

    def update(params, state, stats, x, y, batch):
        (value, stats), gradient = jax.value_and_grad(batch_loss, has_aux=True)(
            params, stats, x, y, batch
        )
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, stats, value

    def start():
        nonlocal compiled
        params = jax.tree.map(jnp.asarray, task.params)
        stats = None
        if batch_norm is not None:
            stats = jax.tree.map(jnp.asarray, batch_norm.stats)
        state = params, optimizer.init(params), stats
        first = None if stream is None else stream[0]
        x = inputs(0)
        compiled = jax.jit(update).lower(*state, x, y, first).compile()
        # What a program does the first time only, it does before the clock runs.
        jax.block_until_ready(compiled(*state, x, y, first))
        return state

    def step(state, k):
        assert compiled is not None
        batch = None if stream is None else stream[k]
        *state, value = compiled(*state, inputs(k), y, batch)
        return tuple(state), value

    def weights(state):
        params, _, stats = state
        return params if batch_norm is None else {"weights": params, "stats": stats}

    return Steps(start, step, weights, lambda taken: per_step * taken)


def as_read(task: Task) -> Task:
    """The task as the curve of :func:`plain_steps` is read: running statistics are weights."""
    if task.batch_norm is None:
        return task
    return dataclasses.replace(
        task,
        apply_fn=programs.kept(
            task.apply_fn, "running statistics", lambda: _inference(task.batch_norm)
        ),
        params={"weights": task.params, "stats": task.batch_norm.stats},
        batch_norm=None,
    )


def _inference(batch_norm: BatchNorm | None) -> ApplyFn:
    assert batch_norm is not None
    return lambda both, x: batch_norm.infer(both["weights"], both["stats"], x)
