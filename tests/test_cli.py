"""The command line: what it prints, and one line with exit status 2 for bad input."""

import json

import numpy as np
import pytest
import safetensors.numpy

from ttp_jax import cli, records
from ttp_jax.early_curves.elasticity import ElasticityRule, stopping_step

SMALL = [
    "--model=mlp", "--weights=random", "--data=digits", "--image-size=8",
    "--per-class=6", "--batch-size=5", "--epochs=3", "--lr=0.01",
]  # fmt: skip


def ttp(*arguments, capsys):
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_compare_json(tmp_path, capsys):
    arguments = ("compare", *SMALL, "--json", "--out", tmp_path)
    status, out, _ = ttp(*arguments, capsys=capsys)
    assert status == 0
    printed = json.loads(out)
    assert set(printed) == {"loss_initial", "thresholds", "cost", "trust", "record"}
    assert set(printed["cost"]) == {
        "predict_s", "kernel_s", "finetune_s", "ratio", "ratio_flops"
    }  # fmt: skip
    assert set(printed["trust"]) == {"ok", "score", "reason"}
    assert len(printed["thresholds"]) == 9
    assert {
        "rule", "epsilon", "predicted_steps", "measured_steps", "predicted_seconds",
        "relative_error", "censored",
    } <= set(printed["thresholds"][0])  # fmt: skip
    folder = tmp_path / printed["record"].split("/")[-1]
    assert (folder / "curves.png").stat().st_size > 5000
    record = records.load(folder)
    assert record.result == printed
    read = [*record.curves["predicted"].steps.tolist(), None]
    for entry in printed["thresholds"]:
        expected, named = entry["predicted_steps_95"], entry["predicted_steps"]
        assert (expected is None) == (named is None)
        if expected is not None:
            low, high = expected
            assert low in read
            assert high in read
            assert low <= named <= (high or named)
    assert len(record.provenance["data"]["indices"]) == 30
    # both sides start at the same loss, of the same network on the same pictures
    predicted, measured = record.curves["predicted"], record.curves["measured"]
    np.testing.assert_allclose(predicted.loss[0], measured.loss[0], rtol=1e-5)
    assert predicted.loss[-1] < predicted.loss[0]

    # a finished run is read, not run again, until it is forced
    written = (folder / "record.json").stat().st_mtime_ns
    assert json.loads(ttp(*arguments, capsys=capsys)[1]) == printed
    assert (folder / "record.json").stat().st_mtime_ns == written
    status, out, _ = ttp(*arguments, "--force", capsys=capsys)
    assert (folder / "record.json").stat().st_mtime_ns > written
    assert sorted(tmp_path.iterdir()) == [folder]


@pytest.mark.slow
def test_held_out(tmp_path, capsys):
    common = ("compare", *SMALL, "--out", tmp_path, "--held-out=4")
    status, out, _ = ttp(*common, "--json", "--paths=2", capsys=capsys)
    assert status == 0
    printed = json.loads(out)
    found = printed["held_out"]
    assert set(found) == {
        f"{side}_{name}"
        for side in ("predicted", "measured")
        for name in (
            "loss_final", "accuracy_final", "best_steps", "best_seconds", "best_loss",
            "best_censored",
        )
    }  # fmt: skip
    folder = tmp_path / printed["record"].split("/")[-1]
    assert (folder / "curves.png").stat().st_size > 5000
    record = records.load(folder)
    data = record.provenance["data"]
    assert (len(data["indices"]), len(data["held_out_indices"])) == (30, 20)
    assert not set(data["indices"]) & set(data["held_out_indices"])
    predicted, measured = (record.curves[side] for side in ("predicted", "measured"))
    # In records curves are kept in single precision.
    assert np.float32(found["predicted_loss_final"]) == predicted.held_out.loss[-1]
    np.testing.assert_array_equal(predicted.held_out.steps, measured.held_out.steps)
    np.testing.assert_allclose(
        predicted.held_out.loss[0], measured.held_out.loss[0], rtol=1e-5
    )
    assert sorted(predicted.held_out.loss_quantiles) == [0.025, 0.15, 0.85, 0.975]
    # the table of the same run, read from its record
    status, out, _ = ttp(*common, "--paths=2", capsys=capsys)
    for words in ("pictures held out", "loss at the end", "lowest loss", "at step"):
        assert words in out


