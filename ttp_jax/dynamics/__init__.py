"""Function-space dynamics of (stochastic) gradient descent on the linearised model.

Every solver returns a :class:`~ttp_jax.dynamics.path.Path` on the same step axis.
"""
