"""The one place that touches the neural-tangents package: its two kernels that still run.

Release 0.6.5 imports names from ``jax.core`` and ``jax.util`` that newer JAX keeps
elsewhere or has dropped, its ``rules`` module needs primitives that are gone, and its
``experimental`` package loads TensorFlow. Of all that only the module ``empirical`` is
needed here. It is imported by itself, under a bare parent package, while the missing names
are lent to JAX; then everything lent is taken back and the modules leave ``sys.modules``,
so that nobody else meets a changed JAX or half a package.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import jax
import jax.core
import jax.extend.core
import numpy as np

from ttp_jax import chunks, programs, progress
from ttp_jax.kernel import fitting
from ttp_jax.types import ApplyFn, InputError, Params

SUPPORTED = ("JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS")
_PACKAGE = "neural_tangents"
_LARGEST_BLOCK = {"JACOBIAN_CONTRACTION": 1 << 30, "NTK_VECTOR_PRODUCTS": 8}


def gram(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    *,
    implementation: str,
    budget_bytes: int,
) -> np.ndarray:
    """The empirical NTK by neural-tangents.

    Samples are cut into equal blocks, the last one padded, so that a pair of blocks fits
    the budget; with more than one block a Jacobian is computed again for each pair that it
    is in. Products are summed in the precision of the parameters.

    Args:
        apply_fn: The model, ``(params, x[n, ...]) -> f[n, c]``.
        params: Its parameters.
        x: Inputs ``[n, ...]``.
        implementation: ``"JACOBIAN_CONTRACTION"`` or ``"NTK_VECTOR_PRODUCTS"``.
        budget_bytes: What may be used, the result included.

    Returns:
        float64 ``[n*c, n*c]``, sample-major, symmetric.

    Raises:
        InputError: Another implementation; a budget too small for two samples;
            neural-tangents missing or not importable.

    Cost: with ``b`` blocks, ``b`` times the Jacobians ``(1 + 2c) F n`` (which ``vmap``
    makes several times slower on convolutions) and ``(n c)^2 p`` operations; the vector
    products take ``n^2 c`` derivatives of a single sample.
    """
    if implementation not in SUPPORTED:
        raise InputError(
            f"neural-tangents' implementation must be one of {', '.join(SUPPORTED)} (its "
            f"others do not run on this JAX), got {implementation!r}"
        )
    n = len(x)
    c = jax.eval_shape(apply_fn, params, x[:1]).shape[1]
    empirical = load()
    kernel_fn = empirical.empirical_ntk_fn(
        apply_fn,
        trace_axes=(),
        vmap_axes=0,
        implementation=empirical.NtkImplementation[implementation],
    )
    # One block against itself is computed from a single Jacobian.
    alone = jax.jit(lambda params, rows: kernel_fn(rows, None, params))
    crossed = jax.jit(lambda params, rows, columns: kernel_fn(rows, columns, params))

    def compile_for(size: int) -> Any:
        like = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
        if size >= n:
            return alone.lower(params, like).compile()
        return crossed.lower(params, like, like).compile()

    def compiled_for(size: int) -> Any:
        key = (implementation, size >= n, size, programs.shape_of((params, x[:1])))
        return programs.kept(apply_fn, key, lambda: compile_for(size))

    pieces, program = fitting.largest_that_fits(
        compiled_for,
        n=n,
        start=_LARGEST_BLOCK[implementation],
        budget_bytes=budget_bytes - 8 * (n * c) ** 2,
    )
    size = pieces[0].stop
    theta = np.zeros((n * c, n * c))
    with progress.bar("kernel", len(pieces) * (len(pieces) + 1) // 2) as advance:
        for k, rows in enumerate(pieces):
            left = chunks.take(x, rows, size)
            for columns in pieces[k:]:
                if len(pieces) == 1:
                    value = program(params, left)
                else:
                    value = program(params, left, chunks.take(x, columns, size))
                height, width = rows.stop - rows.start, columns.stop - columns.start
                # [i, j, a, b] -> [(i, a), (j, b)]
                part = np.asarray(value)[:height, :width].transpose(0, 2, 1, 3)
                part = part.reshape(height * c, width * c)
                here = slice(rows.start * c, rows.stop * c)
                there = slice(columns.start * c, columns.stop * c)
                if rows is columns:
                    # Symmetric up to the rounding of the products' order.
                    upper = np.triu(part).astype(np.float64)
                    theta[here, there] = upper + np.triu(upper, 1).T
                else:
                    theta[here, there] = part
                    theta[there, here] = part.T
                advance()
    return theta


@cache
def load() -> ModuleType:
    """neural-tangents' module ``empirical``, imported without the rest of the package.

    Raises:
        InputError: The package is missing, or cannot be imported on this JAX.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "neural-tangents is needed for this implementation and is not installed; "
            "pip install neural-tangents, or use implementation='ttp'"
        )
    with _lent_names(), _bare_package(list(spec.submodule_search_locations)):
        try:
            return importlib.import_module(f"{_PACKAGE}._src.empirical")
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"neural-tangents cannot be imported on JAX {jax.__version__} ({error}); "
                f"use implementation='ttp'"
            ) from error


