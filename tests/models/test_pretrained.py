import hashlib
import io
import json
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.models import drawn
from ttp_jax import models
from ttp_jax.models import files, native
from ttp_jax.types import InputError

HERE = Path(__file__).parent
SHIPPED = Path(models.__file__).parent.parent / "weights"


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def same(a, b):
    a, b = native.flatten(a.variables), native.flatten(b.variables)
    return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


# ------------------------------------------------------------------ the shipped network


def test_embedded_network_is_the_one_on_its_card():
    card = json.loads((SHIPPED / "embedded.json").read_text())
    network = models.load()
    assert network.name == "embedded"
    assert network.weights_sha256 == card["sha256"]
    sizes = [leaf.size for leaf in jax.tree.leaves(network.variables["params"])]
    assert sum(sizes) == card["parameters"] <= 1_000_000
    assert (SHIPPED / "embedded.safetensors").stat().st_size <= 2_000_000
    leaves = jax.tree.leaves(network.variables)
    assert all(leaf.dtype == np.float32 and np.isfinite(leaf).all() for leaf in leaves)
    size = network.image_size
    picture = np.zeros((1, size, size, 1), np.uint8)
    assert network(network.preprocess(picture)).shape == (1, network.classes)


def test_a_changed_embedded_file_is_refused(tmp_path, monkeypatch):
    data = bytearray((SHIPPED / "embedded.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "embedded.safetensors").write_bytes(data)
    (tmp_path / "embedded.json").write_bytes((SHIPPED / "embedded.json").read_bytes())
    monkeypatch.setattr("ttp_jax.models.pretrained._WEIGHTS", tmp_path)
    with pytest.raises(InputError, match="expected the SHA-256") as error:
        models.load("embedded")
    one_line(error)


def test_embedded_architecture_with_random_weights():
    trained, random = models.load(), models.load(weights="random", seed=3)
    assert random.config == trained.config
    assert random.weights_sha256 is None
    assert not same(trained, random)


# ------------------------------------------------------------------------ random weights


def test_random_weights_follow_their_seed():
    first, again = (models.load("resnet20", weights="random", seed=1) for _ in range(2))
    assert same(first, again)
    assert not same(first, models.load("resnet20", weights="random", seed=2))


def test_random_options_are_taken():
    network = models.load(
        "resnet32", weights="random", classes=3, width=2, channels=1, bn_epsilon=1e-3
    )
    shapes = {k: v.shape for k, v in native.flatten(network.variables).items()}
    assert shapes["params/stem/conv/kernel"] == (3, 3, 1, 32)
    assert shapes["params/head/dense/kernel"] == (128, 3)
    assert network.model.stages[0][1].epsilon == 1e-3
    mlp = models.load(
        "mlp", weights="random", image_size=6, channels=1, widths=(8, 4), activation="tanh"
    )
    assert mlp.variables["params"]["layer1"]["dense"]["kernel"].shape == (36, 8)
    assert mlp(np.zeros((2, 6, 6, 1), np.float32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19"}, "one of embedded, resnet20, .*, mlp, got 'resnet19'"),
        ({"name": "mlp"}, "--weights FILE, or --weights random"),
        ({"name": "resnet56"}, "akamaster/pytorch_resnet_cifar10"),
        ({"name": "mlp", "weights": "random", "channels": 2}, "channels must be 1 or 3"),
        ({"name": "mlp", "weights": "random", "classes": 0}, "at least 1 class, got 0"),
        ({"name": "resnet20", "weights": "random", "bn_epsilon": 0.0}, "must be positive"),
        ({"name": "resnet20", "weights": "random", "stride_on": "v1"}, "arguments"),
    ],
)
def test_what_cannot_be_loaded(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        models.load(**arguments)
    one_line(error)


# ------------------------------------------------------------------------------- the hub


def test_without_a_hub_client_the_file_to_fetch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError) as error:
        models.load("resnet50")
    for part in ("model.safetensors", "timm/resnet50.a1_in1k", "--weights"):
        assert part in one_line(error)


def test_without_a_network_the_file_to_fetch_is_named(monkeypatch):
    def offline(repository, file):
        raise ConnectionError("no\nroute")

    hub = types.SimpleNamespace(hf_hub_download=offline)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(InputError, match=r"model\.safetensors .* timm/resnet18") as error:
        models.load("resnet18")
    one_line(error)


def test_the_hub_gives_the_file(tmp_path, monkeypatch):
    save_file(drawn.torch_imagenet(1, 18), tmp_path / "model.safetensors")
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return str(tmp_path / file)

    hub = types.SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert models.load("resnet18").classes == drawn.CLASSES
    assert asked == [("timm/resnet18.a1_in1k", "model.safetensors")]


# ------------------------------------------------------------------------- round trips


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", {"width": 0.5, "channels": 1, "classes": 3, "bn_epsilon": 1e-4}),
        ("mlp", {"widths": (5, 4), "activation": "gelu", "image_size": 6}),
        ("resnet18", {"classes": 4}),
    ],
)
def test_own_files_come_back(name, options, tmp_path):
    network = models.load(name, weights="random", seed=5, **options)
    path = tmp_path / "w.safetensors"
    models.save(network, path)
    again = models.load(name, weights=path)
    assert same(network, again)
    assert again.model == network.model
    assert (again.config, again.preprocess, again.image_size) == (
        network.config,
        network.preprocess,
        network.image_size,
    )
    assert again.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(again, models.load("embedded", weights=path))
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_float16_is_read_as_float32(tmp_path):
    network = models.load("mlp", weights="random", image_size=4, widths=(3,))
    models.save(network, tmp_path / "w.safetensors", dtype=np.float16)
    again = models.load("mlp", weights=tmp_path / "w.safetensors")
    kernel = network.variables["params"]["layer1"]["dense"]["kernel"]
    half = again.variables["params"]["layer1"]["dense"]["kernel"]
    assert half.dtype == np.float32
    assert (half == kernel.astype(np.float16)).all()
    assert (half != kernel).any()


