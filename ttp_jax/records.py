"""One run is one folder: ``record.json`` and ``curves.npz``, written whole or not at all."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ttp_jax._version import __version__
from ttp_jax.types import Curve, InputError, Trust

SCHEMA_VERSION = 1
_VERSIONS = ("jax", "jaxlib", "flax", "optax", "neural-tangents", "numpy", "scipy")
_SERIES = ("steps", "loss", "accuracy", "seconds")
_OTHER = "other_"
_BANDS = ("loss_quantiles", "accuracy_quantiles")
_HELD_OUT = "_held_out"
"""Follows the name of a side in those of its held-out curve."""


@dataclass(frozen=True)
class Record:
    """What a run leaves behind."""

    run_id: str
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    """What the command line prints as JSON."""
    provenance: Mapping[str, Any]
    """Weights, data with the chosen indices, versions, device."""
    curves: Mapping[str, Curve]
    """``"predicted"`` and ``"measured"``, whichever the run has."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What else it found."""


def run_id(command: str, config: Mapping[str, Any], sources: Mapping[str, Any]) -> str:
    """``command-hash`` of what decides the outcome: configuration and content of the input.

    Args:
        command: ``predict``, ``finetune`` or ``compare``.
        config: Plain values, without those that are the defaults.
        sources: Checksums of weights and data, so that a changed file is another run.
    """
    text = json.dumps(
        {"schema": SCHEMA_VERSION, "config": config, "sources": sources},
        sort_keys=True,
        default=str,
    )
    return f"{command}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def environment() -> dict[str, Any]:
    """Versions and device; no host or user name."""
    device = jax.devices()[0]
    versions = {"ttp_jax": __version__}
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": {
            "kind": device.device_kind,
            "platform": device.platform,
            "count": jax.device_count(),
            "cpu_cores": os.cpu_count(),
        },
    }


