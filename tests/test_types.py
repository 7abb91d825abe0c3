"""What a task refuses, in one line each."""

import jax.numpy as jnp
import numpy as np
import pytest

import ttp_jax as ttp

X = np.ones((4, 3), np.float32)
PARAMS = {"w": np.ones((3, 2), np.float32)}
Y = np.array([0, 1, 1, 0])


def apply_fn(params, x):
    return x @ params["w"]


def task(**changes):
    return ttp.Task(**{"apply_fn": apply_fn, "params": PARAMS, "x": X, "y": Y, **changes})


def test_labels_become_one_hot_targets():
    np.testing.assert_array_equal(task().targets, np.eye(2)[Y])
    targets = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(task(y=targets, loss="mse").targets, targets)
    assert (task().n, task().c) == (4, 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y": Y[:3]}, "same number of samples.*4 and 3"),
        ({"x": X[:0], "y": Y[:0]}, "at least one"),
        ({"x": np.where(np.eye(4, 3) > 0, np.nan, X)}, "x must be finite, got 3 NaN"),
        ({"params": {"w": PARAMS["w"] * np.inf}}, r"weights \['w'\] must be finite"),
        (
            {"params": {"w": np.ones((3, 2), int)}},
            "floating point to be trained, got int64",
        ),
        ({"y": np.array([0, 1, 2, 0])}, r"labels must lie in 0\.\.1 .*got 0\.\.2"),
        ({"y": np.array([0, -1, 1, 0])}, r"got -1\.\.1"),
        ({"y": np.ones((4, 3))}, r"targets \[n, 2\], got shape \(4, 3\)"),
        ({"y": np.array([0.0, 1.0, 1.0, 0.0])}, "integer labels"),
        ({"y": np.full((4, 2), np.nan)}, "y must be finite"),
        ({"apply_fn": lambda p, x: (x @ p["w"]).sum(1)}, r"one sample gave shape \(1,\)"),
        ({"apply_fn": lambda p, x: x @ p["w"][:, :1], "y": Y * 0}, "use loss='mse'"),
    ],
)
def test_refuses(changes, says):
    with pytest.raises(ttp.InputError, match=says) as error:
        task(**changes)
    assert "\n" not in str(error.value)


def test_a_model_that_gives_nan_is_refused_before_the_kernel():
    bad = task(apply_fn=lambda p, x: jnp.log(-x @ p["w"]))
    with pytest.raises(ttp.InputError, match="outputs must be finite"):
        ttp.predict(bad, ttp.SGD(0.1), steps=2)
