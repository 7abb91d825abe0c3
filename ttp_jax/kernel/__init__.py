"""The empirical neural tangent kernel of a model at given weights."""

from ttp_jax.kernel.empirical import KernelCost, empirical_ntk, estimate

__all__ = ["KernelCost", "empirical_ntk", "estimate"]