def test_what_float16_cannot_hold_is_not_written(tmp_path):
    network = models.load("mlp", weights="random", image_size=4, widths=(3,))
    network.variables["params"]["head"]["dense"]["bias"][0] = 1e6
    with pytest.raises(InputError, match="float16"):
        models.save(network, tmp_path / "w.safetensors", dtype=np.float16)
    assert not os.listdir(tmp_path)


def test_one_network_in_every_container(tmp_path):
    tensors = drawn.torch_cifar(1, 20)
    np.savez(tmp_path / "w.npz", **tensors)
    save_file(tensors, tmp_path / "w.safetensors")
    wrapped = {f"module.{k}": v for k, v in tensors.items()}
    wrapped["module.bn1.num_batches_tracked"] = np.array(7)
    np.savez(tmp_path / "wrapped.npz", **wrapped)
    first, *others = (
        models.load("resnet20", weights=tmp_path / f)
        for f in ("w.npz", "w.safetensors", "wrapped.npz")
    )
    assert all(same(first, other) for other in others)
    kernel = first.variables["params"]["stage2"]["block1"]["conv2"]["kernel"]
    assert kernel[2, 0, 5, 9] == tensors["layer2.1.conv2.weight"][9, 5, 2, 0]
    assert first.preprocess == models.Preprocessing()
    assert first.image_size == 32


def test_keras_biases_move_the_means(tmp_path):
    tensors = drawn.keras_resnet50(1)
    np.savez(tmp_path / "w.npz", **tensors)
    network = models.load("resnet50", weights=tmp_path / "w.npz")
    stats = network.variables["batch_stats"]["stage3"]["block5"]["bn2"]
    expected = tensors["bn4f_branch2b__moving_mean"] - tensors["res4f_branch2b__bias"]
    assert np.abs(tensors["res4f_branch2b__bias"]).max() > 0.1
    np.testing.assert_array_equal(stats["mean"], expected)
    assert network.config["stride_on"] == "v1"
    assert network.config["bn_epsilon"] == 1e-3
    assert network.preprocess.order == "bgr"


