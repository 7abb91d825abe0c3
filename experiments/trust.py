"""Trust before training: do the looks along a predicted path tell which times are wrong?

    python -m experiments.trust paper --data data      half an hour, two cores
    python -m experiments.trust smoke                  a minute

Tasks that other experiments have really trained are predicted again, and looked at along the
predicted path (:mod:`ttp_jax.linearisation.second_look`). Of every threshold: whether its time
is off by more than 20 %, and what the looks say. A logistic law of the latter is fitted to all
tasks but those of one data set, or of one network, and scored on these; the weights that the
package uses are those fitted to all. A time that the real run alone does not reach counts as
wrong where it had a fifth more steps for it, and is left out otherwise; of times that the
prediction alone does not reach there is a count, and no law.

Expect (447 thresholds of 123 tasks, 112 wrong): AUROC 0.88 with data sets left out, 0.88 with
networks left out, 0.93 where errors between 15 and 27 % do not count; the linearisation gaps
alone 0.76. Within one network it is 0.64 to 0.84: part of it tells easy networks from hard
ones. Chances are about right, on networks that were left out a little too high. Of the features
that were tried three were kept with these same tasks in view.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import frontier, harness
from ttp_jax import chances, records, study
from ttp_jax.kernel.choice import Kernel
from ttp_jax.prediction import predict
from ttp_jax.records import Record
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve

SOURCES = ("calibration", "frontier", "held_out", "real_networks", "regimes", "sensitivity")
LARGEST = 300
"""Pictures of a task."""
SLACK = 1.2
CLEAR = (0.15, 0.27)
"""Errors between them are neither clearly right nor clearly wrong."""
LEVELS = (0.7, chances.LEVEL)
"""Probabilities of the intervals that are counted."""
RIDGE = 1.0
"""Inverse strength of the penalty on the weights, features having unit variance."""


@dataclass(frozen=True)
class Again:
    """A task that was trained before."""

    source: str
    """Experiment and record, below ``results/``."""


def smoke(data: Path) -> list[Again]:
    """Two small tasks that need no data."""
    small = (
        again
        for again in _all()
        if (config := _config(again)).data == "digits" and config.per_class <= 10
    )
    return list(itertools.islice(small, 2))


def paper(data: Path) -> list[Again]:
    """All of :data:`SOURCES` that are predicted by one linearisation."""
    return list(_all())


def _all() -> Iterator[Again]:
    seen = set()
    for name in SOURCES:
        for file in sorted((harness.RESULTS / name).glob("compare-*/record.json")):
            again = Again(f"{name}/{file.parent.name}")
            config = _config(again)
            # What is asked of the curves is no part of the task.
            task = dataclasses.replace(
                config, epsilon=(), rules=(), every=None, paths=0, heads=0, held_out=0
            )
            if _once_linearised(config) and task not in seen:
                seen.add(task)
                yield again


def _config(again: Again) -> study.Config:
    return frontier.config_of(records.load(harness.RESULTS / again.source))


def _once_linearised(config: study.Config) -> bool:
    plain = {
        "optimizer": "sgd",
        "solver": "simulate",
        "effective_rate": False,
        "calibrate_steps": 0,
        "relinearize": None,
        "mend": 0,
        "kernel": "exact",
        "kernel_outputs": "full",
        "kernel_samples": None,
        "coarse": None,
        "check": None,
    }
    small = config.classes * config.per_class <= LARGEST
    return small and all(getattr(config, name) == value for name, value in plain.items())


def run(config: Again, out: Path) -> None:
    """A prediction, and its thresholds beside those of the real run."""
    harness.once("trust", config, out, lambda: _made(config))


_KERNELS = study.Kernels(kept=4)


def _made(again: Again) -> harness.Made:
    record = records.load(harness.RESULTS / again.source)
    config, real = frontier.config_of(record), record.curves["measured"]
    built = study.build(config)
    assert not isinstance(built.sgd, study.Adam)
    predicted = predict(
        built.task,
        built.sgd,
        steps=built.steps,
        every=built.every,
        kernel=_KERNELS.of(built, Kernel(seed=config.seed)),
        seed=config.seed,
        mend=0,
    )
    trust = predicted.trust
    assert trust is not None
    assert trust.looks is not None
    rows = []
    for rule, epsilon in chances.STANDARD:
        said, asked = (time_to_threshold(c, epsilon, rule) for c in (predicted, real))
        error = error_of(said.steps, asked.steps, said.budget_steps)
        if error is None:
            continue
        found = chances.seen_once(
            trust.looks,
            stability=trust.stability,
            reached=said.steps,
            epsilon=epsilon,
            rule=rule,
        )
        rows.append(
            {
                "rule": rule,
                "epsilon": epsilon,
                "said": said.steps,
                "asked": asked.steps,
                "wrong": bool(error > chances.ERROR),
                "clear": not CLEAR[0] < error < CLEAR[1],
                "features": found,
            }
        )
    result = {
        "thresholds": rows,
        "gap": trust.gap,
        "early_gap": trust.early_gap,
        "stability": trust.stability,
        "network": config.model,
        "pictures": pictures_of(config),
        "looks": [
            {"step": look.step, "loss": look.loss_ratio, "speed": look.speed}
            for look in trust.looks
        ],
    }
    return harness.Made(result, built.provenance)


def pictures_of(config: study.Config) -> str:
    """Name of the set of pictures."""
    return Path(config.data.removeprefix("npz:")).stem.split("_")[0]


def times_of(loss: np.ndarray, real: Curve) -> list[int | None]:
    """Of every threshold of :data:`ttp_jax.chances.STANDARD`, read as the real curve is."""
    there = np.where(np.isfinite(loss), loss, np.inf)
    curve = dataclasses.replace(real, loss=there)
    whole = np.isfinite(there).all()
    return [
        time_to_threshold(curve, epsilon, rule).steps
        if whole or rule != "within_of_final"
        else None
        for rule, epsilon in chances.STANDARD
    ]


def named(time: int | None, budget: int) -> float:
    """A time that something is compared with; never counts as twice the run."""
    return 2.0 * budget if time is None else float(max(time, 1))


def error_of(said: int | None, asked: int | None, budget: int) -> float | None:
    """Relative error of a time; infinite where one side never gets there.

    ``None`` where nobody can tell: neither side gets there in the ``budget``, or one alone and
    so late that the other had no time for an error worth the name.
    """
    if asked is None:
        return np.inf if said is not None and SLACK * said <= budget else None
    if asked == 0:
        return None
    if said is None:
        return np.inf if SLACK * asked <= budget else None
    return abs(said - asked) / asked


def off(said: int | None, asked: int | None) -> float:
    """``|log|`` of the ratio of both times; infinite where one side never gets there."""
    if said is None or asked is None:
        return np.inf
    return abs(float(np.log(max(said, 1) / max(asked, 1))))


@dataclass(frozen=True)
class Table:
    """All thresholds: a row each."""

    x: np.ndarray
    """Features, in the order of :data:`chances.ONCE.weights`."""
    wrong: np.ndarray
    clear: np.ndarray
    network: np.ndarray
    pictures: np.ndarray
    gaps: np.ndarray
    """What the linearisation gaps and the stability alone say: larger is worse."""
    off: np.ndarray
    """From :func:`off`."""


def tabulated(found: Sequence[Record]) -> Table:
    """From the records."""
    columns: dict[str, list[Any]] = {field.name: [] for field in dataclasses.fields(Table)}
    for record in found:
        result = record.result
        # Written as null where they were infinite.
        gap, early = (
            np.inf if g is None else g for g in (result["gap"], result["early_gap"])
        )
        for row in (row for row in result["thresholds"] if row["said"] is not None):
            columns["x"].append([row["features"][name] for name in chances.ONCE.weights])
            columns["gaps"].append(min(max(gap / 2, early, result["stability"] / 4), 1e3))
            columns["off"].append(off(row["said"], row["asked"]))
            for name in ("wrong", "clear"):
                columns[name].append(row[name])
            for name in ("network", "pictures"):
                columns[name].append(result[name])
    return Table(**{name: np.array(column) for name, column in columns.items()})


def fitted(x: np.ndarray, wrong: np.ndarray) -> tuple[float, np.ndarray]:
    """Intercept and weights of the log odds, penalised in units of each feature's spread."""
    from sklearn.linear_model import LogisticRegression

    centre, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    law = LogisticRegression(C=RIDGE).fit((x - centre) / spread, wrong)
    weights = law.coef_[0] / spread
    return float(law.intercept_[0] - weights @ centre), weights


