"""Where a corrected gradient could save steps at all: predicted, from one kernel a task.

    python -m experiments.correction_noise paper       five minutes, two idle cores
    python -m experiments.correction_noise smoke       a quarter of a minute
    python -m experiments.correction_noise table       from the records there are

A correction takes noise away, and noise is what small batches and rates near the limit of
stability make, with replacement more than in shuffled epochs. The linearised embedded network
on 5 x 20 digits is followed through ten streams of mini-batches for every batch size, way of
drawing and rate (as a share of the curvature's limit, momentum 0.9), by the plain gradient,
AGENT, alpha-SVRG and SVRG. No network is trained: what is told is what noise alone, without any
drift of the kernel, leaves to gain.

Expect: AGENT saves at most 8 % of the steps (batches of 4 at 0.8 of the limit), and at that
rate loses 4 of 60 streams, because nothing bounds its coefficient; alpha-SVRG up to half of the
steps to a tenth of the loss, SVRG up to 38 %, and where little is noise both cost steps. At
three times the passes none is ever cheaper: 1.5 times the work of the plain gradient at best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness
from ttp_jax import outputs, study, trust
from ttp_jax.accelerators.corrected_path import corrected_segment
from ttp_jax.accelerators.correction import Agent, AlphaSvrg, Correction, Svrg, extra_passes
from ttp_jax.optimizers import SGD
from ttp_jax.records import Record
from ttp_jax.sampling import Sampling

CORRECTIONS: dict[str, Correction | None] = {
    "none": None,
    "AGENT": Agent(),
    "alpha-SVRG": AlphaSvrg(),
    "SVRG": Svrg(),
}
SAMPLINGS: tuple[Sampling, ...] = ("shuffle", "with_replacement")
EPSILONS = (0.1, 0.01)
"""Fractions of the initial loss."""


@dataclass(frozen=True)
class Config:
    """A task, a batch size, and the rates and streams that are tried."""

    task: study.Config
    batch_size: int
    epochs: int = 60
    shares: tuple[float, ...] = (0.1, 0.4, 0.8)
    """Rates over the limit of stability at the start."""
    seeds: int = 10


def smoke(data: Path) -> list[Config]:
    """A small network, two streams."""
    task = study.Config(mend=0, model="mlp", weights="random", image_size=8, per_class=6)
    return [Config(task, 5, 6, (0.4,), 2)]


def paper(data: Path) -> list[Config]:
    """Three batch sizes."""
    return [
        Config(study.Config(mend=0, per_class=20), batch_size) for batch_size in (4, 10, 25)
    ]


def run(config: Config, out: Path) -> None:
    """All rates, ways of drawing and streams of one batch size, one record."""
    harness.once("correction_noise", config, out, lambda: _made(config))


def _made(config: Config) -> harness.Made:
    built = study.build(config.task)
    task = built.task
    theta = study.kernel_of(config.task).of(task).theta
    f0 = outputs.at_the_start(task.apply_fn, task.params, task.x)
    curvature = trust.largest_curvature(theta, f0, task.targets, loss=task.loss)
    steps = config.epochs * (task.n // config.batch_size)
    cells = []
    for sampling in SAMPLINGS:
        for share in config.shares:
            limit = SGD(1.0, 0.9).stability_limit()
            sgd = SGD(
                share * limit / curvature,
                0.9,
                batch_size=config.batch_size,
                sampling=sampling,
            )
            for name, correction in CORRECTIONS.items():
                found = [
                    corrected_segment(
                        theta,
                        f0,
                        task.targets,
                        sgd,
                        correction,
                        loss=task.loss,
                        steps=steps,
                        seed=seed,
                    )
                    .segment.curves[0]
                    .loss
                    for seed in range(config.seeds)
                ]
                extra = 0.0
                if correction is not None:
                    extra = extra_passes(correction, steps, config.batch_size, task.n)
                cells.append(
                    {
                        "sampling": sampling,
                        "share": share,
                        "correction": name,
                        "passes": 1 + extra / (3 * config.batch_size * steps),
                        "steps": {
                            f"{e:g}": [_first(x, e) for x in found] for e in EPSILONS
                        },
                        "worse": sum(not x[-1] < x[0] for x in found),
                    }
                )
    return harness.Made({"steps": steps, "cells": cells}, built.provenance)


def _first(loss: np.ndarray, epsilon: float) -> int | None:
    there = np.flatnonzero(loss <= epsilon * loss[0])
    return int(there[0]) if len(there) else None


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Steps of the plain gradient, and ratios of the others."""
    found = sorted(found, key=lambda record: record.config["batch_size"])
    text = (
        "# Where a corrected gradient could save steps\n\n"
        "From the records here, by `python -m experiments.correction_noise table`: predicted, "
        "nothing is trained. Steps are the median of the streams; ratios are medians over "
        "streams of the corrected run's steps over the plain one's, and in brackets of its "
        "passes. `worse`: streams that end above where they began, with the plain gradient / "
        "AGENT / alpha-SVRG / SVRG.\n\n"
    )
    others = [name for name in CORRECTIONS if name != "none"]
    rows = []
    for record in found:
        for plain in (c for c in record.result["cells"] if c["correction"] == "none"):
            cells = _beside(record, plain)
            for epsilon in plain["steps"]:
                rows.append(
                    [
                        str(record.config["batch_size"]),
                        plain["sampling"].replace("_", " "),
                        f"{plain['share']:g}",
                        epsilon,
                        _median(plain["steps"][epsilon]),
                        *(_ratios(cells[name], plain, epsilon) for name in others),
                        " / ".join(str(cells[name]["worse"]) for name in CORRECTIONS),
                    ]
                )
    head = ("batch", "drawn", "rate over limit", "loss to", "steps", *others, "worse")
    text += harness.table(head, rows)
    return text, {"correction_noise": _figure(found, others)}


