"""The tables of sparse training and corrected gradients: what they gain, and what they cost."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from ttp_jax.records import Record

_NAMES = {"": "the method", "plain_": "without the correction", "dense_": "dense"}
_SAMPLES = {"trained": "training", "held_out": "held out"}
_KINDS = {"steps": "steps", "flops": "work", "flops_in_theory": "theory", "seconds": "s"}
"""What is compared: ``theory`` counts the operations that a mask leaves, which dense programs
do not save."""


def tables(record: Record) -> list[Table]:
    """Times to thresholds beside the other runs, and what is reached at the end."""
    found = record.result["agent"]
    sides = [side for side in ("predicted", "measured") if side in record.curves]
    made = [_faster(found, sides, name, words) for name, words in found["beside"].items()]
    return [*made, _quality(found, sides)]


def title(found: dict[str, Any]) -> str:
    """What was run, in a few words."""
    words = []
    if found["sparsity"] is not None:
        there, all_of = found["weights"]
        words.append(f"{found['sparsity']} masks, {there:,} of {all_of:,} weights")
    if found["correction"] != "none":
        words.append(f"corrected ({found['correction']})")
    return ", ".join([*words, f"{found['passes']:.2g} times the passes of a plain step"])


def _faster(found: dict[str, Any], sides: Sequence[str], name: str, words: str) -> Table:
    table = Table(title=f"times less than {words} ({' / '.join(sides)})", min_width=76)
    table.add_column("loss", no_wrap=True)
    first = name == next(iter(found["beside"]))
    if first:
        table.add_column("steps", justify="right", no_wrap=True)
    kinds = dict(_KINDS)
    if name != "dense_" and found["correction"] != "none":
        del kinds["flops_in_theory"]  # of the same masks
    for kind in kinds.values():
        table.add_column(f"x {kind}", justify="right", no_wrap=True)
    for entry in found["thresholds"]:
        of = " of start" if entry["rule"] == "fraction_of_initial" else ""
        cells = []
        if first:
            steps = [entry[side]["steps"][""] for side in sides]
            cells.append(" / ".join("never" if s is None else str(s) for s in steps))
        for kind in kinds:
            ratios = [(entry[side][name] or {}).get(kind) for side in sides]
            cells.append(" / ".join(map(_number, ratios)))
        table.add_row(f"{entry['epsilon']:g}{of}", *cells)
    return table


def _quality(found: dict[str, Any], sides: Sequence[str]) -> Table:
    table = Table(title=f"{title(found)}: at the end ({' / '.join(sides)})", min_width=76)
    table.add_column("")
    for name in ("loss", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in found["quality"]:
        cells = [
            " / ".join(_number((entry[side] or {}).get(name)) for side in sides)
            for name in ("loss", "accuracy")
        ]
        of = found["beside"].get(entry["of"], _NAMES[entry["of"]])
        table.add_row(f"{of}, {_SAMPLES[entry['samples']]}", *cells)
    if found["coefficients"]:
        cells = [
            " / ".join(
                _number(found["coefficients"].get(side, [None] * 3)[at]) for side in sides
            )
            for at in (0, 2)
        ]
        table.caption = f"coefficient from {cells[0]} to {cells[1]}"
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
