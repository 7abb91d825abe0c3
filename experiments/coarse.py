"""Coarse runs: the time to a loss from few real gradients and no kernel. How wrong, how cheap?

    python -m experiments.coarse paper --data data      forty minutes, two cores
    python -m experiments.coarse large --data data      some ten hours, two cores (a guess)
    python -m experiments.coarse smoke                  ten seconds
    python -m experiments.coarse table                  from the records there are

The tasks of :mod:`experiments.scatter`, followed by gradients of 1.5, 2.5 and 5 passes over
the pictures in the place of 150 epochs (:mod:`ttp_jax.linearisation.coarse_path`). ``paper``:
the embedded network; ``large``: ResNet-20 trained whole and ResNet-50, its last stage and all
of it. Real curves are those of ``experiments.scatter`` where it has them, else run here.
On tasks of seed 3 the size of the batches, the places, the few that are read, the extrapolation
and the treatment of momentum were chosen; they are in no number but the law of
:data:`ttp_jax.chances.COARSE`.

A coarse run is asked about other predictions, too: how well does its disagreement with one
linearisation, or with one that was mended, tell wrong times?

Of ``large`` 20 tasks of ResNet-20 and nine of ResNet-50's last stage are run (seed 0, 5 passes,
1.5 on four of ResNet-20). The records have more real curves, made on an accelerator: all of
that seed, 16 of seed 3 of either, and 13 of ResNet-50 trained whole.

Expect: by 5 passes, 11 times cheaper than training in operations, half of the embedded
network's times are off by 0 (GD) and 1 % (SGD), 95 % by at most 9 and 8 %, of ResNet-20 by 1
and 1, 7 and 18 %. By 2.5 passes, 20 times cheaper, 2 and 4, 18 and 17 %; by 1.5 passes, 26
times cheaper, 5 and 6, 12 and 50 %. ResNet-50 is within 9 % under GD; under SGD two of five
tasks are 23 and 96 % late. Where one linearisation is off by more than half, 94 % of the times
by 5 passes are within 15 %. Beside a coarse run of 5 passes wrong mended times are told from
right ones with an AUROC of 0.98 (0.97 with data sets or networks left out of the law), those of
one linearisation with 0.98; by 1.5 passes with 0.87 and 0.91.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import harness, scatter, trust
from ttp_jax import chances, records, study
from ttp_jax.finetune import finetune
from ttp_jax.linearisation import coarse_path, mending
from ttp_jax.records import Record
from ttp_jax.types import Curve

PASSES = (1.5, 2.5, 5.0)
MAIN = 5.0
"""Of them, that which figures and the check of other predictions are of."""
SPARE = 3
"""Seed of the tasks that choices were made on."""
SHOWN = ("within_of_final", scatter.SHOWN)
SPENT = (0.0, 0.2, 0.8, 3.2, math.inf)
"""Passes of gradients between which times are counted together."""
MARKERS = "os^DvP"
"""Of networks."""
HIGHEST = 0.8
"""Errors above are drawn there."""
FAR = (0.5, 0.2)
"""Errors of one linearisation past which a time is one that needs more."""
NEAR = 0.15
"""Error that is aimed at there."""
ONCE = "one linearisation"
CHECKED: dict[str, dict] = {
    ONCE: {},
    "mended": {**scatter.SKETCH, "mend": mending.MENDS},
}
"""Predictions of ``experiments.scatter`` that it is laid beside, and their options."""


@dataclass(frozen=True)
class Real:
    """A task that is really trained."""

    task: study.Config


@dataclass(frozen=True)
class Followed:
    """A task, and how many passes of gradients it is followed by."""

    task: study.Config
    passes: float


def smoke(data: Path) -> list[Real]:
    """One small task, of the seed that nothing is reported of and of another."""
    small = dataclasses.replace(scatter.smoke(data)[0], per_class=20, epochs=40, lr=1e-4)
    return [Real(dataclasses.replace(small, seed=seed)) for seed in (0, SPARE)]


def paper(data: Path) -> list[Real]:
    """The embedded network."""
    return _with_spare(scatter.embedded(data))


def large(data: Path) -> list[Real]:
    """Larger networks; that with fewest weights first."""
    return _with_spare([*scatter.paper(data), *scatter.accelerator(data)])


def _with_spare(tasks: Sequence[study.Config]) -> list[Real]:
    """As they are, and those of the first seed once more with the spare one."""
    spare = [dataclasses.replace(t, seed=SPARE) for t in tasks if t.seed == tasks[0].seed]
    return [Real(task) for task in (*tasks, *spare)]


def run(config: Real, out: Path) -> None:
    """The real run, where it is not known, and coarse ones."""
    built = study.build(config.task)
    known = _of_scatter(config.task, "compare", built)
    if known is None:
        harness.once("real", config, out, partial(_trained, config.task, built))
        known = records.load(out / records.run_id("real", harness.naming(config), {}))
    for p in PASSES:
        followed = Followed(config.task, p)
        made = partial(_made, followed, built, known.curves["measured"])
        harness.once("coarse", followed, out, made)


def _of_scatter(
    config: study.Config, command: study.Command, built: study.Built
) -> Record | None:
    """What ``experiments.scatter`` has of a task."""
    folder = harness.RESULTS / "scatter"
    of = study.identified(command, config, built)
    return records.load(folder / of) if records.finished(folder, of) else None


def _trained(config: study.Config, built: study.Built) -> harness.Made:
    real = finetune(
        built.task, built.sgd, steps=built.steps, seed=config.seed, every=built.every
    )
    return harness.Made({}, built.provenance, curves={"measured": real})


def _made(followed: Followed, built: study.Built, real: Curve) -> harness.Made:
    config, task, sgd, steps = followed.task, built.task, built.sgd, built.steps
    assert isinstance(sgd, study.SGD)
    found = coarse_path.coarse_path(
        task, sgd, steps=steps, passes=followed.passes, seed=config.seed
    )
    loss, coarser = (curve.loss[real.steps] for curve in (found.curves[0], found.coarser))
    checked = {}
    for name, options in CHECKED.items():
        other = dataclasses.replace(config, **options)
        record = _of_scatter(other, "predict" if options else "compare", built)
        if record is not None:
            checked[name] = trust.times_of(record.curves["predicted"].loss, real)
    result = {
        "asked": trust.times_of(real.loss, real),
        "said": trust.times_of(loss, real),
        "coarser": trust.times_of(coarser, real),
        "checked": checked,
        "cheaper": 3 * (sgd.batch_size or task.n) * steps / found.passes,
        "coarse_steps": found.steps,
        "steps": steps,
        "network": scatter.network_of(dataclasses.asdict(config)),
        "pictures": trust.pictures_of(config),
    }
    # Which pictures they are, the record of the real run says.
    return harness.Made(result, study.without_pictures(built.provenance))


class Other(NamedTuple):
    """A time beside another one of the same threshold."""

    error: float | None
    """Infinite where one side alone gets there; ``None`` where nobody can tell."""
    apart: float
    """How far it lies from the other, ``|log|`` of their ratio."""
    said: int | None


@dataclass(frozen=True)
class Time:
    """One threshold of one task, as a coarse run names it."""

    network: str
    pictures: str
    full_batch: bool
    passes: float
    cheaper: float
    said: int | None
    asked: int | None
    error: float | None
    """As that of :class:`Other`."""
    spent: float | None
    """Passes of gradients that the coarse run takes to the time it names."""
    apart: float
    """``|log|`` of the ratio to the time by fewer gradients."""
    shown: bool
    """Whether of the threshold :data:`SHOWN`."""
    spare: bool
    others: Mapping[str, Other]
    """Of other predictions, beside this one."""

    @property
    def itself(self) -> Other:
        """Beside the one by fewer gradients."""
        return Other(self.error, self.apart, self.said)


def times(found: Sequence[Record]) -> Iterator[Time]:
    """All of them."""
    for record in found:
        if not record.run_id.startswith("coarse"):
            continue
        result, task = record.result, record.config["task"]
        budget = result["steps"]
        for k, of in enumerate(chances.STANDARD):
            asked, said = result["asked"][k], result["said"][k]
            others = {
                name: Other(
                    trust.error_of(named[k], asked, budget),
                    _apart(named[k], said, budget),
                    named[k],
                )
                for name, named in result["checked"].items()
            }
            yield Time(
                network=result["network"],
                pictures=result["pictures"],
                full_batch=task["batch_size"] is None,
                passes=record.config["passes"],
                cheaper=result["cheaper"],
                said=said,
                asked=asked,
                error=trust.error_of(said, asked, budget),
                spent=said and record.config["passes"] * said / budget,
                apart=_apart(result["coarser"][k], said, budget),
                shown=of == SHOWN,
                spare=task["seed"] == SPARE,
                others=others,
            )


def _apart(a: int | None, b: int | None, budget: int) -> float:
    """``|log|`` of the ratio of two times."""
    return abs(math.log(trust.named(a, budget) / trust.named(b, budget)))


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Error over what is saved; times against real ones; who tells wrong times; tables."""
    figure, axes = harness.canvas(12, 3.9, 1, 3)
    every = list(times(found))
    of_tasks = [time for time in every if not time.spare]
    text = "Time to within 10% of the initial loss of the end:\n\n"
    text += _draw_errors(axes[0, 0], [time for time in of_tasks if time.shown])
    _draw_scatter(axes[0, 1], [time for time in of_tasks if time.shown])
    text += "\nAll five thresholds, by the passes of gradients up to the time named:\n\n"
    text += _by_spent(of_tasks)
    text += "\nAll five thresholds, where one linearisation is wrong:\n\n"
    text += _where_it_fails(of_tasks)
    text += (
        "\nDo coarse runs know wrong times (more than 20% off, five thresholds a task)? "
    )
    text += "Their own by what fewer gradients say, others by how far they lie apart:\n\n"
    text += _draw_roc(axes[0, 2], of_tasks)
    for name, table in tabulated(found).items():
        text += _law(name, table)
    return text, {"coarse": figure}


