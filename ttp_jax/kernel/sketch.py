"""The kernel at less cost: per-sample gradients projected to few random numbers.

Every tensor ``l`` of the parameters has a projection ``R_l`` with ``E[R_l R_l^T] = I`` of its
own (gradients differ in scale by tensor), the same for all samples, so that
``Z_l = J_l R_l`` is a factor with ``E[Z Z^T] = sum_l J_l J_l^T = Theta``.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ttp_jax import chunks, programs, progress
from ttp_jax.kernel import factors, fitting, memory, taps
from ttp_jax.types import ApplyFn, InputError, Params

Projection = Literal[
    "kronecker", "coordinates", "very_sparse", "count_sketch", "tensor_sketch"
]


Way = Literal["whole", "sides", "entries", "transforms", "picks", "fold"]
"""As it is; both sides by a matrix each; products of chosen columns; the Fourier transforms of
both sides; entries picked from the gradient; all of the gradient folded to few buckets."""


@dataclass(frozen=True)
class Sketch:
    """Which projection, and to how many numbers a tensor.

    ``kronecker``: ``R = S_in (x) S_out`` on both sides of a layer's product
    ``patches^T cotangents``, which is then never formed. Each side keeps the directions in
    which a few samples are largest, and projects what is left with random signs:
    ``S = [V, (I - V V^T) R]``, so that ``E[S S^T] = I`` whatever ``V`` is.
    ``coordinates``: entries of the tensor drawn with replacement. ``very_sparse``: sums of
    about the square root of all entries, with random signs (Li, Hastie and Church, KDD 2006,
    at the density ``1/sqrt(size)``). ``count_sketch``: every entry, with a random sign, to a
    bucket (Charikar, Chen and Farach-Colton, 2002; its number modulo a prime in place of a
    random one, which leaves the expectation as it is). ``tensor_sketch``: the same with
    bucket and sign of an entry made of those of its row and its column, so that it is a
    convolution of two short sketches and, of a large tensor, the gradient is never formed
    (Pham and Pagh, KDD 2013).
    """

    projection: Projection = "kronecker"
    dimension: int = 256
    """Numbers a tensor; one with no more entries is kept as it is."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.projection not in get_args(Projection):
            raise InputError(
                f"projection must be one of {', '.join(get_args(Projection))}, got "
                f"{self.projection!r}"
            )
        if self.dimension < 1:
            raise InputError(f"sketch dimension must be at least 1, got {self.dimension}")


def sketched_jacobian(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    sketch: Sketch,
    *,
    memory_budget_bytes: int | None = None,
) -> Float[np.ndarray, "nc d"]:
    """A factor ``Z`` of the kernel, ``E[Z Z^T] = Theta`` over the seeds of the sketch.

    The relative error of ``Z Z^T`` falls as ``1/sqrt(dimension)``; that of ``kronecker`` as
    fast as the directions that it leaves to chance lose weight.

    Args:
        apply_fn: The model, as :func:`ttp_jax.kernel.empirical.empirical_ntk` takes it.
        params: Pytree of the parameters to differentiate.
        x: Inputs, first axis ``n``.
        sketch: The projection.
        memory_budget_bytes: For a chunk of samples; half of the free memory by default.

    Returns:
        ``[n*c, d]`` in the precision of the parameters, sample-major, ``d`` the dimensions
        of all tensors together. The spectrum of the kernel is that of its singular values
        (:func:`ttp_jax.spectrum.of_factor`), the kernel itself :func:`gram` of it.

    Raises:
        InputError: Not even one sample fits.

    Cost: one forward and ``c`` backward passes a sample, not to the weights, and
    :func:`operations` to project. No ``(n c)^2 p``.

    Breaks when a sample's output depends on other samples.
    """
    model = programs.shape_of(params), x.shape[1:], x.dtype
    traced = taps.traced(apply_fn, params, x)
    group = factors.Group(
        tuple(factors.Factor(leaf, "rows") for leaf in (*traced.taps, *traced.loose))
    )
    jacobian = factors.chunk_jacobian(traced, group)
    c = jax.eval_shape(apply_fn, params, x[:1]).shape[1]
    leaves = [jnp.asarray(v) for v in jax.tree.leaves(params)]
    # Drawn outside the program: XLA takes minutes to fold random constants into it.
    leading = {}
    if sketch.projection == "kronecker":
        leading = _leading(apply_fn, model, traced, sketch, leaves, x)
    drawn = {
        factor.leaf: _draw(sketch, traced, factor.leaf, leading.get(factor.leaf, {}))
        for factor in group.factors
    }

    def project(leaves, part, drawn):
        made = jacobian(leaves, part, 0)
        blocks = []
        for leaf in sorted(made):
            if leaf in traced.taps:
                inputs, derivatives = made[leaf]
                product = traced.taps[leaf].product
                blocks.append(_tapped(sketch, product, inputs, derivatives, drawn[leaf]))
            else:
                blocks.append(_rows(sketch, made[leaf], drawn[leaf]))
        return jnp.concatenate(blocks, axis=1)

    def compiled_for(size: int):
        like = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
        return programs.kept(
            apply_fn,
            (model, sketch.projection, sketch.dimension, size),
            lambda: jax.jit(project).lower(leaves, like, drawn).compile(),
        )

    with jax.default_matmul_precision("highest"):
        pieces, compiled = fitting.largest_that_fits(
            compiled_for,
            n=len(x),
            start=min(len(x), _chunk(traced, c)),
            budget_bytes=memory.resolve_budget(memory_budget_bytes),
        )
        found = []
        with progress.bar("sketched kernel", len(x)) as advance:
            for piece in pieces:
                rows = compiled(leaves, chunks.take(x, piece, pieces[0].stop), drawn)
                count = piece.stop - piece.start
                found.append(np.asarray(rows)[: count * c])
                advance(count)
    return np.concatenate(found)


