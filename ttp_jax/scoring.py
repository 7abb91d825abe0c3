"""What is known of one candidate, without training it and from its first real epochs.

Every candidate leaves two records of its own, one of what is known without training it
(``candidate-...``) and, where it is trained, one of the real run (``trained-...``; of a run
that is only begun ``observed10-...``). They depend on the candidate alone: among others, or
by another threshold, nothing is computed twice.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttp_jax import alignment, outputs, proxies, records, study
from ttp_jax.candidates import Candidate
from ttp_jax.early_curves.lcga import lcga
from ttp_jax.early_curves.prefix import Score, batch_log, prefix
from ttp_jax.early_curves.tse import tse, tse_e
from ttp_jax.finetune import finetune
from ttp_jax.kernel.choice import Computed, Kernel
from ttp_jax.kernel.classes import over_samples
from ttp_jax.linearisation import extrapolation
from ttp_jax.models import pretrained
from ttp_jax.optimizers import SGD
from ttp_jax.prediction import cost_ahead, predict
from ttp_jax.sampling import steps_per_epoch
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.types import Curve, InputError, Task

BURN_IN = 2
"""Epochs that LCGA's scores leave out, of runs longer than that."""
UNSTABLE = 2.0
"""Largest curvature times learning rate, in units of the optimiser's limit, above which a
prediction is put last: real runs are stable up to once to twice the limit
(``experiments.sweep``)."""
_OF_PREDICTIONS = (
    "solver", "noise", "effective_rate", "relinearize", "mend", "mend_clock", "kernel",
    "kernel_outputs", "sketch_dimension", "kernel_samples", "memory_gb", "epsilon", "rules",
    "smoothing",
)  # fmt: skip
"""Options that leave the real run as it is: with others of these it is not run again."""
_OF_READING = ("epsilon", "rules", "smoothing")
"""Options that leave the predicted curve as it is: it is read again by others of these."""
_OF_OPTIMIZER = (
    "optimizer", "lr", "schedule", "momentum", "nesterov", "beta1", "beta2", "adam_eps",
    "weight_decay", "decay_toward", "batch_size", "sampling", "epochs", "every",
)  # fmt: skip
"""Options that leave the task as it is."""


@dataclass(frozen=True)
class Finished:
    """A candidate and what is known of it."""

    name: str
    config: study.Config
    scored: records.Record
    """Without training."""
    trained: records.Record | None = None
    """The real run, whole or its first epochs."""

    @property
    def whole(self) -> bool:
        """Whether it was trained to its end."""
        return self.trained is not None and "outcomes" in self.trained.result

    @property
    def outcomes(self) -> dict[str, float]:
        """How the real run ended, NaN where that is not finite; empty without one."""
        if self.trained is None:
            return {}
        found = self.trained.result.get("outcomes", {})
        return {key: number(value) for key, value in found.items()}


class Shared:
    """What candidates that differ in the optimiser alone have in common: task and kernel."""

    def __init__(self) -> None:
        self.kernels = study.Kernels()
        self._last: tuple[study.Config, study.Built] | None = None

    def built(self, config: study.Config) -> study.Built:
        """As :func:`ttp_jax.study.build`; the task of the candidate before, if it is that.

        What was compiled for it then is not compiled again.

        Raises:
            InputError: A candidate that cannot be used.
        """
        defaults = study.before(study.Config())
        task = dataclasses.replace(
            config, **{key: defaults[key] for key in (*_OF_PREDICTIONS, *_OF_OPTIMIZER)}
        )
        task = dataclasses.replace(task, memory_gb=config.memory_gb)
        if self._last is None or self._last[0] != task:
            self._last = None  # room first
            self._last = task, study.build(config)
            return self._last[1]
        return study.with_optimizer(self._last[1], config)


@dataclass(frozen=True)
class Costed:
    """A score and the operations that it takes alone."""

    score: Score
    flops: float


