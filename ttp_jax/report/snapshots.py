"""The tables of a snapshot ensemble: what it is worth, and how far apart its members are."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from ttp_jax.records import Record

_SAMPLES = {"trained": "training", "held_out": "held out"}
_OF = {"ensemble": "ensemble", "last snapshot": "last one", "plain": "plain run"}
_SHOWN = 6
"""Pairs that are listed; of more, neighbours and the ends alone."""


def tables(record: Record) -> list[Table]:
    """Quality beside the plain run, distances, and steps saved."""
    found = record.result["snapshot"]
    sides = [side for side in ("predicted", "measured") if side in record.curves]
    made = [_quality(found, sides), _faster(found, sides)]
    return [*made, _pairs(found, sides)] if found["pairs"] else made


def _quality(found: dict[str, Any], sides: Sequence[str]) -> Table:
    table = Table(
        title=f"{found['cycles']} snapshots, alpha0 {found['alpha0']:g}, the last "
        f"{found['last']} averaged ({' / '.join(sides)})",
        min_width=76,
    )
    table.add_column("")
    for name in ("loss", "accuracy", "calibrated"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in found["quality"]:
        names = ("loss", "accuracy", "calibrated")
        cells = [_cell(entry, name, sides) for name in names]
        table.add_row(f"{_OF[entry['of']]}, {_SAMPLES[entry['samples']]}", *cells)
    return table


def _faster(found: dict[str, Any], sides: Sequence[str]) -> Table:
    table = Table(title=f"times faster than the plain run ({' / '.join(sides)})")
    table.add_column("threshold")
    table.add_column("steps of it over those of snapshots", justify="right")
    for entry in found["speed_up"]:
        of = " of its start" if entry["rule"] == "fraction_of_initial" else ""
        cell = " / ".join(_number(entry[side]) for side in sides)
        table.add_row(f"loss <= {entry['epsilon']:g}{of}", cell)
    return table


def _pairs(found: dict[str, Any], sides: Sequence[str]) -> Table:
    samples = found["pairs"][-1]["samples"]
    pairs = [entry for entry in found["pairs"] if entry["samples"] == samples]
    if len(pairs) > _SHOWN:
        ends = (1, found["cycles"])
        pairs = [
            entry
            for entry in pairs
            if entry["second"] == entry["first"] + 1
            or (entry["first"], entry["second"]) == ends
        ]
    table = Table(
        title=f"how far apart, {_SAMPLES[samples]} pictures ({' / '.join(sides)})"
    )
    table.add_column("pair")
    read = {
        "outputs": "output_distance",
        "weights": "weight_distance",
        "disagree": "disagreement",
        "barrier": "barrier",
    }
    for name in read:
        table.add_column(name, justify="right", no_wrap=True)
    for entry in pairs:
        cells = [_cell(entry, name, sides) for name in read.values()]
        table.add_row(f"{entry['first']}-{entry['second']}", *cells)
    return table


def _cell(entry: dict[str, Any], name: str, sides: Sequence[str]) -> str:
    return " / ".join(_number(entry[f"{side}_{name}"]) for side in sides)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
