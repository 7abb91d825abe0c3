"""Masks of sparse training: where they are, how dense, and how they move.

Static masks, SET (Mocanu et al., arXiv 1707.04780) and RigL (Evci et al., arXiv 1911.11134).
Tensors with two or more dimensions are masked; biases and the scales and shifts of norms stay
dense. Every masked tensor keeps the same number of weights for the whole run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ttp_jax.kernel import taps
from ttp_jax.types import InputError, Masked, Params, Task, apply_masks, dense

Grow = Literal["never", "random", "gradient"]
StartMask = Literal["random", "magnitude"]
Spread = Literal["erk", "uniform"]
Masks = Any
"""A pytree like the weights', of booleans: ``True`` where a weight is there."""


@dataclass(frozen=True)
class Sparsity:
    """How sparse a run is, and how its masks move.

    Args:
        density: Share of the weights of all masked tensors that are there, in (0, 1].
        grow: ``"never"`` for masks that stay, ``"random"`` for SET, ``"gradient"`` for RigL:
            what is grown in the place of the smallest weights.
        start: Masks drawn at random, or the largest weights of each tensor.
        spread: Over tensors ``"erk"`` (:func:`counts`) or ``"uniform"``.
        every: A mask update takes the place of every so many optimiser steps.
        until: Share of the run after which masks stay.
        drop: Share of a tensor's weights that the first update would move; it falls to 0 by
            half a cosine (:meth:`drop_shares`).
        seed: Of random masks and random growth.

    Raises:
        InputError: A number out of range.
    """

    density: float
    grow: Grow = "never"
    start: StartMask = "random"
    spread: Spread = "erk"
    every: int = 100
    until: float = 0.75
    drop: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, of in (
            ("grow", self.grow, Grow),
            ("the masks' start", self.start, StartMask),
            ("spread", self.spread, Spread),
        ):
            if value not in get_args(of):
                raise InputError(
                    f"{name} must be one of {', '.join(get_args(of))}, got {value!r}"
                )
        if not 0 < self.density <= 1:
            raise InputError(f"density must lie in (0, 1], got {self.density}")
        if self.every < 1:
            raise InputError(
                f"masks must be updated every 1 steps or more, got {self.every}"
            )
        if not 0 < self.until <= 1 or not 0 < self.drop <= 1:
            raise InputError(
                "the share of the run in which masks move, and the share of weights that is "
                f"dropped, must lie in (0, 1], got {self.until} and {self.drop}"
            )

    def update_steps(self, steps: int) -> Int[np.ndarray, " u"]:
        """Optimiser steps, counted from 0, whose place a mask update takes.

        ``every, 2 every, ...`` below ``until T``; none of masks that stay.

        Raises:
            InputError: Masks that are to move, and would not in this run.
        """
        if self.grow == "never":
            return np.zeros(0, int)
        found = np.arange(self.every, round(self.until * steps), self.every)
        if not len(found):
            raise InputError(
                f"masks must be updated within the first {round(self.until * steps)} of "
                f"{steps} steps, got an update every {self.every}; take a smaller interval "
                "or a longer run"
            )
        return found

    def drop_shares(self, steps: int) -> Float[np.ndarray, " T"]:
        """``(drop/2) (1 + cos(pi k/T_end))`` at step ``k``, 0 from ``T_end`` on.

        Evci et al., arXiv 1911.11134, sec. 3 (3).
        """
        end = round(self.until * steps)
        k = np.minimum(np.arange(steps), end)
        return self.drop / 2 * (1 + np.cos(np.pi * k / end))


def masked(params: Params) -> list[bool]:
    """Of each leaf whether it is masked: those of two or more dimensions are."""
    return [np.ndim(leaf) >= 2 for leaf in jax.tree.leaves(params)]


