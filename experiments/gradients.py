"""What gradients know of labels and features do not, and curves at one effective rate.

    python -m experiments.gradients paper --data data      four minutes, two cores
    python -m experiments.gradients smoke                  a minute

Zancato et al. (arXiv 2008.12478, Fig. 3): the pre-trained gradients of samples cluster by
class at least as well as their features; learning rates and momenta with the same
``eta/(1 - mu)`` give one curve. For every set of pictures the kernel of all trained weights
beside that of the features before the head: where the residual lies among the eigenvectors,
silhouette of the classes, label-gradient and label-feature correlation (Deshpande et al.,
arXiv 2102.00084), and an embedding of both in the plane (t-SNE, scikit-learn's).

Expect: the correlation of labels with gradients above that with features for the embedded
network on all five sets, at it or below for ResNet-50; silhouettes of features the higher
nearly everywhere; half and more of the residual among the first ten of some hundreds of
eigenvectors; the three curves at one effective rate within 2 % of each other in time.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness, scatter, scores
from ttp_jax import alignment, spectrum, study
from ttp_jax.kernel.choice import Kernel
from ttp_jax.kernel.classes import over_samples
from ttp_jax.records import Record

MODES = 60
"""Leading eigenvectors whose share of the residual is kept."""
EFFECTIVE_RATE = 1e-3
MOMENTA = (0.0, 0.5, 0.9)
SHOWN = "clothing10_128"
"""Whose embedding is drawn, where it is there."""


@dataclass(frozen=True)
class Clusters:
    """Kernel and features of one task."""

    data: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def _rates(**changes: Any) -> list[study.Config]:
    base = study.Config(rules=("within_of_final",), every=2)
    return [
        dataclasses.replace(base, lr=EFFECTIVE_RATE * (1 - mu), momentum=mu, **changes)
        for mu in MOMENTA
    ]


def smoke(data: Path) -> list[Clusters | study.Config]:
    """One small set and short runs."""
    return [
        Clusters("digits", {"per_class": 10}),
        *_rates(per_class=10, batch_size=10, epochs=4),
    ]


def paper(data: Path) -> list[Clusters | study.Config]:
    """Five sets under the embedded network, four under ResNet-50."""
    resnet50 = {
        "model": "resnet50",
        "weights": str(data / "weights/resnet50_keras_imagenet_f16.npz"),
        "image_size": 128,
        "freeze_until": "stage3",
        "per_class": 20,
    }
    of_set = [f"npz:{data / 'datasets' / name}.npz" for name in scatter.SETS]
    return [
        *_rates(),
        *(Clusters(source) for source in ("digits", *of_set)),
        *(Clusters(source, resnet50) for source in of_set),
    ]


def run(config: Clusters | study.Config, out: Path) -> None:
    """A real run beside its prediction, or the two kernels of a task."""
    if isinstance(config, study.Config):
        harness.studied("compare", config, out)
        return
    described = study.Config(data=config.data, **config.options)
    harness.once("clusters", described, out, lambda: make(described))


def make(config: study.Config) -> harness.Made:
    """Both kernels of a task, and what they say of its labels."""
    built = study.build(config)
    task = built.task
    f0 = np.asarray(task.apply_fn(task.params, task.x), np.float64)
    labels = np.asarray(task.y)
    found = {}
    for name, kernel in (
        ("gradients", Kernel()),
        ("features", Kernel(outputs="last_layer")),
    ):
        theta = kernel.compute(task.apply_fn, task.params, task.x)
        k = over_samples(theta, task.c)
        shares = alignment.residual_in_modes(spectrum.of_gram(theta), f0, task.targets)
        found[name] = {
            "silhouette": alignment.class_separation(k, labels),
            "label_correlation": alignment.label_correlation(k, labels),
            "residual": np.cumsum(shares)[:MODES],
            "plane": _embedding(k).round(3),
        }
    return harness.Made({"kernels": found, "labels": labels}, built.provenance)


def _embedding(k: np.ndarray) -> np.ndarray:
    """t-SNE ``[n, 2]`` of the directions of the gradients: their lengths say other things."""
    from sklearn.manifold import TSNE

    length = np.sqrt(np.maximum(np.diag(k), np.finfo(float).tiny))
    squared = np.maximum(2 - 2 * k / np.outer(length, length), 0.0)
    np.fill_diagonal(squared, 0.0)
    return TSNE(
        metric="precomputed", init="random", perplexity=min(30, len(k) / 4), random_state=0
    ).fit_transform(np.sqrt(squared))


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Embeddings, the residual among the eigenvectors, curves; and the scores as a table."""
    clusters = [r for r in found if "kernels" in r.result]
    rates = sorted(
        (r for r in found if "measured" in r.curves), key=lambda r: r.config["momentum"]
    )
    figure, axes = harness.canvas(10.5, 6.4, 2, 3)
    best = max(
        clusters,
        key=lambda r: (scores.pictures_of(r) == SHOWN, r.config["model"] == "resnet50"),
    )
    labels = np.asarray(best.result["labels"])
    for axis, name in zip(axes[0], ("gradients", "features"), strict=False):
        kernel = best.result["kernels"][name]
        plane = np.asarray(kernel["plane"])
        for k in np.unique(labels):
            axis.scatter(*plane[labels == k].T, s=9, color=harness.COLOURS[k])
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(
            f"{name}, {best.config['model']} on {scores.pictures_of(best)}\n"
            f"silhouette {kernel['silhouette']:.2f}",
            fontsize=9,
        )
    residual, bars, curves = axes[0, 2], axes[1, 0], axes[1, 1]
    rows, names = [], []
    for record in sorted(
        clusters, key=lambda r: (r.config["model"], scores.pictures_of(r))
    ):
        kernels = record.result["kernels"]
        name = f"{record.config['model']}, {scores.pictures_of(record).split('_')[0]}"
        names.append(name)
        gradients, features = kernels["gradients"], kernels["features"]
        residual.plot(
            np.arange(1, len(gradients["residual"]) + 1),
            gradients["residual"],
            color=harness.COLOURS[(len(names) - 1) % len(harness.COLOURS)],
            linestyle="-" if record.config["model"] == "embedded" else "--",
            label=name,
            linewidth=1.2,
        )
        rows.append(
            [
                name,
                *(f"{kernel['label_correlation']:.2f}" for kernel in (gradients, features)),
                *(f"{kernel['silhouette']:.2f}" for kernel in (gradients, features)),
                *(
                    f"{kernel['residual'][min(9, len(kernel['residual']) - 1)]:.0%}"
                    for kernel in (gradients, features)
                ),
            ]
        )
    residual.set(xscale="log", xlabel="leading eigenvectors", ylim=(0, 1.02))
    residual.set_ylabel("share of the first residual")
    at = np.arange(len(names))
    for shift, column, label in ((-0.2, 1, "gradients (LGC)"), (0.2, 2, "features (LFC)")):
        values = [float(row[column]) for row in rows]
        bars.barh(at + shift, values, 0.38, label=label, color=harness.COLOURS[column])
    bars.set_yticks(at, names, fontsize=7)
    bars.invert_yaxis()
    bars.set_xlabel("correlation with the labels")
    bars.legend(frameon=False, fontsize=7)
    for record, colour in zip(rates, harness.COLOURS, strict=False):
        real, predicted = record.curves["measured"], record.curves["predicted"]
        label = f"lr {record.config['lr']:g}, momentum {record.config['momentum']:g}"
        curves.plot(real.steps, real.loss, color=colour, label=label, linewidth=1.1)
        curves.plot(predicted.steps, predicted.loss, ":", color=colour, linewidth=1.4)
    curves.set(yscale="log", xlabel="step", ylabel="training loss")
    curves.set_title("lines real, dots predicted", fontsize=9)
    curves.legend(frameon=False, fontsize=7)
    axes[1, 2].axis("off")
    axes[1, 2].legend(
        *residual.get_legend_handles_labels(),
        loc="upper left",
        frameon=False,
        fontsize=8,
        title="above: residual of",
    )
    head = [
        "task",
        "LGC",
        "LFC",
        "silhouette of gradients",
        "of features",
        "residual in 10 modes of gradients",
        "of features",
    ]
    text = harness.table(head, rows)
    times = [
        [
            f"{r.config['lr']:g}",
            f"{r.config['momentum']:g}",
            *(
                str(scores.within_of_final(r.curves[s], 0.1))
                for s in ("measured", "predicted")
            ),
        ]
        for r in rates
    ]
    text += "\nSteps to within 10 % of the end at one effective rate:\n\n"
    text += harness.table(["lr", "momentum", "measured", "predicted"], times)
    return text, {"gradients": figure}


EXPERIMENT = harness.Experiment("gradients", {"smoke": smoke, "paper": paper}, run, draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
