"""One table and one figure of what training methods save, from records alone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness
from experiments.freezeout_tables import (
    GOAL,
    MARGIN,
    SIDES,
    best,
    plain_ticks,
    ratio,
    scored,
    times,
)
from ttp_jax import records
from ttp_jax.records import Record
from ttp_jax.types import Curve

COSTS = ("steps", "operations", "seconds")
EPSILONS = (0.3, 0.1, 0.03, 0.01)
"""Of the initial loss."""
OTHERS = Path(__file__).resolve().parent.parent / "results"
"""Committed records of the methods' own experiments."""
METHODS = ("snapshot", "freezeout", "masks", "freezeout+snapshot", "freezeout+agent")
COLOURS = dict(zip((*METHODS, "agent", "alpha_svrg"), harness.COLOURS, strict=False))
OF = "of its own experiment"
"""Said of what other experiments have left."""


def _own(found: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """A method on a task: ratios at every threshold, and its end over the plain run's."""
    for record in found:
        plain = best(record.result["ladder"])
        for run in record.result["runs"]:
            curves = {
                side: (
                    record.curves[f"{run['method']}_{side}"],
                    record.curves[f"plain_{side}"],
                )
                for side in SIDES
            }
            yield {
                "method": run["method"],
                "source": "here",
                "beside": "tuned plain run",
                "ok": run["trust"]["ok"],
                "ratios": _ratios(curves),
                "ends": {side: _end(run[side], plain[side]) for side in SIDES},
            }


def _of_snapshots(found: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Four cycles at the plain run's rate, all averaged. Every step costs the same."""
    for record in found:
        curves = {
            side: tuple(
                record.curves[f"{name}_{side}"] for name in ("snapshots_1", "plain")
            )
            for side in SIDES
        }
        cycles = record.config["looked_at"]

        def told(method: str, last: int, side: str, record=record, cycles=cycles):
            quality = next(
                entry[side]
                for entry in record.result["averaged"]
                if (entry["method"], entry["peak"], entry["cycles"], entry["last"])
                == (method, 1.0, cycles, last)
            )
            return {"quality": quality, "operations": 1.0}

        yield {
            "method": "snapshot",
            "source": OF,
            "beside": "tuned plain run",
            "ok": record.result["trust"]["ok"],
            "ratios": _ratios(curves, {"steps": 1.0, "operations": 1.0}),
            "ends": {
                side: _end(told("snapshots", cycles, side), told("no cycles", 1, side))
                for side in SIDES
            },
        }


def _of_freezeout(found: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """The same setting as here, of three groups that learn."""
    for record in found:
        plain = best(record.result["ladder"])
        run = next(
            run
            for run in record.result["runs"]
            if (run["kind"], run["t0"]) == ("cubic scaled", 0.8)
        )
        curves = {
            side: (
                record.curves[f"cubic scaled_0.8_{side}"],
                record.curves[f"plain_{side}"],
            )
            for side in SIDES
        }
        yield {
            "method": "freezeout",
            "source": OF,
            "beside": "tuned plain run",
            "ok": run["trust"]["ok"],
            "ratios": _ratios(curves),
            "ends": {side: _end(run[side], plain[side]) for side in SIDES},
        }


def _of_agent(found: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Corrections beside the same masks without; a step costs so many passes more."""
    for record in found:
        for method in ("agent", "alpha_svrg"):
            runs = record.result["runs"]
            curves = {
                side: tuple(record.curves[f"{name}_{side}"] for name in (method, "none"))
                for side in SIDES
            }
            passes = runs[method]["passes"]

            def told(name: str, side: str, passes: float, runs=runs) -> dict[str, Any]:
                of = runs[name][side]
                quality = {
                    "trained": {"loss": of["loss"]},
                    "told": {
                        "loss": of["held_out_loss"],
                        "accuracy": of["held_out_accuracy"],
                    },
                }
                return {"quality": quality, "operations": passes}

            yield {
                "method": method,
                "source": OF,
                "beside": "same masks, uncorrected",
                "ok": None,
                "ratios": _ratios(curves, {"steps": 1.0, "operations": 1 / passes}),
                "ends": {
                    side: _end(told(method, side, passes), told("none", side, 1.0))
                    for side in SIDES
                },
            }


def _ratios(
    curves: Mapping[str, tuple[Curve, ...]], steps_times: dict[str, float] | None = None
) -> list[dict[str, Any]]:
    """Costs of the run beside over those of the method, at each threshold and in each cost.

    Args:
        curves: Of both, by side.
        steps_times: Where operations are not on the curves: costs as steps times so much.
    """
    found = []
    for epsilon in EPSILONS:
        for cost in COSTS if steps_times is None else steps_times:
            times_steps = None if steps_times is None else steps_times[cost]
            of = cost if times_steps is None else "steps"
            both = {
                side: ratio(curves[side][0], curves[side][1], epsilon, of) for side in SIDES
            }
            if times_steps is not None:
                both = {side: value * times_steps for side, value in both.items()}
            found.append({"epsilon": epsilon, "cost": cost, **both})
    return found


def _end(own: dict[str, Any], plain: dict[str, Any]) -> dict[str, float]:
    """Losses and operations at the end over the plain run's, and points of accuracy more."""

    def quality(side: dict[str, Any], part: str, name: str) -> float:
        value = None if side["quality"] is None else side["quality"][part].get(name)
        return np.nan if value is None else value

    pairs = {
        part: [quality(side, part, "loss") for side in (own, plain)]
        for part in ("trained", "told")
    }
    accuracy = [quality(side, "told", "accuracy") for side in (own, plain)]
    return {
        **{part: a / b if b else np.nan for part, (a, b) in pairs.items()},
        "points": 100 * (accuracy[0] - accuracy[1]),
        "operations": own["operations"] / plain["operations"],
    }


def entries(found: Sequence[Record]) -> list[dict[str, Any]]:
    """All methods on all tasks, those of the other experiments' records too."""
    others = {
        name: [
            records.load(f.parent) for f in sorted((OTHERS / name).glob("*/record.json"))
        ]
        for name in ("snapshots", "freezeout", "agent")
    }
    return [
        *_own(found),
        *_of_snapshots(others["snapshots"]),
        *_of_freezeout(others["freezeout"]),
        *_of_agent(others["agent"]),
    ]


def _middle(values: Sequence[float]) -> str:
    known = [value for value in values if not np.isnan(value)]
    return times(float(np.quantile(known, 0.5, method="lower"))) if known else "-"


def _row(key: tuple[str, str, str], own: Sequence[dict[str, Any]]) -> list[str]:
    cells = [*key, str(len(own))]
    for cost in COSTS:
        of = [r for e in own for r in e["ratios"] if r["cost"] == cost]
        there = [r for r in of if not np.isnan(r["measured"])]
        cells.append(" / ".join(_middle([r[side] for r in there]) for side in SIDES))
    for of in ("operations", "trained", "told"):
        cells.append(
            " / ".join(_middle([e["ends"][side][of] for e in own]) for side in SIDES)
        )
    points = [e["ends"]["measured"]["points"] for e in own]
    cells.append("-" if np.isnan(points).all() else f"{np.nanmean(points):+.1f}")
    ratios = [r for e in own for r in e["ratios"] if r["cost"] == "operations"]
    number, _, within, side = scored(ratios)
    return [*cells, number, within, side]


def draw(found: Sequence[Record]) -> harness.Drawing:
    """The table, how good the predicted speed-ups are, and the figure."""
    all_of = entries(found)
    order = list(COLOURS)
    keys = sorted(
        {(e["method"], e["source"], e["beside"]) for e in all_of},
        key=lambda key: (order.index(key[0]), key[1] != "here"),
    )
    rows = [
        _row(key, [e for e in all_of if (e["method"], e["source"], e["beside"]) == key])
        for key in keys
    ]
    head = [
        "method", "from", "beside", "runs", "times fewer steps", "operations", "seconds",
        "operations in all", "training loss", "held-out loss", "points",
        "thresholds", f"within {GOAL:.0%}",
        "right sign",
    ]  # fmt: skip
    shares = ", ".join(f"{epsilon:g}" for epsilon in EPSILONS)
    text = (
        "# What training methods save\n\n"
        "From the records here and those of the methods' own experiments, by `python -m "
        "experiments.speed_ups table`. Pairs are predicted / measured. Speed-ups are the cost "
        f"of the run beside to {shares} of the initial loss over the method's: above 1 the "
        "method saves, 0 where it never arrives and the other does, inf the other way round; "
        "medians (the lower) over runs and thresholds that either really reaches (predicted: "
        "that either is told to reach, of these). Operations of the whole budget and losses at "
        "its end are over the other's, medians; points of held-out accuracy more, mean, "
        f"measured. Within {GOAL:.0%} and the right sign (ratios within {MARGIN:.0%} of "
        "one count as one): of the predicted speed-ups in operations.\n\n"
    )
    text += harness.table(head, rows)
    text += (
        "\n## How good the predicted speed-ups are\n\n"
        "All methods together. `not one`: thresholds whose measured speed-up is not one.\n\n"
    )
    text += harness.table(
        ["records", "cost", "thresholds", "error", f"within {GOAL:.0%}", "right sign"],
        _scores(all_of),
    )
    return text, {"speed_ups": _figure(all_of)}


def _scores(all_of: Sequence[dict[str, Any]]) -> list[list[str]]:
    here = [e for e in all_of if e["source"] == "here"]
    together = [e for e in here if "+" in e["method"]]
    kinds = {
        "here": here,
        "here, trusted": [e for e in here if e["ok"]],
        "here, compositions": together,
        "here, compositions, trusted": [e for e in together if e["ok"]],
        "of the other experiments": [e for e in all_of if e["source"] != "here"],
    }
    rows = []
    for name, of in kinds.items():
        for cost in COSTS:
            ratios = [r for e in of for r in e["ratios"] if r["cost"] == cost]
            if ratios:
                rows.append([name, cost, *scored(ratios)])
        moved = [
            r
            for e in of
            for r in e["ratios"]
            if r["cost"] == "operations" and abs(r["measured"] - 1) >= MARGIN
        ]
        rows.append([f"{name}, not one", "operations", *scored(moved)])
    return rows


def _figure(all_of: Sequence[dict[str, Any]]):
    """Speed-ups predicted and measured, and what is left of the loss for the operations."""
    figure, axes = harness.canvas(9.5, 4, 1, 2)
    left, right = axes[0]
    values = []
    for method, colour in COLOURS.items():
        own = [e for e in all_of if e["method"] == method]
        for source, filled in (("here", True), (OF, False)):
            of = [e for e in own if e["source"] == source]
            face = colour if filled else "white"
            points = [
                (r["measured"], r["predicted"])
                for e in of
                for r in e["ratios"]
                if r["cost"] == "operations"
                and all(np.isfinite(r[side]) and r[side] > 0 for side in SIDES)
            ]
            style = {
                "color": colour,
                "markerfacecolor": face,
                "markersize": 4,
                "alpha": 0.8,
            }
            if points:
                values += [value for point in points for value in point]
                left.plot(*np.transpose(points), "o", **style)
            ends = [
                (
                    e["ends"][side]["operations"],
                    np.clip(e["ends"][side]["trained"], 0.1, 100),
                )
                for e in of
                for side in ("measured",)
                if np.isfinite(e["ends"][side]["trained"])
            ]
            if ends:
                right.plot(*np.transpose(ends), "o", **style)
        if own:
            left.plot([], [], "o", color=colour, label=method, markersize=4)
    left.plot([], [], "ko", markerfacecolor="white", label=OF, markersize=4)
    low, high = (min(values) * 0.8, max(values) * 1.25) if values else (0.5, 2.0)
    line = np.array([low, high])
    left.plot(line, line, color="0.6", linewidth=0.8, zorder=0)
    left.fill_between(
        line, line * (1 - GOAL), line * (1 + GOAL), color="0.9", linewidth=0, zorder=0
    )
    left.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    for each in (left.xaxis, left.yaxis):
        plain_ticks(each, (low, high))
    left.set_xlabel("measured speed-up, in operations", fontsize=8)
    left.set_ylabel("predicted", fontsize=8)
    left.legend(frameon=False, fontsize=7)
    right.axhline(1, color="0.8", linewidth=0.8, zorder=0)
    right.axvline(1, color="0.8", linewidth=0.8, zorder=0)
    right.set_yscale("log")
    plain_ticks(right.yaxis, right.get_ylim())
    right.set_xlabel("operations over those of the run beside, whole budget", fontsize=8)
    right.set_ylabel("training loss at the end over its, measured", fontsize=8)
    return figure
