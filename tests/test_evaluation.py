"""Errors and costs of hand-made curves."""

import dataclasses

import numpy as np
import pytest

from ttp_jax import evaluation
from ttp_jax.early_curves.elasticity import ElasticityRule, stopping_step
from ttp_jax.types import Curve


def curve(loss, step_s=0.5, **options):
    loss = np.asarray(loss, dtype=float)
    steps = np.arange(len(loss)) * 10
    return Curve(
        steps=steps,
        loss=loss,
        accuracy=np.zeros(len(loss)),
        seconds=steps * step_s,
        **options,
    )


def compared(predicted, measured, rule="loss", epsilon=1.0):
    (found,) = evaluation.compare_thresholds(
        predicted, measured, rules=[rule], epsilons=[epsilon]
    )
    return found.as_json()


def test_error_is_relative_to_the_measured_steps():
    found = compared(curve([4.0, 2.0, 1.5, 1.0]), curve([4.0, 1.5, 0.9, 0.8], step_s=0.25))
    assert found["predicted_steps"] == 30
    assert found["measured_steps"] == 20
    assert found["relative_error"] == 0.5
    assert found["predicted_seconds"] == 15.0
    assert found["measured_seconds"] == 5.0
    assert not found["censored"]
    assert found["budget_steps"] == 30


@pytest.mark.parametrize(
    ("predicted", "measured", "error"),
    [
        ([4.0, 2.0], [4.0, 0.5], None),  # predicted never
        ([4.0, 0.5], [4.0, 2.0], None),  # measured never
        ([0.5, 0.4], [0.5, 0.4], 0.0),  # both at the start
        ([4.0, 0.5], [0.5, 0.4], None),  # nothing to divide by
    ],
)
def test_no_error_where_there_is_none_to_state(predicted, measured, error):
    found = compared(curve(predicted), curve(measured))
    assert found["relative_error"] == error
    assert found["censored"] == (
        4.0 in predicted + measured and 2.0 in predicted + measured
    )


def test_one_side_alone():
    found = compared(None, curve([4.0, 0.5]))
    assert found["predicted_steps"] is None
    assert found["measured_steps"] == 10
    assert found["relative_error"] is None


def test_held_out_sides():
    def with_held_out(loss):
        return curve([1.0] * len(loss), held_out=curve(loss))

    found = evaluation.held_out(
        with_held_out([4.0, 1.0, 2.0]), with_held_out([4.0, 2.0, np.inf])
    )
    assert found["predicted_loss_final"] == 2.0
    assert found["measured_loss_final"] is None
    assert found["predicted_best_steps"] == found["measured_best_steps"] == 10
    assert found["predicted_best_seconds"] == 5.0
    assert found["measured_best_loss"] == 2.0
    assert found["measured_best_censored"] is False
    alone = evaluation.held_out(with_held_out([3.0, 2.0]), None)
    assert alone["predicted_best_censored"] is True
    assert alone["predicted_best_steps"] is None
    assert alone["measured_best_censored"] is None
    assert set(alone) == set(found)


def test_cost_adds_what_a_prediction_does_and_leaves_compilation_out():
    parts = dict.fromkeys(evaluation.PREDICTION_PARTS, 1.0)
    predicted = curve(
        [1.0], timings={**parts, "compile_s": 100.0, "step_s": 9.0}, flops=2.0
    )
    measured = curve([1.0], timings={"train_s": 50.0, "compile_s": 70.0}, flops=6.0)
    cost = evaluation.cost(predicted, measured)
    assert cost["predict_s"] == len(parts)
    assert cost["ratio"] == 50.0 / len(parts)
    assert cost["ratio_flops"] == 3.0
    assert evaluation.cost(None, measured)["ratio"] is None


def test_what_a_rule_saved():
    rule = ElasticityRule(level=1.0, window=2)
    falling = [8.0, 4.0, 1.0, 0.9, 0.89]
    stop = stopping_step(curve(falling), rule)
    stopped = curve(falling[:4], planned_steps=100)
    found = evaluation.stopping(curve(falling), stopped, rule)
    assert found["predicted_steps"] == stop == 30
    assert found["measured_steps"] == 30
    assert found["saved_steps"] == 70
    assert found["saved_share"] == 0.7
    assert found["saved_seconds"] == pytest.approx(35.0)
    assert found["loss"] == 0.9
    # one that went to its end saved nothing, and one that diverged has no seconds
    whole = evaluation.stopping(None, curve([8.0, 7.9, 7.8]), rule)
    assert whole["predicted_steps"] is whole["measured_steps"] is None
    assert whole["saved_steps"] == whole["saved_share"] == 0
    lost = dataclasses.replace(curve([8.0, np.nan]), seconds=np.array([0.0, np.nan]))
    assert evaluation.stopping(None, lost, rule)["saved_seconds"] is None
    assert "saved_steps" not in evaluation.stopping(curve(falling), None, rule)
