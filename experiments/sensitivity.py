"""Choices that the paper leaves open, one at a time: what each does to the error.

    python -m experiments.sensitivity paper --data data      half an hour, two cores
    python -m experiments.sensitivity smoke                  a minute

What is known of Zancato et al. (arXiv 2008.12478) does not say how curves are smoothed, what
the unit of epsilon is, how the head is drawn, how the stochastic equation is solved or how
much of the kernel between outputs is kept. Every table of ours states its choice; here each
is varied alone on the same tasks (embedded network, 5 x 30 pictures, three sets, two seeds),
and the median and largest relative errors of the time to 10 % are told. Varied after the fact,
from the same two curves: smoothing, unit, length of the run. Varied in the prediction: solver,
kernel. Varied in both: the head, momentum's treatment, the layers trained.

Expect: 7 % at the median of six tasks (14 % at most), 4 to 12 % for readings, solvers,
momentum, sampling and blocks between outputs, where 7 and 12 % are not told apart by six tasks;
93 % for noise that is taken as diagonal, 96 % for the kernel of the last layer alone, 9 (count
sketch) to 34 % (Kronecker) for projections to 256 numbers a tensor, 16 % for all layers
trained.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness, scatter, scores
from ttp_jax import study
from ttp_jax.records import Record
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve

EPSILON = 0.1
BASE = study.Config(mend=0, rules=("within_of_final",), epsilon=(EPSILON,), every=2)
PREDICTED: dict[str, dict[str, Any]] = {
    "solver: ODE": {"solver": "ode"},
    "solver: SDE, 1 path": {"solver": "sde", "paths": 1},
    "solver: SDE, 32 paths": {"solver": "sde", "paths": 32},
    "solver: SDE, isotropic noise": {"solver": "sde", "noise": "isotropic"},
    "solver: SDE, diagonal noise": {"solver": "sde", "noise": "diagonal"},
    "solver: SDE, frozen noise": {"solver": "sde", "noise": "frozen"},
    "momentum: effective rate": {"effective_rate": True},
    "outputs: one block for each": {"kernel_outputs": "class_block"},
    "outputs: one block for all (trace)": {"kernel_outputs": "trace"},
    "outputs: sum of logits": {"kernel_outputs": "sum_of_logits"},
    "outputs: last layer": {"kernel_outputs": "last_layer"},
    "kernel: count sketch, 256": {"kernel": "count_sketch"},
    "kernel: tensor sketch, 256": {"kernel": "tensor_sketch"},
    "kernel: very sparse, 256": {"kernel": "very_sparse"},
    "kernel: coordinates, 256": {"kernel": "coordinates"},
    "kernel: Kronecker, 256": {"kernel": "kronecker"},
}
TRAINED: dict[str, dict[str, Any]] = {
    "head: zeros": {"head_init": "zeros"},
    "head: scale 1": {"head_scale": 1.0},
    "head: scale 10": {"head_scale": 10.0},
    "trained: all layers": {"freeze_until": "none"},
    "batches: with replacement": {"sampling": "with_replacement"},
    "loss: mse": {"loss": "mse", "lr": 5e-5},
}


Case = tuple[study.Command, study.Config]
"""What to run of one choice: both curves, or the prediction alone."""


def cases(config: study.Config, choices: Sequence[str]) -> list[Case]:
    """The base and some changes of it."""
    return [
        ("compare", config),
        *(
            (
                "predict" if name in PREDICTED else "compare",
                dataclasses.replace(config, **(PREDICTED.get(name) or TRAINED[name])),
            )
            for name in choices
        ),
    ]


def smoke(data: Path) -> list[Case]:
    """One short run, and a choice of each kind."""
    small = dataclasses.replace(BASE, per_class=6, batch_size=6, epochs=20)
    return cases(small, ("solver: ODE", "outputs: last layer", "head: zeros"))


def paper(data: Path) -> list[Case]:
    """Three sets, two seeds."""
    sources = [
        "digits",
        *(f"npz:{data / 'datasets' / name}.npz" for name in scatter.SETS[:2]),
    ]
    return [
        case
        for seed in range(2)
        for source in sources
        for case in cases(
            dataclasses.replace(BASE, data=source, seed=seed), (*PREDICTED, *TRAINED)
        )
    ]


def run(case: Case, out: Path) -> None:
    """One record."""
    command, config = case
    harness.studied(command, config, out)


def _cut(curve: Curve, share: float) -> Curve:
    count = max(2, round(share * len(curve.steps)))
    steps, loss, accuracy, seconds = (
        v[:count] for v in (curve.steps, curve.loss, curve.accuracy, curve.seconds)
    )
    return Curve(steps, loss, accuracy, seconds)


def _within(curve: Curve, *, smoothing: int = 1, share: float = 1.0) -> int | None:
    curve = _cut(curve, share)
    return time_to_threshold(curve, EPSILON, "within_of_final", smoothing=smoothing).steps


def _of_drop(curve: Curve) -> int | None:
    """The unit of epsilon is ``L_0 - L_T`` instead of ``L_0``."""
    loss = curve.loss
    met = np.abs(loss - loss[-1]) <= EPSILON * (loss[0] - loss[-1])
    met[-1] = False
    return int(curve.steps[np.argmax(met)]) if met.any() else None


READINGS: dict[str, Callable[[Curve], int | None]] = {
    "base": _within,
    "smoothing: over 3 readings (an epoch)": lambda curve: _within(curve, smoothing=3),
    "smoothing: over 15 readings": lambda curve: _within(curve, smoothing=15),
    "unit of epsilon: L_0 - L_T": _of_drop,
    "length: half the run": lambda curve: _within(curve, share=0.5),
    "length: a quarter of the run": lambda curve: _within(curve, share=0.25),
    "rule: a tenth of the initial loss": lambda curve: (
        time_to_threshold(curve, EPSILON, "fraction_of_initial").steps
    ),
}


def errors(found: Sequence[Record]) -> dict[str, list[float]]:
    """Relative errors of the tasks by choice; infinite where a prediction names no time."""
    by_id: dict[tuple[str, str], Record] = {}
    for record in found:
        by_id[_key(record.config), _task(record.config)] = record
    base = [r for (change, _), r in by_id.items() if change == "base"]

    def error(measured: int | None, predicted: int | None) -> list[float]:
        return [scores.relative_error(predicted, measured)] if measured else []

    table: dict[str, list[float]] = {}
    for name, read in READINGS.items():
        table[name] = [
            e
            for r in base
            for e in error(read(r.curves["measured"]), read(r.curves["predicted"]))
        ]
    for name in (*PREDICTED, *TRAINED):
        entries = []
        for r in base:
            other = by_id.get((name, _task(r.config)))
            if other is None:
                continue
            real = other.curves.get("measured", r.curves["measured"])
            entries += error(_within(real), _within(other.curves["predicted"]))
        table[name] = entries
    return table


def _task(config: Mapping[str, Any]) -> str:
    return f"{config['data']} {config['seed']}"


def _key(config: Mapping[str, Any]) -> str:
    """Which choice a record differs in."""
    options = {key for change in (*PREDICTED.values(), *TRAINED.values()) for key in change}
    base = dataclasses.asdict(BASE)
    differs = {key: config[key] for key in options if config[key] != base[key]}
    for name, change in (*PREDICTED.items(), *TRAINED.items()):
        if differs == change:
            return name
    return "base"


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Median and largest error by choice, as a table and as bars."""
    table = {name: values for name, values in errors(found).items() if values}
    rows, middles = [], []
    for name, values in table.items():
        middle = float(np.quantile(values, 0.5, method="higher"))
        named = [v for v in values if np.isfinite(v)]
        middles.append(middle)
        rows.append(
            [
                name,
                str(len(values)),
                harness.percent(middle),
                f"{max(named):.0%}" if named else "-",
                str(len(values) - len(named)),
            ]
        )
    figure, axes = harness.canvas(7, 0.24 * len(table) + 0.8)
    axis = axes[0, 0]
    at = np.arange(len(table))
    axis.barh(at, np.minimum(middles, 1.0), color=harness.COLOURS[0])
    axis.axvline(middles[0], color="0.6", linewidth=0.8)
    for y, middle in zip(at, middles, strict=True):
        if not np.isfinite(middle) or middle > 1:
            axis.annotate(
                "more", (1.0, y), ha="right", va="center", fontsize=7, color="white"
            )
    axis.set_yticks(at, table, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"median error of the time to {EPSILON:.0%}")
    head = ["choice", "tasks", "median error", "largest", "no time"]
    return harness.table(head, rows), {"sensitivity": figure}


EXPERIMENT = harness.Experiment("sensitivity", {"smoke": smoke, "paper": paper}, run, draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