@pytest.mark.slow
def test_adam_and_its_decay(tmp_path, capsys):
    options = ("--optimizer=adam", "--beta2=0.99", "--adam-eps=1e-6", "--weight-decay=0.1")
    small = [option for option in SMALL if not option.startswith("--lr")]
    arguments = (
        "compare",
        *small,
        "--lr=3e-4",
        "--seed=1",
        *options,
        "--json",
        "--out",
        tmp_path,
    )
    status, out, _ = ttp(*arguments, capsys=capsys)
    assert status == 0
    printed = json.loads(out)
    assert "second moments" in printed["trust"]["reason"]
    record = records.load(tmp_path / printed["record"].split("/")[-1])
    predicted, measured = record.curves["predicted"], record.curves["measured"]
    assert measured.loss[-1] < 0.1 * measured.loss[0]
    np.testing.assert_allclose(predicted.loss, measured.loss, atol=0.1)  # from 5.8


@pytest.mark.parametrize("command", ["predict", "finetune"])
def test_one_side_alone(command, tmp_path, capsys):
    status, out, _ = ttp(command, *SMALL, "--out", tmp_path, capsys=capsys)
    assert status == 0
    shown, hidden = (
        ("predicted", "measured") if command == "predict" else ("measured", "predicted")
    )
    assert shown in out
    assert hidden not in out
    assert ("trust" in out) == (command == "predict")


def test_the_table_warns(tmp_path, capsys):
    _, out, _ = ttp("predict", *SMALL, "--lr=300", "--out", tmp_path, capsys=capsys)
    assert "WARNING, not to be trusted" in out
    assert "UNSTABLE" in out


