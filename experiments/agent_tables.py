"""Tables and figures of AGENT on sparse networks, from records alone."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness
from ttp_jax.records import Record

SIDES = ("predicted", "measured")
NAMES = {"agent": "AGENT", "alpha_svrg": "alpha-SVRG"}
MASKS = {"never": "random, stay", "gradient": "RigL"}
COLOURS = {"none": "#8d99ae", "agent": "#d1495b", "alpha_svrg": "#1d3557"}
CLAIMED = 0.521
"""Share of epochs that Lei et al. (arXiv 2301.03573) report as saved at most."""
SHOWN = "0.1"
"""The threshold of the tables."""


Key = tuple[str, str, float, float]
"""Task, masks, density and the highest rate that could be chosen."""


def task_of(record: Record) -> str:
    """Network and pictures, in few words."""
    task = record.config["task"]
    return (
        f"{task['model']} on {Path(task['data'].removeprefix('npz:')).stem.split('_')[0]}"
    )


def draw(found: Sequence[Record]) -> harness.Drawing:
    """What was saved, and what it cost."""
    groups: dict[Key, list[Record]] = defaultdict(list)
    for record in found:
        config = record.config
        top = max(config["ladder"]) * config["task"]["lr"]
        groups[(task_of(record), config["grow"], config["density"], top)].append(record)
    keys = sorted(groups, key=lambda key: (key[0], key[1], key[3], -key[2]))
    text = (
        "# AGENT on sparse networks\n\n"
        "From the records here, by `python -m experiments.agent table`. Predicted / measured, "
        "mean of the seeds. Ratios are those of the corrected run over the uncorrected one: "
        "below 1 the correction saves. `work`: passes, of which AGENT has 3.3 and alpha-SVRG "
        "3.0 times as many a step.\n\n"
        f"## Steps to {SHOWN} of the initial loss, and the loss at the end\n\n"
    )
    rows = [_row(key, groups[key]) for key in keys]
    head = ("task", "masks", "density", "seeds", "rate", "steps, uncorrected")
    for name in NAMES.values():
        head += (f"{name}: steps", "work", "last loss")
    text += harness.table(head, rows) + "\n"
    tops = sorted({len(record.config["ladder"]) for record in found}, reverse=True)
    for top in tops:
        same = [record for record in found if len(record.config["ladder"]) == top]
        factor = max(same[0].config["ladder"])
        text += f"Rates up to {factor:g} times the task's own:\n\n{_summary(same)}\n"
    left = 1 - CLAIMED
    text += (
        f"The paper reports up to {CLAIMED:.1%} fewer epochs, a ratio of {left:.2f}; at "
        f"AGENT's {10 / 3:.1f} times the passes a step that would be {10 / 3 * left:.1f} times "
        "the work of training without it.\n\n"
    )
    text += "## Coefficients of AGENT\n\n" + _coefficients(keys, groups)
    return text, {"agent": _figure(found), "curves": _curves(groups)}


def _steps(record: Record, name: str, side: str, threshold: str) -> int | None:
    return record.result["runs"][name][side]["steps"][threshold]


def _ratio(record: Record, name: str, side: str, threshold: str) -> float | None:
    own, plain = (_steps(record, run, side, threshold) for run in (name, "none"))
    return own / plain if own and plain else None


def _losses(record: Record, name: str, side: str) -> float | None:
    own, plain = (record.result["runs"][run][side]["loss"] for run in (name, "none"))
    return own / plain if own is not None and plain else None


def _both(values: dict[str, list[float | None]], form: str = "{:.3g}") -> str:
    """Means of both sides; ``-`` where a seed has none."""

    def mean(of: list[float | None]) -> str:
        there = [value for value in of if value is not None]
        if len(there) < len(of) or not of:
            return "-"
        value = float(np.mean(there))
        return "> 9999" if value > 9999 else form.format(value)

    return " / ".join(mean(values[side]) for side in SIDES)


def _row(key: Key, found: Sequence[Record]) -> list[str]:
    task, grow, density, _ = key
    plain = {
        side: [_steps(record, "none", side, SHOWN) for record in found] for side in SIDES
    }
    rates = sorted({f"{record.result['rate']:g}" for record in found})
    row = [task, MASKS[grow], f"{density:g}", str(len(found)), ", ".join(rates)]
    row.append(_both(plain, "{:.0f}"))  # type: ignore[arg-type]
    for name in NAMES:
        ratios = {
            side: [_ratio(record, name, side, SHOWN) for record in found] for side in SIDES
        }
        passes = found[0].result["runs"][name]["passes"]
        work = {
            side: [value and value * passes for value in values]
            for side, values in ratios.items()
        }
        ends = {side: [_losses(record, name, side) for record in found] for side in SIDES}
        row += [_both(ratios, "{:.2f}"), _both(work, "{:.2f}"), _both(ends, "{:.2f}")]
    return row


def _summary(found: Sequence[Record]) -> str:
    """All thresholds together."""
    lines = []
    for name, words in NAMES.items():
        pairs = [
            (_ratio(record, name, "predicted", threshold), measured)
            for record in found
            for threshold in record.result["runs"][name]["measured"]["steps"]
            if (measured := _ratio(record, name, "measured", threshold)) is not None
        ]
        if not pairs:
            continue
        ratios = np.array([measured for _, measured in pairs])
        passes = found[0].result["runs"][name]["passes"]
        both = np.array([(p, m) for p, m in pairs if p is not None])
        fewer = (
            f"{words}: over {len(ratios)} thresholds that both runs reach, the corrected one "
            f"takes {np.median(ratios):.2f} times the steps at the median "
            f"({ratios.min():.2f} to {ratios.max():.2f}), that is "
            f"{passes * np.median(ratios):.2f} times the passes "
            f"({passes * ratios.min():.2f} at best); it is faster in steps at "
            f"{np.mean(ratios < 1):.0%} of them, slower at {np.mean(ratios > 1):.0%}, cheaper "
            f"in passes at {np.mean(passes * ratios < 1):.0%}."
        )
        if len(both):
            error = np.abs(both[:, 0] - both[:, 1])
            fewer += (
                f" The predicted ratio is {np.median(error):.2f} off at the median, "
                f"{error.max():.2f} at most ({len(both)} thresholds)."
            )
        lines.append(fewer + "\n")
    steps = [
        abs(p - m) / m
        for record in found
        for threshold in record.result["runs"]["none"]["measured"]["steps"]
        if (p := _steps(record, "none", "predicted", threshold))
        and (m := _steps(record, "none", "measured", threshold))
    ]
    if steps:
        lines.append(
            f"Times of the uncorrected sparse run are predicted {np.median(steps):.0%} off at "
            f"the median ({len(steps)} thresholds that both reach).\n"
        )
    return "\n".join(lines)


def _coefficients(keys: Sequence[Key], groups: dict) -> str:
    """What AGENT uses, and what would leave the least variance, at the end of some epochs."""
    rows = []
    for key in keys:
        for record in groups[key][:1]:
            runs = record.result["runs"]["agent"]
            predicted = runs["predicted"]["epochs"]
            for epoch, optimum in runs["measured"].get("optimum", []):
                at = min(epoch, len(predicted["coefficient"]) - 1)
                rows.append(
                    [
                        key[0],
                        MASKS[key[1]],
                        f"{key[2]:g}",
                        f"{record.result['rate']:g}",
                        str(epoch),
                        _pair(
                            predicted, runs["measured"]["epochs"], "coefficient", epoch - 1
                        ),
                        f"{_number(predicted['optimum'][at] if at == epoch else None)} / "
                        f"{_number(optimum)}",
                        _number(predicted["variance_left"][at] if at == epoch else None),
                    ]
                )
    head = (
        "task", "masks", "density", "rate", "end of epoch", "coefficient used",
        "best coefficient", "variance left (predicted)",
    )  # fmt: skip
    return harness.table(head, rows)


def _pair(one: dict[str, Any], other: dict[str, Any], name: str, at: int) -> str:
    return f"{_number(one[name][at])} / {_number(other[name][at])}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return "diverged" if abs(value) > 100 else f"{value:.3g}"


def _figure(found: Sequence[Record]):
    """Ratios predicted against measured, by correction; ratios over density."""
    figure, panels = harness.canvas(9, 3.6, 1, 2)
    for name, words in NAMES.items():
        points = np.array(
            [
                (m, p)
                for record in found
                for threshold in record.result["runs"][name]["measured"]["steps"]
                if (m := _ratio(record, name, "measured", threshold)) is not None
                and (p := _ratio(record, name, "predicted", threshold)) is not None
            ]
        ).reshape(-1, 2)
        panels[0, 0].plot(*points.T, "o", color=COLOURS[name], markersize=4, label=words)
        ends = [
            (record.config["density"], m * record.result["runs"][name]["passes"])
            for record in found
            for threshold in record.result["runs"][name]["measured"]["steps"]
            if (m := _ratio(record, name, "measured", threshold)) is not None
        ]
        if ends:
            shift = 0.94 if name == "agent" else 1.06
            density, work = np.array(ends).T
            panels[0, 1].plot(
                shift * density, work, "o", color=COLOURS[name], markersize=4, label=words
            )
    left, right = panels[0]
    (low, high), (bottom, top) = left.get_xlim(), left.get_ylim()
    left.axline((1, 1), slope=1, color="0.7", linewidth=0.8, zorder=0)
    left.axvline(
        1 - CLAIMED, color="0.6", linestyle=":", linewidth=1, label="claimed, at most"
    )
    ends_of = min(low, bottom, 0.45), max(high, top, 1.1)
    left.set(xlim=ends_of, ylim=ends_of)
    left.set_xlabel("measured steps over those without the correction", fontsize=9)
    left.set_ylabel("predicted", fontsize=9)
    right.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    densities = sorted({record.config["density"] for record in found})
    right.set(xscale="log", xlim=(densities[0] / 1.5, densities[-1] * 1.5))
    right.set_xticks(densities, [f"{density:g}" for density in densities])
    right.minorticks_off()
    right.set_ylim(0, 4)
    right.set_xlabel("density", fontsize=9)
    right.set_ylabel("measured work to the same loss, ratio", fontsize=9)
    for axis in panels[0]:
        axis.legend(frameon=False, fontsize=7)
    return figure


def _curves(groups: dict[Key, list[Record]]):
    """Training loss of all three, of the first seed of each task, at the middle density."""
    shown = []
    for task, grow, top in sorted({(key[0], key[1], key[3]) for key in groups}):
        same = sorted(
            key for key in groups if (key[0], key[1], key[3]) == (task, grow, top)
        )
        shown.append(groups[same[len(same) // 2]][0])
    figure, panels = harness.canvas(
        3.2 * min(3, len(shown)),
        2.9 * -(-len(shown) // 3),
        -(-len(shown) // 3),
        min(3, len(shown)),
    )
    for axis in panels.ravel()[len(shown) :]:
        axis.set_axis_off()
    for axis, record in zip(panels.ravel(), shown, strict=False):
        top = record.curves["none_measured"].loss[0]
        for name, colour in COLOURS.items():
            for side, style in (("measured", "-"), ("predicted", "--")):
                curve = record.curves[f"{name}_{side}"]
                words = f"{NAMES.get(name, 'uncorrected')}, {side}"
                axis.semilogy(
                    curve.steps, curve.loss, style, color=colour, linewidth=1.1, label=words
                )
        ends = [record.curves[f"{name}_measured"].loss.min() for name in COLOURS]
        axis.set_ylim(np.nanmin(ends) / 2, 2 * top)
        axis.set_xlabel("step", fontsize=8)
        axis.set_title(
            f"{task_of(record)}\n{MASKS[record.config['grow']]}, "
            f"{record.config['density']:.0%}, rate {record.result['rate']:g}",
            fontsize=8,
        )
    panels[0, 0].set_ylabel("training loss", fontsize=8)
    panels[0, 0].legend(frameon=False, fontsize=6)
    return figure
