"""Real, ODE and SDE curves at a low and a high learning rate; what the error depends on.

    python -m experiments.regimes paper      an hour, two cores
    python -m experiments.regimes smoke      a minute

Zancato et al. (arXiv 2008.12478, Fig. 2): the ODE suffices at a low rate, at a high one with
small batches the noise matters; the error of the predicted time over learning rate, number of
samples and batch size, all else as in the embedded default (momentum 0.9, 60 epochs), three
seeds. Solvers: ``simulate`` knows the batches of the run, ``sde`` their distribution, ``ode``
nothing of them.

Expect: errors growing with the learning rate up to 1e-3, from 3 to 25 % for ``simulate``, 5 to
38 % for ``sde`` and 5 to 42 % for ``ode`` (medians of three seeds), which also treat momentum
as an effective rate: of a full batch ``simulate`` is 2 % off and the ODE 15 %. Little change
with the number of pictures (10 to 16 %) and with smaller batches (8 to 17 %).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import harness, scores
from ttp_jax import study
from ttp_jax.records import Record

EPSILON = 0.1
BASE = study.Config(mend=0, rules=("within_of_final",), epsilon=(EPSILON,), every=1)
SOLVERS: dict[str, dict] = {
    "simulate": {},
    "sde": {"solver": "sde", "paths": 32},
    "ode": {"solver": "ode"},
}
RATES = (2e-5, 5e-5, 1.5e-4, 5e-4, 1e-3, 2e-3)
PER_CLASS = (10, 30, 60)
BATCH_SIZES = (5, 10, 25, 75, None)
CURVES = ({"lr": 5e-5}, {"lr": 1e-3, "batch_size": 5})
"""The two panels: a low rate, and a high one with small batches."""


def smoke(data: Path) -> list[study.Config]:
    """Two short runs."""
    small = dataclasses.replace(BASE, per_class=6, batch_size=6, epochs=4)
    return [small, dataclasses.replace(small, lr=1e-3)]


def paper(data: Path) -> list[study.Config]:
    """Three sweeps that share their middle, and the two panels."""
    changes = [
        *({"lr": rate} for rate in RATES),
        *({"per_class": per_class} for per_class in PER_CLASS),
        *({"batch_size": size} for size in BATCH_SIZES),
    ]
    swept = [
        dataclasses.replace(BASE, seed=seed, **change)
        for seed in range(3)
        for change in changes
    ]
    # The middle of the three is one run.
    return [*(dataclasses.replace(BASE, **c) for c in CURVES), *dict.fromkeys(swept)]


def run(config: study.Config, out: Path) -> None:
    """The real run beside ``simulate``, and the two predictions that know no batches."""
    harness.studied("compare", config, out)
    for name in ("sde", "ode"):
        asked = dataclasses.replace(config, **SOLVERS[name])
        if config.batch_size is None and name == "sde":
            continue
        harness.studied("predict", asked, out)


def tasks(found: Sequence[Record]) -> list[dict[str, Record]]:
    """Records of one task together, by solver; the real run is with ``simulate``."""
    by_task = harness.by_task(found, ["solver", "paths"], lambda config: config["solver"])
    return [of_task for of_task in by_task if "simulate" in of_task]


def errors(of_task: dict[str, Record]) -> dict[str, float]:
    """Relative error of the time to 10 %, by solver; infinite where it names none."""
    real = scores.within_of_final(of_task["simulate"].curves["measured"], EPSILON)
    if not real:
        return {}
    found = {}
    for solver, record in of_task.items():
        steps = scores.within_of_final(record.curves["predicted"], EPSILON)
        found[solver] = scores.relative_error(steps, real)
    return found


def _changed(config: Mapping[str, Any], allowed: str) -> bool:
    """Whether a run differs from the base in nothing but one option and the seed."""
    base = dataclasses.asdict(BASE)
    return all(
        config[key] == base[key] or key in (allowed, "seed")
        for key in ("lr", "per_class", "batch_size")
    )


def draw(found: Sequence[Record]) -> harness.Drawing:
    """Two panels of curves, three of errors, and the errors as a table."""
    grouped = tasks(found)
    figure, axes = harness.canvas(10.5, 6, 2, 3)
    axes[0, 2].axis("off")
    colour = {"simulate": "#d1495b", "sde": "#2a9d8f", "ode": "#e09f3e"}
    panels = [_of(grouped, {**dataclasses.asdict(BASE), **change}) for change in CURVES]
    if None in panels:  # the smoke preset
        panels = grouped[:2]
    for axis, of_task in zip(axes[0], panels, strict=False):
        if of_task is None:
            continue
        config = of_task["simulate"].config
        real = of_task["simulate"].curves["measured"]
        axis.plot(real.steps, real.loss, color="#1d3557", label="real", linewidth=1.2)
        for solver, record in of_task.items():
            curve = record.curves["predicted"]
            axis.plot(
                curve.steps,
                curve.loss,
                "--",
                color=colour[solver],
                label=solver,
                linewidth=1.2,
            )
            if curve.loss_quantiles:
                low, high = min(curve.loss_quantiles), max(curve.loss_quantiles)
                axis.fill_between(
                    curve.steps,
                    curve.loss_quantiles[low],
                    curve.loss_quantiles[high],
                    color=colour[solver],
                    alpha=0.2,
                    linewidth=0,
                )
        axis.set(yscale="log", xlabel="step", ylabel="training loss")
        axis.set_title(
            f"lr {config['lr']:g}, batches of {config['batch_size']}", fontsize=9
        )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[0, 2].legend(handles, labels, loc="center left", frameon=False)
    rows = []
    for axis, (key, title) in zip(
        axes[1],
        (
            ("lr", "learning rate"),
            ("per_class", "pictures a class"),
            ("batch_size", "batch size"),
        ),
        strict=True,
    ):
        chosen = [t for t in grouped if _changed(t["simulate"].config, key)]
        values = sorted(
            {t["simulate"].config[key] for t in chosen}, key=lambda v: v or np.inf
        )
        for solver in SOLVERS:
            points = []
            for value in values:
                of_value = [t for t in chosen if t["simulate"].config[key] == value]
                found_errors = [errors(t).get(solver) for t in of_value]
                known = [e for e in found_errors if e is not None]
                n = of_value[0]["simulate"].provenance["n"]
                at = n if value is None else value
                if known:
                    points.append((at, np.median(known), min(known), max(known)))
                    rows.append(
                        [
                            title,
                            "full" if value is None else f"{value:g}",
                            solver,
                            str(len(known)),
                            *(f"{e:.0%}" for e in points[-1][1:]),
                        ]
                    )
            if points:
                at, middle, low, high = np.array(points).T
                axis.errorbar(
                    at,
                    middle,
                    (middle - low, high - middle),
                    marker="o",
                    markersize=4,
                    capsize=2,
                    color=colour[solver],
                    label=solver,
                )
        axis.set(xscale="log", xlabel=title, ylim=(0, None))
        axis.minorticks_off()
    axes[1, 0].set_ylabel(f"error of the time to {EPSILON:.0%}")
    head = ["over", "value", "solver", "seeds", "median error", "least", "largest"]
    return harness.table(head, rows), {"regimes": figure}


def _of(grouped: Sequence[dict[str, Record]], config: dict) -> dict[str, Record] | None:
    keys = ("lr", "per_class", "batch_size", "seed")
    for of_task in grouped:
        if all(of_task["simulate"].config[key] == config[key] for key in keys):
            return of_task
    return None


EXPERIMENT = harness.Experiment("regimes", {"smoke": smoke, "paper": paper}, run, draw)

if __name__ == "__main__":
    harness.main(EXPERIMENT, __doc__)
