"""The exact empirical neural tangent kernel of any model."""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import chunks, outputs, programs, progress
from ttp_jax.groups import Groups, names_of
from ttp_jax.kernel import factors, fitting, gram, memory, pairs, plan, taps
from ttp_jax.types import ApplyFn, Cost, InputError, Masked, Params, dense

Implementation = Literal["ttp", "nt_jacobian_contraction", "nt_vector_products"]
Weigh = Callable[[int, list], np.ndarray]
"""From a parameter's leaf and its columns to their weights: :func:`weighted_ntk`."""


@dataclass(frozen=True)
class KernelCost(Cost):
    """What a kernel will cost, found without computing it.

    ``seconds`` is rough, within a factor of about three: the counted operations over the
    speed at which this machine multiplies two matrices now, backward passes at half that
    speed, compilation not included.
    """

    memory_bytes: int
    gram_bytes: int
    """Of that, the kernel itself, ``8 (n c)^2``."""
    budget_bytes: int
    seconds: float
    jacobian_passes: int
    """Forward and backward passes over all samples; above 1 where memory is short."""

    def __str__(self) -> str:
        return (
            f"kernel: {memory.readable(self.memory_bytes)} of the budget of "
            f"{memory.readable(self.budget_bytes)} (the matrix alone "
            f"{memory.readable(self.gram_bytes)}), {self.flops:.2g} operations, about "
            f"{self.seconds:.2g} s"
        )


def empirical_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    *,
    implementation: Implementation = "ttp",
    memory_budget_bytes: int | None = None,
) -> Float[np.ndarray, "nc nc"]:
    """The empirical NTK, ``Theta[(i,a),(j,b)] = <df_a(x_i)/dw, df_b(x_j)/dw>``.

    Jacot et al., arXiv 1806.07572, at finite width and at the weights given. Jacobians are
    computed in the precision of the parameters, under JAX's highest matrix-product
    precision; what they contribute is multiplied and summed in float64, so that the small
    eigenvalues are those of the Jacobian and not of its rounding.

    Args:
        apply_fn: The model, ``(params, x[n, ...]) -> f[n, c]``; sample ``i`` of the output
            depends on sample ``i`` of the input alone. Of a :class:`ttp_jax.types.Masked` one
            the kernel is that of the weights which are there, ``J diag(s) J^T``, at the price
            of :func:`weighted_ntk`.
        params: Pytree of the parameters to differentiate, float32 or float64.
        x: Inputs, first axis ``n``.
        implementation: ``"ttp"``, ours; ``"nt_jacobian_contraction"`` or
            ``"nt_vector_products"``, neural-tangents', whose sums are in the precision of
            the parameters.
        memory_budget_bytes: What may be used beside what is already there; half of the
            free memory by default. It bounds what is asked for: resident memory was seen a
            tenth above it, where glibc kept freed blocks (``MALLOC_MMAP_THRESHOLD_=100000``
            in the environment makes it hand them back).

    Returns:
        float64 ``[n*c, n*c]``, sample-major, symmetric.

    Raises:
        InputError: It does not fit the budget, or the inputs are no such model.

    Cost: one forward and ``c`` backward passes a sample, ``(1 + 2c) F n``, and for each
    parameter tensor the cheaper of ``(n c)^2 k o`` and ``n^2 (S^2 k + c S^2 o + c^2 S o)``
    operations (``S`` positions, ``k`` inputs and ``o`` outputs of its product). Memory:
    ``8 (n c)^2`` bytes and as much of the factors as the budget allows; where they do not
    fit, the passes are repeated for groups of parameters.

    Breaks when a sample's output depends on other samples (BatchNorm in training mode).
    """
    n, c = _check(apply_fn, params, x, implementation)
    budget = memory.resolve_budget(memory_budget_bytes)
    if 8 * (n * c) ** 2 > budget:
        raise fitting.too_small(8 * (n * c) ** 2 - budget)
    with jax.default_matmul_precision("highest"):
        if implementation == "ttp":
            return _own(apply_fn, params, x, n, c, budget, lambda leaf: 0)[0]
        from ttp_jax.kernel import neural_tangents

        return neural_tangents.gram(
            apply_fn,
            params,
            x,
            implementation=_NEURAL_TANGENTS[implementation],
            budget_bytes=budget,
        )


