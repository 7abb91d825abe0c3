"""What if: thousands of settings of SGD predicted from one kernel, and what to choose.

Every setting of a grid is followed through its own mini-batches as :func:`ttp_jax.predict`
would, all that share their batches side by side (:mod:`ttp_jax.dynamics.settings`). No setting
carries a verdict of its own: predict those that are worth it again for their ``trust``.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from ttp_jax import outputs, schedules, trust
from ttp_jax.dynamics import settings
from ttp_jax.kernel.choice import Computed, Kernel, KernelName
from ttp_jax.optimizers import SGD, DecayToward
from ttp_jax.sampling import Sampling, steps_of
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve, InputError, Task, ThresholdRule

Schedule = Literal["constant", "cosine"]
READING_RATIO = 1.05
"""Each step that is read is about so many times the one before: times are that exact."""


@dataclass(frozen=True)
class Setting:
    """One point of a grid."""

    learning_rate: float
    momentum: float
    batch_size: int | None
    schedule: Schedule
    epochs: int | float

    def steps(self, n: int) -> int:
        """``T`` for ``n`` samples."""
        return steps_of(self.epochs, n, self.batch_size)


@dataclass(frozen=True)
class Grid:
    """Every combination of these, and what all settings have in common.

    Args:
        learning_rates: At the peak of the schedule.
        momenta: ``mu``.
        batch_sizes: ``B``; ``None`` for the full batch.
        schedules: ``"constant"`` or ``"cosine"`` (half a cosine to zero over the run).
        epochs: Lengths of the run, in passes over the samples.
        nesterov: As in :class:`ttp_jax.SGD`, of the momenta above 0.
        weight_decay: As there.
        decay_toward: As there.
        sampling: As there.
    """

    learning_rates: Sequence[float]
    momenta: Sequence[float] = (0.9,)
    batch_sizes: Sequence[int | None] = (None,)
    schedules: Sequence[Schedule] = ("constant",)
    epochs: Sequence[int | float] = (60,)
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_toward: DecayToward = "zero"
    sampling: Sampling = "shuffle"

    def __post_init__(self) -> None:
        for name, values in zip(AXES, self.axes, strict=True):
            if len(values) == 0 or len(set(values)) < len(values):
                raise InputError(
                    f"the grid's {name} must be one or more different values, got "
                    f"{list(values)}"
                )
        for name in self.schedules:
            if name not in get_args(Schedule):
                raise InputError(
                    f"schedule must be one of {', '.join(get_args(Schedule))}, got {name!r}"
                )
        for epochs in self.epochs:
            if not (np.isfinite(epochs) and epochs > 0):
                raise InputError(f"epochs must be positive, got {epochs}")

    @property
    def axes(self) -> tuple[Sequence, ...]:
        """In the order of every array of a sweep."""
        return (
            self.learning_rates,
            self.momenta,
            self.batch_sizes,
            self.schedules,
            self.epochs,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Settings along each axis."""
        return tuple(len(axis) for axis in self.axes)

    def setting(self, index: Sequence[int]) -> Setting:
        """The one at a place of the arrays."""
        return Setting(*(axis[k] for axis, k in zip(self.axes, index, strict=True)))

    def sgd(self, setting: Setting, n: int) -> SGD:
        """As ``predict`` and ``finetune`` take it."""
        rate = setting.learning_rate
        if setting.schedule == "cosine":
            rate = schedules.cosine(rate, setting.steps(n))
        return SGD(
            rate,
            momentum=setting.momentum,
            nesterov=self.nesterov and setting.momentum > 0,
            weight_decay=self.weight_decay,
            batch_size=setting.batch_size,
            sampling=self.sampling,
            decay_toward=self.decay_toward,
        )


AXES = ("learning_rates", "momenta", "batch_sizes", "schedules", "epochs")


@dataclass(frozen=True)
class Trajectories:
    """Loss of all rates and momenta at the steps that were read."""

    steps: Int[np.ndarray, " t"]
    loss: Float[np.ndarray, "rates momenta t"]


