import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttp_jax import models
from ttp_jax.models import native
from ttp_jax.types import InputError

CIFAR = {"family": "cifar", "depth": 8, "width": 0.25, "classes": 5}
IMAGENET = {"family": "imagenet", "depth": 18, "classes": 5}
MLP = {"family": "mlp", "widths": [9, 7], "activation": "tanh", "classes": 5}


def network(config, *, size=12, seed=0):
    """Random weights, BatchNorm included."""
    model = native.build(config)
    inputs = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    variables = model.init(jax.random.key(seed), inputs)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        if path[-1].key in ("bias", "mean"):
            return (0.3 * rng.standard_normal(leaf.shape)).astype(np.float32)
        return leaf

    return models.Network(
        name="test",
        model=model,
        variables=jax.tree_util.tree_map_with_path(draw, variables),
        preprocess=models.Preprocessing(),
        image_size=size,
        config=config,
        weights_sha256=None,
        source="test",
    )


def pictures(n, size=12, seed=0):
    return np.random.default_rng(seed).standard_normal((n, size, size, 3))


def wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "stages"),
    [
        (CIFAR, "stem stage1 stage2 stage3 head"),
        (IMAGENET, "stem stage1 stage2 stage3 stage4 head"),
        (MLP, "layer1 layer2 head"),
    ],
    ids=["cifar", "imagenet", "mlp"],
)
def test_frozen_and_trained_part_are_the_whole_at_every_cut(config, stages, x64):
    whole = network(config)
    whole = dataclasses.replace(whole, variables=wide(whole.variables))
    assert whole.stages == tuple(stages.split())
    x = pictures(3)
    expected = np.asarray(whole(x))
    assert np.abs(expected).max() > 1e-2
    for cut in (None, *whole.stages[:-1]):
        apply_fn, params, frozen, _ = whole.split(cut)
        trained = whole.stages[whole.stages.index(cut) + 1 :] if cut else whole.stages
        assert tuple(params) == trained
        assert (frozen is None) == (cut is None)
        features = x if frozen is None else frozen(x)
        f = apply_fn(params, features)
        np.testing.assert_allclose(f, expected, rtol=1e-10, atol=1e-10)


def test_only_weights_of_the_trained_part_have_a_gradient():
    apply_fn, params, frozen, _ = network(CIFAR).split("stage2")
    assert frozen is not None
    features = frozen(pictures(2).astype(np.float32))
    grads = jax.jit(jax.grad(lambda p: jnp.sum(apply_fn(p, features) ** 2)))(params)
    assert set(grads) == {"stage3", "head"}
    leaves = jax.tree_util.tree_leaves_with_path(grads)
    names = {path[-1].key for path, _ in leaves}
    assert names == {"kernel", "bias", "scale"}  # no running statistics among them
    assert all(np.abs(leaf).max() > 0 for _, leaf in leaves)


