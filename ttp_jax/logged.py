"""Candidates that were trained before, from their records, for the regression of a search."""

from dataclasses import dataclass
from pathlib import Path

from ttp_jax import records, trainless
from ttp_jax.scoring import Finished, config_of, number, real_run, scores_of
from ttp_jax.types import InputError

OUTCOMES: dict[str, bool] = {
    "loss": False,
    "held_out_loss": False,
    "held_out_accuracy": True,
}
"""How a real run ends, and whether larger is better."""
ARCHITECTURE = ("weights_trained", "forward_flops", "effective_rate", "batch_size")
"""What a regression knows of a candidate that nobody has run or predicted."""
CURVE = (
    "predicted_loss", "predicted_loss_stable", "predicted_held_out_loss",
    "predicted_held_out_accuracy", "predicted_time", "predicted_tse", "predicted_lcga",
    "initial_loss", "stability", "gap", "early_gap",
)  # fmt: skip
"""And of the predicted curve and its trust."""


@dataclass(frozen=True)
class Logged:
    """A run that was logged, and the record that it comes from."""

    name: str
    runs: dict[str, trainless.Run]
    """As the regression sees it, by outcome."""


def as_runs(finished: Finished) -> dict[str, trainless.Run]:
    """A candidate as the regression sees it, for each outcome.

    Its task is named by data, seed, classes and sizes: places are taken among candidates
    that compete.
    """
    parts = ("data", "classes", "per_class", "held_out", "loss", "epochs", "seed")
    result = finished.scored.result
    features = {key: number(value) for key, value in result["features"].items()}
    for key, costed in scores_of(finished, ()).items():
        sign = -1.0 if costed.score.larger_is_better else 1.0
        features[key] = sign * costed.score.value
    outcomes = finished.outcomes
    return {
        key: trainless.Run(
            task=repr([getattr(finished.config, part) for part in parts]),
            family=result["family"],
            features=features,
            outcome=(-1.0 if larger else 1.0) * outcomes[key] if key in outcomes else None,
        )
        for key, larger in OUTCOMES.items()
    }


def logged_runs(folder: Path) -> list[Logged]:
    """Candidates of a folder of records that were trained to their end.

    Raises:
        InputError: There is none.
    """
    trained = {
        real_run(record): record
        for record in map(
            records.load, (f.parent for f in sorted(folder.glob("trained-*/record.json")))
        )
    }
    found = []
    for file in sorted(folder.glob("candidate-*/record.json")):
        scored = records.load(file.parent)
        real = trained.get(real_run(scored))
        if real is not None:
            of = Finished(scored.result["candidate"], config_of(scored), scored, real)
            found.append(Logged(scored.run_id, as_runs(of)))
    if not found:
        raise InputError(
            f"{folder} must hold records of trained candidates, got none; make them by "
            "ttp rank --train"
        )
    return found
