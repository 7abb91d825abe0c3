"""Sums ``J J^T`` in float64, a panel of columns at a time."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import ThreadpoolController


class Gram:
    """A kernel under construction: ``Theta += rows rows^T``, products and sums in float64.

    Of the result only the upper triangle is kept up to date. On a CPU the product is
    BLAS's, tile by tile; on an accelerator XLA's.

    Args:
        rows: Of the kernel, ``n c``.
        width: Columns that are multiplied at a time.
    """

    def __init__(self, rows: int, width: int) -> None:
        self.theta = np.zeros((rows, rows))
        self.on_host = jax.default_backend() == "cpu"
        self._width = width
        # Zeros, not empty: pages are claimed here rather than at the first product.
        self._panel = np.zeros((rows, self._width if self.on_host else 0))
        self._filled = 0
        self._tiles = _upper_tiles(rows)
        self._workers = ThreadPoolExecutor(_cores())
        self._blas = ThreadpoolController()
        self._device_theta = None

    def add(self, blocks: Iterable, columns: slice | None = None) -> None:
        """Adds the columns of a Jacobian given as blocks of its rows, in order.

        Args:
            blocks: Arrays ``[rows_of_block, columns]``.
            columns: Which of the columns count; all by default.
        """
        if not self.on_host:
            self._add_on_device([b if columns is None else b[:, columns] for b in blocks])
            return
        parts = [np.asarray(b) for b in blocks]
        if columns is not None:
            parts = [part[:, columns] for part in parts]
        total, start = parts[0].shape[1], 0
        while start < total:
            take = min(total - start, self._width - self._filled)
            row = 0
            for part in parts:
                target = self._panel[row : row + len(part)]
                target[:, self._filled : self._filled + take] = part[
                    :, start : start + take
                ]
                row += len(part)
            self._filled += take
            start += take
            if self._filled == self._width:
                self._flush()

    def add_block(self, rows: slice, columns: slice, values: np.ndarray) -> None:
        """Adds ``values`` at ``rows, columns``, in or above the diagonal."""
        self.theta[rows, columns] += values

    def each(self, function: Callable, items: Iterable) -> None:
        """Calls ``function`` with each item, one core a call."""
        # BLAS's own threads wait for each other, and where other work takes a core away
        # that costs up to ten times the product itself.
        with self._blas.limit(limits=1, user_api="blas"):
            list(self._workers.map(function, items))

    def finish(self) -> np.ndarray:
        """The kernel, both triangles, C-contiguous; the accumulator is used up."""
        if self._filled:
            self._panel[:, self._filled :] = 0
            self._flush()
        if self._device_theta is not None:
            self.theta += np.asarray(self._device_theta)
            self._device_theta = None
        self._panel = self._panel[:0]
        self._workers.shutdown()
        theta, size = self.theta, len(self.theta)
        # Block by block: a whole transposed copy would need the memory twice.
        for i in range(0, size, 512):
            j = min(i + 512, size)
            theta[j:, i:j] = theta[i:j, j:].T
            corner = np.triu(theta[i:j, i:j])
            theta[i:j, i:j] = corner + np.triu(corner, 1).T
        return theta

    def _flush(self) -> None:
        self.each(self._add_tile, self._tiles)
        self._filled = 0

    def _add_tile(self, tile: tuple[slice, slice]) -> None:
        rows, columns = tile
        # Where both are the same rows NumPy calls BLAS's symmetric product.
        self.theta[tile] += self._panel[rows] @ self._panel[columns].T

    def _add_on_device(self, parts: list) -> None:
        rows = len(self.theta)
        with jax.enable_x64(True):
            if self._device_theta is None:
                self._device_theta = jnp.zeros((rows, rows), jnp.float64)
            for start in range(0, parts[0].shape[1], self._width):
                panel = jnp.concatenate([p[:, start : start + self._width] for p in parts])
                self._device_theta = _add_product(self._device_theta, panel)


def tile_rows(rows: int) -> int:
    """Rows of a tile: several tiles for each core, and none larger than 8 MB."""
    workers, count = _cores(), 1
    while workers > 1 and count * (count + 1) // 2 < 3 * workers:
        count += 1
    return max(64, min(1024, -(-rows // count)))


def workspace_bytes(rows: int) -> int:
    """Memory of the tiles' products, one on each core."""
    return 8 * min(rows, tile_rows(rows)) ** 2 * _cores()


def _upper_tiles(rows: int) -> list[tuple[slice, slice]]:
    size = tile_rows(rows)
    cuts = [slice(i, min(i + size, rows)) for i in range(0, rows, size)]
    return [(a, b) for k, a in enumerate(cuts) for b in cuts[k:]]


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


@jax.jit
def _add_product(theta: jax.Array, panel: jax.Array) -> jax.Array:
    panel = panel.astype(jnp.float64)
    return theta + jnp.matmul(panel, panel.T, precision="highest")