@dataclass(frozen=True)
class Sweep:
    """The predicted curves of a grid. Arrays are ordered as :data:`AXES`."""

    grid: Grid
    n: int
    stability: Float[np.ndarray, "rates momenta"]
    """``eta (lam_max + wd)`` over the limit of the optimiser, as in
    :class:`ttp_jax.Trust`; above 1 the full-batch dynamics grow."""
    trajectories: Mapping[tuple[int | None, Schedule, int | float], Trajectories]
    """By batch size, schedule and length; of a constant schedule of the greatest length, whose
    beginnings are the shorter runs."""

    def curve(self, index: Sequence[int]) -> Curve:
        """The predicted loss of one setting (accuracy and seconds are not kept: NaN)."""
        setting = self.grid.setting(index)
        found = self._trajectories(setting)
        kept = found.steps <= setting.steps(self.n)
        nothing = np.full(kept.sum(), np.nan)
        return Curve(
            steps=found.steps[kept],
            loss=found.loss[index[0], index[1], kept],
            accuracy=nothing,
            seconds=nothing,
        )

    def _trajectories(self, setting: Setting) -> Trajectories:
        constant = setting.schedule == "constant"
        length = max(self.grid.epochs) if constant else setting.epochs
        return self.trajectories[setting.batch_size, setting.schedule, length]

    @cached_property
    def final_loss(self) -> Float[np.ndarray, "rates momenta batches schedules lengths"]:
        """At the end of every setting; not finite where it diverged."""
        found = [self.curve(index).loss[-1] for index in np.ndindex(self.grid.shape)]
        return np.reshape(found, self.grid.shape)

    @cached_property
    def stable(self) -> Bool[np.ndarray, "rates momenta batches schedules lengths"]:
        """Where neither the curvature nor the predicted curve says that it grows."""
        falls = [
            not trust.grows(self.curve(index).loss) for index in np.ndindex(self.grid.shape)
        ]
        calm = (self.stability <= 1)[:, :, None, None, None]
        return np.reshape(falls, self.grid.shape) & calm

    def times(self, epsilon: float, rule: ThresholdRule = "fraction_of_initial") -> "Times":
        """Time to a threshold of every setting.

        Settings are compared best by ``"fraction_of_initial"`` or ``"loss"``: each has an end
        of its own to be ``"within_of_final"`` of.
        """
        steps = np.empty(self.grid.shape, int)
        censored = np.empty(self.grid.shape, bool)
        for index in np.ndindex(self.grid.shape):
            found = time_to_threshold(self.curve(index), epsilon, rule)
            censored[index] = found.censored
            steps[index] = found.budget_steps if found.steps is None else found.steps
        return Times(steps, censored)


@dataclass(frozen=True)
class Times:
    """Time to one threshold over a grid, arrays ordered as :data:`AXES`."""

    steps: Int[np.ndarray, "rates momenta batches schedules lengths"]
    """First step that was read at which the threshold is met; the last where it never is."""
    censored: Bool[np.ndarray, "rates momenta batches schedules lengths"]
    """Whether it never is."""


