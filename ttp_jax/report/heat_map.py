"""The picture of a sweep: time to the threshold over learning rate and batch size."""

from pathlib import Path

import numpy as np

from ttp_jax.records import Record
from ttp_jax.sampling import steps_per_epoch

_MARKS = {
    "reference": ("o", "as asked for"),
    "fewest_steps": ("*", "fewest steps"),
    "least_computation": ("P", "least work"),
    "trusted": ("D", "fewest steps, trusted"),
}


def draw(record: Record, file: Path) -> None:
    """A panel for each momentum and schedule, at the greatest length.

    Grey and hatched where the dynamics are unstable, white where the threshold is not met.

    Args:
        record: Of a sweep.
        file: ``.png`` or ``.pdf``.
    """
    # Imported here: matplotlib takes longer to load than everything else together.
    from matplotlib.artist import Artist
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    axes = record.result["axes"]
    momenta, schedules, sizes = axes["momenta"], axes["schedules"], axes["batch_sizes"]
    length = int(np.argmax(axes["epochs"]))
    unstable = ~record.arrays["stable"][..., length]
    hidden = unstable | record.arrays["censored"][..., length]
    epochs = np.ma.masked_array(_epochs(record)[..., length], hidden)
    norm = LogNorm(*_limits(epochs))
    figure = Figure(
        figsize=(2.2 + 2.6 * len(momenta), 1.3 + 2.0 * len(schedules)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        len(schedules), len(momenta), squeeze=False, sharex=True, sharey=True
    )
    edges = _edges(np.array(axes["learning_rates"]))
    rows = np.arange(len(sizes) + 1) - 0.5
    handles: dict[str, Artist] = {
        "unstable": Patch(facecolor="0.85", edgecolor="0.5", hatch="////")
    }
    mesh = None
    for k, schedule in enumerate(schedules):
        for j, mu in enumerate(momenta):
            axis = panels[k, j]
            grey = np.ma.masked_array(np.ones(unstable[:, j, :, k].T.shape))
            grey[~unstable[:, j, :, k].T] = np.ma.masked
            axis.pcolor(edges, rows, grey, cmap="Greys", vmin=0, vmax=6)
            axis.pcolor(edges, rows, grey, hatch="////", alpha=0)
            mesh = axis.pcolormesh(
                edges, rows, epochs[:, j, :, k].T, norm=norm, cmap="viridis_r"
            )
            for name, (mark, label) in _MARKS.items():
                chosen = record.result[name]
                if chosen and (chosen["momentum"], chosen["schedule"]) == (mu, schedule):
                    handles[label] = axis.plot(
                        chosen["learning_rate"],
                        sizes.index(chosen["batch_size"]),
                        mark,
                        color="#d1495b",
                        markeredgecolor="white",
                        markersize=9,
                        linestyle="none",
                    )[0]
            axis.set_xscale("log")
            axis.set_title(f"momentum {mu:g}, {schedule}", fontsize=9)
            axis.set_yticks(
                range(len(sizes)),
                [size or f"all {record.provenance['n']}" for size in sizes],
            )
    figure.supxlabel("learning rate", fontsize=9)
    figure.supylabel("batch size", fontsize=9)
    assert mesh is not None
    bar = figure.colorbar(mesh, ax=panels, shrink=0.8)
    bar.set_label(f"epochs to {_threshold(record)}", fontsize=9)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower right", ncols=4, fontsize=8,
        frameon=False,
    )  # fmt: skip
    figure.suptitle(
        f"{record.config['model']} on {record.config['data']}, {record.config['loss']}: "
        f"{record.result['settings']:,} settings predicted, no training",
        fontsize=10,
    )
    figure.savefig(file, dpi=130)


def _threshold(record: Record) -> str:
    words = {
        "loss": "a loss of {:g}",
        "fraction_of_initial": "{:g} of the initial loss",
        "within_of_final": "within {:g} of the end",
    }
    return words[record.result["rule"]].format(record.result["epsilon"])


def _epochs(record: Record) -> np.ndarray:
    """Time to the threshold in passes over the samples."""
    n = record.provenance["n"]
    sizes = record.result["axes"]["batch_sizes"]
    per_epoch = [steps_per_epoch(n, size) for size in sizes]
    return record.arrays["steps"] / np.array(per_epoch)[:, None, None]


def _limits(values: np.ma.MaskedArray) -> tuple[float, float]:
    """Of a log scale: positive, and apart."""
    shown = values.compressed()
    if not len(shown):
        return 1.0, 2.0
    low = max(float(shown.min()), 1e-3)
    return low, max(float(shown.max()), 1.01 * low)


def _edges(values: np.ndarray) -> np.ndarray:
    """Of the cells around values on a log scale."""
    logs = np.log(values)
    if len(logs) == 1:
        return np.exp(logs[0] + np.array([-0.1, 0.1]))
    inner = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[[0, -1]] - inner[[0, -1]]
    return np.exp(np.concatenate([ends[:1], inner, ends[1:]]))
