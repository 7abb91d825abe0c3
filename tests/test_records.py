"""Records: whole or not at all, and read back as they were."""

import dataclasses
import json

import numpy as np
import pytest

from ttp_jax import records
from ttp_jax.types import Curve, InputError, Trust


def curve(value=1.0):
    return Curve(
        steps=np.arange(3),
        loss=np.array([value, np.nan, np.inf]),
        accuracy=np.array([0.0, 0.5, 1.0]),
        seconds=np.array([0.0, 0.1, 0.2]),
        trust=Trust(ok=True, score=0.9, reason="fine", stability=0.1, gap=float("inf")),
        timings={"train_s": 1.5},
        flops=3.0,
    )


def record(value=1.0):
    return records.Record(
        run_id="compare-0123456789",
        config={"lr": 0.1},
        result={"loss_initial": np.float32(value), "bad": float("nan")},
        provenance={"indices": np.arange(4)},
        curves={"predicted": curve(value)},
    )


def test_round_trip(tmp_path):
    folder = records.write(tmp_path, record())
    assert folder == tmp_path / "compare-0123456789"
    assert sorted(file.name for file in folder.iterdir()) == ["curves.npz", "record.json"]
    back = records.load(folder)
    np.testing.assert_array_equal(back.curves["predicted"].loss, curve().loss)
    assert back.curves["predicted"].trust == curve().trust
    assert back.curves["predicted"].timings == {"train_s": 1.5}
    assert back.provenance["indices"] == [0, 1, 2, 3]
    assert back.result == {"loss_initial": 1.0, "bad": None}
    text = (folder / "record.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
    assert '\n"result":{\n"loss_initial":1.0,\n"bad":null\n},\n' in text


def test_curves_are_stored_in_single_precision_and_what_is_finite_stays_so(tmp_path):
    exploded = dataclasses.replace(
        curve(),
        loss=np.array([1 / 3, 1e200, np.inf]),
        operations=np.array([0.0, 1 / 3, 1.0]),
    )
    written = dataclasses.replace(record(), curves={"predicted": exploded})
    back = records.load(records.write(tmp_path, written)).curves["predicted"]
    most = float(np.finfo(np.float32).max)
    np.testing.assert_array_equal(back.loss, [float(np.float32(1 / 3)), most, np.inf])
    assert back.loss.dtype == np.float64
    np.testing.assert_array_equal(back.operations, exploded.operations)


def test_held_out_curves_and_their_bands_round_trip(tmp_path):
    banded = dataclasses.replace(
        curve(2.0), trust=None, timings={}, flops=0.0, loss_quantiles={0.15: np.arange(3.0)}
    )
    full = dataclasses.replace(curve(), held_out=banded)
    written = dataclasses.replace(record(), curves={"predicted": full, "measured": curve()})
    back = records.load(records.write(tmp_path, written)).curves
    assert back["measured"].held_out is None
    assert back["predicted"].loss_quantiles is None
    assert back["predicted"].loss[0] == 1.0
    found = back["predicted"].held_out
    np.testing.assert_array_equal(found.loss, banded.loss)
    np.testing.assert_array_equal(found.loss_quantiles[0.15], np.arange(3.0))
    assert (found.accuracy_quantiles, found.trust, found.held_out) == (None, None, None)


def test_writing_again_replaces_and_leaves_nothing_else(tmp_path):
    records.write(tmp_path, record(1.0))
    records.write(tmp_path, record(2.0))
    assert [file.name for file in tmp_path.iterdir()] == ["compare-0123456789"]
    assert records.load(tmp_path / "compare-0123456789").curves["predicted"].loss[0] == 2.0


def test_a_failure_while_writing_leaves_the_old_record(tmp_path, monkeypatch):
    folder = records.write(tmp_path, record(1.0))

    def fail(*_, **__):
        raise RuntimeError("disk full")

    monkeypatch.setattr(records.json, "dumps", fail)
    with pytest.raises(RuntimeError):
        records.write(tmp_path, record(2.0))
    assert [file.name for file in tmp_path.iterdir()] == [folder.name]
    assert records.load(folder).curves["predicted"].loss[0] == 1.0


def test_the_name_follows_what_decides_the_outcome():
    def name(**changes):
        arguments = {"command": "compare", "config": {"lr": 0.1}, "sources": {"data": "a"}}
        return records.run_id(**{**arguments, **changes})

    assert name() == name()
    assert len({name(), name(config={"lr": 0.2}), name(sources={"data": "b"})}) == 3
    assert name().startswith("compare-")


def test_refuses(tmp_path):
    with pytest.raises(InputError, match="must hold a record"):
        records.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--out must be a folder"):
        records.require_writable(tmp_path / "file" / "below")
