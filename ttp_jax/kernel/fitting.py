"""How many samples at once fit a memory budget, and the refusal where none does."""

from collections.abc import Callable
from typing import Any

from ttp_jax import chunks
from ttp_jax.kernel import memory
from ttp_jax.types import InputError


def largest_that_fits(
    compiled_for: Callable[[int], Any], *, n: int, start: int, budget_bytes: int
) -> tuple[list[slice], Any]:
    """The chunks, and the compiled program for one, whose memory fits the budget.

    Args:
        compiled_for: Size of a chunk to its program, ``jit(f).lower(...).compile()``.
        n: Number of samples.
        start: Size to try first; halved until the program fits.
        budget_bytes: For the program's inputs, outputs and temporaries.

    Raises:
        InputError: Not even one sample fits.
    """
    while True:
        pieces = chunks.even(n, start)
        size = pieces[0].stop
        program = compiled_for(size)
        needed = program_bytes(program)
        if needed <= budget_bytes:
            return pieces, program
        if size == 1:
            raise too_small(needed - budget_bytes)
        start = min(size // 2, max(1, int(0.9 * size * budget_bytes / needed)))


def program_bytes(program: Any) -> int:
    """Memory that a compiled program needs beside its inputs, as XLA reports it."""
    stats = program.memory_analysis()
    if stats is None:
        return 0
    return int(stats.temp_size_in_bytes) + int(stats.output_size_in_bytes)


def too_small(missing_bytes: int | float) -> InputError:
    """The one line for a kernel that cannot fit."""
    return InputError(
        f"the kernel does not fit its memory budget, {memory.readable(missing_bytes)} are "
        f"missing; take fewer pictures or classes, train fewer layers (--freeze-until), or "
        f"raise memory_budget_bytes"
    )
