"""Tables and figures of FreezeOut beside a plain run, from records alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness
from ttp_jax.records import Record
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve

EPSILONS = (0.3, 0.1, 0.03)
"""Of the initial loss."""
SIDES = ("predicted", "measured")
MARGIN = 0.02
"""Costs that differ by less are alike."""
GOAL = 0.15
"""Error of a speed-up that is aimed at."""
KINDS = ("cosine", "cubic scaled", "linear unscaled", "AutoFreeze")
COLOURS = dict(zip(KINDS, harness.COLOURS, strict=False))


def best(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The real run with the lowest loss on the half that is chosen on."""

    def loss(entry: dict[str, Any]) -> float:
        quality = entry["measured"]["quality"]
        return np.inf if quality is None else quality["chosen"]["loss"]

    return min(entries, key=loss)


def task_of(record: Record) -> str:
    """Network and data, without folders."""
    task = record.config["task"]
    return f"{task['model']}, {Path(task['data'].removeprefix('npz:')).stem}"


def called(entry: dict[str, Any]) -> str:
    """A way to freeze."""
    t0 = "" if entry["t0"] is None or entry["kind"] == "cosine" else f", t0 {entry['t0']:g}"
    return f"{entry['kind']}{t0}"


def _over(own: dict, plain: dict, of: str) -> float:
    """Of a run that lost the numbers, and ended there, there is none."""
    if own["quality"] is None or own[of] is None or not plain[of]:
        return np.nan
    return own[of] / plain[of]


def _loss(side: dict[str, Any], part: str) -> float:
    loss = None if side["quality"] is None else side["quality"][part]["loss"]
    return np.nan if loss is None else loss


def frontier(found: Sequence[Record]) -> list[list[str]]:
    """A row for each task and way to freeze, medians over seeds."""
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    for record in found:
        plain = best(record.result["ladder"])
        for entry in record.result["runs"]:
            values: dict[str, float] = {}
            for side in SIDES:
                own, other = entry[side], plain[side]
                values |= {
                    f"{side}_operations": 1 - _over(own, other, "operations"),
                    f"{side}_seconds": 1 - _over(own, other, "seconds"),
                    f"{side}_trained": _loss(own, "trained") / _loss(other, "trained"),
                    f"{side}_told": _loss(own, "told") / _loss(other, "told"),
                }
            measured = entry["measured"]["quality"]
            values["accuracy"] = np.nan
            if measured is not None:
                before = plain["measured"]["quality"]["told"]["accuracy"]
                values["accuracy"] = 100 * (measured["told"]["accuracy"] - before)
            values["lost"] = float(measured is None)
            values["ok"] = float(entry["trust"]["ok"])
            rows.setdefault((task_of(record), called(entry)), []).append(values)
    table = []
    for (task, name), seeds in rows.items():
        middle = {key: _median([s[key] for s in seeds]) for key in seeds[0]}
        cells = [
            " / ".join(_percent(middle[f"{side}_{of}"]) for side in SIDES)
            for of in ("operations", "seconds")
        ]
        cells += [
            " / ".join(times(middle[f"{side}_{of}"]) for side in SIDES)
            for of in ("trained", "told")
        ]
        lost = int(sum(s["lost"] for s in seeds))
        points = "-" if np.isnan(middle["accuracy"]) else f"{middle['accuracy']:+.1f}"
        trusted = f"{int(sum(s['ok'] for s in seeds))} of {len(seeds)}"
        table.append([task, name, *cells, points, str(lost), trusted])
    return table


