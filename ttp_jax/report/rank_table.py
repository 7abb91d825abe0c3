"""The tables of a ranking: the candidates, and the rankings."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ttp_jax.records import Record

_SHOWN = {
    "predicted_loss": ("loss", "loss"),
    "predicted_held_out_loss": ("held-out loss", "held_out_loss"),
    "predicted_held_out_accuracy": ("accuracy", "held_out_accuracy"),
    "predicted_time": ("steps", None),
}
"""Scores that are numbers of the run itself; what they are called, and the real ones."""
OUTCOMES = {
    "loss": "training loss",
    "held_out_loss": "held-out loss",
    "held_out_accuracy": "held-out accuracy",
}


def show(record: Record, console: Console) -> None:
    """Print candidates by place, and what each ranking costs and is worth."""
    console.print(render(record))


def render(record: Record) -> Group:
    """Candidates by place with their trust; rankings; what failed."""
    result = record.result
    lines = []
    cost = result["cost"]
    trained = "" if cost["train_s"] is None else f", real training {cost['train_s']:.1f} s"
    lines.append(f"all predictions {cost['predict_s']:.1f} s{trained}")
    doubted = [row for row in result["candidates"] if not row["trust"]["ok"]]
    if doubted:
        lines.append(
            f"WARNING, {len(doubted)} of {len(result['candidates'])} predictions are not to "
            "be trusted (NO above); their places are those of their predictions all the same"
        )
    for failed in result["failed"]:
        lines.append(f"FAILED, left out: {failed['name']}: {failed['reason']}")
    lines.append(f"record: {result['record']}")
    return Group(_candidates(record), _rankings(result), *(Text(line) for line in lines))


def _candidates(record: Record) -> Table:
    result = record.result
    by = next(row["title"] for row in result["rankings"] if row["key"] == result["by"])
    rows = sorted(result["candidates"], key=lambda row: row["place"])
    title = f"{len(rows)} candidates on {record.config['data']} by {by}"
    trained = all(row["outcomes"] for row in rows)
    if trained:
        title += " (predicted, real)"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("candidate")
    table.add_column("trust")
    shown = {key: of for key, of in _SHOWN.items() if key in rows[0]["scores"]}
    for name, _ in shown.values():
        table.add_column(name, justify="right")
    for row in rows:
        cells = []
        for key, (_, real) in shown.items():
            value = row["scores"][key]
            if key == "predicted_time":
                cells.append(f"> {row['steps']}" if value is None else f"{value:.0f}")
                continue
            cells.append(_number(value))
            if trained and real is not None:
                cells[-1] += f", {_number(row['outcomes'][real])}"
        trust = "yes" if row["trust"]["ok"] else "NO"
        table.add_row(str(row["place"]), row["name"], trust, *cells)
    return table


def _number(value: float | None) -> str:
    return "diverges" if value is None else f"{value:.2g}"


def _rankings(result: Mapping[str, Any]) -> Table:
    """What each costs; how good it is, or else which candidate it puts first."""
    measured = list(result["rankings"][0]["quality"] or {})
    title = "rankings"
    if measured:
        title += ": Spearman's correlation with how the runs really ended"
    # Narrow: seven columns are to fit a terminal.
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("by")
    table.add_column("cost,\nsteps", justify="right")
    table.add_column("of\ntraining", justify="right")
    for outcome in measured:
        table.add_column(OUTCOMES[outcome].replace(" ", "\n"), justify="right")
    if measured:
        table.add_column("its first\nbeaten by", justify="right")
    else:
        table.add_column("first choice")
    names = [row["name"] for row in result["candidates"]]
    for row in result["rankings"]:
        cells = [row["title"], f"{row['cost_steps']:.1f}", f"{row['cost_share']:.1%}"]
        for outcome in measured:
            value = row["quality"][outcome]["spearman"][0]
            cells.append("equal" if value is None else f"{value:.2f}")
        if measured:
            # Of the last outcome: accuracy where pictures were held out.
            beaten = row["quality"][measured[-1]]["beaten_by"][0]
            cells.append("-" if beaten is None else f"{beaten:.0%}")
        else:
            places = np.array(row["places"])
            first = np.flatnonzero(places == places.min())
            cells.append(
                names[first[0]]
                if len(first) == 1
                else f"{len(first)} of {len(names)} are equal"
            )
        table.add_row(*cells)
    return table
