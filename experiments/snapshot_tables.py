"""Tables and figures of snapshot ensembles and what stands beside them, from records alone."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness
from experiments.bench import SIDES, Side
from ttp_jax.records import Record

NO_CYCLES = "no cycles"
"""The plain run, its models averaged all the same."""
EPSILONS = (0.3, 0.1, 0.05)
"""Of the initial loss."""
MARGIN = 0.02
"""Losses that differ by less are alike."""
METHODS = (NO_CYCLES, "snapshots", "restarts", "restarts, other heads", "SWA", "FGE")
COLOURS: dict[str, str] = dict(zip(METHODS, harness.COLOURS, strict=False))


def best(entries: Sequence[dict[str, Any]], side: Side) -> dict[str, Any]:
    """The entry with the lowest loss on the half that is chosen on."""

    def loss(entry: dict[str, Any]) -> float:
        value = None if entry[side] is None else entry[side]["chosen"]["loss"]
        return np.inf if value is None else value

    return min(entries, key=loss)


@dataclass(frozen=True)
class Gain:
    """A setting against the plain run, on what is told."""

    loss: float
    """Over the plain run's."""
    accuracy: float
    """Less the plain run's, in points."""
    calibrated: float
    """Log-likelihood, less the plain run's."""


def gain(record: Record, entry: dict[str, Any], side: Side) -> Gain | None:
    """Of one setting; ``None`` of a lost run."""
    plain, own = plain_run(record, "measured")[side], entry[side]
    if plain is None or own is None:
        return None
    plain, own = plain["told"], own["told"]
    if None in (plain["loss"], own["loss"], plain["calibrated"], own["calibrated"]):
        return None
    return Gain(
        own["loss"] / plain["loss"],
        100 * (own["accuracy"] - plain["accuracy"]),
        own["calibrated"] - plain["calibrated"],
    )


def plain_run(record: Record, side: Side) -> dict[str, Any]:
    """The one to compare with: the best of the ladder and of single cosine cycles.

    A cycle at twice the chosen rate is a plain run too, and may be the better one.
    """
    found = record.result
    rate = best(found["ladder"], "measured")["rate"]
    single = [
        {**entry, "rate": entry["peak"] * rate, "schedule": "cosine"}
        for entry in found["averaged"]
        if entry["method"] == "snapshots" and entry["cycles"] == 1
    ]
    return best([*found["ladder"], *single], side)


def settings(record: Record, method: str) -> list[dict[str, Any]]:
    """What was tried of a method: averages of more than one model."""
    return [
        entry
        for entry in record.result["averaged"]
        if entry["method"] == method and entry["last"] > 1
    ]


def by_method(found: Sequence[Record], method: str) -> list[str]:
    """A row: the best setting of each task."""
    gains: dict[Side, list[Gain]] = {"predicted": [], "measured": []}
    for record in found:
        if not (tried := settings(record, method)):
            continue
        entry = best(tried, "measured")
        both = [gain(record, entry, side) for side in SIDES]
        for side, value in zip(SIDES, both, strict=True):
            if value is not None and None not in both:
                gains[side].append(value)
    real = gains["measured"]
    if not real:
        return [method, "0", *["-"] * 5]
    verdicts = [
        [_verdict(value.loss) for value in gains[side]] for side in SIDES
    ]  # fmt: skip
    foreseen = sum(p == r for p, r in zip(*verdicts, strict=True))
    columns = [
        " / ".join(
            _span([getattr(g, name) for g in gains[side]], digits) for side in SIDES[::-1]
        )
        for name, digits in (("loss", 2), ("accuracy", 1), ("calibrated", 3))
    ]
    told = f"{verdicts[1].count('better')} / {verdicts[1].count('worse')}"
    return [method, str(len(real)), *columns, told, str(foreseen)]


def _verdict(ratio: float) -> str:
    if abs(ratio - 1) <= MARGIN:
        return "alike"
    return "better" if ratio < 1 else "worse"