def require_writable(out: Path) -> None:
    """Refuse, before anything has been computed, a folder that cannot be written to.

    Raises:
        InputError: It cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise InputError(
            f"--out must be a folder that can be written, got {out} "
            f"({error.strerror}); choose another"
        ) from None


def write(out: Path, record: Record) -> Path:
    """Write the record's folder under ``out`` and return it; an old one is replaced.

    Everything goes into a hidden folder beside it first, so that whoever reads sees the
    old record, or the new one, or none.
    """
    final = out / record.run_id
    draft = Path(tempfile.mkdtemp(dir=out, prefix=f".{record.run_id}-"))
    try:
        arrays = {}
        for side, curve in record.curves.items():
            arrays |= _series(side, curve)
            if curve.held_out is not None:
                arrays |= _series(side + _HELD_OUT, curve.held_out)
        arrays |= {f"{_OTHER}{name}": values for name, values in record.arrays.items()}
        np.savez_compressed(draft / "curves.npz", **arrays)
        content = {
            "schema_version": SCHEMA_VERSION,
            "run_id": record.run_id,
            "config": record.config,
            "result": record.result,
            "curves": {side: _about(curve) for side, curve in record.curves.items()},
            "provenance": record.provenance,
        }
        (draft / "record.json").write_text(_text(_plain(content)))
        draft.chmod(0o755)
        if final.exists():
            old = Path(tempfile.mkdtemp(dir=out, prefix=f".{record.run_id}-old-"))
            os.replace(final, old / "record")
            os.replace(draft, final)
            shutil.rmtree(old)
        else:
            os.replace(draft, final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return final


def load(folder: Path) -> Record:
    """Read a record back.

    Raises:
        InputError: No record there, or one of another schema.
    """
    try:
        content = json.loads((folder / "record.json").read_text())
        with np.load(folder / "curves.npz", allow_pickle=False) as arrays:
            series = dict(arrays)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} must hold a record, got {error}; run it again"
        ) from None
    if content.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{folder} must hold a record of schema {SCHEMA_VERSION}, got "
            f"{content.get('schema_version')}; run it again with --force"
        )
    curves = {
        side: _curve(series, side, about) for side, about in content["curves"].items()
    }
    return Record(
        run_id=content["run_id"],
        config=content["config"],
        result=content["result"],
        provenance=content["provenance"],
        curves=curves,
        arrays={
            name.removeprefix(_OTHER): values
            for name, values in series.items()
            if name.startswith(_OTHER)
        },
    )


def _series(name: str, curve: Curve) -> dict[str, np.ndarray]:
    """The arrays of a curve as they are stored.

    What was read in single precision, as training is; operations, which are counted, exactly.
    """
    bands = {
        f"{name}_{kind}_{level:g}": values
        for kind in _BANDS
        for level, values in (getattr(curve, kind) or {}).items()
    }
    read = {f"{name}_{kind}": getattr(curve, kind) for kind in _SERIES} | bands
    stored = {key: _single(np.asarray(values)) for key, values in read.items()}
    if curve.operations is not None:
        stored[f"{name}_operations"] = curve.operations
    return stored


def _single(values: np.ndarray) -> np.ndarray:
    """Half the room; what is finite stays so."""
    if values.dtype != np.float64:
        return values
    most = np.finfo(np.float32).max
    clipped = np.where(np.isinf(values), values, np.clip(values, -most, most))
    return clipped.astype(np.float32)


def _double(values: np.ndarray) -> np.ndarray:
    """To reckon with."""
    return values.astype(np.float64) if values.dtype == np.float32 else values


def _curve(series: Mapping[str, np.ndarray], name: str, about: Mapping[str, Any]) -> Curve:
    """A curve from what :func:`_series` and :func:`_about` made of it."""
    held_out = name + _HELD_OUT
    there = f"{held_out}_{_SERIES[0]}" in series
    return Curve(
        *(_double(series[f"{name}_{kind}"]) for kind in _SERIES),
        loss_quantiles=_levels(series, f"{name}_loss_quantiles_"),
        accuracy_quantiles=_levels(series, f"{name}_accuracy_quantiles_"),
        trust=_trust(about.get("trust")),
        timings=about.get("timings", {}),
        flops=about.get("flops", 0.0),
        operations=series.get(f"{name}_operations"),
        planned_steps=about.get("planned_steps"),
        held_out=_curve(series, held_out, {}) if there else None,
    )


def _levels(series: Mapping[str, np.ndarray], prefix: str) -> dict | None:
    found = {
        float(name.removeprefix(prefix)): _double(values)
        for name, values in series.items()
        if name.startswith(prefix)
    }
    return found or None


def _trust(about: Mapping[str, Any] | None) -> Trust | None:
    """What was not finite was written as ``null``."""
    if about is None:
        return None
    numbers = ("score", "stability", "gap", "early_gap", "doubt", "error")
    finite: dict[str, Any] = {
        key: np.inf if about[key] is None else about[key] for key in numbers if key in about
    }
    # What it was called while there were two.
    law = about.get("law", "mended" if about.get("mended") else "once")
    return Trust(ok=about["ok"], reason=about["reason"], law=law, **finite)


def finished(out: Path, run: str) -> bool:
    """Whether the record of this run is there, whole."""
    return (out / run / "record.json").is_file()


def _about(curve: Curve) -> dict[str, Any]:
    trust = None
    if curve.trust is not None:
        trust = dataclasses.asdict(dataclasses.replace(curve.trust, looks=None))
        del trust["looks"]
    return {
        "timings": dict(curve.timings),
        "flops": curve.flops,
        "planned_steps": curve.planned_steps,
        "trust": trust,
    }


def _text(content: Mapping[str, Any]) -> str:
    """JSON with one line for each entry of each section, and nothing else between the tokens.

    Indented, it takes half as much room again; on one line, a difference shows nothing.
    """

    def compact(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"))

    def lines(value: Any, inner: Callable[[Any], str]) -> str:
        if not isinstance(value, Mapping) or not value:
            return compact(value)
        entries = (f"{compact(key)}:{inner(entry)}" for key, entry in value.items())
        return "{\n" + ",\n".join(entries) + "\n}"

    return lines(content, lambda section: lines(section, compact)) + "\n"


def _plain(value: Any) -> Any:
    """JSON's own types only; numbers that are not finite become ``null``."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(entry) for entry in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return str(value)
