"""A labelled set of pictures of which only the labels are in memory."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int, UInt8

from ttp_jax.data import pixels
from ttp_jax.progress import bar
from ttp_jax.types import InputError

Split = Literal["train", "test"]

Fetch = Callable[[np.ndarray], Iterable[tuple[str, pixels.Stored]]]
"""``indices[k] -> (where, content)`` of each, in that order; reads only those."""


@dataclass(frozen=True)
class Pictures:
    """One split of one source: labels, class names and a way to the pictures.

    Args:
        source: The words it was loaded by, such as ``"npz:flowers.npz"``.
        split: ``"train"`` or ``"test"``.
        labels: Class of each picture, ``0..len(classes)-1``. The position in this array is
            the index by which a picture is known everywhere.
        classes: Names of the classes.
        fetch: What reads the stored pictures of some indices.

    Raises:
        InputError: No pictures, names that repeat, or labels out of range.
    """

    source: str
    split: Split
    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    fetch: Fetch

    def __post_init__(self) -> None:
        if len(self.labels) == 0:
            raise InputError(
                f"{self.source} must hold pictures, found none in its {self.split} split"
            )
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            raise InputError(
                f"class names of {self.source} must differ, got {twice[0]!r} more than once"
            )
        low, high = self.labels.min(), self.labels.max()
        if low < 0 or high >= len(self.classes):
            raise InputError(
                f"labels of {self.source} must lie in 0..{len(self.classes) - 1} (it has "
                f"{len(self.classes)} classes), got {low}..{high}; renumber them"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def stored(
        self, indices: Int[np.ndarray, " k"] | None = None
    ) -> list[tuple[str, pixels.Stored]]:
        """Pictures as the source stores them, not decoded; all of them by default."""
        indices = np.arange(len(self)) if indices is None else indices
        with bar(f"reading {self.source}", len(indices)) as advance:
            return list(_counted(self.fetch(indices), advance))

    def read(
        self,
        indices: Int[np.ndarray, " k"] | None = None,
        *,
        image_size: int | None = None,
        channels: int | None = None,
    ) -> UInt8[np.ndarray, "k h w ch"]:
        """Pictures of these indices (all by default), decoded to one size.

        Args:
            indices: Which pictures, in the order wanted.
            image_size: Central square crop, then resized to this side; ``None`` keeps
                the size that they have, which must then be one.
            channels: 1 or 3; ``None`` is 1 where all the pictures read are grey, else 3.

        Raises:
            InputError: As :func:`ttp_jax.data.pixels.stack`.
        """
        return decode(self.stored(indices), image_size=image_size, channels=channels)

    def counts(self) -> dict[str, int]:
        """Number of pictures of each class."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))


def decode(
    stored: list[tuple[str, pixels.Stored]], *, image_size: int | None, channels: int | None
) -> UInt8[np.ndarray, "k h w ch"]:
    """:func:`ttp_jax.data.pixels.stack` with a progress bar."""
    with bar("decoding pictures", len(stored)) as advance:
        counted = _counted(stored, advance)
        return pixels.stack(counted, image_size=image_size, channels=channels)


def sha256(stored: list[tuple[str, pixels.Stored]], names: Iterable[str]) -> str:
    """SHA-256 of pictures as stored and of their class names, in order.

    It depends on the content alone, not on how the source keeps it: the same picture
    files give the same sum from a folder and from an archive.
    """
    total = hashlib.sha256()
    for (_, content), name in zip(stored, names, strict=True):
        if isinstance(content, np.ndarray):
            content = repr(content.shape).encode() + content.tobytes()
        for part in (name.encode(), content):
            total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()


def require_split(split: str) -> None:
    """Refuse a split that is neither train nor test."""
    if split not in get_args(Split):
        raise InputError(
            f"split must be one of {', '.join(get_args(Split))}, got {split!r}"
        )


def _counted(
    items: Iterable[tuple[str, pixels.Stored]], advance: Callable[[], None]
) -> Iterator[tuple[str, pixels.Stored]]:
    for item in items:
        yield item
        advance()
