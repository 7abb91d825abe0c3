"""A network with its weights: what it takes in, a new head, a frozen prefix."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from ttp_jax.models.resnet import BN_MOMENTUM
from ttp_jax.models.staged import Staged
from ttp_jax.types import BatchNorm, Chain, InputError, Params

HeadInit = Literal["lecun_normal", "zeros"]
FrozenFn = Callable[[Any], Any]
"""``x[n, ...] -> features[n, ...]``: the stages that are not trained."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Preprocessing:
    """From bytes to what the first convolution expects: ``(scale * x - mean) / std``.

    Args:
        channels: 3 or 1. Grey pictures are repeated three times, coloured ones turned grey.
        order: ``"rgb"`` or ``"bgr"``: the order in which the network takes its channels,
            and in which ``mean`` and ``std`` are given.
        scale: Multiplies the bytes.
        mean: One value a channel.
        std: One value a channel.
    """

    channels: Literal[1, 3] = 3
    order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 ``[n, h, w, 3]`` (RGB) or ``[n, h, w, 1]`` to float32 inputs.

        Raises:
            InputError: Another type or shape.
        """
        pictures = np.asarray(pictures)
        if (
            pictures.dtype != np.uint8
            or pictures.ndim != 4
            or pictures.shape[-1] not in (1, 3)
        ):
            raise InputError(
                f"pictures must be uint8 [n, h, w, 3] or [n, h, w, 1], got "
                f"{pictures.dtype} {list(pictures.shape)}"
            )
        x = pictures.astype(np.float32)
        if self.channels == 1 and x.shape[-1] == 3:
            x = (x @ _LUMA)[..., None]
        elif self.channels == 3 and x.shape[-1] == 1:
            x = np.repeat(x, 3, axis=-1)
        elif self.order == "bgr":
            x = x[..., ::-1]
        scale, mean, std = (
            np.asarray(v, np.float32) for v in (self.scale, self.mean, self.std)
        )
        return (x * scale - mean) / std


class Split(NamedTuple):
    """A network cut in two: ``apply_fn(params, frozen(x))`` is the whole of it."""

    apply_fn: Chain
    params: Params
    """``{stage: ...}``: exactly the weights that are trained."""
    frozen: FrozenFn | None
    """``None`` where every stage is trained."""
    batch_norm: BatchNorm | None
    """The trained stages in training mode; ``None`` where they have no BatchNorm."""


@dataclass(frozen=True, eq=False)
class Network:
    """Weights and what is needed to run them.

    Args:
        name: As the user gave it.
        model: The stages as Flax modules.
        variables: ``{"params": {stage: ...}, "batch_stats": {stage: ...}}``, float32.
        preprocess: From bytes to inputs.
        image_size: Height and width of the pictures that the weights were made for.
        config: The arguments that build ``model`` again, plain values for a record.
        weights_sha256: Checksum of the file the weights came from, ``None`` if random.
        source: Where the weights came from, for a record.
    """

    name: str
    model: Staged
    variables: dict[str, dict[str, Any]]
    preprocess: Preprocessing
    image_size: int
    config: dict[str, Any]
    weights_sha256: str | None
    source: str

    @property
    def stages(self) -> tuple[str, ...]:
        """Stage names in the order they run, the head last."""
        return self.model.names

    @property
    def classes(self) -> int:
        """Number of outputs of the head."""
        return self.variables["params"]["head"]["dense"]["kernel"].shape[1]

    def __call__(self, x: Any) -> Any:
        """Inputs ``[n, h, w, channels]`` to logits ``[n, classes]``."""
        return self.model.apply(self.variables, x)

    def with_head(
        self,
        classes: int,
        *,
        seed: int,
        init: HeadInit = "lecun_normal",
        scale: float = 1.0,
        hidden: int | None = None,
    ) -> "Network":
        """The same network under a new head.

        ``kernel ~ N(0, scale^2/fan_in)``, bias 0 (``"lecun_normal"``; LeCun et al. 1998,
        "Efficient BackProp", eq. 16), or both zero (``"zeros"``). With ``hidden`` ReLU units
        before it the head is an MLP on the features; their ``kernel ~ N(0, 2/fan_in)`` (He
        et al., arXiv 1502.01852), whatever the ``init``. Drawn by NumPy's Philox, so the
        numbers depend on the seed alone.

        Raises:
            InputError: Fewer than one class or one hidden unit, another ``init``, a scale
                that is not positive.
        """
        if classes < 1:
            raise InputError(f"a head needs at least 1 class, got {classes}")
        if init not in get_args(HeadInit):
            raise InputError(
                f"head init must be one of {', '.join(get_args(HeadInit))}, got {init!r}"
            )
        if not (np.isfinite(scale) and scale > 0):
            raise InputError(f"the scale of a head must be positive, got {scale}")
        if hidden is not None and hidden < 1:
            raise InputError(
                f"the hidden layer of a head needs at least 1 unit, got {hidden}; leave it "
                "out for a head without one"
            )
        rng = np.random.Generator(np.random.Philox(seed))

        def layer(fan_in: int, width: int, deviation: float | int) -> dict[str, np.ndarray]:
            kernel = rng.standard_normal((fan_in, width)) * deviation / np.sqrt(fan_in)
            return {
                "kernel": kernel.astype(np.float32),
                "bias": np.zeros(width, np.float32),
            }

        old = self.variables["params"]["head"]
        fan_in = old.get("hidden", old["dense"])["kernel"].shape[0]
        head = {}
        if hidden is not None:
            head["hidden"] = layer(fan_in, hidden, 2**0.5)
            fan_in = hidden
        head["dense"] = layer(fan_in, classes, 0 if init == "zeros" else scale)
        stages = dict(self.model.stages)
        stages["head"] = stages["head"].clone(classes=classes, hidden=hidden)
        config = {k: v for k, v in self.config.items() if k != "head_hidden"}
        if hidden is not None:
            config["head_hidden"] = hidden
        return replace(
            self,
            model=Staged(tuple(stages.items())),
            variables={
                **self.variables,
                "params": {**self.variables["params"], "head": head},
            },
            config={**config, "classes": classes},
        )

    def split(self, freeze_until: str | None = None) -> Split:
        """Cut after the stage ``freeze_until``, the last one that is not trained.

        ``apply_fn(params, frozen(x)) = model(x)``. With ``None`` every stage is trained.
        BatchNorm statistics are constants of ``apply_fn``, scales and shifts parameters.
        In training mode (``batch_norm``) those of the trained stages follow the mini-batches,
        by Flax's convention: variances divided by the number of values, the past weighed by
        0.9. Frozen stages stay as they are.

        Raises:
            InputError: A name that is no stage, or the head, after which nothing is left.
        """
        before, after = self._cut(freeze_until)
        stats = {name: self.variables["batch_stats"][name] for name in after}
        params = {name: self.variables["params"][name] for name in after}

        def run(params: Params, x: Any, names: tuple[str, ...]) -> Any:
            return self.model.apply(
                {"params": params, "batch_stats": stats}, x, names=names
            )

        apply_fn = Chain(after, run)
        batch_norm = None
        if jax.tree.leaves(stats):
            batch_norm = BatchNorm(
                stats=stats,
                train=lambda params, stats, x: self.model.apply_train(
                    {"params": params, "batch_stats": stats}, x, names=after
                ),
                infer=lambda params, stats, x: self.model.apply(
                    {"params": params, "batch_stats": stats}, x, names=after
                ),
                momentum=BN_MOMENTUM,
            )

        if not before:
            return Split(apply_fn, params, None, batch_norm)
        fixed = {
            collection: {name: stages[name] for name in before}
            for collection, stages in self.variables.items()
        }
        # The weights are an argument of the compiled function: as constants they would
        # be copied into the program and folded.
        first = jax.jit(lambda fixed, x: self.model.apply(fixed, x, names=before))
        return Split(apply_fn, params, lambda x: first(fixed, x), batch_norm)

    def _cut(self, freeze_until: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if freeze_until is None:
            return (), self.stages
        choices = self.stages[:-1]
        if freeze_until not in choices:
            got = (
                "got 'head', which leaves nothing to train"
                if freeze_until == self.stages[-1]
                else f"got {freeze_until!r}"
            )
            raise InputError(
                f"the last frozen stage of {self.name} must be one of "
                f"{', '.join(choices)}, {got}"
            )
        at = self.stages.index(freeze_until) + 1
        return self.stages[:at], self.stages[at:]