# --------------------------------------------------------------------- PyTorch containers


@pytest.mark.parametrize("file", ["tiny.pth", "tiny_legacy.pth"])
def test_checkpoints_of_pytorch(file):
    read = files.read(HERE / file).tensors
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "plain": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "half": base.astype(np.float16),
        "brain": base,
        "parameter": base[0],
        "steps": np.array(5),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert read.keys() == expected.keys()
    for name, value in expected.items():
        assert read[name].shape == value.shape
        np.testing.assert_array_equal(read[name].astype(np.float32), value)
    assert read["half"].dtype == np.float16


def checkpoint(path, pickled, numbers=(1.0, 2.0, 3.0, 4.0)):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickled)
        archive.writestr("w/data/0", np.array(numbers, np.float32).tobytes())
    return path


def tensor_pickle(size, stride, offset=0, count=4):
    """``{"w": tensor}`` in the text form of the pickle protocol."""

    def ints(values):
        return b"(" + b"".join(b"I%d\n" % v for v in values) + b"t"

    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI%d\ntQ" % count
    arguments = storage + b"I%d\n" % offset + ints(size) + ints(stride) + b"I00\nN"
    return b"(dVw\nctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


def test_a_checkpoint_written_by_hand(tmp_path):
    path = checkpoint(tmp_path / "w.pth", tensor_pickle((2, 2), (1, 2)))
    np.testing.assert_array_equal(files.read(path).tensors["w"], [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((2, 2), (4, 1), 0),
        ((2,), (1,), 3),
        ((2,), (-1,), 1),
        ((2,), (), 0),
        ((10**12,), (0,), 0),
    ],
)
def test_a_tensor_cannot_reach_outside_its_numbers(size, stride, offset, tmp_path):
    path = checkpoint(tmp_path / "w.pth", tensor_pickle(size, stride, offset))
    with pytest.raises(InputError, match="expected") as error:
        files.read(path)
    one_line(error)


class Harmful:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_a_checkpoint_cannot_run_code(container, tmp_path):
    harmful = pickle.dumps({"w": Harmful(tmp_path / "made")}, protocol=2)
    path = tmp_path / "w.pth"
    if container == "zip":
        checkpoint(path, harmful)
    else:
        head = (0x1950A86A20F9469CFC6C, 1001, {})
        path.write_bytes(b"".join(pickle.dumps(v, protocol=2) for v in head) + harmful)
    with pytest.raises(InputError, match=r"asks to run \w+\.mkdir") as error:
        models.load("resnet20", weights=path)
    one_line(error)
    assert not (tmp_path / "made").exists()
    pickle.loads(harmful)  # it would have
    assert (tmp_path / "made").exists()


def test_arrays_of_objects_are_refused(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.array([Harmful(tmp_path / "made")], object))
    with pytest.raises(InputError, match="cannot be read"):
        files.read(tmp_path / "w.npz")
    assert not (tmp_path / "made").exists()


# ----------------------------------------------------------------------- files at fault


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path):
    tensors = drawn.torch_cifar(1, 20)
    del tensors["layer2.0.bn1.running_var"]
    tensors["layer9.0.conv1.weight"] = np.zeros(3, np.float32)
    tensors["layer1.0.conv2.weight"] = np.zeros((16, 16, 5, 5), np.float32)
    tensors["bn1.bias"][0] = np.nan
    np.savez(tmp_path / "w.npz", **tensors)
    with pytest.raises(InputError) as error:
        models.load("resnet20", weights=tmp_path / "w.npz")
    text = one_line(error)
    assert "1 missing (layer2.0.bn1.running_var)" in text
    assert "1 unexpected (layer9.0.conv1.weight)" in text
    assert "1 misshapen (layer1.0.conv2.weight [5, 5, 16, 16] not [3, 3, 16, 16])" in text
    assert "1 not finite (bn1.bias)" in text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    tensors = drawn.torch_cifar(1, 20)
    tensors["linear.weight"][1, 1] = value
    np.savez(tmp_path / "w.npz", **tensors)
    with pytest.raises(InputError, match=r"1 not finite \(linear\.weight\)"):
        models.load("resnet20", weights=tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet32", r"60 missing \(layer1\.3\.\w+\.\w+, .*\.\.\.\)"),
        ("resnet50", "misshapen"),
        ("embedded", "expected a file written by this package, got the torch layout"),
        ("mlp", "expected a file written by this package, got the torch layout"),
    ],
)
def test_a_file_of_another_model(name, message, tmp_path):
    np.savez(tmp_path / "w.npz", **drawn.torch_cifar(1, 20))
    with pytest.raises(InputError, match=message) as error:
        models.load(name, weights=tmp_path / "w.npz")
    assert len(one_line(error)) < 600