def refused(*arguments, capsys, out_folder):
    status, out, err = ttp(
        "compare", *SMALL, "--out", out_folder, *arguments, capsys=capsys
    )
    assert status == 2
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("ttp: ")
    assert not out_folder.exists() or not list(out_folder.iterdir())
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model=resnet99"], "model must be one of"),
        (["--data=cifar11"], "digits"),
        (["--per-class=1000"], "1000"),
        (["--classes=11"], "10"),
        (["--held-out=200"], "every class must have 206 pictures (200 held out), class"),
        (["--held-out=-1"], "held-out pictures of each class must not be negative"),
        (["--held-out=2", "--solver=moments"], "held_out needs solver 'simulate'"),
        (
            ["--batch-size=31"],
            "batch size must be at most the number of samples (30), got 31",
        ),
        (["--batch-size=0"], "batch size must be at least 1"),
        (["--lr=0"], "learning rate must be positive, got 0"),
        (["--lr=-1"], "learning rate must be positive, got -1"),
        (["--lr=nan"], "learning rate must be positive, got nan"),
        (["--lr=fast"], "--lr"),
        (["--momentum=1"], "momentum must lie in [0, 1)"),
        (["--beta1=0.5"], "sgd has no beta1"),
        (["--optimizer=adam", "--momentum=0.5"], "adam has no momentum"),
        (["--optimizer=adam", "--adam-eps=0"], "eps must be positive"),
        (["--optimizer=adam", "--solver=sde"], "got solver"),
        (["--epsilon", "0.1", "1.5"], "epsilon must lie between 0 and 1"),
        (["--epsilon", "0"], "epsilon must lie"),
        (["--epochs=0"], "epochs must be positive"),
        (["--every=1000"], "every must lie in 1..18"),
        (["--freeze-until=nowhere"], "last frozen stage"),
        (["--solver=flow"], "solver 'flow' needs loss='mse'"),
        (["--solver=guess"], "--solver"),
        (["--loss=hinge"], "--loss"),
        (["--memory-gb=0.000001"], "memory"),
        (["--no-such-option=1"], "no-such-option"),
        (["--stop-elasticity=0"], "level must be above 0, got 0"),
        (["--stop-elasticity=1", "--stop-window=1"], "window must be at least 2"),
        (["--stop-patience=2"], "stop_patience need stop_elasticity"),
        (["--weights=missing.npz"], "missing.npz"),
        (["--method=boosting"], "method must be plain or"),
        (["--cycles=2", "--last=1"], "method 'plain' has no cycles, last"),
        (["--method=snapshot", "--cycles=19"], "cycles must lie in 1..18"),
        (["--method=snapshot", "--cycles=0"], "cycles must lie in 1..18"),
        (["--method=snapshot", "--cycles=7"], "take 6 cycles"),
        (["--method=snapshot", "--last=5"], "last must lie in 1..4"),
        (["--method=snapshot", "--alpha0=0"], "(alpha0) must be positive, got 0"),
        (["--method=snapshot", "--optimizer=adam"], "needs optimizer sgd"),
        (["--method=snapshot", "--heads=2"], "without heads, got sgd and 2"),
        (["--method=snapshot", "--solver=ode"], "need solver 'simulate'"),
        (["--method=agent", "--density=0"], "density must lie in (0, 1], got 0"),
        (["--method=agent", "--density=2"], "density must lie in (0, 1], got 2"),
        (["--method=agent", "--sparsity=set"], "sparsity need density"),
        (
            ["--method=agent", "--density=0.1", "--mask-every=5"],
            "mask_every need masks that move",
        ),
        (
            ["--method=agent", "--density=0.1", "--sparsity=rigl"],
            "updated within the first 14 of 18 steps, got an update every 100",
        ),
        (["--method=agent", "--correction=none"], "is a plain run"),
        (
            ["--method=agent", "--correction=svrg", "--gamma=1"],
            "gamma need correction agent",
        ),
        (["--method=agent", "--batch-size=None"], "at least 2 mini-batches an epoch"),
        (["--method=agent", "--attack=0.1"], "adversarial training is not predicted"),
        (["--method=agent+snapshot"], "is a plain run"),
        (
            ["--method=agent+snapshot", "--density=0.5", "--correction=agent"],
            "for masks that stay alone",
        ),
        (["--method=agent", "--kernel=kronecker", "--density=0.5"], "exact kernel alone"),
        (["--method=snapshot+snapshot"], "got 'snapshot+snapshot'"),
        (["--method=freezeout", "--t0=0"], "t0 must lie in (0, 1]"),
        (["--method=freezeout", "--t0=soon"], "--t0"),
        (
            ["--method=freezeout", "--groups", "nothing*"],
            "got 'nothing*', which matches none",
        ),
        (["--method=freezeout", "--groups", "head*", "*bias"], "in one group only"),
        (["--method=freezeout", "--solver=flow"], "got solver 'flow'"),
        (["--method=freezeout", "--paths=4"], "got paths; leave"),
        (["--method=freezeout", "--kernel=kronecker"], "need kernel 'exact'"),
        (["--method=freezeout+snapshot", "--t0=best"], "give t0 as a number"),
        (["--t0=0.5"], "method 'plain' has no t0"),
        (["--method=snapshot", "--no-scaled"], "method 'snapshot' has no scaled"),
    ],
)
def test_bad_arguments(arguments, says, tmp_path, capsys):
    assert says in refused(*arguments, capsys=capsys, out_folder=tmp_path / "out")


def test_truncated_weights(tmp_path, capsys):
    file = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"conv1.weight": np.ones((8, 3, 3, 3), np.float32)}, file)
    file.write_bytes(file.read_bytes()[:-40])
    line = refused(
        "--model=resnet20", f"--weights={file}", capsys=capsys, out_folder=tmp_path / "out"
    )
    assert str(file) in line


