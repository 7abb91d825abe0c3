"""What the documents say holds: links lead somewhere, commands are taken, examples run."""

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import ttp_jax as ttp
from tests import linear
from ttp_jax import cli
from ttp_jax.config import Config
from ttp_jax.rank_study import RankConfig
from ttp_jax.sweep_study import SweepConfig

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OTHER_OPTIONS = {
    # Of the command line itself, experiments, the benchmark and scripts.
    "--help", "--json", "--force", "--out", "--no-scaled", "--data", "--minutes",
    "--products-n", "--case", "--repeats", "--no-memory", "--half",
}  # fmt: skip

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    return [text for lang, text in FENCED.findall(page.read_text()) if lang == language]


def commands(page: Path) -> list[str]:
    """Lines of its plain blocks, continued ones joined, without their comments."""
    joined = "\n".join(blocks(page, "")).replace("\\\n", " ")
    return [line.split("  #")[0].split("    #")[0].strip() for line in joined.splitlines()]


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pages
def test_links_and_figures_lead_somewhere(page):
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@pages
def test_commands_are_taken(page):
    for line in commands(page):
        words = shlex.split(line.split("&&")[-1].split(";")[0])
        if words[:1] != ["ttp"] or "--help" in words:
            continue
        cli._parse(words[1:])


@pages
def test_options_exist(page):
    known = {
        f"--{name.replace('_', '-')}"
        for config in (Config, SweepConfig, RankConfig)
        for name in config.__dataclass_fields__
    }
    named = set(re.findall(r"`[^`\n]*?(--[a-z][a-z0-9-]*)", page.read_text()))
    assert named <= known | OTHER_OPTIONS, named - known - OTHER_OPTIONS


@pages
def test_modules_and_files_exist(page):
    text = page.read_text()
    for name, preset in re.findall(r"-m experiments\.([a-z]\w*) (\w+)", text):
        experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
        assert preset in {*experiment.presets, "table"}, (name, preset)
    for name in re.findall(r"`experiments\.(\w+)`", text):
        importlib.import_module(f"experiments.{name}")
    for path in re.findall(r"`((?:ttp_jax|tests|experiments|scripts)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(ttp_jax(?:\.\w+)+)`", text):
        resolve(name)


def resolve(name: str) -> object:
    """A dotted name: modules as far as there are, then attributes."""
    parts = name.split(".")
    found: object = importlib.import_module(parts[0])
    for k, part in enumerate(parts[1:], start=2):
        try:
            found = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            found = getattr(found, part)
    return found


@pytest.mark.slow
@pages
def test_examples_run(page, tmp_path, monkeypatch):
    """Each by itself on a small task that is linear in its parameters, with fewer steps."""
    monkeypatch.chdir(tmp_path)
    losses = 1 / np.arange(1.0, 481.0)
    rows = [f"{step},{loss}" for step, loss in enumerate(losses, start=1)]
    Path("log.csv").write_text("\n".join(["step,loss", *rows]))
    task = linear.task("cross_entropy", n=50)
    held_x, held_y = np.asarray(task.x[:6]), task.y[:6]
    names = {
        "ttp": ttp, "task": task, "f": task.apply_fn, "params": task.params, "x": task.x,
        "y": task.y, "held_x": held_x, "held_y": held_y,
        "sgd": ttp.SGD(0.01, momentum=0.9, batch_size=10),
    }  # fmt: skip
    for text in blocks(page, "python"):
        shorter = re.sub(r"\b1000\b", "80", text)
        exec(compile(shorter, page.name, "exec"), dict(names))