def layerwise_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    *,
    by: Literal["layer", "tensor"] = "layer",
    memory_budget_bytes: int | None = None,
) -> dict[str, Float[np.ndarray, "nc nc"]]:
    """The share of every layer in the kernel, ``Theta = sum_l J_l J_l^T``.

    Args:
        apply_fn: As for :func:`empirical_ntk`.
        params: Pytree of the parameters to differentiate.
        x: Inputs, first axis ``n``.
        by: ``"tensor"``: a share for every leaf of the pytree. ``"layer"``: for every
            container of leaves, such as a convolution with its bias.
        memory_budget_bytes: As for :func:`empirical_ntk`.

    Returns:
        By name (keys joined by ``/``, in the order of the pytree), shares that sum to
        :func:`empirical_ntk`; tensors that the outputs do not depend on have none.

    Raises:
        InputError: It does not fit the budget, or the inputs are no such model.

    Cost: that of the kernel, and ``8 (n c)^2`` bytes for each share.
    """
    names = names_of(params)
    if by == "layer":
        names = [name.rpartition("/")[0] or "all" for name in names]
    shares = _shares(apply_fn, params, x, names, memory_budget_bytes)
    return {name: shares[name] for name in dict.fromkeys(names) if name in shares}


def grouped_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    groups: Groups,
    *,
    memory_budget_bytes: int | None = None,
) -> Float[np.ndarray, "G nc nc"]:
    """The share of every group of weights in the kernel, ``Theta = sum_g J_g J_g^T``.

    Arguments, errors and cost are those of :func:`layerwise_ntk`, for ``G`` shares; one of a
    group that the outputs do not depend on is zero.
    """
    found = _shares(apply_fn, params, x, groups.of_leaf, memory_budget_bytes)
    size = len(next(iter(found.values())))
    return np.stack([found.get(g, np.zeros((size, size))) for g in range(groups.count)])


def _shares(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    of_leaf: Sequence[Hashable],
    memory_budget_bytes: int | None,
) -> dict[Hashable, np.ndarray]:
    """The kernel in shares, by what each leaf of the parameters belongs to."""
    n, c = _check(apply_fn, params, x, "ttp")
    budget = memory.resolve_budget(memory_budget_bytes)
    # One kernel is in the plan already.
    rest = budget - 8 * (n * c) ** 2 * (len(set(of_leaf)) - 1)
    if 8 * (n * c) ** 2 > rest:
        raise fitting.too_small(8 * (n * c) ** 2 - rest)
    with jax.default_matmul_precision("highest"):
        return _own(apply_fn, params, x, n, c, rest, lambda leaf: of_leaf[leaf])


def weighted_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    weigh: Weigh,
    *,
    memory_budget_bytes: int | None = None,
) -> Float[np.ndarray, "nc nc"]:
    """A kernel ``J diag(w) J^T`` whose weights are read off the Jacobian itself.

    Args:
        apply_fn: As for :func:`empirical_ntk`.
        params: Pytree of the parameters to differentiate.
        x: Inputs, first axis ``n``.
        weigh: From a parameter's leaf and blocks ``[rows, columns]`` of its Jacobian, in
            the order of the samples, to the weights ``[columns]``, none negative. A
            parameter that does not fit the memory comes in parts, one after the other; the
            order of its columns is that of :func:`ttp_jax.kernel.taps.to_parameters`.
        memory_budget_bytes: As for :func:`empirical_ntk`.

    Raises:
        InputError: It does not fit the budget, or the inputs are no such model.

    Cost: that of :func:`empirical_ntk` where the columns of every parameter are made:
    ``(1 + 2c) F n`` and ``(n c)^2 p``. As a model of its own, with its parameters multiplied
    by ``sqrt(w)``, it would be dearer: the products stand between a parameter and the one
    equation that uses it.
    """
    n, c = _check(apply_fn, params, x, "ttp")
    budget = memory.resolve_budget(memory_budget_bytes)
    if 8 * (n * c) ** 2 > budget:
        raise fitting.too_small(8 * (n * c) ** 2 - budget)
    with jax.default_matmul_precision("highest"):
        return _own(apply_fn, params, x, n, c, budget, lambda leaf: 0, weigh)[0]


def estimate(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    *,
    implementation: Implementation = "ttp",
    memory_budget_bytes: int | None = None,
    weighted: bool = False,
) -> KernelCost:
    """Memory, operations and time of :func:`empirical_ntk`, in a fraction of a second.

    Arguments and errors are those of :func:`empirical_ntk`; ``weighted``: of
    :func:`weighted_ntk`. For neural-tangents' two the
    memory is that of all Jacobians together, where one block holds all samples.
    """
    n, c = _check(apply_fn, params, x, implementation)
    budget = memory.resolve_budget(memory_budget_bytes)
    size = 8 * (n * c) ** 2
    if size > budget:
        raise fitting.too_small(size - budget)
    forward = outputs.forward_flops(apply_fn, params, x)
    p = sum(v.size for v in jax.tree.leaves(params))
    passes = 1
    if implementation == "ttp":
        traced = taps.traced(dense(apply_fn), params, x)
        by_columns = weighted or isinstance(apply_fn, Masked)
        made = plan.make(traced, n=n, c=c, budget_bytes=budget, by_columns=by_columns)
        passes, gram_flops, used = made.jacobian_passes, made.flops_gram, made.memory_bytes
    elif implementation == "nt_jacobian_contraction":
        gram_flops, used = 2.0 * (n * c) ** 2 * p, size + 8 * n * c * p
    else:
        # A backward and a forward derivative for each pair of samples and each output.
        gram_flops, used = 5.0 * forward * c * n * n, size
    jacobian_flops = passes * (1 + 2 * c) * forward * n
    single, double = _speeds()
    return KernelCost(
        memory_bytes=int(min(used, budget)),
        gram_bytes=size,
        budget_bytes=budget,
        flops=jacobian_flops + gram_flops,
        forward_flops_per_sample=forward,
        seconds=2 * jacobian_flops / single + gram_flops / double,
        jacobian_passes=passes,
    )


