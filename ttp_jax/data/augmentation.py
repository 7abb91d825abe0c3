"""Random flips, shifts and pixel noise: the same for a seed and an epoch, everywhere."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ttp_jax.types import InputError

Padding = Literal["reflect", "zero"]


@dataclass(frozen=True)
class Augmentation:
    """What is done to every picture, anew in every epoch.

    A picture is mirrored left to right with probability 1/2, moved by whole pixels, each way
    uniform in ``-shift..shift``, and every byte gets noise ``N(0, noise^2)``.

    Args:
        flip: Whether pictures are mirrored.
        shift: Largest shift in pixels, both ways; 0 for none.
        noise: Standard deviation of the noise, of 255; 0 for none.
        padding: What a shift brings in at the edge: the picture mirrored there, or zeros.
        seed: Of all draws.

    Raises:
        InputError: A number out of range.
    """

    flip: bool = False
    shift: int = 0
    noise: float = 0.0
    padding: Padding = "reflect"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shift < 0 or self.noise < 0 or not np.isfinite(self.noise):
            raise InputError(
                "the shift and the noise of an augmentation must not be negative, got "
                f"{self.shift} and {self.noise}"
            )

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return self.flip or self.shift > 0 or self.noise > 0

    def __call__(
        self, pictures: UInt8[np.ndarray, "n h w ch"], epoch: int
    ) -> UInt8[np.ndarray, "n h w ch"]:
        """The pictures as epoch ``epoch`` sees them.

        Drawn by NumPy's Philox with key ``(seed, epoch)``: no epoch depends on another.

        Raises:
            InputError: A shift as large as the picture.
        """
        n, height, width, _ = pictures.shape
        if self.shift >= min(height, width):
            raise InputError(
                f"a shift must be smaller than the picture, {height}x{width}, got "
                f"{self.shift}; lower it"
            )
        key = np.array([self.seed, epoch], dtype=np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key))
        mirrored = rng.random(n) < 0.5
        down, right = rng.integers(-self.shift, self.shift + 1, size=(2, n, 1))
        rows, rows_there = self._moved(down, height)
        columns, columns_there = self._moved(right, width)
        if self.flip:
            columns = np.where(mirrored[:, None], width - 1 - columns, columns)
        found = pictures[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None]]
        there = rows_there[:, :, None] & columns_there[:, None]
        found = np.where(there[..., None], found, np.uint8(0))
        if self.noise:
            noisy = found + self.noise * rng.standard_normal(found.shape, np.float32)
            found = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        return found

    def _moved(self, by: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel of a moved line comes from, and whether it comes from inside."""
        at = np.arange(size) - by
        inside = (at >= 0) & (at < size)
        mirrored = np.where(at < 0, -at, np.where(at >= size, 2 * (size - 1) - at, at))
        if self.padding == "reflect":
            return mirrored, np.ones_like(inside)
        return np.clip(at, 0, size - 1), inside
