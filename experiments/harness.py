"""What all experiments do alike: make the records that are missing, then draw from records.

``python -m experiments.NAME smoke`` runs in about a minute with what comes with the package;
``table`` makes tables and figures again from the records that are there; the other presets
are an experiment's own. A run that is stopped goes on where it was when it is started again.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ttp_jax import records, study
from ttp_jax.records import Record
from ttp_jax.types import Curve, InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path("results")
Drawing = tuple[str, Mapping[str, "Figure"]]
"""A text in Markdown, and figures by name."""


@dataclass(frozen=True)
class Experiment:
    """One figure or table.

    Args:
        name: Of its folder under ``results/``.
        presets: By name, from the folder of data to the configurations to run.
        run: Makes the records of one configuration in a folder, those that are missing.
        draw: Tables and figures from all records of the folder.
        records_of: Name of the experiment whose records it draws, where not its own.
    """

    name: str
    presets: Mapping[str, Callable[[Path], Sequence[Any]]]
    run: Callable[[Any, Path], None]
    draw: Callable[[Sequence[Record]], Drawing]
    records_of: str | None = None

    def make(self, preset: str, *, data: Path, out: Path, minutes: float) -> list[str]:
        """Run what is missing; returns what could not be run, a line each."""
        folder = self.records_in(out)
        folder.mkdir(parents=True, exist_ok=True)
        configs = self.presets[preset](data)
        failed = []
        start = time.monotonic()
        for k, config in enumerate(configs):
            if time.monotonic() - start > 60 * minutes:
                failed.append(
                    f"stopped after {minutes:g} minutes, {len(configs) - k} of "
                    f"{len(configs)} left; start it again to go on"
                )
                break
            print(f"{self.name}: {k + 1} of {len(configs)}", file=sys.stderr)
            try:
                self.run(config, folder)
            except InputError as error:
                # One task that cannot be had must not cost the others.
                failed.append(f"{config}: {error}")
        return failed

    def drawn_as(
        self, name: str, draw: Callable[[Sequence[Record]], Drawing]
    ) -> "Experiment":
        """Another figure from the same records."""
        return dataclasses.replace(self, name=name, draw=draw, records_of=self.name)

    def records_in(self, out: Path) -> Path:
        """The folder of records under ``results/`` or another folder like it."""
        return out / (self.records_of or self.name)

    def drawing(self, out: Path) -> Drawing:
        """Tables and figures from the records alone.

        Raises:
            InputError: There are no records.
        """
        folder = self.records_in(out)
        found = [records.load(file.parent) for file in sorted(folder.glob("*/record.json"))]
        if not found:
            raise InputError(f"no records in {folder}; run another preset first")
        return self.draw(found)

    def redraw(self, out: Path) -> str:
        """Write what :meth:`drawing` gives; returns the tables.

        Raises:
            InputError: There are no records.
        """
        text, figures = self.drawing(out)
        own = out / self.name
        own.mkdir(parents=True, exist_ok=True)
        (own / "README.md").write_text(text)
        for name, figure in figures.items():
            figure.savefig(own / f"{name}.png", dpi=130, metadata={"Software": None})
            # Without the date the same records give the same file.
            figure.savefig(own / f"{name}.pdf", metadata={"CreationDate": None})
        return text


@dataclass(frozen=True)
class _Arguments:
    preset: tyro.conf.Positional[str]
    """What to run: see above; table: nothing, draw the records there are."""
    data: Path = Path("data")
    """Folder with weights/ and datasets/."""
    out: Path = RESULTS
    """Folder that holds a folder of records for each experiment."""
    minutes: float = float("inf")
    """Start no further run after so many minutes."""


def main(experiment: Experiment, description: str | None) -> None:
    """The command line of an experiment."""
    arguments = tyro.cli(_Arguments, description=description)
    choices = (*experiment.presets, "table")
    try:
        if arguments.preset not in choices:
            raise InputError(
                f"preset must be one of {', '.join(choices)}, got {arguments.preset!r}"
            )
        records.require_writable(arguments.out)
        failed = []
        if arguments.preset != "table":
            failed = experiment.make(
                arguments.preset,
                data=arguments.data,
                out=arguments.out,
                minutes=arguments.minutes,
            )
        for line in failed:
            print(f"not run: {line}", file=sys.stderr)
        print(experiment.redraw(arguments.out))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if failed:
        raise SystemExit(1)


def config_of(record: Record) -> dict[str, Any]:
    """Configuration of a study; an option newer than the record as it was before."""
    return {**study.before(study.Config()), **record.config}


def by_task(
    found: Sequence[Record],
    varied: Iterable[str],
    name: Callable[[Mapping[str, Any]], Any],
) -> list[dict[Any, Record]]:
    """Records whose configurations differ in the options ``varied`` alone, together.

    Args:
        found: Records of studies.
        varied: Options in which records of one task differ.
        name: From a configuration to what its record is called among those of its task.
    """
    tasks: dict[str, dict[Any, Record]] = {}
    for record in found:
        config = config_of(record)
        same = {**config, **dict.fromkeys(varied)}
        tasks.setdefault(repr(sorted(same.items())), {})[name(config)] = record
    return list(tasks.values())


@dataclass(frozen=True)
class Made:
    """What a run that is no study leaves for its record."""

    result: Mapping[str, Any]
    provenance: Mapping[str, Any]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    """To be kept with the configuration, but not naming the run."""


def once(kind: str, config: Any, out: Path, make: Callable[[], Made]) -> None:
    """Keep what ``make`` gives as the record of a configuration, unless there is one."""
    described = dataclasses.asdict(config)
    run_id = records.run_id(kind, naming(config), {})
    if records.finished(out, run_id):
        return
    made = make()
    record = Record(
        run_id=run_id,
        config={**described, **made.config},
        result=made.result,
        provenance={**made.provenance, **records.environment()},
        curves=made.curves,
    )
    records.write(out, record)


def naming(config: Any) -> dict[str, Any]:
    """What names a run; of a study in it the options that name that."""
    found = dataclasses.asdict(config)
    for name in found:
        of = getattr(config, name)
        if isinstance(of, study.Config):
            found[name] = study.named(of)
    return found


_KERNELS = study.Kernels(kept=10)
"""More than one task has in any experiment that goes on to its next optimiser: with fewer the
kernel that is needed next would be the one just gone."""


def studied(
    command: study.Command, config: study.Config, out: Path, *, pictures: bool = True
) -> tuple[Record, Path]:
    """``study.run``, where runs that differ in the optimiser alone share their kernel.

    Its seconds stand in the record of each as if it had been computed there.
    """
    return study.run(command, config, out=out, kernels=_KERNELS, pictures=pictures)


def percent(value: float) -> str:
    """``-`` where there is none, ``never`` for an infinite error."""
    return "-" if math.isnan(value) else "never" if math.isinf(value) else f"{value:.0%}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **shared: Any):
    """A figure and its axes ``[rows, columns]``, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(which="both", labelsize=8)
    return figure, axes


COLOURS = (
    "#1d3557",
    "#d1495b",
    "#2a9d8f",
    "#e09f3e",
    "#7b2cbf",
    "#8d99ae",
    "#b08968",
    "#3a86ff",
    "#606c38",
)
