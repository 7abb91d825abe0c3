"""Training methods as a study runs them: predicted and measured, beside a run without them."""

from collections.abc import Sequence

from ttp_jax.config import Config
from ttp_jax.methods import agent, freezeout, snapshot
from ttp_jax.methods.method import PLAIN, SIDES, Curves, Found, Method, Run, Runs
from ttp_jax.types import InputError

METHODS: tuple[Method, ...] = (agent.METHOD, freezeout.METHOD, snapshot.METHOD)
"""In the order in which they change a run: masks of the model, groups of its weights, rates."""
OPTIONS = ("method", *(name for method in METHODS for name in method.options))
"""Options of :class:`ttp_jax.config.Config` that runs without a method have no use for."""

__all__ = [
    "METHODS",
    "OPTIONS",
    "PLAIN",
    "SIDES",
    "Method",
    "Run",
    "asked",
    "found",
    "runs",
]


def asked(config: Config) -> Sequence[Method]:
    """The methods of a configuration; none of a plain run.

    Raises:
        InputError: A name of none, or options of another.
    """
    known = {method.name: method for method in METHODS}
    names = [] if config.method == "plain" else config.method.split("+")
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise InputError(
            f"method must be plain or one or more of {', '.join(known)} joined by +, got "
            f"{config.method!r}"
        )
    default = Config()
    own = {name for method in names for name in known[method].options}
    unused = sorted(
        name
        for method in METHODS
        for name in method.options
        if name not in own and getattr(config, name) != getattr(default, name)
    )
    if unused:
        raise InputError(
            f"method {config.method!r} has no {', '.join(unused)}; leave out what it has "
            "not, or take the method that it belongs to"
        )
    return [method for method in METHODS if method.name in names]


def runs(config: Config, plain: Run) -> Runs:
    """The runs of a study; of a plain one that alone.

    Raises:
        InputError: As :func:`asked`, or a method that cannot be run with the other options.
    """
    methods = asked(config)
    if not methods:
        return {"": plain}
    if config.optimizer != "sgd" or config.heads:
        raise InputError(
            f"method {config.method!r} needs optimizer sgd without heads, got "
            f"{config.optimizer} and {config.heads}; leave these out"
        )
    if config.stop_elasticity is not None:
        raise InputError(
            f"method {config.method!r} runs to its end, got stop_elasticity "
            f"{config.stop_elasticity}; leave it out"
        )
    planned: Runs = {"": plain, PLAIN: plain}
    for method in methods:
        planned = method.changed(config, planned)
    return planned


def found(config: Config, runs: Runs, curves: Curves) -> Found:
    """What all methods of a configuration have found, each result under its name."""
    told = {method.name: method.found(config, runs, curves) for method in asked(config)}
    return Found(
        {name: each.result for name, each in told.items()},
        {name: values for each in told.values() for name, values in each.arrays.items()},
    )
