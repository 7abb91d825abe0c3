"""Which weights enter the model once, through one matrix product, and where to read them.

A model is traced for one sample. A parameter that is used exactly once, as the kernel of
a convolution or as an operand of a matrix product, has the per-sample gradient
``dW = input^T @ (d output)``: it is enough to record the input of that equation and the
derivative with respect to a zero (a *tap*) added to its output. Such a parameter stays the
same array for all samples, so that one backward pass over the batch is an ordinary one;
``vmap`` of a gradient would give every sample a kernel of its own, and turn each
convolution into a grouped one. Every other parameter (biases, BatchNorm's scales, a
kernel used twice or inside a loop) is *loose*: it is differentiated as a copy a sample,
which is always right and, for small ones, cheap.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax

from ttp_jax import programs
from ttp_jax.types import ApplyFn, Params

_INLINED = ("jit", "pjit", "closed_call", "core_call", "eval_jaxpr", "remat2", "checkpoint")
# These put the same numbers in another order or precision; J J^T does not see the order.
_REORDERINGS = ("convert_element_type", "transpose", "reshape", "squeeze", "rev", "copy")

Path = tuple[int, ...]
"""Where an equation stands: its index, then the index inside it if it is a call, ..."""


@dataclass(frozen=True)
class Tap:
    """One equation that is the only use of one parameter."""

    path: Path
    other: int
    """Which operand of the equation is the input."""
    output: jax.ShapeDtypeStruct
    input_size: int
    product: "Product"


@dataclass(frozen=True)
class Product:
    """An equation as a matrix product: of patches of its input with the parameter.

    The parameter's gradient, up to the order of its entries, is
    ``[groups, fan_in, fan_out]``, the sum over ``positions`` of the products of
    ``patches(input)[groups, positions, fan_in]`` and
    ``cotangents(d output)[groups, positions, fan_out]``. Products that are equal share
    their compiled programs.
    """

    groups: int
    positions: int
    fan_in: int
    fan_out: int

    @property
    def columns(self) -> int:
        """Entries of the parameter."""
        return self.groups * self.fan_in * self.fan_out

    def patches(self, value: jax.Array) -> jax.Array:
        """The input of one sample as ``[groups, positions, fan_in]``."""
        raise NotImplementedError

    def cotangents(self, value: jax.Array) -> jax.Array:
        """The derivative by the output as ``[groups, positions, fan_out]``."""
        raise NotImplementedError

    def parameter(self, value: jax.Array) -> jax.Array:
        """The parameter in the order of its gradient, ``[groups, fan_in, fan_out]``."""
        raise NotImplementedError

    def projected(self, values: jax.Array, matrix: jax.Array) -> jax.Array:
        """Patches of many samples times ``matrix[groups, fan_in, d]``.

        Returns ``[b, groups, positions, d]``.
        """
        return jnp.einsum("bgsk,gkd->bgsd", jax.vmap(self.patches)(values), matrix)


@dataclass(frozen=True)
class MatrixProduct(Product):
    """``dot_general``, one of whose operands is the parameter."""

    order: tuple[int, ...]
    """Dimensions of the input: batched, free, contracted."""
    parameter_order: tuple[int, ...]
    """Dimensions of the parameter: batched, contracted, free."""
    input_first: bool

    def patches(self, value: jax.Array) -> jax.Array:
        """See :class:`Product`."""
        value = value.transpose(self.order)
        return value.reshape(self.groups, self.positions, self.fan_in)

    def cotangents(self, value: jax.Array) -> jax.Array:
        """See :class:`Product`."""
        # The output has the batched dimensions, the free ones of the left operand, then
        # those of the right one.
        if self.input_first:
            return value.reshape(self.groups, self.positions, self.fan_out)
        return value.reshape(self.groups, self.fan_out, self.positions).swapaxes(1, 2)

    def parameter(self, value: jax.Array) -> jax.Array:
        """See :class:`Product`."""
        value = value.transpose(self.parameter_order)
        return value.reshape(self.groups, self.fan_in, self.fan_out)


@dataclass(frozen=True)
class Convolution(Product):
    """``conv_general_dilated`` whose kernel is the parameter."""

    input_dims: tuple[int, ...]
    """Dimensions of the input: batch, spatial, channels; likewise of the output."""
    output_dims: tuple[int, ...]
    parameter_dims: tuple[int, ...]
    """Dimensions of the kernel: spatial, input channels, output channels."""
    window: tuple[int, ...]
    extent: tuple[int, ...]
    """Spatial size of the output."""
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    window_dilation: tuple[int, ...]

    def patches(self, value: jax.Array) -> jax.Array:
        """See :class:`Product`."""
        value = value.transpose(self.input_dims)
        edges = [
            (low, high, dilation - 1)
            for (low, high), dilation in zip(self.padding, self.input_dilation, strict=True)
        ]
        value = lax.pad(value, jnp.zeros((), value.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        batch, channels = value.shape[0], value.shape[-1]
        shifted = []
        for offset in itertools.product(*map(range, self.window)):
            start = [o * d for o, d in zip(offset, self.window_dilation, strict=True)]
            stop = [
                first + (size - 1) * stride + 1
                for first, size, stride in zip(
                    start, self.extent, self.strides, strict=True
                )
            ]
            part = lax.slice(
                value, (0, *start, 0), (batch, *stop, channels), (1, *self.strides, 1)
            )
            shifted.append(part.reshape(self.positions, self.groups, -1))
        return jnp.concatenate(shifted, axis=2).swapaxes(0, 1)

    def cotangents(self, value: jax.Array) -> jax.Array:
        """See :class:`Product`."""
        value = value.transpose(self.output_dims)
        return value.reshape(self.positions, self.groups, self.fan_out).swapaxes(0, 1)

    def parameter(self, value: jax.Array) -> jax.Array:
        """See :class:`Product`."""
        value = value.transpose(self.parameter_dims)
        value = value.reshape(self.fan_in, self.groups, self.fan_out)
        return value.swapaxes(0, 1)

    def projected(self, values: jax.Array, matrix: jax.Array) -> jax.Array:
        """See :class:`Product`; a convolution, which never makes the patches."""
        b, d = values.shape[0], matrix.shape[-1]
        space = len(self.window)
        kernel = matrix.reshape(self.groups, *self.window, -1, d)
        # [groups, *window, channels, d] to [*window, channels, groups * d]
        kernel = jnp.moveaxis(kernel, 0, -2).reshape(*kernel.shape[1:-1], self.groups * d)
        values = values.transpose(0, *(axis + 1 for axis in self.input_dims))
        values = values.reshape(-1, *values.shape[2:])
        channels_last = (0, space + 1, *range(1, space + 1))
        made = lax.conv_general_dilated(
            values,
            kernel,
            self.strides,
            self.padding,
            self.input_dilation,
            self.window_dilation,
            lax.ConvDimensionNumbers(
                channels_last, (space + 1, space, *range(space)), channels_last
            ),
            feature_group_count=self.groups,
        )
        return made.reshape(b, self.positions, self.groups, d).swapaxes(1, 2)


@dataclass(frozen=True)
class Traced:
    """A model traced for one sample: ``(leaves, x_i) -> f_i[c]``."""

    closed: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    taps: dict[int, Tap]
    """By index of the parameter leaf."""
    loose: tuple[int, ...]
    unused: tuple[int, ...]
    activation_bytes: int
    """Of all intermediate values of one sample together."""


def traced(apply_fn: ApplyFn, params: Params, x: Any) -> "Traced":
    """The trace of a model, made once for all weights and numbers of samples."""
    model = programs.shape_of(params), x.shape[1:], x.dtype
    return programs.kept(apply_fn, model, lambda: trace(apply_fn, params, x))


def trace(apply_fn: ApplyFn, params: Params, x: Any) -> Traced:
    """Traces ``apply_fn`` for one sample of ``x`` and finds the taps."""
    leaves, treedef = jax.tree.flatten(params)
    shapes = tuple(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in map(jnp.asarray, leaves))
    one = jax.eval_shape(lambda v: v[0], x)

    def sample(flat, x_i):
        return apply_fn(jax.tree.unflatten(treedef, flat), x_i[None])[0]

    closed = jax.make_jaxpr(sample)(list(shapes), one)
    uses: dict[int, list[Tap | None]] = {i: [] for i in range(len(shapes))}
    sizes: list[int] = []
    marks = [*range(len(shapes)), None]
    _find_uses(closed.jaxpr, marks, (), uses, sizes)
    taps = {i: u[0] for i, u in uses.items() if len(u) == 1 and u[0] is not None}
    return Traced(
        closed=closed,
        leaves=shapes,
        taps=taps,
        loose=tuple(i for i, u in uses.items() if u and i not in taps),
        unused=tuple(i for i, u in uses.items() if not u),
        activation_bytes=sum(sizes),
    )


def run(
    traced: Traced,
    leaves: Sequence[jax.Array],
    zeros: dict[int, jax.Array],
    x_i: jax.Array,
    *,
    read_parameters: bool = False,
) -> tuple[jax.Array, dict[int, jax.Array]]:
    """Runs the model on one sample with ``zeros`` added at the taps.

    Returns:
        The outputs ``f_i[c]``, and by leaf the inputs of the tapped equations, or the
        parameters as they enter them.
    """
    at: dict[Path, list[int]] = {}
    for leaf in zeros:
        at.setdefault(traced.taps[leaf].path, []).append(leaf)
    inside = {path[:k] for path in at for k in range(1, len(path))}
    recorded: dict[int, jax.Array] = {}

    def evaluate(
        jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], path: Path
    ) -> list:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

        def read(atom):
            return atom.val if isinstance(atom, jex.Literal) else env[atom]

        for k, eqn in enumerate(jaxpr.eqns):
            here = (*path, k)
            values = [read(v) for v in eqn.invars]
            if here in inside:
                out = evaluate(*_callee(eqn), values, here)
            else:
                bind_params = eqn.primitive.get_bind_params(eqn.params)
                out = eqn.primitive.bind(*values, **bind_params)
                if not eqn.primitive.multiple_results:
                    out = [out]
            for leaf in at.get(here, ()):
                other = traced.taps[leaf].other
                recorded[leaf] = values[1 - other if read_parameters else other]
                out = [out[0] + zeros[leaf]]
            env.update(zip(eqn.outvars, out, strict=True))
        return [read(v) for v in jaxpr.outvars]

    (f,) = evaluate(traced.closed.jaxpr, traced.closed.consts, [*leaves, x_i], ())
    return f, recorded


def in_columns(
    traced: Traced, leaves: Sequence[jax.Array], of: Sequence[int] | None = None
) -> dict[int, jax.Array]:
    """Values of the parameters by column of the Jacobian, for each leaf.

    Columns of a tapped parameter are in the order ``[groups, fan_out, fan_in]``. Between it
    and the parameter stand reorderings alone.

    Args:
        traced: The model.
        leaves: Values in the shapes of the parameters.
        of: Which leaves; all by default.
    """
    sample = traced.closed.in_avals[-1]
    zeros = {
        i: jnp.zeros(tap.output.shape, tap.output.dtype) for i, tap in traced.taps.items()
    }
    x_i = jnp.zeros(sample.shape, sample.dtype)
    _, entered = run(traced, leaves, zeros, x_i, read_parameters=True)
    ordered = {
        i: traced.taps[i].product.parameter(value).swapaxes(1, 2)
        for i, value in entered.items()
    }
    chosen = range(len(leaves)) if of is None else of
    return {i: (ordered[i] if i in ordered else leaves[i]).ravel() for i in chosen}


def to_parameters(
    traced: Traced, leaves: Sequence[jax.Array], columns: dict[int, jax.Array]
) -> list[jax.Array]:
    """Values by column of the Jacobian, in the shapes of the parameters they belong to.

    What :func:`in_columns` undoes: the derivative of a reordering is its inverse. Parameters
    without columns get zeros.
    """

    @jax.jit
    def moved_back(leaves, columns):
        of = list(columns)
        like, back = jax.vjp(lambda leaves: in_columns(traced, leaves, of), leaves)
        return back(jax.tree.map(lambda v, a: v.astype(a.dtype), columns, like))[0]

    return moved_back(list(leaves), columns)


def _callee(eqn: Any) -> tuple[Any, Sequence[Any]]:
    # Newer JAX has one class where older has a closed and an open one.
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())


def _find_uses(
    jaxpr: Any,
    marks: Sequence[int | None],
    path: Path,
    uses: dict[int, list[Tap | None]],
    sizes: list[int],
) -> list[int | None]:
    """Follows the parameters through ``jaxpr``; ``marks``: which input is which leaf."""
    leaf_of: dict[Any, int] = {
        v: m for v, m in zip(jaxpr.invars, marks, strict=True) if m is not None
    }

    def mark(atom: Any) -> int | None:
        return None if isinstance(atom, jex.Literal) else leaf_of.get(atom)

    for k, eqn in enumerate(jaxpr.eqns):
        here = (*path, k)
        found = [mark(v) for v in eqn.invars]
        name = eqn.primitive.name
        if name in _INLINED:
            inner = _find_uses(_callee(eqn)[0], found, here, uses, sizes)
            leaf_of.update(
                {v: m for v, m in zip(eqn.outvars, inner, strict=True) if m is not None}
            )
            continue
        sizes.extend(v.aval.size * v.aval.dtype.itemsize for v in eqn.outvars)
        if all(m is None for m in found):
            continue
        if found[0] is not None and len(found) == 1 and _only_reorders(eqn):
            leaf_of[eqn.outvars[0]] = found[0]
            continue
        for operand, m in enumerate(found):
            if m is not None:
                uses[m].append(_tap(eqn, operand, here))
    out = [mark(v) for v in jaxpr.outvars]
    if not path:
        for m in out:
            if m is not None:
                uses[m].append(None)
    return out


def _only_reorders(eqn: Any) -> bool:
    out = eqn.outvars[0].aval
    if not jnp.issubdtype(out.dtype, jnp.floating):
        return False
    same_size = out.size == eqn.invars[0].aval.size
    return eqn.primitive.name in _REORDERINGS or (
        eqn.primitive.name == "broadcast_in_dim" and same_size
    )


def _tap(eqn: Any, operand: int, path: Path) -> Tap | None:
    if eqn.primitive.name == "dot_general":
        return _dot_tap(eqn, operand, path)
    if eqn.primitive.name == "conv_general_dilated" and operand == 1:
        return _conv_tap(eqn, path)
    return None


def _dot_tap(eqn: Any, operand: int, path: Path) -> Tap:
    other = 1 - operand
    aval, out = eqn.invars[other].aval, eqn.outvars[0].aval
    contracted, batched = (tuple(dims[other]) for dims in eqn.params["dimension_numbers"])
    free = tuple(d for d in range(aval.ndim) if d not in contracted + batched)
    groups, positions, fan_in = (
        math.prod(aval.shape[d] for d in dims) for dims in (batched, free, contracted)
    )
    product = MatrixProduct(
        groups=groups,
        positions=positions,
        fan_in=fan_in,
        fan_out=out.size // (groups * positions),
        order=batched + free + contracted,
        parameter_order=_parameter_order(eqn, operand),
        input_first=other == 0,
    )
    output = jax.ShapeDtypeStruct(out.shape, out.dtype)
    return Tap(path, other, output, aval.size, product)


def _parameter_order(eqn: Any, operand: int) -> tuple[int, ...]:
    contracted, batched = (tuple(dims[operand]) for dims in eqn.params["dimension_numbers"])
    inner = batched + contracted
    rank = eqn.invars[operand].aval.ndim
    return inner + tuple(d for d in range(rank) if d not in inner)


def _conv_tap(eqn: Any, path: Path) -> Tap | None:
    p = eqn.params
    if p["batch_group_count"] != 1:
        return None
    groups = p["feature_group_count"]
    numbers = p["dimension_numbers"]
    lhs, rhs, out = eqn.invars[0].aval, eqn.invars[1].aval, eqn.outvars[0].aval
    window = tuple(rhs.shape[d] for d in numbers.rhs_spec[2:])
    extent = tuple(out.shape[d] for d in numbers.out_spec[2:])
    batch, channels = (lhs.shape[d] for d in numbers.lhs_spec[:2])
    product = Convolution(
        groups=groups,
        positions=batch * math.prod(extent),
        fan_in=math.prod(window) * (channels // groups),
        fan_out=out.shape[numbers.out_spec[1]] // groups,
        input_dims=_channels_last(numbers.lhs_spec),
        output_dims=_channels_last(numbers.out_spec),
        parameter_dims=(*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]),
        window=window,
        extent=extent,
        strides=tuple(p["window_strides"]),
        padding=tuple(map(tuple, p["padding"])),
        input_dilation=tuple(p["lhs_dilation"]),
        window_dilation=tuple(p["rhs_dilation"]),
    )
    return Tap(path, 0, jax.ShapeDtypeStruct(out.shape, out.dtype), lhs.size, product)


def _channels_last(spec: Sequence[int]) -> tuple[int, ...]:
    batch, channels, *space = spec
    return (batch, *space, channels)
