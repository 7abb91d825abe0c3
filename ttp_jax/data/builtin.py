"""Real pictures that a declared dependency carries."""

from collections.abc import Iterator

import numpy as np

from ttp_jax.data.pictures import Pictures, Split
from ttp_jax.data.pixels import Stored, to_uint8
from ttp_jax.types import InputError


def load_digits(split: Split = "train") -> Pictures:
    """1,797 handwritten digits of 8x8 grey pixels, from scikit-learn.

    The test part of UCI's "Optical recognition of handwritten digits" (E. Alpaydin and
    C. Kaynak, 1998); intensities 0..16 become 0..255. There is one split, train.

    Raises:
        InputError: The test split was asked for.
    """
    from sklearn import datasets

    if split != "train":
        raise InputError(
            "digits has one split, train, got 'test'; use split 'train' for all 1,797"
        )
    images, labels = _arrays(datasets.load_digits())

    def fetch(indices: np.ndarray) -> Iterator[tuple[str, Stored]]:
        return ((f"digits picture {i}", images[i]) for i in indices)

    names = tuple(str(digit) for digit in range(10))
    return Pictures("digits", split, labels, names, fetch)


def _arrays(bunch) -> tuple[np.ndarray, np.ndarray]:
    return to_uint8(bunch.images, 0.0, 16.0), np.asarray(bunch.target, np.int64)
