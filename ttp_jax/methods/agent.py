"""Sparse training and AGENT: what masks and corrected gradients gain, and what they cost.

Beside the run stand the same without the correction and, where weights are masked, the dense
run; of a run without a correction the dense one is the run beside it.

Masks that stay are a part of the model, so that groups and schedules of other methods apply to
what they leave. Those that move, corrections and attacks change the steps themselves and are
run alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ttp_jax.accelerators import sparsity as masks_of
from ttp_jax.accelerators.correction import Agent, AlphaSvrg, Correction, Svrg
from ttp_jax.accelerators.sparsity import Grow, Sparsity, StartMask
from ttp_jax.attacks import Attack
from ttp_jax.config import Config
from ttp_jax.methods.method import PLAIN, Curves, Found, Method, Run, Runs, sides_of
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.training.corrected import passes
from ttp_jax.types import Curve, InputError, Masked

DENSE = "dense_"
"""Before the name of a side: its dense run, without masks and correction."""
BESIDE = {PLAIN: "without the correction", DENSE: "dense"}
_SPARSITY: dict[str, tuple[Grow, StartMask]] = {
    "static": ("never", "random"),
    "magnitude": ("never", "magnitude"),
    "set": ("random", "random"),
    "rigl": ("gradient", "random"),
}
_OF_MASKS = ("sparsity", "spread", "mask_every", "mask_until", "drop")
_OF_MOVING = ("mask_every", "mask_until", "drop")
OPTIONS = (
    "density",
    *_OF_MASKS,
    "correction",
    "gamma",
    "coefficient",
    "attack",
    "attack_steps",
)


def sparsity_of(config: Config) -> Sparsity | None:
    """The masks that were asked for.

    Raises:
        InputError: Options of masks without a density, or of moving ones for those that stay.
    """
    if config.density is None:
        _without(config, _OF_MASKS, "density, the share of weights that is there")
        return None
    kind = config.sparsity or "static"
    grow, start = _SPARSITY[kind]
    if grow == "never":
        _without(config, _OF_MOVING, "masks that move, sparsity set or rigl")
    named = {
        "spread": config.spread,
        "every": config.mask_every,
        "until": config.mask_until,
        "drop": config.drop,
    }
    given: dict[str, Any] = {k: v for k, v in named.items() if v is not None}
    return Sparsity(config.density, grow, start, seed=config.seed, **given)


def correction_of(config: Config) -> Correction | None:
    """The correction that was asked for; AGENT's own by default, with other methods none.

    Raises:
        InputError: Options of another.
    """
    kind = config.correction or ("agent" if config.method == METHOD.name else "none")
    if kind != "agent":
        _without(config, ("gamma",), "correction agent")
    if kind not in ("alpha_svrg", "svrg"):
        _without(config, ("coefficient",), "correction alpha_svrg or svrg")
    if kind == "agent":
        return Agent() if config.gamma is None else Agent(gamma=config.gamma)
    if kind == "none":
        return None
    of = AlphaSvrg if kind == "alpha_svrg" else Svrg
    return of() if config.coefficient is None else of(config.coefficient)


def attack_of(config: Config) -> Attack | None:
    """The attack that was asked for: each ascent 2.5 radii over their number (Madry et al.).

    Raises:
        InputError: Its steps without a radius.
    """
    if config.attack is None:
        _without(config, ("attack_steps",), "attack, the radius")
        return None
    steps = 10 if config.attack_steps is None else config.attack_steps
    return Attack(config.attack, 2.5 * config.attack / max(steps, 1), steps)


def _without(config: Config, names: tuple[str, ...], needed: str) -> None:
    given = [name for name in names if getattr(config, name) is not None]
    if given:
        raise InputError(f"{', '.join(given)} need {needed}; give it, or leave these out")


def _changed(config: Config, runs: Runs) -> Runs:
    run = runs[""]
    sparsity, correction = sparsity_of(config), correction_of(config)
    attack = attack_of(config)
    if config.method != METHOD.name:
        _require_together(config, sparsity, correction, attack)
    if sparsity is None and correction is None and attack is None:
        raise InputError(
            "method 'agent' without a density, a correction and an attack is a plain run; "
            "give one of them, or take method plain"
        )
    attacked = {} if attack is None else {"attack": attack}
    task, moving = masks_of.settled(run.task, sparsity)
    masked = dataclasses.replace(run, task=task)
    masks = {} if moving is None else {"sparsity": moving}
    plain = dataclasses.replace(masked, also={**masks, **attacked})
    dense = dataclasses.replace(run, also=attacked)
    if correction is None:
        return {"": plain, PLAIN: dense if sparsity is not None else run}
    own = dataclasses.replace(plain, also={**plain.also, "correction": correction})
    found = {"": own, PLAIN: plain}
    return found if sparsity is None else {**found, DENSE: dense}


def _require_together(
    config: Config,
    sparsity: Sparsity | None,
    correction: Correction | None,
    attack: Attack | None,
) -> None:
    """Refuse what changes the steps themselves, beside methods that change their rates."""
    given = {
        f"masks that move ({config.sparsity}: an update would change weights that are frozen, "
        "and snapshots of different networks are not averaged)": sparsity is not None
        and sparsity.grow != "never",
        f"a correction ({config.correction}: it compares with gradients at weights of an epoch "
        "ago, before a layer froze or a cycle began)": correction is not None,
        "an attack (pictures change at every step: nothing of them can be put by)": attack
        is not None,
    }
    asked = [words for words, there in given.items() if there]
    if asked:
        raise InputError(
            "method 'agent' is put together with others for masks that stay alone (density, "
            f"sparsity static or magnitude, correction none), got {', '.join(asked)}; leave "
            "these out, or take one method at a time"
        )


def _found(config: Config, runs: Runs, curves: Curves) -> Found:
    """What it was, what it costs, when thresholds come, and how good the end is.

    Returns:
        ``weights`` (there, and all), ``operations_share`` (in theory: programs are dense) and
        ``steps`` (mask updates); ``passes`` (forward passes of a step over those of a plain
        one, its share of snapshots included). ``thresholds``: for each of the runs and sides
        the steps, and of each run beside it how many times more steps, operations and seconds
        it takes (above 1: the method is faster). ``quality``: at the end. ``coefficients``: at
        the first, middle and last epoch. As arrays all of them, and what would have been best.
    """
    run, sides = runs[""], sides_of(curves)
    sparsity, correction = sparsity_of(config), correction_of(config)
    size = run.sgd.batch_size or run.task.n
    together = config.method != METHOD.name
    asked = {"correction": correction, "attack": attack_of(config)}
    shares = dict.fromkeys(runs, 1.0)
    result: dict[str, Any] = {
        "sparsity": None if sparsity is None else (config.sparsity or "static"),
        "density": config.density,
        "correction": (config.correction or "agent") if correction else "none",
        "steps": [],
        "weights": None,
        "operations_share": 1.0,
        "passes": passes(run.steps, size, run.task.n, **asked) / (3 * size * run.steps),
    }
    if sparsity is not None:
        masks = (
            run.task.apply_fn.masks
            if isinstance(run.task.apply_fn, Masked)
            else masks_of.first_masks(run.task.params, sparsity)
        )
        share = masks_of.operations_share(run.task, masks)
        result |= {
            "steps": sparsity.update_steps(run.steps).tolist(),
            "weights": list(masks_of.density_of(masks)),
            "operations_share": share,
        }
        shares |= {name: share for name, each in runs.items() if _sparse(each)}
    alone = "the plain run" if together else "dense"
    result["beside"] = {
        name: alone if correction is None else words
        for name, words in BESIDE.items()
        if name in runs
    }
    result["thresholds"] = [
        {
            "rule": rule,
            "epsilon": epsilon,
            **{
                side: _times(config, runs, curves, shares, side, epsilon, rule)
                for side in sides
            },
        }
        for rule in config.rules
        # It depends on where a run ends, and compares no two.
        if rule != "within_of_final"
        for epsilon in config.epsilon
    ]
    result["quality"] = [
        {
            "of": name,
            "samples": samples,
            **{side: _end(curves.get(name + side), samples) for side in sides},
        }
        for name in runs
        for samples in ("trained", "held_out")[: 2 if run.task.m else 1]
    ]
    arrays = {
        f"{side}_{name}": np.asarray(values)
        for side in sides
        for name, values in (curves[side].epochs or {}).items()
    }
    result["coefficients"] = {
        side: [_number(value) for value in arrays[key][[0, len(arrays[key]) // 2, -1]]]
        for side in sides
        if len(arrays.get(key := f"{side}_coefficient", ()))
    }
    return Found(result, arrays)


METHOD = Method("agent", OPTIONS, _changed, _found)


def _sparse(run: Run) -> bool:
    return "sparsity" in run.also or isinstance(run.task.apply_fn, Masked)


def _times(
    config: Config,
    runs: Runs,
    curves: Curves,
    shares: Mapping[str, float],
    side: str,
    epsilon: float,
    rule,
) -> dict[str, Any]:
    """Steps of every run to a threshold, and the others' costs over those of the method."""
    costs = {
        name: _cost(curves[name + side], shares[name], epsilon, rule, config.smoothing)
        for name in runs
    }
    own = costs[""]
    found: dict[str, Any] = {"steps": {name: of and of[0] for name, of in costs.items()}}
    for name in runs:
        if name:
            beside = costs[name]
            found[name] = None
            if own and beside and own[0]:
                ratios = (b / a if a else None for a, b in zip(own, beside, strict=True))
                kinds = ("steps", "flops", "flops_in_theory", "seconds")
                found[name] = dict(zip(kinds, map(_number, ratios), strict=True))
    return found


def _cost(
    curve: Curve, share: float, epsilon: float, rule, smoothing: int
) -> tuple[int, float, float, float] | None:
    """Steps, operations as run and as a mask would leave them, seconds; of one that arrives.

    The latter by the mask's share of the whole network's, whatever of it is frozen.
    """
    found = time_to_threshold(curve, epsilon, rule, smoothing=smoothing)
    if found.steps is None or found.seconds is None or curve.operations is None:
        return None
    spent = float(curve.operations[np.searchsorted(curve.steps, found.steps)])
    return found.steps, spent, spent * share, found.seconds


def _end(curve: Curve | None, samples: str) -> dict[str, float | None] | None:
    of = curve if curve is None or samples == "trained" else curve.held_out
    if of is None:
        return None
    return {"loss": _number(of.loss[-1]), "accuracy": _number(of.accuracy[-1])}


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