def test_weights_of_another_shape_and_with_nan(tmp_path, capsys):
    source = "--weights"
    file = tmp_path / "weights.npz"
    names = _resnet20_names()
    np.savez(file, **(names | {"conv1.weight": np.ones((5, 5, 3, 16), np.float32)}))
    line = refused(
        "--model=resnet20", source, file, capsys=capsys, out_folder=tmp_path / "out"
    )
    assert "conv1" in line
    np.savez(file, **(names | {"bn1.weight": np.full(16, np.nan, np.float32)}))
    line = refused(
        "--model=resnet20", source, file, capsys=capsys, out_folder=tmp_path / "out"
    )
    assert "not finite" in line


def _resnet20_names():
    rng = np.random.default_rng(0)
    tensors = {
        "conv1.weight": (3, 3, 3, 16),
        "linear.weight": (64, 10),
        "linear.bias": (10,),
    }
    norms = {"bn1": 16}
    planes_in = 16
    for layer, planes in ((1, 16), (2, 32), (3, 64)):
        for block in range(3):
            name = f"layer{layer}.{block}"
            tensors[f"{name}.conv1.weight"] = (3, 3, planes_in, planes)
            tensors[f"{name}.conv2.weight"] = (3, 3, planes, planes)
            norms |= {f"{name}.bn1": planes, f"{name}.bn2": planes}
            planes_in = planes
    for name, planes in norms.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{name}.{part}"] = (planes,)
    return {name: rng.random(shape, np.float32) for name, shape in tensors.items()}


def test_pictures_with_nan_and_labels_out_of_range(tmp_path, capsys):
    file = tmp_path / "pictures.npz"
    x = np.random.default_rng(0).random((60, 8, 8, 1)).astype(np.float32)
    y = np.arange(60) % 5
    x[3, 0, 0, 0] = np.nan
    np.savez(file, x=x, y=y)
    out = tmp_path / "out"
    assert "NaN" in refused(
        f"--data=npz:{file}", "--per-class=12", capsys=capsys, out_folder=out
    )
    np.savez(file, x=np.nan_to_num(x), y=y - 1)
    assert "-1" in refused(f"--data=npz:{file}", capsys=capsys, out_folder=out)
    file.write_bytes(file.read_bytes()[:1000])
    assert str(file) in refused(f"--data=npz:{file}", capsys=capsys, out_folder=out)


