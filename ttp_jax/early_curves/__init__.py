"""From the first readings of a curve to a number: scores, fits, elasticity, stopping.

Everything takes a :class:`~ttp_jax.types.Curve`, predicted, measured or read from a log, and
knows nothing of where it came from. Beside the predictions of this package stand what others
make of a few epochs of real training: training-speed estimators (:mod:`~.tse`), loss-curve
gradient approximation (:mod:`~.lcga`), curve fits with the time to a loss (:mod:`~.fits`), and
the elasticity of the loss to compute (:mod:`~.elasticity`), by which a run can be stopped.
"""
