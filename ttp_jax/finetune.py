"""From a task to its measured curve, by real optax steps."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ttp_jax.accelerators.correction import Correction
from ttp_jax.accelerators.sparsity import Sparsity, settled
from ttp_jax.attacks import Attack
from ttp_jax.groups import Groups
from ttp_jax.optimizers import SGD, Optimizer
from ttp_jax.reading import Keep
from ttp_jax.training import loop
from ttp_jax.training.corrected import corrected_steps
from ttp_jax.training.plain import as_read, plain_steps
from ttp_jax.training.staged import staged_steps
from ttp_jax.types import Curve, InputError, Task


def finetune(
    task: Task,
    sgd: Optimizer,
    *,
    steps: int,
    seed: int = 0,
    every: int = 1,
    stop: Callable[[Curve], bool] | None = None,
    keep: Keep = (),
    sparsity: Sparsity | None = None,
    correction: Correction | None = None,
    attack: Attack | None = None,
    groups: Groups | None = None,
) -> Curve:
    """Train the task for real and read its curve on all samples, those held out apart.

    ``task.params`` are left untouched. A run whose loss stops being finite ends there;
    the rest of its curve is NaN.

    Args:
        task: What to train: with views, those of every epoch; with ``batch_norm``, by the
            statistics of the mini-batches, which the curve is read by as they run along.
        sgd: How.
        steps: ``T``.
        seed: Of the stream of mini-batches.
        every: Read the curve every so many steps.
        stop: Asked at every reading, with the curve so far, whether to end the run there,
            such as :class:`ttp_jax.early_curves.elasticity.ElasticityRule`.
        keep: Steps after which the weights are kept (:attr:`Curve.kept`); of a run that ends
            before them there are fewer.
        sparsity: Masks on the weights (:class:`ttp_jax.accelerators.sparsity.Sparsity`). Those
            that stay go with everything else here.
        correction: Of the mini-batch gradients by those at a snapshot
            (:mod:`ttp_jax.accelerators.correction`).
        attack: Train on adversarial pictures (:class:`ttp_jax.attacks.Attack`); the curve is
            read on clean ones.
        groups: Of the weights, where ``sgd`` has rates ``[T, G]``: groups whose rates have
            come to their end are left out of what is computed
            (:mod:`ttp_jax.training.staged`).

    Returns:
        The curve, its ``seconds`` those of the training steps alone; ``timings`` has
        ``train_s``, ``reading_s`` and ``compile_s``, its ``batch_loss`` the loss of every
        mini-batch (NaN after a run ended early). That of a run that was stopped ends at
        the step where it was, and its ``saved_steps`` are those not taken; batches and
        learning rates are those of the full run.

    Raises:
        InputError: Arguments out of range.

    Cost: ``3 B T`` forward passes (what ``flops`` counts), and ``n + m`` for each reading and
    each step kept. Less with frozen groups, as much as XLA counts; of corrections and attacks
    what :func:`ttp_jax.training.corrected.passes` counts. Masks save nothing: the program is
    dense.
    """
    _require_plain(
        task,
        {
            "groups": groups is not None,
            "sparsity": sparsity is not None,
            "correction": correction is not None,
            "attack": attack is not None,
            "keep": task.batch_norm is not None and len(keep) > 0,
        },
    )
    task, sparsity = settled(task, sparsity)
    common: dict[str, Any] = {"steps": steps, "every": every, "stop": stop, "keep": keep}
    if sparsity is None and correction is None and attack is None:
        if groups is None:
            taking = plain_steps(task, sgd, steps=steps, seed=seed)
        else:
            if not isinstance(sgd, SGD):
                raise InputError("groups of weights need SGD, got Adam; leave groups out")
            taking = staged_steps(task, sgd, groups, steps=steps, seed=seed)
        return loop.run(as_read(task), taking, **common)
    if groups is not None:
        raise InputError(
            "groups of weights are not put together with masks that move, corrections or "
            "attacks, which change what is frozen or what is put by; leave either out"
        )
    taking, coefficients = corrected_steps(
        task,
        sgd,
        steps=steps,
        seed=seed,
        sparsity=sparsity,
        correction=correction,
        attack=attack,
    )
    curve = loop.run(task, taking, **common)
    if correction is None:
        return curve
    return dataclasses.replace(curve, epochs={"coefficient": coefficients()})


def _require_plain(task: Task, asked: dict[str, bool]) -> None:
    """Refuse what is not done with views or with BatchNorm in training mode."""
    given = [name for name, there in asked.items() if there]
    if given and (task.views is not None or task.batch_norm is not None):
        raise InputError(
            "augmented training and BatchNorm in training mode take plain steps, got "
            f"{', '.join(given)}; leave these out"
        )
