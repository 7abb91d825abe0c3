"""Training logs from elsewhere as curves."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ttp_jax.types import Curve, InputError

LARGEST_STEP = 2**53
"""Up to here a number in a log is a whole one exactly."""
Row = tuple[int, Mapping[str, Any]]
"""Line in the file, counted from 1, and what is in it by name."""


def read_log(
    path: str | Path,
    *,
    step: str = "step",
    loss: str = "loss",
    accuracy: str = "accuracy",
    seconds: str = "seconds",
) -> Curve:
    """A curve from a CSV file with a header (``.csv``) or JSON lines (``.jsonl``, ``.ndjson``).

    Step ``k`` is taken for "after ``k`` updates"; with one row an epoch, the step is the epoch
    and an epoch has one step. A row without a loss, such as those that loggers write for an
    evaluation, is passed over.

    Args:
        path: The file.
        step: Name of the column with the steps: whole numbers that rise from row to row.
        loss: Of the training loss: finite.
        accuracy: Of the training accuracy; NaN where there is none.
        seconds: Of the training time since the start; NaN where there is none.

    Raises:
        InputError: Not such a file, no rows, a column that is not there, or values that are
            no curve; with the line it is on.
    """
    path = Path(path)
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}
    if path.suffix.lower() not in readers:
        raise InputError(
            f"a log must be one of {', '.join(readers)}, got {path.name!r}; rename or convert "
            "it"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(
            f"a log must be a readable text file, got {path} ({reason})"
        ) from None
    names = (step, loss, accuracy, seconds)
    rows = list(readers[path.suffix.lower()](path, text))
    if not rows:
        raise InputError(f"{path} must hold at least one row of a training log, got none")
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    missing = [name for name in (step, loss) if name not in columns]
    if missing:
        raise InputError(
            f"{path} must have the columns {step!r} and {loss!r}, got "
            f"{', '.join(map(repr, columns))}; name the right ones by step=... and loss=..."
        )
    table = np.array(
        [
            [_number(path, line, name, row.get(name)) for name in names]
            for line, row in rows
            if not _absent(row.get(loss))
        ]
    ).reshape(-1, len(names))
    lines = [line for line, row in rows if not _absent(row.get(loss))]
    if not lines:
        raise InputError(f"{path} must have a {loss} in some row, got none in {len(rows)}")
    _require_curve(path, lines, table, names)
    steps, losses, accuracies, elapsed = table.T
    return Curve(steps.astype(int), losses, accuracies, elapsed)


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        for row in reader:
            if None in row:
                raise InputError(
                    f"{path}, line {reader.line_num}: every row must have the header's "
                    f"{len(reader.fieldnames or ())} columns, got more"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: a row of CSV is expected, got {error}"
        ) from None


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {line}: a JSON object is expected, got {error}"
            ) from None
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, line {line}: a JSON object is expected, got {content.strip()[:40]}"
            )
        yield line, row


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(path: Path, line: int, name: str, value: Any) -> float:
    if _absent(value):
        return np.nan
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{path}, line {line}: {name} must be a number, got {value!r}; mend or drop the row"
        ) from None


def _require_curve(
    path: Path, lines: list[int], table: np.ndarray, names: tuple[str, ...]
) -> None:
    step, loss, _, seconds = names
    steps, losses, _, elapsed = table.T
    previous = -1.0
    for line, k, value in zip(lines, steps, losses, strict=True):
        if not (0 <= k <= LARGEST_STEP and k == round(k)):
            raise InputError(
                f"{path}, line {line}: {step} must be a whole number from 0 on, got "
                f"{'none' if np.isnan(k) else f'{k:g}'}"
            )
        if k <= previous:
            fault = "the same again" if k == previous else f"{k:.0f} after {previous:.0f}"
            raise InputError(
                f"{path}, line {line}: {step} must rise from row to row, got {fault} "
                f"({step} {k:.0f}); sort the log and keep one row a {step}"
            )
        if not np.isfinite(value):
            raise InputError(
                f"{path}, line {line}: {loss} must be finite, got {value}; end the log before "
                "the run diverges"
            )
        previous = k
    known = elapsed[~np.isnan(elapsed)]
    if not np.isfinite(known).all() or (np.diff(known) < 0).any():
        raise InputError(
            f"{path}: {seconds} must be finite and never fall, got times that do not; leave "
            "the column out or give the time since the start"
        )
