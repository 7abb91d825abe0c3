"""Ranking candidates: what is kept, read again, refused, and said."""

import dataclasses
import json

import numpy as np
import pytest

from tests.early_curves import curve
from ttp_jax import cli, rank_study, ranking, records, scoring, study
from ttp_jax.early_curves.lcga import lcga
from ttp_jax.rank_study import RankConfig
from ttp_jax.types import InputError, Trust

MLP = {"model": "mlp", "weights": "random", "image_size": 8}
SMALL = RankConfig(
    **MLP,
    per_class=4,
    held_out=3,
    batch_size=5,
    epochs=3,
    candidates=("lr=1e-4", "lr=3e-3", "lr=3e-3,head_scale=1"),
)


def quiet(config, out, **options):
    said = []
    record, folder = rank_study.run(config, out=out, say=said.append, **options)
    assert record.result == records.load(folder).result
    return record.result, said


def by_key(result):
    return {row["key"]: row for row in result["rankings"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three candidates, trained to their end."""
    out = tmp_path_factory.mktemp("rank")
    config = dataclasses.replace(SMALL, train=True)
    return out, config, quiet(config, out)[0]


@pytest.mark.slow
def test_places_follow_the_scores(trained):
    _, _, result = trained
    listed = result["candidates"]
    rows = by_key(result)
    assert [row["name"] for row in listed] == [
        "mlp, lr 0.0001",
        "mlp, lr 0.003",
        "mlp, head scale 1, lr 0.003",
    ]
    for key, row in rows.items():
        values = np.array([of["scores"][key] for of in listed], float)
        order = ranking.ascending(values, row["larger_is_better"])
        assert row["places"] == ranking.places(order).tolist(), key
    assert result["by"] == "predicted_held_out_accuracy_stable"
    both = [rows[key]["places"] for key in ("predicted_held_out_loss", result["by"])]
    order = np.lexsort(both)
    assert [listed[k]["place"] for k in order] == [1, 2, 3]
    assert result["best"] == min(listed, key=lambda of: of["place"])["name"]
    assert all(set(of["trust"]) == {"ok", "score", "reason"} for of in listed)
    assert listed[0]["scores"]["snip"] != listed[2]["scores"]["snip"]
    # two that differ in the rate alone are one network before training
    for key in ("snip", "ntk_condition", "label_feature_correlation", "initial_loss"):
        assert listed[0]["scores"][key] == listed[1]["scores"][key]


@pytest.mark.slow
def test_quality_is_against_the_real_runs(trained):
    out, _, result = trained
    rows = by_key(result)
    losses = [of["outcomes"]["loss"] for of in result["candidates"]]
    real = {}
    for folder in out.glob("trained-*"):
        record = records.load(folder)
        real[record.result["candidate"]] = record.curves["measured"]
    names = [of["name"] for of in result["candidates"]]
    assert losses == [real[name].loss[-1] for name in names]
    hits = [of["outcomes"]["held_out_accuracy"] for of in result["candidates"]]
    assert hits == [real[name].held_out.accuracy[-1] for name in names]
    for row in rows.values():
        assert set(row["quality"]) == {"loss", "held_out_loss", "held_out_accuracy"}
        expected = ranking.spearman(np.array(row["places"]), np.array(losses))
        found, low, high = row["quality"]["loss"]["spearman"]
        assert (found is None) == np.isnan(expected)
        if found is not None:
            assert found == pytest.approx(expected)
            assert low <= found <= high


@pytest.mark.slow
def test_costs_are_counted_in_one_unit(trained):
    _, config, result = trained
    rows = by_key(result)
    # 20 pictures in batches of 5: an epoch is 4 steps, the run 12
    for k in (1, 2):
        assert rows[f"observed_tse_{k}"]["cost_steps"] == pytest.approx(4 * k)
        assert rows[f"observed_lcga_{k}"]["cost_share"] == pytest.approx(k / config.epochs)
    # three forward passes a sample are a step of 20 samples, four of batches of 5
    assert rows["gradient_norm"]["cost_steps"] == pytest.approx(4)
    assert rows["initial_loss"]["cost_steps"] == pytest.approx(4 / 3)
    assert (
        rows["effective_rate"]["cost_steps"] == rows["weights_trained"]["cost_steps"] == 0
    )
    predicted = rows["predicted_loss"]["cost_steps"]
    assert 0 < rows["ntk_condition"]["cost_steps"] < predicted
    assert predicted == rows["predicted_tse"]["cost_steps"]
    # what is held out is paid for by those who look at it
    assert rows["predicted_held_out_loss"]["cost_steps"] > predicted


@pytest.mark.slow
def test_a_finished_candidate_is_read(trained, monkeypatch):
    out, config, result = trained
    before = {f: f.stat().st_mtime_ns for f in out.glob("*/record.json")}

    def never(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(scoring, "predict", never)
    monkeypatch.setattr(scoring, "finetune", never)
    again, said = quiet(config, out)
    assert again == result
    assert said.count("  scored before") == said.count("  trained before") == 3
    # others among them: the old ones are read; a kernel makes no other real run
    fewer = dataclasses.replace(config, candidates=config.candidates[:2], observe=(2,))
    assert len(quiet(fewer, out)[0]["candidates"]) == 2
    # by another threshold the same curves are read again
    later = quiet(dataclasses.replace(config, epsilon=(1.5,)), out)[0]
    at = {of["name"]: of["scores"]["predicted_time"] for of in result["candidates"]}
    for of in later["candidates"]:
        assert of["scores"]["predicted_time"] <= (at[of["name"]] or np.inf)
    monkeypatch.undo()
    monkeypatch.setattr(scoring, "finetune", never)
    other = dataclasses.replace(fewer, kernel_outputs="trace")
    assert by_key(quiet(other, out)[0])["predicted_loss"]["quality"] is not None
    assert {f: f.stat().st_mtime_ns for f in before} == before


@pytest.mark.slow
def test_the_first_epochs_are_those_of_the_whole_run(trained, tmp_path):
    _, config, whole = trained
    part = dataclasses.replace(
        config, candidates=config.candidates[:2], train=False, observe=(1, 2)
    )
    result, _ = quiet(part, tmp_path)
    assert len(list(tmp_path.glob("observed2-*"))) == 2
    for of, same in zip(result["candidates"], whole["candidates"], strict=False):
        assert of["outcomes"] is None
        for key in ("observed_tse_1", "observed_tse_2", "observed_tse_e_2"):
            assert of["scores"][key] == pytest.approx(same["scores"][key], rel=1e-6)
    assert by_key(result)["predicted_loss"]["quality"] is None
    assert result["cost"]["train_s"] < whole["cost"]["train_s"] * 5


@pytest.mark.slow
def test_logged_runs_rank_others(trained, tmp_path):
    out, config, _ = trained
    others = dataclasses.replace(
        config, train=False, candidates=("lr=1e-3", "lr=2e-3"), logged=(str(out),)
    )
    rows = by_key(quiet(others, tmp_path)[0])
    for outcome in ("loss", "held_out_loss", "held_out_accuracy"):
        assert sorted(rows[f"regressed_{outcome}"]["places"]) in ([1, 2], [1.5, 1.5])
    with pytest.raises(InputError, match="records of trained candidates, got none"):
        quiet(dataclasses.replace(others, logged=(str(tmp_path),)), tmp_path)
    # no run is fitted to itself
    with pytest.raises(InputError, match="needs 3 that are not ranked here"):
        quiet(dataclasses.replace(config, logged=(str(out),)), out)


@pytest.mark.slow
def test_a_candidate_that_fails_costs_no_other(tmp_path, monkeypatch):
    bad = (*SMALL.candidates[:2], "model=nope", "lr=1e-3,batch_size=21")
    config = dataclasses.replace(SMALL, candidates=bad)
    result, said = quiet(config, tmp_path)
    assert [row["name"] for row in result["candidates"]] == [
        "mlp, lr 0.0001",
        "mlp, lr 0.003",
    ]
    reasons = {row["name"]: row["reason"] for row in result["failed"]}
    assert "model must be one of" in reasons["nope"]
    assert "at most the number of samples (20)" in reasons["mlp, lr 0.001, batch size 21"]
    assert sum(line.startswith("failed, left out") for line in said) == 2
    # too few are left: one line, and those that were finished are there the next time
    alone = dataclasses.replace(SMALL, candidates=("lr=1e-4", "model=nope"))
    with pytest.raises(
        InputError, match=r"that can be run, got 1 of 2; nope: model must be"
    ):
        quiet(alone, tmp_path)
    computed = []
    original = scoring.predict
    monkeypatch.setattr(
        scoring, "predict", lambda *a, **k: (computed.append(1), original(*a, **k))[1]
    )
    mended = dataclasses.replace(config, candidates=(*bad[:2], "lr=1e-3,batch_size=20"))
    assert not quiet(mended, tmp_path)[0]["failed"]
    assert len(computed) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"candidates": ()}, "at least 2 candidates, got 0"),
        ({"candidates": ("lr=1", "lr=1")}, "must differ"),
        ({"observe": (4,)}, r"must lie in 1\.\.3 .*, got 4"),
        ({"observe": (0,)}, "must lie in 1"),
        ({"by": "luck"}, "by must be one of predicted_loss_stable"),
        ({"by": "observed_tse_1"}, "by must be one of"),
        ({"held_out": 0, "by": "predicted_held_out_loss"}, "by must be one of"),
        ({"epsilon": (0.1, 0.2)}, "one threshold by one rule, got 2 and 1"),
        ({"epsilon": (0.0,)}, "epsilon must lie above 0"),
        ({"paths": 3}, "a ranking has no paths"),
        ({"stop_elasticity": 1.0}, "a ranking has no stop_elasticity"),
        ({"logged": ("nowhere",)}, "nowhere must hold records"),
    ],
)
def test_rankings_that_cannot_be(change, said, tmp_path):
    with pytest.raises(InputError, match=said):
        quiet(dataclasses.replace(SMALL, **change), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    asked = [
        "rank", "--model=mlp", "--weights=random", "--image-size=8", "--per-class=4",
        "--held-out=3", "--batch-size=5", "--epochs=3", "--out", str(tmp_path),
        "--candidates", "head_scale=1", "lr=3e-3", "--rates", "1e-4", "1e-3", "--train",
    ]  # fmt: skip
    assert cli.main([*asked, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {
        "by", "best", "candidates", "rankings", "cost", "failed", "record"
    }  # fmt: skip
    folder = tmp_path / printed["record"].split("/")[-1]
    assert (folder / "ranking.png").stat().st_size > 5000
    assert records.load(folder).result == printed
    assert cli.main(asked) == 0
    captured = capsys.readouterr()
    assert "finished before" in captured.err
    for words in (
        "3 candidates on digits",
        "TSE, 2 epochs",
        "NTK condition",
        "real training",
    ):
        assert words in captured.out
    # without training there is nothing to be good against
    untrained = [part for part in asked if part != "--train"]
    assert cli.main([*untrained, "--epochs=2"]) == 0
    assert "first choice" in capsys.readouterr().out
    assert cli.main([*asked, "--candidates", "lr=1", "ler=2"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "perhaps lr" in captured.err


def test_scores_of_curves_with_known_answers():
    """A hyperbola ``1 + 1/(1 + k/4)`` read at every step, four steps an epoch."""
    k = np.arange(41)
    falling = curve(1 + 1 / (1 + k / 4), k)
    found = scoring.of_log(falling, 4)
    sums = falling.loss[:40].reshape(10, 4).mean(axis=1)
    assert found["tse"].value == pytest.approx(sums.sum())
    assert found["tse_e"].value == pytest.approx(sums[-1])
    seen = lcga(falling, steps_per_epoch=4, epochs=11, burn_in_epochs=2)
    assert found["lcga"] == seen.slope_over_root_curvature
    at = k[8:]
    assert found["lcga"].value == pytest.approx(
        -np.mean(np.sqrt(1 / (1 + at / 4) / 2)), rel=1e-3
    )
    # of two epochs none is left out; of one that diverged nothing is known
    assert np.isfinite(scoring.of_log(curve(falling.loss[:8], k[:8]), 4)["lcga"].value)
    lost = scoring.of_log(curve(np.where(k > 5, np.nan, falling.loss), k), 4)
    assert lost["tse"].value == np.inf
    assert np.isnan(lost["lcga"].value)


def test_what_is_unstable_comes_last():
    k = np.arange(13)
    low = dataclasses.replace(
        curve(np.linspace(2, 0, 13), k), held_out=curve(np.linspace(2, 0.1, 13), k)
    )
    config = study.Config(batch_size=5, rules=("loss",), epsilon=(1.0,))

    def scores(stability, of=low):
        trust = Trust(True, 1.0, "", stability=stability, gap=0.0)
        return scoring.of_prediction(dataclasses.replace(of, trust=trust), config, 4)

    stable, unstable = scores(2.0), scores(2.1)
    assert stable["predicted_time"].value == 6
    for key in ("predicted_loss", "predicted_held_out_loss"):
        assert stable[key].value == stable[f"{key}_stable"].value == unstable[key].value
        assert np.isnan(unstable[f"{key}_stable"].value)
    side = unstable["predicted_held_out_accuracy_stable"].larger_is_better
    assert side
    assert ranking.ascending(np.array([np.nan, 0.1]), side).argmin() == 1
    never = scores(0.9, dataclasses.replace(low, loss=np.full(13, 1.5)))
    assert never["predicted_time"].value == np.inf
