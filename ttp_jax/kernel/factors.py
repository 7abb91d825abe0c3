"""The Jacobian of a chunk of samples, parameter by parameter, as the factors it is made of.

One forward and one backward pass over the chunk, the latter for all ``c`` outputs at once,
gives for each tapped parameter the input of its equation and the derivative with respect
to its output. Their product over positions are the Jacobian's rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from ttp_jax.kernel import taps

Kind = Literal["rows", "slices", "pairs"]
"""How a parameter's share of the Gram is made.

``rows``: its columns of the Jacobian are stored, and multiplied with themselves.
``slices``: input and cotangent are stored, and the columns made from them a few at a time.
``pairs``: input and cotangent are stored, and the columns never made: for two samples
``<J_ia, J_jb> = sum_st <patch_is, patch_jt> <cotangent_ias, cotangent_jbt>``.
"""


@dataclass(frozen=True)
class Factor:
    """One parameter leaf and how its share is made."""

    leaf: int
    kind: Kind


@dataclass(frozen=True)
class Group:
    """Parameters whose factors, for all samples, are held at the same time.

    ``width``: for a single parameter whose columns do not fit together, how many of them
    are made in one pass over the samples.
    """

    factors: tuple[Factor, ...]
    width: int | None = None


def chunk_jacobian(traced: taps.Traced, group: Group) -> Callable:
    """The function ``(leaves, x[b, ...], first_column) -> {leaf: factor}`` of a group.

    A factor is ``(input[b, ...], derivative[c, b, ...])`` of a tapped parameter's
    equation, and the Jacobian's rows ``[b*c, columns]`` of a loose parameter.
    """
    tapped = [f.leaf for f in group.factors if f.leaf in traced.taps]
    loose = [f.leaf for f in group.factors if f.leaf not in traced.taps]

    def per_sample(leaves, copies, zeros, x_i):
        own = list(leaves)
        for leaf, copy in copies.items():
            own[leaf] = copy
        return taps.run(traced, own, zeros, x_i)

    def of_chunk(leaves: Sequence[jax.Array], x: jax.Array, first_column: Any) -> dict:
        b = x.shape[0]
        copies = {i: jnp.broadcast_to(leaves[i], (b, *leaves[i].shape)) for i in loose}
        zeros = {
            i: jnp.zeros((b, *traced.taps[i].output.shape), traced.taps[i].output.dtype)
            for i in tapped
        }

        def outputs(copies, zeros):
            return jax.vmap(per_sample, in_axes=(None, 0, 0, 0))(leaves, copies, zeros, x)

        f, vjp, inputs = jax.vjp(outputs, copies, zeros, has_aux=True)
        c = f.shape[1]
        # [c, b, ...]: all samples of one output together, as one backward pass has them.
        own, outer = jax.vmap(lambda e: vjp(jnp.broadcast_to(e, f.shape)))(
            jnp.eye(c, dtype=f.dtype)
        )
        result: dict[int, Any] = {i: (inputs[i], outer[i]) for i in tapped}
        for i in loose:
            rows = own[i].swapaxes(0, 1).reshape(b * c, -1)
            result[i] = _columns(rows, first_column, group.width)
        return result

    return of_chunk


@partial(jax.jit, static_argnums=(0, 4))
def rows(
    product: taps.Product,
    inputs: jax.Array,
    derivatives: jax.Array,
    first_column: Any,
    width: int | None,
) -> jax.Array:
    """Rows ``[b*c, columns]`` of a tapped parameter; of the columns ``width``, or all."""
    return _columns(_all_rows(product, inputs, derivatives), first_column, width)


@partial(jax.jit, static_argnums=(0, 4))
def slice_rows(
    product: taps.Product,
    inputs: jax.Array,
    derivatives: jax.Array,
    first: Any,
    width: int,
) -> jax.Array:
    """The same for ``width`` output channels from ``first`` on, and nothing else made."""
    return _all_rows(product, inputs, derivatives, (first, width))


def _all_rows(product, inputs, derivatives, channels=None):
    patches = jax.vmap(product.patches)(inputs)
    cotangents = jax.vmap(jax.vmap(product.cotangents))(derivatives)
    if channels is not None:
        cotangents = lax.dynamic_slice_in_dim(cotangents, *channels, axis=4)
    # Columns in the order [groups, fan_out, fan_in]: no transposition after the product.
    made = jnp.einsum("bgsk,cbgso->bcgok", patches, cotangents)
    return made.reshape(made.shape[0] * made.shape[1], -1)


def _columns(made: jax.Array, first: Any, width: int | None) -> jax.Array:
    return made if width is None else lax.dynamic_slice_in_dim(made, first, width, axis=1)


@partial(jax.jit, static_argnums=0)
def pair_block(
    product: taps.Product,
    inputs_i: jax.Array,
    derivatives_i: jax.Array,
    inputs_j: jax.Array,
    derivatives_j: jax.Array,
) -> jax.Array:
    """A parameter's share ``[b, c, b, c]`` of the kernel of two blocks of samples, float64.

    Without its Jacobian: ``b^2 (S^2 k + c^2 S^2 o)`` instead of ``b^2 c^2 k o``
    multiplications. To be called with 64-bit arrays enabled.
    """
    p_i, q_i = double_factors(product, inputs_i, derivatives_i)
    p_j, q_j = double_factors(product, inputs_j, derivatives_j)
    inner = jnp.einsum("igsk,jgtk->gisjt", p_i, p_j)
    outer = jnp.einsum("iagos,jbgot->giasjbt", q_i, q_j)
    return jnp.einsum("gisjt,giasjbt->iajb", inner, outer)


@partial(jax.jit, static_argnums=0)
def double_factors(
    product: taps.Product, inputs: jax.Array, derivatives: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``patches[b, groups, S, k]`` and ``cotangents[b, c, groups, o, S]``, float64."""
    patches = jax.vmap(product.patches)(inputs)
    cotangents = jax.vmap(jax.vmap(product.cotangents))(derivatives)
    cotangents = cotangents.transpose(1, 0, 2, 4, 3)
    return patches.astype(jnp.float64), cotangents.astype(jnp.float64)
