"""Which candidate will end best: rankings by predicted curves, by real epochs, by proxies.

    python -m experiments.ranking paper --data data       most of a day, two cores; resumable
    python -m experiments.ranking smoke                   a minute
    python -m experiments.ranking table                   from the records there are

Not in the paper. Thirty-three candidates (the network of the package, CIFAR ResNets of four
depths, ImageNet ResNet-50 at three freeze depths, MLPs on pixels and on frozen features; rates,
heads, trained stages) are each fine-tuned for 40 epochs on 5 x 20 pictures of four sets, three
seeds, with 30 further pictures of each class held out. Rankings by what is known before
training, and by TSE (arXiv 2006.04492) and LCGA (DOI 10.1109/IPDPSW55747.2022.00123) of the
first 1, 2, 5 and 10 real epochs, are compared with how the runs end. Predictions are by a
sketched kernel (``tensor_sketch``, 1,024 numbers a tensor). All costs are operations, counted:
of a ranking by predicted curves all that ``ttp predict`` does, trust and the timing of a step
included.

Means are over tasks (a set and a seed); intervals of 95 % come from resampling the candidates
within each task.

Asked: whether predicted curves alone reach the Spearman of TSE with ten observed epochs; and
whether LCGA beats TSE at equal cost, as its abstract claims.

Run so far (99 of 396): seed 0 of sign-language digits, flowers and clothes, 30 candidates each
(all but whole ResNet-50s and its last stage at 128 px), and nine candidates on CIFAR-10.

Expect, on these: the predicted loss orders real losses with a Spearman of 0.96, [0.90, 0.98],
for a third of the operations of training all; TSE of ten epochs reaches 0.78, [0.60, 0.87], for
a quarter. Held-out accuracies are ordered by the predicted accuracy with 0.88, [0.70, 0.93], by
TSE read off the predicted curve with 0.73, [0.58, 0.83], and by TSE of ten real epochs with
0.62, [0.42, 0.75]. 35 of the 99 predictions are trusted: the order is right where the times are
not. LCGA as the toolbox shows it (slope over root curvature, nearer to zero taken as better) is
below TSE after ten epochs by 0.55 and 0.52, so its claim is refuted here; its plain slope, the
steeper the better, beats TSE on losses after one epoch, by 0.49, is not told apart from it
after two and five, and is below it, by 0.38, after ten. A regression fitted on the other
families reaches 0.94 on losses and 0.86 on accuracies, told architecture and predicted curve;
0.72 and 0.30 told the architecture alone.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness
from ttp_jax import candidates, rank_study, ranking, scoring, study, trainless
from ttp_jax.candidates import Candidate
from ttp_jax.logged import ARCHITECTURE, CURVE, OUTCOMES, as_runs
from ttp_jax.rank_study import OBSERVED, Columns
from ttp_jax.records import Record
from ttp_jax.report import rank_figure
from ttp_jax.scoring import Finished
from ttp_jax.types import InputError

SETS = ("signdigits10_100", "flowers5_128", "clothing10_128", "cifar10_jpeg32")
SEEDS = range(3)
COMMON = study.Config(
    mend=0,
    per_class=20,
    held_out=30,
    batch_size=20,
    epochs=40,
    rules=("loss",),
    epsilon=(0.4,),
    kernel="tensor_sketch",
    sketch_dimension=1024,
)
SHOWN = ("loss", "held_out_accuracy")
"""Outcomes of tables and figures."""
FEWEST = 4
"""Trained candidates below which a task is left out of the tables."""
RESAMPLES = 1000


def cheap(data: Path) -> list[str]:
    """Seconds each: the network of the package, an MLP on its features, MLPs on pixels."""
    mlp = "model=mlp,weights=random,image_size=16"
    return [
        "lr=1.5e-4",
        "lr=5e-4",
        "lr=1.5e-3",
        "lr=5e-4,head_scale=1",
        "lr=1.5e-4,freeze_until=none",
        "lr=5e-4,freeze_until=none",
        "lr=5e-4,weights=random",
        "lr=1.5e-3,freeze_until=stage3,head_hidden=64",
        f"{mlp},lr=1e-3",
        f"{mlp},lr=5e-3",
        f"{mlp},lr=5e-3,freeze_until=layer1",
    ]


def middling(data: Path) -> list[str]:
    """CIFAR ResNets of four depths: whole, the last stage, the head, an MLP as the head."""
    settings = {
        20: (
            "freeze_until=stage3,lr=5e-3",
            "freeze_until=stage3,lr=5e-3,head_hidden=128",
            "freeze_until=stage2,lr=5e-4",
            "freeze_until=stage2,lr=2e-3",
            "lr=5e-4",
            "lr=2e-3",
        ),
        32: ("freeze_until=stage2,lr=5e-4", "freeze_until=stage2,lr=2e-3", "lr=5e-4"),
        44: ("freeze_until=stage2,lr=5e-4", "freeze_until=stage2,lr=2e-3"),
        56: ("freeze_until=stage2,lr=5e-4", "freeze_until=stage2,lr=2e-3", "lr=5e-4"),
    }
    return [
        f"model=resnet{depth},weights={data}/weights/resnet{depth}_cifar10.npz,"
        f"image_size=32,{own}"
        for depth, of_depth in settings.items()
        for own in of_depth
    ]


def expensive(data: Path) -> list[str]:
    """ImageNet ResNet-50 from three freeze depths, and MLPs on its features."""
    weights = data / "weights/resnet50_keras_imagenet_f16.npz"
    network = f"model=resnet50,weights={weights}"
    return [
        f"{network},image_size=128,freeze_until=stage4,lr=1e-3",
        f"{network},image_size=128,freeze_until=stage4,lr=1e-2",
        f"{network},image_size=128,freeze_until=stage4,lr=1e-3,head_hidden=256",
        f"{network},image_size=128,freeze_until=stage4,lr=1e-2,head_hidden=256",
        f"{network},image_size=64,freeze_until=stage3,lr=1e-4",
        f"{network},image_size=128,freeze_until=stage3,lr=1e-4",
        f"{network},image_size=128,freeze_until=stage3,lr=1e-3",
        f"{network},image_size=64,freeze_until=stage2,lr=1e-4",
    ]


TIERS: tuple[Callable[[Path], list[str]], ...] = (cheap, middling, expensive)


def smoke(data: Path) -> list[Candidate]:
    """Six small candidates on scikit-learn's digits."""
    small = dataclasses.replace(
        COMMON, per_class=6, held_out=6, batch_size=6, epochs=5, sketch_dimension=256
    )
    mlp = "model=mlp,weights=random,image_size=8"
    own = ["lr=5e-4", "lr=2e-3", "lr=5e-4,head_scale=1"]
    texts = [*own, f"{mlp},lr=3e-4", f"{mlp},lr=3e-3", f"{mlp},lr=3e-2"]
    return candidates.read(small, texts)


