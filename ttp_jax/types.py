"""The few narrow types that everything passes through, and the symbols used everywhere.

Symbols: ``n`` training samples, ``m`` held-out samples, ``c`` outputs (classes), ``p``
parameters, ``r`` rank, ``T`` steps, ``B`` batch size, ``eta`` learning rate, ``mu``
momentum, ``Theta`` the empirical kernel ``J J^T`` with ``J = df/dw`` at the weights where
the model is linearised, ``lam`` its eigenvalues. Outputs are ``[n, c]``, flattened
sample-major to ``n*c``. Fields carry their unit: ``_steps``, ``_epochs``, ``_s`` (seconds).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ttp_jax import programs

Params = Any
ApplyFn = Callable[[Params, Any], Array]
"""``(params, x[n, ...]) -> f[n, c]``: all that kernel, dynamics and training know of a model.

Sample ``i`` of the output must depend on sample ``i`` of the input alone (BatchNorm in
inference mode), otherwise neither the kernel nor its blocks mean what they say.
"""


@dataclass(frozen=True, eq=False)
class Chain:
    """An :data:`ApplyFn` made of stages: each takes what the one before it leaves.

    Args:
        names: Of the stages, in the order they run; ``params[name]`` has a stage's weights.
        run: ``(params, x, names) -> y``: the stages so named, one after the other.
    """

    names: tuple[str, ...]
    run: Callable[[Params, Any, tuple[str, ...]], Any]

    def __call__(self, params: Params, x: Any) -> Any:
        """All of them."""
        return self.run(params, x, self.names)

    def of(self, names: tuple[str, ...]) -> "Chain":
        """Some of them; the same object every time, as programs are kept by it."""
        return programs.kept(self, ("stages", names), lambda: replace(self, names=names))


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """A model in training mode: normalised by the statistics of each mini-batch.

    Args:
        stats: Running statistics at the start, a pytree.
        train: ``(params, stats, x) -> (f, stats)``: the outputs of a batch by its own
            statistics, and the running ones after it,
            ``momentum stats + (1 - momentum) those of the batch``.
        infer: ``(params, stats, x) -> f`` by statistics that are given, so that a sample's
            output depends on it alone.
        momentum: Weight of the past in the running statistics.
    """

    stats: Params
    train: Callable[[Params, Params, Any], tuple[Array, Params]]
    infer: Callable[[Params, Params, Any], Array]
    momentum: float


@dataclass(frozen=True, eq=False)
class Masked:
    """An :data:`ApplyFn` with no other weights than those that masks leave: ``f(s * w, x)``.

    Its Jacobian is ``J diag(s)`` and its gradient is zero where there is no weight. So whatever
    is done to a task (groups, schedules, kernels, real steps) is done to a masked one in the
    same way, and the masks hold. Its weights should be zero outside of the masks.

    Args:
        model: The dense model.
        masks: A pytree like the weights' of booleans: ``True`` where a weight is there.
    """

    model: ApplyFn
    masks: Any

    def __call__(self, params: Params, x: Any) -> Any:
        """The model at the masked weights."""
        return self.model(apply_masks(self.masks, params), x)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the stages; none of a model that is no :class:`Chain`."""
        return self.model.names if isinstance(self.model, Chain) else ()

    def of(self, names: tuple[str, ...]) -> "Masked":
        """Some of the stages; the same object every time, as programs are kept by it."""
        assert isinstance(self.model, Chain)
        part = self.model.of(names)
        return programs.kept(self, ("stages", names), lambda: Masked(part, self.masks))


def apply_masks(masks: Any, values: Params) -> Params:
    """``values`` where there is a weight, exact zeros elsewhere."""
    return jax.tree.map(lambda m, v: jnp.where(m, v, jnp.zeros_like(v)), masks, values)


def dense(apply_fn: ApplyFn) -> ApplyFn:
    """The model without its masks."""
    return apply_fn.model if isinstance(apply_fn, Masked) else apply_fn