def finish(
    candidate: Candidate,
    *,
    out: Path,
    train: bool,
    observe: int = 0,
    force: bool = False,
    shared: Shared | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Finished:
    """What is asked for of one candidate, read where it is there.

    Args:
        candidate: To be scored.
        out: Folder of records.
        train: To its end.
        observe: Otherwise so many epochs.
        force: Compute all of it again.
        shared: With the candidates before and after.
        say: Receives a line on what is going on.

    Raises:
        InputError: A candidate that cannot be used.
    """
    config = candidate.config
    shared = shared or Shared()
    built = shared.built(config)
    defaults = study.before(study.Config())
    unread = dataclasses.replace(config, **{key: defaults[key] for key in _OF_READING})
    run_id = study.identified("candidate", unread, built)
    if not force and records.finished(out, run_id):
        scored = records.load(out / run_id)
        say("  scored before")
    else:
        scored = _scored(candidate, built, run_id, shared.kernels)
        records.write(out, scored)
        trust = scored.result["trust"]
        word = "trusted" if trust["ok"] else "NOT to be trusted"
        say(f"  predicted, {word}: {trust['reason']}")
    real = dataclasses.replace(config, **{key: defaults[key] for key in _OF_PREDICTIONS})
    whole_id = study.identified("trained", real, built)
    trained = None
    if not force and records.finished(out, whole_id):
        trained = records.load(out / whole_id)
        say("  trained before")
    elif train:
        trained = _trained(candidate, built, whole_id, None)
    elif observe:
        part_id = study.identified(f"observed{observe}", real, built)
        if not force and records.finished(out, part_id):
            trained = records.load(out / part_id)
            say("  observed before")
        else:
            trained = _trained(candidate, built, part_id, observe)
    if trained is not None and not records.finished(out, trained.run_id):
        records.write(out, trained)
    return Finished(candidate.name, config, scored, trained)


def _scored(
    candidate: Candidate, built: study.Built, run_id: str, kernels: study.Kernels
) -> records.Record:
    """The prediction, the proxies, and what each of them takes."""
    config, task, sgd = candidate.config, built.task, built.sgd
    described = study.kernel_of(config)
    asked: dict[str, Any] = {
        "steps": built.steps,
        "solver": config.solver,
        "noise": config.noise,
        "relinearize": config.relinearize,
        "mend": config.mend,
        "mend_clock": config.mend_clock,
        "kernel_samples": config.kernel_samples,
        "seed": config.seed,
        "memory_budget_bytes": built.memory_budget_bytes,
    }
    # The same without the pictures held out, which most scores have no use for; and what the
    # prediction refuses is refused here, before the kernel is computed.
    alone = dataclasses.replace(task, held_out=None)
    joint, fewer = (
        cost_ahead(of, sgd, kernel=described, **asked).flops for of in (task, alone)
    )
    kernel = kernels.of(built, described, config.kernel_samples)
    of_sgd = isinstance(sgd, SGD)
    curve = predict(
        task,
        sgd,
        kernel=kernel if of_sgd else described,
        effective_rate=config.effective_rate,
        **asked,
    )
    assert curve.trust is not None
    of_pixels = outputs.forward_flops(task.apply_fn, task.params, task.x)
    found = _without_curve(task, built, kernel, curve, of_pixels)
    result = {
        "candidate": candidate.name,
        "own": dict(candidate.own),
        "family": family_of(config.model),
        "scores": {
            key: {
                "value": finite(costed.score.value),
                "larger_is_better": costed.score.larger_is_better,
                "flops": costed.flops,
            }
            for key, costed in found.items()
        },
        "prediction_flops": curve.flops - (joint - fewer),
        "held_out_prediction_flops": curve.flops,
        "features": {
            "forward_flops": of_pixels,
            "batch_size": float(sgd.batch_size or task.n),
            "stability": finite(curve.trust.stability),
            "gap": finite(curve.trust.gap),
            "early_gap": finite(curve.trust.early_gap),
        },
        "trust": study.verdict(curve.trust),
        "steps": built.steps,
        "steps_per_epoch": steps_per_epoch(task.n, sgd.batch_size),
        "step_flops": 3 * of_pixels * (sgd.batch_size or task.n),
        "predict_s": sum(
            seconds
            for part, seconds in curve.timings.items()
            if part not in ("step_s", "compile_s")
        ),
    }
    return records.Record(
        run_id=run_id,
        config=study.plain(config),
        result=result,
        provenance={**built.provenance, **records.environment()},
        curves={"predicted": curve},
    )


def _trained(
    candidate: Candidate, built: study.Built, run_id: str, epochs: int | None
) -> records.Record:
    """The real run, to its end or for its first epochs."""
    config, task = candidate.config, built.task
    every, stop = built.every, None
    if epochs is not None:
        last = epochs * steps_per_epoch(task.n, built.sgd.batch_size)
        every = min(last, built.steps)
        stop = lambda seen: seen.budget_steps >= last  # noqa: E731
    curve = finetune(
        task, built.sgd, steps=built.steps, seed=config.seed, every=every, stop=stop
    )
    result: dict[str, Any] = {
        "candidate": candidate.name,
        "epochs": epochs,
        "train_s": curve.timings["train_s"],
        "flops": curve.flops,
    }
    if epochs is None:
        ends: dict[str, float] = {"loss": float(curve.loss[-1])}
        if curve.held_out is not None:
            ends["held_out_loss"] = float(curve.held_out.loss[-1])
            ends["held_out_accuracy"] = float(curve.held_out.accuracy[-1])
        result["outcomes"] = {key: finite(value) for key, value in ends.items()}
    assert curve.batch_loss is not None
    return records.Record(
        run_id=run_id,
        config=study.plain(config),
        result=result,
        provenance={**built.provenance, **records.environment()},
        curves={"measured": curve},
        arrays={"batch_loss": curve.batch_loss},
    )


def of_prediction(curve: Curve, config: study.Config, per_epoch: int) -> dict[str, Score]:
    """What ranks by a predicted curve; what cannot be read off it is NaN, the worst.

    Linear dynamics that explode can still end low, where outputs have grown so far that all
    samples are on the right side; the real run does not follow them there. So losses and
    accuracy come once more as ``..._stable``, the worst where the stability of the trust is
    above :data:`UNSTABLE`.

    Args:
        curve: Read at every step.
        config: Of the candidate; its first threshold and rule are taken.
        per_epoch: Steps in an epoch.
    """
    found = {f"predicted_{key}": s for key, s in of_log(curve, per_epoch).items()}
    at = time_to_threshold(
        curve, config.epsilon[0], config.rules[0], smoothing=config.smoothing
    )
    steps = np.inf if at.steps is None else float(at.steps)
    found["predicted_time"] = Score("time to threshold", steps, False)
    found["predicted_loss"] = Score("final loss", float(curve.loss[-1]), False)
    if curve.held_out is not None:
        end = curve.held_out
        found["predicted_held_out_loss"] = Score(
            "final held-out loss", float(end.loss[-1]), False
        )
        found["predicted_held_out_accuracy"] = Score(
            "final held-out accuracy", float(end.accuracy[-1]), True
        )
    stability = 0.0 if curve.trust is None else curve.trust.stability
    for key in ("loss", "held_out_loss", "held_out_accuracy"):
        if (score := found.get(f"predicted_{key}")) is not None:
            value = score.value if stability <= UNSTABLE else np.nan
            found[f"predicted_{key}_stable"] = dataclasses.replace(score, value=value)
    return found


def of_log(curve: Curve, per_epoch: int) -> dict[str, Score]:
    """TSE, TSE-E and both scores of LCGA of a whole curve; NaN where there is none.

    LCGA leaves out the first :data:`BURN_IN` epochs of a curve that is longer.

    Args:
        curve: Predicted, or the log of mini-batches of a real run.
        per_epoch: Steps in an epoch.
    """
    epochs = max(1, -(-int(curve.budget_steps + 1) // per_epoch))

    def fitted():
        burn_in = BURN_IN if epochs > BURN_IN else 0
        return lcga(curve, steps_per_epoch=per_epoch, epochs=epochs, burn_in_epochs=burn_in)

    makers: dict[str, tuple[Callable[[], Score], bool | None]] = {
        "tse": (lambda: tse(curve, steps_per_epoch=per_epoch), False),
        "tse_e": (lambda: tse_e(curve, steps_per_epoch=per_epoch), False),
        "lcga": (lambda: fitted().slope_over_root_curvature, True),
        "lcga_slope": (lambda: fitted().slope, None),
    }
    found = {}
    for key, (make, larger) in makers.items():
        try:
            found[key] = make()
        except InputError:
            found[key] = Score(key, np.nan, larger)
    return found


def _without_curve(
    task: Task, built: study.Built, kernel: Computed, curve: Curve, of_pixels: float
) -> dict[str, Costed]:
    """Proxies of the literature, correlations of labels, and what costs nothing."""
    described, budget = kernel.described, built.memory_budget_bytes
    samples = len(kernel.theta) // task.c - task.m
    seen = dataclasses.replace(task, held_out=None)
    if samples < task.n:
        seen = extrapolation.few(seen, samples, described.seed)
    size = seen.n * task.c
    theta = kernel.theta[:size, :size]

    def price(of: Kernel) -> float:
        return of.cost(seen.apply_fn, seen.params, seen.x, memory_budget_bytes=budget).flops

    slope = proxies.gradient(seen)
    plain = [
        ("gradient_norm", proxies.gradient_norm(seen, slope)),
        ("snip", proxies.snip(seen, slope)),
        ("grad_sign", proxies.grad_sign(seen)),
        ("ntk_trace", proxies.mean_eigenvalue(theta, task.c)),
        ("ntk_condition", proxies.condition_number(theta, task.c)),
    ]
    found = {
        key: Costed(
            Score(proxy.name, proxy.value, proxy.larger_is_better),
            proxy.forward_passes * of_pixels,
        )
        for key, proxy in plain
    }
    # Its products, which are no forward passes.
    found["ntk_condition"] = dataclasses.replace(
        found["ntk_condition"], flops=price(Kernel(outputs="sum_of_logits"))
    )
    labels = np.asarray(seen.y)
    features = Kernel(outputs="last_layer").compute(
        seen.apply_fn, seen.params, seen.x, memory_budget_bytes=budget
    )
    for key, gram, flops in (
        ("label_gradient_correlation", theta, price(described)),
        ("label_feature_correlation", features, of_pixels * seen.n),
    ):
        value = _correlation(gram, labels, task.c)
        found[key] = Costed(Score(key, value, True), flops)
    rate = float(built.sgd.learning_rates(built.steps).max())
    if isinstance(built.sgd, SGD):
        rate /= 1 - built.sgd.momentum
    baselines = (
        ("initial_loss", float(curve.loss[0]), False, of_pixels * seen.n),
        ("weights_trained", float(built.provenance["parameters_trained"]), True, 0.0),
        ("effective_rate", rate, True, 0.0),
    )
    for key, value, larger, flops in baselines:
        found[key] = Costed(Score(key, value, larger), flops)
    return found


def _correlation(gram: np.ndarray, labels: np.ndarray, c: int) -> float:
    try:
        return alignment.label_correlation(over_samples(gram, c), labels)
    except InputError:
        return np.nan


def scores_of(finished: Finished, observe: Sequence[int]) -> dict[str, Costed]:
    """All scores of a candidate by key, those of its first real epochs with them.

    Args:
        finished: With the real run, where epochs are observed.
        observe: After how many epochs.
    """
    result = finished.scored.result
    per_epoch = result["steps_per_epoch"]
    curve = finished.scored.curves["predicted"]
    found = {
        key: Costed(
            score,
            result[
                "held_out_prediction_flops" if "held_out" in key else "prediction_flops"
            ],
        )
        for key, score in of_prediction(curve, finished.config, per_epoch).items()
    }
    for key, entry in result["scores"].items():
        score = Score(key, number(entry["value"]), entry["larger_is_better"])
        found[key] = Costed(score, entry["flops"])
    for k in observe:
        assert finished.trained is not None
        measured = dataclasses.replace(
            finished.trained.curves["measured"],
            batch_loss=finished.trained.arrays["batch_loss"],
        )
        seen = prefix(batch_log(measured), k * per_epoch - 1)
        for key, score in of_log(seen, per_epoch).items():
            flops = k * per_epoch * result["step_flops"]
            found[f"observed_{key}_{k}"] = Costed(score, flops)
    return found


def config_of(record: records.Record) -> study.Config:
    """A candidate's own configuration; an option newer than the record has its default."""
    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in record.config.items()
    }
    return study.Config(**options)


def family_of(model: str) -> str:
    """Networks that differ in depth alone are one family."""
    if model in pretrained.CIFAR_DEPTHS:
        return "cifar resnet"
    return "imagenet resnet" if model in pretrained.IMAGENET_DEPTHS else model


def real_run(record: records.Record) -> str:
    """Name of the real run that a record of a candidate belongs to."""
    config = {**dataclasses.asdict(study.Config()), **record.config}
    return repr(sorted((k, str(v)) for k, v in config.items() if k not in _OF_PREDICTIONS))


def number(value: float | None) -> float:
    """What a record keeps as ``null`` is NaN."""
    return np.nan if value is None else float(value)


def finite(value: float) -> float | None:
    """And what is not finite is kept as ``null``."""
    # A loss of zero may come as -0.
    return float(value) + 0.0 if np.isfinite(value) else None