def _span(values: Sequence[float], digits: int) -> str:
    low, middle, high = np.min(values), np.median(values), np.max(values)
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def by_cycles(found: Sequence[Record]) -> list[list[str]]:
    """Rows: all snapshots averaged, and the last alone, by number of cycles and peak."""
    parts: dict[tuple[int, float], list[Record]] = {}
    for record in found:
        for entry in record.result["averaged"]:
            if entry["method"] == "snapshots" and entry["last"] == entry["cycles"]:
                parts.setdefault((entry["cycles"], entry["peak"]), []).append(record)
    rows = []
    for (cycles, peak), of_part in sorted(parts.items()):
        cells = []
        for method, last in (("snapshots", cycles), ("snapshots", 1), ("restarts", cycles)):
            for side in SIDES[::-1]:
                ratios = [
                    value.loss
                    for record in of_part
                    for entry in record.result["averaged"]
                    if (entry["method"], entry["cycles"], entry["peak"], entry["last"])
                    == (method, cycles, peak, last)
                    and (value := gain(record, entry, side)) is not None
                ]
                cells.append(f"{np.median(ratios):.2f}" if ratios else "-")
        both = [f"{m} / {p}" for m, p in zip(cells[::2], cells[1::2], strict=True)]
        rows.append([str(cycles), f"{peak:g}", *both])
    return rows


def distances(found: Sequence[Record], method: str) -> list[str]:
    """A row: medians over pairs of models."""
    pairs = [
        pair for record in found for pair in record.result["apart"]
        if pair["method"] == method
    ]  # fmt: skip
    if not pairs:
        return [method, "0", *["-"] * 6]

    def both(name: str, digits: int) -> str:
        cells = []
        for side in SIDES[::-1]:
            values = [pair[side][name] for pair in pairs if pair[side][name] is not None]
            cells.append(f"{np.median(values):.{digits}f}" if values else "-")
        return " / ".join(cells)

    excess = [
        pair["measured"]["output_distance"] / pair["predicted"]["output_distance"]
        for pair in pairs
    ]
    return [
        method,
        str(len(pairs)),
        both("output_distance", 2),
        _span(excess, 2),
        both("weight_distance", 3),
        both("disagreement_over_error", 2),
        both("correlation", 3),
        both("barrier", 3),
    ]


def times(found: Sequence[Record]) -> list[list[str]]:
    """Rows: steps to a share of the initial loss, over the plain run's."""
    rows = []
    peaks = sorted({e["peak"] for r in found for e in r.result["times"]})
    counts = sorted({e["cycles"] for r in found for e in _cyclic(r)})
    for cycles, peak in itertools.product(counts, peaks):
        cells, errors = [], []
        for k in range(len(EPSILONS)):
            ratios: dict[Side, list[float]] = {"predicted": [], "measured": []}
            for record in found:
                plain = next(e for e in record.result["times"] if e["method"] == NO_CYCLES)
                for entry in _cyclic(record):
                    if (entry["cycles"], entry["peak"]) != (cycles, peak):
                        continue
                    for side in SIDES:
                        steps, of_plain = entry[side][k], plain[side][k]
                        if steps and of_plain:
                            ratios[side].append(of_plain / steps)
                    predicted, real = entry["predicted"][k], entry["measured"][k]
                    if predicted and real:
                        errors.append(abs(predicted / real - 1))
            cells.append(
                " / ".join(
                    f"{np.median(ratios[side]):.2f} ({len(ratios[side])})"
                    if ratios[side]
                    else "-"
                    for side in SIDES[::-1]
                )
            )
        off = harness.percent(float(np.median(errors))) if errors else "-"
        rows.append([str(cycles), f"{peak:g}", *cells, off])
    return rows


def _cyclic(record: Record) -> list[dict[str, Any]]:
    return [e for e in record.result["times"] if e["method"] == "snapshots"]


