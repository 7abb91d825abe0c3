"""One run as the command line describes it: from a configuration to its record."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ttp_jax import (
    bands,
    chances,
    data,
    evaluation,
    methods,
    models,
    records,
    sampling,
    schedules,
)
from ttp_jax.chunks import map_samples
from ttp_jax.config import Config
from ttp_jax.data.augmentation import Augmentation
from ttp_jax.early_curves.elasticity import ElasticityRule
from ttp_jax.early_curves.prefix import prefix
from ttp_jax.finetune import finetune
from ttp_jax.groups import Groups
from ttp_jax.kernel.choice import Computed, Kernel
from ttp_jax.linearisation import extrapolation
from ttp_jax.optimizers import SGD, Adam, Optimizer
from ttp_jax.prediction import cost_ahead, predict
from ttp_jax.types import (
    ApplyFn,
    BatchNorm,
    Curve,
    InputError,
    Masked,
    Params,
    Task,
    Trust,
)

Command = Literal["predict", "finetune", "compare"]
READING_SHARE = 0.2
"""Reading the curve may cost this share of training."""


@dataclass(frozen=True)
class Built:
    """A configuration made concrete."""

    task: Task
    sgd: Optimizer
    steps: int
    every: int
    provenance: dict[str, Any]
    head: Callable[[int], Params]
    """Trained weights with the head of another seed."""

    def with_head(self, seed: int) -> Task:
        """The task with the head of another seed."""
        return dataclasses.replace(self.task, params=self.head(seed))

    @property
    def memory_budget_bytes(self) -> int | None:
        """For the kernel."""
        return self.provenance["memory_budget_bytes"]


def build(config: Config) -> Built:
    """Load, sample, preprocess, put on a head, freeze, and check.

    Raises:
        InputError: Anything that cannot be used.
    """
    _optimizer(config)
    network = models.load(
        config.model, weights=config.weights, image_size=config.image_size, seed=config.seed
    )
    scale = config.head_scale
    if scale is None:
        # Logits then start with a deviation near 2 in both families. The larger the head,
        # the less the features have to move, and the better one linearisation holds (lazy
        # training; Chizat et al., arXiv 1812.07956).
        scale = 1.0 if network.config["family"] == "imagenet" else 3.0

    def split_with_head(seed: int) -> models.Split:
        headed = network.with_head(
            config.classes,
            seed=seed,
            init=config.head_init,
            scale=scale,
            hidden=config.head_hidden,
        )
        split = headed.split(_last_frozen(config))
        return split._replace(params=jax.tree.map(jnp.asarray, split.params))

    split = split_with_head(config.seed)
    task_pictures = data.read_task(
        data.load(config.data, data_dir=config.data_dir),
        classes=config.classes,
        per_class=config.per_class,
        seed=config.seed,
        image_size=config.image_size or network.image_size,
        held_out=config.held_out,
    )

    def inputs(pictures: np.ndarray, description: str | None = None) -> np.ndarray:
        x = network.preprocess(pictures)
        if split.frozen is None:
            return x
        return map_samples(split.frozen, x, largest=32, description=description)

    x = inputs(task_pictures.images, "frozen stages")
    sample, n = task_pictures.sample, task_pictures.sample.trained
    y = task_pictures.labels
    task = Task(
        apply_fn=split.apply_fn,
        params=split.params,
        x=jnp.asarray(x[:n]),
        y=y[:n],
        loss=config.loss,
        held_out=(jnp.asarray(x[n:]), y[n:]) if config.held_out else None,
        views=_views(config, task_pictures.images[:n], inputs),
        batch_norm=_batch_norm(config, split),
    )
    held_out = {"held_out_indices": sample.indices[n:]} if config.held_out else {}
    provenance = {
        "weights": {
            "source": network.source,
            "sha256": network.weights_sha256,
            "architecture": network.config,
            "head": {"init": config.head_init, "scale": scale, "seed": config.seed},
            "trained_stages": list(split.params),
        },
        "data": {
            "source": task_pictures.source,
            "sha256": task_pictures.sha256,
            "class_names": sample.class_names,
            "indices": sample.indices[:n],
            **held_out,
            "image_size": int(task_pictures.images.shape[1]),
        },
        "n": task.n,
        "c": task.c,
        "parameters_trained": sum(leaf.size for leaf in jax.tree.leaves(task.params)),
        "memory_budget_bytes": config.memory_gb and int(config.memory_gb * 2**30),
    }
    head = lambda seed: split_with_head(seed).params  # noqa: E731
    return with_optimizer(Built(task, SGD(1.0), 1, 1, provenance, head), config)


def with_optimizer(built: Built, config: Config) -> Built:
    """The same task under the optimiser, for the length and read as often as another says.

    Raises:
        InputError: One that this task cannot be trained by.
    """
    task, sgd = built.task, _optimizer(config)
    sgd.batches(task.n, 1, 0)
    if not (np.isfinite(config.epochs) and config.epochs > 0):
        raise InputError(f"epochs must be positive, got {config.epochs}")
    batch_size = sgd.batch_size or task.n
    steps = sampling.steps_of(config.epochs, task.n, batch_size)
    if config.schedule == "cosine":
        sgd = dataclasses.replace(sgd, learning_rate=schedules.cosine(config.lr, steps))
    every = config.every or min(steps, _affordable_every(task.n + task.m, batch_size))
    provenance = {**built.provenance, "steps": steps}
    return dataclasses.replace(
        built, sgd=sgd, steps=steps, every=every, provenance=provenance
    )


OF_PICTURES = ("flip", "shift", "pixel_noise", "batch_norm")
"""Options of how pictures are trained on that are for single runs alone."""


def _views(
    config: Config, pictures: np.ndarray, inputs: Callable[[np.ndarray], np.ndarray]
) -> Callable[[int], np.ndarray] | None:
    """What each epoch trains on, made when it is asked for: of all epochs it would not fit."""
    augmented = Augmentation(
        config.flip, config.shift, config.pixel_noise, seed=config.seed
    )
    if not augmented.changes:
        return None
    augmented(pictures[:1], 0)  # what it refuses, it refuses now
    return lambda epoch: inputs(augmented(pictures, epoch))


def _batch_norm(config: Config, split: models.Split) -> BatchNorm | None:
    if config.batch_norm == "inference":
        return None
    if split.batch_norm is None:
        raise InputError(
            f"batch_norm train needs BatchNorm in the trained stages, {config.model} has none "
            "there; leave it out"
        )
    return split.batch_norm


def _last_frozen(config: Config) -> str | None:
    if config.freeze_until == "auto":
        return "stage2" if config.model == "embedded" else None
    return None if config.freeze_until.lower() == "none" else config.freeze_until


_OF_ONE = {
    "sgd": ("beta1", "beta2", "adam_eps"),
    "adam": ("momentum", "nesterov", "effective_rate"),
}
"""Options that an optimiser has no use for."""


def _optimizer(config: Config) -> Optimizer:
    default = Config()
    unused = [
        name
        for name in _OF_ONE[config.optimizer]
        if getattr(config, name) != getattr(default, name)
    ]
    if unused:
        raise InputError(
            f"{config.optimizer} has no {', '.join(unused)}; leave out what it has not, or "
            "take the other optimizer"
        )
    common: dict[str, Any] = {
        "weight_decay": config.weight_decay,
        "batch_size": config.batch_size,
        "sampling": config.sampling,
        "decay_toward": config.decay_toward,
    }
    if config.optimizer == "adam":
        return Adam(config.lr, config.beta1, config.beta2, config.adam_eps, **common)
    return SGD(config.lr, config.momentum, config.nesterov, **common)


def _affordable_every(read: int, batch_size: int) -> int:
    """Steps between readings such that their forwards stay under a share of ``3 B`` each."""
    return int(np.ceil(read / (READING_SHARE * 3 * batch_size)))


class Kernels:
    """The last few kernels, for runs that differ in nothing that a kernel depends on.

    Args:
        kept: How many, each of ``8 (n c)^2`` bytes; the oldest goes first.
    """

    def __init__(self, kept: int = 4) -> None:
        self._kept = kept
        self._by_key: dict[str, Computed] = {}

    def of(
        self,
        built: Built,
        kernel: Kernel,
        samples: int | None = None,
        groups: Groups | None = None,
        task: Task | None = None,
    ) -> Computed:
        """The kernel of a task as it was computed before, or computed now.

        Of ``built`` or, where a method has put masks on it, of ``task``.
        """
        task = task or built.task
        made_of = [built.provenance[part] for part in ("weights", "data")]
        key = repr((kernel, samples, groups, made_of, _digest(task.apply_fn)))
        found = self._by_key.pop(key, None)
        if found is None:
            # Room first: two at a time may be what fits.
            while len(self._by_key) >= self._kept:
                del self._by_key[next(iter(self._by_key))]
            if samples is not None:
                task = extrapolation.few(task, samples, kernel.seed)
            found = kernel.of(
                task, groups=groups, memory_budget_bytes=built.memory_budget_bytes
            )
        self._by_key[key] = found
        return found


def _digest(model: ApplyFn) -> str | None:
    """What names the masks of a model; ``None`` of a dense one."""
    if not isinstance(model, Masked):
        return None
    bits = (np.packbits(mask).tobytes() for mask in jax.tree.leaves(model.masks))
    return hashlib.sha256(b"".join(bits)).hexdigest()


def run(
    command: Command,
    config: Config,
    *,
    out: Path,
    force: bool = False,
    kernels: Kernels | None = None,
    pictures: bool = True,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> tuple[records.Record, Path]:
    """Do what the command says and keep its record; a finished run is read, not repeated.

    Args:
        command: ``"predict"``, ``"finetune"`` or ``"compare"``.
        config: What to do.
        out: Folder of records.
        force: Run again although there is a record.
        kernels: Of earlier runs; a kernel found there is not computed again, and its
            seconds count as this run's all the same.
        pictures: Whether the record lists the pictures; :func:`without_pictures`.
        say: Receives a line on what is going on.

    Returns:
        The record and its folder.

    Raises:
        InputError: Anything that cannot be used; then nothing is written.
    """
    if config.heads and (config.heads < 2 or config.paths):
        raise InputError(
            "heads must be 0 or at least 2, and bands come from heads or from paths, got "
            f"heads {config.heads} and paths {config.paths}"
        )
    rule = stopping_rule(config)
    # Thresholds are read at the end of the run, the folder written then: refuse both now.
    evaluation.compare_thresholds(
        _FLAT, None, rules=config.rules, epsilons=config.epsilon, smoothing=config.smoothing
    )
    records.require_writable(out)
    built = build(config)
    if methods.asked(config):
        # One kernel for all runs, and of a masked network one for the dense run beside it.
        kernels = kernels or Kernels(kept=2)
    if command == "finetune":
        config = dataclasses.replace(config, **_BEFORE)  # of predictions alone
    run_id = identified(command, config, built)
    if not force and (finished := read_finished(out, run_id, say)):
        return finished

    def kernel(task: Task, groups: Groups | None) -> Computed:
        assert kernels is not None
        asked = kernel_of(config), config.kernel_samples, groups
        return kernels.of(built, *asked, task=task)

    plain_run = methods.Run(built.task, built.sgd, built.steps, kernel=kernel)
    runs = methods.runs(config, plain_run)
    asked: dict[str, Any] = {
        "steps": built.steps,
        "solver": config.solver,
        "kernel": kernel_of(config),
        "every": built.every,
        "paths": config.paths,
        "noise": config.noise,
        "calibrate_steps": config.calibrate_steps,
        "relinearize": config.relinearize,
        # A method and the run beside it are predicted alike, by one linearisation.
        "mend": 0 if methods.asked(config) else config.mend,
        "mend_clock": config.mend_clock,
        "kernel_samples": config.kernel_samples,
        "coarse": config.coarse,
        "check": config.check,
        "views": config.views,
        "memory_budget_bytes": built.memory_budget_bytes,
    }
    held_out = f" ({built.task.m} more held out)" if built.task.m else ""
    lines = [
        f"{config.model} on {built.provenance['data']['source']}: {built.task.n} pictures of "
        f"{built.task.c} classes{held_out}, {built.provenance['parameters_trained']:,} weights "
        f"trained, {built.steps} steps, curve read every {built.every}"
    ]
    if command != "finetune":
        # Before anything is said: what it refuses is the only line then.
        first = runs[""]
        ahead = cost_ahead(
            first.task, first.sgd, seed=config.seed, keep=first.keep, **first.also, **asked
        )
        lines.append(str(ahead))
        if built.task.views is not None:
            lines.append(
                f"that is of up to {config.views} views of each picture beside the pictures "
                "themselves"
            )
        if config.relinearize is not None:
            lines.append("re-linearised: as many such kernels as the path is bent")
        if config.check is not None:
            lines.append(f"checked by a coarse run of {config.check:g} passes of gradients")
    for line in lines:
        say(line)
    curves: dict[str, Curve] = {}
    if command != "finetune":
        # Adam's kernels are its own.
        alike = config.optimizer == "sgd" and not config.calibrate_steps
        alike = alike and config.coarse is None
        alike = alike and built.task.views is None and built.task.batch_norm is None
        for name, run in runs.items():
            shared = {}
            if kernels is not None and alike and "sparsity" not in run.also:
                same = run.task is runs[""].task
                shared["kernel"] = kernel(
                    run.task, first.also.get("groups") if same else None
                )
            curves[f"{name}predicted"] = predict(
                run.task,
                run.sgd,
                seed=config.seed,
                effective_rate=config.effective_rate,
                keep=run.keep,
                **run.also,
                **{**asked, **shared},
            )
        if config.heads:
            curves["predicted"] = _with_heads(built, config, curves["predicted"], asked)
    if command != "predict":
        for name, run in runs.items():
            curves[f"{name}measured"] = finetune(
                run.task,
                run.sgd,
                steps=run.steps,
                seed=config.seed,
                every=built.every,
                keep=run.keep,
                stop=rule,
                **run.also,
            )
    found = methods.found(config, runs, curves)
    result = _result(config, curves, out / run_id) | found.result
    record = records.Record(
        run_id=run_id,
        config=plain(config),
        result=result,
        provenance={
            **(built.provenance if pictures else without_pictures(built.provenance)),
            **records.environment(),
        },
        curves=curves,
        arrays=found.arrays,
    )
    return record, records.write(out, record)


def without_pictures(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """For a record beside another one that lists the pictures of the same task."""
    data = {k: v for k, v in provenance["data"].items() if k != "indices"}
    return {**provenance, "data": data}


def identified(command: str, config: Config, built: Built) -> str:
    """The run's name: of what was asked for and what was read."""
    sources = {key: built.provenance[key]["sha256"] for key in ("weights", "data")}
    return records.run_id(command, named(config), sources)


