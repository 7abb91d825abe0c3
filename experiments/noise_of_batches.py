"""Which dynamics follow mini-batch SGD of the linearised model, and at what cost.

    python -m experiments.noise_of_batches paper      four minutes, two cores
    python -m experiments.noise_of_batches smoke      half a minute

The kernel is that of the embedded network on digits. The reference is the mean loss of many
streams of mini-batches, followed exactly: no real training, so that what is scored is the
treatment of the noise and not the linearisation. Against it stand the mean curve's solvers:
without noise (``ode``), the closed moments (``moments``), sample paths with the exact noise
(``sde``) and with three cheaper ones; and, where the streams are shuffled epochs, the moments
that know it and those that take batches for independent.

Expect: at the low rate the ODE within 1 %; at the high rate with small batches it is 4 to 10 %
low, moments and exact SDE within 1.2 % for independent batches, and every cheaper noise far
off; for shuffled epochs the moments within 0.1 % at the low rate and 6 % at the high one.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness
from ttp_jax import records, study
from ttp_jax.dynamics.moments import moments
from ttp_jax.dynamics.sde import sde
from ttp_jax.dynamics.simulate import streams
from ttp_jax.kernel.empirical import empirical_ntk
from ttp_jax.optimizers import SGD
from ttp_jax.sampling import Sampling
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve, LossName

EPSILONS = (0.4, 0.1)


@dataclass(frozen=True)
class Config:
    """One kernel, one optimiser, one way of drawing batches."""

    loss: LossName
    learning_rate: float
    batch_size: int
    sampling: Sampling
    momentum: float = 0.0
    per_class: int = 20
    steps: int = 240
    streams: int = 400
    paths: int = 400
    seed: int = 0


def smoke(data: Path) -> list[Config]:
    """One small case."""
    return [Config("mse", 1e-4, 5, "shuffle", per_class=4, steps=20, streams=20, paths=20)]


def paper(data: Path) -> list[Config]:
    """Two losses x (low rate, high rate with small batches) x two samplings."""
    rates: dict[LossName, tuple[float, float]] = {
        "mse": (1e-4, 3e-4),
        "cross_entropy": (5e-4, 2e-3),
    }
    samplings: tuple[Sampling, ...] = ("with_replacement", "shuffle")
    return [
        Config(loss, rate, batch_size, sampling)
        for loss, of_loss in rates.items()
        for rate, batch_size in zip(of_loss, (25, 5), strict=True)
        for sampling in samplings
    ]


def run(config: Config, out: Path) -> None:
    """One case."""
    harness.once("noise", config, out, lambda: make(config))


def make(config: Config) -> harness.Made:
    """The reference and every solver on one kernel."""
    built = study.build(
        study.Config(
            per_class=config.per_class,
            loss=config.loss,
            lr=config.learning_rate,
            batch_size=config.batch_size,
            seed=config.seed,
        )
    )
    task = built.task
    theta = empirical_ntk(task.apply_fn, task.params, task.x)
    f0 = np.asarray(task.apply_fn(task.params, task.x), np.float64)
    sgd = SGD(
        config.learning_rate,
        config.momentum,
        batch_size=config.batch_size,
        sampling=config.sampling,
    )
    common: dict[str, Any] = {"loss": config.loss, "steps": config.steps}
    of = theta, f0, task.targets
    steps = np.arange(config.steps + 1)
    ((losses, accuracies),) = streams(*of, sgd, seeds=range(config.streams), **common)
    scatter = losses.std(axis=0) / np.sqrt(config.streams)
    curves = {"reference": Curve(steps, losses.mean(0), accuracies.mean(0), 1.0 * steps)}
    seconds = {}
    for name, solve in _solvers(config, sgd).items():
        begin = time.perf_counter()
        path = solve(*of, **common)
        seconds[name] = time.perf_counter() - begin
        curves[name] = Curve(steps, path.loss, path.accuracy, 1.0 * steps)
    return harness.Made(
        result={
            "scatter": float((scatter / losses.mean(0)).max()),
            "solvers": {
                name: {
                    **_score(curves[name], curves["reference"]),
                    "seconds": seconds[name],
                }
                for name in seconds
            },
        },
        provenance=built.provenance,
        curves=curves,
    )


def _solvers(config: Config, sgd: SGD) -> dict[str, Callable]:
    def independent(kind: Sampling) -> SGD:
        return dataclasses.replace(sgd, sampling=kind)

    def paths_of(noise):
        return lambda theta, f0, targets, **common: sde(
            theta,
            f0,
            targets,
            independent("with_replacement"),
            noise=noise,
            paths=config.paths,
            seed=config.seed,
            **common,
        )

    solvers: dict[str, Callable] = {
        "ode": lambda theta, f0, targets, **common: sde(
            theta, f0, targets, sgd, noisy=False, **common
        ),
        "moments": lambda theta, f0, targets, **common: moments(
            theta, f0, targets, sgd, **common
        )[0],
    }
    if config.sampling == "shuffle":
        solvers["moments, independent batches"] = lambda theta, f0, targets, **common: (
            moments(theta, f0, targets, independent("without_replacement"), **common)[0]
        )
    solvers["sde"] = paths_of("exact")
    for noise in ("isotropic", "diagonal", "frozen"):
        solvers[f"sde, {noise}"] = paths_of(noise)
    return solvers


def _score(found: Curve, reference: Curve) -> dict[str, float | None]:
    """Largest relative error of the loss, and the error of the time to thresholds."""
    deviation = np.abs(found.loss / reference.loss - 1)
    score: dict[str, float | None] = {
        "loss": float(deviation.max()) if np.isfinite(deviation).all() else None
    }
    for epsilon in EPSILONS:
        a, b = (
            time_to_threshold(curve, epsilon, "within_of_final").steps
            for curve in (found, reference)
        )
        score[f"time to {epsilon:g}"] = None if a is None or not b else abs(a - b) / b
    return score


def summary(found: Sequence[records.Record]) -> str:
    """The records as a table in Markdown."""
    columns = ["loss", *(f"time to {epsilon:g}" for epsilon in EPSILONS)]
    rows = []
    for record in found:
        config = record.config
        for name, score in record.result["solvers"].items():
            errors = ("-" if score[c] is None else f"{score[c]:.1%}" for c in columns)
            rows.append(
                [
                    f"{config['loss']}, lr {config['learning_rate']:g}, "
                    f"B {config['batch_size']}",
                    config["sampling"].replace("_", " "),
                    name,
                    *errors,
                    f"{score['seconds']:.1f}",
                ]
            )
    head = ["task", "batches", "solver", *(f"error: {c}" for c in columns), "seconds"]
    return harness.table(head, rows)


def draw(found: Sequence[records.Record]) -> harness.Drawing:
    """The table, and every solver's loss over that of the reference along the run."""
    keys = ("loss", "learning_rate", "sampling")
    found = sorted(found, key=lambda record: tuple(record.config[key] for key in keys))
    width = min(4, len(found))
    height = -(-len(found) // width)
    figure, axes = harness.canvas(3.1 * width, 2.6 * height, height, width)
    panels = axes.ravel()
    styles = {
        "ode": {"color": "#1d3557", "linestyle": ":"},
        "moments": {"color": "#d1495b", "linestyle": "--"},
        "moments, independent batches": {"color": "#e09f3e", "linestyle": "-."},
        "sde": {"color": "#2a9d8f", "linewidth": 1.0},
        "sde, isotropic": {"color": "#8d99ae", "linewidth": 0.8},
        "sde, diagonal": {"color": "#b08968", "linewidth": 0.8},
        "sde, frozen": {"color": "#7b2cbf", "linewidth": 0.8},
    }
    shown = {}
    for axis, record in zip(panels, found, strict=False):
        config = record.config
        reference = record.curves["reference"].loss
        axis.axhline(1.0, color="0.7", linewidth=1)
        for name, style in styles.items():
            if name in record.curves:
                curve = record.curves[name]
                (shown[name],) = axis.plot(curve.steps, curve.loss / reference, **style)
        axis.set_ylim(0.88, 1.2)
        axis.set_title(
            f"{config['loss']}, lr {config['learning_rate']:g}, B {config['batch_size']},\n"
            f"{config['sampling'].replace('_', ' ')}",
            fontsize=8,
        )
        axis.set_xlabel("step", fontsize=8)
    panels[0].set_ylabel("loss / reference", fontsize=8)
    figure.legend(
        shown.values(),
        shown.keys(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
    return summary(found), {"noise_of_batches": figure}


EXPERIMENT = harness.Experiment(
    "noise_of_batches", {"smoke": smoke, "paper": paper}, run, draw
)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
