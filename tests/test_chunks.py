"""Chunks cover everything once, have one size, and do not show in the result."""

import numpy as np
import pytest

from ttp_jax import chunks


@pytest.mark.parametrize(("n", "largest"), [(1, 5), (10, 5), (11, 5), (7, 3), (4, 100)])
def test_even(n, largest):
    pieces = chunks.even(n, largest)
    assert [k for piece in pieces for k in range(n)[piece]] == list(range(n))
    sizes = [piece.stop - piece.start for piece in pieces]
    assert max(sizes) <= largest
    assert all(size == sizes[0] for size in sizes[:-1])


@pytest.mark.parametrize("n", [1, 6, 7, 8])
def test_map_samples(n):
    x = np.random.default_rng(0).normal(size=(n, 2))
    shapes = set()

    def double(part):
        shapes.add(part.shape)
        return 2 * part

    np.testing.assert_array_equal(chunks.map_samples(double, x, largest=4), 2 * x)
    assert len(shapes) == 1