def named(config: Config) -> dict[str, Any]:
    """The options that name a run: those that are not what was before them.

    A new option so leaves old runs finished.
    """
    unnamed = before(type(config)())
    options = dataclasses.asdict(config)
    return {k: v for k, v in options.items() if v != unnamed[k]}


_BEFORE = {"mend": 0}
"""What was done before there was an option, where its default is something else."""


def before(default: Config) -> dict[str, Any]:
    """Options as they stood when there was no such option, which is what old records mean."""
    return {**dataclasses.asdict(default), **_BEFORE}


def read_finished(
    out: Path, run_id: str, say: Callable[[str], None]
) -> tuple[records.Record, Path] | None:
    """The record of a run that was finished before, and its folder; ``None`` of another."""
    if not records.finished(out, run_id):
        return None
    say(f"finished before, read from {out / run_id} (--force runs it again)")
    return records.load(out / run_id), out / run_id


def kernel_of(config: Config) -> Kernel:
    """The kernel that was asked for."""
    return Kernel(
        config.kernel, config.kernel_outputs, config.sketch_dimension, config.seed
    )


def stopping_rule(config: Config) -> ElasticityRule | None:
    """When to end the real run, if before its end.

    Raises:
        InputError: A rule that cannot be, or the options of one without its level.
    """
    default, options = Config(), {}
    for name in ("quantity", "window", "patience", "after_steps"):
        options[name] = getattr(config, f"stop_{name}")
    if config.stop_elasticity is not None:
        return ElasticityRule(level=config.stop_elasticity, **options)
    alone = [
        f"stop_{name}"
        for name, value in options.items()
        if value != getattr(default, f"stop_{name}")
    ]
    if alone:
        raise InputError(
            f"{', '.join(alone)} need stop_elasticity, the level at which to stop; give it, "
            "such as 0.5, or leave them out"
        )
    return None


