"""The picture of a run: both curves over steps, and those on pictures held out."""

from pathlib import Path

import numpy as np

from ttp_jax.records import Record
from ttp_jax.types import Curve

METHODS = {
    "freezeout": "FreezeOut",
    "snapshot": "snapshots",
    "agent": "masks or corrected gradients",
}
"""Methods by their name in a result, and what the title calls them. The ``steps`` that one
tells of are marked."""
_STYLE = {
    "predicted": {"color": "#d1495b", "linestyle": "--", "label": "predicted, no training"},
    "measured": {"color": "#1d3557", "linestyle": "-", "label": "measured, real training"},
}
_PLAIN = {
    "predicted": {"color": "#e0a458", "linestyle": "--", "label": "predicted, plain run"},
    "measured": {"color": "#8a8a8a", "linestyle": "-", "label": "measured, plain run"},
}
"""The run beside a method, at the same budget."""
_HELD_OUT = {
    "predicted": {"color": "#e9a3ac", "linestyle": "--", "label": "predicted, held out"},
    "measured": {"color": "#7fa3c7", "linestyle": "-", "label": "measured, held out"},
}
"""The same hues, lighter."""


def draw(record: Record, file: Path) -> None:
    """Loss and accuracy of a record over steps, with the thresholds on the loss.

    Args:
        record: With one curve or both.
        file: ``.png`` or ``.pdf``.
    """
    # Imported here: matplotlib takes longer to load than everything else together.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axis, accuracy_axis = figure.subplots(1, 2)
    for side in ("measured", "predicted"):
        if side in record.curves:
            curve = record.curves[side]
            _plot(loss_axis, accuracy_axis, curve, _STYLE[side])
            if curve.held_out is not None:
                _plot(loss_axis, accuracy_axis, curve.held_out, _HELD_OUT[side])
        if f"plain_{side}" in record.curves:
            _plot(loss_axis, accuracy_axis, record.curves[f"plain_{side}"], _PLAIN[side])
    told = [name for name in METHODS if name in record.result]
    for step in (step for name in told for step in record.result[name].get("steps", ())):
        for axis in (loss_axis, accuracy_axis):
            axis.axvline(step, color="0.85", linewidth=0.8, zorder=0)
    start = record.result["loss_initial"]
    low, high = _log_scale(loss_axis, record)
    for epsilon in record.config["epsilon"]:
        if low < epsilon * start < high:
            loss_axis.axhline(epsilon * start, color="0.8", linewidth=0.8, zorder=0)
            loss_axis.annotate(
                f"{epsilon:g} of the start",
                (0.99, epsilon * start),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="right",
                fontsize=7,
                color="0.4",
            )
    _expected(loss_axis, accuracy_axis, record)
    held_out = "held_out" in record.result
    of = "" if held_out else "training "
    loss_axis.set(xlabel="step", ylabel=f"{of}loss ({record.config['loss']})")
    accuracy_axis.set(xlabel="step", ylabel=f"{of}accuracy", ylim=(0, 1.02))
    if held_out:  # the lower right of the accuracy is then where it may well lie
        loss_axis.legend(loc="best", frameon=False, fontsize=8)
    else:
        accuracy_axis.legend(loc="lower right", frameon=False)
    for axis in (loss_axis, accuracy_axis):
        axis.spines[["top", "right"]].set_visible(False)
    trust = record.result["trust"]
    verdict = "" if trust is None or trust["ok"] else "   (prediction NOT to be trusted)"
    figure.suptitle(
        f"{record.config['model']} on {record.config['data']}, lr {record.config['lr']:g}, "
        f"{record.config['loss']}{''.join(f', {METHODS[name]}' for name in told)}"
        f"{verdict}",
        fontsize=10,
    )
    figure.savefig(file, dpi=130)


def _expected(loss_axis, accuracy_axis, record: Record) -> None:
    """Bars on the thresholds of the loss: where 95 % of real times are; in both legends."""
    style = {
        "color": _STYLE["predicted"]["color"],
        "alpha": 0.3,
        "linewidth": 5,
        "solid_capstyle": "butt",
        "zorder": 0.5,
    }
    low, high = loss_axis.get_ylim()
    drawn = False
    for entry in record.result["thresholds"]:
        found = entry.get("predicted_steps_95")
        loss = entry["epsilon"] * record.result["loss_initial"]
        if entry["rule"] == "fraction_of_initial" and found and low < loss < high:
            first, last = found
            last = entry["budget_steps"] if last is None else last
            loss_axis.plot([first, last], [loss, loss], **style)
            drawn = True
    if drawn:
        for axis in (loss_axis, accuracy_axis):
            axis.plot([], [], label="95 % of real times (on the loss)", **style)


def _plot(loss_axis, accuracy_axis, curve: Curve, style) -> None:
    """A curve and its bands."""
    loss_axis.plot(curve.steps, curve.loss, **style)
    accuracy_axis.plot(curve.steps, curve.accuracy, **style)
    _bands(loss_axis, curve.steps, curve.loss_quantiles, style["color"])
    _bands(accuracy_axis, curve.steps, curve.accuracy_quantiles, style["color"])


def _bands(axis, steps, quantiles, color) -> None:
    """The outermost pair of levels, and the ones inside it on top."""
    levels = sorted(quantiles or {})
    for low, high in zip(levels, levels[::-1], strict=True):
        if low < high:
            axis.fill_between(
                steps, quantiles[low], quantiles[high], color=color, alpha=0.15, linewidth=0
            )


def _log_scale(axis, record: Record) -> tuple[float, float]:
    """Log axis from just under the lowest loss to above the start; its limits.

    A prediction that grows without bound is cut off rather than flattening all else.
    """
    curves = list(record.curves.values())
    curves += [curve.held_out for curve in curves if curve.held_out is not None]
    values = np.concatenate([curve.loss for curve in curves])
    top = max(curve.loss[0] for curve in curves)
    values = values[np.isfinite(values) & (values > top * 1e-6)]
    low, high = values.min() * 0.7, top * 3
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    return low, high
