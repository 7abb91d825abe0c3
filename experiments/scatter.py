"""Predicted against real time to threshold over many tasks, full batch and mini-batch.

    python experiments/scatter.py embedded --data data    25 minutes, two cores
    python experiments/scatter.py paper --data data       days on two cores; resumable
    python experiments/scatter.py smoke                   a minute

The scatter of Zancato et al. (arXiv 2008.12478, Fig. 1): tasks drawn from five sets of
pictures, gradient descent (GD) and SGD at two learning rates each, the time at which the loss
is within 10 % of its initial value of where it ends. ``embedded``: the network that comes with
the package, 5 classes x 30 pictures. ``paper``: ImageNet ResNet-50 (last stage and head) and
CIFAR ResNet-20, 5 x 150 pictures for 150 epochs. Beside the predictions stand what needs no
dynamics: the kernel of the last layer alone, a network with random weights (seed 0 only), the
median of the other tasks, and a power law fitted to the first twentieth of the real run. A
record that is there is not made again. Writes ``README.md`` and ``scatter.png`` and ``.pdf``
into the folder of records.

Expect: predictions of the embedded network within a fifth at the median, the constant and the
power law far behind; errors of 50 % and more among the runs that trust warns against.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.optimize
import scipy.stats
import tyro

from ttp_jax import records, study
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve, InputError

RESULTS = Path("results/scatter")
EPSILONS = (0.4, 0.1, 0.01)
SHOWN = 0.1
PREFIX = 0.05
"""Share of the real run that the power law is fitted to."""
SETS = ("clothing10_128", "flowers5_128", "signdigits10_100", "cifar10_jpeg32")
Method = Literal["predicted", "last layer", "random weights", "constant", "power law"]


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    preset: tyro.conf.Positional[Literal["smoke", "embedded", "paper", "table"]]
    """smoke: two short runs; embedded, paper: all tasks; table: from the records alone."""
    data: Path = Path("data")
    """Folder with weights/ and datasets/."""
    out: Path = RESULTS
    """Folder of records."""


COMMON = study.Config(epsilon=EPSILONS, rules=("within_of_final",))


def smoke() -> list[study.Config]:
    """One short run of each kind."""
    small = dataclasses.replace(COMMON, per_class=6, epochs=5)
    return [
        dataclasses.replace(small, batch_size=None, lr=1e-3, every=1),
        dataclasses.replace(small, batch_size=10, lr=3e-4, every=1),
    ]


def embedded(data: Path) -> list[study.Config]:
    """Five sets x (GD, SGD) x two rates x three seeds."""
    of_set = ["digits", *(f"npz:{data / 'datasets' / name}.npz" for name in SETS)]
    kinds: list[dict[str, Any]] = [
        {"batch_size": None, "lr": 3e-4, "epochs": 150, "every": 1},
        {"batch_size": None, "lr": 1e-3, "epochs": 150, "every": 1},
        {"batch_size": 25, "lr": 1e-4, "epochs": 60, "every": 2},
        {"batch_size": 25, "lr": 3e-4, "epochs": 60, "every": 2},
    ]
    return [
        dataclasses.replace(COMMON, data=source, seed=seed, **kind)
        for seed in range(3)
        for source in of_set
        for kind in kinds
    ]


def paper(data: Path) -> list[study.Config]:
    """The protocol: 5 x 150 pictures, 150 epochs, two networks."""
    of_set = [f"npz:{data / 'datasets' / name}.npz" for name in SETS]
    networks: list[dict[str, Any]] = [
        {
            "model": "resnet50",
            "weights": str(data / "weights/resnet50_keras_imagenet_f16.npz"),
            "image_size": 128,
            "freeze_until": "stage3",
        },
        {
            "model": "resnet20",
            "weights": str(data / "weights/resnet20_cifar10.npz"),
            "image_size": 32,
        },
    ]
    kinds: list[dict[str, Any]] = [
        {"batch_size": batch_size, "lr": rate, "every": every}
        for batch_size, every in ((None, 1), (32, 4))
        for rate in (1e-4, 5e-4)
    ]
    protocol = dataclasses.replace(COMMON, per_class=150, epochs=150)
    return [
        dataclasses.replace(protocol, data=source, seed=seed, **network, **kind)
        for seed in range(3)
        for network in networks
        for source in ["digits", *of_set]
        for kind in kinds
    ]


def run(config: study.Config, out: Path) -> None:
    """The comparison and the two baselines that are predictions of their own."""
    study.run("compare", config, out=out)
    last_layer = dataclasses.replace(config, kernel_outputs="last_layer")
    study.run("predict", last_layer, out=out)
    if config.seed == 0:
        study.run("predict", dataclasses.replace(config, weights="random"), out=out)


def within_of_final(curve: Curve, epsilon: float) -> int | None:
    """Steps of the paper's rule; ``None`` where the run never settles before its end."""
    return time_to_threshold(curve, epsilon, "within_of_final").steps