def plain(config: Config) -> dict[str, Any]:
    """A configuration in JSON's own types, as a record keeps it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


OTHER_HEADS = 1000
"""Added to a seed: heads and streams that no run of a neighbouring seed has."""


def _with_heads(
    built: Built, config: Config, curve: Curve, asked: Mapping[str, Any]
) -> Curve:
    """The curve with bands over other heads and streams, its cost with theirs."""
    others = []
    for k in range(config.heads):
        seed = config.seed + OTHER_HEADS * (k + 1)
        others.append(
            predict(
                built.with_head(seed),
                built.sgd,
                seed=seed,
                effective_rate=config.effective_rate,
                **asked,
            )
        )
    timings = {
        part: sum(c.timings.get(part, 0.0) for c in (curve, *others))
        if part != "step_s"
        else curve.timings[part]
        for part in curve.timings
    }
    return dataclasses.replace(
        bands.from_curves(curve, others),
        timings=timings,
        flops=curve.flops + sum(other.flops for other in others),
    )


_FLAT = Curve(np.zeros(1, int), np.zeros(1), np.zeros(1), np.zeros(1))


def _result(config: Config, curves: dict[str, Curve], folder: Path) -> dict[str, Any]:
    predicted, measured = curves.get("predicted"), curves.get("measured")
    stopped = {}
    rule = stopping_rule(config)
    if rule is not None:
        stopped["stop"] = evaluation.stopping(predicted, measured, rule)
        if predicted is not None and measured is not None:
            # Both sides are read over the same steps: those of the real run.
            predicted_whole = predicted
            predicted = dataclasses.replace(
                prefix(predicted, measured.budget_steps),
                timings=predicted_whole.timings,
                flops=predicted_whole.flops,
            )
    thresholds = evaluation.compare_thresholds(
        predicted,
        measured,
        rules=config.rules,
        epsilons=config.epsilon,
        smoothing=config.smoothing,
    )
    trust = predicted.trust if predicted is not None else None
    first = predicted or measured
    assert first is not None
    held_out = {}
    if config.held_out:
        held_out["held_out"] = evaluation.held_out(
            predicted, measured, smoothing=config.smoothing
        )
    return {
        "loss_initial": float(first.loss[0]),
        "thresholds": [
            threshold.as_json() | _trusted(predicted, threshold) for threshold in thresholds
        ],
        **held_out,
        **stopped,
        "cost": evaluation.cost(predicted, measured),
        "trust": trust and verdict(trust),
        "record": str(folder),
    }


def _trusted(
    predicted: Curve | None, threshold: evaluation.Threshold
) -> dict[str, float | list[int | None] | None]:
    """The score of a predicted time, and between which readings the real one is to be expected.

    The last of these is ``None`` where it lies beyond the run; there are none of a time that is
    not named.
    """
    if predicted is None or threshold.predicted is None:
        return {"score": None, "predicted_steps_95": None}
    score = chances.score_of_threshold(predicted, threshold.epsilon, threshold.rule)
    # Not of the curve again: it may have been smoothed.
    named, expected = threshold.predicted.steps, None
    if score is not None and named is not None:
        low, high = chances.interval(named, score)
        read = predicted.steps
        last = int(np.searchsorted(read, high))
        expected = [
            int(read[np.searchsorted(read, low, side="right") - 1]),
            int(read[last]) if last < len(read) else None,
        ]
    return {"score": score, "predicted_steps_95": expected}


def verdict(trust: Trust) -> dict[str, Any]:
    """What of a trust is printed."""
    return {"ok": trust.ok, "score": trust.score, "reason": trust.reason}
