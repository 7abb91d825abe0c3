"""The picture of a ranking: what rankings cost and are worth, or how far they agree."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ttp_jax.records import Record
from ttp_jax.report.rank_table import OUTCOMES

_KINDS = {
    "observed": ("#1d3557", "o", "real epochs"),
    "predicted": ("#d1495b", "D", "predicted curve, no training"),
    "regressed": ("#2a9d8f", "s", "regression on logged runs"),
    "other": ("#8d99ae", "^", "no curve at all"),
}
"""Colour, marker and name of a kind of ranking, by the start of its key."""
_LINES = {"tse": ("-", "TSE"), "lcga": ("--", "LCGA")}
"""Rankings by real epochs that are joined over the number of them."""
_FILLS = ("full", "none", "left")
"""Of the markers of an outcome."""
_CHEAPEST = 1e-3
"""Share of training at which rankings that cost nothing are drawn."""


def draw(record: Record, file: Path) -> None:
    """Cost against quality where all candidates were trained; else their places.

    Args:
        record: Of a ranking.
        file: ``.png`` or ``.pdf``.
    """
    # Imported here: matplotlib takes longer to load than everything else together.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = record.result["rankings"]
    measured = list(rows[0]["quality"] or {})
    count = len(record.result["candidates"])
    if measured:
        figure = Figure(
            figsize=(6.5 + 3 * len(measured), max(4.5, 1.2 + 0.2 * len(rows))),
            layout="constrained",
        )
        FigureCanvasAgg(figure)
        axes = figure.subplots(
            1, 1 + len(measured), width_ratios=[1.15, *[1] * len(measured)]
        )
        qualities(axes[0], rows, measured)
        for axis, outcome in zip(axes[1:], measured, strict=True):
            cost_against_quality(axis, rows, outcome)
        figure.legend(
            *axes[1].get_legend_handles_labels(),
            fontsize=7.5,
            frameon=False,
            loc="outside lower center",
            ncols=5,
        )
        figure.suptitle(
            f"{count} candidates on {record.config['data']}: how rankings agree with how "
            "the runs ended (bars: 95 %, bootstrap over candidates)",
            fontsize=10,
        )
    else:
        figure = Figure(
            figsize=(3.2 + 0.34 * len(rows), 2.6 + 0.3 * count), layout="constrained"
        )
        FigureCanvasAgg(figure)
        places(figure.subplots(), record.result)
        figure.suptitle(
            f"{count} candidates on {record.config['data']}: place by every ranking",
            fontsize=10,
        )
    figure.savefig(file, dpi=130)


def kind_of(key: str) -> str:
    """What sort of ranking it is, a key of the styles above."""
    start = key.split("_")[0]
    return start if start in _KINDS else "other"


def qualities(axis, rows: Sequence[Mapping[str, Any]], outcomes: Sequence[str]) -> None:
    """Spearman of every ranking, one below the other, an outcome a marker."""
    from matplotlib.lines import Line2D

    at = np.arange(len(rows))
    fills = {
        name: fill for name, fill in zip(outcomes, ("full", "none", "left"), strict=False)
    }
    for k, outcome in enumerate(outcomes):
        shift = 0.22 * (k - (len(outcomes) - 1) / 2)
        for y, row in zip(at, rows, strict=True):
            value, low, high = row["quality"][outcome]["spearman"]
            if value is None:
                continue
            colour, marker, _ = _KINDS[kind_of(row["key"])]
            if low is not None:
                axis.hlines(y + shift, low, high, color=colour, alpha=0.35, linewidth=1.2)
            axis.plot(
                value,
                y + shift,
                marker,
                color=colour,
                fillstyle=fills[outcome],
                markersize=4.5,
            )
    axis.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    axis.set_yticks(at, [row["title"] for row in rows], fontsize=7)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(-1.03, 1.03)
    axis.set_xlabel("Spearman correlation of the places", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    common: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 4.5}
    handles = [
        Line2D([], [], color="0.3", **{**common, "fillstyle": fill})
        for fill in fills.values()
    ]
    axis.legend(
        handles,
        [OUTCOMES[name] for name in outcomes],
        fontsize=7,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=len(outcomes),
        columnspacing=0.8,
        handletextpad=0.1,
    )
    axis.spines[["top", "right"]].set_visible(False)


def cost_against_quality(axis, rows: Sequence[Mapping[str, Any]], outcome: str) -> None:
    """Spearman over the share of training that a ranking costs; real epochs joined."""
    seen = set()
    for row in rows:
        value = row["quality"][outcome]["spearman"][0]
        if value is None or _epochs(row["key"])[0] in _LINES:
            continue
        kind = kind_of(row["key"])
        colour, marker, name = _KINDS[kind]
        axis.plot(
            max(row["cost_share"], _CHEAPEST),
            value,
            marker,
            color=colour,
            markersize=4.5,
            alpha=0.8,
            linestyle="none",
            label=None
            if kind in seen
            else name
            if kind != "observed"
            else "TSE-E and LCGA slope, real epochs",
        )
        seen.add(kind)
    for key, (line, name) in _LINES.items():
        points = [
            (
                row["cost_share"],
                row["quality"][outcome]["spearman"][0],
                _epochs(row["key"])[1],
            )
            for row in rows
            if _epochs(row["key"])[0] == key
        ]
        points = sorted(point for point in points if point[1] is not None)
        if not points:
            continue
        cost, value, _ = zip(*points, strict=True)
        colour = _KINDS["observed"][0]
        axis.plot(
            cost, value, line, marker="o", color=colour, markersize=4.5,
            fillstyle="full" if key == "tse" else "none", label=f"{name}, so many real epochs",
        )  # fmt: skip
        if key == "tse":
            for x, y, k in points:
                axis.annotate(
                    f"{k}", (x, y), xytext=(-5, 3), textcoords="offset points",
                    fontsize=6.5, color=colour, ha="right",
                )  # fmt: skip
    axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axis.set_xscale("log")
    axis.set_ylim(-1.05, 1.12)
    axis.set_xlabel("operations, share of training all to the end", fontsize=8)
    axis.set_ylabel("Spearman", fontsize=8)
    axis.set_title(f"real {OUTCOMES[outcome]}", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    dearest = max(row["cost_share"] for row in rows)
    ticks = {
        _CHEAPEST: r"$\leq$0.1 %",
        0.01: "1 %",
        0.1: "10 %",
        1.0: "100 %",
        10.0: "1000 %",
    }
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.set_xlim(0.7 * _CHEAPEST, 1.5 * max(dearest, 1.0))
    axis.minorticks_off()


def _epochs(key: str) -> tuple[str, int]:
    """Which score of how many real epochs."""
    found = re.fullmatch(r"observed_(.+)_(\d+)", key)
    return (found[1], int(found[2])) if found else ("", 0)


def places(axis, result: Mapping[str, Any]) -> None:
    """A row a candidate, best first; a column a ranking; darker is better."""
    order = np.argsort([row["place"] for row in result["candidates"]])
    listed = [result["candidates"][k] for k in order]
    rows = result["rankings"]
    table = np.array([row["places"] for row in rows])[:, order].T
    axis.imshow(table, cmap="Blues_r", vmin=0, vmax=1.6 * len(listed), aspect="auto")
    for (y, x), place in np.ndenumerate(table):
        dark = place < 0.6 * len(listed)
        axis.annotate(
            f"{place:g}",
            (x, y),
            ha="center",
            va="center",
            fontsize=6,
            color="white" if dark else "0.2",
        )
    axis.set_yticks(
        range(len(listed)),
        [f"{row['name']}{'' if row['trust']['ok'] else ' (!)'}" for row in listed],
        fontsize=7,
    )
    axis.set_xticks(
        range(len(rows)),
        [row["title"] for row in rows],
        fontsize=7,
        rotation=45,
        ha="left",
        rotation_mode="anchor",
    )
    axis.xaxis.tick_top()
    axis.set_xlabel(
        "(!) the prediction is not to be trusted; equal ones share their places", fontsize=7
    )
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
