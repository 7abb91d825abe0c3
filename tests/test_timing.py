"""Compilation is told apart from running."""

import time

import jax
import jax.numpy as jnp

from ttp_jax.timing import measured


def test_compilation_is_apart_and_counted_once():
    @jax.jit
    def f(x):
        return jax.jit(lambda y: jnp.sin(y) @ y)(x) + 1

    x = jnp.ones((30, 30))
    start = time.perf_counter()
    with measured() as outer:
        with measured() as first:
            f(x).block_until_ready()
        with measured() as second:
            f(x).block_until_ready()
        time.sleep(0.05)
    total = time.perf_counter() - start
    assert first.compile_s > 0
    assert second.compile_s == 0
    assert outer.compile_s == first.compile_s
    assert outer.run_s >= 0.05
    # nested reports of tracing and compiling do not add up to more than there was
    assert outer.run_s + outer.compile_s <= total
