"""FreezeOut: what it costs and what it leaves, predicted and measured, beside a plain run."""

import dataclasses
from typing import Any

import numpy as np

from ttp_jax.accelerators.freezeout import FreezeOut, freezing_steps, stages_of
from ttp_jax.config import Config
from ttp_jax.groups import Groups, grouped, names_of
from ttp_jax.linearisation import freezing_choice, grouped_prediction
from ttp_jax.methods.method import (
    PLAIN,
    Curves,
    Found,
    Method,
    Run,
    Runs,
    sides_of,
    speed_up,
)
from ttp_jax.optimizers import SGD
from ttp_jax.types import Curve, InputError

T0 = 0.8
HOW = "cubic"


def _changed(config: Config, runs: Runs) -> Runs:
    run = runs[""]
    assert isinstance(run.sgd, SGD)
    _require_predictable(config)
    if config.t0 == "best" and "snapshot" in config.method.split("+"):
        raise InputError(
            "t0 best is chosen for freezeout's own cosines, and snapshot has others, got "
            f"{config.method!r}; give t0 as a number"
        )
    by = ("stages",) if config.groups is None else config.groups
    groups = grouped(run.task.apply_fn, run.task.params, run.task.x, by)
    freeze = _freeze(config, T0 if config.t0 is None else config.t0, run, groups)
    rates = freeze.rates(config.lr, run.steps, groups.count)
    own = dataclasses.replace(
        run,
        sgd=dataclasses.replace(run.sgd, learning_rate=rates),
        also={**run.also, "groups": groups},
        shares=freeze.shares(run.steps, groups.count),
    )
    return {**runs, "": own}


def _require_predictable(config: Config) -> None:
    """What the dynamics of groups have not, before anything is computed."""
    unused = {
        "paths": config.paths,
        "calibrate_steps": config.calibrate_steps,
        "relinearize": config.relinearize,
        "kernel_samples": config.kernel_samples,
        "effective_rate": config.effective_rate,
        "coarse": config.coarse,
        "check": config.check,
    }
    asked = [name for name, value in unused.items() if value]
    if asked:
        raise InputError(
            f"method 'freezeout' is predicted once linearised, from the kernel of all samples, "
            f"got {', '.join(asked)}; leave these out"
        )


def _freeze(config: Config, t0: float | str, run: Run, groups: Groups) -> FreezeOut:
    how = HOW if config.how is None else config.how
    if t0 != "best":
        return FreezeOut(float(t0), how, config.scaled)
    assert isinstance(run.sgd, SGD)
    tried = freezing_choice.tried(
        _linearised(run, groups),
        run.sgd,
        alpha=config.lr,
        steps=run.steps,
        epsilon=min(config.epsilon),
        how=how,
        scaled=config.scaled,
        seed=config.seed,
    )
    return freezing_choice.cheapest(tried).freeze


def _linearised(run: Run, groups: Groups) -> grouped_prediction.Linearised:
    assert run.kernel is not None
    shares = run.kernel(run.task, groups).shares
    assert shares is not None
    decayed = run.sgd.weight_decay > 0 and run.sgd.decay_toward == "zero"
    return grouped_prediction.linearised(run.task, groups, shares, decayed=decayed)


def _found(config: Config, runs: Runs, curves: Curves) -> Found:
    """Stages, cost, quality and speed-up, under the names that are printed.

    Returns:
        ``t0``, ``how``, ``scaled``: what was run; ``groups``: each one's name, its tensors, the
        step at which it freezes and its highest rate; ``steps``: at which any does.
        ``saved``: what is saved of the plain run's operations and seconds, as a share.
        ``quality``: loss and accuracy at the end of both runs. ``speed_up``: cost of the plain
        run to a threshold over that of this one, in steps, operations and seconds. ``floors``:
        under MSE the loss that the linearised model cannot get below, from each freezing on.
    """
    run, groups = runs[""], runs[""].also["groups"]
    assert isinstance(run.sgd, SGD)
    rates = run.sgd.grouped_rates(run.steps, groups.count)
    sides = sides_of(curves)
    ends = (rates > 0).sum(axis=0)
    paths = names_of(run.task.params)
    freeze = _of_rates(config, ends, run.steps)
    floors = []
    if "predicted" in curves and config.loss == "mse":
        found = freezing_choice.floors(
            _linearised(run, groups), run.sgd, steps=run.steps, seed=config.seed
        )
        floors = [{"step": step, "loss": loss} for step, loss in found]
    return Found(
        {
            **freeze,
            "groups": [
                {
                    "name": name,
                    "tensors": [
                        p for p, g in zip(paths, groups.of_leaf, strict=True) if g == k
                    ],
                    "freezes_at": int(ends[k]),
                    "highest_rate": float(rates[:, k].max()),
                }
                for k, name in enumerate(groups.names)
            ],
            "steps": [first for first, frozen in stages_of(rates) if frozen],
            "saved": {
                f"{side}_{of}": _saved(curves[PLAIN + side], curves[side], of)
                for side in sides
                for of in ("operations", "seconds")
            },
            "quality": _quality(curves, sides),
            "speed_up": speed_up(config, curves, costs=("operations", "seconds")),
            "floors": floors,
        },
        {},
    )


def _of_rates(config: Config, ends: np.ndarray, steps: int) -> dict[str, Any]:
    """What was run, with the ``t_0`` that was chosen where it was to be."""
    how = HOW if config.how is None else config.how
    t0, chosen = (T0 if config.t0 is None else config.t0), False
    if t0 == "best":
        chosen = True
        t0 = next(
            t0
            for t0 in freezing_choice.CANDIDATES
            if (freezing_steps(FreezeOut(t0, how).times(len(ends)), steps) == ends).all()
        )
    return {"t0": t0, "chosen": chosen, "how": how, "scaled": config.scaled}


def _saved(plain: Curve, own: Curve, of: str) -> float | None:
    both = [getattr(curve, of) for curve in (plain, own)]
    if any(values is None or not np.isfinite(values[-1]) for values in both):
        return None
    return float(1 - both[1][-1] / both[0][-1])


def _quality(curves: Curves, sides: list[str]) -> list[dict[str, Any]]:
    entries = []
    for of, before in (("freezeout", ""), ("plain", PLAIN)):
        for samples in ("trained", "held_out"):
            entry: dict[str, Any] = {"of": of, "samples": samples}
            for side in sides:
                curve = curves[before + side]
                read = curve if samples == "trained" else curve.held_out
                for name in ("loss", "accuracy"):
                    value = None if read is None else float(getattr(read, name)[-1])
                    finite = value is not None and np.isfinite(value)
                    entry[f"{side}_{name}"] = value if finite else None
                if read is not None:
                    entry["there"] = True
            if entry.pop("there", False):
                entries.append(entry)
    return entries


METHOD = Method("freezeout", ("t0", "how", "scaled", "groups"), _changed, _found)