LossName = Literal["cross_entropy", "mse"]
ThresholdRule = Literal["loss", "fraction_of_initial", "within_of_final"]


class InputError(ValueError):
    """Input that cannot be used: one line with what was expected, what came, what to do."""


@dataclass(frozen=True)
class Task:
    """A model with its starting weights, the pictures to fit, and the loss.

    Args:
        apply_fn: The model as ``(params, x[n, ...]) -> f[n, c]``.
        params: Pytree of floating arrays: exactly the weights that are trained. What is
            frozen is closed over by ``apply_fn`` or already applied to ``x``.
        x: Inputs, first axis ``n``.
        y: Labels ``[n]`` (integers in ``0..c-1``) or targets ``[n, c]``.
        loss: ``"cross_entropy"`` or ``"mse"``.
        held_out: ``(x, y)`` of ``m`` samples like those above, which are not trained on:
            curves are read on them too.
        views: The inputs ``x_e [n, ...]`` that epoch ``e`` trains on, as a function of ``e``
            that always gives the same for the same epoch: the pictures after random flips and
            shifts, say. Labels are ``y``, and curves are read on ``x``. ``None`` to train on
            ``x`` itself.
        batch_norm: To train with the statistics of each mini-batch; curves are then read by the
            running ones of that step. ``apply_fn`` is the model by those of the start.
            ``None`` to train ``apply_fn`` as it is.
        apart: How many of the held-out samples, in their order, are read together; all of
            them by default.

    Raises:
        InputError: Shapes, labels, dtypes or values that cannot be trained on.
    """

    apply_fn: ApplyFn
    params: Params
    x: Any
    y: Any
    loss: LossName = "cross_entropy"
    held_out: tuple[Any, Any] | None = None
    views: Callable[[int], Any] | None = None
    batch_norm: BatchNorm | None = None
    apart: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.loss not in get_args(LossName):
            raise InputError(
                f"loss must be one of {', '.join(get_args(LossName))}, got {self.loss!r}"
            )
        _require_samples("x", self.x, "y", self.y)
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            name = "weights " + jax.tree_util.keystr(path)
            if not np.issubdtype(np.asarray(leaf).dtype, np.floating):
                raise InputError(
                    f"{name} must be floating point to be trained, got "
                    f"{np.asarray(leaf).dtype}; close over it in apply_fn instead"
                )
            _require_finite(name, leaf)
        out = jax.eval_shape(self.apply_fn, self.params, self.x[:1])
        if out.ndim != 2 or out.shape[0] != 1:
            raise InputError(
                f"apply_fn must map x[n, ...] to f[n, c]; one sample gave shape {out.shape}"
            )
        c = out.shape[1]
        _require_answers("y", self.y, c)
        if self.held_out is not None:
            self._require_held_out(*self.held_out, c)
        if self.loss == "cross_entropy" and c < 2:
            raise InputError(
                "cross_entropy needs at least 2 outputs, got 1; use loss='mse'"
            )

    def _require_held_out(self, x: Any, y: Any, c: int) -> None:
        _require_samples("held-out x", x, "held-out y", y)
        shapes = np.shape(x)[1:], np.shape(self.x)[1:]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"held-out x must have samples of the shape of those trained on, "
                f"{shapes[1]}, got {shapes[0]}"
            )
        _require_answers("held-out y", y, c)
        if self.apart and sum(self.apart) != len(x):
            raise InputError(
                f"the parts of the held-out samples must hold all {len(x)} of them, got "
                f"{self.apart}"
            )

    def view(self, epoch: int) -> Any:
        """What epoch ``epoch`` trains on: a view of each sample, or ``x`` where there are none.

        Raises:
            InputError: Views that are not inputs of the shape of ``x``, or not finite.
        """
        if self.views is None:
            return self.x
        seen = self.views(epoch)
        if np.shape(seen) != np.shape(self.x):
            raise InputError(
                f"views must have the shape of x, {list(np.shape(self.x))}, got "
                f"{list(np.shape(seen))} in epoch {epoch}"
            )
        _require_finite(f"the views of epoch {epoch}", seen)
        return seen

    @property
    def n(self) -> int:
        """Number of samples that are trained on."""
        return len(self.x)

    @property
    def m(self) -> int:
        """Number of samples that are held out."""
        return 0 if self.held_out is None else len(self.held_out[0])

    @property
    def parts(self) -> "tuple[Task, ...]":
        """The samples that are trained on and, where there are any, those held out."""
        if self.held_out is None:
            return (self,)
        trained = replace(self, held_out=None, apart=())
        x, y = self.held_out
        ends = np.cumsum(self.sizes[1:])
        rows = [slice(a - size, a) for a, size in zip(ends, self.sizes[1:], strict=True)]
        return trained, *(replace(trained, x=x[part], y=y[part]) for part in rows)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many samples each of :attr:`parts` has."""
        if self.held_out is None:
            return (self.n,)
        return (self.n, *(self.apart or (self.m,)))

    @property
    def joint(self) -> "Task":
        """All samples as one task: those that are trained on, then those held out."""
        if self.held_out is None:
            return self
        x, y = (
            np.concatenate([np.asarray(values) for values in pair])
            for pair in (
                (self.x, self.held_out[0]),
                [part.targets for part in self.parts],
            )
        )
        return replace(self, x=x, y=y, held_out=None, apart=())

    @property
    def c(self) -> int:
        """Number of outputs."""
        return jax.eval_shape(self.apply_fn, self.params, self.x[:1]).shape[1]

    @property
    def targets(self) -> np.ndarray:
        """Targets ``[n, c]``: labels as one-hot rows, targets as they are."""
        y = np.asarray(self.y)
        return np.eye(self.c)[y] if y.ndim == 1 else y


@dataclass(frozen=True)
class Cost:
    """What a prediction starts from will cost, counted without computing it."""

    flops: float
    forward_flops_per_sample: float


@dataclass(frozen=True)
class Look:
    """The true model at a step of a predicted path: a second look, or where it was mended."""

    step: int
    gap: float
    """``|f(w_predicted) - f_linear| / |f_linear - f_0|``, of a mend since the one before."""
    loss_ratio: float
    """Loss of the true outputs over the predicted one."""
    speed: float
    """Rate at which the true loss falls along its gradient, over what the kernel says; of a
    mend ``kappa`` of :func:`ttp_jax.linearisation.mending.updated`."""
    linear: Float[np.ndarray, " t"]
    """Predicted loss at every step."""
    again: Float[np.ndarray, " t"] | None
    """The same with a prediction made again from here; ``None`` where the model overflows."""


@dataclass(frozen=True)
class Trust:
    """Whether a prediction is to be believed, found without training.

    ``score`` is in [0, 1]; ``ok`` says that no warning applies; ``reason`` is one line.
    """

    ok: bool
    score: float
    reason: str
    stability: float
    """Largest curvature eigenvalue times learning rate over the optimiser's limit; above
    1 the linear dynamics grow."""
    gap: float
    """``|f(w_predicted) - f_linear| / |f_linear - f_0|`` at the end of the prediction; of one
    that was mended the largest where it was."""
    early_gap: float = 0.0
    """The largest at :attr:`looks`, or where the predicted loss has first fallen to 0.3 of the
    start; 0 where it never does."""
    doubt: float = 0.0
    """Where the curve was extrapolated from few samples: how far two ways of it differ."""
    error: float = 0.0
    """Where it was linearised again and again: estimated relative error of the loss."""
    looks: tuple[Look, ...] | None = None
    """At the true model along the path, where that was done; a record does not keep them."""
    law: Literal["once", "mended", "coarse", "checked"] = "once"
    """What the score was learned from (:mod:`ttp_jax.chances`): one linearisation, one that
    goes on from each of the looks, a coarse run, or any of the first two beside one."""


@dataclass(frozen=True)
class Kept:
    """The models at some steps of a run, predicted or measured."""

    steps: Int[np.ndarray, " k"]
    """Steps after which they were kept."""
    outputs: Float[np.ndarray, "k nm c"]
    """Of all samples: those that are trained on, then those held out."""
    gram: Float[np.ndarray, "k1 k1"]
    """Inner products of ``w_0, w_1 - w_0, ..., w_k - w_0``."""
    weights: tuple[Params, ...] = ()
    """Those of a real run; a predicted one has none."""


@dataclass(frozen=True)
class Curve:
    """Loss and accuracy along a run, predicted or measured, on the whole training set.

    ``steps`` are the optimiser steps at which the curve was read (step 0 is before the
    first update), ``seconds`` the training time needed to get there, without compilation
    and without the reading itself.
    """

    steps: Int[np.ndarray, " t"]
    loss: Float[np.ndarray, " t"]
    accuracy: Float[np.ndarray, " t"]
    seconds: Float[np.ndarray, " t"]
    loss_quantiles: Mapping[float, np.ndarray] | None = None
    """By level, where a prediction was asked for bands: 2.5, 15, 85 and 97.5 %."""
    accuracy_quantiles: Mapping[float, np.ndarray] | None = None
    trust: Trust | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part, compilation apart; what a record keeps."""
    flops: float = 0.0
    """Floating-point operations it took, counted and not measured."""
    operations: Float[np.ndarray, " t"] | None = None
    """Those of the training steps up to each reading, of a prediction as of a real run."""
    held_out: "Curve | None" = None
    """The same run read at the same steps on the samples held out, where there are any."""
    planned_steps: int | None = None
    """Steps of the full run, where a rule stopped this one before its end."""
    batch_loss: Float[np.ndarray, " s"] | None = None
    """Loss of the mini-batch of every step that was taken, before its update: what a real run
    knows for nothing."""
    kept: Kept | None = None
    """Models along the way, where they were asked for; no part of a record."""
    epochs: Mapping[str, np.ndarray] | None = None
    """Of corrected gradients, by epoch: ``coefficient``, and of a prediction ``optimum`` and
    ``variance_left`` (:class:`ttp_jax.accelerators.corrected_path.Epochs`); no part of a
    record."""

    @property
    def saved_steps(self) -> int:
        """Steps of the full run that were not taken."""
        return 0 if self.planned_steps is None else self.planned_steps - self.budget_steps

    @property
    def budget_steps(self) -> int:
        """The last step that was read."""
        return int(self.steps[-1])