def power_law(curve: Curve, epsilon: float) -> int | None:
    """``L_t = a + b (1 + t)^(-s)`` fitted to the first steps of a real run, read alike."""
    count = max(4, int(PREFIX * len(curve.steps)))
    t, loss = curve.steps[:count].astype(float), curve.loss[:count]

    def law(t, a, b, s):
        return a + b * (1 + t) ** -s

    try:
        found, _ = scipy.optimize.curve_fit(
            law,
            t,
            loss,
            p0=(0.0, loss[0], 0.5),
            bounds=([0, 0, 0], [np.inf, np.inf, 10]),
            maxfev=5000,
        )
    except (RuntimeError, ValueError):
        return None
    steps = curve.steps
    return within_of_final(
        Curve(steps, law(steps.astype(float), *found), curve.accuracy, 1.0 * steps), epsilon
    )


def rows(found: Sequence[records.Record], epsilon: float) -> list[dict[str, Any]]:
    """One task a row: what was measured, and what each method says."""
    by_task: dict[str, dict[str, records.Record]] = {}
    for record in found:
        # What the baselines differ in does not name the task.
        task = {**record.config, "weights": None, "kernel_outputs": None}
        name = "predicted"
        if record.config["kernel_outputs"] == "last_layer":
            name = "last layer"
        elif record.config["weights"] == "random":
            name = "random weights"
        by_task.setdefault(repr(sorted(task.items())), {})[name] = record
    table = []
    for of_task in by_task.values():
        if "predicted" not in of_task:
            continue
        record = of_task["predicted"]
        row: dict[str, Any] = {
            "config": record.config,
            "trusted": record.result["trust"]["ok"],
            "cost": record.result["cost"],
            "measured": within_of_final(record.curves["measured"], epsilon),
            "power law": power_law(record.curves["measured"], epsilon),
        }
        for name in ("predicted", "last layer", "random weights"):
            if name in of_task:
                curve = of_task[name].curves["predicted"]
                row[name] = within_of_final(curve, epsilon)
        table.append(row)
    known = [row["measured"] for row in table]
    for k, row in enumerate(table):
        others = [t for j, t in enumerate(known) if j != k and t is not None]
        row["constant"] = float(np.median(others)) if others else None
    return table


def score(table: Sequence[dict[str, Any]], method: Method) -> dict[str, float] | None:
    """Relative errors of one method over the tasks that both curves settle in."""
    asked = [row for row in table if row["measured"] and method in row]
    pairs = np.array(
        [(row["measured"], row[method]) for row in asked if row[method]], float
    ).reshape(-1, 2)
    if len(pairs) < 2:
        return None
    error = np.abs(pairs[:, 1] - pairs[:, 0]) / pairs[:, 0]
    spread = pairs[:, 1].std() > 0
    rank = scipy.stats.spearmanr(*pairs.T).statistic if spread else np.nan
    logs = np.log(pairs)
    unexplained = ((logs[:, 1] - logs[:, 0]) ** 2).sum()
    return {
        "tasks": len(pairs),
        "missing": len(asked) - len(pairs),
        "median": float(np.median(error)),
        "mean": float(error.mean()),
        "p95": float(np.quantile(error, 0.95)),
        "spearman": float(rank),
        "r2_log": float(1 - unexplained / ((logs[:, 0] - logs[:, 0].mean()) ** 2).sum()),
    }


