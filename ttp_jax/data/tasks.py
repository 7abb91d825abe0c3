"""The sampler of tasks: C classes x M pictures, the same for a seed everywhere."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from ttp_jax.data.pictures import Pictures, Split, decode, sha256
from ttp_jax.types import InputError

_CLASSES_STREAM = 2**64 - 1
"""Stream of the choice of classes; those of the pictures are numbered as the classes."""


@dataclass(frozen=True)
class Sample:
    """What was chosen: kept in the record, enough to choose it again.

    ``indices`` point into the labels given (a source's split), ``labels`` are renumbered
    ``0..C-1`` in the order of ``class_ids`` and ``class_names``.
    """

    indices: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    seed: int
    held_out: int = 0
    """So many at the end are further pictures, not to be trained on."""

    @property
    def trained(self) -> int:
        """How many come before them."""
        return len(self.indices) - self.held_out


@dataclass(frozen=True)
class TaskPictures:
    """A sampled task with its pictures, and where they came from."""

    images: UInt8[np.ndarray, "n h w ch"]
    sample: Sample
    source: str
    split: Split
    sha256: str
    """Of the stored pictures and their class names, in the order of the sample."""

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """Labels ``0..C-1`` of the pictures."""
        return self.sample.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""
        return self.sample.class_names


def sample(
    labels: Int[np.ndarray, " N"],
    *,
    classes: int | Sequence[str | int] | None = None,
    per_class: int | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    held_out: int = 0,
) -> Sample:
    """Choose classes, and pictures of each.

    A picture's rank within its class is the rank of its word in the stream of NumPy's
    Philox with key ``(seed, class)``: raw words only, which NumPy keeps the same between
    releases. So the choice depends on the seed and the labels alone; the pictures of a
    class do not depend on which other classes are in the task; and a smaller ``per_class``
    takes a part of what a larger one takes.

    The result goes round the classes: the first picture of each, the second of each, and
    so on. Any beginning of it is as balanced as it can be, and the first ``C M'`` are the
    task of ``M'`` a class.

    Args:
        labels: Class number of each picture.
        classes: How many classes to draw, among those that have pictures, in ascending
            order; or which, by name or number, in the order given; ``None`` for all.
        per_class: Pictures of each class; ``None`` for all that there are.
        seed: 0 or larger.
        names: Names of the classes; by default their numbers.
        held_out: Further pictures of each class, after all others: those that a larger
            ``per_class`` would take next. Needs a ``per_class``.

    Raises:
        InputError: More classes than there are, one that is unknown or named twice, a
            class with fewer than ``per_class + held_out`` pictures, a ``per_class``,
            ``held_out`` or seed that makes no sense.

    Cost: one pass over the labels, and a sort of each chosen class.
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must lie in 0..2**63-1, got {seed}")
    if per_class is not None and per_class < 1:
        raise InputError(f"pictures per class must be at least 1, got {per_class}")
    if held_out < 0 or (held_out and per_class is None):
        raise InputError(
            "held-out pictures of each class must not be negative, and come after a number "
            f"of pictures per class, got {held_out} after {per_class}"
        )
    counts = np.bincount(labels, minlength=len(names) if names else 0)
    names = tuple(names) if names else tuple(str(k) for k in range(len(counts)))
    ids = _class_ids(counts, names, classes, seed)
    wanted = None if per_class is None else per_class + held_out
    few = [k for k in ids if counts[k] < (wanted or 1)]
    if few:
        raise _too_few(counts, names, few, wanted or 1, held_out)
    chosen = [_shuffled(np.flatnonzero(labels == k), seed, k)[:wanted] for k in ids]
    rank = np.concatenate([np.arange(len(part)) for part in chosen])
    renumbered = np.repeat(np.arange(len(ids)), [len(part) for part in chosen])
    in_turn = np.lexsort((renumbered, rank))
    return Sample(
        indices=np.concatenate(chosen)[in_turn],
        labels=renumbered[in_turn],
        class_ids=tuple(ids),
        class_names=tuple(names[k] for k in ids),
        seed=seed,
        held_out=len(ids) * held_out,
    )


def read_task(
    pictures: Pictures,
    *,
    classes: int | Sequence[str | int] | None = None,
    per_class: int | None = None,
    seed: int = 0,
    image_size: int | None = None,
    channels: int | None = None,
    held_out: int = 0,
) -> TaskPictures:
    """Sample a task from a source and read its pictures, and no others.

    Args:
        pictures: What :func:`ttp_jax.data.load` gave.
        classes: As in :func:`sample`.
        per_class: As in :func:`sample`.
        seed: As in :func:`sample`.
        image_size: Side in pixels; ``None`` keeps the size that they have.
        channels: 1 or 3; ``None`` is 1 where all the pictures read are grey, else 3.
        held_out: As in :func:`sample`.

    Raises:
        InputError: As :func:`sample` and :meth:`Pictures.read`.
    """
    chosen = sample(
        pictures.labels,
        classes=classes,
        per_class=per_class,
        seed=seed,
        names=pictures.classes,
        held_out=held_out,
    )
    stored = pictures.stored(chosen.indices)
    return TaskPictures(
        images=decode(stored, image_size=image_size, channels=channels),
        sample=chosen,
        source=pictures.source,
        split=pictures.split,
        sha256=sha256(stored, (chosen.class_names[k] for k in chosen.labels)),
    )


def _class_ids(
    counts: np.ndarray,
    names: tuple[str, ...],
    classes: int | Sequence[str | int] | None,
    seed: int,
) -> list[int]:
    there = np.flatnonzero(counts)
    if classes is None:
        return there.tolist()
    if isinstance(classes, int):
        if not 1 <= classes <= len(there):
            raise InputError(
                f"number of classes must lie in 1..{len(there)} (those that have "
                f"pictures), got {classes}"
            )
        return sorted(_shuffled(there, seed, _CLASSES_STREAM)[:classes].tolist())
    entries = [classes] if isinstance(classes, str) else list(classes)
    if not entries:
        raise InputError("classes must name at least one class, got an empty list")
    ids = [_class_id(names, entry) for entry in entries]
    twice = [names[k] for k in ids if ids.count(k) > 1]
    if twice:
        raise InputError(f"classes must differ, got {twice[0]!r} more than once")
    return ids


def _class_id(names: tuple[str, ...], entry: str | int) -> int:
    if isinstance(entry, str):
        if entry in names:
            return names.index(entry)
    elif 0 <= entry < len(names):
        return int(entry)
    close = difflib.get_close_matches(str(entry), names, 1)
    listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    advice = f"; did you mean {close[0]!r}?" if close and close[0] != entry else ""
    raise InputError(
        f"class must be one of {listed} (or 0..{len(names) - 1}), got {entry!r}{advice}"
    )


def _too_few(
    counts: np.ndarray, names: tuple[str, ...], few: list[int], wanted: int, held_out: int
) -> InputError:
    worst = min(few, key=lambda k: counts[k])
    there = int(counts[worst])
    also = f" and {len(few) - 1} more have too few" if len(few) > 1 else ""
    enough = int((counts >= wanted).sum())
    lower = f"pass --per-class {there} or fewer, or " if there else ""
    of_which = ""
    if held_out:
        lower, of_which = "lower --per-class or --held-out, or ", f" ({held_out} held out)"
    return InputError(
        f"every class must have {wanted} pictures{of_which}, class {names[worst]!r} has "
        f"{there}{also}; {lower}choose among the {enough} classes that have enough"
    )


def _shuffled(values: np.ndarray, seed: int, stream: int) -> np.ndarray:
    key = np.array([seed, stream], dtype=np.uint64)
    words = np.random.Philox(key=key).random_raw(len(values))
    return values[np.argsort(words, kind="stable")]
