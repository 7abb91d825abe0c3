"""What a training method is to a study: a change of the run, and what is told of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from ttp_jax.config import Config
from ttp_jax.groups import Groups
from ttp_jax.kernel.choice import Computed
from ttp_jax.optimizers import Optimizer
from ttp_jax.reading import Keep
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve, Task, ThresholdRule

SIDES = ("predicted", "measured")
PLAIN = "plain_"
"""Before the name of a side: its run without the method."""


@dataclass(frozen=True)
class Run:
    """What prediction and training are both asked for, and told of a method by nothing else."""

    task: Task
    sgd: Optimizer
    steps: int
    keep: Keep = ()
    also: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments that :func:`ttp_jax.predict` and :func:`ttp_jax.finetune` share."""
    kernel: Callable[[Task, Groups | None], Computed] | None = None
    """The kernel of this task, in shares of groups of weights: computed once for a study, for
    what a method has to know ahead or tells afterwards."""
    shares: np.ndarray | None = None
    """``[T, G]``: what each group of weights takes of a schedule over steps. The next method's
    schedule is multiplied by it."""


Runs = Mapping[str, Run]
"""The runs of a study by what stands before the name of a side: nothing of the method's own,
:data:`PLAIN` of that without it."""
Curves = Mapping[str, Curve]
"""By run and side: ``predicted``, ``measured``, ``plain_predicted``, ..."""


class Found(NamedTuple):
    """What is told of a method: plain values, and arrays of the record."""

    result: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Method:
    """One of the methods that ``--method`` names.

    Methods are put together by changing the runs one after the other, in the order of
    :data:`ttp_jax.methods.METHODS`: first the model, then its groups, then the schedule. Each
    refuses what it cannot be put together with.
    """

    name: str
    options: tuple[str, ...]
    """Names of the options in :class:`ttp_jax.config.Config` that it alone has, ``None`` where
    they are left alone."""
    changed: Callable[[Config, Runs], Runs]
    """The runs as they are with the method, from those without. Raises ``InputError``."""
    found: Callable[[Config, Runs, Curves], Found]
    """What both sides have found."""


def sides_of(curves: Curves) -> list[str]:
    """The sides that were run."""
    return [side for side in SIDES if side in curves]


Cost = Literal["steps", "operations", "seconds"]


def times_faster(
    curves: Curves,
    side: str,
    epsilon: float,
    rule: ThresholdRule,
    *,
    smoothing: int,
    beside: str = PLAIN,
    of: Cost = "steps",
) -> float | None:
    """What the run beside costs over what the method's does, to a threshold.

    ``None`` where one of them never arrives, or arrives at once.
    """
    plain, own = (
        _cost_to(curves[name], epsilon, rule, smoothing=smoothing, of=of)
        for name in (beside + side, side)
    )
    return plain / own if plain and own else None


def _cost_to(
    curve: Curve, epsilon: float, rule: ThresholdRule, *, smoothing: int, of: Cost
) -> float | None:
    steps = time_to_threshold(curve, epsilon, rule, smoothing=smoothing).steps
    if steps is None or of == "steps":
        return None if steps is None else float(steps)
    values = getattr(curve, of)
    return None if values is None else float(values[np.searchsorted(curve.steps, steps)])


def speed_up(
    config: Config, curves: Curves, *, beside: str = PLAIN, costs: Sequence[Cost] = ()
) -> list[dict[str, Any]]:
    """:func:`times_faster` at every threshold that compares two runs.

    ``within_of_final`` depends on where a run ends and compares no two.

    Args:
        config: With its rules and thresholds.
        curves: Of all runs.
        beside: What stands before the name of a side of the other run.
        costs: Besides that in steps, under the side's name, that in each of these under
            ``side_cost``.
    """
    entries = []
    for rule in config.rules:
        for epsilon in config.epsilon if rule != "within_of_final" else ():
            entry: dict[str, Any] = {"rule": rule, "epsilon": epsilon}
            for side in sides_of(curves):
                asked = partial(
                    times_faster,
                    curves,
                    side,
                    epsilon,
                    rule,
                    smoothing=config.smoothing,
                    beside=beside,
                )
                entry[side] = asked()
                entry |= {f"{side}_{cost}": asked(of=cost) for cost in costs}
            entries.append(entry)
    return entries
