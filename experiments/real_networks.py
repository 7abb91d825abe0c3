"""Predicted against measured time to threshold, on real networks and real pictures.

    python -m experiments.real_networks paper --data data      an hour and a half, two cores
    python -m experiments.real_networks smoke                  half a minute

``--data`` is a folder with ``weights/`` and ``datasets/`` as the tests know it: CIFAR
ResNet-20 (all layers trained, 32 px) and ImageNet ResNet-50 (last stage and head trained,
128 px), fine-tuned on 5 classes x 40 and x 20 pictures of two sets of photographs, under both
losses at two learning rates.

Expect: ResNet-50 under cross-entropy within 25 % at 23 of 24 thresholds; ResNet-20 early by up
to 83 %; MSE at the higher rate unstable; all of these warned against, also those that are
right; one run of ResNet-20 under MSE at the lower rate trusted and wrong.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import harness
from ttp_jax import study
from ttp_jax.records import Record
from ttp_jax.report import table

COMMON = study.Config(
    mend=0,
    per_class=40,
    batch_size=25,
    momentum=0.9,
    epochs=30,
    every=2,
    epsilon=(0.4, 0.2, 0.1),
    rules=("within_of_final", "fraction_of_initial"),
)


def smoke(data: Path) -> list[study.Config]:
    """Two short runs of what comes with the package."""
    small = dataclasses.replace(COMMON, per_class=5, batch_size=5, epochs=2)
    return [dataclasses.replace(small, loss=loss) for loss in ("cross_entropy", "mse")]


def paper(data: Path) -> list[study.Config]:
    """Two networks x two data sets x two losses x two learning rates."""
    networks = {
        "resnet20": {
            "weights": str(data / "weights/resnet20_cifar10.npz"),
            "image_size": 32,
            "rates": {"cross_entropy": (5e-4, 2e-3), "mse": (5e-4, 2e-3)},
        },
        "resnet50": {
            "weights": str(data / "weights/resnet50_keras_imagenet_f16.npz"),
            "image_size": 128,
            "freeze_until": "stage3",
            "per_class": 20,
            "epochs": 40,
            "rates": {"cross_entropy": (1e-4, 1e-3), "mse": (3e-5, 1e-3)},
        },
    }
    configs = []
    for model, options in networks.items():
        rates = options.pop("rates")
        for loss, of_loss in rates.items():
            for pictures in ("clothing10", "flowers5"):
                source = f"npz:{data / 'datasets' / pictures}_128.npz"
                configs += [
                    dataclasses.replace(
                        COMMON, model=model, data=source, loss=loss, lr=lr, **options
                    )
                    for lr in of_loss
                ]
    return configs


def run(config: study.Config, out: Path) -> None:
    """One comparison."""
    record, _ = harness.studied("compare", config, out)
    print("\n".join(table.cost_lines(record)), file=sys.stderr)


def summary(records: Sequence[Record]) -> str:
    """The records as a table in Markdown: predicted / measured steps and the error."""
    thresholds = [
        f"{'within ' if entry['rule'] == 'within_of_final' else 'loss to '}{entry['epsilon']:g}"
        for entry in records[0].result["thresholds"]
    ]
    rows = []
    for record in records:
        config, result = record.config, record.result
        rows.append(
            [
                config["model"],
                Path(str(config["data"])).name.split("_")[0],
                config["loss"],
                f"{config['lr']:g}",
                *(_cell(entry) for entry in result["thresholds"]),
                f"{result['cost']['ratio']:.1f}x",
                ("yes" if result["trust"]["ok"] else "**no**")
                + f" {result['trust']['score']:.2f}",
            ]
        )
    head = ["network", "pictures", "loss", "lr", *thresholds, "cost", "trust"]
    return harness.table(head, rows)


def _cell(entry: dict) -> str:
    def side(name: str) -> str:
        steps = entry[f"{name}_steps"]
        return "never" if steps is None else str(steps)

    error = entry["relative_error"]
    told = "" if error is None else f" ({error:.0%})"
    return f"{side('predicted')} / {side('measured')}{told}"


def draw(records: Sequence[Record]) -> harness.Drawing:
    """The table, and predicted against measured steps, one mark a threshold."""
    keys = ("model", "data", "loss", "lr")
    records = sorted(records, key=lambda record: tuple(record.config[key] for key in keys))
    figure, axes = harness.canvas(5.2, 4.6)
    axis = axes[0, 0]
    colours = {"resnet20": "#e09f3e", "resnet50": "#1d3557", "embedded": "#2a9d8f"}
    limit = np.array([1.5, 400.0])
    axis.plot(limit, limit, color="0.6", linewidth=1)
    axis.fill_between(limit, limit * 0.8, limit * 1.2, color="0.92", label="within 20 %")
    shown = set()
    for record in records:
        model, trusted = record.config["model"], record.result["trust"]["ok"]
        pairs = [
            (entry["measured_steps"], entry["predicted_steps"])
            for entry in record.result["thresholds"]
            if entry["relative_error"] is not None and entry["measured_steps"]
        ]
        if not pairs:
            continue
        label = f"{model}, {'trusted' if trusted else 'warned against'}"
        axis.scatter(
            *np.array(pairs).T,
            s=22,
            marker="o" if trusted else "x",
            color=colours[model],
            label=None if label in shown else label,
            alpha=0.8,
        )
        shown.add(label)
    axis.set(
        xscale="log",
        yscale="log",
        xlim=limit,
        ylim=limit,
        xlabel="measured steps to threshold",
        ylabel="predicted steps",
    )
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return summary(records), {"real_networks": figure}


EXPERIMENT = harness.Experiment(
    "real_networks", {"smoke": smoke, "paper": paper}, run, draw
)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
