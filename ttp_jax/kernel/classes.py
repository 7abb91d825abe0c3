"""Approximations of the kernel between outputs, named by what they keep."""

import dataclasses
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float

from ttp_jax.kernel import taps
from ttp_jax.types import ApplyFn, Params

Outputs = Literal["full", "class_block", "sum_of_logits", "trace", "last_layer"]
"""``full``: everything. ``class_block``: no kernel between different outputs. ``trace``: one
``[n, n]`` kernel for all outputs, the mean of their own. ``sum_of_logits``: the same from the
gradient of ``sum_a f_a/sqrt(c)`` alone, one backward pass in the place of ``c`` (Mohamadi et
al., arXiv 2206.12543). ``last_layer``: the weights of the last layer alone, no backward pass.
"""


def block_diagonal(theta: Float[np.ndarray, "nc nc"], c: int) -> Float[np.ndarray, "nc nc"]:
    """``class_block``: ``Theta[(i,a),(j,b)]`` where ``a = b``, zero elsewhere."""
    n = len(theta) // c
    return (theta.reshape(n, c, n, c) * np.eye(c)[None, :, None, :]).reshape(n * c, n * c)


def over_samples(theta: Float[np.ndarray, "nc nc"], c: int) -> Float[np.ndarray, "n n"]:
    """``K[i, j] = (1/c) sum_a Theta[(i,a),(j,a)]``: gradients compared output by output."""
    n = len(theta) // c
    return np.einsum("iaja->ij", theta.reshape(n, c, n, c)) / c


def mean_block(theta: Float[np.ndarray, "nc nc"], c: int) -> Float[np.ndarray, "nc nc"]:
    """``trace``: ``((1/c) sum_a Theta_aa) (x) I_c``."""
    return for_all_outputs(over_samples(theta, c), c)


def for_all_outputs(kernel: Float[np.ndarray, "n n"], c: int) -> Float[np.ndarray, "nc nc"]:
    """``K (x) I_c``, sample-major."""
    return np.kron(kernel, np.eye(c))


def sum_of_logits(apply_fn: ApplyFn) -> ApplyFn:
    """``x -> sum_a f_a(x)/sqrt(c)`` as a model of one output.

    The kernels between different outputs, which this adds to the mean of their own, are
    zero on average over a head drawn independently for each output.
    """

    def summed(params, x):
        f = apply_fn(params, x)
        return f.sum(axis=1, keepdims=True) / np.sqrt(f.shape[1])

    return summed


@dataclasses.dataclass(frozen=True)
class Part:
    """A model as a function of some of its parameters, the others as they are."""

    apply_fn: ApplyFn
    params: Params


def last_layer(apply_fn: ApplyFn, params: Params, x) -> Part:
    """The model as a function of its last matrix product's weights, and of their bias.

    What stands in the same container of the pytree as that tensor belongs to it.
    """
    return part(apply_fn, params, last_layer_leaves(apply_fn, params, x))


def last_layer_leaves(apply_fn: ApplyFn, params: Params, x) -> list[int]:
    """Places of these weights among the leaves of ``params``."""
    traced = taps.trace(apply_fn, params, x)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    last = max(traced.taps, key=lambda leaf: traced.taps[leaf].path)
    home = paths[last][:-1]
    return [k for k, path in enumerate(paths) if path[: len(home)] == home]


def part(apply_fn: ApplyFn, params: Params, leaves: list[int]) -> Part:
    """The model as a function of some leaves, a list of arrays in the order given."""
    values, treedef = jax.tree.flatten(params)

    def of_part(chosen, x):
        all_of_them = list(values)
        for leaf, value in zip(leaves, chosen, strict=True):
            all_of_them[leaf] = value
        return apply_fn(jax.tree.unflatten(treedef, all_of_them), x)

    return Part(of_part, [values[leaf] for leaf in leaves])
