import subprocess
import time

import pytest

from ttp_jax import power


@pytest.fixture
def counters(tmp_path, monkeypatch):
    """Two packages, one with a part, and a clock that moves when it is waited for."""
    start_uj = {"intel-rapl:0": 1_000_000, "intel-rapl:0:0": 5, "intel-rapl:1": 7_000_000}
    for name, value in start_uj.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds
        for name, value in {"intel-rapl:0": 31_000_000, "intel-rapl:1": 27_000_000}.items():
            (tmp_path / name / "energy_uj").write_text(f"{value}\n")

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(power.shutil, "which", lambda name: None)
    return tmp_path


def test_packages_are_summed_and_their_parts_are_not(counters):
    assert power.watts(2.0, powercap=counters) == pytest.approx((30 + 20) / 2)


def test_a_counter_that_begins_again_tells_nothing(counters):
    (counters / "intel-rapl:1" / "energy_uj").write_text("99000000\n")
    assert power.watts(2.0, powercap=counters) == pytest.approx(30 / 2)


def test_gpus_are_added(counters, monkeypatch):
    said = subprocess.CompletedProcess([], 0, stdout="250.5\n100\n")
    monkeypatch.setattr(power.shutil, "which", lambda name: name)
    monkeypatch.setattr(power.subprocess, "run", lambda *_, **__: said)
    assert power.watts(1.0, powercap=counters) == pytest.approx(30 + 20 + 350.5)


@pytest.mark.parametrize("text", ["", "[N/A]\n"])
def test_none_where_nothing_can_be_read(tmp_path, monkeypatch, text):
    said = subprocess.CompletedProcess([], 0, stdout=text)
    monkeypatch.setattr(power.shutil, "which", lambda name: name)
    monkeypatch.setattr(power.subprocess, "run", lambda *_, **__: said)
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir(parents=True)  # not to be read
    assert power.watts(0.0, powercap=tmp_path) is None
