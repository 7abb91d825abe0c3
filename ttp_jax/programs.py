"""Keeps what was traced and compiled for a model for as long as the model itself lives."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

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


def compiled(owner: Callable, make: Callable[[Callable], Callable], **options: Any) -> Any:
    """``jax.jit(make(owner), **options)``, compiled once for as long as the owner lives.

    Args:
        owner: A model.
        make: From the model to the function wanted; a function at the top of its module,
            which stands for what is made.
        options: Of ``jax.jit``.
    """
    ref = weakref.ref(owner)

    def of(*arguments):
        # By a reference: a program that held its owner would keep both for ever. It is
        # traced where it is called, by one who holds the owner.
        alive = ref()
        assert alive is not None
        return make(alive)(*arguments)

    return kept(owner, make, lambda: jax.jit(of, **options))


def operations(fn: Callable, *arguments: Any) -> float:
    """Floating-point operations of ``fn``, as XLA counts them for a CPU; nothing is compiled.

    For a CPU wherever it will run: for an accelerator XLA counts none before it has compiled,
    and after that not those of the vendor's libraries. Where JAX has been denied its CPU
    (``JAX_PLATFORMS``), that is what is left.
    """
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        program = jax.jit(fn).lower(*arguments).compile()
    else:
        # By their shapes: an array would bring its device along.
        like = jax.tree.map(
            lambda v: jax.ShapeDtypeStruct(jnp.shape(v), jnp.result_type(v)), arguments
        )
        with jax.default_device(host):
            program = jax.jit(fn).lower(*like)
    return float((program.cost_analysis() or {}).get("flops", 0.0))


def shape_of(tree: Any) -> Hashable:
    """Structure, shapes and types of a pytree of arrays."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple((jnp.shape(v), jnp.result_type(v)) for v in leaves)
