"""The tables that a run prints."""

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ttp_jax.records import Record

_RULES = {
    "loss": "loss <= {:g}",
    "fraction_of_initial": "loss <= {:g} of its start",
    "within_of_final": "within {:g} of the end",
}


def show(record: Record, console: Console) -> None:
    """Print thresholds, cost and trust of a record."""
    console.print(render(record))


def render(record: Record) -> Group:
    """Thresholds as a table, and held-out pictures; below, the cost and whether to believe."""
    result = record.result
    both = {"predicted", "measured"} <= set(record.curves)
    table = Table(
        title=f"{record.config['model']} on {record.config['data']}: time to threshold"
    )
    table.add_column("threshold")
    for side in ("predicted", "measured"):
        if side in record.curves:
            table.add_column(f"{side}\nsteps", justify="right")
            table.add_column("\nseconds", justify="right")
    if both:
        table.add_column("error", justify="right")
    for entry in result["thresholds"]:
        cells = [_RULES[entry["rule"]].format(entry["epsilon"])]
        for side in ("predicted", "measured"):
            if side in record.curves:
                cells += _time(entry, side)
        if both:
            error = entry["relative_error"]
            cells.append("-" if error is None else f"{error:.0%}")
        table.add_row(*cells)
    lines = [Text(line) for line in cost_lines(record)]
    trust = result["trust"]
    if trust is not None:
        style = "bold green" if trust["ok"] else "bold red"
        word = "trust" if trust["ok"] else "WARNING, not to be trusted"
        lines.append(Text(f"{word} (score {trust['score']:.2f}): {trust['reason']}", style))
    lines.append(Text(f"record: {result['record']}"))
    tables = [table, _held_out(record)] if "held_out" in result else [table]
    return Group(*tables, *lines)


def _held_out(record: Record) -> Table:
    """Where the curves on pictures that are not trained on end, and where they are lowest."""
    found = record.result["held_out"]
    table = Table(title="pictures held out")
    table.add_column("")
    sides = [side for side in ("predicted", "measured") if side in record.curves]
    for side in sides:
        table.add_column(side, justify="right")

    def number(side: str, name: str) -> str:
        value = found[f"{side}_{name}"]
        return "-" if value is None else f"{value:.3f}"

    def best(side: str) -> str:
        steps = found[f"{side}_best_steps"]
        last = record.curves[side].budget_steps
        return f"still falling at {last}" if steps is None else str(steps)

    rows = {
        "loss at the end": lambda side: number(side, "loss_final"),
        "accuracy at the end": lambda side: number(side, "accuracy_final"),
        "lowest loss": lambda side: number(side, "best_loss"),
        "at step": best,
    }
    for name, cell in rows.items():
        table.add_row(name, *(cell(side) for side in sides))
    return table


def cost_lines(record: Record) -> list[str]:
    """What each side took, in words."""
    cost, curves = record.result["cost"], record.curves
    lines = []
    if "predicted" in curves:
        timings = curves["predicted"].timings
        lines.append(
            f"prediction {cost['predict_s']:.1f} s (kernel {cost['kernel_s']:.1f} s, solver "
            f"{timings['solve_s']:.2f} s; compilation {timings['compile_s']:.1f} s besides)"
        )
    if "measured" in curves:
        timings = curves["measured"].timings
        lines.append(
            f"training {cost['finetune_s']:.1f} s (reading the curve "
            f"{timings['reading_s']:.1f} s, compilation {timings['compile_s']:.1f} s besides)"
        )
    if cost["ratio"] is not None:
        lines.append(
            f"predicting was {cost['ratio']:.1f} times cheaper than training "
            f"({cost['ratio_flops']:.1f} times in operations counted)"
        )
    return lines


def _time(entry: dict[str, Any], side: str) -> list[str]:
    steps, seconds = entry[f"{side}_steps"], entry[f"{side}_seconds"]
    if steps is None:
        return [f"> {entry['budget_steps']}", "-"]
    return [str(steps), f"{seconds:.1f}"]
