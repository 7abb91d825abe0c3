"""What a sweep says to choose, against real runs: rate, largest rate, batch, rate of a batch.

    python -m experiments.sweep paper --data data      an hour, two cores; resumable
    python -m experiments.sweep smoke                  a minute

One kernel a task gives the time to a tenth of the initial loss at every learning rate and
batch size (:mod:`ttp_jax.sweep`); then a ladder of rates is really run at four batch sizes.
Asked of both: which rate is the fastest, up to which rate a run is stable, how many steps a
batch size needs at its best, and which rate makes another batch size follow the same curve. A
real run that gets there counts as stable unless its loss has doubled on the way. The embedded
network, 5 classes x 30 pictures of three sets, three seeds, momentum 0.9.

Expect: the steps that a batch size needs at its best rate 18 to 24 % off at the median, mostly
predicted too few; the rate that is predicted to be best takes 0 to 17 % more steps than the
really best one at the median (1.5 times at most, and with the full batch one of nine never gets
there); real runs stable to once to twice the curvature's limit (the end of the ladder), the
predicted to 0.2 to 1 of it with batches of 10 and to 0.8 to 1 with large ones; rates paired by
the sweep bring other batch sizes nearer than the linear rule, and both much nearer than the
square-root rule. The batch beyond which steps hardly fall is foreseen in four of nine tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness, scatter, scores
from ttp_jax import choices, study, trust
from ttp_jax.finetune import finetune
from ttp_jax.kernel.choice import Kernel
from ttp_jax.optimizers import SGD
from ttp_jax.outputs import at_the_start
from ttp_jax.records import Record
from ttp_jax.sampling import steps_per_epoch
from ttp_jax.sweep import Grid, Setting, Sweep, sweep
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve

EPSILON, RULE = 0.1, "fraction_of_initial"
MOMENTUM = 0.9
LADDER = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0)
"""Rates that are really run, in units of the largest that is stable by the curvature."""
REFERENCE = 0.03
"""Of these, the rate that other batch sizes are to be paired with."""
FINE = 60
"""Rates of the sweep besides."""
READINGS = 8
"""Of a ladder's measured curve, an epoch; of those to be paired one."""


@dataclass(frozen=True)
class Ladder:
    """A task, and the batch sizes of its ladders; the first is the reference."""

    data: str
    per_class: int = 30
    seed: int = 0
    batch_sizes: tuple[int | None, ...] = (25, 10, 75, None)
    epochs: int = 40
    ladder: tuple[float, ...] = LADDER


def smoke(data: Path) -> list[Ladder]:
    """One small task, two batch sizes, three rates."""
    few = (REFERENCE, 0.4, 1.6)
    return [Ladder("digits", 8, batch_sizes=(10, None), epochs=6, ladder=few)]


def paper(data: Path) -> list[Ladder]:
    """Three sets, three seeds."""
    sets = [f"npz:{data / 'datasets' / name}.npz" for name in scatter.SETS[2:]]
    return [Ladder(source, seed=seed) for seed in range(3) for source in ("digits", *sets)]


def run(config: Ladder, out: Path) -> None:
    """The sweep and the real runs of one task."""
    harness.once("ladder", config, out, lambda: make(config))


