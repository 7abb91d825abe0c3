"""Logits of imported weights against those of plain PyTorch (``make_reference.py``)."""

import dataclasses
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.models import drawn
from ttp_jax import models
from ttp_jax.chunks import map_samples

LOGITS = json.loads((Path(__file__).parent / "reference.json").read_text())
CASES = {
    "resnet20": ("resnet20", lambda: drawn.torch_cifar(1, 20), 17, 3),
    "resnet20_grey": ("resnet20", lambda: drawn.torch_cifar(2, 20, 1, 32), 14, 1),
    "resnet18": ("resnet18", lambda: drawn.torch_imagenet(3, 18), 40, 3),
    "resnet50": ("resnet50", lambda: drawn.torch_imagenet(4, 50), 37, 3),
    "resnet50_keras": ("resnet50", lambda: drawn.keras_resnet50(5), 40, 3),
}


def in_float64(network):
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), network.variables)
    return dataclasses.replace(network, variables=wide)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_another_framework(case, tmp_path, x64):
    name, weights, size, channels = CASES[case]
    np.savez(tmp_path / "w.npz", **weights())
    network = in_float64(models.load(name, weights=tmp_path / "w.npz"))
    seed = 1 + list(CASES).index(case)
    x = drawn.inputs(seed, size, channels).astype(np.float64)
    np.testing.assert_allclose(jax.jit(network)(x), LOGITS[case], rtol=1e-10, atol=1e-10)
    assert network.preprocess.channels == channels


def test_weights_already_in_our_axes_are_not_turned(tmp_path):
    oihw = drawn.torch_cifar(6, 8)
    hwio = {
        k: v.transpose(2, 3, 1, 0) if v.ndim == 4 else v.T if v.ndim == 2 else v
        for k, v in drawn.torch_cifar(1, 20).items()
    }
    assert oihw["conv1.weight"].shape == (16, 3, 3, 3)
    np.savez(tmp_path / "w.npz", **hwio)
    network = models.load("resnet20", weights=tmp_path / "w.npz")
    f = jax.jit(network)(drawn.inputs(1, 17))
    np.testing.assert_allclose(f, LOGITS["resnet20"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("family", "depth", "parameters"),
    [
        (models.imagenet, 18, 11_689_512),
        (models.imagenet, 34, 21_797_672),
        (models.imagenet, 50, 25_557_032),
        (models.imagenet, 101, 44_549_160),
        (models.cifar, 20, 269_722),
        (models.cifar, 32, 464_154),
        (models.cifar, 44, 658_586),
        (models.cifar, 56, 853_018),
    ],
)
def test_number_of_parameters(family, depth, parameters):
    model = family(depth, classes=1000 if family is models.imagenet else 10)
    shapes = model.shapes(jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters


@pytest.mark.slow
@pytest.mark.shared_data
def test_cifar_pictures_are_recognised(shared_data):
    packed = np.load(shared_data / "datasets/cifar10_jpeg32.npz")
    blob, offset = packed["blob"], packed["offset"]
    test = np.flatnonzero(packed["split"] == 1)
    chosen = np.random.default_rng(0).permutation(test)[:1000]
    files = [io.BytesIO(blob[offset[i] : offset[i + 1]].tobytes()) for i in chosen]
    pictures = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    network = models.load("resnet20", weights=shared_data / "weights/resnet20_cifar10.npz")
    run = jax.jit(network)
    f = map_samples(lambda u: run(network.preprocess(u)), pictures, largest=250)
    assert (f.argmax(1) == packed["label"][chosen]).mean() >= 0.78


@pytest.mark.slow
@pytest.mark.shared_data
def test_a_cat_is_a_cat(shared_data):
    data = pytest.importorskip("skimage.data")
    photo = Image.fromarray(data.chelsea())
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side)).resize((224, 224))
    network = models.load(
        "resnet50", weights=shared_data / "weights/resnet50_keras_imagenet_f16.npz"
    )
    f = jax.jit(network)(network.preprocess(np.asarray(square)[None]))
    labels = json.loads((shared_data / "weights/imagenet_labels.json").read_text())
    named = labels[int(f.argmax())] if isinstance(labels, list) else labels[str(f.argmax())]
    assert "cat" in str(named).lower()