PANEL_COLUMNS = 4096


def gram(z: Float[np.ndarray, "nc d"]) -> Float[np.ndarray, "nc nc"]:
    """``Z Z^T``, float64: sums of products, a panel of columns each, in the precision of ``Z``.

    In single precision that is half the time, and an error of 1e-6 beside the hundredth of
    the projection. Cost: ``(n c)^2 d`` operations.
    """
    theta = np.zeros((len(z), len(z)))
    for start in range(0, z.shape[1], PANEL_COLUMNS):
        panel = z[:, start : start + PANEL_COLUMNS]
        theta += panel @ panel.T
    return theta


def operations(apply_fn: ApplyFn, params: Params, x: Any, sketch: Sketch) -> float:
    """Operations a sample of the projection alone, the passes not among them.

    For a tensor of ``k`` inputs and ``o`` outputs, used at ``S`` positions, and dimension
    ``d = d1 d2``: ``2 S (k d1 + c o d2 + c d)`` (``kronecker``), ``2 c S d`` (``coordinates``
    where ``S d < k o``), ``S (1 + c) 2.5 d log2 d + 4 c S d`` (``tensor_sketch``, of large
    tensors at few positions), else ``2 c S k o``.
    """
    traced = taps.traced(apply_fn, params, x)
    c, d = jax.eval_shape(apply_fn, params, x[:1]).shape[1], sketch.dimension
    total = 0.0
    for leaf, tap in traced.taps.items():
        product = tap.product
        positions, k, o = product.positions, product.fan_in, product.fan_out
        way = _way(sketch, product, math.prod(traced.leaves[leaf].shape))
        if way == "sides":
            d_in, d_out = _side_dimensions(product, d)
            one = 2 * (k * d_in + c * o * d_out + c * d)
        elif way == "entries":
            one = 2 * c * d
        elif way == "transforms":
            one = 2.5 * (1 + c) * d * math.log2(d) + 4 * c * d
        else:
            one = 2 * c * k * o
        total += product.groups * positions * one
    return total


LARGEST_CHUNK = 32
CHUNK_BYTES = 256 * 2**20
"""A chunk has at most so many samples, and about so many bytes of intermediate values: larger
ones leave the caches and are slower."""


def _chunk(traced: taps.Traced, c: int) -> int:
    """Samples at a time."""
    fitting = CHUNK_BYTES // max(1, c * traced.activation_bytes)
    return int(np.clip(fitting, 1, LARGEST_CHUNK))


LEADING_SHARE = 0.75
"""Of the numbers on a side, how many go to its leading directions."""
LEADING_SAMPLES = 8
LEADING_ROWS = 512
"""So many samples, and at most so many positions of them, say which directions lead."""


def _leading(
    apply_fn: ApplyFn,
    model: Any,
    traced: taps.Traced,
    sketch: Sketch,
    leaves: list[jax.Array],
    x: Any,
) -> dict[int, dict[str, np.ndarray]]:
    """Rows of patches and of cotangents of a few samples, for each tensor to be cut down."""
    cut = tuple(
        leaf
        for leaf, tap in traced.taps.items()
        if tap.product.columns > sketch.dimension and tap.product.groups == 1
    )
    if not cut:
        return {}
    group = factors.Group(tuple(factors.Factor(leaf, "rows") for leaf in cut))
    jacobian = factors.chunk_jacobian(traced, group)
    count = min(len(x), LEADING_SAMPLES)

    def rows_of(leaves, part):
        found = {}
        for leaf, (inputs, derivatives) in jacobian(leaves, part, 0).items():
            product = traced.taps[leaf].product
            patches = jax.vmap(product.patches)(inputs).reshape(-1, product.fan_in)
            cotangents = jax.vmap(jax.vmap(product.cotangents))(derivatives)
            cotangents = cotangents.reshape(-1, product.fan_out)
            found[leaf] = {
                "in": _spread(patches, LEADING_ROWS),
                "out": _spread(cotangents, LEADING_ROWS),
            }
        return found

    like = jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype)
    compiled = programs.kept(
        apply_fn,
        (model, "leading", cut, count),
        lambda: jax.jit(rows_of).lower(leaves, like).compile(),
    )
    # From all of x and not from a chunk of it: all chunks have the same projection.
    return jax.tree.map(np.asarray, compiled(leaves, _spread(jnp.asarray(x), count)))


