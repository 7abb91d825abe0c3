"""Sparse training as a transformation of optax's, with the masks in its state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ttp_jax.accelerators import sparsity as masks_of
from ttp_jax.accelerators.sparsity import Masks, Sparsity
from ttp_jax.types import Params, apply_masks


class SparseState(NamedTuple):
    """Steps so far, the masks, and the state of the optimiser within."""

    count: jax.Array
    masks: Masks
    inner: Any


def sparse(
    inner: optax.GradientTransformation, sparsity: Sparsity, steps: int
) -> optax.GradientTransformationExtraArgs:
    """``inner`` on the weights that a mask leaves; the others are zero and stay so.

    On most steps gradients and updates are masked. On a mask update
    (:meth:`ttp_jax.accelerators.sparsity.Sparsity.update_steps`) **no optimiser step is
    taken**, as in RigL's Algorithm 1 (arXiv 1911.11134): the batch serves to choose where to
    grow. What is dropped is set to zero; what is grown starts at zero; both lose their
    momentum; all else, the momentum of the other weights with it, stays, and the step counts
    for the schedule of ``inner``. Masks are booleans and the compiled program is the dense
    one: nothing is saved but in theory.

    ``update(gradients, state, params, raw=...)``: ``raw`` are the gradients that growth goes
    by, where ``gradients`` have been corrected. Initialise it with the masked weights
    (:func:`ttp_jax.types.apply_masks` with :attr:`SparseState.masks`).

    Args:
        inner: Any optimiser whose state holds, but for the likes of the weights, numbers that
            count steps.
        sparsity: The masks.
        steps: ``T``, of the run.

    Raises:
        InputError: Masks that would not move in this run, or a density that cannot be.

    Cost: on a mask update two sorts of every tensor; on other steps a product with the masks.
    """
    updating = jnp.zeros(steps, bool).at[sparsity.update_steps(steps)].set(True)

    def init(params: Params) -> SparseState:
        masks = masks_of.first_masks(params, sparsity)
        start = inner.init(apply_masks(masks, params))
        return SparseState(jnp.zeros((), jnp.int32), masks, start)

    def update(updates, state, params=None, *, raw=None, **extra):
        assert params is not None
        counts = masks_of.counts_of(params, sparsity)
        drops = jnp.asarray(masks_of.drops_of(sparsity, counts, steps))

        def stepped(updates, raw, state, params):
            del raw
            found, after = inner.update(
                apply_masks(state.masks, updates), state.inner, params
            )
            return apply_masks(state.masks, found), state.masks, after

        def regrown(updates, raw, state, params):
            masks = masks_of.moved(
                state.masks,
                params,
                raw,
                counts,
                drops[state.count],
                masks_of.update_key(sparsity, state.count),
                grow=sparsity.grow,
            )
            kept = jax.tree.map(jnp.logical_and, state.masks, masks)
            _, after = inner.update(updates, state.inner, params)
            after = _with_likes(inner, state.inner, after, kept)
            gone = jax.tree.map(
                lambda k, w: jnp.where(k, jnp.zeros_like(w), -w), kept, params
            )
            return gone, masks, after

        raw = updates if raw is None else raw
        if sparsity.grow == "never":
            found, masks, after = stepped(updates, raw, state, params)
        else:
            found, masks, after = jax.lax.cond(
                updating[state.count], regrown, stepped, updates, raw, state, params
            )
        return found, SparseState(state.count + 1, masks, after)

    return optax.GradientTransformationExtraArgs(init, update)


def _with_likes(
    inner: optax.GradientTransformation, before: Any, after: Any, kept: Masks
) -> Any:
    """What is like the weights from ``before``, where kept; all else from ``after``."""
    is_like: Callable = optax.tree_utils.tree_map_params
    likes = is_like(inner, lambda _: True, before, transform_non_params=lambda _: False)
    masked = is_like(inner, lambda v, k: jnp.where(k, v, jnp.zeros_like(v)), before, kept)
    return jax.tree.map(lambda like, m, a: m if like else a, likes, masked, after)
