"""The command ``ttp``: predict, finetune, compare, sweep, rank."""

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import tyro
from rich.console import Console

from ttp_jax import rank_study, study, sweep_study
from ttp_jax.types import InputError


@dataclass(frozen=True)
class Output:
    """Where results go."""

    out: Path = Path("results")
    """Folder of records."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""
    force: bool = False
    """Run again although there is a record."""


@dataclass(frozen=True)
class Call:
    """What was asked for."""

    command: study.Command | Literal["sweep", "rank"]
    config: study.Config
    output: Output


def predict(
    config: tyro.conf.OmitArgPrefixes[study.Config],
    output: tyro.conf.OmitArgPrefixes[Output],
) -> Call:
    """Predict the curve and the time to thresholds, without training."""
    return Call("predict", config, output)


def finetune(
    config: tyro.conf.OmitArgPrefixes[study.Config],
    output: tyro.conf.OmitArgPrefixes[Output],
) -> Call:
    """Fine-tune for real and read the same numbers off the measured curve."""
    return Call("finetune", config, output)


def compare(
    config: tyro.conf.OmitArgPrefixes[study.Config],
    output: tyro.conf.OmitArgPrefixes[Output],
) -> Call:
    """Predict, fine-tune, and put both side by side."""
    return Call("compare", config, output)


def sweep(
    config: tyro.conf.OmitArgPrefixes[sweep_study.SweepConfig],
    output: tyro.conf.OmitArgPrefixes[Output],
) -> Call:
    """Predict thousands of settings of the optimiser and say which to choose."""
    return Call("sweep", config, output)


def rank(
    config: tyro.conf.OmitArgPrefixes[rank_study.RankConfig],
    output: tyro.conf.OmitArgPrefixes[Output],
) -> Call:
    """Rank networks, weights and learning rates on one data set, with little or no training."""
    return Call("rank", config, output)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 0 done, 2 unusable arguments or input (one line), 1 our failure."""
    kept = "no record was written"
    try:
        call = _parse(sys.argv[1:] if arguments is None else arguments)
        if call.command == "rank":
            kept = "candidates that were finished are kept, and read by the next call"
        _execute(call)
    except InputError as error:
        print(f"ttp: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ttp: stopped; {kept}", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: list[str]) -> Call:
    """Arguments to a call; the parser's framed message becomes one line."""
    commands = {
        "predict": predict,
        "finetune": finetune,
        "compare": compare,
        "sweep": sweep,
        "rank": rank,
    }
    framed = io.StringIO()
    try:
        with contextlib.redirect_stderr(framed):
            return tyro.extras.subcommand_cli_from_dict(
                commands, prog="ttp", description=__doc__, args=arguments
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        rows = [row.strip("│ \n") for row in framed.getvalue().splitlines()]
        rows = [row for row in rows if row and not row.startswith("╭")]
        end = next(
            (k for k, row in enumerate(rows) if row.startswith(("─", "╰"))), len(rows)
        )
        raise InputError(
            f"{' '.join(rows[:end])} (ttp --help lists what there is)"
        ) from None


def _execute(call: Call) -> None:
    options: dict[str, Any] = {"out": call.output.out, "force": call.output.force}
    config = call.config
    if isinstance(config, sweep_study.SweepConfig):
        record, folder = sweep_study.run(config, **options)
    elif isinstance(config, rank_study.RankConfig):
        record, folder = rank_study.run(config, **options)
    else:
        assert call.command in get_args(study.Command)
        record, folder = study.run(cast(study.Command, call.command), config, **options)
    # After the work: they take long to load.
    from ttp_jax.report import figure, heat_map, rank_figure, rank_table, table

    name, draw, show = {
        "sweep": ("heat_map", heat_map.draw, table.show_sweep),
        "rank": ("ranking", rank_figure.draw, rank_table.show),
    }.get(call.command, ("curves", figure.draw, table.show))
    picture = folder / f"{name}.png"
    if call.output.force or not picture.exists():
        draw(record, picture)
    if call.output.json:
        print(json.dumps(record.result))
        return
    console = Console()
    show(record, console)
    console.print(f"picture: {picture}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
