"""AGENT on sparse networks: what a corrected gradient saves in steps, and what it costs.

    python -m experiments.agent paper --data data      two hours, one core
    python -m experiments.agent large --data data      twenty minutes
    python -m experiments.agent smoke                  half a minute
    python -m experiments.agent table                  from the records there are

Lei et al. (arXiv 2301.03573) report up to 52.1 % fewer epochs from correcting every mini-batch
gradient by that of the same batch at a snapshot, at 10 passes a sample and epoch where training
has 3. Here a network is masked at random, by random masks that stay or by RigL's, to 20, 10, 5
and 1 % of its weights, and trained three times by the same mini-batches: as it is, corrected by
AGENT's rule (gamma 0.1), and by alpha-SVRG (2311.05589, from 0.5 to 0). The rate is that of a
ladder under which the prediction of the uncorrected run, its first masks kept, ends lowest,
below the limit of stability, which costs no training: of a ladder that reaches near that
limit, and, of the first seed, of one that does not. Every run is predicted too. ``paper``: the
embedded network on sign-language digits, CIFAR-10 and clothes, three seeds; ``large``: CIFAR
ResNet-20 on clothes at 10 %.

Expect: AGENT takes as many steps as without it (0.84 to 1.20 times), alpha-SVRG 0.89 times as
many near the limit of stability (0.59 to 1.19) and 0.93 times far from it, and both cost 1.8 to
4 times the passes at every threshold. Ratios are predicted 0.02 to 0.14 off at the median, 0.45
at most, at 50 and 51 of 205 thresholds alone: the predicted curves fall with the real ones for
a third of the run and then flatten (masks that stay) or explode (RigL). In the one of these
that was looked into (sign-language digits, 10 %, the highest rate) the real network's kernel
shrinks within the first epochs, as it does where a rate is near the limit of stability; at the
predicted weights it has grown instead, past the limit. Linearised at every step the prediction
is the real run, at every fifth it is not. ResNet-20 does not learn.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness
from experiments.agent_tables import draw
from ttp_jax import outputs, study, trust
from ttp_jax.accelerators.corrected_path import corrected_segment
from ttp_jax.accelerators.correction import Agent, AlphaSvrg, Correction
from ttp_jax.accelerators.sparsity import Sparsity, density_of, operations_share
from ttp_jax.finetune import finetune
from ttp_jax.kernel.choice import Computed
from ttp_jax.linearisation import masked_prediction
from ttp_jax.optimizers import SGD
from ttp_jax.reading import read_steps
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.training.corrected import optimal_coefficient, passes
from ttp_jax.types import Curve, Task

CORRECTIONS: dict[str, Correction | None] = {
    "none": None,
    "agent": Agent(),
    "alpha_svrg": AlphaSvrg(),
}
EPSILONS = (0.4, 0.2, 0.1, 0.05)
"""Thresholds, as fractions of the initial loss."""
DENSITIES = (0.1, 0.2, 0.05, 0.01)
"""Shares of the weights that are left."""
GROW = ("never", "gradient")
"""Masks that stay, and RigL's."""
LOOKED_AT = (0.05, 0.5, 0.95)
"""Shares of the run at whose epochs the best coefficient is measured."""
EPOCHS_MEASURED = 5
"""Epochs whose batches it is measured over."""


BOLD, CALM = (tuple(2.0**k for k in range(count)) for count in (9, 6))
"""Rates over the task's own, up to 256 times and up to 32 times: near the limit of stability,
where there is noise to take away, and far from it, where predictions hold."""
BASE = study.Config(mend=0, held_out=20, epochs=60, batch_size=25, every=3, momentum=0.9)


@dataclass(frozen=True)
class Config:
    """A task, its masks, and the rates that may be chosen."""

    task: study.Config
    density: float
    grow: str
    """``never`` or ``gradient``."""
    every: int = 60
    ladder: tuple[float, ...] = BOLD
    """Rates over the task's own."""


def smoke(data: Path) -> list[Config]:
    """One small network on few pictures."""
    task = study.Config(
        mend=0,
        model="mlp", weights="random", image_size=8, per_class=6, held_out=4,
        batch_size=6, epochs=8, lr=1e-3, every=5,
    )  # fmt: skip
    return [Config(task, 0.1, "gradient", 12, (1.0, 4.0))]


def paper(data: Path) -> list[Config]:
    """The embedded network, one seed after the other; of the first at low rates as well."""
    tasks = [
        dataclasses.replace(BASE, data=f"npz:{data / 'datasets' / name}.npz", lr=1.5e-4)
        for name in ("signdigits10_100", "cifar10_jpeg32", "clothing10_128")
    ]
    bold = [
        Config(dataclasses.replace(task, seed=seed), density, grow)
        for seed in range(3)
        for density in DENSITIES
        for task in tasks
        for grow in GROW
    ]
    first = [config for config in bold if config.task.seed == 0]
    return bold + [dataclasses.replace(config, ladder=CALM) for config in first]


def large(data: Path) -> list[Config]:
    """CIFAR ResNet-20, which does not learn at that density."""
    resnet = dataclasses.replace(
        BASE,
        model="resnet20",
        weights=str(data / "weights/resnet20_cifar10.npz"),
        data=f"npz:{data / 'datasets/clothing10_128.npz'}",
        image_size=32,
        epochs=40,
        every=8,
        lr=2.5e-4,
    )
    return [Config(resnet, DENSITIES[0], grow) for grow in GROW]


def run(config: Config, out: Path) -> None:
    """Three runs on both sides, one record."""
    harness.once("agent", config, out, lambda: _made(config))


