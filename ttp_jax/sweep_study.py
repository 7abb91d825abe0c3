"""A sweep as the command line describes it: from a configuration to its record."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttp_jax import choices, methods, outputs, records, study, trust
from ttp_jax.kernel.choice import Computed
from ttp_jax.optimizers import SGD
from ttp_jax.prediction import predict
from ttp_jax.sweep import AXES, Grid, Schedule, Sweep, Times, require_usable, sweep
from ttp_jax.timing import measured
from ttp_jax.types import InputError, ThresholdRule

LOWEST, HIGHEST = 1e-3, 2.0
"""Ends of the learning rates, in units of the largest that is stable at any momentum."""
SHARES = (16, 8, 4, 2)
"""Batches of the default: the samples over these, and all of them."""
HALVINGS = 8
"""Of the rate, to where a prediction is trusted."""
_FIXED = (
    "solver", "paths", "heads", "noise", "effective_rate", "calibrate_steps", "relinearize",
    "mend", "mend_clock", "kernel_samples", "coarse", "check", "smoothing", "every", "held_out",
    "optimizer", "beta1", "beta2", "adam_eps", *methods.OPTIONS, *study.OF_PICTURES,
    "stop_elasticity", "stop_quantity", "stop_window", "stop_patience", "stop_after_steps",
)  # fmt: skip
"""Options of a prediction that a sweep does not have."""


@dataclass(frozen=True)
class SweepConfig(study.Config):
    """A reference, as for the other commands, and what to vary around it."""

    epsilon: tuple[float, ...] = (0.1,)
    """The threshold, as a fraction of the initial loss or as a loss."""
    rules: tuple[ThresholdRule, ...] = ("fraction_of_initial",)
    """How it is read off a curve."""
    mend: int = 0
    """0: a sweep is of one linearisation."""
    rates: tuple[float, ...] | None = None
    """Learning rates; by default RATE_COUNT from a thousandth of the largest stable one to
    twice it."""
    rate_count: int = 42
    """How many, where they are not given."""
    momenta: tuple[float, ...] = (0.0, 0.5, 0.9, 0.95)
    """Momenta."""
    batch_sizes: tuple[int | None, ...] | None = None
    """Batch sizes, None for the full batch; by default five from a sixteenth of the pictures
    to all."""
    schedules: tuple[Schedule, ...] = ("constant", "cosine")
    """Learning-rate schedules."""
    lengths: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75, 1.0)
    """Lengths of the run, as shares of --epochs."""
    rank: int = 256
    """Modes of the kernel that are followed."""


def run(
    config: SweepConfig,
    *,
    out: Path,
    force: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> tuple[records.Record, Path]:
    """Sweep and keep the record; a finished one is read, not repeated.

    Arguments, returns and errors as for :func:`ttp_jax.study.run`.
    """
    _check(config)
    records.require_writable(out)
    built = study.build(config)
    run_id = study.identified("sweep", config, built)
    if not force and (finished := study.read_finished(out, run_id, say)):
        return finished
    # Rates that are not given come from the kernel; all else is known before it.
    require_usable(
        _grid(config, built, config.rates or [config.lr]), built.task.n, config.rank
    )
    described = study.kernel_of(config)
    task, budget = built.task, built.memory_budget_bytes
    ahead = described.cost(task.apply_fn, task.params, task.x, memory_budget_bytes=budget)
    say(f"{config.model} on {built.provenance['data']['source']}: {ahead}")
    kernel = described.of(task, memory_budget_bytes=budget)
    with measured() as part:
        rates = config.rates
        if rates is None:
            rates = _rates_around_the_limit(config, built, kernel)
        grid = _grid(config, built, rates)
        say(f"{np.prod(grid.shape):,} settings")
        found = sweep(task, grid, kernel=kernel, rank=config.rank, seed=config.seed)
        times = found.times(config.epsilon[0], config.rules[0])
        stable, final_loss = found.stable, found.final_loss
    result = {
        "settings": int(np.prod(grid.shape)),
        "rule": config.rules[0],
        "epsilon": config.epsilon[0],
        "axes": {name: list(axis) for name, axis in zip(AXES, grid.axes, strict=True)},
        **_chosen(config, built, kernel, found, times),
        "cost": {
            "kernel_s": kernel.run_s,
            "sweep_s": part.run_s,
            "compile_s": part.compile_s + kernel.compile_s,
        },
        "record": str(out / run_id),
    }
    record = records.Record(
        run_id=run_id,
        config=study.plain(config),
        result=result,
        provenance={**built.provenance, **records.environment()},
        curves={},
        arrays={
            "steps": times.steps.astype(np.int32),
            "censored": times.censored,
            "stable": stable,
            "final_loss": final_loss.astype(np.float32),
            "stability": found.stability,
        },
    )
    return record, records.write(out, record)


def _check(config: SweepConfig) -> None:
    defaults = SweepConfig()
    changed = [name for name in _FIXED if getattr(config, name) != getattr(defaults, name)]
    if changed:
        raise InputError(
            f"a sweep has no {', '.join(changed)}: it follows the mini-batches of every "
            "setting; leave them out"
        )
    if len(config.epsilon) != 1 or len(config.rules) != 1:
        raise InputError(
            f"a sweep reads one threshold by one rule, got {len(config.epsilon)} and "
            f"{len(config.rules)}"
        )
    if config.rate_count < 2:
        raise InputError(f"rate_count must be at least 2, got {config.rate_count}")


def _grid(config: SweepConfig, built: study.Built, rates: Sequence[float]) -> Grid:
    """With the reference on every axis."""
    n = built.task.n
    sizes = config.batch_sizes
    if sizes is None:
        sizes = (*(max(1, n // share) for share in SHARES), None)
    lengths = {round(share * config.epochs, 6) for share in config.lengths}
    return Grid(
        learning_rates=sorted({*rates, config.lr}),
        momenta=sorted({*config.momenta, config.momentum}),
        batch_sizes=sorted({*sizes, config.batch_size}, key=lambda size: size or n + 1),
        schedules=list(dict.fromkeys((*config.schedules, config.schedule))),
        epochs=sorted({*lengths, config.epochs}),
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        decay_toward=config.decay_toward,
        sampling=config.sampling,
    )


def _rates_around_the_limit(
    config: SweepConfig, built: study.Built, kernel: Computed
) -> list[float]:
    task = built.task
    f0 = outputs.at_the_start(task.apply_fn, task.params, task.x)
    curvature = trust.largest_curvature(kernel.theta, f0, task.targets, loss=task.loss)
    largest = max(
        1 / SGD(1.0, mu, weight_decay=config.weight_decay).stability(curvature, 1.0)
        for mu in config.momenta
    )
    rates = np.geomspace(LOWEST * largest, HIGHEST * largest, config.rate_count)
    # Rates are written down and typed again: three digits are enough.
    return [float(f"{rate:.3g}") for rate in rates]


def _chosen(
    config: SweepConfig, built: study.Built, kernel: Computed, found: Sweep, times: Times
) -> dict[str, Any]:
    """What a user would choose from it; the fastest two are predicted once more for trust."""
    grid, task = found.grid, built.task
    schedule, length = config.schedule, config.epochs
    place = (config.lr, config.momentum, config.batch_size, schedule, length)
    reference = tuple(
        list(axis).index(value) for axis, value in zip(grid.axes, place, strict=True)
    )
    verdicts: dict[choices.Index, dict[str, Any]] = {}

    def described(choice: choices.Choice | None) -> dict[str, Any] | None:
        if choice is None:
            return None
        if choice.index not in verdicts:
            one = predict(
                task,
                grid.sgd(choice.setting, task.n),
                steps=choice.setting.steps(task.n),
                kernel=kernel,
                seed=config.seed,
                mend=config.mend,
            )
            assert one.trust is not None
            verdicts[choice.index] = {
                "predicted_seconds": choice.steps * one.timings["step_s"],
                "trust": study.verdict(one.trust),
            }
        return {**_plain(choice), **verdicts[choice.index]}

    def slower(rate: float) -> dict[str, Any] | None:
        return described(choices.fastest(found, times, "steps", largest_rate=rate))

    fewest = slower(np.inf)
    scaled = choices.scaling(found, times)
    usable = np.isfinite(found.curve(reference).loss).all()
    sizes = sorted(grid.batch_sizes, key=lambda size: size or found.n)
    return {
        "reference": {
            **dataclasses.asdict(grid.setting(reference)),
            "steps": None if times.censored[reference] else int(times.steps[reference]),
            "stable": bool(found.stable[reference]),
        },
        "fewest_steps": fewest,
        "trusted": _first_trusted(fewest, slower),
        "least_computation": described(choices.fastest(found, times, "samples")),
        "largest_stable_rates": [
            {"momentum": mu, "batch_size": size, "learning_rate": rate}
            for mu, row in zip(
                grid.momenta, choices.largest_stable_rates(found), strict=True
            )
            for size, rate in zip(grid.batch_sizes, row, strict=True)
        ],
        "batch_sizes": [
            {
                "batch_size": size,
                "fastest": choice and _plain(choice),
                "paired_rate": choices.paired_rate(found, reference, size)
                if usable
                else None,
            }
            for size, choice in zip(sizes, scaled.best, strict=True)
        ],
        "useful_batch": scaled.useful,
        "critical_batch": scaled.critical,
    }


def _first_trusted(
    fewest: dict[str, Any] | None, slower: Callable[[float], dict[str, Any] | None]
) -> dict[str, Any] | None:
    """The fewest steps at half the rate, and half of it, until the prediction is trusted."""
    chosen = fewest
    for _ in range(HALVINGS):
        if chosen is None or chosen["trust"]["ok"]:
            return chosen
        chosen = slower(chosen["learning_rate"] / 2)
    return None


def _plain(choice: choices.Choice) -> dict[str, Any]:
    return {
        **dataclasses.asdict(choice.setting),
        "steps": choice.steps,
        "samples": choice.samples,
    }
