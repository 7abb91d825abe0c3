"""A network as a chain of named stages, so that any suffix of it can run alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn

Variables = Mapping[str, Mapping[str, Any]]
"""``{"params": {stage: ...}, "batch_stats": {stage: ...}}``; each stage is in both."""


@dataclass(frozen=True)
class Staged:
    """Stages in the order they run, each a Flax module ``(x, train) -> x``.

    The variables of a stage stand under its name, in both collections, also where it has
    none; the chain adds no variables of its own.
    """

    stages: tuple[tuple[str, nn.Module], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Stage names in the order they run."""
        return tuple(name for name, _ in self.stages)

    def init(self, key: jax.Array, x: Any) -> dict[str, dict[str, Any]]:
        """Random variables, float32, for inputs of the shape and type of ``x``.

        Convolutions ``N(0, 2/fan_out)`` (He et al., arXiv 1502.01852), affine maps
        ``N(0, gain/fan_in)`` with the ``gain`` of their stage (1 where it has none),
        BatchNorm the identity, biases 0. Drawn on the host: compiling the draws would
        take longer than everything else.
        """
        entropy = np.asarray(jax.random.key_data(key)).tolist()
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        gains = {name: getattr(module, "gain", 1.0) for name, module in self.stages}

        def draw(path: tuple, leaf: Any) -> np.ndarray:
            if path[-1].key in ("scale", "var"):
                return np.ones(leaf.shape, np.float32)
            if path[-1].key in ("bias", "mean"):
                return np.zeros(leaf.shape, np.float32)
            if len(leaf.shape) == 4:
                variance = 2 / (leaf.shape[0] * leaf.shape[1] * leaf.shape[3])
            else:
                variance = gains[path[1].key] / leaf.shape[0]
            return rng.standard_normal(leaf.shape, np.float32) * np.float32(variance**0.5)

        return jax.tree_util.tree_map_with_path(draw, self.shapes(x))

    def shapes(self, x: Any) -> dict[str, dict[str, Any]]:
        """Shapes and types of the variables, for inputs of the shape and type of ``x``."""
        variables: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
        for name, module in self.stages:
            x, made = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
            for collection in variables:
                variables[collection][name] = made.get(collection, {})
        return variables

    def apply(
        self, variables: Variables, x: Any, *, names: Sequence[str] | None = None
    ) -> Any:
        """Run the stages called ``names`` (all by default), BatchNorm in inference mode."""
        for name, module in self.stages:
            if names is None or name in names:
                x = module.apply(_of(variables, name), x)
        return x

    def apply_train(
        self, variables: Variables, x: Any, *, names: Sequence[str] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The same with the statistics of this batch; outputs and new running statistics.

        The output of a sample then depends on its batch.
        """
        batch_stats = {}
        for name, module in self.stages:
            if names is not None and name not in names:
                continue
            x, changed = module.apply(
                _of(variables, name), x, train=True, mutable=["batch_stats"]
            )
            batch_stats[name] = changed.get("batch_stats", {})
        return x, batch_stats


def _of(variables: Variables, name: str) -> dict[str, Any]:
    return {
        collection: stages[name]
        for collection, stages in variables.items()
        if name in stages
    }
