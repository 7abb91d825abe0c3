"""Runs that share a kernel, and what their records hold."""

import dataclasses

import numpy as np
import pytest

import ttp_jax as ttp
from ttp_jax import study
from ttp_jax.kernel.choice import Kernel
from ttp_jax.types import InputError

SMALL = study.Config(per_class=3, batch_size=5, epochs=2.0, every=2)


def quiet(config, out, kernels=None):
    record, _ = study.run(
        "predict", config, out=out, kernels=kernels, say=lambda line: None
    )
    return record.curves["predicted"]


@pytest.mark.slow
def test_a_shared_kernel_changes_nothing_and_counts_for_each(tmp_path, monkeypatch):
    computed = []
    original = Kernel.compute

    def counted(self, *args, **kwargs):
        computed.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Kernel, "compute", counted)
    kernels = study.Kernels()
    slow = quiet(SMALL, tmp_path / "shared", kernels)
    faster = dataclasses.replace(SMALL, lr=3e-4)
    fast = quiet(faster, tmp_path / "shared", kernels)
    assert len(computed) == 1
    assert fast.timings["kernel_s"] == slow.timings["kernel_s"] > 0
    alone = quiet(faster, tmp_path / "alone")
    np.testing.assert_array_equal(fast.loss, alone.loss)
    assert fast.flops == alone.flops
    # Another head, other pictures, another kernel: nothing to share.
    for change in ({"seed": 1}, {"head_scale": 1.0}, {"kernel_outputs": "trace"}):
        count = len(computed)
        quiet(dataclasses.replace(SMALL, **change), tmp_path / "shared", kernels)
        assert len(computed) == count + 1


@pytest.mark.slow
def test_options_left_alone_name_no_run(tmp_path):
    """What a run is called that no option since held-out pictures has changed."""
    once = dataclasses.replace(SMALL, mend=0)
    record, _ = study.run("predict", once, out=tmp_path, say=lambda line: None)
    assert record.run_id == "predict-7b4d0b0ef4"
    assert "held_out" not in record.result
    assert "held_out_indices" not in record.provenance["data"]


@pytest.mark.slow
def test_pictures_are_left_out_only_where_asked(tmp_path):
    small = dataclasses.replace(SMALL, mend=0)
    listed, bare = (
        study.run(
            "predict",
            small,
            out=tmp_path / str(pictures),
            pictures=pictures,
            say=lambda line: None,
        )[0]
        for pictures in (True, False)
    )
    assert len(listed.provenance["data"]["indices"]) == 15
    data = {k: v for k, v in listed.provenance["data"].items() if k != "indices"}
    assert bare.provenance["data"] == data
    assert bare.run_id == listed.run_id


def test_the_oldest_kernel_goes_first(tmp_path):
    kernels = study.Kernels(kept=1)
    built = study.build(SMALL)
    first = kernels.of(built, Kernel())
    assert kernels.of(built, Kernel()) is first
    kernels.of(built, Kernel(outputs="last_layer"))
    assert kernels.of(built, Kernel()) is not first


def test_refuses_the_kernel_of_something_else():
    built = study.build(SMALL)
    kernel = Kernel(outputs="last_layer").of(built.task)
    with pytest.raises(InputError, match="that of the weights at the start"):
        ttp.predict(built.task, built.sgd, steps=9, kernel=kernel, calibrate_steps=2)
    other = study.build(dataclasses.replace(SMALL, per_class=4))
    with pytest.raises(InputError, match=r"\[100, 100\], got \(75, 75\)"):
        ttp.predict(other.task, other.sgd, steps=9, kernel=kernel)