def _made(config: Config) -> harness.Made:
    built = study.build(config.task)
    assert isinstance(built.sgd, SGD)
    steps, seed = built.steps, config.task.seed
    sparsity = Sparsity(config.density, config.grow, every=config.every, seed=seed)  # pyright: ignore[reportArgumentType]
    # Predictions need no kernel of what is held out.
    task = dataclasses.replace(built.task, held_out=None)
    kernel = masked_prediction.kernel_at_the_start(
        task,
        sparsity,
        study.kernel_of(config.task),
        memory_budget_bytes=built.memory_budget_bytes,
    )
    rate, stability = _rate(config, task, built.sgd, sparsity, kernel, steps)
    sgd = dataclasses.replace(built.sgd, learning_rate=rate)
    _, masks = masked_prediction.start_of(task, sparsity)
    kept = _kept(task, sgd, steps)
    curves, runs = {}, {}
    for name, correction in CORRECTIONS.items():
        found = masked_prediction.along_masks(
            task,
            sgd,
            steps=steps,
            sparsity=sparsity,
            correction=correction,
            kernel=kernel,
            seed=seed,
        )
        read = read_steps(steps, built.every)
        at = found.curves[0].at(read)
        predicted = Curve(read, at.loss, at.accuracy, np.full(len(read), np.nan))
        measured = finetune(
            built.task,
            sgd,
            steps=steps,
            seed=seed,
            every=built.every,
            sparsity=sparsity,
            correction=correction,
            keep=kept if name == "agent" else (),
        )
        sides: dict[str, Any] = {"predicted": _told(predicted), "measured": _told(measured)}
        if correction is not None:
            sides["predicted"]["epochs"] = _thinned(found.epochs._asdict())
            sides["measured"]["epochs"] = _thinned(measured.epochs or {})
        if name == "agent" and measured.kept is not None:
            sides["measured"]["optimum"] = _optima(task, sgd, measured, kept, steps, seed)
        runs[name] = sides | {
            "kernels": found.kernels,
            "kernel_s": found.kernel_s,
            "gap": _number(max(found.gaps)),
            "passes": passes(steps, sgd.batch_size or task.n, task.n, correction=correction)
            / (3 * (sgd.batch_size or task.n) * steps),
        }
        curves[f"{name}_predicted"] = predicted
        curves[f"{name}_measured"] = dataclasses.replace(
            measured, kept=None, batch_loss=None
        )
    result = {
        "rate": rate,
        "stability": stability,
        "weights": density_of(masks),
        "operations_share": operations_share(task, masks),
        "steps": steps,
        "runs": runs,
    }
    return harness.Made(result, built.provenance, curves)


def _rate(
    config: Config,
    task: Task,
    sgd: SGD,
    sparsity: Sparsity,
    kernel: Computed,
    steps: int,
) -> tuple[float, float]:
    """The stable rate under which the first masks, kept, are predicted to end lowest."""
    w, _ = masked_prediction.start_of(task, sparsity)
    f0 = outputs.at_the_start(task.apply_fn, w, task.x)
    curvature = trust.largest_curvature(kernel.theta, f0, task.targets, loss=task.loss)
    ends = {}
    for factor in config.ladder:
        rate = factor * config.task.lr
        one = dataclasses.replace(sgd, learning_rate=rate)
        way = corrected_segment(
            kernel.theta,
            f0,
            task.targets,
            one,
            None,
            loss=task.loss,
            steps=steps,
            seed=config.task.seed,
        )
        loss = float(way.segment.curves[0].loss[-1])
        stability = one.stability(curvature, rate)
        ends[loss if stability < 1 and np.isfinite(loss) else np.inf] = rate, stability
    return ends[min(ends)]


def _kept(task: Task, sgd: SGD, steps: int) -> list[int]:
    """Ends of the epochs that are looked at, and of those before."""
    per_epoch = task.n // (sgd.batch_size or task.n)
    epochs = steps // per_epoch
    found = set()
    for share in LOOKED_AT:
        last = max(2, round(share * epochs))
        found |= {per_epoch * (last - 1), per_epoch * last}
    return sorted(found)


def _optima(
    task: Task, sgd: SGD, measured: Curve, kept: Sequence[int], steps: int, seed: int
) -> list[tuple[int, float | None]]:
    """The best coefficient at the end of some epochs, by the gradients of real weights."""
    assert measured.kept is not None
    per_epoch = task.n // (sgd.batch_size or task.n)
    weights = dict(zip(kept, measured.kept.weights, strict=False))
    batches = sgd.batches(task.n, EPOCHS_MEASURED * per_epoch, seed + 1)
    assert batches is not None
    return [
        (
            k // per_epoch,
            _number(optimal_coefficient(task, weights[k], weights[k - per_epoch], batches)),
        )
        for k in kept
        if k in weights and k - per_epoch in weights
    ]


def _told(curve: Curve) -> dict[str, Any]:
    """Steps to the thresholds, and the end."""
    held_out = curve.held_out
    return {
        "steps": {
            f"{epsilon:g}": time_to_threshold(curve, epsilon, "fraction_of_initial").steps
            for epsilon in EPSILONS
        },
        "loss": _number(curve.loss[-1]),
        "accuracy": _number(curve.accuracy[-1]),
        "held_out_loss": held_out and _number(held_out.loss[-1]),
        "held_out_accuracy": held_out and _number(held_out.accuracy[-1]),
        "train_s": curve.timings.get("train_s"),
    }


def _thinned(epochs: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    return {name: [_number(value) for value in values] for name, values in epochs.items()}


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


EXPERIMENT = harness.Experiment(
    "agent", {"smoke": smoke, "paper": paper, "large": large}, run, draw
)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