def summary(found: Sequence[records.Record]) -> str:
    """Tables in Markdown: methods at 10 %, then the predictions at every epsilon and set."""
    head = (
        "tasks | no time | median | mean | 95 % of tasks within | Spearman | R^2 of log T"
    )
    bar = "--- | " * 6 + "---"
    lines = [f"| steps | method | {head} |", f"| --- | --- | {bar} |"]
    methods: tuple[Method, ...] = (
        "predicted",
        "last layer",
        "random weights",
        "constant",
        "power law",
    )
    kinds = {"GD": True, "SGD": False}

    def of_kind(table: list[dict], full: bool) -> list[dict]:
        return [row for row in table if (row["config"]["batch_size"] is None) == full]

    def cells(values: dict[str, float] | None) -> str:
        if values is None:
            return " | ".join("-" * 7)
        return (
            f"{values['tasks']:.0f} | {values['missing']:.0f} | {values['median']:.0%} | "
            f"{values['mean']:.0%} | {values['p95']:.0%} | {values['spearman']:.2f} | "
            f"{values['r2_log']:.2f}"
        )

    table = rows(found, SHOWN)
    for kind, full in kinds.items():
        chosen = of_kind(table, full)
        lines += [f"| {kind} | {m} | {cells(score(chosen, m))} |" for m in methods]
        for word, ok in (("trusted", True), ("warned against", False)):
            part = [row for row in chosen if row["trusted"] == ok]
            lines.append(
                f"| {kind} | predicted, {word} | {cells(score(part, 'predicted'))} |"
            )
    lines += ["", f"| pictures | epsilon | {head} |", f"| --- | --- | {bar} |"]
    names = sorted({_name(record) for record in found})
    for epsilon in EPSILONS:
        table = rows(found, epsilon)
        for name in [*names, "all"]:
            chosen = [r for r in table if name in ("all", Path(r["config"]["data"]).stem)]
            lines.append(f"| {name} | {epsilon:g} | {cells(score(chosen, 'predicted'))} |")
    cost = [row["cost"]["ratio"] for row in rows(found, SHOWN)]
    return (
        "\n".join(lines)
        + f"\n\nPredicting was {np.median(cost):.1f} times cheaper than training at the "
        f"median ({min(cost):.1f} to {max(cost):.1f}).\n"
    )


def _name(record: records.Record) -> str:
    return Path(record.config["data"]).stem


def plot(found: Sequence[records.Record], out: Path) -> None:
    """Predicted against measured steps, GD and SGD, by set of pictures and trust."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    table = [row for row in rows(found, SHOWN) if row["measured"] and row.get("predicted")]
    steps = [row[key] for row in table for key in ("measured", "predicted")]
    limit = np.array([0.7 * min(steps), 1.4 * max(steps)]) if steps else np.array([1, 10])
    colours = ("#1d3557", "#d1495b", "#2a9d8f", "#e09f3e", "#7b2cbf", "#8d99ae")
    names = sorted({_name(record) for record in found})
    shown = {}
    for axis, kind, full, within in zip(
        axes, ("GD", "SGD"), (True, False), (0.13, 0.2), strict=True
    ):
        axis.fill_between(limit, limit * (1 - within), limit * (1 + within), color="0.9")
        axis.plot(limit, limit, color="0.6", linewidth=1)
        for row in table:
            if (row["config"]["batch_size"] is None) != full:
                continue
            name = Path(row["config"]["data"]).stem
            ok = row["trusted"]
            mark = axis.scatter(
                row["measured"],
                row["predicted"],
                s=26,
                marker="o" if ok else "x",
                color=colours[names.index(name) % len(colours)],
                alpha=0.8,
            )
            shown[f"{name}, {'trusted' if ok else 'warned'}"] = mark
        axis.set(
            xscale="log",
            yscale="log",
            xlim=limit,
            ylim=limit,
            xlabel="measured steps",
            title=f"{kind}; grey: within {within:.0%}",
        )
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"predicted steps to within {SHOWN:g} of the end")
    if shown:
        order = sorted(shown)
        figure.legend(
            [shown[name] for name in order],
            order,
            loc="outside right upper",
            fontsize=7,
            frameon=False,
        )
    for suffix in ("png", "pdf"):
        figure.savefig(out / f"scatter.{suffix}", dpi=130)


def main(arguments: Arguments) -> None:
    """Make what is missing, then tables and figure."""
    records.require_writable(arguments.out)
    if arguments.preset != "table":
        presets = {"smoke": lambda data: smoke(), "embedded": embedded, "paper": paper}
        configs = presets[arguments.preset](arguments.data)
        for k, config in enumerate(configs):
            print(f"task {k + 1} of {len(configs)}", file=sys.stderr)
            run(config, arguments.out)
    found = [
        records.load(file.parent) for file in sorted(arguments.out.glob("*/record.json"))
    ]
    if not found:
        raise InputError(f"no records in {arguments.out}; run another preset first")
    (arguments.out / "README.md").write_text(summary(found))
    plot(found, arguments.out)
    print(summary(found))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