def test_no_permission_to_write(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = refused(capsys=capsys, out_folder=tmp_path / "file" / "out")
    assert "--out must be a folder that can be written" in line


def test_nothing_is_loaded_twice_for_help(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--lr", "--freeze-until", "--per-class", "--json", "--out", "--epsilon"):
        assert option in printed


def test_interrupted(tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ttp_jax.study.predict", interrupt)
    status, _, err = ttp("predict", *SMALL, "--out", tmp_path, capsys=capsys)
    assert status == 130
    assert "no record was written" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_snapshots(loss, tmp_path, capsys):
    small = [option for option in SMALL if not option.startswith("--lr")]
    options = ("--method=snapshot", "--cycles=3", "--last=2", "--lr=1e-5", "--alpha0=2e-6")
    common = (*small, *options, f"--loss={loss}", "--held-out=4", "--out", tmp_path)
    status, out, _ = ttp("compare", *common, "--json", capsys=capsys)
    assert status == 0
    printed = json.loads(out)
    found = printed["snapshot"]
    assert {name: found[name] for name in ("cycles", "last", "alpha0", "steps")} == {
        "cycles": 3, "last": 2, "alpha0": 2e-6, "steps": [6, 12, 18]
    }  # fmt: skip
    assert [(entry["of"], entry["samples"]) for entry in found["quality"]] == [
        (of, samples)
        for samples in ("trained", "held_out")
        for of in ("ensemble", "last snapshot", "plain")
    ]
    assert len(found["pairs"]) == 6
    for entry in found["pairs"]:
        assert entry["measured_weight_distance"] > 0
        # at so low a rate the network is nearly linear
        assert entry["predicted_weight_distance"] == pytest.approx(
            entry["measured_weight_distance"], rel=0.05
        )
    assert {entry["rule"] for entry in found["speed_up"]} == {"fraction_of_initial", "loss"}
    folder = tmp_path / printed["record"].split("/")[-1]
    assert (folder / "curves.png").stat().st_size > 5000
    record = records.load(folder)
    assert record.result == printed
    assert set(record.curves) == {
        "predicted", "measured", "plain_predicted", "plain_measured"
    }  # fmt: skip
    quality = {(entry["of"], entry["samples"]): entry for entry in found["quality"]}
    for side in ("predicted", "measured"):
        assert record.arrays[f"{side}_snapshots"].shape == (3, 50, 5)
        for name, samples in (("", "last snapshot"), ("plain_", "plain")):
            curve = record.curves[f"{name}{side}"]
            entry = quality[(samples, "trained")]
            assert entry[f"{side}_loss"] == pytest.approx(curve.loss[-1], rel=1e-5)
            entry = quality[(samples, "held_out")]
            assert entry[f"{side}_loss"] == pytest.approx(curve.held_out.loss[-1], rel=1e-5)
    status, out, _ = ttp("compare", *common, capsys=capsys)
    for words in ("3 snapshots", "the last 2 averaged", "how far apart", "times faster"):
        assert words in out


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "finetune"])
def test_snapshots_of_one_side(command, tmp_path, capsys):
    arguments = (*SMALL, "--method=snapshot", "--cycles=1", "--out", tmp_path)
    status, out, _ = ttp(command, *arguments, capsys=capsys)
    assert status == 0
    assert "1 snapshots, alpha0 0.01" in out
    assert "how far apart" not in out


@pytest.mark.slow
def test_freezeout(tmp_path, capsys):
    options = ("--method=freezeout", "--t0=0.5", "--how=linear", "--no-scaled")
    small = [option for option in SMALL if not option.startswith("--lr")]
    common = (*small, *options, "--lr=1e-5", "--loss=mse", "--held-out=4", "--every=1")
    common = (*common, "--epsilon", "0.5", "--out", tmp_path)
    status, out, _ = ttp("compare", *common, "--json", capsys=capsys)
    assert status == 0
    printed = json.loads(out)
    found = printed["freezeout"]
    assert (found["t0"], found["how"], found["scaled"]) == (0.5, "linear", False)
    assert [(group["name"], group["freezes_at"]) for group in found["groups"]] == [
        ("layer1", 9), ("layer2", 14), ("head", 18)
    ]  # fmt: skip
    assert found["groups"][0]["tensors"] == ["layer1/dense/bias", "layer1/dense/kernel"]
    assert found["steps"] == [9, 14]
    saved = found["saved"]
    assert saved["predicted_operations"] == pytest.approx(
        saved["measured_operations"], rel=0.03
    )
    assert saved["measured_operations"] > 0.2
    for entry in found["quality"]:
        # at so low a rate the network is nearly linear
        assert entry["predicted_loss"] == pytest.approx(entry["measured_loss"], rel=0.06)
    assert [(e["of"], e["samples"]) for e in found["quality"]] == [
        (of, samples)
        for of in ("freezeout", "plain")
        for samples in ("trained", "held_out")
    ]
    assert [floor["step"] for floor in found["floors"]] == [9, 14]
    (entry,) = [e for e in found["speed_up"] if e["rule"] == "fraction_of_initial"]
    record = records.load(tmp_path / printed["record"].split("/")[-1])
    for side in ("predicted", "measured"):
        plain, own = record.curves[f"plain_{side}"], record.curves[side]
        for curve in (plain, own):
            assert curve.operations is not None
            assert curve.operations.shape == curve.steps.shape
        first = [int(np.argmax(c.loss <= 0.5 * c.loss[0])) for c in (plain, own)]
        assert entry[side] == pytest.approx(first[0] / first[1])
        at = [c.operations[k] for c, k in zip((plain, own), first, strict=True)]
        assert entry[f"{side}_operations"] == pytest.approx(at[0] / at[1])
    assert record.result == printed
    assert (tmp_path / record.run_id / "curves.png").stat().st_size > 5000
    status, out, _ = ttp("compare", *common, capsys=capsys)
    for words in ("freezes at step", "operations saved in all", "cannot get below"):
        assert words in out


@pytest.mark.slow
def test_the_best_time_to_freeze(tmp_path, capsys):
    """One kernel serves the choice, the run and the plain run beside it."""
    options = ("--method=freezeout", "--t0=best", "--lr=1e-3", "--epsilon", "0.9")
    small = [option for option in SMALL if not option.startswith("--lr")]
    status, out, _ = ttp(
        "predict", *small, *options, "--out", tmp_path, "--json", capsys=capsys
    )
    assert status == 0
    found = json.loads(out)["freezeout"]
    assert found["chosen"]
    assert 0.2 <= found["t0"] <= 1


def test_sweep(tmp_path, capsys):
    grid = ["--momenta", "0", "0.9", "--rate-count", "9", "--lengths", "1"]
    arguments = ("sweep", *SMALL, *grid, "--batch-sizes", "6", "None", "--out", tmp_path)
    status, out, _ = ttp(*arguments, "--json", capsys=capsys)
    assert status == 0
    printed = json.loads(out)
    # with the reference on every axis: 10 rates, batches of 5, 6 and all, two schedules
    assert printed["settings"] == 10 * 2 * 3 * 2
    assert printed["reference"]["batch_size"] == 5
    assert {row["batch_size"] for row in printed["batch_sizes"]} == {5, 6, None}
    assert printed["fewest_steps"]["steps"] <= printed["least_computation"]["steps"]
    assert printed["least_computation"]["samples"] <= printed["fewest_steps"]["samples"]
    folder = tmp_path / printed["record"].split("/")[-1]
    assert (folder / "heat_map.png").stat().st_size > 5000
    record = records.load(folder)
    assert record.result == printed
    assert record.arrays["steps"].shape == (10, 2, 3, 2, 1)
    # read again, as a table
    status, out, err = ttp(*arguments, capsys=capsys)
    assert status == 0
    assert "finished before" in err
    assert "largest stable learning rate" in out


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--solver=ode", "a sweep has no solver"),
        ("--method=snapshot", "a sweep has no method"),
        ("--optimizer=adam", "a sweep has no optimizer"),
        ("--stop-elasticity=1", "a sweep has no stop_elasticity"),
        ("--epsilon=0.1 0.2", "reads one threshold"),
        ("--rate-count=1", "rate_count"),
        ("--rank=0", "rank"),
        ("--batch-sizes=31", "at most the number of samples"),
        ("--rates=-1", "learning rate must be positive"),
        ("--lengths=0", "epochs must be positive"),
    ],
)
def test_sweeps_that_cannot_be(option, said, tmp_path, capsys):
    name, values = option.split("=")
    arguments = ("sweep", *SMALL, name, *values.split(), "--out", tmp_path)
    status, out, err = ttp(*arguments, capsys=capsys)
    assert status == 2
    assert out == ""
    assert said in err.splitlines()[-1]


