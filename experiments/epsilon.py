"""Error of the predicted time against the threshold, and the paper's table at 1, 10, 40 %.

    python -m experiments.epsilon table      from the records of experiments.scatter
    python -m experiments.epsilon smoke      a minute

Zancato et al. (arXiv 2008.12478, Fig. 4 and Table 1): how the relative error of the time to
within epsilon of the end falls as epsilon grows from 1 to 40 %, for every set of pictures, at
a low and a high learning rate. Draws the records of :mod:`experiments.scatter`.

Expect: medians of 0 to 25 % for the network of the package. Where a run still falls at its end,
as most of these do after 150 epochs and those of ResNet-20, the time to within 1 % of the end
lies near the end whatever is predicted: the errors are smallest there, and the largest
thresholds, met within some tens of steps, the hardest. The last stage of ResNet-50 is fitted
by then, and has the paper's order: 11 to 142 % at 1 %, 0 to 40 % at 40 %.
"""

from collections.abc import Sequence

import numpy as np

from experiments import harness, scatter, scores
from ttp_jax.records import Record

SWEEP = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
TABLE = (0.01, 0.1, 0.4)


def median_error(found: Sequence[Record], epsilon: float) -> tuple[float, float, float]:
    """Median and quartiles of the relative error; NaN where no run settles."""
    table = [row for row in scores.rows(found, epsilon) if row["measured"]]
    if not table:
        return np.nan, np.nan, np.nan
    errors = [scores.relative_error(row["predicted"], row["measured"]) for row in table]
    low, middle, high = np.quantile(errors, (0.25, 0.5, 0.75), method="higher")
    return float(middle), float(low), float(high)


def regimes(found: Sequence[Record]) -> dict[str, list[Record]]:
    """GD and SGD, each at its lower and its higher learning rate."""
    parts: dict[str, list[Record]] = {}
    for kind, full in scatter.KINDS.items():
        of_kind = [r for r in found if (r.config["batch_size"] is None) == full]
        rates = sorted({r.config["lr"] for r in of_kind})
        for name, rate in zip(("low", "high"), rates, strict=False):
            parts[f"{kind}, {name} rate ({rate:g})"] = [
                r for r in of_kind if r.config["lr"] == rate
            ]
    return parts


def draw(found: Sequence[Record]) -> harness.Drawing:
    """The error over epsilon by set of pictures, and the table by regime and by set."""
    compared = [record for record in found if "measured" in record.curves]
    networks = sorted({scatter.network_of(record.config) for record in compared})
    names = sorted({scores.pictures_of(record) for record in compared})
    figure, axes = harness.canvas(4.4 * len(networks) + 1.5, 3.6, 1, len(networks))
    for axis, network in zip(axes[0], networks, strict=True):
        of_network = [r for r in compared if scatter.network_of(r.config) == network]
        for name, colour in zip(names, harness.COLOURS, strict=False):
            chosen = [r for r in of_network if scores.pictures_of(r) == name]
            values = np.array([median_error(chosen, epsilon) for epsilon in SWEEP])
            axis.plot(SWEEP, values[:, 0], "o-", color=colour, label=name, markersize=4)
            finite = np.where(np.isfinite(values), values, np.nan)
            axis.fill_between(
                SWEEP, finite[:, 1], finite[:, 2], color=colour, alpha=0.1, linewidth=0
            )
        axis.set(xscale="log", xlabel="epsilon", title=network, ylim=(0, None))
    axes[0, 0].set_ylabel("error of the predicted time (median, quartiles)")
    axes[0, -1].legend(frameon=False, fontsize=8)
    rows = []
    parts = {
        **regimes(compared),
        **{n: [r for r in compared if scores.pictures_of(r) == n] for n in names},
    }
    for part, chosen in parts.items():
        for network in networks:
            of_network = [r for r in chosen if scatter.network_of(r.config) == network]
            for epsilon in TABLE:
                score = scores.score(scores.rows(of_network, epsilon), "predicted")
                if score is not None:
                    rows.append([part, network, f"{epsilon:.0%}", *scores.cells(score)])
    text = harness.table(["part", "network", "epsilon", *scores.HEAD], rows)
    return text, {"epsilon": figure}


EXPERIMENT = scatter.EXPERIMENT.drawn_as("epsilon", draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