def speed_ups(found: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Cost of the plain run to a threshold over that of a run that freezes, both sides.

    A side where only one of both arrives has an infinite ratio or none: ``inf`` and 0.
    """
    for record in found:
        cosine = next(e for e in record.result["runs"] if e["kind"] == "cosine")
        names = {"plain": "plain", "cosine": named(cosine)}
        for entry in record.result["runs"]:
            for epsilon in EPSILONS:
                for beside, other in names.items():
                    if beside == "cosine" and entry is cosine:
                        continue
                    for cost in ("steps", "operations", "seconds"):
                        yield {
                            "task": task_of(record),
                            "of": called(entry),
                            "kind": entry["kind"],
                            "epsilon": epsilon,
                            "beside": beside,
                            "cost": cost,
                            "ok": entry["trust"]["ok"],
                            **{
                                side: ratio(
                                    record.curves[f"{named(entry)}_{side}"],
                                    record.curves[f"{other}_{side}"],
                                    epsilon,
                                    cost,
                                )
                                for side in SIDES
                            },
                        }


def named(entry: dict[str, Any]) -> str:
    """What the curves of a run are called, before the side."""
    return f"{entry['kind']}_{entry['t0']}"


def ratio(own: Curve, other: Curve, epsilon: float, cost: str) -> float:
    """Cost of another run to a share of the initial loss, over that of its own; see above."""
    costs = [_cost_to(curve, epsilon, cost) for curve in (own, other)]
    mine, others = costs
    if mine is None:
        return np.nan if others is None else 0.0
    if others is None:
        return np.inf
    return others / mine if mine else np.nan


def _cost_to(curve: Curve, epsilon: float, cost: str) -> float | None:
    reached = time_to_threshold(curve, epsilon, "fraction_of_initial").steps
    if reached is None:
        return None
    return float(getattr(curve, cost)[np.searchsorted(curve.steps, reached)])


def _side_of_one(ratio: float) -> int:
    return 0 if abs(ratio - 1) < MARGIN else int(np.sign(ratio - 1))


def scored(entries: Sequence[dict[str, Any]]) -> list[str]:
    """How many there are, the median error, within the goal, and on the right side of one."""
    there = [e for e in entries if not np.isnan(e["measured"])]
    errors, right = [], 0
    for entry in there:
        told, real = entry["predicted"], entry["measured"]
        if np.isfinite(told) and np.isfinite(real) and told > 0 and real > 0:
            errors.append(abs(told - real) / real)
        else:
            errors.append(0.0 if told == real else np.inf)
        sides = _side_of_one(told) if not np.isnan(told) else None, _side_of_one(real)
        right += sides[0] == sides[1]
    if not there:
        return ["0", "-", "-", "-"]
    within = np.mean([e <= GOAL for e in errors])
    middle = float(np.quantile(errors, 0.5, method="higher"))
    return [
        str(len(there)),
        harness.percent(middle),
        harness.percent(float(within)),
        harness.percent(right / len(there)),
    ]


def _median(values: Sequence[float]) -> float:
    known = [v for v in values if not np.isnan(v)]
    return float(np.median(known)) if known else np.nan


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0%}"


def times(value: float) -> str:
    """A ratio in few digits."""
    return "-" if np.isnan(value) else f"{value:.2f}" if value < 100 else f"{value:.1g}"


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Tables and two figures."""
    ratios = list(speed_ups(found))
    score_rows = []
    for beside in ("plain", "cosine"):
        for cost in ("steps", "operations", "seconds"):
            of = [e for e in ratios if (e["beside"], e["cost"]) == (beside, cost)]
            for name, kept in (
                ("all", of),
                ("trusted", [e for e in of if e["ok"]]),
            ):
                score_rows.append([beside, cost, name, *scored(kept)])
    by_threshold = []
    names = list(dict.fromkeys((e["task"], e["of"]) for e in ratios))
    for task, name in names:
        cells = []
        for epsilon in EPSILONS:
            own = [
                e
                for e in ratios
                if (e["task"], e["of"], e["epsilon"], e["beside"], e["cost"])
                == (task, name, epsilon, "plain", "operations")
            ]
            cells.append(
                " / ".join(times(_median([e[side] for e in own])) for side in SIDES)
            )
        by_threshold.append([task, name, *cells])
    seeds = sorted({record.config["task"]["seed"] for record in found})
    text = (
        "# FreezeOut: loss for cost, predicted and run\n\n"
        f"{len(found)} runs of {len({task_of(r) for r in found})} tasks, seeds "
        f"{', '.join(map(str, seeds))}. Pairs are predicted / measured, medians over seeds. "
        "From the records beside this file.\n\n"
        "## At the end of the budget, against the tuned plain run\n\n"
        "Operations and seconds saved; training loss and held-out loss over the plain run's; "
        "held-out accuracy less its, in points (measured); real runs that lost the numbers; "
        "predictions that were trusted.\n\n"
    )
    head = [
        "task", "freezing", "operations saved", "seconds saved", "training loss",
        "held-out loss", "points", "lost", "trusted",
    ]  # fmt: skip
    text += harness.table(head, frontier(found))
    text += (
        "\n## Times cheaper to a share of the initial loss, in operations\n\n"
        "Cost of the plain run over that of the run that freezes; 0 where only the plain run "
        "arrives, inf where it alone does not, - where neither.\n\n"
    )
    text += harness.table(["task", "freezing", *map(str, EPSILONS)], by_threshold)
    text += (
        "\n## How good the predicted speed-ups are\n\n"
        f"Median error, share within {GOAL:.0%}, and on the right side of one (ratios within "
        f"{MARGIN:.0%} of one count as one); against the tuned plain run and against the "
        "cosine run that freezes nothing.\n\n"
    )
    text += harness.table(
        ["against", "cost", "predictions", "number", "error", f"within {GOAL:.0%}", "side"],
        score_rows,
    )
    return text, {"frontier": _frontier(found), "speed_up": _scatter(ratios)}


def _frontier(found: Sequence[Record]):
    tasks = list(dict.fromkeys(task_of(record) for record in found))
    figure, axes = harness.canvas(4.2 * len(tasks), 3.6, 1, len(tasks))
    for axis, task in zip(axes[0], tasks, strict=True):
        for record in found:
            if task_of(record) != task:
                continue
            plain = best(record.result["ladder"])
            for side, filled in (("predicted", False), ("measured", True)):
                for kind in KINDS:
                    points = sorted(
                        (
                            _over(entry[side], plain[side], "operations"),
                            _loss(entry[side], "trained") / _loss(plain[side], "trained"),
                        )
                        for entry in record.result["runs"]
                        if entry["kind"] == kind
                        and np.isfinite(_loss(entry[side], "trained"))
                    )
                    if not points:
                        continue
                    x, y = np.transpose(points)
                    colour = COLOURS[kind]
                    axis.plot(
                        x,
                        np.clip(y, None, 1e3),
                        marker="o",
                        markersize=4,
                        color=colour,
                        markerfacecolor=colour if filled else "white",
                        linestyle="-" if filled else ":",
                        linewidth=0.8,
                        alpha=0.85,
                    )
        axis.axhline(1, color="0.8", linewidth=0.8, zorder=0)
        axis.set_yscale("log")
        plain_ticks(axis.yaxis, axis.get_ylim())
        axis.set_title(task, fontsize=9)
        axis.set_xlabel("operations over the plain run's", fontsize=8)
    axes[0, 0].set_ylabel("training loss at the end over the plain run's", fontsize=8)
    for kind in KINDS:
        axes[0, -1].plot([], [], "o-", color=COLOURS[kind], label=kind, markersize=4)
    axes[0, -1].plot(
        [], [], "ko:", markerfacecolor="white", label="predicted", markersize=4
    )
    axes[0, -1].plot([], [], "ko-", label="measured", markersize=4)
    axes[0, -1].legend(frameon=False, fontsize=7)
    return figure


def plain_ticks(axis, limits: tuple[float, float]) -> None:
    """Powers of two, or of ten where these would be too many, as plain numbers."""
    twos = 2.0 ** np.arange(-6, 7)
    tens = 10.0 ** np.arange(-6, 7)
    ticks = twos if limits[1] / limits[0] < 100 else tens
    axis.set_ticks([], minor=True)
    axis.set_ticks([t for t in ticks if limits[0] <= t <= limits[1]])
    axis.set_major_formatter("{x:g}")


def _scatter(ratios: Sequence[dict[str, Any]]):
    costs = ("steps", "operations", "seconds")
    figure, axes = harness.canvas(4 * len(costs), 3.8, 1, len(costs))
    for axis, cost in zip(axes[0], costs, strict=True):
        values = []
        for kind in KINDS:
            both = [
                (e["measured"], e["predicted"])
                for e in ratios
                if (e["kind"], e["cost"], e["beside"]) == (kind, cost, "plain")
                and all(np.isfinite(e[side]) and e[side] > 0 for side in SIDES)
            ]
            if both:
                x, y = np.transpose(both)
                values += [*x, *y]
                axis.plot(
                    x, y, "o", color=COLOURS[kind], label=kind, markersize=4, alpha=0.8
                )
        low, high = (min(values) * 0.8, max(values) * 1.25) if values else (0.5, 2)
        line = np.array([low, high])
        axis.plot(line, line, color="0.6", linewidth=0.8)
        axis.fill_between(
            line, line * (1 - GOAL), line * (1 + GOAL), color="0.9", linewidth=0, zorder=0
        )
        axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        for each in (axis.xaxis, axis.yaxis):
            plain_ticks(each, (low, high))
        axis.set_title(f"times cheaper, in {cost}", fontsize=9)
        axis.set_xlabel("measured", fontsize=8)
    axes[0, 0].set_ylabel("predicted", fontsize=8)
    axes[0, 0].legend(frameon=False, fontsize=7)
    return figure
