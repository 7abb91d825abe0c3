"""One run as the command line describes it: from a configuration to its record."""

import dataclasses
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
    data,
    evaluation,
    extrapolation,
    models,
    records,
    sampling,
    schedules,
    second_look,
    snapshot_evaluation,
)
from ttp_jax.accelerators import snapshot
from ttp_jax.accelerators.plan import Plan
from ttp_jax.chunks import map_samples
from ttp_jax.dynamics.noise import Noise
from ttp_jax.early_curves.elasticity import ElasticityRule, Quantity
from ttp_jax.early_curves.prefix import prefix
from ttp_jax.finetune import finetune
from ttp_jax.kernel.choice import Computed, Kernel, KernelName
from ttp_jax.kernel.classes import Outputs
from ttp_jax.optimizers import SGD, Adam, DecayToward, Optimizer
from ttp_jax.prediction import Solver, cost_ahead, predict
from ttp_jax.reading import Keep
from ttp_jax.sampling import Sampling
from ttp_jax.types import (
    Curve,
    InputError,
    LossName,
    Params,
    Task,
    ThresholdRule,
    Trust,
)

Command = Literal["predict", "finetune", "compare"]
READING_SHARE = 0.2
"""Reading the curve may cost this share of training."""


@dataclass(frozen=True)
class Config:
    """What is fine-tuned, how, and what is asked of the curve."""

    model: str = "embedded"
    """Network: embedded, resnet20|32|44|56, resnet18|34|50|101, mlp."""
    weights: str | None = None
    """File of pre-trained weights (.safetensors, .pth, .npz), or the word random."""
    data: str = "digits"
    """Pictures: digits, dir:FOLDER, npz:FILE or tfds:NAME."""
    data_dir: str | None = None
    """Folder of prepared data sets, for tfds:NAME."""
    classes: int = 5
    """Classes drawn for the task."""
    per_class: int = 30
    """Pictures drawn of each class."""
    held_out: int = 0
    """Further pictures of each class that are not trained on, and that the curves are read on
    too; 0 for none."""
    image_size: int | None = None
    """Side in pixels; by default what the network was made for."""
    freeze_until: str = "auto"
    """Last stage that is not trained; everything after it is, with the new head. none
    trains all; auto is none, for the embedded network stage2."""
    head_init: models.HeadInit = "lecun_normal"
    """The new head: N(0, 1/fan_in) or zeros."""
    head_scale: float | None = None
    """Multiplies the new head; by default 3, for ImageNet networks 1 (larger features)."""
    loss: LossName = "cross_entropy"
    """cross_entropy or mse (0.5 |f - y|^2 on one-hot targets)."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd, or adam (adamw with weight decay)."""
    lr: float = 1.5e-4
    """Learning rate, of the mean loss of a batch."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the run."""
    momentum: float = 0.9
    """Momentum, of sgd."""
    nesterov: bool = False
    """Nesterov's form of it."""
    beta1: float = 0.9
    """Decay of adam's average gradient."""
    beta2: float = 0.999
    """Decay of adam's average square."""
    adam_eps: float = 1e-8
    """Added to the root of adam's average square."""
    weight_decay: float = 0.0
    """Weight decay, on every trained weight; of adam the decoupled one."""
    decay_toward: DecayToward = "zero"
    """Weights that it pulls to: zero, or initial for those at the start."""
    batch_size: int | None = 25
    """Batch size; None for the full batch."""
    sampling: Sampling = "shuffle"
    """How batches are drawn."""
    epochs: int | float = 60
    """Length of the run in passes over the pictures."""
    epsilon: tuple[float, ...] = (0.4, 0.1, 0.01)
    """Thresholds, as a loss or as a fraction of the initial loss."""
    rules: tuple[ThresholdRule, ...] = ("within_of_final", "fraction_of_initial", "loss")
    """How thresholds are read off a curve."""
    smoothing: int = 1
    """Mean over so many readings before thresholds are read."""
    every: int | None = None
    """Read the curve every so many steps; by default as often as costs little."""
    stop_elasticity: float | None = None
    """End the real run once one per cent more steps takes less than so many per cent off the
    loss; a prediction says where that will be. To its end by default."""
    stop_quantity: Quantity = "loss"
    """What is to fall: the loss, or the error (1 - accuracy)."""
    stop_window: int = 5
    """Readings that its slope is taken over."""
    stop_patience: int = 1
    """Readings in a row that must fall so little."""
    stop_after_steps: int | None = None
    """From this step on the run may end though it never fell faster; by default only after it
    once has."""
    solver: Solver = "simulate"
    """What solves the linearised dynamics."""
    paths: int = 0
    """Random paths that bands around the prediction are read from; 0 for no bands."""
    heads: int = 0
    """Other random heads, each with a stream of its own, that bands are read from; each
    costs a prediction of its own. 0 for none."""
    noise: Noise = "exact"
    """Noise of the batches in the solvers moments, moments_sde and sde."""
    effective_rate: bool = False
    """Treat momentum as the learning rate lr/(1 - momentum)."""
    calibrate_steps: int = 0
    """Take so many real steps first, and predict the rest from there."""
    relinearize: float | None = None
    """Linearise again wherever the model has left its linearisation by so much, such as 0.5;
    once, at the start, by default."""
    kernel: KernelName = "exact"
    """What computes the kernel: exactly, by neural-tangents, or by a random projection."""
    kernel_outputs: Outputs = "full"
    """What the kernel keeps between outputs."""
    sketch_dimension: int = 256
    """Numbers that a random projection leaves of every tensor."""
    kernel_samples: int | None = None
    """Pictures that the kernel is computed for, the curve being extrapolated to all; all by
    default."""
    method: Literal["plain", "snapshot"] = "plain"
    """plain, or snapshot: cosine cycles whose ends are averaged, beside a plain run."""
    cycles: int | None = None
    """Cycles of snapshot, of equal length; 4 by default."""
    alpha0: float | None = None
    """Learning rate at the start of each cycle of snapshot; by default lr, the plain run's."""
    last: int | None = None
    """How many of the last snapshots are averaged; all by default."""
    memory_gb: float | None = None
    """Memory for the kernel; a share of what is free by default."""
    seed: int = 0
    """Of the pictures, the head and the mini-batches."""


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
            config.classes, seed=seed, init=config.head_init, scale=scale
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
    x = network.preprocess(task_pictures.images)
    if split.frozen is not None:
        x = map_samples(split.frozen, x, largest=32, description="frozen stages")
    sample, n = task_pictures.sample, task_pictures.sample.trained
    y = task_pictures.labels
    task = Task(
        apply_fn=split.apply_fn,
        params=split.params,
        x=jnp.asarray(x[:n]),
        y=y[:n],
        loss=config.loss,
        held_out=(jnp.asarray(x[n:]), y[n:]) if config.held_out else None,
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


CYCLES = 4
"""Of snapshot."""
_OF_METHOD = {"plain": (), "snapshot": ("cycles", "alpha0", "last")}
"""Options that a method alone has."""


def planned(config: Config, steps: int) -> Plan | None:
    """Schedule and steps to keep of the method; ``None`` of a plain run.

    Raises:
        InputError: Options of another method, or none that it can be run with.
    """
    own = _OF_METHOD[config.method]
    others = {name for names in _OF_METHOD.values() for name in names} - set(own)
    unused = sorted(name for name in others if getattr(config, name) is not None)
    if unused:
        raise InputError(
            f"method {config.method!r} has no {', '.join(unused)}; leave out what it has "
            "not, or take the method that it belongs to"
        )
    if config.method == "plain":
        return None
    if config.optimizer != "sgd" or config.heads:
        raise InputError(
            f"method {config.method!r} needs optimizer sgd without heads, got "
            f"{config.optimizer} and {config.heads}; leave these out"
        )
    if config.stop_elasticity is not None:
        raise InputError(
            f"method {config.method!r} runs to its end, got stop_elasticity "
            f"{config.stop_elasticity}; leave it out"
        )
    cycles = CYCLES if config.cycles is None else config.cycles
    snapshot.averaged(cycles, config.last)
    alpha0 = config.lr if config.alpha0 is None else config.alpha0
    return snapshot.snapshots(alpha0, steps, cycles)


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

    def of(self, built: Built, kernel: Kernel, samples: int | None = None) -> Computed:
        """The kernel of a task as it was computed before, or computed now."""
        made_of = [built.provenance[part] for part in ("weights", "data")]
        key = repr((kernel, samples, made_of))
        found = self._by_key.pop(key, None)
        if found is None:
            # Room first: two at a time may be what fits.
            while len(self._by_key) >= self._kept:
                del self._by_key[next(iter(self._by_key))]
            task = built.task
            if samples is not None:
                task = extrapolation.few(task, samples, kernel.seed)
            found = kernel.of(task, memory_budget_bytes=built.memory_budget_bytes)
        self._by_key[key] = found
        return found


def run(
    command: Command,
    config: Config,
    *,
    out: Path,
    force: bool = False,
    kernels: Kernels | None = None,
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
    plan = planned(config, built.steps)
    run_id = identified(command, config, built)
    if not force and (finished := read_finished(out, run_id, say)):
        return finished
    asked: dict[str, Any] = {
        "steps": built.steps,
        "solver": config.solver,
        "kernel": kernel_of(config),
        "every": built.every,
        "paths": config.paths,
        "noise": config.noise,
        "calibrate_steps": config.calibrate_steps,
        "relinearize": config.relinearize,
        "kernel_samples": config.kernel_samples,
        "memory_budget_bytes": built.memory_budget_bytes,
    }
    held_out = f" ({built.task.m} more held out)" if built.task.m else ""
    lines = [
        f"{config.model} on {built.provenance['data']['source']}: {built.task.n} pictures of "
        f"{built.task.c} classes{held_out}, {built.provenance['parameters_trained']:,} weights "
        f"trained, {built.steps} steps, curve read every {built.every}"
    ]
    runs: dict[str, tuple[Optimizer, Keep]] = {"": (built.sgd, ())}
    if plan is not None:
        assert isinstance(built.sgd, SGD)
        runs = {
            "": (plan.of(built.sgd), plan.keep),
            snapshot_evaluation.PLAIN: (built.sgd, [built.steps]),
        }
        # One kernel for both.
        kernels = kernels or Kernels(kept=1)
    if command != "finetune":
        # Before anything is said: what it refuses is the only line then.
        sgd, keep = runs[""]
        ahead = cost_ahead(built.task, sgd, seed=config.seed, keep=keep, **asked)
        lines.append(str(ahead))
        if config.relinearize is not None:
            lines.append("re-linearised: as many such kernels as the path is bent")
    for line in lines:
        say(line)
    curves: dict[str, Curve] = {}
    if command != "finetune":
        shared = {}
        # Adam's kernels are its own.
        alike = config.optimizer == "sgd" and not config.calibrate_steps
        if kernels is not None and alike:
            shared["kernel"] = kernels.of(built, asked["kernel"], config.kernel_samples)
        for name, (sgd, keep) in runs.items():
            curves[f"{name}predicted"] = predict(
                built.task,
                sgd,
                seed=config.seed,
                effective_rate=config.effective_rate,
                keep=keep,
                **{**asked, **shared},
            )
        if config.heads:
            curves["predicted"] = _with_heads(built, config, curves["predicted"], asked)
    if command != "predict":
        for name, (sgd, keep) in runs.items():
            curves[f"{name}measured"] = finetune(
                built.task,
                sgd,
                steps=built.steps,
                seed=config.seed,
                every=built.every,
                keep=keep,
                stop=rule,
            )
    result, arrays = _result(config, curves, out / run_id), {}
    if plan is not None:
        result["snapshot"] = snapshot_evaluation.compare(
            built.task,
            curves,
            plan,
            last=snapshot.averaged(len(plan.keep), config.last),
            rules=config.rules,
            epsilons=config.epsilon,
            smoothing=config.smoothing,
        )
        with np.errstate(over="ignore"):  # of a path that diverged
            arrays = {
                f"{side}_snapshots": kept.outputs.astype(np.float32)
                for side in snapshot_evaluation.SIDES
                if side in curves and (kept := curves[side].kept) is not None
            }
    record = records.Record(
        run_id=run_id,
        config=plain(config),
        result=result,
        provenance={**built.provenance, **records.environment()},
        curves=curves,
        arrays=arrays,
    )
    return record, records.write(out, record)


def identified(command: str, config: Config, built: Built) -> str:
    """The run's name: of what was asked for and what was read."""
    sources = {key: built.provenance[key]["sha256"] for key in ("weights", "data")}
    # An option that is left alone does not name the run: a new one leaves old runs finished.
    defaults = dataclasses.asdict(type(config)())
    options = dataclasses.asdict(config)
    asked_for = {k: v for k, v in options.items() if v != defaults[k]}
    return records.run_id(command, asked_for, sources)


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
            threshold.as_json() | {"score": _score(predicted, threshold)}
            for threshold in thresholds
        ],
        **held_out,
        **stopped,
        "cost": evaluation.cost(predicted, measured),
        "trust": trust and verdict(trust),
        "record": str(folder),
    }


def _score(predicted: Curve | None, threshold: evaluation.Threshold) -> float | None:
    if predicted is None:
        return None
    return second_look.score_of_threshold(predicted, threshold.epsilon, threshold.rule)


def verdict(trust: Trust) -> dict[str, Any]:
    """What of a trust is printed."""
    return {"ok": trust.ok, "score": trust.score, "reason": trust.reason}
