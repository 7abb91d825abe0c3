"""Ranking candidates as the command line describes it: from a set of runs to their record."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ttp_jax import candidates, methods, ranking, records, study, trainless
from ttp_jax.logged import ARCHITECTURE, CURVE, OUTCOMES, as_runs, logged_runs
from ttp_jax.scoring import Finished, Shared, finish, finite, scores_of
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve, InputError, ThresholdRule

OBSERVED = (1, 2, 5, 10)
"""Epochs after which real runs are ranked, where they are trained anyhow."""
RESAMPLES = 1000
"""Of the intervals of how good a ranking is."""
_FIXED = (
    "paths", "heads", "calibrate_steps", "coarse", "check", "stop_elasticity",
    "stop_quantity", "stop_window", "stop_patience", "stop_after_steps", *methods.OPTIONS,
    *study.OF_PICTURES,
)  # fmt: skip
"""Options of a prediction that a ranking does not have."""


@dataclass(frozen=True)
class RankConfig(study.Config):
    """What all candidates have in common, the candidates, and what is ranked by."""

    epsilon: tuple[float, ...] = (0.4,)
    """The threshold whose predicted time ranks: a loss, or a fraction of the initial loss."""
    rules: tuple[ThresholdRule, ...] = ("loss",)
    """How it is read off a curve."""
    candidates: tuple[str, ...] = ()
    """A candidate each, as option=value,option=value: model=resnet20,lr=1e-3. Options of the
    network, its weights and the optimiser."""
    candidates_file: str | None = None
    """File of more candidates: JSON, a list of objects, or TOML, tables [[candidates]]."""
    rates: tuple[float, ...] | None = None
    """Learning rates for every candidate that names none: one of it at each."""
    observe: tuple[int, ...] | None = None
    """Really train so many epochs of each, and rank by them too; with --train by default
    1, 2, 5 and 10."""
    train: bool = False
    """Really train every candidate to its end, and say how good each ranking is."""
    logged: tuple[str, ...] = ()
    """Folders of records of trained candidates: a regression on these ranks too."""
    by: str | None = None
    """The ranking that candidates are listed by; by default the predicted accuracy on pictures
    held out, or the predicted loss where there are none, unstable ones last."""


def run(
    config: RankConfig,
    *,
    out: Path,
    force: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> tuple[records.Record, Path]:
    """Rank the candidates and keep the record; candidates finished before are read.

    A candidate that fails is left out with a line that says why; the next call tries it
    again, and finds the others finished.

    Arguments and results as for :func:`ttp_jax.study.run`.

    Raises:
        InputError: Anything that cannot be used, before anything is computed; or fewer than
            two candidates that can. The records of those that can are there then.
    """
    asked = candidates.read(
        candidates.common_part(config),
        config.candidates,
        config.candidates_file,
        config.rates,
    )
    observe = _check(config)
    records.require_writable(out)
    logs = [log for folder in config.logged for log in logged_runs(Path(folder))]
    found: list[Finished] = []
    failed: list[dict[str, str]] = []
    shared = Shared()
    for k, candidate in enumerate(asked):
        say(f"{k + 1} of {len(asked)}: {candidate.name}")
        try:
            found.append(
                finish(
                    candidate,
                    out=out,
                    train=config.train,
                    observe=max(observe, default=0),
                    force=force,
                    shared=shared,
                    say=say,
                )
            )
        except (InputError, MemoryError, jax.errors.JaxRuntimeError) as error:
            reason = " ".join(str(error).split())
            failed.append({"name": candidate.name, "reason": reason})
            say(f"failed, left out: {candidate.name}: {reason}")
    if len(found) < 2:
        raise InputError(
            f"ranking needs at least 2 candidates that can be run, got {len(found)} of "
            f"{len(asked)}; {failed[0]['name']}: {failed[0]['reason']}"
        )
    # A candidate whose outcome is there would be fitted to itself.
    own = {of.scored.run_id for of in found}
    logs = [log for log in logs if log.name not in own]
    if config.logged and len(logs) < trainless.FEWEST:
        raise InputError(
            f"a regression on logged runs needs {trainless.FEWEST} that are not ranked here "
            f"themselves, got {len(logs)} in {' '.join(config.logged)}"
        )
    parts = {
        "candidates": [of.scored.run_id for of in found],
        "runs": [of.trained and of.trained.run_id for of in found],
        "failed": [entry["name"] for entry in failed],
        "observe": observe,
        "logged": sorted(log.name for log in logs),
        "by": config.by,
        "threshold": [config.epsilon, config.rules, config.smoothing],
    }
    run_id = records.run_id("rank", parts, {})
    finished = None if force or failed else study.read_finished(out, run_id, say)
    if finished:
        return finished
    result = {
        **ranked(found, observe=observe, logs=[log.runs for log in logs], by=config.by),
        "failed": failed,
        "record": str(out / run_id),
    }
    for row, of in zip(result["candidates"], found, strict=True):
        row["record"] = str(out / of.scored.run_id)
    record = records.Record(
        run_id=run_id,
        config=study.plain(config),
        result=result,
        provenance={
            "candidates": [of.scored.provenance for of in found],
            **records.environment(),
        },
        curves={},
    )
    return record, records.write(out, record)


def _check(config: RankConfig) -> tuple[int, ...]:
    """Refuses what cannot be ranked by; the epochs to observe, in order."""
    defaults = study.Config()
    changed = [name for name in _FIXED if getattr(config, name) != getattr(defaults, name)]
    if changed:
        raise InputError(
            f"a ranking has no {', '.join(changed)}: it compares single curves of whole runs, "
            "and what is predicted takes no real steps; leave them out"
        )
    if len(config.epsilon) != 1 or len(config.rules) != 1:
        raise InputError(
            f"a ranking reads one threshold by one rule, got {len(config.epsilon)} and "
            f"{len(config.rules)}"
        )
    time_to_threshold(_FLAT, config.epsilon[0], config.rules[0])
    observe = config.observe
    if observe is None:
        observe = tuple(k for k in OBSERVED if k <= config.epochs and config.train)
    if any(not 1 <= k <= config.epochs for k in observe):
        raise InputError(
            f"epochs to observe must lie in 1..{config.epochs:g} (the length of the run), got "
            f"{' '.join(map(str, observe))}"
        )
    observe = tuple(sorted(set(observe)))
    known = tuple(_described(observe, held_out=bool(config.held_out)))
    if config.logged:
        known = (*known, *_REGRESSED)
    if config.by is not None and config.by not in known:
        raise InputError(f"by must be one of {', '.join(known)}, got {config.by!r}")
    return observe


_FLAT = Curve(np.zeros(1, int), np.zeros(1), np.zeros(1), np.zeros(1))


_TITLES = {
    "predicted_loss_stable": "predicted loss, unstable last",
    "predicted_held_out_loss_stable": "predicted held-out loss, unstable last",
    "predicted_held_out_accuracy_stable": "predicted held-out accuracy, unstable last",
    "predicted_loss": "predicted loss",
    "predicted_held_out_loss": "predicted held-out loss",
    "predicted_held_out_accuracy": "predicted held-out accuracy",
    "predicted_time": "predicted time to threshold",
    "predicted_tse": "TSE, predicted",
    "predicted_tse_e": "TSE-E, predicted",
    "predicted_lcga": "LCGA, predicted",
    "predicted_lcga_slope": "LCGA slope, predicted",
    "label_gradient_correlation": "label-gradient correlation",
    "label_feature_correlation": "label-feature correlation",
    "ntk_condition": "NTK condition number",
    "ntk_trace": "NTK trace",
    "gradient_norm": "gradient norm",
    "snip": "SNIP",
    "grad_sign": "GradSign",
    "initial_loss": "initial loss",
    "weights_trained": "weights trained",
    "effective_rate": "effective learning rate",
}
_OBSERVED = {
    "tse": "TSE",
    "tse_e": "TSE-E",
    "lcga": "LCGA",
    "lcga_slope": "LCGA slope",
}
_REGRESSED = {
    f"regressed_{key}": f"regression on logs, {key.replace('_', ' ')}" for key in OUTCOMES
}


def _described(observe: Sequence[int], *, held_out: bool) -> dict[str, str]:
    """All rankings by key, and what each is called."""
    titles = {
        key: title for key, title in _TITLES.items() if held_out or "held_out" not in key
    }
    for k in observe:
        titles |= {
            f"observed_{key}_{k}": f"{title}, {k} epoch{'s' * (k > 1)}"
            for key, title in _OBSERVED.items()
        }
    return titles


@dataclass(frozen=True)
class Columns:
    """A set of candidates by every ranking: arrays over candidates, smaller being better."""

    titles: Mapping[str, str]
    """What each ranking is called, by key."""
    sides: Mapping[str, bool | None]
    """Whether the larger of its scores are the better."""
    values: Mapping[str, np.ndarray]
    flops: Mapping[str, np.ndarray]
    """What each takes alone: candidates that share a kernel cost less together."""
    step_flops: np.ndarray
    """Of one training step."""
    steps: np.ndarray
    """Of the whole run."""
    outcomes: Mapping[str, np.ndarray]
    """How the real runs ended; empty unless all were trained to their end."""

    def cost_steps(self, key: str) -> float:
        """Median over candidates, in training steps of each."""
        return float(np.median(self.flops[key] / self.step_flops))

    def cost_share(self, key: str) -> float:
        """Operations for all of them, as a share of training all of them to the end."""
        return float(self.flops[key].sum() / (self.step_flops * self.steps).sum())


def columns(
    found: Sequence[Finished],
    *,
    observe: Sequence[int] = (),
    logs: Sequence[Mapping[str, trainless.Run]] = (),
) -> Columns:
    """All rankings of a set.

    Args:
        found: At least one.
        observe: Epochs after which real runs are ranked.
        logs: Runs for the regression, by outcome.
    """
    held_out = all(of.scored.curves["predicted"].held_out is not None for of in found)
    table = [scores_of(of, observe) for of in found]
    titles = _described(observe, held_out=held_out)
    sides = {key: table[0][key].score.larger_is_better for key in titles}
    values = {
        key: ranking.ascending(
            np.array([row[key].score.value for row in table]), sides[key]
        )
        for key in titles
    }
    flops = {key: np.array([row[key].flops for row in table]) for key in titles}
    for key, regressed in _regressed(found, logs).items():
        values[key], titles[key], sides[key] = regressed, _REGRESSED[key], False
        flops[key] = flops["predicted_held_out_loss" if held_out else "predicted_loss"]
    return Columns(
        titles,
        sides,
        values,
        flops,
        step_flops=np.array([of.scored.result["step_flops"] for of in found]),
        steps=np.array([of.scored.result["steps"] for of in found]),
        outcomes=_outcomes(found),
    )


def ranked(
    found: Sequence[Finished],
    *,
    observe: Sequence[int] = (),
    logs: Sequence[Mapping[str, trainless.Run]] = (),
    by: str | None = None,
) -> dict[str, Any]:
    """Places of all candidates by every score; how good each is, where all were trained.

    Args:
        found: At least two.
        observe: Epochs after which real runs are ranked.
        logs: Runs for the regression, by outcome.
        by: What candidates are listed by.
    """
    of_set = columns(found, observe=observe, logs=logs)
    if by is None:
        by = "predicted_held_out_accuracy_stable"
        by = by if by in of_set.titles else "predicted_loss_stable"
    rows = [
        {
            "key": key,
            "title": title,
            "larger_is_better": of_set.sides[key],
            "cost_steps": of_set.cost_steps(key),
            "cost_share": of_set.cost_share(key),
            "places": [float(v) for v in ranking.places(of_set.values[key])],
            "quality": {
                name: quality(of_set.values[key], outcome)
                for name, outcome in of_set.outcomes.items()
            }
            or None,
        }
        for key, title in of_set.titles.items()
    ]
    # Few pictures give equal accuracies: among those the predicted loss decides.
    loss = "predicted_held_out_loss"
    loss = loss if loss in of_set.titles else "predicted_loss"
    order = np.lexsort((of_set.values[loss], of_set.values[by]))
    listed = [
        {
            "name": of.name,
            "place": int(np.flatnonzero(order == k)[0]) + 1,
            "trust": of.scored.result["trust"],
            "scores": {
                key: finite(costed.score.value)
                for key, costed in scores_of(of, observe).items()
            },
            "outcomes": {key: finite(v) for key, v in of.outcomes.items()} or None,
            "steps": of.scored.result["steps"],
        }
        for k, of in enumerate(found)
    ]
    trained = [of.trained for of in found if of.trained is not None]
    return {
        "by": by,
        "best": found[int(order[0])].name,
        "candidates": listed,
        "rankings": rows,
        "cost": {
            "predict_s": float(sum(of.scored.result["predict_s"] for of in found)),
            "train_s": float(sum(record.result["train_s"] for record in trained))
            if trained
            else None,
        },
    }


def _outcomes(found: Sequence[Finished]) -> dict[str, np.ndarray]:
    """How all of them ended, smaller being better; empty unless all were trained."""
    if not all(of.whole for of in found):
        return {}
    return {
        key: ranking.ascending(np.array([of.outcomes[key] for of in found]), larger)
        for key, larger in OUTCOMES.items()
        if all(key in of.outcomes for of in found)
    }


def quality(by: np.ndarray, outcome: np.ndarray) -> dict[str, list[float | None]]:
    """Every measure of a ranking against an outcome, with its interval of 95 %."""
    found = {}
    for measure in ranking.MEASURES:
        of = ranking.bootstrap(measure, by, outcome, times=RESAMPLES)
        found[measure] = [finite(v) for v in (of.value, of.low, of.high)]
    return found


def _regressed(
    found: Sequence[Finished], logs: Sequence[Mapping[str, trainless.Run]]
) -> dict[str, np.ndarray]:
    """By a regression on logged runs, for each outcome that these have."""
    if not logs:
        return {}
    asked = [as_runs(of) for of in found]
    values = {}
    for key in OUTCOMES:
        fitted = [log[key] for log in logs if log[key].outcome is not None]
        if len(fitted) >= trainless.FEWEST:
            values[f"regressed_{key}"] = trainless.rank(
                fitted, [run[key] for run in asked], (*ARCHITECTURE, *CURVE)
            )
    return values
