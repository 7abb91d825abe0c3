"""Chooses, by counting, how each parameter's share is made and what is held at a time."""

import math
from dataclasses import dataclass

from ttp_jax import chunks
from ttp_jax.kernel import fitting, gram, pairs, taps
from ttp_jax.kernel.factors import Factor, Group, Kind

PAIRS_SLOWDOWN = 4.0
"""A pair block's products are smaller, and read more memory, than BLAS's panel product."""
FLOAT64_SLOWDOWN = 2.0
LARGEST_CHUNK = 32
"""Past this many samples a chunk is no faster and only larger."""
CHUNK_SHARE = 0.3
"""Of what the kernel itself leaves of the budget, for the passes over one chunk."""
PANEL_BYTES = 1 << 25
"""Columns in float64 multiplied at a time: few enough for the caches, enough for BLAS."""


CHUNK_MARGIN = 0.7
"""The rest for what the chunk's results are made into, and for the allocator."""


@dataclass(frozen=True)
class Plan:
    """What will be done for ``n`` samples of ``c`` outputs within a budget."""

    n: int
    c: int
    budget_bytes: int
    groups: tuple[Group, ...]
    chunk: int
    jacobian_passes: int
    """Passes over all samples; more than one where the factors do not fit together."""
    flops_gram: float
    memory_bytes: int
    panel_columns: int
    """Columns of the Jacobian that are multiplied at a time."""
    chunk_bytes: int
    """Left for the program of one chunk."""


def make(
    traced: taps.Traced, *, n: int, c: int, budget_bytes: int, by_columns: bool = False
) -> Plan:
    """The plan for a kernel; ``by_columns``: one that has use for the Jacobian itself.

    Raises:
        InputError: The kernel ``8 (n c)^2`` and the work on one sample exceed the budget.
    """
    rows = n * c
    base = 8 * rows**2 + gram.workspace_bytes(rows)
    free = budget_bytes - base
    p = sum(_columns(traced, i) for i in range(len(traced.leaves)))
    panel_columns = max(16, min(8192, p, min(PANEL_BYTES, free // 8) // (8 * rows)))
    fixed = base + 8 * rows * panel_columns
    free = budget_bytes - fixed
    smallest = _sample_bytes(traced, c, ())
    if free < smallest:
        raise fitting.too_small(smallest - free)
    chosen: dict[int, Kind] = {
        i: "rows" if by_columns else _cheaper(traced.taps[i].product, n, c)
        for i in traced.taps
    }
    chosen |= dict.fromkeys(traced.loose, "rows")
    flops = sum(_gram_flops(traced, i, chosen[i], n, c) for i in chosen)
    held = free * (1 - CHUNK_SHARE)
    needed = sum(_held_bytes(traced, i, k, n, c) for i, k in chosen.items())
    if needed > held and not by_columns:
        # Storing inputs and cotangents instead of what they multiply to, where smaller.
        for i in traced.taps:
            if chosen[i] == "rows" and _held_bytes(traced, i, "slices", n, c) < 0.7 * (
                _held_bytes(traced, i, "rows", n, c)
            ):
                chosen[i] = "slices"
    # Late layers first: leaves are grouped by where they stand in the model, so that a
    # group of late ones ends its backward pass early.
    order = sorted(chosen, key=lambda i: traced.taps[i].path if i in traced.taps else (-1,))
    groups: list[Group] = []
    together: list[Factor] = []
    size = passes = 0
    for i in order[::-1]:
        own = _held_bytes(traced, i, chosen[i], n, c)
        if own > held:
            columns = _columns(traced, i)
            width = int(columns * held // _held_bytes(traced, i, "rows", n, c))
            if width == 0:
                raise fitting.too_small(_held_bytes(traced, i, "rows", n, c) / columns)
            width = -(-columns // -(-columns // width))
            groups.append(Group((Factor(i, "rows"),), width=width))
            passes += -(-columns // width)
            continue
        if size + own > held:
            groups.append(Group(tuple(together)))
            together, size = [], 0
        together.append(Factor(i, chosen[i]))
        size += own
    if together:
        groups.append(Group(tuple(together)))
    passes += sum(g.width is None for g in groups)
    most_held = max((_group_bytes(traced, g, n, c) for g in groups), default=0)
    chunk_bytes = int(CHUNK_MARGIN * (free - most_held))
    per_sample = max(
        (_sample_bytes(traced, c, g.factors) for g in groups), default=smallest
    )
    chunk = max(1, min(n, LARGEST_CHUNK, int(chunk_bytes // per_sample)))
    return Plan(
        n=n,
        c=c,
        budget_bytes=budget_bytes,
        groups=tuple(groups),
        chunk=chunks.even(n, chunk)[0].stop,
        jacobian_passes=passes,
        flops_gram=flops,
        memory_bytes=int(fixed + most_held + min(chunk * per_sample, chunk_bytes)),
        panel_columns=panel_columns,
        chunk_bytes=chunk_bytes,
    )


def slice_width(product: taps.Product, panel_columns: int) -> int:
    """Output channels whose columns fill about one panel."""
    columns = product.groups * product.fan_in
    return max(1, min(product.fan_out, panel_columns // columns))


def _cheaper(product: taps.Product, n: int, c: int) -> Kind:
    in_pairs = n * n / 2 * pairs.products(product, c)
    rows = n * n / 2 * c**2 * product.columns
    making = n * c * product.positions * product.columns / FLOAT64_SLOWDOWN
    return "pairs" if PAIRS_SLOWDOWN * in_pairs < rows + making else "rows"


def _gram_flops(traced: taps.Traced, leaf: int, kind: Kind, n: int, c: int) -> float:
    if kind == "pairs":
        product = traced.taps[leaf].product
        return float(n * n * pairs.products(product, c))
    flops = float((n * c) ** 2 * _columns(traced, leaf))
    if leaf in traced.taps:
        positions = traced.taps[leaf].product.positions
        flops += 2.0 * n * c * positions * _columns(traced, leaf)
    return flops


def _columns(traced: taps.Traced, leaf: int) -> int:
    return math.prod(traced.leaves[leaf].shape)


def _group_bytes(traced: taps.Traced, group: Group, n: int, c: int) -> int:
    if group.width is not None:
        (factor,) = group.factors
        return n * c * group.width * traced.leaves[factor.leaf].dtype.itemsize
    return sum(_held_bytes(traced, f.leaf, f.kind, n, c) for f in group.factors)


def _held_bytes(traced: taps.Traced, leaf: int, kind: Kind, n: int, c: int) -> int:
    item = traced.leaves[leaf].dtype.itemsize
    if kind == "rows":
        return n * c * _columns(traced, leaf) * item
    tap = traced.taps[leaf]
    return n * item * (tap.input_size + c * math.prod(tap.output.shape))


def _sample_bytes(traced: taps.Traced, c: int, factors: tuple[Factor, ...]) -> float:
    """Rough memory of the passes over a sample; the compiled program has the last word."""
    size = traced.activation_bytes * (1 + 0.2 * c)
    for factor in factors:
        size += 2 * _held_bytes(traced, factor.leaf, factor.kind, 1, c)
    return size