class _Absent:
    """Stands for a name that the two supported implementations do not use."""


class _AbsentModule(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent


@contextmanager
def _lent_names() -> Iterator[None]:
    """Gives ``jax.core`` and ``jax.util`` the names they lack, while importing."""
    aval = jax.make_jaxpr(lambda v: v)(0.0).jaxpr.invars[0].aval
    fallbacks = {"ShapedArray": type(aval), "AbstractValue": type(aval).__mro__[-2]}
    wanted = ("AbstractValue", "Jaxpr", "JaxprEqn", "Literal", "Primitive", "ShapedArray")
    lent = []
    for name in (*wanted, "Value", "Var"):
        if not _has(jax.core, name):
            value = getattr(jax.extend.core, name, fallbacks.get(name, _Absent))
            setattr(jax.core, name, value)
            lent.append(name)
    util = None
    if "jax.util" not in sys.modules and importlib.util.find_spec("jax.util") is None:
        util = ModuleType("jax.util")
        util.safe_map, util.safe_zip = _safe_map, _safe_zip  # pyright: ignore
        sys.modules["jax.util"] = util
    try:
        yield
    finally:
        for name in lent:
            delattr(jax.core, name)
        if util is not None:
            del sys.modules["jax.util"]


@contextmanager
def _bare_package(locations: list[str]) -> Iterator[None]:
    """A parent package that finds its modules but has not run its own ``__init__``."""
    before = {k: v for k, v in sys.modules.items() if k.split(".")[0] == _PACKAGE}
    for name in before:
        del sys.modules[name]
    parent = ModuleType(_PACKAGE)
    parent.__path__ = locations
    rules = _AbsentModule(f"{_PACKAGE}._src.utils.rules")
    sys.modules[_PACKAGE] = parent
    sys.modules[rules.__name__] = rules
    try:
        yield
    finally:
        for name in [k for k in sys.modules if k.split(".")[0] == _PACKAGE]:
            del sys.modules[name]
        sys.modules.update(before)


def _has(module: ModuleType, name: str) -> bool:
    # hasattr, but also for modules whose __getattr__ warns about a moved name first.
    return name in vars(module)


def _safe_map(f: Callable, *args: Any) -> list:
    args = tuple(map(list, args))
    if len({len(a) for a in args}) > 1:
        raise ValueError(f"lengths differ: {[len(a) for a in args]}")
    return list(map(f, *args))


def _safe_zip(*args: Any) -> list:
    args = tuple(map(list, args))
    if len({len(a) for a in args}) > 1:
        raise ValueError(f"lengths differ: {[len(a) for a in args]}")
    return list(zip(*args, strict=True))
