"""The candidates of a search: a run each, by what sets it apart from a common description."""

import dataclasses
import difflib
import json
import tomllib
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ttp_jax import study
from ttp_jax.types import InputError

VARIED = (
    "model", "weights", "image_size", "freeze_until", "head_init", "head_scale",
    "head_hidden",
    "optimizer", "lr", "schedule", "momentum", "nesterov", "beta1", "beta2", "adam_eps",
    "weight_decay", "decay_toward", "batch_size", "sampling",
)  # fmt: skip
"""Options in which candidates may differ: the network, its pre-training, the optimiser. All
else is common to them, above all pictures, loss and length: scores compare nothing else."""


@dataclass(frozen=True)
class Candidate:
    """One run of a set."""

    name: str
    config: study.Config
    own: Mapping[str, Any]
    """What sets it apart."""


def read(
    common: study.Config,
    texts: Sequence[str] = (),
    file: str | None = None,
    rates: Sequence[float] | None = None,
) -> list[Candidate]:
    """Candidates as they were written down, in that order.

    Args:
        common: What they have in common.
        texts: A candidate each, ``option=value,option=value``.
        file: Of more: JSON, a list of objects, or TOML with tables ``[[candidates]]``.
        rates: Every candidate that names no learning rate is one at each of these.

    Raises:
        InputError: Fewer than two, two that are equal, an option that they cannot have, a
            value that it cannot have, a file that cannot be read.
    """
    written = [_parsed(text) for text in texts]
    if file is not None:
        written += _from_file(Path(file))
    spread = []
    for own in written:
        if rates is None or "lr" in own:
            spread.append(own)
        else:
            spread += [{**own, "lr": float(rate)} for rate in rates]
    if len(spread) < 2:
        raise InputError(
            f"ranking needs at least 2 candidates, got {len(spread)}; name them by "
            "--candidates model=embedded,lr=1e-3 model=resnet20,lr=1e-3, or in a file by "
            "--candidates-file"
        )
    made = [dataclasses.replace(common, **own) for own in spread]
    names = _names(spread, made)
    twice = [k for k, config in enumerate(made) if config in made[:k]]
    if twice:
        raise InputError(
            f"candidates must differ, got {names[twice[0]]!r} twice; leave one out"
        )
    return [
        Candidate(name, config, own)
        for name, config, own in zip(names, made, spread, strict=True)
    ]


def common_part(config: study.Config) -> study.Config:
    """A configuration without what a command of its own adds to it."""
    names = [field.name for field in dataclasses.fields(study.Config)]
    return study.Config(**{name: getattr(config, name) for name in names})


def _parsed(text: str) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for part in text.split(","):
        key, found, value = part.partition("=")
        if not found:
            raise InputError(
                f"a candidate is written option=value,option=value, got {text!r}; values "
                "with a comma go into --candidates-file"
            )
        _add(own, key.strip(), value.strip())
    return own


def _from_file(file: Path) -> list[dict[str, Any]]:
    try:
        content = file.read_text()
        if file.suffix == ".toml":
            rows = tomllib.loads(content).get("candidates")
        else:
            rows = json.loads(content)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--candidates-file must be JSON or TOML that can be read, got {file} ({error})"
        ) from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f"{file} must hold a list of candidates, objects of option and value (of TOML "
            "tables [[candidates]])"
        )
    written = []
    for row in rows:
        own: dict[str, Any] = {}
        for key, value in row.items():
            _add(own, key, str(value))
        written.append(own)
    return written


def _add(own: dict[str, Any], key: str, value: str) -> None:
    key = key.replace("-", "_")
    if key not in VARIED:
        near = difflib.get_close_matches(key, VARIED, n=1)
        hint = f"; perhaps {near[0]}" if near else ""
        raise InputError(f"candidates may differ in {', '.join(VARIED)}, got {key!r}{hint}")
    if key in own:
        raise InputError(f"a candidate has one value of each option, got {key} twice")
    own[key] = _typed(key, value)


def _typed(key: str, text: str) -> Any:
    """The value that an option of :class:`ttp_jax.study.Config` can have."""
    hint = get_type_hints(study.Config)[key]
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in kinds:
        if kind is types.NoneType:
            if text.lower() in ("none", "null"):
                return None
        elif get_origin(kind) is Literal:
            if text in get_args(kind):
                return text
        elif kind is bool:
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
        elif kind is not str or type(None) not in kinds or text.lower() != "none":
            try:
                return kind(text)
            except ValueError:
                continue
    allowed = ", ".join(
        " or ".join(get_args(kind))
        if get_origin(kind) is Literal
        else "None"
        if kind is types.NoneType
        else kind.__name__
        for kind in kinds
    )
    raise InputError(f"option {key} of a candidate must be {allowed}, got {text!r}")


def _names(written: Sequence[Mapping[str, Any]], made: Sequence[study.Config]) -> list[str]:
    """Readable, and different for what is written differently."""
    short = [
        ", ".join([config.model, *(_words(own, config))])
        for own, config in zip(written, made, strict=True)
    ]
    repeated = {name for name, count in Counter(short).items() if count > 1}
    return [
        ", ".join(f"{key}={value}" for key, value in own.items())
        if name in repeated
        else name
        for own, name in zip(written, short, strict=True)
    ]


def _words(own: Mapping[str, Any], config: study.Config) -> list[str]:
    words = []
    for key in VARIED:
        if key not in own or key == "model":
            continue
        value = own[key]
        if key == "weights":
            # A file is mostly named for its network: then it says nothing more.
            stem = Path(value or "default").stem
            if not stem.startswith(config.model):
                words.append(f"{stem} weights")
        elif key == "freeze_until":
            whole = str(value).lower() == "none"
            words.append("all trained" if whole else f"frozen to {value}")
        elif key == "lr":
            words.append(f"lr {value:g}")
        else:
            shown = f"{value:g}" if isinstance(value, float) else value
            words.append(f"{key.replace('_', ' ')} {shown}")
    return words