def _draw_errors(axis, rows: Sequence[Time]) -> str:
    """Median error, up to that of 95 % of the tasks, over the saving; as a table."""
    from matplotlib.ticker import FixedLocator, NullLocator

    cells, beside = [], 0
    for marker, network in zip(MARKERS, _networks(rows), strict=False):
        for (kind, full), colour in zip(
            scatter.KINDS.items(), harness.COLOURS[1:3], strict=True
        ):
            points = []
            for passes in PASSES:
                of = [
                    t
                    for t in rows
                    if (t.network, t.full_batch, t.passes) == (network, full, passes)
                ]
                error = np.array([t.error for t in of if t.error is not None])
                if not len(error):
                    continue
                saving = float(np.median([t.cheaper for t in of]))
                middle, most = _middle_and_most(error)
                points.append((saving * 1.04**beside, middle, min(most, HIGHEST)))
                cells.append(
                    [network, kind, f"{passes:g}", str(len(error)), f"{saving:.0f}"]
                    + [harness.percent(value) for value in (middle, most)]
                )
            beside += 1
            if points:
                at, middle, most = np.array(points).T
                axis.vlines(at, middle, most, color=colour, alpha=0.4)
                axis.plot(at, most, "_", color=colour)
                style = {"marker": marker, "color": colour, "markersize": 4}
                axis.plot(at, middle, linestyle="", label=f"{network}, {kind}", **style)
    for claimed in scatter.CLAIMED:
        axis.plot(scatter.CLAIMED_SAVING, (claimed, claimed), color="0.6", linewidth=3)
    axis.annotate("paper", (30, 0.215), fontsize=7, color="0.4")
    axis.set(
        xscale="log",
        xlabel="operations of training / of predicting",
        ylabel="median error of the time, bars to 95 %",
        ylim=(0, HIGHEST),
    )
    axis.xaxis.set_major_locator(FixedLocator((10, 20, 40)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.legend(fontsize=6.5, frameon=False, loc="upper right")
    head = ["network", "steps", "passes", "tasks", "times cheaper", "median", "95 % within"]
    return harness.table(head, cells)


def _by_spent(rows: Sequence[Time]) -> str:
    """Errors of times that are named early and late in a coarse run."""
    cells = []
    for network in _networks(rows):
        for kind, full in scatter.KINDS.items():
            of = [
                (t.spent, t.error)
                for t in rows
                if (t.network, t.full_batch) == (network, full)
                and t.spent is not None
                and t.error is not None
            ]
            for low, high in itertools.pairwise(SPENT):
                error = np.array([error for spent, error in of if low <= spent < high])
                if not len(error):
                    continue
                shares = *_middle_and_most(error), float(np.mean(error > chances.ERROR))
                between = f"{low:g} to {high:g}" if np.isfinite(high) else f"over {low:g}"
                cells.append(
                    [network, kind, between, str(len(error)), *map(harness.percent, shares)]
                )
    head = ["network", "steps", "passes to the time", "times", "median", "95 % within"]
    return harness.table([*head, "more than 20 % off"], cells)


def _where_it_fails(rows: Sequence[Time]) -> str:
    """Errors of times of which one linearisation is far off."""
    cells = []
    for far, passes in itertools.product(FAR, PASSES):
        of = [
            (t.network, t.error)
            for t in rows
            if t.passes == passes and t.error is not None and _off(t) > far
        ]
        if not of:
            continue
        networks, errors = zip(*of, strict=True)
        error = np.array(errors)
        most = float(np.quantile(error, 0.9, method="higher"))
        near = float(np.mean(error <= NEAR))
        shares = [float(np.median(error)), most, near]
        counts = ", ".join(
            f"{networks.count(name)} {name}" for name in sorted(set(networks))
        )
        cells.append(
            [harness.percent(far), f"{passes:g}", counts, *map(harness.percent, shares)]
        )
    head = ["one linearisation off by over", "passes", "times of", "median", "90 % within"]
    return harness.table([*head, f"within {harness.percent(NEAR)}"], cells)


def _off(time: Time) -> float:
    """Error of one linearisation; 0 where it is not known."""
    return (time.others[ONCE].error or 0.0) if ONCE in time.others else 0.0


def _middle_and_most(error: np.ndarray) -> tuple[float, float]:
    """Median, and what 95 % lie within."""
    return float(np.median(error)), float(np.quantile(error, 0.95, method="higher"))


def _draw_scatter(axis, rows: Sequence[Time]) -> None:
    named = [t for t in rows if t.said and t.asked and t.passes == MAIN]
    for marker, network in zip(MARKERS, _networks(rows), strict=False):
        for colour, full in zip(harness.COLOURS[1:3], scatter.KINDS.values(), strict=True):
            of = [t for t in named if (t.network, t.full_batch) == (network, full)]
            at, said = [t.asked for t in of], [t.said for t in of]
            axis.scatter(at, said, marker=marker, color=colour, s=14, alpha=0.8)
    if named:
        steps = [value for t in named for value in (t.said, t.asked) if value is not None]
        ends = np.array([0.7 * min(steps), 1.4 * max(steps)])
        axis.plot(ends, ends, color="0.6", linewidth=1)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="measured steps",
        ylabel=f"steps by a coarse run of {MAIN:g} passes",
    )


def _draw_roc(axis, rows: Sequence[Time]) -> str:
    """Who tells wrong times from right ones, by how far two ways lie apart."""
    cells = []
    colours = iter(harness.COLOURS)
    for name in ("coarse run", *CHECKED):
        for passes in PASSES:
            of = [
                t.itself if name == "coarse run" else t.others[name]
                for t in rows
                if t.passes == passes and (name == "coarse run" or name in t.others)
            ]
            told = [(one.error, one.apart) for one in of if one.error is not None]
            wrong = np.array([error > chances.ERROR for error, _ in told])
            if len(np.unique(wrong)) < 2:
                continue
            apart = np.array([apart for _, apart in told])
            area = f"{trust.area(wrong, apart):.3f}"
            cells.append([name, f"{passes:g}", str(len(wrong)), str(wrong.sum()), area])
            if passes == MAIN:
                trust.roc(axis, wrong, apart, next(colours), f"{name} ({area})")
    axis.set(xlabel="right times that are doubted", ylabel="wrong times that are")
    if cells:
        axis.legend(frameon=False, fontsize=7, loc="lower right")
    return harness.table(["times of", "passes", "times", "wrong", "AUROC"], cells)


OWN = "coarse run"
BESIDE = f"mended prediction beside a coarse run of {MAIN:g} passes"


def tabulated(found: Sequence[Record]) -> dict[str, trust.Table]:
    """What the laws :data:`ttp_jax.chances.COARSE` and ``CHECKED`` are fitted to."""
    every = list(times(found))
    own = [(t, t.itself) for t in every if t.said is not None]
    beside = [
        (t, t.others["mended"])
        for t in every
        if not t.spare and "mended" in t.others and t.passes == MAIN
    ]
    return {OWN: _table(own), BESIDE: _table(beside)}


def _table(told: Sequence[tuple[Time, Other]]) -> trust.Table:
    known = [(t, one) for t, one in told if one.error is not None]
    error = np.array([one.error for _, one in known])
    return trust.Table(
        x=np.array([[chances.seen_beside(one.apart)["shift"]] for _, one in known]),
        wrong=error > chances.ERROR,
        clear=np.ones(len(error), bool),
        network=np.array([t.network for t, _ in known]),
        pictures=np.array([t.pictures for t, _ in known]),
        gaps=np.zeros(len(error)),
        off=np.array([trust.off(one.said, t.asked) for t, one in known]),
    )


def _law(name: str, table: trust.Table) -> str:
    """The law of one feature, and how well it does where a set or a network is left out."""
    if len(np.unique(table.wrong)) < 2:
        return ""
    intercept, weights = trust.fitted(table.x, table.wrong)
    numbers = {"intercept": round(intercept, 3), "shift": round(float(weights[0]), 3)}
    ways = trust.both_left_out(table)
    said = [
        f"{trust.area(table.wrong, chance):.3f} with {left}"
        for left, chance in ways.items()
        if np.isfinite(chance).any()
    ]
    doubted = intercept + table.x @ weights > 0
    shares = [
        harness.percent(float(table.wrong[of].mean())) if of.any() else "none"
        for of in (~doubted, doubted)
    ]
    return (
        f"\nLaw of a {name}, fitted to {len(table.wrong)} times, {table.wrong.sum()} of them "
        f"wrong: `{json.dumps(numbers)}`. AUROC {', '.join(said)}. Of those trusted "
        f"{shares[0]} are wrong, of the others {shares[1]}.\n{trust.held(table, ways)}"
    )


def _networks(rows: Sequence[Time]) -> list[str]:
    return list(dict.fromkeys(t.network for t in rows))


EXPERIMENT = harness.Experiment(
    "coarse", {"smoke": smoke, "paper": paper, "large": large}, run, draw
)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
