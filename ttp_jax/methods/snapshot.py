"""Snapshot ensembles: what one is worth, predicted and measured, beside a plain run.

With freezeout the rate of a group at step ``t`` is ``alpha(t) share_g(t)``: the cycles' rate
times what the group takes of it, ``1/t_g`` (or 1, unscaled) until its time to freeze and 0 from
there on, wherever in a cycle that is. FreezeOut's own cosine is not in it. All snapshots share
what was frozen before them.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ttp_jax.accelerators import diversity, ensemble, snapshot
from ttp_jax.accelerators.diversity import Apart
from ttp_jax.accelerators.ensemble import Quality
from ttp_jax.accelerators.plan import Plan
from ttp_jax.config import Config
from ttp_jax.methods.method import (
    PLAIN,
    Curves,
    Found,
    Method,
    Runs,
    sides_of,
    speed_up,
)
from ttp_jax.optimizers import SGD
from ttp_jax.types import Curve, Kept, Task

CYCLES = 4
"""By default."""


def planned(config: Config, steps: int) -> tuple[Plan, int]:
    """The cycles of a run of so many steps, and how many of their ends are averaged.

    Raises:
        InputError: Options out of range.
    """
    cycles = CYCLES if config.cycles is None else config.cycles
    last = snapshot.averaged(cycles, config.last)
    alpha0 = config.lr if config.alpha0 is None else config.alpha0
    return snapshot.snapshots(alpha0, steps, cycles), last


def _changed(config: Config, runs: Runs) -> Runs:
    run, plain = runs[""], runs[PLAIN]
    assert isinstance(run.sgd, SGD)
    plan, _ = planned(config, run.steps)
    return {
        **runs,
        "": dataclasses.replace(run, sgd=plan.of(run.sgd, run.shares), keep=plan.keep),
        PLAIN: dataclasses.replace(plain, keep=[plain.steps]),
    }


def _found(config: Config, runs: Runs, curves: Curves) -> Found:
    """Quality, distances and speed-up, under the names that are printed.

    Returns:
        ``cycles``, ``alpha0``, ``last`` and ``steps``: what was run. ``quality``: of the
        ensemble, the last snapshot and the plain run's end; ``pairs``: of snapshots; both on
        what was trained on and on what was held out. ``speed_up``: steps of the plain run
        over those of the snapshot run. ``None`` stands for what a run that ended early has
        not, and for what is not finite. As arrays the outputs of all snapshots.

    Cost: forward passes of all samples half-way between all pairs of real snapshots.
    """
    run = runs[""]
    plan, last = planned(config, run.steps)
    task, sides, count = run.task, sides_of(curves), len(plan.keep)
    result = {
        "cycles": count,
        "alpha0": float(plan.learning_rates[0]),
        "last": last,
        "steps": plan.keep.tolist(),
        "quality": _quality(task, curves, sides, count, last),
        "pairs": _pairs(task, curves, sides, count),
        "speed_up": speed_up(config, curves),
    }
    with np.errstate(over="ignore"):  # of a path that diverged
        arrays = {
            f"{side}_snapshots": kept.outputs.astype(np.float32)
            for side in sides
            if (kept := curves[side].kept) is not None
        }
    return Found(result, arrays)


METHOD = Method("snapshot", ("cycles", "alpha0", "last"), _changed, _found)


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
