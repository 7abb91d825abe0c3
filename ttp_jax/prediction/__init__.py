"""From a task to its predicted curve, without a training step.

:func:`predict` finds the way of predicting that fits what was asked for; each way is a module:
:mod:`~ttp_jax.prediction.mended` (the default), :mod:`~ttp_jax.prediction.linearised` (the
paper's), :mod:`~ttp_jax.prediction.relinearized`, :mod:`~ttp_jax.prediction.grouped`,
:mod:`~ttp_jax.prediction.masked`, :mod:`~ttp_jax.prediction.adam`,
:mod:`~ttp_jax.prediction.augmented`, :mod:`~ttp_jax.prediction.batch_norm` and, with few real
gradients, :mod:`~ttp_jax.prediction.coarse`.
"""

import dataclasses
from typing import Any

from ttp_jax.accelerators.correction import Correction
from ttp_jax.accelerators.sparsity import Sparsity, settled
from ttp_jax.attacks import Attack
from ttp_jax.dynamics.noise import Noise
from ttp_jax.groups import Groups
from ttp_jax.kernel.choice import Computed, Kernel, KernelName
from ttp_jax.linearisation import augmented_prediction, calibration, mending
from ttp_jax.optimizers import Adam, Optimizer
from ttp_jax.prediction import (
    adam,
    augmented,
    batch_norm,
    grouped,
    linearised,
    masked,
    mended,
    relinearized,
    seconds,
)
from ttp_jax.prediction import coarse as coarse_way
from ttp_jax.prediction.asked import Asked, Solver, require_known
from ttp_jax.prediction.way import Parts, Way
from ttp_jax.reading import Keep
from ttp_jax.types import Cost, Curve, Task

__all__ = ["Solver", "cost_ahead", "predict"]