def test_a_keras_file_is_a_resnet50(tmp_path):
    np.savez(tmp_path / "w.npz", **drawn.keras_resnet50(1))
    with pytest.raises(InputError, match="expected the tensors of resnet101"):
        models.load("resnet101", weights=tmp_path / "w.npz")


def test_an_own_file_of_another_model(tmp_path):
    network = models.load("resnet20", weights="random", width=0.25)
    models.save(network, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="expected depth 32, got a file that says 20"):
        models.load("resnet32", weights=tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"expected bn_epsilon 0\.5, got a file"):
        models.load("resnet20", weights=tmp_path / "w.safetensors", bn_epsilon=0.5)
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(tmp_path / "w.safetensors"), bare)
    with pytest.raises(InputError, match="expected the metadata") as error:
        models.load("resnet20", weights=bare)
    one_line(error)


def test_names_of_no_known_layout(tmp_path):
    np.savez(
        tmp_path / "w.npz", **{"a": np.zeros(2), "b": np.zeros(2), "c\nd": np.zeros(2)}
    )
    with pytest.raises(InputError, match=r"got 3 tensors \(a, b") as error:
        models.load("resnet20", weights=tmp_path / "w.npz")
    one_line(error)


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(InputError, match="expected a weights file at") as error:
            models.load("resnet20", weights=path)
        one_line(error)


def written(kind, folder):
    tensors = {"conv1.weight": np.ones((8, 3, 3, 3), np.float32)}
    path = folder / f"w.{kind}"
    if kind == "npz":
        np.savez_compressed(path, **tensors)
    elif kind == "safetensors":
        save_file(tensors, path)
    else:
        path.write_bytes((HERE / kind).read_bytes())
    return path


@pytest.mark.parametrize("kind", ["npz", "safetensors", "tiny.pth", "tiny_legacy.pth"])
def test_files_cut_short_anywhere(kind, tmp_path):
    path = written(kind, tmp_path)
    whole = path.read_bytes()
    files.read(path)
    for size in (0, 1, 8, 9, 30, *range(40, len(whole), max(1, len(whole) // 40))):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError) as error:
            files.read(path)
        one_line(error)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "tiny.pth", "tiny_legacy.pth"])
def test_damaged_files_never_raise_anything_else(kind, tmp_path):
    path = written(kind, tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(200):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            files.read(path)
        except InputError as error:
            refused.append(str(error))
    assert refused
    assert not any("\n" in line for line in refused)


def test_text_is_no_weights_file(tmp_path):
    (tmp_path / "w.pth").write_text("<html>not found</html>")
    with pytest.raises(InputError, match="expected a whole safetensors, npz or PyTorch"):
        files.read(tmp_path / "w.pth")


def test_checksum(tmp_path):
    data = io.BytesIO()
    np.savez(data, **drawn.torch_cifar(1, 20))
    (tmp_path / "w.npz").write_bytes(data.getvalue())
    right = hashlib.sha256(data.getvalue()).hexdigest()
    network = models.load("resnet20", weights=tmp_path / "w.npz", sha256=right.upper())
    assert network.weights_sha256 == right
    with pytest.raises(InputError, match=f"got {right}") as error:
        models.load("resnet20", weights=tmp_path / "w.npz", sha256="0" * 64)
    one_line(error)
