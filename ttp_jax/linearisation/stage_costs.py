"""What the steps of a run cost whose groups of weights are frozen one after the other.

Found without training: the steps that are timed are thrown away.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import outputs, programs
from ttp_jax.accelerators import freezeout
from ttp_jax.groups import Groups, cut_at
from ttp_jax.linearisation.calibration import step_seconds
from ttp_jax.optimizers import SGD
from ttp_jax.timing import measured
from ttp_jax.types import Params, Task


@dataclass(frozen=True)
class StageCost:
    """Of the steps from ``first`` until the next stage begins."""

    first: int
    frozen: int
    """How many of the first groups are."""
    share: float
    """Operations of a step over those of one that freezes nothing."""
    entry: float
    """Operations of putting by the outputs of what is newly frozen, where that is done."""
    step_s: float = 0.0
    """Seconds of a step, where they were taken; as those of the entry."""
    entry_s: float = 0.0


def stage_task(task: Task, groups: Groups, frozen: int) -> Task:
    """What is left to train: the weights that learn, on what the frozen groups give.

    Its ``x`` are the outputs of the frozen groups at the weights of ``task`` where the model
    can be cut behind them (:func:`ttp_jax.groups.cut_at`).

    Cost: a forward pass of all samples through what is cut off.
    """
    if frozen == 0:
        return task
    cut = cut_at(task.apply_fn, groups, frozen)
    x, rest = task.x, task.apply_fn
    if cut is not None:
        x, rest = outputs.forward(cut[0], task.params, task.x), cut[1]

    def apply_fn(active: Params, x):
        return rest(groups.with_active(task.params, active, frozen), x)

    return Task(apply_fn, groups.active(task.params, frozen), x, task.y, task.loss)


def operations(task: Task, batch: int) -> float:
    """Of a loss and its gradient, as XLA counts them. Nothing is compiled."""
    x, y = task.x[:batch], jnp.asarray(task.targets[:batch])
    step = jax.value_and_grad(outputs.batch_loss(task))
    return programs.operations(step, task.params, x, y, None)


def stage_costs(
    task: Task,
    sgd: SGD,
    groups: Groups,
    *,
    steps: int,
    timed: bool = True,
    at_most: int | None = None,
) -> list[StageCost]:
    """Operations and seconds of every stage of rates ``[T, G]``.

    Args:
        task: What would be trained.
        sgd: How.
        groups: Of the weights.
        steps: ``T``.
        timed: Whether to take the time, of a few steps of each stage.
        at_most: Samples that a step is timed by; all by default.

    Cost: where it is timed, the compilation of a step, and a few steps, for each stage.
    """
    batch = sgd.batch_size or task.n
    whole = operations(task, batch)
    found: list[StageCost] = []
    before, cut_before = task, 0
    for first, frozen in freezeout.stages_of(sgd.grouped_rates(steps, groups.count)):
        left = stage_task(task, groups, frozen)
        entry = entry_s = 0.0
        cut = cut_at(task.apply_fn, groups, frozen)
        if cut is not None:
            new = cut[0].of(cut[0].names[cut_before:])
            entry = task.n * outputs.forward_flops(new, task.params, before.x)
            if timed:
                outputs.forward(new, task.params, before.x)  # compiles
                with measured() as part:
                    outputs.forward(new, task.params, before.x)
                entry_s = part.run_s
            cut_before = frozen
        before = left
        step_s = 0.0
        if timed:
            step_s, _ = step_seconds(left, sgd, at_most=at_most or task.n)
        share = operations(left, batch) / max(whole, 1.0)
        found.append(StageCost(first, frozen, share, entry, step_s, entry_s))
    return found


def spent(
    found: list[StageCost], whole: float, steps: int, *, seconds: bool = False
) -> Float[np.ndarray, " t"]:
    """Operations, or seconds, of the first ``0, 1, ..., T`` steps.

    Args:
        found: Of all stages.
        whole: Operations of a step that freezes nothing.
        steps: ``T``.
        seconds: Which of the two.
    """
    each = np.zeros(steps)
    for stage in found:
        each[stage.first :] = stage.step_s if seconds else stage.share * whole
    for stage in found:
        each[stage.first] += stage.entry_s if seconds else stage.entry
    return np.append(0.0, np.cumsum(each))


def at_other_steps(
    found: list[StageCost], rates: Float[np.ndarray, "T G"]
) -> list[StageCost]:
    """The stages of other rates, from those of a run in which every group had one."""
    stages, entered = [], 0
    for first, frozen in freezeout.stages_of(rates):
        new = [stage for stage in found if entered < stage.frozen <= frozen]
        entry, entry_s = (
            sum((getattr(stage, of) for stage in new), 0.0) for of in ("entry", "entry_s")
        )
        stages.append(replace(found[frozen], first=first, entry=entry, entry_s=entry_s))
        entered = frozen
    return stages