def test_samples_do_not_see_each_other(x64):
    whole = network(CIFAR)
    x = pictures(4)
    run = jax.jit(whole)
    together = run(x)
    alone = np.concatenate([run(x[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(together, alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["stage4", "head", "", "Stage1"])
def test_a_cut_that_is_none_lists_the_stages(name):
    with pytest.raises(InputError, match="one of stem, stage1, stage2, stage3, got") as e:
        network(CIFAR).split(name)
    assert "\n" not in str(e.value)
    assert ("nothing to train" in str(e.value)) == (name == "head")


def test_training_mode_uses_the_batch_and_returns_new_statistics():
    whole = network(CIFAR)
    x = pictures(6).astype(np.float32)
    f, stats = jax.jit(whole.model.apply_train)(whole.variables, x)
    assert jax.tree.structure(stats) == jax.tree.structure(whole.variables["batch_stats"])
    conv = whole.variables["params"]["stem"]["conv"]["kernel"]
    y = jax.lax.conv_general_dilated(
        x, conv, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    old = whole.variables["batch_stats"]["stem"]["bn"]["mean"]
    expected = 0.9 * old + 0.1 * np.mean(y, axis=(0, 1, 2))
    np.testing.assert_allclose(stats["stem"]["bn"]["mean"], expected, rtol=1e-4, atol=1e-5)
    assert np.abs(f - whole(x)).max() > 1e-3


def test_head_is_drawn_as_stated():
    config = {"family": "mlp", "widths": [400], "activation": "relu", "classes": 2}
    whole = network(config, size=2)
    hidden = whole.variables["params"]["layer1"]["dense"]["kernel"]
    assert abs(hidden.var() * 12 / 2 - 1) < 5 * np.sqrt(2 / hidden.size)
    new = whole.with_head(300, seed=1)
    kernel = new.variables["params"]["head"]["dense"]["kernel"]
    assert kernel.shape == (400, 300)
    assert new.classes == 300
    assert new.config["classes"] == 300
    # 120,000 draws of variance 1/400: five standard errors.
    n = kernel.size
    assert abs(kernel.mean()) < 5 * 0.05 / np.sqrt(n)
    assert abs(kernel.var() * 400 - 1) < 5 * np.sqrt(2 / n)
    assert (new.variables["params"]["head"]["dense"]["bias"] == 0).all()
    assert new.variables["params"]["layer1"] is whole.variables["params"]["layer1"]
    assert whole.classes == 2
    again, other = whole.with_head(300, seed=1), whole.with_head(300, seed=2)
    assert (again.variables["params"]["head"]["dense"]["kernel"] == kernel).all()
    assert (other.variables["params"]["head"]["dense"]["kernel"] != kernel).any()
    half = whole.with_head(300, seed=1, scale=0.5)
    np.testing.assert_allclose(
        half.variables["params"]["head"]["dense"]["kernel"], 0.5 * kernel, rtol=1e-6
    )
    zero = whole.with_head(300, seed=1, init="zeros")
    assert (zero(pictures(2, size=2)) == 0).all()


def test_a_head_with_a_hidden_layer_is_an_mlp_on_the_features(tmp_path, x64):
    whole = network(CIFAR)
    new = whole.with_head(3, seed=1, hidden=200, scale=2.0)
    head = new.variables["params"]["head"]
    hidden, last = head["hidden"]["kernel"], head["dense"]["kernel"]
    assert (hidden.shape, last.shape) == ((16, 200), (200, 3))
    # 3,200 draws of variance 2/16 and 600 of 4/200: five standard errors.
    assert abs(hidden.var() * 16 / 2 - 1) < 5 * np.sqrt(2 / hidden.size)
    assert abs(last.var() * 200 / 4 - 1) < 5 * np.sqrt(2 / last.size)
    split = new.split("stage3")
    assert list(split.params) == ["head"]
    features = np.asarray(split.frozen(pictures(4)))
    expected = np.maximum(features @ wide(hidden), 0) @ wide(last)
    out = split.apply_fn(wide(split.params), features)
    np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-12)
    # The draws of a head without it are what they were, also once there has been one.
    again = new.with_head(5, seed=2)
    assert again.config == whole.config
    np.testing.assert_array_equal(
        again.variables["params"]["head"]["dense"]["kernel"],
        whole.with_head(5, seed=2).variables["params"]["head"]["dense"]["kernel"],
    )
    # Only the last layer is zero where zeros are asked for: else nothing would ever move.
    zero = whole.with_head(3, seed=1, hidden=200, init="zeros")
    assert (zero.variables["params"]["head"]["dense"]["kernel"] == 0).all()
    assert (zero.variables["params"]["head"]["hidden"]["kernel"] == hidden).all()
    models.save(new, tmp_path / "w.safetensors")
    back = models.load("embedded", weights=tmp_path / "w.safetensors")
    np.testing.assert_array_equal(back(pictures(2)), new(pictures(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "at least 1 class, got 0"),
        ({"hidden": 0}, "needs at least 1 unit, got 0"),
        ({"scale": 0.0}, "must be positive, got 0.0"),
        ({"scale": float("nan")}, "must be positive, got nan"),
    ],
)
def test_a_head_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        network(MLP).with_head(**({"classes": 3, "seed": 0} | options))


def test_preprocessing_by_hand():
    bytes_ = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    rgb = models.Preprocessing()(bytes_)
    expected = (bytes_[..., 1] / 255 - 0.456) / 0.224
    np.testing.assert_allclose(rgb[..., 1], expected, rtol=1e-5, atol=1e-6)
    assert rgb.dtype == np.float32
    bgr = models.Preprocessing(
        order="bgr", scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0)
    )(bytes_)
    np.testing.assert_allclose(bgr[..., 0], bytes_[..., 2] - 103.939, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(bgr[..., 2], bytes_[..., 0] - 123.68, rtol=1e-5, atol=1e-4)
    grey = models.Preprocessing(channels=1, mean=(0.5,), std=(0.25,))
    assert grey(bytes_).shape == (2, 3, 4, 1)
    r, g, b = np.moveaxis(bytes_.astype(float), -1, 0)
    luma = (0.299 * r + 0.587 * g + 0.114 * b) / 255
    np.testing.assert_allclose(grey(bytes_)[..., 0], (luma - 0.5) / 0.25, atol=1e-5)
    repeated = models.Preprocessing()(bytes_[..., :1])
    assert repeated.shape == (2, 3, 4, 3)
    np.testing.assert_allclose(
        repeated[..., 2], (bytes_[..., 0] / 255 - 0.406) / 0.225, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 4, 4, 3)),
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 4), np.uint8),
    ],
)
def test_preprocessing_refuses_what_are_no_pictures(wrong):
    with pytest.raises(InputError, match=r"uint8 \[n, h, w, 3\]"):
        models.Preprocessing()(wrong)


def test_grey_and_odd_sizes_run():
    model = models.cifar(8, classes=3, width=2)
    for size in (8, 13):
        inputs = jax.ShapeDtypeStruct((2, size, size, 1), np.float32)
        variables = model.init(jax.random.key(0), inputs)
        assert model.apply(variables, np.ones(inputs.shape, np.float32)).shape == (2, 3)
        assert variables["params"]["head"]["dense"]["kernel"].shape == (128, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.cifar(21, classes=2), "6k"),
        (lambda: models.cifar(20, classes=2, width=0.3), "whole number of channels"),
        (lambda: models.imagenet(20, classes=2), "18, 34, 50 or 101 layers, got 20"),
        (lambda: models.mlp(classes=2, widths=(3, 0)), r"at least 1, got \[3, 0\]"),
    ],
)
def test_networks_that_cannot_be(make, message):
    with pytest.raises(InputError, match=message):
        make()