def predict(
    task: Task,
    sgd: Optimizer,
    *,
    steps: int,
    solver: Solver = "simulate",
    kernel: KernelName | Kernel | Computed = "exact",
    seed: int = 0,
    every: int = 1,
    paths: int = 0,
    noise: Noise = "exact",
    effective_rate: bool = False,
    calibrate_steps: int = 0,
    relinearize: float | None = None,
    mend: int = mending.MENDS,
    mend_clock: mending.Clock = mending.CLOCK,
    kernel_samples: int | None = None,
    coarse: int | float | None = None,
    check: int | float | None = None,
    keep: Keep = (),
    sparsity: Sparsity | None = None,
    correction: Correction | None = None,
    attack: Attack | None = None,
    groups: Groups | None = None,
    views: int = augmented_prediction.VIEWS,
    memory_budget_bytes: int | None = None,
) -> Curve:
    """Predict the training curve of a task under an optimiser.

    The model is linearised at ``task.params``; its exact kernel drives the solver; the
    seconds are the measured time of one training step times the steps (the steps that are
    timed are thrown away).

    Args:
        task: What would be trained.
        sgd: How, by :class:`ttp_jax.SGD` or :class:`ttp_jax.Adam`; the latter by the solver
            ``"simulate"`` and two exact, preconditioned kernels
            (:mod:`ttp_jax.linearisation.preconditioning`), with none of the options below but
            ``seed``, ``every`` and ``memory_budget_bytes``.
        steps: ``T``, the last step of the curve.
        solver: ``"simulate"`` follows the mini-batches of ``seed`` exactly; ``"flow"`` is
            the closed form for the full batch under MSE; ``"moments"`` gives the expected
            loss, ``"moments_sde"`` that of the continuous process, ``"sde"`` sample paths
            of it, ``"ode"`` its drift alone.
        kernel: ``"exact"`` or another name of :class:`ttp_jax.kernel.choice.Kernel`, one of
            those with options of its own, or one that was computed before for this task
            (``Kernel("exact").of(task)``): for other rates, batches or solvers.
        seed: Of the stream of mini-batches, the same as in :func:`ttp_jax.finetune`.
        every: Read the curve every so many steps.
        paths: Of ``"simulate"`` and ``"sde"``: how many random paths the bands around the
            curve are read from. 0 for no bands (``"sde"`` then takes 32 for its mean).
        noise: Exact, or approximated (:mod:`ttp_jax.dynamics.noise`); of the moments and of
            ``"sde"``.
        effective_rate: Replace momentum by the rate ``eta/(1 - mu)``. The two continuous
            solvers do so always.
        calibrate_steps: Take so many real steps first, linearise there, carry the momentum
            over and predict the rest (solver ``"simulate"``). 0, the default, predicts
            without training.
        relinearize: A tolerance, such as 0.5: linearise again wherever the model has left
            its linearisation by so much, along the predicted path
            (:mod:`ttp_jax.linearisation.relinearization`; solver ``"simulate"``). ``None`` for
            one linearisation.
        mend: At so many places at most, where the predicted loss has halved, the true model
            is asked and the prediction goes on from there
            (:mod:`ttp_jax.linearisation.mending`); 0 for the paper's one linearisation. Done
            by the solver ``"simulate"`` where neither bands (``paths``), models along the way
            (``keep``), ``relinearize`` nor ``kernel_samples`` are asked for; these are of one
            linearisation.
        mend_clock: Whether learning between two such places goes as fast as the kernel at
            the first says (``"start"``), or from that to what the second finds (``"both"``).
        kernel_samples: Compute the kernel of so many samples, drawn by ``seed``, and
            extrapolate the curve to all (:mod:`ttp_jax.linearisation.extrapolation`; solver
            ``"simulate"``, which then leaves out the noise of the batches).
        coarse: Take no kernel, but real gradients of so many passes over the samples (and of
            as many again, to see what that changes), each a step as much longer
            (:mod:`ttp_jax.linearisation.coarse_path`; plain SGD). ``mend`` and ``kernel`` are
            then of no effect. ``None``, the default, predicts without training.
        check: Lay such a coarse run beside the prediction, and let ``trust`` say how far their
            times lie apart: by far the best that it can rest on
            (:data:`ttp_jax.chances.CHECKED`). ``None``, the default, trains nothing.
        keep: Steps after which the linearised model is kept (:attr:`Curve.kept`; solver
            ``"simulate"``, one linearisation, no real steps).
        sparsity: Masks on the weights, by the exact kernel. Those that stay go with everything
            else here; those that move take a linearisation each
            (:mod:`ttp_jax.linearisation.masked_prediction`; solver ``"simulate"``). A kernel
            that was computed before is that of the masked start.
        correction: Of the mini-batch gradients (:mod:`ttp_jax.accelerators.correction`;
            solver ``"simulate"``). The seconds count its passes.
        attack: Refused: adversarial training is not predicted.
        groups: Of the weights, where ``sgd`` has rates ``[T, G]``
            (:mod:`ttp_jax.dynamics.grouped`; solvers ``"simulate"`` and ``"moments"``, one
            linearisation). The seconds are then those of each stage, and ``trust`` rests on
            gaps alone.
        views: Of a task with views: so many of each sample stand for a new one in every epoch
            (:mod:`ttp_jax.linearisation.augmented_prediction`; solver ``"simulate"`` of SGD,
            with mends or once linearised). No more than there are epochs are used, and with as
            many a linear model is predicted exactly. The kernel takes ``views + 1`` times the
            backward passes and ``(views + 1)^2`` times the products and the memory.
        memory_budget_bytes: For the kernel; a share of the free memory by default.

    Returns:
        The curve, its bands where asked for, ``held_out`` where the task has held-out samples
        (solver ``"simulate"``: their outputs move by their kernel with those that are trained
        on), with ``trust`` and ``timings``:
        ``forward_s``, ``kernel_s``, ``solve_s``, ``trust_s``, ``step_s`` (of one training
        step), ``timing_s`` (spent measuring it) and ``compile_s`` (of all of it, in none of
        the others).

    Raises:
        InputError: Anything that cannot be used, before the kernel starts.

    Cost: ``(1 + 2c) k`` forward passes and ``(kc)^2 p`` multiply-adds for the kernel of all
    ``k = n + m`` samples, ``T B k c^2`` for the solver; with ``kernel_samples`` in the place
    of ``n`` all through.

    Breaks when: the model leaves its linearisation (``trust`` says so).
    """
    task, sparsity = settled(task, sparsity)
    asked = Asked(
        task=task,
        optimizer=sgd,
        steps=steps,
        solver=solver,
        kernel=kernel,
        seed=seed,
        every=every,
        paths=paths,
        noise=noise,
        effective_rate=effective_rate,
        calibrate_steps=calibrate_steps,
        relinearize=relinearize,
        mend=mend,
        mend_clock=mend_clock,
        kernel_samples=kernel_samples,
        coarse=coarse,
        check=check,
        keep=keep,
        sparsity=sparsity,
        correction=correction,
        attack=attack,
        groups=groups,
        views=views,
        memory_budget_bytes=memory_budget_bytes,
    )
    way = _usable(asked)
    expected = way.cost(asked)
    if effective_rate:
        asked = dataclasses.replace(asked, optimizer=asked.sgd.at_effective_rate(steps))
    parts = Parts()
    start = calibration.at_the_start(task)
    if calibrate_steps:
        with parts.timed("calibrate_s", "real steps"):
            start = calibration.real_steps(
                task,
                asked.sgd,
                calibrate_steps=calibrate_steps,
                steps=steps,
                read=asked.read,
                seed=seed,
            )
    found = way.predicted(asked, start, expected)
    if asked.check is not None:
        found = coarse_way.checked(asked, found, expected)
    of_training = seconds.of_training(asked, expected.forward_flops_per_sample, parts)
    curve, *held_out = (
        Curve(
            asked.read,
            both.loss,
            both.accuracy,
            of_training.seconds,
            both.loss_quantiles,
            both.accuracy_quantiles,
        )
        for both in (
            new.after(old) for old, new in zip(start.seen, found.curves, strict=True)
        )
    )
    passes = (
        len(start.seen[0].loss) * (task.n + task.m)
        + 3 * of_training.samples_timed
        + 3 * calibrate_steps * (sgd.batch_size or task.n)
    )
    return dataclasses.replace(
        curve,
        trust=found.trust,
        timings={
            "calibrate_s": 0.0,
            **parts.timings,
            **found.timings,
            "step_s": of_training.step_s,
            "compile_s": parts.compile_s + found.compile_s,
        },
        flops=found.flops + expected.forward_flops_per_sample * passes,
        held_out=held_out[0] if held_out else None,
        kept=found.kept,
        epochs=found.epochs,
        operations=of_training.operations,
    )


