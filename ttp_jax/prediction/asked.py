"""What one prediction was asked for, and which options go together."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int

from ttp_jax.accelerators.correction import Correction
from ttp_jax.accelerators.sparsity import Sparsity
from ttp_jax.attacks import Attack
from ttp_jax.dynamics.flow import require_closed_form
from ttp_jax.dynamics.noise import Noise, require_independent
from ttp_jax.groups import Groups
from ttp_jax.kernel.choice import Computed, Kernel, KernelName
from ttp_jax.kernel.empirical import KernelCost
from ttp_jax.linearisation import (
    augmented_prediction,
    extrapolation,
    masked_prediction,
    mending,
    relinearization,
)
from ttp_jax.linearisation.calibration import Start
from ttp_jax.optimizers import SGD, Adam, Optimizer
from ttp_jax.reading import Keep, kept_steps, read_steps
from ttp_jax.types import InputError, Masked, Task

Solver = Literal["simulate", "flow", "moments", "moments_sde", "sde", "ode"]


@dataclass(frozen=True)
class Asked:
    """The arguments of :func:`ttp_jax.predict`, under their names there."""

    task: Task
    optimizer: Optimizer
    steps: int
    solver: Solver = "simulate"
    kernel: KernelName | Kernel | Computed = "exact"
    seed: int = 0
    every: int = 1
    paths: int = 0
    noise: Noise = "exact"
    effective_rate: bool = False
    calibrate_steps: int = 0
    relinearize: float | None = None
    mend: int = mending.MENDS
    mend_clock: mending.Clock = mending.CLOCK
    kernel_samples: int | None = None
    coarse: int | float | None = None
    check: int | float | None = None
    keep: Keep = ()
    sparsity: Sparsity | None = None
    """Masks that move; those that stay are the task's."""
    correction: Correction | None = None
    attack: Attack | None = None
    groups: Groups | None = None
    views: int = augmented_prediction.VIEWS
    memory_budget_bytes: int | None = None

    @property
    def sgd(self) -> SGD:
        """The optimiser, of the ways that predict no other."""
        assert isinstance(self.optimizer, SGD)
        return self.optimizer

    @cached_property
    def read(self) -> Int[np.ndarray, " t"]:
        """Steps at which the curve is read."""
        return read_steps(self.steps, self.every)

    def ahead(self, start: Start) -> Int[np.ndarray, " s"]:
        """Those from where the prediction begins, counted from there."""
        return self.read[self.read >= start.steps] - start.steps

    @property
    def kept(self) -> Int[np.ndarray, " k"]:
        """Steps after which the model is kept."""
        return kept_steps(self.keep, self.steps)

    @property
    def described(self) -> Kernel:
        """Which kernel, computed before or not."""
        if isinstance(self.kernel, Computed):
            return self.kernel.described
        return self.kernel if isinstance(self.kernel, Kernel) else Kernel(self.kernel)

    @property
    def peak_rate(self) -> float:
        """The highest learning rate of the run."""
        return float(self.sgd.learning_rates(self.steps).max())

    def kernel_of(self, task: Task, start: Start) -> Computed:
        """The kernel of a task where the prediction begins, unless it was given."""
        if isinstance(self.kernel, Computed):
            return self.kernel
        return self.described.of(
            dataclasses.replace(task, params=start.params),
            memory_budget_bytes=self.memory_budget_bytes,
        )

    def kernel_cost(self) -> KernelCost:
        """What that will take, of all samples or of as many as were asked for."""
        task = self.task
        if self.kernel_samples is not None:
            task = extrapolation.few(task, self.kernel_samples, self.seed)
        return self.described.cost(
            task.apply_fn,
            task.params,
            task.joint.x,
            groups=self.groups,
            memory_budget_bytes=self.memory_budget_bytes,
        )

    def others(self, *usable: str) -> list[str]:
        """Options that were asked for besides those that a way of predicting can use."""
        asked = {
            "Adam": isinstance(self.optimizer, Adam),
            f"solver {self.solver!r}": self.solver != "simulate",
            "paths": self.paths != 0,
            "noise": self.noise != "exact",
            "calibrate_steps": self.calibrate_steps != 0,
            "relinearize": self.relinearize is not None,
            "kernel_samples": self.kernel_samples is not None,
            "coarse": self.coarse is not None,
            "keep": len(self.keep) != 0,
            "masks": self.sparsity is not None,
            "correction": self.correction is not None,
            "groups": self.groups is not None,
            "held_out": self.task.m != 0,
        }
        return [name for name, there in asked.items() if there and name not in usable]


def refuse(others: Sequence[str], said: str) -> None:
    """Refuse what a way of predicting cannot use.

    Args:
        others: From :meth:`Asked.others`, and what else was asked for.
        said: What it can do.

    Raises:
        InputError: Anything was asked for.
    """
    if others:
        raise InputError(f"{said}, got {', '.join(others)}; leave these out")


