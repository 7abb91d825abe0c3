"""From a task to its predicted curve, without a training step."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ttp_jax import (
    calibration,
    chances,
    extrapolation,
    grouped_prediction,
    masked_prediction,
    mending,
    outputs,
    preconditioning,
    relinearization,
    second_look,
    spectrum,
    stage_costs,
    trust,
)
from ttp_jax.accelerators import correction as corrections
from ttp_jax.accelerators.correction import Correction
from ttp_jax.accelerators.sparsity import Sparsity
from ttp_jax.attacks import Attack
from ttp_jax.dynamics.adaptive import WAYPOINT_LOSS
from ttp_jax.dynamics.flow import flow, require_closed_form
from ttp_jax.dynamics.moments import moments
from ttp_jax.dynamics.noise import Noise, require_independent
from ttp_jax.dynamics.path import Path, Places
from ttp_jax.dynamics.sde import sde
from ttp_jax.dynamics.simulate import simulate
from ttp_jax.groups import Groups
from ttp_jax.kernel.choice import Computed, Kernel, KernelName
from ttp_jax.kernel.empirical import KernelCost
from ttp_jax.optimizers import SGD, Adam, Optimizer
from ttp_jax.progress import bar
from ttp_jax.reading import Keep, Readings, kept_steps, read_steps
from ttp_jax.timing import measured
from ttp_jax.types import Curve, InputError, Kept, Task, Trust

Solver = Literal["simulate", "flow", "moments", "moments_sde", "sde", "ode"]


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
    kernel_samples: int | None = None,
    keep: Keep = (),
    sparsity: Sparsity | None = None,
    correction: Correction | None = None,
    attack: Attack | None = None,
    groups: Groups | None = None,
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
            (:mod:`ttp_jax.preconditioning`), with none of the options below but ``seed``,
            ``every`` and ``memory_budget_bytes``.
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
            (:mod:`ttp_jax.relinearization`; solver ``"simulate"``). ``None`` for one
            linearisation.
        mend: At so many places at most, where the predicted loss has halved, the true model
            is asked and the prediction goes on from there (:mod:`ttp_jax.mending`); 0 for the
            paper's one linearisation. Done by the solver ``"simulate"`` where neither bands
            (``paths``), models along the way (``keep``), ``relinearize`` nor
            ``kernel_samples`` are asked for; these are of one linearisation.
        kernel_samples: Compute the kernel of so many samples, drawn by ``seed``, and
            extrapolate the curve to all (:mod:`ttp_jax.extrapolation`; solver
            ``"simulate"``, which then leaves out the noise of the batches).
        keep: Steps after which the linearised model is kept (:attr:`Curve.kept`; solver
            ``"simulate"``, one linearisation, no real steps).
        sparsity: Masks on the weights; those that move take a linearisation each
            (:mod:`ttp_jax.masked_prediction`; solver ``"simulate"``, exact kernel). A kernel
            that was computed before is that of the masked start.
        correction: Of the mini-batch gradients (:mod:`ttp_jax.accelerators.correction`;
            solver ``"simulate"``). The seconds count its passes.
        attack: Refused: adversarial training is not predicted.
        groups: Of the weights, where ``sgd`` has rates ``[T, G]``
            (:mod:`ttp_jax.dynamics.grouped`; solvers ``"simulate"`` and ``"moments"``, one
            linearisation). The seconds are then those of each stage, and ``trust`` rests on
            gaps alone.
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
    read = read_steps(steps, every)
    if effective_rate and isinstance(sgd, Adam):
        raise InputError(
            "effective_rate is for SGD's momentum, got Adam; leave effective_rate out"
        )
    expected = cost_ahead(
        task,
        sgd,
        steps=steps,
        solver=solver,
        kernel=kernel,
        every=every,
        paths=paths,
        noise=noise,
        calibrate_steps=calibrate_steps,
        relinearize=relinearize,
        mend=mend,
        kernel_samples=kernel_samples,
        keep=keep,
        sparsity=sparsity,
        correction=correction,
        attack=attack,
        groups=groups,
        seed=seed,
        memory_budget_bytes=memory_budget_bytes,
    )
    if effective_rate and isinstance(sgd, SGD):
        sgd = sgd.at_effective_rate(steps)
    whole, whole_sgd = task, sgd
    if kernel_samples is not None:
        task = extrapolation.few(task, kernel_samples, seed)
        sgd = dataclasses.replace(sgd, batch_size=None)
    timings = {}
    with measured() as part, bar("real steps", None):
        start = calibration.at_the_start(task)
        if calibrate_steps and isinstance(sgd, SGD):
            start = calibration.real_steps(
                task,
                sgd,
                calibrate_steps=calibrate_steps,
                steps=steps,
                read=read,
                seed=seed,
            )
    timings["calibrate_s"], timings["compile_s"] = part.run_s, part.compile_s
    common: dict[str, Any] = {
        "steps": steps,
        "seed": seed,
        "memory_budget_bytes": memory_budget_bytes,
    }
    if isinstance(sgd, Adam):
        found = _by_preconditioned(task, sgd, every=every, expected=expected, **common)
    elif sparsity is not None or correction is not None:
        found = _by_masks(
            task,
            sgd,
            kernel,
            sparsity=sparsity,
            correction=correction,
            read=read,
            expected=expected,
            **common,
        )
    elif groups is not None:
        found = _by_groups(
            task,
            sgd,
            groups,
            kernel,
            solver=solver,
            every=every,
            expected=expected,
            **common,
        )
    elif relinearize is not None:
        found = _by_many(
            task,
            sgd,
            start,
            kernel,
            relinearize=relinearize,
            read=read[read >= start.steps] - start.steps,
            expected=expected,
            **common,
        )
    elif (
        mend
        and solver == "simulate"
        and not paths
        and not len(kept_steps(keep, steps))
        and kernel_samples is None
    ):
        found = _by_mended(
            task,
            sgd,
            start,
            kernel,
            mend=mend,
            read=read[read >= start.steps] - start.steps,
            expected=expected,
            **common,
        )
    else:
        found = _by_one(
            task,
            sgd,
            start,
            kernel,
            solver=solver,
            every=every,
            paths=paths,
            noise=noise,
            many=None if kernel_samples is None else whole.n,
            keep=keep,
            expected=expected,
            **common,
        )
    timings["compile_s"] += found.compile_s

    with measured() as part, bar("timing a training step", None):
        # Two steps at least are timed: of few samples, by no more than those few together.
        at_most = task.n if kernel_samples is None else task.n // 2
        timings["step_s"], samples_timed = calibration.step_seconds(
            whole, whole_sgd, at_most=at_most
        )
        dearer = 1.0
        if correction is not None and whole_sgd.batch_size is not None:
            batch = whole_sgd.batch_size
            extra = corrections.extra_passes(correction, steps, batch, whole.n)
            dearer += extra / (3 * batch * steps)
        timings["step_s"] *= dearer
        seconds = read * timings["step_s"]
        per_step = 3 * expected.forward_flops_per_sample * (whole_sgd.batch_size or whole.n)
        operations = read * per_step * dearer
        if groups is not None and isinstance(whole_sgd, SGD):
            stages = stage_costs.stage_costs(whole, whole_sgd, groups, steps=steps)
            samples_timed *= 1 + len(stages)
            seconds, operations = (
                stage_costs.spent(stages, per_step, steps, seconds=wanted)[read]
                for wanted in (True, False)
            )
    timings["timing_s"] = part.run_s
    timings["compile_s"] += part.compile_s
    whole_run = (new.after(old) for old, new in zip(start.seen, found.curves, strict=True))
    curve, *held_out = (
        Curve(
            read,
            both.loss,
            both.accuracy,
            seconds,
            both.loss_quantiles,
            both.accuracy_quantiles,
        )
        for both in whole_run
    )
    return dataclasses.replace(
        curve,
        trust=found.trust,
        timings={**timings, **found.timings},
        flops=found.flops
        + expected.forward_flops_per_sample
        * (
            len(start.seen[0].loss) * (task.n + task.m)
            + 3 * samples_timed
            + 3 * calibrate_steps * (sgd.batch_size or task.n)
        ),
        held_out=held_out[0] if held_out else None,
        kept=found.kept,
        epochs=found.epochs,
        operations=operations,
    )


@dataclass(frozen=True)
class _Found:
    """What is predicted from where the real steps have ended, if there were any."""

    curves: tuple[Readings, ...]
    """Of each of :attr:`Task.parts`."""
    trust: Trust
    timings: Mapping[str, float]
    compile_s: float
    flops: float
    """Of the prediction itself."""
    kept: Kept | None = None
    epochs: Mapping[str, np.ndarray] | None = None


def _by_masks(
    task: Task,
    sgd: SGD,
    kernel: KernelName | Kernel | Computed,
    *,
    sparsity: Sparsity | None,
    correction: Correction | None,
    steps: int,
    read: np.ndarray,
    seed: int,
    memory_budget_bytes: int | None,
    expected: KernelCost,
) -> _Found:
    """Masked weights, corrected gradients, or both."""
    with measured() as part:
        found = masked_prediction.along_masks(
            task,
            sgd,
            steps=steps,
            sparsity=sparsity,
            correction=correction,
            kernel=kernel if isinstance(kernel, Computed) else _described(kernel),
            seed=seed,
            memory_budget_bytes=memory_budget_bytes,
        )
    with measured() as last, bar("a second look", None):
        verdict, looks = masked_prediction.judged(
            task, sgd, found, sparsity, steps=steps, seed=seed
        )
    given_s = kernel.run_s if isinstance(kernel, Computed) else 0.0
    passes = found.passes + second_look.PASSES * looks
    return _Found(
        curves=tuple(curve.at(read) for curve in found.curves),
        trust=verdict,
        timings={
            "kernel_s": found.kernel_s,
            "solve_s": part.run_s - (found.kernel_s - given_s),
            "trust_s": last.run_s,
        },
        compile_s=part.compile_s + last.compile_s,
        flops=found.kernels * expected.flops
        + passes * expected.forward_flops_per_sample * (task.n + task.m)
        + _dynamics_flops(task, sgd, steps * (1 + looks)),
        epochs=None if correction is None else found.epochs._asdict(),
    )


def _by_many(
    task: Task,
    sgd: SGD,
    start: calibration.Start,
    kernel: KernelName | Kernel | Computed,
    *,
    relinearize: float,
    steps: int,
    read: np.ndarray,
    seed: int,
    memory_budget_bytes: int | None,
    expected: KernelCost,
) -> _Found:
    """One linearisation after the other."""
    given = kernel if isinstance(kernel, Computed) else None
    with measured() as part:
        found = relinearization.relinearized(
            task,
            sgd,
            start,
            steps=steps,
            tolerance=relinearize,
            kernel=given or _described(kernel),
            seed=seed,
            memory_budget_bytes=memory_budget_bytes,
        )
    with measured() as last:
        verdict = trust.judge_relinearized(
            curvature=trust.largest_curvature(
                found.theta, found.outputs, task.targets, loss=task.loss
            ),
            gap=found.gap,
            error=found.error,
            kernels=len(found.pieces),
            sgd=sgd,
            peak_rate=float(sgd.learning_rates(steps).max()),
            predicted_loss=found.curves[0].loss,
        )
    return _Found(
        curves=tuple(curve.at(read) for curve in found.curves),
        trust=verdict,
        timings={
            "kernel_s": found.kernel_s + (given.run_s if given else 0.0),
            "solve_s": part.run_s - found.kernel_s,
            "trust_s": last.run_s,
        },
        compile_s=part.compile_s + last.compile_s + (given.compile_s if given else 0.0),
        flops=found.kernels * expected.flops
        + found.passes * expected.forward_flops_per_sample * (task.n + task.m)
        + _dynamics_flops(task, sgd, found.solved_steps),
    )


def _by_mended(
    task: Task,
    sgd: SGD,
    start: calibration.Start,
    kernel: KernelName | Kernel | Computed,
    *,
    mend: int,
    steps: int,
    read: np.ndarray,
    seed: int,
    memory_budget_bytes: int | None,
    expected: KernelCost,
) -> _Found:
    """One kernel, mended along the path."""
    with measured() as forward, bar("outputs at the start", None):
        f0 = outputs.at_the_start(task.apply_fn, start.params, task.joint.x)
    kernel = _computed(kernel, task, start, memory_budget_bytes)
    theta = kernel.theta[: task.n * task.c]
    with measured() as part:
        found = mending.mended(
            task,
            sgd,
            start,
            theta,
            f0,
            steps=steps,
            mends=mend,
            seed=seed,
            memory_budget_bytes=memory_budget_bytes,
        )
    with measured() as last:
        curve = found.curves[0]
        taken = np.arange(start.steps, steps + 1)
        verdict = chances.judge(
            found.looks,
            Curve(taken, curve.loss, curve.accuracy, np.zeros(len(taken))),
            curvature=trust.largest_curvature(
                theta[:, : task.n * task.c], f0[: task.n], task.targets, loss=task.loss
            ),
            gap=max((look.gap for look in found.looks), default=0.0),
            mended=True,
            sgd=sgd,
            peak_rate=float(sgd.learning_rates(steps).max()),
        )
    return _Found(
        curves=tuple(curve.at(read) for curve in found.curves),
        trust=verdict,
        timings={
            "forward_s": forward.run_s,
            "kernel_s": kernel.run_s,
            "solve_s": part.run_s,
            "trust_s": last.run_s,
        },
        compile_s=forward.compile_s + kernel.compile_s + part.compile_s + last.compile_s,
        flops=expected.flops
        + found.passes * expected.forward_flops_per_sample * (task.n + task.m)
        + len(found.looks) * mending.kernel_flops(task)
        + _dynamics_flops(task, sgd, found.solved_steps),
    )


def _computed(
    kernel: KernelName | Kernel | Computed,
    task: Task,
    start: calibration.Start,
    memory_budget_bytes: int | None,
) -> Computed:
    """The kernel where the prediction begins, unless it was given."""
    if isinstance(kernel, Computed):
        return kernel
    return _described(kernel).of(
        dataclasses.replace(task, params=start.params),
        memory_budget_bytes=memory_budget_bytes,
    )


def _dynamics_flops(task: Task, sgd: Optimizer, steps: int | float) -> float:
    return 2.0 * steps * (sgd.batch_size or task.n) * (task.n + task.m) * task.c**2


def _by_one(
    task: Task,
    sgd: SGD,
    start: calibration.Start,
    kernel: KernelName | Kernel | Computed,
    *,
    solver: Solver,
    steps: int,
    every: int,
    paths: int,
    noise: Noise,
    seed: int,
    many: int | None,
    keep: Keep,
    memory_budget_bytes: int | None,
    expected: KernelCost,
) -> _Found:
    """One linearisation, of the task or of some of its samples."""
    timings = {}
    joint = task.joint
    with measured() as part, bar("outputs at the start", None):
        f0 = outputs.at_the_start(task.apply_fn, start.params, joint.x)
        targets = joint.targets
        q0 = u0 = None
        decayed = calibration.decayed(task, sgd, start.params)
        if sgd.weight_decay and (sgd.decay_toward == "zero" or start.steps):
            q0 = outputs.jvp(task.apply_fn, start.params, joint.x, decayed)
        if start.velocity is not None:
            u0 = outputs.jvp(task.apply_fn, start.params, joint.x, start.velocity)
    timings["forward_s"] = part.run_s
    compile_s = part.compile_s

    kernel = _computed(kernel, task, start, memory_budget_bytes)
    # What is held out answers to the gradients of the others and has none of its own.
    theta = kernel.theta[: task.n * task.c]
    timings["kernel_s"] = kernel.run_s
    compile_s += kernel.compile_s

    with measured() as part, bar(f"dynamics ({solver})", None):
        common: dict[str, Any] = {"loss": task.loss, "steps": steps, "every": every}
        path = _path(
            solver,
            (theta, f0, targets, sgd),
            noise=noise,
            first=start.steps,
            q0=q0,
            u0=u0,
            seed=seed,
            paths=paths,
            keep=keep,
            **common,
        )
        trained, doubt, solved = path.trained, 0.0, 1.0
        if many is not None:
            solved += extrapolation.PARTS_COST
            loss, accuracy, doubt = extrapolation.to_many(
                theta,
                f0,
                targets,
                sgd,
                path.loss,
                path.accuracy,
                n=many,
                q0=q0,
                seed=seed,
                **common,
            )
            trained = Readings(loss, accuracy)
    timings["solve_s"] = part.run_s
    compile_s += part.compile_s

    # Trust is judged on what is trained on.
    theta, k = theta[:, : task.n * task.c], task.n
    f0, targets = f0[:k], targets[:k]
    q0, u0 = (None if image is None else image[:k] for image in (q0, u0))
    with measured() as part, bar("a second look", None):
        along = [(float(path.shrink), decayed)]
        if start.velocity is not None:
            along.append((float(path.coast), start.velocity))
        w = outputs.moved_weights(
            task.apply_fn, start.params, task.x, path.alpha.reshape(f0.shape), along
        )
        f = outputs.forward(task.apply_fn, w, task.x)
        looks = second_look.look_along(
            task, sgd, start, theta, f0, steps=steps, q0=q0, u0=u0, seed=seed
        )
        verdict = chances.judge(
            looks,
            Curve(path.steps, trained.loss, trained.accuracy, np.zeros(len(path.steps))),
            curvature=trust.largest_curvature(theta, f0, targets, loss=task.loss),
            gap=trust.linearization_gap(f, path.outputs, f0),
            sgd=sgd,
            peak_rate=float(sgd.learning_rates(steps).max()),
            doubt=doubt,
        )
    timings["trust_s"] = part.run_s
    compile_s += part.compile_s
    kept = None
    if path.places is not None:
        with measured() as part:
            kept = _kept(task, path.places, theta, kept_steps(keep, steps))
        timings["kept_s"] = part.run_s
        compile_s += part.compile_s
    return _Found(
        curves=(trained,) if path.held_out is None else (trained, path.held_out),
        trust=verdict,
        timings=timings,
        compile_s=compile_s,
        flops=expected.flops
        + expected.forward_flops_per_sample
        * ((5 + second_look.PASSES * len(looks)) * task.n + task.m)
        + _dynamics_flops(task, sgd, steps * (solved + 1 + len(looks))),
        kept=kept,
    )


def _by_groups(
    task: Task,
    sgd: SGD,
    groups: Groups,
    kernel: KernelName | Kernel | Computed,
    *,
    solver: Solver,
    steps: int,
    every: int,
    seed: int,
    memory_budget_bytes: int | None,
    expected: KernelCost,
) -> _Found:
    """One linearisation, each group of weights at its own rates."""
    if not isinstance(kernel, Computed):
        kernel = _described(kernel).of(
            task, groups=groups, memory_budget_bytes=memory_budget_bytes
        )
    assert kernel.shares is not None
    toward_zero = sgd.weight_decay > 0 and sgd.decay_toward == "zero"
    with measured() as forward, bar("outputs at the start", None):
        start = grouped_prediction.linearised(
            task, groups, kernel.shares, decayed=toward_zero
        )
    with measured() as solving, bar(f"dynamics ({solver})", None):
        path = grouped_prediction.simulated(start, sgd, steps=steps, seed=seed, every=every)
        curves = path.curves
        if solver == "moments":
            curves = grouped_prediction.expected(start, sgd, steps=steps, every=every)
    with measured() as last, bar("linearisation gap", None):
        verdict = grouped_prediction.judged(start, sgd, path, curves[0].loss, steps=steps)
    return _Found(
        curves=curves,
        trust=verdict,
        timings={
            "forward_s": forward.run_s,
            "kernel_s": kernel.run_s,
            "solve_s": solving.run_s,
            "trust_s": last.run_s,
        },
        compile_s=kernel.compile_s + forward.compile_s + solving.compile_s + last.compile_s,
        flops=expected.flops
        + expected.forward_flops_per_sample * (2 + 6 * groups.count) * task.n
        + groups.count * _dynamics_flops(task, sgd, steps),
    )


def _kept(task: Task, places: Places, theta: np.ndarray, steps: np.ndarray) -> Kept:
    """Linearised models along the way. A JVP a sample."""
    q0 = outputs.jvp(task.apply_fn, task.params, task.x, task.params)
    size = outputs.gram_of_moves(task.params, ())[0, 0]
    own = theta[:, : q0.size]
    return Kept(steps, places.outputs, places.gram(own, q0.reshape(-1), float(size)))


def _by_preconditioned(
    task: Task,
    adam: Adam,
    *,
    steps: int,
    every: int,
    seed: int,
    memory_budget_bytes: int | None,
    expected: KernelCost,
) -> _Found:
    """Adam, by one linearisation and the second moments along its path."""
    with measured() as forward, bar("outputs at the start", None):
        f0 = outputs.at_the_start(task.apply_fn, task.params, task.x)
        q0 = None
        if adam.weight_decay and adam.decay_toward == "zero":
            q0 = outputs.jvp(task.apply_fn, task.params, task.x, task.params)
    with measured() as part, bar("kernels and dynamics (Adam)", None):
        found, made = preconditioning.along_the_path(
            task,
            adam,
            f0,
            q0,
            steps=steps,
            seed=seed,
            every=every,
            memory_budget_bytes=memory_budget_bytes,
        )
    path = found.path
    with measured() as last, bar("linearisation gap", None):

        def gap(at) -> float:
            w = preconditioning.moved_weights(task, made, at.alpha, at.shrink)
            f = outputs.forward(task.apply_fn, w, task.x)
            return trust.linearization_gap(f, at.outputs, f0)

        # Rates grow where gradients shrink, and with them the curvature of cross-entropy.
        places = [(f0, found.rates[0]), (path.outputs, found.rates[-1])]
        if found.waypoint is not None:
            passed = np.argmax(path.loss <= WAYPOINT_LOSS * path.loss[0])
            rate = found.rates[max(path.steps[passed], 1) - 1]
            places.append((found.waypoint.outputs, rate))
        curvature, rate = max(
            (
                (
                    trust.largest_curvature(made.theta, f, task.targets, loss=task.loss),
                    float(rate),
                )
                for f, rate in places
                if np.isfinite(f).all()
            ),
            key=lambda pair: pair[0] * pair[1],
        )
        verdict = trust.judge_by_gaps(
            curvature=curvature,
            gap=gap(path),
            early_gap=0.0 if found.waypoint is None else gap(found.waypoint),
            sgd=adam,
            peak_rate=rate,
            predicted_loss=path.loss,
            assumed="Adam's second moments are taken as fixed but for their size",
        )
    return _Found(
        curves=(path.trained,),
        trust=verdict,
        timings={
            "forward_s": forward.run_s,
            "kernel_s": made.run_s,
            "solve_s": part.run_s - made.run_s,
            "trust_s": last.run_s,
        },
        compile_s=forward.compile_s + part.compile_s + last.compile_s,
        flops=expected.flops
        + 9 * expected.forward_flops_per_sample * task.n
        + _dynamics_flops(task, adam, 2 * steps),
    )


def _path(
    solver: Solver,
    problem: tuple,
    *,
    noise: Noise,
    first: int,
    u0: np.ndarray | None,
    q0: np.ndarray | None,
    seed: int,
    paths: int,
    keep: Keep,
    **common: Any,
) -> Path:
    """What a solver makes of ``(theta, f0, targets, sgd)``; each takes what it has use for."""
    theta, f0, targets, sgd = problem
    random = {"q0": q0, "seed": seed, "paths": paths}
    if solver == "flow":
        return flow(spectrum.of_gram(theta), f0, targets, sgd, **common)
    if solver == "simulate":
        own = {"first": first, "u0": u0, "keep": keep}
        return simulate(theta, f0, targets, sgd, **own, **common, **random)
    if solver in ("sde", "ode"):
        random["paths"] = paths or 32
        noisy = solver == "sde"
        return sde(theta, f0, targets, sgd, noise=noise, noisy=noisy, **common, **random)
    form = "sde" if solver == "moments_sde" else "discrete"
    return moments(theta, f0, targets, sgd, q0=q0, form=form, noise=noise, **common)[0]


def cost_ahead(
    task: Task,
    sgd: Optimizer,
    *,
    steps: int,
    solver: Solver = "simulate",
    kernel: KernelName | Kernel | Computed = "exact",
    every: int = 1,
    paths: int = 0,
    noise: Noise = "exact",
    calibrate_steps: int = 0,
    relinearize: float | None = None,
    mend: int = mending.MENDS,
    kernel_samples: int | None = None,
    keep: Keep = (),
    sparsity: Sparsity | None = None,
    correction: Correction | None = None,
    attack: Attack | None = None,
    groups: Groups | None = None,
    seed: int = 0,
    memory_budget_bytes: int | None = None,
) -> KernelCost:
    """What the kernel of a prediction will cost; nothing is computed yet.

    Arguments are those of :func:`predict`.

    Raises:
        InputError: What :func:`predict` would refuse.
    """
    described = _described(kernel)
    if mend < 0:
        raise InputError(f"mend must not be negative, got {mend}; 0 is one linearisation")
    if solver not in get_args(Solver):
        raise InputError(
            f"solver must be one of {', '.join(get_args(Solver))}, got {solver!r}"
        )
    read_steps(steps, every)
    sgd.grouped_rates(steps, None if groups is None else groups.count)
    sgd.batches(task.n, 1, 0)
    if attack is not None:
        raise InputError(
            "adversarial training is not predicted: its pictures follow the weights, and a "
            "linearisation knows nothing of them; leave the attack out, or train for real"
        )
    if sparsity is not None or correction is not None:
        masked_prediction.require_plain(
            {
                "groups": groups is not None,
                "optimizer": isinstance(sgd, Adam),
                "solver": solver != "simulate",
                "paths": paths != 0,
                "noise": noise != "exact",
                "calibrate_steps": calibrate_steps != 0,
                "relinearize": relinearize is not None,
                "kernel_samples": kernel_samples is not None,
                "keep": len(keep) != 0,
            }
        )
        masked_prediction.require_usable(task, sgd, sparsity, correction, described, steps)
    if groups is not None:
        asked = {
            "Adam": isinstance(sgd, Adam),
            f"solver {solver!r}": solver not in ("simulate", "moments"),
            "paths": paths != 0,
            "noise": noise != "exact",
            "calibrate_steps": calibrate_steps != 0,
            "relinearize": relinearize is not None,
            "kernel_samples": kernel_samples is not None,
            "keep": len(keep) != 0,
            "a kernel without shares": isinstance(kernel, Computed)
            and (kernel.shares is None or len(kernel.shares) != groups.count),
        }
        grouped_prediction.require_groups([name for name, there in asked.items() if there])
    if isinstance(sgd, Adam):
        asked = {
            "solver": solver != "simulate",
            "paths": paths != 0,
            "noise": noise != "exact",
            "calibrate_steps": calibrate_steps != 0,
            "relinearize": relinearize is not None,
            "kernel_samples": kernel_samples is not None,
            "keep": len(keep) != 0,
            "held_out": task.m != 0,
            "kernel": isinstance(kernel, Computed)
            or (described.name, described.outputs) != ("exact", "full"),
        }
        preconditioning.require_plain([name for name, there in asked.items() if there])
        return preconditioning.cost(task, memory_budget_bytes=memory_budget_bytes)
    if solver == "flow":
        require_closed_form(sgd, task.loss)
    elif solver == "moments" or noise != "exact":
        require_independent(
            noise,
            shuffled=solver == "moments"
            and sgd.batch_size is not None
            and sgd.sampling == "shuffle",
        )
    if not 0 <= calibrate_steps < steps:
        raise InputError(
            f"calibrate_steps must lie in 0..{steps - 1} (fewer than the steps), got "
            f"{calibrate_steps}"
        )
    if calibrate_steps and solver != "simulate":
        raise InputError(
            f"calibrate_steps needs solver 'simulate', got {solver!r}; leave it at 0"
        )
    if relinearize is not None:
        relinearization.require_tolerance(relinearize)
        if solver != "simulate" or paths or kernel_samples is not None:
            raise InputError(
                "relinearize needs solver 'simulate' without paths and kernel_samples, got "
                f"{solver!r}, {paths} and {kernel_samples}; leave relinearize out"
            )
    if kernel_samples is not None:
        if solver != "simulate" or paths or calibrate_steps:
            raise InputError(
                "kernel_samples needs solver 'simulate' without paths and calibrate_steps, "
                f"got {solver!r}, {paths} and {calibrate_steps}; leave kernel_samples out"
            )
        task = extrapolation.few(task, kernel_samples, seed)
    if len(kept_steps(keep, steps)) and (
        solver != "simulate"
        or calibrate_steps
        or relinearize is not None
        or kernel_samples is not None
    ):
        raise InputError(
            "models along the way (keep, snapshots) need solver 'simulate' without "
            f"calibrate_steps, relinearize and kernel_samples, got {solver!r}, "
            f"{calibrate_steps}, {relinearize} and {kernel_samples}; leave these out"
        )
    if task.m and (solver != "simulate" or kernel_samples is not None):
        raise InputError(
            "held_out needs solver 'simulate' without kernel_samples, got "
            f"{solver!r} and {kernel_samples}; leave held_out out"
        )
    joint = task.joint
    if isinstance(kernel, Computed):
        if calibrate_steps:
            raise InputError(
                "a kernel that was computed before is that of the weights at the start, got "
                f"calibrate_steps {calibrate_steps}; name the kernel instead"
            )
        size = joint.n * joint.c
        if len(kernel.theta) != size:
            also = ", held-out samples included" if task.m else ""
            raise InputError(
                f"the kernel must be that of this task{also}, [{size}, {size}], got "
                f"{kernel.theta.shape}; compute it by Kernel.of(task)"
            )
    if paths < 0:
        raise InputError(f"paths must not be negative, got {paths}")
    if paths and solver not in ("simulate", "sde"):
        raise InputError(
            f"bands (paths) need solver 'simulate' or 'sde', got {solver!r}; leave paths at 0"
        )
    if noise != "exact" and solver not in ("moments", "moments_sde", "sde"):
        raise InputError(
            f"noise {noise!r} is for solvers 'moments', 'moments_sde' and 'sde', got "
            f"{solver!r}; leave noise at 'exact'"
        )
    return described.cost(
        task.apply_fn,
        task.params,
        joint.x,
        groups=groups,
        memory_budget_bytes=memory_budget_bytes,
    )


def _described(kernel: KernelName | Kernel | Computed) -> Kernel:
    if isinstance(kernel, Computed):
        return kernel.described
    return kernel if isinstance(kernel, Kernel) else Kernel(kernel)