def cost_ahead(task: Task, sgd: Optimizer, *, steps: int, **options: Any) -> Cost:
    """What a prediction will cost before its dynamics; nothing is computed yet.

    Arguments are those of :func:`predict`.

    Raises:
        InputError: What :func:`predict` would refuse.
    """
    task, sparsity = settled(task, options.pop("sparsity", None))
    asked = Asked(task, sgd, steps, sparsity=sparsity, **options)
    return _usable(asked).cost(asked)


def _usable(asked: Asked) -> Way:
    """The way to predict what was asked for.

    Raises:
        InputError: It cannot be predicted.
    """
    require_known(asked)
    way = _way(asked)
    way.require(asked)
    if asked.check is not None:
        coarse_way.require_check(asked)
    return way


def _way(asked: Asked) -> Way:
    if asked.coarse is not None:
        return coarse_way.WAY
    if asked.task.batch_norm is not None:
        return batch_norm.WAY
    if asked.task.views is not None:
        return augmented.WAY
    if asked.sparsity is not None or asked.correction is not None:
        return masked.WAY
    if asked.groups is not None:
        return grouped.WAY
    if isinstance(asked.optimizer, Adam):
        return adam.WAY
    if asked.relinearize is not None:
        return relinearized.WAY
    of_one = asked.solver != "simulate" or asked.paths or len(asked.keep)
    if asked.mend and not of_one and asked.kernel_samples is None:
        return mended.WAY
    return linearised.WAY
