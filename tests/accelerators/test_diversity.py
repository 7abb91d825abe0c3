"""What is read off pairs of models."""

import numpy as np
import pytest
import scipy.special

from ttp_jax.accelerators import diversity


def test_pairs_by_hand():
    rng = np.random.default_rng(0)
    f = rng.normal(size=(3, 30, 4))
    y = np.eye(4)[rng.integers(0, 4, 30)]
    pairs = diversity.apart("cross_entropy", f, y)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    pair = pairs[2]
    a, b = f[1], f[2]
    p, q = (scipy.special.softmax(v, axis=1) for v in (a, b))
    differ = (a.argmax(1) != b.argmax(1)).mean()
    error = (b.argmax(1) != y.argmax(1)).mean()
    assert pair.disagreement == pytest.approx(differ)
    assert pair.disagreement_over_error == pytest.approx(differ / error)
    assert pair.correlation == pytest.approx(np.corrcoef(p.ravel(), q.ravel())[0, 1])
    assert pair.divergence == pytest.approx(scipy.special.rel_entr(p, q).sum(1).mean())
    norms = np.linalg.norm(a - b, axis=1)
    assert pair.output_distance == pytest.approx(np.sqrt((norms**2).mean()))
    assert pair.weight_distance is None


def test_clones_are_not_apart():
    f = np.random.default_rng(1).normal(size=(1, 20, 3)).repeat(2, axis=0)
    y = np.eye(3)[f[0].argmax(axis=1)]
    (pair,) = diversity.apart("cross_entropy", f, y)
    assert pair.output_distance == pair.disagreement == pair.barrier == 0
    assert pair.correlation == pytest.approx(1)
    assert pair.divergence == pytest.approx(0)
    assert pair.disagreement_over_error is None  # of no errors


def test_a_hill_between_two_models_is_a_barrier():
    y = np.zeros((5, 2))
    f = np.zeros((2, 5, 2))
    middles = np.full((1, 5, 2), 3.0)
    (pair,) = diversity.apart("mse", f, y, middles=middles)
    assert pair.barrier == pytest.approx(9.0)
    assert pair.divergence is None
