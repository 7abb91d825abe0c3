"""Whether 70 % and 95 % bands hold 70 % and 95 % of real runs.

    python -m experiments.bands paper      a quarter of an hour, two cores
    python -m experiments.bands smoke      a minute

The embedded network on digits at rates and batch sizes where the luck of the batches shows.
``batches``: one head, real runs over other streams of mini-batches, bands from other streams
of the linearised model. ``heads``: real runs over other heads and streams, bands from
predictions with again other heads and streams. The coverage is the share of readings inside,
the start left out; that of the level 70 % from so many runs scatters by the standard error
in the table (runs counted as independent, readings of a run not).

Expect: bands over the batches hold 3 to 7 % and 6 to 13 %, for they are narrower than the
error of the linearisation, which they leave out; bands over heads, wider than it, hold 43 and
45 % (of 70) and 83 and 70 % (of 95).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import harness
from ttp_jax import bands, study
from ttp_jax.finetune import finetune
from ttp_jax.prediction import predict
from ttp_jax.records import Record
from ttp_jax.types import Curve

LEVELS = (0.7, 0.95)
SKIPPED = 2
"""Readings at the start, where all curves are nearly one."""


@dataclass(frozen=True)
class Config:
    """One task, what is random about it, and how many runs."""

    over: Literal["batches", "heads"]
    lr: float
    batch_size: int
    runs: int = 30
    predictions: int = 40
    epochs: int = 20
    per_class: int = 20
    sampling: Literal["with_replacement", "shuffle"] = "shuffle"
    seed: int = 0


def smoke(data: Path) -> list[Config]:
    """One small case of each kind."""
    return [
        Config(over, 1e-4, 5, runs=3, predictions=4, epochs=2, per_class=4)
        for over in ("batches", "heads")
    ]


def paper(data: Path) -> list[Config]:
    """Two rates, two samplings; and heads."""
    return [
        Config("batches", 5e-5, 5, sampling="with_replacement"),
        Config("batches", 2e-4, 5, sampling="with_replacement"),
        Config("batches", 2e-4, 5),
        Config("heads", 5e-5, 25),
        Config("heads", 2e-4, 5, sampling="with_replacement"),
    ]


def run(config: Config, out: Path) -> None:
    """One case."""
    harness.once("bands", config, out, lambda: make(config))


def make(config: Config) -> harness.Made:
    """Bands once, then real runs."""
    built = study.build(
        study.Config(
            lr=config.lr,
            batch_size=config.batch_size,
            per_class=config.per_class,
            epochs=config.epochs,
            sampling=config.sampling,
            seed=config.seed,
        )
    )
    task, sgd = built.task, built.sgd
    common: dict[str, Any] = {"steps": built.steps, "every": 4}
    once = {**common, "mend": 0}
    heads = config.over == "heads"
    with_head = built.with_head if heads else lambda seed: task
    if heads:
        curve = predict(task, sgd, seed=0, **once)
        others = [
            predict(with_head(seed), sgd, seed=seed, **once)
            for seed in range(1000, 1000 + config.predictions)
        ]
        curve = bands.from_curves(curve, others)
    else:
        curve = predict(task, sgd, seed=0, paths=10 * config.predictions, **once)
    runs = [
        finetune(with_head(seed), sgd, seed=seed, **common)
        for seed in range(1, 1 + config.runs)
    ]
    covered = {
        str(level): bands.coverage(curve, runs, level, skip=SKIPPED) for level in LEVELS
    }
    inside = [bands.coverage(curve, [r], LEVELS[0], skip=SKIPPED) for r in runs]
    mean = Curve(
        curve.steps,
        np.mean([r.loss for r in runs], axis=0),
        np.mean([r.accuracy for r in runs], axis=0),
        1.0 * curve.steps,
    )
    low, high = (
        Curve(
            curve.steps, edge([r.loss for r in runs], axis=0), mean.accuracy, mean.seconds
        )
        for edge in (np.min, np.max)
    )
    return harness.Made(
        result={
            "coverage": covered,
            "standard_error": float(np.std(inside, ddof=1) / np.sqrt(len(runs))),
            "mean_off": float(np.max(np.abs(curve.loss / mean.loss - 1))),
        },
        provenance=built.provenance,
        curves={"predicted": curve, "measured": mean, "lowest": low, "highest": high},
    )


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Bands with the mean and the range of the real runs; coverage as a table."""
    found = sorted(
        found, key=lambda r: (r.config["over"], r.config["lr"], r.config["sampling"])
    )
    figure, axes = harness.canvas(2.9 * len(found), 3.4, 1, len(found))
    rows = []
    for axis, record in zip(axes[0], found, strict=True):
        config, curves = record.config, record.curves
        band = curves["predicted"].loss_quantiles or {}
        levels = sorted(band)
        for low, high in zip(levels[: len(levels) // 2], levels[::-1], strict=False):
            axis.fill_between(
                curves["predicted"].steps,
                band[low],
                band[high],
                color="#d1495b",
                alpha=0.2,
                linewidth=0,
            )
        real = curves["measured"]
        axis.plot(real.steps, real.loss, color="#1d3557", linewidth=1.1)
        for edge in ("lowest", "highest"):
            axis.plot(real.steps, curves[edge].loss, ":", color="#1d3557", linewidth=0.8)
        axis.set(yscale="log", xlabel="step")
        axis.set_title(
            f"{config['over']}, lr {config['lr']:g}, B {config['batch_size']},\n"
            f"{config['sampling'].replace('_', ' ')}",
            fontsize=8,
        )
        result = record.result
        rows.append(
            [
                config["over"],
                f"{config['lr']:g}",
                str(config["batch_size"]),
                config["sampling"].replace("_", " "),
                str(config["runs"]),
                *(f"{result['coverage'][str(level)]:.0%}" for level in LEVELS),
                f"{result['standard_error']:.0%}",
            ]
        )
    axes[0, 0].set_ylabel("loss: bands predicted,\nmean and range of real runs")
    head = ["over", "lr", "B", "batches", "real runs"]
    head += [*(f"inside {level:.0%}" for level in LEVELS), "standard error of the first"]
    return harness.table(head, rows), {"bands": figure}


EXPERIMENT = harness.Experiment("bands", {"smoke": smoke, "paper": paper}, run, draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
