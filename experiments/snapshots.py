"""Snapshot ensembles, restarts, SWA and FGE at one budget: predicted, run, and compared.

    python -m experiments.snapshots paper --data data      an hour, two cores
    python -m experiments.snapshots smoke                  a minute
    python -m experiments.snapshots table                  from the records there are

Huang et al. (arXiv 1704.00109) compare with a plain run that is not tuned and with short runs
of another schedule. Here the plain run has its rate and schedule from a ladder (and from single
cosine cycles at the peaks of the snapshots), by the loss on half of the held-out pictures;
everything has its budget of steps; restarts have the cosine cycle and the peak of the
snapshots; and what is told is read on the other half. Peaks are one and two times the plain
run's rate; the tails of SWA and FGE are at half of those. Of every method the setting (cycles,
peak, how many are averaged) is the one with the lowest loss on the first half. Every run is
predicted too, all from one kernel (a kernel more for each other head), and told at the same
settings. Four tasks (embedded network on sign-language digits and on CIFAR-10, an MLP from
random weights on digits, CIFAR ResNet-20 on clothes), three seeds.

The twelve runs of ``paper`` took an hour, three quarters of it beside other work.

Expect: SWA and FGE are the plain run over again (losses within 5 %, 1.00 times at the
median). The best snapshots have 0.74 to 1.05 times its loss, 1.00 at the median: they are
more than 2 % better on five tasks, of which ResNet-20 has three, and worse on one. Cycles at
the plain run's own rate gain nothing (1.00 to 1.01 times its loss), at twice that two have
0.97 times its loss. A single cosine cycle at either, chosen in the same way, is better on
three tasks. Restarts from the same weights are better on four and worse on three. Predicted
ratios of snapshots to the plain run are 4 % off at the median (1, 5, 5 and 20 % by network
and set, the MLP worst), but which way they fall is foreseen on 4 of 12 tasks alone. Real
snapshots are 2 times as far apart as linear ones at the median, and so are models of the
plain run itself; no pair of either has a barrier between.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import bench, harness
from experiments.bench import SIDES, Bench, Models, Side
from experiments.snapshot_tables import EPSILONS, NO_CYCLES, best, draw
from ttp_jax import outputs, schedules, study
from ttp_jax.accelerators import averaging, snapshot
from ttp_jax.accelerators.plan import Plan
from ttp_jax.prediction import predict
from ttp_jax.sampling import steps_per_epoch
from ttp_jax.thresholds import time_to_threshold

SWA_START, FGE_START = 0.75, 0.8
"""Shares of the budget after which the tails begin, as the papers have them."""
TAIL, VALLEY = 0.5, 0.01
"""Rate of a tail over the peak, and lowest rate of FGE over its highest."""
FGE_EPOCHS = 2


@dataclass(frozen=True)
class Config:
    """A task, and what is tried on it."""

    task: study.Config
    ladder: tuple[float, ...]
    """Rates of the plain run, over the task's own."""
    cycles: tuple[int, ...] = (1, 2, 4, 6)
    peaks: tuple[float, ...] = (1.0, 2.0)
    """Of the cycles, over the plain run's rate."""
    looked_at: int = 4
    """Cycles whose members are compared pair by pair, and restarted with other heads."""


BASE = study.Config(mend=0, held_out=40, epochs=60, batch_size=25, every=6, momentum=0.9)


def smoke(data: Path) -> list[Config]:
    """One small network on few pictures."""
    task = study.Config(
    mend=0,
        model="mlp", weights="random", image_size=8, per_class=6, held_out=8,
        batch_size=6, epochs=20, lr=1e-4, every=5,
    )  # fmt: skip
    return [Config(task, (1.0, 4.0), cycles=(1, 2), peaks=(1.0, 2.0), looked_at=2)]


def paper(data: Path) -> list[Config]:
    """Four tasks, three seeds; one seed after the other."""
    embedded = [
        dataclasses.replace(BASE, data=f"npz:{data / 'datasets' / name}.npz", lr=lr)
        for name, lr in (("signdigits10_100", 6e-4), ("cifar10_jpeg32", 1.5e-4))
    ]
    mlp = dataclasses.replace(
        BASE, model="mlp", weights="random", data="digits", image_size=8, lr=1.5e-4
    )
    resnet = dataclasses.replace(
        BASE,
        model="resnet20",
        weights=str(data / "weights/resnet20_cifar10.npz"),
        data=f"npz:{data / 'datasets/clothing10_128.npz'}",
        image_size=32,
        epochs=40,
        every=20,
        lr=2.5e-4,
    )
    ladder = (1.0, 2.0, 4.0, 8.0, 16.0)
    return [
        Config(dataclasses.replace(task, seed=seed), ladder)
        for seed in range(3)
        for task in (*embedded, mlp, resnet)
    ]


def run(config: Config, out: Path) -> None:
    """All methods on one task, one record."""
    harness.once("snapshots", config, out, lambda: _made(config))


