"""Training on augmented pictures, predicted from a few views of each, and run for real.

    python -m experiments.augmentation paper --data data      half an hour, two busy cores
    python -m experiments.augmentation smoke                  a minute

The embedded network on three sets of pictures, 5 classes x 16, batches of 20, 40 epochs, three
seeds. Every epoch of the real run sees every picture anew: moved by up to 3 pixels and, except
for digits, mirrored. The prediction knows the batches, and of the views the first four, two or
one of each picture (:mod:`ttp_jax.linearisation.augmented_prediction`). Beside it stands the
prediction of training without augmentation, which is what ignoring it would say. Errors are
those of the time to within 10 % of the initial loss of the end, and to 0.5 and 0.2 of the
initial loss, all on the pictures as they are.

Expect, at the median of nine tasks: the time to within 10 % of the end is off by 6, 6 and 27 %
with four, two and one view (20, 15 and 38 % on sign-language digits, the worst set), the loss
at the end by 8, 5 and 18 %. Ignoring augmentation they are 27 and 147 % off, and trusted. With
four views digits are warned against in two of three tasks where nothing is wrong: the doubt is
of the loss, which is small there.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments import harness, scores
from ttp_jax import study
from ttp_jax.records import Record
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve, ThresholdRule

READ: dict[str, tuple[ThresholdRule, float]] = {
    "within 10 % of the end": ("within_of_final", 0.1),
    "to 0.5": ("fraction_of_initial", 0.5),
    "to 0.2": ("fraction_of_initial", 0.2),
}
BASE = study.Config(
    per_class=16,
    batch_size=20,
    epochs=40,
    held_out=10,
    lr=1e-3,
    shift=3,
    epsilon=(0.5, 0.2, 0.1),
    rules=("within_of_final", "fraction_of_initial"),
    every=4,
)
MIRRORED = ("signdigits10_100", "cifar10_jpeg32")
VIEWS = (1, 2, 4)
IGNORED = "ignored"
"""Of the prediction without augmentation."""
VARIED = ("views", "flip", "shift")
"""Options in which the records of one task differ."""


def smoke(data: Path) -> list[study.Config]:
    """One task."""
    small = dataclasses.replace(BASE, per_class=5, batch_size=5, epochs=4, held_out=2)
    return _predicted_by([small])


def paper(data: Path) -> list[study.Config]:
    """Three sets x three seeds."""
    sources = {"digits": "digits"}
    sources |= {name: f"npz:{data / 'datasets' / name}.npz" for name in MIRRORED}
    return _predicted_by(
        [
            dataclasses.replace(BASE, data=source, flip=name in MIRRORED, seed=seed)
            for seed in range(3)
            for name, source in sources.items()
        ]
    )


def _predicted_by(tasks: Sequence[study.Config]) -> list[study.Config]:
    """Each task by so many views, and without augmentation."""
    return [
        config
        for task in tasks
        for config in (
            *(dataclasses.replace(task, views=views) for views in reversed(VIEWS)),
            dataclasses.replace(task, flip=False, shift=0),
        )
    ]


def run(config: study.Config, out: Path) -> None:
    """The real run beside the prediction by most views; the other predictions alone."""
    first = config.views == max(VIEWS) and config.shift > 0
    harness.studied("compare" if first else "predict", config, out)


def name_of(config: Mapping) -> int | str:
    """What a prediction is made from."""
    return config["views"] if config["shift"] else IGNORED


def steps_to(curve: Curve, name: str) -> int | None:
    """A time of a curve."""
    rule, epsilon = READ[name]
    return time_to_threshold(curve, epsilon, rule).steps


def error(curve: Curve, real: Curve, name: str) -> float:
    """Relative error of a time; NaN where the real run does not get there."""
    measured = steps_to(real, name)
    return scores.relative_error(steps_to(curve, name), measured) if measured else np.nan


def median(errors: Sequence[float]) -> float:
    """Of the errors there are; infinite where most name no time."""
    there = [value for value in errors if not np.isnan(value)]
    return float(np.quantile(there, 0.5, method="higher")) if there else np.nan


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Errors by set and number of views; curves of one seed."""
    tasks = [
        task
        for task in harness.by_task(found, VARIED, name_of)
        if "measured" in task[max(VIEWS)].curves
    ]
    parts: dict[str, list[dict]] = {}
    for task in tasks:
        parts.setdefault(scores.pictures_of(task[max(VIEWS)]), []).append(task)
    rows = [
        _row(pictures, of_set, by)
        for pictures, of_set in [*sorted(parts.items()), ("all", tasks)]
        for by in (*reversed(VIEWS), IGNORED)
    ]
    text = harness.table(
        ["pictures", "prediction", "runs", *READ, "loss at the end", "score", "trusted"],
        rows,
    )
    shown = [of_set[0] for _, of_set in sorted(parts.items())]
    figure, axes = harness.canvas(3.4 * len(shown), 3, 1, len(shown))
    for axis, task in zip(axes[0], shown, strict=True):
        whole = task[max(VIEWS)]
        lines = {
            "measured": (whole.curves["measured"], "-"),
            f"predicted, {max(VIEWS)} views": (whole.curves["predicted"], "--"),
            "predicted, 1 view": (task[1].curves["predicted"], ":"),
            "augmentation ignored": (task[IGNORED].curves["predicted"], "-."),
        }
        plot_losses(axis, lines, scores.pictures_of(whole))
    axes[0, 0].set_ylabel("training loss")
    axes[0, 0].legend(frameon=False, fontsize=7)
    return text, {"augmentation": figure}


def plot_losses(axis, lines: Mapping[str, tuple[Curve, str]], title: str) -> None:
    """Curves by label, each in its style."""
    for colour, (label, (curve, style)) in zip(
        harness.COLOURS, lines.items(), strict=False
    ):
        axis.plot(curve.steps, curve.loss, style, color=colour, label=label, linewidth=1.2)
    axis.set(yscale="log", xlabel="step", title=title)


def _row(pictures: str, tasks: Sequence[dict], by: int | str) -> list[str]:
    pairs = [
        (task[by], task[max(VIEWS)].curves["measured"]) for task in tasks if by in task
    ]
    verdicts = [record.result["trust"] for record, _ in pairs]
    ends = [
        abs(float(np.log(record.curves["predicted"].loss[-1] / real.loss[-1])))
        for record, real in pairs
    ]
    return [
        pictures,
        "augmentation ignored" if by == IGNORED else f"{by} views",
        str(len(pairs)),
        *(
            harness.percent(
                median([error(r.curves["predicted"], real, name) for r, real in pairs])
            )
            for name in READ
        ),
        harness.percent(float(np.expm1(np.median(ends)))),
        f"{np.median([verdict['score'] for verdict in verdicts]):.2f}",
        str(sum(verdict["ok"] for verdict in verdicts)),
    ]


EXPERIMENT = harness.Experiment(
    "augmentation", {"smoke": smoke, "paper": paper}, run=run, draw=draw
)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