def _spread(values: jax.Array, count: int) -> jax.Array:
    """``count`` of the first axis, evenly; all where there are no more."""
    if len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).astype(int)]


def _side(rows: np.ndarray | None, signs: np.ndarray, to: int) -> np.ndarray:
    """``S = [V, (I - V V^T) R/sqrt(to - q)]``, ``V`` the ``q`` leading directions of rows."""
    kept = int(LEADING_SHARE * to)
    if rows is None or min(kept, len(rows)) == 0:
        return signs / math.sqrt(to)
    kept = min(kept, len(rows))
    # Subspace iteration from the signs that are not needed otherwise (Halko, Martinsson and
    # Tropp, arXiv 0909.4061): a full decomposition would take longer than the backward pass.
    v = signs[:, :kept]
    for _ in range(2):
        v = np.linalg.qr(rows.T @ (rows @ v))[0]
    rest = signs[:, kept:] / math.sqrt(to - kept)
    return np.concatenate([v, rest - v @ (v.T @ rest)], axis=1).astype(np.float32)


def _draw(
    sketch: Sketch, traced: taps.Traced, leaf: int, rows: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The matrices of one tensor; their random numbers are the same on every machine."""
    rng = np.random.Generator(np.random.Philox([sketch.seed, leaf]))
    shape, d = traced.leaves[leaf].shape, sketch.dimension
    size = math.prod(shape)

    def signs(*shape: int) -> np.ndarray:
        return 2.0 * rng.integers(0, 2, shape).astype(np.float32) - 1.0

    product = traced.taps[leaf].product if leaf in traced.taps else None
    way = _way(sketch, product, size)
    if way == "whole":
        return {}
    if way == "fold":
        return {"fold": signs(size)}
    if way == "picks":
        summed = 1 if sketch.projection == "coordinates" else math.isqrt(size)
        return {"columns": rng.integers(0, size, (d, summed)), "signs": signs(d, summed)}
    assert product is not None
    if way == "sides":
        d_in, d_out = _side_dimensions(product, d)

        def side(name: str, size: int, to: int) -> np.ndarray:
            if size == to and product.groups == 1:
                return np.eye(size, dtype=np.float32)[None]
            drawn = signs(product.groups, size, to)
            return np.stack([_side(rows.get(name), of_group, to) for of_group in drawn])

        sides = {"in": side("in", product.fan_in, d_in)}
        if d_out < product.fan_out or product.groups > 1:
            sides["out"] = side("out", product.fan_out, d_out)
        return sides
    if way == "entries":
        group = rng.integers(0, product.groups, d)
        return {
            "in": group * product.fan_in + rng.integers(0, product.fan_in, d),
            "out": group * product.fan_out + rng.integers(0, product.fan_out, d),
        }
    return {
        f"{side}_{what}": values
        for side, fan in (("in", product.fan_in), ("out", product.fan_out))
        for what, values in (
            ("bucket", rng.integers(0, d, (product.groups, fan))),
            ("signs", signs(product.groups, fan)),
        )
    }


TRANSFORMED_POSITIONS = 64


def _way(sketch: Sketch, product: taps.Product | None, size: int) -> Way:
    """How a tensor of ``size`` entries is projected."""
    name, d = sketch.projection, sketch.dimension
    if size <= d:
        return "whole"
    if product is not None:
        if name == "kronecker":
            return "sides"
        # Cheaper than all of the gradient where that is large and the positions few.
        if name == "coordinates" and product.positions * d < product.columns:
            return "entries"
        # A transform is 2.5 d log2 d operations, far slower ones than those of the product
        # that a gradient is where it sums over many positions.
        columns = product.fan_in * product.fan_out
        few = product.positions <= TRANSFORMED_POSITIONS
        if name == "tensor_sketch" and few and columns > 4 * d * math.log2(d):
            return "transforms"
    # A tensor that is no matrix product has no two sides.
    return "picks" if name in ("coordinates", "very_sparse") else "fold"


def _side_dimensions(product: taps.Product, d: int) -> tuple[int, int]:
    """Of inputs and outputs, by ``kronecker``."""
    d_out = min(product.fan_out, math.isqrt(d))
    return min(product.fan_in, d // d_out), d_out


def _tapped(
    sketch: Sketch,
    product: taps.Product,
    inputs: jax.Array,
    derivatives: jax.Array,
    drawn: dict[str, jax.Array],
) -> jax.Array:
    """Rows ``[b*c, d]`` of a parameter that enters through one matrix product."""
    if "in" not in drawn and "in_bucket" not in drawn:
        rows = factors.rows(product, inputs, derivatives, 0, None)
        return _rows(sketch, rows, drawn)
    cotangents = jax.vmap(jax.vmap(product.cotangents))(derivatives)  # [c, b, groups, S, o]
    if "in_bucket" in drawn:
        patches = jax.vmap(product.patches)(inputs)  # [b, groups, S, k]
        left, right = (
            _transformed(values, drawn[f"{side}_bucket"], drawn[f"{side}_signs"], sketch)
            for side, values in (("in", patches), ("out", cotangents))
        )
        # The sketch of a product is the circular convolution of both sides' sketches.
        rows = jnp.fft.irfft(jnp.einsum("bgsf,cbgsf->bcf", left, right), sketch.dimension)
    elif sketch.projection == "coordinates":
        patches = jax.vmap(product.patches)(inputs)  # [b, groups, S, k]
        left, right = _picked(patches, drawn["in"]), _picked(cotangents, drawn["out"])
        rows = jnp.einsum("bsd,cbsd->bcd", left, right)
        rows = rows * math.sqrt(product.columns / sketch.dimension)
    else:
        dtype = cotangents.dtype
        left = product.projected(inputs, drawn["in"].astype(dtype))
        if "out" not in drawn:
            rows = jnp.einsum("bgsd,cbgse->bcde", left, cotangents)
        elif left.shape[-1] <= product.positions:
            rows = jnp.einsum("bgsd,cbgso->bcgdo", left, cotangents)
            rows = jnp.einsum("bcgdo,goe->bcde", rows, drawn["out"].astype(dtype))
        else:
            right = jnp.einsum("cbgso,goe->cbgse", cotangents, drawn["out"].astype(dtype))
            rows = jnp.einsum("bgsd,cbgse->bcde", left, right)
    return rows.reshape(rows.shape[0] * rows.shape[1], -1)


def _picked(values: jax.Array, columns: jax.Array) -> jax.Array:
    """Columns of ``[..., groups, S, k]``, groups side by side, as ``[..., S, d]``."""
    flat = values.swapaxes(-3, -2)
    return flat.reshape(*flat.shape[:-2], -1)[..., columns]


def _rows(sketch: Sketch, rows: jax.Array, drawn: dict[str, jax.Array]) -> jax.Array:
    """Rows ``[b*c, columns]`` to ``[b*c, d]``; as they are where they are as short."""
    if "fold" in drawn:
        signed = rows * drawn["fold"].astype(rows.dtype)
        # Sums of contiguous runs are faster than a scatter to random buckets. Modulo a prime,
        # lest a bucket be a channel, of which few hold most of a gradient.
        width = _largest_prime(sketch.dimension)
        whole = signed.shape[1] // width * width
        summed = signed[:, :whole].reshape(len(signed), -1, width).sum(axis=1)
        return summed.at[:, : signed.shape[1] - whole].add(signed[:, whole:])
    if "columns" in drawn:
        d, summed = drawn["columns"].shape
        picked = rows[:, drawn["columns"]] * drawn["signs"].astype(rows.dtype)
        return picked.sum(axis=2) * math.sqrt(rows.shape[1] / (summed * d))
    return rows


def _transformed(
    values: jax.Array, bucket: jax.Array, signs: jax.Array, sketch: Sketch
) -> jax.Array:
    """Fourier transform of the count sketch of the last axis: ``[..., groups, S, d/2 + 1]``."""
    signed = values * signs[:, None].astype(values.dtype)
    # [groups, k, ...]: each group has buckets of its own, and a sum is over whole rows.
    signed = jnp.moveaxis(signed, (-3, -1), (0, 1))
    add = partial(jax.ops.segment_sum, num_segments=sketch.dimension)
    summed = jax.vmap(add)(signed, bucket)
    return jnp.fft.rfft(jnp.moveaxis(summed, (0, 1), (-3, -1)))


def _largest_prime(most: int) -> int:
    """Up to ``most``; one where there is none."""
    primes = (
        k for k in range(most, 1, -1) if all(k % q for q in range(2, math.isqrt(k) + 1))
    )
    return next(primes, 1)
