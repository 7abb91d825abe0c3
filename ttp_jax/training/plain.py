"""Steps of optax on the whole of the weights."""

import jax
import jax.numpy as jnp
import optax

from ttp_jax import outputs
from ttp_jax.optimizers import Adam, Optimizer
from ttp_jax.training.loop import Steps
from ttp_jax.types import Params, Task


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

    Args:
        task: What to train.
        sgd: How.
        steps: ``T``.
        seed: Of the stream of mini-batches.

    Cost: ``3 B`` forward passes a step (what ``flops`` counts).
    """
    stream = sgd.batches(task.n, steps, seed)
    optimizer = optax_of(sgd, steps, task.params)
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)
    if stream is not None:
        stream = jnp.asarray(stream)
    batch_loss = outputs.batch_loss(task)
    per_step = (
        3
        * outputs.forward_flops(task.apply_fn, task.params, task.x)
        * (sgd.batch_size or task.n)
    )
    compiled = None

    def update(params, state, x, y, batch):
        value, gradient = jax.value_and_grad(batch_loss)(params, x, y, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    def start():
        nonlocal compiled
        params = jax.tree.map(jnp.asarray, task.params)
        state = optimizer.init(params)
        first = None if stream is None else stream[0]
        compiled = jax.jit(update).lower(params, state, x, y, first).compile()
        # What a program does the first time only, it does before the clock runs.
        jax.block_until_ready(compiled(params, state, x, y, first))
        return params, state

    def step(state, k):
        assert compiled is not None
        batch = None if stream is None else stream[k]
        params, remembered, value = compiled(*state, x, y, batch)
        return (params, remembered), value

    return Steps(start, step, lambda state: state[0], lambda taken: per_step * taken)
