"""Seconds of a piece of work, with compilation apart."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax

_COMPILATION = "/jax/core/compile/"


@dataclass
class Seconds:
    """What a block took: ``run_s`` without, ``compile_s`` for tracing and compiling."""

    run_s: float = 0.0
    compile_s: float = 0.0


_open: list[list[tuple[float, float]]] = []


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith(_COMPILATION):
        now = time.perf_counter()
        for intervals in _open:
            intervals.append((now - duration_secs, now))


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextmanager
def measured() -> Iterator[Seconds]:
    """Time a block; the block must wait for its own results.

    Compilation is what JAX reports of itself (tracing, lowering, compiling). These reports
    nest, so the union of their intervals is taken.
    """
    seconds = Seconds()
    intervals: list[tuple[float, float]] = []
    _open.append(intervals)
    start = time.perf_counter()
    try:
        yield seconds
    finally:
        end = time.perf_counter()
        # By identity: two open blocks can hold equal lists.
        del _open[next(i for i, held in enumerate(_open) if held is intervals)]
        covered, last = 0.0, start
        for begin, finish in sorted(intervals):
            covered += max(0.0, finish - max(begin, last))
            last = max(last, finish)
        seconds.compile_s = covered
        seconds.run_s = end - start - covered