def _made(config: Config) -> harness.Made:
    on = Bench(config.task)
    total = on.built.steps
    ladder = _ladder(config, on)
    chosen = best(ladder, "measured")
    rate = chosen["rate"]
    plain = _plain_rates(chosen["schedule"], rate, total)
    averaged: list[dict[str, Any]] = []
    apart: list[dict[str, Any]] = []
    times: list[dict[str, Any]] = []
    curves = {}

    def keep(
        method: str,
        peak: float,
        found: dict[Side, Models | None],
        *,
        look: bool = True,
        timed: bool = False,
    ) -> None:
        if all(models is None for models in found.values()):
            return
        common = {"method": method, "peak": peak}
        each = bench.averages(on.task, found)
        common["cycles"] = len(each)
        averaged.extend(
            {**common, "last": last, **sides} for last, sides in enumerate(each, start=1)
        )
        if look and len(each) > 1:
            apart.extend({**common, **sides} for sides in bench.pairs(on.task, found))
        if timed:
            times.append(common | {side: _steps_to(found[side]) for side in SIDES})

    def both(plan: Plan) -> dict[Side, Models | None]:
        return {side: on.run(side, plan) for side in SIDES}

    def restarted(
        plan: Plan, count: int, *, other_heads: bool
    ) -> dict[Side, Models | None]:
        return {
            side: on.restarts(side, plan, count, other_heads=other_heads) for side in SIDES
        }

    # Members of the plain run, taken where those of cycles would be.
    found = both(Plan(plain, schedules.cycle_ends(total, config.looked_at)))
    keep(NO_CYCLES, 1.0, found, timed=True)
    curves |= {f"plain_{side}": m.curve for side, m in found.items() if m is not None}
    for peak, count in itertools.product(config.peaks, config.cycles):
        found = both(snapshot.snapshots(peak * rate, total, count))
        look = count == config.looked_at
        keep("snapshots", peak, found, look=look, timed=True)
        if look:
            curves |= {
                f"snapshots_{peak:g}_{side}": m.curve
                for side, m in found.items()
                if m is not None
            }
        if count == 1:
            continue
        short = snapshot.restart(peak * rate, total, count)
        keep("restarts", peak, restarted(short, count, other_heads=False), look=look)
        if look:
            found = restarted(short, count, other_heads=True)
            keep("restarts, other heads", peak, found)
    epoch = steps_per_epoch(on.task.n, on.sgd.batch_size)
    for peak in config.peaks:
        tail = TAIL * peak * rate
        swa = averaging.stochastic_weight_averaging(
            plain, start=int(SWA_START * total), rate=tail, every=epoch
        )
        common = {"method": "SWA", "peak": peak, "cycles": len(swa.keep)}
        sides = {side: _mean_weights(on, side, swa) for side in SIDES}
        averaged.append({**common, "last": len(swa.keep), **sides})
        fge = averaging.fast_geometric(
            plain,
            start=int(FGE_START * total),
            high=tail,
            low=VALLEY * tail,
            period=2 * max(1, FGE_EPOCHS * epoch // 2),
        )
        keep("FGE", peak, both(fge))
    trust = predict(
        on.task,
        dataclasses.replace(on.sgd, learning_rate=plain),
        steps=total,
        mend=0,
        kernel=on.kernel,
        seed=config.task.seed,
        every=on.built.every,
    ).trust
    assert trust is not None
    return harness.Made(
        result={
            "ladder": ladder,
            "averaged": averaged,
            "apart": apart,
            "times": times,
            "trust": study.verdict(trust),
        },
        provenance=on.built.provenance,
        curves=curves,
    )


def _plain_rates(schedule: str, rate: float, steps: int) -> np.ndarray:
    return schedules.cosine(rate, steps) if schedule == "cosine" else np.full(steps, rate)


def _ladder(config: Config, on: Bench) -> list[dict[str, Any]]:
    """Plain runs by every rate and schedule."""
    total = on.built.steps
    found = []
    for schedule, factor in itertools.product(("constant", "cosine"), config.ladder):
        rate = factor * config.task.lr
        plan = Plan(_plain_rates(schedule, rate, total), np.array([total]))
        ends = {side: on.run(side, plan) for side in SIDES}
        sides = {
            side: bench.quality(on.task, None if end is None else end.outputs[0])
            for side, end in ends.items()
        }
        found.append({"schedule": schedule, "rate": rate, **sides})
    return found


def _mean_weights(on: Bench, side: Side, plan: Plan) -> dict[str, Any] | None:
    """Quality of SWA: of a linear model by the mean of its outputs."""
    models = on.run(side, plan)
    if models is None:
        return None
    f = models.outputs.mean(axis=0)
    if models.weights:
        mean = averaging.mean_weights(models.weights)
        f = outputs.forward(on.task.apply_fn, mean, on.task.joint.x)
    return bench.quality(on.task, f)


def _steps_to(models: Models | None) -> list[int | None]:
    """Steps to shares of the initial loss."""
    if models is None:
        return [None for _ in EPSILONS]
    return [
        time_to_threshold(models.curve, epsilon, "fraction_of_initial").steps
        for epsilon in EPSILONS
    ]


EXPERIMENT = harness.Experiment("snapshots", {"smoke": smoke, "paper": paper}, run, draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
