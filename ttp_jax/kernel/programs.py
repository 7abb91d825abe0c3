"""Keeps what was traced and compiled for a model for as long as the model itself lives."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from ttp_jax.kernel import taps
from ttp_jax.types import ApplyFn, Params

_kept: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def kept(owner: Any, key: Hashable, make: Callable[[], Any]) -> Any:
    """``make()``, or what it gave before for this owner, key and JAX configuration.

    A kernel of the same model at other weights compiles nothing. An owner that cannot be
    referred to weakly is served without a memory.
    """
    key = (key, jax.default_backend(), jnp.result_type(float))
    try:
        found = _kept.setdefault(owner, {})
    except TypeError:
        return make()
    if key not in found:
        found[key] = make()
    return found[key]


def traced(apply_fn: ApplyFn, params: Params, x: Any) -> taps.Traced:
    """The trace of a model, made once for all weights and numbers of samples."""
    model = shape_of(params), x.shape[1:], x.dtype
    return kept(apply_fn, model, lambda: taps.trace(apply_fn, params, x))


def shape_of(tree: Any) -> Hashable:
    """Structure, shapes and types of a pytree of arrays."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple((jnp.shape(v), jnp.result_type(v)) for v in leaves)
