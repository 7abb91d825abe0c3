"""A tapped parameter's share of the kernel, without its Jacobian.

For two samples ``<J_ia, J_jb> = sum_st P_st <G_ias, G_jbt>`` with
``P_st = <patch_is, patch_jt>`` and ``G`` the derivatives by the outputs, all in float64.
Two orders of summation: all products of derivatives first, ``c^2 S^2 o`` multiplications
in one large matrix product; or ``G_ia`` with ``P`` first, ``c S^2 o + c^2 S o`` in small
ones that stay in cache, two for each pair of samples.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ttp_jax import chunks
from ttp_jax.kernel import factors, gram, taps

CALL_PRODUCTS = 150_000
"""Multiplications that cost as much as starting the two small products of a pair."""
BLOCK_BYTES = 1 << 24
BLOCK_ROWS = 1024
"""Rows ``b c S`` of the large product."""


def products(product: taps.Product, c: int) -> int:
    """Multiplications for two samples."""
    inner = product.positions**2 * product.fan_in
    return product.groups * (inner + min(_large(product, c), _small(product, c)))


def _large(product: taps.Product, c: int) -> int:
    return (c * product.positions) ** 2 * (product.fan_out + 1)


def _small(product: taps.Product, c: int) -> int:
    size = product.positions
    return c * size * product.fan_out * (size + c) + CALL_PRODUCTS


def add(total: gram.Gram, product: taps.Product, parts: list, n: int, c: int) -> None:
    """Adds the share to ``total``.

    Args:
        total: The kernel.
        product: How the parameter is used.
        parts: ``(inputs[b, ...], derivatives[c, b, ...])`` of each chunk of samples.
        n: Number of samples.
        c: Number of outputs.
    """
    small = total.on_host and _small(product, c) < _large(product, c)
    own = product.groups * product.positions * (product.fan_in + c * product.fan_out)
    size = BLOCK_BYTES // (8 * own)
    if not small:
        size = min(size, BLOCK_ROWS // (c * product.positions * product.groups))
    pieces = chunks.even(n, max(size, 1))
    size = pieces[0].stop
    inputs, derivatives = zip(*parts, strict=True)
    inputs = _padded(jnp.concatenate(inputs), 0, size * len(pieces))
    derivatives = _padded(jnp.concatenate(derivatives, axis=1), 1, size * len(pieces))

    def block(k: int):
        here = slice(k * size, (k + 1) * size)
        return inputs[here], derivatives[:, here]

    def add_pair(pair: tuple[int, int]) -> None:
        k, m = pair
        rows, columns = pieces[k], pieces[m]
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            if small:
                left = _factors(product, *block(k))
                right = left if k == m else _factors(product, *block(m))
                value = _small_products(*left, *right, rows, columns)
            else:
                value = np.asarray(factors.pair_block(product, *block(k), *block(m)))
        height, width = rows.stop - rows.start, columns.stop - columns.start
        total.add_block(
            slice(rows.start * c, rows.stop * c),
            slice(columns.start * c, columns.stop * c),
            value[:height, :, :width].reshape(height * c, width * c),
        )

    total.each(
        add_pair, [(k, m) for k in range(len(pieces)) for m in range(k, len(pieces))]
    )


def _factors(product, inputs, derivatives) -> tuple[np.ndarray, np.ndarray]:
    patches, cotangents = factors.double_factors(product, inputs, derivatives)
    return np.asarray(patches), np.asarray(cotangents)


def _small_products(p_i, g_i, p_j, g_j, rows: slice, columns: slice) -> np.ndarray:
    """``p[b, groups, S, k]`` and ``g[b, c, groups, o, S]`` to ``[b, c, b, c]``."""
    b, c, groups, fan_out, size = g_i.shape
    value = np.zeros((b, c, len(g_j), c))
    half = np.empty((c * fan_out, size))
    for g in range(groups):
        left = p_i[:, g].reshape(b * size, -1)
        inner = left @ p_j[:, g].reshape(len(p_j) * size, -1).T
        inner = inner.reshape(b, size, len(p_j), size)
        for i in range(rows.stop - rows.start):
            first = i if rows == columns else 0
            own = g_i[i, :, g].reshape(c * fan_out, size)
            for j in range(first, columns.stop - columns.start):
                np.matmul(own, inner[i, :, j], out=half)
                other = g_j[j, :, g].reshape(c, fan_out * size)
                value[i, :, j] += half.reshape(c, -1) @ other.T
    return value


def _padded(value: jax.Array, axis: int, size: int) -> jax.Array:
    # With zeros, which contribute nothing.
    padding = [(0, 0)] * value.ndim
    padding[axis] = (0, size - value.shape[axis])
    return jnp.pad(value, padding)