def counts(
    shapes: Sequence[tuple[int, ...]], density: float, spread: Spread = "erk"
) -> list[int]:
    """How many weights each tensor keeps; together ``round(density sum_l size_l)`` exactly.

    ``erk``: in proportion to the sum of a tensor's sides, so that its density goes as ``sum /
    product`` of them (Evci et al., arXiv 1911.11134, sec. 3 (1), the Erdos-Renyi law of Mocanu
    et al. with the sides of convolutions); a tensor that would be more than full is full, and
    the others share what is left. ``uniform``: in proportion to the size, the first tensor
    like the others. What rounding leaves goes to the largest remainders, and no tensor is left
    empty.

    Args:
        shapes: Of the masked tensors.
        density: Of all of them together.
        spread: How it is shared out.

    Raises:
        InputError: Fewer weights than tensors, or no tensor at all.
    """
    if not shapes:
        raise InputError(
            "sparse training needs a weight tensor of two or more dimensions, got none"
        )
    sizes = np.array([np.prod(shape) for shape in shapes], dtype=np.int64)
    total = round(density * int(sizes.sum()))
    if total < len(sizes):
        raise InputError(
            f"density must leave a weight to each of {len(sizes)} tensors, got {density}: "
            f"{total} of {int(sizes.sum())}; raise it"
        )
    weight = sizes.astype(float)
    if spread == "erk":
        weight = np.array([sum(shape) for shape in shapes], float)
    full = np.zeros(len(sizes), bool)
    while True:
        left = total - sizes[full].sum()
        asked = np.where(full, sizes, weight * left / max(weight[~full].sum(), 1e-300))
        more = ~full & (asked > sizes)
        if not more.any():
            break
        full |= more
    found = np.clip(np.floor(asked + 1e-9).astype(np.int64), 1, sizes)
    # The largest remainders first; where the ones above have taken too many, from the largest.
    while (missing := total - int(found.sum())) != 0:
        room = found < sizes if missing > 0 else found > 1
        order = np.argsort(-(asked - found) * np.sign(missing), kind="stable")
        chosen = order[room[order]][: abs(missing)]
        found[chosen] += np.sign(missing)
    return [int(count) for count in found]


def counts_of(params: Params, sparsity: Sparsity) -> tuple[int, ...]:
    """Weights that each leaf keeps, all of those that are not masked."""
    leaves = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    own = masked(params)
    shapes = [shape for shape, there in zip(leaves, own, strict=True) if there]
    found = iter(counts(shapes, sparsity.density, sparsity.spread))
    return tuple(
        next(found) if there else int(np.prod(shape))
        for shape, there in zip(leaves, own, strict=True)
    )


def drops_of(
    sparsity: Sparsity, counts: Sequence[int], steps: int
) -> Int[np.ndarray, "T leaves"]:
    """Weights of each leaf that an update at each step would drop: ``floor(share k)``."""
    shares = sparsity.drop_shares(steps)
    # A product such as 0.3 * 10 must not fall to 2 by its rounding.
    return np.floor(np.outer(shares, counts) + 1e-9).astype(np.int32)


def first_masks(params: Params, sparsity: Sparsity) -> Masks:
    """The masks that a run begins with. Random ones depend on the seed and the shapes alone."""
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.Generator(np.random.Philox(sparsity.seed))
    made = []
    for leaf, count in zip(leaves, counts_of(params, sparsity), strict=True):
        size = int(np.prod(np.shape(leaf)))
        if sparsity.start == "random":
            order = rng.permutation(size)
        else:
            order = np.argsort(-np.abs(np.asarray(leaf)).ravel(), kind="stable")
        mask = np.zeros(size, bool)
        mask[order[:count]] = True
        made.append(jnp.asarray(mask.reshape(np.shape(leaf))))
    return jax.tree.unflatten(treedef, made)


