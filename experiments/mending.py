"""One kernel mended along the path: how wrong are its times, and does it know?

    python -m experiments.mending paper --data data      an hour, two cores
    python -m experiments.mending smoke                  a minute

Tasks that other experiments have really trained are predicted again, with up to four mends
(:mod:`ttp_jax.linearisation.mending`), by either clock between two of them
(:mod:`ttp_jax.linearisation.path_clock`); the curves after fewer come with it. Of every
threshold: its time after so many mends beside the real one. The law of
:data:`ttp_jax.chances.MENDED` is fitted to the times after as many mends as there are by
default, and scored on data sets and networks left out of the fit. What counts as wrong is what
:mod:`experiments.trust` says.

Expect (124 tasks): of the times of the embedded network 16 % are off by more than a fifth
after one linearisation and 4 % after four mends (medians 10 and 3 %), of the last stage of
ResNet-50 48 and 30 % (20 and 17 %), of ResNet-20 trained whole 85 and 49 % (49 and 20 %), 14
of those 33 being times that one side alone gets to, most of them past the limit of stability.
A single mend does not help the large networks. With the clock of both ends it is 3, 25 and 51
%. The law tells wrong times from right ones with an AUROC of 0.8 (0.84 and 0.86 among those
of one data set or network that was left out).
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from experiments import frontier, harness, trust
from ttp_jax import chances, outputs, records, study
from ttp_jax.kernel.choice import Kernel
from ttp_jax.linearisation import calibration, mending
from ttp_jax.records import Record
from ttp_jax.trust import largest_curvature

MOST = 4


@dataclass(frozen=True)
class Again:
    """A task that was trained before."""

    source: str
    """Experiment and record, below ``results/``."""


KINDS: dict[mending.Clock, str] = {"start": "mending", "both": "clocked"}
"""What records are called, by the clock between two mends."""


def smoke(data: Path) -> list[Again]:
    """Two small tasks that need no data."""
    return [Again(again.source) for again in trust.smoke(data)]


def paper(data: Path) -> list[Again]:
    """All that :mod:`experiments.trust` has, small networks and large ones in turn."""
    found = [Again(again.source) for again in trust.paper(data)]
    models = [
        records.load(harness.RESULTS / again.source).config["model"] for again in found
    ]
    large = [
        again for again, model in zip(found, models, strict=True) if model != "embedded"
    ]
    small = [
        again for again, model in zip(found, models, strict=True) if model == "embedded"
    ]
    mixed = itertools.zip_longest(small[::4], small[1::4], large, small[2::4], small[3::4])
    return [again for group in mixed for again in group if again is not None]


def run(config: Again, out: Path) -> None:
    """Predictions with many mends, and their times after each beside those of the real run."""
    for clock, kind in KINDS.items():
        harness.once(kind, config, out, partial(_made, config, clock))


_KERNELS = study.Kernels(kept=4)


def _made(again: Again, clock: mending.Clock) -> harness.Made:
    record = records.load(harness.RESULTS / again.source)
    config, real = frontier.config_of(record), record.curves["measured"]
    built = study.build(config)
    task, sgd = built.task, built.sgd
    assert not isinstance(sgd, study.Adam)
    f0 = outputs.at_the_start(task.apply_fn, task.params, task.joint.x)
    theta = _KERNELS.of(built, Kernel(seed=config.seed)).theta[: task.n * task.c]
    found = mending.mended(
        task,
        sgd,
        calibration.at_the_start(task),
        theta,
        f0,
        steps=built.steps,
        mends=MOST,
        clock=clock,
        seed=config.seed,
    )
    curves = [look.linear for look in found.looks] + [found.curves[0].loss]
    curvature = largest_curvature(
        theta[:, : task.n * task.c], f0[: task.n], task.targets, loss=task.loss
    )
    result = {
        "asked": trust.times_of(real.loss, real),
        "said": [trust.times_of(loss[real.steps], real) for loss in curves],
        "steps": built.steps,
        "every": int(real.steps[1]),
        "stability": sgd.stability(curvature, float(sgd.learning_rates(built.steps).max())),
        "looks": [
            {
                "step": look.step,
                "gap": _finite(look.gap),
                "loss": _finite(look.loss_ratio),
                "speed": _finite(look.speed),
            }
            for look in found.looks
        ],
        "falls": [_finite(loss[-1] / loss[0]) for loss in curves],
        "network": config.model,
        "pictures": trust.pictures_of(config),
        "forward_flops": outputs.forward_flops(task.apply_fn, task.params, task.x),
        "passes": found.passes,
        "batch_size": sgd.batch_size or task.n,
        "n": task.n,
    }
    return harness.Made(result, built.provenance)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


@dataclass(frozen=True)
class Times:
    """One threshold of one task after so many mends."""

    network: str
    pictures: str
    error: float
    """Infinite where only one side gets there."""
    features: dict[str, float]
    """None of a time that is not named."""
    off: float
    """From :func:`experiments.trust.off`."""


def times_after(
    found: Sequence[Record], mends: int, clock: mending.Clock = mending.CLOCK
) -> list[Times]:
    """Of all tasks, those that nobody can tell the error of left out."""
    rows = []
    for record in found:
        if not record.run_id.startswith(KINDS[clock]):
            continue
        result = record.result
        budget, places = result["steps"], [look["step"] for look in result["looks"]][:mends]
        said_by = result["said"][: mends + 1]
        for k, asked in enumerate(result["asked"]):
            said = [one[k] for one in said_by]
            error = trust.error_of(said[-1], asked, budget)
            if error is None:
                continue
            named = [trust.named(t, budget) for t in said]
            seen: dict[str, float] = {}
            if said[-1] is not None:
                seen = chances.seen_mending(named, places, reached=said[-1])
            off = trust.off(said[-1], asked)
            rows.append(Times(result["network"], result["pictures"], error, seen, off))
    return rows


def tabulated(found: Sequence[Record]) -> trust.Table:
    """What the law is fitted to: named times after the default number of mends."""
    rows = [row for row in times_after(found, mending.MENDS) if row.features]
    x = np.array([[row.features[n] for n in chances.MENDED.weights] for row in rows])
    error = np.array([row.error for row in rows])
    return trust.Table(
        x=x,
        wrong=error > chances.ERROR,
        clear=~((trust.CLEAR[0] < error) & (error < trust.CLEAR[1])),
        network=np.array([row.network for row in rows]),
        pictures=np.array([row.pictures for row in rows]),
        gaps=np.zeros(len(rows)),
        off=np.array([row.off for row in rows]),
    )


def within(wrong: np.ndarray, score: np.ndarray, groups: np.ndarray) -> float:
    """AUROC over pairs of one group: the level, which the others gave it, does not count."""
    areas, pairs = [], []
    for group in np.unique(groups):
        of = (groups == group) & np.isfinite(score)
        if len(np.unique(wrong[of])) == 2:
            areas.append(trust.area(wrong[of], score[of]))
            pairs.append(wrong[of].sum() * (~wrong[of]).sum())
    return float(np.average(areas, weights=pairs)) if areas else float("nan")


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Errors over the number of mends, by either clock; how well the law tells them; tables."""
    figure, axes = harness.canvas(14, 3.8, 1, 4)
    rows = []
    networks = list(dict.fromkeys(record.result["network"] for record in found))
    for colour, network in zip(harness.COLOURS, networks, strict=False):
        for clock in KINDS:
            counts, wrong, middle = [], [], []
            for mends in range(MOST + 1):
                of = times_after(found, mends, clock)
                error = np.array([row.error for row in of if row.network == network])
                if not len(error):
                    continue
                counts.append(mends)
                wrong.append(float(np.mean(error > chances.ERROR)))
                middle.append(float(np.median(error)))
                cells = [network, clock, str(mends), str(len(error))]
                cells += [harness.percent(value) for value in (middle[-1], wrong[-1])]
                rows.append([*cells, str(int(np.isinf(error).sum()))])
            style = {"color": colour, "marker": "o", "linewidth": 1.4, "markersize": 4}
            if clock == mending.CLOCK:
                style["label"] = network
            else:
                style |= {"linestyle": "--", "alpha": 0.5}
            axes[0, 0].plot(counts, middle, **style)
            axes[0, 1].plot(counts, wrong, **style)
    for axis in axes[0, :2]:
        axis.set_xticks(range(MOST + 1))
    axes[0, 0].set(xlabel="mends", ylabel="median error of a time", ylim=(0, None))
    axes[0, 1].set(
        xlabel="mends", ylabel=f"share off by more than {chances.ERROR:.0%}", ylim=(0, 1)
    )
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[0, 1].set_title("dashed: clock by both ends", fontsize=8)
    head = ["network", "clock", "mends", "thresholds", "median error", "off by > 20 %"]
    text = harness.table([*head, "one-sided"], rows)
    table = tabulated(found)
    if len(np.unique(table.wrong)) < 2:
        return text, {"mending": figure}
    ways = trust.both_left_out(table)
    rows = []
    groups = (table.pictures, table.network)
    for colour, (name, chance), group in zip(
        harness.COLOURS, ways.items(), groups, strict=False
    ):
        cells = [name, str(len(table.wrong)), str(int(table.wrong.sum()))]
        for chosen in (np.ones(len(chance), bool), table.clear):
            wrong, score = table.wrong[chosen], chance[chosen]
            cells.append(f"{trust.area(wrong, score):.2f}")
            cells.append(f"{within(wrong, score, group[chosen]):.2f}")
        rows.append(cells)
        trust.roc(axes[0, 2], table.wrong, chance, colour, name)
    axes[0, 2].plot([0, 1], [0, 1], color="#cccccc", linewidth=1, zorder=0)
    axes[0, 2].set(xlabel="right times that are doubted", ylabel="wrong times that are")
    axes[0, 2].legend(frameon=False, fontsize=8, loc="lower right")
    head = ["weights fitted with", "times", "wrong", "AUROC", "within what is left out"]
    head += ["AUROC of clear cases", "within what is left out"]
    text += f"\nAfter {mending.MENDS} mends, of times that are named:\n\n"
    text += harness.table(head, rows)
    intercept, weights = trust.fitted(table.x, table.wrong)
    named = dict(
        zip(("intercept", *chances.MENDED.weights), (intercept, *weights), strict=True)
    )
    numbers = {name: round(float(value), 3) for name, value in named.items()}
    text += f"\nFitted to all: `{json.dumps(numbers)}`\n"
    text += trust.held(table, ways)
    trust.draw_held(axes[0, 3], table, ways)
    return text, {"mending": figure}


EXPERIMENT = harness.Experiment("mending", {"smoke": smoke, "paper": paper}, run, draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
