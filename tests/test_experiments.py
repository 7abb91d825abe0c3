"""Experiments: smoke presets run, and committed figures come from committed records."""

import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments import ranking, scatter
from scripts.plot import all_experiments
from tests.conftest import ROOT
from ttp_jax import records
from ttp_jax.kernel.choice import Kernel
from ttp_jax.types import InputError

EXPERIMENTS = {experiment.name: experiment for experiment in all_experiments()}
OWN = [e.name for e in EXPERIMENTS.values() if e.records_of is None]


def drawn(experiment, out) -> tuple[str, list]:
    text = experiment.redraw(out)
    folder = out / experiment.name
    assert (folder / "README.md").read_text() == text
    figures = sorted(folder.glob("*.png"))
    assert figures
    for file in figures:
        assert file.stat().st_size > 5000
        assert file.with_suffix(".pdf").stat().st_size > 2000
    return text, figures


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_smoke(name, tmp_path):
    command = [sys.executable, "-m", f"experiments.{name}", "smoke", "--out", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    made = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/*/record.json")}
    assert made
    assert all(file.stat().st_size < 200_000 for file in tmp_path.glob("*/*/*"))
    text, _ = drawn(EXPERIMENTS[name], tmp_path)
    assert "\n| --- |" in text
    for other in EXPERIMENTS.values():
        if other.records_of == name:
            drawn(other, tmp_path)
    # What is there is not made again.
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert made == {f: f.stat().st_mtime_ns for f in tmp_path.glob("*/*/record.json")}


def committed(experiment):
    """The folder of its records."""
    folder = experiment.records_in(ROOT / "results")
    if not any(folder.glob("*/record.json")):
        pytest.skip(f"no records in {folder}")
    return folder


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_committed_tables_and_figures_are_those_of_committed_records(name):
    committed(EXPERIMENTS[name])
    text, figures = EXPERIMENTS[name].drawing(ROOT / "results")
    there = ROOT / "results" / name
    assert (there / "README.md").read_text() == text
    for kind in ("png", "pdf"):
        assert set(figures) == {file.stem for file in there.glob(f"*.{kind}")}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_committed_figures_can_be_drawn_again(name, tmp_path):
    """Nearly all of the time that a figure takes goes into its two files."""
    folder = committed(EXPERIMENTS[name])
    shutil.copytree(folder, tmp_path / folder.name)
    drawn(EXPERIMENTS[name], tmp_path)


def test_committed_results_stay_small():
    files = [file for file in (ROOT / "results").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 30e6
    for file in files:
        if file.name in ("record.json", "curves.npz"):
            assert file.stat().st_size <= 200_000, file


@pytest.mark.slow
def test_the_next_optimiser_of_a_task_computes_no_kernel(tmp_path, monkeypatch):
    """However many kernels a task of the scatter has."""
    computed = []
    original = Kernel.compute

    def counted(self, *args, **options):
        computed.append(self)
        return original(self, *args, **options)

    monkeypatch.setattr(Kernel, "compute", counted)
    first = dataclasses.replace(scatter.COMMON, per_class=20, batch_size=10, epochs=1)
    scatter.run(first, tmp_path)
    assert len(computed) > 4
    computed.clear()
    scatter.run(dataclasses.replace(first, lr=3e-4), tmp_path)
    assert computed == []


def test_a_task_that_cannot_be_had_does_not_cost_the_others(tmp_path):
    from experiments.harness import Experiment

    ran = []

    def run(config, out):
        if config == "bad":
            raise InputError("no such pictures")
        ran.append(config)

    experiment = Experiment(
        "x", {"smoke": lambda data: ["a", "bad", "b"]}, run, lambda found: ("", {})
    )
    failed = experiment.make("smoke", data=tmp_path, out=tmp_path, minutes=1)
    assert ran == ["a", "b"]
    assert failed == ["bad: no such pictures"]
    with pytest.raises(InputError, match="no records in"):
        experiment.redraw(tmp_path)
    stopped = experiment.make("smoke", data=tmp_path, out=tmp_path, minutes=-1)
    assert "3 of 3 left" in stopped[0]


def test_a_wrong_preset_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.scatter", "nope", "--out", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: preset must be one of smoke, embedded, paper, accelerator, table, "
        "got 'nope'\n"
    )
    assert records.finished(tmp_path, "x") is False


def test_rankings_are_averaged_over_tasks():
    """One task in order, one in the other order, one in which nothing differs."""
    rising = np.arange(5.0)
    tasks = [("a", 0), ("b", 0), ("c", 0)]
    outcomes = dict(zip(tasks, (rising, -rising, np.zeros(5)), strict=True))
    same = ranking.measured("spearman", dict.fromkeys(tasks, rising), outcomes)
    assert same.value == pytest.approx(0)
    first = {tasks[0]: rising}
    one = ranking.measured("spearman", first, outcomes)
    assert (one.value, one.interval.low, one.interval.high) == pytest.approx((1, 1, 1))
    # paired: of the same ranking there is no difference in any resample
    noisy = {tasks[0]: np.array([1.0, 0, 2, 4, 3])}
    other = ranking.measured("spearman", noisy, outcomes)
    assert not (other - other).resampled.any()
    gap = one - other
    assert gap.value == pytest.approx(0.2)
    assert gap.interval.low >= 0


def test_candidates_of_the_ranking_are_many_and_a_seed_starts_with_cheap_ones(tmp_path):
    asked = ranking.paper(tmp_path)
    tasks = {(c.config.data, c.config.seed) for c in asked}
    assert len(tasks) == 12
    assert len(asked) == 12 * 33
    assert len({(c.config.data, c.config.seed, c.name) for c in asked}) == len(asked)
    for seed in range(3):
        of_seed = [c for c in asked if c.config.seed == seed]
        assert asked[seed * len(of_seed)] is of_seed[0]
        cheap = of_seed[: 4 * 11]
        assert {c.config.model for c in cheap} == {"embedded", "mlp"}
        assert {c.config.data for c in cheap} == {data for data, _ in tasks}
