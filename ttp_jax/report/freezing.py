"""The tables of FreezeOut: when what freezes, what that saves, and what it costs in quality."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from ttp_jax.records import Record

_SAMPLES = {"trained": "training", "held_out": "held out"}
_OF = {"freezeout": "FreezeOut", "plain": "plain run"}
_SHOWN = 8
"""Groups that are listed; of more, the first and the last."""


def tables(record: Record) -> list[Table]:
    """Stages, cost and quality beside the plain run, and speed-up."""
    found = record.result["freezeout"]
    sides = [side for side in ("predicted", "measured") if side in record.curves]
    return [_groups(found), _quality(found, sides), _faster(found, sides)]


def _groups(found: dict[str, Any]) -> Table:
    chosen = " (chosen)" if found["chosen"] else ""
    table = Table(
        title=f"FreezeOut, t0 {found['t0']:g}{chosen}, {found['how']}, "
        f"{'scaled' if found['scaled'] else 'unscaled'}",
        min_width=60,
    )
    table.add_column("group")
    for name in ("tensors", "freezes at step", "highest rate"):
        table.add_column(name, justify="right")
    if found["floors"]:
        table.add_column("loss cannot get below", justify="right")
    floors = {entry["step"]: entry["loss"] for entry in found["floors"]}
    groups = found["groups"]
    shown = groups
    if len(groups) > _SHOWN:
        shown = [*groups[: _SHOWN // 2], None, *groups[-_SHOWN // 2 :]]
    for group in shown:
        if group is None:
            table.add_row("...")
            continue
        cells = [
            group["name"],
            str(len(group["tensors"])),
            str(group["freezes_at"]),
            f"{group['highest_rate']:.3g}",
        ]
        if floors:
            cells.append(_number(floors.get(group["freezes_at"])))
        table.add_row(*cells)
    return table


def _quality(found: dict[str, Any], sides: Sequence[str]) -> Table:
    both = " / ".join(sides)
    table = Table(title=f"at the end ({both})", min_width=60)
    table.add_column("")
    for name in ("loss", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in found["quality"]:
        cells = [
            " / ".join(_number(entry[f"{side}_{name}"]) for side in sides)
            for name in ("loss", "accuracy")
        ]
        table.add_row(f"{_OF[entry['of']]}, {_SAMPLES[entry['samples']]}", *cells)
    saved = found["saved"]
    for of in ("operations", "seconds"):
        values = [saved[f"{side}_{of}"] for side in sides]
        cell = " / ".join("-" if v is None else f"{v:.0%}" for v in values)
        table.add_row(f"{of} saved in all", cell, "")
    return table


def _faster(found: dict[str, Any], sides: Sequence[str]) -> Table:
    table = Table(title=f"times faster than the plain run ({' / '.join(sides)})")
    table.add_column("threshold")
    for name in ("steps", "operations", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in found["speed_up"]:
        of = " of its start" if entry["rule"] == "fraction_of_initial" else ""
        cells = [
            " / ".join(_number(entry[f"{side}{cost}"]) for side in sides)
            for cost in ("", "_operations", "_seconds")
        ]
        table.add_row(f"loss <= {entry['epsilon']:g}{of}", *cells)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
