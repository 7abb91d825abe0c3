"""Experiments: their smoke presets run, and their tables and figures come from records."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_real_networks_smoke(tmp_path):
    command = [
        sys.executable,
        "experiments/real_networks.py",
        "smoke",
        "--out",
        str(tmp_path),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    table = (tmp_path / "README.md").read_text()
    assert table.count("| embedded |") == 2
    assert (tmp_path / "real_networks.png").stat().st_size > 5000
    # again from the records alone
    (tmp_path / "README.md").unlink()
    command[2] = "table"
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "README.md").read_text() == table


@pytest.mark.slow
def test_noise_of_batches_smoke(tmp_path):
    command = [
        sys.executable,
        "experiments/noise_of_batches.py",
        "smoke",
        "--out",
        tmp_path,
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    table = (tmp_path / "README.md").read_text()
    assert table.count("| mse, lr 0.0001, B 5 | shuffle |") == 7
    assert (tmp_path / "noise_of_batches.png").stat().st_size > 5000
    (tmp_path / "README.md").unlink()
    command[2] = "table"
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "README.md").read_text() == table


@pytest.mark.slow
def test_scatter_smoke(tmp_path):
    command = [sys.executable, "experiments/scatter.py", "smoke", "--out", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    table = (tmp_path / "README.md").read_text()
    assert "| GD | predicted |" in table
    assert "| SGD | last layer |" in table
    assert (tmp_path / "scatter.png").stat().st_size > 5000
    assert (tmp_path / "scatter.pdf").stat().st_size > 5000
    (tmp_path / "README.md").unlink()
    command[2] = "table"
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "README.md").read_text() == table