def paper(data: Path) -> list[Candidate]:
    """By seed, then by cost, then by set: stopped anywhere, all sets are there."""
    return [
        candidate
        for seed in SEEDS
        for tier in TIERS
        for name in SETS
        for candidate in candidates.read(
            dataclasses.replace(
                COMMON, data=f"npz:{data / 'datasets' / name}.npz", seed=seed
            ),
            tier(data),
        )
    ]


_SHARED = scoring.Shared()
"""Of candidates that come one after the other."""


def run(candidate: Candidate, out: Path) -> None:
    """Scored without training, then trained to its end."""
    scoring.finish(candidate, out=out, train=True, shared=_SHARED)


Task = tuple[str, int]


def tasks(found: Sequence[Record]) -> dict[Task, list[Finished]]:
    """Trained candidates by set and seed."""
    trained = {
        scoring.real_run(record): record
        for record in found
        if record.run_id.startswith("trained-")
    }
    groups: dict[Task, list[Finished]] = {}
    for record in found:
        real = trained.get(scoring.real_run(record))
        if not record.run_id.startswith("candidate-") or real is None:
            continue
        config = harness.config_of(record)
        task = Path(config["data"].removeprefix("npz:")).stem, config["seed"]
        of = Finished(record.result["candidate"], scoring.config_of(record), record, real)
        groups.setdefault(task, []).append(of)
    return {
        task: sorted(group, key=lambda of: of.name)
        for task, group in sorted(groups.items())
        if len(group) >= FEWEST
    }