def _require_samples(x_name: str, x: Any, y_name: str, y: Any) -> None:
    if len(x) == 0 or len(y) != len(x):
        raise InputError(
            f"{x_name} and {y_name} must hold the same number of samples, at least one; "
            f"got {len(x)} and {len(y)}"
        )
    _require_finite(x_name, x)


def _require_answers(name: str, y: Any, c: int) -> None:
    """Labels or targets of a model of ``c`` outputs."""
    y = np.asarray(y)
    if y.ndim == 1 and np.issubdtype(y.dtype, np.integer):
        if y.min() < 0 or y.max() >= c:
            raise InputError(
                f"labels must lie in 0..{c - 1} (the model has {c} outputs), got "
                f"{y.min()}..{y.max()} in {name}; renumber them or give the head more outputs"
            )
    elif y.ndim == 2 and y.shape[1] == c:
        _require_finite(name, y)
    else:
        raise InputError(
            f"{name} must be integer labels [n] or targets [n, {c}], got shape {y.shape} "
            f"of {y.dtype}"
        )


def _require_finite(name: str, values: Any) -> None:
    values = np.asarray(values)
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise InputError(
            f"{name} must be finite, got {bad} NaN or infinite of {values.size} values; "
            f"check the file or the preprocessing it came from"
        )
