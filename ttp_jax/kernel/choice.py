"""Which kernel: the parameters and outputs it covers, how it is made, and one that is there."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import jax
import numpy as np
from jaxtyping import Float

from ttp_jax.groups import Groups
from ttp_jax.kernel import classes, fitting, memory, sketch
from ttp_jax.kernel.empirical import (
    Implementation,
    KernelCost,
    empirical_ntk,
    estimate,
    grouped_ntk,
)
from ttp_jax.kernel.sketch import Projection, Sketch
from ttp_jax.timing import measured
from ttp_jax.types import ApplyFn, InputError, Params, Task

KernelName = Literal[
    "exact",
    "nt_jacobian_contraction",
    "nt_vector_products",
    "kronecker",
    "coordinates",
    "very_sparse",
    "count_sketch",
    "tensor_sketch",
]
_EXACT: dict[str, Implementation] = {
    "exact": "ttp",
    "nt_jacobian_contraction": "nt_jacobian_contraction",
    "nt_vector_products": "nt_vector_products",
}


@dataclass(frozen=True)
class Kernel:
    """What stands for ``Theta`` in a prediction.

    Args:
        name: ``"exact"`` (ours), ``"nt_..."`` (neural-tangents' two), or a projection of
            :class:`ttp_jax.kernel.sketch.Sketch`.
        outputs: What is kept between outputs (:data:`ttp_jax.kernel.classes.Outputs`).
        dimension: Of a projection, for each tensor.
        seed: Of a projection.
    """

    name: KernelName = "exact"
    outputs: classes.Outputs = "full"
    dimension: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for what, value, of in (
            ("kernel", self.name, KernelName),
            ("outputs", self.outputs, classes.Outputs),
        ):
            if value not in get_args(of):
                raise InputError(
                    f"{what} must be one of {', '.join(get_args(of))}, got {value!r}"
                )
        self._sketch()

    def _sketch(self) -> Sketch | None:
        if self.name in _EXACT:
            return None
        return Sketch(cast(Projection, self.name), self.dimension, self.seed)

    def _covered(self, apply_fn: ApplyFn, params: Params, x: Any) -> classes.Part:
        """The model whose own kernel is taken."""
        if self.outputs == "last_layer":
            return classes.last_layer(apply_fn, params, x)
        if self.outputs == "sum_of_logits":
            return classes.Part(classes.sum_of_logits(apply_fn), params)
        return classes.Part(apply_fn, params)

    def compute(
        self,
        apply_fn: ApplyFn,
        params: Params,
        x: Any,
        *,
        memory_budget_bytes: int | None = None,
    ) -> Float[np.ndarray, "nc nc"]:
        """The kernel ``[n*c, n*c]``; arguments and errors as for ``empirical_ntk``."""
        c = jax.eval_shape(apply_fn, params, x[:1]).shape[1]
        covered = self._covered(apply_fn, params, x)
        of = covered.apply_fn, covered.params, x
        chosen = self._sketch()
        if chosen is None:
            theta = empirical_ntk(
                *of,
                implementation=_EXACT[self.name],
                memory_budget_bytes=memory_budget_bytes,
            )
        else:
            theta = sketch.gram(
                sketch.sketched_jacobian(
                    *of, chosen, memory_budget_bytes=memory_budget_bytes
                )
            )
        if self.outputs == "sum_of_logits":
            return classes.for_all_outputs(theta, c)
        if self.outputs == "class_block":
            return classes.block_diagonal(theta, c)
        if self.outputs == "trace":
            return classes.mean_block(theta, c)
        return theta

    def cost(
        self,
        apply_fn: ApplyFn,
        params: Params,
        x: Any,
        *,
        groups: Groups | None = None,
        memory_budget_bytes: int | None = None,
    ) -> KernelCost:
        """What it will take, without computing it.

        Raises:
            InputError: What :meth:`compute` and :meth:`shares` would refuse.
        """
        if groups is not None:
            return self._cost_of_shares(apply_fn, params, x, groups, memory_budget_bytes)
        covered = self._covered(apply_fn, params, x)
        n, c = len(x), jax.eval_shape(apply_fn, params, x[:1]).shape[1]
        size, budget = 8 * (n * c) ** 2, memory.resolve_budget(memory_budget_bytes)
        if size > budget:
            raise fitting.too_small(size - budget)
        of = covered.apply_fn, covered.params, x
        found = estimate(
            *of,
            implementation=_EXACT.get(self.name, "ttp"),
            memory_budget_bytes=budget,
        )
        chosen = self._sketch()
        if chosen is None:
            return found
        tensors = jax.tree.leaves(covered.params)
        columns = sum(min(v.size, chosen.dimension) for v in tensors)
        outputs = jax.eval_shape(covered.apply_fn, covered.params, x[:1]).shape[1]
        passes = (1 + outputs) * found.forward_flops_per_sample
        flops = n * (passes + sketch.operations(*of, chosen))
        flops += float(n * outputs) ** 2 * columns
        return dataclasses.replace(
            found,
            memory_bytes=min(
                budget, 2 * size + tensors[0].dtype.itemsize * n * outputs * columns
            ),
            gram_bytes=size,
            flops=flops,
            seconds=found.seconds * flops / found.flops,
            jacobian_passes=1,
        )

    def _cost_of_shares(
        self, apply_fn: ApplyFn, params: Params, x: Any, groups: Groups, budget: int | None
    ) -> KernelCost:
        self._require_shares()
        size = 8 * (len(x) * jax.eval_shape(apply_fn, params, x[:1]).shape[1]) ** 2
        others = (groups.count - 1) * size
        resolved = memory.resolve_budget(budget)
        if size + others > resolved:
            raise fitting.too_small(size + others - resolved)
        found = self.cost(apply_fn, params, x, memory_budget_bytes=resolved - others)
        return dataclasses.replace(
            found,
            memory_bytes=found.memory_bytes + others,
            gram_bytes=size + others,
            budget_bytes=resolved,
        )

    def _require_shares(self) -> None:
        if (self.name, self.outputs) != ("exact", "full"):
            raise InputError(
                f"groups of weights need kernel 'exact' of 'full' outputs, got {self.name!r} "
                f"of {self.outputs!r}; leave these out"
            )

    def of(
        self,
        task: Task,
        *,
        groups: Groups | None = None,
        memory_budget_bytes: int | None = None,
    ) -> "Computed":
        """The kernel of a task at its weights, for any number of predictions.

        Of the samples that are trained on and, after them, those held out; with ``groups`` as
        the shares that these have in it, too.
        """
        asked = task.apply_fn, task.params, task.joint.x
        shares = None
        with measured() as part:
            if groups is None:
                theta = self.compute(*asked, memory_budget_bytes=memory_budget_bytes)
            else:
                self._require_shares()
                shares = grouped_ntk(
                    *asked, groups, memory_budget_bytes=memory_budget_bytes
                )
                theta = shares.sum(0)
        return Computed(self, theta, part.run_s, part.compile_s, shares)


@dataclass(frozen=True)
class Computed:
    """A kernel that is there: predictions that differ in the optimiser alone can share it.

    Args:
        described: What it is.
        theta: The kernel.
        run_s: What it took, which every prediction by it counts as its own.
        compile_s: And the compilation.
        shares: Of groups of weights, which sum to ``theta``, where they were asked for.
    """

    described: Kernel
    theta: Float[np.ndarray, "nc nc"]
    run_s: float
    compile_s: float
    shares: Float[np.ndarray, "G nc nc"] | None = None