@pytest.mark.slow
def test_a_run_that_is_stopped_says_what_that_saved(tmp_path, capsys):
    long = [*SMALL[:-2], "--epochs=40", "--lr=0.003", "--every=2"]
    common = (*long, "--stop-elasticity=1.5", "--stop-window=3", "--out", tmp_path)
    status, out, _ = ttp("compare", *common, "--json", capsys=capsys)
    assert status == 0
    printed = json.loads(out)
    record = records.load(tmp_path / printed["record"].split("/")[-1])
    assert record.result == printed
    predicted, measured = record.curves["predicted"], record.curves["measured"]
    found = printed["stop"]
    assert predicted.budget_steps == measured.planned_steps == 240
    assert 0 < found["saved_steps"] == 240 - measured.budget_steps
    assert found["measured_steps"] == measured.budget_steps
    assert found["saved_share"] == found["saved_steps"] / 240
    per_step = measured.seconds[-1] / measured.budget_steps
    assert found["saved_seconds"] == pytest.approx(per_step * found["saved_steps"])
    assert found["loss"] == measured.loss[-1]
    rule = ElasticityRule(level=1.5, window=3)
    assert found["predicted_steps"] == stopping_step(predicted, rule)
    # both sides are read as far as the real run went
    assert {row["budget_steps"] for row in printed["thresholds"]} == {measured.budget_steps}
    assert printed["cost"]["predict_s"] > 0
    _, out, _ = ttp("compare", *common, capsys=capsys)
    line = " ".join(out.split())
    assert f"stopped at step {measured.budget_steps} of 240" in line
    assert f"predicted stop: step {found['predicted_steps']}" in line
    # of one side alone; a rule that is never met stops nothing
    _, out, _ = ttp("predict", *common, "--json", capsys=capsys)
    assert json.loads(out)["stop"]["predicted_steps"] == found["predicted_steps"]
    never = (*long, "--stop-elasticity=99", "--out", tmp_path)
    _, out, _ = ttp("finetune", *never, capsys=capsys)
    assert "not stopped in 240 steps" in out


