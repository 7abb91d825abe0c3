"""The tables that a run prints."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ttp_jax.records import Record
from ttp_jax.report import agent, freezing, snapshots

_RULES = {
    "loss": "loss <= {:g}",
    "fraction_of_initial": "loss <= {:g} of start",
    "within_of_final": "within {:g} of end",
}


_ASKED = {
    "reference": "asked for",
    "fewest_steps": "fewest steps",
    "least_computation": "least work",
    "trusted": "trusted",
}
"""Settings of a sweep's result, and what they are called."""
_METHODS = {
    "freezeout": freezing.tables,
    "snapshot": snapshots.tables,
    "agent": agent.tables,
}
"""Tables of each method, from what it has left in the result."""


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
    entries = result["thresholds"]
    # There is none of a prediction without a score, and in records of before.
    expected = any(entry.get("predicted_steps_95") for entry in entries)
    for side in ("predicted", "measured"):
        if side in record.curves:
            table.add_column(f"{side}\nsteps", justify="right")
            if expected and side == "predicted":
                table.add_column("\n95 %", justify="right")
            table.add_column("\ns", justify="right")
    if both:
        table.add_column("error", justify="right")
    for entry in entries:
        cells = [_RULES[entry["rule"]].format(entry["epsilon"])]
        for side in ("predicted", "measured"):
            if side in record.curves:
                steps, seconds = _time(entry, side)
                cells.append(steps)
                if expected and side == "predicted":
                    cells.append(_expected(entry))
                cells.append(seconds)
        if both:
            error = entry["relative_error"]
            cells.append("-" if error is None else f"{error:.0%}")
        table.add_row(*cells)
    lines = [Text(line) for line in cost_lines(record)]
    if "stop" in result:
        lines.append(Text(stop_line(record)))
    trust = result["trust"]
    if trust is not None:
        style = "bold green" if trust["ok"] else "bold red"
        word = "trust" if trust["ok"] else "WARNING, not to be trusted"
        lines.append(Text(f"{word} (score {trust['score']:.2f}): {trust['reason']}", style))
    lines.append(Text(f"record: {result['record']}"))
    tables = [table, _held_out(record)] if "held_out" in result else [table]
    for method, tables_of in _METHODS.items():
        if method in result:
            tables += tables_of(record)
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
        return "-" if value is None else f"{value:.3g}"

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


def show_sweep(record: Record, console: Console) -> None:
    """Print what a sweep says to choose."""
    console.print(render_sweep(record))


def render_sweep(record: Record) -> Group:
    """The fastest settings; what each batch size needs; the largest stable rates."""
    result = record.result
    threshold = _RULES[result["rule"]].format(result["epsilon"])
    fastest = Table(title=f"{result['settings']:,} settings: time to {threshold}")
    columns = ("", "lr", "mu", "batch", "schedule", "steps", "s", "trust")
    for column in columns:
        fastest.add_column(column, no_wrap=True)
    for name, word in _ASKED.items():
        chosen = result[name]
        if chosen is None:
            fastest.add_row(word, "none gets there")
            continue
        steps = "never" if chosen["steps"] is None else str(chosen["steps"])
        seconds = chosen.get("predicted_seconds")
        trust = chosen.get("trust")
        fastest.add_row(
            word,
            *_setting_cells(chosen),
            steps if chosen.get("stable", True) else "unstable",
            "-" if seconds is None else f"{seconds:.1f}",
            "-" if trust is None else "yes" if trust["ok"] else "NO",
        )
    sizes = Table(title="by batch size")
    for column in ("batch", "steps", "at lr", "mu", "schedule", "lr as asked for"):
        sizes.add_column(column)
    for row in result["batch_sizes"]:
        best = row["fastest"]
        rate = row["paired_rate"]
        cells = ["never", "-", "-", "-"]
        if best is not None:
            cells = [str(best["steps"]), *(_setting_cells(best)[k] for k in (0, 1, 3))]
        sizes.add_row(
            _batch(row["batch_size"]), *cells, "-" if rate is None else f"{rate:.2e}"
        )
    rates = Table(title="largest stable learning rate")
    rates.add_column("mu")
    found = result["largest_stable_rates"]
    for size in dict.fromkeys(row["batch_size"] for row in found):
        rates.add_column("all" if size is None else f"batch {size}")
    for mu in dict.fromkeys(row["momentum"] for row in found):
        cells = [row["learning_rate"] for row in found if row["momentum"] == mu]
        rates.add_row(f"{mu:g}", *("none" if v is None else f"{v:.2e}" for v in cells))
    lines = []
    if result["useful_batch"] is not None:
        lines.append(
            f"batches beyond {result['useful_batch']} save less than a tenth of the steps"
        )
    if result["critical_batch"] is not None:
        lines.append(
            f"critical batch size {result['critical_batch']:.0f} (steps and samples are both "
            "twice their least there)"
        )
    cost = result["cost"]
    lines.append(
        f"kernel {cost['kernel_s']:.1f} s, all settings {cost['sweep_s']:.1f} s (compilation "
        f"{cost['compile_s']:.1f} s besides)"
    )
    for name, word in _ASKED.items():
        trust = result[name] and result[name].get("trust")
        if trust and not trust["ok"]:
            lines.append(f"WARNING, {word}: {trust['reason']}")
    lines.append(f"record: {result['record']}")
    return Group(fastest, sizes, rates, *(Text(line) for line in dict.fromkeys(lines)))


def _setting_cells(setting: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{setting['learning_rate']:.2e}",
        f"{setting['momentum']:g}",
        _batch(setting["batch_size"]),
        setting["schedule"],
    )


def _batch(size: int | None) -> str:
    return "all" if size is None else str(size)


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


def stop_line(record: Record) -> str:
    """Where the rule ended the run, what that saved, and where it was predicted to."""
    found = record.result["stop"]
    level, quantity = found["level"], found["quantity"]
    rule = f"one per cent more steps takes under {level:g} % off the {quantity}"
    parts = []
    if "measured" in record.curves:
        measured = record.curves["measured"]
        if measured.saved_steps:
            seconds = found["saved_seconds"]
            of_time = "" if seconds is None else f", about {seconds:.1f} s"
            parts.append(
                f"stopped at step {measured.budget_steps} of {measured.planned_steps}: "
                f"{found['saved_steps']} steps saved ({found['saved_share']:.0%}{of_time})"
            )
        else:
            parts.append(f"not stopped in {measured.budget_steps} steps")
    if "predicted" in record.curves:
        step = found["predicted_steps"]
        parts.append(f"predicted stop: {'never' if step is None else f'step {step}'}")
    return f"{', '.join(parts)} ({rule})"


def _expected(entry: dict[str, Any]) -> str:
    """Between which steps the real time is to be expected; ``> 70`` has no upper end here."""
    found = entry.get("predicted_steps_95")
    if found is None:
        return "-"
    low, high = found
    return f"> {low}" if high is None else f"{low}-{high}"


def _time(entry: dict[str, Any], side: str) -> list[str]:
    steps, seconds = entry[f"{side}_steps"], entry[f"{side}_seconds"]
    if steps is None:
        return [f"> {entry['budget_steps']}", "-"]
    return [str(steps), f"{seconds:.1f}"]