_NEURAL_TANGENTS = {
    "nt_jacobian_contraction": "JACOBIAN_CONTRACTION",
    "nt_vector_products": "NTK_VECTOR_PRODUCTS",
}


def _own(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    n: int,
    c: int,
    budget: int,
    share_of: Callable[[int], Hashable],
    weigh: Weigh | None = None,
) -> dict[Hashable, np.ndarray]:
    """The kernel in shares: each parameter leaf adds to that which ``share_of`` names."""
    if isinstance(apply_fn, Masked) and weigh is None:
        weigh = _weigh_by(apply_fn, params, x)
        apply_fn = apply_fn.model
    model = programs.shape_of(params), x.shape[1:], x.dtype
    traced = taps.traced(apply_fn, params, x)
    made = plan.make(traced, n=n, c=c, budget_bytes=budget, by_columns=weigh is not None)
    leaves = [jnp.asarray(v) for v in jax.tree.leaves(params)]
    shares: dict[Hashable, gram.Gram] = {}
    with progress.bar("kernel", n * made.jacobian_passes) as advance:
        for group in made.groups:

            def compiled_for(size: int, group=group):
                like = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
                program = jax.jit(factors.chunk_jacobian(traced, group))
                return programs.kept(
                    apply_fn,
                    (model, group, size),
                    lambda: program.lower(leaves, like, 0).compile(),
                )

            pieces, compiled = fitting.largest_that_fits(
                compiled_for, n=n, start=made.chunk, budget_bytes=made.chunk_bytes
            )
            for first, columns in _column_ranges(traced, group):
                found = []
                for piece in pieces:
                    b = piece.stop - piece.start
                    part = compiled(leaves, chunks.take(x, piece, pieces[0].stop), first)
                    found.append(_held(traced, group, part, b, c, first))
                    # A device queues what it is told; memory is bounded by waiting for it.
                    jax.block_until_ready(found[-1])
                    advance(b)
                for factor in group.factors:
                    share = share_of(factor.leaf)
                    if share not in shares:
                        shares[share] = gram.Gram(n * c, made.panel_columns)
                    # Handed over, not kept: the next pass needs the memory.
                    _add(
                        shares[share],
                        made,
                        factor,
                        traced.taps.get(factor.leaf),
                        [f.pop(factor.leaf) for f in found],
                        columns,
                        weigh,
                    )
    return {name: share.finish() for name, share in shares.items()}


def _weigh_by(model: Masked, params: Params, x: Any) -> Weigh:
    """Columns of the dense model's Jacobian that are there: weights 1, the others 0.

    As a model like any other it would be dearer: masks would stand between a parameter and the
    one equation that uses it.
    """
    traced = taps.traced(model.model, params, x)
    leaves = [
        jnp.asarray(mask, jnp.asarray(leaf).dtype)
        for mask, leaf in zip(
            jax.tree.leaves(model.masks), jax.tree.leaves(params), strict=True
        )
    ]
    columns = jax.jit(lambda leaves: taps.in_columns(traced, leaves))(leaves)
    taken = dict.fromkeys(columns, 0)

    def weigh(leaf: int, blocks: list) -> np.ndarray:
        # A parameter that does not fit the memory comes in parts, one after the other.
        first = taken[leaf]
        taken[leaf] = first + blocks[0].shape[1]
        return np.asarray(columns[leaf][first : taken[leaf]], float)

    return weigh


def _column_ranges(
    traced: taps.Traced, group: factors.Group
) -> Iterator[tuple[int, slice | None]]:
    """First column of each pass of a group, and which of the pass's columns are new."""
    if group.width is None:
        yield 0, None
        return
    columns = int(np.prod(traced.leaves[group.factors[0].leaf].shape))
    for first in range(0, columns, group.width):
        # The last pass starts earlier, to be as wide as the others.
        start = min(first, columns - group.width)
        yield start, slice(first - start, group.width)


