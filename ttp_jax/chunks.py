"""Samples in equal chunks, so that a program is compiled once for all of them."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ttp_jax.progress import bar


def even(n: int, largest: int) -> list[slice]:
    """Cuts ``n`` samples into the fewest chunks of at most ``largest``, evenly."""
    count = -(-n // max(1, min(largest, n)))
    size = -(-n // count)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def take(x: Any, where: slice, size: int) -> Any:
    """Samples ``where``, filled up to ``size`` with copies of the first of them."""
    xp = np if isinstance(x, np.ndarray) else jnp
    part = xp.asarray(x[where])
    missing = size - len(part)
    return xp.concatenate([part, xp.repeat(part[:1], missing, axis=0)]) if missing else part


def map_samples(
    fn: Callable[[Any], Any], x: Any, *, largest: int = 128, description: str | None = None
) -> np.ndarray:
    """``fn(x)`` chunk by chunk, on the host: activations of all samples would not fit.

    Args:
        fn: ``x[b, ...] -> y[b, ...]``, treating samples one by one.
        x: ``[n, ...]``.
        largest: Samples at once.
        description: Of the progress bar; none without it.
    """
    pieces = even(len(x), largest)
    shown = bar(description, len(x)) if description else contextlib.nullcontext()
    out = []
    with shown as advance:
        for where in pieces:
            rows = where.stop - where.start
            out.append(np.asarray(fn(take(x, where, pieces[0].stop)))[:rows])
            if advance:
                advance(rows)
    return np.concatenate(out)
