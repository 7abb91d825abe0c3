"""Augmentation against its own definition, picture by picture."""

import numpy as np
import pytest

from ttp_jax.data.augmentation import Augmentation
from ttp_jax.types import InputError

PICTURES = np.random.default_rng(0).integers(0, 256, (40, 7, 6, 3), np.uint8)


def moved(picture, down, right, padding):
    """By NumPy's own padding."""
    mode = {"reflect": "reflect", "zero": "constant"}[padding]
    wide = np.pad(picture, ((3, 3), (3, 3), (0, 0)), mode=mode)
    return wide[3 - down : 10 - down, 3 - right : 9 - right]


@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize("flip", [False, True])
def test_every_picture_is_one_of_its_views(padding, flip):
    augmented = Augmentation(flip, 2, padding=padding, seed=1)
    found = augmented(PICTURES, 3)
    assert found.dtype == np.uint8
    seen = set()
    for before, after in zip(PICTURES, found, strict=True):
        fit = [
            (mirrored, down, right)
            for mirrored in (False, True)[: 1 + flip]
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(
                after,
                moved(before, down, right, padding)[:, :: -1 if mirrored else 1],
            )
        ]
        assert len(fit) == 1
        seen.add(fit[0])
    assert len(seen) > 15
    assert len({mirrored for mirrored, *_ in seen}) == 1 + flip


def test_noise_is_as_large_as_it_says():
    grey = np.full((50, 8, 8, 1), 128, np.uint8)
    found = Augmentation(noise=5.0)(grey, 0).astype(float) - 128
    assert abs(found.mean()) < 0.3
    assert found.std() == pytest.approx(5, rel=0.05)


def test_an_epoch_depends_on_seed_and_number_alone():
    one = Augmentation(True, 1, seed=4)
    np.testing.assert_array_equal(one(PICTURES, 2), one(PICTURES, 2))
    assert not np.array_equal(one(PICTURES, 2), one(PICTURES, 3))
    assert not np.array_equal(one(PICTURES, 2), Augmentation(True, 1, seed=5)(PICTURES, 2))
    np.testing.assert_array_equal(Augmentation()(PICTURES, 0), PICTURES)


def test_augmentations_that_cannot_be():
    for options in ({"shift": -1}, {"noise": -1.0}, {"noise": float("inf")}):
        with pytest.raises(InputError, match="got"):
            Augmentation(**options)
    with pytest.raises(InputError, match="smaller than the picture, 7x6, got 6"):
        Augmentation(shift=6)(PICTURES, 0)