@dataclasses.dataclass(frozen=True)
class Many:
    """A measure over tasks: its mean, and the same of every resample."""

    value: float
    resampled: np.ndarray

    @property
    def interval(self) -> ranking.Interval:
        """Of the mean."""
        return ranking.interval(self.value, self.resampled)

    def __sub__(self, other: "Many") -> "Many":
        """The difference; resamples are paired."""
        return Many(self.value - other.value, self.resampled - other.resampled)


def measured(
    measure: ranking.Measure,
    rankings: Mapping[Task, np.ndarray],
    outcomes: Mapping[Task, np.ndarray],
) -> Many:
    """Mean over tasks; one in which all candidates are equal tells nothing and counts as 0.

    The same draws of candidates serve every ranking of a task.
    """
    single, many = [], []
    for seed, task in enumerate(rankings):
        pair = rankings[task], outcomes[task]
        single.append(ranking.MEASURES[measure](*(v[None] for v in pair))[0])
        many.append(ranking.resampled(measure, *pair, times=RESAMPLES, seed=seed))
    return Many(
        float(np.nan_to_num(single).mean()), np.nan_to_num(np.array(many)).mean(axis=0)
    )


def regressions(groups: Mapping[Task, Sequence[Finished]], outcome: str) -> dict[str, Any]:
    """Rankings by a regression fitted on the other families, by what it is told."""
    runs = {task: [as_runs(of)[outcome] for of in group] for task, group in groups.items()}
    everything = [run for of_task in runs.values() for run in of_task]
    told = {
        "architecture": ARCHITECTURE,
        "predicted curve": CURVE,
        "both": (*ARCHITECTURE, *CURVE),
    }
    found = {}
    for name, features in told.items():
        try:
            values = iter(trainless.leave_one_family_out(everything, features))
        except InputError:  # too few families yet, or runs of the others
            return {}
        found[name] = {
            task: np.array([next(values) for _ in of_task])
            for task, of_task in runs.items()
        }
    return found