def make(config: Ladder) -> harness.Made:
    """Predicted and measured ladders, and the pairs."""
    described = study.Config(data=config.data, per_class=config.per_class, seed=config.seed)
    built = study.build(described)
    task = built.task
    kernel = Kernel().of(task)
    f0 = at_the_start(task.apply_fn, task.params, task.x)
    curvature = trust.largest_curvature(kernel.theta, f0, task.targets, loss=task.loss)
    limit = SGD(1.0, MOMENTUM).stability_limit() / curvature
    fine = np.geomspace(min(config.ladder) / 8, 2, FINE)
    grid = Grid(
        learning_rates=[float(r * limit) for r in sorted({*fine, *config.ladder})],
        momenta=(MOMENTUM,),
        batch_sizes=config.batch_sizes,
        epochs=(config.epochs,),
    )
    found = sweep(task, grid, kernel=kernel, seed=config.seed)

    def measured(rate: float, size: int | None, readings: int = 1, stop=None) -> Curve:
        setting = Setting(rate, MOMENTUM, size, "constant", config.epochs)
        every = max(1, steps_per_epoch(task.n, size) // readings)
        sgd, steps = grid.sgd(setting, task.n), setting.steps(task.n)
        return finetune(task, sgd, steps=steps, seed=config.seed, every=every, stop=stop)

    runs = []
    for j, size in enumerate(config.batch_sizes):
        for share in config.ladder:
            at = grid.learning_rates.index(float(share * limit))
            real = measured(share * limit, size, READINGS, there)
            predicted = found.curve((at, 0, j, 0, 0))
            runs.append(
                {
                    "batch_size": size,
                    "share": share,
                    "predicted": _read(
                        predicted, stable=bool(found.stable[at, 0, j, 0, 0])
                    ),
                    "measured": _read(real, stable=not trust.grows(real.loss)),
                }
            )
    result = {
        "limit": limit,
        "runs": runs,
        "pairs": _pairs(found, config, limit, measured),
    }
    return harness.Made(result, built.provenance)


def there(curve: Curve) -> bool:
    """Whether a real run has got where it was sent; what follows is not looked at."""
    return bool(curve.loss[-1] <= EPSILON * curve.loss[0])


def _read(curve: Curve, *, stable: bool) -> dict[str, Any]:
    found = time_to_threshold(curve, EPSILON, RULE)
    return {"steps": found.steps, "stable": stable, "final": float(curve.loss[-1])}


def _pairs(found: Sweep, config: Ladder, limit: float, measured) -> list[dict[str, Any]]:
    """How far the real curve of another batch size is from that of the reference, by rule."""
    first, *others = config.batch_sizes
    rate = REFERENCE * limit
    place = (found.grid.learning_rates.index(float(rate)), 0, 0, 0, 0)
    wanted = measured(rate, first)
    rows = []
    for size in others:
        ratio = (size or found.n) / (first or found.n)
        rules = {
            "sweep": choices.paired_rate(found, place, size),
            "linear": rate * ratio,
            "square root": rate * np.sqrt(ratio),
            "same": rate,
        }
        for rule, other in rules.items():
            apart = _apart(wanted, measured(float(other), size), found.n, first, size)
            row = {"batch_size": size, "rule": rule, "rate": other / limit, "apart": apart}
            rows.append(row)
    return rows


def _apart(a: Curve, b: Curve, n: int, a_size: int | None, b_size: int | None) -> float:
    """Root mean square of the difference of log losses at equal epochs."""

    def epochs(curve: Curve, size: int | None) -> np.ndarray:
        return curve.steps / steps_per_epoch(n, size)

    at = np.arange(1, int(epochs(a, a_size)[-1]) + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [
            np.interp(at, epochs(curve, size), np.log(curve.loss))
            for curve, size in ((a, a_size), (b, b_size))
        ]
    return float(np.sqrt(np.mean((logs[0] - logs[1]) ** 2)))


def ladders(record: Record) -> dict[int | None, list[dict[str, Any]]]:
    """Runs of a task by batch size, smallest rate first."""
    found: dict[int | None, list[dict[str, Any]]] = {}
    for row in record.result["runs"]:
        found.setdefault(row["batch_size"], []).append(row)
    return {
        size: sorted(rows, key=lambda row: row["share"]) for size, rows in found.items()
    }


def largest_stable(rows: Sequence[dict[str, Any]], side: str) -> float | None:
    """Largest rate of a ladder below which all are stable."""
    stable = [row["share"] for row in rows]
    for k, row in enumerate(rows):
        if not row[side]["stable"]:
            return stable[k - 1] if k else None
    return stable[-1]


def best(rows: Sequence[dict[str, Any]], side: str) -> dict[str, Any] | None:
    """The stable run of a ladder that gets there first."""
    there = [row for row in rows if row[side]["stable"] and row[side]["steps"] is not None]
    return min(there, key=lambda row: row[side]["steps"], default=None)


def choices_of(record: Record) -> list[dict[str, Any]]:
    """What the ladder of each batch size says, predicted and measured."""
    table = []
    for size, rows in ladders(record).items():
        predicted, measured = best(rows, "predicted"), best(rows, "measured")
        row: dict[str, Any] = {
            "batch_size": size or record.provenance["n"],
            "largest": [largest_stable(rows, side) for side in ("predicted", "measured")],
            "steps": [
                chosen and chosen[side]["steps"]
                for chosen, side in ((predicted, "predicted"), (measured, "measured"))
            ],
            "regret": np.nan,
        }
        if predicted is not None and measured is not None:
            real = predicted["measured"]
            late = not real["stable"] or real["steps"] is None
            row["regret"] = (
                np.inf if late else real["steps"] / max(measured["measured"]["steps"], 1)
            )
        table.append(row)
    return table


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Time over rate for one task; best steps and largest rates of all; the scores."""
    from matplotlib.ticker import FixedLocator, NullLocator

    figure, axes = harness.canvas(11.5, 3.8, 1, 3)
    shown = found[0]
    for (size, rows), colour in zip(ladders(shown).items(), harness.COLOURS, strict=False):
        for side, style in (("measured", "o-"), ("predicted", "x--")):
            points = [
                (row["share"], row[side]["steps"])
                for row in rows
                if row[side]["steps"] is not None
            ]
            if points:
                word = f"batch {size or 'all'}, {side}"
                x, y = np.array(points).T
                axes[0, 0].plot(x, y, style, color=colour, markersize=4, label=word)
    axes[0, 0].axvline(1, color="0.7", linewidth=1)
    axes[0, 0].set(
        xscale="log",
        yscale="log",
        xlabel="learning rate / largest stable by the curvature",
        ylabel=f"steps to {EPSILON:g} of the initial loss",
        title=f"{scores.pictures_of(shown)}, seed {shown.config['seed']}",
    )
    axes[0, 0].legend(fontsize=6.5, frameon=False)
    rows = [row for record in found for row in choices_of(record)]
    both = [row for row in rows if None not in row["steps"]]
    sizes = sorted({row["batch_size"] for row in rows})
    for size, colour in zip(sizes, harness.COLOURS, strict=False):
        points = [row["steps"] for row in both if row["batch_size"] == size]
        if points:
            x, y = np.array(points).T
            axes[0, 1].plot(y, x, "o", color=colour, alpha=0.8, label=f"batch {size}")
        stable = [
            row["largest"]
            for row in rows
            if row["batch_size"] == size and None not in row["largest"]
        ]
        if stable:
            x, y = np.array(stable).T
            spread = np.exp(np.linspace(-0.06, 0.06, len(x)))
            axes[0, 2].plot(y * spread, x * spread, "o", color=colour, alpha=0.6)
    for axis, title, pairs in (
        (axes[0, 1], "fewest steps of any rate", [row["steps"] for row in both]),
        (
            axes[0, 2],
            "largest stable rate / limit of the curvature",
            [row["largest"] for row in rows if None not in row["largest"]],
        ),
    ):
        limits = (0.7 * np.min(pairs), 1.4 * np.max(pairs)) if pairs else (0.1, 1)
        axis.plot(limits, limits, color="0.7", linewidth=1)
        axis.set(
            xscale="log",
            yscale="log",
            xlim=limits,
            ylim=limits,
            xlabel="measured",
            ylabel="predicted",
        )
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(FixedLocator((0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)))
            side.set_major_formatter("{x:g}")
            side.set_minor_locator(NullLocator())
        axis.set_title(title, fontsize=10)
    if sizes:
        axes[0, 1].legend(fontsize=7, frameon=False)
    return summary(found), {"sweep": figure}


def summary(found: Sequence[Record]) -> str:
    """Scores of each choice, by batch size."""
    rows = [row for record in found for row in choices_of(record)]
    lines = []
    for size in sorted({row["batch_size"] for row in rows}):
        of_size = [row for row in rows if row["batch_size"] == size]
        steps = [row["steps"] for row in of_size if None not in row["steps"]]
        errors = [abs(p - m) / m for p, m in steps]
        largest = [row["largest"] for row in of_size if None not in row["largest"]]
        ratio = [p / m for p, m in largest]
        regret = [row["regret"] for row in of_size if not np.isnan(row["regret"])]
        lines.append(
            [
                str(size),
                str(len(of_size)),
                " / ".join(f"{v:.0f}" for v in np.median(steps, axis=0)) if steps else "-",
                harness.percent(float(np.median(errors))) if errors else "-",
                f"{np.median(regret):.2f} ({max(regret):.2f})" if regret else "-",
                f"{np.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})"
                if ratio
                else "-",
            ]
        )
    text = (
        f"Time to {EPSILON:g} of the initial loss at the best rate of the ladder; what the "
        "predicted best rate really takes over the least (median, worst); and the largest "
        "stable rate, predicted over measured:\n\n"
    )
    text += harness.table(
        ["batch", "tasks", "steps predicted / measured", "error", "regret", "largest rate"],
        lines,
    )
    text += _batches(found)
    pairs: dict[tuple[int, str], list[float]] = {}
    for record in found:
        for row in record.result["pairs"]:
            size = row["batch_size"] or record.provenance["n"]
            pairs.setdefault((size, row["rule"]), []).append(row["apart"] or np.inf)
    text += (
        "\nReal curves of other batch sizes beside the one of the reference, at rates by "
        "different rules: root mean square of the difference of log losses over the epochs, "
        "median of the tasks:\n\n"
    )
    rules = list(dict.fromkeys(rule for _, rule in pairs))
    text += harness.table(
        ["batch", *rules],
        [
            [
                str(size),
                *(f"{np.median(pairs[size, rule]):.3f}" for rule in rules),
            ]
            for size in sorted({size for size, _ in pairs})
        ],
    )
    return text


def _batches(found: Sequence[Record]) -> str:
    """Of each task, past which batch more buys nothing."""
    lines = []
    for record in sorted(found, key=lambda r: (scores.pictures_of(r), r.config["seed"])):
        rows = [row for row in choices_of(record) if None not in row["steps"]]
        if not rows:
            continue
        sizes = np.array([row["batch_size"] for row in rows])
        cells = [scores.pictures_of(record), str(record.config["seed"])]
        steps = [np.array([row["steps"][k] for row in rows], float) for k in (0, 1)]
        cells.append(" / ".join(str(choices.useful_batch(sizes, of)) for of in steps))
        critical = [choices.critical_batch(sizes, of) for of in steps]
        cells.append(" / ".join("-" if v is None else f"{v:.0f}" for v in critical))
        lines.append(cells)
    head = [
        "pictures",
        "seed",
        "smallest batch within 10 % of the fewest steps",
        "critical",
    ]
    return (
        "\nBatch sizes past which more pictures at a time buy nothing, and the critical batch "
        "size, predicted / measured:\n\n"
    ) + harness.table(head, lines)


EXPERIMENT = harness.Experiment("sweep", {"smoke": smoke, "paper": paper}, run, draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
