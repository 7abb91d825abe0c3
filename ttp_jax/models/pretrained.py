"""Networks by name: the embedded one, weights from a file or a hub, or random ones."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ttp_jax.models import files, importers, native
from ttp_jax.models.mlp import Activation
from ttp_jax.models.network import Network, Preprocessing
from ttp_jax.models.resnet import Stride
from ttp_jax.types import InputError

EMBEDDED = "embedded"
RANDOM = "random"
CIFAR_DEPTHS = {f"resnet{depth}": depth for depth in (20, 32, 44, 56)}
IMAGENET_DEPTHS = {f"resnet{depth}": depth for depth in (18, 34, 50, 101)}
NAMES = (EMBEDDED, *CIFAR_DEPTHS, *IMAGENET_DEPTHS, "mlp")

_WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
_HUB_FILE = "model.safetensors"
_COLOUR = Preprocessing()
_GREY = Preprocessing(channels=1, mean=(0.5,), std=(0.25,))
_KERAS = Preprocessing(
    order="bgr", scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0)
)


def load(
    name: str = EMBEDDED,
    *,
    weights: str | Path | None = None,
    sha256: str | None = None,
    stride_on: Stride | None = None,
    bn_epsilon: float | None = None,
    classes: int | None = None,
    width: float | int = 1,
    channels: int = 3,
    image_size: int | None = None,
    widths: tuple[int, ...] = (256, 256),
    activation: Activation = "relu",
    seed: int = 0,
) -> Network:
    """A network with its weights.

    Args:
        name: ``"embedded"`` (shipped with this package), ``"resnet20"``, ``"resnet32"``,
            ``"resnet44"``, ``"resnet56"`` (CIFAR), ``"resnet18"``, ``"resnet34"``,
            ``"resnet50"``, ``"resnet101"`` (ImageNet) or ``"mlp"``.
        weights: A file (safetensors, npz or PyTorch checkpoint; torchvision, timm, CIFAR,
            Keras or own layout), ``"random"``, or ``None``: the shipped file for
            ``"embedded"``, timm's weights from the Hugging Face hub for ImageNet names.
        sha256: Expected checksum of the file.
        stride_on: ``"v1"`` or ``"v1.5"``; by default v1 for Keras files, else v1.5.
        bn_epsilon: By default 1e-3 for Keras files, else 1e-5.
        classes: Outputs of the head. With random weights only, like all that follow:
            files tell their own. 10 by default, 1000 for ImageNet names.
        width: Multiplies the channels of a CIFAR ResNet.
        channels: 3 or 1.
        image_size: Height and width of the pictures; 32, 224 and, for an MLP, 28.
        widths: Hidden layers of an MLP.
        activation: Of an MLP.
        seed: Of the random weights.

    Raises:
        InputError: An unknown name or option; a file that cannot be read, has another
            checksum, or does not fit the model; weights by name without a network.
    """
    if name not in NAMES:
        raise InputError(f"model must be one of {', '.join(NAMES)}, got {name!r}")
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, got {channels}")
    if bn_epsilon is not None and not (np.isfinite(bn_epsilon) and bn_epsilon > 0):
        raise InputError(f"the epsilon of BatchNorm must be positive, got {bn_epsilon}")
    options: dict[str, Any] = {}
    if stride_on is not None:
        options["stride_on"] = stride_on
    if bn_epsilon is not None:
        options["bn_epsilon"] = bn_epsilon
    if str(weights) == RANDOM and name != EMBEDDED:
        if name == "mlp":
            config = {"family": "mlp", "widths": list(widths), "activation": activation}
        else:
            config = _resnet(name, width) | options
        imagenet = name in IMAGENET_DEPTHS
        config["classes"] = (1000 if imagenet else 10) if classes is None else classes
        usual = 224 if imagenet else 28 if name == "mlp" else 32
        preprocess = _COLOUR if channels == 3 else _GREY
        return _random(name, config, preprocess, image_size or usual, seed)
    if weights is None and name != EMBEDDED:
        weights = _from_hub(name)
    elif weights is None or str(weights) == RANDOM:
        shipped = _from_file(
            name, _WEIGHTS / "embedded.safetensors", _embedded_card()["sha256"], options
        )
        if weights is None:
            return shipped
        return _random(name, shipped.config, shipped.preprocess, shipped.image_size, seed)
    return _from_file(name, Path(weights), sha256, options)


def _resnet(name: str, width: float | int) -> dict[str, Any]:
    if name in CIFAR_DEPTHS:
        return {"family": "cifar", "depth": CIFAR_DEPTHS[name], "width": width}
    return {"family": "imagenet", "depth": IMAGENET_DEPTHS[name]}


def _inputs(preprocess: Preprocessing, image_size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        (1, image_size, image_size, preprocess.channels), np.float32
    )


def _random(
    name: str,
    config: dict[str, Any],
    preprocess: Preprocessing,
    image_size: int,
    seed: int,
) -> Network:
    if config["classes"] < 1:
        raise InputError(f"a network needs at least 1 class, got {config['classes']}")
    model = native.build(config)
    return Network(
        name=name,
        model=model,
        variables=model.init(jax.random.key(seed), _inputs(preprocess, image_size)),
        preprocess=preprocess,
        image_size=image_size,
        config=config,
        weights_sha256=None,
        source=f"random weights, seed {seed}",
    )


def _from_file(
    name: str, path: Path, sha256: str | None, options: dict[str, Any]
) -> Network:
    file = files.read(path, sha256=sha256)
    tensors = importers.normalise(file.tensors)
    try:
        layout = importers.detect(tensors)
        if layout == "native":
            config, preprocess, image_size = native.described(file.metadata)
            _require_same(name, config, options)
        else:
            config, preprocess, image_size = _foreign(name, layout, tensors, options)
        model = native.build(config)
        shapes = model.shapes(_inputs(preprocess, image_size))
        assemble = {
            "native": importers.from_native,
            "torch": importers.from_torch,
            "keras": importers.from_keras,
        }[layout]
        variables = assemble(tensors, shapes)
    except InputError as problem:
        line = " ".join(str(problem).split())  # names in a file may hold line breaks
        raise InputError(f"weights file {path} for {name}: {line}") from problem
    return Network(
        name=name,
        model=model,
        variables=variables,
        preprocess=preprocess,
        image_size=image_size,
        config=config,
        weights_sha256=file.sha256,
        source=path.name,
    )


def _require_same(name: str, config: dict[str, Any], options: dict[str, Any]) -> None:
    """A file of this package says what it is; a name or an option may not contradict it."""
    if name == "mlp":
        wanted = {"family": "mlp"}
    elif name == EMBEDDED:
        wanted = {}
    else:
        wanted = {k: v for k, v in _resnet(name, 1).items() if k != "width"}
    for key, value in (wanted | options).items():
        if config.get(key) != value:
            raise InputError(
                f"expected {key} {value}, got a file that says {config.get(key)}; "
                f"choose the model and options that the file was written with"
            )


def _foreign(
    name: str, layout: importers.Layout, tensors: dict[str, Any], options: dict[str, Any]
) -> tuple[dict[str, Any], Preprocessing, int]:
    """Architecture, preprocessing and picture size for a file of another framework."""
    *_, channels, features = importers.stem_shape(tensors)
    if name not in (*CIFAR_DEPTHS, *IMAGENET_DEPTHS):
        raise InputError(
            f"expected a file written by this package, got the {layout} layout; name the "
            f"ResNet that it holds"
        )
    if layout == "keras" and name != "resnet50":
        raise InputError(f"expected the tensors of {name}, got those of Keras' resnet50")
    if channels not in (1, 3):
        raise InputError(f"expected a network of 1 or 3 channels, got {channels}")
    config = _resnet(name, features / 16)
    if layout == "keras":
        config |= {"stride_on": "v1", "bn_epsilon": 1e-3}
        preprocess = _KERAS
    else:
        preprocess = _COLOUR if channels == 3 else _GREY
    config |= options | {"classes": importers.head_classes(tensors)}
    return config, preprocess, 32 if name in CIFAR_DEPTHS else 224


def _embedded_card() -> dict[str, Any]:
    return json.loads((_WEIGHTS / "embedded.json").read_text())


def _from_hub(name: str) -> Path:
    """The weights of ``name`` from the Hugging Face hub, or its local cache."""
    if name not in IMAGENET_DEPTHS:
        where = (
            f"the checkpoint of {name} from the repository akamaster/pytorch_resnet_cifar10"
            if name in CIFAR_DEPTHS
            else f"a file written by this package for {name}"
        )
        raise InputError(
            f"{name} has no weights on the hub: fetch {where} and pass "
            f"--weights FILE, or --weights {RANDOM}"
        )
    repository = f"timm/{name}.a1_in1k"
    fetch = (
        f"fetch {_HUB_FILE} of the Hugging Face repository {repository} elsewhere and pass "
        f"--weights {_HUB_FILE}"
    )
    try:
        from huggingface_hub import hf_hub_download  # pyright: ignore
    except ImportError as problem:
        raise InputError(
            f"weights of {name} by name need the package huggingface_hub, which is not "
            f"installed: install it, or {fetch}"
        ) from problem
    try:
        return Path(hf_hub_download(repository, _HUB_FILE))
    except Exception as problem:  # its own kinds, those of its HTTP client, and OSError
        raise InputError(
            f"the hub could not be reached for {name} ({type(problem).__name__}): {fetch}"
        ) from problem
