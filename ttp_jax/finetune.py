"""From a task to its measured curve, by real optax steps."""

import dataclasses
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from ttp_jax import outputs
from ttp_jax.optimizers import Adam, Optimizer
from ttp_jax.progress import bar
from ttp_jax.reading import Keep, at_weights, kept_steps, read_steps
from ttp_jax.timing import measured
from ttp_jax.types import Curve, InputError, Kept, Params, Task


def optax_of(sgd: Optimizer, steps: int, params: Params) -> optax.GradientTransformation:
    """The optimiser in optax, reading the same learning rates as the dynamics.

    ``params`` are the initial weights, toward which the decay may go.
    """
    rates = jnp.asarray(sgd.learning_rates(steps))
    decay = optax.add_decayed_weights(sgd.weight_decay)
    if sgd.decay_toward == "initial":
        decay = optax.stateless(
            lambda gradient, w: jax.tree.map(
                lambda g, a, b: g + sgd.weight_decay * (a - b), gradient, w, params
            )
        )
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


def finetune(
    task: Task,
    sgd: Optimizer,
    *,
    steps: int,
    seed: int = 0,
    every: int = 1,
    stop: Callable[[Curve], bool] | None = None,
    keep: Keep = (),
) -> Curve:
    """Train the task for real and read its curve on all samples, those held out apart.

    ``task.params`` are left untouched. A run whose loss stops being finite ends there;
    the rest of its curve is NaN.

    Args:
        task: What to train.
        sgd: How.
        steps: ``T``.
        seed: Of the stream of mini-batches.
        every: Read the curve every so many steps.
        stop: Asked at every reading, with the curve so far, whether to end the run there,
            such as :class:`ttp_jax.early_curves.elasticity.ElasticityRule`.
        keep: Steps after which the weights are kept (:attr:`Curve.kept`); of a run that ends
            before them there are fewer.

    Returns:
        The curve, its ``seconds`` those of the training steps alone; ``timings`` has
        ``train_s``, ``reading_s`` and ``compile_s``, its ``batch_loss`` the loss of every
        mini-batch (NaN after a run ended early). That of a run that was stopped ends at
        the step where it was, and its ``saved_steps`` are those not taken; batches and
        learning rates are those of the full run.

    Raises:
        InputError: Arguments out of range.

    Cost: ``3 B T`` forward passes (what ``flops`` counts), and ``n + m`` for each reading and
    each step kept.
    """
    wanted = set(kept_steps(keep, steps).tolist())
    read = read_steps(steps, every)
    stream = sgd.batches(task.n, steps, seed)
    optimizer = optax_of(sgd, steps, task.params)
    x, y = jnp.asarray(task.x), jnp.asarray(task.targets)

    batch_loss = outputs.batch_loss(task)

    def step(params, state, x, y, batch):
        value, gradient = jax.value_and_grad(batch_loss)(params, x, y, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    params = jax.tree.map(jnp.asarray, task.params)
    state = optimizer.init(params)
    if stream is not None:
        stream = jnp.asarray(stream)
    first = None if stream is None else stream[0]

    read_curves = at_weights(task)

    with measured() as compiling, bar("compiling the training step", None):
        compiled = jax.jit(step).lower(params, state, x, y, first).compile()
        read_curves(params)

    curves = np.full((len(task.parts), 2, len(read)), np.nan)
    loss = curves[0, 0]
    seconds = np.full(len(read), np.nan)
    train_s = reading_s = 0.0
    kept, weights = len(read), {}
    of_batches = []
    with bar("fine-tuning", steps) as advance:
        for at, step_read in enumerate(read):
            begin = 0 if at == 0 else read[at - 1]
            start = time.perf_counter()
            for k in range(begin, step_read):
                batch = None if stream is None else stream[k]
                params, state, value = compiled(params, state, x, y, batch)
                of_batches.append(value)
                if k + 1 in wanted:
                    weights[k + 1] = params
            jax.block_until_ready(params)
            trained = time.perf_counter()
            curves[:, :, at] = read_curves(params)
            train_s += trained - start
            reading_s += time.perf_counter() - trained
            seconds[at] = train_s
            advance(step_read - begin)
            if not np.isfinite(loss[at]):
                break
            seen = at + 1
            if (
                stop is not None
                and seen < kept
                and stop(_curve(read, curves, seconds, seen))
            ):
                kept = seen
                break
    if not np.isfinite(loss[0]):
        raise InputError(
            "the loss at the start must be finite, got "
            f"{loss[0]}; check the weights and the preprocessing"
        )
    taken = np.full(int(read[kept - 1]), np.nan)
    taken[: len(of_batches)] = jax.device_get(of_batches)
    return dataclasses.replace(
        _curve(read, curves, seconds, kept),
        batch_loss=taken,
        timings={
            "train_s": train_s,
            "reading_s": reading_s,
            "compile_s": compiling.run_s + compiling.compile_s,
        },
        flops=3
        * outputs.forward_flops(task.apply_fn, task.params, task.x)
        * (sgd.batch_size or task.n)
        * int(read[kept - 1]),
        planned_steps=steps if kept < len(read) else None,
        kept=_kept(task, weights) if weights else None,
    )


def _kept(task: Task, weights: Mapping[int, Params]) -> Kept:
    """Weights by step, with their outputs and inner products."""
    x, found = task.joint.x, tuple(weights.values())
    return Kept(
        steps=np.array(list(weights)),
        outputs=np.stack([outputs.forward(task.apply_fn, w, x) for w in found]),
        gram=outputs.gram_of_moves(task.params, found),
        weights=found,
    )


def _curve(
    read: Int[np.ndarray, " t"],
    curves: Float[np.ndarray, "parts 2 t"],
    seconds: Float[np.ndarray, " t"],
    kept: int,
) -> Curve:
    """The first ``kept`` readings, those of samples held out with them."""
    curve, *held_out = (
        Curve(read[:kept], series[0, :kept], series[1, :kept], seconds[:kept])
        for series in curves
    )
    return dataclasses.replace(curve, held_out=held_out[0] if held_out else None)
