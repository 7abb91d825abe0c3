"""What is done with linearisations along a path; :mod:`ttp_jax.prediction` chooses among it.

Start with :mod:`~ttp_jax.linearisation.calibration` (where a prediction begins),
:mod:`~ttp_jax.linearisation.pieces` (from one linearisation to the next) and
:mod:`~ttp_jax.linearisation.mending` (the default). Nothing here takes a training step but
``calibration``, which is asked for by name.
"""
