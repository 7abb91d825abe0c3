"""A few real steps before the linearisation: accuracy gained and cost paid.

    python -m experiments.calibration paper --data data      twenty minutes, two cores
    python -m experiments.calibration smoke                  a minute

One real run a task; predictions that take its first ``k`` steps for real, linearise there,
carry the momentum over and predict the rest. The tasks are some where one linearisation at
the start is far off: the embedded network and CIFAR ResNet-20 trained whole.

Expect (median error of the thresholds that are still ahead, two seeds): without real steps 25 %
(embedded network, digits), 43 % (clothes), 46 % (ResNet-20, clothes) and 54 % (flowers); after
10 steps 6, 36, 26 and 29 %, after 50 none left, 27, 9 and 19 %. Not always the better the more
steps: fewer thresholds, and the harder ones, are left. The whole costs 26 or 32 % of training's
operations without real steps, 53 or 84 % with 50 (of 360 and 160 steps).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import harness, scores
from ttp_jax import study
from ttp_jax.records import Record

STEPS = (0, 5, 10, 20, 50)
EPSILONS = (0.4, 0.2, 0.1)
BASE = study.Config(mend=0, rules=("within_of_final",), epsilon=EPSILONS, every=2)


def smoke(data: Path) -> list[study.Config]:
    """One short run."""
    return [dataclasses.replace(BASE, per_class=6, batch_size=6, epochs=12, lr=3e-4)]


def paper(data: Path) -> list[study.Config]:
    """Two networks trained whole, two sets each, two seeds."""
    return bent_tasks(data, seeds=2)


def bent_tasks(data: Path, *, seeds: int) -> list[study.Config]:
    """Tasks that leave one linearisation, one seed after the other."""
    resnet20 = {
        "model": "resnet20",
        "weights": str(data / "weights/resnet20_cifar10.npz"),
        "image_size": 32,
        "per_class": 20,
        "epochs": 40,
        "lr": 1e-3,
    }
    embedded = {"freeze_until": "none", "lr": 5e-4}
    sets = {
        name: f"npz:{data / 'datasets' / name}.npz"
        for name in ("clothing10_128", "flowers5_128")
    }
    return [
        dataclasses.replace(BASE, data=source, seed=seed, **network)
        for seed in range(seeds)
        for network, sources in (
            (embedded, ("digits", sets["clothing10_128"])),
            (resnet20, (sets["clothing10_128"], sets["flowers5_128"])),
        )
        for source in sources
    ]


def run(config: study.Config, out: Path) -> None:
    """The real run beside the prediction without steps; then those with."""
    harness.studied("compare", config, out)
    for k in (k for k in STEPS[1:] if k < 50 or config.epochs > 20):
        harness.studied("predict", dataclasses.replace(config, calibrate_steps=k), out)


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Error and cost over ``k`` by task, and both as a table."""
    by_task = harness.by_task(
        found, ["calibrate_steps"], lambda config: config["calibrate_steps"]
    )
    named: dict[str, list[dict[int, Record]]] = {}
    for of_task in by_task:
        config = of_task[0].config
        name = f"{config['model']}, {scores.pictures_of(of_task[0]).split('_')[0]}"
        named.setdefault(name, []).append(of_task)
    figure, axes = harness.canvas(9, 3.6, 1, 2)
    rows = []
    for colour, name in zip(harness.COLOURS, sorted(named), strict=False):
        points = []
        for k in STEPS:
            errors, shares = [], []
            for of_task in (t for t in named[name] if k in t):
                real = of_task[0].curves["measured"]
                predicted = of_task[k].curves["predicted"]
                for epsilon in EPSILONS:
                    asked = scores.within_of_final(real, epsilon)
                    said = scores.within_of_final(predicted, epsilon)
                    # What the real steps have seen is no prediction.
                    if asked and asked > k:
                        errors.append(scores.relative_error(said, asked))
                shares.append(predicted.flops / real.flops)
            if not shares:
                continue
            middle = float(np.quantile(errors, 0.5, method="higher")) if errors else np.nan
            points.append((k, middle, np.median(shares)))
            rows.append(
                [
                    name,
                    str(k),
                    str(len(errors)),
                    harness.percent(middle),
                    harness.percent(max(errors, default=np.nan)),
                    f"{np.median(shares):.0%}",
                ]
            )
        at, error, share = np.array(points).T
        axes[0, 0].plot(at, error, "o-", color=colour, label=name, markersize=4)
        axes[0, 1].plot(at, share, "o-", color=colour, markersize=4)
    axes[0, 0].set(xlabel="real steps first, k", ylabel="median error of the times left")
    axes[0, 0].set_ylim(0, None)
    axes[0, 1].set(xlabel="real steps first, k", ylabel="operations / those of training")
    axes[0, 1].set_ylim(0, None)
    axes[0, 0].legend(frameon=False, fontsize=8)
    head = ["task", "k", "thresholds", "median error", "largest", "operations / training"]
    return harness.table(head, rows), {"calibration": figure}


EXPERIMENT = harness.Experiment("calibration", {"smoke": smoke, "paper": paper}, run, draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