def _held(
    traced: taps.Traced, group: factors.Group, part: dict, b: int, c: int, first: int
) -> dict:
    """What is kept of a chunk of ``b`` samples, its padding taken off."""

    def cut(value: jax.Array, count: int, axis: int = 0) -> jax.Array:
        # A slice of everything would be a copy.
        full = value.shape[axis] == count
        return value if full else jax.lax.slice_in_dim(value, 0, count, axis=axis)

    kept: dict[int, Any] = {}
    for factor in group.factors:
        value = part.pop(factor.leaf)
        if factor.leaf not in traced.taps:
            kept[factor.leaf] = cut(value, b * c)
        elif factor.kind == "rows":
            product = traced.taps[factor.leaf].product
            made = factors.rows(product, *value, first, group.width)
            kept[factor.leaf] = cut(made, b * c)
        else:
            inputs, derivatives = value
            kept[factor.leaf] = cut(inputs, b), cut(derivatives, b, axis=1)
    return kept


def _add(
    total: gram.Gram,
    made: plan.Plan,
    factor: factors.Factor,
    tap: taps.Tap | None,
    parts: list,
    columns: slice | None,
    weigh: Weigh | None,
) -> None:
    if weigh is not None:
        if columns is not None:
            parts = [part[:, columns] for part in parts]
        _add_weighted(total, parts, weigh(factor.leaf, parts), made.panel_columns)
    elif tap is None or factor.kind == "rows":
        total.add(parts, columns)
    elif factor.kind == "slices":
        _add_slices(total, tap.product, parts, made.panel_columns)
    else:
        pairs.add(total, tap.product, parts, made.n, made.c)


def _add_weighted(
    total: gram.Gram, parts: list, weight: np.ndarray, panel_columns: int
) -> None:
    """``J diag(weight) J^T``, a panel at a time: a whole scaled copy would need the memory.

    Columns without weight are left out: the product is what costs.
    """
    root = np.sqrt(weight)
    there = np.flatnonzero(root)
    for first in range(0, len(there), panel_columns):
        panel: Any = slice(first, first + panel_columns)
        if len(there) < len(root):
            panel = there[panel]
        total.add([part[:, panel] * root[panel] for part in parts])


def _add_slices(
    total: gram.Gram, product: taps.Product, parts: list, panel_columns: int
) -> None:
    width = plan.slice_width(product, panel_columns)
    for first in range(0, product.fan_out, width):
        # The last slice starts earlier, to be as wide as the others.
        start = min(first, product.fan_out - width)
        blocks = [factors.slice_rows(product, *part, start, width) for part in parts]
        if first > start:
            shape = (-1, product.groups, width, product.fan_in)
            blocks = [
                b.reshape(shape)[:, :, first - start :].reshape(len(b), -1) for b in blocks
            ]
        total.add(blocks)


def _check(
    apply_fn: ApplyFn, params: Params, x: Any, implementation: str
) -> tuple[int, int]:
    if implementation not in get_args(Implementation):
        raise InputError(
            f"implementation must be one of {', '.join(get_args(Implementation))}, got "
            f"{implementation!r}"
        )
    if not hasattr(x, "shape") or len(x.shape) == 0 or len(x) == 0:
        raise InputError(
            f"x must be an array [n, ...] with at least one sample, got "
            f"{getattr(x, 'shape', type(x).__name__)}"
        )
    leaves = jax.tree.leaves(params)
    if not leaves or not all(jnp.issubdtype(v.dtype, jnp.floating) for v in leaves):
        raise InputError(
            "params must be a pytree of floating arrays, at least one, got "
            f"{sorted({str(getattr(v, 'dtype', type(v))) for v in leaves}) or 'none'}; "
            "close over everything else in apply_fn"
        )
    out = jax.eval_shape(apply_fn, params, x[:1])
    if getattr(out, "ndim", None) != 2 or out.shape[0] != 1:
        raise InputError(
            f"apply_fn must map x[n, ...] to f[n, c]; one sample gave "
            f"{getattr(out, 'shape', type(out).__name__)}"
        )
    return len(x), out.shape[1]


def _speeds() -> tuple[float, float]:
    """Operations a second of a matrix product now, in float32 and in float64."""
    host = jax.default_backend() == "cpu"
    speeds = []
    with jax.enable_x64(True):
        for dtype in (np.float32, np.float64):
            a = np.ones((1024, 1024), dtype) if host else jnp.ones((4096, 4096), dtype)
            times = []
            for _ in range(3):
                start = time.perf_counter()
                jax.block_until_ready(a @ a)
                times.append(time.perf_counter() - start)
            speeds.append(2 * len(a) ** 3 / min(times))
    return speeds[0], speeds[1]