def cell(many: Many, *, percent: bool = False) -> str:
    """A number with its interval."""
    of = many.interval
    parts = (of.value, of.low, of.high)
    value, low, high = (f"{v:.0%}" if percent else f"{v:.2f}" for v in parts)
    return f"{value} [{low}, {high}]"


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Every ranking against both outcomes; the two questions; the regression; by set."""
    from matplotlib.figure import Figure

    groups = tasks(found)
    if not groups:
        figure, _ = harness.canvas(6, 2)
        return f"Fewer than {FEWEST} candidates of any task are trained.\n", {
            "ranking": figure
        }
    epochs = min(
        harness.config_of(of.scored)["epochs"] for group in groups.values() for of in group
    )
    observe = [k for k in OBSERVED if k <= epochs]
    sets = {
        task: rank_study.columns(group, observe=observe) for task, group in groups.items()
    }
    rows = aggregated(sets)
    count = sum(len(group) for group in groups.values())
    text = (
        f"{len(groups)} tasks, {count} candidates really trained "
        f"({min(map(len, groups.values()))} to {max(map(len, groups.values()))} a task). "
        "Means over tasks, in brackets 95 % by resampling candidates; cost in operations, as "
        "training steps of the candidate and as a share of training all to the end. "
        '"Beaten by": share of the candidates that really are better than the first choice. '
        "Regret: of the first choice, in nats and in points of accuracy.\n\n"
    )
    text += harness.table(*_rankings(rows))
    text += "\nLCGA less TSE at equal cost, Spearman (above 0 LCGA is the better):\n\n"
    text += harness.table(*_claim(sets, observe))
    text += f"\nPredicted curves less TSE of {observe[-1]} real epochs, Spearman:\n\n"
    text += harness.table(*_goal(sets, observe[-1]))
    text += (
        "\nRegression on the runs of the other families, Spearman (train-less search):\n\n"
    )
    text += harness.table(*_trainless(groups, sets))
    text += "\nSpearman by set, mean over seeds:\n\n"
    text += harness.table(*_by_set(sets, observe[-1]))
    trusted = [of.scored.result["trust"]["ok"] for g in groups.values() for of in g]
    text += f"\n{sum(trusted)} of {len(trusted)} predictions are trusted.\n"
    if all(sum(_trusted(group)) >= FEWEST for group in groups.values()):
        text += "Among these alone, Spearman:\n\n"
        text += harness.table(*_among_trusted(groups, sets))
    figure = Figure(figsize=(13.5, 1.4 + 0.19 * len(rows)), layout="constrained")
    _draw(figure, rows)
    return text, {"ranking": figure}


def aggregated(sets: Mapping[Task, Columns]) -> list[dict[str, Any]]:
    """A row a ranking, as the record of ``ttp rank`` has them, with means over tasks."""
    first = next(iter(sets.values()))
    rows = []
    for key, title in first.titles.items():
        values = {task: of.values[key] for task, of in sets.items()}
        quality: dict[str, dict[str, Many]] = {}
        for name in SHOWN:
            if name not in first.outcomes:
                continue
            outcomes = {task: of.outcomes[name] for task, of in sets.items()}
            quality[name] = {
                measure: measured(measure, values, outcomes) for measure in ranking.MEASURES
            }
        whole = sum((of.step_flops * of.steps).sum() for of in sets.values())
        rows.append(
            {
                "key": key,
                "title": title,
                "cost_steps": float(np.mean([of.cost_steps(key) for of in sets.values()])),
                "cost_share": float(
                    sum(of.flops[key].sum() for of in sets.values()) / whole
                ),
                "many": quality,
                "quality": {
                    name: {
                        "spearman": list(
                            dataclasses.astuple(of_outcome["spearman"].interval)
                        )
                    }
                    for name, of_outcome in quality.items()
                },
            }
        )
    return rows


def _rankings(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    head = ["ranking", "steps", "of training"]
    for name in rows[0]["many"]:
        shown = name.replace("_", " ")
        head += [f"{shown}: Spearman", "Kendall", "beaten by", "regret"]
    body = []
    for row in rows:
        cells = [row["title"], f"{row['cost_steps']:.1f}", f"{row['cost_share']:.1%}"]
        for name, of in row["many"].items():
            scale = 100 if OUTCOMES[name] else 1
            regret = Many(of["regret"].value * scale, of["regret"].resampled * scale)
            cells += [
                cell(of["spearman"]),
                cell(of["kendall"]),
                cell(of["beaten_by"], percent=True),
                cell(regret),
            ]
        body.append(cells)
    return head, body


def _spearman(sets: Mapping[Task, Columns], key: str, outcome: str) -> Many:
    return measured(
        "spearman",
        {task: of.values[key] for task, of in sets.items()},
        {task: of.outcomes[outcome] for task, of in sets.items()},
    )


def _shown(sets: Mapping[Task, Columns]) -> list[str]:
    return [name for name in SHOWN if name in next(iter(sets.values())).outcomes]


def _differences(
    sets: Mapping[Task, Columns], pairs: Sequence[tuple[str, str, str]]
) -> tuple[list[str], list[list[str]]]:
    """Spearman of one ranking less that of another, and whether zero lies outside."""
    shown = _shown(sets)
    head = ["", *(name.replace("_", " ") for name in shown)]
    body = []
    for title, one, other in pairs:
        cells = [title]
        for name in shown:
            found = _spearman(sets, one, name) - _spearman(sets, other, name)
            of = found.interval
            word = "better" if of.low > 0 else "worse" if of.high < 0 else "not told apart"
            cells.append(f"{cell(found)} {word}")
        body.append(cells)
    return head, body


def _claim(sets: Mapping[Task, Columns], observe: Sequence[int]):
    return _differences(
        sets,
        [
            (
                f"{score} - {other}, {k} real epochs",
                f"observed_{a}_{k}",
                f"observed_{b}_{k}",
            )
            for score, other, a, b in (
                ("LCGA", "TSE", "lcga", "tse"),
                ("LCGA", "TSE-E", "lcga", "tse_e"),
                ("LCGA slope", "TSE", "lcga_slope", "tse"),
            )
            for k in observe
        ],
    )


def _goal(sets: Mapping[Task, Columns], k: int):
    first = next(iter(sets.values()))
    return _differences(
        sets,
        [
            (title, key, f"observed_tse_{k}")
            for key, title in first.titles.items()
            if key.startswith("predicted_")
        ],
    )


def _trainless(groups: Mapping[Task, Sequence[Finished]], sets: Mapping[Task, Columns]):
    shown = _shown(sets)
    head = ["told", *(name.replace("_", " ") for name in shown)]
    columns = []
    for name in shown:
        outcomes = {task: of.outcomes[name] for task, of in sets.items()}
        found = regressions(groups, name)
        columns.append(
            {
                told: cell(measured("spearman", values, outcomes))
                for told, values in found.items()
            }
        )
    return head, [[told, *(column[told] for column in columns)] for told in columns[0]]


def _by_set(sets: Mapping[Task, Columns], k: int):
    """Of a few rankings."""
    first = next(iter(sets.values()))
    keys = [
        key
        for key in (
            "predicted_loss_stable",
            "predicted_held_out_loss_stable",
            "predicted_tse",
            "predicted_lcga",
            "label_gradient_correlation",
            "label_feature_correlation",
            "effective_rate",
            f"observed_tse_{k}",
            f"observed_lcga_{k}",
        )
        if key in first.titles
    ]
    names = list(dict.fromkeys(name for name, _ in sets))
    shown = _shown(sets)
    head = ["ranking"]
    head += [f"{name}, {of.replace('_', ' ')}" for name in names for of in shown]
    body = []
    for key in keys:
        cells = [first.titles[key]]
        for name in names:
            chosen = {task: of for task, of in sets.items() if task[0] == name}
            cells += [f"{_spearman(chosen, key, of).value:.2f}" for of in shown]
        body.append(cells)
    return head, body


def _trusted(group: Sequence[Finished]) -> np.ndarray:
    return np.array([of.scored.result["trust"]["ok"] for of in group])


def _among_trusted(groups: Mapping[Task, Sequence[Finished]], sets: Mapping[Task, Columns]):
    shown = _shown(sets)
    rows = {task: _trusted(group) for task, group in groups.items()}
    keys = [key for key in next(iter(sets.values())).titles if re.match("predicted_", key)]
    body = []
    for key in keys:
        values = {task: of.values[key][rows[task]] for task, of in sets.items()}
        cells = [next(iter(sets.values())).titles[key]]
        for name in shown:
            outcomes = {task: of.outcomes[name][rows[task]] for task, of in sets.items()}
            cells.append(cell(measured("spearman", values, outcomes)))
        body.append(cells)
    return ["ranking", *(name.replace("_", " ") for name in shown)], body


def _draw(figure, rows: Sequence[Mapping[str, Any]]) -> None:
    """Quality of every ranking, and over its cost."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    shown = list(rows[0]["quality"])
    axes = figure.subplots(1, 1 + len(shown), width_ratios=[1.2, *[1] * len(shown)])
    rank_figure.qualities(axes[0], rows, shown)
    for axis, name in zip(axes[1:], shown, strict=True):
        rank_figure.cost_against_quality(axis, rows, name)
    figure.legend(
        *axes[1].get_legend_handles_labels(),
        fontsize=8,
        frameon=False,
        loc="outside lower center",
        ncols=5,
    )


EXPERIMENT = harness.Experiment("ranking", {"smoke": smoke, "paper": paper}, run, draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