def left_out(table: Table, groups: np.ndarray) -> np.ndarray:
    """Chance of an error by a law that has not seen the group; NaN where there is none."""
    found = np.full(len(groups), np.nan)
    for group in np.unique(groups):
        other = groups != group
        if len(np.unique(table.wrong[other])) < 2:
            continue
        intercept, weights = fitted(table.x[other], table.wrong[other])
        found[~other] = 1 / (1 + np.exp(-(intercept + table.x[~other] @ weights)))
    return found


def area(wrong: np.ndarray, score: np.ndarray) -> float:
    """AUROC; NaN where only one kind is there."""
    from sklearn.metrics import roc_auc_score

    there = np.isfinite(score)
    if len(np.unique(wrong[there])) < 2:
        return float("nan")
    return float(roc_auc_score(wrong[there], score[there]))


def both_left_out(table: Table) -> dict[str, np.ndarray]:
    """Chances by laws that have not seen the set of pictures, or the network."""
    return {
        "data sets left out": left_out(table, table.pictures),
        "networks left out": left_out(table, table.network),
    }


def held(table: Table, ways: Mapping[str, np.ndarray]) -> str:
    """How many real times lie within the intervals that chances give.

    Args:
        table: The times.
        ways: Their chances by several laws, NaN where there is none.
    """
    rows = []
    networks = np.unique(table.network).tolist()
    for name, chance in ways.items():
        inside = [table.off <= _widths(chance, level) for level in LEVELS]
        for network in ("all", *networks) if len(networks) > 1 else ("all",):
            of = np.isfinite(chance) & ((network == "all") | (table.network == network))
            if not of.any():
                continue
            trusted = of & (1 - chance >= chances.TRUSTED)
            counted = [(one, of) for one in inside] + [(inside[-1], trusted)]
            shares = [
                harness.percent(float(held_by[part].mean())) if part.any() else "-"
                for held_by, part in counted
            ]
            factor = np.exp(np.median(_widths(chance[of], LEVELS[-1])))
            rows.append([name, network, str(of.sum()), *shares, f"{factor:.3g}"])
    if not rows:
        return ""
    words = [harness.percent(level) for level in LEVELS]
    head = ["weights fitted with", "times of", "times"]
    head += [f"in the {word} interval" for word in words]
    head += [f"of those trusted in that of {words[-1]}", "a factor of"]
    title = "\nReal times in the interval that the chance of an error gives:\n\n"
    return title + harness.table(head, rows)


