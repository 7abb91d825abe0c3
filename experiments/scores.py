"""Times to threshold of many tasks, as several figures read them off the same records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import scipy.stats

from experiments import harness
from ttp_jax.early_curves.fits import POWER_LAW, fit
from ttp_jax.early_curves.prefix import prefix
from ttp_jax.evaluation import cost
from ttp_jax.records import Record
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve, InputError

PREFIX = 0.05
"""Share of the real run that the power law is fitted to."""
Prediction = Literal[
    "predicted",
    "from 40%",
    "from 20%",
    "from 12%",
    "sketched",
    "sketched, from 40%",
    "sketched, from 20%",
    "sketched, mended",
    "last layer",
    "random weights",
]
"""By the exact kernel of all pictures, by that of some of them, and by other kernels."""
Method = Literal[Prediction, "constant", "power law"]
METHODS: tuple[Method, ...] = get_args(Method)


def pictures_of(record: Record) -> str:
    """Name of the set of pictures."""
    return Path(record.config["data"]).stem


def within_of_final(curve: Curve, epsilon: float) -> int | None:
    """Steps of the paper's rule; ``None`` where the run never settles before its end."""
    return time_to_threshold(curve, epsilon, "within_of_final").steps


def relative_error(named: int | None, measured: int) -> float:
    """``|That - T|/T``; infinite where no time is named."""
    return np.inf if named is None else abs(named - measured) / measured


def power_law(curve: Curve, epsilon: float) -> int | None:
    """Of a power law fitted to the first steps of a real run, read alike."""
    count = max(4, int(PREFIX * len(curve.steps)))
    try:
        law = fit(prefix(curve, int(curve.steps[:count][-1])), POWER_LAW)
    except InputError:
        return None
    return within_of_final(law.curve(curve.steps), epsilon)


VARIED = (
    "weights",
    "kernel_outputs",
    "kernel",
    "sketch_dimension",
    "kernel_samples",
    "mend",
)
"""What the predictions of one task differ in."""


def prediction_of(config: Mapping[str, Any]) -> str:
    """Which :data:`Prediction` a configuration asks for."""
    words = []
    if config["kernel"] != "exact":
        words.append("sketched")
    if config["kernel_samples"] is not None:
        share = config["kernel_samples"] / (config["classes"] * config["per_class"])
        words.append(f"from {share:.0%}")
    if config["mend"]:
        words.append("mended")
    if words:
        return ", ".join(words)
    if config["kernel_outputs"] == "last_layer":
        return "last layer"
    return "random weights" if config["weights"] == "random" else "predicted"


def rows(found: Sequence[Record], epsilon: float) -> list[dict[str, Any]]:
    """One task a row: what was measured, and what each method says."""
    table = []
    for of_task in harness.by_task(found, VARIED, prediction_of):
        if "predicted" not in of_task:
            continue
        record = of_task["predicted"]
        row: dict[str, Any] = {
            "config": record.config,
            "trusted": {
                name: other.result["trust"]["ok"] for name, other in of_task.items()
            },
            "curve": record.curves["measured"],
            "measured": within_of_final(record.curves["measured"], epsilon),
        }
        for name, other in of_task.items():
            row[name] = within_of_final(other.curves["predicted"], epsilon)
        row["cost"] = {
            name: cost(other.curves["predicted"], row["curve"])
            for name, other in of_task.items()
            if _device(other) == _device(record)
        }
        table.append(row)
    return table


def _device(record: Record) -> str:
    return record.provenance["device"]["kind"]


def with_baselines(table: Sequence[dict[str, Any]], epsilon: float) -> list[dict[str, Any]]:
    """The rows with what needs no kernel: the median of the others, and a power law.

    The others are those with the same batch size: steps over everything are not comparable
    with steps over a few.
    """
    found = []
    for row in table:
        others = [
            other["measured"]
            for other in table
            if other is not row
            and other["measured"] is not None
            and other["config"]["batch_size"] == row["config"]["batch_size"]
        ]
        constant = float(np.median(others)) if others else None
        law = power_law(row["curve"], epsilon)
        found.append({**row, "constant": constant, "power law": law})
    return found


def score(table: Sequence[dict[str, Any]], method: Method) -> dict[str, float] | None:
    """Relative errors of one method over the tasks whose real run settles before its end.

    ``None`` where there is no such task.
    Where the method names no time the error is infinite: it counts in the median, in the
    quantile and in the shares, not in the mean and the correlations.
    """
    asked = [row for row in table if row["measured"] and method in row]
    if not asked:
        return None
    measured = np.array([row["measured"] for row in asked], float)
    named = np.array([np.inf if row[method] is None else row[method] for row in asked])
    error = np.abs(named - measured) / measured
    there = np.isfinite(named)
    # Step 0, met before the first one, has no logarithm.
    log_m, log_n = np.log(measured[there]), np.log(np.maximum(named[there], 1.0))
    varied = there.sum() > 1 and np.ptp(log_n) > 0 and np.ptp(log_m) > 0
    spread = ((log_m - log_m.mean()) ** 2).sum() if varied else np.nan
    return {
        "tasks": len(asked),
        "missing": int((~there).sum()),
        "median": float(np.quantile(error, 0.5, method="higher")),
        "mean": float(error[there].mean()) if there.any() else np.nan,
        "p95": float(np.quantile(error, 0.95, method="higher")),
        "within 12 %": float((error <= 0.12).mean()),
        "within 20 %": float((error <= 0.2).mean()),
        "spearman": float(np.asarray(scipy.stats.spearmanr(log_m, log_n))[0])
        if varied
        else np.nan,
        "r2_log": float(1 - ((log_n - log_m) ** 2).sum() / spread),
    }


HEAD = (
    "tasks",
    "no time",
    "median",
    "mean",
    "95 % of tasks within",
    "share within 12 %",
    "share within 20 %",
    "Spearman",
    "R^2 of log T",
)


def cells(values: dict[str, float]) -> list[str]:
    """A score under :data:`HEAD`."""
    return [
        f"{values['tasks']:.0f}",
        f"{values['missing']:.0f}",
        *(
            harness.percent(values[k])
            for k in ("median", "mean", "p95", "within 12 %", "within 20 %")
        ),
        *(
            "-" if np.isnan(v) else f"{v:.2f}"
            for v in (values["spearman"], values["r2_log"])
        ),
    ]