def name_of(record: Record) -> str:
    """Network and pictures."""
    task = record.config["task"]
    return f"{task['model']}, {Path(task['data']).stem}"


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Gains, distances and times as tables; both sides against each other; curves."""
    found = sorted(found, key=lambda r: (name_of(r), r.config["task"]["seed"]))
    text = harness.table(
        [
            "best setting of each task (measured / predicted)",
            "tasks",
            "loss over the plain run's",
            "accuracy less its, points",
            "calibrated log-likelihood less its",
            f"really better / worse by more than {MARGIN:.0%}",
            "of all tasks, foreseen",
        ],
        [by_method(found, method) for method in METHODS],
    )
    text += "\n" + harness.table(
        ["cycles", "peak over the plain rate", "loss of all averaged, over the plain run's",
         "of the last one", "of as many restarts"],
        by_cycles(found),
    )  # fmt: skip
    text += "\n" + harness.table(
        ["pairs of", "pairs", "distance of outputs", "measured over predicted",
         "distance of weights", "disagreement over error", "correlation", "barrier"],
        [distances(found, method) for method in METHODS if method != "SWA"],
    )  # fmt: skip
    text += "\n" + harness.table(
        ["cycles", "peak", *(f"times sooner at {e:g} of the start" for e in EPSILONS),
         "predicted time off"],
        times(found),
    )  # fmt: skip
    text += "\n" + harness.table(
        ["task", "seed", "plain rate", "schedule", "by the prediction", "loss by that, over",
         "trusted"],
        [_plain_row(record) for record in found],
    )  # fmt: skip
    figure, axes = harness.canvas(8, 3.9, 1, 2)
    _gains(axes[0, 0], found)
    _apart(axes[0, 1], found)
    shown = [
        r for r in found if r.config["task"]["seed"] == found[0].config["task"]["seed"]
    ]
    curves, panels = harness.canvas(3.3 * len(shown), 3, 1, len(shown))
    for axis, record in zip(panels[0], shown, strict=True):
        _curves(axis, record)
    panels[0, 0].set_ylabel("training loss")
    panels[0, -1].legend(frameon=False, fontsize=7)
    return text, {"snapshots": figure, "curves": curves}


def _plain_row(record: Record) -> list[str]:
    """The plain run, and the one that the prediction would have chosen."""
    real, named = plain_run(record, "measured"), plain_run(record, "predicted")
    worse = named["measured"] and named["measured"]["told"]["loss"]
    return [
        name_of(record),
        str(record.config["task"]["seed"]),
        f"{real['rate']:g}",
        real["schedule"],
        f"{named['rate']:g}, {named['schedule']}",
        f"{worse / real['measured']['told']['loss']:.2f}" if worse else "-",
        "yes" if record.result["trust"]["ok"] else "no",
    ]


def _gains(axis, found: Sequence[Record]) -> None:
    """Loss over the plain run's, predicted over measured, every setting."""
    points = {
        method: [
            (real.loss, predicted.loss)
            for record in found
            for entry in settings(record, method)
            if (real := gain(record, entry, "measured")) is not None
            and (predicted := gain(record, entry, "predicted")) is not None
        ]
        for method in METHODS
    }
    _against(axis, points)
    axis.axvline(1, color="0.85", linewidth=0.8, zorder=0)
    axis.axhline(1, color="0.85", linewidth=0.8, zorder=0)
    axis.set_xlabel("measured held-out loss over the plain run's", fontsize=9)
    axis.set_ylabel("predicted", fontsize=9)
    axis.legend(frameon=False, fontsize=7)


def _apart(axis, found: Sequence[Record]) -> None:
    """Distances of outputs, those of linear models over the real ones."""
    points = {
        method: [
            (pair["measured"]["output_distance"], pair["predicted"]["output_distance"])
            for record in found
            for pair in record.result["apart"]
            if pair["method"] == method
        ]
        for method in METHODS
    }
    _against(axis, points)
    axis.set_xlabel("measured distance of two models' outputs", fontsize=9)
    axis.set_ylabel("predicted", fontsize=9)


def _against(axis, points: Mapping[str, list[tuple[float, float]]]) -> None:
    """A mark a pair, both axes alike, ticks at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter

    every = np.array([pair for found in points.values() for pair in found])
    if not len(every):
        return
    ends = every.min() / 1.1, every.max() * 1.1
    for method, found in points.items():
        if found:
            axis.plot(
                *np.array(found).T, "o", color=COLOURS[method], markersize=3, alpha=0.7,
                label=method,
            )  # fmt: skip
    axis.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
    axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    subs = (1, 2, 5) if ends[1] < 100 * ends[0] else (1,)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(LogLocator(subs=subs))
        side.set_major_formatter("{x:g}")
        side.set_minor_formatter(NullFormatter())


def _curves(axis, record: Record) -> None:
    """Training loss of the plain run and of snapshots at the highest peak."""
    peak = max(
        (name.split("_")[1] for name in record.curves if name.startswith("snapshots")),
        key=float,
        default=None,
    )
    runs = {"plain": "#8d99ae", f"snapshots_{peak}": "#d1495b"}
    for run, colour in runs.items():
        for side, style in (("measured", "-"), ("predicted", "--")):
            curve = record.curves.get(f"{run}_{side}")
            if curve is not None:
                label = f"{run.split('_')[0]}, {side}"
                axis.semilogy(
                    curve.steps, curve.loss, style, color=colour, linewidth=1.1, label=label
                )
    axis.set_xlabel("step")
    axis.set_title(name_of(record), fontsize=8)
