"""Groups of weights that are treated alike, in the order in which a model uses them."""

import fnmatch
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Float

from ttp_jax.types import ApplyFn, Chain, InputError, Masked, Params, dense

BY = ("stages", "layer", "tensor")
"""Ways to group weights; anything else is taken for patterns."""


@dataclass(frozen=True)
class Groups:
    """Which group each tensor of a model's weights is in.

    Args:
        names: Of the groups, those next to the input first.
        of_leaf: Place among the names of each leaf of the pytree, in JAX's order of them.
    """

    names: tuple[str, ...]
    of_leaf: tuple[int, ...]

    @property
    def count(self) -> int:
        """``G``."""
        return len(self.names)

    def part(self, params: Params, group: int) -> Params:
        """The weights of one group, zeros in the place of all others."""
        leaves, structure = jax.tree.flatten(params)
        return structure.unflatten(
            leaf if g == group else jnp.zeros_like(leaf)
            for leaf, g in zip(leaves, self.of_leaf, strict=True)
        )

    def active(self, params: Params, frozen: int) -> list[Any]:
        """Leaves of all but the first so many groups."""
        leaves = jax.tree.leaves(params)
        return [leaf for leaf, g in zip(leaves, self.of_leaf, strict=True) if g >= frozen]

    def with_active(self, params: Params, active: Sequence[Any], frozen: int) -> Params:
        """``params`` with those leaves in their places."""
        leaves, structure = jax.tree.flatten(params)
        given = iter(active)
        return structure.unflatten(
            next(given) if g >= frozen else leaf
            for leaf, g in zip(leaves, self.of_leaf, strict=True)
        )


def grouped(
    apply_fn: ApplyFn, params: Params, x: Any, by: str | Sequence[str] = "stages"
) -> Groups:
    """Group the weights of a model.

    Args:
        apply_fn: The model.
        params: Its weights.
        x: Inputs, of which one sample's shape is used.
        by: ``"stages"``: by the first key of their path; ``"layer"``: by all of it but the
            last, such as a convolution with its bias; ``"tensor"``: each for itself. Or
            patterns as a shell has them, of paths such as ``stage3/block0/conv1/kernel``: a
            group each, in the order given; what none of them matches is one more, the last,
            ``rest``.

    Returns:
        Groups in the order in which the model first uses any of their tensors (found by
        tracing it), patterns in their own.

    Raises:
        InputError: A pattern that matches nothing, or a tensor that two of them match.
    """
    paths = names_of(params)
    if isinstance(by, str):
        by = (by,)
    if len(by) == 1 and by[0] in BY:
        of_path = {
            "stages": lambda path: path.split("/")[0],
            "layer": lambda path: path.rpartition("/")[0] or path,
            "tensor": lambda path: path,
        }[by[0]]
        of = [of_path(path) for path in paths]
        first_use = _first_uses(apply_fn, params, x)
        order = sorted(
            dict.fromkeys(of),
            key=lambda name: min(
                use for use, own in zip(first_use, of, strict=True) if own == name
            ),
        )
        return Groups(tuple(order), tuple(order.index(name) for name in of))
    matched = [
        [k for k, p in enumerate(by) if fnmatch.fnmatchcase(path, p)] for path in paths
    ]
    for k, pattern in enumerate(by):
        if not any(k in found for found in matched):
            raise InputError(
                f"every pattern of groups must match a tensor, got {pattern!r}, which matches "
                f"none of {_some(paths)}"
            )
    for path, found in zip(paths, matched, strict=True):
        if len(found) > 1:
            raise InputError(
                f"a tensor can be in one group only, got {path}, which "
                f"{by[found[0]]!r} and {by[found[1]]!r} both match; make one narrower"
            )
    of_leaf = tuple(found[0] if found else len(by) for found in matched)
    rest = ("rest",) if len(by) in of_leaf else ()
    return Groups((*by, *rest), of_leaf)


def names_of(params: Params) -> list[str]:
    """The path of every leaf, keys joined by ``/``."""
    return [
        "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path) or "all"
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]


Stages = Chain | Masked
"""Models that can be cut, or some of their stages."""


def cut_at(apply_fn: ApplyFn, groups: Groups, frozen: int) -> tuple[Stages, Stages] | None:
    """The model cut behind its first so many groups; ``None`` where it cannot be.

    It can be where it is a :class:`ttp_jax.types.Chain`, masked or not, whose first stages are
    these groups.
    """
    if not isinstance(apply_fn, Stages) or frozen == 0:
        return None
    before, after = groups.names[:frozen], apply_fn.names[frozen:]
    # Stages without weights of their own are in no group: they would shift the names.
    if before != apply_fn.names[:frozen] or not after:
        return None
    return apply_fn.of(before), apply_fn.of(after)


def summed(rates: Float[np.ndarray, " G"], shares: Float[np.ndarray, "G nc kc"]):
    """``sum_g rates_g Theta_g``."""
    return np.tensordot(rates, shares, axes=1)


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:4])
    return f"{shown}, ... ({len(paths)} in all)" if len(paths) > 4 else shown


def _first_uses(apply_fn: ApplyFn, params: Params, x: Any) -> list[int]:
    """Place in the traced model of the first equation that uses each leaf."""
    # Masks are put on all weights before any is used.
    closed = jax.make_jaxpr(dense(apply_fn))(params, x[:1])
    uses: dict[Any, int] = {}
    places = itertools.count()

    def walk(jaxpr: Any, outer: dict[Any, Any]) -> None:
        for equation in jaxpr.eqns:
            own = [outer.get(v) if not isinstance(v, core.Literal) else None
                   for v in equation.invars]  # fmt: skip
            inner = [p for p in equation.params.values() if hasattr(p, "eqns")]
            inner += [p.jaxpr for p in equation.params.values() if hasattr(p, "jaxpr")]
            for sub in inner:
                if len(sub.invars) == len(own):
                    walk(sub, dict(zip(sub.invars, own, strict=True)))
            for leaf in own:
                if leaf is not None:
                    uses.setdefault(leaf, next(places))

    count = len(jax.tree.leaves(params))
    invars = closed.jaxpr.invars[:count]
    walk(closed.jaxpr, {v: k for k, v in enumerate(invars)})
    # One that is used nowhere has no gradient either: it goes with the last.
    return [uses.get(k, next(places)) for k in range(count)]