MASKED = (*SMALL, "--method=agent", "--density=0.2", "--epochs=4", "--lr=0.003")


@pytest.mark.slow
def test_masks_and_corrections(tmp_path, capsys):
    options = ("--sparsity=rigl", "--mask-every=7", "--gamma=0.5", "--held-out=3")
    status, out, _ = ttp(
        "compare", *MASKED, *options, "--json", "--out", tmp_path, capsys=capsys
    )
    assert status == 0
    printed = json.loads(out)
    found = printed["agent"]
    assert found["steps"] == [7, 14]
    there, all_of = found["weights"]
    biases = 256 + 256 + 5
    assert there == round(0.2 * (all_of - biases)) + biases
    assert 0.1 < found["operations_share"] < 0.4
    assert found["passes"] == pytest.approx(10 / 3)
    assert found["beside"] == {"plain_": "without the correction", "dense_": "dense"}
    for entry in found["thresholds"]:
        for side in ("predicted", "measured"):
            for name in ("plain_", "dense_"):
                ratios = entry[side][name]
                if ratios is not None:
                    # 10/3 times the passes for each step
                    share = ratios["flops"] / ratios["steps"]
                    assert 0.2 < share < 0.4
    assert {(e["of"], e["samples"]) for e in found["quality"]} == {
        (of, samples)
        for of in ("", "plain_", "dense_")
        for samples in ("trained", "held_out")
    }
    folder = tmp_path / printed["record"].split("/")[-1]
    record = records.load(folder)
    assert set(record.curves) == {
        f"{run}{side}"
        for run in ("", "plain_", "dense_")
        for side in ("predicted", "measured")
    }
    for side in ("predicted", "measured"):
        assert len(record.arrays[f"{side}_coefficient"]) == 4
    np.testing.assert_allclose(
        record.arrays["predicted_coefficient"][0], record.arrays["measured_coefficient"][0],
        rtol=1e-4,
    )  # fmt: skip
    assert (folder / "curves.png").stat().st_size > 5000
    _, out, _ = ttp("compare", *MASKED, *options, "--out", tmp_path, capsys=capsys)
    for words in ("rigl masks", "times less than without the correction", "x theory"):
        assert words in " ".join(out.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("predict", ("--correction=none", "--sparsity=magnitude", "--spread=uniform")),
        ("finetune", ("--attack=0.1", "--attack-steps=2")),
    ],
)
def test_masks_alone_and_attacks(command, options, tmp_path, capsys):
    status, out, err = ttp(command, *MASKED, *options, "--out", tmp_path, capsys=capsys)
    assert status == 0, err
    assert "x theory" in out