def _beside(record: Record, plain: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All corrections at the same rate and sampling."""
    same = ("sampling", "share")
    return {
        cell["correction"]: cell
        for cell in record.result["cells"]
        if all(cell[name] == plain[name] for name in same)
    }


def _ratio(cell: dict[str, Any], plain: dict[str, Any], epsilon: str) -> float | None:
    """Median over streams; one that does not arrive counts as infinitely late."""
    pairs = zip(cell["steps"][epsilon], plain["steps"][epsilon], strict=True)
    ratios = [np.inf if a is None else a / b for a, b in pairs if b]
    return float(np.median(ratios)) if ratios else None


def _ratios(cell: dict[str, Any], plain: dict[str, Any], epsilon: str) -> str:
    ratio = _ratio(cell, plain, epsilon)
    if ratio is None:
        return "-"
    return "never" if np.isinf(ratio) else f"{ratio:.2f} ({ratio * cell['passes']:.1f})"


def _median(steps: Sequence[int | None]) -> str:
    value = np.median([np.inf if s is None else s for s in steps])
    return "never" if np.isinf(value) else f"{value:g}"


def _figure(found: Sequence[Record], others: Sequence[str]):
    """Ratio of steps to the lower threshold over the rate, by batch size and sampling."""
    figure, panels = harness.canvas(8, 3.2, 1, len(SAMPLINGS), sharey=True)
    epsilon = f"{EPSILONS[-1]:g}"
    marks = ("o-", "s--", "^:", "v-.")
    for axis, sampling in zip(panels[0], SAMPLINGS, strict=True):
        for record, mark in zip(found, marks, strict=False):
            plains = [
                cell
                for cell in record.result["cells"]
                if cell["correction"] == "none" and cell["sampling"] == sampling
            ]
            for name, colour in zip(others, harness.COLOURS, strict=False):
                points = [
                    (plain["share"], ratio)
                    for plain in plains
                    if (ratio := _ratio(_beside(record, plain)[name], plain, epsilon))
                    and np.isfinite(ratio)
                ]
                if points:
                    label = f"{name}, batch {record.config['batch_size']}"
                    axis.plot(
                        *zip(*points, strict=True), mark, color=colour, markersize=4,
                        linewidth=1, label=label,
                    )  # fmt: skip
        axis.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        axis.axhline(0.3, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
        axis.set_title(sampling.replace("_", " "), fontsize=9)
        axis.set_xlabel("rate over the limit of stability", fontsize=9)
    panels[0, 0].set_ylabel(f"predicted steps to {epsilon}, ratio", fontsize=9)
    panels[0, 0].set(yscale="log", ylim=(0.2, None))
    ticks = (0.3, 0.5, 0.7, 1, 2)
    panels[0, 0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0, 0].minorticks_off()
    panels[0, -1].annotate(
        "AGENT pays below", (0.98, 0.3), xycoords=("axes fraction", "data"), ha="right",
        va="top", fontsize=7, color="0.4",
    )  # fmt: skip
    panels[0, 0].legend(frameon=False, fontsize=6, ncol=2, loc="lower left")
    return figure


EXPERIMENT = harness.Experiment(
    "correction_noise", {"smoke": smoke, "paper": paper}, run, draw
)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
