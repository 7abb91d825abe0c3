"""Draw every table and figure of ``results/`` again from the records that are there.

    python scripts/plot.py [--out results]      seconds, no accelerator

Writes ``README.md`` and each figure as PNG and PDF into the folder of its experiment.
"""

import importlib
import pkgutil
import sys
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the experiments are no installed package

import experiments  # noqa: E402
from experiments.harness import Experiment  # noqa: E402


def all_experiments() -> list[Experiment]:
    """Every module of the folder that describes one."""
    names = [module.name for module in pkgutil.iter_modules(experiments.__path__)]
    modules = [importlib.import_module(f"experiments.{name}") for name in sorted(names)]
    return [module.EXPERIMENT for module in modules if hasattr(module, "EXPERIMENT")]


def main(out: Path = ROOT / "results") -> None:
    """Draw what has records; say what has none."""
    for experiment in all_experiments():
        if any(experiment.records_in(out).glob("*/record.json")):
            experiment.redraw(out)
            print(f"{experiment.name}: drawn")
        else:
            print(f"{experiment.name}: no records in {experiment.records_in(out)}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
