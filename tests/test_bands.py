"""Bands from other curves, and how many runs they hold."""

import dataclasses

import numpy as np
import pytest

import ttp_jax as ttp
from ttp_jax import bands, study
from ttp_jax.types import Curve, InputError


def curve(loss):
    steps = np.arange(len(loss))
    return Curve(steps, np.asarray(loss, float), np.zeros(len(loss)), 1.0 * steps)


def test_coverage_of_draws_of_the_same_law():
    rng = np.random.default_rng(0)
    draws = [curve(row) for row in rng.normal(size=(600, 5))]
    banded = bands.from_curves(curve(np.zeros(5)), draws[:300])
    for level in (0.7, 0.95):
        # 1,500 readings inside or not, and the band's own scatter from 300 draws.
        error = 4 * np.sqrt(level * (1 - level) * (1 / 1500 + 1 / 300))
        assert bands.coverage(banded, draws[300:], level) == pytest.approx(level, abs=error)
    shifted = [curve(d.loss + 5) for d in draws[300:]]
    assert bands.coverage(banded, shifted, 0.95) < 0.01


def test_skipped_readings_do_not_count():
    banded = bands.from_curves(curve([0, 0]), [curve([1, -1]), curve([1, 1])])
    runs = [curve([9, 0.0])]
    assert bands.coverage(banded, runs, 0.95) == 0.5
    assert bands.coverage(banded, runs, 0.95, skip=1) == 1


def test_refuses():
    with pytest.raises(InputError, match="at least 2 other curves, got 1"):
        bands.from_curves(curve([1, 2]), [curve([1, 2])])
    with pytest.raises(InputError, match="same steps"):
        bands.from_curves(curve([1, 2]), [curve([1, 2, 3])] * 2)
    with pytest.raises(InputError, match=r"no band of level 0\.7"):
        bands.coverage(curve([1, 2]), [curve([1, 2])], 0.7)


@pytest.mark.slow
def test_other_heads_of_a_study(tmp_path):
    config = study.Config(per_class=4, batch_size=5, epochs=2.0, heads=2, every=2)
    record, _ = study.run("predict", config, out=tmp_path, say=lambda line: None)
    plain = dataclasses.replace(config, heads=0)
    alone, _ = study.run("predict", plain, out=tmp_path, say=lambda line: None)
    curve, other = record.curves["predicted"], alone.curves["predicted"]
    np.testing.assert_array_equal(curve.loss, other.loss)
    built = study.build(plain)
    seeds = [config.seed + study.OTHER_HEADS * k for k in (1, 2)]
    heads = [
        ttp.predict(built.with_head(seed), built.sgd, steps=built.steps, every=2, seed=seed)
        for seed in seeds
    ]
    assert curve.flops == pytest.approx(other.flops + sum(head.flops for head in heads))
    low, high = (curve.loss_quantiles[level] for level in (0.025, 0.975))
    # Another head starts at another loss.
    assert (high[0] - low[0]) > 1e-3
    with pytest.raises(InputError, match="bands come from heads or from paths"):
        study.run("predict", dataclasses.replace(config, paths=4), out=tmp_path)
