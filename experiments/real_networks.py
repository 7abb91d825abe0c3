"""Predicted against measured time to threshold, on real networks and real pictures.

    python experiments/real_networks.py paper --data data      an hour and a half, two cores
    python experiments/real_networks.py smoke                  half a minute

``--data`` is a folder with ``weights/`` and ``datasets/`` as the tests know it: CIFAR
ResNet-20 (all layers trained, 32 px) and ImageNet ResNet-50 (last stage and head trained,
128 px), fine-tuned on 5 classes x 40 and x 20 pictures of two sets of photographs, under both
losses at two learning rates. A record that is there is not made again. Writes the table
``results/real_networks/README.md`` and the figure beside it.

Expect: ResNet-50 under cross-entropy within 25 % at 23 of 24 thresholds; ResNet-20 early by up
to 83 %; MSE at the higher rate unstable; all of these warned against, also those that are
right; one run of ResNet-20 under MSE at the lower rate trusted and wrong.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from ttp_jax import study
from ttp_jax.records import Record, load
from ttp_jax.report import table
from ttp_jax.types import InputError

RESULTS = Path("results/real_networks")
COMMON = study.Config(
    per_class=40,
    batch_size=25,
    momentum=0.9,
    epochs=30,
    every=2,
    epsilon=(0.4, 0.2, 0.1),
    rules=("within_of_final", "fraction_of_initial"),
)


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    preset: tyro.conf.Positional[Literal["smoke", "paper", "table"]]
    """smoke: the embedded network, briefly; paper: all; table: from the records alone."""
    data: Path = Path("data")
    """Folder with weights/ and datasets/."""
    out: Path = RESULTS
    """Folder of records."""
    only: Literal["resnet20", "resnet50"] | None = None
    """Run only this network; the table is of all records there are."""


def smoke() -> list[study.Config]:
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


def summary(records: Sequence[Record]) -> str:
    """The records as a table in Markdown: predicted / measured steps and the error."""
    thresholds = [
        f"{'within ' if entry['rule'] == 'within_of_final' else 'loss to '}{entry['epsilon']:g}"
        for entry in records[0].result["thresholds"]
    ]
    head = ["network", "pictures", "loss", "lr", *thresholds, "cost", "trust"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for record in records:
        config, result = record.config, record.result
        cells = [
            config["model"],
            Path(str(config["data"])).name.split("_")[0],
            config["loss"],
            f"{config['lr']:g}",
            *(_cell(entry) for entry in result["thresholds"]),
            f"{result['cost']['ratio']:.1f}x",
            ("yes" if result["trust"]["ok"] else "**no**")
            + f" {result['trust']['score']:.2f}",
        ]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _cell(entry: dict) -> str:
    def side(name: str) -> str:
        steps = entry[f"{name}_steps"]
        return "never" if steps is None else str(steps)

    error = entry["relative_error"]
    told = "" if error is None else f" ({error:.0%})"
    return f"{side('predicted')} / {side('measured')}{told}"


def plot(records: Sequence[Record], file: Path) -> None:
    """Predicted against measured steps, one mark a threshold, by network and trust."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
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
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=130)


def main(arguments: Arguments) -> None:
    """Make what is missing, then table and figure."""
    if arguments.preset != "table":
        configs = smoke() if arguments.preset == "smoke" else paper(arguments.data)
        for config in configs:
            if arguments.only not in (None, config.model):
                continue
            record, _ = study.run("compare", config, out=arguments.out)
            print("\n".join(table.cost_lines(record)), file=sys.stderr)
    records = [load(file.parent) for file in sorted(arguments.out.glob("*/record.json"))]
    if not records:
        raise InputError(
            f"no records in {arguments.out}; run the preset paper or smoke first"
        )
    records.sort(
        key=lambda r: (
            r.config["model"],
            r.config["data"],
            r.config["loss"],
            r.config["lr"],
        )
    )
    (arguments.out / "README.md").write_text(summary(records))
    plot(records, arguments.out / "real_networks.png")
    print(summary(records))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