def require_known(asked: Asked) -> None:
    """Refuse what no way of predicting can use.

    Raises:
        InputError: A value out of range, or an attack.
    """
    if asked.effective_rate and isinstance(asked.optimizer, Adam):
        raise InputError(
            "effective_rate is for SGD's momentum, got Adam; leave effective_rate out"
        )
    if asked.mend < 0:
        raise InputError(
            f"mend must not be negative, got {asked.mend}; 0 is one linearisation"
        )
    if asked.mend_clock not in get_args(mending.Clock):
        raise InputError(
            f"mend_clock must be {' or '.join(get_args(mending.Clock))}, got "
            f"{asked.mend_clock!r}"
        )
    if asked.solver not in get_args(Solver):
        raise InputError(
            f"solver must be one of {', '.join(get_args(Solver))}, got {asked.solver!r}"
        )
    if isinstance(asked.task.apply_fn, Masked):
        masked_prediction.require_exact(asked.described)
    _ = asked.described, asked.read, asked.kept
    count = None if asked.groups is None else asked.groups.count
    asked.optimizer.grouped_rates(asked.steps, count)
    asked.optimizer.batches(asked.task.n, 1, 0)
    if asked.attack is not None:
        raise InputError(
            "adversarial training is not predicted: its pictures follow the weights, and a "
            "linearisation knows nothing of them; leave the attack out, or train for real"
        )


def require_together(asked: Asked) -> None:
    """Refuse options of plain SGD that do not go together, and a kernel of another task.

    Raises:
        InputError: The first of them that is found.
    """
    solver, plain = asked.solver, asked.solver == "simulate"
    paths, steps, calibrate = asked.paths, asked.steps, asked.calibrate_steps
    few = asked.kernel_samples
    if solver == "flow":
        require_closed_form(asked.sgd, asked.task.loss)
    elif solver == "moments" or asked.noise != "exact":
        require_independent(
            asked.noise,
            shuffled=solver == "moments"
            and asked.sgd.batch_size is not None
            and asked.sgd.sampling == "shuffle",
        )
    if not 0 <= calibrate < steps:
        raise InputError(
            f"calibrate_steps must lie in 0..{steps - 1} (fewer than the steps), got "
            f"{calibrate}"
        )
    if calibrate and not plain:
        raise InputError(
            f"calibrate_steps needs solver 'simulate', got {solver!r}; leave it at 0"
        )
    if asked.relinearize is not None:
        relinearization.require_tolerance(asked.relinearize)
        if not plain or paths or few is not None:
            raise InputError(
                "relinearize needs solver 'simulate' without paths and kernel_samples, got "
                f"{solver!r}, {paths} and {few}; leave relinearize out"
            )
    if few is not None and (not plain or paths or calibrate):
        raise InputError(
            "kernel_samples needs solver 'simulate' without paths and calibrate_steps, "
            f"got {solver!r}, {paths} and {calibrate}; leave kernel_samples out"
        )
    if len(asked.kept) and (
        not plain or calibrate or asked.relinearize is not None or few is not None
    ):
        raise InputError(
            "models along the way (keep, snapshots) need solver 'simulate' without "
            f"calibrate_steps, relinearize and kernel_samples, got {solver!r}, "
            f"{calibrate}, {asked.relinearize} and {few}; leave these out"
        )
    if asked.task.m and (not plain or few is not None):
        raise InputError(
            "held_out needs solver 'simulate' without kernel_samples, got "
            f"{solver!r} and {few}; leave held_out out"
        )
    if paths < 0:
        raise InputError(f"paths must not be negative, got {paths}")
    if paths and solver not in ("simulate", "sde"):
        raise InputError(
            f"bands (paths) need solver 'simulate' or 'sde', got {solver!r}; leave paths at 0"
        )
    if asked.noise != "exact" and solver not in ("moments", "moments_sde", "sde"):
        raise InputError(
            f"noise {asked.noise!r} is for solvers 'moments', 'moments_sde' and 'sde', got "
            f"{solver!r}; leave noise at 'exact'"
        )
    require_kernel_of_task(asked)


def require_kernel_of_task(asked: Asked) -> None:
    """Refuse a kernel, computed before, that is that of another task or other weights.

    Raises:
        InputError: It is.
    """
    task, kernel = asked.task, asked.kernel
    if not isinstance(kernel, Computed):
        return
    if asked.calibrate_steps:
        raise InputError(
            "a kernel that was computed before is that of the weights at the start, got "
            f"calibrate_steps {asked.calibrate_steps}; name the kernel instead"
        )
    n = task.n if asked.kernel_samples is None else asked.kernel_samples
    size = (n + task.m) * task.c
    if len(kernel.theta) != size:
        also = ", held-out samples included" if task.m else ""
        raise InputError(
            f"the kernel must be that of this task{also}, [{size}, {size}], got "
            f"{kernel.theta.shape}; compute it by Kernel.of(task)"
        )