def sweep(
    task: Task,
    grid: Grid,
    *,
    kernel: KernelName | Kernel | Computed = "exact",
    rank: int = 256,
    seed: int = 0,
    memory_budget_bytes: int | None = None,
) -> Sweep:
    """Predict the loss curve of every setting of a grid from one kernel.

    Args:
        task: What would be trained.
        grid: The settings.
        kernel: As for :func:`ttp_jax.predict`.
        rank: Modes of the kernel that are followed; of the others each sample's own block
            (:class:`ttp_jax.dynamics.settings.Modes`). ``n c`` or more: equal to
            ``predict``, to float32. 256 of 750: within 4 % of its loss.
        seed: Of the streams of mini-batches, as in ``predict``.
        memory_budget_bytes: For the kernel.

    Raises:
        InputError: A grid that cannot be used, before the kernel starts.

    Cost: the kernel, then ``6 n c rank`` operations an epoch of every trajectory; lengths
    share one where the schedule is constant.

    Breaks when: a setting leaves the linearisation. Larger rates and longer runs do so first.
    """
    require_usable(grid, task.n, rank)
    if task.views is not None or task.batch_norm is not None:
        raise InputError(
            "a sweep knows neither views nor BatchNorm in training mode; leave them out of the "
            "task"
        )
    task = dataclasses.replace(task, held_out=None)
    if isinstance(kernel, Computed) and len(kernel.theta) != task.n * task.c:
        raise InputError(
            f"the kernel must be that of the {task.n} training samples with {task.c} outputs, "
            f"got {kernel.theta.shape}; compute it by Kernel.of(task)"
        )
    if not isinstance(kernel, Computed):
        kernel = kernel if isinstance(kernel, Kernel) else Kernel(kernel)
        kernel = kernel.of(task, memory_budget_bytes=memory_budget_bytes)
    f0 = outputs.at_the_start(task.apply_fn, task.params, task.x)
    q0 = None
    if grid.weight_decay and grid.decay_toward == "zero":
        q0 = outputs.jvp(task.apply_fn, task.params, task.x, task.params)
    modes = settings.largest_modes(kernel.theta, task.c, rank)
    curvature = trust.largest_curvature(kernel.theta, f0, task.targets, loss=task.loss)
    rates, momenta = np.meshgrid(grid.learning_rates, grid.momenta, indexing="ij")
    found = {}
    for batch_size in grid.batch_sizes:
        lengths = {
            epochs: Setting(1.0, 0.0, batch_size, "constant", epochs).steps(task.n)
            for epochs in grid.epochs
        }
        longest = max(lengths, key=lambda epochs: lengths[epochs])
        # One stream and one shape of schedule for all lengths: one program.
        stream = SGD(1.0, batch_size=batch_size, sampling=grid.sampling).batches(
            task.n, lengths[longest], seed
        )
        for schedule in grid.schedules:
            constant = schedule == "constant"
            for epochs in [longest] if constant else grid.epochs:
                one = Setting(1.0, 0.0, batch_size, schedule, epochs)
                shape = np.zeros(lengths[longest])
                shape[: lengths[epochs]] = grid.sgd(one, task.n).learning_rates(
                    lengths[epochs]
                )
                read = _read(lengths.values() if constant else [lengths[epochs]])
                loss = settings.curves(
                    modes,
                    f0,
                    task.targets,
                    loss=task.loss,
                    learning_rates=rates.ravel(),
                    momenta=momenta.ravel(),
                    shape=shape,
                    batches=stream,
                    read=read,
                    nesterov=grid.nesterov,
                    weight_decay=grid.weight_decay,
                    q0=q0,
                )
                found[batch_size, schedule, epochs] = Trajectories(
                    read, loss.reshape(*rates.shape, len(read))
                )
    stability = [
        [
            grid.sgd(grid.setting((i, j, 0, 0, 0)), task.n).stability(curvature, rate)
            for j in range(len(grid.momenta))
        ]
        for i, rate in enumerate(grid.learning_rates)
    ]
    return Sweep(grid, task.n, np.array(stability), found)


def require_usable(grid: Grid, n: int, rank: int) -> None:
    """Refuse what a sweep over ``n`` samples cannot do, before the kernel.

    Raises:
        InputError: A rank below 1, or a setting that is no optimiser of these samples.
    """
    if rank < 1:
        raise InputError(f"rank must be at least 1, got {rank}")
    for index in np.ndindex(*grid.shape[:3], 1, 1):
        grid.sgd(grid.setting(index), n).batches(n, 1, 0)


def _read(lengths: Iterable[int]) -> Int[np.ndarray, " t"]:
    """Every step at first, then ever more apart; the end of every length."""
    ends = list(lengths)
    last = max(ends)
    count = int(np.log(last) / np.log(READING_RATIO)) + 2
    apart = np.geomspace(1, last, count).round().astype(int)
    return np.unique(np.concatenate([[0], apart, ends]))