def draw_held(axis, table: Table, ways: Mapping[str, np.ndarray]) -> None:
    """The share of real times in intervals of every level, as :func:`held` takes them."""
    levels = np.linspace(0.02, 0.98, 49)
    for colour, (name, chance) in zip(harness.COLOURS, ways.items(), strict=False):
        there = np.isfinite(chance)
        if there.any():
            share = [np.mean((table.off <= _widths(chance, p))[there]) for p in levels]
            axis.plot(levels, share, color=colour, label=name, linewidth=1.4)
    axis.plot([0, 1], [0, 1], color="#cccccc", linewidth=1, zorder=0)
    axis.set(xlabel="level of the interval of a time", ylabel="real times in it")


def _widths(chance: np.ndarray, level: float) -> np.ndarray:
    """Half of each interval, as a ``log``; NaN where there is no chance."""
    return np.log([chances.interval(1, 1 - value, level)[1] for value in chance])


def draw(found: Sequence[Record]) -> harness.Drawing:
    """ROC curves and calibration; areas, and the weights fitted to all, as tables."""
    table = tabulated(found)
    by_law = both_left_out(table)
    ways = {**by_law, "gaps and stability alone": table.gaps}
    figure, axes = harness.canvas(12.5, 4.2, 1, 3)
    rows = []
    for colour, (name, score) in zip(harness.COLOURS, ways.items(), strict=False):
        cells = [name, str(len(found)), str(len(score)), str(int(table.wrong.sum()))]
        for chosen in (np.ones(len(score), bool), table.clear):
            value = area(table.wrong[chosen], score[chosen])
            cells.append("-" if np.isnan(value) else f"{value:.2f}")
        for network in ("embedded", "resnet20", "resnet50"):
            of = table.network == network
            value = area(table.wrong[of], score[of])
            cells.append("-" if np.isnan(value) else f"{value:.2f}")
        rows.append(cells)
        roc(axes[0, 0], table.wrong, score, colour, name)
    for colour, (name, chance) in zip(harness.COLOURS, by_law.items(), strict=False):
        _reliability(axes[0, 1], table.wrong, chance, colour, name)
    axes[0, 0].plot([0, 1], [0, 1], color="#cccccc", linewidth=1, zorder=0)
    axes[0, 0].set(xlabel="right times that are doubted", ylabel="wrong times that are")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower right")
    axes[0, 1].plot([0, 1], [0, 1], color="#cccccc", linewidth=1, zorder=0)
    axes[0, 1].set(xlabel="chance of an error above 20 %", ylabel="share that are so wrong")
    draw_held(axes[0, 2], table, by_law)
    head = [
        "weights fitted with",
        "tasks",
        "thresholds",
        "wrong",
        "AUROC",
        "of clear cases",
    ]
    text = harness.table([*head, "embedded", "ResNet-20", "ResNet-50"], rows)
    if len(np.unique(table.wrong)) == 2:
        intercept, weights = fitted(table.x, table.wrong)
        named = {
            "intercept": intercept,
            **dict(zip(chances.ONCE.weights, weights, strict=True)),
        }
        numbers = {name: round(float(value), 3) for name, value in named.items()}
        text += f"\nFitted to all: `{json.dumps(numbers)}`\n"
    text += held(table, by_law)
    never = [
        record.result["stability"] > 1
        for record in found
        for row in record.result["thresholds"]
        if row["said"] is None
    ]
    text += (
        f"\nNamed by the real run alone: {len(never)} times, {sum(never)} of them of "
        "predictions beyond the limit of stability.\n"
    )
    return text, {"trust": figure}


def roc(axis, wrong: np.ndarray, score: np.ndarray, colour: str, name: str) -> None:
    """A curve of how many wrong times a score finds, over how many right ones it doubts."""
    from sklearn.metrics import roc_curve

    there = np.isfinite(score)
    if len(np.unique(wrong[there])) == 2:
        doubted, caught, _ = roc_curve(wrong[there], score[there])
        axis.plot(doubted, caught, color=colour, label=name, linewidth=1.4)


def _reliability(
    axis, wrong: np.ndarray, chance: np.ndarray, colour: str, name: str
) -> None:
    """Fifths of the thresholds in the order of their chance."""
    there = np.flatnonzero(np.isfinite(chance))
    order = there[np.argsort(chance[there])]
    for part in np.array_split(order, 5):
        if len(part):
            axis.plot(chance[part].mean(), wrong[part].mean(), "o", color=colour)


EXPERIMENT = harness.Experiment("trust", {"smoke": smoke, "paper": paper}, run, draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