@pytest.mark.slow
def test_augmented_pictures_and_batch_norm(tmp_path, capsys):
    shifted = ("--shift=2", "--flip", "--pixel-noise=2", "--views=2", "--held-out=2")
    small = ("--per-class=5", "--batch-size=5", "--epochs=2", "--every=4")
    for options, said in (
        ((*SMALL, *shifted), "2 views of each picture"),
        ((*small, "--batch-norm=train"), "BatchNorm in training mode is approximated"),
    ):
        common = (*options, "--out", tmp_path, "--json")
        status, out, _ = ttp("compare", *common, capsys=capsys)
        assert status == 0
        printed = json.loads(out)
        assert said in printed["trust"]["reason"]
        assert printed["cost"]["finetune_s"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("predict", "--shift=40"), "smaller than the picture"),
        (("predict", "--shift=-1"), "must not be negative"),
        (("predict", "--flip", "--optimizer=adam"), "got Adam"),
        (("predict", "--batch-norm=train"), "mlp has none"),
        (("sweep", "--flip"), "a sweep has no flip"),
    ],
)
def test_augmented_training_that_cannot_be(options, said, tmp_path, capsys):
    command, *rest = options
    status, out, err = ttp(command, *SMALL, *rest, "--out", tmp_path, capsys=capsys)
    assert status == 2
    assert out == ""
    assert said in err.splitlines()[-1]


@pytest.mark.slow
def test_methods_together(tmp_path, capsys):
    """Snapshots of a masked network on a frozen prefix, each method with its own result."""
    small = [option for option in SMALL if not option.startswith("--lr")]
    options = (
        *("--method=freezeout+snapshot+agent", "--t0=0.5", "--how=linear", "--no-scaled"),
        *("--cycles=3", "--density=0.5", "--sparsity=magnitude", "--lr=1e-5"),
    )
    common = (*small, *options, "--held-out=3", "--out", tmp_path)
    status, out, err = ttp("compare", *common, "--json", capsys=capsys)
    assert status == 0, err
    printed = json.loads(out)
    freezes = [group["freezes_at"] for group in printed["freezeout"]["groups"]]
    assert freezes == [9, 14, 18]
    assert printed["freezeout"]["saved"]["measured_operations"] > 0.2
    assert printed["snapshot"]["steps"] == [6, 12, 18]
    for entry in printed["snapshot"]["pairs"]:
        # at so low a rate the network is nearly linear
        assert entry["predicted_weight_distance"] == pytest.approx(
            entry["measured_weight_distance"], rel=0.05
        )
    found = printed["agent"]
    assert found["correction"] == "none"
    assert found["beside"] == {"plain_": "the plain run"}
    there, all_of = found["weights"]
    assert 0.45 < there / all_of < 0.55
    for entry in found["quality"]:
        assert entry["predicted"]["loss"] == pytest.approx(
            entry["measured"]["loss"], rel=0.06
        )
    record = records.load(tmp_path / printed["record"].split("/")[-1])
    # masked at the start already, and the plain run is not
    first = {name: curve.loss[0] for name, curve in record.curves.items()}
    assert abs(first["predicted"] - first["plain_predicted"]) > 1e-3
    assert first["measured"] == pytest.approx(first["predicted"], rel=1e-4)
    status, out, _ = ttp("compare", *common, capsys=capsys)
    for words in ("freezes at step", "3 snapshots", "magnitude masks"):
        assert words in " ".join(out.split())
