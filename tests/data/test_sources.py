import subprocess
import sys

import numpy as np
import pytest

from ttp_jax import data
from ttp_jax.types import InputError


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    digits = data.load("digits")
    assert len(digits) == 1797
    assert digits.classes == tuple("0123456789")
    np.testing.assert_array_equal(digits.labels, theirs.target)
    images = digits.read()
    assert images.shape == (1797, 8, 8, 1)
    assert images.max() == 255
    np.testing.assert_allclose(images[..., 0], theirs.images * 255 / 16, atol=0.5)


def test_digits_have_no_test_split():
    with pytest.raises(InputError, match="one split, train"):
        data.load("digits", split="test")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnist", "one of digits, dir:FOLDER, npz:FILE, tfds:NAME, got 'mnist'"),
        ("digit", "did you mean 'digits'"),
        ("digits:8", "got 'digits:8'"),
        ("npy:a.npy", "did you mean 'npz:a.npy'"),
        ("", "got ''"),
        ("dir:", "must be given as dir:FOLDER"),
        ("npz", "must be given as npz:FILE"),
        ("tfds:", "must be given as tfds:NAME"),
    ],
)
def test_unknown_sources(source, message):
    with pytest.raises(InputError, match=message) as error:
        data.load(source)
    assert "\n" not in str(error.value)


def test_a_path_without_its_word(tmp_path):
    with pytest.raises(InputError, match=f"did you mean 'dir:{tmp_path}'"):
        data.load(str(tmp_path))
    (tmp_path / "a.npz").touch()
    with pytest.raises(InputError, match="did you mean 'npz:"):
        data.load(str(tmp_path / "a.npz"))


def test_unknown_split():
    with pytest.raises(InputError, match="train, test, got 'valid'"):
        data.sources.require_split("valid")


def test_import_is_light():
    heavy = ("tensorflow", "tensorflow_datasets", "sklearn", "matplotlib", "flax", "optax")
    code = f"import sys, ttp_jax.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
