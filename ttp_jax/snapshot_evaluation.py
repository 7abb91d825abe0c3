"""What a snapshot ensemble is worth, predicted and measured, beside a plain run."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ttp_jax.accelerators import diversity, ensemble
from ttp_jax.accelerators.diversity import Apart
from ttp_jax.accelerators.ensemble import Quality
from ttp_jax.accelerators.plan import Plan
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve, Kept, Task, ThresholdRule

SIDES = ("predicted", "measured")
PLAIN = "plain_"
"""Before the name of a side: its run without the method."""


def compare(
    task: Task,
    curves: Mapping[str, Curve],
    plan: Plan,
    *,
    last: int,
    rules: Sequence[ThresholdRule],
    epsilons: Sequence[float],
    smoothing: int = 1,
) -> dict[str, Any]:
    """Quality, distances and speed-up as plain values, under the names that are printed.

    Args:
        task: What was trained.
        curves: ``predicted`` and ``measured``, whichever there are, with their snapshots;
            ``plain_predicted`` and ``plain_measured`` with the model at their end.
        plan: Of the snapshot run.
        last: How many of the last are averaged.
        rules: How thresholds are read; ``within_of_final``, which depends on where a run
            ends, compares no two runs.
        epsilons: Thresholds.
        smoothing: Of the curves.

    Returns:
        ``cycles``, ``alpha0``, ``last`` and ``steps``: what was run. ``quality``: of the
        ensemble, the last snapshot and the plain run's end; ``pairs``: of snapshots; both on
        what was trained on and on what was held out. ``speed_up``: steps of the plain run
        over those of the snapshot run. ``None`` stands for what a run that ended early has
        not, and for what is not finite.

    Cost: forward passes of all samples half-way between all pairs of real snapshots.
    """
    sides = [side for side in SIDES if side in curves]
    count = len(plan.keep)
    return {
        "cycles": count,
        "alpha0": float(plan.learning_rates[0]),
        "last": last,
        "steps": plan.keep.tolist(),
        "quality": _quality(task, curves, sides, count, last),
        "pairs": _pairs(task, curves, sides, count),
        "speed_up": [
            {
                "rule": rule,
                "epsilon": epsilon,
                **{
                    side: _times_faster(curves, side, epsilon, rule, smoothing)
                    for side in sides
                },
            }
            for rule in rules
            if rule != "within_of_final"
            for epsilon in epsilons
        ],
    }


def parts(task: Task) -> Iterator[tuple[str, slice, np.ndarray]]:
    """Name, place and targets of the samples trained on, and of those held out."""
    for name, part in zip(("trained", "held_out"), task.parts, strict=False):
        begin = 0 if name == "trained" else task.n
        yield name, slice(begin, begin + part.n), part.targets


def _whole(kept: Kept | None, count: int) -> Kept | None:
    """``None`` of a run that ended before its last model, or left the numbers."""
    if kept is None or len(kept.steps) < count or not np.isfinite(kept.outputs).all():
        return None
    return kept


def _quality(
    task: Task, curves: Mapping[str, Curve], sides: Sequence[str], count: int, last: int
) -> list[dict[str, Any]]:
    def of(side: str, rows: slice, y: np.ndarray) -> dict[str, Quality]:
        found = {}
        kept = _whole(curves[side].kept, count)
        plain = _whole(curves[PLAIN + side].kept, 1)
        if kept is not None:
            averaged = ensemble.combined(task.loss, kept.outputs[-last:, rows])
            found["ensemble"] = ensemble.quality(task.loss, averaged, y)
            end = kept.outputs[-1, rows]
            found["last snapshot"] = ensemble.quality(task.loss, end, y)
        if plain is not None:
            found["plain"] = ensemble.quality(task.loss, plain.outputs[-1, rows], y)
        return found

    entries = []
    for samples, rows, y in parts(task):
        found = {side: of(side, rows, y) for side in sides}
        for name in ("ensemble", "last snapshot", "plain"):
            entries.append(
                {"of": name, "samples": samples, **_both(found, name, Quality, sides)}
            )
    return entries


def _pairs(
    task: Task, curves: Mapping[str, Curve], sides: Sequence[str], count: int
) -> list[dict[str, Any]]:
    found: dict[str, dict[tuple[str, int], Apart]] = {side: {} for side in sides}
    for side in sides:
        kept = _whole(curves[side].kept, count)
        if kept is None or count < 2:
            continue
        middles = diversity.outputs_between(task, kept.weights) if kept.weights else None
        for samples, rows, y in parts(task):
            between = None if middles is None else middles[:, rows]
            pairs = diversity.apart(
                task.loss, kept.outputs[:, rows], y, gram=kept.gram, middles=between
            )
            found[side] |= {(samples, k): pair for k, pair in enumerate(pairs)}
    entries = []
    for samples, _, _ in parts(task):
        for k, (i, j) in enumerate(zip(*np.triu_indices(count, 1), strict=True)):
            entry: dict[str, Any] = {"samples": samples}
            entry |= {"first": int(i) + 1, "second": int(j) + 1}
            entries.append(entry | _both(found, (samples, k), Apart, sides))
    return entries


def _both(found: Mapping, key: Any, kind: type, sides: Sequence[str]) -> dict[str, Any]:
    """The fields of ``kind`` under the names of both sides."""
    values = {}
    for field in dataclasses.fields(kind):
        if field.name in ("first", "second"):
            continue
        for side in sides:
            value = getattr(found[side].get(key), field.name, None)
            if value is not None and not np.isfinite(value):
                value = None
            values[f"{side}_{field.name}"] = value
    return values


def _times_faster(
    curves: Mapping[str, Curve],
    side: str,
    epsilon: float,
    rule: ThresholdRule,
    smoothing: int,
) -> float | None:
    plain, method = (
        time_to_threshold(curves[name], epsilon, rule, smoothing=smoothing).steps
        for name in (PLAIN + side, side)
    )
    return plain / method if plain and method else None
