"""The kernel from an explicit Jacobian, and small models to take it of."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def explicit(apply_fn, params, x) -> np.ndarray:
    """``J J^T`` with the whole ``J`` from ``jax.jacrev``."""
    n, c = apply_fn(params, x).shape
    jacobian = jax.jacrev(lambda p: apply_fn(p, x))(params)
    j = np.concatenate(
        [np.asarray(v, np.float64).reshape(n * c, -1) for v in jax.tree.leaves(jacobian)],
        axis=1,
    )
    return j @ j.T


class Block(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x):
        def norm(name):
            return nn.BatchNorm(use_running_average=True, name=name)

        y = nn.Conv(self.features, (3, 3), self.stride, use_bias=False)(x)
        y = nn.relu(norm("a")(y))
        y = norm("b")(nn.Conv(self.features, (3, 3), use_bias=False)(y))
        if self.stride > 1:
            # The shortcut without parameters: every other pixel, missing channels zero.
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, [(0, 0)] * 3 + [(0, self.features - x.shape[-1])])
        return nn.relu(x + y)


class ResNet(nn.Module):
    classes: int = 3

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        for features, stride in ((4, 1), (6, 2)):
            x = Block(features, stride)(x)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class MLP(nn.Module):
    classes: int = 4

    @nn.compact
    def __call__(self, x):
        for width in (17, 9):
            x = jnp.tanh(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)


def drawn(model: nn.Module, x, seed: int = 0):
    """``(apply_fn, params)`` with parameters and statistics drawn, none zero or one."""
    variables = model.init(jax.random.key(seed), x[:1])
    rng = np.random.default_rng(seed)

    def noisy(value):
        return jnp.asarray(
            np.asarray(value) + 0.3 * np.abs(rng.standard_normal(value.shape)), x.dtype
        )

    variables = jax.tree.map(noisy, variables)
    rest = {k: v for k, v in variables.items() if k != "params"}
    return lambda params, x: model.apply({"params": params, **rest}, x), variables["params"]


def resnet(n: int, dtype=np.float64, size: int = 6):
    x = np.random.default_rng(1).standard_normal((n, size, size, 3)).astype(dtype)
    return *drawn(ResNet(), x), x


def mlp(n: int, dtype=np.float64):
    x = np.random.default_rng(2).standard_normal((n, 6)).astype(dtype)
    return *drawn(MLP(), x), x


@functools.cache
def reference(model):
    """``(apply_fn, params, x, theta)`` in float64 for seven samples, computed once."""
    with jax.enable_x64(True):
        apply_fn, params, x = model(7)
        return apply_fn, params, x, explicit(apply_fn, params, x)