@partial(jax.jit, static_argnames=("counts", "grow"))
def moved(
    masks: Masks,
    params: Params,
    gradients: Params,
    counts: tuple[int, ...],
    drops: Int[Array, " leaves"] | Int[np.ndarray, " leaves"],
    key: Array,
    *,
    grow: Grow,
) -> Masks:
    """Masks after an update: the smallest weights go, as many others come.

    Of each tensor's weights ``drops`` with the smallest magnitude are dropped and the same
    number grown: at random (SET), or where ``|g|`` is largest (RigL, sec. 3).
    Candidates are all places but those of the weights that are kept, those just dropped among
    them, as RigL has it; whatever is grown starts at zero, and without momentum
    (:func:`ttp_jax.training.sparse.sparse`).

    Args:
        masks: Before.
        params: Weights, zero where there is none.
        gradients: Of the mini-batch, dense.
        counts: Weights of each leaf, from :func:`counts_of`.
        drops: Of each leaf, from :func:`drops_of`; may be traced.
        key: Of random growth.
        grow: ``"random"`` or ``"gradient"``.

    Cost: two sorts of each masked tensor.
    """
    leaves, treedef = jax.tree.flatten(masks)
    of_each = zip(
        leaves, jax.tree.leaves(params), jax.tree.leaves(gradients), counts, strict=True
    )
    made = []
    for number, (mask, w, g, count) in enumerate(of_each):
        if count == mask.size:
            made.append(mask)
            continue
        if grow == "random":
            score = jax.random.uniform(
                jax.random.fold_in(key, number), mask.shape, jnp.float32
            )
        else:
            score = jnp.nan_to_num(jnp.abs(g))
        size = jnp.nan_to_num(jnp.abs(w))
        made.append(_moved(mask, size, score, count, drops[number]))
    return jax.tree.unflatten(treedef, made)


def update_key(sparsity: Sparsity, step) -> Array:
    """The key of the update at a step, the same for a real run and its prediction."""
    return jax.random.fold_in(jax.random.key(sparsity.seed), step)


def _moved(mask, size, score, count, dropped) -> Bool[Array, "..."]:
    kept = _first(jnp.where(mask, size, -1.0), count - dropped)
    return kept | _first(jnp.where(kept, -1.0, score), dropped)


def _first(score: Array, count) -> Bool[Array, "..."]:
    """The ``count`` largest; of equal ones those that come first, so that they are as many."""
    order = jnp.argsort(-score.ravel(), stable=True)
    rank = (
        jnp.zeros(score.size, jnp.int32)
        .at[order]
        .set(jnp.arange(score.size, dtype=jnp.int32))
    )
    return (rank < count).reshape(score.shape)


def masked_task(task: Task, masks: Masks) -> Task:
    """The same task with no other weights than those that a static mask leaves."""
    return replace(
        task,
        apply_fn=Masked(task.apply_fn, masks),
        params=apply_masks(masks, task.params),
    )


def settled(task: Task, sparsity: Sparsity | None) -> tuple[Task, Sparsity | None]:
    """Masks that stay become a part of the model; those that move are left to the run.

    After it a task with masks that stay is a task like any other, with ``None`` of sparsity.
    Augmented pictures and BatchNorm in training mode have no masks: left to be refused.
    """
    plain = task.views is None and task.batch_norm is None
    if sparsity is None or sparsity.grow != "never" or not plain:
        return task, sparsity
    return masked_task(task, first_masks(task.params, sparsity)), None


def operations_share(task: Task, masks: Masks) -> float:
    """Share of the multiplications of a forward pass that a mask leaves, in theory.

    ``sum_l rho_l F_l / sum_l F_l`` over the tensors that are multiplied with, as Evci et al.
    count (arXiv 1911.11134, appendix). Dense hardware, and the programs here, run all of them.
    """
    traced = taps.traced(dense(task.apply_fn), task.params, task.x)
    leaves = jax.tree.leaves(masks)
    whole = {
        leaf: tap.product.positions * tap.product.columns
        for leaf, tap in traced.taps.items()
    }
    left = sum(
        count * float(jnp.mean(leaves[leaf].astype(float))) for leaf, count in whole.items()
    )
    return left / max(sum(whole.values()), 1)


def density_of(masks: Masks) -> tuple[int, int]:
    """Weights that are there, and all, of every tensor, dense ones too."""
    leaves = jax.tree.leaves(masks)
    return int(sum(int(m.sum()) for m in leaves)), sum(m.size for m in leaves)
