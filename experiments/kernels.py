"""Cheaper kernels: their error, what it does to the predicted time, and what they cost.

    python -m experiments.kernels paper --data data      an hour and a half, two cores
    python -m experiments.kernels smoke                  a minute

Random projections of per-sample gradients at several dimensions and seeds, and kernels that
keep less between outputs, against the exact kernel of the same task: relative error of the
matrix (Frobenius), and deviation of the predicted times from those of the exact kernel, with
the same mini-batches. No real training: what is scored is the kernel. Seconds are without
compilation.

Expect: errors falling as one over the root of the dimension; predicted times within 5 % of the
exact kernel's at 1,024 numbers a tensor by ``tensor_sketch``, ``count_sketch`` and, where it
is run, ``very_sparse``; ``kronecker`` 11 % off on two of three networks at no larger an error
of the matrix; ``tensor_sketch`` three to five times faster than the exact kernel,
``coordinates`` two to five times; one block for each output 6 to 14 % off, the last layer
alone far more.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from experiments import harness, scores
from ttp_jax import study
from ttp_jax.dynamics.simulate import simulate
from ttp_jax.kernel.choice import Kernel
from ttp_jax.kernel.classes import Outputs
from ttp_jax.kernel.sketch import Projection
from ttp_jax.optimizers import SGD
from ttp_jax.records import Record
from ttp_jax.types import Curve

EPSILONS = (0.4, 0.2, 0.1, 0.05)


@dataclass(frozen=True)
class Config:
    """A task, and the projections to try on it."""

    of: study.Config
    projections: tuple[Projection, ...] = get_args(Projection)
    dimensions: tuple[int, ...] = (64, 256, 1024)
    seeds: int = 3


def smoke(data: Path) -> list[Config]:
    """One small task."""
    of = study.Config(mend=0, per_class=6, batch_size=6, epochs=20)
    return [Config(of, dimensions=(16, 64), seeds=2)]


def paper(data: Path) -> list[Config]:
    """The embedded network, ResNet-20 whole, and the last stage of ResNet-50."""
    clothing = f"npz:{data / 'datasets' / 'clothing10_128'}.npz"
    return [
        Config(study.Config(mend=0)),
        Config(
            study.Config(
                mend=0,
                model="resnet20",
                weights=str(data / "weights/resnet20_cifar10.npz"),
                image_size=32,
                data=clothing,
                per_class=20,
                lr=5e-4,
            )
        ),
        Config(
            study.Config(
                mend=0,
                model="resnet50",
                weights=str(data / "weights/resnet50_keras_imagenet_f16.npz"),
                image_size=128,
                freeze_until="stage3",
                data=clothing,
                per_class=20,
                lr=1e-4,
            ),
            # Without very_sparse, whose entries are picked one by one from 15 M weights.
            projections=("kronecker", "coordinates", "count_sketch", "tensor_sketch"),
        ),
    ]


def run(config: Config, out: Path) -> None:
    """One task."""
    harness.once("kernels", config, out, lambda: make(config))


def make(config: Config) -> harness.Made:
    """The exact kernel, then every other against it."""
    built = study.build(config.of)
    task = built.task
    f0 = np.asarray(task.apply_fn(task.params, task.x), np.float64)
    stream = {"loss": task.loss, "steps": built.steps, "seed": config.of.seed}

    def curve_of(theta: np.ndarray) -> Curve:
        assert isinstance(built.sgd, SGD)
        path = simulate(theta, f0, task.targets, built.sgd, **stream)
        steps = np.arange(built.steps + 1)
        return Curve(steps, path.loss, path.accuracy, 1.0 * steps)

    compiled: set[tuple] = set()

    def timed(kernel: Kernel) -> tuple[np.ndarray, float]:
        program = (kernel.name, kernel.outputs, kernel.dimension)
        if program not in compiled:
            kernel.compute(task.apply_fn, task.params, task.x)
            compiled.add(program)
        start = time.perf_counter()
        theta = kernel.compute(task.apply_fn, task.params, task.x)
        return theta, time.perf_counter() - start

    exact, exact_s = timed(Kernel())
    reference = _times(curve_of(exact))
    entries = []
    kernels = [
        *(Kernel(outputs=words) for words in get_args(Outputs) if words != "full"),
        *(
            Kernel(name, "full", dimension, seed)
            for name in config.projections
            for dimension in config.dimensions
            for seed in range(config.seeds)
        ),
    ]
    for kernel in kernels:
        theta, seconds = timed(kernel)
        entries.append(
            {
                **dataclasses.asdict(kernel),
                "error": float(np.linalg.norm(theta - exact) / np.linalg.norm(exact)),
                "times": _times(curve_of(theta)),
                "seconds": seconds,
            }
        )
    return harness.Made(
        result={"exact": {"times": reference, "seconds": exact_s}, "kernels": entries},
        provenance=built.provenance,
        config=dataclasses.asdict(config.of),
    )


def _times(curve: Curve) -> dict[str, int | None]:
    return {str(e): scores.within_of_final(curve, e) for e in EPSILONS}


def deviation(entry: dict[str, Any], exact: dict[str, Any]) -> float:
    """Largest relative deviation of a predicted time from the exact kernel's."""
    found = [
        scores.relative_error(entry["times"][e], t) for e, t in exact["times"].items() if t
    ]
    return max(found) if found else np.nan


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Error and deviation over dimension, a column a task; and all of it as a table."""
    order = {"embedded": 0, "resnet20": 1, "resnet50": 2}
    found = sorted(found, key=lambda r: order.get(r.config["model"], 3))
    figure, axes = harness.canvas(3.4 * len(found), 5.6, 2, len(found), sharex=True)
    rows = []
    for column, record in enumerate(found):
        exact, entries = record.result["exact"], record.result["kernels"]
        network = record.config["model"]
        for name, colour in zip(get_args(Projection), harness.COLOURS, strict=False):
            points = []
            of_name = [e for e in entries if e["name"] == name]
            if not of_name:
                continue
            for dimension in sorted({e["dimension"] for e in of_name}):
                chosen = [e for e in of_name if e["dimension"] == dimension]
                error = float(np.mean([e["error"] for e in chosen]))
                off = [deviation(e, exact) for e in chosen]
                seconds = min(e["seconds"] for e in chosen)
                points.append((dimension, error, float(np.median(off))))
                rows.append(
                    [
                        network,
                        name.replace("_", " "),
                        str(dimension),
                        f"{error:.1%}",
                        f"{np.median(off):.1%} ({max(off):.1%})",
                        f"{exact['seconds'] / seconds:.1f}",
                    ]
                )
            at, error, off = np.array(points).T
            label = name.replace("_", " ")
            axes[0, column].plot(at, error, "o-", color=colour, label=label, markersize=4)
            axes[1, column].plot(at, off, "o-", color=colour, markersize=4)
        for entry in entries:
            if entry["outputs"] != "full":
                rows.append(
                    [
                        network,
                        entry["outputs"].replace("_", " "),
                        "-",
                        f"{entry['error']:.1%}",
                        f"{deviation(entry, exact):.1%}",
                        f"{exact['seconds'] / entry['seconds']:.1f}",
                    ]
                )
        dimensions = np.array(
            sorted({e["dimension"] for e in entries if e["name"] != "exact"})
        )
        scale = np.mean([e["error"] for e in entries if e["dimension"] == dimensions[0]])
        axes[0, column].plot(
            dimensions, scale * (dimensions / dimensions[0]) ** -0.5, ":", color="0.5"
        )
        axes[0, column].set(xscale="log", yscale="log", title=network)
        axes[1, column].set(xscale="log", xlabel="numbers a tensor")
        axes[1, column].axhline(0.02, color="0.6", linewidth=0.8)
        axes[1, column].set_ylim(0, None)
    axes[0, 0].set_ylabel("error of the kernel\n(dots: 1/sqrt(dimension))")
    axes[1, 0].set_ylabel("largest deviation of a\npredicted time")
    axes[0, 0].legend(frameon=False, fontsize=7)
    head = [
        "network",
        "kernel",
        "dimension",
        "error",
        "largest deviation of a predicted time: median over seeds (worst)",
        "times faster than exact",
    ]
    return harness.table(head, rows), {"kernels": figure}


EXPERIMENT = harness.Experiment("kernels", {"smoke": smoke, "paper": paper}, run, draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
