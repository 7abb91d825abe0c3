"""Methods that promise better or sooner training, each as a change of the dynamics.

A method here is what both the solver and optax read: a learning rate a step, and the steps
after which the model is kept. What it does is then predicted without training, and checked.
"""
