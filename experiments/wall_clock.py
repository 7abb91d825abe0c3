"""Seconds of predicting and of training, and predicted against measured seconds.

    python -m experiments.wall_clock table      from the records of experiments.scatter
    python -m experiments.wall_clock smoke      a minute

Zancato et al. (arXiv 2008.12478, Fig. 5) report 30- to 45-fold savings. The count behind such
a number (operations of a forward pass as the unit): training costs ``3 E n`` for ``E`` epochs,
the exact kernel ``(1 + 2c) n`` and its products, so that at 150 epochs and 5 classes the
saving cannot be more than 41-fold. Draws the records of :mod:`experiments.scatter` that a CPU
made: on the accelerator several shared its time. Compilation and the reading of curves are
apart.

Expect: the kernel most of the prediction; the seconds of training, predicted from a few timed
steps, 12 % (GD) and 20 % (SGD) off at the median on a machine with other work, at most 97 %.
"""

from collections.abc import Sequence

import numpy as np

from experiments import harness, scatter
from ttp_jax.evaluation import PREDICTION_PARTS
from ttp_jax.records import Record

TRAINING_PARTS = ("train_s", "reading_s")


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Bars of seconds by part over those of training, predicted against measured seconds."""
    compared = [
        record
        for record in found
        if "measured" in record.curves and record.provenance["device"]["platform"] == "cpu"
    ]
    networks = sorted({scatter.network_of(record.config) for record in compared})
    figure, axes = harness.canvas(9.5, 3.6, 1, 2)
    bars, points = axes[0]
    rows: list[list[str]] = []
    labels: list[str] = []
    for k, network in enumerate(networks):
        for j, (kind, full) in enumerate(scatter.KINDS.items()):
            chosen = [
                record
                for record in compared
                if scatter.network_of(record.config) == network
                and (record.config["batch_size"] is None) == full
            ]
            if not chosen:
                continue
            predicted, trained = (
                {
                    part: float(
                        np.median([r.curves[side].timings.get(part, 0.0) for r in chosen])
                    )
                    for part in (*parts, "compile_s")
                }
                for side, parts in (
                    ("predicted", PREDICTION_PARTS),
                    ("measured", TRAINING_PARTS),
                )
            )
            label = f"{network}, {kind}"
            for word, parts in (("predict", predicted), ("train", trained)):
                # In units of training: networks differ by two orders of magnitude.
                shares = {part: s / trained["train_s"] for part, s in parts.items()}
                _stack(bars, len(labels), shares)
                labels.append(f"{label}: {word}")
            seconds = np.array(
                [
                    (r.curves["measured"].seconds[-1], r.curves["predicted"].seconds[-1])
                    for r in chosen
                    if np.isfinite(r.curves["measured"].seconds[-1])
                ]
            )
            points.scatter(
                *seconds.T, s=22, alpha=0.8, color=harness.COLOURS[2 * k + j], label=label
            )
            ratios = {
                key: np.array([r.result["cost"][key] for r in chosen])
                for key in ("ratio", "ratio_flops")
            }
            off = np.abs(seconds[:, 1] / seconds[:, 0] - 1)
            steps = [r.curves["predicted"].budget_steps for r in chosen]
            total = sum(v for part, v in predicted.items() if part != "compile_s")
            rows.append(
                [
                    network,
                    kind,
                    str(len(chosen)),
                    f"{np.median(steps):.0f}",
                    f"{total:.1f} s ({predicted['kernel_s']:.1f} s kernel)",
                    f"{trained['train_s']:.1f} s",
                    f"{predicted['compile_s']:.1f} / {trained['compile_s']:.1f} s",
                    f"{np.median(ratios['ratio']):.1f}",
                    f"{np.median(ratios['ratio_flops']):.1f}",
                    f"{np.median(off):.0%} (at most {off.max():.0%})",
                ]
            )
    bars.set_yticks(range(len(labels)), labels, fontsize=8)
    bars.invert_yaxis()
    bars.set_xlabel("seconds / those of training, medians of the tasks")
    handles = dict(zip(*bars.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper left",
        ncols=len(handles),
        frameon=False,
        fontsize=8,
    )
    points.set(xscale="log", yscale="log")
    ends = (*points.get_xlim(), *points.get_ylim())
    limit = np.array([min(ends), max(ends)])
    points.plot(limit, limit, color="0.6", linewidth=1)
    points.set(xlabel="measured seconds of training", ylabel="predicted seconds")
    points.set(xlim=limit, ylim=limit)
    points.legend(frameon=False, fontsize=8)
    head = [
        "network",
        "steps",
        "tasks",
        "number of steps",
        "predicting",
        "training",
        "compiling both",
        "ratio, seconds",
        "ratio, operations",
        "error of the predicted seconds",
    ]
    text = "Medians over the tasks; compilation and the reading of curves apart.\n\n"
    return text + harness.table(head, rows), {"wall_clock": figure}


_PART_COLOURS = {
    "kernel_s": harness.COLOURS[1],
    "train_s": harness.COLOURS[0],
    "reading_s": "0.7",
    "compile_s": "0.85",
    "solve_s": harness.COLOURS[3],
}
_OTHER = harness.COLOURS[2]


def _stack(axis, at: int, parts: dict[str, float]) -> None:
    """One bar of parts; what has no colour of its own is one part, ``other``."""
    named = {part: s for part, s in parts.items() if part in _PART_COLOURS}
    named["other"] = sum(s for part, s in parts.items() if part not in _PART_COLOURS)
    left = 0.0
    for part in ("train_s", "kernel_s", "solve_s", "other", "reading_s", "compile_s"):
        if named.get(part):
            colour = _PART_COLOURS.get(part, _OTHER)
            name = part.removesuffix("_s")
            axis.barh(at, named[part], left=left, color=colour, label=name)
            left += named[part]


EXPERIMENT = scatter.EXPERIMENT.drawn_as("wall_clock", draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
